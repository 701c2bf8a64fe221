/*
 * A row's results are its own: the same bits whatever other rows are in the call, whatever the number of threads, whatever the caller's floating-point mode,
 * and whatever is wrong with other rows. Also the calls that pass fewer or the same arrays.
 */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

enum { MOST_CALLS = 5 };

/* Rows of input, and every per-row result. */
typedef struct batch {
    size_t rows;
    double *in, *context, *a, *b; /* a, b: cotangents */
    double *out[MOST_CALLS], *scalar[MOST_CALLS], *d_context[MOST_CALLS];
} batch;

static batch new_batch(subject *s, size_t rows) {
    batch r = {.rows = rows};
    r.in = new_normals(&s->random, rows * s->dim, 1.385);
    r.context = new_context(s, rows);
    r.a = new_normals(&s->random, rows * s->dim, 1.0);
    r.b = new_normals(&s->random, rows, 1.0);
    for (int i = 0; i < MOST_CALLS; i++) {
        r.out[i] = new_numbers(rows * s->dim);
        r.scalar[i] = new_numbers(rows);
        r.d_context[i] = new_numbers(rows * s->context_dim);
    }
    return r;
}

/* Rows first .. first + rows - 1 of a batch: the inputs are shared, the results its own. */
static batch part_of(const subject *s, const batch *whole, size_t first, size_t rows) {
    batch r = {.rows = rows};
    r.in = new_copy(whole->in + first * s->dim, rows * s->dim);
    r.context = whole->context ? new_copy(whole->context + first * s->context_dim, rows * s->context_dim) : NULL;
    r.a = new_copy(whole->a + first * s->dim, rows * s->dim);
    r.b = new_copy(whole->b + first, rows);
    for (int i = 0; i < MOST_CALLS; i++) {
        r.out[i] = new_numbers(rows * s->dim);
        r.scalar[i] = new_numbers(rows);
        r.d_context[i] = new_numbers(rows * s->context_dim);
    }
    return r;
}

static void free_batch(batch *r) {
    double *inputs[] = {r->in, r->context, r->a, r->b};
    for (size_t i = 0; i < 4; i++)
        free(inputs[i]);
    for (int i = 0; i < MOST_CALLS; i++) {
        free(r->out[i]);
        free(r->scalar[i]);
        free(r->d_context[i]);
    }
}

static const char *const call_names[MOST_CALLS] = {"forward", "inverse", "score", "forward_vjp", "inverse_vjp"};

/* One of the calls that give results per row. */
static nf_status call(const subject *s, nf_workspace *ws, int which, batch *r) {
    switch (which) {
    case 0:
        return nf_forward(s->flow, ws, r->rows, r->in, r->context, r->out[0], r->scalar[0]);
    case 1:
        return nf_inverse(s->flow, ws, r->rows, r->in, r->context, r->out[1], r->scalar[1]);
    case 2:
        return nf_score(s->flow, ws, r->rows, r->in, r->context, r->scalar[2], r->out[2]);
    case 3:
        return nf_forward_vjp(s->flow, ws, r->rows, r->in, r->context, r->a, r->b, r->out[3], r->d_context[3], NULL);
    default:
        return nf_inverse_vjp(s->flow, ws, r->rows, r->in, r->context, r->a, r->b, r->out[4], r->d_context[4], NULL);
    }
}

static void call_all(const subject *s, nf_workspace *ws, batch *r) {
    for (int i = 0; i < MOST_CALLS; i++)
        must(call(s, ws, i, r));
}

/* The rows of `part` are those of `whole` from `first` on. */
static void same_rows(const subject *s, const batch *part, const batch *whole, size_t first) {
    for (int i = 0; i < MOST_CALLS; i++) {
        const bool out = equal_bits(part->out[i], whole->out[i] + first * s->dim, part->rows * s->dim);
        const bool scalar = equal_bits(part->scalar[i], whole->scalar[i] + first, part->rows);
        const bool context = equal_bits(part->d_context[i], whole->d_context[i] + first * s->context_dim, part->rows * s->context_dim);
        ck_assert_msg(out && scalar && context, "%s: %s of %zu rows from %zu differs from that of %zu (seed %llu)", s->f->name, call_names[i], part->rows, first,
                      whole->rows, (unsigned long long)test_seed());
    }
}

/* What these tests compare does not hang on the accuracy of an ODE solver, and loose tolerances take less time. */
static void open_relaxed(subject *s, int i, nf_precision precision, size_t threads) {
    open_subject(s, i, precision, threads);
    if (strcmp(s->f->kind, "cnf") == 0)
        must(nf_cnf_set_solver(s->flow, NF_DOPRI5, 1e-4, 1e-4, 0, 0));
}

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

/* log p = -|x_0|: its arithmetic is exact, so that it is the same in every rounding mode, which the user's functions run in. */
static nf_status exact_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    const size_t dim = *(const size_t *)user;
    memset(gradient, 0, rows * dim * sizeof *gradient);
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = -fabs(x[r * dim]);
        gradient[r * dim] = x[r * dim] > 0 ? -1.0 : 1.0;
    }
    return NF_OK;
}

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

/* ---- bad rows ---- */

static bool all_nan(const double *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isnan(values[i]))
            return false;
    return true;
}

