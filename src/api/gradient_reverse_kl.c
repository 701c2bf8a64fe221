/* The gradient of the reverse Kullback-Leibler divergence, from samples that a target density weighs. */
#include <math.h>
#include <string.h>

#include "api/differentiate.h"
#include "api/gradients.h"
#include "core/floating.h"
#include "core/philox.h"
#include "engine/tile_failure.h"

nf_status nf_call_target(const char *function, nf_target_fn target, void *user, size_t rows, const double *x, double *log_p, double *grad_x) {
    nf_clear_error();
    return nf_fail_of(NF_CALL_OUT(target(user, rows, x, log_p, grad_x)), function, "the target");
}

/* One chunk of reverse KL: as many tiles as there are threads to push them, so that their records are all at hand. */
typedef struct kl_chunk {
    size_t first, rows, tile, lanes, slots;
    nf_shard_sum *sums; /* of the slots */
} kl_chunk;

/* The target sees only finite points: a bad row is shown as a copy of a good one (or the origin), and not counted. */
static void cover_bad_rows(double *x, const double *log_q, size_t rows, size_t dim) {
    size_t good = 0;
    while (good < rows && !isfinite(log_q[good]))
        good++;
    for (size_t r = 0; r < rows; r++) {
        if (isfinite(log_q[r]))
            continue;
        if (good < rows)
            memcpy(x + r * dim, x + good * dim, dim * sizeof *x);
        else
            memset(x + r * dim, 0, dim * sizeof *x);
    }
}

/* Rows that the target spoils. */
static void reject_spoilt(const nf_flow *flow, nf_workspace *ws, const kl_chunk *chunk) {
    const size_t dim = flow->model.dim, tile_rows = flow->engine->tile_rows;
    for (size_t r = 0; r < chunk->rows; r++)
        if (!isfinite(ws->target_log_p[r]) || !nf_finite_row(ws->target_gradient + r * dim, dim, flow->engine))
            flow->engine->reject(&ws->threads[r / tile_rows % ws->thread_count], r, ROW_TARGET);
}

/* After the pull, which has made log q NaN in all rows that are bad. */
static void sum_losses(const nf_flow *flow, const nf_workspace *ws, const kl_chunk *chunk) {
    for (size_t r = 0; r < chunk->rows; r++) {
        if (!isfinite(ws->target_log_q[r]))
            continue;
        nf_shard_sum *sum = &chunk->sums[(chunk->tile + r / flow->engine->tile_rows) % chunk->slots];
        sum->loss += ws->target_log_q[r] - ws->target_log_p[r];
        sum->weight += 1.0;
    }
}

static nf_status run_chunk(const char *function, const nf_flow *flow, nf_workspace *ws, const nf_target_step *step, const kl_chunk *chunk, engine_job *job) {
    job->rows = chunk->rows;
    nf_run run = {.job = job, .workspace = ws, .action = RUN_STORE, .lanes = chunk->lanes};
    nf_status status = nf_run_rows(&run, chunk->first);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    cover_bad_rows(ws->target_x, ws->target_log_q, chunk->rows, flow->model.dim);
    status = nf_call_target(function, step->target, step->user, chunk->rows, ws->target_x, ws->target_log_p, ws->target_gradient);
    if (status != NF_OK)
        return status;
    reject_spoilt(flow, ws, chunk);
    run.action = RUN_PULL;
    run.first_slot = chunk->tile % chunk->slots;
    run.slots = chunk->slots;
    status = nf_run_rows(&run, chunk->first);
    if (status == NF_OK)
        sum_losses(flow, ws, chunk);
    return status;
}

