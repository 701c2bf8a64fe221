/*
 * Checkpoints of accepted steps: where each lane of a panel stood at the start of each of its steps, and the derivatives at its stages
 * as far as there is room for them, so that they need not be computed again.
 */
#ifndef NF_ENGINE_ODE_TRAIL_H
#define NF_ENGINE_ODE_TRAIL_H

#include <stdbool.h>

#include "core/memory.h"
#include "engine/real.h"

#define TRAIL_CHUNK 8 /* steps that are allocated together */

/* Step s of every lane. Lanes with fewer steps have h = 0 here and a y that is finite. */
typedef struct trail_step {
    double *t, *h, *end; /* [PANEL] */
    real *y;             /* [size][PANEL] */
    real *k;             /* [stages][size][PANEL], or NULL */
} trail_step;

typedef struct ode_trail {
    nf_arena *arena;
    size_t size;         /* leading components of the state that are kept */
    size_t stages;       /* whose derivatives are kept */
    size_t whole_chunks; /* the first chunks, which hold them */
    size_t most;         /* steps of the lane that has most */
    size_t count[PANEL];
    unsigned char **chunks;
    size_t chunk_count, chunk_room;
} ode_trail;

/* `room`: bytes for the derivatives of `stages` stages; the first steps get them. */
void R(trail_begin)(ode_trail *trail, nf_arena *arena, size_t size, size_t stages, size_t room);

/* Room for one more step of every lane; false when the arena has none. `y` fills what is not written later. */
bool R(trail_reserve)(ode_trail *trail, const real *y);

/* Lane l takes a step; after trail_reserve. The stages stand k_stride reals apart. */
void R(trail_add)(ode_trail *trail, size_t lane, double t, double h, double end, const real *y, const real *k, size_t k_stride);

trail_step R(trail_at)(const ode_trail *trail, size_t step);

#endif
