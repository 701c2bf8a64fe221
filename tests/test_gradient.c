/* Gradient objects: what they hold, how calls add to them, and that the ways in which a sum comes about leave no trace in it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

/* ---- the calls that add to a gradient, of 1100 rows at most: 8 slots, and a second tile in one of them */

enum { MOST = 1100 };

typedef struct scene {
    nf_flow *flow;
    nf_workspace *ws;
    double *x, *context, *cotangent, *weight;
    size_t rows;
} scene;

static nf_status normal_target(void *user, size_t rows, const double *x, double *log_density, double *grad_x) {
    const size_t dim = *(const size_t *)user;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = 0;
        for (size_t f = 0; f < dim; f++) {
            log_density[r] -= 0.125 * x[r * dim + f] * x[r * dim + f];
            grad_x[r * dim + f] = -0.25 * x[r * dim + f];
        }
    }
    return NF_OK;
}

static nf_status likelihood(const scene *s, nf_gradient *g) { return nf_grad_nll(s->flow, s->ws, s->rows, s->x, s->context, NULL, g, NULL); }
static nf_status weighted(const scene *s, nf_gradient *g) { return nf_grad_nll(s->flow, s->ws, s->rows, s->x, s->context, s->weight, g, NULL); }
static nf_status forward(const scene *s, nf_gradient *g) {
    return nf_forward_vjp(s->flow, s->ws, s->rows, s->x, s->context, s->cotangent, NULL, NULL, NULL, g);
}
static nf_status inverse(const scene *s, nf_gradient *g) {
    double *slopes = new_numbers(s->rows * nf_flow_dim(s->flow)); /* so that the cotangents of the input are wanted here */
    const nf_status status = nf_inverse_vjp(s->flow, s->ws, s->rows, s->x, s->context, s->cotangent, s->weight, slopes, NULL, g);
    free(slopes);
    return status;
}
static nf_status reverse_kl(const scene *s, nf_gradient *g) {
    size_t dim = nf_flow_dim(s->flow);
    nf_rng rng = {5, 6, 7};
    return nf_grad_reverse_kl(s->flow, s->ws, &rng, s->rows, s->context, normal_target, &dim, g, NULL);
}
static nf_status matching(const scene *s, nf_gradient *g) {
    nf_rng rng = {5, 6, 7};
    return nf_grad_flow_matching(s->flow, s->ws, &rng, s->rows, s->x, s->context, NULL, NF_PAIRING_INDEPENDENT, g, NULL);
}

typedef nf_status act(const scene *s, nf_gradient *g);
static act *const acts[] = {likelihood, weighted, forward, inverse, reverse_kl, matching};
enum { ACTS = sizeof acts / sizeof acts[0] };

static scene make_scene(const fixture *f, nf_precision precision, size_t threads, size_t rows) {
    random_source random = random_begin(301);
    scene s = {.flow = make_fixture(f, false, precision, 7), .rows = rows};
    const size_t dim = nf_flow_dim(s.flow), context = nf_flow_context_dim(s.flow);
    must(nf_workspace_create(s.flow, threads, &s.ws));
    s.x = new_normals(&random, rows * dim, 0.7);
    s.cotangent = new_normals(&random, rows * dim, 1.0);
    s.context = context ? new_normals(&random, rows * context, 1.0) : NULL;
    s.weight = new_numbers(rows);
    for (size_t r = 0; r < rows; r++)
        s.weight[r] = random_uniform(&random, 0.1, 2);
    return s;
}

static void drop_scene(scene *s) {
    nf_workspace_free(s->ws);
    nf_flow_free(s->flow);
    free(s->x);
    free(s->cotangent);
    free(s->context);
    free(s->weight);
}

/* As equal as numbers are: what was added to zeros has no -0, what was written may have. */
static void must_be_equal(const char *what, const scene *s, size_t act_number, const double *a, const double *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(a[i] == b[i], "%s: number %zu of call %zu with %zu rows is %.17g and not %.17g (seed %llu)", what, i, act_number, s->rows, a[i], b[i],
                      (unsigned long long)test_seed());
}

