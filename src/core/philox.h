/*
 * Philox4x32-10, one counter at a time (Salmon, Moraes, Dror & Shaw 2011). The engine has its own vector form of the
 * same function; this one is for keys, shuffles and initial parameters.
 */
#ifndef NF_CORE_PHILOX_H
#define NF_CORE_PHILOX_H

#include <stddef.h>
#include <stdint.h>

void nf_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);

/* The key of a stream: the first 64 bits of Philox(key = seed, counter = stream). */
void nf_philox_key(uint64_t seed, uint64_t stream, uint32_t key[2]);

/* A sequence of numbers drawn from one stream, for work that is sequential by nature. */
typedef struct nf_sequence {
    uint32_t key[2], block[4];
    uint64_t position;
    unsigned used;
} nf_sequence;

nf_sequence nf_sequence_begin(uint64_t seed, uint64_t stream);
uint64_t nf_sequence_bits(nf_sequence *sequence);
double nf_sequence_uniform(nf_sequence *sequence);             /* in (0, 1) */
uint64_t nf_sequence_below(nf_sequence *sequence, uint64_t n); /* in [0, n), without bias; n > 0 */
double nf_sequence_normal(nf_sequence *sequence);

#endif
