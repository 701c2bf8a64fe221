/*
 * nf_diagnose: a sound flow passes, for all families, precisions, contexts and seeds; and a flow with a wrong log_det, gradient or vjp, a map that is not undone, a
 * biased sampler or the wrong data fails the check that is there for it. The wrong flows are made by the table through which the checks call.
 */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/diagnose.h"
#include "support.h"

enum { ROWS = 500, DIM = 2 };

static const nf_diagnose_calls sound = {.forward = nf_forward,
                                        .inverse = nf_inverse,
                                        .log_prob = nf_log_prob,
                                        .sample = nf_sample,
                                        .grad_nll = nf_grad_nll,
                                        .forward_vjp = nf_forward_vjp,
                                        .inverse_vjp = nf_inverse_vjp};

static nf_diagnose_report diagnose(const nf_diagnose_calls *calls, const nf_flow *flow, size_t rows, const double *x, const double *context,
                                   const nf_diagnose_config *config) {
    nf_diagnose_report report = {.struct_size = sizeof report};
    must(nf_diagnose_with(calls, flow, rows, x, context, config, &report));
    return report;
}

static void must_pass(const char *what, const nf_diagnose_report *report) {
    char text[4096];
    nf_diagnose_text(report, text, sizeof text);
    ck_assert_msg(report->failed == 0, "%s fails (seed %llu):\n%s", what, (unsigned long long)test_seed(), text);
}

static void must_fail(const char *what, const nf_diagnose_report *report, const nf_finding *f) {
    char text[4096];
    nf_diagnose_text(report, text, sizeof text);
    ck_assert_msg(f->verdict == NF_FAILED && report->failed > 0, "%s is not caught:\n%s", what, text);
}

/* ---- sound flows ---- */

/* Every fixture of the conformance suite, on data that the flow drew. */
START_TEST(sound_flows_pass) {
    const nf_precision precision = _i % 2 ? NF_SINGLE : NF_DOUBLE;
    subject s;
    open_subject(&s, _i, precision, 1);
    /* The integral of a density is thousands of solves, which this makes fewer. */
    if (is_brief() && strcmp(s.f->kind, "cnf") == 0)
        must(nf_cnf_set_solver(s.flow, NF_DOPRI5, 1e-7, 1e-7, 0, 0));
    const size_t rows = is_brief() ? 40 : 120;
    double *context = new_context(&s, rows), *x = new_numbers(rows * s.dim);
    nf_rng rng = {77, 7, 0};
    must(nf_sample(s.flow, s.ws, &rng, rows, context, x, NULL));
    const nf_diagnose_config config = {.struct_size = sizeof config, .exact_rows = is_brief() ? 2 : 8, .samples = 512, .permutations = 1999, .significance = 1e-5, .seed = 5};
    const nf_diagnose_report report = diagnose(&sound, s.flow, rows, x, context, &config);
    must_pass(s.f->name, &report);
    ck_assert_int_eq(report.round_trip.verdict, NF_PASSED);
    ck_assert_int_eq(report.forward_vjp.verdict, NF_PASSED);
    ck_assert_int_eq(report.sampler.verdict, NF_PASSED);
    ck_assert_int_eq(report.two_sample.verdict, NF_PASSED);
    ck_assert_int_eq(report.calibration.verdict, NF_PASSED);
    ck_assert_int_eq(report.effective_sample_size.verdict, NF_SKIPPED);
    free(context);
    free(x);
    close_subject(&s);
}
END_TEST

/* Rows that take turns, as classes in a table do: every other one of these would be positive. */
START_TEST(an_order_with_a_period_does_no_harm) {
    enum { MANY = 1200 };
    nf_flow *flow;
    double *x = new_numbers(MANY);
    nf_rng rng = {77, 7, 0};
    must(nf_flow_create(1, 0, NF_DOUBLE, &flow));
    must(nf_sample(flow, NULL, &rng, MANY, NULL, x, NULL));
    for (size_t r = 0; r < MANY; r++)
        x[r] = r % 2 ? -fabs(x[r]) : fabs(x[r]);
    const nf_diagnose_config config = {.struct_size = sizeof config, .rows = MANY / 2, .exact_rows = 2, .samples = 64, .significance = 1e-5, .seed = 5};
    nf_diagnose_report report = diagnose(&sound, flow, MANY, x, NULL, &config);
    must_pass("rows that take turns", &report);
    /* Of each two rows the one that is finite is taken. */
    for (size_t r = 0; r < MANY; r += 4)
        x[r] = x[r + 3] = NAN;
    report = diagnose(&sound, flow, MANY, x, NULL, &config);
    must_pass("half of the rows", &report);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* The flow that is compared with has a hundred times the steps; that product once wrapped, and all its rows were given up. */
START_TEST(any_number_of_steps_passes) {
    nf_flow *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .max_steps = (size_t)1 << (sizeof(size_t) * 8 - 2)), &flow));
    const nf_diagnose_config config = {.struct_size = sizeof config, .exact_rows = 2, .samples = 64, .permutations = 19, .significance = 1e-5, .seed = 5};
    const nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, &config);
    must_pass("a continuous flow without a limit", &report);
    nf_flow_free(flow);
}
END_TEST

