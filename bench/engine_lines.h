/* What the benchmarks of the engine's inside share: time, and the JSON lines that bench/table.awk reads. */
#ifndef NFLOW_BENCH_ENGINE_LINES_H
#define NFLOW_BENCH_ENGINE_LINES_H

#include <stdio.h>
#include <time.h>

#include "engine/real.h"

#define BENCH_TEXT_(x) #x
#define BENCH_TEXT(x) BENCH_TEXT_(x)

/* Of this thread's processor time, so that other work on the machine disturbs it little. */
static inline double bench_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What every line begins with; the figures and the closing brace are the caller's. `size` has no spaces. */
static inline void bench_line(const char *by, const char *flow, const char *size, const char *work) {
    printf("{\"by\": \"%s\", \"flow\": \"%s\", \"size\": \"%s\", \"work\": \"%s\", \"real\": \"%s\", \"isa\": \"%s\", \"threads\": 1", by, flow, size, work,
           NF_SINGLE_BUILD ? "f32" : "f64", BENCH_TEXT(NF_ISA));
}

#endif