/* Results of the rows of `spoilt` that are good are those of `clean`; those of `bad` rows are NaN. */
static void check_spoilt(const subject *s, const batch *spoilt, const batch *clean, const bool *bad, int which) {
    for (size_t r = 0; r < clean->rows; r++) {
        const double *out = spoilt->out[which] + r * s->dim, *scalar = spoilt->scalar[which] + r, *d = spoilt->d_context[which] + r * s->context_dim;
        const bool has_scalar = which < 3, has_context = which >= 3;
        if (bad[r]) {
            ck_assert_msg(all_nan(out, s->dim) && (!has_scalar || all_nan(scalar, 1)) && (!has_context || all_nan(d, s->context_dim)),
                          "%s: %s: row %zu is bad and got numbers", s->f->name, call_names[which], r);
            continue;
        }
        ck_assert_msg(equal_bits(out, clean->out[which] + r * s->dim, s->dim) && equal_bits(scalar, clean->scalar[which] + r, 1) &&
                          equal_bits(d, clean->d_context[which] + r * s->context_dim, s->context_dim),
                      "%s: %s: row %zu changed because another one is bad (seed %llu)", s->f->name, call_names[which], r, (unsigned long long)test_seed());
    }
}

/* Rows 1, 17 .. 20, 64 and the last are bad, each in its own way. */
static size_t spoil(const subject *s, batch *r, bool *bad) {
    const size_t rows[] = {1, 17, 18, 19, 20, 64, r->rows - 1};
    const double values[] = {NAN, INFINITY, -INFINITY, NAN};
    for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
        bad[rows[k]] = true;
        if (r->context && k % 2 == 1)
            r->context[rows[k] * s->context_dim + k % s->context_dim] = values[k % 4];
        else
            r->in[rows[k] * s->dim + k % s->dim] = values[k % 4];
    }
    return sizeof rows / sizeof rows[0];
}

static void check_message(const subject *s, int which, size_t count) {
    static const char *const functions[MOST_CALLS] = {"nf_forward", "nf_inverse", "nf_score", "nf_forward_vjp", "nf_inverse_vjp"};
    char where[64];
    snprintf(where, sizeof where, "%c[1][0] is nan", which == 0 || which == 3 ? 'z' : 'x');
    must_say(functions[which], where);
    snprintf(where, sizeof where, "%zu bad rows", count);
    must_say(functions[which], where);
    nf_stats stats = {.struct_size = sizeof stats};
    must(nf_workspace_stats(s->ws, &stats));
    ck_assert_uint_eq(stats.bad_rows, count);
    ck_assert_uint_eq(stats.first_bad_row, 1);
}

static void check_bad_rows(int i, nf_precision precision) {
    enum { SOME = 151 };
    subject s;
    open_relaxed(&s, i, precision, 2);
    batch clean = new_batch(&s, SOME), spoilt = part_of(&s, &clean, 0, SOME);
    bool bad[SOME] = {false};
    call_all(&s, s.ws, &clean);
    const size_t count = spoil(&s, &spoilt, bad);
    for (int which = 0; which < MOST_CALLS; which++) {
        must_be(NF_ERR_ROWS, call(&s, s.ws, which, &spoilt));
        check_message(&s, which, count);
        check_spoilt(&s, &spoilt, &clean, bad, which);
    }
    free_batch(&clean);
    free_batch(&spoilt);
    close_subject(&s);
}

START_TEST(bad_rows_do_not_poison_good_ones) {
    check_bad_rows(_i, NF_DOUBLE);
    check_bad_rows(_i, NF_SINGLE);
}
END_TEST

/* The loss and the gradient with bad rows are those of the good rows alone; the reverse KL's are those of a target that is bad somewhere. */
START_TEST(bad_rows_add_nothing_to_gradients) {
    enum { SOME = 151 };
    subject s;
    open_relaxed(&s, _i, NF_DOUBLE, 1);
    batch spoilt = new_batch(&s, SOME);
    bool bad[SOME] = {false};
    spoil(&s, &spoilt, bad);
    batch good = part_of(&s, &spoilt, 0, SOME);
    double *weight = new_numbers(SOME), *expected = new_numbers(s.count), *got = new_numbers(s.count), losses[2];
    size_t kept = 0;
    for (size_t r = 0; r < SOME; r++) {
        if (bad[r])
            continue;
        memcpy(good.in + kept * s.dim, spoilt.in + r * s.dim, s.dim * sizeof(double));
        if (good.context)
            memcpy(good.context + kept * s.context_dim, spoilt.context + r * s.context_dim, s.context_dim * sizeof(double));
        weight[kept++] = 1.0 + 0.385 * (double)(r % 5);
    }
    must(nf_gradient_zero(s.gradient));
    must(nf_grad_nll(s.flow, s.ws, kept, good.in, good.context, weight, s.gradient, &losses[0]));
    must(nf_gradient_get(s.gradient, expected));
    for (size_t r = 0; r < SOME; r++)
        weight[r] = 1.0 + 0.385 * (double)(r % 5);
    must(nf_gradient_zero(s.gradient));
    must_be(NF_ERR_ROWS, nf_grad_nll(s.flow, s.ws, SOME, spoilt.in, spoilt.context, weight, s.gradient, &losses[1]));
    must(nf_gradient_get(s.gradient, got));
    must_agree(s.f->name, whole_error(got, expected, s.count), 1e-12);
    must_agree(s.f->name, whole_error(&losses[1], &losses[0], 1), 1e-13);

    /* Rows that are all bad: the loss is NaN and the gradient stays. */
    for (size_t r = 0; r < SOME; r++)
        spoilt.in[r * s.dim] = NAN;
    must_be(NF_ERR_ROWS, nf_grad_nll(s.flow, s.ws, SOME, spoilt.in, spoilt.context, NULL, s.gradient, &losses[1]));
    ck_assert(isnan(losses[1]));
    must(nf_gradient_get(s.gradient, expected));
    same_bits("gradient without good rows", expected, got, s.count);
    free(weight);
    free(expected);
    free(got);
    free_batch(&spoilt);
    free_batch(&good);
    close_subject(&s);
}
END_TEST

