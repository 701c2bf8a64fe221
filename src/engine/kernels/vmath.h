/*
 * Elementary functions for loops over tiles.
 *
 * Each is a branch-free scalar function: a loop over it is vectorised at -O3 without -ffast-math, and because it is made
 * of IEEE operations and madd() alone, the scalar tail of such a loop gives the same bits as its vectorised body.
 * tests/test_vmath.c holds the bound on the error of each: 1 ulp for exp and log, 2.5 for most, 4.5 for tanh in single precision,
 * some 6 for GELU. With AVX-512 in single precision nets have the GELU of gelu_lookup.h instead.
 *
 * Infinities, NaN, signed zeros and subnormal numbers follow the mathematical limits: exp and the tails of the
 * activations underflow gradually, NaN propagates, and odd functions keep the sign of a zero. The value that a _grad or
 * _grad2 form returns has the same bits as the plain form, so that a forward pass with and without gradients agree.
 *
 * A result of the form  f(-|x|)  that decays like exp is computed with its exponent raised by VM_LIFT and lowered in
 * the last operation, so that it loses digits only where the result itself is subnormal.
 */
#ifndef NF_ENGINE_VMATH_H
#define NF_ENGINE_VMATH_H

#include <string.h>

#include "engine/kernels/vmath_tables.h"
#include "engine/real.h"

#if NF_SINGLE_BUILD
#define VM_MANTISSA_BITS 23
#define VM_BIAS 127 /* of the exponent field */
#define VM_ROUNDER 12582912.0f /* 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits */
#define VM_LOG2E 1.44269504f
#define VM_LN2_HI 0.693145752f /* 15 bits: its product with an exponent is exact (Cody and Waite, 1980) */
#define VM_LN2_LO 1.42860677e-6f
#define VM_SQRT_HALF 0.707106781f
#define VM_TWO_TO_MANTISSA 0x1p23f
#define VM_SPLIT_MASK 0xfffff000u /* keeps 12 bits of a number, so that their square is exact */
#define VM_INV_SQRT_2PI 0.398942280f
#define VM_EXP_NORMAL 60.0f   /* exp of no more, and each of its terms, is a normal number */
#define VM_EXP_EDGE 104.0f    /* exp is 0 below minus this, and long infinite above */
#define VM_LIFTED_EDGE 110.0f /* x^2 exp(-x) is 0 beyond */
#define VM_TANH_EDGE 9.02f    /* tanh is 1 beyond, and what vm_tanh gives here is, with and without fused operations */
#define VM_GELU_EDGE 14.8f    /* x^2 phi(x) is 0 beyond */
#else
#define VM_MANTISSA_BITS 52
#define VM_BIAS 1023
#define VM_ROUNDER 6755399441055744.0
#define VM_LOG2E 1.4426950408889634
#define VM_LN2_HI 6.93147180369123816490e-01
#define VM_LN2_LO 1.90821492927058770002e-10
#define VM_SQRT_HALF 0.70710678118654752
#define VM_TWO_TO_MANTISSA 0x1p52
#define VM_SPLIT_MASK 0xfffffffff8000000u
#define VM_INV_SQRT_2PI 0.39894228040143268
#define VM_EXP_NORMAL 600.0
#define VM_EXP_EDGE 746.0
#define VM_LIFTED_EDGE 753.0
#define VM_TANH_EDGE 20.0 /* tanh is 1 beyond */
#define VM_GELU_EDGE 38.8
#endif

#define VM_SIGN_BIT ((real_uint)1 << (VM_MANTISSA_BITS == 23 ? 31 : 63))
#define VM_MANTISSA_MASK (((real_uint)1 << VM_MANTISSA_BITS) - 1)

