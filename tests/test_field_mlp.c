/* engine-test: the MLP dynamics: trace and norm of the Jacobian, and all vjps, against differences and against each other. */
#include "aligned.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"
#include "engine/nets/field_mlp.h"

#define DIM 3
#define CONTEXT 2
#define MOST_PARAMETERS 2000

typedef struct bench {
    size_t widths[4];
    nf_net net;
    field_mlp_shape shape;
    real theta[MOST_PARAMETERS], gradient[MOST_PARAMETERS];
    size_t parameters;
    double t[PANEL];
    _Alignas(NF_ALIGN) real z[DIM * PANEL], context[CONTEXT * PANEL], k[DIM * PANEL], trace[PANEL], square[PANEL];
    _Alignas(NF_ALIGN) real d_k[DIM * PANEL], d_trace[PANEL], d_speed[PANEL], d_square[PANEL], d_z[DIM * PANEL], d_context[CONTEXT * PANEL];
    real *scratch;
} bench;

static const nf_activation activations[] = {NF_TANH, NF_SOFTPLUS, NF_SILU, NF_GELU};

static void normals(nf_sequence *s, size_t count, real *out, double sd) {
    for (size_t i = 0; i < count; i++)
        out[i] = (real)(sd * nf_sequence_normal(s));
}

static bench *setup(size_t depth, nf_activation activation, size_t probes, bool square) {
    bench *b = new_aligned(sizeof *b, 0);
    const size_t widths[4] = {7, 5, 6, 4};
    memcpy(b->widths, widths, sizeof widths);
    b->net = (nf_net){DIM + 1 + CONTEXT, DIM, {depth, b->widths}, activation};
    b->shape = (field_mlp_shape){&b->net, DIM, probes, 2385, false, square};
    b->parameters = nf_net_parameter_count(&b->net);
    ck_assert(b->parameters <= MOST_PARAMETERS);
    nf_sequence s = nf_sequence_begin(seed_given(2385), depth * 10 + (size_t)activation);
    normals(&s, b->parameters, b->theta, 0.6);
    normals(&s, DIM * PANEL, b->z, 1.0);
    normals(&s, CONTEXT * PANEL, b->context, 1.0);
    normals(&s, DIM * PANEL, b->d_k, 1.0);
    normals(&s, PANEL, b->d_trace, 1.0);
    normals(&s, PANEL, b->d_speed, 1.0);
    normals(&s, PANEL, b->d_square, 1.0);
    for (size_t l = 0; l < PANEL; l++)
        b->t[l] = nf_sequence_uniform(&s);
    b->scratch = new_aligned(R(field_mlp_scratch)(&b->shape) * sizeof(real), 0xff);
    return b;
}

static void release(bench *b) {
    free(b->scratch);
    free(b);
}

static void rates(bench *b) {
    field_mlp f;
    R(field_mlp_begin)(&f, &b->shape, b->theta, NULL, b->scratch);
    R(field_mlp_rates)(&f, b->t, b->z, b->context, b->k, b->trace, b->shape.square ? b->square : NULL);
}

/* sum over lanes of all cotangents times what they belong to */
static double objective(bench *b) {
    double sum = 0;
    rates(b);
    for (size_t l = 0; l < PANEL; l++) {
        double speed = 0;
        for (size_t i = 0; i < DIM; i++) {
            const double k = (double)b->k[i * PANEL + l];
            sum += k * (double)b->d_k[i * PANEL + l];
            speed += k * k;
        }
        sum += (double)b->trace[l] * (double)b->d_trace[l] + speed * (double)b->d_speed[l];
        if (b->shape.square)
            sum += (double)b->square[l] * (double)b->d_square[l];
    }
    return sum;
}

