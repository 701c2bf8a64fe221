/*
 * Flow matching: the loss and its gradient against their definition, which is put together here from one Euler step of each row (x - z is then the
 * velocity itself), for both dynamics, inverted layers, layers around the field, weights, and rows that are not numbers.
 */
#include <math.h>
#include <stdlib.h>

#include "support.h"

enum { DIM = 2, MOST_DIM = 3, ROWS = 9, MANY = 300 };

typedef struct kind {
    const char *name;
    nf_dynamics dynamics;
    size_t context_dim;
    double t0, t1;
    int inverted;
    size_t dim;
} kind;

static const kind kinds[] = {
    {"mlp", NF_DYNAMICS_MLP, 0, 0.25, 1.135, 0, 2},
    {"mlp with context, inverted", NF_DYNAMICS_MLP, 2, 1.5, 0.385, 1, 2},
    {"hyper", NF_DYNAMICS_HYPER, 0, -0.385, 0.885, 0, 2},
    {"hyper, inverted", NF_DYNAMICS_HYPER, 0, 0, 2.385, 1, 2},
    {"mlp of one dimension", NF_DYNAMICS_MLP, 0, 0.25, 1.135, 0, 1},
    {"mlp of three dimensions, with context", NF_DYNAMICS_MLP, 2, 0, 1, 0, 3},
};
#define KINDS ((int)(sizeof kinds / sizeof kinds[0]))

static nf_flow *make_field(const kind *k, double t0, double t1, nf_precision precision) {
    nf_flow *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = k->dim, .context_dim = k->context_dim, .dynamics = k->dynamics, .precision = precision,
                                 .hidden_layers = 1, .hidden_width = 5, .units = 4, .t0 = t0, .t1 = t1, .method = NF_EULER, .steps = 1),
                      &flow));
    random_source random = random_begin(31);
    randomize(flow, &random, 0.7);
    return flow;
}

/* An affine layer on each side of the field. */
static nf_flow *make_stack(const kind *k, nf_precision precision) {
    nf_flow *flow = make_field(k, k->t0, k->t1, precision), *below, *above;
    random_source random = random_begin(32);
    if (k->inverted)
        must(nf_flow_invert(flow));
    must(nf_affine_create(k->dim, precision, &below));
    must(nf_affine_create(k->dim, precision, &above));
    randomize(below, &random, 0.385);
    randomize(above, &random, 0.385);
    nf_flow *stack;
    must(nf_flow_create(k->dim, k->context_dim, precision, &stack));
    must(nf_flow_append(stack, below));
    must(nf_flow_append(stack, flow));
    must(nf_flow_append(stack, above));
    return stack;
}

/* The uniform number that belongs to a row: from the first coordinate after the pairs that its base sample is drawn in. */
static double fraction_of(size_t base_dim, uint64_t seed, uint64_t stream, uint64_t position) {
    const size_t dim = (base_dim + 1) / 2 * 2;
    nf_flow *flow;
    nf_rng rng = {seed, stream, position};
    double z[MOST_DIM + 2];
    must(nf_flow_create(dim + 1, 0, NF_DOUBLE, &flow));
    must(nf_sample(flow, NULL, &rng, 1, NULL, z, NULL));
    nf_flow_free(flow);
    return 0.5 * erfc(-z[dim] / sqrt(2.0));
}

/* f(z, t) of one row: an Euler step of length 1 from t. The parameters are those of the field in a stack. */
static void velocity(const kind *k, const double *theta, const double *z, double t, const double *context, double *f) {
    nf_flow *field = make_field(k, t, t + 1.0, NF_DOUBLE);
    must(nf_set_parameters(field, theta));
    must(nf_forward(field, NULL, 1, z, context, f, NULL));
    for (size_t i = 0; i < k->dim; i++)
        f[i] -= z[i];
    nf_flow_free(field);
}

typedef struct problem {
    const kind *k;
    double x[ROWS * MOST_DIM], context[ROWS * 2], weight[ROWS];
    bool weighted;
} problem;

static problem make_problem(int i, bool weighted) {
    problem p = {.k = &kinds[i], .weighted = weighted};
    random_source random = random_begin(33);
    for (size_t j = 0; j < ROWS * p.k->dim; j++)
        p.x[j] = 1.385 * random_normal(&random);
    for (size_t j = 0; j < ROWS * 2; j++)
        p.context[j] = random_normal(&random);
    for (size_t j = 0; j < ROWS; j++)
        p.weight[j] = j == 2 ? 0 : random_uniform(&random, 0.2, 2);
    return p;
}

