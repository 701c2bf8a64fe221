/* The held-out loss of a fit: chunks of rows on each rank, whose outcomes are summed in the order of the rows. */
#include "api/fit.h"
#include "api/gradients.h"
#include "api/run.h"
#include "core/shuffle.h"

typedef struct nf_fitting fit;

/* Draws of base sample and time for each held-out row, the same in every epoch, when flow matching is validated. */
#define MATCH_DRAWS ((size_t)16)

/* A number of which the rows of a chunk are a multiple whatever the ranks. */
#define VALIDATION_TILE ((size_t)128)

/* A loss, or a log density, and its weight; a negative weight: nothing. */
typedef struct outcome {
    double value, weight;
} outcome;

bool nf_fit_has_numbers(const fit *f, const double *x, const double *context) {
    const nf_model *model = &f->flow->model;
    return nf_finite_row(x, model->dim, f->flow->engine) && (!context || nf_finite_row(context, model->context_dim, f->flow->engine));
}

/* A row of the data that is not a number is not held against the flow; one that the flow cannot map is. */
static bool counts(const fit *f, size_t i, const double *context) {
    const nf_model *model = &f->flow->model;
    return nf_fit_has_numbers(f, f->batch.x + i * model->dim, context ? context + i * model->context_dim : NULL);
}

/* The matching loss of held-out rows; every row's draws are its own, and paired with nobody's. */
static nf_status match_chunk(const fit *f, size_t first, size_t rows, const double *context, outcome *out) {
    double weight = 0;
    for (size_t i = 0; i < rows; i++)
        weight += counts(f, i, context) ? f->batch.weight[i] : 0.0;
    for (size_t draw = 0; draw < MATCH_DRAWS && weight > 0.0; draw++) {
        const nf_rng rng = {f->config.seed, STREAM_MATCH_VALIDATION, draw * f->validation_rows + first};
        double loss;
        const nf_status status = nf_run_matching_loss(f->flow, f->workspace, &rng, rows, f->batch.x, context, f->batch.weight, &loss);
        if (status != NF_OK && status != NF_ERR_ROWS)
            return nf_fail_in(status, f->function);
        out[draw] = (outcome){loss, weight};
    }
    return NF_OK;
}

static nf_status density_chunk(const fit *f, size_t rows, const double *context, outcome *out) {
    const nf_status status = nf_run_log_prob(f->flow, f->workspace, rows, f->batch.x, context, f->log_prob);
    if (status != NF_OK && status != NF_ERR_ROWS)
        return nf_fail_in(status, f->function);
    for (size_t i = 0; i < rows; i++)
        if (counts(f, i, context))
            out[i] = (outcome){-f->log_prob[i], f->batch.weight[i]};
    return NF_OK;
}

/* What this rank finds out about held-out rows first .. first + rows - 1. */
static nf_status validation_chunk(fit *f, size_t first, size_t rows, outcome *out) {
    for (size_t i = 0; i < rows; i++)
        f->wanted[i] = f->held_out.given ? first + i : (size_t)nf_shuffle_at(&f->split, first + i);
    const nf_rows *source = f->held_out.given ? &f->held_out : &f->data;
    nf_status status = nf_rows_fetch(source, &f->ranks, &f->exchange, rows, f->wanted, &f->batch);
    if (status != NF_OK || rows == 0)
        return status;
    const double *context = f->flow->model.context_dim ? f->batch.context : NULL;
    return f->config.objective == NF_OBJECTIVE_FLOW_MATCHING ? match_chunk(f, first, rows, context, out)
                                                             : density_chunk(f, rows, context, out);
}

/* Held-out rows that a rank takes at a time: a row's density is its own, a matching loss is that of its chunk. */
static size_t chunk_size(const fit *f) {
    if (f->ranks.size == 1 || f->config.objective == NF_OBJECTIVE_FLOW_MATCHING)
        return VALIDATION_CHUNK;
    const size_t share = (f->validation_rows + f->ranks.size - 1) / f->ranks.size;
    const size_t rows = (share + VALIDATION_TILE - 1) / VALIDATION_TILE * VALIDATION_TILE;
    return rows < VALIDATION_CHUNK ? rows : VALIDATION_CHUNK;
}

/* A chunk on each rank, and their outcomes in order. */
static nf_status validation_round(fit *f, size_t first, size_t chunk, double *loss_sum, double *weight_sum) {
    const size_t begin = first + f->ranks.rank * chunk, left = begin < f->validation_rows ? f->validation_rows - begin : 0;
    const size_t pairs = f->config.objective == NF_OBJECTIVE_FLOW_MATCHING ? MATCH_DRAWS : chunk;
    outcome *own = (outcome *)(void *)(f->outcomes + 1);
    for (size_t i = 0; i < pairs; i++)
        own[i] = (outcome){0.0, -1.0};
    const nf_status found = validation_chunk(f, begin, left < chunk ? left : chunk, own);
    f->outcomes[0] = found;
    const nf_status status = nf_ranks_gather(&f->ranks, f->outcomes, f->all_outcomes, 1 + 2 * pairs);
    if (status != NF_OK)
        return status;
    bool failed = false;
    for (size_t q = 0; q < f->ranks.size; q++) {
        const double *all = f->all_outcomes + q * (1 + 2 * pairs);
        failed = failed || all[0] != 0.0;
        for (size_t i = 0; i < pairs; i++) {
            if (!(all[2 + 2 * i] > 0.0)) /* a row without weight may have any value, also none */
                continue;
            *loss_sum += all[2 + 2 * i] * all[1 + 2 * i];
            *weight_sum += all[2 + 2 * i];
        }
    }
    return failed ? nf_ranks_agree(&f->ranks, found) : NF_OK;
}

nf_status nf_fit_validate(fit *f, double *loss) {
    double loss_sum = 0, weight_sum = 0;
    nf_status status = NF_OK;
    void *current = f->flow->theta;
    if (f->config.ema_decay > 0.0) {
        f->flow->theta = f->average;
        f->flow->epoch = nf_unique();
    }
    const size_t chunk = chunk_size(f);
    for (size_t first = 0; status == NF_OK && first < f->validation_rows; first += f->ranks.size * chunk)
        status = validation_round(f, first, chunk, &loss_sum, &weight_sum);
    if (f->flow->theta != current) {
        f->flow->theta = current;
        f->flow->epoch = nf_unique();
    }
    *loss = nf_mean(loss_sum, weight_sum);
    f->validates = weight_sum > 0.0;
    return status;
}
