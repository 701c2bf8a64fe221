/* Which step a lane takes next: PI control of the error, fixed steps, and steps from a dyadic grid. */
#ifndef NF_ENGINE_ODE_CONTROL_H
#define NF_ENGINE_ODE_CONTROL_H

#include "engine/ode/integrate.h"

/* Where one lane is. */
typedef struct ode_lane {
    double t;
    double proposal;  /* size of the next step, positive; free steps only */
    double old_error; /* of the last accepted step */
    uint64_t index;   /* of the next step on its grid; fixed and dyadic steps */
    int level;        /* dyadic: steps are (t1 - t0) / 2^level */
    bool rejected;    /* the last attempt was */
    size_t attempts, sample;
} ode_lane;

void R(ode_lane_start)(const ode_problem *problem, ode_lane *lane);
/* The first step of adaptive methods, rounded down to the grid where there is one, but not so small that it could not be taken. */
void R(ode_lane_propose)(const ode_problem *problem, ode_lane *lane, double size);
/* The next attempt; false when its step is too small to be taken. */
bool R(ode_lane_attempt)(const ode_problem *problem, const ode_lane *lane, double *h, double *end);
/* What follows from the error (in units of the tolerance) of an attempt; true when it is accepted. */
bool R(ode_lane_judge)(const ode_problem *problem, ode_lane *lane, double h, double end, double error);
bool R(ode_lane_arrived)(const ode_problem *problem, const ode_lane *lane);

#endif
