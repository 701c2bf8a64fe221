/* Workspaces: all memory that a call needs, and the threads that share it. */
#include <stdint.h>
#include <string.h>

#include "api/config.h"
#include "api/run.h"

/* More threads than this are a mistake in the call, not a machine. */
#define MOST_THREADS 4096

nf_status nf_check_workspace(const char *function, const nf_flow *flow, const nf_workspace *workspace) {
    if (!workspace)
        return NF_OK;
    if (workspace->structure != flow->structure)
        return nf_fail(NF_ERR_MISMATCH, function, "ws belongs to another flow, or to this one before append or invert");
    return NF_OK;
}

/* Where the pieces of a workspace's one block lie; with base NULL only the size is meant. False when it does not fit. */
static bool map_workspace(nf_workspace *ws, size_t dim, size_t thread_size, unsigned char *base, size_t *size) {
    const size_t threads = ws->thread_count, lanes = threads > GRADIENT_SLOTS ? threads : GRADIENT_SLOTS;
    const size_t rows = threads * ws->engine->tile_rows;
    size_t pieces[8], row_bytes;
    bool fits = nf_size_multiply(rows * sizeof(double), dim, &row_bytes) && nf_size_multiply(thread_size, threads, &pieces[7]);
    pieces[0] = threads * sizeof *ws->threads;
    pieces[1] = lanes * sizeof *ws->progress;
    pieces[2] = lanes * sizeof *ws->sums;
    pieces[3] = pieces[4] = row_bytes;
    pieces[5] = pieces[6] = rows * sizeof(double);
    size_t offsets[8], total = 0;
    for (int i = 0; i < 8; i++) {
        offsets[i] = total;
        fits = fits && nf_size_add(total, pieces[i], &total) && nf_size_add(total, 63, &total);
        total &= ~(size_t)63;
    }
    *size = total;
    if (!fits || !base)
        return fits;
    ws->threads = (engine_thread *)(base + offsets[0]);
    ws->progress = (size_t *)(base + offsets[1]);
    ws->sums = (engine_sum *)(base + offsets[2]);
    ws->target_x = (double *)(base + offsets[3]);
    ws->target_gradient = (double *)(base + offsets[4]);
    ws->target_log_q = (double *)(base + offsets[5]);
    ws->target_log_p = (double *)(base + offsets[6]);
    for (size_t t = 0; t < threads; t++) {
        memset(&ws->threads[t], 0, sizeof ws->threads[t]);
        ws->threads[t].memory = base + offsets[7] + t * thread_size;
    }
    return true;
}

nf_status nf_workspace_make(const nf_allocator *allocator, const nf_engine *engine, uint64_t structure, size_t dim, size_t thread_size,
                            size_t threads, nf_workspace **out) {
    if (threads > MOST_THREADS)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "threads is %zu, at most %d make sense", threads, MOST_THREADS);
    nf_workspace *ws = nf_allocate_zeroed(allocator, sizeof *ws);
    if (!ws)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a workspace");
    ws->allocator = *allocator;
    ws->engine = engine;
    ws->structure = structure;
    ws->dim = dim;
    ws->thread_count = threads ? threads : 1;
    size_t size = 0;
    unsigned char *block = NULL;
    const bool fits = thread_size != SIZE_MAX && map_workspace(ws, ws->dim, thread_size, NULL, &size);
    if (fits)
        block = nf_allocate(&ws->allocator, size);
    if (!block) {
        const char *plural = ws->thread_count > 1 ? "s" : "";
        const size_t count = ws->thread_count;
        nf_release(&ws->allocator, ws);
        if (!fits)
            return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a workspace of %zu thread%s in %zu dimensions", count, plural, dim);
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a workspace of %zu thread%s in %zu dimensions: %zu bytes", count, plural, dim, size);
    }
    map_workspace(ws, ws->dim, thread_size, block, &size);
    nf_run_begin(ws);
    if (ws->thread_count > 1) {
        nf_status status = nf_pool_create(&ws->allocator, ws->thread_count, &ws->pool);
        if (status != NF_OK) {
            nf_workspace_free(ws);
            return status;
        }
    }
    *out = ws;
    return NF_OK;
}

nf_status nf_workspace_begin(const nf_flow *flow, size_t threads, nf_workspace **out) {
    const nf_status status = nf_workspace_make(&flow->allocator, flow->engine, flow->structure, flow->model.dim,
                                               flow->engine->thread_size(&flow->model), threads, out);
    for (size_t t = 0; status == NF_OK && t < (*out)->thread_count; t++)
        flow->engine->begin_thread(&flow->model, &(*out)->threads[t]);
    return status;
}

nf_status nf_workspace_create(const nf_flow *flow, size_t threads, nf_workspace **workspace) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "workspace", workspace);
    if (status == NF_OK)
        *workspace = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK) {
        status = nf_workspace_begin(flow, threads, workspace);
        if (status != NF_OK)
            nf_fail_in(status, __func__);
    }
    return status;
}

void nf_workspace_free(nf_workspace *workspace) {
    if (!workspace)
        return;
    const nf_allocator allocator = workspace->allocator;
    nf_pool_free(workspace->pool);
    for (size_t t = 0; t < workspace->thread_count; t++)
        nf_release(&allocator, workspace->threads[t].arena.base);
    nf_release(&allocator, workspace->threads); /* the first piece of the block */
    nf_release(&allocator, workspace);
}

nf_status nf_workspace_borrow(const nf_flow *flow, nf_workspace *given, nf_workspace **workspace) {
    *workspace = given;
    return given ? NF_OK : nf_workspace_begin(flow, 1, workspace);
}

void nf_workspace_return(nf_workspace *given, nf_workspace *workspace) {
    if (!given)
        nf_workspace_free(workspace);
}

nf_status nf_workspace_stats(const nf_workspace *workspace, nf_stats *stats) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "workspace", workspace);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "stats", stats);
    if (status == NF_OK)
        status = nf_check_room(__func__, "stats", stats, NF_SIZE_THROUGH(nf_stats, root_iterations));
    if (status == NF_OK)
        nf_write_struct(stats, &workspace->stats, sizeof workspace->stats);
    return status;
}
