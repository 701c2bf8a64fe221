#include "engine/ode/reverse.h"

#include <string.h>

/* ---- the discrete solution */

/* Stage states, their derivatives and the cotangents of these, each [stages][size][PANEL], and dy. */
size_t R(ode_reverse_scratch)(size_t size) { return (3 * ODE_STEP_STAGES + 1) * size * PANEL; }

typedef struct reversal {
    const ode_tableau *tableau;
    const ode_pullback *pullback;
    size_t panel, stride;
    real *y, *k, *dk, *dy;
} reversal;

static void stage_times(const ode_tableau *tableau, const ode_steps *s, size_t stage, double *t) {
    for (size_t l = 0; l < PANEL; l++)
        t[l] = ode_stage_time(tableau->c[stage], s->t[l], s->h[l], s->end[l]);
}

/* Where the stages stood: from the derivatives that the checkpoint has, or from those computed on the way. */
static void replay_stages(const reversal *r, const ode_steps *s, const real *h, const trail_step *step) {
    const ode_pullback *pb = r->pullback;
    const real *k = step->k ? step->k : r->k;
    for (size_t j = 0; j < r->tableau->weighted; j++) {
        R(ode_combine)(pb->size, j, r->tableau->a[j], k, r->stride, h, step->y, r->y + j * r->stride);
        if (step->k || j + 1 == r->tableau->weighted)
            continue;
        double t[PANEL];
        stage_times(r->tableau, s, j, t);
        pb->rhs(pb->user, r->panel, j, t, s->active, r->y + j * r->stride, r->k + j * r->stride);
    }
}

/* add += weight h d */
static void add_cotangent(size_t size, double weight, const real *h, const real *d, real *add) {
    const real w = (real)weight;
    for (size_t c = 0; c < size; c++)
        for (size_t l = 0; l < PANEL; l++)
            add[c * PANEL + l] = madd(w * h[l], d[c * PANEL + l], add[c * PANEL + l]);
}

static void reverse_step(const reversal *r, const ode_steps *s, const trail_step *step, real *d) {
    const ode_pullback *pb = r->pullback;
    const ode_tableau *tableau = r->tableau;
    _Alignas(NF_ALIGN) real h[PANEL], weight[PANEL];
    for (size_t l = 0; l < PANEL; l++)
        h[l] = (real)s->h[l];
    if (pb->prepare)
        pb->prepare(pb->user, tableau, s);
    replay_stages(r, s, h, step);
    memset(r->dk, 0, tableau->weighted * r->stride * sizeof(real));
    for (size_t j = 0; j < tableau->weighted; j++)
        add_cotangent(pb->size, tableau->b[j], h, d, r->dk + j * r->stride);
    for (size_t j = tableau->weighted; j-- > 0;) {
        double t[PANEL];
        stage_times(tableau, s, j, t);
        for (size_t l = 0; l < PANEL; l++)
            weight[l] = (real)tableau->b[j] * h[l];
        pb->vjp(pb->user, r->panel, j, t, s->active, r->y + j * r->stride, r->dk + j * r->stride, weight, true, r->dy);
        for (size_t c = 0; c < pb->size; c++)
            for (size_t l = 0; l < PANEL; l++) {
                real *dy = &r->dy[c * PANEL + l];
                *dy = s->active[l] ? *dy : 0;
                d[c * PANEL + l] += *dy;
            }
        for (size_t i = 0; i < j; i++)
            if (tableau->a[j][i] != 0.0)
                add_cotangent(pb->size, tableau->a[j][i], h, r->dy, r->dk + i * r->stride);
    }
}

void R(ode_reverse)(const ode_tableau *tableau, const ode_pullback *pullback, size_t panel, const ode_trail *trail, real *d,
                    real *scratch) {
    reversal r = {.tableau = tableau, .pullback = pullback, .panel = panel, .stride = pullback->size * PANEL, .y = scratch};
    r.k = r.y + ODE_STEP_STAGES * r.stride;
    r.dk = r.k + ODE_STEP_STAGES * r.stride;
    r.dy = r.dk + ODE_STEP_STAGES * r.stride;
    memset(r.k, 0, ODE_STEP_STAGES * r.stride * sizeof(real));
    for (size_t i = trail->most; i-- > 0;) {
        const trail_step step = R(trail_at)(trail, i);
        ode_steps s;
        for (size_t l = 0; l < PANEL; l++) {
            s.t[l] = step.t[l];
            s.h[l] = step.h[l];
            s.end[l] = step.end[l];
            s.active[l] = i < trail->count[l];
        }
        reverse_step(&r, &s, &step, d);
    }
}

