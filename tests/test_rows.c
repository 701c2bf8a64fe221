/*
 * A row's results are its own: the same bits whatever other rows are in the call, whatever the number of threads, and whatever the caller's floating-point
 * mode. Also the calls that pass fewer or the same arrays.
 */
#include <fenv.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"

static void check_batches(int i, nf_precision precision) {
    enum { ALL = 300 };
    subject s;
    open_relaxed(&s, i, precision, 1);
    batch whole = new_batch(&s, ALL);
    call_all(&s, s.ws, &whole);
    for (size_t rows = 1; rows <= 65; rows++) {
        const size_t first = rows * 37 % (ALL - rows);
        batch part = part_of(&s, &whole, first, rows);
        call_all(&s, rows % 8 == 0 ? NULL : s.ws, &part);
        same_rows(&s, &part, &whole, first);
        free_batch(&part);
    }
    free_batch(&whole);
    close_subject(&s);
}

START_TEST(rows_do_not_depend_on_the_batch) {
    check_batches(_i, NF_DOUBLE);
    check_batches(_i, NF_SINGLE);
}
END_TEST

/* What a workspace keeps of the parameters must not outlive them. */
static void check_changed_parameters(int i, nf_precision precision) {
    enum { ALL = 300 };
    subject s;
    open_relaxed(&s, i, precision, 1);
    batch old = new_batch(&s, ALL), new = part_of(&s, &old, 0, ALL), fresh = part_of(&s, &old, 0, ALL);
    call_all(&s, s.ws, &old);
    randomize(s.flow, &s.random, s.f->sd);
    for (size_t rows = 1; rows <= ALL; rows += ALL - 1) { /* few rows, and tiles */
        new.rows = fresh.rows = rows;
        call_all(&s, s.ws, &new);
        call_all(&s, NULL, &fresh);
        same_rows(&s, &new, &fresh, 0);
    }
    free_batch(&old);
    free_batch(&new);
    free_batch(&fresh);
    close_subject(&s);
}

START_TEST(changed_parameters_are_seen) {
    check_changed_parameters(_i, NF_DOUBLE);
    check_changed_parameters(_i, NF_SINGLE);
}
END_TEST

/* ---- threads, and the mode of the floating-point unit ---- */

/* Everything that is a sum over rows, and samples. */
typedef struct sums {
    double *nll, *kl, *vjps, *x, *log_prob, losses[2];
} sums;

static sums new_sums(subject *s, nf_workspace *ws, const batch *r) {
    sums t = {new_numbers(s->count), new_numbers(s->count), new_numbers(s->count), new_numbers(r->rows * s->dim), new_numbers(r->rows), {NAN, NAN}};
    nf_rng rng = {11, 12, 13}, other = rng;
    must(nf_gradient_zero(s->gradient));
    must(nf_grad_nll(s->flow, ws, r->rows, r->in, r->context, NULL, s->gradient, &t.losses[0]));
    must(nf_gradient_get(s->gradient, t.nll));
    must(nf_gradient_zero(s->gradient));
    must(nf_grad_reverse_kl(s->flow, ws, &rng, r->rows, r->context, exact_target, &s->dim, s->gradient, &t.losses[1]));
    must(nf_gradient_get(s->gradient, t.kl));
    must(nf_gradient_zero(s->gradient));
    must(nf_forward_vjp(s->flow, ws, r->rows, r->in, r->context, r->a, r->b, NULL, NULL, s->gradient));
    must(nf_inverse_vjp(s->flow, ws, r->rows, r->in, r->context, r->a, r->b, NULL, NULL, s->gradient));
    must(nf_gradient_get(s->gradient, t.vjps));
    must(nf_sample(s->flow, ws, &other, r->rows, r->context, t.x, t.log_prob));
    return t;
}

static void free_sums(sums *t) {
    free(t->nll);
    free(t->kl);
    free(t->vjps);
    free(t->x);
    free(t->log_prob);
}

static void same_sums(const subject *s, const sums *a, const sums *b, size_t rows) {
    same_bits("gradient of the nll", a->nll, b->nll, s->count);
    same_bits("gradient of the reverse KL", a->kl, b->kl, s->count);
    same_bits("gradient of the vjps", a->vjps, b->vjps, s->count);
    same_bits("samples", a->x, b->x, rows * s->dim);
    same_bits("log_prob of samples", a->log_prob, b->log_prob, rows);
    same_bits("losses", a->losses, b->losses, 2);
}

