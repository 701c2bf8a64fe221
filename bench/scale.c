/*
 * What a cluster would make of a fit: a model of a step's time over R processes, calibrated by steps measured here, and a simulation of many such steps with
 * processes that are not equally fast. Prints lines for bench/scale.gp:
 *
 *     scale [latency_us overhead_us gigabytes_per_second] >scale.txt
 *
 * A step of B rows is ceil(B / 128) tiles on R processes, the busiest of which has ceil(tiles / R) of them. Each costs what it cost here. What follows is waited for by all:
 * the header (allgather), the slices of the gradient (exchange), the slices of the sum (allgather), and the optimizer's step on all parameters; each window of 16384 rows or
 * one step, three exchanges and four allgathers of the rows. Messages cost latency + bytes / bandwidth (Hockney 1994) and `overhead` of a process's own time each
 * (Culler et al. 1993). Collectives are taken at the better of two algorithms (Thakur, Rabenseifner & Gropp 2005): allgather by recursive doubling or by a ring, allreduce by
 * recursive doubling or by Rabenseifner's halving and doubling. One thread a process.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"
#include "nflow.h"

enum { TILE = 128, WINDOW = 16384, STEPS = 200, MOST = 1024, BATCHES = 5 };

typedef struct model {
    const char *name;
    size_t dim, width, layers, batch[BATCHES];
    /* measured, seconds */
    double tile, update, copy; /* of a tile's gradient; of the optimizer; of a byte of memory */
    double parameters;
} model;

typedef struct network {
    double latency, overhead, byte; /* seconds */
} network;

/* ---- calibration: the fastest of some blocks, by processor time */

static void calibrate(model *m) {
    enum { ROWS = 8 * TILE };
    nf_flow *flow;
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    nf_rng rng = {1, 2, 0};
    double *x = malloc(ROWS * m->dim * sizeof *x), loss;
    bench_require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = m->dim, .couplings = m->layers, .hidden_width = m->width, .precision = NF_SINGLE), &flow));
    bench_require(nf_workspace_create(flow, 1, &ws));
    bench_require(nf_gradient_create(flow, &gradient));
    bench_require(nf_optimizer_create(flow, NULL, &optimizer));
    bench_require(nf_sample(flow, ws, &rng, ROWS, NULL, x, NULL));
    m->parameters = (double)nf_parameter_count(flow);
    m->tile = m->update = m->copy = INFINITY;
    const size_t bytes = (size_t)m->parameters * sizeof(float);
    char *from = calloc(1, bytes), *to = malloc(bytes);
    for (int block = 0; block < 15; block++) {
        double t = bench_seconds(0);
        bench_require(nf_grad_nll(flow, ws, ROWS, x, NULL, NULL, gradient, &loss));
        m->tile = fmin(m->tile, (bench_seconds(0) - t) / (ROWS / TILE));
        t = bench_seconds(0);
        bench_require(nf_optimizer_step(optimizer, flow, gradient));
        m->update = fmin(m->update, bench_seconds(0) - t);
        t = bench_seconds(0);
        memcpy(to, from, bytes);
        from[block] = to[bytes - 1]; /* so that it is done */
        m->copy = fmin(m->copy, (bench_seconds(0) - t) / (double)bytes);
    }
    free(to), free(from), free(x);
    nf_optimizer_free(optimizer);
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}

/* ---- communication, in seconds; bytes: of one process's part */

static double turns(double ranks) { return ceil(log2(ranks)); }

static double allgather(const network *n, double ranks, double bytes) {
    const double moved = (ranks - 1) * bytes * n->byte;
    return fmin(turns(ranks) * n->latency + moved, (ranks - 1) * n->latency + moved);
}

static double exchange(const network *n, double ranks, double bytes_received) {
    return n->latency + (ranks - 1) * n->overhead + bytes_received * n->byte;
}

static double allreduce(const network *n, double ranks, double bytes) {
    const double t = turns(ranks);
    return fmin(t * (n->latency + bytes * n->byte), 2 * t * n->latency + 2 * (ranks - 1) / ranks * bytes * n->byte);
}