static nf_flow *trained_like(nf_precision precision) {
    random_source random = random_begin(3);
    nf_flow *flow = make_realnvp(DIM, 0, precision, NULL);
    randomize(flow, &random, 0.185);
    return flow;
}

static double *drawn_rows(const nf_flow *flow, size_t rows) {
    double *x = new_numbers(rows * nf_flow_dim(flow));
    nf_rng rng = {99, 3, 0};
    must(nf_sample(flow, NULL, &rng, rows, NULL, x, NULL));
    return x;
}

/* Columns far from 0 and narrow beside it, as a year or a price: the differences must not step over their width. */
START_TEST(columns_far_from_zero_pass) {
    static const double x[][2 * 2] = {{3999.9, -1e4, 4000.1, -1e4 + 5}, {1.7e9, -0.1, 1.7e9 + 3600, 0.1}}; /* one far, the other not */
    for (size_t i = 0; i < 2; i++) {
        nf_flow *flow = trained_like(NF_DOUBLE), *far;
        must(nf_affine_create(DIM, NF_DOUBLE, &far));
        must(nf_affine_standardize(far, 2, x[i]));
        must(nf_flow_append(flow, far));
        double *rows = drawn_rows(flow, ROWS);
        const nf_diagnose_report report = diagnose(&sound, flow, ROWS, rows, NULL, NULL);
        must_pass(i ? "a flow with one column far from 0" : "a flow far from 0", &report);
        ck_assert_msg(report.log_det.value < 1e-5, "differences of log_det are off by %g", report.log_det.value);
        free(rows);
        nf_flow_free(flow);
    }
}
END_TEST

/* The base may lie there as well: what is left of a step after rounding is not the derivative's fault. */
START_TEST(a_base_far_from_zero_passes) {
    const double mean[DIM] = {1e6, -1e6}, sd[DIM] = {1e-2, 1e-2};
    nf_flow *flow;
    must(nf_flow_create(DIM, 0, NF_DOUBLE, &flow));
    must(nf_flow_set_base_normal(flow, mean, sd));
    const nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, NULL);
    must_pass("a flow with a base far from 0", &report);
    nf_flow_free(flow);
}
END_TEST

static nf_flow *make_one(const char *kind, size_t i) {
    nf_flow *flow = NULL;
    if (strcmp(kind, "planar") == 0)
        must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM, .seed = i), &flow));
    else if (strcmp(kind, "radial") == 0)
        must(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = DIM, .layers = 2, .seed = i), &flow));
    else if (strcmp(kind, "realnvp") == 0)
        must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 4, .seed = i), &flow));
    else
        must(nf_affine_create(DIM, NF_DOUBLE, &flow));
    return flow;
}

static void slopes_must_pass(const char *what, const nf_flow *flow) {
    const nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, NF_CONFIG(nf_diagnose_config, .samples = 64));
    char text[4096];
    nf_diagnose_text(&report, text, sizeof text);
    ck_assert_msg(report.gradient.verdict == NF_PASSED && report.forward_vjp.verdict == NF_PASSED && report.inverse_vjp.verdict == NF_PASSED, "%s:\n%s", what,
                  text);
}

/* A map or density that bends within the first step of the differences: shorter ones tell. */
START_TEST(flows_that_bend_sharply_pass) {
    static const char *const kinds[] = {"planar", "radial", "realnvp", "affine"};
    static const double sd[][DIM] = {{1e-8, 1e-8}, {100, 100}, {1e-2, 1e3}, {1, 1e6}, {1e3, 1e-2}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (size_t i = 0; i < sizeof sd / sizeof sd[0]; i++) {
            nf_flow *flow = make_one(kinds[k], i + 1);
            must(nf_flow_set_base_normal(flow, NULL, sd[i]));
            slopes_must_pass(kinds[k], flow);
            nf_flow_free(flow);
        }
    static const double of_u_and_w[][2] = {{1, 1e-30}, {1, 1e-12}, {1, 1e-6}, {1, 1e-3}, {1e2, 1}, {1e4, 1}, {1e6, 1}, {1, 1e6}};
    for (size_t i = 0; i < sizeof of_u_and_w / sizeof of_u_and_w[0]; i++) {
        nf_flow *flow = make_one("planar", i + 1);
        double theta[2 * DIM + 1];
        must(nf_get_parameters(flow, theta));
        for (size_t k = 0; k < 2 * DIM; k++)
            theta[k] *= of_u_and_w[i][k / DIM];
        must(nf_set_parameters(flow, theta));
        slopes_must_pass("a planar flow", flow);
        nf_flow_free(flow);
    }
}
END_TEST

/* Densities that are thin beside the cells of the grid: it cannot say much of them, and says no more. */
START_TEST(thin_densities_are_not_called_wrong) {
    static const char *const kinds[] = {"planar", "radial", "realnvp", "affine"};
    static const double sd[][DIM] = {{1e-3, 1}, {1e-2, 1e3}, {1e-8, 1e8}, {1, 1e6}, {1e3, 1e-2}, {1e8, 1e8}};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (size_t i = 0; i < sizeof sd / sizeof sd[0]; i++) {
            nf_flow *flow = make_one(kinds[k], i + 1);
            must(nf_flow_set_base_normal(flow, NULL, sd[i]));
            const nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, NF_CONFIG(nf_diagnose_config, .exact_rows = 2, .samples = 1000));
            ck_assert_msg(report.normalization.verdict != NF_FAILED, "%s, %zu: %g off, with an error of %g", kinds[k], i, report.normalization.value,
                          report.normalization_error);
            ck_assert_msg(k != 3 || report.normalization.verdict == NF_PASSED, "a normal density of sd %g and %g is not measured", sd[i][0], sd[i][1]);
            nf_flow_free(flow);
        }
}
END_TEST

