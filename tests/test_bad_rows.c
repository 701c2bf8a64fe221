/* A row that is no number, or whose target or cotangent is none, is told, gives NaN, and changes no other row and no sum. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"

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
    static const struct {
        nf_precision precision;
        double much, little;
    } cases[] = {{NF_DOUBLE, 1, 0x1p-1040},   {NF_DOUBLE, 0x1p-30, 0x1p-1070}, {NF_SINGLE, 1, 0x1p-140},
                 {NF_SINGLE, 0x1p-100, 0x1p-300}, {NF_SINGLE, 0x1p-300, 0x1p-1060}};
    const nf_precision precision = cases[_i].precision;
    const double little = cases[_i].little;
    const double x[ROWS * DIM] = {NAN, 0, 0.3, -2.385, 1.1, 0.4}, weight[ROWS] = {cases[_i].much, little, 2 * little}, ratio[ROWS] = {0, 1, 2};
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

START_TEST(the_first_bad_column_is_named) {
    const double x[2 * 3] = {1, 2, 3, 4, NAN, INFINITY};
    double log_prob[2];
    nf_flow *flow;
    must(nf_affine_create(3, NF_DOUBLE, &flow));
    must_be(NF_ERR_ROWS, nf_log_prob(flow, NULL, 2, x, NULL, log_prob));
    must_say("nf_log_prob", "x[1][1] is nan");
    nf_flow_free(flow);
}
END_TEST

/* What a target is shown: numbers, and the flow's own samples where there are any. */
static nf_status careful(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    const bool *any = user;
    for (size_t r = 0; r < rows; r++) {
        ck_assert_msg(*any ? isfinite(x[r]) && x[r] != 0 : x[r] == 0, "row %zu is shown as %g", r, x[r]);
        log_density[r] = gradient[r] = 0;
    }
    return NF_OK;
}

START_TEST(targets_are_shown_numbers) {
    enum { SOME = 300 };
    const double log_scales[] = {709.5, 720}; /* beyond the numbers are some samples, and all of them */
    for (int all = 0; all < 2; all++) {
        bool any = !all;
        nf_flow *flow;
        nf_gradient *gradient;
        nf_rng rng = {1, 2, 3};
        double loss;
        must(nf_affine_create(1, NF_DOUBLE, &flow));
        must(nf_set_parameters(flow, (double[]){log_scales[all], 0}));
        must(nf_gradient_create(flow, &gradient));
        must_be(NF_ERR_ROWS, nf_grad_reverse_kl(flow, NULL, &rng, SOME, NULL, careful, &any, gradient, &loss));
        ck_assert_int_eq(isnan(loss), all);
        nf_gradient_free(gradient);
        nf_flow_free(flow);
    }
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

int main(void) {
    const int subjects = 2 * (int)fixture_count;
    Suite *suite = suite_create("bad rows");
    TCase *bad = tcase_create("bad rows");
    tcase_add_loop_test(bad, bad_rows_do_not_poison_good_ones, 0, subjects);
    tcase_add_loop_test(bad, bad_rows_add_nothing_to_gradients, 0, subjects);
    tcase_add_test(bad, bad_rows_add_nothing_to_nets);
    tcase_add_loop_test(bad, good_rows_may_weigh_nothing_beside_bad_ones, 0, 5);
    tcase_add_test(bad, tiles_of_bad_rows_add_nothing);
    tcase_add_loop_test(bad, rows_that_the_target_spoils_add_nothing, 0, subjects);
    tcase_add_loop_test(bad, a_factor_of_all_weights_is_nothing, 0, subjects);
    tcase_add_test(bad, targets_are_shown_numbers);
    tcase_add_test(bad, the_first_bad_column_is_named);
    tcase_add_test(bad, targets_too_steep_for_the_precision_add_nothing);
    tcase_add_loop_test(bad, cotangents_that_are_no_numbers_make_bad_rows, 0, subjects);
    tcase_set_timeout(bad, 120);
    suite_add_tcase(suite, bad);
    return run_suite(suite);
}