/* ---- the adjoint equation */

typedef struct adjoint {
    const ode_pullback *pullback;
    real *stage, *dk, *unused; /* [2 size][PANEL], [size][PANEL] each */
} adjoint;

static size_t adjoint_own(size_t size) { return 4 * size * PANEL; }

size_t R(ode_adjoint_scratch)(size_t panels, size_t size) { return adjoint_own(size) + R(ode_scratch_size)(panels, 2 * size); }

static void adjoint_rhs(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    const adjoint *a = user;
    const ode_pullback *pb = a->pullback;
    const size_t half = pb->size * PANEL;
    _Alignas(NF_ALIGN) real weight[PANEL];
    for (size_t l = 0; l < PANEL; l++)
        weight[l] = active[l];
    for (size_t c = 0; c < pb->size; c++)
        for (size_t l = 0; l < PANEL; l++)
            a->dk[c * PANEL + l] = active[l] ? y[half + c * PANEL + l] : 0;
    pb->rhs(pb->user, panel, stage, t, active, y, k);
    pb->vjp(pb->user, panel, stage, t, active, y, a->dk, weight, false, k + half);
    for (size_t i = 0; i < half; i++)
        k[half + i] = -k[half + i];
}

/* The stages of lanes that made no step may be anything, and the user sums over lanes. */
static void keep_finite(size_t size, const unsigned char *active, const real *y, real *stage) {
    for (size_t c = 0; c < size; c++)
        for (size_t l = 0; l < PANEL; l++)
            stage[c * PANEL + l] = active[l] ? stage[c * PANEL + l] : y[c * PANEL + l];
}

static void adjoint_made(void *user, size_t panel, const ode_tableau *tableau, const ode_steps *s, const real *y, const real *k,
                         size_t stride) {
    const adjoint *a = user;
    const ode_pullback *pb = a->pullback;
    const size_t half = pb->size * PANEL;
    _Alignas(NF_ALIGN) real h[PANEL], weight[PANEL];
    for (size_t l = 0; l < PANEL; l++)
        h[l] = s->active[l] ? (real)s->h[l] : 0;
    if (pb->prepare)
        pb->prepare(pb->user, tableau, s);
    for (size_t j = 0; j < tableau->weighted; j++) {
        if (tableau->b[j] == 0.0)
            continue;
        double t[PANEL];
        stage_times(tableau, s, j, t);
        R(ode_combine)(2 * pb->size, j, tableau->a[j], k, stride, h, y, a->stage);
        keep_finite(2 * pb->size, s->active, y, a->stage);
        for (size_t l = 0; l < PANEL; l++)
            weight[l] = -h[l] * (real)tableau->b[j];
        for (size_t c = 0; c < pb->size; c++)
            for (size_t l = 0; l < PANEL; l++)
                a->dk[c * PANEL + l] = s->active[l] ? weight[l] * a->stage[half + c * PANEL + l] : 0;
        pb->vjp(pb->user, panel, j, t, s->active, a->stage, a->dk, weight, true, a->unused);
    }
}

/* The pullback's prepare with its own user. */
static void adjoint_prepare(void *user, const ode_tableau *tableau, const ode_steps *steps) {
    const adjoint *a = user;
    if (a->pullback->prepare)
        a->pullback->prepare(a->pullback->user, tableau, steps);
}

void R(ode_adjoint)(const ode_problem *problem, const ode_pullback *pullback, ode_run *run) {
    const size_t half = pullback->size * PANEL;
    adjoint a = {.pullback = pullback, .stage = run->scratch};
    a.dk = a.stage + 2 * half;
    a.unused = a.dk + half;
    const ode_field field = {.user = &a,
                             .size = 2 * pullback->size,
                             .controlled = 2 * pullback->size,
                             .rhs = adjoint_rhs,
                             .prepare = adjoint_prepare,
                             .made = adjoint_made};
    ode_run inner = *run;
    inner.trails = NULL;
    inner.scratch = run->scratch + adjoint_own(pullback->size);
    R(ode_integrate)(problem, &field, &inner);
    run->evaluations = inner.evaluations;
    run->accepted = inner.accepted;
    run->rejected = inner.rejected;
}
