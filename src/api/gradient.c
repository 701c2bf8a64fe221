/* Gradient objects, the likelihood and reverse-KL gradients, and the two vjps. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "api/run.h"
#include "api/shards.h"
#include "api/weights.h"
#include "core/floating.h"
#include "core/philox.h"
#include "engine/tile_failure.h"

nf_status nf_check_gradient(const char *function, const nf_flow *flow, const nf_gradient *gradient) {
    if (gradient->structure != flow->structure)
        return nf_fail(NF_ERR_MISMATCH, function, "gradient belongs to another flow, or to this one before append or invert");
    return NF_OK;
}

nf_status nf_gradient_make(const char *function, const nf_allocator *allocator, const nf_engine *engine, uint64_t structure, size_t count,
                           nf_gradient **out) {
    const size_t stride = (count * engine->real_size + 63) / 64 * 64;
    size_t all;
    const bool fits = nf_size_multiply(stride, GRADIENT_SLOTS, &all);
    nf_gradient *g = nf_allocate_zeroed(allocator, sizeof *g);
    if (g) {
        g->allocator = *allocator;
        g->engine = engine;
        g->structure = structure;
        g->count = count;
        g->stride = stride / engine->real_size;
        g->sum = nf_allocate_zeroed(allocator, stride);
        g->slots = fits ? nf_allocate(allocator, all) : NULL;
    }
    if (!g || !g->sum || !g->slots) {
        nf_gradient_free(g);
        return nf_fail(NF_ERR_MEMORY, function, "no memory for the gradient of %zu parameters", count);
    }
    *out = g;
    return NF_OK;
}

nf_status nf_gradient_create(const nf_flow *flow, nf_gradient **out) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", out);
    if (status == NF_OK)
        *out = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    return nf_gradient_make(__func__, &flow->allocator, flow->engine, flow->structure, flow->model.parameter_count, out);
}

void nf_gradient_free(nf_gradient *gradient) {
    if (!gradient)
        return;
    const nf_allocator allocator = gradient->allocator;
    nf_release(&allocator, gradient->slots);
    nf_release(&allocator, gradient->sum);
    nf_release(&allocator, gradient);
}

nf_status nf_gradient_zero(nf_gradient *gradient) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        memset(gradient->sum, 0, gradient->count * gradient->engine->real_size);
    return status;
}

nf_status nf_gradient_get(const nf_gradient *gradient, double *out) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "out", out);
    if (status != NF_OK)
        return status;
    const nf_floating saved = nf_floating_enter();
    gradient->engine->to_double(out, gradient->sum, gradient->count);
    nf_floating_leave(saved);
    return NF_OK;
}

nf_status nf_gradient_set(nf_gradient *gradient, const double *in) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "in", in);
    if (status != NF_OK)
        return status;
    const nf_floating saved = nf_floating_enter();
    gradient->engine->from_double(gradient->sum, in, gradient->count);
    nf_floating_leave(saved);
    return NF_OK;
}

/* As for an evaluation, but that a mean, and what is summed, is of some rows. `name` NULL: no input. */
static nf_status check(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name, const double *input,
                       const double *context) {
    const nf_status status = nf_check_evaluation(function, flow, ws, rows, name, input, context);
    return status == NF_OK && rows == 0 ? nf_fail(NF_ERR_ARGUMENT, function, "rows is 0") : status;
}

/* Weights of a mean, and what they are scaled by. */
static nf_status check_weights(const char *function, size_t rows, const double *weight, double *scale) {
    *scale = 1.0;
    const nf_status status = nf_check_weights(function, "weight", rows, weight);
    if (status != NF_OK || !weight)
        return status;
    const double largest = nf_largest_weight(rows, weight);
    if (largest == 0.0)
        return nf_fail(NF_ERR_ARGUMENT, function, "the weights sum to 0, must be positive");
    *scale = nf_weight_scale(largest);
    return NF_OK;
}

/* Before work that adds to the first `slots`, all of them. */
static void clear_slots(nf_gradient *g, size_t slots) {
    for (size_t s = 0; s < slots; s++)
        memset((unsigned char *)g->slots + s * g->stride * g->engine->real_size, 0, g->count * g->engine->real_size);
}

