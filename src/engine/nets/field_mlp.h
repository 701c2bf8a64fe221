/*
 * Dynamics of continuous flows that are a net on (z, t, context): f, the trace of its Jacobian with respect to z, the
 * Jacobian's squared Frobenius norm, and the vjps of all three.
 *
 * The trace is exact, or Hutchinson's estimate (1990) with fixed probes v: mean v^T J v. Either way it is
 *     sum_p V_p^T D_L W_L ... D_2 W_2 D_1 U_p,   U_p = W_1 v_p, V_p = W_out^T v_p (unit vectors v_p for the exact one),
 * with D_j the diagonals of the activations' slopes. So one hidden layer needs a weighted sum of its slopes, two need the
 * bilinear form s_2^T M s_1 with M = W_2 o sum_p V_p U_p^T, one product as large as that of f whatever the dimension; deeper
 * nets push the tangents U_p through.
 */
#ifndef NF_ENGINE_FIELD_MLP_H
#define NF_ENGINE_FIELD_MLP_H

#include <stdbool.h>

#include "core/model.h"
#include "engine/real.h"

typedef struct field_mlp_shape {
    const nf_net *net; /* inputs: dim, t, context; outputs: dim */
    size_t dim;
    size_t probes;       /* 0: exact */
    uint64_t noise_seed; /* of the probes: signs (Rademacher), or */
    bool normal;         /* normals */
    bool square;         /* the Jacobian's norm may be asked for */
} field_mlp_shape;

typedef struct field_mlp {
    field_mlp_shape shape;
    const real *theta;
    real *gradient; /* of theta, added to; NULL when it is not wanted */
    size_t depth, tangents, fold_size;
    bool by_tangents;
    real share; /* 1, or 1 / probes */
    /* Constant between begin and finish: probes [tangents][dim], U, V [tangents][width], folded weights, and their gradients. */
    real *probe, *u, *v, *fold, *d_u, *d_v, *d_fold;
    real *input, *hidden, *tangent, *out, *d_input, *d_hidden, *d_slope, *d_tangent, *d_out, *room; /* working memory */
} field_mlp;

size_t R(field_mlp_scratch)(const field_mlp_shape *shape); /* in reals */

/* `scratch` is the field's until finish; `gradient` may be NULL. */
void R(field_mlp_begin)(field_mlp *f, const field_mlp_shape *shape, const real *theta, real *gradient, real *scratch);

/* One panel: z, k [dim][PANEL], context [..][PANEL] or NULL, t, trace, square [PANEL]; trace and square may be NULL. */
void R(field_mlp_rates)(const field_mlp *f, const double *t, const real *z, const real *context, real *k, real *trace, real *square);

/*
 * From cotangents of k, trace, |k|^2 and square (the last two may be NULL) to those of z (overwritten) and, with `parameters`, of
 * theta and the context (added; d_context may be NULL).
 */
void R(field_mlp_vjp)(const field_mlp *f, const double *t, const real *z, const real *context, const real *d_k, const real *d_trace,
                      const real *d_speed, const real *d_square, bool parameters, real *d_z, real *d_context);

/* Brings home what the parameter gradient of the folded weights is. */
void R(field_mlp_finish)(const field_mlp *f);

#endif
