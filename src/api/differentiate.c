#include "api/differentiate.h"

#include <math.h>
#include <string.h>

#include "api/shards.h"
#include "api/weights.h"

nf_status nf_check_differentiation(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name,
                                   const double *input, const double *context) {
    const nf_status status = nf_check_evaluation(function, flow, ws, rows, name, input, context);
    return status == NF_OK && rows == 0 ? nf_fail(NF_ERR_ARGUMENT, function, "rows is 0") : status;
}

void nf_clear_slots(nf_gradient *g, size_t slots) {
    for (size_t s = 0; s < slots; s++)
        memset((unsigned char *)g->slots + s * g->stride * g->engine->real_size, 0, g->count * g->engine->real_size);
}

/* A block of all slots after the other, so that the sum stays at hand. */
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

void nf_commit_slots(nf_gradient *g, nf_workspace *ws, size_t slots, double weight) {
    const size_t worth = slots > 1 ? slots * g->count / COMMIT_ALONE + 1 : 1;
    commit c = {.g = g, .slots = slots, .threads = worth < ws->thread_count ? worth : ws->thread_count, .scale = 1.0 / weight};
    if (c.threads > 1)
        nf_pool_run(ws->pool, c.threads, commit_blocks, &c);
    else
        commit_blocks(&c, 0);
}

size_t nf_slots_of(const nf_flow *flow, size_t rows) {
    const size_t tiles = nf_tiles_of(rows, flow->engine->tile_rows);
    return tiles < GRADIENT_SLOTS ? tiles : GRADIENT_SLOTS;
}

engine_job nf_differentiable_job(const nf_flow *flow, size_t rows, const double *in, const double *context, bool inverse, nf_gradient *g) {
    engine_job job = nf_job_of(flow, rows, in, context, inverse);
    job.record = true;
    job.scale = 1.0;
    job.weight_scale = 1.0;
    job.slots = g ? g->slots : NULL;
    job.slot_stride = g ? g->stride : 0;
    return job;
}

static nf_status run_lanes(nf_workspace *ws, const engine_job *job, run_action action, size_t lanes, nf_gradient *g) {
    const nf_run run = {.job = job,
                        .workspace = ws,
                        .action = action,
                        .lanes = lanes,
                        .slots = g ? lanes : 0,
                        .watched = g != NULL,
                        .fresh = g && action != RUN_MATCH};
    if (g && !run.fresh) /* flow matching reaches one layer's part alone */
        nf_clear_slots(g, lanes);
    nf_run_begin(ws);
    return nf_run_rows(&run, 0);
}

/* Whether an output lies where an input was. */
static bool overwrites(const engine_job *job) {
    const double *const in[] = {job->in, job->context, job->grad_out, job->grad_log_det}, *const out[] = {job->grad_in, job->grad_context};
    bool any = false;
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++)
        for (size_t k = 0; k < sizeof out / sizeof out[0]; k++)
            any = any || (in[i] && in[i] == out[k]);
    return any;
}

static bool spoilt_slots(const nf_workspace *ws, size_t lanes) {
    bool spoilt = false;
    for (size_t i = 0; i < lanes; i++)
        spoilt = spoilt || ws->sums[i].spoilt;
    return spoilt;
}

/* A gradient that is not finite is computed again, with care for the rows that make it so; with care at once where the input would not be there any more. */
nf_status nf_differentiate_lanes(nf_workspace *ws, const engine_job *job, run_action action, size_t lanes, nf_gradient *g) {
    engine_job given = *job;
    given.careful = g && overwrites(job);
    nf_status status = run_lanes(ws, &given, action, lanes, g);
    if (status == NF_OK && !given.careful && spoilt_slots(ws, lanes)) {
        given.careful = true;
        status = run_lanes(ws, &given, action, lanes, g);
    }
    return status;
}

nf_status nf_differentiate(const nf_flow *flow, nf_workspace *ws, const engine_job *job, run_action action, nf_gradient *g, engine_sum *total) {
    const size_t lanes = nf_slots_of(flow, job->rows);
    const nf_status status = nf_differentiate_lanes(ws, job, action, lanes, g);
    memset(total, 0, sizeof *total);
    for (size_t i = 0; status == NF_OK && i < lanes; i++) {
        total->loss += ws->sums[i].loss;
        total->weight += ws->sums[i].weight;
    }
    return status;
}

/*
 * Weights were brought near 1 by the largest of all rows; when the good ones turn out to weigh nothing beside that of a bad one, the work is done again with
 * theirs near 1.
 */
nf_status nf_differentiate_mean(const char *function, const nf_flow *flow, nf_workspace *given, const engine_job *job, run_action action,
                                nf_gradient *gradient, double *loss) {
    nf_workspace *ws;
    nf_status status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    engine_sum total;
    status = nf_differentiate(flow, ws, job, action, gradient, &total);
    if (status == NF_OK && total.weight > 0.0 && total.weight < nf_least_weight(flow->engine)) {
        engine_job again = *job;
        again.weight_scale = fmin(job->weight_scale * nf_weight_scale(total.weight), 0x1p1000); /* which brings the least numbers near enough */
        status = nf_differentiate(flow, ws, &again, action, gradient, &total);
    }
    if (status != NF_OK) {
        nf_fail_in(status, function);
    } else {
        if (gradient && total.weight > 0.0)
            nf_commit_slots(gradient, ws, nf_slots_of(flow, job->rows), total.weight);
        if (loss)
            *loss = nf_mean(total.loss, total.weight);
        status = nf_run_end(function, ws, job, "x");
    }
    nf_workspace_return(given, ws);
    return status;
}
