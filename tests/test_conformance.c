/*
 * What every layer must do, in both directions: invert itself, tell the logarithm of its Jacobian's determinant, and differentiate. One suite, looped over
 * the fixtures; a kind of layer that the library computes and that has no fixture fails here.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/model.h"
#include "support.h"

#define DIFFERENCE_TOLERANCE 2e-7

/*
 * A difference with a step h is off by h^4 times a fifth derivative that no fixture bounds: where a random map bends sharply it counts. So what disagrees
 * at one step is compared again at smaller ones; a wrong derivative agrees at none.
 */
enum { STEPS = 3 };

static double step_of(const fixture *f, int k) { return f->step * pow(0.2, k); }

START_TEST(every_kind_has_a_fixture) {
    for (int kind = 0; kind < NF_LAYER_KINDS; kind++) {
        const char *name = nf_layer_type_of((nf_layer_kind)kind)->name;
        size_t found = 0;
        for (size_t i = 0; i < fixture_count; i++)
            found += strcmp(fixtures[i].kind, name) == 0;
        ck_assert_msg(found > 0, "layers of type %s have no fixture", name);
    }
}
END_TEST

static nf_status map(const subject *s, bool inverse, size_t rows, const double *in, const double *context, double *out, double *log_det) {
    return (inverse ? nf_inverse : nf_forward)(s->flow, s->ws, rows, in, context, out, log_det);
}

/* ---- the maps ---- */

static void check_round_trip(subject *s, bool inverse) {
    enum { ROWS = 37 };
    double *in = new_normals(&s->random, ROWS * s->dim, 1.385), *context = new_context(s, ROWS);
    double *out = new_numbers(ROWS * s->dim), *back = new_numbers(ROWS * s->dim), *there = new_numbers(ROWS), *here = new_numbers(ROWS);
    must(map(s, inverse, ROWS, in, context, out, there));
    must(map(s, !inverse, ROWS, out, context, back, here));
    must_agree(s->f->name, row_error(back, in, ROWS, s->dim), s->f->map_error);
    for (size_t r = 0; r < ROWS; r++)
        here[r] = -here[r];
    must_agree(s->f->name, row_error(here, there, ROWS, 1), s->f->map_error);
    free(in);
    free(context);
    free(out);
    free(back);
    free(there);
    free(here);
}

START_TEST(maps_invert_each_other) {
    subject s;
    open_subject(&s, _i, NF_DOUBLE, 1);
    check_round_trip(&s, false);
    check_round_trip(&s, true);
    close_subject(&s);
}
END_TEST

/* Column i of the Jacobian at one row, extrapolated central differences. */
static void jacobian_column(const subject *s, bool inverse, double *in, const double *context, size_t i, double whole_step, double *jacobian) {
    const double here = in[i];
    double *ends = new_numbers(2 * s->dim), step[2][64];
    ck_assert_uint_le(s->dim, 64);
    for (int half = 0; half < 2; half++) {
        const double h = whole_step * (half ? 0.5 : 1.0);
        in[i] = here + h;
        must(map(s, inverse, 1, in, context, ends, NULL));
        in[i] = here - h;
        must(map(s, inverse, 1, in, context, ends + s->dim, NULL));
        for (size_t j = 0; j < s->dim; j++)
            step[half][j] = (ends[j] - ends[s->dim + j]) / (2.0 * h);
    }
    in[i] = here;
    for (size_t j = 0; j < s->dim; j++)
        jacobian[j * s->dim + i] = (4.0 * step[1][j] - step[0][j]) / 3.0;
    free(ends);
}

