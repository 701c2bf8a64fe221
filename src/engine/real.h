/*
 * The number type of one engine build.
 *
 * src/engine is compiled once for every (precision, instruction set). The build passes
 *     -DNF_SINGLE_BUILD=0|1   the precision
 *     -DNF_ISA=base|v2|v3|v4  the instruction set, which becomes part of every external name
 * and this header turns them into `real`, R(name) and the widths that the tiles are made of.
 */
#ifndef NF_ENGINE_REAL_H
#define NF_ENGINE_REAL_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifndef NF_SINGLE_BUILD
#define NF_SINGLE_BUILD 0
#endif
#ifndef NF_ISA
#define NF_ISA base
#endif

#define NF_JOIN4_(a, b, c, d) a##b##c##d
#define NF_JOIN4(a, b, c, d) NF_JOIN4_(a, b, c, d)

#if NF_SINGLE_BUILD
typedef float real;
typedef int32_t real_int;   /* an integer of the size of `real` */
typedef uint32_t real_uint;
#define R(name) NF_JOIN4(nfe_, name, _f32_, NF_ISA) /* external symbols of this build */
#define REAL_EPS FLT_EPSILON
#define REAL_MIN FLT_MIN
#define REAL_MAX FLT_MAX
#else
typedef double real;
typedef int64_t real_int;
typedef uint64_t real_uint;
#define R(name) NF_JOIN4(nfe_, name, _f64_, NF_ISA)
#define REAL_EPS DBL_EPSILON
#define REAL_MIN DBL_MIN
#define REAL_MAX DBL_MAX
#endif

/* Samples stand side by side in panels of PANEL lanes: two 64-byte vectors, on every instruction set. */
#define NF_PANEL_BYTES 128
#define PANEL ((size_t)(NF_PANEL_BYTES / sizeof(real)))

/* All tile memory is aligned to this many bytes. */
#define NF_ALIGN 64

/*
 * Fused multiply-add where the instruction set has one, two roundings elsewhere. The build forbids the compiler
 * to contract (-ffp-contract=off), so that each expression means the same on every path; where fusing is wanted,
 * it is written.
 */
#if defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMA)
#define NF_HAS_FMA 1
#else
#define NF_HAS_FMA 0
#endif

static inline real madd(real a, real b, real c) {
#if !NF_HAS_FMA
    return a * b + c;
#elif NF_SINGLE_BUILD
    return __builtin_fmaf(a, b, c);
#else
    return __builtin_fma(a, b, c);
#endif
}

/* The same in double, for sums that are kept in double in both precisions. */
static inline double madd_double(double a, double b, double c) {
#if NF_HAS_FMA
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

#endif
