/*
 * Continuous normalizing flow (Chen et al. 2018, theorem 1; Grathwohl et al. 2019): dz/dt = f(z, t) from t0 to t1, and
 * log_det the integral of the trace of df/dz along the path, as one more component of the same system.
 *
 * The regularisers of Finlay et al. 2020, the integrals of |f|^2 and of the Jacobian's squared norm, are a further component
 * when the caller wants them. It takes no part in the control of the error, so that asking for it does not move the path.
 */
#include <string.h>

#include "engine/kernels/vmath.h"
#include "engine/layer.h"
#include "engine/layers/layers.h"
#include "engine/nets/field_hyper.h"
#include "engine/nets/field_mlp.h"
#include "engine/ode/reverse.h"
#include "engine/pieces.h"

/* The fields know nothing of the solver, and the solver nothing of tiles; what they must agree upon is told here. */
_Static_assert(HYPER_STAGES == ODE_STEP_STAGES && HYPER_NO_STAGE == ODE_NO_STAGE, "stages of the field are not those of the solver");
_Static_assert(ODE_MOST_LANES >= TILE_ROWS, "a tile does not fit into a group with a shared step");

/* The right-hand side, for the solver's callbacks. */
typedef struct dynamics {
    const nf_layer *layer;
    const tile *t;
    bool hyper, penalised;
    real kinetic, jacobian; /* weights, with the sign of dt */
    field_mlp mlp;
    field_hyper units;
    real *row; /* ROWS rows of one panel's lanes */
    /* vjp only */
    const real *d_log_det, *d_penalty; /* [panels * PANEL]; d_penalty NULL without penalty */
    real *d_context;                   /* [panels][context_dim][PANEL] or NULL */
    const real *scale;                 /* adjoint: the state's cotangents are in these units; else NULL */
    const layer_path *path;            /* dense output, or NULL */
} dynamics;

/* Bytes for the derivatives at the stages of a panel's steps; beyond, the reverse pass computes them again. */
#define STAGE_ROOM ((size_t)1 << 20)

enum { ROW_TRACE, ROW_SPEED, ROW_SQUARE, ROWS };

/* What the record holds: the checkpoints of each panel, or for the adjoint equation where the path began and ended. */
typedef struct cnf_record {
    ode_trail *trails;
    real *start, *end; /* [panels][dim][PANEL] */
} cnf_record;

static cnf_record map_record(const nf_layer *layer, size_t panels, real *base) {
    real *start = base + reals_for(panels * sizeof(ode_trail));
    return (cnf_record){(ode_trail *)(void *)base, start, start + aligned_reals(layer->dim * panels * PANEL)};
}

static size_t record_size(const nf_layer *layer, size_t panels, bool inverse) {
    (void)inverse;
    return reals_for(panels * sizeof(ode_trail)) + 2 * aligned_reals(layer->dim * panels * PANEL);
}

static field_mlp_shape mlp_shape(const nf_layer *layer, bool square) {
    return (field_mlp_shape){.net = &layer->net,
                             .dim = layer->dim,
                             .probes = layer->cnf.trace == NF_TRACE_EXACT ? 0 : layer->cnf.probes,
                             .normal = layer->cnf.trace == NF_TRACE_HUTCHINSON_NORMAL,
                             .noise_seed = layer->cnf.noise_seed,
                             .square = square};
}

static field_hyper_shape hyper_shape(const nf_layer *layer) { return (field_hyper_shape){&layer->net, layer->dim, layer->cnf.width}; }

static size_t field_scratch(const nf_layer *layer) {
    if (layer->cnf.dynamics == NF_DYNAMICS_HYPER) {
        const field_hyper_shape shape = hyper_shape(layer);
        return aligned_reals(R(field_hyper_scratch)(&shape));
    }
    const field_mlp_shape plain = mlp_shape(layer, false), with = mlp_shape(layer, layer->cnf.jacobian > 0);
    return aligned_reals(max_size(R(field_mlp_scratch)(&plain), R(field_mlp_scratch)(&with)));
}

