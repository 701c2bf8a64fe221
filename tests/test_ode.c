/* The public solver: exact solutions, observed order, independence of rows, dense output, failures, the callback's status and floating-point mode. */
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "support.h"

enum { SIZE = 2, ROWS = 37 };

static const nf_ode_method methods[] = {NF_DOPRI5, NF_TSIT5, NF_DOP853, NF_BOSH3, NF_RK4, NF_MIDPOINT, NF_EULER};
static const double orders[] = {5, 5, 8, 3, 4, 2, 1};
#define METHODS ((int)(sizeof methods / sizeof methods[0]))

typedef struct counter {
    size_t calls, rows, most;
    size_t fail_at;
    bool seen[ROWS];
} counter;

static double speed(size_t row) { return 1.135 + 0.085 * (double)row; }

/* Each row turns with a speed of its own. */
static nf_status turn(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    counter *c = user;
    c->calls++;
    c->rows += count;
    c->most = count > c->most ? count : c->most;
    if (c->calls == c->fail_at)
        return NF_ERR_IO;
    for (size_t i = 0; i < count; i++) {
        const double w = speed(row[i]) * (1 + 0.5 * cos(t[i]));
        c->seen[row[i]] = true;
        dydt[2 * i] = -w * y[2 * i + 1];
        dydt[2 * i + 1] = w * y[2 * i];
    }
    return NF_OK;
}

static void start_of(size_t row, double *y) {
    y[0] = cos(0.3 * (double)row) * (1 + 0.01 * (double)row);
    y[1] = sin(0.3 * (double)row) * (1 + 0.01 * (double)row);
}

static void solution(size_t row, double t0, double t, double *y) {
    double s[SIZE];
    start_of(row, s);
    const double angle = speed(row) * (t - t0 + 0.5 * (sin(t) - sin(t0)));
    y[0] = s[0] * cos(angle) - s[1] * sin(angle);
    y[1] = s[0] * sin(angle) + s[1] * cos(angle);
}

static void start_all(double *y) {
    for (size_t r = 0; r < ROWS; r++)
        start_of(r, y + r * SIZE);
}

static double worst(const double *y, double t0, double t) {
    double e = 0, s[SIZE];
    for (size_t r = 0; r < ROWS; r++) {
        solution(r, t0, t, s);
        for (size_t c = 0; c < SIZE; c++)
            e = fmax(e, fabs(y[r * SIZE + c] - s[c]));
    }
    return e;
}

START_TEST(fixed_steps_have_their_order) {
    double y[ROWS * SIZE], error[2];
    for (int fine = 0; fine < 2; fine++) {
        const size_t steps = (size_t[]){40, 60, 8, 40, 40, 80, 2000}[_i] << fine;
        counter c = {0};
        start_all(y);
        must(nf_ode_solve(NF_CONFIG(nf_ode_config, .method = methods[_i], .steps = steps), ROWS, SIZE, turn, &c, 0.3, -0.85, y, 0, NULL, NULL, NULL));
        error[fine] = worst(y, 0.3, -0.85);
        ck_assert_uint_le(c.most, 16);
        for (size_t r = 0; r < ROWS; r++)
            ck_assert(c.seen[r]);
    }
    const double order = log2(error[0] / error[1]);
    ck_assert_msg(fabs(order - orders[_i]) < (orders[_i] == 8 ? 1 : orders[_i] == 5 ? 0.5 : 0.3), "observed order %.2f (errors %g, %g)", order, error[0], error[1]);
}
END_TEST

