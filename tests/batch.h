/*
 * Rows of input for a subject of the conformance suite, and what each of the calls that give results per row makes of them.
 */
#ifndef NF_TESTS_BATCH_H
#define NF_TESTS_BATCH_H

#include "support.h"

enum { MOST_CALLS = 5 };

/* Rows of input, and every per-row result. */
typedef struct batch {
    size_t rows;
    double *in, *context, *a, *b; /* a, b: cotangents */
    double *out[MOST_CALLS], *scalar[MOST_CALLS], *d_context[MOST_CALLS];
} batch;

batch new_batch(subject *s, size_t rows);
/* Rows first .. first + rows - 1 of a batch: the inputs are shared, the results its own. */
batch part_of(const subject *s, const batch *whole, size_t first, size_t rows);
void free_batch(batch *r);

extern const char *const call_names[MOST_CALLS];

/* One of the calls that give results per row. */
nf_status call(const subject *s, nf_workspace *ws, int which, batch *r);
void call_all(const subject *s, nf_workspace *ws, batch *r);
/* The rows of `part` are those of `whole` from `first` on. */
void same_rows(const subject *s, const batch *part, const batch *whole, size_t first);

/* Results of the rows of `spoilt` that are good are those of `clean`; those of `bad` rows are NaN. */
void check_spoilt(const subject *s, const batch *spoilt, const batch *clean, const bool *bad, int which);

/* log p = -|x_0|: its arithmetic is exact, so that it is the same in every rounding mode, which the user's functions run in. */
nf_status exact_target(void *user, size_t rows, const double *x, double *log_density, double *gradient);

/* A subject whose ODE solver is loose: what is compared does not hang on its accuracy, and loose tolerances take less time. */
void open_relaxed(subject *s, int i, nf_precision precision, size_t threads);

#endif
