/* nf_fit_reverse_kl: it finds a density whose integral is known, and it does what its settings say. */
#include <math.h>
#include <stdlib.h>

#include "api/importance.h"
#include "reverse_kl_scene.h"

enum { MOST = 300 };

/* ---- learning ---- */

/* The family has the target in it: the bound is reached, and all weights are the same. */
START_TEST(finds_a_density_and_its_integral) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    const nf_reverse_kl_config config = {.struct_size = sizeof config, .steps = 1000, .samples = 128, .seed = 7, .beta_start = 0.1};
    must(nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
    double *theta = new_parameters(flow);
    for (size_t i = 0; i < DIM; i++) {
        ck_assert_msg(fabs(exp(theta[i]) / d.sd[i] - 1) < 0.01, "column %zu: sd %g", i, exp(theta[i]));
        ck_assert_msg(fabs(theta[DIM + i] - d.mean[i]) < 0.02, "column %zu: mean %g", i, theta[DIM + i]);
    }
    const double expected = log_integral(&d);
    ck_assert_msg(fabs(report.log_evidence - expected) < 1e-3, "log Z %g, expected %g", report.log_evidence, expected);
    ck_assert_msg(report.elbo <= report.log_evidence && report.elbo > expected - 1e-2, "elbo %g, log Z %g", report.elbo, expected);
    ck_assert(report.elbo_error >= 0 && report.elbo_error < 1e-3);
    ck_assert(report.effective_sample_size > 0.99 && report.effective_sample_size <= 1 + 1e-12);
    ck_assert_msg(fabs(report.loss + expected) < 0.1, "loss %g, -log Z %g", report.loss, -expected);
    ck_assert_uint_eq(report.steps, 1000);
    ck_assert_uint_eq(report.bad_rows, 0);
    ck_assert_uint_eq(d.rows, 1000 * 128 + 10000);
    ck_assert_int_eq(report.stop_reason, NF_STOP_EPOCHS);
    ck_assert(report.seconds > 0);
    free(theta);
    nf_flow_free(flow);
}
END_TEST

/* The report of a flow that does not move against the sums of a sample drawn here: E_q[log w], and sums of weights. */
START_TEST(the_report_is_of_importance_weights) {
    enum { MANY = 200000 };
    density d = plain_density();
    nf_flow *flow = affine_flow();
    d.sd[0] = d.sd[1] = 0.85;
    d.mean[0] = d.mean[1] = 0.385;
    const nf_reverse_kl_report report = report_of(flow, &d, 1, 64, MANY);
    double *theta = new_parameters(flow);
    for (size_t i = 0; i < 2 * DIM; i++)
        ck_assert(theta[i] == 0.0);
    /*
     * With q = N(0, 1): E[log w] = log height + DIM (1/2 log 2 pi + 1/2 - (1 + m^2) / (2 s^2)), the variance of log w is
     * DIM ((1/s^2 - 1)^2 / 2 + m^2 / s^4), and E[w]^2 / E[w^2] is that of one column, s (2 - s^2)^(1/2) exp(-m^2 / (2 - s^2)) for s^2 < 2,
     * to the power DIM.
     */
    const double s2 = 0.85 * 0.85, m2 = 0.385 * 0.385, precision = 1 / s2;
    const double elbo = d.log_height + DIM * (0.91893853320467274178 + 0.5 - 0.5 * precision * (1 + m2));
    const double variance = DIM * (0.5 * (precision - 1) * (precision - 1) + m2 * precision * precision);
    const double size = pow(0.85 * sqrt(2 - s2) * exp(-m2 / (2 - s2)), DIM);
    ck_assert_msg(fabs(report.elbo - elbo) < 5 * sqrt(variance / MANY), "elbo %g, expected %g", report.elbo, elbo);
    ck_assert_msg(fabs(report.elbo_error / sqrt(variance / MANY) - 1) < 0.03, "its error %g, expected %g", report.elbo_error, sqrt(variance / MANY));
    ck_assert_msg(fabs(report.log_evidence - log_integral(&d)) < 0.01, "log Z %g, expected %g", report.log_evidence, log_integral(&d));
    ck_assert_msg(fabs(report.effective_sample_size / size - 1) < 0.03, "effective %g, expected %g", report.effective_sample_size, size);
    free(theta);
    nf_flow_free(flow);
}
END_TEST

