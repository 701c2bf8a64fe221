/* The update rules against a plain reference, scalar by scalar as the header and the golden files state them. */
#include <math.h>

#include "support.h"

enum { DIM = 9, COUNT = 2 * DIM, STEPS = 25 };

/* Settings with the defaults filled in. */
typedef struct rule {
    nf_optimizer_kind kind;
    double rate, beta1, beta2, epsilon, decay, momentum, clip;
} rule;

static void reference_step(const rule *u, size_t t, double *theta, const double *given, double *m, double *v) {
    double norm = 0;
    for (size_t i = 0; i < COUNT; i++)
        norm += given[i] * given[i];
    norm = sqrt(norm);
    const double factor = u->clip > 0 ? fmin(1.0, u->clip / (norm + 1e-6)) : 1.0;
    for (size_t i = 0; i < COUNT; i++) {
        double g = given[i] * factor;
        if (u->kind == NF_ADAMW)
            theta[i] *= 1.0 - u->rate * u->decay;
        else
            g += u->decay * theta[i];
        switch (u->kind) {
        case NF_ADAM:
        case NF_ADAMW:
            m[i] = u->beta1 * m[i] + (1 - u->beta1) * g;
            v[i] = u->beta2 * v[i] + (1 - u->beta2) * g * g;
            theta[i] -= u->rate / (1 - pow(u->beta1, (double)t)) * m[i] / (sqrt(v[i]) / sqrt(1 - pow(u->beta2, (double)t)) + u->epsilon);
            break;
        case NF_SGD:
            m[i] = t == 1 ? g : u->momentum * m[i] + g;
            theta[i] -= u->rate * m[i];
            break;
        case NF_RMSPROP:
            v[i] = u->beta2 * v[i] + (1 - u->beta2) * g * g;
            theta[i] -= u->rate * g / (sqrt(v[i]) + u->epsilon);
            break;
        }
    }
}

static nf_flow *make_flow(nf_precision precision, double *theta) {
    nf_flow *flow;
    random_source random = random_begin(2);
    must(nf_affine_create(DIM, precision, &flow));
    for (size_t i = 0; i < COUNT; i++)
        theta[i] = (double)(float)random_normal(&random);
    must(nf_set_parameters(flow, theta));
    return flow;
}

static void draw(random_source *random, double *g) {
    for (size_t i = 0; i < COUNT; i++)
        g[i] = (double)(float)random_normal(random);
}

static void check_rule(const rule *u, const nf_optimizer_config *config, nf_precision precision, double tolerance) {
    double theta[COUNT], got[COUNT], g[COUNT], m[COUNT] = {0}, v[COUNT] = {0};
    nf_flow *flow = make_flow(precision, theta);
    nf_optimizer *optimizer;
    nf_gradient *gradient;
    random_source random = random_begin(3);
    must(nf_optimizer_create(flow, config, &optimizer));
    must(nf_gradient_create(flow, &gradient));
    for (size_t t = 1; t <= STEPS; t++) {
        draw(&random, g);
        must(nf_gradient_set(gradient, g));
        must(nf_optimizer_step(optimizer, flow, gradient));
        reference_step(u, t, theta, g, m, v);
        must(nf_get_parameters(flow, got));
        ck_assert_msg(whole_error(got, theta, COUNT) <= tolerance, "kind %d, step %zu: off by %g, allowed %g", u->kind, t, whole_error(got, theta, COUNT), tolerance);
    }
    nf_gradient_free(gradient);
    nf_optimizer_free(optimizer);
    nf_flow_free(flow);
}

