/* Why a sample is bad: known to the engine, which finds it, and to the api, which says it. */
#ifndef NF_ENGINE_TILE_FAILURE_H
#define NF_ENGINE_TILE_FAILURE_H

enum row_failure {
    ROW_GOOD = 0,
    ROW_INPUT,      /* the input is not finite */
    ROW_CONTEXT,    /* the context is not finite */
    ROW_ODE_STEP,   /* the step of an ODE underflowed */
    ROW_ODE_BUDGET, /* max_steps were not enough */
    ROW_RANGE,      /* the result is not finite */
    ROW_COTANGENT,  /* a given cotangent is not finite */
    ROW_TARGET,     /* the user's target density is not finite */
    ROW_SLOPE,      /* what a pull makes of it is not finite */
    ROW_RETRACE     /* the adjoint equation came back to another place */
};

#endif
