/*
 * References of the elementary functions that tests/test_vmath.c checks. A function ref_f(x, out) sets the expected
 * outputs of f at x: with MPFR for double, with the C library's double functions for float, whose own error, some 1e-9
 * of a float's ulp, does not count.
 */
#ifndef NF_TESTS_VMATH_REFERENCE_H
#define NF_TESTS_VMATH_REFERENCE_H

#include <math.h>
#include <mpfr.h>

#include "engine/real.h"

enum { MAX_OUTPUTS = 3, PRECISION = 180 };

/*
 * An expected output and the size against which its error is measured: its own, or, for an output with a zero at an
 * irrational place, the sum of the sizes of its terms.
 */
#if NF_SINGLE_BUILD

struct expected {
    double value, size;
};

static struct expected plain(double value) { return (struct expected){value, fabs(value)}; }
static struct expected terms(double a, double b) { return (struct expected){a + b, fabs(a) + fabs(b)}; }

static void ref_exp(double x, struct expected *out) { out[0] = plain(exp(x)); }
static void ref_expm1(double x, struct expected *out) { out[0] = plain(expm1(x)); }
static void ref_log(double x, struct expected *out) { out[0] = plain(log(x)); }
static void ref_log1p(double x, struct expected *out) { out[0] = plain(log1p(x)); }
static void ref_sqrt(double x, struct expected *out) { out[0] = plain(sqrt(x)); }

static double sech2(double x) {
    const double e = exp(-2 * fabs(x));
    return 4 * e / ((1 + e) * (1 + e));
}

static void ref_tanh_sech2(double x, struct expected *out) {
    out[0] = plain(tanh(x));
    out[1] = plain(sech2(x));
}

static void ref_tanh(double x, struct expected *out) {
    const double t = tanh(x), s = sech2(x);
    out[0] = plain(t);
    out[1] = (struct expected){s, 1 + t * t};
    out[2] = (struct expected){-2 * t * s, 2 * fabs(t)};
}

static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }

static void ref_sigmoid(double x, struct expected *out) { out[0] = plain(sigmoid(x)); }

static void ref_softplus(double x, struct expected *out) {
    out[0] = plain(x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)));
    out[1] = plain(sigmoid(x));
    out[2] = plain(sigmoid(x) * sigmoid(-x));
}

/* x for which products with a decaying function are finite: further out they have long become 0 */
static double clip(double x) { return fmin(fmax(x, -3e38), 3e38); }

static void ref_silu(double x, struct expected *out) {
    const double s = sigmoid(x), c = sigmoid(-x), y = clip(x);
    out[0] = plain(x > 0 ? x * s : y * s);
    out[1] = terms(s, y * s * c);
    out[2] = terms(2 * s * c, -y * tanh(y / 2) * s * c);
}

static void ref_gelu(double x, struct expected *out) {
    const double y = clip(x), density = exp(-x * x / 2) * 0.39894228040143267794;
    const double probability = 0.5 * erfc(-x * 0.70710678118654752440);
    out[0] = plain(x > 0 ? x * probability : y * probability);
    out[1] = terms(probability, y * density);
    out[2] = terms(2 * density, -y * y * density);
    out[2].size = NF_HAS_FMA ? fabs(out[2].value) : out[2].size;
}

static void ref_sin2pi_cos2pi(double u, struct expected *out) {
    const double quarter = rint(4 * u), r = (u - quarter / 4) * 6.28318530717958647693;
    const int quadrant = (int)quarter & 3;
    const double s = quadrant & 1 ? cos(r) : sin(r), c = quadrant & 1 ? sin(r) : cos(r);
    out[0] = plain(quadrant & 2 ? -s : s);
    out[1] = plain((quadrant + 1) & 2 ? -c : c);
}

static void expected_init(struct expected *out) { (void)out; }
static void expected_clear(struct expected *out) { (void)out; }
static double expected_value(const struct expected *e) { return e->value; }
static double expected_size(const struct expected *e) { return e->size; }
static double distance(double got, const struct expected *e, double unit) { return fabs(got - e->value) / unit; }

#else

struct expected {
    mpfr_t value, size;
};

static mpfr_t t0, t1, t2; /* scratch numbers */

static void set_plain(struct expected *e) { mpfr_abs(e->size, e->value, MPFR_RNDN); }

static void set_terms(struct expected *e, mpfr_t a, mpfr_t b) {
    mpfr_add(e->value, a, b, MPFR_RNDN);
    mpfr_abs(a, a, MPFR_RNDN);
    mpfr_abs(b, b, MPFR_RNDN);
    mpfr_add(e->size, a, b, MPFR_RNDN);
}