static void check_threads(int i, nf_precision precision) {
    const size_t threads[] = {2, 3, 8};
    subject s;
    open_relaxed(&s, i, precision, 1);
    batch one = new_batch(&s, is_brief() ? 1385 / 3 : 1385);
    call_all(&s, s.ws, &one);
    sums alone = new_sums(&s, s.ws, &one);
    for (size_t k = is_brief() ? 2 : 0; k < sizeof threads / sizeof threads[0]; k++) {
        nf_workspace *ws;
        must(nf_workspace_create(s.flow, threads[k], &ws));
        batch many = part_of(&s, &one, 0, one.rows);
        call_all(&s, ws, &many);
        same_rows(&s, &many, &one, 0);
        sums together = new_sums(&s, ws, &one);
        same_sums(&s, &together, &alone, one.rows);
        free_sums(&together);
        free_batch(&many);
        nf_workspace_free(ws);
    }
    free_sums(&alone);
    free_batch(&one);
    close_subject(&s);
}

START_TEST(results_do_not_depend_on_the_threads) {
    check_threads(_i, NF_DOUBLE);
    check_threads(_i, NF_SINGLE);
}
END_TEST

START_TEST(results_do_not_depend_on_the_floating_point_mode) {
    subject s;
    open_relaxed(&s, _i, NF_DOUBLE, 2);
    batch usual = new_batch(&s, 285), odd = part_of(&s, &usual, 0, 285);
    call_all(&s, s.ws, &usual);
    sums nearest = new_sums(&s, s.ws, &usual);
    ck_assert_int_eq(fesetround(FE_UPWARD), 0);
    nf_workspace *ws; /* whose threads start in this mode */
    must(nf_workspace_create(s.flow, 2, &ws));
    feclearexcept(FE_ALL_EXCEPT);
    feraiseexcept(FE_DIVBYZERO);
    call_all(&s, s.ws, &odd);
    const int rounding = fegetround(), flags = fetestexcept(FE_ALL_EXCEPT);
    ck_assert_int_eq(rounding, FE_UPWARD);
    ck_assert_msg(flags == FE_DIVBYZERO, "flags %x became %x", FE_DIVBYZERO, flags);
    sums upward = new_sums(&s, s.ws, &usual);
    ck_assert_int_eq(fesetround(FE_TONEAREST), 0);
    same_rows(&s, &odd, &usual, 0);
    same_sums(&s, &upward, &nearest, usual.rows);
    call_all(&s, ws, &odd);
    sums later = new_sums(&s, ws, &usual);
    same_rows(&s, &odd, &usual, 0);
    same_sums(&s, &later, &nearest, usual.rows);
    free_sums(&later);
    nf_workspace_free(ws);
    free_sums(&nearest);
    free_sums(&upward);
    free_batch(&usual);
    free_batch(&odd);
    close_subject(&s);
}
END_TEST

/* ---- arrays that are the same, or not there, or empty ---- */

START_TEST(results_may_go_into_the_input) {
    subject s;
    open_relaxed(&s, _i, NF_DOUBLE, 1);
    const size_t rows = 141, numbers = rows * s.dim;
    batch r = new_batch(&s, rows);
    call_all(&s, s.ws, &r);
    double *x = new_copy(r.in, numbers), *d = new_copy(r.a, numbers);
    must(nf_forward(s.flow, s.ws, rows, x, r.context, x, NULL));
    same_bits("forward in place", x, r.out[0], numbers);
    memcpy(x, r.in, numbers * sizeof *x);
    must(nf_inverse(s.flow, s.ws, rows, x, r.context, x, NULL));
    same_bits("inverse in place", x, r.out[1], numbers);
    memcpy(x, r.in, numbers * sizeof *x);
    must(nf_score(s.flow, s.ws, rows, x, r.context, NULL, x));
    same_bits("score in place", x, r.out[2], numbers);
    must(nf_forward_vjp(s.flow, s.ws, rows, r.in, r.context, d, r.b, d, NULL, NULL));
    same_bits("forward vjp in place", d, r.out[3], numbers);
    memcpy(x, r.in, numbers * sizeof *x);
    must(nf_inverse_vjp(s.flow, s.ws, rows, x, r.context, r.a, r.b, x, NULL, NULL));
    same_bits("inverse vjp into its input", x, r.out[4], numbers);
    free(x);
    free(d);
    free_batch(&r);
    close_subject(&s);
}
END_TEST

