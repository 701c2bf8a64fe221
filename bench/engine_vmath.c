/*
 * Nanoseconds an element of the elementary functions of the engine, in loops over arrays that stay in the first cache.
 * Compile it once for each precision and instruction set, with the flags of the engine:
 *
 *     cc -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off -DNF_SINGLE_BUILD=1 -march=x86-64-v3 ...
 */
#include <stdio.h>
#include <string.h>

#include "engine/kernels/activation.h"
#include "engine/kernels/vmath.h"
#include "measure.h"

enum { COUNT = 1024, REPEATS = 200, SAMPLES = 60 };

#define LOOP_ARGUMENTS const real *restrict x, real *restrict f, real *restrict g, real *restrict h
#define LOOP(name, call)                                                                                                       \
    __attribute__((noinline)) static void loop_##name(LOOP_ARGUMENTS) {                                                        \
        (void)f, (void)g, (void)h;                                                                                             \
        for (size_t i = 0; i < COUNT; i++) {                                                                                   \
            call;                                                                                                              \
        }                                                                                                                      \
    }
#define LOOP1(name) LOOP(name, f[i] = vm_##name(x[i]))
#define LOOP2(name) LOOP(name, vm_##name(x[i], &f[i], &g[i]))
#define LOOP3(name) LOOP(name, vm_##name(x[i], &f[i], &g[i], &h[i]))

LOOP1(exp)
LOOP1(expm1)
LOOP1(log)
LOOP1(log1p)
LOOP1(sqrt)
LOOP1(tanh)
LOOP1(sigmoid)
LOOP1(softplus)
LOOP1(silu)
LOOP1(gelu)
LOOP2(tanh_grad)
LOOP2(tanh_sech2)
LOOP2(softplus_grad)
LOOP2(silu_grad)
LOOP2(gelu_grad)
LOOP2(sin2pi_cos2pi)
LOOP3(tanh_grad2)
LOOP3(softplus_grad2)
LOOP3(silu_grad2)
LOOP3(gelu_grad2)

/* What nets call, with a copy of the arguments: in single precision with AVX-512 it is another GELU. */
static void loop_net_gelu(LOOP_ARGUMENTS) {
    (void)g, (void)h;
    memcpy(f, x, COUNT * sizeof *x);
    R(activate)(NF_GELU, COUNT, f);
}

static void loop_net_gelu_grad(LOOP_ARGUMENTS) {
    (void)h;
    memcpy(f, x, COUNT * sizeof *x);
    R(activate_slope)(NF_GELU, COUNT, f, g);
}

static const struct {
    const char *name;
    void (*loop)(LOOP_ARGUMENTS);
    real low, high; /* arguments */
} functions[] = {
    {"exp", loop_exp, -4, 4},
    {"expm1", loop_expm1, -4, 4},
    {"log", loop_log, 0, 4},
    {"log1p", loop_log1p, -1, 4},
    {"sqrt", loop_sqrt, 0, 4},
    {"tanh", loop_tanh, -4, 4},
    {"sigmoid", loop_sigmoid, -4, 4},
    {"softplus", loop_softplus, -4, 4},
    {"silu", loop_silu, -4, 4},
    {"gelu", loop_gelu, -4, 4},
    {"net_gelu", loop_net_gelu, -4, 4},
    {"tanh_grad", loop_tanh_grad, -4, 4},
    {"tanh_sech2", loop_tanh_sech2, -4, 4},
    {"softplus_grad", loop_softplus_grad, -4, 4},
    {"silu_grad", loop_silu_grad, -4, 4},
    {"gelu_grad", loop_gelu_grad, -4, 4},
    {"net_gelu_grad", loop_net_gelu_grad, -4, 4},
    {"sin2pi_cos2pi", loop_sin2pi_cos2pi, (real)-0.5, (real)0.5},
    {"tanh_grad2", loop_tanh_grad2, -4, 4},
    {"softplus_grad2", loop_softplus_grad2, -4, 4},
    {"silu_grad2", loop_silu_grad2, -4, 4},
    {"gelu_grad2", loop_gelu_grad2, -4, 4},
};

/* The best of several samples: what disturbs a measurement can only lengthen it. */
static double nanoseconds(size_t k) {
    static _Alignas(64) real x[COUNT], f[COUNT], g[COUNT], h[COUNT];
    uint32_t state = 12345;
    for (size_t i = 0; i < COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = functions[k].low + (functions[k].high - functions[k].low) * ((real)(state >> 8) * (real)0x1p-24);
    }
    double best = INFINITY;
    for (int sample = 0; sample < SAMPLES; sample++) {
        const double start = bench_seconds(0);
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            functions[k].loop(x, f, g, h);
            __asm__ volatile("" ::: "memory"); /* no repeat may be left out */
        }
        best = fmin(best, bench_seconds(0) - start);
    }
    return best * 1e9 / ((double)REPEATS * COUNT);
}

int main(void) {
    for (size_t k = 0; k < sizeof functions / sizeof *functions; k++) {
        bench_line("libnflow", "vmath", functions[k].name, "1024", NF_SINGLE_BUILD, BENCH_ISA, 1);
        printf(", \"ns\": %.3f}\n", nanoseconds(k));
    }
    return 0;
}
