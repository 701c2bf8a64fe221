/*
 * The one table through which the api calls the numerics. There is a table for each precision and instruction set;
 * nothing in it depends on `real`, so this header is for both sides.
 */
#ifndef NF_ENGINE_ENGINE_H
#define NF_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/memory.h"
#include "core/model.h"
#include "engine/counters.h"
#include "engine/ode/task.h"
#include "engine/train/rule.h"

/* The first bad row that a thread met, and how many. */
typedef struct engine_bad {
    size_t count, first; /* first: SIZE_MAX when there is none */
    int reason;          /* enum row_failure */
    size_t column;       /* of the input, for ROW_INPUT and ROW_CONTEXT */
    double value;
} engine_bad;

/* One call's work, shared and constant. Arrays are the caller's, row-major doubles; NULL where not wanted. */
typedef struct engine_job {
    const nf_model *model;
    const void *theta; /* parameters, in the engine's real */
    uint64_t epoch;    /* of the parameters: see layer_run */
    bool inverse;      /* push applies the inverse of the flow */
    bool record;       /* a pull follows */
    bool penalty;      /* the layers' regularisers belong to the loss */
    const double *in;  /* NULL: base samples drawn from key, row r at position + r */
    uint32_t key[2];
    uint64_t position;
    /* The tiles of this job among those of a step, whose first row has `position`: tile j here is tile (skip + j) / own * all + first + (skip + j) % own
       there. own 0: the job is the step. */
    struct {
        size_t own, all, first, skip;
    } dealt;
    const double *context;
    size_t rows;
    double *out, *log_det, *log_prob; /* what push stores */
    bool density; /* rows must have a density, as with log_prob; in a pull the cotangents are those of the sum of weight * scale * log_prob */
    /* for pull */
    double scale;
    const double *weight;                    /* density: per row, NULL is 1 */
    double weight_scale;                     /* on all of them: a power of two */
    const double *grad_out, *grad_log_det;   /* not density: given, times scale; NULL is zeros */
    bool log_q;                              /* not density: grad_log_det is 1 in every row */
    double *grad_in, *grad_context;          /* NULL: not wanted */
    void *slots;                             /* gradient slots, each of slot_stride reals; NULL: no parameter gradient */
    size_t slot_stride;
    bool unwatched;                          /* whether a slot is finite is not asked: its sum will be looked at */
    bool careful;                            /* look in all layers for rows whose part of the gradient is beyond the numbers */
    /* for match: `in` are data; scale, weight and slots as for pull */
    size_t matched; /* the layer, whose field is matched */
    bool paired;    /* base samples go with the data by optimal transport within a tile */
    /* for trajectory: `in` are base samples */
    const double *times; /* in order along the way forward, or against it */
    size_t time_count;
    bool times_backward;
    double *path; /* time_count x rows x dim */
} engine_job;

/* Sums of one slot of work, over its tiles in order. */
typedef struct engine_sum {
    double loss, weight; /* sum of weight * -log_prob, and of weight, over good rows (density jobs) */
    bool spoilt;         /* numbers of the slot are none */
} engine_sum;

/* One thread's memory. `memory` holds engine->thread_size bytes; the arena is grown by the owner between tiles. */
typedef struct engine_thread {
    void *memory;
    nf_arena arena;
    engine_bad bad;
    engine_counters counters;
    size_t first, rows; /* the tile that push left here */
} engine_thread;

enum engine_result { ENGINE_OK = 0, ENGINE_ARENA = 1 };