/* The loss by its definition, with independent pairs. */
static double loss_of(const problem *p, const double *theta) {
    const kind *k = p->k;
    const double from = k->inverted ? k->t1 : k->t0, to = k->inverted ? k->t0 : k->t1;
    const double *below = theta;
    nf_flow *field = make_field(k, 0, 1, NF_DOUBLE);
    const size_t count = nf_parameter_count(field);
    nf_flow_free(field);
    const double *above = theta + 2 * k->dim + count;
    double sum = 0, weights = 0;
    for (size_t r = 0; r < ROWS; r++) {
        nf_rng rng = {71, 4, 1000 + r};
        nf_flow *base;
        double z[MOST_DIM], at[MOST_DIM], want[MOST_DIM], f[MOST_DIM], square = 0;
        must(nf_flow_create(k->dim, 0, NF_DOUBLE, &base));
        must(nf_sample(base, NULL, &rng, 1, NULL, z, NULL));
        nf_flow_free(base);
        const double s = fraction_of(k->dim, 71, 4, 1000 + r);
        for (size_t i = 0; i < k->dim; i++) {
            const double start = z[i] * exp(below[i]) + below[k->dim + i], end = (p->x[r * k->dim + i] - above[k->dim + i]) * exp(-above[i]);
            at[i] = start + s * (end - start);
            want[i] = (end - start) / (to - from);
        }
        velocity(k, theta + 2 * k->dim, at, from + s * (to - from), k->context_dim ? p->context + 2 * r : NULL, f);
        for (size_t i = 0; i < k->dim; i++)
            square += (f[i] - want[i]) * (f[i] - want[i]);
        const double w = p->weighted ? p->weight[r] : 1.0;
        sum += w * square;
        weights += w;
    }
    return sum / weights;
}

static double as_function(void *user, const double *theta) { return loss_of(user, theta); }

START_TEST(loss_and_gradient_follow_the_definition) {
    for (int weighted = 0; weighted < 2; weighted++) {
        problem p = make_problem(_i, weighted);
        const double *weight = weighted ? p.weight : NULL;
        nf_flow *flow = make_stack(p.k, NF_DOUBLE);
        const size_t count = nf_parameter_count(flow);
        double *theta = new_numbers(count), *got = new_numbers(count), loss;
        nf_gradient *gradient;
        nf_rng rng = {71, 4, 1000};
        must(nf_get_parameters(flow, theta));
        must(nf_gradient_create(flow, &gradient));
        must(nf_grad_flow_matching(flow, NULL, &rng, ROWS, p.x, p.k->context_dim ? p.context : NULL, weight, NF_PAIRING_INDEPENDENT, gradient, &loss));
        must(nf_gradient_get(gradient, got));
        ck_assert_uint_eq(rng.position, 1000 + ROWS);
        const double expected = loss_of(&p, theta);
        must_agree(p.k->name, whole_error(&loss, &expected, 1), 1e-12);
        for (size_t i = 0; i < count; i += 1 + count / 50) {
            const bool outside = i < 2 * p.k->dim || i >= count - 2 * p.k->dim; /* the layers around the field get none */
            const double want = outside ? 0.0 : difference(as_function, &p, theta, i, 1e-3);
            must_agree(p.k->name, whole_error(&got[i], &want, 1), outside ? 0.0 : 1e-8);
        }
        /* Accumulation: the same again doubles it. */
        rng.position = 1000;
        must(nf_grad_flow_matching(flow, NULL, &rng, ROWS, p.x, p.k->context_dim ? p.context : NULL, weight, NF_PAIRING_INDEPENDENT, gradient, NULL));
        double *twice = new_numbers(count);
        must(nf_gradient_get(gradient, twice));
        for (size_t i = 0; i < count; i++)
            twice[i] /= 2;
        same_bits("accumulated", twice, got, count);
        nf_gradient_free(gradient);
        nf_flow_free(flow);
        free(theta);
        free(got);
        free(twice);
    }
}
END_TEST

static void run_many(int i, nf_precision precision, nf_pairing pairing, size_t threads, double *x, double *context, double *got, double *loss) {
    nf_flow *flow = make_stack(&kinds[i], precision);
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_rng rng = {5, 6, 7};
    must(nf_workspace_create(flow, threads, &ws));
    must(nf_gradient_create(flow, &gradient));
    must(nf_grad_flow_matching(flow, ws, &rng, MANY, x, kinds[i].context_dim ? context : NULL, NULL, pairing, gradient, loss));
    must(nf_gradient_get(gradient, got));
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}

