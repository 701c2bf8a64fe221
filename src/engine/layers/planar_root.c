/*
 * With the oddness of the equation taken out, T = |t| and Y = |y|, it reads
 *     F(T) = g(T) + s tanh T = Y,   g(T) = T - tanh T,
 * a sum of two terms that are not negative: computed so (g by a polynomial where T is small), F has a few units of round-off
 * of *relative* error for every s > 0, and so has its slope, D = tanh^2 T + s sech^2 T. Nothing is lost as s -> 0, where F
 * becomes as flat as T^3 / 3.
 *
 * A guess from algebraic functions is within 1e-3 or so of the root; each step, of fourth order, then quadruples the digits.
 */
#include "engine/layers/planar_root.h"

#include "engine/kernels/vmath.h"

/* (T - tanh T) / T^3 as a polynomial in T^2, for T <= 1/2: Chebyshev interpolation, relative error 1.4e-16 (1.6e-8). */
#define SERIES_EDGE ((real)0.5)

VM_INLINE real series(real z) {
#if NF_SINGLE_BUILD
    real p = 0.00694294175f;
    p = madd(p, z, -0.02147068303f);
    p = madd(p, z, 0.05393346915f);
    p = madd(p, z, -0.1333322578f);
    return madd(p, z, 0.333333328f);
#else
    real p = -0.0000594695658977476915;
    p = madd(p, z, 0.000221072229758646339);
    p = madd(p, z, -0.000584965372902264459);
    p = madd(p, z, 0.00145495938438046611);
    p = madd(p, z, -0.00359203346537239282);
    p = madd(p, z, 0.0088632292700678434);
    p = madd(p, z, -0.0218694882972345143);
    p = madd(p, z, 0.0539682539636100864);
    p = madd(p, z, -0.133333333333298242);
    return madd(p, z, 0.333333333333333289);
#endif
}

/* x^(1/3) within some 5%, for positive normal x: a third of the exponent field, with 10 bits of the mantissa behind it. */
VM_INLINE real rough_cube_root(real x) {
    const real bits = vm_from_small_uint(vm_bits(x) >> (VM_MANTISSA_BITS - 10));
    const real third = madd(bits, (real)(1.0 / 3.0), (real)(VM_BIAS * 1024 * (2.0 / 3.0) - 30.0));
    return vm_from_bits(vm_bits(third + VM_TWO_TO_MANTISSA) << (VM_MANTISSA_BITS - 10));
}

/*
 * Newton's step for F(T) = Y with the continued fraction of tanh cut after four terms, so that
 *     T - tanh T = T^3 (315 + 14 T^2) / (945 + 420 T^2 + 15 T^4),
 * both sides multiplied by the denominator. The relative error of that is below 1e-4 up to T = 2, and 1% at T = 4.
 */
VM_INLINE real refine_guess(real t, real y, real s) {
    const real z = t * t;
    const real denominator = madd(z, madd(z, 15, 420), 945);
    const real rest = madd(s, t, -y), weight = (1 - s) * z;
    const real value = madd(rest, denominator, weight * t * madd(z, 14, 315));
    const real slope = madd(s, denominator, madd(rest * t, madd(z, 60, 840), weight * madd(z, 70, 945)));
    return t - value / slope;
}

/*
 * The start of the guess. For s < 1, F is convex and at least s T, at least T - (1 - s), and for small T close to (1 - s) T^3 / 3:
 * the least of the three roots. For s > 1, F is concave; tanh T ~ T - T^2/4 makes it a quadratic.
 */
VM_INLINE real start_guess(real y, real s) {
    const real deficit = vm_positive_part(1 - s), sum = s + vm_sqrt(vm_positive_part(madd(s, s, (1 - s) * y)));
    const real cubic = rough_cube_root(3 * y / (deficit + REAL_MIN) + REAL_MIN), linear = y / s;
    const real convex = vm_at_most(vm_at_most(cubic, linear), y + deficit);
    return s < 1 ? convex : 2 * y / sum;
}

VM_INLINE real algebraic_guess(real y, real s) {
    const real once = refine_guess(start_guess(y, s), y, s);
    return NF_SINGLE_BUILD ? once : refine_guess(once, y, s);
}