/* Whether a way back with a step in common may have to be taken back, with what it has added to the gradient and the context's cotangents. */
static bool keeps_sums(const nf_layer *layer) { return layer->cnf.gradient == NF_ODE_ADJOINT && layer->cnf.shared_step != 0; }

static size_t kept_size(const nf_layer *layer, size_t panels) {
    return keeps_sums(layer) ? aligned_reals(layer->parameter_count) + aligned_reals(panels * layer->context_dim * PANEL) : 0;
}

/* Scratch: the field's; rows; the state (z, log_det, penalty) or (z, its cotangent) of all panels; lanes' flags; kept sums; the solver's. */
typedef struct cnf_scratch {
    real *field, *row, *state, *scale, *kept, *solver;
    unsigned char *active, *outcome;
} cnf_scratch;

static size_t most_components(const nf_layer *layer) { return max_size(layer->dim + 2, 2 * layer->dim); }

static cnf_scratch map_scratch(const nf_layer *layer, size_t panels, real *base) {
    cnf_scratch s;
    s.field = base;
    s.row = s.field + field_scratch(layer);
    s.state = s.row + ROWS * PANEL;
    s.scale = s.state + panels * most_components(layer) * PANEL;
    s.active = (unsigned char *)(void *)(s.scale + panels * PANEL);
    s.outcome = s.active + panels * PANEL;
    s.kept = s.scale + panels * PANEL + reals_for(2 * panels * PANEL);
    s.solver = s.kept + kept_size(layer, panels);
    return s;
}

/* Nothing here depends on the solver's settings, which may change while workspaces stay. */
static size_t scratch_size(const nf_layer *layer, size_t panels) {
    const size_t solver = max_size(R(ode_scratch_size)(panels, layer->dim + 2),
                                   max_size(R(ode_reverse_scratch)(layer->dim), R(ode_adjoint_scratch)(panels, layer->dim)));
    return field_scratch(layer) + ROWS * PANEL + panels * (most_components(layer) + 1) * PANEL + reals_for(2 * panels * PANEL) + kept_size(layer, panels) +
           solver;
}

static size_t cache_size(const nf_layer *layer) {
    if (layer->cnf.dynamics != NF_DYNAMICS_HYPER)
        return 0;
    const field_hyper_shape shape = hyper_shape(layer);
    return R(field_hyper_cache)(&shape);
}

/* ---- callbacks */

static const real *context_of(const dynamics *d, size_t panel) {
    return d->layer->context_dim ? d->t->context + panel * d->layer->context_dim * PANEL : NULL;
}

static void rates(dynamics *d, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k, real *trace, real *square) {
    if (d->hyper)
        R(field_hyper_rates)(&d->units, stage, t, active, y, k, trace, square);
    else
        R(field_mlp_rates)(&d->mlp, t, y, context_of(d, panel), k, trace, square);
}

/* dz/dt alone */
static void velocity(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    rates(user, panel, stage, t, active, y, k, NULL, NULL);
}

/* (z, log_det), and the penalty when it is wanted */
static void whole_rhs(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    dynamics *d = user;
    const size_t dim = d->layer->dim;
    real *square = d->penalised && d->jacobian != 0 ? d->row + ROW_SQUARE * PANEL : NULL;
    rates(d, panel, stage, t, active, y, k, k + dim * PANEL, square);
    if (!d->penalised)
        return;
    real *penalty = k + (dim + 1) * PANEL;
    for (size_t l = 0; l < PANEL; l++) {
        real speed = 0;
        for (size_t i = 0; i < dim; i++)
            speed = madd(k[i * PANEL + l], k[i * PANEL + l], speed);
        penalty[l] = active[l] ? d->kinetic * speed + (square ? d->jacobian * square[l] : 0) : 0;
    }
}