static void vjp(bench *b) {
    field_mlp f;
    memset(b->gradient, 0, sizeof b->gradient);
    memset(b->d_context, 0, sizeof b->d_context);
    R(field_mlp_begin)(&f, &b->shape, b->theta, b->gradient, b->scratch);
    R(field_mlp_vjp)(&f, b->t, b->z, b->context, b->d_k, b->d_trace, b->d_speed, b->shape.square ? b->d_square : NULL, true, b->d_z, b->d_context);
    R(field_mlp_finish)(&f);
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

#define CASES 40

static bench *setup_case(int i) { return setup((size_t)i % 5, activations[i / 5 % 4], i / 20 ? 2 : 0, i % 2 == 1); }

START_TEST(vjps_agree_with_differences) {
    if (NF_SINGLE_BUILD)
        return;
    for (int square = 0; square < 2; square++) {
        bench *b = setup((size_t)_i % 5, activations[_i / 5 % 4], _i / 20 ? 2 : 0, square != 0);
        vjp(b);
        for (size_t i = 0; i < b->parameters; i++) {
            const double d = slope(b, &b->theta[i]), g = (double)b->gradient[i];
            ck_assert_msg(fabs(g - d) <= 2e-7 * fmax(10, fabs(d)), "depth %d, square %d, parameter %zu of %zu: %.10g, difference %.10g", _i % 5, square, i,
                          b->parameters, g, d);
        }
        for (size_t i = 0; i < DIM * PANEL; i++) {
            const double d = slope(b, &b->z[i]), g = (double)b->d_z[i];
            ck_assert_msg(fabs(g - d) <= 2e-7 * fmax(10, fabs(d)), "depth %d, square %d, z %zu: %.10g, %.10g", _i % 5, square, i, g, d);
        }
        for (size_t i = 0; i < CONTEXT * PANEL; i++) {
            const double d = slope(b, &b->context[i]), g = (double)b->d_context[i];
            ck_assert_msg(fabs(g - d) <= 2e-7 * fmax(10, fabs(d)), "depth %d, context %zu: %.10g, %.10g", _i % 5, i, g, d);
        }
        release(b);
    }
}
END_TEST

START_TEST(trace_and_norm_are_those_of_the_jacobian) {
    bench *b = setup((size_t)_i % 5, activations[_i / 5], 0, true);
    const double step = NF_SINGLE_BUILD ? 1e-2 : 1e-5, tolerance = NF_SINGLE_BUILD ? 2e-2 : 1e-8;
    double trace[PANEL] = {0}, square[PANEL] = {0};
    real up[DIM * PANEL], kept[DIM * PANEL];
    memcpy(kept, b->z, sizeof kept);
    for (size_t i = 0; i < DIM; i++) {
        for (size_t l = 0; l < PANEL; l++)
            b->z[i * PANEL + l] = (real)((double)kept[i * PANEL + l] + step);
        rates(b);
        memcpy(up, b->k, sizeof up);
        for (size_t l = 0; l < PANEL; l++)
            b->z[i * PANEL + l] = (real)((double)kept[i * PANEL + l] - step);
        rates(b);
        memcpy(b->z, kept, sizeof kept);
        for (size_t l = 0; l < PANEL; l++)
            for (size_t j = 0; j < DIM; j++) {
                const double d = ((double)up[j * PANEL + l] - (double)b->k[j * PANEL + l]) / (2 * step);
                trace[l] += i == j ? d : 0;
                square[l] += d * d;
            }
    }
    for (int wanted = 0; wanted < 2; wanted++) {
        b->shape.square = wanted == 1;
        rates(b);
        for (size_t l = 0; l < PANEL; l++) {
            ck_assert_msg(fabs((double)b->trace[l] - trace[l]) <= tolerance * 10, "trace %g, difference %g", (double)b->trace[l], trace[l]);
            if (wanted)
                ck_assert_msg(fabs((double)b->square[l] - square[l]) <= tolerance * (10 + square[l]), "norm %g, difference %g", (double)b->square[l], square[l]);
        }
    }
    release(b);
}
END_TEST

/* The folded weights and the tangents are two ways to the same numbers. */
START_TEST(both_ways_agree) {
    bench *b = setup((size_t)_i % 5, activations[_i / 5 % 4], _i / 20 ? 3 : 0, true), *c = setup((size_t)_i % 5, activations[_i / 5 % 4], _i / 20 ? 3 : 0, false);
    memset(b->d_square, 0, sizeof b->d_square);
    vjp(b);
    vjp(c);
    const double tolerance = 3e3 * (double)REAL_EPS;
    for (size_t i = 0; i < b->parameters; i++)
        ck_assert_msg(fabs((double)(b->gradient[i] - c->gradient[i])) <= tolerance * fmax(1, fabs((double)c->gradient[i])), "parameter %zu: %g, %g", i,
                      (double)b->gradient[i], (double)c->gradient[i]);
    for (size_t i = 0; i < DIM * PANEL; i++)
        ck_assert(fabs((double)(b->d_z[i] - c->d_z[i])) <= tolerance * fmax(1, fabs((double)c->d_z[i])));
    rates(b);
    rates(c);
    for (size_t l = 0; l < PANEL; l++)
        ck_assert(fabs((double)(b->trace[l] - c->trace[l])) <= tolerance * fmax(1, fabs((double)c->trace[l])));
    release(b);
    release(c);
}
END_TEST

START_TEST(hutchinson_is_unbiased) {
    bench *exact = setup((size_t)_i / 2, NF_TANH, 0, true), *b = setup((size_t)_i / 2, NF_TANH, 1, true);
    enum { DRAWS = 2000 };
    b->shape.normal = _i % 2 == 1;
    rates(exact);
    double sum[2] = {0}, square[2] = {0};
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        b->shape.noise_seed = 7000 + draw;
        rates(b);
        const double v[2] = {(double)b->trace[5], (double)b->square[5]};
        for (int q = 0; q < 2; q++) {
            sum[q] += v[q];
            square[q] += v[q] * v[q];
        }
    }
    const double expected[2] = {(double)exact->trace[5], (double)exact->square[5]};
    for (int q = 0; q < 2; q++) {
        const double mean = sum[q] / DRAWS, error = sqrt(fmax(square[q] / DRAWS - mean * mean, 0) / DRAWS);
        ck_assert_msg(fabs(mean - expected[q]) <= 3 * error + 1e-6, "depth %d: mean %g, standard error %g, exact %g", _i / 2, mean, error, expected[q]);
        ck_assert(error > 0);
    }
    release(exact);
    release(b);
}
END_TEST

