/* Explicit Runge-Kutta methods as tables of numbers. */
#ifndef NF_ENGINE_ODE_TABLEAU_H
#define NF_ENGINE_ODE_TABLEAU_H

#include <stdbool.h>

#include "engine/real.h"
#include "nflow.h"

#define ODE_STAGES 16      /* more than any method here has, those for dense output included */
#define ODE_STEP_STAGES 13 /* the most that a step itself has */

/*
 * A step from y over h: k_i = f(t + c_i h, y + h sum_j a_ij k_j), y' = y + h sum b_i k_i.
 *
 * `fsal`: the last stage is f at the end of the step, which is the next step's first (its row of a is b, its b is 0). The vjp
 * of a step needs the first `weighted` stages only.
 *
 * Dense output at t + theta h. For fsal methods in the nested form of Hairer, Norsett & Wanner 1993 (II.6), with d = y' - y:
 *     y + theta (d + (1 - theta) (h k_1 - d + theta (2 d - h k_1 - h k_last + (1 - theta) (r_0 + theta (r_1 + ...)))))
 * whose rows r are h times combinations of the k: cubic Hermite when there are none. `extra` further stages may be needed for
 * them. For the others as powers of theta: y + h sum_i k_i (power_i0 theta + power_i1 theta^2 + power_i2 theta^3).
 */
typedef struct ode_tableau {
    const char *name;
    size_t stages, weighted, extra;
    size_t order;
    size_t error_order; /* the exponent of h in the error estimate; 0: no estimate, fixed steps only */
    bool fsal;
    double c[ODE_STAGES], a[ODE_STAGES][ODE_STAGES], b[ODE_STAGES];
    double error[ODE_STAGES];  /* h sum error_i k_i estimates the error of y' */
    double error3[ODE_STAGES]; /* a second, cruder estimate that steadies the first (DOP853); zeros elsewhere */
    size_t dense_rows;
    double dense[4][ODE_STAGES];
    double power[4][3];
} ode_tableau;

const ode_tableau *R(ode_tableau_of)(nf_ode_method method);

/* Weights w with y(theta) = y + h sum_i w_i k_i over stages + extra stages. */
void R(ode_dense_weights)(const ode_tableau *tableau, double theta, double weights[ODE_STAGES]);

#endif
