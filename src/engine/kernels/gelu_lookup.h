/*
 * GELU of whole vectors where two registers hold a table of 32 numbers: AVX-512, single precision. Its time is that of the multiplications and
 * permutations together, which share a pipeline; it has a quarter fewer of both than
 * vmath.h has multiplications and cycles of a division.
 *
 * As there, gelu(x) = max(x, 0) - a e m with a = |x|, e = exp(-a^2/2) lifted, and m the Mills ratio over sqrt(2 pi) lowered.
 * m is a polynomial of degree 4 on each eighth of the octaves of 1 + a in [1, 16), so that the upper bits of 1 + a choose its coefficients. e is
 * 2^(n/32) of an integer n, a table for its lower bits and the exponent for the others, times two terms of a series (P. T. P. Tang, 1989).
 * No branch, and no lane that depends on another.
 */
#ifndef NF_ENGINE_GELU_LOOKUP_H
#define NF_ENGINE_GELU_LOOKUP_H

#include "engine/kernels/gelu_tables.h"
#include "engine/kernels/simd.h"
#include "engine/kernels/vmath.h"

#define GELU_STEPS 32               /* n in one octave of e */
#define GELU_STEP_BITS 5
#define GELU_2LN2_HI 0x1.62cp-5f    /* 2 log 2 / 32 in 11 bits: its product with n, of 13, is exact */
#define GELU_2LN2_LO 1.72554264e-5f
#define GELU_C1 (-0.500007331f)     /* exp(-r/2) = 1 + C1 r + C2 r^2 for |r| <= log(2)/32: error 5.3e-8 */
#define GELU_C2 0.125f

struct gelu_parts {
    __m512 a, e, m;
};

VEC_INLINE __m512 gelu_set1(float x) { return _mm512_set1_ps(x); }

VEC_INLINE __m512 gelu_coefficient(int power, __m512i interval) {
    const float *table = gelu_mills + 32 * power;
    return _mm512_permutex2var_ps(_mm512_load_ps(table), interval, _mm512_load_ps(table + 16));
}

/* 2^VM_LIFT exp(-a^2/2). r = a^2 - n 2 log(2)/32, without the rounding of a^2, of which exp would make a^2/2 times as much. */
VEC_INLINE __m512 gelu_exponential(__m512 a) {
    const __m512 shift = gelu_set1(VM_ROUNDER + GELU_STEPS * (VM_BIAS + VM_LIFT));
    const __m512 shifted = _mm512_fmadd_ps(_mm512_mul_ps(a, a), gelu_set1(-0.5f * VM_LOG2E * GELU_STEPS), shift);
    const __m512 n = _mm512_sub_ps(shifted, shift); /* the negative of it */
    const __m512 lead = _mm512_fmadd_ps(a, a, _mm512_mul_ps(n, gelu_set1(GELU_2LN2_HI)));
    const __m512 r = _mm512_fmadd_ps(n, gelu_set1(GELU_2LN2_LO), lead);
    const __m512 series = _mm512_fmadd_ps(r, gelu_set1(GELU_C2), gelu_set1(GELU_C1));
    const __m512i bits = _mm512_castps_si512(shifted), exponent = _mm512_slli_epi32(bits, VM_MANTISSA_BITS - GELU_STEP_BITS);
    const __m512i power = _mm512_permutex2var_epi32(_mm512_load_si512(gelu_powers), bits, _mm512_load_si512(gelu_powers + 16));
    const __m512 scale = _mm512_castsi512_ps(_mm512_add_epi32(exponent, power));
    return _mm512_fmadd_ps(_mm512_mul_ps(r, scale), series, scale);
}

/* The Mills ratio of 0 <= a < 15 over sqrt(2 pi), times 2^-VM_LIFT. */
VEC_INLINE __m512 gelu_mills_lowered(__m512 a) {
    const __m512i bits = _mm512_castps_si512(_mm512_add_ps(a, gelu_set1(1)));
    const __m512i interval = _mm512_srli_epi32(bits, VM_MANTISSA_BITS - 3); /* the lowest five bits of it: two of the exponent, three below */
    const __m512i first = _mm512_set1_epi32(~((1 << (VM_MANTISSA_BITS - 3)) - 1)), half = _mm512_set1_epi32(1 << (VM_MANTISSA_BITS - 4));
    const __m512 centre = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bits, first, half, 0xea)); /* bits & first | half */
    const __m512 u = _mm512_sub_ps(a, _mm512_sub_ps(centre, gelu_set1(1)));
    __m512 m = gelu_coefficient(4, interval);
    m = _mm512_fmadd_ps(m, u, gelu_coefficient(3, interval));
    m = _mm512_fmadd_ps(m, u, gelu_coefficient(2, interval));
    m = _mm512_fmadd_ps(m, u, gelu_coefficient(1, interval));
    return _mm512_fmadd_ps(m, u, gelu_coefficient(0, interval));
}

VEC_INLINE struct gelu_parts gelu_prepare(__m512 x) {
    struct gelu_parts parts;
    parts.a = _mm512_min_ps(gelu_set1(VM_GELU_EDGE), _mm512_abs_ps(x)); /* in this order it keeps a NaN */
    parts.e = gelu_exponential(parts.a);
    parts.m = gelu_mills_lowered(parts.a);
    return parts;
}

VEC_INLINE __m512 gelu_value(__m512 x, struct gelu_parts parts) {
    return _mm512_fnmadd_ps(_mm512_mul_ps(parts.a, parts.e), parts.m, _mm512_max_ps(_mm512_setzero_ps(), x));
}

VEC_INLINE __m512 gelu_slope(__m512 x, struct gelu_parts parts) {
    const __m512 lower = _mm512_mul_ps(parts.e, _mm512_fmadd_ps(parts.a, gelu_set1(-VM_UNLIFT * VM_INV_SQRT_2PI), parts.m));
    const __mmask16 right = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLT_UQ);
    return _mm512_mask_sub_ps(lower, right, gelu_set1(1), lower);
}

VEC_INLINE __m512 gelu_curvature(struct gelu_parts parts) {
    const __m512 bracket = _mm512_fnmadd_ps(parts.a, parts.a, gelu_set1(2));
    return _mm512_mul_ps(parts.e, _mm512_mul_ps(gelu_set1(VM_UNLIFT * VM_INV_SQRT_2PI), bracket));
}

/* h := gelu(h) in some lanes of a vector, and the derivatives that are not NULL. */
VEC_INLINE void gelu_vector(__mmask16 lanes, float *h, float *slope, float *curvature) {
    const __m512 x = _mm512_maskz_loadu_ps(lanes, h);
    const struct gelu_parts parts = gelu_prepare(x);
    _mm512_mask_storeu_ps(h, lanes, gelu_value(x, parts));
    if (slope != NULL)
        _mm512_mask_storeu_ps(slope, lanes, gelu_slope(x, parts));
    if (curvature != NULL)
        _mm512_mask_storeu_ps(curvature, lanes, gelu_curvature(parts));
}

/* The same for `count` numbers. All lanes are a case apart, which needs no mask. */
VEC_INLINE void gelu_run(size_t count, float *h, float *slope, float *curvature) {
    size_t i = 0;
    for (; i + VEC_LANES <= count; i += VEC_LANES)
        gelu_vector(0xffff, h + i, slope ? slope + i : NULL, curvature ? curvature + i : NULL);
    if (i < count)
        gelu_vector((__mmask16)((1u << (count - i)) - 1), h + i, slope ? slope + i : NULL, curvature ? curvature + i : NULL);
}

#endif