/* One sample has no spread. */
/* Against the formulas, in whatever order the weights come. A weight of 0 is a sample. */
START_TEST(weights_are_summed_in_any_order) {
    enum { COUNT = 40 };
    random_source random = random_begin(71);
    for (int order = 0; order < 3; order++) /* as they come, rising, falling */
        for (size_t zeros = 0; zeros < 3; zeros++) {
            double value[COUNT], sum = 0, square = 0, mean = 0, spread = 0;
            const size_t n = COUNT - zeros;
            nf_importance w = nf_importance_begin();
            for (size_t i = 0; i < n; i++)
                value[i] = order == 0 ? 3 * random_normal(&random) : (order == 1 ? 0.385 : -0.385) * (double)i;
            for (size_t i = 0; i < COUNT; i++) {
                if (i >= n)
                    nf_importance_add(&w, -INFINITY);
                else
                    nf_importance_add(&w, value[i]);
            }
            for (size_t i = 0; i < n; i++) {
                mean += value[i] / (double)n;
                sum += exp(value[i]);
                square += exp(2 * value[i]);
            }
            for (size_t i = 0; i < n; i++)
                spread += (value[i] - mean) * (value[i] - mean);
            nf_reverse_kl_report report = {.elbo = 0};
            nf_importance_tell(&w, &report);
            must_agree("log Z", fabs(report.log_evidence - log(sum / COUNT)), 1e-13);
            must_agree("effective sample size", fabs(report.effective_sample_size / (sum * sum / square / COUNT) - 1), 1e-13);
            must_agree("mean", fabs(w.mean - mean), 1e-13);
            if (zeros) {
                ck_assert(isinf(report.elbo) && isnan(report.elbo_error));
                continue;
            }
            must_agree("ELBO", fabs(report.elbo - mean), 1e-13);
            must_agree("its error", fabs(report.elbo_error / (sqrt(spread) / COUNT) - 1), 1e-12);
        }
}
END_TEST

START_TEST(one_sample_has_no_standard_error) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_report report = report_of(flow, &d, 1, 64, 1);
    ck_assert(isfinite(report.elbo) && report.elbo == report.log_evidence && isnan(report.elbo_error));
    report = report_of(flow, &d, 1, 64, 2);
    ck_assert(isfinite(report.elbo) && report.elbo < report.log_evidence && report.elbo_error > 0);
    nf_flow_free(flow);
}
END_TEST

/* A sample of weight 0 is a sample: with half of q's mass outside the target's support Z is half, and so are the samples that count. */
START_TEST(where_the_target_is_zero_samples_count) {
    enum { MANY = 40000 };
    density d = plain_density();
    nf_flow *flow = affine_flow();
    d.mean[0] = d.mean[1] = 0;
    d.sd[0] = d.sd[1] = 1;
    d.zero_above = 0;
    nf_reverse_kl_report report = report_of(flow, &d, 1, 64, MANY);
    ck_assert_msg(fabs(report.log_evidence - log_integral(&d) - log(0.5)) < 0.02, "log Z %g, expected %g", report.log_evidence, log_integral(&d) + log(0.5));
    ck_assert_msg(fabs(report.effective_sample_size - 0.5) < 0.01, "effective %g, expected .5", report.effective_sample_size);
    ck_assert(report.elbo == -INFINITY && isnan(report.elbo_error));
    /* A sample that is spoilt says nothing, and is none. */
    d.spoilt_above = 1;
    d.zero_above = INFINITY;
    report = report_of(flow, &d, 1, 64, MANY);
    ck_assert(fabs(report.log_evidence - log_integral(&d)) < 1e-9 && fabs(report.effective_sample_size - 1) < 1e-9 && isfinite(report.elbo));
    nf_flow_free(flow);
}
END_TEST

