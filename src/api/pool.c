#include "api/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "core/floating.h"
#include "core/memory.h"
#include "core/status.h"

/* Some microseconds of looking before a thread goes to sleep: work tends to come in quick succession. */
#define SPINS 4000

typedef struct worker {
    nf_pool *pool;
    pthread_t thread;
    size_t index;
    _Atomic uint64_t turn; /* grows by one for each run that it takes part in */
    pthread_cond_t start;
} worker;

struct nf_pool {
    nf_allocator allocator;
    size_t count; /* workers: one less than the threads */
    pid_t process;
    pthread_mutex_t lock;
    pthread_cond_t finish;
    _Atomic size_t running; /* workers that have not finished this run */
    bool stop;
    nf_pool_work work;
    void *user;
    worker workers[];
};

static void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

/* Wait until the turn is no longer `seen`. */
static uint64_t await_turn(worker *self, uint64_t seen) {
    uint64_t turn = seen;
    for (int i = 0; i < SPINS && turn == seen; i++) {
        relax();
        turn = atomic_load_explicit(&self->turn, memory_order_acquire);
    }
    if (turn != seen)
        return turn;
    pthread_mutex_lock(&self->pool->lock);
    while ((turn = atomic_load_explicit(&self->turn, memory_order_acquire)) == seen)
        pthread_cond_wait(&self->start, &self->pool->lock);
    pthread_mutex_unlock(&self->pool->lock);
    return turn;
}

static void finish_turn(nf_pool *pool) {
    if (atomic_fetch_sub_explicit(&pool->running, 1, memory_order_acq_rel) > 1)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->finish);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *argument) {
    worker *self = argument;
    nf_pool *pool = self->pool;
    for (uint64_t seen = 0;;) {
        seen = await_turn(self, seen);
        if (pool->stop)
            return NULL;
        const nf_floating saved = nf_floating_enter();
        pool->work(pool->user, self->index);
        nf_floating_leave(saved);
        finish_turn(pool);
    }
}

/* The first `count` workers; the others sleep on. */
static void begin_turn(nf_pool *pool, size_t count) {
    atomic_store_explicit(&pool->running, count, memory_order_relaxed);
    pthread_mutex_lock(&pool->lock);
    for (size_t i = 0; i < count; i++) {
        atomic_fetch_add_explicit(&pool->workers[i].turn, 1, memory_order_release);
        pthread_cond_signal(&pool->workers[i].start);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* End the first `count` workers, which are all that were started, and what they waited with. */
static void end_workers(nf_pool *pool, size_t count) {
    pool->stop = true;
    begin_turn(pool, count);
    for (size_t i = 0; i < count; i++) {
        pthread_join(pool->workers[i].thread, NULL);
        pthread_cond_destroy(&pool->workers[i].start);
    }
    pthread_cond_destroy(&pool->finish);
    pthread_mutex_destroy(&pool->lock);
}

static bool start_worker(nf_pool *pool, size_t i) {
    worker *w = &pool->workers[i];
    w->pool = pool;
    w->index = i + 1;
    if (pthread_cond_init(&w->start, NULL) != 0)
        return false;
    if (pthread_create(&w->thread, NULL, worker_main, w) == 0)
        return true;
    pthread_cond_destroy(&w->start);
    return false;
}

nf_status nf_pool_create(const nf_allocator *allocator, size_t threads, nf_pool **out) {
    size_t bytes;
    nf_pool *pool = NULL;
    if (nf_size_multiply(threads - 1, sizeof(worker), &bytes) && nf_size_add(bytes, sizeof *pool, &bytes))
        pool = nf_allocate_zeroed(allocator, bytes);
    if (!pool)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a pool of %zu threads", threads);
    pool->allocator = *allocator;
    pool->process = getpid();
    pool->count = threads - 1;
    if (pthread_mutex_init(&pool->lock, NULL) != 0 || pthread_cond_init(&pool->finish, NULL) != 0) {
        nf_release(allocator, pool);
        return nf_fail(NF_ERR_MEMORY, NULL, "no lock for a pool of %zu threads", threads);
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int saved_errno = errno; /* a stack that there is no memory for sets it */
    size_t started = 0;
    while (started < pool->count && start_worker(pool, started))
        started++;
    errno = saved_errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started < pool->count) {
        end_workers(pool, started);
        nf_release(allocator, pool);
        return nf_fail(NF_ERR_MEMORY, NULL, "thread %zu of %zu cannot be started", started + 2, threads);
    }
    *out = pool;
    return NF_OK;
}

void nf_pool_free(nf_pool *pool) {
    if (!pool)
        return;
    const nf_allocator allocator = pool->allocator;
    /* In a forked child the workers do not exist, and their locks may be held by nobody: only the memory is given back. */
    if (pool->process == getpid())
        end_workers(pool, pool->count);
    nf_release(&allocator, pool);
}

void nf_pool_run(nf_pool *pool, size_t threads, nf_pool_work work, void *user) {
    if (threads <= 1 || pool->process != getpid()) {
        for (size_t t = 0; t < threads; t++)
            work(user, t);
        return;
    }
    pool->work = work;
    pool->user = user;
    begin_turn(pool, threads - 1);
    work(user, 0);
    for (int i = 0; i < SPINS && atomic_load_explicit(&pool->running, memory_order_acquire) > 0; i++)
        relax();
    if (atomic_load_explicit(&pool->running, memory_order_acquire) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->running, memory_order_acquire) > 0)
        pthread_cond_wait(&pool->finish, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
