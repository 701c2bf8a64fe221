/* engine-test: built once for each precision and instruction set, with the flags of the engine */
/*
 * The elementary functions of the engine against a reference of higher precision: MPFR for double, the C library's
 * double functions for float (their error, some 1e-9 of a float's ulp, does not count). The header is compiled into this
 * program.
 *
 *     NFLOW_TEST_SEED=n       another random sequence
 *     NF_VMATH_REPORT=1       print the largest error of each function
 *     NF_VMATH_POINTS=n       random points a function
 *     NF_VMATH_EXHAUSTIVE=1   float: every bit pattern
 */
#include "checks.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kernels/activation.h"
#include "engine/kernels/gelu_lookup.h"
#include "engine/kernels/vmath.h"
#include "vmath_reference.h"

enum { BLOCK = 1024 };

/* ---- the loops under test ------------------------------------------------------------------------------------- */

#define LOOP_ARGUMENTS const real *restrict x, size_t n, real *restrict f, real *restrict g, real *restrict h
typedef void loop_function(LOOP_ARGUMENTS);

#define LOOP1(name)                                                                                                            \
    __attribute__((noinline)) static void loop_##name(LOOP_ARGUMENTS) {                                                        \
        (void)g, (void)h;                                                                                                      \
        for (size_t i = 0; i < n; i++)                                                                                         \
            f[i] = vm_##name(x[i]);                                                                                            \
    }
#define LOOP2(name)                                                                                                            \
    __attribute__((noinline)) static void loop_##name(LOOP_ARGUMENTS) {                                                        \
        (void)h;                                                                                                               \
        for (size_t i = 0; i < n; i++)                                                                                         \
            vm_##name(x[i], &f[i], &g[i]);                                                                                     \
    }
#define LOOP3(name)                                                                                                            \
    __attribute__((noinline)) static void loop_##name(LOOP_ARGUMENTS) {                                                        \
        for (size_t i = 0; i < n; i++)                                                                                         \
            vm_##name(x[i], &f[i], &g[i], &h[i]);                                                                              \
    }

LOOP1(exp)
LOOP1(expm1)
LOOP1(log)
LOOP1(log1p)
LOOP1(sqrt)
LOOP1(tanh)
LOOP1(sigmoid)
LOOP1(softplus)
LOOP1(gelu)
LOOP1(silu)
LOOP2(tanh_grad)
LOOP2(tanh_sech2)
LOOP2(softplus_grad)
LOOP2(gelu_grad)
LOOP2(silu_grad)
LOOP2(sin2pi_cos2pi)
LOOP3(tanh_grad2)
LOOP3(softplus_grad2)
LOOP3(gelu_grad2)
LOOP3(silu_grad2)

/* What nets call: with AVX-512 in single precision it has a GELU of its own. */
static void loop_net_gelu(LOOP_ARGUMENTS) {
    (void)g, (void)h;
    memcpy(f, x, n * sizeof *x);
    R(activate)(NF_GELU, n, f);
}

static void loop_net_gelu_grad(LOOP_ARGUMENTS) {
    (void)h;
    memcpy(f, x, n * sizeof *x);
    R(activate_slope)(NF_GELU, n, f, g);
}

static void loop_net_gelu_grad2(LOOP_ARGUMENTS) {
    memcpy(f, x, n * sizeof *x);
    R(activate_curvature)(NF_GELU, n, f, g, h);
}

/* ---- the table of bounds ---------------------------------------------------------------------------------------- */

/*
 * Each function with the limit of its error in ulps of the output (of the sum of its terms where the output has a zero:
 * see the references), and the range within which most random points lie. GELU, in whose
 * left half the errors of exp(-x^2/2) and of a quotient of two polynomials add up, has the widest.
 */