static const rule rules[] = {
    {NF_ADAM, 1e-3, 0.9, 0.999, 1e-8, 0, 0, 0},     {NF_ADAM, 0.0385, 0.8, 0.985, 1e-6, 0.0385, 0, 2.385}, {NF_ADAM, 0.02, 0.5, 0.9, 1e-3, 0, 0, 1e-3},
    {NF_ADAMW, 0.0125, 0.9, 0.999, 1e-8, 0.385, 0, 0}, {NF_ADAMW, 0.03, 0.7, 0.95, 1e-8, 0.1, 0, 1.385},      {NF_SGD, 0.0385, 0.9, 0.999, 1e-8, 0, 0, 0},
    {NF_SGD, 0.01, 0.9, 0.999, 1e-8, 0.05, 0.9, 0},  {NF_SGD, 0.1, 0.9, 0.999, 1e-8, 0.01, 0.5, 0.785},     {NF_RMSPROP, 0.01, 0.9, 0.99, 1e-8, 0, 0, 0},
    {NF_RMSPROP, 0.02, 0.9, 0.9, 1e-4, 0.03, 0, 3.5},
};

START_TEST(rules_are_the_reference) {
    const rule *u = &rules[_i];
    const nf_optimizer_config config = {.struct_size = sizeof config,
                                        .kind = u->kind,
                                        .learning_rate = u->rate,
                                        .beta1 = u->beta1,
                                        .beta2 = u->beta2,
                                        .epsilon = u->epsilon,
                                        .weight_decay = u->decay,
                                        .momentum = u->momentum,
                                        .clip_norm = u->clip};
    check_rule(u, &config, NF_DOUBLE, 1e-14);
    check_rule(u, &config, NF_SINGLE, 1e-5);
}
END_TEST

START_TEST(zero_means_the_default_and_negative_zero) {
    check_rule(&rules[0], NULL, NF_DOUBLE, 1e-14);
    check_rule(&rules[0], NF_CONFIG(nf_optimizer_config, .kind = NF_ADAM), NF_DOUBLE, 1e-14);
    const rule none = {NF_ADAM, 0.01, 0, 0, 1e-8, 0, 0, 0};
    check_rule(&none, NF_CONFIG(nf_optimizer_config, .learning_rate = 0.01, .beta1 = -1, .beta2 = -1, .weight_decay = -2, .clip_norm = -1), NF_DOUBLE, 1e-14);
    const rule still = {NF_SGD, 0, 0.9, 0.999, 1e-8, 0, 0, 0};
    check_rule(&still, NF_CONFIG(nf_optimizer_config, .kind = NF_SGD, .learning_rate = -1), NF_DOUBLE, 0.0);
}
END_TEST

START_TEST(the_learning_rate_can_be_set) {
    double theta[COUNT], got[COUNT], g[COUNT], m[COUNT] = {0}, v[COUNT] = {0};
    nf_flow *flow = make_flow(NF_DOUBLE, theta);
    nf_optimizer *optimizer;
    nf_gradient *gradient;
    random_source random = random_begin(4);
    must(nf_optimizer_create(flow, NULL, &optimizer));
    must(nf_gradient_create(flow, &gradient));
    for (size_t t = 1; t <= STEPS; t++) {
        rule u = rules[0];
        u.rate = 0.01 / (double)t;
        must(nf_optimizer_set_learning_rate(optimizer, u.rate));
        draw(&random, g);
        must(nf_gradient_set(gradient, g));
        must(nf_optimizer_step(optimizer, flow, gradient));
        reference_step(&u, t, theta, g, m, v);
    }
    must(nf_get_parameters(flow, got));
    must_agree("parameters", whole_error(got, theta, COUNT), 1e-14);
    const double bad[] = {-0.1, NAN, INFINITY};
    for (size_t i = 0; i < 3; i++) {
        must_be(NF_ERR_ARGUMENT, nf_optimizer_set_learning_rate(optimizer, bad[i]));
        must_say("nf_optimizer_set_learning_rate", "learning_rate");
    }
    must_be(NF_ERR_ARGUMENT, nf_optimizer_set_learning_rate(NULL, 0.1));
    nf_gradient_free(gradient);
    nf_optimizer_free(optimizer);
    nf_flow_free(flow);
}
END_TEST

