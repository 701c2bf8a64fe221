/*
 * Multilayer perceptrons over tiles: what conditions a coupling or a planar layer, and what users get as nf_mlp.
 *
 * A net knows nothing of what its output means. Inputs and outputs are [panels][features][PANEL].
 */
#ifndef NF_ENGINE_MLP_H
#define NF_ENGINE_MLP_H

#include <stdbool.h>

#include "core/model.h"
#include "engine/real.h"

/* Reals that a record holds: every hidden layer's activations and slopes. */
size_t R(mlp_record_size)(const nf_net *net, size_t panels);
/* Reals of scratch, for both operations. */
size_t R(mlp_scratch_size)(const nf_net *net, size_t panels);

/*
 * Weights packed for the products of mlp_forward or of mlp_vjp, mlp_packed reals for each: to the same bits, sooner, once some tiles
 * have used them. mlp_packs tells of a net that is large enough to gain.
 */
bool R(mlp_packs)(const nf_net *net);
size_t R(mlp_packed)(const nf_net *net);
void R(mlp_pack_forward)(const nf_net *net, const real *theta, real *packed);
void R(mlp_pack_backward)(const nf_net *net, const real *theta, real *packed);

/* `packed`: by mlp_pack_forward from theta, or NULL. `lanes`: of the last panel. `record` may be NULL. */
void R(mlp_forward)(const nf_net *net, const real *theta, const real *packed, size_t panels, size_t lanes, const real *in, real *out,
                    real *record, real *scratch);

/*
 * After mlp_forward with a record on the same input: the cotangent of the input (overwritten; NULL when it is not wanted) and
 * of the parameters (added, or written over where it is `fresh`; NULL likewise). All panels are taken as full: cotangents of lanes without samples are zero. `packed`: by
 * mlp_pack_backward from theta, or NULL.
 */
void R(mlp_vjp)(const nf_net *net, const real *theta, const real *packed, size_t panels, const real *in, const real *record,
                const real *d_out, real *d_in, real *gradient, bool fresh, real *scratch);

/*
 * The same net for a few rows, with the features in the lanes, and the bits of mlp_forward: `packed` is what
 * mlp_rows_pack made of theta, aligned, mlp_rows_packed reals. x and y are one row after another; y is aligned, y_stride at least
 * dense_rows_width(outputs). Scratch: mlp_rows_scratch reals, aligned.
 */
size_t R(mlp_rows_packed)(const nf_net *net);
size_t R(mlp_rows_scratch)(const nf_net *net, size_t rows);
void R(mlp_rows_pack)(const nf_net *net, const real *theta, real *packed);
void R(mlp_rows_forward)(const nf_net *net, const real *packed, size_t rows, const real *x, size_t x_stride, real *y, size_t y_stride,
                         real *scratch);

/*
 * The same for one row of a net that stays in registers, where this build can do that, which mlp_is_small tells: of no other net may the three be asked.
 * `packed` is what mlp_small_pack made of theta, aligned, mlp_small_packed reals. y is aligned and as long as above; beyond the outputs it may hold anything.
 */
bool R(mlp_is_small)(const nf_net *net);
size_t R(mlp_small_packed)(const nf_net *net);
void R(mlp_small_pack)(const nf_net *net, const real *theta, real *packed);
void R(mlp_small_forward)(const nf_net *net, const real *packed, const real *x, real *y);

#endif