/* Of a net: each output into each input of its shape. */
START_TEST(results_of_a_net_may_go_into_its_input) {
    enum { ROWS = 300, SIDE = 3, NUMBERS = ROWS * SIDE };
    random_source random = random_begin(11);
    nf_mlp *net;
    must(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = SIDE, .outputs = SIDE, .hidden_width = 5, .seed = 4), &net));
    double x[NUMBERS], d[NUMBERS], y[NUMBERS], d_x[NUMBERS], a[NUMBERS], b[NUMBERS];
    for (size_t i = 0; i < NUMBERS; i++) {
        x[i] = random_normal(&random);
        d[i] = random_normal(&random);
    }
    must(nf_mlp_vjp(net, NULL, ROWS, x, d, y, d_x, NULL));
    memcpy(a, x, sizeof a);
    must(nf_mlp_forward(net, NULL, ROWS, a, a));
    same_bits("y in place", a, y, NUMBERS);
    for (int to_cotangent = 0; to_cotangent < 2; to_cotangent++) {
        const double *from = to_cotangent ? d : x;
        memcpy(a, from, sizeof a);
        must(nf_mlp_vjp(net, NULL, ROWS, to_cotangent ? x : a, to_cotangent ? a : d, a, b, NULL));
        same_bits("y of a vjp", a, y, NUMBERS);
        same_bits("grad_x beside it", b, d_x, NUMBERS);
        memcpy(a, from, sizeof a);
        must(nf_mlp_vjp(net, NULL, ROWS, to_cotangent ? x : a, to_cotangent ? a : d, b, a, NULL));
        same_bits("grad_x", a, d_x, NUMBERS);
        same_bits("y beside it", b, y, NUMBERS);
    }
    /* A cotangent that is not a number spoils what is its own. */
    memcpy(a, d, sizeof a);
    a[7 * SIDE + 1] = NAN;
    must_be(NF_ERR_ROWS, nf_mlp_vjp(net, NULL, ROWS, x, a, a, b, NULL));
    same_bits("y beside a bad cotangent", a, y, NUMBERS);
    ck_assert(isnan(b[7 * SIDE]));
    nf_mlp_free(net);
}
END_TEST

START_TEST(results_may_be_left_out) {
    subject s;
    open_relaxed(&s, _i, NF_DOUBLE, 1);
    const size_t rows = 33, numbers = rows * s.dim;
    batch r = new_batch(&s, rows);
    call_all(&s, s.ws, &r);
    double *out = new_numbers(numbers), *scalar = new_numbers(rows), loss;
    must(nf_forward(s.flow, s.ws, rows, r.in, r.context, NULL, NULL));
    must(nf_forward(s.flow, s.ws, rows, r.in, r.context, NULL, scalar));
    same_bits("log_det alone", scalar, r.scalar[0], rows);
    must(nf_inverse(s.flow, s.ws, rows, r.in, r.context, out, NULL));
    same_bits("z alone", out, r.out[1], numbers);
    must(nf_log_prob(s.flow, s.ws, rows, r.in, r.context, NULL));
    must(nf_score(s.flow, s.ws, rows, r.in, r.context, NULL, NULL));
    must(nf_score(s.flow, s.ws, rows, r.in, r.context, NULL, out));
    same_bits("score alone", out, r.out[2], numbers);
    must(nf_forward_vjp(s.flow, s.ws, rows, r.in, r.context, NULL, NULL, NULL, NULL, NULL));
    must(nf_inverse_vjp(s.flow, s.ws, rows, r.in, r.context, NULL, NULL, out, NULL, NULL));
    for (size_t i = 0; i < numbers; i++)
        ck_assert_msg(out[i] == 0.0, "without cotangents a derivative is %g", out[i]);
    must(nf_grad_nll(s.flow, s.ws, rows, r.in, r.context, NULL, s.gradient, NULL));
    must(nf_grad_nll(s.flow, NULL, rows, r.in, r.context, NULL, s.gradient, &loss));

    nf_rng rng = {1, 2, 3}, again = rng;
    must(nf_sample(s.flow, s.ws, &rng, rows, r.context, NULL, scalar));
    must(nf_sample(s.flow, s.ws, &again, rows, r.context, out, NULL));
    ck_assert(rng.position == 3 + rows && again.position == 3 + rows);

    /* No rows: nothing is done, and the pointers are not looked at. */
    must(nf_forward(s.flow, s.ws, 0, NULL, NULL, NULL, NULL));
    must(nf_inverse(s.flow, NULL, 0, NULL, NULL, NULL, NULL));
    must(nf_log_prob(s.flow, s.ws, 0, NULL, NULL, NULL));
    must(nf_score(s.flow, s.ws, 0, NULL, NULL, NULL, NULL));
    must(nf_sample(s.flow, s.ws, &rng, 0, NULL, NULL, NULL));
    ck_assert_uint_eq(rng.position, 3 + rows);
    must_be(NF_ERR_ARGUMENT, nf_grad_nll(s.flow, s.ws, 0, r.in, r.context, NULL, s.gradient, &loss));
    must_say("nf_grad_nll", "rows is 0");
    free(out);
    free(scalar);
    free_batch(&r);
    close_subject(&s);
}
END_TEST

