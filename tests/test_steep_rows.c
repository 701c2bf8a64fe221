/* Rows of which only the part of the parameters' gradient is beyond the numbers: every call that gives that gradient finds them, and they add nothing to it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

/*
 * A planar layer whose w is so short that the derivative by it, which grows like 1/|w|^2, is beyond the numbers: rows with small cotangents have a gradient all
 * the same, the formula's (with u = 0 the rest of it is nothing beside this), and the others add nothing to it.
 */
typedef struct short_layer {
    nf_precision precision;
    size_t context_dim;
    double length, small; /* of w, and of the cotangents of even rows */
} short_layer;

static const short_layer short_layers[] = {
    {NF_DOUBLE, 0, 1e-160, 1e-200}, {NF_DOUBLE, 1, 1e-160, 1e-200}, {NF_SINGLE, 0, 1e-25, 1e-30}, {NF_SINGLE, 1, 1e-25, 1e-30}};

/* w = length (.6, -.8), b = 1, u = 0; conditional: the biases of a linear net whose weights are 0. */
static nf_flow *make_short(const short_layer *s, double length) {
    nf_flow *flow;
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .context_dim = s->context_dim, .precision = s->precision, .hidden_layers = NF_NONE), &flow));
    const size_t count = nf_parameter_count(flow);
    double theta[10] = {0};
    ck_assert_uint_eq(count, s->context_dim ? 10 : 5);
    theta[count - 3] = 0.6 * length;
    theta[count - 2] = -0.8 * length;
    theta[count - 1] = 1.0;
    must(nf_set_parameters(flow, theta));
    return flow;
}

START_TEST(short_planar_layers_have_gradients_or_bad_rows) {
    enum { SOME = 2200 }; /* so that some tiles add to what others left */
    const short_layer *s = &short_layers[_i];
    nf_flow *flow = make_short(s, s->length);
    nf_gradient *gradient;
    nf_workspace *ws;
    nf_stats stats = {.struct_size = sizeof stats};
    const size_t count = nf_parameter_count(flow);
    double z[2 * SOME], d[2 * SOME], out[2 * SOME], zeros[SOME] = {0}, got[10], expected[10];
    const double *context = s->context_dim ? zeros : NULL;
    must(nf_workspace_create(flow, 2, &ws));
    must(nf_gradient_create(flow, &gradient));
    for (size_t i = 0; i < 2 * SOME; i++) {
        z[i] = 0.385 + 0.01 * (double)(i % 7);
        d[i] = i / 2 % 2 ? 0.0 : s->small * (1.0 + (double)(i % 3));
    }
    double sum[2] = {0, 0};
    for (size_t i = 0; i < 2 * SOME; i++)
        sum[i % 2] += tanh(1.0) * d[i];
    const double along = 0.6 * sum[0] - 0.8 * sum[1];
    must(nf_forward_vjp(flow, ws, SOME, z, context, d, NULL, out, NULL, gradient));
    must(nf_gradient_get(gradient, expected));
    for (size_t i = 0; i < 2; i++) {
        const double across = sum[i] - 2 * along * (i ? -0.8 : 0.6), slope = (log(2.0) - 1.0) * across / s->length / s->length;
        ck_assert_msg(fabs(expected[count - 3 + i] / slope - 1) < (s->precision == NF_SINGLE ? 1e-5 : 1e-12), "slope %g, expected %g", expected[count - 3 + i], slope);
    }
    for (size_t i = 0; i < 2 * SOME; i++)
        d[i] = i / 2 % 2 ? 0.385 : d[i];
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_forward_vjp(flow, ws, SOME, z, context, d, NULL, out, NULL, gradient));
    must_say("nf_forward_vjp", "row 1: the gradient is beyond the range of the numbers (1100 bad rows in all)");
    must(nf_workspace_stats(ws, &stats));
    ck_assert(stats.bad_rows == SOME / 2 && stats.first_bad_row == 1);
    must(nf_gradient_get(gradient, got));
    same_bits("gradient", got, expected, count);
    for (size_t i = 0; i < 2 * SOME; i++)
        ck_assert_msg(isnan(out[i]) == (i / 2 % 2 == 1), "row %zu has %g", i / 2, out[i]);
    /* Where no parameter's gradient is wanted, none is missed. */
    must(nf_forward_vjp(flow, ws, SOME, z, context, d, NULL, out, NULL, NULL));
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}
END_TEST

