/*
 * A random order of 0 .. n-1 that needs no memory: place i is computed, not stored. So a fit over ten million rows shuffles
 * them without an array of ten million indices.
 */
#ifndef NF_CORE_SHUFFLE_H
#define NF_CORE_SHUFFLE_H

#include <stdint.h>

/* Rounds of the network; 16 things or fewer, whose halves have one or two bits, take more of them to mix. */
#define NF_SHUFFLE_ROUNDS 6
#define NF_SHUFFLE_MOST_ROUNDS 18

typedef struct nf_shuffle {
    uint64_t count;
    unsigned half_bits, rounds;
    uint64_t keys[NF_SHUFFLE_MOST_ROUNDS];
} nf_shuffle;

/* The order of `count` > 0 things that belongs to a seed and stream. */
nf_shuffle nf_shuffle_begin(uint64_t seed, uint64_t stream, uint64_t count);

/* Which thing stands at place i < count. */
uint64_t nf_shuffle_at(const nf_shuffle *shuffle, uint64_t i);

#endif