/* A mean has no more to do with a factor of its weights than their ratios, at whatever end of the numbers they are. */
static void check_weight_factors(int i, nf_precision precision) {
    enum { SOME = 151 };
    const int factors[] = {0, 15, -60, 60, -200, 200, -1021, 1021, -1070};
    subject s;
    open_relaxed(&s, i, precision, 1);
    batch r = new_batch(&s, SOME);
    double *expected = new_numbers(s.count), *got = new_numbers(s.count), weight[SOME], losses[2];
    for (size_t k = 0; k < sizeof factors / sizeof factors[0]; k++) {
        for (size_t row = 0; row < SOME; row++)
            weight[row] = ldexp((double)(1 + row % 5), factors[k]);
        must(nf_gradient_zero(s.gradient));
        must(nf_grad_nll(s.flow, s.ws, SOME, r.in, r.context, weight, s.gradient, &losses[k > 0]));
        must(nf_gradient_get(s.gradient, k > 0 ? got : expected));
        if (k == 0)
            continue;
        same_bits(s.f->name, losses, losses + 1, 1);
        same_bits(s.f->name, expected, got, s.count);
    }
    free(expected);
    free(got);
    free_batch(&r);
    close_subject(&s);
}

START_TEST(a_factor_of_all_weights_is_nothing) {
    check_weight_factors(_i, NF_DOUBLE);
    check_weight_factors(_i, NF_SINGLE);
}
END_TEST

/* What the good rows weigh may be nothing beside a bad one: their mean is that of them alone. */
START_TEST(good_rows_may_weigh_nothing_beside_bad_ones) {
    enum { ROWS = 3, DIM = 2 };
    const nf_precision precision = _i ? NF_SINGLE : NF_DOUBLE;
    const double little = precision == NF_SINGLE ? 0x1p-140 : 0x1p-1040;
    const double x[ROWS * DIM] = {NAN, 0, 0.3, -2.385, 1.1, 0.4}, weight[ROWS] = {1, little, 2 * little}, ratio[ROWS] = {0, 1, 2};
    nf_flow *flow = make_realnvp(DIM, 0, precision, NULL);
    const size_t count = nf_parameter_count(flow);
    double *expected = new_numbers(count), *got = new_numbers(count), losses[2];
    nf_gradient *gradient;
    must(nf_gradient_create(flow, &gradient));
    must(nf_grad_nll(flow, NULL, ROWS - 1, x + DIM, NULL, ratio + 1, gradient, &losses[0]));
    must(nf_gradient_get(gradient, expected));
    must(nf_gradient_zero(gradient));
    must_be(NF_ERR_ROWS, nf_grad_nll(flow, NULL, ROWS, x, NULL, weight, gradient, &losses[1]));
    must(nf_gradient_get(gradient, got));
    same_bits("loss", &losses[1], &losses[0], 1);
    same_bits("gradient", got, expected, count);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    free(expected);
    free(got);
}
END_TEST

/* A tile of bad rows alone is mapped as the origin, which this flow cannot take: nothing of it may reach the sums. */
static void check_bad_tile(nf_precision precision, size_t first_bad) {
    enum { ALL = 129 };
    const double theta[2] = {precision == NF_SINGLE ? -80 : -700, 1e10};
    const size_t bad_rows = first_bad ? 1 : 128, first_good = first_bad ? 0 : 128, good = ALL - bad_rows;
    nf_flow *flow;
    nf_gradient *gradient;
    double x[ALL], ones[ALL], d[2][ALL], got[2], expected[2], losses[2];
    must(nf_affine_create(1, precision, &flow));
    must(nf_set_parameters(flow, theta));
    must(nf_gradient_create(flow, &gradient));
    for (size_t r = 0; r < ALL; r++) {
        x[r] = r >= first_bad && r < first_bad + bad_rows ? NAN : 1e10;
        ones[r] = 1.0;
    }
    for (int vjp = 0; vjp < 2; vjp++) {
        for (int all = 0; all < 2; all++) {
            const size_t start = all ? 0 : first_good, rows = all ? ALL : good;
            const nf_status wanted = all ? NF_ERR_ROWS : NF_OK;
            must(nf_gradient_zero(gradient));
            if (vjp)
                must_be(wanted, nf_inverse_vjp(flow, NULL, rows, x + start, NULL, ones, ones, d[all] + start, NULL, gradient));
            else
                must_be(wanted, nf_grad_nll(flow, NULL, rows, x + start, NULL, NULL, gradient, &losses[all]));
            must(nf_gradient_get(gradient, all ? got : expected));
        }
        ck_assert_msg(isfinite(got[0]) && isfinite(got[1]), "gradient %g, %g", got[0], got[1]);
        same_bits("gradient", got, expected, 2);
    }
    same_bits("loss", &losses[1], &losses[0], 1);
    same_bits("cotangents", d[1] + first_good, d[0] + first_good, good);
    for (size_t r = first_bad; r < first_bad + bad_rows; r++)
        ck_assert(isnan(d[1][r]));
    nf_gradient_free(gradient);
    nf_flow_free(flow);
}

