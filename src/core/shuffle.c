#include "core/shuffle.h"

#include "core/philox.h"

nf_shuffle nf_shuffle_begin(uint64_t seed, uint64_t stream, uint64_t count) {
    nf_shuffle s = {.count = count, .half_bits = 1};
    while (s.half_bits < 32 && (count - 1) >> (2 * s.half_bits) != 0)
        s.half_bits++;
    s.rounds = s.half_bits <= 2 ? NF_SHUFFLE_MOST_ROUNDS : NF_SHUFFLE_ROUNDS;
    nf_sequence random = nf_sequence_begin(seed, stream);
    for (unsigned i = 0; i < s.rounds; i++)
        s.keys[i] = nf_sequence_bits(&random);
    return s;
}

/* A function of a half and a key; any will do for a Feistel network to be a bijection. This one mixes by multiplying. */
static uint64_t mix(uint64_t half, uint64_t key) {
    uint64_t h = (half ^ key) * 0x9E3779B97F4A7C15u;
    h ^= h >> 29;
    h *= 0xBF58476D1CE4E5B9u;
    return h >> 31;
}

/*
 * A Feistel network (Luby & Rackoff 1988) on 2 half_bits bits, walked until the result lies below count (Black & Rogaway 2002,
 * "Ciphers with arbitrary finite domains", section 4): fewer than four turns on average.
 */
uint64_t nf_shuffle_at(const nf_shuffle *s, uint64_t i) {
    const uint64_t mask = ((uint64_t)1 << s->half_bits) - 1;
    do {
        uint64_t left = i >> s->half_bits, right = i & mask;
        for (unsigned r = 0; r < s->rounds; r++) {
            const uint64_t next = left ^ (mix(right, s->keys[r]) & mask);
            left = right;
            right = next;
        }
        i = left << s->half_bits | right;
    } while (i >= s->count);
    return i;
}
