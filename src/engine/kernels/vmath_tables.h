/*
 * The polynomials of vmath.h, with the coefficients that tools/fit/vmath_fit.py prints (near-minimax in relative
 * error; a leading coefficient that the fit gives to within rounding, such as 1/2, is written exactly).
 *
 * The longer ones are evaluated as two interleaved chains, even and odd: a tile of a few vectors is too short to hide one
 * long chain of dependent multiply-adds, and fewer roundings follow each other.
 */
#ifndef NF_ENGINE_VMATH_TABLES_H
#define NF_ENGINE_VMATH_TABLES_H

#include "engine/real.h"

#define VM_INLINE static inline __attribute__((always_inline))

#if NF_SINGLE_BUILD

#define VM_LIFT 40 /* raises the exponent of results that may underflow; at the end they are lowered again */
#define VM_UNLIFT 0x1p-40f

/* (exp(r) - 1 - r) / r^2 for |r| <= log(2)/2: error 1.2e-7 */
VM_INLINE real vm_poly_expm1_tail(real r) {
    const real z = r * r;
    const real low = madd(1.66665774e-1f, r, 0.5f);
    const real high = madd(1.3898702e-3f, z, madd(8.36313591e-3f, r, 4.16668847e-2f));
    return madd(high, z, low);
}

/* (2 atanh(s) - 2 s) / s^3 for z = s^2, s <= (sqrt 2 - 1) / (sqrt 2 + 1): error 2.7e-7 */
VM_INLINE real vm_poly_atanh_tail(real z) {
    real p = 2.95805346e-1f;
    p = madd(p, z, 3.99887636e-1f);
    return madd(p, z, 6.66666851e-1f);
}

/* the same for s <= 1/3: error 1e-8 */
VM_INLINE real vm_poly_atanh_tail_wide(real z) {
    real p = 2.32335384e-1f;
    p = madd(p, z, 2.17045333e-1f);
    p = madd(p, z, 2.85924994e-1f);
    p = madd(p, z, 3.99997032e-1f);
    return madd(p, z, 6.66666673e-1f);
}

/* sin(2 pi r) / r for z = r^2, |r| <= 1/8: error 3.2e-9 */
VM_INLINE real vm_poly_sin_turns(real z) {
    real p = -7.53935554e1f;
    p = madd(p, z, 8.15923532e1f);
    p = madd(p, z, -4.13416615e1f);
    return madd(p, z, 6.28318529f);
}

/* (cos(2 pi r) - 1) / r^2 for z = r^2, |r| <= 1/8: error 6.3e-10 */
VM_INLINE real vm_poly_cos_turns(real z) {
    real p = 5.94216973e1f;
    p = madd(p, z, -8.54487634e1f);
    p = madd(p, z, 6.49393687e1f);
    return madd(p, z, -1.97392088e1f);
}

/* tanh(x/2) / (x/2) = (1 + z top) / (1 + z bottom) for z = x^2 up to 8.7^2: error 1.6e-8 */
VM_INLINE real vm_poly_half_tanh_top(real z) {
    const real p = madd(8.73816266e-8f, z, 1.60743261e-4f);
    return madd(p, z, 3.15253918e-2f);
}

VM_INLINE real vm_poly_half_tanh_bottom(real z) {
    const real p = madd(2.76360853e-6f, z, 1.39898816e-3f);
    return madd(p, z, 1.14858679e-1f);
}

/*
 * 2^-VM_LIFT exp(a^2/2) (1 - Phi(a)) for 0 <= a <= 14.9 and z = a^2: error 6.2e-9. All coefficients are positive, so nothing cancels; and
 * the rounding of z, which weighs most for large a, is nearly the same in both polynomials and goes out in the quotient.
 */
VM_INLINE real vm_mills_quotient_lowered(real a, real z) {
    real top_even = 4.14590568e-3f * VM_UNLIFT, top_odd = 4.08320922e-2f * VM_UNLIFT;
    top_even = madd(top_even, z, 1.83824179e-1f * VM_UNLIFT);
    top_odd = madd(top_odd, z, 4.39088575e-1f * VM_UNLIFT);
    top_even = madd(top_even, z, 0.5f * VM_UNLIFT);
    real bottom_even = 1.02357057e-1f, bottom_odd = 1.03921312e-2f;
    bottom_even = madd(bottom_even, z, 1.20494747f);
    bottom_odd = madd(bottom_odd, z, 4.7102588e-1f);
    bottom_even = madd(bottom_even, z, 1.0f);
    bottom_odd = madd(bottom_odd, z, 1.67606215f);
    return madd(top_odd, a, top_even) / madd(bottom_odd, a, bottom_even);
}

#else

#define VM_LIFT 100
#define VM_UNLIFT 0x1p-100