/* One row may take a shorter way to exp(S) than a tile, for an S that is not far from 0. */
START_TEST(no_scale_tells_one_row_from_many) {
    enum { ROWS = 20, HIDDEN = 8 };
    const double scales[] = {0, 1, 50, 59, 61, 80, 87, 89, 104, 120, 149}, clamp = 150;
    random_source random = {7};
    double *x = new_normals(&random, 2 * ROWS, 1), many[2 * ROWS], one[2], log_dets[ROWS], log_det;
    for (int n = 0; n < 4 * (int)(sizeof scales / sizeof scales[0]); n++) {
        const double scale = scales[n / 4] * (n % 2 ? 1 : -1);
        nf_flow *flow;
        must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 1, .hidden_layers = 1, .hidden_width = HIDDEN, .actnorm = -1, .scale_clamp = clamp,
                                         .precision = n / 2 % 2 ? NF_DOUBLE : NF_SINGLE),
                               &flow));
        double parameters[4 * HIDDEN + 2] = {0};
        ck_assert_uint_eq(nf_parameter_count(flow), 4 * HIDDEN + 2);
        parameters[4 * HIDDEN] = clamp * atanh(scale / clamp);
        must(nf_set_parameters(flow, parameters));
        const nf_status status = nf_forward(flow, NULL, ROWS, x, NULL, many, log_dets);
        for (size_t i = 0; i < ROWS; i++) {
            ck_assert_int_eq(nf_forward(flow, NULL, 1, x + 2 * i, NULL, one, &log_det), status);
            same_bits("a row alone", one, many + 2 * i, 2);
            same_bits("its log_det", &log_det, log_dets + i, 1);
            if (status == NF_OK)
                ck_assert_msg(fabs(log_det - scale) < 1e-4 * (1 + fabs(scale)), "log_det %g for a scale of %g", log_det, scale);
        }
        nf_flow_free(flow);
    }
    free(x);
}
END_TEST

int main(void) {
    const int subjects = 2 * (int)fixture_count;
    Suite *suite = suite_create("rows, batches and threads");
    TCase *independence = tcase_create("independence"), *arrays = tcase_create("arrays");
    tcase_add_loop_test(independence, rows_do_not_depend_on_the_batch, 0, subjects);
    tcase_add_test(independence, no_scale_tells_one_row_from_many);
    tcase_add_loop_test(independence, changed_parameters_are_seen, 0, subjects);
    tcase_add_loop_test(independence, results_do_not_depend_on_the_threads, 0, subjects);
    tcase_add_loop_test(independence, results_do_not_depend_on_the_floating_point_mode, 0, subjects);
    tcase_add_loop_test(arrays, results_may_go_into_the_input, 0, subjects);
    tcase_add_test(arrays, results_of_a_net_may_go_into_its_input);
    tcase_add_loop_test(arrays, results_may_be_left_out, 0, subjects);
    tcase_set_timeout(independence, 120);
    tcase_set_timeout(arrays, 120);
    suite_add_tcase(suite, independence);
    suite_add_tcase(suite, arrays);
    return run_suite(suite);
}
