#include "api/ranks.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "api/config.h"
#include "api/handles.h"
#include "io/schema.h"

/* Micro-shards of a gradient when nobody says otherwise: the slots of a call in one process. */
#define SHARDS ((size_t)GRADIENT_SLOTS)

static nf_status read_table(nf_ranks *r, const nf_comm *comm) {
    const nf_status status = nf_read_config(r->function, comm, &r->comm, sizeof r->comm, NF_SIZE_THROUGH(nf_comm, barrier));
    if (status != NF_OK)
        return status;
    const nf_comm *c = &r->comm;
    if (c->size < 1 || c->rank < 0 || c->rank >= c->size)
        return nf_fail(NF_ERR_ARGUMENT, r->function, "config->comm: rank %d of %d", c->rank, c->size);
    if (c->size > 1 && (!c->allgather || !c->broadcast))
        return nf_fail(NF_ERR_ARGUMENT, r->function, "config->comm->%s is NULL", c->allgather ? "broadcast" : "allgather");
    if (c->fast != 0 && c->fast != 1)
        return nf_fail(NF_ERR_ARGUMENT, r->function, "config->comm->fast is %d, must be 0 or 1", c->fast);
    if (c->size > 1 && c->fast && !c->allreduce)
        return nf_fail(NF_ERR_ARGUMENT, r->function, "config->comm->allreduce is NULL, and comm->fast asks for it");
    if (c->reserved != 0)
        return nf_fail(NF_ERR_ARGUMENT, r->function, "config->comm->reserved is %d, must be 0", c->reserved);
    return NF_OK;
}

static nf_status agree_on_memory(nf_ranks *r);

nf_status nf_ranks_begin(nf_ranks *r, const char *function, const nf_comm *comm, const nf_allocator *allocator) {
    memset(r, 0, sizeof *r);
    r->function = function;
    r->allocator = *allocator;
    r->size = 1;
    r->shards = SHARDS;
    if (!comm)
        return NF_OK;
    const nf_status status = read_table(r, comm);
    if (status != NF_OK)
        return status;
    r->rank = (size_t)r->comm.rank;
    r->size = (size_t)r->comm.size;
    r->shards = r->comm.shards ? r->comm.shards : SHARDS;
    r->fast = r->comm.fast && r->size > 1;
    if (r->size == 1)
        return NF_OK;
    return agree_on_memory(r);
}

void nf_ranks_end(nf_ranks *r) {
    nf_release(&r->allocator, r->spare);
    nf_release(&r->allocator, r->counts);
    nf_release(&r->allocator, r->statuses);
    r->spare = r->statuses = NULL;
    r->counts = NULL;
}

/* ---- the callbacks, in the caller's mode */

static nf_status broken(const nf_ranks *r) { return nf_fail(NF_ERR_IO, r->function, "an operation of config->comm has failed before"); }

static nf_status outcome(nf_ranks *r, const char *operation, int code) {
    if (code == 0)
        return NF_OK;
    r->broken = true;
    return nf_fail(NF_ERR_IO, r->function, "config->comm->%s returned %d on rank %zu of %zu", operation, code, r->rank, r->size);
}

nf_status nf_ranks_gather(nf_ranks *r, const double *send, double *receive, size_t count) {
    if (r->size == 1) {
        memmove(receive, send, count * sizeof *send);
        return NF_OK;
    }
    if (r->broken)
        return broken(r);
    return outcome(r, "allgather", NF_CALL_OUT(r->comm.allgather(r->comm.user, send, receive, count)));
}

nf_status nf_ranks_broadcast(nf_ranks *r, void *bytes, size_t size, size_t root) {
    if (r->size == 1)
        return NF_OK;
    if (r->broken)
        return broken(r);
    return outcome(r, "broadcast", NF_CALL_OUT(r->comm.broadcast(r->comm.user, bytes, size, (int)root)));
}

nf_status nf_ranks_sum(nf_ranks *r, double *values, size_t count) {
    if (r->size == 1)
        return NF_OK;
    if (r->broken)
        return broken(r);
    return outcome(r, "allreduce", NF_CALL_OUT(r->comm.allreduce(r->comm.user, values, count)));
}

/* ---- exchange, by allgather where the table has none */

static nf_status ensure_spare(nf_ranks *r, size_t count) {
    if (count <= r->spare_size)
        return NF_OK;
    size_t bytes;
    nf_release(&r->allocator, r->spare);
    r->spare = nf_size_multiply(count, sizeof(double), &bytes) ? nf_allocate(&r->allocator, bytes) : NULL;
    r->spare_size = r->spare ? count : 0;
    return r->spare ? NF_OK : nf_fail(NF_ERR_MEMORY, r->function, "no memory to exchange %zu numbers", count);
}

