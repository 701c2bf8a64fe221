#include "core/philox.h"

#include <math.h>

void nf_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]) {
    uint32_t a = key[0], b = key[1], x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    for (int round = 0; round < 10; round++) {
        const uint64_t p = (uint64_t)0xD2511F53u * x0, q = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(q >> 32) ^ x1 ^ a;
        x1 = (uint32_t)q;
        x2 = (uint32_t)(p >> 32) ^ x3 ^ b;
        x3 = (uint32_t)p;
        a += 0x9E3779B9u;
        b += 0xBB67AE85u;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

void nf_philox_key(uint64_t seed, uint64_t stream, uint32_t key[2]) {
    const uint32_t seed_key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)stream, (uint32_t)(stream >> 32), 0, 0};
    uint32_t out[4];
    nf_philox(seed_key, counter, out);
    key[0] = out[0];
    key[1] = out[1];
}

nf_sequence nf_sequence_begin(uint64_t seed, uint64_t stream) {
    nf_sequence sequence = {{0, 0}, {0, 0, 0, 0}, 0, 4};
    nf_philox_key(seed, stream, sequence.key);
    return sequence;
}

uint64_t nf_sequence_bits(nf_sequence *s) {
    if (s->used == 4) {
        const uint32_t counter[4] = {(uint32_t)s->position, (uint32_t)(s->position >> 32), 0, 0};
        nf_philox(s->key, counter, s->block);
        s->position++;
        s->used = 0;
    }
    const uint64_t bits = s->block[s->used] | (uint64_t)s->block[s->used + 1] << 32;
    s->used += 2;
    return bits;
}

double nf_sequence_uniform(nf_sequence *s) { return ((double)(nf_sequence_bits(s) >> 12) + 0.5) * 0x1p-52; }

uint64_t nf_sequence_below(nf_sequence *s, uint64_t n) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n; /* a multiple of n: what lies beyond would favour small values */
    uint64_t bits;
    do
        bits = nf_sequence_bits(s);
    while (bits >= limit);
    return bits % n;
}

double nf_sequence_normal(nf_sequence *s) {
    const double radius = sqrt(-2.0 * log(nf_sequence_uniform(s)));
    return radius * cos(6.283185307179586476925 * nf_sequence_uniform(s));
}