START_TEST(tiles_of_bad_rows_add_nothing) {
    for (int precision = 0; precision < 2; precision++) {
        check_bad_tile((nf_precision)precision, 0);
        check_bad_tile((nf_precision)precision, 128);
    }
}
END_TEST

/* Rows that overflow within the net, rows and cotangents that are no numbers, and a tile without a good row add nothing to a net's gradient. */
static void check_net(nf_precision precision, nf_activation activation) {
    enum { IN = 3, OUT = 2, ALL = 300 };
    const double big = precision == NF_SINGLE ? 3e38 : 1.7e308;
    nf_mlp *mlp;
    nf_gradient *gradient;
    random_source random = random_begin(81);
    must(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = IN, .outputs = OUT, .precision = precision, .activation = activation, .seed = 1), &mlp));
    must(nf_mlp_gradient_create(mlp, &gradient));
    const size_t count = nf_mlp_parameter_count(mlp);
    double *theta = new_normals(&random, count, 1.0), *x = new_normals(&random, ALL * IN, 1.0), *d = new_normals(&random, ALL * OUT, 1.0), *y = new_numbers(ALL * OUT),
           *d_x = new_numbers(ALL * IN), *alone = new_numbers(IN), *expected = new_numbers(count), *got = new_numbers(count);
    must(nf_mlp_set_parameters(mlp, theta));
    for (size_t r = 0; r < ALL; r++) /* a single row is good in the first tile and in the last, and none in the second */
        if (r == 5 || r == 299)
            must(nf_mlp_vjp(mlp, NULL, 1, x + r * IN, d + r * OUT, NULL, NULL, gradient));
        else if (r % 3 == 0)
            x[r * IN] = x[r * IN + 1] = r % 2 ? big : -big;
        else if (r % 3 == 1)
            x[r * IN + 2] = NAN;
        else
            d[r * OUT + 1] = INFINITY;
    must(nf_gradient_get(gradient, expected));
    must(nf_gradient_zero(gradient));
    const nf_status status = nf_mlp_vjp(mlp, NULL, ALL, x, d, y, d_x, gradient);
    must_be(NF_ERR_ROWS, status);
    must(nf_gradient_get(gradient, got));
    for (size_t r = 0; r < ALL; r++)
        ck_assert_msg(isfinite(d_x[r * IN]) == (r == 5 || r == 299), "row %zu has %g", r, d_x[r * IN]);
    must(nf_mlp_vjp(mlp, NULL, 1, x + 5 * IN, d + 5 * OUT, NULL, alone, NULL));
    same_bits("cotangents", d_x + 5 * IN, alone, IN);
    must_agree("gradient of a net", whole_error(got, expected, count), precision == NF_SINGLE ? 1e-6 : 1e-14);
    double *arrays[] = {theta, x, d, y, d_x, alone, expected, got};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    nf_gradient_free(gradient);
    nf_mlp_free(mlp);
}

START_TEST(bad_rows_add_nothing_to_nets) {
    for (int precision = 0; precision < 2; precision++) {
        check_net((nf_precision)precision, NF_GELU);
        check_net((nf_precision)precision, NF_SOFTPLUS);
    }
}
END_TEST

/* A target that spoils every row whose number divided by 7 leaves 3, in one of three ways; it counts the rows that it is shown. */
typedef struct moody_target {
    size_t dim, shown;
} moody_target;

static bool is_moody(size_t row) { return row % 7 == 3; }

static nf_status moody(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    moody_target *t = user;
    exact_target(&t->dim, rows, x, log_density, gradient);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < t->dim; i++)
            ck_assert_msg(isfinite(x[r * t->dim + i]), "the target is shown %g", x[r * t->dim + i]);
        const size_t row = t->shown + r;
        if (is_moody(row) && row % 2)
            log_density[r] = row % 3 ? NAN : -INFINITY;
        else if (is_moody(row))
            gradient[r * t->dim + row % t->dim] = INFINITY;
    }
    t->shown += rows;
    return NF_OK;
}

