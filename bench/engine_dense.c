/*
 * The dense kernels of one engine build (precision x instruction set) beside OpenBLAS on one thread and beside the peak of
 * fused multiply-adds measured in this process. Samples are taken in tiles of 128 that use the same memory one after the other,
 * as in the library; OpenBLAS is given the whole batch at once. Each figure is the best of several timings of this thread's
 * processor time, the peak, ours and OpenBLAS's in turn.
 *
 * Compile with the flags of the build, with src/engine/kernels/block.c and dense*.c; define BENCH_BLAS and link OpenBLAS for its column.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef BENCH_BLAS
#include <cblas.h>
#endif

#include "engine/kernels/dense.h"
#include "measure.h"

#define TILE 128
#define REPEATS 9
#define SECONDS_EACH 0.004
#define MOST_JOBS 3 /* the peak, ours, OpenBLAS's */

typedef struct work {
    size_t rows, in, out, panels, last_lanes; /* rows in panels, of which each tile takes TILE / PANEL */
    real *W, *bias, *X, *Y, *dX, *dW, *dbias, *scratch, *packed, *packed_forward, *packed_backward, *x_rows, *y_rows;
} work;

typedef void job(const work *);

/* Seconds of so many calls that it takes some while. */
static double time_once(job *run, const work *w, size_t *calls) {
    for (;; *calls *= 2) {
        const double start = bench_seconds(0);
        for (size_t i = 0; i < *calls; i++)
            run(w);
        const double took = bench_seconds(0) - start;
        if (took >= SECONDS_EACH / 4)
            return took / (double)*calls;
    }
}

/* The best time of one call of each job, in turn, so that the processor's clock is the same for all. */
static void time_jobs(job *const *jobs, size_t count, const work *w, double *best) {
    size_t calls[MOST_JOBS];
    for (size_t j = 0; j < count; j++) {
        calls[j] = 1;
        best[j] = time_once(jobs[j], w, &calls[j]);
    }
    for (int r = 1; r < REPEATS; r++)
        for (size_t j = 0; j < count; j++) {
            const double took = time_once(jobs[j], w, &calls[j]);
            best[j] = took < best[j] ? took : best[j];
        }
}

/* Multiply-adds between registers only: what the processor could do. */
#define PEAK_CHAINS 12
#define PEAK_ROUNDS 500
#define PEAK_REPEATS 4
static void peak(const work *w) {
    const vec a = vec_set1((real)0.999), b = vec_set1((real)0.001);
    vec sum[PEAK_CHAINS];
    VEC_UNROLL for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = vec_set1(w->X[i]);
    for (int r = 0; r < PEAK_ROUNDS; r++) {
        VEC_UNROLL for (int u = 0; u < PEAK_REPEATS; u++) {
            VEC_UNROLL for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = vec_madd(sum[i], a, b);
        }
    }
    for (int i = 1; i < PEAK_CHAINS; i++)
        sum[0] = sum[0] + sum[i];
    vec_storeu(w->dbias, sum[0]);
}

static size_t tile_panels(const work *w, size_t first) {
    return w->panels - first < TILE / PANEL ? w->panels - first : TILE / PANEL;
}

static void forward(const work *w) {
    const size_t xs = w->in * PANEL, ys = w->out * PANEL;
    for (size_t p = 0, n; p < w->panels; p += n) {
        n = tile_panels(w, p);
        R(dense_forward)(w->out, w->in, w->W, w->bias, n, w->X, xs, w->Y, ys, p + n == w->panels ? w->last_lanes : PANEL);
    }
}

/* As calls of several tiles have it: W was packed once. */
static void packed_forward(const work *w) {
    const size_t xs = w->in * PANEL, ys = w->out * PANEL;
    for (size_t p = 0, n; p < w->panels; p += n) {
        n = tile_panels(w, p);
        R(dense_packed_forward)
        (w->out, w->in, w->packed_forward, w->bias, n, w->X, xs, w->Y, ys, p + n == w->panels ? w->last_lanes : PANEL);
    }
}

static void packed_backward_input(const work *w) {
    const size_t xs = w->in * PANEL, ys = w->out * PANEL;
    for (size_t p = 0, n; p < w->panels; p += n) {
        n = tile_panels(w, p);
        R(dense_packed_backward_input)(w->out, w->in, w->packed_backward, n, w->Y, ys, w->dX, xs, 0, NULL);
    }
}

static void backward_input(const work *w) {
    const size_t xs = w->in * PANEL, ys = w->out * PANEL;
    for (size_t p = 0, n; p < w->panels; p += n) {
        n = tile_panels(w, p);
        R(dense_backward_input)(w->out, w->in, w->W, n, w->Y, ys, w->dX, xs, 0, NULL);
    }
}

static void backward_weights(const work *w) {
    const size_t xs = w->in * PANEL, ys = w->out * PANEL;
    for (size_t p = 0, n; p < w->panels; p += n) {
        n = tile_panels(w, p);
        R(dense_backward_weights)(w->out, w->in, n, w->Y, ys, w->X, xs, w->scratch, w->dW, w->dbias, false);
    }
}

static void one_row(const work *w) {
    R(dense_rows_forward)(w->out, w->in, w->packed, 1, w->x_rows, w->in, w->y_rows, dense_rows_width(w->out));
}

static void four_rows(const work *w) {
    R(dense_rows_forward)(w->out, w->in, w->packed, 4, w->x_rows, w->in, w->y_rows, dense_rows_width(w->out));
}

