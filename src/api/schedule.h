/* What changes over the steps of a fit: the learning rate, as a factor of its base, and the memory of the averaged parameters. */
#ifndef NF_API_SCHEDULE_H
#define NF_API_SCHEDULE_H

#include <math.h>
#include <stddef.h>

#include "nflow.h"

/* Cosine from 1 down to `factor` as `at` goes to `total` (Loshchilov & Hutter 2017), or `drops` drops by `factor`. */
static inline double nf_schedule_factor(nf_schedule schedule, double factor, size_t drops, double at, double total) {
    switch (schedule) {
    case NF_SCHEDULE_COSINE:
        return factor + (1.0 - factor) * 0.5 * (1.0 + cos(3.14159265358979323846 * at / total));
    case NF_SCHEDULE_STEP:
        return pow(factor, (double)drops);
    case NF_SCHEDULE_CONSTANT:
        break;
    }
    return 1.0;
}

/* The factor of a config: that of a drop has a default; a negative number asks for 0. */
static inline double nf_schedule_factor_or_default(nf_schedule schedule, double factor) {
    return factor == 0.0 && schedule == NF_SCHEDULE_STEP ? 0.1 : factor < 0.0 ? 0.0 : factor;
}

/* The decay of the average after so many steps: a short memory at first, so that the start is forgotten. */
static inline double nf_average_decay(double decay, size_t steps) {
    const double t = (double)steps;
    return fmin(decay, (1.0 + t) / (10.0 + t));
}

#endif
