/* engine-test: built once for each precision and instruction set, with the flags of the engine */
/*
 * The dense kernels. Where the order of summation is promised, they must have the bits of a plain loop in that order;
 * everything is also compared with OpenBLAS in double precision. NFLOW_TEST_SEED in the environment replaces the seed of the
 * random shapes.
 */
#include "checks.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#include "engine/kernels/activation.h"
#include "engine/kernels/dense.h"

#define GUARD 32 /* reals on either side of a buffer that must not change */
/* Every other one is -0, so that even adding 0 leaves a trace. */
static real guard_value(size_t i) { return i % 2 == 0 ? (real)-2.385e7 : (real)-0.0; }
static int same_bits(real a, real b) { return memcmp(&a, &b, sizeof a) == 0; }

static uint64_t seed, state;

static uint64_t next(void) { /* splitmix64 */
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t between(size_t low, size_t high) { return low + (size_t)(next() % (high - low + 1)); }

static real number(void) { return (real)((double)(next() >> 11) * 0x1p-53 * 4.77 - 2.385); }

static void set_up(void) { state = seed = seed_given(2385); }

/* A buffer of `count` random reals, aligned unless `offset`, between guards. */
typedef struct buffer {
    real *base, *data;
    size_t count, offset;
} buffer;

static buffer make(size_t count, size_t offset) {
    const size_t total = count + offset + 2 * GUARD;
    buffer b = {.count = count, .offset = offset};
    b.base = aligned_alloc(NF_ALIGN, (total * sizeof(real) + NF_ALIGN - 1) / NF_ALIGN * NF_ALIGN);
    ck_assert_ptr_nonnull(b.base);
    b.data = b.base + GUARD + offset;
    for (size_t i = 0; i < total; i++)
        b.base[i] = guard_value(i);
    for (size_t i = 0; i < count; i++)
        b.data[i] = number();
    return b;
}

static buffer copy_of(const buffer *from) {
    buffer b = make(from->count, from->offset);
    memcpy(b.data, from->data, b.count * sizeof(real));
    return b;
}

static void check_guards(const buffer *b, const char *name) {
    for (size_t i = 0; i < GUARD + b->offset; i++)
        ck_assert_msg(same_bits(b->base[i], guard_value(i)), "%s: written before its start, seed %llu", name,
                      (unsigned long long)seed);
    const size_t end = GUARD + b->offset + b->count;
    for (size_t i = end; i < end + GUARD; i++)
        ck_assert_msg(same_bits(b->base[i], guard_value(i)), "%s: written beyond its end, seed %llu", name,
                      (unsigned long long)seed);
}

static void drop(buffer *b) { free(b->base); }

/* A layer and a batch of random shape. */
typedef struct problem {
    size_t out, in, panels, x_stride, y_stride;
    char text[160];
    buffer W, bias, X, Y;
} problem;

static problem make_problem(size_t out, size_t in, size_t panels) {
    problem p = {.out = out, .in = in, .panels = panels};
    p.x_stride = (in + between(0, 2)) * PANEL;
    p.y_stride = (out + between(0, 2)) * PANEL;
    snprintf(p.text, sizeof p.text, "out %zu in %zu panels %zu strides %zu %zu, seed %llu", out, in, panels, p.x_stride,
             p.y_stride, (unsigned long long)seed);
    p.W = make(out * in, between(0, 3));
    p.bias = make(out, between(0, 3));
    p.X = make(panels * p.x_stride, 0);
    p.Y = make(panels * p.y_stride, 0);
    return p;
}

static void drop_problem(problem *p) {
    drop(&p->W);
    drop(&p->bias);
    drop(&p->X);
    drop(&p->Y);
}

/* Sizes at the edges of strips, vectors, panels and cache blocks, and random ones; the last two beyond L2, in bands. */
static const size_t shapes[][2] = {/* out, in */
                                   {1, 0},    {5, 0},     {1, 1},   {32, 1},  {1, 32},  {2, 32},  {32, 32},
                                   {3, 7},    {4, 8},     {12, 16}, {13, 17}, {24, 33}, {25, 64}, {64, 64},
                                   {7, 31},   {8, 9},     {6, 48},  {16, 15}, {5, 600}, {600, 5}, {37, 257},
                                   {257, 40}, {14, 1100}, {2, 513}, {513, 9}, {11, 10}, {10, 100}, {4, 7},   {5, 8},    {3, 129}, {32, 257},
                                   {33, 40},  {16, 130},  {130, 96}, {200, 64},  {1100, 250}, {250, 1100}};
#define FIXED_SHAPES (sizeof shapes / sizeof shapes[0])
#define ALL_SHAPES (FIXED_SHAPES + 25)

static problem numbered_problem(size_t n) {
    const size_t panels = between(1, 8);
    if (n < FIXED_SHAPES)
        return make_problem(shapes[n][0], shapes[n][1], shapes[n][0] * shapes[n][1] > 100000 ? (panels + 3) / 4 : panels);
    const size_t out = between(1, 200), in = between(1, 200);
    return make_problem(out, in, panels);
}

/* A sum of the forward product as the contract has it: x is `step` reals from one input to the next. */
static real forward_sum(const problem *p, const real *bias, size_t j, const real *x, size_t step) {
    const size_t chains = p->in < 8 || p->out * sizeof(real) > 128 ? 1 : p->out > 4 ? 2 : 4;
    const real *w = p->W.data + j * p->in;
    real sum[4] = {bias ? bias[j] : 0};
    for (size_t first = 0, end; first < p->in; first = end) {
        end = first + 128 < p->in ? first + 128 : p->in;
        const size_t whole = (end - first) / chains * chains;
        for (size_t c = 1; c < chains; c++)
            sum[c] = 0;
        for (size_t k = 0; k < whole; k++)
            sum[k % chains] = madd(w[first + k], x[(first + k) * step], sum[k % chains]);
        if (chains == 4) {
            sum[0] += sum[2];
            sum[1] += sum[3];
        }
        if (chains > 1)
            sum[0] += sum[1];
        for (size_t k = first + whole; k < end; k++)
            sum[0] = madd(w[k], x[k * step], sum[0]);
    }
    return sum[0];
}

static void check_forward(const problem *p, const real *bias, size_t lanes) {
    for (size_t panel = 0; panel < p->panels; panel++) {
        const size_t used = panel + 1 == p->panels ? lanes : PANEL;
        for (size_t j = 0; j < p->out; j++) {
            for (size_t lane = 0; lane < used; lane++) {
                const real want = forward_sum(p, bias, j, p->X.data + panel * p->x_stride + lane, PANEL);
                const real got = p->Y.data[panel * p->y_stride + j * PANEL + lane];
                ck_assert_msg(same_bits(got, want), "Y[%zu][%zu][%zu] is %.17g and not %.17g: lanes %zu, %s", panel, j, lane,
                              (double)got, (double)want, lanes, p->text);
            }
        }
    }
    check_guards(&p->Y, "Y");
}

START_TEST(forward_sums_in_the_order_of_the_contract) {
    for (size_t n = 0; n < ALL_SHAPES; n++) {
        problem p = numbered_problem(n);
        const size_t lanes = between(1, PANEL);
        R(dense_forward)(p.out, p.in, p.W.data, p.bias.data, p.panels, p.X.data, p.x_stride, p.Y.data, p.y_stride, lanes);
        check_forward(&p, p.bias.data, lanes);
        R(dense_forward)(p.out, p.in, p.W.data, NULL, p.panels, p.X.data, p.x_stride, p.Y.data, p.y_stride, PANEL);
        check_forward(&p, NULL, PANEL);
        drop_problem(&p);
    }
}
END_TEST

/* W packed by one of the two functions, into a buffer at any place. */
static buffer pack(const problem *p, void (*by)(size_t, size_t, const real *, real *)) {
    buffer packed = make(p->out * p->in, between(0, 3));
    by(p->out, p->in, p->W.data, packed.data);
    check_guards(&packed, "packed");
    return packed;
}

START_TEST(packed_forward_sums_in_that_order_too) {
    for (size_t n = 0; n < ALL_SHAPES; n++) {
        problem p = numbered_problem(n);
        const size_t lanes = between(1, PANEL);
        buffer packed = pack(&p, R(dense_pack_forward));
        R(dense_packed_forward)(p.out, p.in, packed.data, p.bias.data, p.panels, p.X.data, p.x_stride, p.Y.data, p.y_stride, lanes);
        check_forward(&p, p.bias.data, lanes);
        R(dense_packed_forward)(p.out, p.in, packed.data, NULL, p.panels, p.X.data, p.x_stride, p.Y.data, p.y_stride, PANEL);
        check_forward(&p, NULL, PANEL);
        drop(&packed);
        drop_problem(&p);
    }
}
END_TEST

START_TEST(forward_of_every_count_of_lanes_has_the_same_bits) {
    for (size_t n = 0; n < 12; n++) {
        problem p = make_problem(between(1, 40), between(1, 40), n % 3 + 1);
        for (size_t lanes = 1; lanes <= PANEL; lanes++) {
            for (size_t i = 0; i < p.Y.count; i++)
                p.Y.data[i] = number();
            R(dense_forward)(p.out, p.in, p.W.data, p.bias.data, p.panels, p.X.data, p.x_stride, p.Y.data, p.y_stride, lanes);
            check_forward(&p, p.bias.data, lanes);
        }
        drop_problem(&p);
    }
}
END_TEST

/* All lanes of all panels hold one sample, except one lane, which holds NaN and infinities: no lane may notice. */
START_TEST(equal_samples_have_equal_bits_whatever_stands_beside_them) {
    for (size_t n = 0; n < 12; n++) {
        problem p = make_problem(between(1, 70), between(1, 70), between(1, 8));
        const size_t bad = between(1, p.panels * PANEL - 1);
        for (size_t i = 0; i < p.panels; i++) {
            for (size_t k = 0; k < p.in; k++) {
                real *row = p.X.data + i * p.x_stride + k * PANEL;
                for (size_t lane = 0; lane < PANEL; lane++)
                    row[lane] = p.X.data[k * PANEL];
                if (i == bad / PANEL)
                    row[bad % PANEL] = (real)(k % 2 == 0 ? NAN : INFINITY);
            }
        }
        R(dense_forward)(p.out, p.in, p.W.data, p.bias.data, p.panels, p.X.data, p.x_stride, p.Y.data, p.y_stride, PANEL);
        for (size_t j = 0; j < p.out; j++) {
            for (size_t l = 0; l < p.panels * PANEL; l++) {
                const real got = p.Y.data[l / PANEL * p.y_stride + j * PANEL + l % PANEL];
                if (l != bad)
                    ck_assert_msg(same_bits(got, p.Y.data[j * PANEL]), "row %zu lane %zu: %s", j, l, p.text);
                if (l == bad)
                    ck_assert_msg(!isfinite(got), "row %zu lane %zu: %s", j, l, p.text);
            }
        }
        drop_problem(&p);
    }
}
END_TEST

START_TEST(nothing_to_do_writes_nothing) {
    problem p = make_problem(13, 17, 2);
    buffer Y = copy_of(&p.Y), X = copy_of(&p.X), dW = make(p.W.count, 0);
    const buffer before = copy_of(&dW);
    R(dense_forward)(0, p.in, p.W.data, p.bias.data, 2, p.X.data, p.x_stride, p.Y.data, p.y_stride, PANEL);
    R(dense_forward)(p.out, p.in, p.W.data, p.bias.data, 0, p.X.data, p.x_stride, p.Y.data, p.y_stride, PANEL);
    R(dense_backward_input)(p.out, 0, p.W.data, 2, p.Y.data, p.y_stride, p.X.data, p.x_stride, 0, NULL);
    R(dense_backward_input)(p.out, p.in, p.W.data, 0, p.Y.data, p.y_stride, p.X.data, p.x_stride, 0, NULL);
    R(dense_backward_weights)(p.out, p.in, 0, p.Y.data, p.y_stride, p.X.data, p.x_stride, NULL, dW.data, NULL, false);
    ck_assert_mem_eq(p.Y.data, Y.data, Y.count * sizeof(real));
    ck_assert_mem_eq(p.X.data, X.data, X.count * sizeof(real));
    ck_assert_mem_eq(dW.data, before.data, dW.count * sizeof(real));
    drop(&Y);
    drop(&X);
    drop(&dW);
    free(before.base);
    drop_problem(&p);
}
END_TEST

static void check_input(const problem *p, const buffer *before, int accumulate, const real *slope) {
    for (size_t panel = 0; panel < p->panels; panel++) {
        for (size_t i = 0; i < p->in * PANEL; i++) {
            const size_t at = panel * p->x_stride + i;
            real want = accumulate ? before->data[at] : 0;
            for (size_t j = 0; j < p->out; j++)
                want = madd(p->W.data[j * p->in + i / PANEL], p->Y.data[panel * p->y_stride + j * PANEL + i % PANEL], want);
            want = slope ? want * slope[at] : want;
            ck_assert_msg(same_bits(p->X.data[at], want), "dX[%zu][%zu][%zu] is %.17g and not %.17g: %s", panel, i / PANEL, i % PANEL,
                          (double)p->X.data[at], (double)want, p->text);
        }
    }
    check_guards(&p->X, "dX");
}

START_TEST(backward_input_is_one_chain) {
    for (size_t n = 0; n < ALL_SHAPES; n++) {
        problem p = numbered_problem(n);
        buffer before = copy_of(&p.X), packed = pack(&p, R(dense_pack_backward)), slopes = copy_of(&p.X);
        for (size_t i = 0; i < slopes.count; i++)
            slopes.data[i] = number();
        for (int way = 0; way < 4; way++) {
            const int accumulate = way % 2;
            const real *slope = way < 2 ? NULL : slopes.data;
            memcpy(p.X.data, before.data, before.count * sizeof(real));
            R(dense_backward_input)(p.out, p.in, p.W.data, p.panels, p.Y.data, p.y_stride, p.X.data, p.x_stride, accumulate, slope);
            check_input(&p, &before, accumulate, slope);
            memcpy(p.X.data, before.data, before.count * sizeof(real));
            R(dense_packed_backward_input)(p.out, p.in, packed.data, p.panels, p.Y.data, p.y_stride, p.X.data, p.x_stride, accumulate, slope);
            check_input(&p, &before, accumulate, slope);
        }
        drop(&before);
        drop(&slopes);
        drop(&packed);
        drop_problem(&p);
    }
}
END_TEST

START_TEST(backward_input_of_a_range_is_a_part_of_the_whole) {
    for (size_t n = 0; n < 12; n++) {
        problem p = make_problem(between(1, 90), between(2, 90), between(1, 4));
        buffer whole = copy_of(&p.X), slopes = copy_of(&p.X);
        const real *slope = n % 2 ? slopes.data : NULL;
        R(dense_backward_input)(p.out, p.in, p.W.data, p.panels, p.Y.data, p.y_stride, whole.data, p.x_stride, 1, slope);
        for (size_t k0 = 0, k1; k0 < p.in; k0 = k1) {
            k1 = k0 + between(1, p.in - k0);
            R(dense_backward_input_range)
            (p.out, k1 - k0, p.W.data + k0, p.in, p.panels, p.Y.data, p.y_stride, p.X.data + k0 * PANEL, p.x_stride, 1,
             slope ? slope + k0 * PANEL : NULL);
        }
        ck_assert_msg(memcmp(whole.data, p.X.data, whole.count * sizeof(real)) == 0, "%s", p.text);
        drop(&whole);
        drop(&slopes);
        drop_problem(&p);
    }
}
END_TEST

/* The samples of a panelled matrix as rows of doubles, or their magnitudes. */
static double *as_rows(const buffer *b, size_t features, size_t panels, size_t stride, int magnitude) {
    double *rows = calloc(panels * PANEL * features + 1, sizeof(double));
    ck_assert_ptr_nonnull(rows);
    for (size_t i = 0; i < panels * PANEL; i++) {
        for (size_t k = 0; k < features; k++) {
            const double x = (double)b->data[i / PANEL * stride + k * PANEL + i % PANEL];
            rows[i * features + k] = magnitude ? fabs(x) : x;
        }
    }
    return rows;
}

static double *as_doubles(const buffer *b, int magnitude) {
    double *x = calloc(b->count + 1, sizeof(double));
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < b->count; i++)
        x[i] = magnitude ? fabs((double)b->data[i]) : (double)b->data[i];
    return x;
}