/* Every rank's counts, from which follow the longest message and where in each rank's message this rank's part begins. */
static nf_status learn_counts(nf_ranks *r, const size_t *send_counts, size_t *begin, size_t *longest) {
    nf_status status = nf_ranks_agree(r, ensure_spare(r, r->size + r->size * r->size));
    if (status != NF_OK)
        return status;
    double *mine = r->spare, *all = r->spare + r->size;
    for (size_t q = 0; q < r->size; q++)
        mine[q] = (double)send_counts[q];
    status = nf_ranks_gather(r, mine, all, r->size);
    *longest = 0;
    for (size_t q = 0; status == NF_OK && q < r->size; q++) {
        size_t total = 0;
        for (size_t p = 0; p < r->size; p++) {
            if (p == r->rank)
                begin[q] = total;
            total += (size_t)all[q * r->size + p];
        }
        *longest = total > *longest ? total : *longest;
    }
    return status;
}

static nf_status exchange_by_gather(nf_ranks *r, const double *send, const size_t *send_counts, double *receive,
                                    const size_t *receive_counts) {
    size_t *begin = r->counts, longest, total = 0;
    nf_status status = learn_counts(r, send_counts, begin, &longest);
    if (status == NF_OK)
        status = nf_ranks_agree(r, ensure_spare(r, (r->size + 1) * longest));
    if (status != NF_OK || longest == 0)
        return status;
    for (size_t q = 0; q < r->size; q++)
        total += send_counts[q];
    memset(r->spare, 0, longest * sizeof *send);
    if (total > 0)
        memcpy(r->spare, send, total * sizeof *send);
    double *all = r->spare + longest;
    status = nf_ranks_gather(r, r->spare, all, longest);
    for (size_t q = 0; status == NF_OK && q < r->size; receive += receive_counts[q], q++)
        if (receive_counts[q] > 0)
            memcpy(receive, all + q * longest + begin[q], receive_counts[q] * sizeof *receive);
    return status;
}

nf_status nf_ranks_exchange(nf_ranks *r, const double *send, const size_t *send_counts, double *receive, const size_t *receive_counts) {
    if (r->broken)
        return broken(r);
    if (!r->comm.exchange)
        return exchange_by_gather(r, send, send_counts, receive, receive_counts);
    return outcome(r, "exchange", NF_CALL_OUT(r->comm.exchange(r->comm.user, send, send_counts, receive, receive_counts)));
}

/* ---- agreement */

/* The failing rank's line for all, and the rank, unless it left none. */
static nf_status share_line(nf_ranks *r, nf_status status, size_t root) {
    char line[NF_ERROR_LENGTH] = ""; /* to its end: all of it is sent */
    memcpy(line, nf_last_error(), strlen(nf_last_error()) + 1);
    const nf_status sent = nf_ranks_broadcast(r, line, sizeof line, root);
    if (sent != NF_OK)
        return sent;
    line[sizeof line - 1] = '\0';
    nf_clear_error();
    return line[0] ? nf_fail(status, NULL, "%.460s (rank %zu of %zu)", line, root, r->size) : status;
}

/* What the other agreements need; this one goes by a broadcast from each rank, which needs no memory. */
static nf_status agree_on_memory(nf_ranks *r) {
    r->statuses = nf_allocate(&r->allocator, 3 * r->size * sizeof *r->statuses);
    r->counts = nf_allocate(&r->allocator, r->size * sizeof *r->counts);
    nf_status status = NF_OK;
    if (!r->statuses || !r->counts)
        status = nf_fail(NF_ERR_MEMORY, r->function, "no memory for the statuses of %zu ranks", r->size);
    for (size_t q = 0; q < r->size; q++) {
        int32_t number = (int32_t)status;
        const nf_status sent = nf_ranks_broadcast(r, &number, sizeof number, q);
        if (sent != NF_OK || number != 0) {
            const nf_status all = sent != NF_OK ? sent : share_line(r, (nf_status)number, q);
            nf_ranks_end(r);
            return all;
        }
    }
    return NF_OK;
}

nf_status nf_ranks_agree(nf_ranks *r, nf_status mine) {
    if (r->size == 1)
        return mine;
    if (r->broken)
        return mine == NF_OK ? broken(r) : mine;
    const double number = (double)mine;
    const nf_status sent = nf_ranks_gather(r, &number, r->statuses, 1);
    if (sent != NF_OK)
        return sent;
    for (size_t q = 0; q < r->size; q++)
        if (r->statuses[q] != 0.0)
            return share_line(r, (nf_status)r->statuses[q], q);
    return NF_OK;
}

static bool same_bits(double a, double b) {
    uint64_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return x == y;
}

