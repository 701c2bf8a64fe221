/*
 * Multilayer perceptrons over tiles: what conditions a coupling or a planar layer, and what users get as nf_mlp.
 *
 * A net knows nothing of what its output means. Inputs and outputs are [panels][features][PANEL].
 */
#ifndef NF_ENGINE_MLP_H
#define NF_ENGINE_MLP_H

#include "core/model.h"
#include "engine/real.h"

/* Reals that a record holds: every hidden layer's activations and slopes. */
size_t R(mlp_record_size)(const nf_net *net, size_t panels);
/* Reals of scratch, for both operations. */
size_t R(mlp_scratch_size)(const nf_net *net, size_t panels);

/* `lanes`: of the last panel. `record` may be NULL. */
void R(mlp_forward)(const nf_net *net, const real *theta, size_t panels, size_t lanes, const real *in, real *out, real *record,
                    real *scratch);

/*
 * After mlp_forward with a record on the same input: the cotangent of the input (overwritten; NULL when it is not wanted) and
 * of the parameters (added; NULL likewise). All panels are taken as full: cotangents of lanes without samples are zero.
 */
void R(mlp_vjp)(const nf_net *net, const real *theta, size_t panels, const real *in, const real *record, const real *d_out,
                real *d_in, real *gradient, real *scratch);

#endif
