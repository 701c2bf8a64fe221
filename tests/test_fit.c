/* nf_fit: it learns, it is reproducible whatever the threads, and it never gives back parameters that are worse than those that it has seen. */
#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fit_scene.h"

static const double entropy = 1.0 + 1.83787706640934548356 + 0.14562;

/* ---- learning ---- */

START_TEST(learns_a_gaussian) {
    double *x = gaussian_rows(1, 4000), *held_out = gaussian_rows(2, 4000);
    nf_flow *flow = make_flow(_i ? NF_SINGLE : NF_DOUBLE);
    nf_fit_report report = {.struct_size = sizeof report};
    const double before = mean_nll(flow, held_out, NULL, 4000);
    must(nf_fit(flow, 4000, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 40, .seed = 11), &report));
    const double after = mean_nll(flow, held_out, NULL, 4000);
    ck_assert_msg(before > entropy + 5 && after > entropy - 0.1 && after < entropy + 0.08, "nll %g became %g, the entropy is %g (seed %llu)", before, after, entropy,
                  (unsigned long long)test_seed());
    ck_assert_uint_eq(report.epochs_run, 40);
    ck_assert_uint_eq(report.steps, 40 * ((3600 + 63) / 64));
    ck_assert_int_eq(report.stop_reason, NF_STOP_EPOCHS);
    ck_assert_uint_eq(report.bad_rows, 0);
    ck_assert(report.best_loss <= report.validation_loss && isfinite(report.train_loss) && report.seconds > 0);
    ck_assert(report.best_epoch >= 1 && report.best_epoch <= 40);
    free(x);
    free(held_out);
    nf_flow_free(flow);
}
END_TEST

START_TEST(learns_what_depends_on_a_context) {
    nf_flow *flow;
    double *x = new_numbers(ROWS), *context = new_numbers(ROWS), *log_prob = new_numbers(ROWS), mean = 0;
    random_source random = random_begin(4);
    for (size_t r = 0; r < ROWS; r++) {
        context[r] = random_uniform(&random, -1.5, 1.5);
        x[r] = 3.0 * context[r] + 0.25 * random_normal(&random);
    }
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 1, .context_dim = 1, .couplings = 2, .hidden_layers = 1, .hidden_width = 8, .seed = 2), &flow));
    must(nf_fit(flow, ROWS, x, context, NF_CONFIG(nf_fit_config, .epochs = 80, .noise = -1), NULL));
    must(nf_log_prob(flow, NULL, ROWS, x, context, log_prob));
    for (size_t r = 0; r < ROWS; r++)
        mean -= log_prob[r] / ROWS;
    const double best = 0.5 + 0.9189385 + log(0.25);
    ck_assert_msg(mean < best + 0.25, "nll %g, the entropy is %g (seed %llu)", mean, best, (unsigned long long)test_seed());
    free(x);
    free(context);
    free(log_prob);
    nf_flow_free(flow);
}
END_TEST

/* ---- same seed, same bits ---- */

START_TEST(seed_decides_and_threads_do_not) {
    const nf_precision precision = _i ? NF_SINGLE : NF_DOUBLE;
    double *x = gaussian_rows(1, ROWS);
    nf_flow *reference = make_flow(precision), *other = make_flow(precision);
    nf_fit_config config = {.struct_size = sizeof config, .epochs = 4, .batch_size = 300, .seed = 9};
    nf_fit_report first = {.struct_size = sizeof first};
    must(nf_fit(reference, ROWS, x, NULL, &config, &first));
    for (size_t threads = 1; threads <= 8; threads += threads == 3 ? 5 : 1) {
        nf_flow *flow = make_flow(precision);
        nf_fit_report report = {.struct_size = sizeof report};
        config.threads = threads;
        must(nf_fit(flow, ROWS, x, NULL, &config, &report));
        same_parameters(flow, reference);
        same_bits("train loss", &report.train_loss, &first.train_loss, 1);
        same_bits("validation loss", &report.validation_loss, &first.validation_loss, 1);
        same_bits("best loss", &report.best_loss, &first.best_loss, 1);
        nf_flow_free(flow);
    }
    config.seed = 10;
    must(nf_fit(other, ROWS, x, NULL, &config, NULL));
    double *a = new_parameters(reference), *b = new_parameters(other);
    ck_assert(!equal_bits(a, b, nf_parameter_count(other)));
    free(a);
    free(b);
    free(x);
    nf_flow_free(reference);
    nf_flow_free(other);
}
END_TEST

static int check_mode(void *user, const nf_fit_progress *p) {
    (void)p;
    *(int *)user |= fegetround() != FE_UPWARD;
    return 0;
}

