/* What goes wrong in nf_fit: losses, gradients and steps that are no numbers, readers that fail, rows that cannot be used. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fit_scene.h"

static void all_finite(const nf_flow *flow) {
    double *theta = new_parameters(flow);
    for (size_t i = 0; i < nf_parameter_count(flow); i++)
        ck_assert_msg(isfinite(theta[i]), "parameter %zu is %g", i, theta[i]);
    free(theta);
}

/* A rate that throws the parameters far away: the fit says so, and the flow has those of its best epoch. */
START_TEST(what_is_not_finite_never_reaches_the_parameters) {
    double *x = gaussian_rows(1, ROWS);
    const double rates[] = {1e3, 1e8, _i ? 1e20 : 1e100, _i ? 1e38 : 1e300};
    for (size_t k = 0; k < 4; k++) {
        nf_flow *flow = make_flow(_i ? NF_SINGLE : NF_DOUBLE);
        const nf_optimizer_config wild = {.struct_size = sizeof wild, .kind = NF_SGD, .learning_rate = rates[k]};
        nf_fit_config config = plain(10);
        nf_fit_report report = {.struct_size = sizeof report};
        config.optimizer = &wild;
        const nf_status status = nf_fit(flow, ROWS, x, NULL, &config, &report);
        ck_assert_msg(status == NF_ERR_DIVERGED, "rate %g: %s", rates[k], nf_status_name(status));
        must_say("nf_fit", "not finite");
        ck_assert_int_eq(report.stop_reason, NF_STOP_DIVERGED);
        all_finite(flow);
        ck_assert(isfinite(mean_nll(flow, x, NULL, ROWS)));
        nf_flow_free(flow);
    }
    free(x);
}
END_TEST

/* Without held-out rows the last parameters that a batch has shown to be good are left: the first ones here, whose only step is a wild one. */
START_TEST(what_diverges_is_not_kept) {
    double *x = gaussian_rows(1, ROWS);
    nf_flow *flow = make_flow(_i ? NF_SINGLE : NF_DOUBLE);
    const nf_optimizer_config wild = {.struct_size = sizeof wild, .kind = NF_SGD, .learning_rate = 1e8};
    nf_fit_config config = plain(10);
    nf_fit_report report = {.struct_size = sizeof report};
    config.optimizer = &wild;
    config.validation_fraction = -1;
    config.batch_size = ROWS;
    config.standardize = -1;
    double *before = new_parameters(flow), *after;
    must_be(NF_ERR_DIVERGED, nf_fit(flow, ROWS, x, NULL, &config, &report));
    after = new_parameters(flow);
    same_bits("parameters", after, before, nf_parameter_count(flow));
    ck_assert_uint_eq(report.best_epoch, 0);
    ck_assert_uint_eq(report.steps, 1);
    free(before);
    free(after);
    free(x);
    nf_flow_free(flow);
}
END_TEST

static int stop_at_once(void *user, const nf_fit_progress *progress) {
    (void)user;
    (void)progress;
    return 1;
}