/* Wide or narrow beyond all numbers: the flow fails, the call does not. */
START_TEST(scales_beyond_all_numbers_are_no_failure_of_the_call) {
    static const double log_scales[] = {400, 709, 710, 1e6, 1e200, -400, -800, -1e200};
    for (size_t i = 0; i < sizeof log_scales / sizeof log_scales[0]; i++) {
        nf_flow *flow;
        const double theta[2 * DIM] = {log_scales[i], 0.385}, x[2 * DIM] = {0.1, 0.2, 0.3, -1.4};
        must(nf_affine_create(DIM, NF_DOUBLE, &flow));
        must(nf_set_parameters(flow, theta));
        nf_diagnose_report report = diagnose(&sound, flow, 2, x, NULL, NULL);
        if (fabs(log_scales[i]) >= 710)
            must_fail("a scale beyond all numbers", &report, &report.round_trip);
        report = diagnose(&sound, flow, 0, NULL, NULL, NULL);
        nf_flow_free(flow);
    }
}
END_TEST

/* A test's p-value is uniform for a sound flow: of many seeds about as many fall below .2 as should. */
START_TEST(p_values_are_honest) {
    enum { SEEDS = 200 };
    nf_flow *flow = trained_like(NF_DOUBLE);
    size_t sampler = 0, two_sample = 0, calibration = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        const nf_diagnose_config config = {.struct_size = sizeof config, .rows = 60, .exact_rows = 1, .samples = 200, .permutations = 99, .seed = seed};
        double *x = new_numbers(60 * DIM);
        nf_rng rng = {seed, 1234, 0};
        must(nf_sample(flow, NULL, &rng, 60, NULL, x, NULL));
        const nf_diagnose_report report = diagnose(&sound, flow, 60, x, NULL, &config);
        sampler += report.sampler.value <= 0.2;
        two_sample += report.two_sample.value <= 0.2;
        calibration += report.calibration.value <= 0.2;
        free(x);
    }
    /* 40 of 200 are expected, with a standard deviation of 5.7; ties and Bonferroni make for fewer. */
    ck_assert_msg(sampler >= 15 && sampler <= 65 && two_sample >= 15 && two_sample <= 65 && calibration >= 15 && calibration <= 65,
                  "of %d p-values %zu, %zu and %zu are at most .2", SEEDS, sampler, two_sample, calibration);
    nf_flow_free(flow);
}
END_TEST

static int calls_in_upward_mode;

static nf_status normal_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    const double sd = *(const double *)user;
    calls_in_upward_mode += fegetround() == FE_UPWARD;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = 0;
        for (size_t i = 0; i < DIM; i++) {
            log_density[r] -= 0.5 * x[r * DIM + i] * x[r * DIM + i] / (sd * sd);
            gradient[r * DIM + i] = -x[r * DIM + i] / (sd * sd);
        }
    }
    return NF_OK;
}

static nf_status failing_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    (void)rows;
    (void)x;
    (void)log_density;
    (void)gradient;
    return NF_ERR_IO;
}

START_TEST(weighs_samples_by_a_target) {
    nf_flow *flow;
    double sd = 1;
    must(nf_flow_create(DIM, 0, NF_DOUBLE, &flow)); /* N(0, I) */
    nf_diagnose_config config = {.struct_size = sizeof config, .target = normal_target, .target_user = &sd};
    calls_in_upward_mode = 0;
    fesetround(FE_UPWARD);
    nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, &config);
    ck_assert_int_eq(fegetround(), FE_UPWARD);
    fesetround(FE_TONEAREST);
    ck_assert_int_gt(calls_in_upward_mode, 0);
    must_pass("the target itself", &report);
    ck_assert(fabs(report.effective_sample_size.value - 1) < 1e-9);
    ck_assert(fabs(report.largest_weight.value * 4096 - 1) < 1e-9);
    sd = 0.05;
    report = diagnose(&sound, flow, 0, NULL, NULL, &config);
    must_fail("a target much narrower than the flow", &report, &report.effective_sample_size);
    sd = 1e-3;
    report = diagnose(&sound, flow, 0, NULL, NULL, &config);
    must_fail("a target that one sample meets", &report, &report.largest_weight);
    config.target = failing_target;
    must_be(NF_ERR_IO, nf_diagnose(flow, 0, NULL, NULL, &config, &report));
    must_say("nf_diagnose", "the target returned NF_ERR_IO");
    nf_flow_free(flow);
}
END_TEST

