/* nf_diagnose: sound flows pass, for all families, precisions, contexts and seeds, and wherever they lie. */
#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diagnose_scene.h"

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

int main(void) {
    Suite *suite = suite_create("diagnostics");
    TCase *c = tcase_create("sound flows");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, columns_far_from_zero_pass);
    tcase_add_test(c, a_base_far_from_zero_passes);
    tcase_add_test(c, flows_that_bend_sharply_pass);
    tcase_add_test(c, thin_densities_are_not_called_wrong);
    tcase_add_test(c, an_order_with_a_period_does_no_harm);
    tcase_add_test(c, any_number_of_steps_passes);
    tcase_add_loop_test(c, sound_flows_pass, 0, 2 * (int)fixture_count);
    if (!is_brief()) /* 200 diagnoses of a flow that others look at */
        tcase_add_test(c, p_values_are_honest);
    tcase_add_test(c, weighs_samples_by_a_target);
    tcase_add_test(c, few_samples_do_not_fail_a_sound_flow);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
