#include "safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

enum { ALIGNMENT = 8 }; /* of the data */

static _Noreturn void no_memory(void) { die("no memory for the model's header"); }

uint64_t safetensors_word(const unsigned char *bytes) {
    uint64_t word = 0;
    for (size_t i = 0; i < sizeof word; i++)
        word |= (uint64_t)bytes[i] << 8 * i;
    return word;
}

uint64_t safetensors_length(const unsigned char *bytes) { return safetensors_word(bytes); }

unsigned char *safetensors_put_word(unsigned char *to, uint64_t word) {
    for (size_t i = 0; i < sizeof word; i++)
        *to++ = (unsigned char)(word >> 8 * i);
    return to;
}

json_t *safetensors_model_header(json_t *flow) {
    char *structure = json_dumps(flow, JSON_COMPACT);
    if (!structure)
        no_memory();
    json_t *header = json_pack("{s:{s:s, s:s, s:s}}", "__metadata__", "format", "nflow", "version", "1", "flow", structure);
    free(structure);
    json_decref(flow);
    if (!header)
        no_memory();
    return header;
}

size_t safetensors_add(json_t *header, size_t layer, const char *name, size_t rank, size_t rows, size_t columns, size_t at) {
    const size_t end = at + rows * (rank == 2 ? columns : 1) * sizeof(double);
    char key[100];
    snprintf(key, sizeof key, "layers.%zu.%s", layer, name);
    json_t *shape = rank == 2 ? json_pack("[I, I]", (json_int_t)rows, (json_int_t)columns) : json_pack("[I]", (json_int_t)rows);
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F64", "shape", shape, "data_offsets", (json_int_t)at, (json_int_t)end);
    if (json_object_set_new(header, key, entry) != 0)
        no_memory();
    return end;
}

unsigned char *safetensors_frame(json_t *header, size_t data, size_t *start) {
    char *text = json_dumps(header, JSON_COMPACT);
    if (!text)
        no_memory();
    const size_t length = strlen(text), padded = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *start = SAFETENSORS_LENGTH + padded;
    unsigned char *bytes = allocate(*start + data, 1), *to = safetensors_put_word(bytes, padded);
    memset(to, ' ', padded);
    memcpy(to, text, length);
    free(text);
    json_decref(header);
    return bytes;
}