/* The reverse KL is a mean over the rows that the target left good, and its gradient the vjp of the forward map at those. */
START_TEST(rows_that_the_target_spoils_add_nothing) {
    enum { SOME = 300 };
    subject s;
    open_relaxed(&s, _i, NF_DOUBLE, 2);
    nf_flow *base;
    nf_rng rng = {31, 32, 33}, same = rng;
    must(nf_flow_set_base_normal(s.flow, NULL, NULL));
    must(nf_flow_create(s.dim, 0, NF_DOUBLE, &base));
    double *z = new_numbers(SOME * s.dim), *x = new_numbers(SOME * s.dim), *a = new_numbers(SOME * s.dim), *b = new_numbers(SOME), *context = new_context(&s, SOME);
    double *log_q = new_numbers(SOME), *log_p = new_numbers(SOME), *expected = new_numbers(s.count), *got = new_numbers(s.count), loss, mean = 0;
    must(nf_sample(base, NULL, &same, SOME, NULL, z, log_q));
    must(nf_forward(s.flow, s.ws, SOME, z, context, x, b));
    exact_target(&s.dim, SOME, x, log_p, a);
    size_t good = 0;
    for (size_t r = 0; r < SOME; r++)
        good += !is_moody(r);
    for (size_t r = 0; r < SOME; r++) {
        mean += is_moody(r) ? 0.0 : (log_q[r] - b[r] - log_p[r]) / (double)good;
        b[r] = is_moody(r) ? 0.0 : -1.0 / (double)good;
        for (size_t i = 0; i < s.dim; i++)
            a[r * s.dim + i] *= b[r];
    }
    must(nf_forward_vjp(s.flow, s.ws, SOME, z, context, a, b, NULL, NULL, s.gradient));
    must(nf_gradient_get(s.gradient, expected));
    must(nf_gradient_zero(s.gradient));
    moody_target t = {s.dim, 0};
    must_be(NF_ERR_ROWS, nf_grad_reverse_kl(s.flow, s.ws, &rng, SOME, context, moody, &t, s.gradient, &loss));
    must_say("nf_grad_reverse_kl", "row 3: the target");
    ck_assert_uint_eq(t.shown, SOME);
    ck_assert_uint_eq(rng.position, 33 + SOME);
    must(nf_gradient_get(s.gradient, got));
    must_agree(s.f->name, whole_error(&loss, &mean, 1), 1e-13);
    must_agree(s.f->name, whole_error(got, expected, s.count), 1e-12);
    double *arrays[] = {z, x, a, b, context, log_q, log_p, expected, got};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    nf_flow_free(base);
    close_subject(&s);
}
END_TEST

/* log p = -x^2 / 2 in even rows; in odd ones 100 less, with a gradient that single precision does not hold. */
static nf_status steep(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = -0.5 * x[r] * x[r] - (r % 2 ? 100 : 0);
        gradient[r] = r % 2 ? -1e39 : -x[r];
    }
    return NF_OK;
}

START_TEST(targets_too_steep_for_the_precision_add_nothing) {
    enum { SOME = 100 };
    nf_flow *flow;
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_rng rng = {1, 2, 3}, same = rng;
    nf_stats stats = {.struct_size = sizeof stats};
    double x[SOME], log_q[SOME], loss, mean = 0, got[2], expected[2] = {-1, 0};
    must(nf_affine_create(1, NF_SINGLE, &flow));
    must(nf_workspace_create(flow, 1, &ws));
    must(nf_gradient_create(flow, &gradient));
    must(nf_sample(flow, ws, &same, SOME, NULL, x, log_q));
    for (size_t r = 0; r < SOME; r += 2) {
        mean += (log_q[r] + 0.5 * x[r] * x[r]) / (SOME / 2);
        expected[0] += x[r] * x[r] / (SOME / 2); /* of log_scale and shift at 0: -1 + x^2, and x */
        expected[1] += x[r] / (SOME / 2);
    }
    must_be(NF_ERR_ROWS, nf_grad_reverse_kl(flow, ws, &rng, SOME, NULL, steep, NULL, gradient, &loss));
    must_say("nf_grad_reverse_kl", "row 1: the target");
    must(nf_workspace_stats(ws, &stats));
    ck_assert_uint_eq(stats.bad_rows, SOME / 2);
    must(nf_gradient_get(gradient, got));
    must_agree("loss", whole_error(&loss, &mean, 1), 1e-12);
    must_agree("gradient", whole_error(got, expected, 2), 1e-5);
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}
END_TEST

/* A cotangent that is not finite makes its row bad in a vjp: counted, NaN, and nothing of the sums. */
static void check_given(const subject *s, const batch *clean, nf_status (*vjp)(const nf_flow *, nf_workspace *, size_t, const double *, const double *, const double *,
                                                                             const double *, double *, double *, nf_gradient *),
                        const char *name) {
    const size_t rows = clean->rows;
    double *a = new_copy(clean->a, rows * s->dim), *b = new_copy(clean->b, rows), *out = new_numbers(rows * s->dim), *got = new_numbers(s->count),
           *expected = new_numbers(s->count);
    nf_stats stats = {.struct_size = sizeof stats};
    for (size_t i = 0; i < s->dim; i++)
        a[2 * s->dim + i] = a[5 * s->dim + i] = 0;
    b[2] = b[5] = 0;
    must(nf_gradient_zero(s->gradient));
    must(vjp(s->flow, s->ws, rows, clean->in, clean->context, a, b, NULL, NULL, s->gradient));
    must(nf_gradient_get(s->gradient, expected));
    a[2 * s->dim + s->dim - 1] = NAN;
    b[5] = -INFINITY;
    must(nf_gradient_zero(s->gradient));
    must_be(NF_ERR_ROWS, vjp(s->flow, s->ws, rows, clean->in, clean->context, a, b, out, NULL, s->gradient));
    must_say(name, "row 2: a cotangent is not finite (2 bad rows in all)");
    must(nf_workspace_stats(s->ws, &stats));
    ck_assert(stats.bad_rows == 2 && stats.first_bad_row == 2);
    must(nf_gradient_get(s->gradient, got));
    must_agree(s->f->name, whole_error(got, expected, s->count), 1e-13);
    for (size_t i = 0; i < rows * s->dim; i++)
        ck_assert_msg(isnan(out[i]) == (i / s->dim == 2 || i / s->dim == 5), "%s: row %zu has %g", name, i / s->dim, out[i]);
    double *arrays[] = {a, b, out, got, expected};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
}

