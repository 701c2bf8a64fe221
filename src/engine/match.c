#include "engine/match.h"

#include <math.h>
#include <string.h>

#include "engine/lanes.h"
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

/* The losses of good rows; one beyond `farthest`, or that is no number, makes its row bad. */
static void sum_losses(const engine_job *job, engine_thread *thread, const tile *t, const double *loss, double farthest, engine_sum *sum) {
    for (size_t l = 0; l < t->rows; l++) {
        const size_t row = thread->first + l;
        if (t->failed[l])
            continue;
        if (!(loss[l] <= farthest)) {
            R(note_bad)(thread, (engine_bad){0, row, ROW_RANGE, 0, 0.0});
            continue;
        }
        const double w = weight_of(job, row);
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

/* ---- flow matching */

void R(match)(const engine_job *job, engine_thread *thread, size_t first, size_t rows, size_t slot, engine_sum *sum) {
    thread_map *m = begin_tile(thread, first, rows);
    tile *t = &m->t;
    const double farthest = job->slots ? FARTHEST_LOSS : DBL_MAX;
    double fraction[TILE_ROWS] = {0}, loss[TILE_ROWS];
    size_t partner[TILE_ROWS];
    bring_ends(job, thread, m);
    if (!any_good(t))
        return;
    draw_fractions(job, first, rows, fraction);
    find_partners(job, m, partner);
    put_on_the_way(m, partner, fraction);
    for (size_t l = 0; l < t->panels * PANEL; l++)
        m->cotangent_log_det[l] = l < rows && !t->failed[l] ? (real)(job->scale * weight_of(job, first + l)) : 0;
    layer_run run = run_of(job, m, job->matched, thread, &thread->counters);
    run.gradient = gradient_of(job, slot, run.layer);
    const layer_match task = {run.layer->inverted, fraction, m->cotangent_x, m->cotangent_log_det, m->context, farthest, loss};
    m->places[job->matched].ops->match(&run, t, &task);
    sum_losses(job, thread, t, loss, farthest, sum);
}

bool R(matches)(nf_layer_kind kind) {
    const struct layer_ops *ops = R(layer_ops_of)(kind);
    return ops && ops->match;
}
