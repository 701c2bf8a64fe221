/* What the checks of the density and the sampler share: samples to look at them by, and a test whether numbers are uniform. */
#ifndef NF_API_DIAGNOSE_DISTRIBUTION_H
#define NF_API_DIAGNOSE_DISTRIBUTION_H

#include "api/diagnose.h"

/* Samples of one context (the first row's, if there is one), their mean, and the Cholesky factor of their covariance. */
typedef struct nf_cloud {
    size_t count;
    double *x, *context, *mean, *factor;
    double *t; /* samples in units of the factor */
    double log_factor; /* log det of the factor */
} nf_cloud;

/* The first row's context, if there is one, so many times. */
void nf_repeat_context(const nf_diagnosis *d, double *to, size_t count);
/* From units of the factor to those of x. */
void nf_cloud_place(const nf_diagnosis *d, const nf_cloud *c, const double *t, double *x);

/* The p-value of points that should be uniform on (0, 1); they get sorted. 0 when one is not a number. */
double nf_uniform_p(double *points, size_t n);

/* diagnose_normalization.c: whether the density integrates to 1. */
void nf_diagnose_normalization(nf_diagnosis *d, const nf_cloud *c);
/* diagnose_data.c: whether the data could be samples. */
void nf_diagnose_data(nf_diagnosis *d);

#endif
