#include "engine/lanes.h"

#include <math.h>

/* One row of doubles into a lane; the first column that is not finite in `real`, or `features`. */
static size_t load_lane(const double *row, size_t features, real *lane) {
    size_t bad = features;
    for (size_t f = 0; f < features; f++) {
        const real value = (real)row[f];
        lane[f * PANEL] = value;
        if (!isfinite(value) && bad == features)
            bad = f;
    }
    return bad;
}

uint64_t R(position_of)(const engine_job *job, size_t row) {
    if (job->dealt.own == 0)
        return job->position + row;
    const size_t at = job->dealt.skip + row / TILE_ROWS;
    return job->position + (at / job->dealt.own * job->dealt.all + job->dealt.first + at % job->dealt.own) * TILE_ROWS + row % TILE_ROWS;
}

void R(draw_base)(const engine_job *job, thread_map *m, size_t first, size_t rows) {
    const nf_model *model = job->model;
    const uint64_t position = R(position_of)(job, first);
    double even[PANEL], odd[PANEL];
    for (size_t p = 0; p < m->t.panels; p++) {
        const size_t start = p * PANEL, lanes = rows - start < PANEL ? rows - start : PANEL;
        real *panel = tile_panel(&m->t, p);
        for (size_t f = 0; f < model->dim; f += 2) {
            R(engine).normals(job->key, position + start, f / 2, lanes, even, odd);
            for (size_t l = 0; l < lanes; l++) {
                panel[f * PANEL + l] = (real)(model->mean ? madd_double(model->sd[f], even[l], model->mean[f]) : even[l]);
                if (f + 1 < model->dim)
                    panel[(f + 1) * PANEL + l] = (real)(model->mean ? madd_double(model->sd[f + 1], odd[l], model->mean[f + 1]) : odd[l]);
            }
        }
    }
}

void R(spread_lane)(const real *source, size_t features, real *panel, size_t from, size_t to) {
    for (size_t f = 0; f < features; f++) {
        const real value = source ? source[f * PANEL] : 0;
        for (size_t l = from; l < to; l++)
            panel[f * PANEL + l] = value;
    }
}

void R(fill_lanes)(thread_map *m) {
    tile *t = &m->t;
    size_t good = 0;
    while (good < t->rows && t->failed[good])
        good++;
    const real *x = good < t->rows ? lane_of(t->x, t->dim, good) : NULL;
    const real *context = good < t->rows ? lane_of(m->context, t->context_dim, good) : NULL;
    for (size_t l = 0; l < t->rows; l++)
        if (t->failed[l]) {
            R(spread_lane)(x, t->dim, lane_of(t->x, t->dim, l), 0, 1);
            R(spread_lane)(context, t->context_dim, lane_of(m->context, t->context_dim, l), 0, 1);
        }
    const size_t last = t->panels - 1, used = tile_lanes(t, last);
    R(spread_lane)(x, t->dim, tile_panel(t, last), used, PANEL);
    R(spread_lane)(context, t->context_dim, m->context + last * t->context_dim * PANEL, used, PANEL);
}

void R(fill_beyond)(thread_map *m) {
    const size_t last = m->t.panels - 1;
    R(spread_lane)(m->t.x, m->t.dim, tile_panel(&m->t, last), tile_lanes(&m->t, last), PANEL);
}

void R(load_tile)(const engine_job *job, engine_thread *thread, thread_map *m, size_t first, bool note) {
    tile *t = &m->t;
    if (!job->in)
        R(draw_base)(job, m, first, t->rows);
    for (size_t l = 0; l < t->rows; l++) {
        const double *row = job->in ? job->in + (first + l) * t->dim : NULL;
        const double *context = t->context_dim ? job->context + (first + l) * t->context_dim : NULL;
        const size_t bad_x = row ? load_lane(row, t->dim, lane_of(t->x, t->dim, l)) : t->dim;
        const size_t bad_c = context ? load_lane(context, t->context_dim, lane_of(m->context, t->context_dim, l)) : t->context_dim;
        if (!note)
            continue;
        t->failed[l] = bad_x < t->dim ? ROW_INPUT : bad_c < t->context_dim ? ROW_CONTEXT : ROW_GOOD;
        if (bad_x < t->dim)
            R(note_bad)(thread, (engine_bad){0, first + l, ROW_INPUT, bad_x, row[bad_x]});
        else if (bad_c < t->context_dim)
            R(note_bad)(thread, (engine_bad){0, first + l, ROW_CONTEXT, bad_c, context[bad_c]});
    }
    R(fill_lanes)(m);
}

void R(store_lanes)(const tile *t, real *panels, size_t features, double *rows) {
    for (size_t l = 0; l < t->rows; l++) {
        const real *lane = lane_of(panels, features, l);
        for (size_t f = 0; f < features; f++)
            rows[l * features + f] = t->failed[l] ? NAN : (double)lane[f * PANEL];
    }
}

void R(base_density)(const nf_model *model, const tile *t, double *density) {
    double constant = -0.91893853320467274178 * (double)model->dim; /* log(2 pi) / 2 */
    for (size_t f = 0; model->mean && f < model->dim; f++)
        constant -= log(model->sd[f]);
    for (size_t p = 0; p < t->panels; p++) {
        double sum[PANEL] = {0};
        const real *x = tile_panel(t, p);
        const size_t lanes = tile_width(t, p);
        for (size_t f = 0; f < model->dim; f++, x += PANEL) {
            if (!model->mean) {
                for (size_t l = 0; l < lanes; l++)
                    sum[l] = madd_double((double)x[l], (double)x[l], sum[l]);
                continue;
            }
            for (size_t l = 0; l < lanes; l++) {
                const double e = ((double)x[l] - model->mean[f]) / model->sd[f];
                sum[l] = madd_double(e, e, sum[l]);
            }
        }
        for (size_t l = 0; l < lanes; l++)
            density[p * PANEL + l] = madd_double(-0.5, sum[l], constant);
    }
}

int R(apply_layers)(const engine_job *job, bool backwards, size_t count, engine_thread *thread, thread_map *m) {
    const nf_model *model = job->model;
    int result = LAYER_OK;
    thread->arena.used = 0;
    for (size_t i = 0; i < count && result == LAYER_OK; i++) {
        const size_t index = backwards ? model->layer_count - 1 - i : i;
        const layer_place *place = &m->places[index];
        layer_run run = run_of(job, m, index, thread, &thread->counters);
        run.record = job->record ? place->record[backwards] : NULL;
        result = backwards != run.layer->inverted ? place->ops->inverse(&run, &m->t) : place->ops->forward(&run, &m->t);
    }
    return result;
}

bool R(check_lanes)(const engine_job *job, engine_thread *thread, thread_map *m, const unsigned char *before, double farthest) {
    tile *t = &m->t;
    bool any = false;
    for (size_t l = 0; l < t->rows; l++) {
        if (before[l]) {
            t->failed[l] = before[l];
            continue;
        }
        if (!t->failed[l]) {
            const real *lane = lane_of(t->x, t->dim, l);
            bool finite = fabs(log_prob_of(job, m, l)) <= farthest && fabs(t->penalty ? t->penalty[l] : 0.0) <= farthest;
            for (size_t f = 0; f < t->dim; f++)
                finite = finite && isfinite(lane[f * PANEL]);
            if (finite)
                continue;
            t->failed[l] = ROW_RANGE;
        }
        R(note_bad)(thread, (engine_bad){0, thread->first + l, t->failed[l], 0, 0.0});
        any = true;
    }
    return any;
}