typedef struct nf_engine {
    const char *isa;
    nf_precision precision;
    size_t real_size, tile_rows;

    /* Standard normals 2 block and 2 block + 1 of samples position .. position + lanes - 1, in double in both precisions. */
    void (*normals)(const uint32_t key[2], uint64_t position, uint64_t block, size_t lanes, double *first, double *second);
    bool (*supports)(nf_layer_kind kind);
    /* Bytes of one thread's memory, aligned to 64; SIZE_MAX when it cannot be told. */
    size_t (*thread_size)(const nf_model *model);
    void (*begin_thread)(const nf_model *model, engine_thread *thread); /* once, before its first push */

    /*
     * Rows first .. first + rows - 1 (at most tile_rows) through all layers. Bad rows are counted and, when the job records,
     * replaced by copies of a good one, so that nothing that is not finite enters a gradient.
     */
    int (*push)(const engine_job *job, engine_thread *thread, size_t first, size_t rows);
    void (*store)(const engine_job *job, engine_thread *thread); /* the outputs of the pushed tile; NaN for bad rows */
    /* The vjp of the pushed tile, its parameter gradient added to a slot, which may hold anything when this is its `first`. After the `last` one sum->spoilt says whether
     * all of the slot are numbers. */
    void (*pull)(const engine_job *job, engine_thread *thread, size_t slot, bool first, bool last, engine_sum *sum);
    /*
     * Flow matching in place of push and pull: data go back through the layers above the matched one, base samples (key, position) up
     * through those below it, and the field in between learns to carry these to those. After the `last` one sum->spoilt is as after a pull.
     */
    void (*match)(const engine_job *job, engine_thread *thread, size_t first, size_t rows, size_t slot, bool last, engine_sum *sum);
    bool (*matches)(nf_layer_kind kind); /* whether it has a field */
    bool (*adds_once)(nf_layer_kind kind); /* to a slot, for each tile: what tiles add to one slot in turn, and slots of one tile that are summed, have the same bits */
    void (*trajectory)(const engine_job *job, engine_thread *thread, size_t first, size_t rows); /* of a flow of one layer that has a field */
    /* Mark a row of the pushed tile as bad before the pull (a target density that is not finite). */
    void (*reject)(engine_thread *thread, size_t row, int reason);

    /* A caller's own systems of equations (ode/solve.h). */
    size_t (*ode_memory)(size_t size);
    bool (*ode_solve)(ode_task *task, void *memory);

    /*
     * Rows through a net on its own; x, y and their cotangents are the caller's whole arrays. `record`: a pull follows, which may store y instead. `careful`: look for
     * rows whose part of the parameters' gradient is beyond the numbers.
     */
    size_t (*net_thread_size)(const nf_net *net);
    void (*net_push)(const nf_net *net, const void *theta, engine_thread *thread, size_t first, size_t rows, const double *x, double *y,
                     bool record);
    void (*net_pull)(const nf_net *net, const void *theta, engine_thread *thread, const double *x, const double *grad_y, bool careful, double *y,
                     double *grad_x, void *gradient);

    /* Vectors of parameters, in the engine's real. */
    void (*from_double)(void *to, const double *from, size_t count);
    void (*to_double)(double *to, const void *from, size_t count);
    bool (*finite)(const void *values, size_t count);
    double (*scale)(void *values, double scale, size_t count);                  /* values = 0 + scale * values; their largest, as below */
    void (*set_scaled)(void *to, const void *from, double scale, size_t count); /* to = 0 + scale * from */
    void (*add_scaled)(void *to, const void *from, double scale, size_t count); /* to += scale * from */
    double (*norm2)(const void *values, size_t count);                          /* 2-norm, in double, fixed order */
    double (*largest)(const void *values, size_t count);                        /* of the absolute values; NaN where one of them is */

    /* The optimizers' arithmetic: one step on theta with gradient g; m, v are the state. See golden update rules. */
    void (*update)(const engine_update *update, void *theta, const void *g, void *m, void *v, size_t count);
    /* Whether that would make a number of theta, m or v that is none; changes nothing, and takes longer than the step. */
    bool (*update_overflows)(const engine_update *update, const void *theta, const void *g, const void *m, const void *v, size_t count);
    void (*average)(void *mean, const void *theta, double decay, size_t count); /* mean = decay mean + (1 - decay) theta */
} nf_engine;

/* The engine for a precision on this processor: the best build that it runs, or the one that NFLOW_ISA names. */
const nf_engine *nf_engine_choose(nf_precision precision);

#endif