START_TEST(threads_change_no_bit_and_single_is_near) {
    random_source random = random_begin(34);
    double *x = new_normals(&random, MANY * kinds[_i].dim, 1.385), *context = new_normals(&random, MANY * 2, 1.0);
    nf_flow *flow = make_stack(&kinds[_i], NF_DOUBLE);
    const size_t count = nf_parameter_count(flow);
    nf_flow_free(flow);
    double *one = new_numbers(count), *other = new_numbers(count), losses[2];
    for (int pairing = 0; pairing < (kinds[_i].context_dim ? 1 : 2); pairing++) {
        run_many(_i, NF_DOUBLE, (nf_pairing)pairing, 1, x, context, one, &losses[0]);
        run_many(_i, NF_DOUBLE, (nf_pairing)pairing, 3, x, context, other, &losses[1]);
        same_bits("gradient", one, other, count);
        same_bits("loss", &losses[0], &losses[1], 1);
        run_many(_i, NF_SINGLE, (nf_pairing)pairing, 2, x, context, other, &losses[1]);
        must_agree(kinds[_i].name, whole_error(&losses[1], &losses[0], 1), 1e-4);
        must_agree(kinds[_i].name, whole_error(other, one, count), 1e-4);
    }
    free(x);
    free(context);
    free(one);
    free(other);
}
END_TEST

/* A field that is zero leaves the mean square of the distances as the loss, which optimal pairs make smaller. */
START_TEST(optimal_pairs_are_nearer) {
    random_source random = random_begin(35);
    double *x = new_normals(&random, MANY * DIM, 1.385), losses[2];
    for (int pairing = 0; pairing < 2; pairing++) {
        nf_cnf *cnf;
        nf_gradient *gradient;
        nf_rng rng = {5, 6, 7};
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_layers = NF_NONE), &cnf));
        double *zero = calloc(nf_parameter_count(cnf), sizeof *zero);
        ck_assert_ptr_nonnull(zero);
        must(nf_set_parameters(cnf, zero));
        must(nf_gradient_create(cnf, &gradient));
        must(nf_grad_flow_matching(cnf, NULL, &rng, MANY, x, NULL, NULL, (nf_pairing)pairing, gradient, &losses[pairing]));
        nf_gradient_free(gradient);
        nf_flow_free(cnf);
        free(zero);
    }
    ck_assert_msg(losses[1] < 0.25 * losses[0] && losses[1] > 0, "mean squared distances %g and, paired, %g", losses[0], losses[1]);
    free(x);
}
END_TEST

/* Bad rows take no part: the loss of a zero field is the least mean square distance among the good rows and their own base samples. */
START_TEST(optimal_pairs_are_of_good_rows) {
    enum { FEW = 5 };
    nf_cnf *cnf;
    nf_flow *base;
    nf_gradient *gradient;
    nf_rng rng = {5, 6, 7}, same = rng;
    random_source random = random_begin(38 + (uint64_t)_i);
    double *x = new_normals(&random, FEW * DIM, 3.0), z[FEW * DIM], loss, least = INFINITY;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_layers = NF_NONE), &cnf));
    double *zero = calloc(nf_parameter_count(cnf), sizeof *zero);
    ck_assert_ptr_nonnull(zero);
    must(nf_set_parameters(cnf, zero));
    must(nf_gradient_create(cnf, &gradient));
    must(nf_flow_create(DIM, 0, NF_DOUBLE, &base));
    must(nf_sample(base, NULL, &same, FEW, NULL, z, NULL));
    x[1 * DIM] = x[4 * DIM + 1] = NAN;
    must_be(NF_ERR_ROWS, nf_grad_flow_matching(cnf, NULL, &rng, FEW, x, NULL, NULL, NF_PAIRING_OPTIMAL, gradient, &loss));
    const size_t good[3] = {0, 2, 3}, orders[6][3] = {{0, 2, 3}, {0, 3, 2}, {2, 0, 3}, {2, 3, 0}, {3, 0, 2}, {3, 2, 0}};
    for (size_t k = 0; k < 6; k++) {
        double sum = 0;
        for (size_t i = 0; i < 3; i++)
            for (size_t f = 0; f < DIM; f++)
                sum += pow(x[good[i] * DIM + f] - z[orders[k][i] * DIM + f], 2);
        least = fmin(least, sum / 3);
    }
    must_agree("loss", whole_error(&loss, &least, 1), 1e-13);
    nf_gradient_free(gradient);
    nf_flow_free(base);
    nf_flow_free(cnf);
    free(zero);
    free(x);
}
END_TEST

