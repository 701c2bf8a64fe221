/*
 * Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3").
 *
 * A number depends only on (key, sample, coordinate), so any batch of any thread draws the same ones.
 */
#ifndef NF_ENGINE_RANDOM_H
#define NF_ENGINE_RANDOM_H

#include "engine/real.h"

/*
 * Standard normals 2 block and 2 block + 1 of the samples position .. position + lanes - 1: counter = (position, block), Box-Muller
 * on the two 64-bit halves of the output. There is one generator, in double, of which both precisions make use, so that the samples
 * of a flow do not depend on its precision.
 */
void NF_JOIN4(nfe_, normal_pairs, _f64_, NF_ISA)(const uint32_t key[2], uint64_t position, uint64_t block, size_t lanes, double *first,
                                                 double *second);

#endif
