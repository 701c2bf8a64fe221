/*
 * Explicit Runge-Kutta integration of y' = f(t, y) over samples that stand side by side in panels, each lane with its own time
 * and step. Nothing here knows of flows.
 *
 * The lanes of a panel attempt their steps together, so that f is evaluated for whole panels; a lane that is rejected tries
 * again with a smaller step while its neighbours go on, and one that has arrived idles. A lane's result does not depend on
 * what is in the others.
 */
#ifndef NF_ENGINE_ODE_INTEGRATE_H
#define NF_ENGINE_ODE_INTEGRATE_H

#include <stdbool.h>

#include "engine/ode/tableau.h"
#include "engine/ode/task.h"
#include "engine/ode/trail.h"
#include "engine/real.h"

/* Lanes of the largest group with a shared step. */
#define ODE_MOST_LANES 128

#define ODE_NO_STAGE ((size_t)-1) /* an evaluation that belongs to no step */

/* The steps that the lanes of a panel attempt or have made. Stage times are ode_stage_time(c, t, h, end). */
typedef struct ode_steps {
    double t[PANEL], h[PANEL], end[PANEL];
    unsigned char active[PANEL]; /* lanes without do not matter */
} ode_steps;

/* The ends of a step are met exactly, so that the same instant is the same number from both sides. */
static inline double ode_stage_time(double c, double t, double h, double end) { return c == 0.0 ? t : c == 1.0 ? end : t + c * h; }

typedef struct ode_field {
    void *user;
    size_t size;       /* components of the state */
    size_t controlled; /* the first of them, whose error is controlled; the others ride along */
    /*
     * k = f(t, y) of panel `panel`: y and k are [size][PANEL], t [PANEL]. k of lanes that are not active may be left alone. `stage`:
     * of the steps that prepare told of last, or ODE_NO_STAGE.
     */
    void (*rhs)(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k);
    /* Tells which steps of a panel come next, for fields that prepare something for many times at once; may be NULL. */
    void (*prepare)(void *user, const ode_tableau *tableau, const ode_steps *steps);
    /* After a step: active are the lanes that made it, from y, with the stages k (`stride` reals apart). May be NULL. */
    void (*made)(void *user, size_t panel, const ode_tableau *tableau, const ode_steps *steps, const real *y, const real *k, size_t stride);
    /* The state of one lane (components PANEL apart) at instant `index` of problem.samples; NULL when there are none. */
    void (*sample)(void *user, size_t index, size_t lane, const real *y);
} ode_field;

typedef struct ode_problem {
    const ode_tableau *tableau;
    double t0, t1; /* either order */
    double rtol, atol;
    size_t steps;     /* not 0: so many equal steps, and no control of the error */
    size_t max_steps; /* attempts of a lane, with control */
    bool shared;      /* one step for all lanes, from the mean square of their errors */
    bool dyadic;      /* steps are (t1 - t0) / 2^level and start at multiples of themselves, so that lanes meet in time */
    const double *samples; /* instants of dense output, in order from t0 to t1 */
    size_t sample_count;
    bool samples_backward; /* they stand in order from t1 to t0 */
    const bool *stop;      /* NULL, or where the field says that it cannot go on: the integration ends, its outcome undefined */
} ode_problem;

typedef struct ode_run {
    size_t panels;
    real *y;                /* [panels][size][PANEL], from start to end */
    unsigned char *active;  /* [panels * PANEL]: lanes to integrate */
    unsigned char *outcome; /* [panels * PANEL]: enum ode_outcome of those */
    ode_trail *trails;      /* one a panel, begun; NULL when no checkpoints are wanted */
    real *scratch;          /* R(ode_scratch_size)(panels, size) reals, 64-byte aligned */
    uint64_t evaluations, accepted, rejected; /* added to, counted by lanes */
} ode_run;

size_t R(ode_scratch_size)(size_t panels, size_t size);

/* false: the trails' arena is full, and the state is undefined. */
bool R(ode_integrate)(const ode_problem *problem, const ode_field *field, ode_run *run);

/* out = y + h sum_j weight_j k_j over `count` stages; h [PANEL]. */
void R(ode_combine)(size_t size, size_t count, const double *weight, const real *k, size_t stride, const real *h, const real *y,
                    real *out);

#endif