/* The bound on the rounding of a sum of `terms` products with magnitudes that add up to `magnitude`, in any order. */
static double rounding(size_t terms, double magnitude) { return ((double)terms + 3) * (double)REAL_EPS * magnitude; }

START_TEST(forward_and_input_agree_with_blas) {
    for (size_t n = 0; n < ALL_SHAPES; n++) {
        problem p = numbered_problem(n);
        if (p.in == 0) {
            drop_problem(&p);
            continue;
        }
        const int rows = (int)(p.panels * PANEL), out = (int)p.out, in = (int)p.in;
        double *want[2], *want_dx[2]; /* the products, and those of the magnitudes */
        for (int m = 0; m < 2; m++) {
            double *W = as_doubles(&p.W, m), *x = as_rows(&p.X, p.in, p.panels, p.x_stride, m);
            double *y = as_rows(&p.Y, p.out, p.panels, p.y_stride, m);
            want[m] = calloc((size_t)rows * p.out, sizeof(double));
            want_dx[m] = calloc((size_t)rows * p.in, sizeof(double));
            ck_assert(want[m] && want_dx[m]);
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, out, in, 1, x, in, W, in, 0, want[m], out);
            cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, in, out, 1, y, out, W, in, 0, want_dx[m], in);
            free(W);
            free(x);
            free(y);
        }
        buffer Y = make(p.Y.count, 0), dX = make(p.X.count, 0);
        R(dense_forward)(p.out, p.in, p.W.data, p.bias.data, p.panels, p.X.data, p.x_stride, Y.data, p.y_stride, PANEL);
        R(dense_backward_input)(p.out, p.in, p.W.data, p.panels, p.Y.data, p.y_stride, dX.data, p.x_stride, 0, NULL);
        double *y = as_rows(&Y, p.out, p.panels, p.y_stride, 0), *dx = as_rows(&dX, p.in, p.panels, p.x_stride, 0);
        for (size_t i = 0; i < (size_t)rows * p.out; i++) {
            const double bias = (double)p.bias.data[i % p.out];
            ck_assert_msg(fabs(y[i] - (bias + want[0][i])) <= rounding(p.in, want[1][i] + fabs(bias)), "Y: %s", p.text);
        }
        for (size_t i = 0; i < (size_t)rows * p.in; i++)
            ck_assert_msg(fabs(dx[i] - want_dx[0][i]) <= rounding(p.out, want_dx[1][i]), "dX: %s", p.text);
        free(y);
        free(dx);
        for (int m = 0; m < 2; m++) {
            free(want[m]);
            free(want_dx[m]);
        }
        drop(&Y);
        drop(&dX);
        drop_problem(&p);
    }
}
END_TEST