START_TEST(cotangents_that_are_no_numbers_make_bad_rows) {
    subject s;
    open_relaxed(&s, _i, NF_DOUBLE, 1);
    batch clean = new_batch(&s, 41);
    check_given(&s, &clean, nf_forward_vjp, "nf_forward_vjp");
    check_given(&s, &clean, nf_inverse_vjp, "nf_inverse_vjp");
    free_batch(&clean);
    close_subject(&s);
}
END_TEST

/* A row whose loss is a number, but beyond what its precision can differentiate, is bad in a gradient and spoils nothing. */
static void check_far_rows(int i, nf_precision precision) {
    enum { SOME = 151 };
    const double far[] = {1e16, 1e19, -1e22, 1e30}, scale = precision == NF_SINGLE ? 1.0 : 1e120;
    subject s;
    open_relaxed(&s, i, precision, 1);
    batch r = new_batch(&s, SOME);
    double *got = new_numbers(s.count), loss;
    for (size_t k = 0; k < sizeof far / sizeof far[0]; k++)
        for (size_t f = 0; f < s.dim; f++)
            r.in[(31 * k + 3) * s.dim + f] = (f % 2 ? -scale : scale) * far[k];
    must(nf_gradient_zero(s.gradient));
    const nf_status status = nf_grad_nll(s.flow, s.ws, SOME, r.in, r.context, NULL, s.gradient, &loss);
    ck_assert_msg(status == NF_OK || status == NF_ERR_ROWS, "%s: %s", s.f->name, nf_last_error());
    ck_assert_msg(isfinite(loss), "%s: loss %g", s.f->name, loss);
    must(nf_gradient_get(s.gradient, got));
    for (size_t p = 0; p < s.count; p++)
        ck_assert_msg(isfinite(got[p]), "%s: parameter %zu of %zu has gradient %g", s.f->name, p, s.count, got[p]);
    free(got);
    free_batch(&r);
    close_subject(&s);
}

START_TEST(rows_too_far_to_differentiate_add_nothing) {
    check_far_rows(_i, NF_DOUBLE);
    check_far_rows(_i, NF_SINGLE);
}
END_TEST

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

/* A row of huge numbers is either mapped, slopes and all, or bad, as one, and changes no other row. */
static void check_huge_rows(int index, nf_precision precision) {
    enum { SOME = 67 };
    const double huge[] = {1e300, -1e300, 1e160, 1e40, -1e18, 1e22, -1e26, 1e33, -1e37};
    subject s;
    open_relaxed(&s, index, precision, 1);
    batch clean = new_batch(&s, SOME), spoilt = part_of(&s, &clean, 0, SOME);
    call_all(&s, s.ws, &clean);
    for (size_t k = 0; k < sizeof huge / sizeof huge[0]; k++)
        for (size_t i = 0; i < s.dim; i++)
            spoilt.in[(7 * k + 3) * s.dim + i] = i % 2 ? -huge[k] : huge[k];
    for (int which = 0; which < MOST_CALLS; which++) {
        bool bad[SOME] = {false};
        size_t count = 0;
        const nf_status status = call(&s, s.ws, which, &spoilt);
        ck_assert(status == NF_OK || status == NF_ERR_ROWS);
        for (size_t k = 0; k < sizeof huge / sizeof huge[0]; k++) {
            const size_t r = 7 * k + 3;
            bad[r] = isnan(spoilt.out[which][r * s.dim]);
            count += bad[r];
            for (size_t i = 0; i < s.dim; i++)
                ck_assert_msg(bad[r] ? isnan(spoilt.out[which][r * s.dim + i]) : isfinite(spoilt.out[which][r * s.dim + i]), "%s: %s: row of %g gave %g", s.f->name,
                              call_names[which], huge[k], spoilt.out[which][r * s.dim + i]);
            /* What is compared below must be equal, whatever a huge row that is not bad became. */
            if (!bad[r]) {
                memcpy(clean.out[which] + r * s.dim, spoilt.out[which] + r * s.dim, s.dim * sizeof(double));
                clean.scalar[which][r] = spoilt.scalar[which][r];
                if (s.context_dim)
                    memcpy(clean.d_context[which] + r * s.context_dim, spoilt.d_context[which] + r * s.context_dim, s.context_dim * sizeof(double));
            }
        }
        ck_assert_msg((count > 0) == (status == NF_ERR_ROWS), "%s: %s: %zu bad rows and %s", s.f->name, call_names[which], count, nf_status_name(status));
        check_spoilt(&s, &spoilt, &clean, bad, which);
    }
    free_batch(&clean);
    free_batch(&spoilt);
    close_subject(&s);
}

START_TEST(huge_rows_are_bad_or_right) {
    check_huge_rows(_i, NF_DOUBLE);
    check_huge_rows(_i, NF_SINGLE);
}
END_TEST

