/* engine-test: the root finder alone, on functions that are flat, steep, discontinuous or awkward, all lanes different. */
#include "checks.h"
#include <string.h>

#include "engine/kernels/vmath.h"
#include "engine/roots/newton.h"

#define PANELS 3
#define LANES (PANELS * PANEL)
#define MOST_PASSES (NEWTON_FREE + 2 * 8 * (int)sizeof(real) + 4)

/* f(t) = shape(t) - target, lane by lane, with all that happened. */
typedef struct problem {
    double (*shape)(double t), (*slope)(double t);
    double target[LANES];
    real level; /* of the residual */
    real last[LANES];
    double seen[LANES][160]; /* iterates */
    int passes[LANES];
    int mode; /* 0: Newton's steps, 1: none, 2: absurd, 3: NaN */
} problem;

static void residual_of(void *user, size_t panel, const real *t, real *residual, real *level) {
    problem *p = user;
    for (size_t l = 0; l < PANEL; l++) {
        const size_t lane = panel * PANEL + l;
        residual[l] = (real)(p->shape((double)t[l]) - p->target[lane]);
        level[l] = p->level;
        p->last[lane] = t[l];
        if (p->passes[lane] == 0 || p->seen[lane][p->passes[lane] - 1] != (double)t[l]) {
            ck_assert_int_lt(p->passes[lane], 160);
            p->seen[lane][p->passes[lane]++] = (double)t[l];
        }
    }
}

static void step_of(void *user, size_t panel, const real *t, const real *residual, real *step) {
    const problem *p = user;
    (void)panel;
    for (size_t l = 0; l < PANEL; l++)
        step[l] = p->mode == 0   ? -residual[l] / (real)p->slope((double)t[l])
                  : p->mode == 1 ? 0
                  : p->mode == 2 ? (residual[l] > 0 ? REAL_MAX : -REAL_MAX)
                                 : (real)NAN;
}

static newton_panel states[PANELS] __attribute__((aligned(NF_ALIGN)));
static problem given;
static real next_level; /* of the next run */

static uint64_t solve(const real *guess, const real *low, const real *high, size_t rows) {
    const newton_function f = {residual_of, step_of, &given};
    for (size_t p = 0; p < PANELS; p++)
        R(newton_begin)(states + p, guess + p * PANEL, low + p * PANEL, high + p * PANEL);
    const uint64_t evaluations = R(newton_solve)(&f, PANELS, rows, states);
    for (size_t l = 0; l < LANES; l++) {
        ck_assert_msg(given.passes[l] <= MOST_PASSES, "lane %zu took %d passes", l, given.passes[l]);
        ck_assert_msg(memcmp(&given.last[l], &states[l / PANEL].t[l % PANEL], sizeof(real)) == 0, "lane %zu was not last evaluated at its root", l);
    }
    return evaluations;
}

static real root(size_t lane) { return states[lane / PANEL].t[lane % PANEL]; }

static real next_up(real x) { return NF_SINGLE_BUILD ? (real)nextafterf((float)x, INFINITY) : (real)nextafter((double)x, INFINITY); }
static real next_down(real x) { return NF_SINGLE_BUILD ? (real)nextafterf((float)x, -INFINITY) : (real)nextafter((double)x, -INFINITY); }

static double cube(double t) { return t * t * t; }
static double cube_slope(double t) { return 3 * t * t; }
static double steep(double t) { return sinh(30 * t); }
static double steep_slope(double t) { return 30 * cosh(30 * t); }
static double flat(double t) { return t < -1 ? t + 1 : t > 1 ? t - 1 : 0; }
static double flat_slope(double t) { return t < -1 || t > 1 ? 1 : 0; }
static double jump(double t) { return t < 0.2385 ? -1 : 1; }
static double no_slope(double t) { return 0 * t; }
static double identity(double t) { return t; }
static double one(double t) { return 1 + 0 * t; }
static double exponential(double t) { return exp(t); }

