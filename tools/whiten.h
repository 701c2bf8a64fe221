/*
 * whiten.h - the Gaussian of some rows, x = mean + L z with covariance L L^T, or with their variances alone: rows taken to its z, its
 * likelihood, and its map as a flow
 *
 * A table's columns are often so correlated that its rows lie near a plane. A fit to whitened rows need not learn that, and its noise is as
 * wide as the rows in all directions. The map goes into the model afterwards, as couplings that are linear. Where that would cost too much, and
 * for contexts, L is the diagonal of the standard deviations: columns far from 0 must be moved before they are rounded to single precision.
 */
#ifndef WHITEN_H
#define WHITEN_H

#include <stdbool.h>
#include <stddef.h>

#include "nflow.h"

typedef struct whitening {
    size_t dim;
    bool whole;            /* L is a triangle; else a diagonal */
    double *mean, *factor; /* L: dim x dim, row-major, 0 above the diagonal; or dim numbers */
    double log_det;        /* of L */
    bool singular; /* a column is a linear function of those before it, as far as doubles can say; it got a little spread of its own */
} whitening;

/* From rows and their weights (NULL: all 1). */
void whiten_fit(whitening *w, size_t rows, const double *x, const double *weight, size_t dim, bool whole);
void whiten_free(whitening *w);

/* x becomes z = L^-1 (x - mean), in place. */
void whiten_rows(const whitening *w, size_t rows, double *x);

/* Mean NLL of the rows that have these z, under the Gaussian. */
double whiten_nll(const whitening *w, size_t rows, const double *z);

/*
 * A flow in double whose forward map is x = mean + L z: ceil(log2 dim) couplings without hidden layers, if L is a triangle, and an elementwise
 * affine layer.
 */
nf_flow *whiten_flow(const whitening *w);

#endif