VM_INLINE real_uint vm_bits(real x) {
    real_uint bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

VM_INLINE real vm_from_bits(real_uint bits) {
    real x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

VM_INLINE real vm_abs(real x) { return vm_from_bits(vm_bits(x) & ~VM_SIGN_BIT); }

VM_INLINE real vm_copysign(real magnitude, real sign) {
    return vm_from_bits((vm_bits(magnitude) & ~VM_SIGN_BIT) | (vm_bits(sign) & VM_SIGN_BIT));
}

VM_INLINE real vm_sqrt(real x) {
#if NF_SINGLE_BUILD
    return __builtin_sqrtf(x);
#else
    return __builtin_sqrt(x);
#endif
}

/*
 * The bounds below as variables: gcc makes one instruction, a minimum or maximum, of  x > bound ? bound : x  only where it does
 * not see that the bound is a constant, and two otherwise.
 */
extern const struct vm_bounds {
    real zero, one, minus_one, exp, lifted, tanh, minus_tanh, gelu;
} R(vm_bounds);

/* min(x, ceiling); a NaN x stays NaN, which the order of the comparison sees to. */
VM_INLINE real vm_at_most(real x, real ceiling) { return x > ceiling ? ceiling : x; }

VM_INLINE real vm_at_least(real x, real floor) { return x < floor ? floor : x; }

/* max(x, 0) that keeps NaN and -0. */
VM_INLINE real vm_positive_part(real x) { return vm_at_least(x, R(vm_bounds).zero); }

/* ---- exponentials ------------------------------------------------------------------------------------------- */

/* The integer n next to y scale, and a number whose lowest bits hold n + offset. */
VM_INLINE real_uint vm_nearest_integer(real y, real scale, int offset, real *n) {
    const real shift = VM_ROUNDER + (real)offset, shifted = madd(y, scale, shift);
    *n = shifted - shift;
    return vm_bits(shifted);
}

/* y - n log 2 but for the low part of log 2, without rounding, for the integer n next to y / log 2. The lowest bits of *exponent hold n + offset. */
VM_INLINE real vm_exp_lead(real y, int offset, real *n, real_uint *exponent) {
    *exponent = vm_nearest_integer(y, VM_LOG2E, offset, n);
    return madd(*n, -VM_LN2_HI, y);
}

/*
 * exp(y) = 2^n (1 + p). Returns p. The small part of y - n log 2 joins the polynomial's tail, so that the rounding of their sum is not
 * felt.
 */
VM_INLINE real vm_expm1_reduced(real y, int offset, real_uint *exponent) {
    real n;
    const real lead = vm_exp_lead(y, offset, &n, exponent), small = n * -VM_LN2_LO, r = lead + small;
    return lead + madd(r * r, vm_poly_expm1_tail(r), small);
}

/*
 * For what has errors of its own: r = y - n log 2 in one number, and exp(r) - 1 of such a number. exp has a quarter of an ulp more
 * this way, and two operations less.
 */
VM_INLINE real vm_exp_remainder(real y, int offset, real_uint *exponent) {
    real n;
    const real lead = vm_exp_lead(y, offset, &n, exponent);
    return madd(n, -VM_LN2_LO, lead);
}

VM_INLINE real vm_expm1_near(real r) { return madd(r * r, vm_poly_expm1_tail(r), r); }

/* x within +-VM_EXP_EDGE: on a magnitude one comparison does, and gcc makes poor code of two. */
VM_INLINE real vm_exp_argument(real x) { return vm_copysign(vm_at_most(vm_abs(x), R(vm_bounds).exp), x); }

/* 2^n as two factors, each a normal number, from n + 2 VM_BIAS in the lowest bits. */
VM_INLINE void vm_split_scale(real_uint exponent, real *first, real_uint *second) {
    const real_uint half = exponent >> 1;
    *first = vm_from_bits(half << VM_MANTISSA_BITS);
    *second = exponent - half;
}

VM_INLINE real vm_exp(real x) {
    const real y = vm_exp_argument(x);
    real_uint exponent, second;
    real scale;
    const real p = vm_expm1_reduced(y, 2 * VM_BIAS, &exponent);
    vm_split_scale(exponent, &scale, &second);
    return madd(p, scale, scale) * vm_from_bits(second << VM_MANTISSA_BITS);
}

/*
 * The same, to the same bits, for |x| <= VM_EXP_NORMAL, where no term is less than the normal numbers: for a single number, which pays for bounds
 * and halves in turn.
 */
VM_INLINE real vm_exp_normal(real x) {
    real_uint exponent;
    const real p = vm_expm1_reduced(x, 2 * VM_BIAS, &exponent), scale = vm_from_bits((exponent - VM_BIAS) << VM_MANTISSA_BITS);
    return madd(p, scale, scale);
}

/* 2^VM_LIFT exp(y) of a remainder r of y, -VM_LIFTED_EDGE <= y <= 0, and its exponent: one normal factor is enough. */
VM_INLINE real vm_exp_raised(real r, real_uint exponent) {
    const real scale = vm_from_bits(exponent << VM_MANTISSA_BITS);
    return madd(vm_expm1_near(r), scale, scale);
}

VM_INLINE real vm_exp_lifted(real y) {
    real_uint exponent;
    const real r = vm_exp_remainder(y, VM_BIAS + VM_LIFT, &exponent);
    return vm_exp_raised(r, exponent);
}

/* exp(-|x|), the quantity that the logistic functions are made of. */
VM_INLINE real vm_exp_of_minus_abs(real x) { return vm_exp_lifted(-vm_at_most(vm_abs(x), R(vm_bounds).lifted)) * VM_UNLIFT; }

VM_INLINE real vm_expm1(real x) {
    const real y = vm_exp_argument(x);
    real_uint exponent, second;
    real scale;
    const real p = vm_expm1_reduced(y, 2 * VM_BIAS, &exponent);
    vm_split_scale(exponent, &scale, &second);
    const real inverse_second = vm_from_bits((2 * VM_BIAS - second) << VM_MANTISSA_BITS);
    const real halfway = madd(p, scale, scale - inverse_second); /* (2^n (1 + p) - 1) / second */
    return vm_copysign(halfway * vm_from_bits(second << VM_MANTISSA_BITS), x);
}

/* ---- logarithms --------------------------------------------------------------------------------------------- */

/*
 * k log 2 + log(1 + f) with s = f / (2 + f) and log(1 + f) = f - f^2/2 + s (f^2/2 + s^2 P(s^2)), summed from the
 * smallest term up (the arrangement of FDLIBM).
 */
VM_INLINE real vm_log_assemble(real k, real f) {
    const real s = f / (f + 2);
    const real z = s * s;
    const real half_square = (real)0.5 * f * f;
    const real tail = madd(z, vm_poly_atanh_tail(z), half_square);
    return madd(k, VM_LN2_HI, f - (half_square - madd(s, tail, k * VM_LN2_LO)));
}

/* log |1 + f| for f in [0, 1] without a change of exponent. */
VM_INLINE real vm_log1p_unit(real f) {
    const real s = f / (f + 2);
    const real z = s * s;
    const real half_square = (real)0.5 * f * f;
    const real tail = madd(z, vm_poly_atanh_tail_wide(z), half_square);
    return f - madd(-s, tail, half_square);
}

/* The result where the argument of the logarithm, `argument`, is not a positive finite number. */
VM_INLINE real vm_log_limits(real result, real argument) {
    const real at_most_zero = argument == 0 ? (real)-INFINITY : (real)NAN;
    const real finite = argument < (real)INFINITY ? result : argument;
    return argument > 0 ? finite : at_most_zero;
}

/* Positive x as 2^k m with m in [sqrt(1/2), sqrt 2): the exponent field of k, and the bits of m. */
VM_INLINE real_uint vm_log_split(real x, real_uint *mantissa) {
    const real_uint shifted = vm_bits(x) + (vm_bits(1) - vm_bits(VM_SQRT_HALF));
    *mantissa = (shifted & VM_MANTISSA_MASK) + vm_bits(VM_SQRT_HALF);
    return shifted >> VM_MANTISSA_BITS;
}

/* A small non-negative integer as a number: no instruction set before AVX-512 converts 64-bit integers. */
VM_INLINE real vm_from_small_uint(real_uint i) { return vm_from_bits(i | vm_bits(VM_TWO_TO_MANTISSA)) - VM_TWO_TO_MANTISSA; }

VM_INLINE real vm_log(real x) {
    const real subnormal = x < REAL_MIN ? (real)(VM_MANTISSA_BITS + 2) : 0;
    const real normal = x < REAL_MIN ? x * (4 * VM_TWO_TO_MANTISSA) : x;
    real_uint mantissa;
    const real_uint field = vm_log_split(normal, &mantissa);
    const real k = vm_from_small_uint(field) - (subnormal + VM_BIAS);
    return vm_log_limits(vm_log_assemble(k, vm_from_bits(mantissa) - 1), x);
}

/*
 * 1 + x = 2^k (1 + f), where k comes from the rounded sum but f = 2^-k x + (2^-k - 1) from x itself, with one rounding
 * and no digit of a small x lost. 2^-k may be subnormal, so it is applied as 2^(2-k) / 4.
 */
VM_INLINE real vm_log1p(real x) {
    const real sum = 1 + x;
    real_uint mantissa;
    const real_uint field = vm_log_split(sum, &mantissa);
    const real scale = vm_from_bits((2 * VM_BIAS + 2 - field) << VM_MANTISSA_BITS);
    const real f = madd(x * scale, (real)0.25, madd(scale, (real)0.25, -1));
    const real k = vm_from_small_uint(field) - VM_BIAS;
    return vm_copysign(vm_log_limits(vm_log_assemble(k, f), sum), x);
}

/* ---- tanh --------------------------------------------------------------------------------------------------- */

/* tanh |x| = w / (2 - w) with w = 1 - exp(-2|x|) = (1 - scale) - scale p. */
VM_INLINE real vm_tanh_assemble(real scale, real p) {
    const real w = madd(-scale, p, 1 - scale);
    return w / (2 - w);
}

#if NF_SINGLE_BUILD

/*
 * tanh x = 2 n q / (q^2 + n^2) with tanh(x/2) = n / q a quotient of two short polynomials, in three quarters of the time of an exponential. Errors of n
 * and q weigh the less the nearer tanh is to 1; where it is small they leave it 3.8 ulp, not 2.5.
 */
VM_INLINE real vm_tanh(real x) {
    const real a = vm_at_least(vm_at_most(x, R(vm_bounds).tanh), R(vm_bounds).minus_tanh), z = a * a;
    const real twice_n = madd(a * z, vm_poly_half_tanh_top(z), a), e = z * vm_poly_half_tanh_bottom(z); /* q = 1 + e */
    const real t = madd(twice_n, e, twice_n) / madd((real)0.25 * twice_n, twice_n, madd(e, e + 2, 1));
    return vm_at_least(vm_at_most(t, R(vm_bounds).one), R(vm_bounds).minus_one);
}

#else

VM_INLINE real vm_tanh(real x) {
    real_uint exponent;
    const real a = vm_at_most(vm_abs(x), R(vm_bounds).tanh);
    const real p = vm_expm1_near(vm_exp_remainder(-2 * a, VM_BIAS, &exponent));
    return vm_copysign(vm_tanh_assemble(vm_from_bits(exponent << VM_MANTISSA_BITS), p), x);
}

#endif

/* slope = 1 - value^2, which is what back-propagation through a stored value uses; see vm_tanh_sech2 for the tails. */
VM_INLINE void vm_tanh_grad(real x, real *value, real *slope) {
    const real t = vm_tanh(x);
    *value = t;
    *slope = madd(-t, t, 1);
}

VM_INLINE void vm_tanh_grad2(real x, real *value, real *slope, real *curvature) {
    const real t = vm_tanh(x);
    const real s = madd(-t, t, 1);
    *value = t;
    *slope = s;
    *curvature = -2 * t * s;
}

/*
 * tanh, and sech^2 to full relative accuracy until it underflows: with e = exp(-2|x|) and t = tanh|x|,
 * sech^2 = 4 e / (1 + e)^2 = e (1 + t)^2; near 0, where no digits cancel, 1 - t^2 is the more accurate. tanh comes of the same exponential,
 * so in single precision its last bits may differ from those of vm_tanh.
 */
VM_INLINE void vm_tanh_sech2(real x, real *tanh_x, real *sech2_x) {
    real_uint exponent;
    const real a = vm_at_most(vm_abs(x), R(vm_bounds).lifted / 2);
    const real p = vm_expm1_near(vm_exp_remainder(-2 * a, VM_BIAS + VM_LIFT, &exponent));
    const real scale = vm_from_bits(exponent << VM_MANTISSA_BITS);
    const real e = madd(p, scale, scale);
    const real t = vm_tanh_assemble(scale * VM_UNLIFT, p);
    const real tail = e * (1 + t) * (1 + t) * VM_UNLIFT;
    *tanh_x = vm_copysign(t, x);
    *sech2_x = t < (real)0.5 ? madd(-t, t, 1) : tail;
}

/* ---- logistic functions ------------------------------------------------------------------------------------- */

/* 1 / (1 + exp(-x)), from e = exp(-|x|) so that neither tail is lost. */
VM_INLINE real vm_sigmoid_from_exp(real x, real e) { return (x < 0 ? e : 1) / (1 + e); }

VM_INLINE real vm_sigmoid(real x) { return vm_sigmoid_from_exp(x, vm_exp_of_minus_abs(x)); }

/* log(1 + exp(x)) */
VM_INLINE real vm_softplus_from_exp(real x, real e) { return vm_positive_part(x) + vm_log1p_unit(e); }

VM_INLINE real vm_softplus(real x) { return vm_softplus_from_exp(x, vm_exp_of_minus_abs(x)); }

VM_INLINE void vm_softplus_grad(real x, real *value, real *slope) {
    const real e = vm_exp_of_minus_abs(x);
    *value = vm_softplus_from_exp(x, e);
    *slope = vm_sigmoid_from_exp(x, e);
}

/* curvature = sigmoid(x) sigmoid(-x) = e / (1 + e)^2 */
VM_INLINE void vm_softplus_grad2(real x, real *value, real *slope, real *curvature) {
    const real e = vm_exp_of_minus_abs(x);
    const real lower = e / (1 + e);
    *value = vm_softplus_from_exp(x, e);
    *slope = vm_sigmoid_from_exp(x, e);
    *curvature = lower / (1 + e);
}

/*
 * silu(x) = x sigmoid(x) = max(x, 0) - a q with a = |x|, q = sigmoid(-a) = e w, e = exp(-a), w = 1 / (1 + e). Its slope
 * is D or 1 - D for D = q (1 - a w), by the sign of x, and its curvature q w (2 - a (1 - e) w) is even.
 */
struct vm_silu_parts {
    real a, e, w, q; /* e and q are lifted */
};

VM_INLINE struct vm_silu_parts vm_silu_prepare(real x) {
    struct vm_silu_parts parts;
    parts.a = vm_at_most(vm_abs(x), R(vm_bounds).lifted);
    parts.e = vm_exp_lifted(-parts.a);
    parts.w = 1 / madd(parts.e, VM_UNLIFT, 1);
    parts.q = parts.e * parts.w;
    return parts;
}

VM_INLINE real vm_silu_value(real x, struct vm_silu_parts parts) {
    return madd(-(parts.a * parts.q), VM_UNLIFT, vm_positive_part(x));
}

/* D or 1 - D by the sign of x: the slope of a function f with f(x) - f(-x) = x. */
VM_INLINE real vm_reflect_slope(real x, real lower) { return x < 0 ? lower : 1 - lower; }

VM_INLINE real vm_silu_slope(real x, struct vm_silu_parts parts) {
    return vm_reflect_slope(x, parts.q * madd(-parts.a, parts.w, 1) * VM_UNLIFT);
}

VM_INLINE real vm_silu(real x) { return vm_silu_value(x, vm_silu_prepare(x)); }

VM_INLINE void vm_silu_grad(real x, real *value, real *slope) {
    const struct vm_silu_parts parts = vm_silu_prepare(x);
    *value = vm_silu_value(x, parts);
    *slope = vm_silu_slope(x, parts);
}

VM_INLINE void vm_silu_grad2(real x, real *value, real *slope, real *curvature) {
    const struct vm_silu_parts parts = vm_silu_prepare(x);
    const real tanh_half = madd(-parts.e, VM_UNLIFT, 1) * parts.w;
    const real bracket = madd(-parts.a, tanh_half, 2);
    *value = vm_silu_value(x, parts);
    *slope = vm_silu_slope(x, parts);
    *curvature = parts.q * parts.w * bracket * VM_UNLIFT;
}

/* ---- GELU --------------------------------------------------------------------------------------------------- */

/* 2^VM_LIFT exp(-a^2/2), where z = a^2 is rounded: exp would multiply that error by a^2/2. */
VM_INLINE real vm_exp_minus_half_square_lifted(real a, real z) {
#if NF_HAS_FMA
    real n;
    const real_uint exponent = vm_nearest_integer(z, (real)-0.5 * VM_LOG2E, VM_BIAS + VM_LIFT, &n);
    const real lead = madd((real)-0.5 * a, a, n * -VM_LN2_HI); /* the product with n is exact */
    return vm_exp_raised(madd(n, -VM_LN2_LO, lead), exponent);
#else
    (void)z;
    const real short_a = vm_from_bits(vm_bits(a) & (real_uint)VM_SPLIT_MASK);
    const real low = (real)-0.5 * (a - short_a) * (a + short_a);
    real_uint exponent;
    const real r = vm_exp_remainder((real)-0.5 * short_a * short_a, VM_BIAS + VM_LIFT, &exponent) + low;
    return vm_exp_raised(r, exponent);
#endif
}

/*
 * gelu(x) = x Phi(x) = max(x, 0) - a q with a = |x|, q = 1 - Phi(a) = e m, e = exp(-a^2/2) and m(a) the Mills ratio over
 * sqrt(2 pi), a quotient of polynomials. The slope is D or 1 - D for D = e (m - a / sqrt(2 pi)), by the sign of x; the
 * curvature is e (2 - a^2) / sqrt(2 pi). Nothing saturates: all keep their relative accuracy in the left tail until they
 * underflow (gradually, past -13 for float and -37.6 for double), and are a zero of either sign beyond.
 */
struct vm_gelu_parts {
    real a, e, m; /* e is lifted, and m lowered by as much, so that their product is neither */
};

VM_INLINE struct vm_gelu_parts vm_gelu_prepare(real x) {
    struct vm_gelu_parts parts;
    parts.a = vm_at_most(vm_abs(x), R(vm_bounds).gelu);
    const real z = parts.a * parts.a;
    parts.e = vm_exp_minus_half_square_lifted(parts.a, z);
    parts.m = vm_mills_quotient_lowered(parts.a, z);
    return parts;
}

VM_INLINE real vm_gelu_value(real x, struct vm_gelu_parts parts) { return madd(-(parts.a * parts.e), parts.m, vm_positive_part(x)); }

VM_INLINE real vm_gelu_slope(real x, struct vm_gelu_parts parts) {
    return vm_reflect_slope(x, parts.e * madd(parts.a, -VM_UNLIFT * VM_INV_SQRT_2PI, parts.m));
}

VM_INLINE real vm_gelu(real x) { return vm_gelu_value(x, vm_gelu_prepare(x)); }

VM_INLINE void vm_gelu_grad(real x, real *value, real *slope) {
    const struct vm_gelu_parts parts = vm_gelu_prepare(x);
    *value = vm_gelu_value(x, parts);
    *slope = vm_gelu_slope(x, parts);
}

VM_INLINE void vm_gelu_grad2(real x, real *value, real *slope, real *curvature) {
    const struct vm_gelu_parts parts = vm_gelu_prepare(x);
    const real bracket = madd(-parts.a, parts.a, 2);
    *value = vm_gelu_value(x, parts);
    *slope = vm_gelu_slope(x, parts);
    *curvature = parts.e * (VM_UNLIFT * VM_INV_SQRT_2PI * bracket);
}

/* ---- sine and cosine of a turn ------------------------------------------------------------------------------- */

/*
 * sin(2 pi u) and cos(2 pi u) for u in [-1/2, 1/2] (in fact for any u that rounds to a multiple of 1/4 without loss). The
 * quadrant is found and removed exactly; it then swaps the two and sets their signs, all by bits.
 */
VM_INLINE void vm_sin2pi_cos2pi(real u, real *sine, real *cosine) {
    const real shifted = madd(u, 4, VM_ROUNDER);
    const real_uint quadrant = vm_bits(shifted);
    const real r = madd(shifted - VM_ROUNDER, (real)-0.25, u);
    const real z = r * r;
    const real_uint s = vm_bits(r * vm_poly_sin_turns(z));
    const real_uint c = vm_bits(madd(z, vm_poly_cos_turns(z), 1));
    const real_uint swap = (s ^ c) & (0 - (quadrant & 1)); /* the difference of the two, or nothing */
    const int to_sign = VM_MANTISSA_BITS == 23 ? 30 : 62;  /* from bit 1 of the quadrant */
    *sine = vm_from_bits(s ^ swap ^ ((quadrant << to_sign) & VM_SIGN_BIT));
    *cosine = vm_from_bits(c ^ swap ^ (((quadrant + 1) << to_sign) & VM_SIGN_BIT));
}

#endif
