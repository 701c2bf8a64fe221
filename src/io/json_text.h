/*
 * JSON as text, whatever the host's thread is set to. The C library reads and writes numbers with the locale's decimal point, of which jansson 2.14 bears a single byte and
 * ends the process over more, and rounds them as the x87's control word says, which core/floating.h leaves alone. Here both are the default ones, and the
 * host's again afterwards.
 */
#ifndef NF_IO_JSON_TEXT_H
#define NF_IO_JSON_TEXT_H

#include <jansson.h>
#include <stddef.h>

/* As json_loadb with JSON_REJECT_DUPLICATES, and json_dumpb. */
json_t *nf_json_read(const char *text, size_t size, json_error_t *error);
size_t nf_json_write(const json_t *value, char *text, size_t size, size_t flags);

#endif
