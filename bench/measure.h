/*
 * What the benchmarks share: cases that are timed in interleaved blocks beside the processor's peak of fused multiply-adds, and the JSON lines that
 * tell of them. One thread is timed by its processor time, so that other work on the machine disturbs it little; several by the wall clock.
 */
#ifndef NFLOW_BENCH_MEASURE_H
#define NFLOW_BENCH_MEASURE_H

#include <stddef.h>

#include "nflow.h"

typedef void (*bench_work)(void *user);

typedef struct bench_case {
    const char *flow, *work, *size; /* "realnvp", "train_step", "large" */
    const char *isa;                /* of the flow: the peak is that of its vectors */
    int single;                     /* precision */
    size_t threads;
    double rows, flops;             /* of one call; 0: not told */
    bench_work run;
    void *user;
    /* filled by bench_run */
    double us, us_low, us_high;     /* median and quartiles of the blocks */
    double of_peak;                 /* median of the blocks' ratios to the peak just before and after; of all threads */
} bench_case;

/* Ends with the library's line unless the status is NF_OK. */
void bench_require(nf_status status);

/* Seconds of this thread's processor time, or of the wall. */
double bench_seconds(int wall);

/* Time all cases: in each of `blocks` rounds every case runs for about `seconds` (at least once), in turn. */
void bench_run(bench_case *cases, size_t count, size_t blocks, double seconds);

/* What every JSON line on standard output begins with; the figures and the closing brace are the caller's. `size` has no spaces. */
void bench_line(const char *by, const char *flow, const char *work, const char *size, int single, const char *isa, size_t threads);

/* The whole line of a case. */
void bench_print(const bench_case *c);

/*
 * Fused multiply-adds of one core in registers, GFLOP/s, with the widest vectors that `isa` has: the best and the mean of some short runs. The
 * mean is less where the core is shared, and what the cases beside it are held against.
 */
void bench_peaks(const char *isa, int single, double *best, double *mean);

#endif
