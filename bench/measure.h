/* What the benchmarks share: a clock, medians, and the processor's FMA peak, all measured in the same process. */
#ifndef NFLOW_BENCH_MEASURE_H
#define NFLOW_BENCH_MEASURE_H

#include <stddef.h>

double bench_now(void); /* seconds */

/* Median over `samples` (at most 101) of the seconds that one call of work takes; calls are repeated until a sample lasts `least` seconds. */
typedef void (*bench_work)(void *user);
double bench_median(bench_work work, void *user, int samples, double least);

/* Fused multiply-adds of one core in registers, GFLOP/s: single and double, with the widest vectors that `isa` ("v4", "v3", ...) has. */
double bench_peak(const char *isa, int single);

#endif
