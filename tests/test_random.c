/* Samples: what an identity flow draws is its base, each number a function of seed, stream, position and coordinate alone. */
#include <math.h>
#include <stdlib.h>

#include "core/philox.h"
#include "support.h"

static nf_flow *identity(size_t dim, nf_precision precision) {
    nf_flow *flow;
    must(nf_flow_create(dim, 0, precision, &flow));
    return flow;
}

/* Box & Muller on the words of Philox, as the header says. */
static double expected_normal(nf_rng rng, uint64_t row, size_t coordinate) {
    const uint64_t position = rng.position + row, block = coordinate / 2;
    const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), (uint32_t)block, (uint32_t)(block >> 32)};
    uint32_t key[2], out[4];
    nf_philox_key(rng.seed, rng.stream, key);
    nf_philox(key, counter, out);
    const double u = ((double)((out[0] | (uint64_t)out[1] << 32) >> 11) + 1.0) * 0x1p-53;
    const double turn = (double)((int64_t)(out[2] | (uint64_t)out[3] << 32) >> 11) * 0x1p-53;
    const double radius = sqrt(-2.0 * log(u)), angle = 6.283185307179586477 * turn;
    return radius * (coordinate % 2 ? sin(angle) : cos(angle));
}

START_TEST(numbers_are_those_of_the_counter) {
    const nf_rng starts[] = {{0, 0, 0}, {2385, 1, 17}, {UINT64_MAX, UINT64_MAX, 4294967290u}, {1, 2, UINT64_MAX - 3}};
    for (size_t k = 0; k < sizeof starts / sizeof starts[0]; k++) {
        enum { ROWS = 133, DIM = 5 };
        nf_flow *flow = identity(DIM, NF_DOUBLE);
        nf_rng rng = starts[k];
        double x[ROWS * DIM];
        must(nf_sample(flow, NULL, &rng, ROWS, NULL, x, NULL));
        for (size_t r = 0; r < ROWS; r++)
            for (size_t i = 0; i < DIM; i++) {
                const double expected = expected_normal(starts[k], r, i);
                ck_assert_msg(fabs(x[r * DIM + i] - expected) <= 1e-13, "start %zu, row %zu, coordinate %zu: %.17g, not %.17g", k, r, i, x[r * DIM + i], expected);
            }
        ck_assert(rng.seed == starts[k].seed && rng.stream == starts[k].stream);
        ck_assert_uint_eq(rng.position, starts[k].position + ROWS);
        nf_flow_free(flow);
    }
}
END_TEST

START_TEST(batches_and_threads_draw_the_same) {
    enum { ROWS = 700, DIM = 3 };
    nf_flow *flow = make_realnvp(DIM, 0, NF_DOUBLE, NULL);
    nf_workspace *ws;
    must(nf_workspace_create(flow, 3, &ws));
    double *all = new_numbers(ROWS * DIM), *parts = new_numbers(ROWS * DIM), *p = new_numbers(ROWS), *q = new_numbers(ROWS);
    nf_rng rng = {5, 6, 1000}, piecewise = rng;
    must(nf_sample(flow, ws, &rng, ROWS, NULL, all, p));
    for (size_t first = 0, rows = 1; first < ROWS; first += rows, rows = rows * 2 + 1) {
        if (rows > ROWS - first)
            rows = ROWS - first;
        must(nf_sample(flow, NULL, &piecewise, rows, NULL, parts + first * DIM, q + first));
    }
    same_bits("samples", parts, all, ROWS * DIM);
    same_bits("log_prob", q, p, ROWS);
    ck_assert_uint_eq(piecewise.position, rng.position);

    /* A later start finds the same rows. */
    nf_rng later = {5, 6, 1123};
    must(nf_sample(flow, ws, &later, 10, NULL, parts, NULL));
    same_bits("samples from a later position", parts, all + 123 * DIM, 10 * DIM);
    free(all);
    free(parts);
    free(p);
    free(q);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}
END_TEST

START_TEST(single_draws_the_same_numbers_rounded) {
    enum { ROWS = 200, DIM = 4 };
    nf_flow *wide = identity(DIM, NF_DOUBLE), *narrow = identity(DIM, NF_SINGLE);
    double a[ROWS * DIM], b[ROWS * DIM];
    nf_rng rng = {9, 9, 9}, same = rng;
    must(nf_sample(wide, NULL, &rng, ROWS, NULL, a, NULL));
    must(nf_sample(narrow, NULL, &same, ROWS, NULL, b, NULL));
    for (size_t i = 0; i < ROWS * DIM; i++)
        ck_assert_msg(b[i] == (double)(float)a[i], "number %zu: %.17g in double, %.17g in single", i, a[i], b[i]);
    nf_flow_free(wide);
    nf_flow_free(narrow);
}
END_TEST

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The distance of Kolmogorov and Smirnov to N(0, 1); sorts. */
static double ks_distance(double *x, size_t n) {
    double worst = 0;
    qsort(x, n, sizeof *x, ascending);
    for (size_t i = 0; i < n; i++) {
        const double cdf = 0.5 * erfc(-x[i] * 0.70710678118654752440);
        worst = fmax(worst, fmax((double)(i + 1) / (double)n - cdf, cdf - (double)i / (double)n));
    }
    return worst;
}