/* A gradient that is not finite is as if it had never been: parameters, moments and the count of steps stay. */
START_TEST(a_gradient_that_is_not_finite_changes_nothing) {
    const rule *u = &rules[_i];
    const nf_optimizer_config config = {.struct_size = sizeof config,
                                        .kind = u->kind,
                                        .learning_rate = u->rate,
                                        .beta1 = u->beta1,
                                        .beta2 = u->beta2,
                                        .epsilon = u->epsilon,
                                        .weight_decay = u->decay,
                                        .momentum = u->momentum,
                                        .clip_norm = u->clip};
    const double bad[] = {NAN, INFINITY, -INFINITY};
    double theta[COUNT], with[COUNT], without[COUNT], g[COUNT];
    nf_flow *flow = make_flow(NF_DOUBLE, theta), *spared;
    nf_optimizer *optimizer, *other;
    nf_gradient *gradient;
    random_source random = random_begin(5);
    must(nf_flow_clone(flow, &spared));
    must(nf_optimizer_create(flow, &config, &optimizer));
    must(nf_optimizer_create(flow, &config, &other));
    must(nf_gradient_create(flow, &gradient));
    for (size_t t = 0; t < 4; t++) {
        draw(&random, g);
        must(nf_gradient_set(gradient, g));
        must(nf_optimizer_step(optimizer, flow, gradient));
        must(nf_optimizer_step(other, spared, gradient));
        g[(5 * t + 3) % COUNT] = bad[t % 3];
        must(nf_gradient_set(gradient, g));
        must_be(NF_ERR_DIVERGED, nf_optimizer_step(optimizer, flow, gradient));
        must_say("nf_optimizer_step", "not finite");
    }
    must(nf_get_parameters(flow, with));
    must(nf_get_parameters(spared, without));
    same_bits("parameters", with, without, COUNT);
    nf_gradient_free(gradient);
    nf_optimizer_free(optimizer);
    nf_optimizer_free(other);
    nf_flow_free(flow);
    nf_flow_free(spared);
}
END_TEST

static nf_status step_once(nf_precision precision, const nf_optimizer_config *config, const double *g, double *before, double *after) {
    nf_flow *flow = make_flow(precision, before);
    nf_optimizer *optimizer;
    nf_gradient *gradient;
    must(nf_optimizer_create(flow, config, &optimizer));
    must(nf_gradient_create(flow, &gradient));
    must(nf_gradient_set(gradient, g));
    const nf_status status = nf_optimizer_step(optimizer, flow, gradient);
    if (status == NF_ERR_DIVERGED)
        must_say("nf_optimizer_step", "its squares are not");
    must(nf_get_parameters(flow, after));
    nf_gradient_free(gradient);
    nf_optimizer_free(optimizer);
    nf_flow_free(flow);
    return status;
}

/* The squares of its numbers overflow or underflow, which is no matter when it is clipped. */
START_TEST(a_gradient_of_any_size_is_clipped) {
    const double sizes[] = {1e150, 1e155, 1e200, 1e307};
    double before[COUNT], after[COUNT], g[COUNT] = {0};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const nf_optimizer_config config = {.struct_size = sizeof config, .kind = NF_SGD, .learning_rate = 0.5, .clip_norm = 2};
        g[3] = 3 * sizes[k];
        g[COUNT - 1] = -4 * sizes[k];
        must_be(NF_OK, step_once(NF_DOUBLE, &config, g, before, after));
        ck_assert_msg(fabs(after[3] - before[3] + 0.6) < 1e-14, "of %g: %g became %g", sizes[k], before[3], after[3]);
        ck_assert_msg(fabs(after[COUNT - 1] - before[COUNT - 1] - 0.8) < 1e-14, "of %g: %g became %g", sizes[k], before[COUNT - 1], after[COUNT - 1]);
        same_bits("the others", before + 4, after + 4, COUNT - 5);
        for (int kind = 0; kind < 4; kind++)
            must_be(NF_OK, step_once(NF_DOUBLE, NF_CONFIG(nf_optimizer_config, .kind = (nf_optimizer_kind)kind, .clip_norm = 2), g, before, after));
    }
    g[3] = 3e-200;
    g[COUNT - 1] = -4e-200;
    must_be(NF_OK, step_once(NF_DOUBLE, NF_CONFIG(nf_optimizer_config, .kind = NF_SGD, .learning_rate = 1e200, .clip_norm = 2), g, before, after));
    ck_assert_msg(fabs(after[3] - before[3] + 3) < 1e-14, "%g became %g", before[3], after[3]);
}
END_TEST

