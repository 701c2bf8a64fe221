#include "api/run.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/floating.h"
#include "engine/tile_failure.h"

engine_job nf_job_of(const nf_flow *flow, size_t rows, const double *in, const double *context, bool inverse) {
    return (engine_job){.model = &flow->model,
                        .theta = flow->theta,
                        .epoch = flow->epoch,
                        .inverse = inverse,
                        .in = in,
                        .context = context,
                        .rows = rows};
}

/* The tile of a lane after `done` others; false when the arena is too small for it. */
static bool do_tile(const nf_run *run, engine_thread *thread, size_t lane, size_t done) {
    const nf_engine *engine = run->workspace->engine;
    const size_t first = (lane + done * run->lanes) * engine->tile_rows, left = run->job->rows - first;
    const size_t rows = left < engine->tile_rows ? left : engine->tile_rows;
    const size_t slot = run->slots && !run->gathers ? (run->first_slot + lane) % run->slots : 0;
    const bool begins = run->fresh && (run->gathers ? lane : done) == 0; /* the slot, */
    const bool ends = run->watched && left <= (run->gathers ? 1 : run->lanes) * engine->tile_rows;
    if (run->action == RUN_MATCH) {
        engine->match(run->job, thread, first, rows, slot, ends, &run->workspace->sums[lane]);
        return true;
    }
    if (run->action == RUN_TRAJECTORY) {
        engine->trajectory(run->job, thread, first, rows);
        return true;
    }
    if (run->action != RUN_PULL) {
        if (engine->push(run->job, thread, first, rows) != ENGINE_OK)
            return false;
        engine->store(run->job, thread);
    }
    if (run->action != RUN_STORE)
        engine->pull(run->job, thread, slot, begins, ends, &run->workspace->sums[lane]);
    return true;
}

typedef struct pass {
    const nf_run *run;
    size_t tiles, threads;
} pass;

/* A thread's lanes, each from where it stands; stops where an arena is too small. */
static void work(void *user, size_t thread_index) {
    const pass *p = user;
    nf_workspace *ws = p->run->workspace;
    engine_thread *thread = &ws->threads[thread_index];
    thread->arena.wanted = 0;
    for (size_t lane = thread_index; lane < p->run->lanes; lane += p->threads)
        for (size_t *done = &ws->progress[lane]; lane + *done * p->run->lanes < p->tiles; ++*done)
            if (!do_tile(p->run, thread, lane, *done))
                return;
}

/* Larger arenas for the threads that asked; twice as large as wanted, so that this does not happen often. */
static nf_status grow_arenas(nf_workspace *ws, size_t threads, bool *again) {
    *again = false;
    for (size_t t = 0; t < threads; t++) {
        nf_arena *arena = &ws->threads[t].arena;
        if (arena->wanted == 0)
            continue;
        size_t size;
        void *memory = NULL;
        if (nf_size_multiply(arena->wanted, 2, &size))
            memory = nf_allocate(&ws->allocator, size);
        if (!memory)
            return nf_fail(NF_ERR_MEMORY, NULL, "no memory for %zu bytes of checkpoints", size);
        nf_release(&ws->allocator, arena->base);
        nf_arena_init(arena, memory, size);
        *again = true;
    }
    return NF_OK;
}

static void gather(nf_workspace *ws, size_t threads, size_t row) {
    for (size_t t = 0; t < threads; t++) {
        engine_thread *thread = &ws->threads[t];
        const size_t count = ws->bad.count + thread->bad.count;
        if (thread->bad.count && row + thread->bad.first < ws->bad.first) {
            ws->bad = thread->bad;
            ws->bad.first += row;
        }
        ws->bad.count = count;
        ws->stats.rhs_evaluations += thread->counters.rhs_evaluations;
        ws->stats.steps_accepted += thread->counters.steps_accepted;
        ws->stats.steps_rejected += thread->counters.steps_rejected;
        ws->stats.root_iterations += thread->counters.root_iterations;
        memset(&thread->bad, 0, sizeof thread->bad);
        memset(&thread->counters, 0, sizeof thread->counters);
        thread->bad.first = SIZE_MAX;
    }
    ws->stats.bad_rows = ws->bad.count;
    ws->stats.first_bad_row = ws->bad.count ? ws->bad.first : 0;
}

