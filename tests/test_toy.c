/* The toy densities of the examples: they sum to one, their rows follow them, and their entropies are those of their rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"
#include "toy.h"

enum { ROWS = 20000 };
#define SEED 20261

/* Mass in a box by the midpoint rule, with samples at `step`. */
static double mass(const toy_set *set, double low, double high, double step) {
    double sum = 0;
    for (double y = low + step / 2; y < high; y += step)
        for (double x = low + step / 2; x < high; x += step)
            sum += exp(toy_log_density(set, (const double[2]){x, y}));
    return sum * step * step;
}

static void check_mass(const char *name, double low, double high, double step, double tolerance) {
    const double found = mass(toy_find(name), low, high, step);
    ck_assert_msg(fabs(found - 1.0) < tolerance, "%s: the density sums to %.10g", name, found);
}

START_TEST(densities_sum_to_one) {
    check_mass("two_moons", -2.1, 3.1, 0.043, 1e-7);
    check_mass("two_blobs", -2.6, 2.6, 0.047, 1e-9);
    check_mass("boomerang", -35.0, 175.0, 0.37, 1e-9); /* y reaches +-26.5 at 6.6 sd */
    check_mass("rings", -4.1, 4.1, 0.043, 1e-7);
    check_mass("checkerboard", -4.6, 4.6, 0.1, 1e-9);
    check_mass("pinwheel", -3.7, 3.7, 0.023, 1e-7);
}
END_TEST

/* How often rows fall into the cells of a coarse grid, against the density summed over each cell. */
START_TEST(rows_follow_the_density) {
    const toy_set *set = toy_at((size_t)_i);
    double *x = malloc(2 * ROWS * sizeof *x);
    ck_assert_ptr_nonnull(x);
    toy_rows(set, SEED, 0, ROWS, x);
    const double half = strcmp(toy_name(set), "boomerang") == 0 ? 8.0 : 1.0, side = half / 2, fine = side / 40;
    for (double y = -half; y < half - 1e-9; y += side)
        for (double left = -half; left < half - 1e-9; left += side) {
            double expected = 0, count = 0;
            for (double b = y + fine / 2; b < y + side; b += fine)
                for (double a = left + fine / 2; a < left + side; a += fine)
                    expected += exp(toy_log_density(set, (const double[2]){a, b})) * fine * fine;
            for (size_t i = 0; i < ROWS; i++)
                count += x[2 * i] >= left && x[2 * i] < left + side && x[2 * i + 1] >= y && x[2 * i + 1] < y + side;
            const double sd = sqrt(fmax(expected * (1.0 - expected) * ROWS, 1.0));
            ck_assert_msg(fabs(count - expected * ROWS) < 5.0 * sd + 0.002 * ROWS * expected,
                          "%s, seed %d: %g rows in the cell at (%g, %g), expected %g", toy_name(set), SEED, count, left, y, expected * ROWS);
        }
    free(x);
}
END_TEST

START_TEST(entropy_is_that_of_the_rows) {
    const toy_set *set = toy_at((size_t)_i);
    double *x = malloc(2 * ROWS * sizeof *x), mean = 0, square = 0;
    ck_assert_ptr_nonnull(x);
    toy_rows(set, SEED + 1, 0, ROWS, x);
    for (size_t i = 0; i < ROWS; i++) {
        const double surprise = -toy_log_density(set, x + 2 * i);
        ck_assert_msg(isfinite(surprise), "%s, seed %d: row %zu lies outside the support", toy_name(set), SEED + 1, i);
        mean += surprise / ROWS;
        square += surprise * surprise / ROWS;
    }
    const double entropy = toy_entropy(set), error = sqrt(fmax(square - mean * mean, 0.0) / ROWS);
    ck_assert_msg(fabs(mean - entropy) < 4.5 * error + 1e-9, "%s, seed %d: mean of -log p is %g +- %g, the entropy %g", toy_name(set), SEED + 1,
                  mean, error, entropy);
    free(x);
}
END_TEST