static void check_weights(const problem *p, const buffer *before, const buffer *dW, const buffer *bias_before,
                          const buffer *dbias) {
    const int rows = (int)(p->panels * PANEL), out = (int)p->out, in = (int)p->in;
    double *want[2], *want_bias[2];
    for (int m = 0; m < 2; m++) {
        double *x = as_rows(&p->X, p->in, p->panels, p->x_stride, m), *y = as_rows(&p->Y, p->out, p->panels, p->y_stride, m);
        want[m] = as_doubles(before, m);
        want_bias[m] = as_doubles(bias_before, m);
        if (in > 0)
            cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, in, rows, 1, y, out, x, in, 1, want[m], in);
        for (size_t i = 0; i < (size_t)rows * p->out; i++)
            want_bias[m][i % p->out] += y[i];
        free(x);
        free(y);
    }
    for (size_t i = 0; i < p->out * p->in; i++)
        ck_assert_msg(fabs((double)dW->data[i] - want[0][i]) <= rounding((size_t)rows, want[1][i]),
                      "dW[%zu][%zu] is %.17g and not %.17g: %s", i / p->in, i % p->in, (double)dW->data[i], want[0][i],
                      p->text);
    for (size_t j = 0; j < p->out; j++)
        ck_assert_msg(fabs((double)dbias->data[j] - want_bias[0][j]) <= rounding((size_t)rows, want_bias[1][j]),
                      "dbias[%zu] is %.17g and not %.17g: %s", j, (double)dbias->data[j], want_bias[0][j], p->text);
    for (int m = 0; m < 2; m++) {
        free(want[m]);
        free(want_bias[m]);
    }
}