/* An average of squares that overflowed would hold its parameter for good. */
START_TEST(a_gradient_whose_squares_overflow_changes_nothing) {
    for (int kind = 0; kind < 4; kind++)
        for (int single = 0; single < 2; single++) {
            const nf_precision precision = single ? NF_SINGLE : NF_DOUBLE;
            const nf_optimizer_config config = {.struct_size = sizeof config, .kind = (nf_optimizer_kind)kind};
            double before[COUNT], after[COUNT], g[COUNT] = {[1] = 1, [5] = single ? 1e25 : 1e200};
            must_be(kind == NF_SGD ? NF_OK : NF_ERR_DIVERGED, step_once(precision, &config, g, before, after));
            if (kind == NF_SGD)
                continue;
            same_bits("parameters", before, after, COUNT);
            g[5] = single ? 1e18 : 1e153;
            must_be(NF_OK, step_once(precision, &config, g, before, after));
            ck_assert_msg(fabs(after[5] - before[5]) > 5e-4, "kind %d: %g became %g", kind, before[5], after[5]);
        }
}
END_TEST

/* Settings that are numbers, and a gradient that is one, whose step is not: it is not taken, and the optimizer goes on as if nobody had asked for it. */
START_TEST(a_step_beyond_all_numbers_changes_nothing) {
    enum { MOST_STEPS = 4 };
    static const struct {
        nf_precision precision;
        nf_optimizer_config config;
        double parameter, gradient[2]; /* of the first step and of the others */
    } cases[] = {
        {NF_SINGLE, {.kind = NF_SGD, .learning_rate = 1e10}, 1, {1, 1e35}},
        {NF_SINGLE, {.kind = NF_SGD, .learning_rate = 1}, 3.3e38, {0, -3e37}},
        {NF_SINGLE, {.kind = NF_SGD, .learning_rate = 1, .weight_decay = 100}, 1e37, {0, 0}},
        {NF_SINGLE, {.kind = NF_SGD, .learning_rate = 1e-30, .momentum = 1e30}, 1, {1e10, 0}},
        {NF_SINGLE, {.kind = NF_ADAM, .learning_rate = 3e38}, 1, {1, 1e18}},
        {NF_SINGLE, {.kind = NF_ADAM, .learning_rate = 3e38, .beta1 = 1 - 1e-9}, 1, {0, 0}}, /* infinity times 0 */
        {NF_SINGLE, {.kind = NF_ADAM, .weight_decay = 1e3}, 1e20, {0, 0}},
        {NF_SINGLE, {.kind = NF_ADAM, .learning_rate = 1e30, .beta2 = -1, .epsilon = -1}, 1, {1e15, 0}},
        {NF_SINGLE, {.kind = NF_ADAMW, .learning_rate = 1e20, .weight_decay = 1e20}, 1, {0, 0}},
        {NF_SINGLE, {.kind = NF_RMSPROP, .learning_rate = 1e30, .beta2 = -1}, 1, {1, 1e15}},
        {NF_SINGLE, {.kind = NF_RMSPROP, .learning_rate = 1, .weight_decay = 1}, 1e30, {0, 0}},
        {NF_DOUBLE, {.kind = NF_SGD, .learning_rate = 1e200}, 1, {1, 1e200}},
        {NF_DOUBLE, {.kind = NF_SGD, .learning_rate = 1}, 1.7e308, {0, -9e306}},
        {NF_DOUBLE, {.kind = NF_ADAM, .learning_rate = 1.7e308}, 1, {1, 1e150}},
        {NF_DOUBLE, {.kind = NF_ADAMW, .learning_rate = 1e200, .weight_decay = 1e200}, 1, {0, 0}},
        {NF_DOUBLE, {.kind = NF_RMSPROP, .learning_rate = 1e300, .beta2 = -1}, 1, {1, 1e150}},
    };
    double theta[COUNT], before[COUNT], after[COUNT], g[COUNT] = {0};
    nf_flow *flow = make_flow(cases[_i].precision, theta), *spared;
    nf_optimizer_config config = cases[_i].config;
    nf_optimizer *optimizer, *other;
    nf_gradient *gradient;
    size_t t = 0;
    config.struct_size = sizeof config;
    theta[2] = cases[_i].parameter;
    must(nf_set_parameters(flow, theta));
    must(nf_optimizer_create(flow, &config, &optimizer));
    must(nf_optimizer_create(flow, &config, &other));
    must(nf_gradient_create(flow, &gradient));
    for (;; t++) {
        ck_assert_msg(t < MOST_STEPS, "no step went beyond the numbers");
        g[2] = cases[_i].gradient[t > 0];
        must(nf_gradient_set(gradient, g));
        must(nf_get_parameters(flow, before));
        must(nf_flow_clone(flow, &spared));
        const nf_status status = nf_optimizer_step(optimizer, flow, gradient);
        if (status != NF_OK)
            must_say("nf_optimizer_step", "the parameters are not finite after step");
        must(nf_get_parameters(flow, after));
        for (size_t i = 0; i < COUNT; i++)
            ck_assert_msg(isfinite(after[i]), "step %zu: parameter %zu is %g", t + 1, i, after[i]);
        if (status != NF_OK) {
            must_be(NF_ERR_DIVERGED, status);
            break;
        }
        must(nf_optimizer_step(other, spared, gradient));
        nf_flow_free(spared);
    }
    same_bits("parameters", after, before, COUNT);
    /* The moments are those of an optimizer that was not asked for that step. */
    theta[2] = 1;
    must(nf_set_parameters(flow, theta));
    must(nf_set_parameters(spared, theta));
    must(nf_optimizer_set_learning_rate(optimizer, 1e-30));
    must(nf_optimizer_set_learning_rate(other, 1e-30));
    must_be(nf_optimizer_step(other, spared, gradient), nf_optimizer_step(optimizer, flow, gradient));
    same_parameters(flow, spared);
    nf_gradient_free(gradient);
    nf_optimizer_free(other);
    nf_optimizer_free(optimizer);
    nf_flow_free(spared);
    nf_flow_free(flow);
}
END_TEST