/* ---- wrong flows: one function of the table is replaced ---- */

static void shift(double *values, size_t count, double by) {
    for (size_t i = 0; values && i < count; i++)
        values[i] += by;
}

static void scale(double *values, size_t count, double by) {
    for (size_t i = 0; values && i < count; i++)
        values[i] *= by;
}

static nf_status inverse_shifted(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, double *z, double *log_det) {
    const nf_status status = nf_inverse(f, ws, rows, x, c, z, log_det);
    shift(log_det, rows, 0.01);
    return status;
}

static nf_status inverse_scaled(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, double *z, double *log_det) {
    const nf_status status = nf_inverse(f, ws, rows, x, c, z, log_det);
    scale(log_det, rows, 1.01);
    return status;
}

static nf_status inverse_without_log_det(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, double *z, double *log_det) {
    const nf_status status = nf_inverse(f, ws, rows, x, c, z, log_det);
    scale(log_det, rows, 0);
    return status;
}

static nf_status inverse_off(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, double *z, double *log_det) {
    const nf_status status = nf_inverse(f, ws, rows, x, c, z, log_det);
    if (z)
        z[(rows - 1) * nf_flow_dim(f)] += 1e-4; /* one row alone */
    return status;
}

static nf_status forward_shifted(const nf_flow *f, nf_workspace *ws, size_t rows, const double *z, const double *c, double *x, double *log_det) {
    const nf_status status = nf_forward(f, ws, rows, z, c, x, log_det);
    shift(log_det, rows, 0.01);
    return status;
}

static nf_status log_prob_shifted(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, double *log_prob) {
    const nf_status status = nf_log_prob(f, ws, rows, x, c, log_prob);
    shift(log_prob, rows, 0.01);
    return status;
}

/* As it would be with the sign of log_det turned around. */
static nf_status log_prob_turned(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, double *log_prob) {
    double *log_det = malloc(rows * sizeof *log_det);
    nf_status status = nf_inverse(f, ws, rows, x, c, NULL, log_det);
    if (status == NF_OK)
        status = nf_log_prob(f, ws, rows, x, c, log_prob);
    for (size_t r = 0; r < rows; r++)
        log_prob[r] -= 2 * log_det[r];
    free(log_det);
    return status;
}

static nf_status sample_shifted(const nf_flow *f, nf_workspace *ws, nf_rng *rng, size_t rows, const double *c, double *x, double *log_prob) {
    const nf_status status = nf_sample(f, ws, rng, rows, c, x, log_prob);
    shift(x, rows * nf_flow_dim(f), 0.35);
    return status;
}

/* A temperature: samples too near to the middle. */
static nf_status sample_cold(const nf_flow *f, nf_workspace *ws, nf_rng *rng, size_t rows, const double *c, double *x, double *log_prob) {
    (void)ws;
    nf_flow *cold;
    const double sd[DIM] = {0.65, 0.65};
    nf_status status = nf_flow_clone(f, &cold);
    if (status == NF_OK)
        status = nf_flow_set_base_normal(cold, NULL, sd);
    if (status == NF_OK)
        status = nf_sample(cold, NULL, rng, rows, c, x, log_prob);
    nf_flow_free(cold);
    return status;
}

/* The same numbers in both coordinates' base: a generator that repeats itself. */
static nf_status sample_repeating(const nf_flow *f, nf_workspace *ws, nf_rng *rng, size_t rows, const double *c, double *x, double *log_prob) {
    nf_rng half = *rng;
    nf_status status = nf_sample(f, ws, &half, rows, c, x, log_prob);
    for (size_t r = rows / 3; r < rows; r++)
        memcpy(x + r * nf_flow_dim(f), x + r % (rows / 3 + 1) * nf_flow_dim(f), nf_flow_dim(f) * sizeof *x);
    rng->position += rows;
    return status;
}

static nf_status grad_nll_off(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, const double *w, nf_gradient *g, double *loss) {
    const nf_status status = nf_grad_nll(f, ws, rows, x, c, w, g, loss);
    const size_t count = nf_parameter_count(f);
    double *values = new_numbers(count);
    nf_gradient_get(g, values);
    scale(values, count, 1.02);
    nf_gradient_set(g, values);
    free(values);
    return status;
}

static nf_status forward_vjp_off(const nf_flow *f, nf_workspace *ws, size_t rows, const double *z, const double *c, const double *gx, const double *gl, double *gz,
                                 double *gc, nf_gradient *g) {
    const nf_status status = nf_forward_vjp(f, ws, rows, z, c, gx, gl, gz, gc, g);
    scale(gz, rows * nf_flow_dim(f), 1.02);
    return status;
}

static nf_status inverse_vjp_without_log_det(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *c, const double *gz, const double *gl,
                                             double *gx, double *gc, nf_gradient *g) {
    (void)gl;
    return nf_inverse_vjp(f, ws, rows, x, c, gz, NULL, gx, gc, g);
}

#define FINDING(name) offsetof(nf_diagnose_report, name)

