/* What a fit is told: the checks of its arguments, and its defaults. */
#include <math.h>
#include <stddef.h>

#include "api/config.h"
#include "api/fit.h"
#include "api/gradients.h"
#include "api/schedule.h"
#include "api/weights.h"

/* Rows of all ranks that are exchanged at once, if a batch is not larger: enough that the waiting does not count. */
#define EXCHANGED_ROWS ((size_t)16384)

typedef struct nf_fitting fit;

static nf_status check_data(const fit *f) {
    const nf_fit_config *c = &f->config;
    const nf_rows *d = &f->data;
    nf_status status = NF_OK;
    if (d->read && (d->x || d->context))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "%s is not NULL, and config->read gives the rows", d->x ? "x" : "context");
    if (d->own == 0 && f->ranks.size == 1)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "rows is 0");
    if (d->own > 0 && !d->read && !d->x)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "x is NULL");
    if (d->own > 0 && !d->read)
        status = nf_check_context(f->function, "context", f->flow, d->context);
    if (status == NF_OK && c->validation_rows && !c->validation_x)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->validation_x is NULL with %zu validation_rows", c->validation_rows);
    if (status == NF_OK && c->validation_rows)
        status = nf_check_context(f->function, "config->validation_context", f->flow, c->validation_context);
    if (status != NF_OK)
        return status;
    /* A rank without held-out rows may have the arrays of all. */
    if (!c->validation_rows && f->ranks.size == 1 && (c->validation_context || c->validation_weight))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->validation_rows is 0 with a validation_%s", c->validation_weight ? "weight" : "context");
    status = nf_check_rows(f->function, "rows", f->flow, d->own); /* also of a reader's: it would have to read them without end */
    if (status == NF_OK)
        status = nf_check_rows(f->function, "config->validation_rows", f->flow, c->validation_rows);
    if (status == NF_OK)
        status = nf_check_weights(f->function, "config->weight", d->own, c->weight);
    if (status == NF_OK)
        status = nf_check_weights(f->function, "config->validation_weight", c->validation_rows, c->validation_weight);
    return status;
}

static nf_status check_settings(const fit *f) {
    const nf_fit_config *c = &f->config;
    if (c->schedule < NF_SCHEDULE_COSINE || c->schedule > NF_SCHEDULE_STEP)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->schedule is %d, which is none", (int)c->schedule);
    if (c->objective != NF_OBJECTIVE_LIKELIHOOD && c->objective != NF_OBJECTIVE_FLOW_MATCHING)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->objective is %d, which is none", (int)c->objective);
    if (c->pairing != NF_PAIRING_INDEPENDENT && c->pairing != NF_PAIRING_OPTIMAL)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->pairing is %d, which is none", (int)c->pairing);
    if (c->objective == NF_OBJECTIVE_FLOW_MATCHING) {
        const nf_status status = nf_check_flow_matching(f->function, f->flow, c->pairing);
        if (status != NF_OK)
            return status;
    }
    if (c->checkpoint && !*c->checkpoint && f->ranks.rank == 0) /* whose path counts */
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->checkpoint is an empty path");
    if (!(c->ema_decay < 1.0))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->ema_decay is %g, must be less than 1", c->ema_decay);
    if (!isfinite(c->training_tolerance))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->training_tolerance is %g, must be finite", c->training_tolerance);
    if (!isfinite(c->noise))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->noise is %g, must be finite", c->noise);
    if (!(c->contamination <= 1.0))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->contamination is %g, must be at most 1", c->contamination);
    if (!isfinite(c->schedule_factor) || c->schedule_factor > 1.0)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->schedule_factor is %g, must be at most 1", c->schedule_factor);
    if (!(c->validation_fraction < 1.0))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->validation_fraction is %g, must be less than 1", c->validation_fraction);
    return NF_OK;
}

nf_status nf_fit_check_arguments(const fit *f, const nf_fit_report *report) {
    nf_status status = nf_check_pointer(f->function, "flow", f->flow);
    if (status == NF_OK && report)
        status = nf_check_room(f->function, "report", report, NF_SIZE_THROUGH(nf_fit_report, bad_rows));
    if (status == NF_OK)
        status = check_data(f);
    return status == NF_OK ? check_settings(f) : status;
}

nf_status nf_fit_check_all_data(fit *f) {
    nf_rows *d = &f->data;
    d->least_weight = f->held_out.least_weight = nf_least_weight(f->flow->engine);
    double any = d->own > 0 && !d->weight;
    for (size_t r = 0; d->weight && any == 0.0 && r < d->own; r++)
        any = d->weight[r] > 0.0;
    double *all = f->ranks.statuses ? f->ranks.statuses : &any;
    nf_status status = nf_ranks_gather(&f->ranks, &any, all, 1);
    if (status != NF_OK)
        return status;
    if (d->total == 0)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "rows is 0 on all %zu ranks", f->ranks.size);
    for (size_t q = 0; q < f->ranks.size; q++)
        if (all[q] != 0.0)
            return NF_OK;
    return nf_fail(NF_ERR_ARGUMENT, f->function, "config->weight is 0 for all %zu rows", d->total);
}

