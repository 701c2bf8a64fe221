/* The time that passes, for reports. */
#ifndef NF_CORE_CLOCK_H
#define NF_CORE_CLOCK_H

#include <time.h>

/* Seconds since some instant in the past. */
static inline double nf_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