START_TEST(the_floating_point_mode_does_not_decide) {
    double *x = gaussian_rows(1, ROWS);
    nf_flow *flow = make_flow(NF_DOUBLE), *upward = make_flow(NF_DOUBLE);
    int wrong = 0;
    nf_fit_config config = {.struct_size = sizeof config, .epochs = 5, .progress = check_mode, .progress_user = &wrong};
    nf_fit_report report = {.struct_size = sizeof report}, other = report;
    must(nf_fit(flow, ROWS, x, NULL, &config, &report));
    ck_assert_int_eq(fesetround(FE_UPWARD), 0);
    wrong = 0;
    must(nf_fit(upward, ROWS, x, NULL, &config, &other));
    const int mode = fegetround();
    ck_assert_int_eq(fesetround(FE_TONEAREST), 0);
    ck_assert_int_eq(mode, FE_UPWARD);
    ck_assert_msg(!wrong, "the callback runs in another rounding mode than the caller's");
    same_parameters(flow, upward);
    same_bits("train loss", &other.train_loss, &report.train_loss, 1);
    same_bits("validation loss", &other.validation_loss, &report.validation_loss, 1);
    free(x);
    nf_flow_free(flow);
    nf_flow_free(upward);
}
END_TEST

/* log p = -|x_0|: exact in every rounding mode, which the user's functions run in. */
static nf_status exact_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    *(int *)user |= fegetround();
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = -fabs(x[r * DIM]);
        gradient[r * DIM] = x[r * DIM] > 0 ? -1 : 1;
        gradient[r * DIM + 1] = 0;
    }
    return NF_OK;
}

START_TEST(nor_does_it_for_the_reverse_kl) {
    nf_flow *flow = make_flow(NF_DOUBLE), *upward = make_flow(NF_DOUBLE);
    const nf_reverse_kl_config config = {.struct_size = sizeof config, .steps = 30, .samples = 50, .seed = 3, .beta_start = 0.3, .evaluation_samples = 500};
    nf_reverse_kl_report a = {.struct_size = sizeof a}, b = a;
    int modes[2] = {0, 0};
    must(nf_fit_reverse_kl(flow, exact_target, &modes[0], &config, &a));
    ck_assert_int_eq(fesetround(FE_UPWARD), 0);
    must(nf_fit_reverse_kl(upward, exact_target, &modes[1], &config, &b));
    ck_assert_int_eq(fesetround(FE_TONEAREST), 0);
    ck_assert_int_eq(modes[0], FE_TONEAREST);
    ck_assert_int_eq(modes[1], FE_UPWARD);
    same_parameters(flow, upward);
    same_bits("loss", &b.loss, &a.loss, 1);
    same_bits("elbo", &b.elbo, &a.elbo, 1);
    same_bits("elbo_error", &b.elbo_error, &a.elbo_error, 1);
    same_bits("log_evidence", &b.log_evidence, &a.log_evidence, 1);
    nf_flow_free(flow);
    nf_flow_free(upward);
}
END_TEST

/* ---- early stopping and the callback ---- */

START_TEST(patience_ends_and_the_best_is_restored) {
    double *x = gaussian_rows(1, 40), *held_out = gaussian_rows(2, 200);
    nf_flow *flow = make_flow(NF_DOUBLE);
    const nf_optimizer_config hot = {.struct_size = sizeof hot, .learning_rate = 0.1};
    nf_fit_config config = plain(60);
    diary d = begin_diary(flow);
    nf_fit_report report = {.struct_size = sizeof report};
    config.optimizer = &hot;
    config.patience = 7;
    config.validation_x = held_out;
    config.validation_rows = 200;
    config.progress = write_diary;
    config.progress_user = &d;
    must(nf_fit(flow, 40, x, NULL, &config, &report));
    ck_assert_int_eq(report.stop_reason, NF_STOP_PATIENCE);
    ck_assert_uint_lt(report.epochs_run, 60);
    ck_assert_uint_eq(report.epochs_run, report.best_epoch + 7);
    ck_assert_uint_eq(d.calls, report.epochs_run);
    double *theta = new_parameters(flow);
    same_bits("parameters of the best epoch", theta, d.best, nf_parameter_count(flow));
    same_bits("best loss", &report.best_loss, &d.best_loss, 1);
    const double loss = mean_nll(flow, held_out, NULL, 200);
    must_agree("best loss", whole_error(&report.best_loss, &loss, 1), 1e-13);
    for (size_t e = 0; e < d.calls; e++)
        ck_assert(!(d.validation[e] < report.best_loss));
    free(theta);
    free(d.best);
    free(x);
    free(held_out);
    nf_flow_free(flow);
}
END_TEST

