/* nf_fit: it learns, it is reproducible whatever the threads, and it never gives back parameters that are worse than those that it has seen. */
#include <fenv.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"
#include "toy.h"

enum { ROWS = 600, DIM = 2 };

/* A correlated Gaussian far from the base. Its entropy: 1 + log(2 pi) + log|det L| nats, L = [[2.385, 0], [1.1, 0.485]]. */
static double *gaussian_rows(uint64_t stream, size_t rows) {
    random_source random = random_begin(stream);
    double *x = new_numbers(rows * DIM);
    for (size_t r = 0; r < rows; r++) {
        const double a = random_normal(&random), b = random_normal(&random);
        x[r * DIM] = 17.5 + 2.385 * a;
        x[r * DIM + 1] = -3.85 + 1.1 * a + 0.485 * b;
    }
    return x;
}

static const double entropy = 1.0 + 1.83787706640934548356 + 0.14562;

static nf_flow *make_flow(nf_precision precision) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 4, .seed = 5, .precision = precision, .hidden_layers = 1, .hidden_width = 8), &flow));
    return flow;
}

static double mean_nll(const nf_flow *flow, const double *x, const double *weight, size_t rows) {
    double *log_prob = new_numbers(rows), sum = 0, total = 0;
    must(nf_log_prob(flow, NULL, rows, x, NULL, log_prob));
    for (size_t r = 0; r < rows; r++) {
        const double w = weight ? weight[r] : 1.0;
        sum -= w * log_prob[r];
        total += w;
    }
    free(log_prob);
    return sum / total;
}

/* The plain settings: no noise, average, decay or schedule, so that what a test adds stands alone. */
static const nf_optimizer_config plain_adam = {.struct_size = sizeof plain_adam, .kind = NF_ADAM, .learning_rate = 5e-3};

static nf_fit_config plain(size_t epochs) {
    return (nf_fit_config){.struct_size = sizeof(nf_fit_config),
                           .epochs = epochs,
                           .batch_size = 64,
                           .seed = 3,
                           .optimizer = &plain_adam,
                           .schedule = NF_SCHEDULE_CONSTANT,
                           .ema_decay = -1,
                           .noise = -1};
}

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

typedef struct diary {
    const nf_flow *flow;
    size_t calls, stop_after;
    double *best, best_loss, told_best; /* told_best: what progress should say */
    double rates[64], losses[64], validation[64];
} diary;

static int write_diary(void *user, const nf_fit_progress *p) {
    diary *d = user;
    ck_assert_uint_eq(p->struct_size, sizeof *p);
    ck_assert_uint_eq(p->epoch, d->calls + 1);
    const double left = p->seconds / (double)p->epoch * (double)(p->epochs - p->epoch);
    ck_assert_msg(p->seconds > 0 && fabs(p->seconds_left - left) <= 1e-9 * left, "%g s left of %g after %zu", p->seconds_left, left, p->epoch);
    ck_assert(isfinite(p->gradient_norm) && p->gradient_norm > 0);
    d->told_best = isnan(p->validation_loss) ? p->train_loss : fmin(d->told_best, p->validation_loss);
    same_bits("best loss", &p->best_loss, &d->told_best, 1);
    ck_assert_uint_lt(d->calls, 64);
    d->rates[d->calls] = p->learning_rate;
    d->losses[d->calls] = p->train_loss;
    d->validation[d->calls] = p->validation_loss;
    d->calls++;
    if (p->validation_loss < d->best_loss) {
        d->best_loss = p->validation_loss;
        must(nf_get_parameters(d->flow, d->best));
    }
    return d->calls == d->stop_after;
}

static diary begin_diary(const nf_flow *flow, nf_fit_config *config) {
    (void)config;
    return (diary){.flow = flow, .best = new_numbers(nf_parameter_count(flow)), .best_loss = INFINITY, .told_best = INFINITY};
}

