/* A few threads that a workspace owns. The calling thread is thread 0. */
#ifndef NF_API_POOL_H
#define NF_API_POOL_H

#include <stddef.h>

#include "nflow.h"

typedef struct nf_pool nf_pool;
typedef void (*nf_pool_work)(void *user, size_t thread);

/* A pool of `threads` >= 2 in all. Signals are blocked in the threads that it starts. */
nf_status nf_pool_create(const nf_allocator *allocator, size_t threads, nf_pool **pool);
void nf_pool_free(nf_pool *pool);

/*
 * Run work(user, t) for t = 0 .. threads - 1, at most the pool's number, each on its own thread, and wait for all. In a process
 * that forked from the one that made the pool, the calling thread does all of it, in order.
 */
void nf_pool_run(nf_pool *pool, size_t threads, nf_pool_work work, void *user);

#endif