START_TEST(without_held_out_rows_the_last_is_given) {
    double *x = gaussian_rows(1, ROWS);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(6);
    nf_fit_report report = {.struct_size = sizeof report};
    diary d = begin_diary(flow);
    config.validation_fraction = -1;
    config.progress = write_diary;
    config.progress_user = &d;
    must(nf_fit(flow, ROWS, x, NULL, &config, &report));
    ck_assert_uint_eq(report.epochs_run, 6);
    ck_assert_uint_eq(report.best_epoch, 6);
    ck_assert_uint_eq(report.steps, 6 * 10);
    ck_assert(isnan(report.validation_loss) && isnan(d.validation[0]));
    ck_assert(d.losses[5] < d.losses[0]);
    same_bits("train loss", &report.train_loss, &d.losses[5], 1);
    free(d.best);
    free(x);
    nf_flow_free(flow);
}
END_TEST

static nf_flow *make_small_cnf(void) {
    nf_flow *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .seed = 5, .hidden_layers = 1, .hidden_width = 4), &flow));
    return flow;
}

/* Held-out rows that do not count, because they have no weight or are no numbers: the last epoch is kept, as without them. */
START_TEST(held_out_rows_that_do_not_count_are_none) {
    enum { FEW = 40 };
    const bool weightless = _i & 1;
    double *x = gaussian_rows(3, FEW), *held_out = gaussian_rows(4, FEW), *weight = new_numbers(FEW);
    nf_flow *flow = make_small_cnf(), *other = make_small_cnf();
    nf_fit_config config = {.struct_size = sizeof config, .epochs = 6, .patience = 2, .batch_size = 10, .seed = 9};
    config.objective = _i & 2 ? NF_OBJECTIVE_FLOW_MATCHING : NF_OBJECTIVE_LIKELIHOOD;
    nf_fit_report report = {.struct_size = sizeof report};
    for (size_t r = 0; r < FEW; r++)
        weight[r] = 0.0;
    for (size_t i = 0; !weightless && i < FEW * DIM; i += DIM)
        held_out[i] = NAN;
    config.validation_rows = FEW;
    config.validation_x = held_out;
    config.validation_weight = weightless ? weight : NULL; /* all 0 */
    must(nf_fit(flow, FEW, x, NULL, &config, &report));
    ck_assert(isnan(report.validation_loss) && report.stop_reason == NF_STOP_EPOCHS);
    ck_assert_uint_eq(report.best_epoch, 6);
    ck_assert_double_eq(report.best_loss, report.train_loss);
    /* Drawn: two rows, and the one with a weight is not among them. */
    config.validation_rows = 0;
    config.validation_x = config.validation_weight = NULL;
    config.validation_fraction = 0.05;
    config.weight = weight;
    weight[7] = 1.5;
    must(nf_fit(other, FEW, x, NULL, &config, &report));
    ck_assert(isnan(report.validation_loss) && isfinite(report.best_loss));
    ck_assert_uint_eq(report.best_epoch, 6);
    nf_flow_free(other);
    nf_flow_free(flow);
    free(weight);
    free(held_out);
    free(x);
}
END_TEST

/* The only row that counts, because the others have no weight or are no numbers, is trained on, wherever the split puts it. */
START_TEST(the_rows_that_count_are_not_all_held_out) {
    enum { FEW = 30 };
    const bool weightless = _i & 1;
    double *x = gaussian_rows(3, FEW), *numbers = gaussian_rows(3, FEW), *weight = new_numbers(FEW);
    size_t held_out = 0;
    for (size_t row = 0; row < FEW; row++) {
        nf_flow *flow = make_flow(NF_DOUBLE), *whole = make_flow(NF_DOUBLE);
        nf_fit_report report = {.struct_size = sizeof report}, without = report;
        nf_fit_config config = plain(3);
        config.batch_size = 8;
        config.validation_fraction = 0.4;
        config.weight = weightless ? weight : NULL;
        for (size_t r = 0; r < FEW; r++) {
            weight[r] = r == row;
            for (size_t i = 0; i < DIM; i++)
                x[r * DIM + i] = weightless || r == row ? numbers[r * DIM + i] : NAN;
        }
        const nf_status status = weightless ? NF_OK : NF_ERR_ROWS;
        double *before = new_parameters(flow);
        must_be(status, nf_fit(flow, FEW, x, NULL, &config, &report));
        double *after = new_parameters(flow);
        ck_assert_uint_eq(report.steps, 3);
        ck_assert(isfinite(report.train_loss) && isnan(report.validation_loss));
        ck_assert(memcmp(before, after, nf_parameter_count(flow) * sizeof *before) != 0);
        config.validation_fraction = -1;
        must_be(status, nf_fit(whole, FEW, x, NULL, &config, &without));
        double *all = new_parameters(whole);
        held_out += memcmp(all, after, nf_parameter_count(flow) * sizeof *all) == 0;
        free(all);
        free(after);
        free(before);
        nf_flow_free(whole);
        nf_flow_free(flow);
    }
    ck_assert_uint_ge(held_out, (size_t)(0.4 * FEW)); /* that many rows would have been */
    free(weight);
    free(numbers);
    free(x);
}
END_TEST

