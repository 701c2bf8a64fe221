/*
 * The structure of a flow as JSON text, and back. What a layer's JSON holds is told by the fields of its type in core/layer_types.c; layers by name are
 * known here for two defaults alone, that of context_dim and the pair of hidden layers of a hypernetwork.
 */
#ifndef NF_IO_SCHEMA_H
#define NF_IO_SCHEMA_H

#include <stddef.h>

#include "core/model.h"

/*
 * A base may be told by one number for all its dimensions. Where no layer has tensors or a list of dim things either, this is the largest dim that so few
 * bytes may ask for.
 */
#define NF_SCHEMA_BARE_DIM ((size_t)65536)

typedef struct nf_schema {
    nf_model model;
    bool names_precision; /* the text has "precision" */
    nf_precision precision;
    double scale; /* of the base in all dimensions; 0: the model's base is what the text says */
} nf_schema;

/* The base of nf_schema.scale, once the file has shown by its tensors that dim is what it says. */
nf_status nf_schema_spread_scale(nf_schema *schema, const nf_allocator *allocator);

/* The text, to be released with `allocator`. Its bytes depend on the flow alone. */
nf_status nf_schema_write(const nf_model *model, nf_precision precision, const nf_allocator *allocator, char **text);

/* Whether the settings are numbers in this precision, which the text need not name. NF_ERR_FORMAT. */
nf_status nf_schema_check_precision(const nf_schema *schema, nf_precision precision);

/* NF_ERR_FORMAT when the text is not a flow; the model is to be cleared by the caller only after NF_OK. */
nf_status nf_schema_read(const char *text, size_t size, const nf_allocator *allocator, nf_schema *schema);

#endif