/* One row among good ones, in a tile that adds to what another left: that stays, and so do the rows after it. */
START_TEST(one_steep_row_takes_no_other_along) {
    enum { SOME = 2200, BAD = 1100 };
    const short_layer *s = &short_layers[_i];
    nf_flow *flow = make_short(s, s->length);
    nf_gradient *gradient;
    const size_t count = nf_parameter_count(flow);
    double z[2 * SOME], d[2 * SOME], out[2 * SOME], zeros[SOME] = {0}, got[10], expected[10];
    const double *context = s->context_dim ? zeros : NULL;
    must(nf_gradient_create(flow, &gradient));
    for (size_t i = 0; i < 2 * SOME; i++) {
        z[i] = 0.385 + 0.01 * (double)(i % 7);
        d[i] = i / 2 == BAD ? 0.0 : s->small * (1.0 + (double)(i % 3));
    }
    must(nf_forward_vjp(flow, NULL, SOME, z, context, d, NULL, out, NULL, gradient));
    must(nf_gradient_get(gradient, expected));
    d[2 * BAD] = d[2 * BAD + 1] = 0.385;
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_forward_vjp(flow, NULL, SOME, z, context, d, NULL, out, NULL, gradient));
    must_say("nf_forward_vjp", "row 1100: the gradient is beyond the range of the numbers");
    must(nf_gradient_get(gradient, got));
    same_bits("gradient", got, expected, count);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
}
END_TEST

/* Steep rows are found by trying rows one by one, which nf_stats does not show. */
START_TEST(trying_rows_is_not_counted) {
    enum { SOME = 200 };
    const short_layer *s = &short_layers[_i];
    nf_flow *flow = make_short(s, s->length), *cnf;
    nf_gradient *gradient;
    nf_workspace *ws;
    nf_stats stats[2] = {{.struct_size = sizeof stats[0]}, {.struct_size = sizeof stats[1]}};
    double z[2 * SOME], d[2 * SOME], zeros[SOME] = {0};
    const double *context = s->context_dim ? zeros : NULL;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .context_dim = s->context_dim, .hidden_width = 3, .method = NF_RK4, .steps = 2, .precision = s->precision), &cnf));
    must(nf_flow_append(flow, cnf));
    must(nf_gradient_create(flow, &gradient));
    must(nf_workspace_create(flow, 1, &ws));
    for (size_t i = 0; i < 2 * SOME; i++) {
        z[i] = 0.385 + 0.01 * (double)(i % 7);
        d[i] = i / 2 == 77 ? 0.385 : 0;
    }
    must_be(NF_ERR_ROWS, nf_forward_vjp(flow, ws, SOME, z, context, d, NULL, NULL, NULL, gradient));
    must_say("nf_forward_vjp", "row 77: the gradient is beyond the range of the numbers");
    must(nf_workspace_stats(ws, &stats[1]));
    d[2 * 77] = d[2 * 77 + 1] = 0;
    must(nf_forward_vjp(flow, ws, SOME, z, context, d, NULL, NULL, NULL, gradient));
    must(nf_workspace_stats(ws, &stats[0]));
    ck_assert(stats[0].bad_rows == 0 && stats[1].bad_rows == 1 && stats[1].first_bad_row == 77);
    ck_assert_uint_gt(stats[0].rhs_evaluations, 0);
    ck_assert_msg(stats[0].rhs_evaluations == stats[1].rhs_evaluations && stats[0].steps_accepted == stats[1].steps_accepted, "%llu evaluations, and %llu with a steep row",
                  (unsigned long long)stats[0].rhs_evaluations, (unsigned long long)stats[1].rhs_evaluations);
    nf_workspace_free(ws);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
}
END_TEST

static nf_status wide_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = 0;
        for (size_t i = 2 * r; i < 2 * r + 2; i++) {
            log_density[r] -= fabs(x[i]);
            gradient[i] = x[i] > 0 ? -1.0 : 1.0;
        }
    }
    return NF_OK;
}

