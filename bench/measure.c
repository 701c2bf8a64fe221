#include "measure.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double time_calls(bench_work work, void *user, long calls) {
    const double start = bench_now();
    for (long i = 0; i < calls; i++)
        work(user);
    return bench_now() - start;
}

double bench_median(bench_work work, void *user, int samples, double least) {
    double seconds[101];
    long calls = 1;
    for (double t; (t = time_calls(work, user, calls)) < least;)
        calls = t > least / 100 ? (long)((double)calls * 1.2 * least / t) + 1 : calls * 10;
    for (int s = 0; s < samples; s++)
        seconds[s] = time_calls(work, user, calls) / (double)calls;
    qsort(seconds, (size_t)samples, sizeof *seconds, compare);
    return seconds[samples / 2];
}

/* Sixteen chains hide the latency of any processor so far; the barrier keeps them from being folded. */
#define CHAINS 16
#define TURNS 200000

#define PEAK(name, type, vector, lanes, set1, fma, target_attribute)                                                             \
    target_attribute static double name(void) {                                                                                  \
        vector a[CHAINS], b = set1((type)0.999999), c = set1((type)1e-7);                                                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++)                                                                          \
            a[i] = set1((type)i);                                                                                                \
        const double start = bench_now();                                                                                        \
        for (long t = 0; t < TURNS; t++) {                                                                                       \
            _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) a[i] = fma(a[i], b, c);                                    \
            __asm__ volatile("" : "+v"(a[0]));                                                                                   \
        }                                                                                                                        \
        const double seconds = bench_now() - start;                                                                              \
        vector sum = a[0];                                                                                               \
        _Pragma("GCC unroll 16") for (int i = 1; i < CHAINS; i++)                                                                          \
            sum += a[i];                                                                                                         \
        volatile type sink = sum[0];                                                                                             \
        (void)sink;                                                                                                              \
        return (double)TURNS * CHAINS * 2 * lanes / seconds * 1e-9;                                                              \
    }

#if defined(__x86_64__)
#include <immintrin.h>
#define MULTIPLY_ADD_PS(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
#define MULTIPLY_ADD_PD(a, b, c) _mm_add_pd(_mm_mul_pd(a, b), c)
#define TARGET(isa) __attribute__((target(isa), noinline))
PEAK(peak_f32_v4, float, __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps, TARGET("avx512f,fma"))
PEAK(peak_f64_v4, double, __m512d, 8, _mm512_set1_pd, _mm512_fmadd_pd, TARGET("avx512f,fma"))
PEAK(peak_f32_v3, float, __m256, 8, _mm256_set1_ps, _mm256_fmadd_ps, TARGET("avx2,fma"))
PEAK(peak_f64_v3, double, __m256d, 4, _mm256_set1_pd, _mm256_fmadd_pd, TARGET("avx2,fma"))
PEAK(peak_f32_base, float, __m128, 4, _mm_set1_ps, MULTIPLY_ADD_PS, TARGET("sse2"))
PEAK(peak_f64_base, double, __m128d, 2, _mm_set1_pd, MULTIPLY_ADD_PD, TARGET("sse2"))
#endif

double bench_peak(const char *isa, int single) {
    double best = 0;
#if defined(__x86_64__)
    double (*const v4)(void) = single ? peak_f32_v4 : peak_f64_v4, (*const v3)(void) = single ? peak_f32_v3 : peak_f64_v3;
    double (*const base)(void) = single ? peak_f32_base : peak_f64_base;
    double (*const run)(void) = strcmp(isa, "v4") == 0 ? v4 : strcmp(isa, "v3") == 0 ? v3 : base;
    for (int i = 0; i < 15; i++) {
        const double peak = run();
        best = peak > best ? peak : best;
    }
#else
    (void)isa;
    (void)single;
#endif
    return best;
}