START_TEST(bad_rows_add_nothing) {
    problem p = make_problem(_i, false);
    const double *context = p.k->context_dim ? p.context : NULL;
    nf_flow *flow = make_stack(p.k, NF_DOUBLE);
    const size_t count = nf_parameter_count(flow);
    nf_workspace *ws;
    nf_gradient *gradient;
    double *bad = new_numbers(count), *without = new_numbers(count), losses[2], weight[ROWS], keep;
    nf_rng rng = {71, 4, 1000};
    const size_t last = p.k->dim - 1;
    nf_stats stats = {.struct_size = sizeof stats};
    must(nf_workspace_create(flow, 1, &ws));
    must(nf_gradient_create(flow, &gradient));
    for (size_t r = 0; r < ROWS; r++)
        weight[r] = r == 3 ? 0.0 : 1.0;
    must(nf_grad_flow_matching(flow, ws, &rng, ROWS, p.x, context, weight, NF_PAIRING_INDEPENDENT, gradient, &losses[0]));
    must(nf_gradient_get(gradient, without));
    keep = p.x[3 * p.k->dim + last];
    p.x[3 * p.k->dim + last] = NAN;
    rng.position = 1000;
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_grad_flow_matching(flow, ws, &rng, ROWS, p.x, context, NULL, NF_PAIRING_INDEPENDENT, gradient, &losses[1]));
    must_say("nf_grad_flow_matching", last == 0 ? "x[3][0] is nan" : last == 1 ? "x[3][1] is nan" : "x[3][2] is nan");
    must(nf_workspace_stats(ws, &stats));
    ck_assert(stats.bad_rows == 1 && stats.first_bad_row == 3);
    ck_assert_uint_eq(rng.position, 1000 + ROWS);
    must(nf_gradient_get(gradient, bad));
    same_bits("loss", &losses[0], &losses[1], 1);
    must_agree(p.k->name, whole_error(bad, without, count), 1e-15);
    p.x[3 * p.k->dim + last] = keep;
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
    free(bad);
    free(without);
}
END_TEST

/* Densities that a workspace met before, beyond the numbers, are not those of the rows that are matched. */
START_TEST(earlier_densities_do_not_matter) {
    problem p = make_problem(0, false);
    nf_flow *flow = make_field(p.k, p.k->t0, p.k->t1, NF_DOUBLE);
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_rng rng = {71, 4, 1000};
    double *far = new_numbers(ROWS * p.k->dim), log_prob[ROWS], loss;
    for (size_t i = 0; i < ROWS * p.k->dim; i++)
        far[i] = 1e200;
    must(nf_workspace_create(flow, 1, &ws));
    must(nf_gradient_create(flow, &gradient));
    must_be(NF_ERR_ROWS, nf_log_prob(flow, ws, ROWS, far, p.k->context_dim ? p.context : NULL, log_prob));
    must(nf_grad_flow_matching(flow, ws, &rng, ROWS, p.x, p.k->context_dim ? p.context : NULL, NULL, NF_PAIRING_INDEPENDENT, gradient, &loss));
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
    free(far);
}
END_TEST

/* A mean has no more to do with a factor of its weights than their ratios. */
START_TEST(a_factor_of_all_weights_is_nothing) {
    const int factors[] = {0, 15, -60, 200, -1000, 1015};
    const nf_precision precision = _i ? NF_SINGLE : NF_DOUBLE;
    problem p = make_problem(0, false);
    nf_flow *flow = make_field(p.k, p.k->t0, p.k->t1, precision);
    const size_t count = nf_parameter_count(flow);
    nf_gradient *gradient;
    double *got[2] = {new_numbers(count), new_numbers(count)}, losses[2], weight[ROWS];
    must(nf_gradient_create(flow, &gradient));
    for (size_t k = 0; k < sizeof factors / sizeof factors[0]; k++) {
        nf_rng rng = {71, 4, 1000};
        for (size_t r = 0; r < ROWS; r++)
            weight[r] = ldexp((double)(1 + r % 5), factors[k]);
        must(nf_gradient_zero(gradient));
        must(nf_grad_flow_matching(flow, NULL, &rng, ROWS, p.x, p.k->context_dim ? p.context : NULL, weight, NF_PAIRING_INDEPENDENT, gradient, &losses[k > 0]));
        must(nf_gradient_get(gradient, got[k > 0]));
        if (k > 0)
            same_bits("loss", losses, losses + 1, 1);
        if (k > 0)
            same_bits("gradient", got[0], got[1], count);
    }
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    free(got[0]);
    free(got[1]);
}
END_TEST