static int keep_progress(void *user, const nf_fit_progress *p) {
    *(nf_fit_progress *)user = *p;
    return 0;
}

/* The norm is that of the last gradient, before clipping: with steepest descent and one step, how far the parameters went. */
START_TEST(the_gradient_norm_is_of_the_last_step) {
    double *x = gaussian_rows(1, ROWS);
    nf_flow *flow = make_flow(NF_DOUBLE);
    const nf_optimizer_config descent = {.struct_size = sizeof descent, .kind = NF_SGD, .learning_rate = 1e-5};
    nf_fit_progress told;
    nf_fit_config config = plain(1);
    config.optimizer = &descent;
    config.batch_size = ROWS;
    config.validation_fraction = -1;
    config.standardize = -1;
    config.progress = keep_progress;
    config.progress_user = &told;
    double *before = new_parameters(flow), square = 0;
    must(nf_fit(flow, ROWS, x, NULL, &config, NULL));
    double *after = new_parameters(flow);
    for (size_t i = 0; i < nf_parameter_count(flow); i++)
        square += (after[i] - before[i]) * (after[i] - before[i]);
    ck_assert_msg(fabs(told.gradient_norm * 1e-5 / sqrt(square) - 1) < 1e-6, "norm %g, a step of %g", told.gradient_norm, sqrt(square));
    free(before);
    free(after);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* A flow that cannot map the held-out rows has no loss there, and none is the best. */
START_TEST(where_there_is_no_loss_none_is_told) {
    double *x = gaussian_rows(1, ROWS), held_out[DIM] = {1e300, 1.0};
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_progress told;
    nf_fit_report report = {.struct_size = sizeof report};
    nf_fit_config config = plain(2);
    config.validation_x = held_out;
    config.validation_rows = 1;
    config.progress = keep_progress;
    config.progress_user = &told;
    must(nf_fit(flow, ROWS, x, NULL, &config, &report));
    ck_assert(isnan(told.validation_loss) && isnan(told.best_loss) && isfinite(told.train_loss) && told.epoch == 2);
    ck_assert(isnan(report.validation_loss) && isnan(report.best_loss));
    free(x);
    nf_flow_free(flow);
}
END_TEST

START_TEST(the_callback_stops) {
    double *x = gaussian_rows(1, ROWS);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(50);
    nf_fit_report report = {.struct_size = sizeof report};
    diary d = begin_diary(flow);
    d.stop_after = 3;
    config.progress = write_diary;
    config.progress_user = &d;
    must_be(NF_STOPPED, nf_fit(flow, ROWS, x, NULL, &config, &report));
    ck_assert_uint_eq(report.epochs_run, 3);
    ck_assert_int_eq(report.stop_reason, NF_STOP_CALLBACK);
    double *theta = new_parameters(flow);
    same_bits("parameters of the best epoch", theta, d.best, nf_parameter_count(flow));
    free(theta);
    free(d.best);
    free(x);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("fit");
    TCase *learning = tcase_create("learning"), *bits = tcase_create("bits"), *stopping = tcase_create("stopping");
    tcase_add_loop_test(learning, learns_a_gaussian, 0, 2);
    tcase_add_test(learning, learns_what_depends_on_a_context);
    tcase_add_loop_test(bits, seed_decides_and_threads_do_not, 0, 2);
    tcase_add_test(bits, the_floating_point_mode_does_not_decide);
    tcase_add_test(bits, nor_does_it_for_the_reverse_kl);
    tcase_add_test(stopping, patience_ends_and_the_best_is_restored);
    tcase_add_test(stopping, without_held_out_rows_the_last_is_given);
    tcase_add_loop_test(stopping, the_rows_that_count_are_not_all_held_out, 0, 2);
    tcase_add_loop_test(stopping, held_out_rows_that_do_not_count_are_none, 0, 4);
    tcase_add_test(stopping, the_gradient_norm_is_of_the_last_step);
    tcase_add_test(stopping, where_there_is_no_loss_none_is_told);
    tcase_add_test(stopping, the_callback_stops);
    TCase *all[] = {learning, bits, stopping};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tcase_set_timeout(all[i], 60);
        suite_add_tcase(suite, all[i]);
    }
    return run_suite(suite);
}