START_TEST(patience_ends_and_the_best_is_restored) {
    double *x = gaussian_rows(1, 40), *held_out = gaussian_rows(2, 200);
    nf_flow *flow = make_flow(NF_DOUBLE);
    const nf_optimizer_config hot = {.struct_size = sizeof hot, .learning_rate = 0.1};
    nf_fit_config config = plain(60);
    diary d = begin_diary(flow, &config);
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
    diary d = begin_diary(flow, &config);
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
    diary d = begin_diary(flow, &config);
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

/* ---- schedules ---- */

static diary rates_of(nf_schedule schedule, double factor, size_t step) {
    double *x = gaussian_rows(1, 100);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(12);
    diary d = begin_diary(flow, &config);
    config.schedule = schedule;
    config.schedule_factor = factor;
    config.schedule_step = step;
    config.batch_size = 100;
    config.validation_fraction = -1;
    config.progress = write_diary;
    config.progress_user = &d;
    must(nf_fit(flow, 100, x, NULL, &config, NULL));
    free(x);
    free(d.best);
    nf_flow_free(flow);
    return d;
}

START_TEST(schedules_are_what_they_say) {
    const diary constant = rates_of(NF_SCHEDULE_CONSTANT, 0, 0), cosine = rates_of(NF_SCHEDULE_COSINE, 0.2, 0), zero = rates_of(NF_SCHEDULE_COSINE, 0, 0);
    const diary step = rates_of(NF_SCHEDULE_STEP, 0.25, 5), usual = rates_of(NF_SCHEDULE_STEP, 0, 0);
    for (int e = 0; e < 12; e++) {
        /* One batch an epoch: the rate after epoch e is that of step e of 12. */
        const double wave = 0.5 * (1 + cos(3.14159265358979323846 * e / 12));
        const double expected[] = {5e-3, 5e-3 * (0.2 + 0.8 * wave), 5e-3 * wave, 5e-3 * pow(0.25, e / 5), 5e-3 * pow(0.1, e / 5)};
        const double got[] = {constant.rates[e], cosine.rates[e], zero.rates[e], step.rates[e], usual.rates[e]};
        for (int k = 0; k < 5; k++)
            ck_assert_msg(fabs(got[k] - expected[k]) <= 1e-17, "schedule %d, epoch %d: rate %g, not %g", k, e, got[k], expected[k]);
    }
}
END_TEST

/* ---- weights, noise, the average ---- */

/* Full batches of rows with weights 1, 2 and 3 make the steps of full batches of duplicated rows. */
START_TEST(weights_are_repetitions) {
    enum { FEW = 60 };
    double *x = gaussian_rows(1, FEW), *repeated = new_numbers(2 * FEW * DIM), weight[FEW];
    size_t count = 0;
    for (size_t r = 0; r < FEW; r++) {
        weight[r] = (double)(1 + r % 3);
        for (size_t k = 0; k < 1 + r % 3; k++)
            memcpy(repeated + DIM * count++, x + DIM * r, DIM * sizeof *x);
    }
    ck_assert_uint_eq(count, 2 * FEW);
    nf_flow *weighted = make_flow(NF_DOUBLE), *duplicated = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(20);
    nf_fit_report a = {.struct_size = sizeof a}, b = a;
    config.batch_size = 1000;
    config.validation_fraction = -1;
    config.standardize = -1; /* the mean and standard deviation of the columns are those of rows, whatever their weights */
    must(nf_fit(duplicated, count, repeated, NULL, &config, &a));
    config.weight = weight;
    must(nf_fit(weighted, FEW, x, NULL, &config, &b));
    double *p = new_parameters(weighted), *q = new_parameters(duplicated);
    must_agree("parameters", whole_error(p, q, nf_parameter_count(weighted)), 1e-9);
    must_agree("loss", whole_error(&a.train_loss, &b.train_loss, 1), 1e-9);

    /* So do held-out weights. */
    double *held_out = gaussian_rows(2, FEW);
    config.validation_x = held_out;
    config.validation_rows = FEW;
    config.validation_weight = weight;
    config.epochs = 1;
    must(nf_fit(weighted, FEW, x, NULL, &config, &b));
    const double expected = mean_nll(weighted, held_out, weight, FEW);
    must_agree("held-out loss", whole_error(&b.validation_loss, &expected, 1), 1e-13);

    for (size_t r = 0; r < FEW; r++)
        weight[r] = 0;
    must_be(NF_ERR_ARGUMENT, nf_fit(weighted, FEW, x, NULL, &config, &b));
    free(p);
    free(q);
    free(x);
    free(held_out);
    free(repeated);
    nf_flow_free(weighted);
    nf_flow_free(duplicated);
}
END_TEST

/* Of the training rows and of those held out. In single precision a batch of rows whose weights are nothing beside the others makes no step. */
START_TEST(a_factor_of_all_weights_is_nothing) {
    enum { FEW = 150 };
    const int factors[] = {0, -200, 200, -1070, 1021};
    double *x = gaussian_rows(1, FEW), weight[FEW], *first = NULL;
    nf_fit_report first_report = {0};
    for (size_t k = 0; k < sizeof factors / sizeof factors[0]; k++) {
        for (size_t r = 0; r < FEW; r++)
            weight[r] = ldexp((double)(1 + r % 3), factors[k]);
        nf_flow *flow = make_flow(_i ? NF_SINGLE : NF_DOUBLE);
        nf_fit_config config = plain(3);
        nf_fit_report report = {.struct_size = sizeof report};
        config.weight = weight;
        config.validation_rows = FEW / 2;
        config.validation_x = x;
        config.validation_weight = weight;
        must(nf_fit(flow, FEW, x, NULL, &config, &report));
        double *theta = new_parameters(flow);
        if (!first) {
            first = theta;
            first_report = report;
        } else {
            same_bits("parameters", theta, first, nf_parameter_count(flow));
            same_bits("validation loss", &report.validation_loss, &first_report.validation_loss, 1);
            same_bits("training loss", &report.train_loss, &first_report.train_loss, 1);
            free(theta);
        }
        nf_flow_free(flow);
    }
    free(first);

    for (size_t r = 0; r < FEW; r++)
        weight[r] = r == 7 ? 1.0 : 1e-60;
    nf_flow *flow = make_flow(NF_SINGLE);
    nf_fit_config config = plain(3);
    nf_fit_report report = {.struct_size = sizeof report};
    config.weight = weight;
    config.validation_fraction = -1;
    config.batch_size = 10;
    must(nf_fit(flow, FEW, x, NULL, &config, &report));
    ck_assert_uint_eq(report.steps, 3);
    ck_assert(isfinite(report.train_loss));
    nf_flow_free(flow);
    free(x);
}
END_TEST

/* One step an epoch: the parameters after each are seen, and their average is computed beside. */
typedef struct averager {
    const nf_flow *flow;
    double *theta, *average, decay;
    size_t steps;
} averager;

static int follow(void *user, const nf_fit_progress *p) {
    averager *a = user;
    (void)p;
    must(nf_get_parameters(a->flow, a->theta));
    const double t = (double)++a->steps, decay = fmin(a->decay, (1 + t) / (10 + t));
    for (size_t i = 0; i < nf_parameter_count(a->flow); i++)
        a->average[i] = decay * a->average[i] + (1 - decay) * a->theta[i];
    return 0;
}

START_TEST(the_average_is_exponential) {
    double *x = gaussian_rows(1, 100);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(40);
    averager a = {flow, new_parameters(flow), new_parameters(flow), 0.7, 0};
    config.ema_decay = 0.7;
    config.batch_size = 100;
    config.validation_fraction = -1;
    config.standardize = -1;
    config.progress = follow;
    config.progress_user = &a;
    must(nf_fit(flow, 100, x, NULL, &config, NULL));
    double *theta = new_parameters(flow);
    must_agree("average", whole_error(theta, a.average, nf_parameter_count(flow)), 1e-12);
    ck_assert_msg(whole_error(theta, a.theta, nf_parameter_count(flow)) > 1e-4, "the last parameters were given, not the average");
    free(theta);
    free(a.theta);
    free(a.average);
    free(x);
    nf_flow_free(flow);
}
END_TEST

/* An affine layer alone under constant noise learns the spread of data and noise together: sd sqrt(1 + noise^2 (1 + 63 contamination)). */
START_TEST(noise_has_the_spread_of_the_columns) {
    enum { MANY = 5000 };
    const double shares[] = {0, 0.2, 1};
    const nf_optimizer_config adam = {.struct_size = sizeof adam, .learning_rate = 0.02};
    double *x = gaussian_rows(1, MANY), theta[2 * DIM];
    nf_flow *flow;
    nf_fit_config config = plain(_i ? 80 : 40);
    must(nf_affine_create(DIM, NF_DOUBLE, &flow));
    config.optimizer = &adam;
    config.noise = 0.75;
    config.contamination = shares[_i]; /* 0: none, because there are no couplings */
    config.ema_decay = 0.99;
    config.batch_size = 500;
    config.validation_fraction = -1;
    must(nf_fit(flow, MANY, x, NULL, &config, NULL));
    must(nf_get_parameters(flow, theta));
    const double sd[DIM] = {2.385, sqrt(1.1 * 1.1 + 0.485 * 0.485)}, mean[DIM] = {17.5, -3.85};
    for (size_t i = 0; i < DIM; i++) {
        const double expected = sd[i] * sqrt(1 + 0.75 * 0.75 * (1 + 63 * shares[_i]));
        ck_assert_msg(fabs(exp(theta[i]) / expected - 1) < 0.06, "column %zu: sd %g, not %g", i, exp(theta[i]), expected);
        ck_assert_msg(fabs(theta[DIM + i] - mean[i]) < (_i ? 0.4 : 0.2) * sd[i], "column %zu: mean %g", i, theta[DIM + i]);
    }
    free(x);
    nf_flow_free(flow);
}
END_TEST

/*
 * What a held-out row may meet: the parabola of the boomerang goes on where 400 rows have none, at y = +-20, five standard deviations out, where the true density
 * is exp(-15). Without contamination the first of these fits leaves exp(-90,000) at one of the two.
 */
START_TEST(far_rows_keep_some_density) {
    enum { TRAINED = 400 };
    static const uint64_t seeds[] = {8, 7, 4, 2};
    const toy_set *set = toy_find("boomerang");
    const double far[2 * DIM] = {100, 20, 100, -20};
    double *x = new_numbers(TRAINED * DIM);
    nf_flow *flow;
    toy_rows(set, seeds[_i], 0, TRAINED, x);
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .seed = seeds[_i], .precision = NF_SINGLE), &flow));
    must(nf_fit(flow, TRAINED, x, NULL, NF_CONFIG(nf_fit_config, .seed = seeds[_i], .epochs = 100), NULL));
    const double nll = mean_nll(flow, far, NULL, 2);
    ck_assert_msg(nll < 500, "seed %" PRIu64 ": %g nats on the average", seeds[_i], nll);
    nf_flow_free(flow);
    free(x);
}
END_TEST