/* Losses: rows that have one, and no gradient, are none. */
START_TEST(short_planar_layers_have_losses_or_bad_rows) {
    enum { SOME = 200 };
    const short_layer *s = &short_layers[_i];
    nf_flow *flow = make_short(s, s->precision == NF_SINGLE ? 1e-14 : 1e-110), *shorter = make_short(s, s->length);
    nf_gradient *gradient;
    double x[2 * SOME], zeros[SOME] = {0}, log_q[SOME], got[10], loss = 0;
    const double *context = s->context_dim ? zeros : NULL;
    nf_rng rng = {1, 2, 3};
    must(nf_gradient_create(flow, &gradient));
    for (size_t i = 0; i < 2 * SOME; i++)
        x[i] = 0.385 + 0.01 * (double)(i % 7);
    must(nf_log_prob(flow, NULL, SOME, x, context, log_q));
    must_be(NF_ERR_ROWS, nf_grad_nll(flow, NULL, SOME, x, context, NULL, gradient, &loss));
    must_say("nf_grad_nll", "row 0: the gradient is beyond the range of the numbers (200 bad rows in all)");
    ck_assert(isnan(loss));
    nf_gradient_free(gradient);
    must(nf_gradient_create(shorter, &gradient));
    must_be(NF_ERR_ROWS, nf_grad_reverse_kl(shorter, NULL, &rng, SOME, context, wide_target, NULL, gradient, &loss));
    must_say("nf_grad_reverse_kl", "row 0: the gradient is beyond the range of the numbers (200 bad rows in all)");
    ck_assert(isnan(loss));
    must(nf_gradient_get(gradient, got));
    for (size_t i = 0; i < nf_parameter_count(shorter); i++)
        ck_assert_double_eq(got[i], 0.0);
    nf_gradient_free(gradient);
    nf_flow_free(shorter);
    nf_flow_free(flow);
}
END_TEST

/* Rows with a density of which the gradient is no number, in the first tile of all and in a later one (of a slot, when there are many): it is that of the others. */
START_TEST(rows_with_steep_gradients_add_nothing) {
    enum { MANY = 1200, FIRST = 5 };
    const bool is_single = _i % 2, zeros = _i / 4 % 2; /* set before, so that slots are looked at and not their sum */
    const size_t dim = 2, threads = _i / 8 ? 3 : 1, many = _i / 16 ? MANY : 900, later = many - 30;
    const double narrow = is_single ? 1e-36 : 1e-262, far = is_single ? 1e-20 : 1e-200;
    random_source random = random_begin(91);
    nf_flow *flow, *part;
    must(nf_affine_create(dim, is_single ? NF_SINGLE : NF_DOUBLE, &flow));
    must(nf_set_parameters(flow, (double[]){is_single ? -80 : -600, 0, 0, 0}));
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = dim, .precision = is_single ? NF_SINGLE : NF_DOUBLE, .couplings = 1, .hidden_width = 8, .actnorm = -1), &part));
    if (_i / 2 % 2) { /* with a net beside */
        must(nf_flow_append(part, flow));
        flow = part;
    } else {
        nf_flow_free(part);
    }
    const size_t count = nf_parameter_count(flow);
    double *x = new_normals(&random, MANY * dim, 1.0), *weight = new_numbers(MANY), *gradients[2], losses[2];
    for (size_t r = 0; r < MANY; r++) {
        weight[r] = r == FIRST || r == later ? 0 : 1;
        x[r * dim] = weight[r] > 0 ? narrow * x[r * dim] : far;
    }
    nf_workspace *ws;
    must(nf_workspace_create(flow, threads, &ws));
    for (int left_out = 0; left_out < 2; left_out++) {
        nf_gradient *gradient;
        must(nf_gradient_create(flow, &gradient));
        gradients[left_out] = new_numbers(count);
        for (size_t i = 0; i < count; i++)
            gradients[left_out][i] = 0;
        if (zeros)
            must(nf_gradient_set(gradient, gradients[left_out]));
        const nf_status status = nf_grad_nll(flow, ws, many, x, NULL, left_out ? weight : NULL, gradient, &losses[left_out]);
        ck_assert_int_eq(status, left_out ? NF_OK : NF_ERR_ROWS);
        if (!left_out)
            must_say("nf_grad_nll", "row 5: the gradient is beyond the range of the numbers (2 bad rows in all)");
        must(nf_gradient_get(gradient, gradients[left_out]));
        nf_gradient_free(gradient);
    }
    must_agree("loss", whole_error(&losses[0], &losses[1], 1), 1e-12);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(isfinite(gradients[1][i]) && fabs(gradients[0][i] - gradients[1][i]) <= 1e-5 * fabs(gradients[1][i]), "number %zu is %g, without the bad rows %g",
                      i, gradients[0][i], gradients[1][i]);
    nf_workspace_free(ws);
    nf_flow_free(flow);
    free(x);
    free(weight);
    free(gradients[0]);
    free(gradients[1]);
}
END_TEST