static void pull_back(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *dk,
                      const real *weight, bool parameters, real *dy) {
    dynamics *d = user;
    const size_t dim = d->layer->dim, first = panel * PANEL;
    const real *scale = d->scale ? d->scale + first : NULL;
    real *d_trace = d->row + ROW_TRACE * PANEL, *d_speed = d->row + ROW_SPEED * PANEL, *d_square = d->row + ROW_SQUARE * PANEL;
    for (size_t l = 0; l < PANEL; l++) {
        const real w = scale && !parameters ? weight[l] / scale[l] : weight[l];
        const real penalty = d->d_penalty ? w * d->d_penalty[first + l] : 0;
        d_trace[l] = w * d->d_log_det[first + l];
        d_speed[l] = penalty * d->kinetic;
        d_square[l] = penalty * d->jacobian;
    }
    const real *speed = d->penalised && d->kinetic != 0 ? d_speed : NULL, *square = d->penalised && d->jacobian != 0 ? d_square : NULL;
    if (scale && parameters)
        for (size_t i = 0; i < dim * PANEL; i++)
            dk[i] *= scale[i % PANEL];
    real *d_context = d->d_context ? d->d_context + panel * d->layer->context_dim * PANEL : NULL;
    if (d->hyper)
        R(field_hyper_vjp)(&d->units, stage, t, active, y, dk, d_trace, speed, square, parameters, dy);
    else
        R(field_mlp_vjp)(&d->mlp, t, y, context_of(d, panel), dk, d_trace, speed, square, parameters, dy, d_context);
}

/* The nodes of all stages of all lanes at once, so that the net sees many instants together. */
static void prepare_nodes(void *user, const ode_tableau *tableau, const ode_steps *s) {
    dynamics *d = user;
    double times[ODE_STEP_STAGES][PANEL];
    for (size_t j = 0; j < tableau->stages; j++)
        for (size_t l = 0; l < PANEL; l++)
            times[j][l] = ode_stage_time(tableau->c[j], s->t[l], s->h[l], s->end[l]);
    R(field_hyper_prepare)(&d->units, tableau->stages, s->active, s->t, s->h, times);
}

/* ---- operations */

static void begin(dynamics *d, const layer_run *run, const tile *t, bool inverse, bool vjp, bool penalty_wanted, const cnf_scratch *s) {
    const nf_layer *layer = run->layer;
    const nf_cnf_spec *spec = &layer->cnf;
    const real sign = (spec->t1 > spec->t0) != inverse ? 1 : -1;
    memset(d, 0, sizeof *d);
    d->layer = layer;
    d->t = t;
    d->hyper = spec->dynamics == NF_DYNAMICS_HYPER;
    d->penalised = penalty_wanted && (spec->kinetic > 0 || spec->jacobian > 0);
    d->kinetic = sign * (real)spec->kinetic;
    d->jacobian = sign * (real)spec->jacobian;
    d->row = s->row;
    if (d->hyper) {
        const field_hyper_shape shape = hyper_shape(layer);
        R(field_hyper_begin)(&d->units, &shape, run->theta, run->epoch, run->gradient, vjp, run->cache, s->field);
    } else {
        const field_mlp_shape shape = mlp_shape(layer, d->penalised && spec->jacobian > 0);
        R(field_mlp_begin)(&d->mlp, &shape, run->theta, run->gradient, s->field);
    }
}

static void finish(dynamics *d) {
    if (d->hyper)
        R(field_hyper_finish)(&d->units);
    else
        R(field_mlp_finish)(&d->mlp);
}

static ode_problem problem_of(const nf_layer *layer, double from, double to) {
    const nf_cnf_spec *spec = &layer->cnf;
    const ode_tableau *tableau = R(ode_tableau_of)(spec->method);
    const bool adaptive = tableau->error_order != 0;
    /* Without a step in common, hyper dynamics walk on a dyadic grid, so that rows meet at the same instants. */
    return (ode_problem){.tableau = tableau,
                         .t0 = from,
                         .t1 = to,
                         .rtol = spec->rtol,
                         .atol = spec->atol,
                         .steps = adaptive ? 0 : spec->steps,
                         .max_steps = spec->max_steps,
                         .shared = adaptive && spec->shared_step != 0,
                         .dyadic = adaptive && spec->shared_step == 0 && spec->dynamics == NF_DYNAMICS_HYPER};
}

static void set_apart(const nf_layer *layer, ode_problem *problem) {
    problem->shared = false;
    problem->dyadic = layer->cnf.dynamics == NF_DYNAMICS_HYPER;
}