/* Where tanh T > 0.99 its own limit is the better guess: T = Y - (s - 1). */
static void begin(const real *restrict y, const real *restrict slope, newton_panel *state) {
    _Alignas(NF_ALIGN) real guess[PANEL], low[PANEL], high[PANEL];
    for (size_t l = 0; l < PANEL; l++) {
        const real right = vm_abs(y[l]), s = slope[l], excess = s - 1, far = right - excess;
        const real t = algebraic_guess(right, s);
        guess[l] = far > (real)2.6 ? far : t;
        /* T lies between Y and Y - (s - 1), and is not negative. Outward by more than the round-off of the difference. */
        const real slack = 2 * REAL_EPS * (right + vm_abs(excess));
        low[l] = vm_positive_part(excess > 0 ? far - slack : right);
        high[l] = excess > 0 ? right : far + slack;
    }
    R(newton_begin)(state, guess, low, high);
}

/*
 * F(T) - Y, and the step of fourth order: the inverse of F's Taylor series (of three terms) at T. With d = -F/F',
 *     d (1 + v + 2 v^2 - d^2 F''' / (6 F')),   v = -d F'' / (2 F'),
 * F'' = -2 (s - 1) h q and F''' = (s - 1) q (6 h^2 - 2) for h = tanh T, q = sech^2 T. Far from the root the series means little, and
 * the factor is kept within [1/2, 2].
 */
static void evaluate(void *user, size_t panel, const real *restrict t, real *restrict residual, real *restrict level,
                     real *restrict step) {
    const planar_equation *e = user;
    const real *restrict y = e->y + panel * PANEL, *restrict slope = e->slope + panel * e->slope_stride;
    real *restrict tanh_t = e->tanh + panel * PANEL, *restrict sech2_t = e->sech2 + panel * PANEL;
    for (size_t l = 0; l < PANEL; l++) {
        const real x = t[l], z = x * x, s = slope[l], right = vm_abs(y[l]);
        real h, q;
        vm_tanh_sech2(x, &h, &q);
        const bool small = x < SERIES_EDGE;
        const real g = small ? z * x * series(z) : x - h;
        const real f = madd(s, h, g - right);
        const real unit = 1 / madd(h, h, s * q), curvature = (s - 1) * q * unit;
        const real d = -f * unit, v = d * h * curvature;
        const real third = d * d * curvature * madd(h, h, (real)(-1.0 / 3.0));
        const real factor = 1 + madd(v, madd(v, 2, 1), -third);
        const real held = factor < (real)0.5 ? (real)0.5 : vm_at_most(factor, 2);
        tanh_t[l] = h;
        sech2_t[l] = q;
        residual[l] = f;
        level[l] = madd(right, 4 * REAL_EPS, (small ? 0 : 2 * REAL_EPS * h) + 2 * REAL_MIN * REAL_EPS);
        step[l] = d * held;
    }
}

uint64_t R(planar_root)(const planar_equation *equation, size_t panels, size_t rows, newton_panel *states) {
    planar_equation e = *equation;
    for (size_t p = 0; p < panels; p++)
        begin(e.y + p * PANEL, e.slope + p * e.slope_stride, states + p);
    const uint64_t evaluations = R(newton_solve)(evaluate, &e, panels, rows, states);
    for (size_t i = 0; i < panels * PANEL; i++)
        e.tanh[i] = vm_copysign(e.tanh[i], e.y[i]);
    return evaluations;
}

/* log1p alone would lose what is left of 1 - (1 - s) when s is tiny; the logarithm of a sum near 1, the small difference. */
void R(planar_log_det)(const real *restrict slope, const real *restrict tanh_t, const real *restrict sech2_t, bool below, bool above,
                       real *restrict log_det) {
    if (below)
        for (size_t l = 0; l < PANEL; l++)
            log_det[l] = vm_log(madd(tanh_t[l], tanh_t[l], slope[l] * sech2_t[l]));
    if (above)
        for (size_t l = 0; l < PANEL; l++) {
            const real value = vm_log1p((slope[l] - 1) * sech2_t[l]);
            log_det[l] = !below || slope[l] >= (real)0.5 ? value : log_det[l];
        }
}
