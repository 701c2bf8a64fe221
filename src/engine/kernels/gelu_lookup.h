/*
 * GELU of whole vectors where two registers hold a table of 32 numbers: AVX-512, single precision. Its time is that of the multiplications and
 * permutations together, which share a pipeline; it has a quarter fewer of both than vmath.h has multiplications and cycles of a division.
 *
 * As there, gelu(x) = max(x, 0) - a e m with a = |x|, e = exp(-a^2/2) lifted, and m the Mills ratio over sqrt(2 pi) lowered.
 * m is a polynomial of degree 4 on each eighth of the octaves of 1 + a in [1, 16), so that the upper bits of 1 + a choose its coefficients. e is
 * 2^(n/32) of an integer n, a table for its lower bits and the exponent for the others, times two terms of a series (P. T. P. Tang, 1989).
 * No branch, and no lane that depends on another.
 */
#ifndef NF_ENGINE_GELU_LOOKUP_H
#define NF_ENGINE_GELU_LOOKUP_H

#include "engine/kernels/simd.h"

/* Whether this build has it. */
#define GELU_LOOKUP (NF_SINGLE_BUILD && VEC_BYTES == 64)
#if GELU_LOOKUP

#include "engine/kernels/gelu_tables.h"
#include "engine/kernels/vmath.h"

#define GELU_STEP_BITS 5
#define GELU_STEPS (1 << GELU_STEP_BITS) /* n in one octave of e */
#define GELU_2LN2_HI 0x1.62cp-5f         /* 2 log 2 / 32 in 11 bits: its product with n, of 13, is exact */
#define GELU_2LN2_LO 1.72554264e-5f
#define GELU_C1 (-0.500007331f) /* exp(-r/2) = 1 + C1 r + C2 r^2 for |r| <= log(2)/32: error 5.3e-8 */
#define GELU_C2 0.125f

struct gelu_parts {
    vec a, e, m;
};

VEC_INLINE vec gelu_coefficient(int power, __m512i interval) {
    const float *table = gelu_mills + 32 * power;
    return (vec)_mm512_permutex2var_ps(_mm512_load_ps(table), interval, _mm512_load_ps(table + 16));
}

/* 2^VM_LIFT exp(-a^2/2). r = a^2 - n 2 log(2)/32, without the rounding of a^2, of which exp would make a^2/2 times as much. */
VEC_INLINE vec gelu_exponential(vec a) {
    const vec shift = vec_set1(VM_ROUNDER + GELU_STEPS * (VM_BIAS + VM_LIFT));
    const vec shifted = vec_madd(a * a, vec_set1(-0.5f * VM_LOG2E * GELU_STEPS), shift), n = shifted - shift; /* the negative of it */
    const vec lead = vec_madd(a, a, n * vec_set1(GELU_2LN2_HI)), r = vec_madd(n, vec_set1(GELU_2LN2_LO), lead);
    const vec series = vec_madd(r, vec_set1(GELU_C2), vec_set1(GELU_C1));
    const __m512i bits = (__m512i)shifted, exponent = _mm512_slli_epi32(bits, VM_MANTISSA_BITS - GELU_STEP_BITS);
    const __m512i power = _mm512_permutex2var_epi32(_mm512_load_si512(gelu_powers), bits, _mm512_load_si512(gelu_powers + 16));
    const vec scale = (vec)_mm512_add_epi32(exponent, power);
    return vec_madd(r * scale, series, scale);
}

/* The Mills ratio of 0 <= a < 15 over sqrt(2 pi), times 2^-VM_LIFT. */
VEC_INLINE vec gelu_mills_lowered(vec a) {
    const __m512i bits = (__m512i)(a + vec_set1(1));
    const __m512i interval = _mm512_srli_epi32(bits, VM_MANTISSA_BITS - 3); /* the lowest five bits of it: two of the exponent, three below */
    const __m512i first = _mm512_set1_epi32(~((1 << (VM_MANTISSA_BITS - 3)) - 1)), half = _mm512_set1_epi32(1 << (VM_MANTISSA_BITS - 4));
    const vec centre = (vec)_mm512_ternarylogic_epi32(bits, first, half, 0xea); /* bits & first | half */
    const vec u = a - (centre - vec_set1(1));
    vec m = gelu_coefficient(4, interval);
    VEC_UNROLL for (int power = 3; power >= 0; power--) m = vec_madd(m, u, gelu_coefficient(power, interval));
    return m;
}

VEC_INLINE struct gelu_parts gelu_prepare(vec x) {
    struct gelu_parts parts;
    parts.a = (vec)_mm512_min_ps((__m512)vec_set1(VM_GELU_EDGE), _mm512_abs_ps((__m512)x)); /* in this order it keeps a NaN */
    parts.e = gelu_exponential(parts.a);
    parts.m = gelu_mills_lowered(parts.a);
    return parts;
}

VEC_INLINE vec gelu_value(vec x, struct gelu_parts parts) {
    const vec positive = (vec)_mm512_max_ps((__m512)vec_zero(), (__m512)x);
    return vec_madd(-(parts.a * parts.e), parts.m, positive);
}

VEC_INLINE vec gelu_slope(vec x, struct gelu_parts parts) {
    const vec lower = parts.e * vec_madd(parts.a, vec_set1(-VM_UNLIFT * VM_INV_SQRT_2PI), parts.m);
    const __mmask16 right = _mm512_cmp_ps_mask((__m512)x, (__m512)vec_zero(), _CMP_NLT_UQ);
    return (vec)_mm512_mask_sub_ps((__m512)lower, right, (__m512)vec_set1(1), (__m512)lower);
}

VEC_INLINE vec gelu_curvature(struct gelu_parts parts) {
    return parts.e * (vec_set1(VM_UNLIFT * VM_INV_SQRT_2PI) * vec_madd(-parts.a, parts.a, vec_set1(2)));
}

/* h := gelu(h) in some lanes of a vector, and the derivatives that are not NULL. */
VEC_INLINE void gelu_vector(__mmask16 lanes, float *h, float *slope, float *curvature) {
    const vec x = (vec)_mm512_maskz_loadu_ps(lanes, h);
    const struct gelu_parts parts = gelu_prepare(x);
    _mm512_mask_storeu_ps(h, lanes, (__m512)gelu_value(x, parts));
    if (slope != NULL)
        _mm512_mask_storeu_ps(slope, lanes, (__m512)gelu_slope(x, parts));
    if (curvature != NULL)
        _mm512_mask_storeu_ps(curvature, lanes, (__m512)gelu_curvature(parts));
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

#endif
