/* The settings of nf_fit do what the header says of them: schedules, weights, the average, noise, the units of the columns, tolerances, defaults. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fit_scene.h"
#include "toy.h"

/* ---- schedules ---- */

static diary rates_of(nf_schedule schedule, double factor, size_t step) {
    double *x = gaussian_rows(1, 100);
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(12);
    diary d = begin_diary(flow);
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

/* A row of an epoch draws the same noise whatever the batches are; without steps the loss tells. */
START_TEST(noise_does_not_depend_on_the_batches) {
    static const size_t sizes[] = {ROWS, 64, 50, 7};
    double *x = gaussian_rows(4, ROWS), loss = 0;
    nf_flow *flow = make_flow(NF_DOUBLE);
    nf_fit_config config = plain(2);
    nf_fit_report report = {.struct_size = sizeof report};
    config.optimizer = NF_CONFIG(nf_optimizer_config, .kind = NF_SGD, .learning_rate = -1);
    config.validation_fraction = config.standardize = -1;
    config.noise = 0.5;
    config.contamination = 0.3;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        config.batch_size = sizes[k];
        must(nf_fit(flow, ROWS, x, NULL, &config, &report));
        if (k == 0)
            loss = report.train_loss;
        must_agree("loss", whole_error(&report.train_loss, &loss, 1), 1e-13);
    }
    nf_flow_free(flow);
    free(x);
}
END_TEST

enum { DRAWS = 500 };

static int keep_loss(void *user, const nf_fit_progress *p) {
    ((double *)user)[p->epoch - 1] = p->train_loss;
    return 0;
}

/* The noise of one row in each epoch, in standard deviations: without steps, and under the identity, the loss is half of its square. The other row weighs nothing. */
static void draw_noise(double contamination, double noise[DRAWS]) {
    const double x[] = {1000, -1000}, weight[] = {1, 1e-200};
    nf_flow *flow;
    nf_fit_config config = plain(DRAWS);
    must(nf_affine_create(1, NF_DOUBLE, &flow));
    config.optimizer = NF_CONFIG(nf_optimizer_config, .kind = NF_SGD, .learning_rate = -1);
    config.validation_fraction = config.standardize = -1;
    config.weight = weight;
    config.noise = 0.01;
    config.contamination = contamination;
    config.progress = keep_loss;
    config.progress_user = noise;
    must(nf_fit(flow, 2, x, NULL, &config, NULL));
    for (size_t i = 0; i < DRAWS; i++)
        noise[i] = (sqrt(2 * (noise[i] - 0.91893853320467274178)) - 1000) / 10;
    nf_flow_free(flow);
}

/* Half of the draws are the same 8 times as large, and which of them says nothing about how large they are. */
START_TEST(wide_noise_is_drawn_apart) {
    double plain_noise[DRAWS], noise[DRAWS], square[2] = {0}, count[2] = {0};
    draw_noise(-1, plain_noise);
    draw_noise(0.5, noise);
    for (size_t i = 0; i < DRAWS; i++) {
        const bool wide = fabs(noise[i]) > 4 * fabs(plain_noise[i]);
        const double expected = (wide ? 8 : 1) * plain_noise[i];
        ck_assert_msg(fabs(noise[i] - expected) < 1e-6 * (1 + fabs(expected)), "draw %zu is %g, not %g", i, noise[i], expected);
        square[wide] += plain_noise[i] * plain_noise[i];
        count[wide]++;
    }
    for (int wide = 0; wide < 2; wide++) {
        ck_assert_msg(fabs(count[wide] / DRAWS - 0.5) < 0.1, "%g of %d draws are %s", count[wide], DRAWS, wide ? "wide" : "not");
        ck_assert_msg(fabs(square[wide] / count[wide] - 1) < 0.4, "a mean square of %g where the noise is %s", square[wide] / count[wide], wide ? "wide" : "not");
    }
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

int main(void) {
    Suite *suite = suite_create("settings of a fit");
    TCase *settings = tcase_create("settings");
    tcase_add_test(settings, schedules_are_what_they_say);
    tcase_add_test(settings, weights_are_repetitions);
    tcase_add_loop_test(settings, a_factor_of_all_weights_is_nothing, 0, 2);
    tcase_add_test(settings, the_average_is_exponential);
    tcase_add_loop_test(settings, noise_has_the_spread_of_the_columns, 0, 3);
    tcase_add_test(settings, wide_noise_is_drawn_apart);
    tcase_add_test(settings, noise_does_not_depend_on_the_batches);
    tcase_add_loop_test(settings, far_rows_keep_some_density, 0, is_brief() ? 1 : 4);
    tcase_add_test(settings, standardizing_is_for_untouched_affine_layers);
    tcase_add_test(settings, units_of_the_columns_do_not_decide);
    tcase_add_test(settings, tolerances_are_looser_in_training_alone);
    tcase_add_loop_test(settings, defaults_are_those_of_the_header, 0, 4);
    tcase_set_timeout(settings, 60);
    suite_add_tcase(suite, settings);
    return run_suite(suite);
}
