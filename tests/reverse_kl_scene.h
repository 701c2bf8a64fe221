/* What the suites of nf_fit_reverse_kl share: a target whose integral is known and which may fail, a flow that has it, the plain settings. */
#ifndef NF_TESTS_REVERSE_KL_SCENE_H
#define NF_TESTS_REVERSE_KL_SCENE_H

#include "support.h"

enum { DIM = 2 };

/*
 * An unnormalised Gaussian of independent columns, times `height`: log Z = log height + DIM/2 log(2 pi) + sum log sd. It notes what it is asked
 * for, and may fail at a call of its choice or spoil rows.
 */
typedef struct density {
    double mean[DIM], sd[DIM], log_height;
    double spoilt_above; /* rows with a larger x_0 have no density */
    double zero_above;   /* rows with a larger x_0 have density 0, from this call on */
    size_t zero_from;
    size_t calls, fails_at, rows, most_rows;
    nf_status failure;       /* 0: -77 */
    int rounding, other_mode; /* rounding: what it should be called with, other_mode: calls that were not */
    size_t infinite; /* numbers that it should not have been shown */
} density;

density plain_density(void);
double log_integral(const density *d);
nf_status gaussian(void *user, size_t rows, const double *x, double *log_density, double *gradient); /* the target, of a density */

nf_flow *affine_flow(void);

/* Averages, annealing and evaluation off, so that what a test adds stands alone. */
nf_reverse_kl_config plain_kl(size_t steps);

/* A fit whose steps do not move the flow: its report is that of the flow as it is. */
nf_reverse_kl_report report_of(nf_flow *flow, density *d, size_t steps, size_t samples, size_t evaluation_samples);

#endif
