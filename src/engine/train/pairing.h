/* Optimal transport between two equally large sets of samples: the pairing with the least sum of squared distances. */
#ifndef NF_ENGINE_PAIRING_H
#define NF_ENGINE_PAIRING_H

#include <stddef.h>

#include "engine/real.h"

size_t R(pairing_scratch)(size_t most); /* in reals, for up to `most` samples */

/* a, b: [panels][dim][PANEL], n samples each; partner[i] is the sample of b that goes with sample i of a. O(n^3) at worst. */
void R(pair_samples)(size_t n, size_t dim, const real *a, const real *b, real *scratch, size_t *partner);

#endif
