/*
 * Weights of rows. A mean does not depend on a common factor of its weights: a power of two brings weights whose largest is far from 1 near it, and is 1 for
 * others, so that what is computed with them neither overflows nor underflows.
 */
#ifndef NF_API_WEIGHTS_H
#define NF_API_WEIGHTS_H

#include <stddef.h>

#include "engine/engine.h"
#include "nflow.h"

/* That they are finite and not negative; NULL: there are none. */
nf_status nf_check_weights(const char *function, const char *name, size_t rows, const double *weight);

double nf_largest_weight(size_t rows, const double *weight); /* of those that are finite and not negative; 0 when there is none */
double nf_weight_scale(double largest);
double nf_least_weight(const nf_engine *engine); /* below which a sum of weights has no inverse in the engine's numbers, or they no digits */

#endif
