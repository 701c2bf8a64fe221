/*
 * Gradients through an integration. The system is y' = f(t, y) with quadratures q' = g(t, y) beside it, whose cotangents are
 * constant along the path: the user knows them and multiplies them by the weight that it is given.
 */
#ifndef NF_ENGINE_ODE_REVERSE_H
#define NF_ENGINE_ODE_REVERSE_H

#include "engine/ode/integrate.h"

typedef struct ode_pullback {
    void *user;
    size_t size; /* of y, without the quadratures */
    /* k = f(t, y), as in ode_field but for y alone. */
    void (*rhs)(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k);
    /*
     * dy = (df/dy)^T dk + weight (dg/dy)^T dq, overwritten on active lanes; with `parameters` the same for what f and g depend
     * on beside y is added to where the user keeps it. dk, which may be overwritten, and weight [PANEL] are 0 on lanes that
     * are not active. After rhs of the same stage, if that was asked for, on the same y.
     */
    void (*vjp)(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *dk,
                const real *weight, bool parameters, real *dy);
    void (*prepare)(void *user, const ode_tableau *tableau, const ode_steps *steps); /* as in ode_field */
} ode_pullback;

/*
 * The exact gradient of the discrete solution, its steps held fixed: d [size][PANEL] turns from the cotangent of a panel's end
 * into that of its start. Where a checkpoint has no derivatives, its stages are computed again.
 */
size_t R(ode_reverse_scratch)(size_t size);
void R(ode_reverse)(const ode_tableau *tableau, const ode_pullback *pullback, size_t panel, const ode_trail *trail, real *d,
                    real *scratch);

/*
 * The adjoint equation (Pontryagin et al. 1962; Chen et al. 2018, algorithm 1), integrated from problem.t0 = the end of the path to
 * problem.t1 = its start together with the path itself: no checkpoints, and an error of the order of the tolerance. Parameter
 * gradients are quadratures over the accepted steps and take no part in the control of the error (Kidger et al. 2021).
 * run.y holds (y, d), 2 size components, for all panels; the rest of `run` is as for ode_integrate.
 */
size_t R(ode_adjoint_scratch)(size_t panels, size_t size);
void R(ode_adjoint)(const ode_problem *problem, const ode_pullback *pullback, ode_run *run);

#endif