START_TEST(the_tolerance_is_kept_and_the_default_is_tight) {
    double y[ROWS * SIZE];
    for (int i = 0; i < 4; i++)
        for (double tolerance = 1e-4; tolerance > 1e-11; tolerance /= 100) {
            counter c = {0};
            nf_stats stats = {.struct_size = sizeof stats};
            start_all(y);
            must(nf_ode_solve(NF_CONFIG(nf_ode_config, .method = methods[i], .rtol = tolerance, .atol = tolerance, .max_steps = 100000), ROWS, SIZE, turn, &c, 0,
                              1, y, 0, NULL, NULL, &stats));
            const double e = worst(y, 0, 1);
            ck_assert_msg(e < 50 * tolerance && e > 1e-4 * tolerance, "method %d at %g: error %g", i, tolerance, e);
            ck_assert_uint_eq(stats.rhs_evaluations, c.rows);
            ck_assert(stats.bad_rows == 0 && stats.steps_accepted >= ROWS);
        }
    counter c = {0};
    start_all(y);
    must(nf_ode_solve(NULL, ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL));
    ck_assert_double_le(worst(y, 0, 1), 1e-6);
}
END_TEST

/* Without an absolute tolerance, or with next to none, a component that starts at 0 has no scale: the first step must be found all the same. */
START_TEST(the_absolute_tolerance_may_be_zero) {
    static const double atol[] = {-1, 1e-300, 1e-100, 1e-30, 1e-21, 1e-18};
    for (int i = 0; i < 4; i++)
        for (size_t k = 0; k < sizeof atol / sizeof *atol; k++)
            for (int backward = 0; backward < 2; backward++) {
                const double t1 = backward ? -1 : 1;
                double y[ROWS * SIZE];
                counter c = {0};
                nf_stats stats = {.struct_size = sizeof stats};
                start_all(y);
                ck_assert(y[1] == 0);
                must(nf_ode_solve(NF_CONFIG(nf_ode_config, .method = methods[i], .rtol = 1e-6, .atol = atol[k]), ROWS, SIZE, turn, &c, 0, t1, y, 0, NULL, NULL,
                                  &stats));
                ck_assert_msg(worst(y, 0, t1) < 1e-4, "method %d, atol %g: error %g", i, atol[k], worst(y, 0, t1));
                ck_assert_uint_lt(stats.steps_accepted, ROWS * 600);
            }
}
END_TEST

static nf_status decay(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    (void)row;
    (void)t;
    for (size_t i = 0; i < count; i++)
        dydt[i] = -0.85 * y[i] / *(const double *)user;
    return NF_OK;
}

/* The unit of time is the caller's. */
START_TEST(spans_may_be_long_or_short) {
    static const double spans[] = {1e-300, 1e-20, 1e15, 1e16, 1e20, 1e100, 1e300};
    for (int i = 0; i < 4; i++)
        for (size_t k = 0; k < sizeof spans / sizeof *spans; k++) {
            double y = 1.385, span = spans[k];
            must(nf_ode_solve(NF_CONFIG(nf_ode_config, .method = methods[i]), 1, 1, decay, &span, 0, span, &y, 0, NULL, NULL, NULL));
            ck_assert_msg(fabs(y - 1.385 * exp(-0.85)) < 1e-5, "method %d, span %g: %g", i, span, y);
        }
}
END_TEST

START_TEST(dense_output_follows) {
    enum { TIMES = 5 };
    const double t[TIMES] = {1.2, 1.0, 0.33, 0.1, -0.4};
    for (int backward = 0; backward < 2; backward++) {
        double y[ROWS * SIZE], path[TIMES * ROWS * SIZE];
        counter c = {0};
        const double t0 = backward ? -0.4 : 1.2, t1 = backward ? 1.2 : -0.4;
        start_all(y);
        must(nf_ode_solve(NF_CONFIG(nf_ode_config, .method = NF_DOP853), ROWS, SIZE, turn, &c, t0, t1, y, TIMES, t, path, NULL));
        for (size_t i = 0; i < TIMES; i++)
            ck_assert_double_le(worst(path + i * ROWS * SIZE, t0, t[i]), 3e-6);
        same_bits("end", path + (backward ? 0 : TIMES - 1) * ROWS * SIZE, y, ROWS * SIZE);
    }
}
END_TEST

/* Row r is solved as row 0 of a call of its own, by a callback that knows which it is. */
static size_t alone_row;
static nf_status turn_alone(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    ck_assert(count == 1 && row[0] == 0);
    return turn(user, count, &alone_row, t, y, dydt);
}