static const struct mutation {
    const char *what;
    nf_diagnose_calls calls; /* those that differ */
    size_t finding;
} mutations[] = {
    {"a log_det of the inverse that is off by .01", {.inverse = inverse_shifted}, FINDING(log_det)},
    {"a log_det of the inverse that is off by 1 %", {.inverse = inverse_scaled}, FINDING(log_det)},
    {"a log_det of 0", {.inverse = inverse_without_log_det}, FINDING(log_det)},
    {"a log_det of the forward map that is off by .01", {.forward = forward_shifted}, FINDING(log_det_pair)},
    {"a density that is off by 1 %", {.log_prob = log_prob_shifted}, FINDING(normalization)},
    {"a density with the sign of log_det turned", {.log_prob = log_prob_turned}, FINDING(normalization)},
    {"an inverse that is off by 1e-4 in one row", {.inverse = inverse_off}, FINDING(round_trip)},
    {"a sampler that is shifted", {.sample = sample_shifted}, FINDING(sampler)},
    {"a sampler that is cold", {.sample = sample_cold}, FINDING(sampler)},
    {"a sampler that is shifted, against data", {.sample = sample_shifted}, FINDING(two_sample)},
    {"a sampler that is cold, against data", {.sample = sample_cold}, FINDING(calibration)},
    {"a sampler that repeats itself", {.sample = sample_repeating}, FINDING(sampler)},
    {"a gradient that is off by 2 %", {.grad_nll = grad_nll_off}, FINDING(gradient)},
    {"a forward vjp that is off by 2 %", {.forward_vjp = forward_vjp_off}, FINDING(forward_vjp)},
    {"an inverse vjp without log_det's part", {.inverse_vjp = inverse_vjp_without_log_det}, FINDING(inverse_vjp)},
};
enum { MUTATIONS = sizeof mutations / sizeof mutations[0] };

static nf_diagnose_calls mutated(const nf_diagnose_calls *m) {
    nf_diagnose_calls calls = sound;
    calls.forward = m->forward ? m->forward : calls.forward;
    calls.inverse = m->inverse ? m->inverse : calls.inverse;
    calls.log_prob = m->log_prob ? m->log_prob : calls.log_prob;
    calls.sample = m->sample ? m->sample : calls.sample;
    calls.grad_nll = m->grad_nll ? m->grad_nll : calls.grad_nll;
    calls.forward_vjp = m->forward_vjp ? m->forward_vjp : calls.forward_vjp;
    calls.inverse_vjp = m->inverse_vjp ? m->inverse_vjp : calls.inverse_vjp;
    return calls;
}

static const nf_diagnose_config mutation_config = {.struct_size = sizeof mutation_config, .seed = 2};

/* What all mutations start from. */
START_TEST(the_flow_before_a_mutation_passes) {
    nf_flow *flow = trained_like(_i ? NF_SINGLE : NF_DOUBLE);
    double *x = drawn_rows(flow, ROWS);
    const nf_diagnose_report report = diagnose(&sound, flow, ROWS, x, NULL, &mutation_config);
    must_pass("the flow before the change", &report);
    free(x);
    nf_flow_free(flow);
}
END_TEST

START_TEST(a_wrong_flow_is_caught) {
    const struct mutation *m = &mutations[_i % MUTATIONS];
    const bool is_single = _i >= MUTATIONS;
    nf_flow *flow = trained_like(is_single ? NF_SINGLE : NF_DOUBLE);
    double *x = drawn_rows(flow, ROWS);
    const nf_diagnose_calls calls = mutated(&m->calls);
    const nf_diagnose_report report = diagnose(&calls, flow, ROWS, x, NULL, &mutation_config);
    nf_finding found;
    memcpy(&found, (const unsigned char *)&report + m->finding, sizeof found);
    /* The arithmetic of a single-precision flow may leave as much. */
    if (!is_single || m->calls.inverse != inverse_off)
        must_fail(m->what, &report, &found);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* Beyond three dimensions the integral is one by sampling. */
START_TEST(normalization_by_sampling) {
    random_source random = random_begin(4);
    nf_flow *flow = make_realnvp(5, 0, NF_DOUBLE, NULL);
    randomize(flow, &random, 0.1);
    const nf_diagnose_config config = {.struct_size = sizeof config, .samples = 8192};
    nf_diagnose_calls calls = sound;
    nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, &config);
    must_pass("a flow in five dimensions", &report);
    ck_assert_int_eq(report.normalization.verdict, NF_PASSED);
    calls.log_prob = log_prob_turned;
    report = diagnose(&calls, flow, 0, NULL, NULL, &config);
    must_fail("a turned log_det in five dimensions", &report, &report.normalization);
    nf_flow_free(flow);
}
END_TEST

