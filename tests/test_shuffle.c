/* The order of rows that is computed instead of stored. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/shuffle.h"
#include "support.h"

static void check_permutation(uint64_t seed, uint64_t stream, uint64_t n) {
    const nf_shuffle s = nf_shuffle_begin(seed, stream, n);
    unsigned char *seen = new_bytes(n);
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t at = nf_shuffle_at(&s, i);
        ck_assert_msg(at < n && !seen[at], "%llu things: place %llu has %llu", (unsigned long long)n, (unsigned long long)i, (unsigned long long)at);
        seen[at] = 1;
    }
    free(seen);
}

START_TEST(is_a_permutation) {
    random_source random = random_begin(1);
    for (uint64_t n = 1; n <= 300; n++)
        check_permutation(random_bits(&random), n, n);
    const uint64_t larger[] = {1023, 1024, 1025, 4095, 4097, 16384, 65535, 65536, 65537, 262145, 1000003};
    for (size_t k = 0; k < sizeof larger / sizeof larger[0]; k++)
        check_permutation(random_bits(&random), 3, larger[k]);
}
END_TEST

/* Counts that no array could hold still have distinct places below them. */
START_TEST(works_for_counts_beyond_memory) {
    const uint64_t counts[] = {(uint64_t)1 << 40, ((uint64_t)1 << 40) + 1, UINT64_MAX, (uint64_t)1 << 63};
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        const nf_shuffle s = nf_shuffle_begin(5, 6, counts[k]);
        uint64_t at[200];
        for (uint64_t i = 0; i < 200; i++) {
            at[i] = nf_shuffle_at(&s, i * (counts[k] / 200));
            ck_assert_uint_lt(at[i], counts[k]);
            for (uint64_t j = 0; j < i; j++)
                ck_assert_uint_ne(at[i], at[j]);
        }
    }
}
END_TEST

START_TEST(seed_and_stream_decide) {
    const nf_shuffle s = nf_shuffle_begin(5, 6, 1000), same = nf_shuffle_begin(5, 6, 1000), seed = nf_shuffle_begin(7, 6, 1000),
                     stream = nf_shuffle_begin(5, 8, 1000);
    size_t by_seed = 0, by_stream = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        ck_assert_uint_eq(nf_shuffle_at(&s, i), nf_shuffle_at(&same, i));
        by_seed += nf_shuffle_at(&s, i) == nf_shuffle_at(&seed, i);
        by_stream += nf_shuffle_at(&s, i) == nf_shuffle_at(&stream, i);
    }
    ck_assert_uint_lt(by_seed, 12); /* on average 1 place has the same thing */
    ck_assert_uint_lt(by_stream, 12);
}
END_TEST

/* Exceeded with probability 3e-7: Wilson & Hilferty's approximation (1931) at five standard deviations. */
static double most_of_chi_square(double freedom) {
    if (freedom == 0.0)
        return 0.0;
    const double spread = 2.0 / (9.0 * freedom), root = 1.0 - spread + 5.0 * sqrt(spread);
    return freedom * root * root * root;
}

/*
 * Over many keys each thing is as often at each place: a chi-square with (n - 1)^2 degrees of freedom; and the thing at the
 * next place does not follow from the one before: chi-square of the pair (first, second).
 */
START_TEST(every_place_is_as_likely) {
    enum { MOST = 40, KEYS = 50000 };
    const uint64_t n = (uint64_t)(const int[]){2, 3, 5, 8, 16, 17, 33, 40}[_i];
    static double at[MOST][MOST], pairs[MOST][MOST];
    memset(at, 0, sizeof at);
    memset(pairs, 0, sizeof pairs);
    for (uint64_t key = 0; key < KEYS; key++) {
        const nf_shuffle s = nf_shuffle_begin(test_seed(), key, n);
        for (uint64_t i = 0; i < n; i++)
            at[i][nf_shuffle_at(&s, i)]++;
        pairs[nf_shuffle_at(&s, 0)][nf_shuffle_at(&s, 1)]++;
    }
    double chi = 0, chi_pairs = 0;
    const double expected = KEYS / (double)n, expected_pair = KEYS / (double)(n * (n - 1));
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t j = 0; j < n; j++) {
            chi += (at[i][j] - expected) * (at[i][j] - expected) / expected;
            if (i != j)
                chi_pairs += (pairs[i][j] - expected_pair) * (pairs[i][j] - expected_pair) / expected_pair;
        }
    const double freedom = (double)((n - 1) * (n - 1)), pair_freedom = (double)(n * (n - 1) - 1);
    must_agree("places", chi, most_of_chi_square(freedom));
    must_agree("pairs", chi_pairs, most_of_chi_square(pair_freedom));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("shuffle");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60);
    tcase_add_test(all, is_a_permutation);
    tcase_add_test(all, works_for_counts_beyond_memory);
    tcase_add_test(all, seed_and_stream_decide);
    tcase_add_loop_test(all, every_place_is_as_likely, 0, 8);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
