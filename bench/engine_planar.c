/*
 * What the root of a planar layer's inverse costs, against the layer's forward pass: tiles of 128 samples of dimension 2 that
 * stay in the first cache, for slopes from nearly flat to steep. The root may cost at most three times the forward pass.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/layers/layers.h"
#include "engine/layers/planar_constraint.h"
#include "engine/layers/planar_root.h"

#define DIM 2
#define REPEATS 4000
#define ROUNDS 9

static real x[TILE_ROWS * DIM] __attribute__((aligned(64))), kept[TILE_ROWS * DIM] __attribute__((aligned(64)));
static real y[TILE_ROWS] __attribute__((aligned(64))), tanh_t[TILE_ROWS] __attribute__((aligned(64)));
static real sech2_t[TILE_ROWS] __attribute__((aligned(64))), slope[PANEL] __attribute__((aligned(64)));
static newton_panel states[TILE_PANELS] __attribute__((aligned(64)));
static double log_det[TILE_ROWS] __attribute__((aligned(64)));
static unsigned char failed[TILE_ROWS];
static engine_counters counters;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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

/* The fastest of some rounds, in nanoseconds a sample. */
static double time_of(void (*work)(subject *), subject *s) {
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        const double start = seconds();
        for (int i = 0; i < REPEATS; i++) {
            memcpy(x, kept, sizeof x);
            work(s);
        }
        const double spent = seconds() - start;
        best = spent < best ? spent : best;
    }
    return best / REPEATS / TILE_ROWS * 1e9;
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
    const double forward = time_of(run_forward, &s), root = time_of(run_root, &s);
    const double iterations = (double)counters.root_iterations / ROUNDS / REPEATS / TILE_ROWS;
    const double inverse = time_of(run_inverse, &s);
    printf("%8.1f %10.2e %10.2f %10.2f %10.2f %12.2f %12.2f\n", product, (double)slope[0], forward, root, inverse, root / forward, iterations);
    free(scratch);
}

int main(void) {
    const double products[] = {-30, -8, -3, -1, 0, 1, 3, 10, 60};
    printf("planar, dim %d, %s precision; ns a sample\n", DIM, NF_SINGLE_BUILD ? "single" : "double");
    printf("%8s %10s %10s %10s %10s %12s %12s\n", "w.u", "slope", "forward", "root", "inverse", "root/forward", "evaluations");
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        measure(products[i]);
    return 0;
}