/* In one lane a guess, in the next another; brackets and targets by a rule. */
static uint64_t run(double (*shape)(double), double (*slope)(double), int mode, double start, double stride, double low, double high) {
    real guess[LANES], lows[LANES], highs[LANES];
    memset(&given, 0, sizeof given);
    given.shape = shape;
    given.slope = slope;
    given.mode = mode;
    given.level = next_level;
    for (size_t l = 0; l < LANES; l++) {
        given.target[l] = (double)(real)(start + stride * (double)l);
        guess[l] = (real)(low + (high - low) * (0.385 + 0.01 * (double)l));
        lows[l] = (real)low;
        highs[l] = (real)high;
    }
    return solve(guess, lows, highs, LANES);
}

/* The root is where the residual is 0, or the residual changes its sign at it. */
static void check_roots(double low, double high) {
    for (size_t l = 0; l < LANES; l++) {
        const double t = (double)root(l), f = given.shape(t) - given.target[l];
        ck_assert_msg(t >= (double)(real)low && t <= (double)(real)high, "lane %zu: %g is outside", l, t);
        if ((double)fabs(f) <= (double)given.level)
            continue;
        const double other = (double)(f > 0 ? next_down(root(l)) : next_up(root(l)));
        const double beyond = given.shape(other) - given.target[l];
        ck_assert_msg(f * beyond <= 0 && fabs(f) <= fabs(beyond), "lane %zu: residual %g at %.17g, %g beside it", l, f, t, beyond);
    }
}

START_TEST(smooth_functions) {
    for (int mode = 0; mode < 4; mode++) {
        run(cube, cube_slope, mode, -1.385, 0.0713, -30.5, 41.25);
        check_roots(-30.5, 41.25);
        run(steep, steep_slope, mode, -1e8, 3.1e6, -2.25, 2.25);
        check_roots(-2.25, 2.25);
        run(exponential, exponential, mode, 1e-6, 0.2385, -70, 80);
        check_roots(-70, 80);
    }
}
END_TEST

START_TEST(functions_that_newton_cannot) {
    run(jump, no_slope, 0, 0, 0, -3, 5);
    check_roots(-3, 5);
    for (size_t l = 0; l < LANES; l++)
        ck_assert_double_eq_tol((double)root(l), 0.2385, 0.2385 * (double)REAL_EPS);
    run(flat, flat_slope, 0, -1.5, 0.031, -20, 30);
    check_roots(-20, 30);
    run(flat, no_slope, 2, -1.5, 0.031, -20, 30);
    check_roots(-20, 30);
}
END_TEST

START_TEST(huge_brackets) {
    const double huge = NF_SINGLE_BUILD ? 1e38 : 1e300;
    for (int mode = 0; mode < 4; mode++) {
        run(identity, one, mode, -2.385, 0.117, -huge, huge);
        check_roots(-huge, huge);
        run(identity, one, mode, 1e-30, 3e-31, -huge, huge);
        check_roots(-huge, huge);
        run(jump, no_slope, mode, 0, 0, -(double)REAL_MAX, (double)REAL_MAX);
        check_roots(-(double)REAL_MAX, (double)REAL_MAX);
    }
}
END_TEST

START_TEST(roots_at_the_ends) {
    for (int mode = 0; mode < 4; mode++)
        for (int end = 0; end < 2; end++) {
            const double at = (double)(real)(end ? 7.385 : -2.385);
            run(identity, one, mode, at, 0, (double)(real)-2.385, (double)(real)7.385);
            for (size_t l = 0; l < LANES; l++)
                ck_assert_double_eq((double)root(l), at);
        }
}
END_TEST

START_TEST(brackets_of_width_zero) {
    const double at = (double)(real)2.385;
    const uint64_t evaluations = run(identity, one, 0, at, 0, at, at);
    ck_assert_uint_eq(evaluations, LANES);
    for (size_t l = 0; l < LANES; l++)
        ck_assert_double_eq((double)root(l), at);
    /* Without a root in it: it ends all the same. */
    run(identity, one, 0, 5, 0, at, at);
    for (size_t l = 0; l < LANES; l++)
        ck_assert_double_eq_tol((double)root(l), at, 3 * (double)REAL_EPS);
}
END_TEST

