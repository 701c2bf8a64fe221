/* Whitening: the flow is the map that the rows were taken through, for every dimension's halves; and a Gaussian's likelihood. */
#include <math.h>
#include <stdlib.h>

#include "support.h"
#include "train.h"
#include "whiten.h"

enum { ROWS = 300 };

/* Rows with every column a mixture of all. */
static double *mixed_rows(size_t dim) {
    random_source random = random_begin(dim);
    double *z = new_normals(&random, ROWS * dim, 1.0), *mix = new_normals(&random, dim * dim, 1.0), *x = new_numbers(ROWS * dim);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < dim; i++) {
            x[r * dim + i] = 100.0 * (double)i;
            for (size_t k = 0; k < dim; k++)
                x[r * dim + i] += (double)(i + 1) * (mix[i * dim + k] + 2.0 * (i == k)) * z[r * dim + k];
        }
    free(mix);
    free(z);
    return x;
}

static void flow_must_be_the_map(size_t dim, bool whole) {
    double *x = mixed_rows(dim), *z = new_copy(x, ROWS * dim), *back = new_numbers(ROWS * dim), *log_det = new_numbers(ROWS);
    whitening w;
    whiten_fit(&w, ROWS, x, NULL, dim, whole);
    ck_assert(!w.singular);
    whiten_rows(&w, ROWS, z);
    for (size_t i = 0; i < dim; i++)
        for (size_t j = whole ? 0 : i; j <= i; j++) { /* the z have covariance I, exactly that of these rows; or variances of 1 */
            double sum = 0;
            for (size_t r = 0; r < ROWS; r++)
                sum += z[r * dim + i] * z[r * dim + j] / ROWS;
            must_agree("covariance", fabs(sum - (i == j)), 1e-8);
        }
    nf_flow *flow = whiten_flow(&w);
    must(nf_forward(flow, NULL, ROWS, z, NULL, back, log_det));
    must_agree("forward", whole_error(back, x, ROWS * dim), 1e-10);
    must_agree("log_det", fabs(log_det[7] - w.log_det), 1e-11 * (1 + fabs(w.log_det)));
    must(nf_inverse(flow, NULL, ROWS, x, NULL, back, NULL));
    must_agree("inverse", whole_error(back, z, ROWS * dim), 1e-7);
    double *log_prob = new_numbers(ROWS), mean = 0;
    must(nf_log_prob(flow, NULL, ROWS, x, NULL, log_prob));
    for (size_t r = 0; r < ROWS; r++)
        mean -= log_prob[r] / ROWS;
    must_agree("NLL", fabs(mean - whiten_nll(&w, ROWS, z)), 1e-9 * fabs(mean));
    free(log_prob);
    nf_flow_free(flow);
    whiten_free(&w);
    free(log_det);
    free(back);
    free(z);
    free(x);
}

START_TEST(flow_is_the_map) {
    flow_must_be_the_map((size_t)_i, true);
    flow_must_be_the_map((size_t)_i, false);
}
END_TEST

/* Columns that lie so far away that single precision cannot tell their rows apart, and one that does not vary. */
START_TEST(columns_alone) {
    const double x[] = {1.7e9 + 1, 0.1, 1.7e9 + 2, 0.1, 1.7e9 + 3, 0.1, 1.7e9 + 6, 0.1};
    whitening w;
    whiten_fit(&w, 4, x, NULL, 2, false);
    ck_assert_double_eq(w.mean[0], 1.7e9 + 3);
    ck_assert_double_eq_tol(w.factor[0], sqrt(3.5), 1e-15);
    ck_assert_double_eq(w.mean[1], 0.1);
    ck_assert_double_eq(w.factor[1], 1.0);
    whiten_free(&w);
}
END_TEST

START_TEST(weights_count_rows) {
    double *x = mixed_rows(3), weight[ROWS] = {0};
    double twice[20 * 3];
    whitening a, b;
    for (size_t r = 0; r < 20; r++) {
        weight[r % 10] += 1.5;
        for (size_t i = 0; i < 3; i++)
            twice[3 * r + i] = x[3 * (r % 10) + i];
    }
    for (int whole = 0; whole < 2; whole++) {
        whiten_fit(&a, ROWS, x, weight, 3, whole);
        whiten_fit(&b, 20, twice, NULL, 3, whole);
        must_agree("factor", whole_error(a.factor, b.factor, whole ? 9 : 3), 1e-10);
        must_agree("mean", whole_error(a.mean, b.mean, 3), 1e-12);
        whiten_free(&a);
        whiten_free(&b);
    }
    free(x);
}
END_TEST

START_TEST(a_column_that_is_a_sum_is_noticed) {
    double *x = mixed_rows(3);
    for (size_t r = 0; r < ROWS; r++)
        x[3 * r + 2] = x[3 * r] + x[3 * r + 1];
    whitening w;
    whiten_fit(&w, ROWS, x, NULL, 3, true);
    ck_assert(w.singular);
    whiten_rows(&w, ROWS, x);
    for (size_t i = 0; i < ROWS * 3; i++)
        ck_assert(isfinite(x[i]));
    whiten_free(&w);
    free(x);
}
END_TEST

/* Of training rows: one that is held out may differ. Their mean, as a sum of fractions, need not be the column's number. */
START_TEST(a_column_that_does_not_vary_has_a_spread_of_1) {
    double *x = mixed_rows(3);
    for (size_t r = 0; r < ROWS; r++)
        x[3 * r + 1] = 0.1;
    whitening w;
    whiten_fit(&w, ROWS, x, NULL, 3, true);
    ck_assert(w.singular);
    ck_assert_double_eq(w.mean[1], 0.1);
    ck_assert_double_eq(w.factor[4], 1.0);
    double z[3] = {x[0], 0.2, x[2]};
    whiten_rows(&w, 1, z);
    ck_assert_double_eq_tol(z[1], 0.1, 1e-15);
    whiten_rows(&w, ROWS, x);
    for (size_t r = 0; r < ROWS; r++)
        ck_assert_double_eq(x[3 * r + 1], 0.0);
    must_agree("column beside it", fabs(z[2] - x[2]), 1e-14);
    whiten_free(&w);
    free(x);
}
END_TEST

START_TEST(steps_between_values) {
    const double x[] = {0.1 + 0.2, 5, 0.3, 5, 0.7, 5, 0.5, 5, 1.5, 5};
    ck_assert_double_eq_tol(smallest_step(5, x, 2, 0), 0.2, 1e-12);
    ck_assert_double_eq(smallest_step(5, x, 2, 1), 0.0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: whitening");
    TCase *tests = tcase_create("whitening");
    tcase_add_loop_test(tests, flow_is_the_map, 1, 18);
    tcase_add_test(tests, columns_alone);
    tcase_add_test(tests, weights_count_rows);
    tcase_add_test(tests, a_column_that_is_a_sum_is_noticed);
    tcase_add_test(tests, a_column_that_does_not_vary_has_a_spread_of_1);
    tcase_add_test(tests, steps_between_values);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
