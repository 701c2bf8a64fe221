/* The three sets of a folder, split into training and held-out rows: what the benchmarks of quality share. They end the program when they fail. */
#ifndef NFLOW_BENCH_HELD_OUT_H
#define NFLOW_BENCH_HELD_OUT_H

#include <stdint.h>

#include "csv.h"
#include "nflow.h"

enum { HELD_OUT_SETS = 3 };
extern const char *const held_out_sets[HELD_OUT_SETS]; /* two_moons, two_blobs, boomerang */

void held_out_require(nf_status status);

/* folder/name.csv: a line of names, then two numbers a line. Freed with csv_free. */
csv_table held_out_read(const char *folder, const char *name);

/* A permutation of the rows that depends on the seed alone; the last fifth of them is held out. */
void held_out_shuffle(csv_table *table, uint64_t seed);

double held_out_nll(const nf_flow *flow, size_t rows, const double *x); /* mean, nats */

#endif