/* Few samples do not reach far, and a grid around them leaves some of the density out: that is no fault of the flow's. */
START_TEST(few_samples_do_not_fail_a_sound_flow) {
    const size_t samples[] = {2, 4, 10, 20, 50, 100};
    for (size_t dim = 1; dim <= 9; dim++)
        for (size_t k = 0; k < sizeof samples / sizeof samples[0]; k++)
            for (uint64_t seed = 0; seed < (dim <= 3 ? 5 : 30); seed++) {
                nf_flow *flow;
                nf_diagnose_report report = {.struct_size = sizeof report};
                must(nf_flow_create(dim, 0, NF_DOUBLE, &flow));
                must(nf_diagnose(flow, 0, NULL, NULL, NF_CONFIG(nf_diagnose_config, .samples = samples[k], .exact_rows = 2, .seed = seed), &report));
                ck_assert_msg(report.normalization.verdict != NF_FAILED, "dim %zu, %zu samples: %g off, with an error of %g", dim, samples[k],
                              report.normalization.value, report.normalization_error);
                nf_flow_free(flow);
            }
}
END_TEST

START_TEST(wrong_data_are_caught) {
    nf_flow *flow = trained_like(NF_DOUBLE);
    double *x = drawn_rows(flow, ROWS);
    for (size_t r = 0; r < ROWS; r += 2)
        x[r * DIM + 1] += 1.5;
    const nf_diagnose_report report = diagnose(&sound, flow, ROWS, x, NULL, NULL);
    must_fail("other data", &report, &report.two_sample);
    must_fail("other data", &report, &report.calibration);
    ck_assert_uint_eq(report.failed, 2); /* the flow itself is sound */
    ck_assert_uint_eq(report.calibration_column, 1);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* Few permutations have no small p-value: there are as many as the significance needs, and what a hundred thousand cannot decide is left open. */
START_TEST(few_permutations_are_made_enough) {
    nf_flow *flow = trained_like(NF_DOUBLE);
    double *x = drawn_rows(flow, 30);
    nf_diagnose_config config = {.struct_size = sizeof config, .exact_rows = 1, .samples = 64, .permutations = 5, .seed = 2};
    nf_diagnose_report report = diagnose(&sound, flow, 30, x, NULL, &config);
    ck_assert_int_eq(report.two_sample.verdict, NF_PASSED);
    for (size_t i = 0; i < 30 * DIM; i++)
        x[i] += 50;
    report = diagnose(&sound, flow, 30, x, NULL, &config);
    must_fail("other data, with five permutations", &report, &report.two_sample);
    ck_assert(report.two_sample.value < 1e-3 && report.two_sample.value > 0.9e-3);
    config.significance = 1e-9;
    report = diagnose(&sound, flow, 30, x, NULL, &config);
    ck_assert_int_eq(report.two_sample.verdict, NF_SKIPPED);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* Samples that do not listen to the context: the marginals are right, the ranks are not. */
START_TEST(a_context_that_is_ignored_is_caught) {
    nf_flow *flow = make_realnvp(DIM, 1, NF_DOUBLE, NULL);
    random_source random = random_begin(6);
    double *x = new_numbers(ROWS * DIM), *context = new_normals(&random, ROWS, 1.0);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < DIM; i++)
            x[r * DIM + i] = 0.9 * context[r] + 0.43 * random_normal(&random);
    const nf_diagnose_report report = diagnose(&sound, flow, ROWS, x, context, NULL);
    must_fail("an ignored context", &report, &report.two_sample);
    free(x);
    free(context);
    nf_flow_free(flow);
}
END_TEST

static nf_status sample_broken(const nf_flow *f, nf_workspace *ws, nf_rng *rng, size_t rows, const double *c, double *x, double *log_prob) {
    const nf_status status = nf_sample(f, ws, rng, rows, c, x, log_prob);
    x[rows / 2 * nf_flow_dim(f) + 1] = NAN;
    return status == NF_OK ? NF_ERR_ROWS : status;
}

/* Samples that cannot be drawn: of right data they leave the tests nothing to say, of wrong ones they must not hide it. */
START_TEST(a_sample_that_fails_fails_the_tests) {
    nf_flow *flow = trained_like(NF_DOUBLE);
    double *x = drawn_rows(flow, ROWS);
    nf_diagnose_calls calls = sound;
    calls.sample = sample_broken;
    for (size_t i = 0; _i == 1 && i < ROWS * DIM; i++)
        x[i] += 50;
    const nf_diagnose_report report = diagnose(&calls, flow, ROWS, x, NULL, &mutation_config);
    must_fail("a sample that fails", &report, &report.two_sample);
    must_fail("a sample that fails", &report, &report.calibration);
    must_fail("a sample that fails", &report, &report.sampler);
    ck_assert(report.two_sample.value == 0 && report.calibration.value == 0 && report.sampler.value == 0);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* Fixed steps that are too few: the maps do not undo each other, and the density is not that of the equation. */
START_TEST(a_coarse_solver_is_caught) {
    nf_flow *flow;
    random_source random = random_begin(7);
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .method = NF_EULER, .steps = 2, .hidden_width = 16, .seed = 3), &flow));
    randomize(flow, &random, 0.6);
    const nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, NULL);
    must_fail("Euler's method with two steps", &report, &report.round_trip);
    must_fail("Euler's method with two steps", &report, &report.accuracy);
    nf_flow_free(flow);
}
END_TEST

/* ---- the call ---- */

