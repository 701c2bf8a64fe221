/* What a fit asks memory for. */
#include <string.h>

#include "api/fit.h"

typedef struct nf_fitting fit;

static size_t own_rows(const fit *f, size_t rows) {
    const nf_plan plan = nf_fit_plan(f, rows);
    return rows ? nf_plan_own_rows(&plan) : 0;
}

static nf_status allocate_handles(fit *f) {
    const nf_flow flow = nf_flow_in(f->flow, &f->allocator);
    nf_status status = nf_workspace_begin(&flow, f->config.threads, &f->workspace);
    if (status == NF_OK)
        status = nf_gradient_create(&flow, &f->gradient);
    const nf_optimizer_config standard = nf_fit_standard_optimizer(f);
    if (status == NF_OK)
        status = nf_optimizer_of_fit(&flow, f->config.optimizer ? f->config.optimizer : &standard, &f->optimizer);
    if (status == NF_OK)
        f->base_rate = f->optimizer->update.rate;
    return status == NF_OK ? NF_OK : nf_fail_in(status, f->function);
}

/* Rows that a rank has at once: those of the steps that are fetched together, and at least a chunk of held-out ones. It may come out that none is held out. */
static size_t most_rows(const fit *f) {
    const size_t batch = f->config.batch_size, full = own_rows(f, batch), some = own_rows(f, f->training_rows % batch);
    const size_t all = own_rows(f, f->data.total % batch), last = some > all ? some : all;
    const size_t rows = (full > last ? full : last) * f->steps_at_once;
    return rows > VALIDATION_CHUNK ? rows : VALIDATION_CHUNK;
}

nf_status nf_fit_allocate(fit *f) {
    const nf_allocator *a = &f->allocator;
    const size_t count = f->flow->model.parameter_count, bytes = count * f->flow->engine->real_size, rows = most_rows(f);
    const size_t outcomes = (1 + 2 * VALIDATION_CHUNK) * sizeof(double);
    nf_status status = allocate_handles(f);
    if (status == NF_OK)
        status = nf_row_buffer_make(&f->batch, &f->ranks, &f->data, rows);
    if (status == NF_OK)
        status = nf_reducer_make(&f->reducer, &f->ranks, f->flow->engine, count, f->config.batch_size);
    if (status != NF_OK)
        return status;
    f->wanted = nf_allocate(a, rows * sizeof *f->wanted);
    f->place = nf_allocate(a, rows * sizeof *f->place);
    f->log_prob = nf_allocate(a, VALIDATION_CHUNK * sizeof(double));
    f->outcomes = nf_allocate(a, outcomes);
    f->all_outcomes = f->ranks.size > 1 ? nf_allocate(a, f->ranks.size * outcomes) : f->outcomes;
    f->column_mean = nf_allocate_zeroed(a, f->flow->model.dim * sizeof(double));
    f->column_sd = nf_allocate_zeroed(a, f->flow->model.dim * sizeof(double));
    const bool units = nf_units_allocate(&f->units, a, f->flow, f->config.standardize >= 0);
    f->own_tolerance = nf_allocate(a, 2 * f->flow->model.layer_count * sizeof(double));
    f->best = nf_allocate(a, bytes);
    f->average = nf_allocate(a, bytes);
    f->initial = nf_allocate(a, bytes);
    if (f->initial) /* at once: whatever fails from here on, the flow is given one of these back */
        memcpy(f->initial, f->flow->theta, bytes);
    if (f->best)
        memcpy(f->best, f->flow->theta, bytes);
    if (!f->wanted || !f->place || !f->log_prob || !f->outcomes || !f->all_outcomes || !f->column_mean || !f->column_sd || !units ||
        !f->own_tolerance || !f->best || !f->average || !f->initial)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for batches of %zu rows", rows);
    for (size_t i = 0; i < f->flow->model.layer_count; i++) {
        f->own_tolerance[2 * i] = f->flow->model.layers[i]->cnf.rtol;
        f->own_tolerance[2 * i + 1] = f->flow->model.layers[i]->cnf.atol;
    }
    return NF_OK;
}

void nf_fit_release(fit *f) {
    const nf_allocator *a = &f->allocator;
    nf_release(a, f->average);
    nf_release(a, f->best);
    nf_release(a, f->initial);
    nf_release(a, f->own_tolerance);
    nf_units_release(&f->units, a);
    nf_release(a, f->column_sd);
    nf_release(a, f->column_mean);
    if (f->all_outcomes != f->outcomes)
        nf_release(a, f->all_outcomes);
    nf_release(a, f->outcomes);
    nf_release(a, f->log_prob);
    nf_release(a, f->place);
    nf_release(a, f->wanted);
    nf_reducer_free(&f->reducer);
    nf_row_buffer_free(&f->batch, a);
    nf_row_exchange_free(&f->exchange, a);
    nf_optimizer_free(f->optimizer);
    nf_gradient_free(f->gradient);
    nf_workspace_free(f->workspace);
    nf_rows_end(&f->held_out, a);
    nf_rows_end(&f->data, a);
    nf_ranks_end(&f->ranks);
}
