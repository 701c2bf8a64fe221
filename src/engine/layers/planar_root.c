/*
 * With the oddness of the equation taken out, T = |t| and Y = |y|, it reads
 *     F(T) = g(T) + s tanh T = Y,   g(T) = T - tanh T,
 * a sum of two terms that are not negative: computed so (g by a polynomial where T is small), F has a few units of round-off
 * of *relative* error for every s > 0, and so has its slope, D = tanh^2 T + s sech^2 T. Nothing is lost as s -> 0, where F
 * becomes as flat as T^3 / 3.
 *
 * A guess from algebraic functions is within 1e-4 or so of the root; one step, of fourth order, then quadruples the digits.
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
 * Newton's step for F(T) = Y with
 *     T - tanh T ~ T^3 (A0 + A1 T^2) / (1 + B1 T^2 + B2 T^4)
 * (minimax by Lawson's iteration, relative error 1.6e-5 for T <= 4), both sides multiplied by the denominator.
 */
#define GUESS_A0 ((real)0.3333281)
#define GUESS_A1 ((real)0.0134558035)
#define GUESS_B1 ((real)0.440287221)
#define GUESS_B2 ((real)0.0142847136)

VM_INLINE real refine_guess(real t, real y, real s) {
    const real z = t * t;
    const real denominator = madd(z, madd(z, GUESS_B2, GUESS_B1), 1);
    const real rest = madd(s, t, -y), weight = (1 - s) * z;
    const real value = madd(rest, denominator, weight * t * madd(z, GUESS_A1, GUESS_A0));
    const real slope =
        madd(s, denominator, madd(rest * t, madd(z, 4 * GUESS_B2, 2 * GUESS_B1), weight * madd(z, 5 * GUESS_A1, 3 * GUESS_A0)));
    return t - value / slope;
}

/* exp(-x) within 0.01%, for x >= 0: what is left of it beyond 40 does not matter here. */
VM_INLINE real rough_exp_of_minus(real x) {
    const real y = vm_at_most(x, 40) * -VM_LOG2E, shifted = y + (VM_ROUNDER + VM_BIAS), f = y - (shifted - (VM_ROUNDER + VM_BIAS));
    const real p = madd(madd(madd((real)0.05517167, f, (real)0.24261113), f, (real)0.69326099), f, (real)0.99992807);
    return p * vm_from_bits(vm_bits(shifted) << VM_MANTISSA_BITS);
}

/*
 * Newton's step again, with tanh T from a rough exp(-2 T): where a slope is steep, F bends beyond T = 1.5 so sharply that the step
 * above does not get there in two, and errors of its approximation count s times.
 */
VM_INLINE real refine_tail(real t, real y, real s) {
    const real e = rough_exp_of_minus(2 * t), r = 1 / (1 + e), h = (1 - e) * r, excess = s - 1;
    return t - madd(excess, h, t - y) / madd(excess, 4 * e * r * r, 1);
}

/* Slopes beyond STEEP have their guesses beyond TAIL refined once more: below, that would cost more than it saves. */
#define STEEP ((real)1.5)
#define TAIL ((real)1.5)

/* What the guess needs of the slopes of a panel, once for all panels that share them. */
typedef struct planar_slopes {
    _Alignas(NF_ALIGN) real per_slope[PANEL]; /* 1 / s */
    real cubic[PANEL];                        /* 3 / (1 - s), for s < 1 */
    bool below, above;                        /* whether there are slopes below 1, and others */
    bool steep;                               /* ... and above STEEP */
} planar_slopes;

static void prepare(const real *restrict slope, planar_slopes *p) {
    real_int below = 0, steep = 0;
    for (size_t l = 0; l < PANEL; l++) {
        p->per_slope[l] = 1 / slope[l];
        p->cubic[l] = 3 / (slope[l] < 1 ? 1 - slope[l] : 1);
        below += slope[l] < 1 ? 1 : 0;
        steep += slope[l] > STEEP ? 1 : 0;
    }
    p->steep = !NF_SINGLE_BUILD && steep > 0;
    p->below = below > 0;
    p->above = below < (real_int)PANEL;
}

/*
 * The start of the guess where s < 1: F is convex, and the roots of s T = Y, of (1 - s) g(T) = Y and of T - (1 - s) = Y all lie above
 * that of F. c, the second one, follows from (3 Y / (1 - s))^(1/3) by the reversed series of g. The first two are joined by a
 * rational approximation, within 5%, of the root v of m v + v^3 = 1, where m is their quotient: it has the three first terms of the
 * series at 0 and two at infinity.
 */
VM_INLINE real start_below(real y, real s, real per_slope, real cubic) {
    const real rough = rough_cube_root(madd(cubic, y, REAL_MIN)), square = rough * rough;
    const real c = rough * madd(square, madd(square, (real)0.0191, (real)(2.0 / 15.0)), 1);
    const real linear = y * per_slope, m = c / (linear + REAL_MIN);
    const real top = madd(m, madd(m, (real)(7.0 / 81.0), (real)(24.0 / 81.0)), 1);
    const real bottom = madd(m, madd(m, madd(m, (real)(7.0 / 81.0), (real)(24.0 / 81.0)), (real)(51.0 / 81.0)), 1);
    return vm_at_most(vm_at_most(c * top / bottom, linear), y + (1 - s));
}

