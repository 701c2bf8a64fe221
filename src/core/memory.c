#include "core/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/floating.h"

#define ALIGNMENT ((size_t)64)

/* Which sets errno where it fails; the caller's stays. */
static void *from_malloc(void *user, size_t size) {
    const int saved_errno = errno;
    void *block = malloc(size);
    (void)user;
    errno = saved_errno;
    return block;
}

static void to_free(void *user, void *pointer) {
    (void)user;
    free(pointer);
}

static bool is_complete(const nf_allocator *allocator) { return allocator && allocator->alloc && allocator->release; }

nf_allocator nf_allocator_or_default(const nf_allocator *allocator) {
    const nf_allocator standard = {from_malloc, to_free, NULL};
    return is_complete(allocator) ? *allocator : standard;
}

nf_allocator nf_allocator_or(const nf_allocator *allocator, const nf_allocator *other) {
    return is_complete(allocator) ? *allocator : nf_allocator_or_default(other);
}

/* The allocator's own pointer stands right before the aligned block. */
void *nf_allocate(const nf_allocator *allocator, size_t size) {
    size_t total;
    if (!nf_size_add(size, ALIGNMENT + sizeof(void *), &total))
        return NULL;
    nf_call *lent = allocator->alloc == from_malloc ? NULL : nf_call_lend();
    unsigned char *raw = allocator->alloc(allocator->user, total);
    nf_call_take_back(lent);
    if (!raw)
        return NULL;
    const uintptr_t first = (uintptr_t)(raw + sizeof(void *));
    unsigned char *block = raw + sizeof(void *) + (ALIGNMENT - first % ALIGNMENT) % ALIGNMENT;
    memcpy(block - sizeof raw, &raw, sizeof raw);
    return block;
}

void *nf_allocate_zeroed(const nf_allocator *allocator, size_t size) {
    void *block = nf_allocate(allocator, size);
    if (block)
        memset(block, 0, size);
    return block;
}

void nf_release(const nf_allocator *allocator, void *pointer) {
    if (!pointer)
        return;
    void *raw;
    memcpy(&raw, (unsigned char *)pointer - sizeof raw, sizeof raw);
    nf_call *lent = allocator->release == to_free ? NULL : nf_call_lend();
    allocator->release(allocator->user, raw);
    nf_call_take_back(lent);
}

void *nf_place_apart(void *at, const void *other, size_t distance) {
    return (unsigned char *)at + ((uintptr_t)other + distance / ALIGNMENT * ALIGNMENT - (uintptr_t)at) % NF_PAGE;
}

void nf_free(void *pointer) { free(pointer); }

bool nf_size_add(size_t a, size_t b, size_t *out) {
    if (__builtin_add_overflow(a, b, out)) {
        *out = SIZE_MAX;
        return false;
    }
    return true;
}

bool nf_size_multiply(size_t a, size_t b, size_t *out) {
    if (__builtin_mul_overflow(a, b, out)) {
        *out = SIZE_MAX;
        return false;
    }
    return true;
}

void nf_arena_init(nf_arena *arena, void *base, size_t size) {
    arena->base = base;
    arena->size = size;
    arena->used = 0;
    arena->wanted = 0;
}

void *nf_arena_take(nf_arena *arena, size_t size) {
    size_t end;
    if (!nf_size_add(size, ALIGNMENT - 1, &end) || !nf_size_add(arena->used, end & ~(ALIGNMENT - 1), &end)) {
        arena->wanted = SIZE_MAX;
        return NULL;
    }
    if (end > arena->size) {
        arena->wanted = end;
        return NULL;
    }
    void *piece = arena->base + arena->used;
    arena->used = end;
    return piece;
}