/* What a step takes beside its tiles. */
static double overhead_of(const model *m, const network *n, double ranks, double batch, int fast) {
    if (ranks == 1)
        return m->update;
    const double gradient = m->parameters * sizeof(float), shards = fmin(ceil(batch / TILE), fmax(8, ranks)), columns = (double)m->dim + 1;
    const double roots = fmax(1, fmin(shards, 8) / ranks); /* of a process: whole groups, or one node of them */
    const double steps = fmax(1, floor(WINDOW / batch)), rows = steps * batch / ranks;
    const double fetch = exchange(n, ranks, (ranks - 1) * 8) + exchange(n, ranks, rows * 8) + exchange(n, ranks, rows * columns * 8) + 4 * allgather(n, ranks, 8);
    const double sums = allgather(n, ranks, 8 * (4 + 4 * ceil(shards / ranks)));
    const double arriving = gradient / ranks * fmin(shards, fmax(8, ranks));
    const double fixed = sums + exchange(n, ranks, arriving) + allgather(n, ranks, gradient / ranks) +
                         m->copy * (roots * gradient + arriving + gradient); /* packing, adding, taking */
    return m->update + fetch / steps + (fast ? allreduce(n, ranks, 2 * gradient) + 3 * m->copy * gradient : fixed);
}

/* ---- simulation */

static unsigned long long state = 88172645463325252ull;

static double uniform(void) { /* xorshift (Marsaglia 2003) */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return ((double)(state >> 11) + 0.5) / 9007199254740992.0;
}

/* Each process is up to 2 % slower than the best for good, and now and then, once in 100 ms of its time, loses 50 us to its operating system. */
static double simulate(const model *m, const network *n, size_t ranks, double batch, int fast) {
    static double pace[MOST];
    const double tiles = ceil(batch / TILE);
    double total = 0;
    for (size_t r = 0; r < ranks; r++)
        pace[r] = 1 + 0.02 * uniform();
    for (int step = 0; step < STEPS; step++) {
        double slowest = 0;
        for (size_t r = 0; r < ranks; r++) {
            const double share = floor(tiles * (double)(r + 1) / (double)ranks) - floor(tiles * (double)r / (double)ranks);
            const double own = share * m->tile * pace[r];
            slowest = fmax(slowest, own + (uniform() < own / 0.1 ? 50e-6 : 0));
        }
        total += slowest + overhead_of(m, n, (double)ranks, batch, fast);
    }
    return total / STEPS;
}

static double efficiency(const model *m, const network *n, size_t ranks, double batch, int fast) {
    const double alone = ceil(batch / TILE) * m->tile + m->update;
    return alone / ((double)ranks * simulate(m, n, ranks, batch, fast));
}

/* The batch, in tiles a process, from which the efficiency is at least 80 %. */
static double smallest_batch(const model *m, const network *n, size_t ranks, int fast) {
    for (double tiles = 1; tiles < 1e6; tiles = ceil(tiles * 1.15))
        if (efficiency(m, n, ranks, tiles * TILE * (double)ranks, fast) >= 0.8)
            return tiles * TILE * (double)ranks;
    return NAN;
}

int main(int argc, char **argv) {
    const network n = {1e-6 * (argc > 1 ? atof(argv[1]) : 1.5), 1e-6 * (argc > 2 ? atof(argv[2]) : 0.3), 1e-9 / (argc > 3 ? atof(argv[3]) : 12.0)};
    model models[] = {{"small", 2, 32, 8, {1024, 4096, 16384, 65536, 262144}, 0, 0, 0, 0},
                      {"middle", 16, 128, 8, {1024, 4096, 16384, 65536, 262144}, 0, 0, 0, 0},
                      {"large", 64, 256, 8, {1024, 4096, 16384, 65536, 262144}, 0, 0, 0, 0}};
    printf("# latency %.2f us, overhead %.2f us, %.1f GB/s\n", 1e6 * n.latency, 1e6 * n.overhead, 1e-9 / n.byte);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        model *m = &models[i];
        calibrate(m);
        printf("# %s: %.0f parameters, %.1f us a tile, %.1f us an optimizer's step, %.1f GB/s of copying\n", m->name, m->parameters, 1e6 * m->tile, 1e6 * m->update,
               1e-9 / m->copy);
        for (size_t b = 0; b < BATCHES; b++)
            for (size_t ranks = 1; ranks <= MOST; ranks *= 2)
                printf("%s-%zu %zu %.4f %.4f\n", m->name, m->batch[b], ranks, efficiency(m, &n, ranks, (double)m->batch[b], 0),
                       efficiency(m, &n, ranks, (double)m->batch[b], 1));
        for (size_t ranks = 2; ranks <= MOST; ranks *= 2)
            printf("%s-least %zu %.0f %.0f\n", m->name, ranks, smallest_batch(m, &n, ranks, 0), smallest_batch(m, &n, ranks, 1));
    }
    return 0;
}
