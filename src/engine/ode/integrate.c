#include "engine/ode/integrate.h"

#include <string.h>

#include "engine/ode/control.h"
#include "engine/pieces.h"

/* One group of panels that is integrated together: a single panel, or all of them with a shared step. */
typedef struct group {
    const ode_problem *problem;
    const ode_field *field;
    ode_run *run;
    size_t first, panels, lanes;
    size_t size, stride, k_size; /* of a state; from stage to stage of one panel; of all stages of one panel */
    real *k, *next, *stage;      /* [panels][stages][size][PANEL], [panels][size][PANEL], [size][PANEL] */
    ode_lane *lane;              /* [panels * PANEL] */
    ode_steps *steps;            /* [panels] */
    double *error;               /* [panels * PANEL] */
} group;

size_t R(ode_scratch_size)(size_t panels, size_t size) {
    return (panels * (ODE_STAGES + 1) + 2) * size * PANEL + reals_for(panels * PANEL * sizeof(ode_lane)) +
           reals_for(panels * sizeof(ode_steps)) + reals_for(panels * PANEL * sizeof(double));
}

static void map_group(group *g, real *scratch) {
    g->k = scratch;
    g->next = g->k + g->panels * g->k_size;
    g->stage = g->next + g->panels * g->stride;
    real *rest = g->stage + 2 * g->stride;
    g->lane = (ode_lane *)(void *)rest;
    rest += reals_for(g->panels * PANEL * sizeof(ode_lane));
    g->steps = (ode_steps *)(void *)rest;
    rest += reals_for(g->panels * sizeof(ode_steps));
    g->error = (double *)(void *)rest;
}

static real *panel_y(const group *g, size_t p) { return g->run->y + (g->first + p) * g->stride; }
static real *panel_k(const group *g, size_t p, size_t stage) { return g->k + p * g->k_size + stage * g->stride; }
static unsigned char *panel_active(const group *g, size_t p) { return g->run->active + (g->first + p) * PANEL; }

static bool any_active(const unsigned char *active) { return memchr(active, 1, PANEL) != NULL; }

static void count_evaluations(const group *g, const unsigned char *active) {
    for (size_t l = 0; l < PANEL; l++)
        g->run->evaluations += active[l];
}

static void evaluate(const group *g, size_t p, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    count_evaluations(g, active);
    g->field->rhs(g->field->user, g->first + p, stage, t, active, y, k);
}

void R(ode_combine)(size_t size, size_t count, const double *weight, const real *k, size_t stride, const real *h, const real *y,
                    real *out) {
    real weights[ODE_STAGES];
    const real *stage[ODE_STAGES];
    size_t used = 0;
    for (size_t j = 0; j < count; j++)
        if (weight[j] != 0.0) {
            weights[used] = (real)weight[j];
            stage[used++] = k + j * stride;
        }
    for (size_t c = 0; c < size; c++) {
        _Alignas(NF_ALIGN) real sum[PANEL] = {0};
        for (size_t j = 0; j < used; j++)
            for (size_t l = 0; l < PANEL; l++)
                sum[l] = madd(weights[j], stage[j][c * PANEL + l], sum[l]);
        for (size_t l = 0; l < PANEL; l++)
            out[c * PANEL + l] = madd(h[l], sum[l], y[c * PANEL + l]);
    }
}

static void step_sizes(const ode_steps *steps, real *h) {
    for (size_t l = 0; l < PANEL; l++)
        h[l] = (real)steps->h[l];
}

/* ---- the error */

static inline double larger(double a, double b) { return a > b ? a : b; }

/*
 * What the tolerance allows for a component. Beside it stands the rounding of the step's increment: below that the estimate
 * is noise, and a tolerance that asks for less would only make the steps wither.
 */
static inline double allowed(const ode_problem *p, double y, double next, double increment) {
    return p->atol + p->rtol * larger(fabs(y), fabs(next)) + 8.0 * (double)REAL_EPS * fabs(increment) + DBL_MIN;
}

