/* engine-test: the hyper dynamics against their formula, and their vjps against differences. */
#include "aligned.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"
#include "engine/nets/field_hyper.h"

#define MOST_DIM 4
#define MOST_PARAMETERS 4000

typedef struct bench {
    size_t hidden[2], dim, units, parameters;
    nf_net net;
    field_hyper_shape shape;
    real theta[MOST_PARAMETERS], gradient[MOST_PARAMETERS];
    double t[PANEL];
    unsigned char active[PANEL];
    bool square;
    _Alignas(NF_ALIGN) real z[MOST_DIM * PANEL], k[MOST_DIM * PANEL], trace[PANEL], norm[PANEL];
    _Alignas(NF_ALIGN) real d_k[MOST_DIM * PANEL], d_trace[PANEL], d_speed[PANEL], d_square[PANEL], d_z[MOST_DIM * PANEL];
    real *scratch, *cache;
} bench;

static const size_t dims[] = {1, 2, 3, 4}, unit_counts[] = {5, 37, 16, 40};

static real *garbage(size_t count) { return new_aligned(count * sizeof(real), 0xff); }

static bench *setup(int i, bool square) {
    bench *b = new_aligned(sizeof *b, 0);
    b->dim = dims[i];
    b->units = unit_counts[i];
    b->hidden[0] = 4;
    b->hidden[1] = 5;
    b->square = square;
    b->net = (nf_net){1, (3 * b->dim + 1) * b->units, {2, b->hidden}, NF_TANH};
    b->shape = (field_hyper_shape){&b->net, b->dim, b->units};
    b->parameters = nf_net_parameter_count(&b->net);
    ck_assert_uint_le(b->parameters, MOST_PARAMETERS);
    nf_sequence s = nf_sequence_begin(seed_given(2385), (uint64_t)i);
    for (size_t p = 0; p < b->parameters; p++)
        b->theta[p] = (real)(0.7 * nf_sequence_normal(&s));
    for (size_t l = 0; l < PANEL; l++) {
        for (size_t c = 0; c < b->dim; c++) {
            b->z[c * PANEL + l] = (real)nf_sequence_normal(&s);
            b->d_k[c * PANEL + l] = (real)nf_sequence_normal(&s);
        }
        b->d_trace[l] = (real)nf_sequence_normal(&s);
        b->d_speed[l] = (real)nf_sequence_normal(&s);
        b->d_square[l] = square ? (real)nf_sequence_normal(&s) : 0;
        b->t[l] = 0.125 * (double)(l % 5) + 0.0385;
        b->active[l] = l % 3 != 1;
    }
    b->scratch = garbage(R(field_hyper_scratch)(&b->shape));
    b->cache = garbage(R(field_hyper_cache)(&b->shape));
    memset(b->cache, 0, NF_ALIGN);
    return b;
}

static void release(bench *b) {
    free(b->scratch);
    free(b->cache);
    free(b);
}

/* The parameters have changed, for all that the field knows. */
static field_hyper begin(bench *b, bool gradient) {
    static uint64_t epoch;
    field_hyper f;
    R(field_hyper_begin)(&f, &b->shape, b->theta, ++epoch, gradient ? b->gradient : NULL, gradient, b->cache, b->scratch);
    return f;
}

static void rates(bench *b) {
    field_hyper f = begin(b, false);
    R(field_hyper_rates)(&f, HYPER_NO_STAGE, b->t, b->active, b->z, b->k, b->trace, b->square ? b->norm : NULL);
}

/* Steps whose stage number 2 is at t. */
static void prepare(field_hyper *f, const bench *b, const double *t) {
    double h[PANEL], times[3][PANEL];
    for (size_t l = 0; l < PANEL; l++) {
        h[l] = 0.25;
        times[0][l] = t[l] - 0.0625;
        times[1][l] = t[l] - 0.03125;
        times[2][l] = t[l];
    }
    R(field_hyper_prepare)(f, 3, b->active, times[0], h, times);
}