START_TEST(standardizing_is_for_untouched_affine_layers) {
    double *x = gaussian_rows(1, ROWS);
    const nf_optimizer_config still = {.struct_size = sizeof still, .kind = NF_SGD, .learning_rate = -1};
    nf_fit_config config = plain(1);
    config.optimizer = &still;
    config.validation_fraction = -1;
    nf_flow *expected, *flow;
    double a[2 * DIM], b[2 * DIM];
    must(nf_affine_create(DIM, NF_DOUBLE, &expected));
    must(nf_affine_standardize(expected, ROWS, x));
    must(nf_get_parameters(expected, a));
    must(nf_affine_create(DIM, NF_DOUBLE, &flow));
    must(nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must(nf_get_parameters(flow, b));
    must_agree("standardised", whole_error(b, a, 2 * DIM), 1e-12);
    /* Not again, and not when it is not wanted. */
    a[0] += 0.385;
    must(nf_set_parameters(flow, a));
    must(nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must(nf_get_parameters(flow, b));
    same_bits("parameters that were set", b, a, 2 * DIM);
    nf_flow_free(flow);
    must(nf_affine_create(DIM, NF_DOUBLE, &flow));
    config.standardize = -1;
    must(nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must(nf_get_parameters(flow, b));
    for (size_t i = 0; i < 2 * DIM; i++)
        ck_assert(b[i] == 0.0);
    nf_flow_free(flow);
    nf_flow_free(expected);
    free(x);
}
END_TEST

/* Rows in other units, far from 0 by their own spread, give the same density in those units; with the decay of the defaults. */
START_TEST(units_of_the_columns_do_not_decide) {
    const double unit[][DIM] = {{1, 1}, {1e-6, 1e-6}, {1e5, 1e-3}, {1e200, 1e-200}}, offset[][DIM] = {{1e4, -1e5}, {0, 0}, {3e7, 40}, {0, 0}};
    double *x = gaussian_rows(1, ROWS), *y = new_numbers(ROWS * DIM);
    nf_flow *expected = make_flow(NF_DOUBLE), *flow = make_flow(NF_DOUBLE);
    const nf_fit_config config = {.struct_size = sizeof config, .epochs = 6, .seed = 3};
    for (size_t k = 0; k < 4; k++) {
        nf_fit_report a = {.struct_size = sizeof a}, b = a;
        for (size_t i = 0; i < ROWS * DIM; i++)
            y[i] = offset[k][i % DIM] + unit[k][i % DIM] * x[i];
        must(nf_fit(expected, ROWS, x, NULL, &config, &a));
        must(nf_fit(flow, ROWS, y, NULL, &config, &b));
        const double jacobian = log(unit[k][0]) + log(unit[k][1]);
        ck_assert_uint_eq(a.best_epoch, b.best_epoch);
        ck_assert_msg(fabs(b.best_loss - jacobian - a.best_loss) < 1e-6, "units %zu: held-out loss %.9g, not %.9g", k, b.best_loss - jacobian, a.best_loss);
        const double own = mean_nll(expected, x, NULL, ROWS), other = mean_nll(flow, y, NULL, ROWS) - jacobian;
        ck_assert_msg(fabs(other - own) < 1e-6, "units %zu: loss %.9g, not %.9g", k, other, own);
        nf_flow_free(flow);
        nf_flow_free(expected);
        flow = make_flow(NF_DOUBLE);
        expected = make_flow(NF_DOUBLE);
    }
    nf_flow_free(flow);
    nf_flow_free(expected);
    free(x);
    free(y);
}
END_TEST

static nf_flow *make_cnf(void) {
    nf_flow *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_layers = 1, .hidden_width = 8, .seed = 5, .rtol = 1e-6, .atol = 1e-7), &flow));
    return flow;
}