START_TEST(weights_agree_with_blas_and_stay_in_their_memory) {
    for (size_t n = 0; n < ALL_SHAPES + 2; n++) {
        /* the last two: more panels than are summed in one go */
        problem p = n < ALL_SHAPES ? numbered_problem(n) : make_problem(13, n % 2 ? 5 : 35, 19);
        buffer dW = make(p.out * p.in, between(0, 3)), dbias = make(p.out, between(0, 3));
        buffer before = copy_of(&dW), bias_before = copy_of(&dbias);
        buffer scratch = make(R(dense_weights_scratch)(p.out, p.in, p.panels), 0);
        R(dense_backward_weights)
        (p.out, p.in, p.panels, p.Y.data, p.y_stride, p.X.data, p.x_stride, scratch.data, dW.data, dbias.data, false);
        check_weights(&p, &before, &dW, &bias_before, &dbias);
        check_guards(&scratch, "scratch");
        check_guards(&dW, "dW");
        check_guards(&dbias, "dbias");

        /* again, without the bias: the same bits, whatever stood in the scratch memory and wherever dW lies */
        buffer again = make(p.out * p.in, dW.offset + 1);
        memcpy(again.data, before.data, before.count * sizeof(real));
        for (size_t i = 0; i < scratch.count; i++)
            scratch.data[i] = number();
        R(dense_backward_weights)
        (p.out, p.in, p.panels, p.Y.data, p.y_stride, p.X.data, p.x_stride, scratch.data, again.data, NULL, false);
        ck_assert_msg(memcmp(again.data, dW.data, dW.count * sizeof(real)) == 0, "not repeated: %s", p.text);

        /* and over what is no number, as from zeros */
        for (size_t i = 0; i < dW.count; i++) {
            dW.data[i] = 0;
            again.data[i] = (real)NAN;
        }
        for (size_t j = 0; j < p.out; j++) {
            dbias.data[j] = 0;
            bias_before.data[j] = (real)NAN;
        }
        for (int fresh = 0; fresh < 2; fresh++)
            R(dense_backward_weights)
            (p.out, p.in, p.panels, p.Y.data, p.y_stride, p.X.data, p.x_stride, scratch.data, fresh ? again.data : dW.data,
             fresh ? bias_before.data : dbias.data, fresh);
        for (size_t i = 0; i < dW.count; i++)
            ck_assert_msg(again.data[i] == dW.data[i], "dW[%zu] is %g over NaN, and %g from 0: %s", i, (double)again.data[i], (double)dW.data[i], p.text);
        for (size_t j = 0; j < p.out; j++)
            ck_assert_msg(bias_before.data[j] == dbias.data[j], "dbias[%zu] is %g over NaN, and %g from 0: %s", j, (double)bias_before.data[j],
                          (double)dbias.data[j], p.text);
        check_guards(&again, "dW");
        drop(&again);
        drop(&dW);
        drop(&dbias);
        drop(&before);
        drop(&bias_before);
        drop(&scratch);
        drop_problem(&p);
    }
}
END_TEST