START_TEST(lanes_do_not_notice_each_other) {
    bench *b = setup_case(_i);
    real k[DIM * PANEL], trace[PANEL];
    rates(b);
    memcpy(k, b->k, sizeof k);
    memcpy(trace, b->trace, sizeof trace);
    for (size_t i = 0; i < DIM; i++)
        for (size_t l = 0; l < PANEL; l++)
            if (l != 3)
                b->z[i * PANEL + l] *= (real)-1.7;
    rates(b);
    ck_assert(memcmp(&trace[3], &b->trace[3], sizeof(real)) == 0);
    ck_assert(memcmp(k, b->k, sizeof k) != 0);
    for (size_t i = 0; i < DIM; i++)
        ck_assert(memcmp(&k[i * PANEL + 3], &b->k[i * PANEL + 3], sizeof(real)) == 0);
    release(b);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("field_mlp");
    TCase *c = tcase_create("field_mlp");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, vjps_agree_with_differences, 0, CASES);
    tcase_add_loop_test(c, trace_and_norm_are_those_of_the_jacobian, 0, 20);
    tcase_add_loop_test(c, both_ways_agree, 0, CASES);
    tcase_add_loop_test(c, hutchinson_is_unbiased, 0, 10);
    tcase_add_loop_test(c, lanes_do_not_notice_each_other, 0, CASES);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