static void set_active(const tile *t, const cnf_scratch *s) {
    for (size_t l = 0; l < t->panels * PANEL; l++)
        s->active[l] = l < t->rows;
}

static void count(const layer_run *run, const ode_run *solve) {
    run->counters->rhs_evaluations += solve->evaluations;
    run->counters->steps_accepted += solve->accepted;
    run->counters->steps_rejected += solve->rejected;
}

static void load_state(const tile *t, size_t size, real *state) {
    for (size_t p = 0; p < t->panels; p++) {
        real *y = state + p * size * PANEL;
        memcpy(y, tile_panel(t, p), t->dim * PANEL * sizeof(real));
        memset(y + t->dim * PANEL, 0, (size - t->dim) * PANEL * sizeof(real));
    }
}

static void note_outcomes(const tile *t, const cnf_scratch *s) {
    for (size_t l = 0; l < t->rows; l++)
        if (s->outcome[l] != ODE_ARRIVED)
            t->failed[l] = s->outcome[l] == ODE_BUDGET ? ROW_ODE_BUDGET : ROW_ODE_STEP;
}

static void store_state(tile *t, size_t size, bool penalised, const cnf_scratch *s) {
    for (size_t p = 0; p < t->panels; p++) {
        const real *y = s->state + p * size * PANEL;
        memcpy(tile_panel(t, p), y, t->dim * PANEL * sizeof(real));
        for (size_t l = 0; l < PANEL; l++) {
            t->log_det[p * PANEL + l] += (double)y[t->dim * PANEL + l];
            if (penalised)
                t->penalty[p * PANEL + l] += (double)y[(t->dim + 1) * PANEL + l];
        }
    }
    note_outcomes(t, s);
}

static void emit(void *user, size_t index, size_t lane, const real *y) {
    const dynamics *d = user;
    d->path->visit(d->path->user, index, lane, y);
}

/*
 * One step for all lanes may be too short to arrive with because of a single one. It is taken back then: each lane has steps of its own, and fails alone.
 */
static bool take_apart(const layer_run *run, const tile *t, const cnf_scratch *s, ode_problem *problem, size_t arena_used) {
    if (!problem->shared || memchr(s->outcome, ODE_ARRIVED, t->rows))
        return false;
    set_apart(run->layer, problem);
    run->arena->used = arena_used;
    return true;
}

/* `path` NULL: only the end is wanted. */
static int apply(const layer_run *run, tile *t, bool inverse, const layer_path *path) {
    const nf_layer *layer = run->layer;
    const cnf_scratch s = map_scratch(layer, TILE_PANELS, run->scratch);
    const bool discrete = layer->cnf.gradient == NF_ODE_DISCRETE;
    dynamics d;
    begin(&d, run, t, inverse, false, t->penalty != NULL, &s);
    d.path = path;
    ode_problem problem = inverse ? problem_of(layer, layer->cnf.t1, layer->cnf.t0) : problem_of(layer, layer->cnf.t0, layer->cnf.t1);
    if (path) {
        problem.samples = path->t;
        problem.sample_count = path->times;
        problem.samples_backward = path->backward;
    }
    const ode_field field = {.user = &d,
                             .size = t->dim + 1 + d.penalised,
                             .controlled = t->dim + 1,
                             .rhs = whole_rhs,
                             .prepare = d.hyper ? prepare_nodes : NULL,
                             .sample = emit};
    ode_run solve = {.panels = t->panels, .y = s.state, .active = s.active, .outcome = s.outcome, .scratch = s.solver};
    cnf_record record = {NULL, NULL, NULL};
    if (run->record)
        record = map_record(layer, TILE_PANELS, run->record);
    if (run->record && !discrete)
        memcpy(record.start, t->x, t->panels * t->dim * PANEL * sizeof(real));
    if (run->record && discrete)
        solve.trails = record.trails;
    const size_t arena_used = run->arena->used;
    do {
        for (size_t p = 0; solve.trails && p < t->panels; p++)
            R(trail_begin)(&solve.trails[p], run->arena, t->dim, problem.tableau->weighted - 1, STAGE_ROOM);
        load_state(t, field.size, s.state);
        set_active(t, &s);
        if (!R(ode_integrate)(&problem, &field, &solve))
            return LAYER_ARENA;
    } while (take_apart(run, t, &s, &problem, arena_used));
    count(run, &solve);
    store_state(t, field.size, d.penalised, &s);
    if (run->record && !discrete)
        memcpy(record.end, t->x, t->panels * t->dim * PANEL * sizeof(real));
    return LAYER_OK;
}

