/* nf_fit_reverse_kl: it finds a density whose integral is known, it does what its settings say, and it says how it ended. */
#include <fenv.h>
#include <math.h>
#include <stdlib.h>

#include "support.h"

enum { DIM = 2, MOST = 300 };

/*
 * An unnormalised Gaussian of independent columns, times `height`: log Z = log height + DIM/2 log(2 pi) + sum log sd. It notes what it is asked
 * for, and may fail at a call of its choice or spoil rows.
 */
typedef struct density {
    double mean[DIM], sd[DIM], log_height;
    double spoilt_above; /* rows with a larger x_0 have no density */
    double zero_above;   /* rows with a larger x_0 have density 0, from this call on */
    size_t zero_from;
    size_t calls, fails_at, rows, most_rows;
    nf_status failure;       /* 0: -77 */
    int rounding, other_mode; /* rounding: what it should be called with, other_mode: calls that were not */
    size_t infinite; /* numbers that it should not have been shown */
} density;

static density plain_density(void) {
    return (density){.mean = {1.25, -0.785}, .sd = {0.5, 1.385}, .log_height = 3.85, .spoilt_above = INFINITY, .zero_above = INFINITY, .rounding = FE_TONEAREST};
}

static double log_integral(const density *d) {
    double sum = d->log_height;
    for (size_t i = 0; i < DIM; i++)
        sum += 0.91893853320467274178 + log(d->sd[i]);
    return sum;
}

static nf_status gaussian(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    density *d = user;
    d->other_mode += fegetround() != d->rounding;
    if (++d->calls == d->fails_at)
        return d->failure ? d->failure : (nf_status)-77;
    d->rows += rows;
    d->most_rows = rows > d->most_rows ? rows : d->most_rows;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = d->log_height;
        for (size_t i = 0; i < DIM; i++) {
            const double u = (x[r * DIM + i] - d->mean[i]) / d->sd[i];
            d->infinite += isfinite(u) ? 0 : 1;
            log_density[r] -= 0.5 * u * u;
            gradient[r * DIM + i] = -u / d->sd[i];
        }
        if (x[r * DIM] > d->spoilt_above)
            log_density[r] = NAN;
        if (d->calls >= d->zero_from && x[r * DIM] > d->zero_above)
            log_density[r] = -INFINITY;
    }
    return NF_OK;
}

static nf_flow *affine_flow(void) {
    nf_flow *flow;
    must(nf_affine_create(DIM, NF_DOUBLE, &flow));
    return flow;
}

/* Averages, annealing and evaluation off, so that what a test adds stands alone. */
static nf_reverse_kl_config plain(size_t steps) {
    return (nf_reverse_kl_config){.struct_size = sizeof(nf_reverse_kl_config),
                                  .steps = steps,
                                  .samples = 64,
                                  .seed = 3,
                                  .schedule = NF_SCHEDULE_CONSTANT,
                                  .ema_decay = -1,
                                  .evaluation_samples = NF_NONE};
}

/* A fit whose steps do not move the flow: its report is that of the flow as it is. */
static nf_reverse_kl_report report_of(nf_flow *flow, density *d, size_t steps, size_t samples, size_t evaluation_samples) {
    const nf_optimizer_config still = {.struct_size = sizeof still, .kind = NF_SGD, .learning_rate = -1};
    nf_reverse_kl_config config = plain(steps);
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    config.samples = samples;
    config.optimizer = &still;
    config.evaluation_samples = evaluation_samples;
    must(nf_fit_reverse_kl(flow, gaussian, d, &config, &report));
    return report;
}

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
    nf_reverse_kl_config config = plain(250);
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
    nf_reverse_kl_config config = plain(40);
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
        nf_reverse_kl_config config = plain(STEPS);
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
    nf_reverse_kl_config config = plain(600);
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
    nf_reverse_kl_config config = plain(40);
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
        nf_reverse_kl_config config = plain(3);
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
    nf_reverse_kl_config config = plain(3);
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    must(nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
    ck_assert_uint_eq(d.rows, 3 * 64);
    ck_assert(isnan(report.elbo) && isnan(report.elbo_error) && isnan(report.log_evidence) && isnan(report.effective_sample_size));
    ck_assert(isfinite(report.loss));
    nf_flow_free(flow);
}
END_TEST

/* ---- what goes wrong ---- */

START_TEST(settings_that_are_refused) {
    density d = plain_density();
    nf_flow *flow = affine_flow();
    nf_reverse_kl_config config = plain(3);
    nf_reverse_kl_report report = {.struct_size = sizeof report - 8};
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, &report));
    must_say("nf_fit_reverse_kl", "report->struct_size");
    const double factors[] = {1.5, NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < 4; k++) {
        config.schedule_factor = factors[k];
        must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
        must_say("nf_fit_reverse_kl", "config->schedule_factor");
    }
    config = plain(3);
    config.ema_decay = NAN;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    config = plain(3);
    config.beta_start = NAN;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    config = plain(3);
    const nf_optimizer_config wrong = {.struct_size = sizeof wrong, .kind = (nf_optimizer_kind)99};
    config.optimizer = &wrong;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
    must_say("nf_fit_reverse_kl", "kind");
    nf_flow_free(flow);
    flow = make_realnvp(DIM, 2, NF_DOUBLE, NULL);
    const double context[DIM] = {0};
    const size_t too_many[] = {SIZE_MAX / 8, SIZE_MAX / 16 + 1, SIZE_MAX / 8 + 1, SIZE_MAX / 4 + 1, SIZE_MAX / 2 + 1, NF_NONE};
    config = plain(3);
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
    nf_reverse_kl_config config = plain(5);
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
    nf_reverse_kl_config config = plain(1);
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
    nf_reverse_kl_config config = plain(steps);
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
        config = plain(done);
        must(nf_set_parameters(flow, first));
        if (done > 0)
            must(nf_fit_reverse_kl(flow, gaussian, &d, &config, NULL));
        must(nf_get_parameters(flow, last[done]));
    }
    config = plain(steps);
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
    nf_reverse_kl_config config = plain(3);
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
        nf_reverse_kl_config config = plain(3);
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
    Suite *suite = suite_create("fit by reverse KL");
    TCase *learning = tcase_create("learning"), *settings = tcase_create("settings"), *wrong = tcase_create("wrong");
    tcase_add_test(learning, finds_a_density_and_its_integral);
    tcase_add_test(learning, the_report_is_of_importance_weights);
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
    tcase_add_test(wrong, settings_that_are_refused);
    tcase_add_test(wrong, rows_that_the_target_spoils_are_left_out);
    tcase_add_test(wrong, samples_that_overflow_are_left_out);
    tcase_add_loop_test(wrong, a_fit_that_diverges_leaves_the_last_parameters, 0, 3);
    tcase_add_loop_test(wrong, a_step_into_nothing_ends_the_fit, 0, 2);
    tcase_add_loop_test(wrong, a_target_that_fails_ends_the_fit, 0, 5);
    tcase_add_loop_test(wrong, a_report_that_the_target_ends_is_of_the_average, 0, 2);
    tcase_add_test(wrong, the_target_is_called_in_the_callers_mode);
    TCase *all[] = {learning, settings, wrong};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tcase_set_timeout(all[i], 60);
        suite_add_tcase(suite, all[i]);
    }
    return run_suite(suite);
}
