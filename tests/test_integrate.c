/* engine-test: Runge-Kutta integration of lanes: order of convergence, error against tolerance, dense output, failures. */
#include "aligned.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/ode/integrate.h"

#define SIZE 3
#define PANELS 2
#define LANES (PANELS * PANEL)

static const nf_ode_method methods[] = {NF_DOPRI5, NF_TSIT5, NF_DOP853, NF_BOSH3, NF_RK4, NF_MIDPOINT, NF_EULER};
#define METHODS ((int)(sizeof methods / sizeof methods[0]))
#define ADAPTIVE 4

/*
 * (x, y) turns with the speed 1 + r^2, which keeps r; w follows w' = w cos t. Solved by (x, y) turned by (1 + r^2)(t - t0) and
 * w exp(sin t - sin t0).
 */
static void rhs(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    (void)user;
    (void)panel;
    (void)stage;
    for (size_t l = 0; l < PANEL; l++) {
        if (!active[l])
            continue;
        const double a = (double)y[l], b = (double)y[PANEL + l], w = 1 + a * a + b * b;
        k[l] = (real)(-w * b);
        k[PANEL + l] = (real)(w * a);
        k[2 * PANEL + l] = (real)((double)y[2 * PANEL + l] * cos(t[l]));
    }
}

static void start_of(size_t lane, double y[SIZE]) {
    const double turn = 0.385 * (double)lane, radius = 0.7313 + 0.01 * (double)lane;
    y[0] = radius * cos(turn);
    y[1] = radius * sin(turn);
    y[2] = 1.1277 - 0.02 * (double)lane;
}

static void solution(size_t lane, double t0, double t, double y[SIZE]) {
    double s[SIZE];
    start_of(lane, s);
    const double angle = (1 + s[0] * s[0] + s[1] * s[1]) * (t - t0);
    y[0] = s[0] * cos(angle) - s[1] * sin(angle);
    y[1] = s[0] * sin(angle) + s[1] * cos(angle);
    y[2] = s[2] * exp(sin(t) - sin(t0));
}

typedef struct bench {
    ode_problem problem;
    ode_field field;
    ode_run run;
    real *y;
    unsigned char active[LANES], outcome[LANES];
    double *path; /* [samples][LANES][SIZE] */
} bench;

static void keep_sample(void *user, size_t index, size_t lane, const real *y) {
    bench *b = user;
    for (size_t c = 0; c < SIZE; c++)
        b->path[(index * LANES + lane) * SIZE + c] = (double)y[c * PANEL];
}

static bench setup(nf_ode_method method, double t0, double t1) {
    bench b = {.problem = {.tableau = R(ode_tableau_of)(method), .t0 = t0, .t1 = t1, .max_steps = 100000},
               .field = {.size = SIZE, .controlled = SIZE, .rhs = rhs, .sample = keep_sample}};
    b.y = new_aligned(PANELS * SIZE * PANEL * sizeof(real), 0);
    b.run.scratch = new_aligned(R(ode_scratch_size)(PANELS, SIZE) * sizeof(real), 0);
    b.run.panels = PANELS;
    return b;
}

static void start_lanes(bench *b) {
    for (size_t i = 0; i < LANES; i++) {
        double y[SIZE];
        start_of(i, y);
        for (size_t c = 0; c < SIZE; c++)
            b->y[(i / PANEL * SIZE + c) * PANEL + i % PANEL] = (real)y[c];
        b->active[i] = 1;
        b->outcome[i] = 99;
    }
    b->run.y = b->y;
    b->run.active = b->active;
    b->run.outcome = b->outcome;
    b->run.evaluations = b->run.accepted = b->run.rejected = 0;
    b->field.user = b;
}

static void integrate(bench *b) {
    start_lanes(b);
    ck_assert(R(ode_integrate)(&b->problem, &b->field, &b->run));
}

static double error_of(const bench *b) {
    double worst = 0;
    for (size_t i = 0; i < LANES; i++) {
        double y[SIZE];
        ck_assert_int_eq(b->outcome[i], ODE_ARRIVED);
        solution(i, b->problem.t0, b->problem.t1, y);
        for (size_t c = 0; c < SIZE; c++)
            worst = fmax(worst, fabs((double)b->y[(i / PANEL * SIZE + c) * PANEL + i % PANEL] - y[c]));
    }
    return worst;
}

static void release(bench *b) {
    free(b->y);
    free(b->run.scratch);
}