/* The net's output at t, by the book. */
static void net_by_hand(const bench *b, double t, double *out) {
    double in[8] = {t};
    const real *theta = b->theta;
    for (size_t j = 0; j < 3; j++) {
        const size_t n = nf_net_layer_inputs(&b->net, j), m = nf_net_layer_outputs(&b->net, j);
        double next[8];
        for (size_t r = 0; r < m; r++) {
            double sum = (double)theta[m * n + r];
            for (size_t c = 0; c < n; c++)
                sum += (double)theta[r * n + c] * in[c];
            if (j < 2)
                next[r] = tanh(sum);
            else
                out[r] = sum;
        }
        if (j < 2)
            memcpy(in, next, sizeof in);
        theta += (n + 1) * m;
    }
}

static void field_by_hand(const bench *b, size_t lane, const double *out, double *k, double *trace, double *square) {
    const size_t d = b->dim, units = b->units;
    double *jac = calloc(d * d, sizeof *jac);
    ck_assert_ptr_nonnull(jac);
    memset(k, 0, MOST_DIM * sizeof *k);
    for (size_t n = 0; n < units; n++) {
        const double *w = out + n * d, *u = w + units * d, *g = u + units * d;
        double a = out[3 * units * d + n];
        for (size_t i = 0; i < d; i++)
            a += w[i] * (double)b->z[i * PANEL + lane];
        for (size_t i = 0; i < d; i++) {
            const double gated = u[i] / (1 + exp(-g[i])) / (double)units;
            k[i] += gated * tanh(a);
            for (size_t j = 0; j < d; j++)
                jac[i * d + j] += gated * (1 - tanh(a) * tanh(a)) * w[j];
        }
    }
    *trace = *square = 0;
    for (size_t i = 0; i < d; i++) {
        *trace += jac[i * d + i];
        for (size_t j = 0; j < d; j++)
            *square += jac[i * d + j] * jac[i * d + j];
    }
    free(jac);
}

START_TEST(rates_follow_the_formula) {
    bench *b = setup(_i, true);
    double out[MOST_PARAMETERS];
    const double tolerance = 40 * (double)REAL_EPS;
    rates(b);
    for (size_t l = 0; l < PANEL; l++) {
        if (!b->active[l])
            continue;
        double k[MOST_DIM], trace, square;
        net_by_hand(b, b->t[l], out);
        field_by_hand(b, l, out, k, &trace, &square);
        for (size_t i = 0; i < b->dim; i++)
            ck_assert_msg(fabs((double)b->k[i * PANEL + l] - k[i]) <= tolerance, "lane %zu: %.9g, %.9g", l, (double)b->k[i * PANEL + l], k[i]);
        ck_assert(fabs((double)b->trace[l] - trace) <= 4 * tolerance);
        ck_assert(fabs((double)b->norm[l] - square) <= 8 * tolerance * (1 + square));
    }
    release(b);
}
END_TEST

static double objective(bench *b) {
    double sum = 0;
    rates(b);
    for (size_t l = 0; l < PANEL; l++) {
        double speed = 0;
        if (!b->active[l])
            continue;
        for (size_t i = 0; i < b->dim; i++) {
            const double k = (double)b->k[i * PANEL + l];
            sum += k * (double)b->d_k[i * PANEL + l];
            speed += k * k;
        }
        sum += (double)b->trace[l] * (double)b->d_trace[l] + speed * (double)b->d_speed[l];
        if (b->square)
            sum += (double)b->norm[l] * (double)b->d_square[l];
    }
    return sum;
}

static double slope(bench *b, real *at) {
    const real kept = *at;
    const double step = 1e-6;
    *at = (real)((double)kept + step);
    const double up = objective(b);
    *at = (real)((double)kept - step);
    const double down = objective(b);
    *at = kept;
    return (up - down) / (2 * step);
}