/* Moments within five standard errors, the distribution within KS distance 2.6 / sqrt(n) (exceeded with probability 3e-6), coordinates uncorrelated. */
START_TEST(samples_are_standard_normal) {
    enum { ROWS = 100000, DIM = 3 };
    nf_flow *flow = identity(DIM, _i ? NF_SINGLE : NF_DOUBLE);
    double *x = new_numbers(ROWS * DIM), *column = new_numbers(ROWS), *log_prob = new_numbers(ROWS);
    const double n = ROWS;
    nf_rng rng = {test_seed(), 4, 0};
    must(nf_sample(flow, NULL, &rng, ROWS, NULL, x, log_prob));
    for (size_t i = 0; i < DIM; i++) {
        double moment[5] = {0}, cross = 0, next = 0;
        for (size_t r = 0; r < ROWS; r++) {
            const double v = x[r * DIM + i];
            for (int k = 1; k <= 4; k++)
                moment[k] += pow(v, k) / n;
            cross += v * x[r * DIM + (i + 1) % DIM] / n;
            next += r + 1 < ROWS ? v * x[(r + 1) * DIM + i] / n : 0.0;
            column[r] = v;
        }
        must_agree("mean", fabs(moment[1]), 5 * sqrt(1 / n));
        must_agree("second moment", fabs(moment[2] - 1), 5 * sqrt(2 / n));
        must_agree("third moment", fabs(moment[3]), 5 * sqrt(15 / n));
        must_agree("fourth moment", fabs(moment[4] - 3), 5 * sqrt(96 / n));
        must_agree("correlation of coordinates", fabs(cross), 5 * sqrt(1 / n));
        must_agree("correlation of rows", fabs(next), 5 * sqrt(1 / n));
        must_agree("KS distance", ks_distance(column, ROWS), 2.6 / sqrt(n));
    }
    double mean = 0; /* minus the entropy, whose standard error is sqrt(DIM / 2n) */
    for (size_t r = 0; r < ROWS; r++)
        mean += log_prob[r] / n;
    must_agree("entropy", fabs(mean + DIM * (0.5 + 0.91893853320467274178)), 5 * sqrt(DIM / (2 * n)));
    free(x);
    free(column);
    free(log_prob);
    nf_flow_free(flow);
}
END_TEST

START_TEST(the_base_has_its_mean_and_sd) {
    const double mean[] = {2.385, -17.5}, sd[] = {0.125, 385.0};
    double x[2 * 40], z[2 * 40], log_prob[40], again[40];
    nf_flow *flow = identity(2, NF_DOUBLE);
    nf_rng rng = {3, 2, 1}, same = rng;
    must(nf_sample(flow, NULL, &same, 40, NULL, z, NULL));
    must(nf_flow_set_base_normal(flow, mean, sd));
    must(nf_sample(flow, NULL, &rng, 40, NULL, x, log_prob));
    for (size_t r = 0; r < 40; r++)
        for (size_t i = 0; i < 2; i++) {
            const double expected = mean[i] + sd[i] * z[2 * r + i];
            must_agree("sample", whole_error(&x[2 * r + i], &expected, 1), 1e-14);
        }
    must(nf_log_prob(flow, NULL, 40, x, NULL, again));
    same_bits("log_prob of samples", again, log_prob, 40);
    nf_flow_free(flow);
}
END_TEST

/* P(N(0, 1) > x), far out as well. */
static double tail_of(double x) { return 0.5 * erfc(x * 0.70710678118654752440); }

/*
 * A hundred million numbers: how many lie beyond 1, 2, ... 5, on either side, and the largest of all, which is m or less with probability
 * (1 - tail(m))^n. Each check fails by chance once in some millions of seeds.
 */
START_TEST(tails_are_those_of_the_normal) {
    enum { DIM = 50, ROWS = 20000, SIGMAS = 5 };
    const int calls = is_brief() ? 10 : 100;
    nf_flow *flow = identity(DIM, NF_DOUBLE);
    nf_workspace *ws;
    must(nf_workspace_create(flow, 1, &ws));
    double *x = new_numbers((size_t)ROWS * DIM), most[2] = {0, 0};
    uint64_t beyond[2][SIGMAS + 1] = {{0}};
    nf_rng rng = {test_seed(), 17, 0};
    for (int c = 0; c < calls; c++) {
        must(nf_sample(flow, ws, &rng, ROWS, NULL, x, NULL));
        for (size_t i = 0; i < (size_t)ROWS * DIM; i++) {
            const int side = x[i] < 0;
            const double size = fabs(x[i]);
            beyond[side][size < SIGMAS ? (int)size : SIGMAS]++;
            most[side] = size > most[side] ? size : most[side];
        }
    }
    const double n = (double)DIM * ROWS * calls;
    for (int side = 0; side < 2; side++) {
        double count = 0;
        for (int k = SIGMAS; k >= 1; k--) {
            const double p = tail_of(k);
            count += (double)beyond[side][k];
            must_agree("numbers in the tail", fabs(count - n * p), 5.3 * sqrt(n * p) + 3);
        }
        const double below = exp(-n * tail_of(most[side])); /* uniform in (0, 1) */
        ck_assert_msg(below > 1e-7 && below < 1 - 1e-7, "the largest of %g normals is %.3f, which has probability %g (seed %llu)", n, most[side], below,
                      (unsigned long long)test_seed());
    }
    free(x);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("samples");
    TCase *all = tcase_create("all");
    tcase_add_test(all, numbers_are_those_of_the_counter);
    tcase_add_test(all, batches_and_threads_draw_the_same);
    tcase_add_test(all, single_draws_the_same_numbers_rounded);
    tcase_add_loop_test(all, samples_are_standard_normal, 0, 2);
    tcase_add_test(all, the_base_has_its_mean_and_sd);
    tcase_add_test(all, tails_are_those_of_the_normal);
    tcase_set_timeout(all, 300);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
