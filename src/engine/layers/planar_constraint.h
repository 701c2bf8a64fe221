/*
 * From the free parameters u, w of a planar layer to the ones that keep it invertible (Rezende & Mohamed 2015, appendix A.1):
 *     uhat = u + k w / |w|^2,   k = softplus(a) - 1 - a = softplus(-a) - 1,   a = w.u,
 * so that the slope of t + (w.uhat) tanh t at 0 is s = 1 + w.uhat = softplus(a) > 0. When softplus underflows, s is held at the
 * smallest normal number. With w = 0 there is nothing to constrain: uhat = u, s = 1, and u alone gets a gradient.
 *
 * Once for a layer, in double in both precisions; or once for each lane, when the parameters come from a net.
 */
#ifndef NF_ENGINE_PLANAR_CONSTRAINT_H
#define NF_ENGINE_PLANAR_CONSTRAINT_H

#include "engine/real.h"

/* One layer. w / |w| is w[i] / largest * inverse_root: |w|^2 neither under- nor overflows. With w = 0 it is 0, as are the rest. */
typedef struct planar_constraint {
    double largest, inverse_root, norm;
    double slope;      /* s */
    double log_rate;   /* d log s / da; 0 where s is held */
    double shift;      /* k / |w| */
    double shift_rate; /* dk/da / |w| */
} planar_constraint;

planar_constraint R(planar_constrain)(size_t dim, const real *u, const real *w);
real R(planar_u_hat)(const planar_constraint *c, real u, real w); /* one coordinate */

/*
 * The chain rule. On entry d_u_hat holds the cotangent of uhat, d_w that part of the cotangent of w which does not come by uhat or
 * s, d_log_s the cotangent of log s; the cotangents of u and w are added to `gradient`, [dim] each.
 */
void R(planar_constrain_vjp)(const planar_constraint *c, size_t dim, const real *u, const real *w, const double *d_u_hat,
                             const double *d_w, double d_log_s, real *gradient);

/* The same for the lanes of a panel; u, w and their like are [dim][PANEL]. */
typedef struct planar_lanes {
    real largest[PANEL], inverse_root[PANEL], norm[PANEL];
    real slope[PANEL], log_rate[PANEL], shift[PANEL], shift_rate[PANEL];
} planar_lanes;

void R(planar_constrain_lanes)(size_t dim, const real *u, const real *w, planar_lanes *lanes, real *u_hat);
/* In place: d_u holds the cotangent of uhat on entry, that of u on return; d_w as above on entry, all of it on return. */
void R(planar_constrain_lanes_vjp)(const planar_lanes *lanes, size_t dim, const real *u, const real *w, const real *d_log_s, real *d_u,
                                   real *d_w);

#endif
