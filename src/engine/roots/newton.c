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
    }
}

/* Lanes that go on: a residual above its level (a NaN is not), in a bracket that is not empty. The others' brackets become empty. */
static real_int close_lanes(newton_panel *s, const real *restrict residual, const real *restrict level) {
    real *restrict t = s->t, *restrict low = s->low, *restrict high = s->high;
    real_int open = 0;
    for (size_t l = 0; l < PANEL; l++) {
        const real_int goes_on = (vm_abs(residual[l]) > level[l] ? 1 : 0) & (low[l] < high[l] ? 1 : 0);
        low[l] = goes_on ? low[l] : t[l];
        high[l] = goes_on ? high[l] : t[l];
        open += goes_on;
    }
    return open;
}

/* Narrow the brackets of the open lanes and step. Returns how many steps left their bracket. */
static real_int advance(newton_panel *s, const real *restrict residual, const real *restrict step) {
    real *restrict t = s->t, *restrict low = s->low, *restrict high = s->high;
    real_int outside = 0;
    for (size_t l = 0; l < PANEL; l++) {
        const real x = t[l], f = residual[l], next = x + step[l];
        const real_int open = low[l] < high[l] ? 1 : 0;
        const real below = f < 0 ? x : low[l], above = f > 0 ? x : high[l];
        const real_int inside = (next > below ? 1 : 0) & (next < above ? 1 : 0);
        low[l] = open ? below : x;
        high[l] = open ? above : x;
        t[l] = open ? next : x;
        outside += open & (1 - inside);
    }
    return outside;
}

/* The middle of the bracket where the step left it, or in all open lanes. True when a bracket is exhausted: its t is then `low`. */
static bool bisect(newton_panel *s, bool all) {
    bool exhausted = false;
    for (size_t l = 0; l < PANEL; l++) {
        const real low = s->low[l], high = s->high[l];
        if (low == high || (!all && s->t[l] > low && s->t[l] < high))
            continue;
        const real_int first = ordinal(low), centre = middle(first, ordinal(high));
        s->t[l] = from_ordinal(centre);
        exhausted |= centre == first;
    }
    return exhausted;
}

/* Settle the exhausted brackets: evaluate both ends and take the better one. */
static void choose_ends(const newton_function *f, size_t panel, newton_panel *s) {
    _Alignas(NF_ALIGN) real t[PANEL], low_residual[PANEL], high_residual[PANEL], level[PANEL];
    f->residual(f->user, panel, s->t, low_residual, level);
    for (size_t l = 0; l < PANEL; l++)
        t[l] = s->t[l] == s->low[l] ? s->high[l] : s->t[l];
    f->residual(f->user, panel, t, high_residual, level);
    for (size_t l = 0; l < PANEL; l++)
        if (s->t[l] == s->low[l]) {
            if (!(vm_abs(low_residual[l]) < vm_abs(high_residual[l])))
                s->t[l] = s->high[l];
            s->low[l] = s->high[l] = s->t[l];
        }
}

static uint64_t open_lanes(const newton_panel *s, size_t lanes) {
    uint64_t open = 0;
    for (size_t l = 0; l < lanes; l++)
        open += s->low[l] < s->high[l];
    return open;
}

uint64_t R(newton_solve)(const newton_function *f, size_t panels, size_t rows, newton_panel *state) {
    _Alignas(NF_ALIGN) real residual[PANEL], level[PANEL], step[PANEL];
    uint64_t evaluations = rows; /* of the first pass */
    size_t live = panels;
    for (size_t k = 0; live > 0; k++) {
        live = 0;
        /* Panel after panel within a pass, not pass after pass within a panel: the chains of operations overlap. */
        for (size_t p = 0; p < panels; p++) {
            newton_panel *s = state + p;
            if (s->settled[0] == 1)
                continue;
            f->residual(f->user, p, s->t, residual, level);
            const real_int open = close_lanes(s, residual, level);
            if (open == 0) {
                s->settled[0] = 1;
                continue;
            }
            evaluations += rows >= (p + 1) * PANEL ? (uint64_t)open : open_lanes(s, rows > p * PANEL ? rows - p * PANEL : 0);
            f->step(f->user, p, s->t, residual, step);
            const bool forced = k >= NEWTON_FREE && k % 2 == 0;
            if ((advance(s, residual, step) > 0 || forced) && bisect(s, forced))
                choose_ends(f, p, s);
            live++;
        }
    }
    return evaluations;
}
