/*
 * log_prob and samples of many rows in parts. The rows of all ranks stand one behind the other; the work is cut into as many neighbouring parts, whole
 * tiles of 128 rows, so that a row has the company that it has in one process. Rows travel to who works on them, results back.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define TILE ((size_t)128)
#define MOST_ROWS ((size_t)65536) /* that a rank works on at once */

typedef struct bulk {
    const char *function;
    nf_mpi *mpi;
    const nf_flow *flow;
    nf_workspace *ws;
    const nf_rng *rng; /* NULL: densities */
    size_t rows;
    const double *x, *context;
    double *out_x, *out_log_prob;
    size_t dim, context_dim, in_columns, out_columns;
    size_t *begin;            /* size + 1: numbers of the first rows of the ranks; after it 2 x size counts */
    double *said;             /* of all ranks */
    double *packed, *part;    /* rows or results on their way; x, context, result of the part in work */
    size_t packed_size;
    nf_status worst; /* of this rank's rounds; NF_ERR_ROWS counts when nothing worse has come about */
} bulk;

/* Rank, status, and what must be the same; seed, stream and position in halves. */
enum { STATUS, ROWS, DIM, CONTEXT, PARAMETERS, SEED, STREAM = SEED + 2, POSITION = STREAM + 2, WORDS = POSITION + 2 };

static void halves(double *out, uint64_t word) {
    out[0] = (double)(word >> 32);
    out[1] = (double)(word & UINT32_MAX);
}

/* The line of a failing rank for all, and the rank. */
static nf_status share_line(const bulk *b, nf_status status, size_t root) {
    char line[NF_MPI_LINE];
    snprintf(line, sizeof line, "%.600s (rank %zu of %d)", nf_mpi_last_error(), root, b->mpi->size);
    if (nf_mpi_broadcast(b->mpi, line, sizeof line, (int)root))
        return NF_ERR_IO;
    line[sizeof line - 1] = '\0';
    nf_mpi_say(line);
    return status;
}

/* The first rank's status and line for all; `mine` is this rank's. */
static nf_status agree(bulk *b, nf_status mine) {
    const double own = mine;
    const size_t size = (size_t)b->mpi->size;
    if (nf_mpi_allgather(b->mpi, &own, b->said, 1))
        return NF_ERR_IO;
    size_t first = size;
    for (size_t q = size; q-- > 0;)
        if (b->said[q] != NF_OK && (b->said[q] != NF_ERR_ROWS || first == size || b->said[first] == NF_ERR_ROWS))
            first = q;
    return first == size ? NF_OK : share_line(b, (nf_status)b->said[first], first);
}

/* What each rank brings. No rank has memory for the others' words yet, so each tells its own to all. */
static nf_status begin(bulk *b, nf_status status) {
    const size_t size = (size_t)b->mpi->size;
    double own[WORDS] = {0}, first[WORDS] = {0};
    b->begin = calloc(3 * size + 1, sizeof *b->begin);
    b->said = calloc(size, sizeof *b->said);
    if (status == NF_OK && (!b->begin || !b->said))
        status = nf_mpi_fail(NF_ERR_MEMORY, "%s: no memory for %zu ranks", b->function, size);
    own[STATUS] = status;
    own[ROWS] = (double)b->rows;
    own[DIM] = (double)nf_flow_dim(b->flow);
    own[CONTEXT] = (double)nf_flow_context_dim(b->flow);
    own[PARAMETERS] = (double)nf_parameter_count(b->flow);
    if (b->rng) {
        halves(own + SEED, b->rng->seed);
        halves(own + STREAM, b->rng->stream);
        halves(own + POSITION, b->rng->position);
    }
    nf_status found = NF_OK;
    size_t failing = size;
    for (size_t q = 0; q < size; q++) {
        double theirs[WORDS];
        memcpy(theirs, own, sizeof theirs);
        if (nf_mpi_broadcast(b->mpi, theirs, sizeof theirs, (int)q))
            return NF_ERR_IO;
        if (q == 0)
            memcpy(first, theirs, sizeof first);
        if (found == NF_OK && theirs[STATUS] != NF_OK) {
            found = (nf_status)theirs[STATUS];
            failing = q;
        }
        for (size_t i = DIM; found == NF_OK && i < WORDS; i++)
            if (theirs[i] != first[i])
                found = nf_mpi_fail(NF_ERR_MISMATCH, "%s: the flow or the generator of rank %zu of %zu is not that of rank 0", b->function, q, size);
        if (b->begin && b->said)
            b->begin[q + 1] = b->begin[q] + (size_t)theirs[ROWS];
    }
    return failing == size ? found : share_line(b, found, failing);
}

/* ---- who works on what */

