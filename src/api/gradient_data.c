/* Gradients of losses over given rows: likelihood and flow matching. */
#include "api/differentiate.h"
#include "api/gradients.h"
#include "api/weights.h"
#include "core/floating.h"
#include "core/philox.h"

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

static engine_job nll_job(const nf_flow *flow, size_t rows, const double *x, const double *context, const double *weight, nf_gradient *g) {
    engine_job job = nf_differentiable_job(flow, rows, x, context, true, g);
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
    nf_status status = nf_check_differentiation(__func__, flow, ws, rows, "x", x, context);
    if (status == NF_OK)
        status = nf_check_gradient(__func__, flow, gradient);
    if (status == NF_OK)
        status = check_weights(__func__, rows, weight, &scale);
    if (status != NF_OK)
        return status;
    engine_job job = nll_job(flow, rows, x, context, weight, gradient);
    job.weight_scale = scale;
    return nf_differentiate_mean(__func__, flow, ws, &job, RUN_STORE_AND_PULL, gradient, loss);
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
    *job = nf_differentiable_job(flow, rows, x, context, true, gradient);
    job->record = false;
    job->weight = weight;
    job->paired = pairing == NF_PAIRING_OPTIMAL;
    job->position = rng->position;
    nf_philox_key(rng->seed, rng->stream, job->key);
    return find_field(function, flow, &job->matched);
}

nf_status nf_run_matching_loss(const nf_flow *flow, nf_workspace *ws, const nf_rng *rng, size_t rows, const double *x, const double *context,
                               const double *weight, double *loss) {
    engine_job job;
    const nf_status status = matching_job(NULL, flow, rng, rows, x, context, weight, NF_PAIRING_INDEPENDENT, NULL, &job);
    return status == NF_OK ? nf_differentiate_mean(NULL, flow, ws, &job, RUN_MATCH, NULL, loss) : status;
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
        status = nf_differentiate_lanes(ws, &job, match ? RUN_MATCH : RUN_STORE_AND_PULL, wave->count, gradient, wave->gathered);
    for (size_t i = 0; status == NF_OK && i < wave->count; i++) {
        sums[i].loss = ws->sums[i].loss;
        sums[i].weight = ws->sums[i].weight;
    }
    return status;
}

nf_status nf_grad_flow_matching(const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *x, const double *context,
                                const double *weight, nf_pairing pairing, nf_gradient *gradient, double *loss) {
    NF_CALL;
    engine_job job;
    double scale;
    nf_status status = nf_check_differentiation(__func__, flow, ws, rows, "x", x, context);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "rng", rng);
    if (status == NF_OK && pairing != NF_PAIRING_INDEPENDENT && pairing != NF_PAIRING_OPTIMAL)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "pairing is %d, which is none", (int)pairing);
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
    status = nf_differentiate_mean(__func__, flow, ws, &job, RUN_MATCH, gradient, loss);
    if (status == NF_OK || status == NF_ERR_ROWS)
        rng->position += rows;
    return status;
}