/* A row whose density is no number is bad where a density is asked for, and nowhere else. */
/* Rows with a density of which the gradient is no number, in the first tile of a slot and in a later one: it is that of the others. */
START_TEST(rows_with_steep_gradients_add_nothing) {
    enum { MANY = 1200, FIRST = 5, LATER = 1170 };
    const bool is_single = _i % 2;
    const size_t dim = 2;
    const double narrow = is_single ? 1e-36 : 1e-262, far = is_single ? 1e-20 : 1e-200;
    random_source random = random_begin(91);
    nf_flow *flow, *part;
    must(nf_affine_create(dim, is_single ? NF_SINGLE : NF_DOUBLE, &flow));
    must(nf_set_parameters(flow, (double[]){is_single ? -80 : -600, 0, 0, 0}));
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = dim, .precision = is_single ? NF_SINGLE : NF_DOUBLE, .couplings = 1, .hidden_width = 8, .actnorm = -1), &part));
    if (_i / 2) { /* with a net beside */
        must(nf_flow_append(part, flow));
        flow = part;
    } else {
        nf_flow_free(part);
    }
    const size_t count = nf_parameter_count(flow);
    double *x = new_normals(&random, MANY * dim, 1.0), *weight = new_numbers(MANY), *gradients[2], losses[2];
    for (size_t r = 0; r < MANY; r++) {
        weight[r] = r == FIRST || r == LATER ? 0 : 1;
        x[r * dim] = weight[r] > 0 ? narrow * x[r * dim] : far;
    }
    nf_workspace *ws;
    must(nf_workspace_create(flow, 3, &ws));
    for (int left_out = 0; left_out < 2; left_out++) {
        nf_gradient *gradient;
        must(nf_gradient_create(flow, &gradient));
        const nf_status status = nf_grad_nll(flow, ws, MANY, x, NULL, left_out ? weight : NULL, gradient, &losses[left_out]);
        ck_assert_int_eq(status, left_out ? NF_OK : NF_ERR_ROWS);
        if (!left_out)
            must_say("nf_grad_nll", "row 5: the gradient is beyond the range of the numbers (2 bad rows in all)");
        gradients[left_out] = new_numbers(count);
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

START_TEST(maps_reach_further_than_densities) {
    const double far[] = {1e160, 1e60, -1e300}, sds[] = {1, 1e-100, 1e100}, one = 1;
    for (size_t k = 0; k < 3; k++) {
        nf_flow *flow;
        nf_gradient *gradient;
        const double z = far[k] * (k == 2 ? 1e-40 : 1); /* |z / sd| is of 1e160 */
        double x, log_det, d, score;
        must(nf_affine_create(1, NF_DOUBLE, &flow));
        must(nf_flow_set_base_normal(flow, NULL, &sds[k]));
        must(nf_gradient_create(flow, &gradient));
        must(nf_forward(flow, NULL, 1, &z, NULL, &x, &log_det));
        ck_assert(x == z && log_det == 0);
        must(nf_inverse(flow, NULL, 1, &z, NULL, &x, &log_det));
        ck_assert(x == z && log_det == 0);
        must(nf_forward_vjp(flow, NULL, 1, &z, NULL, &one, NULL, &d, NULL, gradient));
        ck_assert(d == 1);
        must(nf_inverse_vjp(flow, NULL, 1, &z, NULL, &one, NULL, &d, NULL, gradient));
        ck_assert(d == 1);
        must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, 1, &z, NULL, &d));
        ck_assert(isnan(d));
        must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, 1, &z, NULL, NULL));
        must_be(NF_ERR_ROWS, nf_score(flow, NULL, 1, &z, NULL, NULL, &score));
        ck_assert(isnan(score));
        must_be(NF_ERR_ROWS, nf_grad_nll(flow, NULL, 1, &z, NULL, NULL, gradient, NULL));
        nf_gradient_free(gradient);
        nf_flow_free(flow);
    }
    nf_cnf *cnf;
    const double z = 1e160;
    double x, end;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 1, .seed = 1), &cnf));
    must(nf_forward(cnf, NULL, 1, &z, NULL, &x, NULL));
    must(nf_cnf_trajectory(cnf, NULL, 1, &z, NULL, 1, &one, &end));
    same_bits("the end of a path", &end, &x, 1);
    nf_flow_free(cnf);
}
END_TEST

/* Nor is a density a number when it is the sum of two numbers and beyond them. */
START_TEST(sums_beyond_the_numbers_are_bad) {
    nf_flow *flow;
    const double theta[] = {1.7e308, 0, 0, 0}, x[] = {1, 1.3e154, 1, 1};
    double log_det[2], d[2], score[4];
    must(nf_affine_create(2, NF_DOUBLE, &flow));
    must(nf_set_parameters(flow, theta));
    must(nf_inverse(flow, NULL, 2, x, NULL, NULL, log_det));
    ck_assert(log_det[0] == -1.7e308 && log_det[1] == -1.7e308);
    must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, 2, x, NULL, d));
    ck_assert(isnan(d[0]) && d[1] == -1.7e308);
    must_be(NF_ERR_ROWS, nf_score(flow, NULL, 2, x, NULL, d, score));
    ck_assert(isnan(d[0]) && isnan(score[0]) && isnan(score[1]) && d[1] == -1.7e308 && score[3] == -1);
    nf_flow_free(flow);
}
END_TEST

