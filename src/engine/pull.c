#include "engine/pull.h"

#include <math.h>
#include <string.h>

#include "engine/lanes.h"
#include "engine/push.h"

/* Cotangents of sum_rows weight * scale * log_prob, and the loss that goes with them. */
static void density_cotangents(const engine_job *job, const engine_thread *thread, thread_map *m, engine_sum *sum) {
    const nf_model *model = job->model;
    const tile *t = &m->t;
    double loss = sum->loss, weight = sum->weight;
    for (size_t l = 0; l < t->panels * PANEL; l++) {
        double c = 0;
        if (l < t->rows && !t->failed[l]) {
            const double w = weight_of(job, thread->first + l);
            c = w * job->scale;
            loss += w * (-(m->base[l] + t->log_det[l]) + (job->penalty ? t->penalty[l] : 0.0));
            weight += w;
        }
        m->cotangent_log_det[l] = (real)c;
        m->cotangent_penalty[l] = (real)-c;
    }
    sum->loss = loss;
    sum->weight = weight;
    for (size_t p = 0; p < t->panels; p++) {
        const real *x = tile_panel(t, p), *c = m->cotangent_log_det + p * PANEL;
        real *d = m->cotangent_x + p * t->dim * PANEL;
        for (size_t f = 0; f < t->dim; f++, x += PANEL, d += PANEL) {
            if (!model->mean) {
                for (size_t l = 0; l < PANEL; l++)
                    d[l] = -c[l] * x[l];
                continue;
            }
            const double mean = model->mean[f], sd = model->sd[f]; /* whose square need not be a number */
            for (size_t l = 0; l < PANEL; l++)
                d[l] = (real)(-(double)c[l] * (((double)x[l] - mean) / sd / sd));
        }
    }
}

/* Cotangents that the caller gives; a row of them that is not finite is a bad row. */
static void given_cotangents(const engine_job *job, engine_thread *thread, thread_map *m) {
    tile *t = &m->t;
    memset(m->cotangent_x, 0, t->panels * t->dim * PANEL * sizeof(real));
    memset(m->cotangent_log_det, 0, t->panels * PANEL * sizeof(real));
    for (size_t l = 0; l < t->rows; l++) {
        const size_t row = thread->first + l;
        if (t->failed[l])
            continue;
        real *lane = lane_of(m->cotangent_x, t->dim, l);
        const real log_det = (real)(job->grad_log_det ? job->scale * job->grad_log_det[row] : job->log_q ? job->scale : 0.0);
        size_t bad = t->dim;
        for (size_t f = 0; job->grad_out && f < t->dim; f++) {
            lane[f * PANEL] = (real)(job->scale * job->grad_out[row * t->dim + f]);
            if (!isfinite(lane[f * PANEL]) && bad == t->dim)
                bad = f;
        }
        if (isfinite(log_det) && bad == t->dim) {
            m->cotangent_log_det[l] = log_det;
            continue;
        }
        for (size_t f = 0; f < t->dim; f++)
            lane[f * PANEL] = 0;
        t->failed[l] = job->log_q ? ROW_TARGET : ROW_COTANGENT; /* a target's gradient may be a number in double alone */
        R(note_bad)(thread, (engine_bad){0, row, t->failed[l], bad, bad < t->dim ? job->grad_out[row * t->dim + bad] : job->grad_log_det[row]});
    }
}

/* What is not finite in each lane of panels makes `spoilt` NaN there; it is zero before. */
static void find_spoilt(const real *panels, size_t count, size_t features, real *spoilt) {
    for (size_t p = 0; p < count; p++)
        for (size_t f = 0; f < features; f++, panels += PANEL)
            for (size_t l = 0; l < PANEL; l++)
                spoilt[p * PANEL + l] = madd(panels[l], 0, spoilt[p * PANEL + l]);
}

/* Rows that have a value, and a cotangent beyond the numbers: bad as a whole. */
static void check_slopes(const engine_job *job, engine_thread *thread, tile *t, const cotangent *c) {
    _Alignas(NF_ALIGN) real spoilt[TILE_ROWS] = {0};
    find_spoilt(c->x, t->panels, t->dim, spoilt);
    if (job->grad_context && c->context)
        find_spoilt(c->context, t->panels, t->context_dim, spoilt);
    for (size_t l = 0; l < t->rows; l++) {
        if (spoilt[l] == 0 || t->failed[l])
            continue;
        t->failed[l] = ROW_SLOPE;
        R(note_bad)(thread, (engine_bad){0, thread->first + l, ROW_SLOPE, 0, 0.0});
    }
}