/* Slots divided by a weight into the gradient, a block of all of them after the other so that the sum stays at hand. */
#define COMMIT_BLOCK ((size_t)2048)
#define COMMIT_ALONE ((size_t)65536) /* numbers for which it is worth to wake one thread more */

typedef struct commit {
    nf_gradient *g;
    size_t slots, threads;
    double scale;
} commit;

static void commit_blocks(void *user, size_t thread) {
    const commit *c = user;
    const nf_gradient *g = c->g;
    const size_t size = g->engine->real_size;
    for (size_t start = thread * COMMIT_BLOCK; start < g->count; start += c->threads * COMMIT_BLOCK) {
        const size_t count = g->count - start < COMMIT_BLOCK ? g->count - start : COMMIT_BLOCK;
        for (size_t s = 0; s < c->slots; s++) {
            const unsigned char *slot = (const unsigned char *)g->slots + (s * g->stride + start) * size;
            g->engine->add_scaled((unsigned char *)g->sum + start * size, slot, c->scale, count);
        }
    }
}

static void commit_slots(nf_gradient *g, nf_workspace *ws, size_t slots, double weight) {
    const size_t worth = slots > 1 ? slots * g->count / COMMIT_ALONE + 1 : 1;
    commit c = {.g = g, .slots = slots, .threads = worth < ws->thread_count ? worth : ws->thread_count, .scale = 1.0 / weight};
    if (c.threads > 1)
        nf_pool_run(ws->pool, c.threads, commit_blocks, &c);
    else
        commit_blocks(&c, 0);
}

static size_t tiles_of(const nf_flow *flow, size_t rows) {
    return rows / flow->engine->tile_rows + (rows % flow->engine->tile_rows != 0);
}

/* A function of the rows alone. */
static size_t slots_of(const nf_flow *flow, size_t rows) {
    const size_t tiles = tiles_of(flow, rows);
    return tiles < GRADIENT_SLOTS ? tiles : GRADIENT_SLOTS;
}

static engine_job job_of(const nf_flow *flow, size_t rows, const double *in, const double *context, bool inverse, nf_gradient *g) {
    return (engine_job){.model = &flow->model,
                        .theta = flow->theta,
                        .epoch = flow->epoch,
                        .inverse = inverse,
                        .record = true,
                        .in = in,
                        .context = context,
                        .rows = rows,
                        .scale = 1.0,
                        .weight_scale = 1.0,
                        .slots = g ? g->slots : NULL,
                        .slot_stride = g ? g->stride : 0};
}

/* Push and pull all rows, or match them, a lane for each slot; the lanes' sums are left in the workspace. */
static nf_status differentiate_lanes(nf_workspace *ws, const engine_job *job, run_action action, size_t lanes, nf_gradient *g) {
    const nf_run run = {.job = job,
                        .workspace = ws,
                        .action = action,
                        .lanes = lanes,
                        .slots = g ? lanes : 0,
                        .fresh = g && action != RUN_MATCH};
    if (g && !run.fresh) /* flow matching reaches one layer's part alone */
        clear_slots(g, lanes);
    nf_run_begin(ws);
    return nf_run_rows(&run, 0);
}

/* The sums of all lanes, in order. */
static nf_status differentiate(const nf_flow *flow, nf_workspace *ws, const engine_job *job, run_action action, nf_gradient *g,
                               engine_sum *total) {
    const size_t lanes = slots_of(flow, job->rows);
    const nf_status status = differentiate_lanes(ws, job, action, lanes, g);
    memset(total, 0, sizeof *total);
    for (size_t i = 0; status == NF_OK && i < lanes; i++) {
        total->loss += ws->sums[i].loss;
        total->weight += ws->sums[i].weight;
        total->good += ws->sums[i].good;
    }
    return status;
}

/*
 * A job whose loss is a weighted mean over the good rows: the gradient of that mean is added, the mean stored. Weights were brought near 1 by the largest of all
 * rows; when the good ones turn out to weigh nothing beside that of a bad one, the work is done again with theirs near 1.
 */
