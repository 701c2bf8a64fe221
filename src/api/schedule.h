/* The learning rate over a run, as a factor of its base. */
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

#endif
