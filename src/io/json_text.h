/*
 * JSON as text, whatever the host's thread is set to (core/plain.h): of the locale's decimal point jansson 2.14 bears a single byte, and ends the process
 * over more.
 */
#ifndef NF_IO_JSON_TEXT_H
#define NF_IO_JSON_TEXT_H

#include <jansson.h>
#include <stddef.h>

/* As json_loadb with JSON_REJECT_DUPLICATES, and json_dumpb. */
json_t *nf_json_read(const char *text, size_t size, json_error_t *error);
size_t nf_json_write(const json_t *value, char *text, size_t size, size_t flags);

#endif