static nf_status differentiate_mean(const char *function, const nf_flow *flow, nf_workspace *given, const engine_job *job, run_action action,
                                    nf_gradient *gradient, double *loss) {
    nf_workspace *ws;
    nf_status status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    engine_sum total;
    status = differentiate(flow, ws, job, action, gradient, &total);
    if (status == NF_OK && total.weight > 0.0 && total.weight < nf_least_weight(flow->engine)) {
        engine_job again = *job;
        again.weight_scale = fmin(job->weight_scale * nf_weight_scale(total.weight), 0x1p1000); /* which brings the least numbers near enough */
        status = differentiate(flow, ws, &again, action, gradient, &total);
    }
    if (status != NF_OK) {
        nf_fail_in(status, function);
    } else {
        if (gradient && total.weight > 0.0)
            commit_slots(gradient, ws, slots_of(flow, job->rows), total.weight);
        if (loss)
            *loss = nf_mean(total.loss, total.weight);
        status = nf_run_end(function, ws, job, "x");
    }
    nf_workspace_return(given, ws);
    return status;
}

static engine_job nll_job(const nf_flow *flow, size_t rows, const double *x, const double *context, const double *weight, nf_gradient *g) {
    engine_job job = job_of(flow, rows, x, context, true, g);
    job.density = true;
    job.penalty = true;
    job.scale = -1.0;
    job.weight = weight;
    return job;
}

nf_status nf_grad_nll(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context,
                      const double *weight, nf_gradient *gradient, double *loss) {
    NF_CALL;
    double scale;
    nf_status status = check(__func__, flow, ws, rows, "x", x, context);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        status = nf_check_gradient(__func__, flow, gradient);
    if (status == NF_OK)
        status = check_weights(__func__, rows, weight, &scale);
    if (status != NF_OK)
        return status;
    engine_job job = nll_job(flow, rows, x, context, weight, gradient);
    job.weight_scale = scale;
    return differentiate_mean(__func__, flow, ws, &job, RUN_STORE_AND_PULL, gradient, loss);
}

static nf_status vjp(const char *function, const nf_flow *flow, nf_workspace *given, engine_job *job, nf_gradient *gradient,
                     const char *input) {
    nf_workspace *ws;
    nf_status status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    engine_sum total;
    status = differentiate(flow, ws, job, RUN_STORE_AND_PULL, gradient, &total);
    if (status != NF_OK) {
        nf_fail_in(status, function);
    } else {
        if (gradient)
            commit_slots(gradient, ws, slots_of(flow, job->rows), 1.0);
        status = nf_run_end(function, ws, job, input);
    }
    nf_workspace_return(given, ws);
    return status;
}

static nf_status check_vjp(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name,
                           const double *in, const double *context, const nf_gradient *gradient) {
    nf_status status = check(function, flow, ws, rows, name, in, context);
    if (status == NF_OK && gradient)
        status = nf_check_gradient(function, flow, gradient);
    return status;
}

nf_status nf_forward_vjp(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *z, const double *context,
                         const double *grad_x, const double *grad_log_det, double *grad_z, double *grad_context, nf_gradient *gradient) {
    NF_CALL;
    nf_status status = check_vjp(__func__, flow, ws, rows, "z", z, context, gradient);
    if (status != NF_OK)
        return status;
    engine_job job = job_of(flow, rows, z, context, false, gradient);
    job.grad_out = grad_x;
    job.grad_log_det = grad_log_det;
    job.grad_in = grad_z;
    job.grad_context = grad_context;
    return vjp(__func__, flow, ws, &job, gradient, "z");
}

nf_status nf_inverse_vjp(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context,
                         const double *grad_z, const double *grad_log_det, double *grad_x, double *grad_context, nf_gradient *gradient) {
    NF_CALL;
    nf_status status = check_vjp(__func__, flow, ws, rows, "x", x, context, gradient);
    if (status != NF_OK)
        return status;
    engine_job job = job_of(flow, rows, x, context, true, gradient);
    job.grad_out = grad_z;
    job.grad_log_det = grad_log_det;
    job.grad_in = grad_x;
    job.grad_context = grad_context;
    return vjp(__func__, flow, ws, &job, gradient, "x");
}

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
        sum->good += 1.0;
    }
}