static int forward(const layer_run *run, tile *t) { return apply(run, t, false, NULL); }

static int inverse(const layer_run *run, tile *t) { return apply(run, t, true, NULL); }

/* Without a record the arena is not touched, so this cannot run out of it. */
static void follow(const layer_run *run, tile *t, const layer_path *path) { (void)apply(run, t, path->inverse, path); }

/* Cotangents in units of the largest of each lane, so that the tolerance means the same whatever the loss is scaled by. Bad lanes stay at a good end. */
static void load_adjoint(const tile *t, const cotangent *c, const real *end, const cnf_scratch *s) {
    const size_t half = t->dim * PANEL;
    size_t good = 0;
    while (t->failed[good])
        good++;
    const real *end_of_good = end + good / PANEL * half + good % PANEL;
    for (size_t p = 0; p < t->panels; p++) {
        real *y = s->state + 2 * p * half, *scale = s->scale + p * PANEL;
        const real *d = c->x + p * half;
        memcpy(y, end + p * half, half * sizeof(real));
        for (size_t l = 0; l < PANEL; l++) {
            for (size_t i = 0; p * PANEL + l < t->rows && t->failed[p * PANEL + l] && i < t->dim; i++)
                y[i * PANEL + l] = end_of_good[i * PANEL];
            scale[l] = vm_abs(c->log_det[p * PANEL + l]);
            for (size_t i = 0; i < t->dim; i++)
                scale[l] = vm_abs(d[i * PANEL + l]) > scale[l] ? vm_abs(d[i * PANEL + l]) : scale[l];
            scale[l] = scale[l] > REAL_MIN ? scale[l] : scale[l] > 0 ? REAL_MIN : 1; /* what is divided by it stays a number */
        }
        for (size_t i = 0; i < half; i++)
            y[half + i] = d[i] / scale[i % PANEL];
    }
}

/*
 * Where a path contracts, the way back blows its errors up, each step within its tolerance. A lane that ends a tenth of its start's size away from where its path
 * began has followed another path, and has the gradient of that. A round trip of the methods misses by as much as thirty tolerances, of which the relative one
 * is of the end's size.
 */
static void compare_starts(const tile *t, const cnf_record *record, const ode_problem *problem, const cnf_scratch *s) {
    for (size_t l = 0; l < t->rows; l++) {
        const size_t first = l / PANEL * t->dim * PANEL + l % PANEL;
        const real *start = record->start + first, *end = record->end + first, *got = s->state + 2 * first - l % PANEL;
        double miss = 0, from = 0, to = 0;
        for (size_t i = 0; i < t->dim * PANEL; i += PANEL) {
            const double e = (double)got[i] - (double)start[i];
            miss += e * e;
            from += (double)start[i] * (double)start[i];
            to += (double)end[i] * (double)end[i];
        }
        if (t->failed[l] == ROW_GOOD && !(sqrt(miss) <= 0.1 * sqrt(from) + 30 * (problem->atol + problem->rtol * sqrt(to))))
            t->failed[l] = ROW_RETRACE;
    }
}

/* Fixed steps arrive whatever they meet on the way back: a lane's place and its cotangent may be no numbers. */
static void note_overflown(const tile *t, const cotangent *c, const cnf_scratch *s) {
    const size_t half = t->dim * PANEL;
    for (size_t l = 0; l < t->rows; l++) {
        const size_t p = l / PANEL, lane = l % PANEL;
        bool finite = true;
        for (size_t i = lane; i < half; i += PANEL)
            finite = finite && isfinite(s->state[2 * p * half + i]) && isfinite(c->x[p * half + i]);
        if (t->failed[l] == ROW_GOOD && !finite)
            t->failed[l] = ROW_RETRACE;
    }
}