/* A gradient that was always 0 makes no step, also where nothing is added to the root of its average square. */
START_TEST(without_epsilon_no_gradient_is_no_step) {
    const nf_optimizer_kind kinds[] = {NF_ADAM, NF_ADAMW, NF_RMSPROP};
    for (int k = 0; k < 6; k++) {
        double theta[COUNT], got[COUNT], g[COUNT] = {0};
        nf_flow *flow = make_flow(k % 2 ? NF_SINGLE : NF_DOUBLE, theta);
        nf_optimizer *optimizer;
        nf_gradient *gradient;
        g[1] = 0.785;
        must(nf_get_parameters(flow, theta));
        must(nf_optimizer_create(flow, NF_CONFIG(nf_optimizer_config, .kind = kinds[k / 2], .epsilon = -1), &optimizer));
        must(nf_gradient_create(flow, &gradient));
        must(nf_gradient_set(gradient, g));
        must(nf_optimizer_step(optimizer, flow, gradient));
        must(nf_get_parameters(flow, got));
        for (size_t i = 0; i < COUNT; i++)
            ck_assert_msg(i == 1 ? isfinite(got[i]) && got[i] != theta[i] : got[i] == theta[i], "kind %d: parameter %zu went from %g to %g", (int)kinds[k / 2], i,
                          theta[i], got[i]);
        must_be(k % 2 ? NF_ERR_ARGUMENT : NF_OK, nf_optimizer_set_learning_rate(optimizer, 1e39));
        nf_gradient_free(gradient);
        nf_optimizer_free(optimizer);
        must_be(k % 2 ? NF_ERR_ARGUMENT : NF_OK, nf_optimizer_create(flow, NF_CONFIG(nf_optimizer_config, .learning_rate = 1e39), &optimizer));
        nf_optimizer_free(optimizer);
        nf_flow_free(flow);
    }
}
END_TEST