static nf_status kl_step(const char *function, const nf_flow *flow, nf_workspace *ws, const kl_chunk *chunk, engine_job *job,
                         nf_target_fn target, void *user) {
    job->rows = chunk->rows;
    nf_run run = {.job = job, .workspace = ws, .action = RUN_STORE, .lanes = chunk->lanes};
    nf_status status = nf_run_rows(&run, chunk->first);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    cover_bad_rows(ws->target_x, ws->target_log_q, chunk->rows, flow->model.dim);
    status = nf_call_target(function, target, user, chunk->rows, ws->target_x, ws->target_log_p, ws->target_gradient);
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

nf_status nf_run_reverse_kl(const char *function, const nf_flow *flow, nf_workspace *ws, const nf_wave *wave, const nf_rng *rng,
                            const double *context, nf_target_fn target, void *user, nf_gradient *gradient, nf_shard_sum *sums) {
    const size_t tiles = tiles_of(flow, wave->rows), tile_rows = flow->engine->tile_rows;
    const size_t at_once = ws->thread_count < wave->count ? ws->thread_count : wave->count;
    engine_job job = job_of(flow, 0, NULL, NULL, false, gradient);
    nf_philox_key(rng->seed, rng->stream, job.key);
    job.position = rng->position;
    job.dealt.own = wave->count;
    job.dealt.all = wave->shards;
    job.dealt.first = wave->first;
    job.out = ws->target_x;
    job.log_prob = ws->target_log_q;
    job.grad_out = ws->target_gradient;
    job.log_q = true;
    job.scale = -1.0;
    clear_slots(gradient, wave->count);
    nf_run_begin(ws);
    nf_status status = NF_OK;
    for (size_t tile = 0; status == NF_OK && tile < tiles; tile += at_once) {
        kl_chunk chunk = {.first = tile * tile_rows,
                          .tile = tile,
                          .lanes = tiles - tile < at_once ? tiles - tile : at_once,
                          .slots = wave->count,
                          .sums = sums};
        chunk.rows = wave->rows - chunk.first < chunk.lanes * tile_rows ? wave->rows - chunk.first : chunk.lanes * tile_rows;
        job.dealt.skip = tile;
        job.context = context ? context + chunk.first * flow->model.context_dim : NULL;
        status = kl_step(function, flow, ws, &chunk, &job, target, user);
    }
    for (size_t i = 0; i < wave->count; i++)
        sums[i].weight = sums[i].good;
    return status;
}

nf_status nf_grad_reverse_kl(const nf_flow *flow, nf_workspace *given, nf_rng *rng, size_t rows, const double *context,
                             nf_target_fn target, void *user, nf_gradient *gradient, double *loss) {
    NF_CALL;
    nf_status status = check(__func__, flow, given, rows, NULL, NULL, context);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "rng", rng);
    if (status == NF_OK && !target)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "target is NULL");
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        status = nf_check_gradient(__func__, flow, gradient);
    if (status != NF_OK)
        return status;
    nf_workspace *ws;
    status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    const size_t slots = slots_of(flow, rows);
    const nf_wave all = {.count = slots, .shards = slots, .rows = rows};
    nf_shard_sum sums[GRADIENT_SLOTS];
    memset(sums, 0, sizeof sums);
    status = nf_run_reverse_kl(__func__, flow, ws, &all, rng, context, target, user, gradient, sums);
    if (status == NF_OK) {
        engine_sum total = {0, 0, 0};
        for (size_t i = 0; i < slots; i++) {
            total.loss += sums[i].loss;
            total.weight += sums[i].good;
        }
        if (total.weight > 0.0)
            commit_slots(gradient, ws, slots, total.weight);
        if (loss)
            *loss = nf_mean(total.loss, total.weight);
        rng->position += rows;
        const engine_job job = job_of(flow, rows, NULL, NULL, false, NULL);
        status = nf_run_end(__func__, ws, &job, "z");
    }
    nf_workspace_return(given, ws);
    return status;
}

/* ---- flow matching */

/* The only layer that has a field. */
static nf_status find_field(const char *function, const nf_flow *flow, size_t *layer) {
    size_t count = 0;
    for (size_t i = 0; i < flow->model.layer_count; i++)
        if (flow->engine->matches(flow->model.layers[i]->kind)) {
            *layer = i;
            count++;
        }
    if (count != 1)
        return nf_fail(NF_ERR_ARGUMENT, function, "the flow has %zu continuous layers, and flow matching trains one", count);
    return NF_OK;
}