START_TEST(one_row_has_the_bits_of_a_lane) {
    for (size_t n = 0; n < ALL_SHAPES; n++) {
        problem p = numbered_problem(n);
        const size_t rows = n % 3 == 0 ? 1 : between(2, 13), width = dense_rows_width(p.out);
        const size_t x_stride = p.in + between(0, 5), y_stride = width + between(0, 2) * (NF_ALIGN / sizeof(real));
        const real *bias = n % 4 == 1 ? NULL : p.bias.data;
        buffer packed = make(dense_rows_packed(p.out, p.in), 0), x = make(rows * x_stride, between(0, 3));
        buffer y = make((rows - 1) * y_stride + width, 0);
        const size_t lane = between(0, PANEL - 1), panel = p.panels - 1;
        R(dense_rows_pack)(p.out, p.in, p.W.data, bias, packed.data);
        const size_t chosen = between(0, rows - 1);
        for (size_t k = 0; k < p.in; k++)
            x.data[chosen * x_stride + k] = p.X.data[panel * p.x_stride + k * PANEL + lane];
        R(dense_rows_forward)(p.out, p.in, packed.data, rows, x.data, x_stride, y.data, y_stride);
        R(dense_forward)(p.out, p.in, p.W.data, bias, p.panels, p.X.data, p.x_stride, p.Y.data, p.y_stride, lane + 1);
        for (size_t j = 0; j < p.out; j++)
            ck_assert_msg(same_bits(y.data[chosen * y_stride + j], p.Y.data[panel * p.y_stride + j * PANEL + lane]),
                          "feature %zu, row %zu of %zu: %s", j, chosen, rows, p.text);
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < p.out; j++) { /* the other rows, by the loop itself */
                const real want = forward_sum(&p, bias, j, x.data + i * x_stride, 1);
                ck_assert_msg(same_bits(y.data[i * y_stride + j], want), "row %zu of %zu: %s", i, rows, p.text);
            }
            for (size_t j = p.out; j < width; j++)
                ck_assert_msg(y.data[i * y_stride + j] == 0, "padding of row %zu of %zu: %s", i, rows, p.text);
        }
        check_guards(&packed, "packed");
        check_guards(&y, "y");
        drop(&packed);
        drop(&x);
        drop(&y);
        drop_problem(&p);
    }
}
END_TEST