static void solve_adjoint(const layer_run *run, const tile *t, const cotangent *c, dynamics *d, const ode_pullback *pullback, const ode_problem *problem,
                          const cnf_scratch *s) {
    const cnf_record record = map_record(run->layer, TILE_PANELS, run->record);
    ode_run solve = {.panels = t->panels, .y = s->state, .active = s->active, .outcome = s->outcome, .scratch = s->solver};
    load_adjoint(t, c, record.end, s);
    set_active(t, s);
    for (size_t l = 0; l < t->rows; l++)
        s->active[l] = t->failed[l] == ROW_GOOD;
    memset(s->outcome, ODE_ARRIVED, t->panels * PANEL);
    d->scale = s->scale;
    R(ode_adjoint)(problem, pullback, &solve);
    count(run, &solve);
}

static void store_adjoint(const layer_run *run, const tile *t, cotangent *c, const ode_problem *problem, const cnf_scratch *s) {
    const cnf_record record = map_record(run->layer, TILE_PANELS, run->record);
    const size_t half = t->dim * PANEL;
    for (size_t p = 0; p < t->panels; p++)
        for (size_t i = 0; i < half; i++)
            c->x[p * half + i] = s->state[(2 * p + 1) * half + i] * s->scale[p * PANEL + i % PANEL];
    note_outcomes(t, s);
    if (problem->tableau->error_order != 0)
        compare_starts(t, &record, problem, s);
    else
        note_overflown(t, c, s);
}

/* What the way back adds to, into the scratch or back from there. */
static void copy_sums(const layer_run *run, const tile *t, const cotangent *c, const cnf_scratch *s, bool back) {
    const nf_layer *layer = run->layer;
    real *const sums[] = {run->gradient, c->context}, *kept = s->kept;
    const size_t sizes[] = {layer->parameter_count, t->panels * layer->context_dim * PANEL};
    for (size_t i = 0; i < 2; i++) {
        if (sums[i])
            memcpy(back ? sums[i] : kept, back ? kept : sums[i], sizes[i] * sizeof(real));
        kept += aligned_reals(sizes[i]);
    }
}

/* As on the way there: one step for all good lanes may be too short to arrive with. */
static bool take_back(const layer_run *run, const tile *t, const cotangent *c, ode_problem *problem, const cnf_scratch *s) {
    size_t lost = 0;
    while (lost < t->rows && s->outcome[lost] == ODE_ARRIVED)
        lost++;
    if (!problem->shared || lost == t->rows)
        return false;
    set_apart(run->layer, problem);
    copy_sums(run, t, c, s, true);
    return true;
}

static void vjp(const layer_run *run, const tile *t, cotangent *c, bool inverse) {
    const nf_layer *layer = run->layer;
    const cnf_scratch s = map_scratch(layer, TILE_PANELS, run->scratch);
    const bool adjoint = layer->cnf.gradient == NF_ODE_ADJOINT;
    ode_problem problem = inverse ? problem_of(layer, layer->cnf.t0, layer->cnf.t1) : problem_of(layer, layer->cnf.t1, layer->cnf.t0);
    dynamics d;
    if (keeps_sums(layer))
        copy_sums(run, t, c, &s, false);
    do {
        begin(&d, run, t, inverse, true, c->penalty != NULL, &s);
        d.d_log_det = c->log_det;
        d.d_penalty = d.penalised ? c->penalty : NULL;
        d.d_context = c->context;
        const ode_pullback pullback = {
            .user = &d, .size = t->dim, .rhs = velocity, .vjp = pull_back, .prepare = d.hyper ? prepare_nodes : NULL};
        const cnf_record record = map_record(layer, TILE_PANELS, run->record);
        for (size_t p = 0; !adjoint && p < t->panels; p++)
            R(ode_reverse)(problem.tableau, &pullback, p, &record.trails[p], c->x + p * t->dim * PANEL, s.solver);
        if (adjoint)
            solve_adjoint(run, t, c, &d, &pullback, &problem, &s);
        finish(&d);
    } while (adjoint && take_back(run, t, c, &problem, &s));
    if (adjoint)
        store_adjoint(run, t, c, &problem, &s);
}