/* The root mean square over the controlled components, in units of what is allowed; DOP853's two estimates as in its program. */
static void measure_error(const group *g, size_t p) {
    const ode_tableau *tableau = g->problem->tableau;
    const real *y = panel_y(g, p), *next = g->next + p * g->stride, *k = panel_k(g, p, 0), *k_last = panel_k(g, p, tableau->stages - 1);
    const ode_steps *s = &g->steps[p];
    const bool two = tableau->error3[0] != 0.0;
    _Alignas(NF_ALIGN) real h[PANEL], zero[PANEL] = {0}, e[PANEL], e3[PANEL] = {0};
    double sum[PANEL] = {0}, sum3[PANEL] = {0};
    step_sizes(s, h);
    for (size_t c = 0; c < g->field->controlled; c++) {
        const size_t at = c * PANEL;
        R(ode_combine)(1, tableau->stages, tableau->error, k + at, g->stride, h, zero, e);
        if (two)
            R(ode_combine)(1, tableau->stages, tableau->error3, k + at, g->stride, h, zero, e3);
        for (size_t l = 0; l < PANEL; l++) {
            const double rate = larger(fabs((double)k[at + l]), fabs((double)k_last[at + l]));
            const double unit = 1.0 / allowed(g->problem, (double)y[at + l], (double)next[at + l], s->h[l] * rate);
            const double q = (double)e[l] * unit, q3 = (double)e3[l] * unit;
            sum[l] += q * q;
            sum3[l] += q3 * q3;
        }
    }
    const double n = (double)g->field->controlled;
    for (size_t l = 0; l < PANEL; l++) {
        const double both = sum[l] + 0.01 * sum3[l];
        g->error[p * PANEL + l] = two ? (both == 0.0 ? 0.0 : sum[l] / sqrt(n * both)) : sqrt(sum[l] / n);
    }
}

/* With a shared step: the mean square over the lanes. A lane that is not finite however small the step is given up. */
static void share_error(const group *g) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < g->lanes; i++) {
        if (!g->run->active[g->first * PANEL + i])
            continue;
        const double e = g->error[i];
        if (!isfinite(e) && fabs(g->steps[i / PANEL].h[i % PANEL]) < 1e-8 * fabs(g->problem->t1 - g->problem->t0)) {
            g->run->active[g->first * PANEL + i] = 0;
            g->run->outcome[g->first * PANEL + i] = ODE_UNDERFLOW;
            continue;
        }
        sum += e * e;
        count++;
    }
    const double shared = sqrt(sum / (double)(count ? count : 1));
    for (size_t i = 0; i < g->lanes; i++)
        g->error[i] = shared;
}

/* ---- the first step (Hairer, Norsett & Wanner 1993, II.4) */

static void scaled_norms(const group *g, size_t p, const real *v, const real *w, double *norm) {
    const real *y = panel_y(g, p);
    for (size_t l = 0; l < PANEL; l++)
        norm[l] = 0;
    for (size_t c = 0; c < g->field->controlled; c++)
        for (size_t l = 0; l < PANEL; l++) {
            const size_t i = c * PANEL + l;
            const double q = ((double)v[i] - (w ? (double)w[i] : 0.0)) / allowed(g->problem, (double)y[i], 0.0, 0.0);
            norm[l] += q * q;
        }
    for (size_t l = 0; l < PANEL; l++)
        norm[l] = sqrt(norm[l] / (double)g->field->controlled);
}

static void share_norm(const group *g, double *norm) {
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < g->lanes; i++)
        if (g->run->active[g->first * PANEL + i] && isfinite(norm[i])) {
            sum += norm[i] * norm[i];
            count++;
        }
    for (size_t i = 0; i < g->lanes; i++)
        norm[i] = sqrt(sum / (double)(count ? count : 1));
}

static double first_guess(double whole, double d0, double d1) {
    const double h = d0 < 1e-5 || d1 < 1e-5 || !isfinite(d1) ? 1e-6 * whole : 0.01 * d0 / d1;
    return h < whole ? h : whole;
}