START_TEST(same_seed_same_report) {
    nf_flow *flow = trained_like(NF_DOUBLE);
    double *x = drawn_rows(flow, ROWS);
    nf_diagnose_config config = {.struct_size = sizeof config, .seed = 4};
    const nf_diagnose_report a = diagnose(&sound, flow, ROWS, x, NULL, &config);
    config.threads = 3;
    const nf_diagnose_report b = diagnose(&sound, flow, ROWS, x, NULL, &config);
    config.seed = 5;
    const nf_diagnose_report c = diagnose(&sound, flow, ROWS, x, NULL, &config);
    ck_assert_mem_eq(&a, &b, sizeof a);
    ck_assert(memcmp(&a, &c, sizeof a) != 0);
    free(x);
    nf_flow_free(flow);
}
END_TEST

START_TEST(rows_that_are_not_numbers_are_left_out) {
    nf_flow *flow = trained_like(NF_DOUBLE);
    double *x = drawn_rows(flow, ROWS);
    for (size_t r = 0; r < ROWS; r += 3)
        x[r * DIM + 1] = NAN;
    nf_diagnose_report report = diagnose(&sound, flow, ROWS, x, NULL, NULL);
    must_pass("a third of the rows", &report);
    ck_assert_uint_ne(report.round_trip_row % 3, 0);
    ck_assert_uint_ne(report.log_det_row % 3, 0);
    for (size_t i = 0; i < ROWS * DIM; i++)
        x[i] = INFINITY;
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, ROWS, x, NULL, NULL, &report));
    must_say("nf_diagnose", "none of the 500 rows is finite");
    x[ROWS * DIM - 2] = x[ROWS * DIM - 1] = 0.385; /* a single one, wherever it is looked for */
    must(nf_diagnose(flow, ROWS, x, NULL, NF_CONFIG(nf_diagnose_config, .rows = 1, .samples = 50), &report));
    ck_assert_uint_eq(report.round_trip_row, ROWS - 1);
    free(x);
    nf_flow_free(flow);
}
END_TEST

START_TEST(arguments_are_checked) {
    nf_flow *flow = make_realnvp(DIM, 0, NF_DOUBLE, NULL), *conditional = make_realnvp(DIM, 1, NF_DOUBLE, NULL);
    nf_diagnose_report report = {.struct_size = sizeof report}, small = {.struct_size = sizeof report - 8};
    const double x[DIM] = {0.385, 1.1};
    must_be(NF_ERR_ARGUMENT, nf_diagnose(NULL, 1, x, NULL, NULL, &report));
    must_say("nf_diagnose", "flow is NULL");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 1, x, NULL, NULL, NULL));
    must_say("nf_diagnose", "report is NULL");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 1, x, NULL, NULL, &small));
    must_say("nf_diagnose", "struct_size");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 0, x, NULL, NULL, &report));
    must_say("nf_diagnose", "rows is 0");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 1, x, x, NULL, &report));
    must_say("nf_diagnose", "context does not go with");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(conditional, 1, x, NULL, NULL, &report));
    must_be(NF_ERR_ARGUMENT, nf_diagnose(conditional, 0, NULL, NULL, NULL, &report));
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 1, x, NULL, NF_CONFIG(nf_diagnose_config, .significance = 1.5), &report));
    must_say("nf_diagnose", "significance is 1.5");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 1, x, NULL, NF_CONFIG(nf_diagnose_config, .most_weight = NAN), &report));
    must_say("nf_diagnose", "most_weight is nan");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 1, x, NULL, NF_CONFIG(nf_diagnose_config, .samples = 1), &report));
    must_say("nf_diagnose", "samples is 1");
    must(nf_diagnose(flow, 1, x, NULL, NULL, &report));
    nf_flow_free(flow);
    nf_flow_free(conditional);
}
END_TEST

START_TEST(text_has_a_line_for_each_check) {
    nf_flow *flow = trained_like(NF_DOUBLE);
    const nf_diagnose_report report = diagnose(&sound, flow, 0, NULL, NULL, NULL);
    char whole[4096], piece[100];
    const size_t length = nf_diagnose_text(&report, whole, sizeof whole);
    ck_assert_uint_eq(length, strlen(whole));
    size_t lines = 0;
    for (size_t i = 0; i < length; i++)
        lines += whole[i] == '\n';
    ck_assert_uint_eq(lines, 14);
    ck_assert_ptr_nonnull(strstr(whole, "0 of 13 checks failed, 5 skipped"));
    ck_assert_uint_eq(nf_diagnose_text(&report, NULL, 0), length);
    ck_assert_uint_eq(nf_diagnose_text(&report, piece, sizeof piece), length);
    ck_assert_uint_eq(strlen(piece), sizeof piece - 1);
    ck_assert(memcmp(piece, whole, sizeof piece - 1) == 0);
    ck_assert_uint_eq(nf_diagnose_text(NULL, piece, sizeof piece), 0);
    ck_assert_str_eq(piece, "");
    nf_flow_free(flow);
}
END_TEST

static size_t maps_until_failure; /* 0: none fails */