START_TEST(log_det_is_that_of_the_jacobian) {
    enum { ROWS = 5 };
    subject s;
    open_subject(&s, _i, NF_DOUBLE, 1);
    double *in = new_normals(&s.random, ROWS * s.dim, 1.385), *context = new_context(&s, ROWS), *jacobian = new_numbers(s.dim * s.dim);
    for (int inverse = 0; inverse < 2; inverse++)
        for (size_t r = 0; r < ROWS; r++) {
            double log_det, *row = in + r * s.dim;
            const double *c = context ? context + r * s.context_dim : NULL;
            must(map(&s, inverse, 1, row, c, NULL, &log_det));
            double error = INFINITY;
            for (int k = 0; k < STEPS && !(error <= DIFFERENCE_TOLERANCE); k++) {
                for (size_t i = 0; i < s.dim; i++)
                    jacobian_column(&s, inverse, row, c, i, step_of(s.f, k), jacobian);
                error = fabs(log_abs_det(jacobian, s.dim) - log_det);
            }
            must_agree(s.f->name, error, DIFFERENCE_TOLERANCE);
        }
    free(in);
    free(context);
    free(jacobian);
    close_subject(&s);
}
END_TEST

START_TEST(log_prob_is_base_plus_log_det) {
    enum { ROWS = 21 };
    subject s;
    open_subject(&s, _i, NF_DOUBLE, 1);
    double *x = new_normals(&s.random, ROWS * s.dim, 1.385), *context = new_context(&s, ROWS);
    double *z = new_numbers(ROWS * s.dim), *log_det = new_numbers(ROWS), *log_prob = new_numbers(ROWS), *again = new_numbers(ROWS);
    double *mean = new_normals(&s.random, s.dim, 0.785), *sd = new_numbers(s.dim);
    for (size_t i = 0; i < s.dim; i++)
        sd[i] = random_uniform(&s.random, 0.485, 2.385);
    must(nf_flow_set_base_normal(s.flow, mean, sd));
    must(nf_inverse(s.flow, s.ws, ROWS, x, context, z, log_det));
    must(nf_log_prob(s.flow, s.ws, ROWS, x, context, log_prob));
    for (size_t r = 0; r < ROWS; r++) {
        double expected = log_det[r];
        for (size_t i = 0; i < s.dim; i++) {
            const double e = (z[r * s.dim + i] - mean[i]) / sd[i];
            expected -= 0.5 * e * e + log(sd[i]) + 0.5 * log(6.283185307179586477);
        }
        must_agree(s.f->name, whole_error(&log_prob[r], &expected, 1), 1e-13);
    }
    must(nf_score(s.flow, s.ws, ROWS, x, context, again, NULL));
    same_bits("log_prob of nf_score", again, log_prob, ROWS);

    nf_rng rng = {71, 2, 385};
    must(nf_sample(s.flow, s.ws, &rng, ROWS, context, x, log_prob));
    must(nf_log_prob(s.flow, s.ws, ROWS, x, context, again));
    must_agree(s.f->name, row_error(again, log_prob, ROWS, 1), 100 * s.f->map_error);
    ck_assert_uint_eq(rng.position, 385 + ROWS);
    free(x);
    free(context);
    free(z);
    free(log_det);
    free(log_prob);
    free(again);
    free(mean);
    free(sd);
    close_subject(&s);
}
END_TEST

/* ---- derivatives: L = sum(a . out) + sum(b log_det) as a function of one of its arguments ---- */

enum { ROWS = 6 };

typedef enum variable { INPUT, CONTEXT, PARAMETERS } variable;

typedef struct functional {
    subject s;
    bool inverse;
    variable variable;
    double *in, *context, *a, *b, *out, *log_det, *parameters;
    const double *weight;
} functional;

static void open_functional(functional *l) {
    l->in = new_normals(&l->s.random, ROWS * l->s.dim, 1.185);
    l->context = new_context(&l->s, ROWS);
    l->a = new_normals(&l->s.random, ROWS * l->s.dim, 1.0);
    l->b = new_normals(&l->s.random, ROWS, 1.0);
    l->out = new_numbers(ROWS * l->s.dim);
    l->log_det = new_numbers(ROWS);
    l->parameters = new_numbers(l->s.count);
    must(nf_get_parameters(l->s.flow, l->parameters));
}

