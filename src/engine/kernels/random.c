#include "engine/kernels/random.h"

#if !NF_SINGLE_BUILD

#include "engine/kernels/vmath.h"

/* Counters side by side, each 32-bit word in a 64-bit lane, where a product of two words fits. */
#define CHUNK 16

static void philox(const uint32_t key[2], uint64_t position, uint64_t block, uint64_t low[CHUNK], uint64_t high[CHUNK]) {
    uint64_t x0[CHUNK], x1[CHUNK], x2[CHUNK], x3[CHUNK];
    uint32_t a = key[0], b = key[1];
    for (size_t l = 0; l < CHUNK; l++) {
        x0[l] = (position + l) & 0xffffffffu;
        x1[l] = (position + l) >> 32;
        x2[l] = block & 0xffffffffu;
        x3[l] = block >> 32;
    }
    for (int round = 0; round < 10; round++) {
        for (size_t l = 0; l < CHUNK; l++) {
            const uint64_t p = 0xD2511F53u * x0[l], q = 0xCD9E8D57u * x2[l];
            x0[l] = (q >> 32) ^ x1[l] ^ a;
            x1[l] = q & 0xffffffffu;
            x2[l] = (p >> 32) ^ x3[l] ^ b;
            x3[l] = p & 0xffffffffu;
        }
        a += 0x9E3779B9u;
        b += 0xBB67AE85u;
    }
    for (size_t l = 0; l < CHUNK; l++) {
        low[l] = x0[l] | x1[l] << 32;
        high[l] = x2[l] | x3[l] << 32;
    }
}

/*
 * Box & Muller 1958: radius from the first uniform, in (0, 1] with 53 bits, so the largest normal is 8.6; angle from the second,
 * in half-open turns.
 */
void R(normal_pairs)(const uint32_t key[2], uint64_t position, uint64_t block, size_t lanes, double *first, double *second) {
    for (size_t start = 0; start < lanes; start += CHUNK) {
        uint64_t low[CHUNK], high[CHUNK];
        double even[CHUNK], odd[CHUNK];
        philox(key, position + start, block, low, high);
        for (size_t l = 0; l < CHUNK; l++) {
            const double u = ((double)(int64_t)(low[l] >> 11) + 1.0) * 0x1p-53;
            const double turn = (double)((int64_t)high[l] >> 11) * 0x1p-53;
            const double radius = vm_sqrt(-2.0 * vm_log(u));
            double s, c;
            vm_sin2pi_cos2pi(turn, &s, &c);
            even[l] = radius * c;
            odd[l] = radius * s;
        }
        for (size_t l = 0; l < CHUNK && start + l < lanes; l++) {
            first[start + l] = even[l];
            second[start + l] = odd[l];
        }
    }
}

#endif
