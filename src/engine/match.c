#include "engine/match.h"

#include <math.h>
#include <string.h>

#include "engine/lanes.h"
#include "engine/pull.h"
#include "engine/train/pairing.h"

/* Uniform in (0, 1), from the block of normals after those of the base sample. */
static void draw_fractions(const engine_job *job, size_t first, size_t rows, double *fraction) {
    double even[TILE_ROWS], odd[TILE_ROWS];
    R(engine).normals(job->key, R(position_of)(job, first), (job->model->dim + 1) / 2, rows, even, odd);
    for (size_t l = 0; l < rows; l++)
        fraction[l] = 0.5 * erfc(-0.70710678118654752440 * even[l]);
}

/* ends: where the samples are to arrive, in the place of cotangent_x; t.x: where they start. They become distances and points on the way. */
static void put_on_the_way(thread_map *m, const size_t *partner, const double *fraction) {
    tile *t = &m->t;
    real *ends = m->cotangent_x;
    _Alignas(NF_ALIGN) real start[TILE_ROWS];
    for (size_t f = 0; f < t->dim; f++) {
        for (size_t l = 0; l < t->rows; l++)
            start[l] = lane_of(t->x, t->dim, partner[l])[f * PANEL];
        for (size_t l = 0; l < t->rows; l++) {
            real *x = lane_of(t->x, t->dim, l) + f * PANEL, *end = lane_of(ends, t->dim, l) + f * PANEL;
            *end -= start[l];
            *x = madd((real)fraction[l], *end, start[l]);
        }
    }
}

/* Rows that could not be brought to the field, or whose base sample could not. */
static void note_lost(const engine_job *job, engine_thread *thread, thread_map *m, const unsigned char *before) {
    for (size_t l = 0; l < m->t.rows; l++)
        m->base[l] = 0;
    R(check_lanes)(job, thread, m, before, DBL_MAX);
    R(fill_lanes)(m);
}

/* Data back to the field's end, into the place of cotangent_x, and base samples up to its start, into the tile. */
static void bring_ends(const engine_job *job, engine_thread *thread, thread_map *m) {
    const size_t outer = job->model->layer_count - 1 - job->matched, rows = m->t.rows, first = thread->first;
    tile *t = &m->t;
    unsigned char before[TILE_ROWS];
    memset(t->log_det, 0, t->panels * PANEL * sizeof(double));
    R(load_tile)(job, thread, m, first, true);
    memcpy(before, t->failed, rows);
    memset(t->failed, 0, rows);
    R(apply_layers)(job, true, outer, thread, m);
    note_lost(job, thread, m, before);
    memcpy(m->cotangent_x, t->x, t->panels * t->dim * PANEL * sizeof(real));
    memcpy(before, t->failed, rows);
    memset(t->failed, 0, rows);
    R(draw_base)(job, m, first, rows);
    R(fill_beyond)(m);
    R(apply_layers)(job, false, job->matched, thread, m);
    note_lost(job, thread, m, before);
}

static void lose_row(engine_thread *thread, size_t l, int reason) {
    map_thread(thread)->t.failed[l] = (unsigned char)reason;
    R(note_bad)(thread, (engine_bad){0, thread->first + l, reason, 0, 0.0});
}

/* A loss beyond `farthest`, or that is no number, makes its row bad. */
static void lose_far_rows(engine_thread *thread, const layer_match *task) {
    const tile *t = &map_thread(thread)->t;
    for (size_t l = 0; l < t->rows; l++)
        if (!t->failed[l] && !(task->loss[l] <= task->farthest))
            lose_row(thread, l, ROW_RANGE);
}

/* The losses of good rows. */
static void sum_losses(const engine_job *job, const engine_thread *thread, const double *loss, engine_sum *sum) {
    const tile *t = &map_thread(thread)->t;
    for (size_t l = 0; l < t->rows; l++) {
        if (t->failed[l])
            continue;
        const double w = weight_of(job, thread->first + l);
        sum->loss += w * loss[l];
        sum->weight += w;
    }
}

/* Bad rows keep to themselves: neither their data nor their base samples are given to others. */
static void find_partners(const engine_job *job, const thread_map *m, size_t *partner) {
    size_t good[TILE_ROWS], count = 0;
    for (size_t l = 0; l < m->t.rows; l++) {
        partner[l] = l;
        if (!m->t.failed[l])
            good[count++] = l;
    }
    if (job->paired)
        R(pair_samples)(count, good, m->t.dim, m->cotangent_x, m->t.x, m->scratch, partner);
}

/* ---- rows whose part of the gradient is not finite */

