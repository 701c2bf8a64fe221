/* nf_fit_reverse_kl: what is refused, rows that are left out, and how a fit ends that does not go well. */
#include <fenv.h>
#include <math.h>
#include <stdlib.h>

#include "reverse_kl_scene.h"

START_TEST(settings_that_are_refused) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_config config = plain_kl(3);
    nf_reverse_kl_report report = {.struct_size = sizeof report - 8};
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
    must_say("nf_fit_reverse_kl", "report->struct_size");
    const double factors[] = {1.5, NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < 4; k++) {
        config.schedule_factor = factors[k];
        must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
        must_say("nf_fit_reverse_kl", "config->schedule_factor");
    }
    config = plain_kl(3);
    config.ema_decay = NAN;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    config = plain_kl(3);
    config.beta_start = NAN;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    config = plain_kl(3);
    const nf_optimizer_config wrong = {.struct_size = sizeof wrong, .kind = (nf_optimizer_kind)99};
    config.optimizer = &wrong;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    must_say("nf_fit_reverse_kl", "kind");
    const double context[DIM] = {0};
    config = plain_kl(3);
    config.context = context;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    must_say("nf_fit_reverse_kl", "config->context is not NULL, and the flow takes none");
    nf_flow_free(flow);
    flow = make_realnvp(DIM, 2, NF_DOUBLE, NULL);
    config.context = NULL;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    must_say("nf_fit_reverse_kl", "config->context is NULL, and the flow takes 2 columns");
    const size_t too_many[] = {SIZE_MAX / 8, SIZE_MAX / 16 + 1, SIZE_MAX / 8 + 1, SIZE_MAX / 4 + 1, SIZE_MAX / 2 + 1, NF_NONE};
    config = plain_kl(3);
    config.context = context;
    for (size_t k = 0; k < sizeof too_many / sizeof too_many[0]; k++) {
        config.samples = too_many[k];
        must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
        must_say("nf_fit_reverse_kl", "config->samples is");
    }
    ck_assert_uint_eq(d.calls, 0);
    nf_flow_free(flow);
}
END_TEST

/* Rows without a density are left out of steps and report, and counted. */
START_TEST(rows_that_the_target_spoils_are_left_out) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    d.spoilt_above = 0;
    const nf_reverse_kl_report report = report_of(flow, &d, 4, 1000, 3000);
    ck_assert_msg(report.bad_rows > 1800 && report.bad_rows < 2200, "%zu rows", report.bad_rows); /* a half of 4000: 6 deviations to each side */
    ck_assert(isfinite(report.loss) && isfinite(report.elbo) && report.effective_sample_size <= 1);
    nf_flow_free(flow);
}
END_TEST

/* A scale at the end of the numbers: some samples overflow, and the target is not shown them. */
START_TEST(samples_that_overflow_are_left_out) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    const double theta[2 * DIM] = {709.5, 0, 0, 0};
    d.sd[0] = 1e308;
    must(nf_set_parameters(flow, theta));
    const nf_reverse_kl_report report = report_of(flow, &d, 2, 500, 2000);
    ck_assert_str_eq(nf_last_error(), "");
    ck_assert_msg(report.bad_rows > 0 && report.bad_rows < 1000, "%zu rows", report.bad_rows);
    ck_assert_uint_eq(d.infinite, 0);
    ck_assert(isfinite(report.loss) && isfinite(report.elbo));
    nf_flow_free(flow);
}
END_TEST