void nf_run_begin(nf_workspace *ws) {
    memset(&ws->stats, 0, sizeof ws->stats);
    ws->stats.struct_size = sizeof ws->stats;
    memset(&ws->bad, 0, sizeof ws->bad);
    ws->bad.first = SIZE_MAX;
    for (size_t t = 0; t < ws->thread_count; t++) {
        memset(&ws->threads[t].bad, 0, sizeof ws->threads[t].bad);
        memset(&ws->threads[t].counters, 0, sizeof ws->threads[t].counters);
        ws->threads[t].bad.first = SIZE_MAX;
    }
}

nf_status nf_run_rows(const nf_run *run, size_t row) {
    nf_workspace *ws = run->workspace;
    pass p = {run, nf_tiles_of(run->job->rows, ws->engine->tile_rows), run->lanes < ws->thread_count ? run->lanes : ws->thread_count};
    memset(ws->progress, 0, run->lanes * sizeof *ws->progress);
    memset(ws->sums, 0, run->lanes * sizeof *ws->sums);
    for (bool again = true; again;) {
        const nf_floating saved = nf_floating_enter();
        if (p.threads > 1)
            nf_pool_run(ws->pool, p.threads, work, &p);
        else
            work(&p, 0);
        nf_floating_leave(saved);
        nf_status status = grow_arenas(ws, p.threads, &again);
        if (status != NF_OK)
            return status;
    }
    gather(ws, p.threads, row);
    return NF_OK;
}

static const char *say_number(double value) { return value != value ? "nan" : value > 0 ? "inf" : "-inf"; }

nf_status nf_run_end(const char *function, const nf_workspace *ws, const engine_job *job, const char *input) {
    const engine_bad *bad = &ws->bad;
    if (bad->count == 0)
        return NF_OK;
    NF_CALL; /* the row's number may be anything */
    char more[48] = "";
    if (bad->count > 1)
        snprintf(more, sizeof more, " (%zu bad rows in all)", bad->count);
    switch ((enum row_failure)bad->reason) {
    case ROW_INPUT:
    case ROW_CONTEXT: {
        const char *name = bad->reason == ROW_INPUT ? input : "context";
        if (isfinite(bad->value))
            return nf_fail(NF_ERR_ROWS, function, "%s[%zu][%zu] is %g, beyond the flow's precision%s", name, bad->first, bad->column,
                           bad->value, more);
        return nf_fail(NF_ERR_ROWS, function, "%s[%zu][%zu] is %s%s", name, bad->first, bad->column, say_number(bad->value), more);
    }
    case ROW_ODE_STEP:
        return nf_fail(NF_ERR_ROWS, function, "row %zu: the step of the ODE solver underflowed%s", bad->first, more);
    case ROW_ODE_BUDGET:
        return nf_fail(NF_ERR_ROWS, function, "row %zu: max_steps of the ODE solver were not enough%s", bad->first, more);
    case ROW_COTANGENT:
        return nf_fail(NF_ERR_ROWS, function, "row %zu: a cotangent is not finite%s", bad->first, more);
    case ROW_TARGET:
        return nf_fail(NF_ERR_ROWS, function, "row %zu: the target's log density or its gradient is not finite%s", bad->first, more);
    case ROW_SLOPE:
        return nf_fail(NF_ERR_ROWS, function, "row %zu: the gradient is beyond the range of the numbers%s", bad->first, more);
    case ROW_RETRACE:
        return nf_fail(NF_ERR_ROWS, function, "row %zu: the adjoint equation does not come back to where the row set out%s", bad->first, more);
    case ROW_RANGE:
    case ROW_GOOD:
        break;
    }
    return nf_fail(NF_ERR_ROWS, function, "row %zu: the %s is beyond the range of the numbers%s", bad->first,
                   job->inverse ? "inverse" : "forward map", more);
}