/* A coupling in whose net a number is infinite, beside a weight that makes it 0, where a row's first number is as far as `far`. */
static nf_flow *make_infinite_within(bool is_single, double *far) {
    const double steep = is_single ? 1e36 : 1e300;
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .precision = is_single ? NF_SINGLE : NF_DOUBLE, .couplings = 1, .hidden_width = 2,
                                     .activation = NF_RELU, .actnorm = -1), &flow));
    /* steep x overflows where x is far, and the second layer, of negative weights for it, is 0 there. */
    must(nf_set_parameters(flow, (double[]){steep, 1, 0, 0, -1, 0, -1, 0, 0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0, 0}));
    *far = is_single ? 1e5 : 1e10;
    return flow;
}

/* Rows with a density in whose net a number is infinite: nothing of it may reach the other rows of their tiles, where it would be 0 times infinity. */
START_TEST(rows_with_infinite_numbers_within_spoil_no_others) {
    enum { MANY = 300, FIRST = 2, LATER = 200, LEFT = MANY - 2 };
    const bool is_single = _i % 2;
    const size_t dim = 2;
    random_source random = random_begin(92);
    double far;
    nf_flow *flow = make_infinite_within(is_single, &far);
    double *x = new_normals(&random, MANY * dim, 1.0), *left = new_numbers(LEFT * dim), *log_prob = new_numbers(MANY), *ones = new_numbers(MANY);
    double *slopes[2] = {new_numbers(MANY * dim), new_numbers(LEFT * dim)}, gradients[2][2][16], losses[2];
    for (size_t r = 0, k = 0; r < MANY; r++) {
        const bool is_far = r == FIRST || r == LATER;
        x[r * dim] = is_far ? far : -fabs(x[r * dim]);
        ones[r] = 1;
        if (!is_far)
            memcpy(left + k++ * dim, x + r * dim, dim * sizeof *x);
    }
    must(nf_log_prob(flow, NULL, MANY, x, NULL, log_prob));
    nf_gradient *gradient;
    must(nf_gradient_create(flow, &gradient));
    for (int k = 0; k < 2; k++) {
        const double *rows = k ? left : x;
        must(nf_gradient_zero(gradient));
        must_be(k ? NF_OK : NF_ERR_ROWS, nf_grad_nll(flow, NULL, k ? LEFT : MANY, rows, NULL, NULL, gradient, &losses[k]));
        if (k == 0)
            must_say("nf_grad_nll", "row 2: the gradient is beyond the range of the numbers (2 bad rows in all)");
        must(nf_gradient_get(gradient, gradients[k][0]));
        must(nf_gradient_zero(gradient));
        must_be(k ? NF_OK : NF_ERR_ROWS, nf_inverse_vjp(flow, NULL, k ? LEFT : MANY, rows, NULL, NULL, ones, slopes[k], NULL, gradient));
        must(nf_gradient_get(gradient, gradients[k][1]));
        /* In the place of the rows. */
        double *place = new_numbers(MANY * dim), there[16];
        memcpy(place, rows, (k ? LEFT : MANY) * dim * sizeof *place);
        must(nf_gradient_zero(gradient));
        must_be(k ? NF_OK : NF_ERR_ROWS, nf_inverse_vjp(flow, NULL, k ? LEFT : MANY, place, NULL, NULL, ones, place, NULL, gradient));
        must(nf_gradient_get(gradient, there));
        same_bits("gradient in place", there, gradients[k][1], 16);
        for (size_t i = 0; i < (k ? LEFT : MANY) * dim; i++)
            ck_assert(place[i] == slopes[k][i] || (isnan(place[i]) && isnan(slopes[k][i])));
        free(place);
    }
    must_agree("loss", whole_error(&losses[0], &losses[1], 1), 1e-12);
    must_agree("gradient of the loss", whole_error(gradients[0][0], gradients[1][0], 16), 1e-5);
    must_agree("gradient of the vjp", whole_error(gradients[0][1], gradients[1][1], 16), 1e-5);
    for (size_t r = 0, k = 0; r < MANY; r++) {
        if (r == FIRST || r == LATER)
            ck_assert(isnan(slopes[0][r * dim]) && isnan(slopes[0][r * dim + 1]));
        else
            same_bits("slope of a good row", slopes[0] + r * dim, slopes[1] + k++ * dim, dim);
    }
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    free(slopes[0]);
    free(slopes[1]);
    free(ones);
    free(log_prob);
    free(left);
    free(x);
}
END_TEST

/*
 * A gradient that is not finite is computed again from the input, or with care from the start where an output takes the place of that. The row that spoils it is in a later
 * tile than the first, and not in the layer that the pull comes to last.
 */