static void forward_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, false); }

static void inverse_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, true); }

/* The adjoint equation may not find its way back along a path that the solver went. */
static bool vjp_loses(const nf_layer *layer) { return layer->cnf.gradient == NF_ODE_ADJOINT; }

/*
 * Lanes whose loss is too large to be differentiated take no part: they become copies of a good lane of the panel, so that nothing that is not finite
 * is added. False when there is none.
 */
static bool cover_lost(const tile *t, const layer_match *m, size_t p, real *k, double *times) {
    const size_t lanes = tile_lanes(t, p);
    const double *loss = m->loss + p * PANEL;
    real *z = tile_panel(t, p), *context = m->context + p * t->context_dim * PANEL;
    size_t good = 0;
    while (good < lanes && !(loss[good] <= m->farthest))
        good++;
    for (size_t l = good < lanes ? 0 : lanes; l < lanes; l++) {
        if (loss[l] <= m->farthest)
            continue;
        times[l] = times[good];
        for (size_t i = 0; i < t->dim * PANEL; i += PANEL) {
            z[i + l] = z[i + good];
            k[i + l] = 0;
        }
        for (size_t i = 0; i < t->context_dim * PANEL; i += PANEL)
            context[i + l] = context[i + good];
    }
    return good < lanes;
}

/*
 * The loss is |f - v|^2 with v the distance over the time it takes. Rows have instants of their own, and a hyper net computes a
 * node for each.
 */
static void match(const layer_run *run, const tile *t, const layer_match *m) {
    const nf_cnf_spec *spec = &run->layer->cnf;
    const double from = m->inverse ? spec->t1 : spec->t0, to = m->inverse ? spec->t0 : spec->t1;
    const cnf_scratch s = map_scratch(run->layer, TILE_PANELS, run->scratch);
    const real speed = (real)(1.0 / (to - from));
    const size_t size = t->dim * PANEL;
    _Alignas(NF_ALIGN) const real zero[PANEL] = {0};
    dynamics d;
    begin(&d, run, t, m->inverse, true, false, &s);
    set_active(t, &s);
    for (size_t p = 0; p < t->panels; p++) {
        const real *distance = m->distance + p * size, *weight = m->weight + p * PANEL;
        real *z = tile_panel(t, p), *k = s.state, *d_z = k + size;
        double times[PANEL];
        for (size_t l = 0; l < PANEL; l++) {
            const double at = m->fraction[p * PANEL + l];
            times[l] = at <= 0.0 ? from : at >= 1.0 ? to : from + (to - from) * at;
            m->loss[p * PANEL + l] = 0;
        }
        rates(&d, p, ODE_NO_STAGE, times, s.active + p * PANEL, z, k, NULL, NULL);
        for (size_t i = 0; i < size; i++) {
            const size_t l = i % PANEL;
            const real error = s.active[p * PANEL + l] ? k[i] - speed * distance[i] : 0;
            m->loss[p * PANEL + l] += (double)error * (double)error;
            k[i] = 2 * weight[l] * error;
        }
        if (!run->gradient || !cover_lost(t, m, p, k, times))
            continue;
        if (d.hyper)
            R(field_hyper_vjp)(&d.units, HYPER_NO_STAGE, times, s.active + p * PANEL, z, k, zero, NULL, NULL, true, d_z);
        else
            R(field_mlp_vjp)(&d.mlp, times, z, context_of(&d, p), k, zero, NULL, NULL, true, d_z, NULL);
    }
    finish(&d);
}

const struct layer_ops R(cnf_ops) = {.record_size = record_size,
                                     .scratch_size = scratch_size,
                                     .cache_size = cache_size,
                                     .forward = forward,
                                     .inverse = inverse,
                                     .match = match,
                                     .path = follow,
                                     .forward_vjp = forward_vjp,
                                     .inverse_vjp = inverse_vjp,
                                     .vjp_loses = vjp_loses};
