/*
 * Importance weights w = p / q of samples of q (Kong 1992): their mean estimates Z, the mean of their logarithm is the ELBO. They come one by one.
 */
#ifndef NF_API_IMPORTANCE_H
#define NF_API_IMPORTANCE_H

#include <stddef.h>

#include "nflow.h"

typedef struct nf_importance {
    double sum, square, shift; /* of exp(log w - shift), shift the largest so far */
    double mean, spread;       /* Welford's, of the log w that are finite */
    size_t count, zeros;       /* samples, and those of weight 0 among them */
} nf_importance;

nf_importance nf_importance_begin(void);
void nf_importance_add(nf_importance *weights, double log_weight); /* -inf: the weight is 0 */
/* Their estimates; of no weights nothing is told. */
void nf_importance_tell(const nf_importance *weights, nf_reverse_kl_report *report);

#endif
