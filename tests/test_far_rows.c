/* Rows and parameters at the limits of the numbers: what has a result gets it, what has none is a bad row, and adds nothing to sums. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"

/* A row whose loss is a number, but beyond what its precision can differentiate, is bad in a gradient and spoils nothing. */
static void check_far_rows(int i, nf_precision precision) {
    enum { SOME = 151 };
    const double far[] = {1e16, 1e19, -1e22, 1e30}, scale = precision == NF_SINGLE ? 1.0 : 1e120;
    subject s;
    open_relaxed(&s, i, precision, 1);
    batch r = new_batch(&s, SOME);
    double *got = new_numbers(s.count), loss;
    for (size_t k = 0; k < sizeof far / sizeof far[0]; k++)
        for (size_t f = 0; f < s.dim; f++)
            r.in[(31 * k + 3) * s.dim + f] = (f % 2 ? -scale : scale) * far[k];
    must(nf_gradient_zero(s.gradient));
    const nf_status status = nf_grad_nll(s.flow, s.ws, SOME, r.in, r.context, NULL, s.gradient, &loss);
    ck_assert_msg(status == NF_OK || status == NF_ERR_ROWS, "%s: %s", s.f->name, nf_last_error());
    ck_assert_msg(isfinite(loss), "%s: loss %g", s.f->name, loss);
    must(nf_gradient_get(s.gradient, got));
    for (size_t p = 0; p < s.count; p++)
        ck_assert_msg(isfinite(got[p]), "%s: parameter %zu of %zu has gradient %g", s.f->name, p, s.count, got[p]);
    free(got);
    free_batch(&r);
    close_subject(&s);
}

START_TEST(rows_too_far_to_differentiate_add_nothing) {
    check_far_rows(_i, NF_DOUBLE);
    check_far_rows(_i, NF_SINGLE);
}
END_TEST

/* A row of huge numbers is either mapped, slopes and all, or bad, as one, and changes no other row. */
static void check_huge_rows(int index, nf_precision precision) {
    enum { SOME = 67 };
    const double huge[] = {1e300, -1e300, 1e160, 1e40, -1e18, 1e22, -1e26, 1e33, -1e37};
    subject s;
    open_relaxed(&s, index, precision, 1);
    batch clean = new_batch(&s, SOME), spoilt = part_of(&s, &clean, 0, SOME);
    call_all(&s, s.ws, &clean);
    for (size_t k = 0; k < sizeof huge / sizeof huge[0]; k++)
        for (size_t i = 0; i < s.dim; i++)
            spoilt.in[(7 * k + 3) * s.dim + i] = i % 2 ? -huge[k] : huge[k];
    for (int which = 0; which < MOST_CALLS; which++) {
        bool bad[SOME] = {false};
        size_t count = 0;
        const nf_status status = call(&s, s.ws, which, &spoilt);
        ck_assert(status == NF_OK || status == NF_ERR_ROWS);
        for (size_t k = 0; k < sizeof huge / sizeof huge[0]; k++) {
            const size_t r = 7 * k + 3;
            bad[r] = isnan(spoilt.out[which][r * s.dim]);
            count += bad[r];
            for (size_t i = 0; i < s.dim; i++)
                ck_assert_msg(bad[r] ? isnan(spoilt.out[which][r * s.dim + i]) : isfinite(spoilt.out[which][r * s.dim + i]), "%s: %s: row of %g gave %g", s.f->name,
                              call_names[which], huge[k], spoilt.out[which][r * s.dim + i]);
            /* What is compared below must be equal, whatever a huge row that is not bad became. */
            if (!bad[r]) {
                memcpy(clean.out[which] + r * s.dim, spoilt.out[which] + r * s.dim, s.dim * sizeof(double));
                clean.scalar[which][r] = spoilt.scalar[which][r];
                if (s.context_dim)
                    memcpy(clean.d_context[which] + r * s.context_dim, spoilt.d_context[which] + r * s.context_dim, s.context_dim * sizeof(double));
            }
        }
        ck_assert_msg((count > 0) == (status == NF_ERR_ROWS), "%s: %s: %zu bad rows and %s", s.f->name, call_names[which], count, nf_status_name(status));
        check_spoilt(&s, &spoilt, &clean, bad, which);
    }
    free_batch(&clean);
    free_batch(&spoilt);
    close_subject(&s);
}

START_TEST(huge_rows_are_bad_or_right) {
    check_huge_rows(_i, NF_DOUBLE);
    check_huge_rows(_i, NF_SINGLE);
}
END_TEST