/* No row left, a step that throws the parameters away, or a gradient whose squares overflow: the fit says so, and the flow has the parameters before. */
START_TEST(a_fit_that_diverges_leaves_the_last_parameters) {
    enum { SPOILT, THROWN, TOO_LONG };
    const nf_optimizer_config unclipped = {.struct_size = sizeof unclipped};
    const nf_optimizer_config wild = {.struct_size = sizeof wild, .kind = NF_SGD, .learning_rate = 1e300};
    const double wide[2 * DIM] = {709.5, 0, 0, 0}, none[2 * DIM] = {0};
    const double *first = _i == TOO_LONG ? wide : none;
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_config config = plain_kl(5);
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    config.ema_decay = 0.9;
    if (_i == SPOILT)
        d.spoilt_above = -INFINITY;
    if (_i == THROWN)
        config.optimizer = &wild;
    if (_i == TOO_LONG) {
        d.sd[0] = 1e200; /* x_0 is of 1e308, its square over sd^2 of 1e216 */
        config.optimizer = &unclipped;
    }
    must(nf_set_parameters(flow, first));
    must_be(NF_ERR_DIVERGED, nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
    must_say("nf_fit_reverse_kl", _i == TOO_LONG ? "its squares are not" : "not finite");
    if (_i == SPOILT)
        must_say("nf_fit_reverse_kl", "none of the 64 samples of step 1 counts: the target is 0 or not finite");
    ck_assert_int_eq(report.stop_reason, NF_STOP_DIVERGED);
    ck_assert(_i == THROWN ? report.steps < 5 : report.steps == 0);
    ck_assert(_i != SPOILT || report.bad_rows == 64);
    double *theta = new_parameters(flow);
    for (size_t i = 0; i < 2 * DIM; i++)
        ck_assert_msg(isfinite(theta[i]) && (_i == THROWN || theta[i] == first[i]), "parameter %zu is %g", i, theta[i]);
    free(theta);
    nf_flow_free(flow);
}
END_TEST

/* A step beyond all numbers, with no loss after it that would tell. */
START_TEST(a_step_into_nothing_ends_the_fit) {
    const double first[2 * DIM] = {0.125, -0.25, 0.385, 0.5};
    const nf_optimizer_config wild = {.struct_size = sizeof wild, .kind = NF_SGD, .learning_rate = 1e308, .clip_norm = 1e5};
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_config config = plain_kl(1);
    config.optimizer = &wild;
    config.ema_decay = _i ? 0 : -1;
    must(nf_set_parameters(flow, first));
    must_be(NF_ERR_DIVERGED, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    must_say("nf_fit_reverse_kl", "the parameters are not finite after step 1");
    double theta[2 * DIM];
    must(nf_get_parameters(flow, theta));
    same_bits("parameters", theta, first, 2 * DIM);
    nf_flow_free(flow);
}
END_TEST

/* In a step or in the report: its status is returned, with no line of another call, and the target is not asked again. */
START_TEST(a_target_that_fails_ends_the_fit) {
    const nf_status failure = (const nf_status[]){(nf_status)-77, NF_ERR_ROWS, NF_ERR_IO, NF_STOPPED, NF_ERR_DIVERGED}[_i];
    const size_t steps = 3;
    density whole = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_config config = plain_kl(steps);
    config.evaluation_samples = 2500;
    must(nf_fit_reverse_kl(flow, gaussian, &whole, &config, NULL));
    const size_t evaluations = 3; /* of 1024 samples at most */
    ck_assert_uint_gt(whole.calls, evaluations);
    const size_t each = (whole.calls - evaluations) / steps; /* calls of a step */
    const nf_stop_reason reason = failure == NF_ERR_DIVERGED ? NF_STOP_DIVERGED : NF_STOP_CALLBACK;
    const double first[2 * DIM] = {0.125, -0.25, 0.385, 0.5};
    double last[4][2 * DIM]; /* after so many steps */
    for (size_t done = 0; done <= steps; done++) {
        density d = plain_density();
        config = plain_kl(done);
        must(nf_set_parameters(flow, first));
        if (done > 0)
            must(nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
        must(nf_get_parameters(flow, last[done]));
    }
    config = plain_kl(steps);
    config.evaluation_samples = 2500;
    for (size_t call = 1; call <= whole.calls; call++) {
        density d = plain_density();
        nf_reverse_kl_report report = {.struct_size = sizeof report};
        d.fails_at = call;
        d.failure = failure;
        must(nf_set_parameters(flow, first));
        must_be(failure, nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
        must_say("nf_fit_reverse_kl", "the target returned");
        ck_assert_uint_eq(d.calls, call);
        const size_t done = call + evaluations <= whole.calls ? (call - 1) / each : steps;
        ck_assert_uint_eq(report.steps, done);
        ck_assert_int_eq(report.stop_reason, done < steps ? reason : NF_STOP_EPOCHS);
        ck_assert(isnan(report.elbo));
        double theta[2 * DIM];
        must(nf_get_parameters(flow, theta));
        same_bits("parameters", theta, failure == NF_STOPPED || failure == NF_ERR_DIVERGED ? last[done] : first, 2 * DIM);
    }
    nf_flow_free(flow);
}
END_TEST

/* Once the steps are over the flow has their average, whatever ends the report. */
START_TEST(a_report_that_the_target_ends_is_of_the_average) {
    const nf_status failure = _i ? NF_ERR_DIVERGED : NF_STOPPED;
    density whole = plain_density(), d = whole;
    nf_flow *flow = affine_flow(), *other = affine_flow();
    nf_reverse_kl_config config = plain_kl(3);
    config.ema_decay = 0.7;
    must(nf_fit_reverse_kl(flow, gaussian, &whole, &config, NULL));
    d.fails_at = whole.calls + 1;
    d.failure = failure;
    config.evaluation_samples = 64;
    must_be(failure, nf_fit_reverse_kl(other, gaussian, &d, &config, NULL));
    same_parameters(flow, other);
    nf_flow_free(flow);
    nf_flow_free(other);
}
END_TEST

/* In steps and in the report; the rest of the fit rounds as ever. */
START_TEST(the_target_is_called_in_the_callers_mode) {
    double theta[2][2 * DIM];
    for (int upward = 0; upward < 2; upward++) {
        density d = plain_density();
        nf_flow *flow = affine_flow();
        nf_reverse_kl_config config = plain_kl(3);
        config.evaluation_samples = 64;
        config.beta_start = 0.385;
        d.log_height = 0;
        d.rounding = upward ? FE_UPWARD : FE_TONEAREST;
        ck_assert_int_eq(fesetround(d.rounding), 0);
        const nf_status status = nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL);
        const int after = fegetround();
        fesetround(FE_TONEAREST);
        must_be(NF_OK, status);
        ck_assert_int_eq(after, d.rounding);
        ck_assert_uint_eq(d.calls, 4);
        ck_assert_int_eq(d.other_mode, 0);
        must(nf_get_parameters(flow, theta[upward]));
        nf_flow_free(flow);
    }
    must_agree("parameters", whole_error(theta[1], theta[0], 2 * DIM), 1e-13); /* the target itself rounds upward */
}
END_TEST

int main(void) {
    Suite *suite = suite_create("fit by reverse KL that goes wrong");
    TCase *wrong = tcase_create("wrong");
    tcase_set_timeout(wrong, 60);
    tcase_add_test(wrong, settings_that_are_refused);
    tcase_add_test(wrong, rows_that_the_target_spoils_are_left_out);
    tcase_add_test(wrong, samples_that_overflow_are_left_out);
    tcase_add_loop_test(wrong, a_fit_that_diverges_leaves_the_last_parameters, 0, 3);
    tcase_add_loop_test(wrong, a_step_into_nothing_ends_the_fit, 0, 2);
    tcase_add_loop_test(wrong, a_target_that_fails_ends_the_fit, 0, 5);
    tcase_add_loop_test(wrong, a_report_that_the_target_ends_is_of_the_average, 0, 2);
    tcase_add_test(wrong, the_target_is_called_in_the_callers_mode);
    suite_add_tcase(suite, wrong);
    return run_suite(suite);
}
