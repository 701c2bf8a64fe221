/* Philox4x32-10 against the known answers of its authors and, where the library is installed, against Random123 itself. */
#include <stdio.h>
#include <string.h>

#include "core/philox.h"
#include "support.h"

#if defined(__has_include)
#if __has_include(<Random123/philox.h>)
#define HAVE_RANDOM123 1
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#endif
#include <Random123/philox.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
#endif
#endif

/* Salmon et al. 2011, the answers published with their library: zeros, ones, and digits of pi. */
START_TEST(known_answers) {
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        nf_philox(cases[i].key, cases[i].counter, out);
        for (int k = 0; k < 4; k++)
            ck_assert_msg(out[k] == cases[i].expected[k], "case %zu, word %d: %08x, not %08x", i, k, out[k], cases[i].expected[k]);
    }
}
END_TEST

#ifdef HAVE_RANDOM123
START_TEST(agrees_with_random123) {
    random_source random = random_begin(1);
    for (int i = 0; i < 10000; i++) {
        philox4x32_ctr_t counter;
        philox4x32_key_t key;
        uint32_t c[4], k[2], out[4];
        for (int j = 0; j < 4; j++)
            counter.v[j] = c[j] = (uint32_t)random_bits(&random);
        for (int j = 0; j < 2; j++)
            key.v[j] = k[j] = (uint32_t)random_bits(&random);
        const philox4x32_ctr_t expected = philox4x32(counter, key);
        nf_philox(k, c, out);
        ck_assert_msg(memcmp(out, expected.v, sizeof out) == 0, "counter %08x %08x %08x %08x, key %08x %08x", c[0], c[1], c[2], c[3], k[0], k[1]);
    }
}
END_TEST
#endif

START_TEST(the_key_is_the_first_half_of_a_block) {
    const uint64_t seed = 0x243f6a8885a308d3u, stream = 0xa4093822299f31d0u;
    const uint32_t seed_key[2] = {0x85a308d3, 0x243f6a88}, counter[4] = {0x299f31d0, 0xa4093822, 0, 0};
    uint32_t block[4], key[2];
    nf_philox(seed_key, counter, block);
    nf_philox_key(seed, stream, key);
    ck_assert_uint_eq(key[0], block[0]);
    ck_assert_uint_eq(key[1], block[1]);
}
END_TEST

START_TEST(a_sequence_walks_through_blocks) {
    nf_sequence s = nf_sequence_begin(17, 4);
    uint32_t key[2], block[4];
    nf_philox_key(17, 4, key);
    for (uint32_t position = 0; position < 5; position++) {
        const uint32_t counter[4] = {position, 0, 0, 0};
        nf_philox(key, counter, block);
        ck_assert_uint_eq(nf_sequence_bits(&s), block[0] | (uint64_t)block[1] << 32);
        ck_assert_uint_eq(nf_sequence_bits(&s), block[2] | (uint64_t)block[3] << 32);
    }
}
END_TEST

/* 200000 draws: uniform in 10 cells (chi-square with 9 degrees of freedom below 40 has probability 1 - 1e-5), below n, normal moments. */
START_TEST(draws_are_distributed_as_they_say) {
    enum { DRAWS = 200000 };
    nf_sequence s = nf_sequence_begin(test_seed(), 8);
    double cells[10] = {0}, thirds[3] = {0}, mean = 0, square = 0, fourth = 0, chi = 0, chi3 = 0;
    for (int i = 0; i < DRAWS; i++) {
        const double u = nf_sequence_uniform(&s);
        ck_assert(u > 0.0 && u < 1.0);
        cells[(int)(10.0 * u)]++;
        const uint64_t third = nf_sequence_below(&s, 3);
        ck_assert_uint_lt(third, 3);
        thirds[third]++;
        const double z = nf_sequence_normal(&s);
        mean += z / DRAWS;
        square += z * z / DRAWS;
        fourth += z * z * z * z / DRAWS;
    }
    for (int k = 0; k < 10; k++)
        chi += (cells[k] - DRAWS / 10.0) * (cells[k] - DRAWS / 10.0) / (DRAWS / 10.0);
    for (int k = 0; k < 3; k++)
        chi3 += (thirds[k] - DRAWS / 3.0) * (thirds[k] - DRAWS / 3.0) / (DRAWS / 3.0);
    ck_assert_msg(chi < 40.0, "chi-square %g of uniforms (seed %llu)", chi, (unsigned long long)test_seed());
    ck_assert_msg(chi3 < 25.0, "chi-square %g of thirds (seed %llu)", chi3, (unsigned long long)test_seed());
    /* Five standard errors: sqrt(1/n), sqrt(2/n), sqrt(96/n). */
    must_agree("mean", mean < 0 ? -mean : mean, 0.0112);
    must_agree("variance", square < 1 ? 1 - square : square - 1, 0.0159);
    must_agree("fourth moment", fourth < 3 ? 3 - fourth : fourth - 3, 0.11);
    for (uint64_t n = 1; n < 70; n++)
        ck_assert_uint_lt(nf_sequence_below(&s, n), n);
    ck_assert_uint_eq(nf_sequence_below(&s, 1), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("philox");
    TCase *all = tcase_create("all");
    tcase_add_test(all, known_answers);
#ifdef HAVE_RANDOM123
    tcase_add_test(all, agrees_with_random123);
#else
    printf("Random123 is not installed: the known answers stand alone\n");
#endif
    tcase_add_test(all, the_key_is_the_first_half_of_a_block);
    tcase_add_test(all, a_sequence_walks_through_blocks);
    tcase_add_test(all, draws_are_distributed_as_they_say);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
