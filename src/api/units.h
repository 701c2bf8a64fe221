/*
 * The affine layer that standardises the columns, for a fit. The optimizer's steps and its decay have no units, but that layer has those of the
 * data: a step sees it as if the columns were standardised, shift as (shift - mean) / sd and log_scale as log_scale - log(sd), and what it changes in
 * that is changed in the layer. So a fit does not depend on the units of its data, and decay pulls towards their mean and standard deviation,
 * not towards 0 and 1.
 */
#ifndef NF_API_UNITS_H
#define NF_API_UNITS_H

#include "api/handles.h"

typedef struct nf_units {
    const nf_layer *layer; /* the elementwise affine one at the data end; NULL: none, or it is not wanted */
    size_t dim;
    double *mean, *sd, *log_sd; /* of the columns, finite, sd positive; after nf_units_set */
    double *own, *shown, *stepped; /* log_scale and shift, 2 dim each */
} nf_units;

/* False: no memory. */
bool nf_units_allocate(nf_units *u, const nf_allocator *allocator, const nf_flow *flow, bool wanted);
void nf_units_release(nf_units *u, const nf_allocator *allocator);

/* Takes the columns' mean and sd; what is not finite or, of sd, not positive becomes 0 and 1. A layer that nobody has set gets them; `parameters`: room for all. */
void nf_units_set(nf_units *u, const double *mean, const double *sd, nf_flow *flow, double *parameters);

/*
 * nf_run_step with the layer in these units. The layer's part of the gradient is in them afterwards. NF_ERR_DIVERGED as well when the layer is not finite in one of them: what
 * it holds then is nothing to go on with.
 */
nf_status nf_units_step(const nf_units *u, nf_optimizer *optimizer, nf_flow *flow, nf_gradient *gradient);

#endif