START_TEST(rows_are_independent) {
    double y[ROWS * SIZE], one[SIZE];
    counter c = {0};
    start_all(y);
    must(nf_ode_solve(NULL, ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL));
    for (alone_row = 0; alone_row < ROWS; alone_row += 5) {
        start_of(alone_row, one);
        must(nf_ode_solve(NULL, 1, SIZE, turn_alone, &c, 0, 1, one, 0, NULL, NULL, NULL));
        same_bits("row", one, y + alone_row * SIZE, SIZE);
    }
}
END_TEST

/* Row 3 has a pole at t = 1 / 2. */
static nf_status explode(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    (void)user;
    (void)t;
    for (size_t i = 0; i < count; i++)
        dydt[i] = row[i] == 3 ? y[i] * y[i] : -y[i];
    return NF_OK;
}

START_TEST(failures_stay_in_their_row) {
    const double t[2] = {0.1, 0.9};
    double y[ROWS], path[2 * ROWS];
    nf_stats stats = {.struct_size = sizeof stats};
    for (size_t r = 0; r < ROWS; r++)
        y[r] = r == 3 ? 2.0 : 1.0 + (double)r;
    y[7] = NAN;
    must_be(NF_ERR_ROWS, nf_ode_solve(NULL, ROWS, 1, explode, NULL, 0, 1, y, 2, t, path, &stats));
    must_say("nf_ode_solve", "row 3: the step underflowed (2 of 37 rows are bad)");
    ck_assert(stats.bad_rows == 2 && stats.first_bad_row == 3);
    for (size_t r = 0; r < ROWS; r++)
        if (r == 3 || r == 7)
            ck_assert(isnan(y[r]) && isnan(path[r]) && isnan(path[ROWS + r]));
        else
            ck_assert(fabs(y[r] - (1.0 + (double)r) * exp(-1)) < 1e-5 && fabs(path[r] - (1.0 + (double)r) * exp(-0.1)) < 1e-5);
    double w[1] = {1};
    must_be(NF_ERR_ROWS, nf_ode_solve(NF_CONFIG(nf_ode_config, .max_steps = 2), 1, 1, explode, NULL, 0, 1, w, 0, NULL, NULL, NULL));
    must_say("nf_ode_solve", "row 0: max_steps were not enough");
    w[0] = INFINITY;
    must_be(NF_ERR_ROWS, nf_ode_solve(NULL, 1, 1, explode, NULL, 0, 1, w, 0, NULL, NULL, NULL));
    must_say("nf_ode_solve", "row 0: y is not finite at t0");
}
END_TEST

START_TEST(the_callback_may_end_it) {
    double y[ROWS * SIZE];
    for (size_t at = 1; at < 20; at += 3) {
        counter c = {.fail_at = at};
        start_all(y);
        must_be(NF_ERR_IO, nf_ode_solve(NULL, ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL));
        must_say("nf_ode_solve", "f returned NF_ERR_IO");
        ck_assert_uint_eq(c.calls, at);
    }
}
END_TEST

static nf_status sees_its_mode(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    (void)row;
    (void)t;
    *(int *)user += fegetround() == FE_DOWNWARD;
    for (size_t i = 0; i < count; i++)
        dydt[i] = -y[i];
    return NF_OK;
}

START_TEST(the_callback_keeps_its_mode) {
    double y[2] = {1, 1};
    int seen = 0, other = 0;
    must(nf_ode_solve(NULL, 1, 1, sees_its_mode, &other, 0, 1, &y[0], 0, NULL, NULL, NULL));
    ck_assert_int_eq(fesetround(FE_DOWNWARD), 0);
    must(nf_ode_solve(NULL, 1, 1, sees_its_mode, &seen, 0, 1, &y[1], 0, NULL, NULL, NULL));
    ck_assert_int_eq(fegetround(), FE_DOWNWARD);
    fesetround(FE_TONEAREST);
    ck_assert(other == 0 && seen > 6);
    same_bits("y", &y[0], &y[1], 1);
}
END_TEST

