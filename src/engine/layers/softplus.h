/* log(1 + exp(x)) and its slope in double, for the parameters that a layer has but once. */
#ifndef NF_ENGINE_SOFTPLUS_H
#define NF_ENGINE_SOFTPLUS_H

#include <math.h>

static inline double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

static inline double logistic(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }

#endif
