/* A thread's memory, and the tile that it has on its way: what push, pull, matching and trajectories work on. */
#ifndef NF_ENGINE_THREAD_H
#define NF_ENGINE_THREAD_H

#include <string.h>

#include "engine/engine.h"
#include "engine/layer.h"

extern const nf_engine R(engine); /* the table, for the normals */

/* A layer of the flow, as its thread meets it: where its record lies when the flow runs forward [0] and inverse [1], and its cache. */
typedef struct layer_place {
    const struct layer_ops *ops;
    real *record[2], *cache;
} layer_place;

/* What lies where in a thread's memory, at the start of that memory: but for the tile in work the same for all flows of a structure. */
typedef struct thread_map {
    tile t;
    double *penalty; /* room for the tile's */
    layer_place *places; /* of all layers */
    real *context, *cotangent_x, *cotangent_context, *cotangent_log_det, *cotangent_penalty;
    double *base; /* log density of the base at z */
    real *scratch, *records, *caches;
    real *alone;  /* a panel of one row that is matched by itself: x, distance, context */
    real *kept;   /* a slot as it was before a pull that may be repeated */
    bool repeats; /* some layer's vjp loses rows or is steep */
    size_t bytes;
} thread_map;

/* In bytes; SIZE_MAX: too many for any memory. */
size_t R(thread_size)(const nf_model *model);
/* Zeros where lanes that hold no sample must start as numbers, and empty caches, which are known by their first bytes. */
void R(begin_thread)(const nf_model *model, engine_thread *thread);

static inline thread_map *map_thread(const engine_thread *thread) { return thread->memory; }

/* A tile of so many rows, nothing loaded yet. */
static inline thread_map *begin_tile(engine_thread *thread, size_t first, size_t rows) {
    thread_map *m = map_thread(thread);
    thread->first = first;
    thread->rows = m->t.rows = rows;
    m->t.panels = (rows + PANEL - 1) / PANEL;
    m->t.few = false;
    m->t.penalty = NULL;
    return m;
}

/* One more bad row; the first of them is kept. */
void R(note_bad)(engine_thread *thread, engine_bad bad);

static inline real *lane_of(real *panels, size_t features, size_t lane) {
    return panels + lane / PANEL * features * PANEL + lane % PANEL;
}

static inline bool any_good(const tile *t) { return memchr(t->failed, ROW_GOOD, t->rows) != NULL; }

/* What every operation of layer `index` is given; the caller adds a record or a gradient. */
static inline layer_run run_of(const engine_job *job, const thread_map *m, size_t index, engine_thread *thread, engine_counters *counters) {
    const nf_layer *layer = job->model->layers[index];
    return (layer_run){.layer = layer,
                       .theta = (const real *)job->theta + layer->parameter_offset,
                       .scratch = m->scratch,
                       .cache = m->places[index].cache,
                       .arena = &thread->arena,
                       .counters = counters,
                       .epoch = job->epoch};
}

static inline real *slot_of(const engine_job *job, size_t slot) { return (real *)job->slots + slot * job->slot_stride; }

/* Where a layer adds its part of the parameter gradient; NULL when nobody wants it. */
static inline real *gradient_of(const engine_job *job, size_t slot, const nf_layer *layer) {
    return job->slots ? slot_of(job, slot) + layer->parameter_offset : NULL;
}

static inline double weight_of(const engine_job *job, size_t row) { return job->weight ? job->weight[row] * job->weight_scale : 1.0; }

/*
 * A loss beyond this is a number, but its gradient may not be: the products of a sample's numbers that it is made of are of its size, times
 * weights and factors, and samples are summed.
 */
#define FARTHEST_LOSS ((double)REAL_MAX * 0x1p-20)

#endif