static void close_functional(functional *l) {
    free(l->in);
    free(l->context);
    free(l->a);
    free(l->b);
    free(l->out);
    free(l->log_det);
    free(l->parameters);
    close_subject(&l->s);
}

static void put(const functional *l, const double *at) {
    if (l->variable == PARAMETERS)
        must(nf_set_parameters(l->s.flow, at));
}

static double value(void *user, const double *at) {
    functional *l = user;
    put(l, at);
    must(map(&l->s, l->inverse, ROWS, l->variable == INPUT ? at : l->in, l->variable == CONTEXT ? at : l->context, l->out, l->log_det));
    double sum = 0;
    for (size_t i = 0; i < ROWS * l->s.dim; i++)
        sum += l->a[i] * l->out[i];
    for (size_t r = 0; r < ROWS; r++)
        sum += l->b[r] * l->log_det[r];
    return sum;
}

/* All derivatives of f, or those of an even choice of at most 400. */
static void check_differences(functional *l, scalar_function f, variable v, double *at, const double *got, size_t count, const char *what) {
    const size_t stride = count / (is_brief() ? 12 : 400) + 1;
    double largest = 1;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(got[i]));
    l->variable = v;
    for (size_t i = 0; i < count; i += stride) {
        double expected = NAN;
        for (int k = 0; k < STEPS && !(fabs(got[i] - expected) <= DIFFERENCE_TOLERANCE * largest); k++)
            expected = difference(f, l, at, i, step_of(l->s.f, k));
        ck_assert_msg(fabs(got[i] - expected) <= DIFFERENCE_TOLERANCE * largest, "%s: %s %zu: derivative %.12g, difference %.12g (seed %llu)", l->s.f->name,
                      what, i, got[i], expected, (unsigned long long)test_seed());
    }
    put(l, at);
}

static nf_status vjp(functional *l, const double *a, const double *b, double *d_in, double *d_context, nf_gradient *gradient) {
    return (l->inverse ? nf_inverse_vjp : nf_forward_vjp)(l->s.flow, l->s.ws, ROWS, l->in, l->context, a, b, d_in, d_context, gradient);
}

static void check_vjp(functional *l) {
    const subject *s = &l->s;
    double *d_in = new_numbers(ROWS * s->dim), *d_context = new_numbers(ROWS * s->context_dim), *d_theta = new_numbers(s->count);
    must(nf_gradient_zero(s->gradient));
    must(vjp(l, l->a, l->b, d_in, d_context, s->gradient));
    must(nf_gradient_get(s->gradient, d_theta));
    check_differences(l, value, INPUT, l->in, d_in, ROWS * s->dim, "input");
    check_differences(l, value, CONTEXT, l->context, d_context, ROWS * s->context_dim, "context");
    check_differences(l, value, PARAMETERS, l->parameters, d_theta, s->count, "parameter");

    /* The two cotangents apart add up to both together, in the input's and in the accumulated parameters' derivatives. */
    double *part = new_numbers(ROWS * s->dim), *other = new_numbers(ROWS * s->dim), *sum = new_numbers(s->count);
    must(nf_gradient_zero(s->gradient));
    must(vjp(l, l->a, NULL, part, NULL, s->gradient));
    must(vjp(l, NULL, l->b, other, NULL, s->gradient));
    must(nf_gradient_get(s->gradient, sum));
    for (size_t i = 0; i < ROWS * s->dim; i++)
        part[i] += other[i];
    must_agree(s->f->name, row_error(part, d_in, ROWS, s->dim), 1e-12);
    must_agree(s->f->name, whole_error(sum, d_theta, s->count), 1e-12);
    free(part);
    free(other);
    free(sum);
    free(d_in);
    free(d_context);
    free(d_theta);
}

START_TEST(vjps_are_the_differences) {
    functional l = {.inverse = false};
    open_subject(&l.s, _i, NF_DOUBLE, 1);
    open_functional(&l);
    check_vjp(&l);
    l.inverse = true;
    check_vjp(&l);
    close_functional(&l);
}
END_TEST