/* Whether that of a row is, found by the row alone: a tile whose lanes are all copies of it. The gradient is lost. */
static bool is_row_steep(const thread_map *m, const struct layer_ops *ops, const layer_run *run, const layer_match *task, size_t l) {
    const tile *t = &m->t;
    real *x = m->alone, *distance = x + t->dim * PANEL, *context = distance + t->dim * PANEL;
    _Alignas(NF_ALIGN) const real weight[PANEL] = {task->weight[l]};
    double fraction[PANEL], loss[PANEL];
    tile one = *t;
    one.rows = one.panels = 1;
    one.x = x;
    one.context = t->context ? context : NULL;
    R(spread_lane)(lane_of(t->x, t->dim, l), t->dim, x, 0, PANEL);
    R(spread_lane)(lane_of(m->cotangent_x, t->dim, l), t->dim, distance, 0, PANEL);
    R(spread_lane)(lane_of(m->context, t->context_dim, l), t->context_dim, context, 0, PANEL);
    for (size_t i = 0; i < PANEL; i++)
        fraction[i] = task->fraction[l];
    const layer_match alone = {task->inverse, fraction, distance, weight, context, task->farthest, loss};
    memset(run->gradient, 0, run->layer->parameter_count * sizeof(real));
    ops->match(run, &one, &alone);
    return !R(all_finite)(run->gradient, run->layer->parameter_count);
}

/* Bad lanes, and those beyond the rows, become copies of the first good one, of no weight: a number of theirs that is infinite would spoil it. False: none is good. */
static bool leave_out(thread_map *m, double *fraction) {
    const tile *t = &m->t;
    size_t good = 0;
    while (good < t->rows && t->failed[good])
        good++;
    if (good == t->rows)
        return false;
    R(fill_lanes)(m);
    for (size_t l = 0; l < t->panels * PANEL; l++) {
        if (l < t->rows && !t->failed[l])
            continue;
        R(spread_lane)(lane_of(m->cotangent_x, t->dim, good), t->dim, lane_of(m->cotangent_x, t->dim, l), 0, 1);
        fraction[l] = fraction[good];
        m->cotangent_log_det[l] = 0;
    }
    return true;
}

/* ---- flow matching */

/* With care: where the tile makes the gradient no number, its rows are tried one by one, and it is matched again without those that do. */
static void match_layer(const engine_job *job, engine_thread *thread, const layer_run *run, const layer_match *task, double *fraction) {
    thread_map *m = map_thread(thread);
    const tile *t = &m->t;
    const struct layer_ops *ops = m->places[job->matched].ops;
    const size_t count = run->gradient && job->careful ? run->layer->parameter_count : 0;
    if (count)
        memcpy(m->kept, run->gradient, count * sizeof(real));
    ops->match(run, t, task);
    lose_far_rows(thread, task);
    if (count == 0 || R(all_finite)(run->gradient, count) || !R(all_finite)(m->kept, count))
        return;
    for (size_t l = 0; l < t->rows; l++)
        if (!t->failed[l] && is_row_steep(m, ops, run, task, l))
            lose_row(thread, l, ROW_SLOPE);
    memcpy(run->gradient, m->kept, count * sizeof(real));
    if (leave_out(m, fraction))
        ops->match(run, t, task);
}

static void match_rows(const engine_job *job, engine_thread *thread, real *gradient, engine_sum *sum) {
    thread_map *m = map_thread(thread);
    tile *t = &m->t;
    const size_t first = thread->first, rows = thread->rows;
    double fraction[TILE_ROWS] = {0}, loss[TILE_ROWS];
    size_t partner[TILE_ROWS];
    draw_fractions(job, first, rows, fraction);
    find_partners(job, m, partner);
    put_on_the_way(m, partner, fraction);
    for (size_t l = 0; l < t->panels * PANEL; l++)
        m->cotangent_log_det[l] = l < rows && !t->failed[l] ? (real)(job->scale * weight_of(job, first + l)) : 0;
    layer_run run = run_of(job, m, job->matched, thread, &thread->counters);
    run.gradient = gradient;
    const layer_match task = {.inverse = run.layer->inverted,
                              .fraction = fraction,
                              .distance = m->cotangent_x,
                              .weight = m->cotangent_log_det,
                              .context = m->context,
                              .farthest = job->slots ? FARTHEST_LOSS : DBL_MAX,
                              .loss = loss};
    match_layer(job, thread, &run, &task, fraction);
    sum_losses(job, thread, loss, sum);
}

void R(match)(const engine_job *job, engine_thread *thread, size_t first, size_t rows, size_t slot, bool last, engine_sum *sum) {
    const nf_layer *layer = job->model->layers[job->matched];
    real *gradient = gradient_of(job, slot, layer);
    thread_map *m = begin_tile(thread, first, rows);
    bring_ends(job, thread, m);
    if (any_good(&m->t))
        match_rows(job, thread, gradient, sum);
    if (last && gradient)
        sum->spoilt = !R(all_finite)(gradient, layer->parameter_count);
}

bool R(matches)(nf_layer_kind kind) {
    const struct layer_ops *ops = R(layer_ops_of)(kind);
    return ops && ops->match;
}