static size_t work_begin(const bulk *b, size_t rank) {
    const size_t total = b->begin[b->mpi->size], tiles = total / TILE + (total % TILE != 0);
    const size_t row = tiles * rank / (size_t)b->mpi->size * TILE;
    return row < total ? row : total;
}

/* The part of a rank's work that is on in a round. */
static void round_of(const bulk *b, size_t rank, size_t round, size_t *first, size_t *last) {
    const size_t begin_row = work_begin(b, rank), end = work_begin(b, rank + 1), at = begin_row + round * MOST_ROWS;
    *first = at < end ? at : end;
    *last = end - *first < MOST_ROWS ? end : *first + MOST_ROWS;
}

static size_t round_count(const bulk *b) {
    size_t rounds = 0;
    for (size_t q = 0; q < (size_t)b->mpi->size; q++) {
        const size_t rows = work_begin(b, q + 1) - work_begin(b, q), own = rows / MOST_ROWS + (rows % MOST_ROWS != 0);
        rounds = own > rounds ? own : rounds;
    }
    return rounds;
}

/* Rows that rank `owner` has of what rank `worker` works on; the first of them in *at. */
static size_t common(const bulk *b, size_t owner, size_t worker, size_t round, size_t *at) {
    size_t first, last;
    round_of(b, worker, round, &first, &last);
    *at = first > b->begin[owner] ? first : b->begin[owner];
    const size_t end = last < b->begin[owner + 1] ? last : b->begin[owner + 1];
    return end > *at ? end - *at : 0;
}

/* ---- a round */

static double *put(double *to, const double *from, size_t count) {
    if (count > 0)
        memcpy(to, from, count * sizeof *to);
    return to + count;
}

/* Rows of this rank to those who work on them: x, then context, of each block. They arrive in the second half of `packed`. */
static nf_status send_rows(bulk *b, size_t round, double *arrived) {
    const size_t size = (size_t)b->mpi->size, rank = (size_t)b->mpi->rank, own = b->begin[rank];
    size_t *sends = b->begin + size + 1, *receives = sends + size, at;
    double *to = b->packed;
    for (size_t q = 0; q < size; q++) {
        const size_t rows = common(b, rank, q, round, &at);
        sends[q] = rows * b->in_columns;
        if (rows > 0 && !b->rng)
            to = put(to, b->x + (at - own) * b->dim, rows * b->dim);
        if (rows > 0 && b->context_dim)
            to = put(to, b->context + (at - own) * b->context_dim, rows * b->context_dim);
        receives[q] = common(b, q, rank, round, &at) * b->in_columns;
    }
    return nf_mpi_exchange(b->mpi, b->packed, sends, arrived, receives) ? NF_ERR_IO : NF_OK;
}

/* The part in work: x, context, log_prob. */
static void work(bulk *b, size_t round, const double *arrived) {
    const size_t size = (size_t)b->mpi->size, rank = (size_t)b->mpi->rank;
    size_t first, last, at;
    round_of(b, rank, round, &first, &last);
    const size_t rows = last - first;
    double *x = b->part, *context = x + rows * b->dim, *log_prob = context + rows * b->context_dim;
    if (rows == 0)
        return;
    for (size_t q = 0; q < size; q++) {
        const size_t count = common(b, q, rank, round, &at);
        if (count == 0)
            continue;
        if (!b->rng)
            put(x + (at - first) * b->dim, arrived, count * b->dim);
        arrived += b->rng ? 0 : count * b->dim;
        put(context + (at - first) * b->context_dim, arrived, count * b->context_dim);
        arrived += count * b->context_dim;
    }
    nf_status status;
    if (b->rng) {
        nf_rng rng = *b->rng;
        rng.position += first;
        status = nf_sample(b->flow, b->ws, &rng, rows, b->context_dim ? context : NULL, x, log_prob);
    } else {
        status = nf_log_prob(b->flow, b->ws, rows, x, b->context_dim ? context : NULL, log_prob);
    }
    if (status != NF_OK && (b->worst == NF_OK || (b->worst == NF_ERR_ROWS && status != NF_ERR_ROWS)))
        b->worst = nf_mpi_fail(status, "%s: rows from number %zu on: %.500s", b->function, first, nf_last_error());
}