/* The last steps are shown by no batch, whether the epochs or the caller end the fit: parameters that are none are not kept. */
START_TEST(a_last_step_into_nothing_is_not_kept) {
    double *x = gaussian_rows(1, ROWS);
    nf_flow *flow = make_flow(NF_SINGLE);
    const nf_optimizer_config wild = {.struct_size = sizeof wild, .kind = NF_SGD, .learning_rate = 3e38};
    nf_fit_config config = plain(_i ? 10 : 1);
    config.progress = _i ? stop_at_once : NULL;
    config.optimizer = &wild;
    config.validation_fraction = -1;
    config.batch_size = ROWS;
    config.standardize = -1;
    config.ema_decay = -1;
    double *before = new_parameters(flow), *after;
    must_be(NF_ERR_DIVERGED, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must_say("nf_fit", "not finite");
    after = new_parameters(flow);
    same_bits("parameters", after, before, nf_parameter_count(flow));
    free(before);
    free(after);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* Nor with held-out rows: one step, into nothing by its rate or because the layer that has the units of the columns is none in those. */
START_TEST(an_only_step_into_nothing_is_told) {
    const double far_out[] = {69, 1e30};
    const nf_optimizer_config wild = {.struct_size = sizeof wild, .kind = NF_SGD, .learning_rate = 3e38};
    double *x = new_numbers(ROWS);
    random_source random = random_begin(6);
    nf_flow *flow;
    nf_fit_config config = plain(1);
    nf_fit_report report = {.struct_size = sizeof report};
    for (size_t i = 0; i < ROWS; i++)
        x[i] = _i ? 1e-30 * random_normal(&random) : 3 + random_normal(&random);
    must(nf_affine_create(1, NF_SINGLE, &flow));
    if (_i)
        must(nf_set_parameters(flow, far_out));
    config.optimizer = _i ? &plain_adam : &wild;
    config.standardize = _i ? 0 : -1;
    config.batch_size = ROWS;
    must_be(NF_ERR_DIVERGED, nf_fit(flow, ROWS, x, NULL, &config, &report));
    must_say("nf_fit", _i ? "the affine layer is not finite" : "not finite");
    ck_assert_int_eq(report.stop_reason, NF_STOP_DIVERGED);
    ck_assert_uint_eq(report.steps, 0);
    all_finite(flow);
    nf_flow_free(flow);
    free(x);
}
END_TEST

/* Noise that leaves no row a number leaves nothing to learn from. */
START_TEST(noise_beyond_all_numbers_is_told) {
    double *x = gaussian_rows(1, ROWS);
    nf_flow *flow = make_flow(NF_SINGLE);
    nf_fit_config config = plain(3);
    nf_fit_report report = {.struct_size = sizeof report};
    config.noise = 1e300;
    must_be(NF_ERR_DIVERGED, nf_fit(flow, ROWS, x, NULL, &config, &report));
    must_say("nf_fit", "no row is finite with its noise in epoch 1");
    ck_assert_uint_eq(report.steps, 0);
    all_finite(flow);
    nf_flow_free(flow);
    free(x);
}
END_TEST

typedef struct failing_reader {
    const double *x;
    size_t calls, fails_at;
    nf_status status;
} failing_reader;

static nf_status read_or_fail(void *user, size_t count, const size_t *row, double *x, double *context) {
    failing_reader *r = user;
    (void)context;
    if (++r->calls == r->fails_at)
        return r->status;
    for (size_t i = 0; i < count; i++)
        memcpy(x + i * DIM, r->x + row[i] * DIM, DIM * sizeof *x);
    return NF_OK;
}

/* Whatever status a reader ends the beginning with, the parameters are those from before. */
START_TEST(a_reader_that_fails_at_once_changes_nothing) {
    const nf_status statuses[] = {NF_STOPPED, NF_ERR_DIVERGED, NF_ERR_IO};
    double *x = gaussian_rows(1, ROWS);
    for (size_t k = 0; k < 6; k++) {
        nf_flow *flow = make_flow(NF_DOUBLE);
        failing_reader reader = {x, 0, 1 + k % 2, statuses[k / 2]};
        nf_fit_config config = plain(1);
        config.read = read_or_fail;
        config.read_user = &reader;
        double *before = new_parameters(flow);
        must_be(reader.status, nf_fit(flow, ROWS, NULL, NULL, &config, NULL));
        if (reader.status != NF_STOPPED) /* which is no failure */
            must_say("nf_fit", "config->read returned");
        double *after = new_parameters(flow);
        same_bits("parameters", after, before, nf_parameter_count(flow));
        free(before);
        free(after);
        nf_flow_free(flow);
    }
    free(x);
}
END_TEST

/* The line is about the reader: a held-out row that is no number has left one an epoch before. */
START_TEST(a_reader_that_fails_later_has_no_words_of_others) {
    const double held_out[] = {0.31, NAN, -0.77, 1.9};
    double *x = gaussian_rows(1, ROWS);
    for (int k = 0; k < 2; k++) {
        nf_flow *flow = make_flow(NF_DOUBLE);
        const nf_status status = k ? NF_STOPPED : NF_ERR_IO;
        failing_reader reader = {x, 0, 0, status};
        nf_fit_config config = plain(2);
        nf_fit_report report = {.struct_size = sizeof report};
        config.read = read_or_fail;
        config.read_user = &reader;
        config.validation_rows = 2;
        config.validation_x = held_out;
        must(nf_fit(flow, ROWS, NULL, NULL, &config, &report));
        reader.fails_at = reader.calls;
        reader.calls = 0;
        must_be(status, nf_fit(flow, ROWS, NULL, NULL, &config, &report));
        ck_assert_uint_eq(report.epochs_run, 1);
        if (status == NF_STOPPED)
            ck_assert_int_eq(report.stop_reason, NF_STOP_CALLBACK);
        else
            must_say("nf_fit", "config->read returned");
        nf_flow_free(flow);
    }
    free(x);
}
END_TEST

/* In a batch where only rows count that are no numbers there is nothing to learn, whatever the rows are like that do not count. */
START_TEST(rows_without_weight_do_not_make_a_fit_diverge) {
    double *x = gaussian_rows(1, ROWS), *weight = new_numbers(ROWS);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(5);
    config.batch_size = 8;
    config.weight = weight;
    config.validation_fraction = -1;
    for (size_t r = 0; r < ROWS; r++) {
        weight[r] = r % 10 == 0;
        if (r % 60 == 0)
            x[DIM * r] = NAN;
    }
    must_be(NF_ERR_ROWS, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    all_finite(flow);
    free(weight);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* A held-out row without weight that the flow cannot map says so to the fit, which takes no notice. */
START_TEST(a_fit_that_succeeds_says_nothing) {
    double *x = gaussian_rows(1, ROWS), held_out[] = {0.31, -0.77, 1e200, 1.9};
    const double weight[] = {1, 0};
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_report report = {.struct_size = sizeof report};
    must(nf_fit(flow, ROWS, x, NULL,
                NF_CONFIG(nf_fit_config, .epochs = 2, .validation_rows = 2, .validation_x = held_out, .validation_weight = weight), &report));
    ck_assert_str_eq(nf_last_error(), "");
    ck_assert(isfinite(report.validation_loss) && report.best_epoch > 0);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* What lies beyond the flow's precision is a bad row, and sets neither mean nor deviation; nor does a row whose context is no number, or one of weight 0. */
START_TEST(rows_that_are_left_out_do_not_standardise) {
    double *x = gaussian_rows(1, ROWS), *good = new_copy(x, ROWS * DIM), *context = new_numbers(ROWS), a[2 * DIM], b[2 * DIM];
    nf_fit_config config = plain(1);
    const nf_optimizer_config still = {.struct_size = sizeof still, .kind = NF_SGD, .learning_rate = -1};
    nf_flow *expected, *flow;
    config.optimizer = &still;
    config.validation_fraction = -1;
    memset(context, 0, ROWS * sizeof *context);
    must(nf_affine_create(DIM, NF_SINGLE, &expected));
    must(nf_fit(expected, ROWS - 1, good, NULL, &config, NULL));
    must(nf_get_parameters(expected, a));
    x[DIM * (ROWS - 1)] = 1e41;
    must(nf_affine_create(DIM, NF_SINGLE, &flow));
    must_be(NF_ERR_ROWS, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must_say("nf_fit", "1 of 600");
    must(nf_get_parameters(flow, b));
    must_agree("a row beyond the precision", whole_error(b, a, 2 * DIM), 1e-6);
    nf_flow_free(flow);

    nf_flow *part;
    x[DIM * (ROWS - 1)] = 1e6;
    context[ROWS - 1] = NAN;
    must(nf_flow_create(DIM, 1, NF_SINGLE, &flow));
    must(nf_affine_create(DIM, NF_SINGLE, &part));
    must(nf_flow_append(flow, part));
    must_be(NF_ERR_ROWS, nf_fit(flow, ROWS, x, context, &config, NULL));
    must(nf_get_parameters(flow, b));
    must_agree("a row without context", whole_error(b, a, 2 * DIM), 1e-6);
    nf_flow_free(flow);

    /* Nor has it a part in the spread of the noise: the fit goes on as if it held anything else. */
    nf_flow *other;
    double weight[ROWS];
    for (size_t r = 0; r < ROWS; r++)
        weight[r] = r % 3 > 0;
    memcpy(x, good, ROWS * DIM * sizeof *x);
    for (size_t r = 0; r < ROWS; r += 3)
        x[DIM * r] = x[DIM * r + 1] = -9999;
    config = plain(2);
    config.weight = weight;
    config.noise = 0.2;
    must(nf_affine_create(DIM, NF_DOUBLE, &flow));
    must(nf_affine_create(DIM, NF_DOUBLE, &other));
    must(nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must(nf_fit(other, ROWS, good, NULL, &config, NULL));
    must_be(NF_OK, nf_get_parameters(flow, b));
    ck_assert_msg(fabs(b[DIM] - 17.5) < 1 && fabs(b[0] - log(2.385)) < 0.2, "mean %g, standard deviation %g", b[DIM], exp(b[0]));
    same_parameters(flow, other);
    nf_flow_free(other);
    nf_flow_free(flow);
    nf_flow_free(expected);
    free(context);
    free(good);
    free(x);
}
END_TEST

START_TEST(bad_rows_are_left_out) {
    double *x = gaussian_rows(1, ROWS), *good = new_copy(x, ROWS * DIM);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(15);
    config.patience = NF_NONE;
    nf_fit_report report = {.struct_size = sizeof report};
    x[2 * 7] = NAN;
    x[2 * 8 + 1] = INFINITY;
    x[2 * 599] = -INFINITY;
    const double before = mean_nll(flow, good, NULL, ROWS);
    must_be(NF_ERR_ROWS, nf_fit(flow, ROWS, x, NULL, &config, &report));
    must_say("nf_fit", "3 of 600");
    ck_assert_uint_eq(report.bad_rows, 3);
    ck_assert_uint_eq(report.epochs_run, 15);
    ck_assert(isfinite(report.train_loss) && isfinite(report.validation_loss));
    all_finite(flow);
    ck_assert(mean_nll(flow, good, NULL, ROWS) < before - 3);
    free(x);
    free(good);
    nf_flow_free(flow);
}
END_TEST

/* However many rows there are, all of them are looked at beforehand: for numbers, and for the mean and deviation that a fit begins with. */
START_TEST(all_rows_are_looked_at) {
    enum { MANY = 2600 };
    const size_t bad[] = {7, 1030, 2599};
    const nf_optimizer_config still = {.struct_size = sizeof still, .kind = NF_SGD, .learning_rate = -1};
    double *x = new_numbers(MANY), mean = 0, square = 0, got[2];
    nf_fit_config config = plain(1);
    nf_fit_report report = {.struct_size = sizeof report};
    nf_flow *flow;
    for (size_t r = 0; r < MANY; r++)
        x[r] = (double)r * (double)r;
    for (size_t k = 0; k < 3; k++)
        x[bad[k]] = NAN;
    for (size_t r = 0; r < MANY; r++)
        mean += isnan(x[r]) ? 0 : x[r] / (MANY - 3);
    for (size_t r = 0; r < MANY; r++)
        square += isnan(x[r]) ? 0 : (x[r] - mean) * (x[r] - mean) / (MANY - 3);
    config.optimizer = &still;
    config.validation_fraction = -1;
    must(nf_affine_create(1, NF_DOUBLE, &flow));
    must_be(NF_ERR_ROWS, nf_fit(flow, MANY, x, NULL, &config, &report));
    ck_assert_uint_eq(report.bad_rows, 3);
    must(nf_get_parameters(flow, got));
    must_agree("mean", fabs(got[1] / mean - 1), 1e-12);
    must_agree("standard deviation", fabs(got[0] - 0.5 * log(square)), 1e-3); /* of a sample or of all */
    nf_flow_free(flow);
    free(x);
}
END_TEST

/* The loss that is told is a mean over the rows that are left, however they fall into batches. */
START_TEST(left_out_rows_have_no_part_in_the_loss) {
    double *x = gaussian_rows(1, ROWS), *log_prob = new_numbers(ROWS), weight[ROWS], sum = 0, total = 0;
    const nf_optimizer_config still = {.struct_size = sizeof still, .kind = NF_SGD, .learning_rate = -1};
    nf_fit_config config = plain(1);
    nf_fit_report report = {.struct_size = sizeof report};
    nf_flow *flow = make_flow(NF_DOUBLE);
    for (size_t r = 0; r < ROWS; r++) {
        weight[r] = (double)(1 + r % 4);
        if (r % 7 % 2)
            x[DIM * r + r % DIM] = NAN;
    }
    config.optimizer = &still;
    config.batch_size = 5;
    config.validation_fraction = -1;
    for (int weighted = 0; weighted < 2; weighted++) {
        config.weight = weighted ? weight : NULL;
        must_be(NF_ERR_ROWS, nf_fit(flow, ROWS, x, NULL, &config, &report));
        must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, ROWS, x, NULL, log_prob));
        sum = total = 0;
        for (size_t r = 0; r < ROWS; r++)
            if (!(r % 7 % 2)) {
                sum -= (weighted ? weight[r] : 1.0) * log_prob[r];
                total += weighted ? weight[r] : 1.0;
            }
        must_agree("loss", fabs(report.train_loss * total / sum - 1), 1e-12);
    }
    free(log_prob);
    free(x);
    nf_flow_free(flow);
}
END_TEST

START_TEST(bad_contexts_are_bad_rows) {
    enum { FEW = 50 };
    nf_flow *flow;
    random_source random = random_begin(5);
    double *x = new_normals(&random, FEW, 1), *context = new_normals(&random, FEW, 1), *held_out = new_copy(x, FEW), *held_context = new_copy(context, FEW);
    nf_fit_config config = plain(5);
    nf_fit_report report = {.struct_size = sizeof report};
    context[7] = NAN;
    held_context[9] = INFINITY;
    held_out[11] = NAN;
    config.validation_x = held_out;
    config.validation_context = held_context;
    config.validation_rows = FEW;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 1, .context_dim = 1, .couplings = 2, .hidden_layers = 1, .hidden_width = 8), &flow));
    must_be(NF_ERR_ROWS, nf_fit(flow, FEW, x, context, &config, &report));
    ck_assert_uint_eq(report.bad_rows, 1);
    ck_assert(isfinite(report.validation_loss) && isfinite(report.train_loss) && report.best_epoch > 0);
    free(x);
    free(context);
    free(held_out);
    free(held_context);
    nf_flow_free(flow);
}
END_TEST

START_TEST(one_row_is_enough) {
    double x[DIM] = {1.385, -0.785};
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_report report = {.struct_size = sizeof report};
    must(nf_fit(flow, 1, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 3), &report));
    ck_assert_uint_eq(report.epochs_run, 3);
    all_finite(flow);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("failures of a fit");
    TCase *wrong = tcase_create("wrong");
    tcase_add_loop_test(wrong, what_is_not_finite_never_reaches_the_parameters, 0, 2);
    tcase_add_loop_test(wrong, what_diverges_is_not_kept, 0, 2);
    tcase_add_loop_test(wrong, a_last_step_into_nothing_is_not_kept, 0, 2);
    tcase_add_loop_test(wrong, an_only_step_into_nothing_is_told, 0, 2);
    tcase_add_test(wrong, noise_beyond_all_numbers_is_told);
    tcase_add_test(wrong, a_reader_that_fails_at_once_changes_nothing);
    tcase_add_test(wrong, a_reader_that_fails_later_has_no_words_of_others);
    tcase_add_test(wrong, rows_without_weight_do_not_make_a_fit_diverge);
    tcase_add_test(wrong, rows_that_are_left_out_do_not_standardise);
    tcase_add_test(wrong, a_fit_that_succeeds_says_nothing);
    tcase_add_test(wrong, bad_rows_are_left_out);
    tcase_add_test(wrong, all_rows_are_looked_at);
    tcase_add_test(wrong, left_out_rows_have_no_part_in_the_loss);
    tcase_add_test(wrong, bad_contexts_are_bad_rows);
    tcase_add_test(wrong, one_row_is_enough);
    tcase_set_timeout(wrong, 60);
    suite_add_tcase(suite, wrong);
    return run_suite(suite);
}
