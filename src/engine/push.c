#include "engine/push.h"

#include <float.h>
#include <string.h>

#include "engine/lanes.h"

static double farthest_loss(const engine_job *job) { return job->record && job->density && job->slots ? FARTHEST_LOSS : DBL_MAX; }

int R(push_all_but)(const engine_job *job, engine_thread *thread, size_t first, size_t rows, const unsigned char *lost) {
    thread_map *m = begin_tile(thread, first, rows);
    const engine_bad bad_before = thread->bad;
    const engine_counters counters_before = thread->counters;
    unsigned char before[TILE_ROWS];
    const bool density = job->density || job->log_prob;
    m->t.few = job->rows <= FEW_ROWS && !job->record;
    if (job->penalty)
        m->t.penalty = m->penalty;
    if (!density) /* nor does it matter whether there is one */
        memset(m->base, 0, m->t.panels * PANEL * sizeof(double));
    if (lost)
        memcpy(m->t.failed, lost, rows);
    /* Twice at most: bad lanes are copies of a good lane the second time, and there is nothing left to fail. */
    for (bool again = true, note = !lost; again; note = false) {
        R(load_tile)(job, thread, m, first, note);
        memcpy(before, m->t.failed, rows);
        memset(m->t.log_det, 0, m->t.panels * PANEL * sizeof(double));
        if (m->t.penalty)
            memset(m->t.penalty, 0, m->t.panels * PANEL * sizeof(double));
        if (density && !job->inverse)
            R(base_density)(job->model, &m->t, m->base);
        memset(m->t.failed, 0, rows);
        if (R(apply_layers)(job, job->inverse, job->model->layer_count, thread, m) != LAYER_OK) {
            thread->bad = bad_before;
            thread->counters = counters_before;
            return ENGINE_ARENA;
        }
        if (density && job->inverse)
            R(base_density)(job->model, &m->t, m->base);
        again = R(check_lanes)(job, thread, m, before, farthest_loss(job)) && job->record;
    }
    return ENGINE_OK;
}
