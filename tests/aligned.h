/* Memory for the engine's part of a test: aligned as its tiles are, every byte `fill`; 0xff, which makes NaN, where nothing may be read before it is written. */
#ifndef NF_TESTS_ALIGNED_H
#define NF_TESTS_ALIGNED_H

#include "checks.h"
#include <stdlib.h>
#include <string.h>

#include "engine/real.h"

static inline void *new_aligned(size_t bytes, int fill) {
    const size_t whole = bytes ? (bytes + NF_ALIGN - 1) / NF_ALIGN * NF_ALIGN : NF_ALIGN;
    void *memory = aligned_alloc(NF_ALIGN, whole);
    ck_assert_ptr_nonnull(memory);
    memset(memory, fill, whole);
    return memory;
}

#endif