/* Rows whose loss or gradient is beyond the numbers, by their data or by their context: bad, whether or not the sum over coordinates tells. */
static void check_far(int i, nf_precision precision, double far, bool in_context) {
    problem p = make_problem(i, false);
    const double *context = p.k->context_dim ? p.context : NULL;
    nf_flow *flow = make_field(p.k, p.k->t0, p.k->t1, precision);
    const size_t count = nf_parameter_count(flow);
    nf_gradient *gradient;
    double *got = new_numbers(count), *without = new_numbers(count), losses[2], weight[ROWS];
    nf_rng rng = {71, 4, 1000};
    must(nf_gradient_create(flow, &gradient));
    for (size_t r = 0; r < ROWS; r++)
        weight[r] = r == 3 ? 0.0 : 1.0;
    must(nf_grad_flow_matching(flow, NULL, &rng, ROWS, p.x, context, weight, NF_PAIRING_INDEPENDENT, gradient, &losses[0]));
    must(nf_gradient_get(gradient, without));
    p.x[3 * p.k->dim] = far;
    if (in_context)
        p.context[3 * 2] = p.context[3 * 2 + 1] = far;
    rng.position = 1000;
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_grad_flow_matching(flow, NULL, &rng, ROWS, p.x, context, NULL, NF_PAIRING_INDEPENDENT, gradient, &losses[1]));
    must_say("nf_grad_flow_matching", "row 3");
    must(nf_gradient_get(gradient, got));
    same_bits("loss", &losses[0], &losses[1], 1);
    must_agree(p.k->name, whole_error(got, without, count), precision == NF_SINGLE ? 1e-6 : 1e-15);
    /* All rows: nothing is added. */
    for (size_t r = 0; r < ROWS; r++)
        p.x[r * p.k->dim] = far;
    must_be(NF_ERR_ROWS, nf_grad_flow_matching(flow, NULL, &rng, ROWS, p.x, context, NULL, NF_PAIRING_INDEPENDENT, gradient, &losses[1]));
    ck_assert(isnan(losses[1]));
    must(nf_gradient_get(gradient, without));
    same_bits("gradient", without, got, count);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    free(got);
    free(without);
}

START_TEST(rows_too_far_to_differentiate_add_nothing) {
    for (int context = 0; context < 2; context++) {
        check_far(_i, NF_DOUBLE, 1e200, context);
        check_far(_i, NF_DOUBLE, -1.7e308, context);
        check_far(_i, NF_SINGLE, 3e38, context);
        check_far(_i, NF_SINGLE, -1e20, context);
    }
}
END_TEST

/*
 * A field of which rows far away have a loss, and a gradient by the weights that is no number: the last layer's weights are 0, and what they are multiplied with is huge.
 */
static nf_flow *make_steep(const kind *k, nf_precision precision, double *far) {
    const bool is_single = precision == NF_SINGLE;
    nf_flow *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = k->dim, .context_dim = k->context_dim, .dynamics = k->dynamics, .precision = precision, .hidden_layers = 1,
                                 .hidden_width = 5, .units = 4, .activation = k->dynamics == NF_DYNAMICS_MLP ? NF_SOFTPLUS : NF_ACTIVATION_DEFAULT),
                      &flow));
    const size_t count = nf_parameter_count(flow), outputs = 4 * (3 * k->dim + 1);
    double *theta = calloc(count, sizeof *theta);
    ck_assert_ptr_nonnull(theta);
    if (k->dynamics == NF_DYNAMICS_MLP)
        theta[0] = is_single ? 1e12 : 1e100;
    else
        for (size_t i = 0; i < 4 * k->dim; i++) /* the units' outputs; what they take in is 0 */
            theta[count - outputs + 4 * k->dim + i] = is_single ? 1e12 : 1e30;
    must(nf_set_parameters(flow, theta));
    free(theta);
    *far = is_single ? 1e16 : 1e150;
    return flow;
}

enum { STEEP_ROWS = 1200 }; /* so that some tiles add to what others left */

static bool is_far_row(size_t r) { return r == 0 || r == 3 || r == 1160; }