static double log_prob_sum(void *user, const double *at) {
    functional *l = user;
    put(l, at);
    must(nf_log_prob(l->s.flow, l->s.ws, ROWS, l->variable == INPUT ? at : l->in, l->context, l->log_det));
    double sum = 0;
    for (size_t r = 0; r < ROWS; r++)
        sum += l->log_det[r];
    return sum;
}

START_TEST(score_is_the_difference_and_the_vjp) {
    functional l = {.inverse = true};
    open_subject(&l.s, _i, NF_DOUBLE, 1);
    open_functional(&l);
    const subject *s = &l.s;
    double *score = new_numbers(ROWS * s->dim), *d_in = new_numbers(ROWS * s->dim);
    must(nf_score(s->flow, s->ws, ROWS, l.in, l.context, NULL, score));
    check_differences(&l, log_prob_sum, INPUT, l.in, score, ROWS * s->dim, "score");

    must(nf_flow_set_base_normal(s->flow, NULL, NULL));
    must(nf_score(s->flow, s->ws, ROWS, l.in, l.context, NULL, score));
    must(nf_inverse(s->flow, s->ws, ROWS, l.in, l.context, l.a, NULL));
    for (size_t i = 0; i < ROWS * s->dim; i++)
        l.a[i] = -l.a[i];
    for (size_t r = 0; r < ROWS; r++)
        l.b[r] = 1;
    must(vjp(&l, l.a, l.b, d_in, NULL, NULL));
    must_agree(s->f->name, row_error(score, d_in, ROWS, s->dim), 1e-13);
    free(score);
    free(d_in);
    close_functional(&l);
}
END_TEST

static double nll(void *user, const double *at) {
    functional *l = user;
    put(l, at);
    must(nf_log_prob(l->s.flow, l->s.ws, ROWS, l->in, l->context, l->log_det));
    double sum = 0, weight = 0;
    for (size_t r = 0; r < ROWS; r++) {
        const double w = l->weight ? l->weight[r] : 1.0;
        sum -= w * l->log_det[r];
        weight += w;
    }
    return sum / weight;
}

START_TEST(nll_gradient_is_the_difference) {
    functional l = {.inverse = true};
    open_subject(&l.s, _i, NF_DOUBLE, 1);
    open_functional(&l);
    const double weight[ROWS] = {0.385, 2.5, 0.0, 1.125, 0.75, 3.385};
    double *d_theta = new_numbers(l.s.count), loss;
    for (int weighted = 0; weighted < 2; weighted++) {
        l.weight = weighted ? weight : NULL;
        must(nf_gradient_zero(l.s.gradient));
        must(nf_grad_nll(l.s.flow, l.s.ws, ROWS, l.in, l.context, l.weight, l.s.gradient, &loss));
        must(nf_gradient_get(l.s.gradient, d_theta));
        const double expected = nll(&l, l.parameters);
        must_agree(l.s.f->name, whole_error(&loss, &expected, 1), 1e-13);
        check_differences(&l, nll, PARAMETERS, l.parameters, d_theta, l.s.count, "nll parameter");
    }
    free(d_theta);
    close_functional(&l);
}
END_TEST

/* A target with a curved log density: -sum((x_i - 0.385)^2 / 2 - cos(1.385 x_i) / 4). */
static nf_status target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    const size_t dim = *(const size_t *)user;
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t i = 0; i < dim; i++) {
            const double v = x[r * dim + i];
            sum -= 0.5 * (v - 0.385) * (v - 0.385) - 0.25 * cos(1.385 * v);
            gradient[r * dim + i] = -(v - 0.385) - 0.25 * 1.385 * sin(1.385 * v);
        }
        log_density[r] = sum;
    }
    return NF_OK;
}

static double reverse_kl(void *user, const double *at) {
    functional *l = user;
    put(l, at);
    nf_rng rng = {385, 3, 17};
    double log_q[ROWS], log_p[ROWS];
    must(nf_sample(l->s.flow, l->s.ws, &rng, ROWS, l->context, l->out, log_q));
    target(&l->s.dim, ROWS, l->out, log_p, l->a);
    double sum = 0;
    for (size_t r = 0; r < ROWS; r++)
        sum += log_q[r] - log_p[r];
    return sum / ROWS;
}