/* Two far Gaussians: log 2 more than one of them, less what their overlap takes, which at 3.5 sd from the middle is below 2e-3. */
START_TEST(entropies_known_otherwise) {
    const double gaussian = 1.0 + log(2.0 * acos(-1.0));
    const double blobs = toy_entropy(toy_find("two_blobs")), limit = gaussian + 2.0 * log(0.2) + log(2.0);
    ck_assert_double_lt(blobs, limit);
    ck_assert_double_gt(blobs, limit - 2e-3);
    ck_assert_double_eq_tol(toy_entropy(toy_find("boomerang")), gaussian + log(4.0), 1e-14);
    ck_assert_double_eq_tol(toy_entropy(toy_find("checkerboard")), log(32.0), 1e-14);
}
END_TEST

START_TEST(moments_of_the_boomerang) {
    double *x = malloc(2 * ROWS * sizeof *x), mean[2] = {0, 0}, square[2] = {0, 0};
    ck_assert_ptr_nonnull(x);
    toy_rows(toy_find("boomerang"), SEED, 77, ROWS, x);
    for (size_t i = 0; i < 2 * ROWS; i++) {
        mean[i % 2] += x[i] / ROWS;
        square[i % 2] += x[i] * x[i] / ROWS;
    }
    /* E y = 0, var y = 16; E x = 4, var x = 2 * 16^2 / 4^2 + 1 = 33. Tolerances are five standard errors. */
    ck_assert_double_eq_tol(mean[1], 0.0, 5.0 * 4.0 / sqrt(ROWS));
    ck_assert_double_eq_tol(square[1] - mean[1] * mean[1], 16.0, 5.0 * 16.0 * sqrt(2.0 / ROWS));
    ck_assert_double_eq_tol(mean[0], 4.0, 5.0 * sqrt(33.0 / ROWS));
    ck_assert_double_eq_tol(square[0] - mean[0] * mean[0], 33.0, 5.0 * 33.0 * sqrt(14.0 / ROWS));
    free(x);
}
END_TEST

START_TEST(a_row_depends_on_seed_and_place_only) {
    const toy_set *set = toy_at((size_t)_i);
    double all[40], tail[20], other[40];
    toy_rows(set, SEED, 0, 20, all);
    toy_rows(set, SEED, 10, 10, tail);
    toy_rows(set, SEED + 1, 0, 20, other);
    ck_assert_mem_eq(all + 20, tail, sizeof tail);
    for (size_t i = 0; i < 20; i++)
        for (size_t k = 0; k < 20; k++) {
            ck_assert_msg(memcmp(all + 2 * i, other + 2 * k, 2 * sizeof *all) != 0, "%s: two seeds share a row", toy_name(set));
            ck_assert_msg(i == k || memcmp(all + 2 * i, all + 2 * k, 2 * sizeof *all) != 0, "%s: a row comes twice", toy_name(set));
        }
}
END_TEST

START_TEST(names) {
    ck_assert_uint_eq(toy_count(), 6);
    for (size_t i = 0; i < toy_count(); i++)
        ck_assert_ptr_eq(toy_find(toy_name(toy_at(i))), toy_at(i));
    ck_assert_ptr_null(toy_at(toy_count()));
    ck_assert_ptr_null(toy_find("three_moons"));
    ck_assert_double_eq(toy_log_density(toy_find("checkerboard"), (const double[2]){-3.2, -1.1}), -INFINITY);
    ck_assert_double_eq(toy_log_density(toy_find("checkerboard"), (const double[2]){5.3, -3.1}), -INFINITY);
}
END_TEST

static Suite *toy_suite(void) {
    Suite *suite = suite_create("toy");
    TCase *tests = tcase_create("toy");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, densities_sum_to_one);
    tcase_add_loop_test(tests, rows_follow_the_density, 0, (int)toy_count());
    tcase_add_loop_test(tests, entropy_is_that_of_the_rows, 0, (int)toy_count());
    tcase_add_test(tests, entropies_known_otherwise);
    tcase_add_test(tests, moments_of_the_boomerang);
    tcase_add_loop_test(tests, a_row_depends_on_seed_and_place_only, 0, (int)toy_count());
    tcase_add_test(tests, names);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void) {
    return run_suite(toy_suite());
}