/* Results to those whose rows they are. */
static nf_status return_results(bulk *b, size_t round, double *arrived) {
    const size_t size = (size_t)b->mpi->size, rank = (size_t)b->mpi->rank, own = b->begin[rank];
    size_t *sends = b->begin + size + 1, *receives = sends + size, at, first, last;
    round_of(b, rank, round, &first, &last);
    const double *x = b->part, *log_prob = x + (last - first) * (b->dim + b->context_dim);
    double *to = b->packed;
    for (size_t q = 0; q < size; q++) {
        const size_t rows = common(b, q, rank, round, &at);
        sends[q] = rows * b->out_columns;
        if (b->rng && rows > 0)
            to = put(to, x + (at - first) * b->dim, rows * b->dim);
        if (rows > 0)
            to = put(to, log_prob + (at - first), rows);
        receives[q] = common(b, rank, q, round, &at) * b->out_columns;
    }
    if (nf_mpi_exchange(b->mpi, b->packed, sends, arrived, receives))
        return NF_ERR_IO;
    for (size_t q = 0; q < size; q++) {
        const size_t rows = common(b, rank, q, round, &at);
        if (b->rng && b->out_x && rows > 0)
            put(b->out_x + (at - own) * b->dim, arrived, rows * b->dim);
        arrived += b->rng ? rows * b->dim : 0;
        if (b->out_log_prob && rows > 0)
            put(b->out_log_prob + (at - own), arrived, rows);
        arrived += rows;
    }
    return NF_OK;
}

/* The most numbers that leave, or that arrive, in a round: this rank's rows in others' work, or its own work. */
static nf_status allocate(bulk *b, size_t rounds) {
    const size_t size = (size_t)b->mpi->size, rank = (size_t)b->mpi->rank, columns = b->dim + b->context_dim + 1;
    size_t most = 0, at;
    for (size_t round = 0; round < rounds; round++) {
        size_t owned = 0, worked = 0;
        for (size_t q = 0; q < size; q++) {
            owned += common(b, rank, q, round, &at);
            worked += common(b, q, rank, round, &at);
        }
        most = owned > most ? owned : most;
        most = worked > most ? worked : most;
    }
    b->packed_size = (most + 1) * columns;
    b->packed = most < SIZE_MAX / 32 / columns ? malloc(2 * b->packed_size * sizeof(double)) : NULL;
    b->part = b->packed ? malloc(b->packed_size * sizeof(double)) : NULL;
    return b->part ? NF_OK : nf_mpi_fail(NF_ERR_MEMORY, "%s: no memory for %zu rows", b->function, most);
}

static nf_status run(bulk *b, nf_status status) {
    if (status == NF_OK)
        nf_mpi_say("");
    status = begin(b, status);
    if (status != NF_OK)
        return status;
    const size_t rounds = round_count(b);
    status = agree(b, allocate(b, rounds));
    if (status != NF_OK)
        return status;
    double *arrived = b->packed + b->packed_size;
    for (size_t round = 0; round < rounds; round++) {
        if (send_rows(b, round, arrived) != NF_OK)
            return NF_ERR_IO;
        work(b, round, arrived);
        if (return_results(b, round, arrived) != NF_OK)
            return NF_ERR_IO;
    }
    return agree(b, b->worst);
}

static void release(bulk *b) {
    free(b->part);
    free(b->packed);
    free(b->said);
    free(b->begin);
}

static nf_status check(const bulk *b) {
    if (!b->flow)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "%s: flow is NULL", b->function);
    if (b->rows > 0 && !b->rng && !b->x)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "%s: x is NULL", b->function);
    if (b->rows > 0 && !b->rng && !b->out_log_prob)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "%s: log_prob is NULL", b->function);
    if (b->rows > 0 && b->context_dim == 0 && b->context)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "%s: context is not NULL, and the flow takes none", b->function);
    if (b->rows > 0 && b->context_dim != 0 && !b->context)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "%s: context is NULL, and the flow takes %zu columns", b->function, b->context_dim);
    return NF_OK;
}

nf_status nf_mpi_log_prob(nf_mpi *mpi, const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context,
                          double *log_prob) {
    if (!mpi)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_log_prob: mpi is NULL");
    bulk b = {.function = "nf_mpi_log_prob", .mpi = mpi, .flow = flow, .ws = ws, .rows = rows, .x = x, .context = context, .out_log_prob = log_prob};
    b.dim = nf_flow_dim(flow);
    b.context_dim = nf_flow_context_dim(flow);
    b.in_columns = b.dim + b.context_dim;
    b.out_columns = 1;
    const nf_status status = run(&b, check(&b));
    release(&b);
    return status;
}

nf_status nf_mpi_sample(nf_mpi *mpi, const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *context, double *x,
                        double *log_prob) {
    if (!mpi)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_sample: mpi is NULL");
    const nf_rng start = rng ? *rng : (nf_rng){0, 0, 0};
    bulk b = {.function = "nf_mpi_sample", .mpi = mpi, .flow = flow, .ws = ws, .rng = &start, .rows = rows, .context = context, .out_x = x, .out_log_prob = log_prob};
    b.dim = nf_flow_dim(flow);
    b.context_dim = nf_flow_context_dim(flow);
    b.in_columns = b.context_dim;
    b.out_columns = b.dim + 1;
    nf_status status = run(&b, rng ? check(&b) : nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_sample: rng is NULL"));
    if (rng && (status == NF_OK || status == NF_ERR_ROWS))
        rng->position += b.begin[mpi->size];
    release(&b);
    return status;
}