/* (exp(r) - 1 - r) / r^2 for |r| <= log(2)/2: error 2.7e-18 */
VM_INLINE real vm_poly_expm1_tail(real r) {
    const real z = r * r;
    real even = 2.0889334292472561e-9, odd = 2.5105173899526281e-8;
    even = madd(even, z, 2.7557349682151119e-7);
    odd = madd(odd, z, 2.7557255513250805e-6);
    even = madd(even, z, 2.4801587245769711e-5);
    odd = madd(odd, z, 1.9841269874722047e-4);
    even = madd(even, z, 1.388888888891788e-3);
    odd = madd(odd, z, 8.3333333333261669e-3);
    even = madd(even, z, 4.1666666666666619e-2);
    odd = madd(odd, z, 1.6666666666666671e-1);
    even = madd(even, z, 0.5);
    return madd(odd, r, even);
}

/* (2 atanh(s) - 2 s) / s^3 for z = s^2, s <= (sqrt 2 - 1) / (sqrt 2 + 1): error 4.6e-16 */
VM_INLINE real vm_poly_atanh_tail(real z) {
    real p = 1.4616908240804679e-1;
    p = madd(p, z, 1.5331681385923435e-1);
    p = madd(p, z, 1.8182890447476576e-1);
    p = madd(p, z, 2.2222211114754141e-1);
    p = madd(p, z, 2.857142862611305e-1);
    p = madd(p, z, 3.9999999999899156e-1);
    return madd(p, z, 6.6666666666666697e-1);
}

/* the same for s <= 1/3: error 1.2e-16 */
VM_INLINE real vm_poly_atanh_tail_wide(real z) {
    const real y = z * z;
    real even = 8.7965532400861469e-2, odd = 1.6172403671966345e-1;
    even = madd(even, y, 1.3314045921807323e-1);
    odd = madd(odd, y, 1.200194614489899e-1);
    even = madd(even, y, 1.8181789187626585e-1);
    odd = madd(odd, y, 1.5385576512764065e-1);
    even = madd(even, y, 2.8571428567050383e-1);
    odd = madd(odd, y, 2.2222222722808825e-1);
    even = madd(even, y, 6.6666666666666658e-1);
    odd = madd(odd, y, 4.0000000000014827e-1);
    return madd(odd, z, even);
}

/* sin(2 pi r) / r for z = r^2, |r| <= 1/8: error 3.3e-18 */
VM_INLINE real vm_poly_sin_turns(real z) {
    real p = 3.7807256719295581;
    p = madd(p, z, -1.5093797481048658e1);
    p = madd(p, z, 4.2058684901623345e1);
    p = madd(p, z, -7.6705859703311636e1);
    p = madd(p, z, 8.1605249275944496e1);
    p = madd(p, z, -4.1341702240399631e1);
    return madd(p, z, 6.2831853071795865);
}

/* (cos(2 pi r) - 1) / r^2 for z = r^2, |r| <= 1/8: error 4.0e-19 */
VM_INLINE real vm_poly_cos_turns(real z) {
    real p = -1.6990070649828147;
    p = madd(p, z, 7.9032056291675326);
    p = madd(p, z, -2.642625325328586e1);
    p = madd(p, z, 6.0244641352518884e1);
    p = madd(p, z, -8.5456817206643132e1);
    p = madd(p, z, 6.4939394022668242e1);
    return madd(p, z, -1.9739208802178717e1);
}

/* 2^-VM_LIFT exp(a^2/2) (1 - Phi(a)) for 0 <= a <= 38.9 and z = a^2: error 5.2e-17 */
VM_INLINE real vm_mills_quotient_lowered(real a, real z) {
    real top_even = 3.7247705181115068e-5 * VM_UNLIFT, top_odd = 1.3854212594358924e-6 * VM_UNLIFT;
    top_even = madd(top_even, z, 4.0888013913474669e-3 * VM_UNLIFT);
    top_odd = madd(top_odd, z, 4.9034474370243992e-4 * VM_UNLIFT);
    top_even = madd(top_even, z, 9.7691167242831061e-2 * VM_UNLIFT);
    top_odd = madd(top_odd, z, 2.3619969155314993e-2 * VM_UNLIFT);
    top_even = madd(top_even, z, 5.940198519460839e-1 * VM_UNLIFT);
    top_odd = madd(top_odd, z, 2.893140868938137e-1 * VM_UNLIFT);
    top_even = madd(top_even, z, 0.5 * VM_UNLIFT);
    top_odd = madd(top_odd, z, 7.7485534955874598e-1 * VM_UNLIFT);
    real bottom_even = 3.4727361011872663e-6, bottom_odd = 9.336615096995824e-5;
    bottom_even = madd(bottom_even, z, 1.2325847351824156e-3);
    bottom_odd = madd(bottom_odd, z, 1.0342471316654775e-2);
    bottom_even = madd(bottom_even, z, 6.0428649483699691e-2);
    bottom_odd = madd(bottom_odd, z, 2.5493780312988306e-1);
    bottom_even = madd(bottom_even, z, 7.8198610076603563e-1);
    bottom_odd = madd(bottom_odd, z, 1.7142938810279615);
    bottom_even = madd(bottom_even, z, 2.5611497167969239);
    bottom_odd = madd(bottom_odd, z, 2.3475952599203473);
    bottom_even = madd(bottom_even, z, 1.0);
    return madd(top_odd, a, top_even) / madd(bottom_odd, a, bottom_even);
}

#endif

#endif