/* What suits the flow and the objective, as measured in bench/. */
typedef struct fit_defaults {
    double rate, weight_decay, noise, contamination, validation_fraction;
    size_t epochs; /* 0: as many as make MATCH_STEPS steps */
} fit_defaults;

/* A matching step is cheap and its gradient noisy; the noise of its draws leaves the held-out loss little to say. */
#define MATCH_STEPS ((size_t)20000)
#define FEWEST_EPOCHS ((size_t)20)

static fit_defaults defaults_of(const fit *f) {
    const nf_model *model = &f->flow->model;
    bool continuous = false, couplings = false;
    for (size_t i = 0; i < model->layer_count; i++) {
        continuous = continuous || model->layers[i]->kind == NF_LAYER_CNF;
        couplings = couplings || model->layers[i]->kind == NF_LAYER_COUPLING;
    }
    if (f->config.objective == NF_OBJECTIVE_FLOW_MATCHING)
        return (fit_defaults){.rate = 5e-3};
    /* Continuous flows are smooth by themselves and bear a higher rate with less decay than couplings. */
    if (continuous)
        return (fit_defaults){.rate = 1e-2, .weight_decay = 0.02, .noise = 0.2, .validation_fraction = 0.1, .epochs = 300};
    /* Planar, radial and affine layers have few parameters: they need large steps, and no decay. */
    if (!couplings)
        return (fit_defaults){.rate = 2e-2, .noise = 0.25, .validation_fraction = 0.1, .epochs = 300};
    /* Nets without data far out may let exp(s) of one coupling after the other shrink there, and held-out rows get densities of nothing. */
    return (fit_defaults){.rate = 5e-3, .weight_decay = 0.1, .noise = 0.25, .contamination = 0.02, .validation_fraction = 0.1, .epochs = 300};
}

void nf_fit_fill_defaults(fit *f) {
    nf_fit_config *c = &f->config;
    const fit_defaults d = defaults_of(f);
    c->batch_size = nf_size_or(c->batch_size, 64);
    c->ema_decay = nf_real_or_none(c->ema_decay, 0.998);
    c->training_tolerance = nf_real_or_none(c->training_tolerance, 1e-3);
    c->noise = nf_real_or_none(c->noise, d.noise);
    c->contamination = nf_real_or_none(c->contamination, d.contamination);
    c->schedule_factor = nf_schedule_factor_or_default(c->schedule, c->schedule_factor);
    const double fraction = nf_real_or_none(c->validation_fraction, d.validation_fraction);
    f->validation_rows = f->held_out.given ? f->held_out.total : (size_t)((double)f->data.total * fraction);
    f->training_rows = f->held_out.given ? f->data.total : f->data.total - f->validation_rows;
    if (c->batch_size > f->training_rows)
        c->batch_size = f->training_rows;
    f->steps_per_epoch = (f->training_rows + c->batch_size - 1) / c->batch_size;
    const size_t enough = MATCH_STEPS / f->steps_per_epoch + 1;
    c->epochs = nf_size_or(c->epochs, d.epochs ? d.epochs : enough < FEWEST_EPOCHS ? FEWEST_EPOCHS : enough);
    c->patience = nf_size_or(c->patience, c->epochs / 2 + 1);
    c->schedule_step = nf_size_or(c->schedule_step, c->epochs / 3 + 1);
    c->checkpoint_every = nf_size_or(c->checkpoint_every, 1);
    f->steps_at_once = f->ranks.size > 1 && c->batch_size < EXCHANGED_ROWS ? EXCHANGED_ROWS / c->batch_size : 1;
    f->split = nf_shuffle_begin(c->seed, STREAM_SPLIT, f->data.total);
}

void nf_fit_hold_out_none(fit *f) {
    f->validation_rows = 0;
    f->training_rows = f->data.total;
    f->steps_per_epoch = (f->training_rows + f->config.batch_size - 1) / f->config.batch_size;
}

nf_optimizer_config nf_fit_standard_optimizer(const fit *f) {
    const fit_defaults d = defaults_of(f);
    return (nf_optimizer_config){
        .struct_size = sizeof(nf_optimizer_config), .kind = NF_ADAMW, .learning_rate = d.rate, .weight_decay = d.weight_decay, .clip_norm = 1.0};
}
