/* Pushes tiles of samples through the layers of a flow, and pulls cotangents back: the table through which the api does it. */
#include "engine/engine.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "engine/kernels/random.h"
#include "engine/lanes.h"
#include "engine/match.h"
#include "engine/net_rows.h"
#include "engine/ode/solve.h"
#include "engine/pull.h"
#include "engine/push.h"
#include "engine/train/update.h"

static int push(const engine_job *job, engine_thread *thread, size_t first, size_t rows) { return R(push_all_but)(job, thread, first, rows, NULL); }

static void store(const engine_job *job, engine_thread *thread) {
    thread_map *m = map_thread(thread);
    const tile *t = &m->t;
    if (job->out)
        R(store_lanes)(t, t->x, t->dim, job->out + thread->first * t->dim);
    for (size_t l = 0; l < t->rows; l++) {
        if (job->log_det)
            job->log_det[thread->first + l] = t->failed[l] ? NAN : t->log_det[l];
        if (job->log_prob)
            job->log_prob[thread->first + l] = t->failed[l] ? NAN : log_prob_of(job, m, l);
    }
}

static void reject(engine_thread *thread, size_t row, int reason) {
    thread_map *m = map_thread(thread);
    const size_t l = row - thread->first;
    if (m->t.failed[l])
        return;
    m->t.failed[l] = (unsigned char)reason;
    R(note_bad)(thread, (engine_bad){0, row, reason, 0, 0.0});
}

/* ---- trajectories */

typedef struct path_sink {
    const engine_job *job;
    size_t first, rows;
} path_sink;

static double *path_row(const path_sink *s, size_t index, size_t lane) {
    return s->job->path + (index * s->job->rows + s->first + lane) * s->job->model->dim;
}

static void keep_point(void *user, size_t index, size_t lane, const real *x) {
    const path_sink *s = user;
    if (lane >= s->rows)
        return;
    double *row = path_row(s, index, lane);
    for (size_t f = 0; f < s->job->model->dim; f++)
        row[f] = (double)x[f * PANEL];
}

static void trajectory(const engine_job *job, engine_thread *thread, size_t first, size_t rows) {
    const nf_model *model = job->model;
    thread_map *m = begin_tile(thread, first, rows);
    tile *t = &m->t;
    unsigned char before[TILE_ROWS];
    R(load_tile)(job, thread, m, first, true);
    memcpy(before, t->failed, rows);
    memset(t->failed, 0, rows);
    memset(t->log_det, 0, t->panels * PANEL * sizeof(double));
    memset(m->base, 0, t->panels * PANEL * sizeof(double));
    path_sink sink = {job, first, rows};
    const layer_run run = run_of(job, m, 0, thread, &thread->counters);
    const layer_path path = {.inverse = run.layer->inverted,
                             .t = job->times,
                             .times = job->time_count,
                             .backward = job->times_backward,
                             .visit = keep_point,
                             .user = &sink};
    m->places[0].ops->path(&run, t, &path);
    R(check_lanes)(job, thread, m, before, DBL_MAX);
    for (size_t l = 0; l < rows; l++)
        for (size_t i = 0; t->failed[l] && i < job->time_count; i++)
            for (size_t f = 0; f < model->dim; f++)
                path_row(&sink, i, l)[f] = NAN;
}

static void from_double(void *to, const double *from, size_t count) {
    real *r = to;
    for (size_t i = 0; i < count; i++)
        r[i] = (real)from[i];
}

static void to_double(double *to, const void *from, size_t count) {
    const real *r = from;
    for (size_t i = 0; i < count; i++)
        to[i] = (double)r[i];
}

static bool supports(nf_layer_kind kind) { return R(layer_ops_of)(kind) != NULL; }

#define NF_TEXT_(x) #x
#define NF_TEXT(x) NF_TEXT_(x)

const nf_engine R(engine) = {
    .isa = NF_TEXT(NF_ISA),
    .precision = NF_SINGLE_BUILD ? NF_SINGLE : NF_DOUBLE,
    .real_size = sizeof(real),
    .tile_rows = TILE_ROWS,
    .normals = NF_JOIN4(nfe_, normal_pairs, _f64_, NF_ISA),
    .supports = supports,
    .thread_size = R(thread_size),
    .begin_thread = R(begin_thread),
    .push = push,
    .store = store,
    .pull = R(pull),
    .reject = reject,
    .match = R(match),
    .matches = R(matches),
    .adds_once = R(adds_once),
    .trajectory = trajectory,
    .ode_memory = R(ode_rows_memory),
    .ode_solve = R(ode_solve_rows),
    .net_thread_size = R(net_thread_size),
    .net_push = R(net_push),
    .net_pull = R(net_pull),
    .from_double = from_double,
    .to_double = to_double,
    .finite = R(all_finite),
    .scale = R(scale),
    .set_scaled = R(set_scaled),
    .add_scaled = R(add_scaled),
    .norm2 = R(norm2),
    .largest = R(largest),
    .update = R(update),
    .update_overflows = R(update_overflows),
    .average = R(average),
};