/* The digits double with each step near the root: |e'| <= C e^2 with C = f'' / (2 f'), and a quarter more. */
START_TEST(order_of_convergence) {
    next_level = 16 * REAL_EPS;
    run(cube, cube_slope, 0, 1.385, 0.0713, 0.5, 4);
    next_level = 0;
    for (size_t l = 0; l < LANES; l++) {
        const double exact = cbrt(given.target[l]);
        int seen = 0;
        for (int k = 0; k + 1 < given.passes[l]; k++) {
            const double e = fabs(given.seen[l][k] - exact), after = fabs(given.seen[l][k + 1] - exact);
            if (e > 0.1 || e < 1e-3)
                continue;
            seen++;
            ck_assert_msg(after <= 1.25 * e * e / exact + 4 * (double)REAL_EPS * exact, "lane %zu: %g after %g", l, after, e);
        }
        ck_assert_int_ge(seen, 1);
        ck_assert_int_le(given.passes[l], 9);
    }
}
END_TEST

/* A lane's root and iterates do not depend on its neighbours. */
START_TEST(lanes_are_independent) {
    static problem together;
    run(steep, steep_slope, 0, -1e8, 3.1e6, -2.25, 2.25);
    together = given;
    real guess[LANES], low[LANES], high[LANES];
    for (size_t chosen = 0; chosen < LANES; chosen += 5) {
        memset(given.passes, 0, sizeof given.passes);
        for (size_t l = 0; l < LANES; l++) {
            given.target[l] = together.target[chosen];
            guess[l] = (real)together.seen[chosen][0];
            low[l] = (real)-2.25;
            high[l] = (real)2.25;
        }
        const uint64_t evaluations = solve(guess, low, high, 1);
        ck_assert_int_eq(given.passes[0], together.passes[chosen]);
        ck_assert_mem_eq(given.seen[0], together.seen[chosen], sizeof(double) * (size_t)given.passes[0]);
        ck_assert_uint_ge(evaluations + 2, (uint64_t)given.passes[0]); /* the choice between two neighbours is not counted */
    }
}
END_TEST

static void nan_residual(void *user, size_t panel, const real *t, real *residual, real *level) {
    (void)user;
    for (size_t l = 0; l < PANEL; l++) {
        residual[l] = l % 3 == 1 ? (real)NAN : t[l] - (real)(0.1 * (double)(panel + l));
        level[l] = 0;
    }
}

static void unit_step(void *user, size_t panel, const real *t, const real *residual, real *step) {
    (void)user;
    (void)panel;
    (void)t;
    for (size_t l = 0; l < PANEL; l++)
        step[l] = -residual[l];
}

START_TEST(nan_ends_its_lane_alone) {
    const newton_function f = {nan_residual, unit_step, NULL};
    real guess[PANEL], low[PANEL], high[PANEL];
    for (size_t l = 0; l < PANEL; l++) {
        guess[l] = l % 3 == 2 ? (real)NAN : (real)2.385;
        low[l] = -10;
        high[l] = 10;
    }
    for (size_t p = 0; p < PANELS; p++)
        R(newton_begin)(states + p, guess, low, high);
    const uint64_t evaluations = R(newton_solve)(&f, PANELS, LANES, states);
    ck_assert_uint_le(evaluations, LANES * 6);
    for (size_t l = 0; l < LANES; l++)
        if (l % PANEL % 3 != 1)
            ck_assert_double_eq((double)root(l), (double)(real)(0.1 * (double)(l / PANEL + l % PANEL)));
        else
            ck_assert_double_eq((double)root(l), (double)(real)2.385);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("newton");
    TCase *all = tcase_create("roots");
    tcase_set_timeout(all, 60);
    tcase_add_test(all, smooth_functions);
    tcase_add_test(all, functions_that_newton_cannot);
    tcase_add_test(all, huge_brackets);
    tcase_add_test(all, roots_at_the_ends);
    tcase_add_test(all, brackets_of_width_zero);
    tcase_add_test(all, order_of_convergence);
    tcase_add_test(all, lanes_are_independent);
    tcase_add_test(all, nan_ends_its_lane_alone);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