/* An infinite norm, as of a component that starts at 0 with no absolute tolerance, says nothing of the step. */
static double second_guess(const ode_problem *p, double whole, double h0, double d1, double change) {
    const double steepest = fmax(d1, change / h0);
    if (!isfinite(steepest))
        return h0;
    const double h1 = steepest <= 1e-15 / whole ? fmax(1e-6 * whole, 1e-3 * h0) : pow(0.01 / steepest, 1.0 / (double)p->tableau->error_order);
    return isfinite(h1) ? fmin(100.0 * h0, h1) : h0;
}

static void choose_first_steps(const group *g) {
    const ode_problem *problem = g->problem;
    const double whole = fabs(problem->t1 - problem->t0);
    double d0[ODE_MOST_LANES], d1[ODE_MOST_LANES], change[ODE_MOST_LANES];
    for (size_t p = 0; p < g->panels; p++) {
        scaled_norms(g, p, panel_y(g, p), NULL, d0 + p * PANEL);
        scaled_norms(g, p, panel_k(g, p, 0), NULL, d1 + p * PANEL);
    }
    if (problem->shared) {
        share_norm(g, d0);
        share_norm(g, d1);
    }
    for (size_t p = 0; p < g->panels; p++) {
        ode_steps *s = &g->steps[p];
        _Alignas(NF_ALIGN) real h[PANEL];
        for (size_t l = 0; l < PANEL; l++) {
            ode_lane *lane = &g->lane[p * PANEL + l];
            s->active[l] = panel_active(g, p)[l];
            R(ode_lane_propose)(problem, lane, first_guess(whole, d0[p * PANEL + l], d1[p * PANEL + l]));
            R(ode_lane_attempt)(problem, lane, &s->h[l], &s->end[l]);
        }
        const double one = 1.0;
        step_sizes(s, h);
        R(ode_combine)(g->size, 1, &one, panel_k(g, p, 0), g->stride, h, panel_y(g, p), g->stage);
        evaluate(g, p, ODE_NO_STAGE, s->end, s->active, g->stage, panel_k(g, p, 1));
        scaled_norms(g, p, panel_k(g, p, 1), panel_k(g, p, 0), change + p * PANEL);
    }
    if (problem->shared)
        share_norm(g, change);
    for (size_t i = 0; i < g->lanes; i++) {
        const double h0 = fabs(g->steps[i / PANEL].h[i % PANEL]);
        R(ode_lane_propose)(problem, &g->lane[i], second_guess(problem, whole, h0, d1[i], change[i]));
    }
}

/* ---- dense output */

/* The stages that only dense output needs. */
static void run_extra_stages(const group *g, size_t p, const real *h) {
    const ode_tableau *tableau = g->problem->tableau;
    const ode_steps *s = &g->steps[p];
    for (size_t j = tableau->stages; j < tableau->stages + tableau->extra; j++) {
        double t[PANEL];
        for (size_t i = 0; i < PANEL; i++)
            t[i] = ode_stage_time(tableau->c[j], s->t[i], s->h[i], s->end[i]);
        R(ode_combine)(g->size, j, tableau->a[j], panel_k(g, p, 0), g->stride, h, panel_y(g, p), g->stage);
        evaluate(g, p, ODE_NO_STAGE, t, s->active, g->stage, panel_k(g, p, j));
    }
}

/* The sample that a lane meets next; its index among all. */
static size_t next_sample(const ode_problem *problem, const ode_lane *lane) {
    return problem->samples_backward ? problem->sample_count - 1 - lane->sample : lane->sample;
}

/*
 * Samples at the end of a step are its result itself, so that the last one has the bits of the solution. Fixed steps may be shorter than the spacing of the numbers around
 * t: then the first instant is the start of the first step, though its end is the same number, and the last one the end of the last.
 */