START_TEST(arguments_are_checked) {
    double y[ROWS * SIZE], path[ROWS * SIZE], t[1] = {0.5};
    counter c = {0};
    start_all(y);
#define REFUSED(text, ...)                                                                                                                \
    do {                                                                                                                                  \
        must_be(NF_ERR_ARGUMENT, nf_ode_solve(__VA_ARGS__));                                                                              \
        must_say("nf_ode_solve", text);                                                                                                   \
    } while (0)
    REFUSED("method is 7", NF_CONFIG(nf_ode_config, .method = (nf_ode_method)7), ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("reserved is 1", NF_CONFIG(nf_ode_config, .reserved = 1), ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("rtol is nan", NF_CONFIG(nf_ode_config, .rtol = NAN), ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("not both 0", NF_CONFIG(nf_ode_config, .rtol = -1, .atol = -1), ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("max_steps is none", NF_CONFIG(nf_ode_config, .max_steps = NF_NONE), ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("size is 0", NULL, ROWS, 0, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("f is NULL", NULL, ROWS, SIZE, NULL, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("y is NULL", NULL, ROWS, SIZE, turn, &c, 0, 1, NULL, 0, NULL, NULL, NULL);
    REFUSED("t is NULL", NULL, ROWS, SIZE, turn, &c, 0, 1, y, 1, NULL, path, NULL);
    REFUSED("path is NULL", NULL, ROWS, SIZE, turn, &c, 0, 1, y, 1, t, NULL, NULL);
    REFUSED("t0 is 1 and t1 1", NULL, ROWS, SIZE, turn, &c, 1, 1, y, 0, NULL, NULL, NULL);
    REFUSED("t1 inf", NULL, ROWS, SIZE, turn, &c, 1, INFINITY, y, 0, NULL, NULL, NULL);
    REFUSED("t[0] is 0.5", NULL, ROWS, SIZE, turn, &c, 1, 2, y, 1, t, path, NULL);
    REFUSED("more than memory can hold", NULL, SIZE_MAX / 4, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
    REFUSED("stats->struct_size", NULL, ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, &(nf_stats){0});
    ck_assert_uint_eq(c.calls, 0);
    must(nf_ode_solve(NULL, 0, SIZE, turn, &c, 0, 1, NULL, 0, NULL, NULL, NULL));
}
END_TEST

START_TEST(no_memory_is_said) {
    double y[ROWS * SIZE], before[ROWS * SIZE];
    for (size_t fail_at = 1;; fail_at++) {
        memory_counter memory;
        const nf_allocator allocator = counted_memory(&memory);
        memory.fail_at = fail_at;
        counter c = {0};
        start_all(y);
        memcpy(before, y, sizeof y);
        const nf_status status = nf_ode_solve(NF_CONFIG(nf_ode_config, .allocator = &allocator), ROWS, SIZE, turn, &c, 0, 1, y, 0, NULL, NULL, NULL);
        ck_assert_uint_eq(memory.live, 0);
        if (status == NF_OK) {
            ck_assert_uint_eq(fail_at, 3);
            break;
        }
        ck_assert_int_eq(status, NF_ERR_MEMORY);
        same_bits("y", y, before, ROWS * SIZE);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ode");
    TCase *c = tcase_create("ode");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, fixed_steps_have_their_order, 0, METHODS);
    tcase_add_test(c, the_tolerance_is_kept_and_the_default_is_tight);
    tcase_add_test(c, the_absolute_tolerance_may_be_zero);
    tcase_add_test(c, spans_may_be_long_or_short);
    tcase_add_test(c, dense_output_follows);
    tcase_add_test(c, rows_are_independent);
    tcase_add_test(c, failures_stay_in_their_row);
    tcase_add_test(c, the_callback_may_end_it);
    tcase_add_test(c, the_callback_keeps_its_mode);
    tcase_add_test(c, arguments_are_checked);
    tcase_add_test(c, no_memory_is_said);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