/* The target is 0 at all samples of the report, but not at those of the step. */
START_TEST(a_target_that_no_sample_meets_has_no_evidence) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    d.zero_from = 2;
    d.zero_above = -INFINITY;
    const nf_reverse_kl_report report = report_of(flow, &d, 1, 64, 3000);
    ck_assert(report.log_evidence == -INFINITY && report.effective_sample_size == 0 && report.elbo == -INFINITY && isnan(report.elbo_error));
    nf_flow_free(flow);
}
END_TEST

/* ---- progress ---- */

typedef struct diary {
    const nf_flow *flow;
    size_t calls, stop_after;
    size_t steps[MOST];
    double losses[MOST], betas[MOST], rates[MOST];
    double *theta, *average, decay;
} diary;

static int write_diary(void *user, const nf_reverse_kl_progress *p) {
    diary *d = user;
    ck_assert_uint_eq(p->struct_size, sizeof *p);
    ck_assert_uint_lt(d->calls, MOST);
    ck_assert(p->seconds >= 0 && p->seconds_left >= 0);
    ck_assert(p->step < p->steps || p->seconds_left == 0);
    d->steps[d->calls] = p->step;
    d->losses[d->calls] = p->loss;
    d->betas[d->calls] = p->beta;
    d->rates[d->calls] = p->learning_rate;
    d->calls++;
    if (d->flow) {
        must(nf_get_parameters(d->flow, d->theta));
        const double t = (double)p->step, decay = fmin(d->decay, (1 + t) / (10 + t));
        for (size_t i = 0; i < nf_parameter_count(d->flow); i++)
            d->average[i] = decay * d->average[i] + (1 - decay) * d->theta[i];
    }
    return d->calls == d->stop_after;
}

static diary follow_fit(nf_reverse_kl_config config, nf_reverse_kl_report *report) {
    density target = plain_density();
    nf_flow *flow = affine_flow();
    diary d = {.calls = 0};
    config.progress = write_diary;
    config.progress_user = &d;
    must(nf_fit_reverse_kl(flow, gaussian, &target, &config, report));
    nf_flow_free(flow);
    return d;
}

/* What is said every so often is the mean of what is said at every step; the report has that of the last hundredth. */
START_TEST(progress_tells_the_mean_since_the_last_call) {
    nf_reverse_kl_config config = plain_kl(250);
    nf_reverse_kl_report each = {.struct_size = sizeof each}, some = each, usual = each;
    config.progress_every = 1;
    const diary all = follow_fit(config, &each);
    config.progress_every = 60;
    const diary few = follow_fit(config, &some);
    config.progress_every = 0;
    ck_assert_uint_eq(follow_fit(config, &usual).calls, 84); /* every third step and the last */
    const size_t ends[] = {60, 120, 180, 240, 250};
    ck_assert_uint_eq(all.calls, 250);
    ck_assert_uint_eq(few.calls, 5);
    for (size_t k = 0, begin = 0; k < 5; begin = ends[k++]) {
        double mean = 0;
        for (size_t step = begin; step < ends[k]; step++) {
            ck_assert_uint_eq(all.steps[step], step + 1);
            mean += all.losses[step] / (double)(ends[k] - begin);
        }
        ck_assert_uint_eq(few.steps[k], ends[k]);
        must_agree("mean loss", whole_error(&few.losses[k], &mean, 1), 1e-13);
    }
    const double tail = (all.losses[247] + all.losses[248] + all.losses[249]) / 3;
    must_agree("loss of the report", whole_error(&each.loss, &tail, 1), 1e-14);
    same_bits("loss", &some.loss, &each.loss, 1);
    same_bits("loss", &usual.loss, &each.loss, 1);
}
END_TEST