START_TEST(fixed_steps_converge_with_their_order) {
    const double margins[] = {0.3, 0.3, 1.0, 0.1, 0.1, 0.1, 0.1};
    const size_t first[] = {32, 32, 10, 64, 64, 128, 2048};
    for (int backward = 0; backward < 2 && !NF_SINGLE_BUILD; backward++) {
        const double far = methods[_i] == NF_DOP853 ? 3.385 : 1.385;
        bench b = setup(methods[_i], backward ? far : 0.385, backward ? 0.385 : far);
        double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
        for (size_t steps = first[_i]; steps <= 8 * first[_i]; steps = steps * 5 / 4) {
            b.problem.steps = steps;
            integrate(&b);
            const double e = error_of(&b), x = log((double)steps), y = log(e);
            if (e < 1e-12)
                break;
            n++, sx += x, sy += y, sxx += x * x, sxy += x * y;
        }
        const double slope = -(n * sxy - sx * sy) / (n * sxx - sx * sx), order = (double)b.problem.tableau->order;
        ck_assert_msg(n >= 4 && fabs(slope - order) <= margins[_i], "%s: slope %.3f over %g runs", b.problem.tableau->name, slope, n);
        release(&b);
    }
}
END_TEST

START_TEST(fixed_steps_of_single_are_right) {
    bench b = setup(methods[_i], 0.385, 1.385);
    b.problem.steps = 200;
    integrate(&b);
    const double order = (double)b.problem.tableau->order, bound = (NF_SINGLE_BUILD ? 3e-5 : 1e-10) + 20 * pow(0.02, order);
    ck_assert_msg(error_of(&b) < bound, "%s: %g", b.problem.tableau->name, error_of(&b));
    ck_assert_uint_eq(b.run.accepted, 200 * LANES);
    ck_assert_uint_eq(b.run.rejected, 0);
    release(&b);
}
END_TEST

START_TEST(error_follows_the_tolerance) {
    if (NF_SINGLE_BUILD)
        return;
    for (int mode = 0; mode < 3; mode++) { /* own steps, shared, dyadic */
        bench b = setup(methods[_i], 1.385, -0.77);
        b.problem.shared = mode == 1;
        b.problem.dyadic = mode == 2;
        double least = INFINITY, most = 0;
        for (double tolerance = 1e-4; tolerance > 0.5e-10; tolerance /= 10) {
            b.problem.rtol = b.problem.atol = tolerance;
            integrate(&b);
            const double ratio = error_of(&b) / tolerance;
            least = fmin(least, ratio);
            most = fmax(most, ratio);
        }
        ck_assert_msg(most <= 100 && least > 1e-4 && most / least <= 1000, "%s, mode %d: errors of %g .. %g tolerances", b.problem.tableau->name,
                      mode, least, most);
        release(&b);
    }
}
END_TEST

START_TEST(lanes_do_not_notice_each_other) {
    const double tolerance = NF_SINGLE_BUILD ? 1e-5 : 1e-9;
    for (int dyadic = 0; dyadic < 2; dyadic++) {
        bench all = setup(methods[_i], 0.0, 1.0), alone = setup(methods[_i], 0.0, 1.0);
        all.problem.rtol = all.problem.atol = alone.problem.rtol = alone.problem.atol = tolerance;
        all.problem.dyadic = alone.problem.dyadic = dyadic != 0;
        integrate(&all);
        for (size_t lane = 0; lane < LANES; lane += 7) {
            start_lanes(&alone);
            for (size_t i = 0; i < LANES; i++)
                alone.active[i] = i == lane;
            ck_assert(R(ode_integrate)(&alone.problem, &alone.field, &alone.run));
            for (size_t c = 0; c < SIZE; c++) {
                const size_t at = (lane / PANEL * SIZE + c) * PANEL + lane % PANEL;
                ck_assert_msg(memcmp(&all.y[at], &alone.y[at], sizeof(real)) == 0, "lane %zu", lane);
            }
            ck_assert_int_eq(alone.outcome[lane], ODE_ARRIVED);
            ck_assert_int_eq(alone.outcome[lane ? 0 : 1], 99);
        }
        release(&all);
        release(&alone);
    }
}
END_TEST

START_TEST(dense_output_follows_the_solution) {
    const double orders[] = {4, 4, 7, 3, 3, 2, 1};
    double samples[9], path[9 * LANES * SIZE], errors[2];
    for (int backward = 0; backward < 2; backward++) {
        bench b = setup(methods[_i], backward ? 1.0 : -0.25, backward ? -0.25 : 1.0);
        for (size_t k = 0; k < 9; k++)
            samples[k] = b.problem.t0 + (b.problem.t1 - b.problem.t0) * (double)k * (double)k / 64.0;
        b.problem.samples = samples;
        b.problem.sample_count = 9;
        b.path = path;
        for (int fine = 0; fine < 2; fine++) {
            b.problem.steps = fine ? 40 : 20;
            memset(path, 0, sizeof path);
            integrate(&b);
            errors[fine] = 0;
            for (size_t k = 0; k < 9; k++)
                for (size_t i = 0; i < LANES; i++) {
                    double y[SIZE];
                    solution(i, b.problem.t0, samples[k], y);
                    for (size_t c = 0; c < SIZE; c++)
                        errors[fine] = fmax(errors[fine], fabs(y[c] - path[(k * LANES + i) * SIZE + c]));
                }
        }
        const double slope = log2(errors[0] / errors[1]);
        if (!NF_SINGLE_BUILD)
            ck_assert_msg(slope > orders[_i] - 0.4, "%s: dense output of slope %.2f (%g, %g)", b.problem.tableau->name, slope, errors[0], errors[1]);
        ck_assert_msg(errors[1] < 1e-4 + 40 * pow(1.25 / 40, orders[_i]), "%s: %g", b.problem.tableau->name, errors[1]);
        release(&b);
    }
}
END_TEST

