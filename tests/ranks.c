#include "ranks.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum operation { NONE, ALLGATHER, BROADCAST, BARRIER, EXCHANGE, ALLREDUCE };

typedef struct team {
    rank_options options;
    pthread_mutex_t lock;
    pthread_cond_t all;
    int waiting;
    size_t turn;
    bool aborted, differs;
    /* What each rank brings to the operation that is on. */
    struct {
        enum operation operation;
        size_t count;
        const void *data;
        const size_t *counts;
    } said[MOST_RANKS];
    rank_body body;
    void *user;
} team;

typedef struct member {
    team *t;
    int rank;
    nf_comm comm;
    rank_result *result;
    pthread_t thread;
} member;

/* Until all are here; not 0 when somebody will not come. */
static int meet(team *t) {
    pthread_mutex_lock(&t->lock);
    const size_t turn = t->turn;
    if (!t->aborted && ++t->waiting == t->options.size) {
        t->waiting = 0;
        t->turn++;
        pthread_cond_broadcast(&t->all);
    }
    while (!t->aborted && t->turn == turn)
        pthread_cond_wait(&t->all, &t->lock);
    const int gone = t->turn == turn;
    pthread_mutex_unlock(&t->lock);
    return gone;
}

static void leave(team *t) {
    pthread_mutex_lock(&t->lock);
    t->aborted = true;
    pthread_cond_broadcast(&t->all);
    pthread_mutex_unlock(&t->lock);
}

/* Say what this rank brings, and meet the others, who must be at the same operation. */
static int begin(member *m, enum operation operation, size_t count, const void *data, const size_t *counts) {
    team *t = m->t;
    if (++m->result->calls == t->options.failing_call && m->rank == t->options.failing_rank) {
        leave(t);
        return 7;
    }
    t->said[m->rank].operation = operation;
    t->said[m->rank].count = count;
    t->said[m->rank].data = data;
    t->said[m->rank].counts = counts;
    if (meet(t))
        return 9;
    for (int q = 0; q < t->options.size; q++)
        if (t->said[q].operation != operation || t->said[q].count != count) {
            pthread_mutex_lock(&t->lock);
            t->differs = true;
            pthread_mutex_unlock(&t->lock);
            leave(t);
            return 11;
        }
    return 0;
}

static int end(member *m) { return meet(m->t) ? 9 : 0; }

static int allgather(void *user, const double *send, double *receive, size_t count) {
    member *m = user;
    const int code = begin(m, ALLGATHER, count, send, NULL);
    if (code)
        return code;
    for (int q = 0; q < m->t->options.size; q++)
        memcpy(receive + (size_t)q * count, m->t->said[q].data, count * sizeof *receive);
    m->result->numbers += count * (size_t)(m->t->options.size - 1);
    return end(m);
}

static int broadcast(void *user, void *bytes, size_t size, int root) {
    member *m = user;
    const int code = begin(m, BROADCAST, size * 1000 + (size_t)root, bytes, NULL);
    if (code)
        return code;
    if (m->rank != root)
        memcpy(bytes, m->t->said[root].data, size);
    return end(m);
}

static int barrier(void *user) {
    member *m = user;
    const int code = begin(m, BARRIER, 0, NULL, NULL);
    return code ? code : end(m);
}

static int exchange(void *user, const double *send, const size_t *send_counts, double *receive, const size_t *receive_counts) {
    member *m = user;
    team *t = m->t;
    const int code = begin(m, EXCHANGE, 0, send, send_counts);
    if (code)
        return code;
    for (int q = 0; q < t->options.size; q++) {
        const size_t *counts = t->said[q].counts;
        const double *from = t->said[q].data;
        for (int r = 0; r < m->rank; r++)
            from += counts[r];
        if (counts[m->rank] != receive_counts[q]) {
            pthread_mutex_lock(&t->lock);
            t->differs = true;
            pthread_mutex_unlock(&t->lock);
            leave(t);
            return 12;
        }
        if (receive_counts[q])
            memcpy(receive, from, receive_counts[q] * sizeof *receive);
        receive += receive_counts[q];
        m->result->numbers += q == m->rank ? 0 : send_counts[q];
    }
    return end(m);
}

static int allreduce(void *user, double *values, size_t count) {
    member *m = user;
    double *sum = calloc(count, sizeof *sum);
    if (!sum)
        return 1;
    int code = begin(m, ALLREDUCE, count, values, NULL);
    for (int q = 0; !code && q < m->t->options.size; q++)
        for (size_t i = 0; i < count; i++)
            sum[i] += ((const double *)m->t->said[q].data)[i];
    if (!code)
        code = end(m);
    if (!code)
        memcpy(values, sum, count * sizeof *sum);
    m->result->numbers += 2 * count * (size_t)(m->t->options.size - 1) / (size_t)m->t->options.size; /* of a ring */
    free(sum);
    return code;
}

static void *run(void *user) {
    member *m = user;
    m->result->status = m->t->body(m->t->user, &m->comm, m->result->line);
    return NULL;
}

bool run_ranks(const rank_options *options, rank_body body, void *user, rank_result *results) {
    team t = {.options = *options, .lock = PTHREAD_MUTEX_INITIALIZER, .all = PTHREAD_COND_INITIALIZER, .body = body, .user = user};
    member members[MOST_RANKS];
    memset(results, 0, (size_t)options->size * sizeof *results);
    for (int r = 0; r < options->size; r++) {
        members[r] = (member){.t = &t, .rank = r, .result = &results[r]};
        members[r].comm = (nf_comm){.struct_size = options->first_version ? offsetof(nf_comm, exchange) : sizeof(nf_comm),
                                    .rank = r,
                                    .size = options->size,
                                    .user = &members[r],
                                    .allgather = allgather,
                                    .broadcast = broadcast,
                                    .barrier = barrier,
                                    .exchange = options->no_exchange ? NULL : exchange,
                                    .allreduce = allreduce,
                                    .shards = options->shards,
                                    .fast = options->fast};
        if (pthread_create(&members[r].thread, NULL, run, &members[r]) != 0)
            abort();
    }
    for (int r = 0; r < options->size; r++)
        pthread_join(members[r].thread, NULL);
    return !t.differs;
}