#define GELU_BOUND (NF_HAS_FMA ? 7.0 : 8.0)
#define GELU_SLOPE_BOUND 6.0
#define TANH_BOUND (NF_SINGLE_BUILD ? 4.5 : 2.55)                     /* a quotient of polynomials; an exponential */
#define SLOPE_BOUND (!NF_SINGLE_BUILD ? 3.0 : NF_HAS_FMA ? 3.2 : 4.5) /* of 1 - tanh^2 */
static const struct function {
    const char *name;
    loop_function *loop;
    void (*reference)(double x, struct expected *out);
    int outputs;
    double bound[MAX_OUTPUTS];
    double low, high;
} functions[] = {
    {"exp", loop_exp, ref_exp, 1, {1.0}, -VM_EXP_EDGE, VM_EXP_EDGE},
    {"expm1", loop_expm1, ref_expm1, 1, {2.4}, -40, VM_EXP_EDGE},
    {"log", loop_log, ref_log, 1, {1.0}, 0, 1e3},
    {"log1p", loop_log1p, ref_log1p, 1, {1.5}, -1, 1e3},
    {"sqrt", loop_sqrt, ref_sqrt, 1, {0.5001}, 0, 1e3},
    {"tanh", loop_tanh, ref_tanh, 1, {TANH_BOUND}, -20, 20},
    {"tanh_grad2", loop_tanh_grad2, ref_tanh, 3, {TANH_BOUND, SLOPE_BOUND, 2 * SLOPE_BOUND}, -20, 20},
    {"tanh_sech2", loop_tanh_sech2, ref_tanh_sech2, 2, {2.55, 5.5}, -VM_EXP_EDGE / 2, VM_EXP_EDGE / 2},
    {"sigmoid", loop_sigmoid, ref_sigmoid, 1, {2.5}, -VM_EXP_EDGE, VM_EXP_EDGE},
    {"softplus_grad2", loop_softplus_grad2, ref_softplus, 3, {2.2, 2.5, 4.5}, -VM_EXP_EDGE, VM_EXP_EDGE},
    {"silu_grad2", loop_silu_grad2, ref_silu, 3, {4.0, 4.5, 6.0}, -VM_LIFTED_EDGE, VM_LIFTED_EDGE},
    {"gelu_grad2", loop_gelu_grad2, ref_gelu, 3, {GELU_BOUND, GELU_SLOPE_BOUND, 4.0}, -VM_GELU_EDGE, VM_GELU_EDGE},
    {"net_gelu_grad2", loop_net_gelu_grad2, ref_gelu, 3, {GELU_LOOKUP ? 5.5 : GELU_BOUND, GELU_LOOKUP ? 4.3 : GELU_SLOPE_BOUND, GELU_LOOKUP ? 5.0 : 4.0}, -VM_GELU_EDGE, VM_GELU_EDGE},
    {"sin2pi_cos2pi", loop_sin2pi_cos2pi, ref_sin2pi_cos2pi, 2, {2.0, 2.0}, -0.5, 0.5},
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* Forms that must give the bits of the first outputs of another. */
static const struct twin {
    const char *name;
    loop_function *loop, *full;
    int outputs;
} twins[] = {
    {"tanh", loop_tanh, loop_tanh_grad2, 1},
#if !NF_SINGLE_BUILD /* where both come of the same exponential */
    {"tanh_sech2", loop_tanh_sech2, loop_tanh, 1},
#endif
    {"tanh_grad", loop_tanh_grad, loop_tanh_grad2, 2},
    {"softplus", loop_softplus, loop_softplus_grad2, 1},
    {"softplus_grad", loop_softplus_grad, loop_softplus_grad2, 2},
    {"silu", loop_silu, loop_silu_grad2, 1},
    {"silu_grad", loop_silu_grad, loop_silu_grad2, 2},
    {"gelu", loop_gelu, loop_gelu_grad2, 1},
    {"gelu_grad", loop_gelu_grad, loop_gelu_grad2, 2},
    {"net_gelu", loop_net_gelu, loop_net_gelu_grad2, 1},
    {"net_gelu_grad", loop_net_gelu_grad, loop_net_gelu_grad2, 2},
};
enum { TWINS = sizeof twins / sizeof *twins };

/* ---- points ------------------------------------------------------------------------------------------------------ */

static uint64_t seed_used, random_state;

static uint64_t next_random(void) { /* SplitMix64 */
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double uniform(double low, double high) { return low + (high - low) * ((double)(next_random() >> 11) * 0x1p-53); }

static void seed_random(void) { random_state = seed_used = seed_given(20240229); }

static size_t points_of_function(void) {
    const char *text = getenv("NF_VMATH_POINTS");
    const size_t points = NF_SINGLE_BUILD ? 1500000 : 12000;
    return text ? strtoull(text, NULL, 0) : is_brief() ? points / 10 : points;
}

/* A third over the whole range, a third near 0, a third over magnitudes, some of any bits at all. */
static real random_point(const struct function *f) {
    switch (next_random() % 7) {
    case 0:
        return vm_from_bits((real_uint)next_random());
    case 1:
    case 2:
        return (real)uniform(f->low, f->high);
    case 3:
    case 4:
        return (real)uniform(fmax(f->low, -4), fmin(f->high, 4));
    default:
        return (real)(ldexp(uniform(1, 2), (int)uniform(-70, 10)) * (next_random() & 1 ? 1 : -1));
    }
}

/* Where the functions change their course, or the reduction its integer. */
static double anchor(int i) {
    static const double edges[] = {
        0,
        1,
        0.5,
        0.25,
        0.125,
        0.75,
        0.70710678118654752,
        1.4142135623730950,
        0.41421356237309505,
        0.29289321881345248,
        0.7517915246935645,
        1.2784645427610738,
        0.00357929803, /* where single precision's gelu has its largest errors, */
        0.0315833911,
        7.87132025,    /* and that of nets with AVX-512 */
        9.18827724,
        3.30081773,
        VM_EXP_EDGE,
        VM_LIFTED_EDGE,
        VM_TANH_EDGE,
        VM_GELU_EDGE,
        REAL_MIN,
        REAL_MAX,
        REAL_EPS,
        88.722839,
        103.27893,
        103.97208,
        87.336545,
        709.782712893384,
        708.3964185322641,
        744.4400719213812,
        745.1332191019412,
        13.0,
        14.4,
        37.5,
        37.6,
        38.5,
        0.549306144334055,
        VM_LIFTED_EDGE / 2,
    };
    enum { EDGES = sizeof edges / sizeof *edges };
    if (i < EDGES) {
        return edges[i];
    }
    i -= EDGES;
    if (i < 40) {
        return (i - 20 + 0.5) * 0.69314718055994531; /* exp's reduction */
    }
    i -= 40;
    if (i < 80) {
        return sqrt(i + 0.5) * 1.1774100225154747; /* the same for gelu's: x^2 / 2 = (i + 1/2) log 2 */
    }
    i -= 80;
    if (i < 2200) {
        return ldexp(1, i - 1100);
    }
    return NAN;
}

/* Fills a block with the next points: anchors with their neighbours of both signs, then random ones. */
static void fill(const struct function *f, size_t position, real *x) {
    for (size_t i = 0; i < BLOCK; i++, position++) {
        const double a = anchor((int)(position / 10 < 4000 ? position / 10 : 4000));
        if (isnan(a)) {
            x[i] = random_point(f);
        } else {
            const real_uint bits = vm_bits((real)fabs(a)) + (real_uint)(position % 5) - 2;
            x[i] = vm_from_bits(position % 10 < 5 ? bits : bits ^ VM_SIGN_BIT);
        }
    }
}

/* ---- tests -------------------------------------------------------------------------------------------------------- */

static double ulp(double size) {
    int exponent;
    frexp(fmin(fmax(size, REAL_MIN), REAL_MAX), &exponent);
    return ldexp(1, exponent - (VM_MANTISSA_BITS + 1));
}

/* Error in ulps. About the limit of overflow, infinity is the number after the largest one. */
static double error_in_ulps(real got, struct expected *e) {
    const real rounded = (real)expected_value(e);
    if (isnan(rounded) || isnan(got)) {
        return isnan(rounded) && isnan(got) ? 0 : INFINITY;
    }
    if (isinf(rounded)) {
        return got == rounded ? 0 : got == vm_copysign(REAL_MAX, rounded) ? 1 : INFINITY;
    }
    if (isinf(got)) {
        return rounded == vm_copysign(REAL_MAX, got) ? 1 : INFINITY;
    }
    return distance((double)got, e, ulp(expected_size(e)));
}

struct worst {
    double error, x, got, expected;
};

static void measure(const struct function *f, const real *x, struct worst *worst) {
    static real out[MAX_OUTPUTS][BLOCK];
    struct expected e[MAX_OUTPUTS];
    expected_init(e);
    f->loop(x, BLOCK, out[0], out[1], out[2]);
    for (size_t i = 0; i < BLOCK; i++) {
        if (f->reference == ref_sin2pi_cos2pi && !(vm_abs(x[i]) <= (real)0.5)) {
            continue; /* its domain is half a turn to each side */
        }
        f->reference((double)x[i], e);
        for (int o = 0; o < f->outputs; o++) {
            const double error = error_in_ulps(out[o][i], &e[o]);
            if (error > worst[o].error) {
                worst[o] = (struct worst){error, (double)x[i], (double)out[o][i], expected_value(&e[o])};
            }
        }
    }
    expected_clear(e);
}

START_TEST(errors_stay_within_their_bounds) {
    const struct function *f = &functions[_i];
    static real x[BLOCK];
    struct worst worst[MAX_OUTPUTS] = {{0}};
    const size_t points = points_of_function() + 23000;
    seed_random();
    for (size_t done = 0; done < points; done += BLOCK) {
        fill(f, done, x);
        measure(f, x, worst);
    }
    if (NF_SINGLE_BUILD && getenv("NF_VMATH_EXHAUSTIVE")) {
        for (uint64_t bits = 0; bits <= UINT32_MAX; bits += BLOCK) {
            for (size_t i = 0; i < BLOCK; i++) {
                x[i] = vm_from_bits((real_uint)(bits + i));
            }
            measure(f, x, worst);
        }
    }
    for (int o = 0; o < f->outputs && getenv("NF_VMATH_REPORT"); o++) {
        fprintf(stderr, "%-16s %d  %.3f ulp (limit %g) at %.17g\n", f->name, o, worst[o].error, f->bound[o], worst[o].x);
    }
    for (int o = 0; o < f->outputs; o++) {
        ck_assert_msg(worst[o].error <= f->bound[o],
                      "%s output %d: %.3f ulp, limit %g, at x = %.17g (%a): got %.17g, expected %.17g; seed %" PRIu64, f->name,
                      o, worst[o].error, f->bound[o], worst[o].x, worst[o].x, worst[o].got, worst[o].expected, seed_used);
    }
}
END_TEST

static int same(real a, real b) { return vm_bits(a) == vm_bits(b) || (isnan(a) && isnan(b)); }

START_TEST(vector_body_and_scalar_tail_agree) {
    const struct function *f = &functions[_i];
    static real x[BLOCK], block[MAX_OUTPUTS][BLOCK];
    seed_random();
    for (size_t done = 0; done < 40 * BLOCK; done += BLOCK) {
        fill(f, done, x);
        f->loop(x, BLOCK, block[0], block[1], block[2]);
        for (size_t i = 0; i < BLOCK; i++) {
            real one[MAX_OUTPUTS];
            f->loop(&x[i], 1, &one[0], &one[1], &one[2]);
            for (int o = 0; o < f->outputs; o++) {
                ck_assert_msg(same(block[o][i], one[o]), "%s output %d at %a: %a in a block, %a alone; seed %" PRIu64, f->name,
                              o, (double)x[i], (double)block[o][i], (double)one[o], seed_used);
            }
        }
    }
}
END_TEST

START_TEST(forms_with_more_outputs_give_the_same_bits) {
    const struct twin *twin = &twins[_i];
    static real x[BLOCK], a[MAX_OUTPUTS][BLOCK], b[MAX_OUTPUTS][BLOCK];
    seed_random();
    for (size_t done = 0; done < 40 * BLOCK; done += BLOCK) {
        fill(&functions[9], done, x);
        twin->loop(x, BLOCK, a[0], a[1], a[2]);
        twin->full(x, BLOCK, b[0], b[1], b[2]);
        for (int o = 0; o < twin->outputs; o++) {
            for (size_t i = 0; i < BLOCK; i++) {
                ck_assert_msg(same(a[o][i], b[o][i]), "%s output %d at %a: %a, %a; seed %" PRIu64, twin->name, o, (double)x[i],
                              (double)a[o][i], (double)b[o][i], seed_used);
            }
        }
    }
}
END_TEST

START_TEST(exp_of_a_normal_result_has_the_bits_of_exp) {
    const int steps = 2000000;
    for (int i = -steps; i <= steps; i++) {
        const real x = (real)(VM_EXP_NORMAL * (double)i / steps), got = vm_exp_normal(x), want = vm_exp(x);
        ck_assert_msg(same(got, want), "exp(%.17g) is %.17g and not %.17g", (double)x, (double)got, (double)want);
    }
    ck_assert(isnan(vm_exp_normal((real)NAN)));
}
END_TEST

START_TEST(bounded_functions_stay_in_their_range) {
    static real x[BLOCK], f[BLOCK], g[BLOCK], h[BLOCK];
    seed_random();
    for (size_t done = 0; done < 100 * BLOCK; done += BLOCK) {
        fill(&functions[5], done, x);
        loop_tanh_sech2(x, BLOCK, f, g, h);
        for (size_t i = 0; i < BLOCK; i++) {
            ck_assert_msg(isnan(x[i]) || (vm_abs(f[i]) <= 1 && g[i] >= 0 && g[i] <= 1), "tanh_sech2 at %a", (double)x[i]);
        }
        loop_sigmoid(x, BLOCK, f, g, h);
        for (size_t i = 0; i < BLOCK; i++) {
            ck_assert_msg(isnan(x[i]) || (f[i] >= 0 && f[i] <= 1), "sigmoid at %a", (double)x[i]);
        }
        for (size_t i = 0; i < BLOCK; i++) {
            x[i] = (real)uniform(-0.5, 0.5);
        }
        loop_sin2pi_cos2pi(x, BLOCK, f, g, h);
        for (size_t i = 0; i < BLOCK; i++) {
            ck_assert_msg(vm_abs(f[i]) <= 1 && vm_abs(g[i]) <= 1, "sin2pi_cos2pi at %a", (double)x[i]);
        }
    }
}
END_TEST

/* Results that are exact. A zero whose sign is free (the limit of a function at minus infinity) is ANY_ZERO. */
#define ANY_ZERO REAL_MIN

static const struct special {
    const char *name;
    loop_function *loop;
    real x;
    int outputs;
    real expected[MAX_OUTPUTS];
} specials[] = {
/* clang-format off */
#define SPECIAL1(name, x, f) {#name, loop_##name, (real)(x), 1, {(real)(f), 0, 0}}
#define SPECIAL2(name, x, f, g) {#name, loop_##name, (real)(x), 2, {(real)(f), (real)(g), 0}}
#define SPECIAL3(name, x, f, g, h) {#name, loop_##name, (real)(x), 3, {(real)(f), (real)(g), (real)(h)}}
/* clang-format on */
#define TINY (REAL_MIN * REAL_EPS) /* the smallest positive number */
#define GELU_SPECIALS(plain, grad2)                                                                                            \
    SPECIAL3(grad2, 0, 0, 0.5, 2 * VM_INV_SQRT_2PI),                                                                           \
    SPECIAL3(grad2, -0.0, -0.0, 0.5, 2 * VM_INV_SQRT_2PI),                                                                     \
    SPECIAL3(grad2, INFINITY, INFINITY, 1, ANY_ZERO),                                                                          \
    SPECIAL3(grad2, -INFINITY, ANY_ZERO, ANY_ZERO, ANY_ZERO),                                                                  \
    SPECIAL3(grad2, -REAL_MAX, ANY_ZERO, ANY_ZERO, ANY_ZERO),                                                                  \
    SPECIAL3(grad2, REAL_MAX, REAL_MAX, 1, ANY_ZERO),                                                                          \
    SPECIAL3(grad2, NAN, NAN, NAN, NAN),                                                                                       \
    SPECIAL1(plain, 64 * TINY, 32 * TINY),                                                                                     \
    SPECIAL1(plain, -64 * TINY, -32 * TINY),                                                                                   \
    SPECIAL1(plain, REAL_MIN, REAL_MIN / 2)
    SPECIAL1(exp, 0, 1),
    SPECIAL1(exp, -0.0, 1),
    SPECIAL1(exp, INFINITY, INFINITY),
    SPECIAL1(exp, -INFINITY, 0),
    SPECIAL1(exp, NAN, NAN),
    SPECIAL1(exp, REAL_MAX, INFINITY),
    SPECIAL1(exp, -REAL_MAX, 0),
    SPECIAL1(exp, TINY, 1),
    SPECIAL1(expm1, 0, 0),
    SPECIAL1(expm1, -0.0, -0.0),
    SPECIAL1(expm1, INFINITY, INFINITY),
    SPECIAL1(expm1, -INFINITY, -1),
    SPECIAL1(expm1, NAN, NAN),
    SPECIAL1(expm1, TINY, TINY),
    SPECIAL1(expm1, -TINY, -TINY),
    SPECIAL1(expm1, -REAL_MAX, -1),
    SPECIAL1(log, 1, 0),
    SPECIAL1(log, 0, -INFINITY),
    SPECIAL1(log, -0.0, -INFINITY),
    SPECIAL1(log, INFINITY, INFINITY),
    SPECIAL1(log, -TINY, NAN),
    SPECIAL1(log, -INFINITY, NAN),
    SPECIAL1(log, NAN, NAN),
    SPECIAL1(log, -2.385, NAN),
    SPECIAL1(log1p, 0, 0),
    SPECIAL1(log1p, -0.0, -0.0),
    SPECIAL1(log1p, -1, -INFINITY),
    SPECIAL1(log1p, INFINITY, INFINITY),
    SPECIAL1(log1p, -INFINITY, NAN),
    SPECIAL1(log1p, -1.063, NAN),
    SPECIAL1(log1p, NAN, NAN),
    SPECIAL1(log1p, TINY, TINY),
    SPECIAL1(log1p, -TINY, -TINY),
    SPECIAL1(sqrt, -0.0, -0.0),
    SPECIAL1(sqrt, -1.7, NAN),
    SPECIAL1(sqrt, INFINITY, INFINITY),
    SPECIAL1(sigmoid, 0, 0.5),
    SPECIAL1(sigmoid, -0.0, 0.5),
    SPECIAL1(sigmoid, INFINITY, 1),
    SPECIAL1(sigmoid, -INFINITY, 0),
    SPECIAL1(sigmoid, NAN, NAN),
    SPECIAL1(sigmoid, REAL_MAX, 1),
    SPECIAL1(sigmoid, -REAL_MAX, 0),
    SPECIAL2(tanh_sech2, 0, 0, 1),
    SPECIAL2(tanh_sech2, -0.0, -0.0, 1),
    SPECIAL2(tanh_sech2, INFINITY, 1, 0),
    SPECIAL2(tanh_sech2, -INFINITY, -1, 0),
    SPECIAL2(tanh_sech2, NAN, NAN, NAN),
    SPECIAL2(tanh_sech2, TINY, TINY, 1),
    SPECIAL3(tanh_grad2, INFINITY, 1, 0, ANY_ZERO),
    SPECIAL3(tanh_grad2, NAN, NAN, NAN, NAN),
    SPECIAL3(tanh_grad2, -TINY, -TINY, 1, 2 * TINY),
    SPECIAL3(softplus_grad2, INFINITY, INFINITY, 1, 0),
    SPECIAL3(softplus_grad2, -INFINITY, 0, 0, 0),
    SPECIAL3(softplus_grad2, NAN, NAN, NAN, NAN),
    SPECIAL3(silu_grad2, 0, 0, 0.5, 0.5),
    SPECIAL3(silu_grad2, -0.0, -0.0, 0.5, 0.5),
    SPECIAL3(silu_grad2, INFINITY, INFINITY, 1, ANY_ZERO),
    SPECIAL3(silu_grad2, -INFINITY, ANY_ZERO, ANY_ZERO, ANY_ZERO),
    SPECIAL3(silu_grad2, -REAL_MAX, ANY_ZERO, ANY_ZERO, ANY_ZERO),
    SPECIAL3(silu_grad2, REAL_MAX, REAL_MAX, 1, ANY_ZERO),
    SPECIAL3(silu_grad2, NAN, NAN, NAN, NAN),
    SPECIAL1(silu, 64 * TINY, 32 * TINY),
    GELU_SPECIALS(gelu, gelu_grad2),
    GELU_SPECIALS(net_gelu, net_gelu_grad2),
    SPECIAL2(sin2pi_cos2pi, 0, 0, 1),
    SPECIAL2(sin2pi_cos2pi, -0.0, -0.0, 1),
    SPECIAL2(sin2pi_cos2pi, 0.25, 1, ANY_ZERO),
    SPECIAL2(sin2pi_cos2pi, -0.25, -1, ANY_ZERO),
    SPECIAL2(sin2pi_cos2pi, 0.5, ANY_ZERO, -1),
    SPECIAL2(sin2pi_cos2pi, -0.5, ANY_ZERO, -1),
    SPECIAL2(sin2pi_cos2pi, NAN, NAN, NAN),
    SPECIAL2(sin2pi_cos2pi, INFINITY, NAN, NAN),
};
enum { SPECIALS = sizeof specials / sizeof *specials };

/* Each value is put through a block as well as alone: the vector body and the scalar tail. */
START_TEST(special_values) {
    const struct special *s = &specials[_i];
    static real x[BLOCK], out[MAX_OUTPUTS][BLOCK];
    for (size_t i = 0; i < BLOCK; i++) {
        x[i] = s->x;
    }
    for (size_t n = 1; n <= BLOCK; n += BLOCK - 1) {
        s->loop(x, n, out[0], out[1], out[2]);
        for (int o = 0; o < s->outputs; o++) {
            const real want = s->expected[o], got = out[o][n / 2];
            ck_assert_msg(same(got, want) || (want == ANY_ZERO && got == 0), "%s(%a) output %d: got %a, expected %a", s->name,
                          (double)s->x, o, (double)got, (double)want);
        }
    }
}
END_TEST

static Suite *vmath_suite(void) {
    Suite *suite = suite_create(NF_SINGLE_BUILD ? "vmath (float)" : "vmath (double)");
    TCase *cases = tcase_create("vmath");
    tcase_set_timeout(cases, 0);
    tcase_add_loop_test(cases, errors_stay_within_their_bounds, 0, FUNCTIONS);
    tcase_add_loop_test(cases, vector_body_and_scalar_tail_agree, 0, FUNCTIONS);
    tcase_add_loop_test(cases, forms_with_more_outputs_give_the_same_bits, 0, TWINS);
    tcase_add_loop_test(cases, special_values, 0, SPECIALS);
    tcase_add_test(cases, exp_of_a_normal_result_has_the_bits_of_exp);
    tcase_add_test(cases, bounded_functions_stay_in_their_range);
    suite_add_tcase(suite, cases);
    return suite;
}

int main(void) { return run_suite(vmath_suite()); }