/* A row whose density is no number is bad where a density is asked for, and nowhere else. */
START_TEST(maps_reach_further_than_densities) {
    const double far[] = {1e160, 1e60, -1e300}, sds[] = {1, 1e-100, 1e100}, one = 1;
    for (size_t k = 0; k < 3; k++) {
        nf_flow *flow;
        nf_gradient *gradient;
        const double z = far[k] * (k == 2 ? 1e-40 : 1); /* |z / sd| is of 1e160 */
        double x, log_det, d, score;
        must(nf_affine_create(1, NF_DOUBLE, &flow));
        must(nf_flow_set_base_normal(flow, NULL, &sds[k]));
        must(nf_gradient_create(flow, &gradient));
        must(nf_forward(flow, NULL, 1, &z, NULL, &x, &log_det));
        ck_assert(x == z && log_det == 0);
        must(nf_inverse(flow, NULL, 1, &z, NULL, &x, &log_det));
        ck_assert(x == z && log_det == 0);
        must(nf_forward_vjp(flow, NULL, 1, &z, NULL, &one, NULL, &d, NULL, gradient));
        ck_assert(d == 1);
        must(nf_inverse_vjp(flow, NULL, 1, &z, NULL, &one, NULL, &d, NULL, gradient));
        ck_assert(d == 1);
        must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, 1, &z, NULL, &d));
        ck_assert(isnan(d));
        must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, 1, &z, NULL, NULL));
        must_be(NF_ERR_ROWS, nf_score(flow, NULL, 1, &z, NULL, NULL, &score));
        ck_assert(isnan(score));
        must_be(NF_ERR_ROWS, nf_grad_nll(flow, NULL, 1, &z, NULL, NULL, gradient, NULL));
        nf_gradient_free(gradient);
        nf_flow_free(flow);
    }
    nf_cnf *cnf;
    const double z = 1e160;
    double x, end;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 1, .seed = 1), &cnf));
    must(nf_forward(cnf, NULL, 1, &z, NULL, &x, NULL));
    must(nf_cnf_trajectory(cnf, NULL, 1, &z, NULL, 1, &one, &end));
    same_bits("the end of a path", &end, &x, 1);
    nf_flow_free(cnf);
}
END_TEST

/* Nor is a density a number when it is the sum of two numbers and beyond them. */
START_TEST(sums_beyond_the_numbers_are_bad) {
    nf_flow *flow;
    const double theta[] = {1.7e308, 0, 0, 0}, x[] = {1, 1.3e154, 1, 1};
    double log_det[2], d[2], score[4];
    must(nf_affine_create(2, NF_DOUBLE, &flow));
    must(nf_set_parameters(flow, theta));
    must(nf_inverse(flow, NULL, 2, x, NULL, NULL, log_det));
    ck_assert(log_det[0] == -1.7e308 && log_det[1] == -1.7e308);
    must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, 2, x, NULL, d));
    ck_assert(isnan(d[0]) && d[1] == -1.7e308);
    must_be(NF_ERR_ROWS, nf_score(flow, NULL, 2, x, NULL, d, score));
    ck_assert(isnan(d[0]) && isnan(score[0]) && isnan(score[1]) && d[1] == -1.7e308 && score[3] == -1);
    nf_flow_free(flow);
}
END_TEST

/* A regulariser is of the square of a velocity, which may be no number where the path and its density are. */
START_TEST(regularisers_beyond_the_numbers_make_bad_rows) {
    const double x[] = {0, 1, 1, 1};
    for (int single = 0; single < 2; single++) {
        nf_cnf *cnf;
        nf_gradient *gradient;
        const double fast = single ? 1e20 : 1e160, theta[8] = {fast}; /* dz_0/dt = fast z_0, for a time of 1 / fast */
        double d[2], loss, alone, g[8], g_alone[8];
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .t1 = 1 / fast, .kinetic = .1, .hidden_layers = NF_NONE, .method = NF_RK4, .steps = 2,
                                     .precision = single ? NF_SINGLE : NF_DOUBLE),
                           &cnf));
        must(nf_set_parameters(cnf, theta));
        must(nf_gradient_create(cnf, &gradient));
        must(nf_log_prob(cnf, NULL, 2, x, NULL, d));
        must(nf_grad_nll(cnf, NULL, 1, x, NULL, NULL, gradient, &alone));
        must(nf_gradient_get(gradient, g_alone));
        must(nf_gradient_zero(gradient));
        must_be(NF_ERR_ROWS, nf_grad_nll(cnf, NULL, 2, x, NULL, NULL, gradient, &loss));
        must(nf_gradient_get(gradient, g));
        same_bits("the loss", &loss, &alone, 1);
        same_bits("the gradient", g, g_alone, 8);
        nf_gradient_free(gradient);
        nf_flow_free(cnf);
    }
}
END_TEST

/* The score of a base far from N(0, 1), whose mean single precision does not have. */
START_TEST(a_narrow_base_has_a_score) {
    const double sds[] = {1e-160, 1e-20, 1e-6, 1e20, 1e160};
    for (int single = 0; single < 2; single++)
        for (size_t k = 0; k < 5; k++) {
            if (single && (k == 0 || k == 4))
                continue;
            const double sd = sds[k], mean = k == 2 ? 0.1 : 0.0, x = k == 2 ? (double)(float)0.1000005 : sd, expected = -(x - mean) / sd / sd;
            double log_prob, score;
            nf_flow *flow;
            must(nf_flow_create(1, 0, single ? NF_SINGLE : NF_DOUBLE, &flow));
            must(nf_flow_set_base_normal(flow, &mean, &sd));
            must(nf_score(flow, NULL, 1, &x, NULL, &log_prob, &score));
            must_agree("score", fabs(score / expected - 1), single ? 2e-7 : 1e-14);
            nf_flow_free(flow);
        }
}
END_TEST

int main(void) {
    const int subjects = 2 * (int)fixture_count;
    Suite *suite = suite_create("far rows");
    TCase *far = tcase_create("far rows");
    tcase_add_loop_test(far, rows_too_far_to_differentiate_add_nothing, 0, subjects);
    tcase_add_loop_test(far, huge_rows_are_bad_or_right, 0, subjects);
    tcase_add_test(far, maps_reach_further_than_densities);
    tcase_add_test(far, sums_beyond_the_numbers_are_bad);
    tcase_add_test(far, regularisers_beyond_the_numbers_make_bad_rows);
    tcase_add_test(far, a_narrow_base_has_a_score);
    tcase_set_timeout(far, 120);
    suite_add_tcase(suite, far);
    return run_suite(suite);
}