START_TEST(gradients_in_place_are_of_what_was_there) {
    enum { MANY = 300, FAR = 200, COUNT = 18 + 4 };
    enum { X, CONTEXT, GRAD_Z, GRAD_LOG_DET, INPUTS };
    static const struct {
        int input, output; /* 0: grad_x, 1: grad_context */
    } same[] = {{INPUTS, 0}, {X, 0}, {GRAD_Z, 0}, {CONTEXT, 1}, {GRAD_LOG_DET, 1}};
    const bool is_single = _i;
    const double steep = is_single ? 1e36 : 1e300, theta[COUNT] = {steep, 0.1, 1, 0.2, 0, 0, -1, 0, -1, 0, 0.1, 0.1, 0.1, 0.2, 0.3, 0.4};
    const size_t columns[INPUTS] = {2, 1, 2, 1};
    random_source random = random_begin(93);
    nf_flow *flow, *part;
    nf_gradient *gradient;
    double expected[COUNT], got[COUNT], *given[INPUTS], *in[INPUTS], *out[2] = {new_numbers(2 * MANY), new_numbers(MANY)};
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .context_dim = 1, .precision = is_single ? NF_SINGLE : NF_DOUBLE, .couplings = 1, .hidden_width = 2,
                                     .activation = NF_RELU, .actnorm = -1), &flow));
    must(nf_affine_create(2, is_single ? NF_SINGLE : NF_DOUBLE, &part));
    must(nf_flow_append(flow, part));
    must(nf_set_parameters(flow, theta));
    must(nf_gradient_create(flow, &gradient));
    for (int i = 0; i < INPUTS; i++)
        given[i] = new_normals(&random, MANY * columns[i], 1.0);
    for (size_t r = 0; r < MANY; r++)
        given[X][2 * r] = r == FAR ? 1e10 : -fabs(given[X][2 * r]);
    for (size_t k = 0; k < sizeof same / sizeof same[0]; k++) {
        double *to[2] = {out[0], out[1]};
        for (int i = 0; i < INPUTS; i++)
            in[i] = new_copy(given[i], MANY * columns[i]);
        if (k > 0)
            to[same[k].output] = in[same[k].input];
        must(nf_gradient_zero(gradient));
        const nf_status status = nf_inverse_vjp(flow, NULL, MANY, in[X], in[CONTEXT], in[GRAD_Z], in[GRAD_LOG_DET], to[0], to[1], gradient);
        must(nf_gradient_get(gradient, k ? got : expected));
        must_be(NF_ERR_ROWS, status);
        const double error = whole_error(k ? got : expected, expected, COUNT); /* infinite where a number is none */
        ck_assert_msg(error == 0.0, "output %d into input %d: the gradient is off by %g", same[k].output, same[k].input, error);
        for (int i = 0; i < INPUTS; i++)
            free(in[i]);
    }
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    for (int i = 0; i < INPUTS; i++)
        free(given[i]);
    free(out[0]);
    free(out[1]);
}
END_TEST

/* Parts that are numbers may have a sum that is none: then no row is bad, and the next step tells. */
START_TEST(sums_of_good_rows_may_overflow) {
    enum { MANY = 300 };
    const double part = _i % 2 ? 3e38 : 1.7e308;
    double x[MANY], d[MANY], g[2];
    nf_flow *flow;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    must(nf_affine_create(1, _i % 2 ? NF_SINGLE : NF_DOUBLE, &flow));
    must(nf_gradient_create(flow, &gradient));
    must(nf_optimizer_create(flow, NULL, &optimizer));
    for (size_t r = 0; r < MANY; r++) {
        x[r] = 1;
        d[r] = r == 7 || r == 200 ? part : 0;
    }
    for (size_t rows = 100; rows <= MANY; rows += 200) {
        must(nf_gradient_zero(gradient));
        must(nf_forward_vjp(flow, NULL, rows, x, NULL, d, NULL, NULL, NULL, gradient));
        must(nf_gradient_get(gradient, g));
        ck_assert(rows == 100 ? g[0] > 0.9 * part && isfinite(g[0]) : isinf(g[0]));
    }
    must_be(NF_ERR_DIVERGED, nf_optimizer_step(optimizer, flow, gradient));
    must_say("nf_optimizer_step", "the gradient is not finite (its norm is inf)");
    nf_optimizer_free(optimizer);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
}
END_TEST

/*
 * With a step in common a row that wants short steps has longer ones among others, by their mean error, than alone, where the checkpoints may not have the room for them.
 * That makes it no bad row.
 */