/*
 * Where s >= 1, F is concave; tanh T ~ min(T - T^2/4, 1) makes it a quadratic up to T = 2, a straight line from there. The last factor
 * mends what that makes of steep slopes.
 */
VM_INLINE real start_above(real y, real s, real per_slope) {
    const real bent = 2 * y / (s + vm_sqrt(vm_positive_part(madd(s, s, (1 - s) * y)))), straight = y + (1 - s);
    const real steep = (s - 1) * per_slope * bent;
    return straight > 2 ? straight : bent * madd(steep, madd(bent, (real)0.22, (real)-0.235), 1);
}

/* Where tanh T is so close to 1, T = Y - (s - 1). */
#define FAR ((real)4)

VM_INLINE real finish_guess(real t, real y, real s) {
    const real once = refine_guess(t, y, s), twice = NF_SINGLE_BUILD ? once : refine_guess(once, y, s), far = y + (1 - s);
    return far > FAR ? far : twice;
}

/* The guess and the bracket: T lies between Y and Y - (s - 1). Outward by more than the round-off of the difference. */
static void begin(const real *restrict y, const real *restrict slope, const planar_slopes *p, newton_panel *state) {
    _Alignas(NF_ALIGN) real guess[PANEL], low[PANEL], high[PANEL];
    if (p->below)
        for (size_t l = 0; l < PANEL; l++) {
            const real right = vm_abs(y[l]), s = slope[l];
            guess[l] = finish_guess(start_below(right, s, p->per_slope[l], p->cubic[l]), right, s);
        }
    if (p->above)
        for (size_t l = 0; l < PANEL; l++) {
            const real right = vm_abs(y[l]), s = slope[l], value = finish_guess(start_above(right, s, p->per_slope[l]), right, s);
            guess[l] = p->below && s < 1 ? guess[l] : value;
        }
    if (p->steep)
        for (size_t l = 0; l < PANEL; l++) {
            const real t = guess[l], s = slope[l], value = refine_tail(t, vm_abs(y[l]), s);
            guess[l] = s > STEEP && t > TAIL ? value : t;
        }
    for (size_t l = 0; l < PANEL; l++) {
        const real right = vm_abs(y[l]), excess = slope[l] - 1, far = right - excess;
        const real slack = 2 * REAL_EPS * (right + vm_abs(excess));
        low[l] = vm_positive_part(excess > 0 ? far - slack : right);
        high[l] = excess > 0 ? right : far + slack;
    }
    R(newton_begin)(state, guess, low, high);
}

static void residual_of(void *user, size_t panel, const real *restrict t, real *restrict residual, real *restrict level) {
    const planar_equation *e = user;
    const real *restrict y = e->y + panel * PANEL, *restrict slope = e->slope + panel * e->slope_stride;
    real *restrict tanh_t = e->tanh + panel * PANEL, *restrict sech2_t = e->sech2 + panel * PANEL;
    for (size_t l = 0; l < PANEL; l++) {
        const real x = t[l], z = x * x, right = vm_abs(y[l]);
        real h, q;
        vm_tanh_sech2(x, &h, &q);
        const bool small = x < SERIES_EDGE;
        const real g = small ? z * x * series(z) : x - h;
        tanh_t[l] = h;
        sech2_t[l] = q;
        residual[l] = madd(slope[l], h, g - right);
        level[l] = madd(right, 4 * REAL_EPS, (small ? 0 : 2 * REAL_EPS * h) + 2 * REAL_MIN * REAL_EPS);
    }
}

/*
 * The step of fourth order: the inverse of F's Taylor series (of three terms) at T. With d = -F / F',
 *     d (1 + v + 2 v^2 - d^2 F''' / (6 F')),   v = -d F'' / (2 F'),
 * F'' = -2 (s - 1) h q and F''' = (s - 1) q (6 h^2 - 2) for h = tanh T, q = sech^2 T. Far from the root the series means little, and
 * the factor is kept within [1/2, 2].
 */
static void step_of(void *user, size_t panel, const real *restrict t, const real *restrict residual, real *restrict step) {
    (void)t;
    const planar_equation *e = user;
    const real *restrict slope = e->slope + panel * e->slope_stride;
    const real *restrict tanh_t = e->tanh + panel * PANEL, *restrict sech2_t = e->sech2 + panel * PANEL;
    for (size_t l = 0; l < PANEL; l++) {
        const real h = tanh_t[l], q = sech2_t[l], s = slope[l], square = h * h;
        const real per_slope = 1 / madd(s, q, square), curvature = (s - 1) * q * per_slope;
        const real d = -residual[l] * per_slope, v = d * h * curvature;
        const real third = d * d * curvature * (square - (real)(1.0 / 3.0));
        const real factor = 1 + madd(v, madd(v, 2, 1), -third);
        step[l] = d * (factor < (real)0.5 ? (real)0.5 : vm_at_most(factor, 2));
    }
}

uint64_t R(planar_root)(const planar_equation *equation, size_t panels, size_t rows, newton_panel *states) {
    planar_equation e = *equation;
    const newton_function f = {residual_of, step_of, &e};
    planar_slopes slopes = {.below = false};
    for (size_t p = 0; p < panels; p++) {
        const real *slope = e.slope + p * e.slope_stride;
        if (p == 0 || e.slope_stride > 0)
            prepare(slope, &slopes);
        begin(e.y + p * PANEL, slope, &slopes, states + p);
    }
    const uint64_t evaluations = R(newton_solve)(&f, panels, rows, states);
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