/* In a step or outside of one; after the rates of the same stage, whose tanh is kept then, or not. */
static void vjp(bench *b, bool step, bool after_rates) {
    field_hyper f = begin(b, true);
    const size_t stage = step ? 2 : HYPER_NO_STAGE;
    memset(b->gradient, 0, sizeof b->gradient);
    if (step)
        prepare(&f, b, b->t);
    if (after_rates)
        R(field_hyper_rates)(&f, stage, b->t, b->active, b->z, b->k, NULL, NULL);
    R(field_hyper_vjp)(&f, stage, b->t, b->active, b->z, b->d_k, b->d_trace, b->d_speed, b->square ? b->d_square : NULL, true, b->d_z);
    R(field_hyper_finish)(&f);
}

START_TEST(vjps_agree_with_differences) {
    if (NF_SINGLE_BUILD)
        return;
    for (int square = 0; square < 2; square++) {
        bench *b = setup(_i / 4, square != 0);
        vjp(b, _i & 1, _i & 2);
        for (size_t i = 0; i < b->parameters; i += is_brief() ? 7 : 1) {
            const double d = slope(b, &b->theta[i]), g = (double)b->gradient[i];
            ck_assert_msg(fabs(g - d) <= 1e-7 * fmax(1, fabs(d)), "square %d, parameter %zu of %zu: %.10g, difference %.10g", square, i, b->parameters, g, d);
        }
        for (size_t i = 0; i < b->dim * PANEL; i++) {
            if (!b->active[i % PANEL])
                continue;
            const double d = slope(b, &b->z[i]), g = (double)b->d_z[i];
            ck_assert_msg(fabs(g - d) <= 1e-7 * fmax(1, fabs(d)), "square %d, z %zu: %.10g, difference %.10g", square, i, g, d);
        }
        release(b);
    }
}
END_TEST

/* More instants than the pool has nodes: it is emptied on the way, and nothing is lost. */
START_TEST(the_pool_may_overflow) {
    bench *b = setup(1, false);
    field_hyper f = begin(b, true);
    double t[PANEL], sum[MOST_PARAMETERS] = {0};
    real total[MOST_PARAMETERS];
    memset(b->gradient, 0, sizeof b->gradient);
    const size_t calls = f.pool.room / PANEL + 3;
    for (size_t i = 0; i < calls; i++) {
        for (size_t l = 0; l < PANEL; l++)
            t[l] = b->t[l] + 1e-3 * (double)(i * PANEL + l);
        if (i % 2)
            prepare(&f, b, t);
        R(field_hyper_vjp)(&f, i % 2 ? 2 : HYPER_NO_STAGE, t, b->active, b->z, b->d_k, b->d_trace, NULL, NULL, true, b->d_z);
    }
    R(field_hyper_finish)(&f);
    memcpy(total, b->gradient, sizeof total);
    double kept[PANEL];
    memcpy(kept, b->t, sizeof kept);
    for (size_t i = 0; i < calls; i++) {
        for (size_t l = 0; l < PANEL; l++)
            b->t[l] = kept[l] + 1e-3 * (double)(i * PANEL + l);
        memset(b->d_speed, 0, sizeof b->d_speed);
        vjp(b, false, false);
        for (size_t p = 0; p < b->parameters; p++)
            sum[p] += (double)b->gradient[p];
    }
    for (size_t p = 0; p < b->parameters; p++)
        ck_assert_msg(fabs((double)total[p] - sum[p]) <= 3e3 * (double)REAL_EPS * (1 + fabs(sum[p])), "parameter %zu: %g, %g", p, (double)total[p], sum[p]);
    release(b);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("field_hyper");
    TCase *c = tcase_create("field_hyper");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, rates_follow_the_formula, 0, 4);
    tcase_add_loop_test(c, vjps_agree_with_differences, 0, 16);
    tcase_add_test(c, the_pool_may_overflow);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
