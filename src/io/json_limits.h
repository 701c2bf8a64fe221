/* A linear look at JSON text before a parser sees it, so that no text makes the parser recurse deeply or spend memory out of proportion. */
#ifndef NF_IO_JSON_LIMITS_H
#define NF_IO_JSON_LIMITS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "nflow.h"

/*
 * NF_ERR_FORMAT when objects and lists nest deeper than `depth`, or when there are more of them than one for six bytes (an empty object of
 * three bytes costs the parser some 220). Whether the text is JSON at all is for the parser to say. `name` begins the message.
 */
nf_status nf_json_check_limits(const char *name, const char *text, size_t size, size_t depth);

/* Whether jansson failed for want of memory; where it cannot even begin it leaves no word at all. */
bool nf_json_lacked_memory(const json_error_t *error);

#endif