/*
 * To nothing, to zeros that were set, to nothing where something was; with one thread and with three. A sum that begins with nothing may be gathered where it stays, in
 * one place, and is looked at afterwards; another one is gathered in slots, each looked at.
 */
START_TEST(a_sum_does_not_tell_how_it_came_about) {
    static const size_t some_rows[] = {20, 300, 1024, MOST};
    const fixture *f = &fixtures[_i / 2];
    const nf_precision precision = _i % 2 ? NF_SINGLE : NF_DOUBLE;
    const size_t turns = strstr(f->layers, "cnf") ? 2 : sizeof some_rows / sizeof some_rows[0]; /* which take their time */
    for (size_t n = 0; n < turns; n++)
        for (size_t a = 0; a < ACTS; a++) {
            double *first = NULL, *twice = NULL;
            size_t count = 0;
            for (int way = 0; way < 6; way++) {
                scene s = make_scene(f, precision, way % 2 ? 3 : 1, some_rows[n]);
                count = nf_parameter_count(s.flow);
                double *got = new_numbers(count), *some = new_numbers(count);
                nf_gradient *g;
                must(nf_gradient_create(s.flow, &g));
                for (size_t i = 0; i < count; i++)
                    some[i] = way / 2 == 1 ? 0 : 3;
                if (way / 2 > 0)
                    must(nf_gradient_set(g, some));
                if (way / 2 == 2)
                    must(nf_gradient_zero(g));
                const nf_status status = acts[a](&s, g);
                if (status != NF_ERR_ARGUMENT && status != NF_ERR_UNSUPPORTED) { /* flow matching is for flows with a field */
                    must(status);
                    must(nf_gradient_get(g, got));
                    if (first)
                        must_be_equal("a sum", &s, a, got, first, count);
                    else
                        first = new_copy(got, count);
                    must(acts[a](&s, g));
                    must(nf_gradient_get(g, got));
                    if (twice)
                        must_be_equal("twice the sum", &s, a, got, twice, count);
                    else
                        twice = new_copy(got, count);
                    for (size_t i = 0; i < count; i++)
                        ck_assert(fabs(got[i] - 2 * first[i]) <= (precision == NF_SINGLE ? 1e-6 : 1e-15) * fabs(first[i]));
                } else {
                    ck_assert(acts[a] == matching);
                }
                nf_gradient_free(g);
                drop_scene(&s);
                free(got);
                free(some);
            }
            free(first);
            free(twice);
        }
}
END_TEST

/* ---- a gradient and its reader */

static const nf_optimizer_config rules[] = {{.struct_size = sizeof(nf_optimizer_config), .kind = NF_ADAM, .weight_decay = 0.1},
                                            {.struct_size = sizeof(nf_optimizer_config), .kind = NF_ADAMW, .weight_decay = 0.1, .clip_norm = 2},
                                            {.struct_size = sizeof(nf_optimizer_config), .kind = NF_SGD, .momentum = 0.9, .weight_decay = 0.1},
                                            {.struct_size = sizeof(nf_optimizer_config), .kind = NF_RMSPROP}};
enum { RULES = sizeof rules / sizeof rules[0] };

static nf_flow *make_net(nf_precision precision) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 3, .couplings = 2, .hidden_width = 11, .precision = precision, .seed = 3), &flow));
    return flow;
}