/* A regulariser is of the square of a velocity, which may be no number where the path and its density are. */
START_TEST(regularisers_beyond_the_numbers_make_bad_rows) {
    const double x[] = {0, 1, 1, 1};
    for (int single = 0; single < 2; single++) {
        nf_cnf *cnf;
        nf_gradient *gradient;
        const double fast = single ? 1e20 : 1e160, theta[8] = {fast}; /* dz_0/dt = fast z_0, for a time of 1 / fast */
        double d[2], loss, alone, g[8], g_alone[8];
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .t1 = 1 / fast, .kinetic = .1, .hidden_layers = NF_NONE, .method = NF_RK4, .steps = 2,
                                     .precision = single ? NF_SINGLE : NF_DOUBLE),
                           &cnf));
        must(nf_set_parameters(cnf, theta));
        must(nf_gradient_create(cnf, &gradient));
        must(nf_log_prob(cnf, NULL, 2, x, NULL, d));
        must(nf_grad_nll(cnf, NULL, 1, x, NULL, NULL, gradient, &alone));
        must(nf_gradient_get(gradient, g_alone));
        must(nf_gradient_zero(gradient));
        must_be(NF_ERR_ROWS, nf_grad_nll(cnf, NULL, 2, x, NULL, NULL, gradient, &loss));
        must(nf_gradient_get(gradient, g));
        same_bits("the loss", &loss, &alone, 1);
        same_bits("the gradient", g, g_alone, 8);
        nf_gradient_free(gradient);
        nf_flow_free(cnf);
    }
}
END_TEST

/* The score of a base far from N(0, 1), whose mean single precision does not have. */
START_TEST(a_narrow_base_has_a_score) {
    const double sds[] = {1e-160, 1e-20, 1e-6, 1e20, 1e160};
    for (int single = 0; single < 2; single++)
        for (size_t k = 0; k < 5; k++) {
            if (single && (k == 0 || k == 4))
                continue;
            const double sd = sds[k], mean = k == 2 ? 0.1 : 0.0, x = k == 2 ? (double)(float)0.1000005 : sd, expected = -(x - mean) / sd / sd;
            double log_prob, score;
            nf_flow *flow;
            must(nf_flow_create(1, 0, single ? NF_SINGLE : NF_DOUBLE, &flow));
            must(nf_flow_set_base_normal(flow, &mean, &sd));
            must(nf_score(flow, NULL, 1, &x, NULL, &log_prob, &score));
            must_agree("score", fabs(score / expected - 1), single ? 2e-7 : 1e-14);
            nf_flow_free(flow);
        }
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

int main(void) {
    const int subjects = 2 * (int)fixture_count;
    Suite *suite = suite_create("rows, batches and threads");
    TCase *independence = tcase_create("independence"), *bad = tcase_create("bad rows"), *arrays = tcase_create("arrays");
    tcase_add_loop_test(independence, rows_do_not_depend_on_the_batch, 0, subjects);
    tcase_add_loop_test(independence, changed_parameters_are_seen, 0, subjects);
    tcase_add_loop_test(independence, results_do_not_depend_on_the_threads, 0, subjects);
    tcase_add_loop_test(independence, results_do_not_depend_on_the_floating_point_mode, 0, subjects);
    tcase_add_loop_test(bad, bad_rows_do_not_poison_good_ones, 0, subjects);
    tcase_add_loop_test(bad, bad_rows_add_nothing_to_gradients, 0, subjects);
    tcase_add_test(bad, bad_rows_add_nothing_to_nets);
    tcase_add_loop_test(bad, good_rows_may_weigh_nothing_beside_bad_ones, 0, 2);
    tcase_add_test(bad, tiles_of_bad_rows_add_nothing);
    tcase_add_loop_test(bad, rows_that_the_target_spoils_add_nothing, 0, subjects);
    tcase_add_loop_test(bad, a_factor_of_all_weights_is_nothing, 0, subjects);
    tcase_add_test(bad, targets_too_steep_for_the_precision_add_nothing);
    tcase_add_loop_test(bad, cotangents_that_are_no_numbers_make_bad_rows, 0, subjects);
    tcase_add_loop_test(bad, rows_too_far_to_differentiate_add_nothing, 0, subjects);
    tcase_add_loop_test(bad, huge_rows_are_bad_or_right, 0, subjects);
    tcase_add_loop_test(bad, short_planar_layers_have_gradients_or_bad_rows, 0, 4);
    tcase_add_loop_test(bad, short_planar_layers_have_losses_or_bad_rows, 0, 4);
    tcase_add_loop_test(bad, rows_with_steep_gradients_add_nothing, 0, 4);
    tcase_add_test(bad, maps_reach_further_than_densities);
    tcase_add_test(bad, sums_beyond_the_numbers_are_bad);
    tcase_add_test(bad, regularisers_beyond_the_numbers_make_bad_rows);
    tcase_add_test(bad, a_narrow_base_has_a_score);
    tcase_add_loop_test(arrays, results_may_go_into_the_input, 0, subjects);
    tcase_add_test(arrays, results_of_a_net_may_go_into_its_input);
    tcase_add_loop_test(arrays, results_may_be_left_out, 0, subjects);
    tcase_set_timeout(independence, 120);
    suite_add_tcase(suite, independence);
    suite_add_tcase(suite, bad);
    suite_add_tcase(suite, arrays);
    return run_suite(suite);
}