START_TEST(rows_with_steep_gradients_add_nothing) {
    const nf_precision precision = _i % 2 ? NF_SINGLE : NF_DOUBLE;
    const kind *k = &kinds[_i / 2];
    random_source random = random_begin(39);
    double far, *x = new_normals(&random, STEEP_ROWS * k->dim, 1.385), *context = new_normals(&random, STEEP_ROWS * 2, 1.0), *weight = new_numbers(STEEP_ROWS);
    nf_flow *flow = make_steep(k, precision, &far);
    const size_t count = nf_parameter_count(flow), lost = 5, missing = 6, zero = 7;
    double *expected = new_numbers(count), *got = new_numbers(count), losses[2];
    nf_gradient *gradient;
    must(nf_gradient_create(flow, &gradient));
    for (size_t r = 0; r < STEEP_ROWS; r++)
        weight[r] = is_far_row(r) || r == lost || r == missing || r == zero ? 0.0 : 1.0 + (double)(r % 3);
    nf_rng rng = {5, 6, 7};
    must(nf_grad_flow_matching(flow, NULL, &rng, STEEP_ROWS, x, k->context_dim ? context : NULL, weight, NF_PAIRING_INDEPENDENT, gradient, &losses[0]));
    must(nf_gradient_get(gradient, expected));
    for (size_t r = 0; r < STEEP_ROWS; r++) {
        x[r * k->dim] = is_far_row(r) ? far : r == lost ? 1e10 * far : r == missing ? NAN : x[r * k->dim];
        weight[r] = is_far_row(r) ? 1 : r == lost ? 2 : r == zero ? 0 : weight[r];
    }
    for (size_t threads = 1; threads <= 3; threads++)
        for (int pairing = 0; pairing < (k->context_dim ? 1 : 2); pairing++) {
            nf_workspace *ws;
            nf_stats stats = {.struct_size = sizeof stats};
            rng.position = 7;
            must(nf_workspace_create(flow, threads, &ws));
            must(nf_gradient_zero(gradient));
            must_be(NF_ERR_ROWS, nf_grad_flow_matching(flow, ws, &rng, STEEP_ROWS, x, k->context_dim ? context : NULL, weight, (nf_pairing)pairing, gradient, &losses[1]));
            must_say("nf_grad_flow_matching", "row 0: the gradient is beyond the range of the numbers (5 bad rows in all)");
            must(nf_workspace_stats(ws, &stats));
            ck_assert(stats.bad_rows == 5 && stats.first_bad_row == 0 && rng.position == 7 + STEEP_ROWS);
            must(nf_gradient_get(gradient, got));
            if (pairing == NF_PAIRING_INDEPENDENT) {
                same_bits("loss", &losses[0], &losses[1], 1);
                /* Nodes of a hyper net are of the instants that there are. */
                must_agree(k->name, whole_error(got, expected, count), k->dynamics == NF_DYNAMICS_MLP ? 0.0 : precision == NF_SINGLE ? 1e-6 : 1e-15);
            }
            ck_assert(isfinite(losses[1]));
            for (size_t i = 0; i < count; i++)
                ck_assert_msg(isfinite(got[i]), "parameter %zu has gradient %g", i, got[i]);
            nf_workspace_free(ws);
        }
    /* All rows: nothing is added. */
    for (size_t r = 0; r < STEEP_ROWS; r++)
        x[r * k->dim] = far;
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_grad_flow_matching(flow, NULL, &rng, STEEP_ROWS, x, k->context_dim ? context : NULL, NULL, NF_PAIRING_INDEPENDENT, gradient, &losses[1]));
    must_say("nf_grad_flow_matching", "(1200 bad rows in all)");
    ck_assert(isnan(losses[1]));
    must(nf_gradient_get(gradient, got));
    for (size_t i = 0; i < count; i++)
        ck_assert(got[i] == 0);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    double *arrays[] = {x, context, weight, expected, got};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
}
END_TEST

/* A fit leaves such rows out of its steps: it is that of the others. */
START_TEST(fits_go_on_without_steep_rows) {
    random_source random = random_begin(40);
    const kind *k = &kinds[0];
    double far, *x = new_normals(&random, STEEP_ROWS * k->dim, 1.385), *weight = new_numbers(STEEP_ROWS);
    nf_flow *flow = make_steep(k, _i % 2 ? NF_SINGLE : NF_DOUBLE, &far);
    const size_t count = nf_parameter_count(flow);
    double *theta[2] = {new_numbers(count), new_numbers(count)};
    for (size_t r = 0; r < STEEP_ROWS; r++) {
        x[r * k->dim] = is_far_row(r) ? far : x[r * k->dim];
        weight[r] = is_far_row(r) ? 0 : 1;
    }
    for (int left_out = 0; left_out < 2; left_out++) {
        nf_flow *fitted;
        nf_fit_report report = {.struct_size = sizeof report};
        must(nf_flow_clone(flow, &fitted));
        must(nf_fit(fitted, STEEP_ROWS, x, NULL,
                    NF_CONFIG(nf_fit_config, .objective = NF_OBJECTIVE_FLOW_MATCHING, .epochs = 2, .batch_size = STEEP_ROWS, .threads = 3, .validation_fraction = -1,
                              .noise = -1, .weight = left_out ? weight : NULL, .standardize = -1,
                              .optimizer = NF_CONFIG(nf_optimizer_config, .learning_rate = _i % 2 ? 1e-20 : 1e-200)),
                    &report));
        ck_assert_uint_eq(report.steps, 2);
        ck_assert(isfinite(report.train_loss));
        must(nf_get_parameters(fitted, theta[left_out]));
        nf_flow_free(fitted);
    }
    same_bits("parameters", theta[0], theta[1], count);
    nf_flow_free(flow);
    free(x);
    free(weight);
    free(theta[0]);
    free(theta[1]);
}
END_TEST