/* A continuous flow is trained loosely, and judged and given back with its own tolerances. */
START_TEST(tolerances_are_looser_in_training_alone) {
    enum { SOME = 128 };
    double *x = gaussian_rows(1, SOME), *held_out = gaussian_rows(2, SOME), log_prob[2][SOME];
    nf_flow *flow = make_cnf(), *untouched = make_cnf(), *tight = make_cnf();
    nf_fit_report report = {.struct_size = sizeof report}, other = report;
    nf_fit_config config = plain(2);
    config.validation_x = held_out;
    config.validation_rows = SOME;
    must(nf_fit(flow, SOME, x, NULL, &config, &report));
    double *theta = new_parameters(flow);
    must(nf_set_parameters(untouched, theta));
    must(nf_log_prob(flow, NULL, SOME, held_out, NULL, log_prob[0]));
    must(nf_log_prob(untouched, NULL, SOME, held_out, NULL, log_prob[1]));
    same_bits("log_prob", log_prob[0], log_prob[1], SOME);
    const double loss = mean_nll(untouched, held_out, NULL, SOME);
    must_agree("best loss", whole_error(&report.best_loss, &loss, 1), 1e-13);
    config.training_tolerance = -1;
    must(nf_fit(tight, SOME, x, NULL, &config, &other));
    ck_assert_msg(report.rhs_evaluations > 0 && report.rhs_evaluations < 0.8 * other.rhs_evaluations, "%g evaluations a row, with the flow's own tolerance %g",
                  report.rhs_evaluations, other.rhs_evaluations);
    config.training_tolerance = 1e-12; /* tighter than the flow's own is not what it says */
    nf_flow *as_tight = make_cnf();
    must(nf_fit(as_tight, SOME, x, NULL, &config, &other));
    same_parameters(tight, as_tight);
    free(theta);
    free(x);
    free(held_out);
    nf_flow_free(flow);
    nf_flow_free(untouched);
    nf_flow_free(tight);
    nf_flow_free(as_tight);
}
END_TEST