START_TEST(gelu_of_one_row_is_that_of_its_layer) {
    for (size_t n = 0; n < ALL_SHAPES; n++) {
        problem p = numbered_problem(n);
        const size_t width = dense_rows_width(p.out);
        buffer packed = make(dense_rows_packed(p.out, p.in), 0), x = make(p.in, between(0, 3)), y = make(width, 0), want = make(width, 0);
        R(dense_rows_pack)(p.out, p.in, p.W.data, p.bias.data, packed.data);
        R(dense_rows_forward)(p.out, p.in, packed.data, 1, x.data, p.in, want.data, width);
        memcpy(y.data, want.data, width * sizeof(real));
        if (R(dense_row_gelu)(p.out, p.in, packed.data, x.data, y.data))
            R(activate)(NF_GELU, width, want.data);
        for (size_t j = 0; j < width; j++)
            ck_assert_msg(same_bits(y.data[j], want.data[j]), "feature %zu: %s", j, p.text);
        check_guards(&y, "y");
        drop(&packed);
        drop(&x);
        drop(&y);
        drop(&want);
        drop_problem(&p);
    }
}
END_TEST

static real halving(const real *row) {
    real x[NF_PANEL_BYTES / sizeof(real)];
    memcpy(x, row, sizeof x);
    for (size_t w = PANEL / 2; w > 0; w /= 2)
        for (size_t i = 0; i < w; i++)
            x[i] += x[i + w];
    return x[0];
}

