/* engine-test: the optimal pairing against all permutations, and on the line, where sorting is optimal. */
#include "checks.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"
#include "engine/train/pairing.h"

enum { MOST = 128, DIM = 3 };

typedef struct pair_case {
    size_t n, dim;
    _Alignas(NF_ALIGN) real a[MOST * DIM], b[MOST * DIM];
    size_t partner[MOST];
} pair_case;

static real *at(real *panels, size_t dim, size_t i, size_t f) { return panels + i / PANEL * dim * PANEL + f * PANEL + i % PANEL; }

static void pair_all(pair_case *c, real *scratch) {
    size_t lane[MOST];
    for (size_t i = 0; i < c->n; i++)
        lane[i] = i;
    R(pair_samples)(c->n, lane, c->dim, c->a, c->b, scratch, c->partner);
}

static pair_case *draw(size_t n, size_t dim, uint64_t stream) {
    pair_case *c = aligned_alloc(NF_ALIGN, (sizeof *c + NF_ALIGN - 1) / NF_ALIGN * NF_ALIGN);
    ck_assert_ptr_nonnull(c);
    memset(c, 0, sizeof *c);
    c->n = n;
    c->dim = dim;
    nf_sequence s = nf_sequence_begin(2385, stream);
    for (size_t i = 0; i < n; i++)
        for (size_t f = 0; f < dim; f++) {
            *at(c->a, dim, i, f) = (real)nf_sequence_normal(&s);
            *at(c->b, dim, i, f) = (real)(2.385 * nf_sequence_normal(&s));
        }
    real *scratch = aligned_alloc(NF_ALIGN, R(pairing_scratch)(n) * sizeof(real) + NF_ALIGN);
    ck_assert_ptr_nonnull(scratch);
    pair_all(c, scratch);
    free(scratch);
    return c;
}

static double cost_of(pair_case *c, const size_t *partner) {
    double sum = 0;
    for (size_t i = 0; i < c->n; i++)
        for (size_t f = 0; f < c->dim; f++) {
            const double e = (double)*at(c->a, c->dim, i, f) - (double)*at(c->b, c->dim, partner[i], f);
            sum += e * e;
        }
    return sum;
}

static void must_be_a_permutation(const pair_case *c) {
    unsigned char seen[MOST] = {0};
    for (size_t i = 0; i < c->n; i++) {
        ck_assert_uint_lt(c->partner[i], c->n);
        ck_assert(!seen[c->partner[i]]);
        seen[c->partner[i]] = 1;
    }
}

/* The least cost of all permutations of order[k..]. */
static double least(pair_case *c, size_t *order, size_t k) {
    if (k + 1 >= c->n)
        return cost_of(c, order);
    double best = INFINITY;
    for (size_t i = k; i < c->n; i++) {
        const size_t keep = order[k];
        order[k] = order[i];
        order[i] = keep;
        best = fmin(best, least(c, order, k + 1));
        order[i] = order[k];
        order[k] = keep;
    }
    return best;
}

START_TEST(no_permutation_is_cheaper) {
    for (size_t n = 1; n <= 7; n++) {
        pair_case *c = draw(n, DIM, 10 * (uint64_t)_i + n);
        size_t order[MOST];
        for (size_t i = 0; i < n; i++)
            order[i] = i;
        must_be_a_permutation(c);
        const double got = cost_of(c, c->partner), best = least(c, order, 0);
        ck_assert_msg(got <= best * (1 + 16 * (double)REAL_EPS), "%zu samples: %.9g, best %.9g", n, got, best);
        free(c);
    }
}
END_TEST

static int ascending(const void *a, const void *b) {
    const real x = *(const real *)a, y = *(const real *)b;
    return (x > y) - (x < y);
}

START_TEST(on_the_line_it_sorts) {
    pair_case *c = draw(MOST, 1, (uint64_t)_i);
    real a[MOST], b[MOST];
    must_be_a_permutation(c);
    memcpy(a, c->a, sizeof a);
    memcpy(b, c->b, sizeof b);
    qsort(a, MOST, sizeof *a, ascending);
    qsort(b, MOST, sizeof *b, ascending);
    double best = 0;
    for (size_t i = 0; i < MOST; i++)
        best += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    ck_assert_double_le(cost_of(c, c->partner), best * (1 + 64 * (double)REAL_EPS));
    free(c);
}
END_TEST

START_TEST(equal_samples_are_fine) {
    pair_case *c = draw(MOST, DIM, 7);
    real *scratch = aligned_alloc(NF_ALIGN, R(pairing_scratch)(MOST) * sizeof(real) + NF_ALIGN);
    ck_assert_ptr_nonnull(scratch);
    memset(c->a, 0, sizeof c->a);
    memset(c->b, 0, sizeof c->b);
    pair_all(c, scratch);
    must_be_a_permutation(c);
    /* Samples so far away that their distance is beyond the numbers still find somebody. */
    for (size_t i = 0; i < MOST; i++)
        *at(c->b, DIM, i, 1) = i % 3 ? REAL_MAX / 2 : (real)i;
    pair_all(c, scratch);
    must_be_a_permutation(c);
    free(scratch);
    free(c);
}
END_TEST

/* Lanes that are not named take no part: the others have the pairs that they would have without them. */
START_TEST(some_lanes_are_paired_as_if_alone) {
    pair_case *c = draw(MOST, DIM, 20), *few = draw(MOST / 3, DIM, 21);
    size_t lane[MOST], count = 0;
    for (size_t l = 0; l < MOST && count < few->n; l += l % 5 == 1 ? 4 : 1)
        lane[count++] = l;
    few->n = count;
    for (size_t i = 0; i < count; i++)
        for (size_t f = 0; f < DIM; f++) {
            *at(few->a, DIM, i, f) = *at(c->a, DIM, lane[i], f);
            *at(few->b, DIM, i, f) = *at(c->b, DIM, lane[i], f);
        }
    real *scratch = aligned_alloc(NF_ALIGN, R(pairing_scratch)(MOST) * sizeof(real) + NF_ALIGN);
    ck_assert_ptr_nonnull(scratch);
    pair_all(few, scratch);
    for (size_t l = 0; l < MOST; l++)
        c->partner[l] = MOST;
    R(pair_samples)(count, lane, DIM, c->a, c->b, scratch, c->partner);
    for (size_t i = 0, l = 0; l < MOST; l++) {
        const bool named = i < count && lane[i] == l;
        ck_assert_uint_eq(c->partner[l], named ? lane[few->partner[i]] : MOST);
        i += named;
    }
    free(scratch);
    free(c);
    free(few);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pairing");
    TCase *c = tcase_create("pairing");
    tcase_add_loop_test(c, no_permutation_is_cheaper, 0, 8);
    tcase_add_loop_test(c, on_the_line_it_sorts, 0, 4);
    tcase_add_test(c, equal_samples_are_fine);
    tcase_add_test(c, some_lanes_are_paired_as_if_alone);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