START_TEST(arguments_are_checked) {
    problem p = make_problem(0, false);
    nf_flow *flow = make_stack(p.k, NF_DOUBLE), *other = make_stack(&kinds[2], NF_DOUBLE);
    nf_gradient *gradient, *foreign;
    nf_rng rng = {0, 0, 0};
    double loss;
    must(nf_gradient_create(flow, &gradient));
    must(nf_gradient_create(other, &foreign));
#define REFUSED(status, text, ...)                                                                                                        \
    do {                                                                                                                                  \
        must_be(status, nf_grad_flow_matching(__VA_ARGS__));                                                                              \
        must_say("nf_grad_flow_matching", text);                                                                                          \
    } while (0)
    REFUSED(NF_ERR_ARGUMENT, "flow is NULL", NULL, NULL, &rng, ROWS, p.x, NULL, NULL, NF_PAIRING_OPTIMAL, gradient, &loss);
    REFUSED(NF_ERR_ARGUMENT, "rng is NULL", flow, NULL, NULL, ROWS, p.x, NULL, NULL, NF_PAIRING_OPTIMAL, gradient, &loss);
    REFUSED(NF_ERR_ARGUMENT, "rows is 0", flow, NULL, &rng, 0, p.x, NULL, NULL, NF_PAIRING_OPTIMAL, gradient, &loss);
    REFUSED(NF_ERR_ARGUMENT, "x is NULL", flow, NULL, &rng, ROWS, NULL, NULL, NULL, NF_PAIRING_OPTIMAL, gradient, &loss);
    REFUSED(NF_ERR_ARGUMENT, "context is not NULL", flow, NULL, &rng, ROWS, p.x, p.x, NULL, NF_PAIRING_OPTIMAL, gradient, &loss);
    REFUSED(NF_ERR_ARGUMENT, "weight[0]", flow, NULL, &rng, ROWS, p.x, NULL, (double[ROWS]){-1}, NF_PAIRING_OPTIMAL, gradient, &loss);
    REFUSED(NF_ERR_ARGUMENT, "pairing is 2", flow, NULL, &rng, ROWS, p.x, NULL, NULL, (nf_pairing)2, gradient, &loss);
    REFUSED(NF_ERR_ARGUMENT, "gradient is NULL", flow, NULL, &rng, ROWS, p.x, NULL, NULL, NF_PAIRING_OPTIMAL, NULL, &loss);
    REFUSED(NF_ERR_MISMATCH, "gradient", flow, NULL, &rng, ROWS, p.x, NULL, NULL, NF_PAIRING_OPTIMAL, foreign, &loss);
    nf_flow *conditional = make_stack(&kinds[1], NF_DOUBLE);
    nf_gradient *of_conditional;
    must(nf_gradient_create(conditional, &of_conditional));
    REFUSED(NF_ERR_UNSUPPORTED, "context", conditional, NULL, &rng, ROWS, p.x, p.context, NULL, NF_PAIRING_OPTIMAL, of_conditional, &loss);
    nf_fit_config config = {.struct_size = sizeof config, .objective = NF_OBJECTIVE_FLOW_MATCHING, .pairing = NF_PAIRING_OPTIMAL, .epochs = 1};
    must_be(NF_ERR_UNSUPPORTED, nf_fit(conditional, ROWS, p.x, p.context, &config, NULL));
    must_say("nf_fit", "context");
    config.pairing = NF_PAIRING_INDEPENDENT;
    must(nf_fit(conditional, ROWS, p.x, p.context, &config, NULL));
    nf_gradient_free(of_conditional);
    nf_flow_free(conditional);
    ck_assert_uint_eq(rng.position, 0);
    must(nf_flow_append(flow, other));
    nf_gradient_free(gradient);
    must(nf_gradient_create(flow, &gradient));
    REFUSED(NF_ERR_ARGUMENT, "2 continuous layers", flow, NULL, &rng, ROWS, p.x, NULL, NULL, NF_PAIRING_OPTIMAL, gradient, &loss);
    nf_gradient_free(gradient);
    nf_gradient_free(foreign);
    nf_flow_free(flow);
}
END_TEST