START_TEST(checkpoints_hold_the_accepted_steps) {
    static unsigned char memory[1 << 23] __attribute__((aligned(64)));
    bench b = setup(NF_DOPRI5, 0.0, 1.0);
    ode_trail trails[PANELS];
    nf_arena arena;
    nf_arena_init(&arena, memory, sizeof memory);
    for (size_t p = 0; p < PANELS; p++)
        R(trail_begin)(&trails[p], &arena, SIZE, 0, 0);
    b.run.trails = trails;
    b.problem.rtol = b.problem.atol = NF_SINGLE_BUILD ? 1e-5 : 1e-8;
    integrate(&b);
    size_t steps = 0;
    for (size_t i = 0; i < LANES; i++) {
        const ode_trail *trail = &trails[i / PANEL];
        double t = 0;
        for (size_t s = 0; s < trail->most; s++) {
            const trail_step step = R(trail_at)(trail, s);
            const size_t l = i % PANEL;
            if (s >= trail->count[l]) {
                ck_assert(step.h[l] == 0 && isfinite(step.y[l]));
                continue;
            }
            double y[SIZE];
            solution(i, 0, t, y);
            ck_assert(step.t[l] == t && fabs(step.t[l] + step.h[l] - step.end[l]) < 1e-15);
            for (size_t c = 0; c < SIZE; c++)
                ck_assert(fabs((double)step.y[c * PANEL + l] - y[c]) < 1e-4);
            t = step.end[l];
            steps++;
        }
        ck_assert(t == 1.0);
    }
    ck_assert_uint_eq(steps, b.run.accepted);
    nf_arena_init(&arena, memory, 4096);
    for (size_t p = 0; p < PANELS; p++)
        R(trail_begin)(&trails[p], &arena, SIZE, 0, 0);
    start_lanes(&b);
    ck_assert(!R(ode_integrate)(&b.problem, &b.field, &b.run));
    ck_assert(arena.wanted > 4096);
    release(&b);
}
END_TEST

static void exploding(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    rhs(user, panel, stage, t, active, y, k);
    if (panel == 0)
        for (size_t c = 0; c < SIZE; c++)
            k[c * PANEL + 3] = y[c * PANEL + 3] * y[c * PANEL + 3] * (real)7.25; /* has a pole before the end */
}

START_TEST(failures_stay_in_their_lane) {
    for (int shared = 0; shared < 2; shared++) {
        bench good = setup(NF_TSIT5, 0.0, 1.0), b = setup(NF_TSIT5, 0.0, 1.0);
        good.problem.rtol = good.problem.atol = b.problem.rtol = b.problem.atol = 1e-4;
        b.problem.shared = shared != 0;
        integrate(&good);
        b.field.rhs = exploding;
        integrate(&b);
        if (!shared)
            ck_assert_int_eq(b.outcome[3], ODE_UNDERFLOW);
        else
            ck_assert_int_ne(b.outcome[3], ODE_ARRIVED);
        for (size_t i = 0; i < LANES && !shared; i++)
            if (i != 3) {
                ck_assert_int_eq(b.outcome[i], ODE_ARRIVED);
                for (size_t c = 0; c < SIZE; c++) {
                    const size_t at = (i / PANEL * SIZE + c) * PANEL + i % PANEL;
                    ck_assert(memcmp(&b.y[at], &good.y[at], sizeof(real)) == 0);
                }
            }
        release(&good);
        release(&b);
    }
}
END_TEST

START_TEST(budgets_end) {
    bench b = setup(NF_DOPRI5, 0.0, 1.0);
    b.problem.rtol = b.problem.atol = 1e-6;
    b.problem.max_steps = 3;
    integrate(&b);
    for (size_t i = 0; i < LANES; i++)
        ck_assert_int_eq(b.outcome[i], ODE_BUDGET);
    ck_assert_uint_eq(b.run.accepted + b.run.rejected, 3 * LANES);
    release(&b);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("integrate");
    TCase *c = tcase_create("integrate");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, fixed_steps_converge_with_their_order, 0, METHODS);
    tcase_add_loop_test(c, fixed_steps_of_single_are_right, 0, METHODS);
    tcase_add_loop_test(c, error_follows_the_tolerance, 0, ADAPTIVE);
    tcase_add_loop_test(c, lanes_do_not_notice_each_other, 0, ADAPTIVE);
    tcase_add_loop_test(c, dense_output_follows_the_solution, 0, METHODS);
    tcase_add_test(c, checkpoints_hold_the_accepted_steps);
    tcase_add_test(c, failures_stay_in_their_lane);
    tcase_add_test(c, budgets_end);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
