/*
 * What the root of a planar layer's inverse costs, against the layer's forward pass: tiles of 128 samples of dimension 2 that
 * stay in the first cache, in nanoseconds a sample, for slopes from nearly flat to steep; medians of interleaved rounds. The root may cost at most three times the forward pass.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/layers/layers.h"
#include "engine/layers/planar_constraint.h"
#include "engine/layers/planar_root.h"
#include "measure.h"

#define DIM 2
#define REPEATS 100
#define ROUNDS 401

static real x[TILE_ROWS * DIM] __attribute__((aligned(64))), kept[TILE_ROWS * DIM] __attribute__((aligned(64)));
static real y[TILE_ROWS] __attribute__((aligned(64))), tanh_t[TILE_ROWS] __attribute__((aligned(64)));
static real sech2_t[TILE_ROWS] __attribute__((aligned(64))), slope[PANEL] __attribute__((aligned(64)));
static newton_panel states[TILE_PANELS] __attribute__((aligned(64)));
static double log_det[TILE_ROWS] __attribute__((aligned(64)));
static unsigned char failed[TILE_ROWS];
static engine_counters counters;

static uint64_t state = 2385;

static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) * 0x1p-53;
}

static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

typedef struct subject {
    layer_run run;
    tile t;
    planar_equation equation;
} subject;

static void run_forward(subject *s) { R(planar_ops).forward(&s->run, &s->t); }
static void run_inverse(subject *s) { R(planar_ops).inverse(&s->run, &s->t); }
static void run_root(subject *s) { counters.root_iterations += R(planar_root)(&s->equation, TILE_PANELS, TILE_ROWS, states); }

static double call(void (*work)(subject *), subject *s) {
    const double start = bench_seconds(0);
    for (int i = 0; i < REPEATS; i++) {
        memcpy(x, kept, sizeof x);
        work(s);
    }
    return (bench_seconds(0) - start) / REPEATS / TILE_ROWS * 1e9;
}

static int by_value(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(double *values) {
    qsort(values, ROUNDS, sizeof *values, by_value);
    return values[ROUNDS / 2];
}

static void print(double product, const char *work, double ns) {
    char size[32];
    snprintf(size, sizeof size, "w.u=%g", product);
    bench_line("libnflow", "planar_layer", work, size, NF_SINGLE_BUILD, BENCH_ISA, 1);
    printf(", \"ns\": %.2f", ns);
}

static void measure(double product) {
    nf_layer layer = {.kind = NF_LAYER_PLANAR, .dim = DIM};
    real theta[2 * DIM + 1] = {0, 0, (real)0.8, (real)-1.1, (real)0.2385};
    theta[0] = (real)(product / 0.8 + 0.31 * 1.1 / 0.8);
    theta[1] = (real)0.31;
    void *scratch = aligned_alloc(NF_ALIGN, (R(planar_ops).scratch_size(&layer, TILE_PANELS) * sizeof(real) + 63) / 64 * 64);
    if (!scratch)
        return;
    subject s = {.run = {.layer = &layer, .theta = theta, .scratch = scratch, .counters = &counters},
                 .t = {.rows = TILE_ROWS, .panels = TILE_PANELS, .dim = DIM, .x = x, .log_det = log_det, .failed = failed},
                 .equation = {.y = y, .slope = slope, .tanh = tanh_t, .sech2 = sech2_t}};
    for (size_t i = 0; i < TILE_ROWS * DIM; i++)
        kept[i] = (real)normal();
    memcpy(x, kept, sizeof x);
    run_forward(&s);
    memcpy(kept, x, sizeof kept); /* what the inverse will meet */
    for (size_t l = 0; l < TILE_ROWS; l++)
        y[l] = theta[4] + theta[2] * x[l / PANEL * DIM * PANEL + l % PANEL] + theta[3] * x[(l / PANEL * DIM + 1) * PANEL + l % PANEL];
    for (size_t l = 0; l < PANEL; l++)
        slope[l] = (real)R(planar_constrain)(DIM, theta, theta + DIM).slope;
    counters.root_iterations = 0;
    /* In turn, each a fraction of a millisecond: the processor's clock, which moves by a third, is then the same for all. */
    static double forward[ROUNDS], root[ROUNDS], inverse[ROUNDS], ratio[ROUNDS];
    uint64_t iterations = 0;
    for (int round = 0; round < ROUNDS; round++) {
        forward[round] = call(run_forward, &s);
        counters.root_iterations = 0;
        root[round] = call(run_root, &s);
        iterations += counters.root_iterations;
        inverse[round] = call(run_inverse, &s);
        ratio[round] = root[round] / forward[round];
    }
    print(product, "forward", median(forward));
    printf("}\n");
    print(product, "inverse", median(inverse));
    printf("}\n");
    print(product, "root", median(root));
    printf(", \"of_forward\": %.2f, \"slope\": %.2e, \"evaluations\": %.2f}\n", median(ratio), (double)slope[0],
           (double)iterations / ROUNDS / REPEATS / TILE_ROWS);
    free(scratch);
}

int main(void) {
    const double products[] = {-30, -8, -3, -1, 0, 1, 3, 10, 60};
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        measure(products[i]);
    return 0;
}
