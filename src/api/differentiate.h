/*
 * What gradients and vjps share: rows that are differentiated in lanes of work. Each lane adds to a slot of the gradient, and the slots, divided by a weight, are
 * added to its sum. Their number is a function of the rows alone.
 */
#ifndef NF_API_DIFFERENTIATE_H
#define NF_API_DIFFERENTIATE_H

#include "api/run.h"

/* As for an evaluation, but that a mean, and what is summed, is of some rows. `name` NULL: no input. */
nf_status nf_check_differentiation(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name,
                                   const double *input, const double *context);

/* A job that records what a pull needs, and nothing more asked of it. `gradient` NULL: that of the parameters is not wanted. */
engine_job nf_differentiable_job(const nf_flow *flow, size_t rows, const double *in, const double *context, bool inverse, nf_gradient *gradient);

size_t nf_slots_of(const nf_flow *flow, size_t rows);
/* Before work that adds to the first `slots`, all of them. */
void nf_clear_slots(const engine_job *job, const nf_gradient *gradient, size_t slots);
/* `gathered`: what nf_differentiate_lanes said. */
void nf_commit_slots(nf_gradient *gradient, nf_workspace *ws, size_t slots, bool gathered, double weight);

/*
 * Push and pull all rows, or match them, a lane for each slot; the lanes' sums are left in the workspace. `gathered` not NULL: a gradient that is empty
 * may hold the sum of the slots in its own instead of them afterwards, if it is said there; it stays empty by name.
 */
nf_status nf_differentiate_lanes(nf_workspace *ws, const engine_job *job, run_action action, size_t lanes, nf_gradient *gradient, bool *gathered);
/* The same with a lane for each of nf_slots_of; the sums of all lanes, in order. */
nf_status nf_differentiate(const nf_flow *flow, nf_workspace *ws, const engine_job *job, run_action action, nf_gradient *gradient,
                           engine_sum *total, bool *gathered);
/* A job whose loss is a weighted mean over the good rows: the gradient of that mean is added, the mean stored. */
nf_status nf_differentiate_mean(const char *function, const nf_flow *flow, nf_workspace *given, const engine_job *job, run_action action,
                                nf_gradient *gradient, double *loss);

#endif