START_TEST(progress_stops_the_fit) {
    density target = plain_density();
    nf_flow *flow = affine_flow(), *whole = affine_flow();
    diary d = {.stop_after = 2};
    nf_reverse_kl_config config = plain_kl(40);
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    config.progress_every = 7;
    config.progress = write_diary;
    config.progress_user = &d;
    config.evaluation_samples = 100;
    must_be(NF_STOPPED, nf_fit_reverse_kl(flow, gaussian, &target, &config, &report));
    ck_assert_uint_eq(d.calls, 2);
    ck_assert_uint_eq(report.steps, 14);
    ck_assert_int_eq(report.stop_reason, NF_STOP_CALLBACK);
    ck_assert(isfinite(report.elbo) && isfinite(report.log_evidence)); /* what it has is evaluated */
    ck_assert(isnan(report.loss));                                    /* of the last hundredth of all steps, which it did not reach */
    /* With a constant rate the steps of a fit that is stopped are those of a shorter one. */
    config.steps = 14;
    config.progress = NULL;
    must(nf_fit_reverse_kl(whole, gaussian, &target, &config, &report));
    same_parameters(flow, whole);
    nf_flow_free(flow);
    nf_flow_free(whole);
}
END_TEST

/* ---- settings ---- */

START_TEST(schedules_and_annealing_are_what_they_say) {
    enum { STEPS = 30 };
    const struct {
        nf_schedule schedule;
        size_t step;
        double factor, beta_start;
        size_t anneal;
    } cases[] = {{NF_SCHEDULE_CONSTANT, 0, 0, 0, 0},    {NF_SCHEDULE_COSINE, 0, 0.2, 0.25, 0}, {NF_SCHEDULE_COSINE, 0, -1, 0.25, 8},
                 {NF_SCHEDULE_STEP, 4, 0.25, 0.5, 100}, {NF_SCHEDULE_STEP, 0, 0, 1, 3}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        const nf_optimizer_config sgd = {.struct_size = sizeof sgd, .kind = NF_SGD, .learning_rate = 5e-3};
        nf_reverse_kl_config config = plain_kl(STEPS);
        config.optimizer = &sgd;
        config.schedule = cases[k].schedule;
        config.schedule_step = cases[k].step;
        config.schedule_factor = cases[k].factor;
        config.beta_start = cases[k].beta_start;
        config.anneal_steps = cases[k].anneal;
        const diary d = follow_fit(config, NULL);
        ck_assert_uint_eq(d.calls, STEPS);
        for (size_t step = 0; step < STEPS; step++) {
            const double wave = 0.5 * (1 + cos(3.14159265358979323846 * (double)step / STEPS));
            const double factors[] = {1, 0.2 + 0.8 * wave, wave, pow(0.25, (double)(step / 4)), pow(0.1, (double)(step / 11))};
            const double from[] = {1, 0.25, 0.25, 0.5, 1}, until[] = {15, 15, 8, 100, 3};
            const double beta = fmin(1, from[k] + (1 - from[k]) * (double)step / until[k]);
            const double rate = 5e-3 * factors[k];
            ck_assert_msg(fabs(d.rates[step] - rate) <= 1e-17, "case %zu, step %zu: rate %g, not %g", k, step, d.rates[step], rate);
            ck_assert_msg(fabs(d.betas[step] - beta) <= 1e-15, "case %zu, step %zu: beta %g, not %g", k, step, d.betas[step], beta);
        }
    }
}
END_TEST