#ifdef BENCH_BLAS
extern void openblas_set_num_threads(int);
#if NF_SINGLE_BUILD
#define GEMM cblas_sgemm
#else
#define GEMM cblas_dgemm
#endif
static void blas_forward(const work *w) {
    const int rows = (int)w->rows, in = (int)w->in, out = (int)w->out;
    GEMM(CblasRowMajor, CblasNoTrans, CblasTrans, rows, out, in, 1, w->X, in, w->W, in, 0, w->Y, out);
}
static void blas_backward_input(const work *w) {
    const int rows = (int)w->rows, in = (int)w->in, out = (int)w->out;
    GEMM(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, in, out, 1, w->Y, out, w->W, in, 0, w->dX, in);
}
static void blas_backward_weights(const work *w) {
    const int rows = (int)w->rows, in = (int)w->in, out = (int)w->out;
    GEMM(CblasRowMajor, CblasTrans, CblasNoTrans, out, in, rows, 1, w->Y, out, w->X, in, 1, w->dW, in);
}
#endif

static real *numbers(size_t count, real scale) {
    const size_t bytes = (count * sizeof(real) + 4095) / 4096 * 4096;
    real *x = aligned_alloc(4096, bytes);
    if (x == NULL) {
        fprintf(stderr, "bench_dense: no memory\n");
        exit(1);
    }
    memset(x, 0, bytes);
    uint32_t state = 2385;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = scale * ((real)(state >> 8) / (real)(1 << 24) - (real)0.5);
    }
    return x;
}

static work prepare(size_t rows, size_t in, size_t out) {
    work w = {.rows = rows, .in = in, .out = out, .panels = (rows + PANEL - 1) / PANEL};
    w.last_lanes = rows - (w.panels - 1) * PANEL;
    const size_t lanes = w.panels * PANEL;
    /* the weights end up unaligned, as they do in a flat parameter vector */
    w.W = numbers(in * out + 1, (real)0.1) + 1;
    w.bias = numbers(out, 1);
    w.X = numbers(in * lanes, 1);
    w.Y = numbers(out * lanes, 1);
    w.dX = numbers(in * lanes, 1);
    w.dW = numbers(in * out, 0);
    w.dbias = numbers(out + VEC_LANES, 0);
    w.scratch = numbers(R(dense_weights_scratch)(out, in, TILE / PANEL) + 1, 0);
    w.packed = numbers(dense_rows_packed(out, in), 0);
    w.packed_forward = numbers(out * in, 0);
    w.packed_backward = numbers(out * in, 0);
    w.x_rows = numbers(8 * in, 1);
    w.y_rows = numbers(8 * dense_rows_width(out), 0);
    R(dense_rows_pack)(out, in, w.W, w.bias, w.packed);
    R(dense_pack_forward)(out, in, w.W, w.packed_forward);
    R(dense_pack_backward)(out, in, w.W, w.packed_backward);
    return w;
}

static void discard(work *w) {
    real *const all[] = {w->W - 1,   w->bias,           w->X,               w->Y,      w->dX,    w->dW, w->dbias, w->scratch,
                         w->packed, w->packed_forward, w->packed_backward, w->x_rows, w->y_rows};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

#define PEAK_FLOPS (2.0 * VEC_LANES * PEAK_CHAINS * PEAK_ROUNDS * PEAK_REPEATS)

static void print(const char *by, const work *w, const char *name, double flops, double took, double top) {
    char size[64];
    snprintf(size, sizeof size, "%zux%zu->%zu", w->rows, w->in, w->out);
    bench_line(by, "dense", name, size, NF_SINGLE_BUILD, BENCH_ISA, 1);
    printf(", \"us\": %.4g, \"gflops\": %.4g, \"of_peak\": %.3f}\n", took * 1e6, flops / took * 1e-9, flops / took / top);
}

static void measure(const char *name, const work *w, double rows, job *ours, job *blas) {
    job *const jobs[MOST_JOBS] = {peak, ours, blas};
    const double flops = 2.0 * rows * (double)w->in * (double)w->out;
    double took[MOST_JOBS];
    time_jobs(jobs, blas ? 3 : 2, w, took);
    const double top = PEAK_FLOPS / took[0];
    print("libnflow", w, name, flops, took[1], top);
    if (blas)
        print("openblas", w, name, flops, took[2], top);
}

int main(void) {
    static const size_t shapes[][3] = {
        {32, 1, 32},      {32, 32, 32},       {32, 32, 2},        {4096, 1, 32},    {4096, 32, 32},   {4096, 32, 2},
        {4096, 8, 128},   {4096, 64, 64},     {4096, 128, 16},    {4096, 128, 128}, {4096, 32, 256},  {4096, 256, 256},
        {4096, 512, 512}, {1024, 1024, 1024}, {1024, 1000, 1000}, {512, 4096, 512}, {512, 512, 4096}, {256, 100, 100},
        {7, 64, 64},      {65, 256, 256},     {1, 256, 256}};
#ifdef BENCH_BLAS
    openblas_set_num_threads(1);
#else
    job *const blas_forward = NULL, *const blas_backward_input = NULL, *const blas_backward_weights = NULL;
#endif
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        work w = prepare(shapes[s][0], shapes[s][1], shapes[s][2]);
        const double rows = (double)w.rows;
        measure("forward", &w, rows, forward, blas_forward);
        measure("backward_input", &w, rows, backward_input, blas_backward_input);
        measure("packed_forward", &w, rows, packed_forward, blas_forward);
        measure("packed_backward_input", &w, rows, packed_backward_input, blas_backward_input);
        measure("backward_weights", &w, rows, backward_weights, blas_backward_weights);
        measure("one_row", &w, 1, one_row, NULL);
        measure("four_rows", &w, 4, four_rows, NULL);
        fflush(stdout);
        discard(&w);
    }
    return 0;
}