#define REF_MPFR(name, function)                                                                                               \
    static void ref_##name(double x, struct expected *out) {                                                                   \
        mpfr_set_d(t0, x, MPFR_RNDN);                                                                                          \
        function(out[0].value, t0, MPFR_RNDN);                                                                                 \
        set_plain(&out[0]);                                                                                                    \
    }
REF_MPFR(exp, mpfr_exp)
REF_MPFR(expm1, mpfr_expm1)
REF_MPFR(log, mpfr_log)
REF_MPFR(log1p, mpfr_log1p)
REF_MPFR(sqrt, mpfr_sqrt)

static void ref_tanh_sech2(double x, struct expected *out) {
    mpfr_set_d(t0, x, MPFR_RNDN);
    mpfr_sinh_cosh(t1, t2, t0, MPFR_RNDN);
    mpfr_tanh(out[0].value, t0, MPFR_RNDN);
    mpfr_sqr(t2, t2, MPFR_RNDN);
    mpfr_ui_div(out[1].value, 1, t2, MPFR_RNDN);
    set_plain(&out[0]);
    set_plain(&out[1]);
}

static void ref_tanh(double x, struct expected *out) {
    ref_tanh_sech2(x, out);
    mpfr_sqr(t1, out[0].value, MPFR_RNDN);
    mpfr_add_ui(out[1].size, t1, 1, MPFR_RNDN);
    mpfr_mul_2ui(out[2].size, out[0].size, 1, MPFR_RNDN);
    mpfr_mul(t1, out[0].value, out[1].value, MPFR_RNDN);
    mpfr_mul_si(out[2].value, t1, -2, MPFR_RNDN);
}

/* exp(x) in t1, sigmoid(x) in t2, from x in t0 */
static void sigmoid_of_t0(void) {
    mpfr_exp(t1, t0, MPFR_RNDN);
    mpfr_neg(t2, t0, MPFR_RNDN);
    mpfr_exp(t2, t2, MPFR_RNDN);
    mpfr_add_ui(t2, t2, 1, MPFR_RNDN);
    mpfr_ui_div(t2, 1, t2, MPFR_RNDN);
}

static void ref_sigmoid(double x, struct expected *out) {
    mpfr_set_d(t0, x, MPFR_RNDN);
    sigmoid_of_t0();
    mpfr_set(out[0].value, t2, MPFR_RNDN);
    set_plain(&out[0]);
}

/* sigmoid(x) in out[1], sigmoid(x) sigmoid(-x) in out[2], exp(x) in t1 */
static void logistic(double x, struct expected *out) {
    mpfr_set_d(t0, x, MPFR_RNDN);
    sigmoid_of_t0();
    mpfr_set(out[1].value, t2, MPFR_RNDN);
    mpfr_neg(t0, t0, MPFR_RNDN);
    sigmoid_of_t0();
    mpfr_mul(out[2].value, out[1].value, t2, MPFR_RNDN);
    mpfr_neg(t0, t0, MPFR_RNDN);
    mpfr_exp(t1, t0, MPFR_RNDN);
    set_plain(&out[1]);
    set_plain(&out[2]);
}

static void ref_softplus(double x, struct expected *out) {
    logistic(x, out);
    if (x > 0) {
        mpfr_ui_div(t1, 1, t1, MPFR_RNDN);
    }
    mpfr_log1p(out[0].value, t1, MPFR_RNDN);
    if (x > 0) {
        mpfr_add(out[0].value, out[0].value, t0, MPFR_RNDN);
    }
    set_plain(&out[0]);
}

/* x for which products with a decaying function are finite: further out they have long become 0 */
static void set_finite(mpfr_t t, double x) { mpfr_set_d(t, isinf(x) ? copysign(DBL_MAX, x) : x, MPFR_RNDN); }

static void ref_silu(double x, struct expected *out) {
    logistic(x, out);
    if (x < 0) {
        set_finite(t0, x);
    }
    mpfr_mul(out[0].value, t0, out[1].value, MPFR_RNDN);
    set_plain(&out[0]);
    set_finite(t0, x);
    mpfr_set(t1, out[1].value, MPFR_RNDN);
    mpfr_mul(t2, t0, out[2].value, MPFR_RNDN);
    set_terms(&out[1], t1, t2);
    mpfr_div_2ui(t1, t0, 1, MPFR_RNDN);
    mpfr_tanh(t1, t1, MPFR_RNDN);
    mpfr_mul(t1, t1, t0, MPFR_RNDN);
    mpfr_mul(t1, t1, out[2].value, MPFR_RNDN);
    mpfr_neg(t1, t1, MPFR_RNDN);
    mpfr_mul_2ui(t2, out[2].value, 1, MPFR_RNDN);
    set_terms(&out[2], t1, t2);
}