START_TEST(rows_that_share_steps_are_not_steep_alone) {
    enum { ROWS = 16, STEEP = 3, STIFF = 5 };
    const bool is_single = _i % 2;
    const double theta[] = {3, 60, 0.5, 0, -20, 0, 4, 0.2, 0, 0, 0};
    double x[ROWS], d[ROWS], out[ROWS];
    for (size_t r = 0; r < ROWS; r++) {
        x[r] = r == STIFF ? 0.1 : 200.0 + (double)r;
        d[r] = r == STEEP ? (is_single ? 1e37 : 1e307) : 1.0; /* times 200 it is no number */
    }
    for (double tolerance = 1e-2; tolerance > 1e-7; tolerance /= 3) {
        nf_cnf *flow, *part;
        nf_gradient *gradient;
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 1, .precision = is_single ? NF_SINGLE : NF_DOUBLE, .hidden_layers = 1, .hidden_width = 2, .method = NF_BOSH3,
                                     .rtol = tolerance, .atol = tolerance, .shared_step = 1),
                           &flow));
        must(nf_affine_create(1, is_single ? NF_SINGLE : NF_DOUBLE, &part));
        must(nf_flow_append(flow, part));
        ck_assert_uint_eq(nf_parameter_count(flow), sizeof theta / sizeof theta[0]);
        must(nf_set_parameters(flow, theta));
        must(nf_gradient_create(flow, &gradient));
        must_be(NF_ERR_ROWS, nf_forward_vjp(flow, NULL, ROWS, x, NULL, d, NULL, out, NULL, gradient));
        for (size_t r = 0; r < ROWS; r++)
            ck_assert_msg(isnan(out[r]) == (r == STEEP), "tolerance %g: row %zu has %g", tolerance, r, out[r]);
        nf_gradient_free(gradient);
        nf_flow_free(flow);
    }
}
END_TEST

/* A fit leaves such rows out of its steps, as it does rows that the flow cannot map. */
START_TEST(fits_go_on_without_steep_rows) {
    enum { ROWS = 1100 }; /* more tiles than there are shards */
    random_source random = random_begin(93);
    double far, *x = new_normals(&random, ROWS * 2, 1.0), *weight = new_numbers(ROWS), theta[2][16];
    nf_flow *flow = make_infinite_within(_i % 2, &far);
    for (size_t r = 0; r < ROWS; r++) {
        const bool is_far = r == 7 || r == 700;
        x[2 * r] = is_far ? far : -fabs(x[2 * r]);
        weight[r] = is_far ? 0 : 1;
    }
    for (int left_out = 0; left_out < 2; left_out++) {
        nf_flow *fitted;
        nf_fit_report report = {.struct_size = sizeof report};
        must(nf_flow_clone(flow, &fitted));
        must(nf_fit(fitted, ROWS, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .batch_size = ROWS, .threads = 3, .validation_fraction = -1, .noise = -1,
                                                    .weight = left_out ? weight : NULL, .standardize = -1), &report));
        ck_assert_uint_eq(report.steps, 2);
        ck_assert(isfinite(report.train_loss));
        must(nf_get_parameters(fitted, theta[left_out]));
        nf_flow_free(fitted);
    }
    same_bits("parameters", theta[0], theta[1], 16);
    nf_flow_free(flow);
    free(x);
    free(weight);
}
END_TEST

/* A target that is steep where the flow is wide, so that the product of the two is no number; or has no gradient there, when `user` is not NULL. */
static nf_status steep_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = x[2 * r] > 2e17 ? -3 : -2;
        gradient[2 * r] = x[2 * r] > 4e17 ? (user ? NAN : -1e300) : -1e-18;
        gradient[2 * r + 1] = -x[2 * r + 1];
    }
    return NF_OK;
}

