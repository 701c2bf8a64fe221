/* Sums that tell whether something has changed. They are in files: a change of them makes a stranger of every checkpoint. */
#ifndef NF_CORE_CHECKSUM_H
#define NF_CORE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The sum, begun with 1, with what follows mixed in. Each step is a bijection of the sum and of the word, so that no change of a single word goes unseen. */
uint64_t nf_mix(uint64_t sum, uint64_t word);
uint64_t nf_mix_bytes(uint64_t sum, const void *bytes, size_t size); /* and how many */
uint64_t nf_mix_numbers(uint64_t sum, const double *numbers, size_t count);

#endif
