/*
 * Roots of increasing scalar functions on brackets, a tile of lanes at a time: Newton's method (or whatever better step the
 * function proposes), kept inside a bracket, with bisection where the step is of no use.
 *
 * It ends for every function and every bracket. Each pass over a lane makes its last iterate one end of the bracket; a step
 * that leaves the bracket is replaced by a bisection, and after the first NEWTON_FREE passes so is every other one. Bisection
 * halves the *count of numbers* in the bracket, not its length: 64 of them (32 in single precision) exhaust any bracket.
 * So there are at most NEWTON_FREE + 2 * 64 + 2 passes, whatever the input, and a few where Newton's method converges.
 *
 * Lanes do not see each other: a lane that has ended stands still while the others go on.
 */
#ifndef NF_ENGINE_NEWTON_H
#define NF_ENGINE_NEWTON_H

#include "engine/real.h"

#define NEWTON_FREE 8

/* The state of one panel, reals throughout so that it may lie in scratch memory. The ends are excluded: they have been tried. */
typedef struct newton_panel {
    real t[PANEL], low[PANEL], high[PANEL];
    real settled[NF_ALIGN / sizeof(real)]; /* [0] is 1 when all lanes have ended and t was evaluated; the rest is for alignment */
} newton_panel;

/* A function, on all lanes of a panel. */
typedef struct newton_function {
    /* At t: the residual, which increases with t (NaN: it has no value), and the size below which it is nothing but round-off. */
    void (*residual)(void *user, size_t panel, const real *t, real *residual, real *level);
    /* After `residual` at t: the step to the next iterate, -residual / slope or better. It may be anything. */
    void (*step)(void *user, size_t panel, const real *t, const real *residual, real *step);
    void *user;
} newton_function;

/* A bracket low <= t <= high with a first guess, for each lane. A guess outside is moved to the nearer end. */
void R(newton_begin)(newton_panel *state, const real *guess, const real *low, const real *high);

/*
 * Find the roots of all lanes: until the residual is at its level, or the bracket holds no number that was not tried; state.t is
 * then that end of the bracket where the residual is smaller. The last call of f->residual for each panel is at its final t. A
 * lane whose residual is NaN ends where that was found. Returns the iterates that the first `rows` lanes needed.
 */
uint64_t R(newton_solve)(const newton_function *f, size_t panels, size_t rows, newton_panel *state);

#endif