static void emit_samples(const group *g, size_t p) {
    const ode_problem *problem = g->problem;
    const ode_tableau *tableau = problem->tableau;
    const ode_steps *s = &g->steps[p];
    const double direction = problem->t1 < problem->t0 ? -1.0 : 1.0;
    bool extra_done = tableau->extra == 0;
    _Alignas(NF_ALIGN) real h[PANEL];
    step_sizes(s, h);
    for (size_t l = 0; l < PANEL; l++) {
        ode_lane *lane = &g->lane[p * PANEL + l];
        for (; s->active[l] && lane->sample < problem->sample_count; lane->sample++) {
            const size_t index = next_sample(problem, lane);
            const double at = problem->samples[index];
            if (direction * (at - s->end[l]) > 0 || (at == problem->t1 && !R(ode_lane_arrived)(problem, lane)))
                break;
            if (at == s->end[l] && (at != s->t[l] || at == problem->t1)) {
                g->field->sample(g->field->user, index, (g->first + p) * PANEL + l, g->next + p * g->stride + l);
                continue;
            }
            if (!extra_done)
                run_extra_stages(g, p, h);
            extra_done = true;
            double weights[ODE_STAGES];
            R(ode_dense_weights)(tableau, (at - s->t[l]) / s->h[l], weights);
            R(ode_combine)(g->size, tableau->stages + tableau->extra, weights, panel_k(g, p, 0), g->stride, h, panel_y(g, p), g->stage);
            g->field->sample(g->field->user, index, (g->first + p) * PANEL + l, g->stage + l);
        }
    }
}

/* ---- steps */

/* The attempts of all lanes; false when none is left. */
static bool set_out(const group *g) {
    bool any = false;
    if (g->problem->stop && *g->problem->stop)
        return false;
    for (size_t p = 0; p < g->panels; p++) {
        ode_steps *s = &g->steps[p];
        unsigned char *active = panel_active(g, p), *outcome = g->run->outcome + (g->first + p) * PANEL;
        for (size_t l = 0; l < PANEL; l++) {
            const ode_lane *lane = &g->lane[p * PANEL + l];
            s->t[l] = lane->t;
            if (active[l] && !g->problem->steps && lane->attempts >= g->problem->max_steps) {
                active[l] = 0;
                outcome[l] = ODE_BUDGET;
            }
            if (active[l] && !R(ode_lane_attempt)(g->problem, lane, &s->h[l], &s->end[l])) {
                active[l] = 0;
                outcome[l] = ODE_UNDERFLOW;
            }
            if (!active[l]) {
                s->h[l] = 0;
                s->end[l] = s->t[l];
            }
            s->active[l] = active[l];
            any = any || active[l];
        }
    }
    return any;
}

static void run_stages(const group *g, size_t p) {
    const ode_tableau *tableau = g->problem->tableau;
    const ode_steps *s = &g->steps[p];
    real *next = g->next + p * g->stride;
    _Alignas(NF_ALIGN) real h[PANEL];
    step_sizes(s, h);
    if (g->field->prepare)
        g->field->prepare(g->field->user, tableau, s);
    for (size_t j = tableau->fsal ? 1 : 0; j < tableau->stages; j++) {
        double t[PANEL];
        for (size_t l = 0; l < PANEL; l++)
            t[l] = ode_stage_time(tableau->c[j], s->t[l], s->h[l], s->end[l]);
        real *y = tableau->fsal && j + 1 == tableau->stages ? next : g->stage;
        R(ode_combine)(g->size, j, tableau->a[j], panel_k(g, p, 0), g->stride, h, panel_y(g, p), y);
        evaluate(g, p, j, t, s->active, y, panel_k(g, p, j));
    }
    if (!tableau->fsal)
        R(ode_combine)(g->size, tableau->stages, tableau->b, panel_k(g, p, 0), g->stride, h, panel_y(g, p), next);
}

static void copy_made(const group *g, const unsigned char *made, const real *from, real *to) {
    for (size_t c = 0; c < g->size; c++)
        for (size_t l = 0; l < PANEL; l++)
            to[c * PANEL + l] = made[l] ? from[c * PANEL + l] : to[c * PANEL + l];
}

