/* Optimal transport between two equally large sets of samples: the pairing with the least sum of squared distances. */
#ifndef NF_ENGINE_PAIRING_H
#define NF_ENGINE_PAIRING_H

#include <stddef.h>

#include "engine/real.h"

size_t R(pairing_scratch)(size_t most); /* in reals, for up to `most` samples */

/*
 * a, b: [panels][dim][PANEL]; lane[0 .. n - 1] are the lanes of the n samples of each. partner[l] becomes the lane of b that goes with lane l of a, for these
 * lanes alone. O(n^3) at worst.
 */
void R(pair_samples)(size_t n, const size_t *lane, size_t dim, const real *a, const real *b, real *scratch, size_t *partner);

#endif