nf_status nf_ranks_compare(nf_ranks *r, const nf_rank_setting *settings, size_t count) {
    if (r->size == 1)
        return NF_OK;
    nf_status status = nf_ranks_agree(r, ensure_spare(r, count));
    if (status != NF_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        r->spare[i] = settings[i].value;
    status = nf_ranks_broadcast(r, r->spare, count * sizeof *r->spare, 0);
    if (status != NF_OK)
        return status;
    for (size_t i = 0; status == NF_OK && i < count; i++)
        if (!same_bits(r->spare[i], settings[i].value))
            status = nf_fail(NF_ERR_MISMATCH, r->function, "%s is %.17g, and on rank 0 it is %.17g", settings[i].name, settings[i].value,
                             r->spare[i]);
    return nf_ranks_agree(r, status);
}

/* FNV-1a (Fowler, Noll & Vo) a word at a time. */
uint64_t nf_ranks_digest(const void *bytes, size_t size) {
    const unsigned char *from = bytes;
    uint64_t sum = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        memcpy(&word, from + i, size - i < 8 ? size - i : 8);
        sum = (sum ^ word) * UINT64_C(1099511628211);
        sum ^= sum >> 32;
    }
    return sum;
}

/* ---- flows */

static nf_status compare_isa(nf_ranks *r, const struct nf_flow *flow) {
    char name[32] = "";
    memcpy(name, flow->engine->isa, strlen(flow->engine->isa));
    nf_status status = nf_ranks_broadcast(r, name, sizeof name, 0);
    if (status == NF_OK && strcmp(name, flow->engine->isa) != 0)
        status = nf_fail(NF_ERR_MISMATCH, r->function, "the flow computes with %s, and on rank 0 with %.31s: set NFLOW_ISA to one that all have",
                         flow->engine->isa, name);
    return nf_ranks_agree(r, status);
}

/* The seeds of the probes of continuous layers; of one layer, its own. */
static uint64_t probe_seeds(const nf_model *model) {
    uint64_t seeds = 0;
    for (size_t i = 0; i < model->layer_count; i++)
        if (model->layers[i]->kind == NF_LAYER_CNF)
            seeds = seeds * UINT64_C(1099511628211) + model->layers[i]->cnf.noise_seed;
    return seeds;
}

nf_status nf_ranks_share_flow(nf_ranks *r, struct nf_flow *flow) {
    if (r->size == 1)
        return NF_OK;
    char *text = NULL;
    const int saved_errno = errno; /* jansson sets it */
    nf_status status = nf_schema_write(&flow->model, flow->engine->precision, &r->allocator, &text);
    errno = saved_errno;
    if (status != NF_OK)
        nf_fail_in(status, r->function);
    const uint64_t digest = text ? nf_ranks_digest(text, strlen(text)) : 0;
    nf_release(&r->allocator, text);
    status = nf_ranks_agree(r, status);
    if (status == NF_OK)
        status = compare_isa(r, flow);
    const nf_rank_setting settings[] = {{"the version of the library", NFLOW_VERSION_MAJOR * 10000 + NFLOW_VERSION_MINOR * 100 + NFLOW_VERSION_PATCH},
                                        {"the flow's precision", (double)flow->engine->precision},
                                        {"the flow's dim", (double)flow->model.dim},
                                        {"the flow's number of parameters", (double)flow->model.parameter_count},
                                        NF_HALVES("the seed of the flow's continuous layers", probe_seeds(&flow->model)),
                                        NF_HALVES("the digest of the flow's structure", digest)};
    if (status == NF_OK)
        status = nf_ranks_compare(r, settings, sizeof settings / sizeof *settings);
    if (status == NF_OK)
        status = nf_ranks_broadcast(r, flow->theta, flow->model.parameter_count * flow->engine->real_size, 0);
    flow->epoch = nf_unique();
    return status;
}

nf_status nf_ranks_hear_all(nf_ranks *r, const struct nf_flow *flow, const char *unit, size_t number, bool *stop) {
    if (r->size == 1)
        return NF_OK;
    const uint64_t digest = nf_ranks_digest(flow->theta, flow->model.parameter_count * flow->engine->real_size);
    const double own[3] = {*stop, (double)(digest >> 32), (double)(digest & UINT32_MAX)}, *first = r->statuses;
    nf_status status = nf_ranks_gather(r, own, r->statuses, 3);
    for (size_t q = 0; status == NF_OK && q < r->size; q++) {
        const double *said = r->statuses + 3 * q;
        *stop = *stop || said[0] != 0.0;
        if (said[1] != first[1] || said[2] != first[2])
            status = nf_fail(NF_ERR_MISMATCH, r->function, "the parameters of rank %zu have come apart from those of rank 0 in %s %zu", q, unit, number);
    }
    return status;
}