START_TEST(reverse_kl_leaves_steep_rows_out) {
    enum { ROWS = 2100 };
    int none;
    nf_flow *flow, *part;
    random_source random = random_begin(94);
    must(nf_affine_create(2, NF_DOUBLE, &flow));
    must(nf_set_parameters(flow, (double[]){40, 0, 0, 0})); /* exp(40) is 2.4e17 */
    if (_i % 2) {
        must(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = 2, .layers = 1), &part));
        randomize(part, &random, 0.3);
        must(nf_flow_append(part, flow));
        flow = part;
    }
    const size_t count = nf_parameter_count(flow);
    nf_gradient *gradient;
    nf_workspace *ws;
    double *got[2] = {new_numbers(count), new_numbers(count)}, *theta[2] = {new_numbers(count), new_numbers(count)}, loss[2];
    size_t bad[2];
    must(nf_gradient_create(flow, &gradient));
    must(nf_workspace_create(flow, 3, &ws));
    for (int k = 0; k < 2; k++) {
        nf_rng rng = {5, 6, 7};
        nf_stats stats = {.struct_size = sizeof stats};
        nf_reverse_kl_report report = {.struct_size = sizeof report};
        nf_flow *fitted;
        must(nf_gradient_zero(gradient));
        must_be(NF_ERR_ROWS, nf_grad_reverse_kl(flow, ws, &rng, ROWS, NULL, steep_target, k ? &none : NULL, gradient, &loss[k]));
        must_say("nf_grad_reverse_kl", k ? "the target's log density or its gradient is not finite" : "the gradient is beyond the range of the numbers");
        must(nf_gradient_get(gradient, got[k]));
        must(nf_workspace_stats(ws, &stats));
        ck_assert(stats.bad_rows > 0 && stats.bad_rows < ROWS && rng.position == 7 + ROWS);
        bad[k] = stats.bad_rows;
        must(nf_flow_clone(flow, &fitted));
        must(nf_fit_reverse_kl(fitted, steep_target, k ? &none : NULL,
                               NF_CONFIG(nf_reverse_kl_config, .steps = 2, .samples = ROWS, .threads = 2, .evaluation_samples = NF_NONE), &report));
        ck_assert_uint_gt(report.bad_rows, 0);
        must(nf_get_parameters(fitted, theta[k]));
        nf_flow_free(fitted);
    }
    ck_assert_uint_eq(bad[0], bad[1]);
    same_bits("loss", &loss[0], &loss[1], 1);
    same_bits("gradient", got[0], got[1], count);
    same_bits("parameters", theta[0], theta[1], count);
    nf_workspace_free(ws);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    for (int k = 0; k < 2; k++) {
        free(got[k]);
        free(theta[k]);
    }
}
END_TEST

/*
 * Rows of a net of which only the part of the parameters' gradient is no number: by an infinite number within that a weight makes 0, and by a product. The others'
 * gradient is what it would be with cotangents of zero there, wherever the outputs lie.
 */