static void ref_gelu(double x, struct expected *out) {
    mpfr_t probability, density;
    mpfr_inits2(PRECISION, probability, density, (mpfr_ptr)0);
    mpfr_const_pi(t1, MPFR_RNDN);
    mpfr_mul_2ui(t1, t1, 1, MPFR_RNDN);
    mpfr_sqrt(t1, t1, MPFR_RNDN);
    mpfr_set_d(t0, x, MPFR_RNDN);
    mpfr_sqr(t2, t0, MPFR_RNDN);
    mpfr_div_si(t2, t2, -2, MPFR_RNDN);
    mpfr_exp(t2, t2, MPFR_RNDN);
    mpfr_div(density, t2, t1, MPFR_RNDN);
    mpfr_set_ui(t1, 2, MPFR_RNDN);
    mpfr_sqrt(t1, t1, MPFR_RNDN);
    mpfr_div(t2, t0, t1, MPFR_RNDN);
    mpfr_neg(t2, t2, MPFR_RNDN);
    mpfr_erfc(t2, t2, MPFR_RNDN);
    mpfr_div_2ui(probability, t2, 1, MPFR_RNDN);
    if (x < 0) {
        set_finite(t0, x);
    }
    mpfr_mul(out[0].value, t0, probability, MPFR_RNDN);
    set_plain(&out[0]);
    set_finite(t0, x);
    mpfr_mul(t2, t0, density, MPFR_RNDN);
    mpfr_set(t1, t2, MPFR_RNDN);
    set_terms(&out[1], probability, t2);
    mpfr_mul(t1, t1, t0, MPFR_RNDN);
    mpfr_neg(t1, t1, MPFR_RNDN);
    mpfr_mul_2ui(t2, density, 1, MPFR_RNDN);
    set_terms(&out[2], t1, t2);
    if (NF_HAS_FMA) {
        set_plain(&out[2]);
    }
    mpfr_clears(probability, density, (mpfr_ptr)0);
}

static void ref_sin2pi_cos2pi(double u, struct expected *out) {
    const double quarter = rint(4 * u);
    const int quadrant = (int)quarter & 3;
    mpfr_const_pi(t0, MPFR_RNDN);
    mpfr_mul_2ui(t0, t0, 1, MPFR_RNDN);
    mpfr_mul_d(t0, t0, u - quarter / 4, MPFR_RNDN);
    mpfr_sin_cos(t1, t2, t0, MPFR_RNDN);
    mpfr_set(out[0].value, quadrant & 1 ? t2 : t1, MPFR_RNDN);
    mpfr_set(out[1].value, quadrant & 1 ? t1 : t2, MPFR_RNDN);
    mpfr_mul_si(out[0].value, out[0].value, quadrant & 2 ? -1 : 1, MPFR_RNDN);
    mpfr_mul_si(out[1].value, out[1].value, (quadrant + 1) & 2 ? -1 : 1, MPFR_RNDN);
    set_plain(&out[0]);
    set_plain(&out[1]);
}

static void expected_init(struct expected *out) {
    mpfr_inits2(PRECISION, t0, t1, t2, (mpfr_ptr)0);
    for (int o = 0; o < MAX_OUTPUTS; o++) {
        mpfr_inits2(PRECISION, out[o].value, out[o].size, (mpfr_ptr)0);
    }
}

static void expected_clear(struct expected *out) {
    mpfr_clears(t0, t1, t2, (mpfr_ptr)0);
    for (int o = 0; o < MAX_OUTPUTS; o++) {
        mpfr_clears(out[o].value, out[o].size, (mpfr_ptr)0);
    }
    mpfr_free_cache();
}

static double expected_value(const struct expected *e) { return mpfr_get_d(e->value, MPFR_RNDN); }
static double expected_size(const struct expected *e) { return mpfr_get_d(e->size, MPFR_RNDN); }

static double distance(double got, const struct expected *e, double unit) {
    mpfr_sub_d(t0, e->value, got, MPFR_RNDN);
    mpfr_div_d(t0, t0, unit, MPFR_RNDN); /* here, because a part of the smallest number is not a double */
    return fabs(mpfr_get_d(t0, MPFR_RNDN));
}

#endif

#endif