/* All rows of a wave, in chunks. */
static nf_status run_chunks(const char *function, const nf_flow *flow, nf_workspace *ws, const nf_target_step *step, const nf_wave *wave, engine_job *job,
                            nf_shard_sum *sums) {
    const size_t tile_rows = flow->engine->tile_rows, tiles = nf_tiles_of(wave->rows, tile_rows);
    const size_t at_once = ws->thread_count < wave->count ? ws->thread_count : wave->count;
    nf_status status = NF_OK;
    for (size_t tile = 0; status == NF_OK && tile < tiles; tile += at_once) {
        kl_chunk chunk = {.first = tile * tile_rows,
                          .tile = tile,
                          .lanes = tiles - tile < at_once ? tiles - tile : at_once,
                          .slots = wave->count,
                          .sums = sums};
        chunk.rows = wave->rows - chunk.first < chunk.lanes * tile_rows ? wave->rows - chunk.first : chunk.lanes * tile_rows;
        job->dealt.skip = tile;
        job->context = step->context ? step->context + (wave->row + chunk.first) * flow->model.context_dim : NULL;
        status = run_chunk(function, flow, ws, step, &chunk, job);
    }
    return status;
}

static bool is_finite(const nf_gradient *g, size_t slots) {
    bool finite = true;
    for (size_t i = 0; finite && i < slots; i++)
        finite = g->engine->finite((const unsigned char *)g->slots + i * g->stride * g->engine->real_size, g->count);
    return finite;
}

/* Once more, with care for the rows that make it so, when the gradient is not finite. */
nf_status nf_run_target_wave(const char *function, const nf_flow *flow, nf_workspace *ws, const nf_target_step *step, const nf_wave *wave,
                             nf_gradient *gradient, nf_shard_sum *sums) {
    engine_job job = nf_differentiable_job(flow, 0, NULL, NULL, false, gradient);
    nf_philox_key(step->rng.seed, step->rng.stream, job.key);
    job.position = step->rng.position;
    job.dealt.own = wave->count;
    job.dealt.all = wave->shards;
    job.dealt.first = wave->first;
    job.out = ws->target_x;
    job.log_prob = ws->target_log_q;
    job.grad_out = ws->target_gradient;
    job.log_q = true;
    job.scale = -1.0;
    nf_status status = NF_OK;
    for (bool found = false; status == NF_OK && !found; job.careful = true) {
        memset(sums, 0, wave->count * sizeof *sums);
        nf_clear_slots(&job, gradient, wave->count);
        nf_run_begin(ws);
        status = run_chunks(function, flow, ws, step, wave, &job, sums);
        found = job.careful || is_finite(gradient, wave->count);
    }
    return status;
}

nf_status nf_grad_reverse_kl(const nf_flow *flow, nf_workspace *given, nf_rng *rng, size_t rows, const double *context,
                             nf_target_fn target, void *user, nf_gradient *gradient, double *loss) {
    NF_CALL;
    nf_status status = nf_check_differentiation(__func__, flow, given, rows, NULL, NULL, context);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "rng", rng);
    if (status == NF_OK && !target)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "target is NULL");
    if (status == NF_OK)
        status = nf_check_gradient(__func__, flow, gradient);
    if (status != NF_OK)
        return status;
    nf_workspace *ws;
    status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    const size_t slots = nf_slots_of(flow, rows);
    const nf_wave all = {.count = slots, .shards = slots, .rows = rows};
    const nf_target_step step = {context, target, user, *rng};
    nf_shard_sum sums[GRADIENT_SLOTS];
    status = nf_run_target_wave(__func__, flow, ws, &step, &all, gradient, sums);
    if (status == NF_OK) {
        engine_sum total = {0, 0, false};
        for (size_t i = 0; i < slots; i++) {
            total.loss += sums[i].loss;
            total.weight += sums[i].weight;
        }
        if (total.weight > 0.0)
            nf_commit_slots(gradient, ws, slots, false, total.weight);
        if (loss)
            *loss = nf_mean(total.loss, total.weight);
        rng->position += rows;
        const engine_job job = nf_differentiable_job(flow, rows, NULL, NULL, false, NULL);
        status = nf_run_end(__func__, ws, &job, "z");
    }
    nf_workspace_return(given, ws);
    return status;
}