static nf_flow *make_planar_flow(void) {
    nf_flow *flow;
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM, .layers = 2, .seed = 5), &flow));
    return flow;
}

/* What the header says that zeros mean, written out: the same bits. */
START_TEST(defaults_are_those_of_the_header) {
    enum { COUPLINGS, CONTINUOUS, NEITHER, MATCHING, KINDS, SOME = 150 };
    static const struct {
        double rate, weight_decay, noise, contamination, validation_fraction;
    } said[KINDS] = {[COUPLINGS] = {5e-3, 0.1, 0.25, 0.02, 0.1},
                     [CONTINUOUS] = {1e-2, 0.02, 0.2, -1, 0.1},
                     [NEITHER] = {2e-2, 0, 0.25, -1, 0.1},
                     [MATCHING] = {5e-3, 0, -1, -1, -1}};
    const nf_optimizer_config optimizer = {.struct_size = sizeof optimizer,
                                           .kind = NF_ADAMW,
                                           .learning_rate = said[_i].rate,
                                           .weight_decay = said[_i].weight_decay,
                                           .beta1 = 0.9,
                                           .beta2 = 0.999,
                                           .epsilon = 1e-8,
                                           .clip_norm = 1};
    const nf_objective objective = _i == MATCHING ? NF_OBJECTIVE_FLOW_MATCHING : NF_OBJECTIVE_LIKELIHOOD;
    const nf_fit_config zeros = {.struct_size = sizeof zeros, .epochs = 4, .seed = 3, .objective = objective};
    const nf_fit_config written = {.struct_size = sizeof written,
                                   .epochs = 4,
                                   .seed = 3,
                                   .objective = objective,
                                   .optimizer = &optimizer,
                                   .batch_size = 64,
                                   .schedule = NF_SCHEDULE_COSINE,
                                   .threads = 1,
                                   .ema_decay = 0.998,
                                   .noise = said[_i].noise,
                                   .contamination = said[_i].contamination,
                                   .validation_fraction = said[_i].validation_fraction,
                                   .training_tolerance = 1e-3,
                                   .checkpoint_every = 1};
    double *x = gaussian_rows(1, SOME);
    nf_flow *flows[2];
    nf_fit_report reports[2] = {{.struct_size = sizeof reports[0]}, {.struct_size = sizeof reports[1]}};
    for (int k = 0; k < 2; k++) {
        flows[k] = _i == COUPLINGS ? make_flow(NF_DOUBLE) : _i == NEITHER ? make_planar_flow() : make_cnf();
        must(nf_fit(flows[k], SOME, x, NULL, k ? &written : &zeros, &reports[k]));
    }
    same_parameters(flows[0], flows[1]);
    same_bits("train loss", &reports[0].train_loss, &reports[1].train_loss, 1);
    same_bits("evaluations", &reports[0].rhs_evaluations, &reports[1].rhs_evaluations, 1);
    free(x);
    nf_flow_free(flows[0]);
    nf_flow_free(flows[1]);
}
END_TEST