/* With a shared step all lanes are where the first one is, but for the samples that they have had. */
static void follow(ode_lane *lane, const ode_lane *leader) {
    const size_t sample = lane->sample;
    *lane = *leader;
    lane->sample = sample;
}

/* Judges the attempts of a panel and moves the lanes that made theirs; false when there is no room for checkpoints. */
static bool finish_step(const group *g, size_t p) {
    const ode_problem *problem = g->problem;
    const ode_tableau *tableau = problem->tableau;
    ode_steps *s = &g->steps[p];
    unsigned char *active = panel_active(g, p);
    ode_trail *trail = g->run->trails ? &g->run->trails[g->first + p] : NULL;
    if (trail && !R(trail_reserve)(trail, panel_y(g, p)))
        return false;
    const ode_lane *leader = NULL;
    bool made = false;
    for (size_t l = 0; l < PANEL; l++) {
        if (!active[l]) {
            s->active[l] = 0;
            continue;
        }
        ode_lane *lane = &g->lane[p * PANEL + l];
        if (leader)
            follow(lane, leader);
        else
            made = R(ode_lane_judge)(problem, lane, s->h[l], s->end[l], g->error[p * PANEL + l]);
        if (problem->shared)
            leader = lane;
        s->active[l] = made;
        g->run->accepted += s->active[l];
        g->run->rejected += !s->active[l];
        if (s->active[l] && trail)
            R(trail_add)(trail, l, s->t[l], s->h[l], s->end[l], panel_y(g, p), panel_k(g, p, 0), g->stride);
        if (s->active[l] && R(ode_lane_arrived)(problem, lane)) {
            active[l] = 0;
            g->run->outcome[(g->first + p) * PANEL + l] = ODE_ARRIVED;
        }
    }
    if (!any_active(s->active))
        return true;
    if (problem->sample_count)
        emit_samples(g, p);
    if (g->field->made)
        g->field->made(g->field->user, g->first + p, tableau, s, panel_y(g, p), panel_k(g, p, 0), g->stride);
    copy_made(g, s->active, g->next + p * g->stride, panel_y(g, p));
    if (tableau->fsal)
        copy_made(g, s->active, panel_k(g, p, tableau->stages - 1), panel_k(g, p, 0));
    return true;
}

static void start(const group *g) {
    for (size_t i = 0; i < g->lanes; i++)
        R(ode_lane_start)(g->problem, &g->lane[i]);
    if (!g->problem->tableau->fsal)
        return;
    for (size_t p = 0; p < g->panels; p++) {
        double t[PANEL];
        for (size_t l = 0; l < PANEL; l++)
            t[l] = g->problem->t0;
        evaluate(g, p, ODE_NO_STAGE, t, panel_active(g, p), panel_y(g, p), panel_k(g, p, 0));
    }
    if (!g->problem->steps)
        choose_first_steps(g);
}

static bool integrate_group(const group *g) {
    start(g);
    while (set_out(g)) {
        for (size_t p = 0; p < g->panels; p++) {
            if (!any_active(g->steps[p].active))
                continue;
            run_stages(g, p);
            if (!g->problem->steps)
                measure_error(g, p);
        }
        if (g->problem->shared && !g->problem->steps)
            share_error(g);
        for (size_t p = 0; p < g->panels; p++)
            if (any_active(g->steps[p].active) && !finish_step(g, p))
                return false;
    }
    return true;
}

bool R(ode_integrate)(const ode_problem *problem, const ode_field *field, ode_run *run) {
    const size_t together = problem->shared ? run->panels : 1;
    for (size_t first = 0; first < run->panels; first += together) {
        group g = {.problem = problem,
                   .field = field,
                   .run = run,
                   .first = first,
                   .panels = together,
                   .lanes = together * PANEL,
                   .size = field->size,
                   .stride = field->size * PANEL,
                   .k_size = field->size * PANEL * ODE_STAGES};
        map_group(&g, run->scratch);
        memset(g.k, 0, g.panels * g.k_size * sizeof(real));
        if (!integrate_group(&g))
            return false;
    }
    return true;
}