START_TEST(reverse_kl_gradient_is_the_difference) {
    functional l = {.inverse = false};
    open_subject(&l.s, _i, NF_DOUBLE, 1);
    open_functional(&l);
    double *d_theta = new_numbers(l.s.count), loss;
    nf_rng rng = {385, 3, 17};
    must(nf_gradient_zero(l.s.gradient));
    must(nf_grad_reverse_kl(l.s.flow, l.s.ws, &rng, ROWS, l.context, target, &l.s.dim, l.s.gradient, &loss));
    ck_assert_uint_eq(rng.position, 17 + ROWS);
    ck_assert(rng.seed == 385 && rng.stream == 3);
    must(nf_gradient_get(l.s.gradient, d_theta));
    const double expected = reverse_kl(&l, l.parameters);
    must_agree(l.s.f->name, whole_error(&loss, &expected, 1), 1e-13);
    check_differences(&l, reverse_kl, PARAMETERS, l.parameters, d_theta, l.s.count, "reverse KL parameter");
    free(d_theta);
    close_functional(&l);
}
END_TEST

/* ---- single precision: everything within 1e-4 of double, with the same (single) parameters ---- */

enum { MANY = 45 };

typedef struct results {
    double *x, *forward_log_det, *z, *inverse_log_det, *log_prob, *score, *d_z, *d_x, *d_context, *vjp_gradient, *nll_gradient, *kl_gradient;
    double losses[2];
} results;

static void compute(const subject *s, nf_flow *flow, const double *in, const double *context, const double *a, const double *b, results *r) {
    nf_workspace *ws;
    nf_gradient *g;
    must(nf_workspace_create(flow, 1, &ws));
    must(nf_gradient_create(flow, &g));
    double **rows[] = {&r->x, &r->z, &r->score, &r->d_z, &r->d_x}, **columns[] = {&r->forward_log_det, &r->inverse_log_det, &r->log_prob};
    double **gradients[] = {&r->vjp_gradient, &r->nll_gradient, &r->kl_gradient};
    for (size_t i = 0; i < 5; i++)
        *rows[i] = new_numbers(MANY * s->dim);
    for (size_t i = 0; i < 3; i++)
        *columns[i] = new_numbers(MANY);
    for (size_t i = 0; i < 3; i++)
        *gradients[i] = new_numbers(s->count);
    r->d_context = new_numbers(MANY * s->context_dim);
    must(nf_forward(flow, ws, MANY, in, context, r->x, r->forward_log_det));
    must(nf_inverse(flow, ws, MANY, in, context, r->z, r->inverse_log_det));
    must(nf_log_prob(flow, ws, MANY, in, context, r->log_prob));
    must(nf_score(flow, ws, MANY, in, context, NULL, r->score));
    must(nf_forward_vjp(flow, ws, MANY, in, context, a, b, r->d_z, r->d_context, g));
    must(nf_inverse_vjp(flow, ws, MANY, in, context, a, b, r->d_x, NULL, g));
    must(nf_gradient_get(g, r->vjp_gradient));
    must(nf_gradient_zero(g));
    must(nf_grad_nll(flow, ws, MANY, in, context, NULL, g, &r->losses[0]));
    must(nf_gradient_get(g, r->nll_gradient));
    must(nf_gradient_zero(g));
    nf_rng rng = {5, 6, 7};
    size_t dim = s->dim;
    must(nf_grad_reverse_kl(flow, ws, &rng, MANY, context, target, &dim, g, &r->losses[1]));
    must(nf_gradient_get(g, r->kl_gradient));
    nf_gradient_free(g);
    nf_workspace_free(ws);
}