/* Rows that a layer's vjp could not follow; true when there are any. */
static bool note_untraced(engine_thread *thread, const tile *t, const unsigned char *before) {
    bool any = false;
    for (size_t l = 0; l < t->rows; l++)
        if (t->failed[l] != before[l]) {
            R(note_bad)(thread, (engine_bad){0, thread->first + l, t->failed[l], 0, 0.0});
            any = true;
        }
    return any;
}

bool R(all_finite)(const void *values, size_t count) {
    const unsigned char *bytes = values;
    const real_uint exponent = NF_SINGLE_BUILD ? (real_uint)0x7f800000u : (real_uint)0x7ff0000000000000u;
    real_uint bad = 0;
    for (size_t i = 0; i < count; i++) {
        real_uint bits;
        memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return bad == 0;
}

/* Whether the gradient of a layer is not finite; without care it is looked at where the layer may be too steep. */
static bool is_steep(const struct layer_ops *ops, const layer_run *run, bool careful) {
    const size_t count = !run->gradient ? 0 : careful ? run->layer->parameter_count : ops->steep ? ops->steep(run->layer) : 0;
    return count > 0 && !R(all_finite)(run->gradient + run->layer->parameter_count - count, count);
}

/* The slot that a tile adds to: whether it is the first one there, and whether it has to look at what all of them have added. */
typedef struct slot_turn {
    size_t slot;
    bool first, last;
} slot_turn;

/* Of the slot after a pull through the layers: numbers that are none, of layers where this tile may have put them, or of any. */
typedef struct slot_state {
    bool steep, spoilt;
} slot_state;

/*
 * The cotangents of the layers' output become those of their input; false when a layer lost rows, and all is to be done again without them. A tile
 * without a good row is left alone: it was mapped as the origin, whose numbers may be anything.
 */
static bool pull_layers(const engine_job *job, engine_thread *thread, const thread_map *m, cotangent *c, slot_turn turn, slot_state *state) {
    const size_t count = job->model->layer_count;
    const bool any = any_good(&m->t);
    unsigned char before[TILE_ROWS];
    engine_counters counters = {0, 0, 0, 0}; /* the steps of nf_stats are those of the push */
    bool whole = true;
    *state = (slot_state){false, false};
    memcpy(before, m->t.failed, m->t.rows);
    for (size_t i = count; whole && i-- > 0;) {
        const size_t index = job->inverse ? count - 1 - i : i;
        const layer_place *place = &m->places[index];
        layer_run run = run_of(job, m, index, thread, &counters);
        run.record = place->record[job->inverse];
        run.gradient = gradient_of(job, turn.slot, run.layer);
        run.ends = i == 0 && !job->grad_in && !job->grad_context;
        run.fresh = turn.first && any && place->ops->adds_once;
        if (turn.first && run.gradient && !run.fresh) /* layer by layer, so that what is cleared is at hand when it is added to */
            memset(run.gradient, 0, run.layer->parameter_count * sizeof(real));
        if (any && job->inverse != run.layer->inverted)
            place->ops->inverse_vjp(&run, &m->t, c);
        else if (any)
            place->ops->forward_vjp(&run, &m->t, c);
        whole = !any || !place->ops->vjp_loses || !note_untraced(thread, &m->t, before);
        state->steep = state->steep || (any && is_steep(place->ops, &run, job->careful));
        if (turn.last && run.gradient) /* likewise */
            state->spoilt = state->spoilt || !R(all_finite)(run.gradient, run.layer->parameter_count);
    }
    thread->counters.rhs_evaluations += counters.rhs_evaluations;
    return whole;
}

static void begin_cotangents(const engine_job *job, engine_thread *thread, thread_map *m, engine_sum *sum) {
    if (job->density)
        density_cotangents(job, thread, m, sum);
    else
        given_cotangents(job, thread, m);
    if (m->t.context)
        memset(m->cotangent_context, 0, m->t.panels * m->t.context_dim * PANEL * sizeof(real));
}

/*
 * Whether the part of a row's gradient is not finite, found by the row alone. Where rows share their steps, those that it has alone may be more than there is room
 * for: then it is found among the others of its tile, whose cotangents are zero. `before`: the rows that had failed already.
 */
static bool is_row_steep(const engine_job *job, engine_thread *thread, cotangent *c, size_t first, size_t rows, size_t l, const unsigned char *before,
                         size_t slot) {
    engine_sum unused = {0, 0, false};
    slot_state state = {false, false};
    thread_map *m = map_thread(thread);
    if (R(push_all_but)(job, thread, first + l, 1, NULL) != ENGINE_OK) {
        R(push_all_but)(job, thread, first, rows, before);
        for (size_t i = 0; i < rows; i++)
            if (i != l)
                m->t.failed[i] = ROW_SLOPE;
    }
    begin_cotangents(job, thread, m, &unused);
    pull_layers(job, thread, m, c, (slot_turn){slot, true, false}, &state);
    return state.steep;
}

/*
 * Rows whose part of the gradient is not finite. They are tried one by one, and then the tile is pushed again without them: where a number of theirs is infinite
 * within the layers, they would spoil the others even with cotangents of zero. The slot is lost.
 */
static void find_steep(const engine_job *job, engine_thread *thread, cotangent *c, size_t slot) {
    thread_map *m = map_thread(thread);
    const engine_counters counters_before = thread->counters;
    const engine_bad bad_before = thread->bad;
    const size_t first = thread->first, rows = m->t.rows;
    unsigned char before[TILE_ROWS], failed[TILE_ROWS];
    memcpy(before, m->t.failed, rows);
    for (size_t l = 0; l < rows; l++)
        failed[l] = before[l] == ROW_GOOD && is_row_steep(job, thread, c, first, rows, l, before, slot) ? ROW_SLOPE : before[l];
    thread->bad = bad_before;
    for (size_t l = 0; l < rows; l++)
        if (failed[l] != before[l])
            R(note_bad)(thread, (engine_bad){0, first + l, ROW_SLOPE, 0, 0.0});
    /* Copies of a good row may want more room than those that they replace; as it was there was enough. */
    if (R(push_all_but)(job, thread, first, rows, failed) != ENGINE_OK) {
        R(push_all_but)(job, thread, first, rows, before);
        memcpy(m->t.failed, failed, rows);
    }
    thread->counters = counters_before;
}

void R(pull)(const engine_job *job, engine_thread *thread, size_t slot, bool first, bool last, engine_sum *sum) {
    const nf_model *model = job->model;
    const engine_sum sum_before = *sum;
    thread_map *m = map_thread(thread);
    cotangent c = {.x = m->cotangent_x,
                   .log_det = m->cotangent_log_det,
                   .penalty = job->penalty ? m->cotangent_penalty : NULL,
                   .context = model->context_dim ? m->cotangent_context : NULL};
    const size_t kept = (m->repeats || job->careful) && job->slots && !first ? model->parameter_count * sizeof(real) : 0;
    if (kept)
        memcpy(m->kept, slot_of(job, slot), kept);
    slot_state state = {false, false};
    for (bool whole = false, searched = false; !whole;) {
        *sum = sum_before;
        begin_cotangents(job, thread, m, sum);
        whole = pull_layers(job, thread, m, &c, (slot_turn){slot, first, last}, &state);
        if (whole && state.steep && !searched && (!kept || R(all_finite)(m->kept, model->parameter_count))) {
            find_steep(job, thread, &c, slot);
            searched = true;
            whole = false;
        }
        if (!whole && kept)
            memcpy(slot_of(job, slot), m->kept, kept);
    }
    sum->spoilt = state.spoilt;
    if (job->grad_in || job->grad_context)
        check_slopes(job, thread, &m->t, &c);
    if (job->grad_in)
        R(store_lanes)(&m->t, c.x, model->dim, job->grad_in + thread->first * model->dim);
    if (job->grad_context && c.context)
        R(store_lanes)(&m->t, c.context, model->context_dim, job->grad_context + thread->first * model->context_dim);
    for (size_t l = 0; job->log_prob && l < m->t.rows; l++) /* stored, but the pull may have found the row bad */
        if (m->t.failed[l])
            job->log_prob[thread->first + l] = NAN;
}

bool R(adds_once)(nf_layer_kind kind) {
    const struct layer_ops *ops = R(layer_ops_of)(kind);
    return ops && ops->adds_once;
}