START_TEST(steep_rows_add_nothing_to_nets) {
    enum { MANY = 300, FIRST = 2, LATER = 200, COUNT = 18 };
    static const struct {
        int y, grad_x; /* 0: by itself, 1: where x is, 2: where grad_y is, -1: not wanted */
    } places[] = {{0, 0}, {-1, 0}, {0, -1}, {1, 0}, {2, 0}, {0, 1}, {0, 2}, {1, 2}, {2, 1}, {-1, 1}};
    const bool is_single = _i;
    const double steep = is_single ? 1e36 : 1e300, huge = is_single ? 1e20 : 1e160;
    const double theta[COUNT] = {steep, 0, 0, 1, 0, 0.1, -1, 1, -1, 0.5, 0.1, 0.1, 0, 0.2, 0, 0.3, 0.1, 0.2};
    random_source random = random_begin(95);
    double *x = new_normals(&random, MANY * 2, 1.0), *d = new_normals(&random, MANY * 2, 1.0), expected[COUNT], got[COUNT];
    double *y[2] = {new_numbers(MANY * 2), new_numbers(MANY * 2)}, *d_x[2] = {new_numbers(MANY * 2), new_numbers(MANY * 2)};
    nf_mlp *mlp;
    nf_gradient *gradient;
    nf_workspace *ws;
    must(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 2, .outputs = 2, .precision = is_single ? NF_SINGLE : NF_DOUBLE, .activation = NF_RELU, .hidden_width = 2), &mlp));
    ck_assert_uint_eq(nf_mlp_parameter_count(mlp), COUNT);
    must(nf_mlp_set_parameters(mlp, theta));
    must(nf_mlp_gradient_create(mlp, &gradient));
    must(nf_mlp_workspace_create(mlp, &ws));
    for (size_t r = 0; r < MANY; r++)
        x[2 * r] = -fabs(x[2 * r]);
    double *clean = new_copy(d, MANY * 2);
    for (size_t k = 0; k < 2; k++)
        clean[2 * FIRST + k] = clean[2 * LATER + k] = 0;
    must(nf_mlp_vjp(mlp, ws, MANY, x, clean, y[0], d_x[0], gradient));
    must(nf_gradient_get(gradient, expected));
    x[2 * FIRST] = is_single ? 1e5 : 1e10;
    x[2 * LATER + 1] = d[2 * LATER] = d[2 * LATER + 1] = huge;
    for (size_t k = 0; k < sizeof places / sizeof places[0]; k++) {
        double *in_x = new_copy(x, MANY * 2), *in_d = new_copy(d, MANY * 2), *const at[] = {NULL, in_x, in_d};
        double *to_y = places[k].y < 0 ? NULL : places[k].y ? at[places[k].y] : y[1], *to_d_x = places[k].grad_x < 0 ? NULL : places[k].grad_x ? at[places[k].grad_x] : d_x[1];
        nf_stats stats = {.struct_size = sizeof stats};
        must(nf_gradient_zero(gradient));
        must_be(NF_ERR_ROWS, nf_mlp_vjp(mlp, k % 2 ? NULL : ws, MANY, in_x, in_d, to_y, to_d_x, gradient));
        must_say("nf_mlp_vjp", "row 2: the gradient is beyond the range of the numbers (2 bad rows in all)");
        if (k % 2 == 0) {
            must(nf_workspace_stats(ws, &stats));
            ck_assert(stats.bad_rows == 2 && stats.first_bad_row == FIRST);
        }
        must(nf_gradient_get(gradient, got));
        same_bits("gradient", got, expected, COUNT);
        for (size_t r = 0; r < MANY; r++)
            for (size_t j = 2 * r; j < 2 * r + 2; j++) {
                const bool bad = r == FIRST || r == LATER;
                ck_assert(!to_y || (bad ? isnan(to_y[j]) : to_y[j] == y[0][j]));
                ck_assert(!to_d_x || (bad ? isnan(to_d_x[j]) : to_d_x[j] == d_x[0][j]));
            }
        free(in_x);
        free(in_d);
    }
    /* Where no parameter's gradient is wanted, none is missed. */
    must(nf_mlp_vjp(mlp, ws, MANY, x, d, y[1], d_x[1], NULL));
    /* A cotangent that is no number spoils no y, and an infinite number within its row no other row. */
    d[2 * FIRST] = NAN;
    d[2 * 7] = NAN;
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_mlp_vjp(mlp, ws, MANY, x, d, y[1], NULL, gradient));
    ck_assert(y[1][2 * 7] == y[0][2 * 7]);
    must(nf_gradient_get(gradient, got));
    for (size_t k = 0; k < COUNT; k++)
        ck_assert(isfinite(got[k]));
    /* No row is good. */
    for (size_t r = 0; r < MANY; r++)
        x[2 * r] = is_single ? 1e5 : 1e10;
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_mlp_vjp(mlp, ws, MANY, x, d, y[1], d_x[1], gradient));
    must_say("nf_mlp_vjp", "(300 bad rows in all)");
    must(nf_gradient_get(gradient, got));
    for (size_t k = 0; k < COUNT; k++)
        ck_assert(got[k] == 0);
    nf_workspace_free(ws);
    nf_gradient_free(gradient);
    nf_mlp_free(mlp);
    double *arrays[] = {x, d, clean, y[0], y[1], d_x[0], d_x[1]};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("steep rows");
    TCase *steep = tcase_create("steep rows");
    tcase_add_loop_test(steep, short_planar_layers_have_gradients_or_bad_rows, 0, 4);
    tcase_add_loop_test(steep, one_steep_row_takes_no_other_along, 0, 4);
    tcase_add_loop_test(steep, trying_rows_is_not_counted, 0, 4);
    tcase_add_loop_test(steep, short_planar_layers_have_losses_or_bad_rows, 0, 4);
    tcase_add_loop_test(steep, rows_with_steep_gradients_add_nothing, 0, 32);
    tcase_add_loop_test(steep, rows_with_infinite_numbers_within_spoil_no_others, 0, 2);
    tcase_add_loop_test(steep, gradients_in_place_are_of_what_was_there, 0, 2);
    tcase_add_loop_test(steep, sums_of_good_rows_may_overflow, 0, 2);
    tcase_add_loop_test(steep, rows_that_share_steps_are_not_steep_alone, 0, 2);
    tcase_add_loop_test(steep, fits_go_on_without_steep_rows, 0, 2);
    tcase_add_loop_test(steep, reverse_kl_leaves_steep_rows_out, 0, 2);
    tcase_add_loop_test(steep, steep_rows_add_nothing_to_nets, 0, 2);
    tcase_set_timeout(steep, 120);
    suite_add_tcase(suite, steep);
    return run_suite(suite);
}
