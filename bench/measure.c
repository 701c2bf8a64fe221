#include "measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void bench_require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "%s\n", nf_last_error());
    exit(1);
}

double bench_seconds(int wall) {
    struct timespec t;
    clock_gettime(wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double rate_now(const bench_case *c);

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double time_calls(const bench_case *c, long calls) {
    const int wall = c->threads > 1;
    const double start = bench_seconds(wall);
    for (long i = 0; i < calls; i++)
        c->run(c->user);
    return (bench_seconds(wall) - start) / (double)calls;
}

static long calls_for(const bench_case *c, double seconds) {
    long calls = 1;
    time_calls(c, 1);
    for (double t; (t = time_calls(c, calls) * (double)calls) < seconds / 4 && calls < 1L << 40;)
        calls = t > seconds / 100 ? (long)((double)calls * 0.5 * seconds / t) + 1 : calls * 8;
    return calls;
}

#define MOST_BLOCKS 99

void bench_run(bench_case *cases, size_t count, size_t blocks, double seconds) {
    if (blocks > MOST_BLOCKS)
        blocks = MOST_BLOCKS;
    long *calls = malloc(count * sizeof *calls);
    double(*took)[MOST_BLOCKS] = malloc(count * sizeof *took), (*ratio)[MOST_BLOCKS] = malloc(count * sizeof *ratio);
    if (!calls || !took || !ratio) {
        fprintf(stderr, "no memory for %zu cases\n", count);
        exit(1);
    }
    for (size_t i = 0; i < count; i++)
        calls[i] = calls_for(&cases[i], seconds);
    for (size_t b = 0; b < blocks; b++)
        for (size_t i = 0; i < count; i++) {
            const bench_case *c = &cases[i];
            const double before = rate_now(c);
            took[i][b] = time_calls(c, calls[i]);
            const double peak = 0.5e9 * (before + rate_now(c)) * (double)c->threads;
            ratio[i][b] = peak > 0 ? c->flops / took[i][b] / peak : 0;
        }
    for (size_t i = 0; i < count; i++) {
        qsort(took[i], blocks, sizeof(double), compare);
        qsort(ratio[i], blocks, sizeof(double), compare);
        cases[i].us = 1e6 * took[i][blocks / 2];
        cases[i].us_low = 1e6 * took[i][blocks / 4];
        cases[i].us_high = 1e6 * took[i][blocks - 1 - blocks / 4];
        cases[i].of_peak = ratio[i][blocks / 2];
    }
    free(ratio);
    free(took);
    free(calls);
}

void bench_line(const char *by, const char *flow, const char *work, const char *size, int single, const char *isa, size_t threads) {
    printf("{\"by\": \"%s\", \"flow\": \"%s\", \"work\": \"%s\", \"size\": \"%s\", \"real\": \"%s\", \"isa\": \"%s\", \"threads\": %zu", by, flow, work, size,
           single ? "f32" : "f64", isa, threads);
}

void bench_print(const bench_case *c) {
    bench_line("libnflow", c->flow, c->work, c->size, c->single, c->isa, c->threads);
    printf(", \"us\": %.4g, \"us_low\": %.4g, \"us_high\": %.4g", c->us, c->us_low, c->us_high);
    if (c->rows > 0)
        printf(", \"rows_per_s\": %.4g", c->rows / c->us * 1e6);
    if (c->flops > 0)
        printf(", \"gflops\": %.4g, \"of_peak\": %.3f", c->flops / c->us * 1e-3, c->of_peak);
    printf("}\n");
    fflush(stdout);
}

/*
 * As many chains as hide the latency and leave registers for the two factors: 16 of 32 registers with AVX-512, 12 of 16 elsewhere. The asm
 * statement keeps them from being folded.
 */
#define TURNS 4000
#define RUNS 40

#define PEAK(name, type, vector, lanes, chains, set1, fma, target_attribute)                                                     \
    target_attribute static double name(void) {                                                                                  \
        vector a[chains], b = set1((type)0.999999), c = set1((type)1e-7);                                                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < chains; i++) a[i] = set1((type)i);                                          \
        const double start = bench_seconds(0);                                                                                   \
        for (long t = 0; t < TURNS; t++) {                                                                                       \
            _Pragma("GCC unroll 16") for (int i = 0; i < chains; i++) a[i] = fma(a[i], b, c);                                    \
            __asm__ volatile("" : "+x"(a[0]));                                                                                   \
        }                                                                                                                        \
        const double seconds = bench_seconds(0) - start;                                                                         \
        vector sum = a[0];                                                                                                       \
        _Pragma("GCC unroll 16") for (int i = 1; i < chains; i++) sum += a[i];                                                   \
        volatile type sink = sum[0];                                                                                             \
        (void)sink;                                                                                                              \
        return (double)TURNS * chains * 2 * lanes / seconds * 1e-9;                                                              \
    }

#if defined(__x86_64__)
#include <immintrin.h>
#define MULTIPLY_ADD_PS(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
#define MULTIPLY_ADD_PD(a, b, c) _mm_add_pd(_mm_mul_pd(a, b), c)
#define TARGET(isa) __attribute__((target(isa), noinline))
PEAK(peak_f32_v4, float, __m512, 16, 16, _mm512_set1_ps, _mm512_fmadd_ps, TARGET("avx512f,fma"))
PEAK(peak_f64_v4, double, __m512d, 8, 16, _mm512_set1_pd, _mm512_fmadd_pd, TARGET("avx512f,fma"))
PEAK(peak_f32_v3, float, __m256, 8, 12, _mm256_set1_ps, _mm256_fmadd_ps, TARGET("avx2,fma"))
PEAK(peak_f64_v3, double, __m256d, 4, 12, _mm256_set1_pd, _mm256_fmadd_pd, TARGET("avx2,fma"))
PEAK(peak_f32_base, float, __m128, 4, 12, _mm_set1_ps, MULTIPLY_ADD_PS, TARGET("sse2"))
PEAK(peak_f64_base, double, __m128d, 2, 12, _mm_set1_pd, MULTIPLY_ADD_PD, TARGET("sse2"))
#endif

void bench_peaks(const char *isa, int single, double *best, double *mean) {
    *best = *mean = 0;
#if defined(__x86_64__)
    double (*const v4)(void) = single ? peak_f32_v4 : peak_f64_v4, (*const v3)(void) = single ? peak_f32_v3 : peak_f64_v3;
    double (*const base)(void) = single ? peak_f32_base : peak_f64_base;
    double (*const run)(void) = strcmp(isa, "v4") == 0 ? v4 : strcmp(isa, "v3") == 0 ? v3 : base;
    for (int i = 0; i < RUNS; i++) {
        const double peak = run();
        *best = peak > *best ? peak : *best;
        *mean += peak / RUNS;
    }
#else
    (void)isa;
    (void)single;
#endif
}

/* What the core has to give now, which is less than its best when another machine's thread shares it. */
static double rate_now(const bench_case *c) {
    double best, mean;
    bench_peaks(c->isa, c->single, &best, &mean);
    return mean;
}
