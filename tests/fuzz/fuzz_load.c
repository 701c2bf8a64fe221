/*
 * Fuzz target: any bytes as a model file, loaded and freed, and nothing else, so that it runs many times a second. It needs no address sanitizer: the bytes end where
 * a page begins that cannot be touched, and all memory, jansson's too, is of an arena whose blocks have guards, are filled when they are freed, and are not used
 * again before the next input. So a read past the file, a write past a block, a use after free (of a pointer at least), a second free and a leak are all seen.
 */
#define _GNU_SOURCE
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model_mutator.h"
#include "nflow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- memory ---- */

/* More than the most that a file of MOST_BYTES may take, in blocks with guards. */
enum { ALIGN = 16, GUARD = 16, FILL = 1024, MOST_BYTES = 1 << 16 };
#define ROOM ((size_t)32 << 20)
#define LIVE UINT64_C(0x6c697665626c6f63)
#define DEAD UINT64_C(0x6465616462c6f63a)

static _Alignas(ALIGN) unsigned char arena[ROOM];
static size_t used, live;

typedef struct guarded_block {
    uint64_t size, state; /* of which the second is the guard before the block */
} guarded_block;

static void *take(size_t size) {
    const size_t whole = (sizeof(guarded_block) + size + GUARD + ALIGN - 1) / ALIGN * ALIGN;
    if (size > ROOM || whole > ROOM - used)
        return NULL;
    guarded_block *block = (guarded_block *)(void *)(arena + used);
    unsigned char *bytes = (unsigned char *)(block + 1);
    used += whole;
    live++;
    *block = (guarded_block){size, LIVE};
    memset(bytes, 0xA5, size < FILL ? size : FILL);
    memset(bytes + size, 0xC3, GUARD);
    return bytes;
}

static void give(void *pointer) {
    static const unsigned char guard[GUARD] = {0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3};
    if (!pointer)
        return;
    guarded_block *block = (guarded_block *)pointer - 1;
    unsigned char *bytes = pointer;
    if (bytes < arena || bytes >= arena + used || block->state != LIVE || memcmp(bytes + block->size, guard, GUARD) != 0)
        abort();
    block->state = DEAD;
    memset(bytes, 0x5A, block->size < FILL ? block->size : FILL);
    live--;
}

static void *take_for(void *user, size_t size) {
    (void)user;
    return take(size);
}

static void give_for(void *user, void *pointer) {
    (void)user;
    give(pointer);
}

/* The last byte of what it returns stands before a page that cannot be touched. */
static uint8_t *before_the_end(const uint8_t *data, size_t size) {
    static uint8_t *end;
    if (!end) {
        uint8_t *pages = mmap(NULL, 2 * MOST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED || mprotect(pages + MOST_BYTES, MOST_BYTES, PROT_NONE) != 0)
            abort();
        end = pages + MOST_BYTES;
        json_set_alloc_funcs(take, give);
    }
    if (size)
        memcpy(end - size, data, size);
    return end - size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const nf_allocator guarded = {take_for, give_for, NULL};
    nf_flow *flow = NULL;
    if (size > MOST_BYTES)
        return 0;
    const uint8_t *bytes = before_the_end(data, size);
    used = live = 0;
    const nf_status status = nf_flow_load_memory_with(bytes, size, &flow, &guarded);
    if ((status == NF_OK) != (flow != NULL) || (status != NF_OK && status != NF_ERR_FORMAT && status != NF_ERR_UNSUPPORTED) ||
        (status != NF_OK) != (*nf_last_error() != '\0'))
        abort();
    nf_flow_free(flow);
    if (live != 0)
        abort();
    return 0;
}
