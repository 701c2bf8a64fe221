/*
 * safetensors.h - the frame of a safetensors file: 8 bytes that say how long the header is, the least significant first, the header, which is JSON,
 * and the data. The library reads and writes models; these are for what it has no call for: more metadata, and flows that are made as a file.
 */
#ifndef TOOL_SAFETENSORS_H
#define TOOL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

enum { SAFETENSORS_LENGTH = 8 };

uint64_t safetensors_length(const unsigned char *bytes); /* of the header */
uint64_t safetensors_word(const unsigned char *bytes);   /* a number of 8 bytes, as they stand in the file */

/* The bytes of a number, which stand in this order in the file. Returns where the next one goes. */
unsigned char *safetensors_put_word(unsigned char *to, uint64_t word);

/* The header of a model file that has no tensors yet; `flow`, its structure, is taken over. */
json_t *safetensors_model_header(json_t *flow);

/* The entry of a parameter of a layer, doubles, that begins at `at` of the data: [rows], or [rows][columns] for rank 2. Returns where it ends. */
size_t safetensors_add(json_t *header, size_t layer, const char *name, size_t rank, size_t rows, size_t columns, size_t at);

/* A file with room for the data, all zero, from *start on; the header is taken over. Freed by the caller. */
unsigned char *safetensors_frame(json_t *header, size_t data, size_t *start);

#endif
