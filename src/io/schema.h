/*
 * The structure of a flow as JSON text, and back. What a layer's JSON holds is told by the fields of its type in core/layer_types.c, so this file
 * knows no layer by name.
 */
#ifndef NF_IO_SCHEMA_H
#define NF_IO_SCHEMA_H

#include <stddef.h>

#include "core/model.h"

/* Longest text and most values that are looked at; a real flow of a thousand layers needs a thousandth of either. */
#define NF_SCHEMA_TEXT_LIMIT ((size_t)100 << 20)

typedef struct nf_schema {
    nf_model model;
    bool names_precision; /* the text has "precision" */
    nf_precision precision;
} nf_schema;

/* The text, to be released with `allocator`. Its bytes depend on the flow alone. */
nf_status nf_schema_write(const nf_model *model, nf_precision precision, const nf_allocator *allocator, char **text);

/* NF_ERR_FORMAT when the text is not a flow; the model is to be cleared by the caller only after NF_OK. */
nf_status nf_schema_read(const char *text, size_t size, const nf_allocator *allocator, nf_schema *schema);

#endif
