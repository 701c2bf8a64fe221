/* nf_diagnose as a call: seeds and threads, rows that are not numbers, arguments, the text, and what fails within. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "diagnose_scene.h"

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
    must_say("nf_diagnose", "context is not NULL, and the flow takes none");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(flow, 0, NULL, x, NULL, &report));
    must_say("nf_diagnose", "context is not NULL, and the flow takes none");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(conditional, 1, x, NULL, NULL, &report));
    must_say("nf_diagnose", "context is NULL, and the flow takes 1 columns");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(conditional, 0, NULL, NULL, NULL, &report));
    must_say("nf_diagnose", "rows is 0, and the flow needs rows of context, of 1 columns");
    must_be(NF_ERR_ARGUMENT, nf_diagnose(conditional, 0, NULL, x, NULL, &report));
    must_say("nf_diagnose", "rows is 0, and the flow needs rows of context, of 1 columns");
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
    Suite *suite = suite_create("the call of diagnostics");
    TCase *c = tcase_create("the call");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, scales_beyond_all_numbers_are_no_failure_of_the_call);
    tcase_add_test(c, same_seed_same_report);
    tcase_add_test(c, rows_that_are_not_numbers_are_left_out);
    tcase_add_test(c, arguments_are_checked);
    tcase_add_test(c, text_has_a_line_for_each_check);
    tcase_add_test(c, the_first_failure_is_told);
    tcase_add_test(c, memory_may_run_out);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
