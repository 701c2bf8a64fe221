/* Integration of a caller's systems, row-major and in double at the boundary: what nf_ode_solve stands on. */
#ifndef NF_ENGINE_ODE_TASK_H
#define NF_ENGINE_ODE_TASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nflow.h"

/* How the integration of a row ended. */
enum ode_outcome {
    ODE_ARRIVED = 0,
    ODE_UNDERFLOW, /* the step became too small to change the time */
    ODE_BUDGET,    /* max_steps were not enough */
    ODE_START,     /* it was not finite from the start */
    ODE_RANGE      /* the result is not finite */
};

typedef struct ode_task {
    nf_ode_method method;
    double t0, t1, rtol, atol;
    size_t steps, max_steps; /* steps: of the methods without control, or 0 */
    size_t rows, size;       /* systems, and the components of each */
    /* dydt of `count` rows: row[i] is which, t[i] its time, y and dydt count x size. False: it cannot go on. */
    bool (*rhs)(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt);
    void *user;
    double *y;               /* rows x size, from start to end; NaN where the integration fails */
    const double *times;     /* of dense output, in order from t0 to t1 or, `times_backward`, from t1 to t0 */
    size_t time_count;
    bool times_backward;
    double *path;            /* time_count x rows x size */
    unsigned char *outcome;  /* rows: enum ode_outcome of each */
    uint64_t evaluations, accepted, rejected; /* added to */
} ode_task;

#endif