/* A few steps along gradients of which every other is left empty, or set to zeros: the same parameters. */
static double *step_along(nf_precision precision, const nf_optimizer_config *rule, bool set) {
    random_source random = random_begin(302);
    nf_flow *flow = make_net(precision);
    const size_t count = nf_parameter_count(flow);
    nf_optimizer *optimizer;
    nf_gradient *g;
    must(nf_optimizer_create(flow, rule, &optimizer));
    must(nf_gradient_create(flow, &g));
    double *numbers = new_numbers(count), *zeros = new_numbers(count);
    for (size_t i = 0; i < count; i++)
        zeros[i] = 0;
    for (int step = 0; step < 7; step++) {
        must(nf_gradient_zero(g));
        if (step % 2) {
            for (size_t i = 0; i < count; i++)
                numbers[i] = random_normal(&random);
            must(nf_gradient_set(g, numbers));
        } else if (set) {
            must(nf_gradient_set(g, zeros));
        }
        must(nf_optimizer_step(optimizer, flow, g));
    }
    must(nf_get_parameters(flow, numbers));
    nf_gradient_free(g);
    nf_optimizer_free(optimizer);
    nf_flow_free(flow);
    free(zeros);
    return numbers;
}

START_TEST(an_empty_gradient_is_zeros) {
    const nf_precision precision = _i % 2 ? NF_SINGLE : NF_DOUBLE;
    nf_flow *flow = make_net(precision);
    const size_t count = nf_parameter_count(flow);
    nf_gradient *g;
    double *got = new_numbers(count);
    ck_assert_uint_gt(count, 256); /* several pieces, and a part of one */
    must(nf_gradient_create(flow, &g));
    for (int turn = 0; turn < 2; turn++) {
        must(nf_gradient_get(g, got));
        for (size_t i = 0; i < count; i++)
            ck_assert_double_eq(got[i], 0.0);
        for (size_t i = 0; i < count; i++)
            got[i] = 7;
        must(nf_gradient_set(g, got));
        must(nf_gradient_zero(g));
    }
    double *empty = step_along(precision, &rules[_i / 2], false), *zeros = step_along(precision, &rules[_i / 2], true);
    same_bits("parameters", empty, zeros, count);
    free(empty);
    free(zeros);
    free(got);
    nf_gradient_free(g);
    nf_flow_free(flow);
}
END_TEST

/*
 * A step along what a call has added, of which the largest number is known, is a step along its numbers; also where they are so large that a step has to
 * be tried out first, or fails.
 */
START_TEST(a_step_is_along_the_numbers) {
    const nf_precision precision = _i % 2 ? NF_SINGLE : NF_DOUBLE;
    static const double sizes[] = {1, 1e9, 1e18, 1e19, 1e20, 1e37};
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
        enum { ROWS = 300 };
        random_source random = random_begin(303);
        double x[ROWS], cotangent[ROWS], theta[2][2];
        nf_status status[2];
        for (size_t r = 0; r < ROWS; r++) {
            x[r] = random_normal(&random);
            cotangent[r] = sizes[n] / ROWS * (1 + x[r]);
        }
        for (int set = 0; set < 2; set++) {
            nf_flow *flow;
            nf_gradient *g;
            nf_optimizer *optimizer;
            double numbers[2];
            must(nf_affine_create(1, precision, &flow));
            must(nf_gradient_create(flow, &g));
            must(nf_optimizer_create(flow, &rules[_i / 2], &optimizer));
            must(nf_forward_vjp(flow, NULL, ROWS, x, NULL, cotangent, NULL, NULL, NULL, g));
            must(nf_gradient_get(g, numbers));
            ck_assert(fabs(numbers[1]) > 0.5 * sizes[n]);
            if (set)
                must(nf_gradient_set(g, numbers));
            status[set] = nf_optimizer_step(optimizer, flow, g);
            must(nf_get_parameters(flow, theta[set]));
            nf_optimizer_free(optimizer);
            nf_gradient_free(g);
            nf_flow_free(flow);
        }
        ck_assert_int_eq(status[0], status[1]);
        same_bits("parameters", theta[0], theta[1], 2);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("gradients");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 600);
    tcase_add_loop_test(all, a_sum_does_not_tell_how_it_came_about, 0, 2 * (int)fixture_count);
    tcase_add_loop_test(all, an_empty_gradient_is_zeros, 0, 2 * RULES);
    tcase_add_loop_test(all, a_step_is_along_the_numbers, 0, 2 * RULES);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