START_TEST(settings_that_are_not_allowed) {
    double theta[COUNT];
    nf_flow *flow = make_flow(NF_DOUBLE, theta);
    const struct {
        const char *says;
        nf_optimizer_config config;
    } cases[] = {
        {"kind is 4", {.kind = (nf_optimizer_kind)4}},        {"kind is -1", {.kind = (nf_optimizer_kind)-1}}, {"learning_rate is nan", {.learning_rate = NAN}},
        {"learning_rate is inf", {.learning_rate = INFINITY}}, {"beta1 is 1", {.beta1 = 1.0}},                {"beta1 is nan", {.beta1 = NAN}},
        {"beta2 is 1.5", {.beta2 = 1.5}},                      {"beta2 is nan", {.beta2 = NAN}},              {"epsilon is nan", {.epsilon = NAN}},
        {"epsilon is inf", {.epsilon = INFINITY}},             {"weight_decay is nan", {.weight_decay = NAN}}, {"momentum is inf", {.momentum = INFINITY}},
        {"clip_norm is nan", {.clip_norm = NAN}},              {"reserved is 1", {.reserved = 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nf_optimizer *optimizer = (nf_optimizer *)(void *)&theta;
        nf_optimizer_config config = cases[i].config;
        config.struct_size = sizeof config;
        must_be(NF_ERR_ARGUMENT, nf_optimizer_create(flow, &config, &optimizer));
        must_say("nf_optimizer_create", cases[i].says);
        ck_assert_ptr_null(optimizer);
    }
    nf_flow_free(flow);

    /* Numbers, but not in single precision: infinity times a parameter of 0 is none. */
    const nf_optimizer_config beyond[] = {{.learning_rate = 1e39}, {.epsilon = 1e39}, {.weight_decay = 1e39}, {.momentum = 1e39}};
    const char *const say_beyond[] = {"learning_rate is 1e+39", "epsilon is 1e+39", "weight_decay is 1e+39", "momentum is 1e+39"};
    for (size_t i = 0; i < 8; i++) {
        nf_optimizer *optimizer;
        nf_optimizer_config config = beyond[i / 2];
        config.struct_size = sizeof config;
        flow = make_flow(i % 2 ? NF_SINGLE : NF_DOUBLE, theta);
        must_be(i % 2 ? NF_ERR_ARGUMENT : NF_OK, nf_optimizer_create(flow, &config, &optimizer));
        if (i % 2)
            must_say("nf_optimizer_create", say_beyond[i / 2]);
        nf_optimizer_free(optimizer);
        nf_flow_free(flow);
    }
}
END_TEST

int main(void) {
    const int count = (int)(sizeof rules / sizeof rules[0]);
    Suite *suite = suite_create("optimizers");
    TCase *all = tcase_create("all");
    tcase_add_loop_test(all, rules_are_the_reference, 0, count);
    tcase_add_test(all, zero_means_the_default_and_negative_zero);
    tcase_add_test(all, the_learning_rate_can_be_set);
    tcase_add_loop_test(all, a_gradient_that_is_not_finite_changes_nothing, 0, count);
    tcase_add_test(all, a_gradient_of_any_size_is_clipped);
    tcase_add_test(all, a_gradient_whose_squares_overflow_changes_nothing);
    tcase_add_loop_test(all, a_step_beyond_all_numbers_changes_nothing, 0, 16);
    tcase_add_test(all, without_epsilon_no_gradient_is_no_step);
    tcase_add_test(all, settings_that_are_not_allowed);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