START_TEST(panel_sums_are_halvings) {
    for (size_t n = 0; n < 50; n++) {
        problem p = make_problem(between(1, 40), between(0, 40), 1);
        buffer dW = make(p.out * p.in, 0), dbias = make(p.out, 0);
        buffer scratch = make(R(dense_weights_scratch)(p.out, p.in, 1), 0);
        for (size_t j = 0; j < p.out; j++)
            dbias.data[j] = 0;
        R(dense_backward_weights)
        (p.out, p.in, 1, p.Y.data, p.y_stride, p.X.data, p.x_stride, scratch.data, dW.data, dbias.data, false);
        for (size_t j = 0; j < p.out; j++) {
            const real *row = p.Y.data + j * PANEL;
            ck_assert_msg(same_bits(panel_sum(row), halving(row)), "row %zu: %s", j, p.text);
            ck_assert_msg(same_bits(dbias.data[j], halving(row)), "bias %zu: %s", j, p.text);
        }
        drop(&dW);
        drop(&dbias);
        drop(&scratch);
        drop_problem(&p);
    }
}
END_TEST

START_TEST(vectors_mean_what_scalars_mean) {
    buffer a = make(VEC_LANES * VEC_LANES, 0), b = make(VEC_LANES, 1), c = make(VEC_LANES, 0), d = make(VEC_LANES, 2);
    for (int n = 0; n < 200; n++) {
        for (size_t i = 0; i < VEC_LANES; i++) {
            a.data[i] = number();
            b.data[i] = number();
            /* a product that cancels shows whether it was rounded on its way */
            c.data[i] = n % 2 ? number() : -(a.data[i] * b.data[i]);
        }
        vec_storeu(d.data, vec_madd(vec_load(a.data), vec_loadu(b.data), vec_load(c.data)));
        for (size_t i = 0; i < VEC_LANES; i++)
            ck_assert(same_bits(d.data[i], madd(a.data[i], b.data[i], c.data[i])));
    }
    vec_storeu(d.data, vec_set1((real)-0.0));
    for (size_t i = 0; i < VEC_LANES; i++)
        ck_assert(signbit(d.data[i]) != 0);
    vec r[VEC_LANES];
    for (size_t i = 0; i < VEC_LANES * VEC_LANES; i++)
        a.data[i] = number();
    for (size_t i = 0; i < VEC_LANES; i++)
        r[i] = vec_load(a.data + i * VEC_LANES);
    vec_transpose(r);
    for (size_t i = 0; i < VEC_LANES; i++) {
        vec_storeu(d.data, r[i]);
        for (size_t j = 0; j < VEC_LANES; j++)
            ck_assert(same_bits(d.data[j], a.data[j * VEC_LANES + i]));
    }
    check_guards(&d, "stored vector");
    buffer from = make(VEC_LANES * 3 * PANEL, 0), to = make(VEC_LANES * 2 * PANEL, 0);
    const buffer before = copy_of(&to);
    vec_transpose_block(from.data, 3 * PANEL, to.data, 2 * PANEL);
    for (size_t j = 0; j < VEC_LANES; j++)
        for (size_t i = 0; i < 2 * PANEL; i++)
            ck_assert(same_bits(to.data[j * 2 * PANEL + i], i < VEC_LANES ? from.data[i * 3 * PANEL + j] : before.data[j * 2 * PANEL + i]));
    check_guards(&to, "transposed block");
    drop(&from);
    drop(&to);
    free(before.base);
    drop(&a);
    drop(&b);
    drop(&c);
    drop(&d);
}
END_TEST