nf_status nf_check_flow_matching(const char *function, const nf_flow *flow, nf_pairing pairing) {
    size_t layer;
    if (pairing == NF_PAIRING_OPTIMAL && flow->model.context_dim != 0)
        return nf_fail(NF_ERR_UNSUPPORTED, function, "optimal pairs of a flow with a context would make its base samples depend on the context");
    return find_field(function, flow, &layer);
}

static nf_status matching_job(const char *function, const nf_flow *flow, const nf_rng *rng, size_t rows, const double *x,
                              const double *context, const double *weight, nf_pairing pairing, nf_gradient *gradient, engine_job *job) {
    *job = job_of(flow, rows, x, context, true, gradient);
    job->record = false;
    job->weight = weight;
    job->paired = pairing == NF_PAIRING_OPTIMAL;
    job->position = rng->position;
    nf_philox_key(rng->seed, rng->stream, job->key);
    return find_field(function, flow, &job->matched);
}

static nf_status run_matching(const char *function, const nf_flow *flow, nf_workspace *ws, engine_job *job, nf_rng *rng, nf_gradient *gradient,
                              double *loss) {
    const nf_status status = differentiate_mean(function, flow, ws, job, RUN_MATCH, gradient, loss);
    if (status == NF_OK || status == NF_ERR_ROWS)
        rng->position += job->rows;
    return status;
}

nf_status nf_run_flow_matching(const char *function, const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *x,
                               const double *context, const double *weight, nf_pairing pairing, nf_gradient *gradient, double *loss) {
    engine_job job;
    const nf_status status = matching_job(function, flow, rng, rows, x, context, weight, pairing, gradient, &job);
    return status == NF_OK ? run_matching(function, flow, ws, &job, rng, gradient, loss) : status;
}

nf_status nf_run_data_wave(const nf_flow *flow, nf_workspace *ws, const nf_data_step *step, const nf_wave *wave, nf_gradient *gradient,
                           nf_shard_sum *sums) {
    const double *x = step->x + wave->row * flow->model.dim, *weight = step->weight ? step->weight + wave->row : NULL;
    const double *context = step->context ? step->context + wave->row * flow->model.context_dim : NULL;
    const bool match = step->objective == NF_OBJECTIVE_FLOW_MATCHING;
    engine_job job = nll_job(flow, wave->rows, x, context, weight, gradient);
    nf_status status = NF_OK;
    if (match)
        status = matching_job(NULL, flow, &step->rng, wave->rows, x, context, weight, step->pairing, gradient, &job);
    job.dealt.own = wave->count;
    job.dealt.all = wave->shards;
    job.dealt.first = wave->first;
    if (status == NF_OK)
        status = differentiate_lanes(ws, &job, match ? RUN_MATCH : RUN_STORE_AND_PULL, wave->count, gradient);
    for (size_t i = 0; status == NF_OK && i < wave->count; i++) {
        sums[i].loss = ws->sums[i].loss;
        sums[i].weight = ws->sums[i].weight;
        sums[i].good = (double)ws->sums[i].good;
    }
    return status;
}

nf_status nf_grad_flow_matching(const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *x, const double *context,
                                const double *weight, nf_pairing pairing, nf_gradient *gradient, double *loss) {
    NF_CALL;
    engine_job job;
    double scale;
    nf_status status = check(__func__, flow, ws, rows, "x", x, context);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "rng", rng);
    if (status == NF_OK && pairing != NF_PAIRING_INDEPENDENT && pairing != NF_PAIRING_OPTIMAL)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "pairing is %d, which is none", (int)pairing);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        status = nf_check_gradient(__func__, flow, gradient);
    if (status == NF_OK)
        status = check_weights(__func__, rows, weight, &scale);
    if (status == NF_OK)
        status = nf_check_flow_matching(__func__, flow, pairing);
    if (status == NF_OK)
        status = matching_job(__func__, flow, rng, rows, x, context, weight, pairing, gradient, &job);
    if (status != NF_OK)
        return status;
    job.weight_scale = scale;
    return run_matching(__func__, flow, ws, &job, rng, gradient, loss);
}