/* A fit by matching carries N(0, I) to a far, narrow Gaussian: its likelihood comes near the truth without one solve in training. */
START_TEST(a_fit_learns_the_density) {
    enum { TRAIN = 600 };
    const size_t epochs = is_brief() ? 3 : 150; /* too few to learn much */
    random_source random = random_begin(36);
    double *x = new_normals(&random, TRAIN * DIM, 1.0), *log_prob = new_numbers(TRAIN), nll = 0, truth = 0;
    for (size_t r = 0; r < TRAIN; r++) {
        const double a = x[r * DIM], b = x[r * DIM + 1];
        truth += 0.5 * (a * a + b * b) + log(2.0 * acos(-1.0)) + log(0.5 * 0.7);
        x[r * DIM] = 2.385 + 0.5 * a;
        x[r * DIM + 1] = -1.135 + 0.7 * b + 0.3 * a;
    }
    nf_cnf *cnf;
    nf_fit_report report = {.struct_size = sizeof report};
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_width = 32, .precision = NF_SINGLE, .rtol = 1e-4, .atol = 1e-4), &cnf));
    must(nf_fit(cnf, TRAIN, x, NULL, NF_CONFIG(nf_fit_config, .objective = NF_OBJECTIVE_FLOW_MATCHING, .pairing = (nf_pairing)_i, .epochs = epochs), &report));
    ck_assert(report.epochs_run == epochs && report.rhs_evaluations == 0 && isfinite(report.train_loss));
    must(nf_log_prob(cnf, NULL, TRAIN, x, NULL, log_prob));
    for (size_t r = 0; r < TRAIN; r++)
        nll -= log_prob[r];
    ck_assert_msg(nll / TRAIN < truth / TRAIN + 0.1 || is_brief(), "%g nats, the truth has %g", nll / TRAIN, truth / TRAIN);
    nf_flow_free(cnf);
    free(x);
    free(log_prob);
}
END_TEST

/* A row of an epoch meets the same base sample whatever the batches are, and another one in the next. Rows that are alike tell, without steps, by their loss. */
START_TEST(each_epoch_of_a_fit_draws_anew) {
    enum { TRAIN = 300 };
    static const size_t sizes[] = {TRAIN, 128, 50};
    double *x = new_numbers(TRAIN * DIM), loss[2];
    nf_cnf *cnf;
    nf_fit_report report = {.struct_size = sizeof report};
    for (size_t i = 0; i < TRAIN * DIM; i++)
        x[i] = i % DIM ? 0.485 : 2.385;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_width = 4), &cnf));
    for (size_t epochs = 1; epochs <= 2; epochs++)
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            must(nf_fit(cnf, TRAIN, x, NULL,
                        NF_CONFIG(nf_fit_config, .objective = NF_OBJECTIVE_FLOW_MATCHING, .epochs = epochs, .batch_size = sizes[k], .validation_fraction = -1, .standardize = -1,
                                  .noise = -1, .ema_decay = -1, .optimizer = NF_CONFIG(nf_optimizer_config, .kind = NF_SGD, .learning_rate = -1)),
                        &report));
            if (k == 0)
                loss[epochs - 1] = report.train_loss;
            must_agree("loss", fabs(report.train_loss / loss[epochs - 1] - 1), 1e-13);
        }
    ck_assert_msg(fabs(loss[1] / loss[0] - 1) > 1e-6, "loss %.17g in both epochs", loss[0]);
    nf_flow_free(cnf);
    free(x);
}
END_TEST

/* Likelihood training counts the work of its solves. */
START_TEST(a_fit_reports_its_evaluations) {
    random_source random = random_begin(37);
    double *x = new_normals(&random, 64 * DIM, 1.0);
    nf_cnf *cnf;
    nf_fit_report report = {.struct_size = sizeof report};
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .method = NF_RK4, .steps = 5), &cnf));
    must(nf_fit(cnf, 64, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .validation_fraction = -1), &report));
    ck_assert_msg(report.rhs_evaluations >= 20 && report.rhs_evaluations <= 60, "%g evaluations a row", report.rhs_evaluations);
    nf_flow_free(cnf);
    free(x);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("flow matching");
    TCase *c = tcase_create("flow matching");
    tcase_set_timeout(c, 300);
    tcase_add_loop_test(c, loss_and_gradient_follow_the_definition, 0, KINDS);
    tcase_add_loop_test(c, threads_change_no_bit_and_single_is_near, 0, KINDS);
    tcase_add_loop_test(c, rows_with_steep_gradients_add_nothing, 0, 2 * KINDS);
    tcase_add_loop_test(c, fits_go_on_without_steep_rows, 0, 2);
    tcase_add_test(c, optimal_pairs_are_nearer);
    tcase_add_loop_test(c, optimal_pairs_are_of_good_rows, 0, 8);
    tcase_add_loop_test(c, bad_rows_add_nothing, 0, KINDS);
    tcase_add_test(c, earlier_densities_do_not_matter);
    tcase_add_loop_test(c, a_factor_of_all_weights_is_nothing, 0, 2);
    tcase_add_loop_test(c, rows_too_far_to_differentiate_add_nothing, 0, KINDS);
    tcase_add_test(c, arguments_are_checked);
    tcase_add_loop_test(c, a_fit_learns_the_density, 0, 2);
    tcase_add_test(c, each_epoch_of_a_fit_draws_anew);
    tcase_add_test(c, a_fit_reports_its_evaluations);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
