#include "engine/roots/newton.h"

#include <stdbool.h>

#include "engine/kernels/vmath.h"

/* The place of x among all numbers, in order: neighbours differ by 1. It is its own inverse on bits. */
static inline real_int ordinal_of_bits(real_int bits) { return bits < 0 ? bits ^ (real_int)~VM_SIGN_BIT : bits; }

static inline real_int ordinal(real x) { return ordinal_of_bits((real_int)vm_bits(x)); }

static inline real from_ordinal(real_int n) { return vm_from_bits((real_uint)ordinal_of_bits(n)); }

/* floor((a + b) / 2) without overflow. */
static inline real_int middle(real_int a, real_int b) { return (a & b) + ((a ^ b) >> 1); }

void R(newton_begin)(newton_panel *state, const real *guess, const real *low, const real *high) {
    state->settled[0] = 0;
    for (size_t l = 0; l < PANEL; l++) {
        const real above = guess[l] > low[l] ? guess[l] : low[l]; /* low for a NaN */
        state->t[l] = above < high[l] ? above : high[l];
        state->low[l] = from_ordinal(ordinal(low[l]) - 1);
        state->high[l] = from_ordinal(ordinal(high[l]) + 1);
        state->low_residual[l] = (real)-INFINITY;
        state->high_residual[l] = (real)INFINITY;
    }
}

/* What one pass found in a panel: lanes that go on, and those among them whose step left the bracket. */
typedef struct pass {
    real_int open, outside;
} pass;

/* A lane has ended when its bracket is empty: low == high == t. */
static pass step_inside(newton_panel *s, const real *restrict residual, const real *restrict level, const real *restrict step) {
    real *restrict t = s->t, *restrict low = s->low, *restrict high = s->high;
    real *restrict low_residual = s->low_residual, *restrict high_residual = s->high_residual;
    real_int open = 0, outside = 0;
    for (size_t l = 0; l < PANEL; l++) {
        const real x = t[l], f = residual[l];
        const real below = f < 0 ? x : low[l], above = f > 0 ? x : high[l];
        const real next = x + step[l];
        /* Open lanes: a residual above its level (a NaN is not), in a bracket that was not empty. */
        const real_int goes_on = (vm_abs(f) > level[l] ? 1 : 0) & (low[l] < high[l] ? 1 : 0);
        const real_int inside = (next > below ? 1 : 0) & (next < above ? 1 : 0);
        low_residual[l] = f < 0 ? f : low_residual[l];
        high_residual[l] = f > 0 ? f : high_residual[l];
        low[l] = goes_on ? below : x;
        high[l] = goes_on ? above : x;
        t[l] = goes_on ? next : x;
        open += goes_on;
        outside += goes_on & ~inside;
    }
    return (pass){open, outside};
}

/* The middle of the bracket where the step left it, or in all lanes; of an exhausted bracket the better end. True when there is one. */
static bool bisect(newton_panel *restrict s, bool all) {
    bool exhausted = false;
    for (size_t l = 0; l < PANEL; l++) {
        const real low = s->low[l], high = s->high[l];
        if (low == high || (!all && s->t[l] > low && s->t[l] < high))
            continue;
        const real_int first = ordinal(low), centre = middle(first, ordinal(high));
        if (centre != first) {
            s->t[l] = from_ordinal(centre);
            continue;
        }
        s->t[l] = -s->low_residual[l] < s->high_residual[l] ? low : high;
        s->low[l] = s->high[l] = s->t[l];
        exhausted = true;
    }
    return exhausted;
}

static size_t open_lanes(const newton_panel *s, size_t lanes) {
    size_t open = 0;
    for (size_t l = 0; l < lanes; l++)
        open += s->low[l] != s->high[l];
    return open;
}

uint64_t R(newton_solve)(newton_function *f, void *user, size_t panels, size_t rows, newton_panel *state) {
    _Alignas(NF_ALIGN) real residual[PANEL], level[PANEL], step[PANEL];
    uint64_t evaluations = rows; /* of the first pass */
    size_t live = panels;
    for (size_t k = 0; live > 0; k++) {
        live = 0;
        /* Panel after panel within a pass, not pass after pass within a panel: the chains of operations overlap. */
        for (size_t p = 0; p < panels; p++) {
            newton_panel *s = state + p;
            const size_t first = p * PANEL, lanes = rows <= first ? 0 : rows - first < PANEL ? rows - first : PANEL;
            if (s->settled[0] == 1)
                continue;
            f(user, p, s->t, residual, level, step);
            const pass found = step_inside(s, residual, level, step);
            const bool forced = k >= NEWTON_FREE && k % 2 == 0;
            bool again = found.open > 0;
            if (found.outside > 0 || (forced && again))
                again |= bisect(s, forced);
            evaluations += again ? open_lanes(s, lanes) : 0;
            s->settled[0] = again ? 0 : 1;
            live += again;
        }
    }
    return evaluations;
}