static void free_results(results *r) {
    double *all[] = {r->x, r->forward_log_det, r->z, r->inverse_log_det, r->log_prob, r->score, r->d_z, r->d_x, r->d_context, r->vjp_gradient, r->nll_gradient, r->kl_gradient};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

START_TEST(single_is_near_double) {
    subject s;
    open_subject(&s, _i, NF_SINGLE, 1);
    nf_flow *wide;
    must(nf_flow_convert(s.flow, NF_DOUBLE, &wide));
    ck_assert_int_eq(nf_flow_precision(wide), NF_DOUBLE);
    ck_assert_int_eq(nf_flow_precision(s.flow), NF_SINGLE);
    double *in = new_normals(&s.random, MANY * s.dim, 1.185), *context = new_context(&s, MANY);
    double *a = new_normals(&s.random, MANY * s.dim, 1.0), *b = new_normals(&s.random, MANY, 1.0);
    results narrow_results, wide_results;
    compute(&s, s.flow, in, context, a, b, &narrow_results);
    compute(&s, wide, in, context, a, b, &wide_results);
    const results *g = &narrow_results, *e = &wide_results;
    const struct {
        const char *name;
        double error;
    } errors[] = {{"x", row_error(g->x, e->x, MANY, s.dim)},
                  {"forward log_det", row_error(g->forward_log_det, e->forward_log_det, MANY, 1)},
                  {"z", row_error(g->z, e->z, MANY, s.dim)},
                  {"inverse log_det", row_error(g->inverse_log_det, e->inverse_log_det, MANY, 1)},
                  {"log_prob", row_error(g->log_prob, e->log_prob, MANY, 1)},
                  {"score", row_error(g->score, e->score, MANY, s.dim)},
                  {"d z", row_error(g->d_z, e->d_z, MANY, s.dim)},
                  {"d x", row_error(g->d_x, e->d_x, MANY, s.dim)},
                  {"d context", row_error(g->d_context, e->d_context, MANY, s.context_dim)},
                  {"vjp gradient", whole_error(g->vjp_gradient, e->vjp_gradient, s.count)},
                  {"nll gradient", whole_error(g->nll_gradient, e->nll_gradient, s.count)},
                  {"reverse KL gradient", whole_error(g->kl_gradient, e->kl_gradient, s.count)},
                  {"losses", row_error(g->losses, e->losses, 2, 1)}};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        ck_assert_msg(errors[i].error <= 1e-4, "%s: %s is off by %.3g (seed %llu)", s.f->name, errors[i].name, errors[i].error,
                      (unsigned long long)test_seed());
    free_results(&narrow_results);
    free_results(&wide_results);
    free(in);
    free(context);
    free(a);
    free(b);
    nf_flow_free(wide);
    close_subject(&s);
}
END_TEST

int main(void) {
    const int subjects = 2 * (int)fixture_count;
    Suite *suite = suite_create("conformance of the layers");
    TCase *registry = tcase_create("registry"), *maps = tcase_create("maps"), *derivatives = tcase_create("derivatives"), *single = tcase_create("single");
    tcase_add_test(registry, every_kind_has_a_fixture);
    tcase_add_loop_test(maps, maps_invert_each_other, 0, subjects);
    tcase_add_loop_test(maps, log_det_is_that_of_the_jacobian, 0, subjects);
    tcase_add_loop_test(maps, log_prob_is_base_plus_log_det, 0, subjects);
    tcase_add_loop_test(derivatives, vjps_are_the_differences, 0, subjects);
    tcase_add_loop_test(derivatives, score_is_the_difference_and_the_vjp, 0, subjects);
    tcase_add_loop_test(derivatives, nll_gradient_is_the_difference, 0, subjects);
    tcase_add_loop_test(derivatives, reverse_kl_gradient_is_the_difference, 0, subjects);
    tcase_add_loop_test(single, single_is_near_double, 0, subjects);
    tcase_set_timeout(derivatives, 120);
    suite_add_tcase(suite, registry);
    suite_add_tcase(suite, maps);
    suite_add_tcase(suite, derivatives);
    suite_add_tcase(suite, single);
    return run_suite(suite);
}