/* At an inverse temperature that stays, the density is that of the power, whose spread is larger. */
START_TEST(the_density_is_taken_to_the_power) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_config config = plain_kl(600);
    config.schedule = NF_SCHEDULE_COSINE;
    config.beta_start = 0.25;
    config.anneal_steps = (size_t)1 << 40;
    must(nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    double *theta = new_parameters(flow);
    for (size_t i = 0; i < DIM; i++)
        ck_assert_msg(fabs(exp(theta[i]) / (2 * d.sd[i]) - 1) < 0.02, "column %zu: sd %g", i, exp(theta[i]));
    free(theta);
    nf_flow_free(flow);
}
END_TEST

START_TEST(the_average_is_exponential) {
    density target = plain_density();
    nf_flow *flow = affine_flow();
    diary d = {.flow = flow, .theta = new_parameters(flow), .average = new_parameters(flow), .decay = 0.7};
    nf_reverse_kl_config config = plain_kl(40);
    config.ema_decay = 0.7;
    config.progress_every = 1;
    config.progress = write_diary;
    config.progress_user = &d;
    must(nf_fit_reverse_kl(flow, gaussian, &target, &config, NULL));
    double *theta = new_parameters(flow);
    must_agree("average", whole_error(theta, d.average, 2 * DIM), 1e-13);
    ck_assert_msg(whole_error(theta, d.theta, 2 * DIM) > 1e-4, "the last parameters were given, not the average");
    free(theta);
    free(d.theta);
    free(d.average);
    nf_flow_free(flow);
}
END_TEST

/* The report is of as many samples as have a context. */
START_TEST(the_report_needs_no_more_contexts_than_there_are) {
    nf_flow *flow = make_realnvp(DIM, 1, NF_DOUBLE, NULL);
    double context[64];
    for (size_t i = 0; i < 64; i++)
        context[i] = 0.1 * (double)i - 3;
    const size_t asked[] = {0, 40, 64, 5000}, got[] = {64, 40, 64, 64};
    for (size_t k = 0; k < 4; k++) {
        density d = plain_density();
        nf_reverse_kl_config config = plain_kl(3);
        nf_reverse_kl_report report = {.struct_size = sizeof report};
        config.context = context;
        config.evaluation_samples = asked[k];
        must(nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
        ck_assert_uint_eq(d.rows, 3 * 64 + got[k]);
        ck_assert(isfinite(report.elbo));
    }
    nf_flow_free(flow);
}
END_TEST

START_TEST(no_report_of_densities_is_asked_for) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_config config = plain_kl(3);
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    must(nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
    ck_assert_uint_eq(d.rows, 3 * 64);
    ck_assert(isnan(report.elbo) && isnan(report.elbo_error) && isnan(report.log_evidence) && isnan(report.effective_sample_size));
    ck_assert(isfinite(report.loss));
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("fit by reverse KL");
    TCase *learning = tcase_create("learning"), *settings = tcase_create("settings");
    tcase_set_timeout(learning, 60);
    tcase_set_timeout(settings, 60);
    tcase_add_test(learning, finds_a_density_and_its_integral);
    tcase_add_test(learning, the_report_is_of_importance_weights);
    tcase_add_test(learning, weights_are_summed_in_any_order);
    tcase_add_test(learning, one_sample_has_no_standard_error);
    tcase_add_test(learning, where_the_target_is_zero_samples_count);
    tcase_add_test(learning, a_target_that_no_sample_meets_has_no_evidence);
    tcase_add_test(settings, progress_tells_the_mean_since_the_last_call);
    tcase_add_test(settings, progress_stops_the_fit);
    tcase_add_test(settings, schedules_and_annealing_are_what_they_say);
    tcase_add_test(settings, the_density_is_taken_to_the_power);
    tcase_add_test(settings, the_average_is_exponential);
    tcase_add_test(settings, the_report_needs_no_more_contexts_than_there_are);
    tcase_add_test(settings, no_report_of_densities_is_asked_for);
    suite_add_tcase(suite, learning);
    suite_add_tcase(suite, settings);
    return run_suite(suite);
}
