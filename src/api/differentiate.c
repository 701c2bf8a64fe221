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

void nf_clear_slots(const engine_job *job, const nf_gradient *g, size_t slots) {
    const size_t size = g->engine->real_size;
    for (size_t s = 0; s < slots; s++)
        memset((unsigned char *)job->slots + s * job->slot_stride * size, 0, g->count * size);
}

/* A block of all slots after the other, so that the sum stays at hand. */
#define COMMIT_BLOCK ((size_t)2048)
#define COMMIT_ALONE ((size_t)65536) /* numbers for which it is worth to wake one thread more */
#define COMMIT_THREADS 64

typedef struct commit {
    const nf_gradient *g;
    size_t slots, threads; /* slots 0: their sum is in g->sum already */
    double scale, largest[COMMIT_THREADS]; /* of each thread's numbers */
} commit;

static double larger(double a, double b) { return isnan(a) || a >= b ? a : b; }

/* Slots are summed in order, and the sum is scaled as it is added: the largest of what comes of it. */
static double commit_block(const commit *c, size_t start, size_t count) {
    const nf_engine *engine = c->g->engine;
    const size_t size = engine->real_size, stride = c->g->stride * size;
    unsigned char *const to = (unsigned char *)c->g->sum + start * size, *const slot = (unsigned char *)c->g->slots + start * size;
    if (c->slots == 0)
        return engine->scale(to, c->scale, count);
    for (size_t s = 1; s < c->slots; s++)
        engine->add_scaled(slot, slot + s * stride, 1.0, count);
    (c->g->empty ? engine->set_scaled : engine->add_scaled)(to, slot, c->scale, count);
    return engine->largest(to, count);
}

static void commit_blocks(void *user, size_t thread) {
    commit *c = user;
    double largest = 0.0;
    for (size_t start = thread * COMMIT_BLOCK; start < c->g->count; start += c->threads * COMMIT_BLOCK)
        largest = larger(largest, commit_block(c, start, c->g->count - start < COMMIT_BLOCK ? c->g->count - start : COMMIT_BLOCK));
    c->largest[thread] = largest;
}

void nf_commit_slots(nf_gradient *g, nf_workspace *ws, size_t slots, bool gathered, double weight) {
    const size_t worth = slots > 1 ? slots * g->count / COMMIT_ALONE + 1 : 1, most = ws->thread_count < COMMIT_THREADS ? ws->thread_count : COMMIT_THREADS;
    commit c = {.g = g, .slots = gathered ? 0 : slots, .threads = worth < most ? worth : most, .scale = 1.0 / weight};
    if (c.threads > 1)
        nf_pool_run(ws->pool, c.threads, commit_blocks, &c);
    else
        commit_blocks(&c, 0);
    nf_gradient_overwrite(g);
    g->largest = 0.0;
    for (size_t t = 0; t < c.threads; t++)
        g->largest = larger(g->largest, c.largest[t]);
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

static nf_status run_lanes(nf_workspace *ws, const engine_job *job, run_action action, size_t lanes, nf_gradient *g, bool gathers) {
    const nf_run run = {.job = job,
                        .workspace = ws,
                        .action = action,
                        .lanes = lanes,
                        .slots = g ? lanes : 0,
                        .watched = g && !job->unwatched,
                        .fresh = g && action != RUN_MATCH,
                        .gathers = gathers};
    if (g && !run.fresh) /* flow matching reaches one layer's part alone */
        nf_clear_slots(job, g, lanes);
    nf_run_begin(ws);
    return nf_run_rows(&run, 0);
}

/*
 * Whether slots need not be kept apart: what one thread adds up, tile by tile, to one slot has the bits of their sum. Slots of large nets come and go between
 * the caches; one stays. Layers that add more than once a tile may do so too when there is one tile.
 */
static bool may_gather(const nf_workspace *ws, const engine_job *job, run_action action, size_t lanes) {
    if (lanes == 1)
        return nf_tiles_of(job->rows, ws->engine->tile_rows) == 1;
    bool once = ws->thread_count == 1 && lanes == nf_tiles_of(job->rows, ws->engine->tile_rows) && action != RUN_MATCH;
    for (size_t i = 0; once && i < job->model->layer_count; i++)
        once = ws->engine->adds_once(job->model->layers[i]->kind);
    return once;
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
nf_status nf_differentiate_lanes(nf_workspace *ws, const engine_job *job, run_action action, size_t lanes, nf_gradient *g, bool *gathered) {
    engine_job given = *job;
    given.careful = job->careful || (g && overwrites(job));
    const bool gathers = gathered && g && g->empty && !given.careful && may_gather(ws, job, action, lanes);
    if (gathers)
        given.slots = g->sum;
    nf_status status = run_lanes(ws, &given, action, lanes, g, gathers);
    if (gathered)
        *gathered = gathers;
    if (status == NF_OK && !given.careful && spoilt_slots(ws, lanes)) {
        given.slots = job->slots;
        given.careful = true;
        status = run_lanes(ws, &given, action, lanes, g, false);
        if (gathered)
            *gathered = false;
    }
    return status;
}

nf_status nf_differentiate(const nf_flow *flow, nf_workspace *ws, const engine_job *job, run_action action, nf_gradient *g, engine_sum *total,
                           bool *gathered) {
    const size_t lanes = nf_slots_of(flow, job->rows);
    const nf_status status = nf_differentiate_lanes(ws, job, action, lanes, g, gathered);
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
static nf_status add_mean(const nf_flow *flow, nf_workspace *ws, const engine_job *job, run_action action, nf_gradient *gradient, engine_sum *total) {
    bool gathered;
    nf_status status = nf_differentiate(flow, ws, job, action, gradient, total, &gathered);
    if (status == NF_OK && total->weight > 0.0 && total->weight < nf_least_weight(flow->engine)) {
        engine_job again = *job;
        again.weight_scale = fmin(job->weight_scale * nf_weight_scale(total->weight), 0x1p1000); /* which brings the least numbers near enough */
        status = nf_differentiate(flow, ws, &again, action, gradient, total, &gathered);
    }
    if (status == NF_OK && gradient && total->weight > 0.0)
        nf_commit_slots(gradient, ws, nf_slots_of(flow, job->rows), gathered, total->weight);
    return status;
}

/* What is added to nothing is looked at afterwards: where it is not finite there is nothing again, and the work is done with care. */
nf_status nf_differentiate_mean(const char *function, const nf_flow *flow, nf_workspace *given, const engine_job *job, run_action action,
                                nf_gradient *gradient, double *loss) {
    nf_workspace *ws;
    nf_status status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    engine_sum total;
    engine_job first = *job;
    first.unwatched = gradient && gradient->empty;
    status = add_mean(flow, ws, &first, action, gradient, &total);
    if (status == NF_OK && first.unwatched && !isfinite(gradient->largest)) {
        engine_job again = *job;
        again.careful = true;
        nf_gradient_clear(gradient);
        status = add_mean(flow, ws, &again, action, gradient, &total);
    }
    if (status != NF_OK) {
        nf_fail_in(status, function);
    } else {
        if (loss)
            *loss = nf_mean(total.loss, total.weight);
        status = nf_run_end(function, ws, job, "x");
    }
    nf_workspace_return(given, ws);
    return status;
}
