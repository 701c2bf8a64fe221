/* Laying out memory: pieces one after the other, each aligned to NF_ALIGN. */
#ifndef NF_ENGINE_PIECES_H
#define NF_ENGINE_PIECES_H

#include <stddef.h>

#include "engine/real.h"

static inline size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* Round a count of reals up so that the next piece is aligned again. */
static inline size_t aligned_reals(size_t count) {
    const size_t unit = NF_ALIGN / sizeof(real);
    return (count + unit - 1) / unit * unit;
}

static inline size_t aligned_bytes(size_t bytes) { return (bytes + NF_ALIGN - 1) / NF_ALIGN * NF_ALIGN; }

/* As many reals as so many bytes take, aligned. */
static inline size_t reals_for(size_t bytes) { return aligned_bytes(bytes) / sizeof(real); }

/* The next piece of a block; with base NULL only the total is meant. */
static inline void *take_reals(real *base, size_t *used, size_t count) {
    const size_t start = *used;
    *used += aligned_reals(count);
    return base ? base + start : NULL;
}

static inline void *take_bytes(unsigned char *base, size_t *used, size_t bytes) {
    const size_t start = *used;
    *used += aligned_bytes(bytes);
    return base ? base + start : NULL;
}

#endif