/* ---- what goes wrong ---- */

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
    Suite *suite = suite_create("fit");
    TCase *learning = tcase_create("learning"), *bits = tcase_create("bits"), *stopping = tcase_create("stopping"), *settings = tcase_create("settings"),
          *wrong = tcase_create("wrong");
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
    tcase_add_test(settings, schedules_are_what_they_say);
    tcase_add_test(settings, weights_are_repetitions);
    tcase_add_loop_test(settings, a_factor_of_all_weights_is_nothing, 0, 2);
    tcase_add_test(settings, the_average_is_exponential);
    tcase_add_loop_test(settings, noise_has_the_spread_of_the_columns, 0, 3);
    tcase_add_loop_test(settings, far_rows_keep_some_density, 0, is_brief() ? 1 : 4);
    tcase_add_test(settings, standardizing_is_for_untouched_affine_layers);
    tcase_add_test(settings, units_of_the_columns_do_not_decide);
    tcase_add_test(settings, tolerances_are_looser_in_training_alone);
    tcase_add_loop_test(settings, defaults_are_those_of_the_header, 0, 4);
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
    tcase_add_test(wrong, left_out_rows_have_no_part_in_the_loss);
    tcase_add_test(wrong, bad_contexts_are_bad_rows);
    tcase_add_test(wrong, one_row_is_enough);
    TCase *all[] = {learning, bits, stopping, settings, wrong};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tcase_set_timeout(all[i], 60);
        suite_add_tcase(suite, all[i]);
    }
    return run_suite(suite);
}
