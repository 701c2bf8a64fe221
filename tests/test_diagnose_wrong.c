/*
 * nf_diagnose: a flow with a wrong log_det, gradient or vjp, a map that is not undone, a biased sampler or the wrong data fails the check that is there for it.
 * The wrong flows are made by the table through which the checks call.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "diagnose_scene.h"

/* ---- one function of the table is replaced */

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

int main(void) {
    Suite *suite = suite_create("diagnostics of wrong flows");
    TCase *c = tcase_create("wrong flows");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, the_flow_before_a_mutation_passes, 0, 2);
    tcase_add_loop_test(c, a_wrong_flow_is_caught, 0, (is_brief() ? 1 : 2) * MUTATIONS);
    tcase_add_test(c, normalization_by_sampling);
    tcase_add_test(c, wrong_data_are_caught);
    tcase_add_test(c, few_permutations_are_made_enough);
    tcase_add_test(c, a_context_that_is_ignored_is_caught);
    tcase_add_loop_test(c, a_sample_that_fails_fails_the_tests, 0, 2);
    tcase_add_test(c, a_coarse_solver_is_caught);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