Suite *dense_suite(void);
Suite *dense_suite(void) {
    Suite *suite = suite_create("dense");
    TCase *tcase = tcase_create("dense");
    tcase_add_checked_fixture(tcase, set_up, NULL);
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, forward_sums_in_the_order_of_the_contract);
    tcase_add_test(tcase, packed_forward_sums_in_that_order_too);
    tcase_add_test(tcase, forward_of_every_count_of_lanes_has_the_same_bits);
    tcase_add_test(tcase, equal_samples_have_equal_bits_whatever_stands_beside_them);
    tcase_add_test(tcase, nothing_to_do_writes_nothing);
    tcase_add_test(tcase, backward_input_is_one_chain);
    tcase_add_test(tcase, backward_input_of_a_range_is_a_part_of_the_whole);
    tcase_add_test(tcase, forward_and_input_agree_with_blas);
    tcase_add_test(tcase, weights_agree_with_blas_and_stay_in_their_memory);
    tcase_add_test(tcase, one_row_has_the_bits_of_a_lane);
    tcase_add_test(tcase, gelu_of_one_row_is_that_of_its_layer);
    tcase_add_test(tcase, panel_sums_are_halvings);
    tcase_add_test(tcase, vectors_mean_what_scalars_mean);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) { return run_suite(dense_suite()); }
