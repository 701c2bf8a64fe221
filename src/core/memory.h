/* Allocation through the user's allocator, checked arithmetic, and the bump arena. */
#ifndef NF_CORE_MEMORY_H
#define NF_CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nflow.h"

/* A copy of *allocator, or malloc and free when it is NULL or has no functions. */
nf_allocator nf_allocator_or_default(const nf_allocator *allocator);
/* The same with *other in the place of malloc and free, unless that is NULL too. */
nf_allocator nf_allocator_or(const nf_allocator *allocator, const nf_allocator *other);

/* `size` bytes aligned to 64, zeroed or not; NULL when there is no memory. `size` 0 gives a valid pointer. */
void *nf_allocate(const nf_allocator *allocator, size_t size);
void *nf_allocate_zeroed(const nf_allocator *allocator, size_t size);
void nf_release(const nf_allocator *allocator, void *pointer); /* NULL is allowed */

/*
 * Arrays that a loop reads and writes side by side should not begin at nearly the same place of a page: of a number that is to be loaded and those that are still
 * to be stored a processor compares the last twelve bits of the address first, and where they are the same it waits. The first address from `at` on (at most a
 * page behind it) that is about `distance` bytes, but for whole pages, from `other`; both are aligned to 64, and so is what comes of them.
 */
#define NF_PAGE ((size_t)4096)
void *nf_place_apart(void *at, const void *other, size_t distance);

/* Checked size arithmetic: false when the result does not fit, and *out is then SIZE_MAX. */
bool nf_size_add(size_t a, size_t b, size_t *out);
bool nf_size_multiply(size_t a, size_t b, size_t *out);

/*
 * A bump arena over memory that somebody else owns. nf_arena_take returns NULL when it does not fit, and then
 * `wanted` holds the size with which it would have. All pieces are aligned to 64 bytes.
 */
typedef struct nf_arena {
    unsigned char *base;
    size_t size, used, wanted;
} nf_arena;

void nf_arena_init(nf_arena *arena, void *base, size_t size);
void *nf_arena_take(nf_arena *arena, size_t size);

#endif