static bool fails_now(void) { return maps_until_failure && --maps_until_failure == 0; }

static nf_status failing_inverse(const nf_flow *f, nf_workspace *ws, size_t rows, const double *x, const double *context, double *z, double *log_det) {
    return nf_inverse(fails_now() ? NULL : f, ws, rows, x, context, z, log_det);
}

static nf_status failing_forward(const nf_flow *f, nf_workspace *ws, size_t rows, const double *z, const double *context, double *x, double *log_det) {
    return nf_forward(fails_now() ? NULL : f, ws, rows, z, context, x, log_det);
}

/* A call within that fails once: those that succeed after it do not take its line away. */
START_TEST(the_first_failure_is_told) {
    nf_flow *flow = trained_like(NF_DOUBLE);
    nf_diagnose_calls calls = sound;
    calls.inverse = failing_inverse;
    calls.forward = failing_forward;
    nf_status status = NF_ERR_ARGUMENT;
    for (size_t n = 1; status != NF_OK; n++) {
        nf_diagnose_report report = {.struct_size = sizeof report};
        maps_until_failure = n;
        status = nf_diagnose_with(&calls, flow, 0, NULL, NULL, NULL, &report);
        if (status == NF_OK)
            ck_assert_uint_gt(n, 20);
        else
            must_say("nf_diagnose", "flow is NULL");
    }
    maps_until_failure = 0;
    nf_flow_free(flow);
}
END_TEST

/* Each allocation fails in turn. */
START_TEST(memory_may_run_out) {
    memory_counter counter;
    const nf_allocator allocator = counted_memory(&counter);
    nf_flow *flow = make_realnvp(DIM, 1, NF_SINGLE, &allocator);
    const double x[3 * DIM] = {0.1, 0.2, 0.3, 1.4, -0.5, 0.6}, context[3] = {0.385, -1, 2};
    const nf_diagnose_config config = {.struct_size = sizeof config, .samples = 10, .permutations = 3};
    const size_t live = counter.live;
    nf_status status = NF_ERR_MEMORY;
    for (size_t n = 1; status != NF_OK; n++) {
        nf_diagnose_report report = {.struct_size = sizeof report, .failed = 4711};
        counter.calls = 0;
        counter.fail_at = n;
        status = nf_diagnose(flow, 3, x, context, &config, &report);
        counter.fail_at = 0;
        ck_assert_uint_eq(counter.live, live);
        if (status != NF_OK) {
            ck_assert_int_eq(status, NF_ERR_MEMORY);
            must_say("nf_diagnose", "no memory");
            ck_assert_uint_eq(report.failed, 4711);
        } else {
            ck_assert_uint_gt(n, 30);
        }
    }
    nf_flow_free(flow);
    ck_assert(counter.live == 0 && !counter.wrong);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("diagnostics");
    TCase *pass = tcase_create("sound flows"), *fail = tcase_create("wrong flows"), *call = tcase_create("the call");
    tcase_set_timeout(pass, 300);
    tcase_set_timeout(fail, 120);
    tcase_set_timeout(call, 60);
    tcase_add_test(pass, columns_far_from_zero_pass);
    tcase_add_test(pass, a_base_far_from_zero_passes);
    tcase_add_test(pass, flows_that_bend_sharply_pass);
    tcase_add_test(pass, thin_densities_are_not_called_wrong);
    tcase_add_test(call, scales_beyond_all_numbers_are_no_failure_of_the_call);
    tcase_add_test(pass, an_order_with_a_period_does_no_harm);
    tcase_add_test(pass, any_number_of_steps_passes);
    tcase_add_loop_test(pass, sound_flows_pass, 0, 2 * (int)fixture_count);
    if (!is_brief()) /* 200 diagnoses of a flow that others look at */
        tcase_add_test(pass, p_values_are_honest);
    tcase_add_test(pass, weighs_samples_by_a_target);
    tcase_add_loop_test(fail, the_flow_before_a_mutation_passes, 0, 2);
    tcase_add_loop_test(fail, a_wrong_flow_is_caught, 0, (is_brief() ? 1 : 2) * MUTATIONS);
    tcase_add_test(fail, normalization_by_sampling);
    tcase_add_test(fail, few_samples_do_not_fail_a_sound_flow);
    tcase_add_test(fail, wrong_data_are_caught);
    tcase_add_test(fail, few_permutations_are_made_enough);
    tcase_add_test(fail, a_context_that_is_ignored_is_caught);
    tcase_add_loop_test(fail, a_sample_that_fails_fails_the_tests, 0, 2);
    tcase_add_test(fail, a_coarse_solver_is_caught);
    tcase_add_test(call, same_seed_same_report);
    tcase_add_test(call, rows_that_are_not_numbers_are_left_out);
    tcase_add_test(call, arguments_are_checked);
    tcase_add_test(call, text_has_a_line_for_each_check);
    tcase_add_test(call, the_first_failure_is_told);
    tcase_add_test(call, memory_may_run_out);
    suite_add_tcase(suite, pass);
    suite_add_tcase(suite, fail);
    suite_add_tcase(suite, call);
    return run_suite(suite);
}
