/*
 * nf_fit: mini-batch training by maximum likelihood or flow matching.
 *
 * Nothing here grows with the number of rows: the order of the rows is computed, not stored, and batches are gathered into
 * one buffer. Row i of an epoch, its noise and the split are functions of the seed alone, and sums are in micro-shards (shards.h), so the number of
 * threads changes no bit, nor does that of the ranks that share the work.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "api/config.h"
#include "api/fit.h"
#include "api/schedule.h"
#include "core/clock.h"
#include "core/floating.h"

typedef struct nf_fitting fit;

/*
 * With held-out rows those of the best epoch. Without them the last ones, and while the fit goes on those that the last epoch began with, which its
 * first batch has shown to be good: the steps since then may have gone astray. What is not finite is never best, whatever its loss: a scale that is clamped, or a
 * last step that no batch has looked at, may hide it.
 */
static nf_status keep_best(fit *f, size_t epochs, double loss) {
    const void *from = f->config.ema_decay > 0.0 ? f->average : f->flow->theta;
    if (!f->flow->engine->finite(from, f->flow->model.parameter_count))
        return nf_fail(NF_ERR_DIVERGED, f->function, "the parameters are not finite after epoch %zu", epochs);
    memcpy(f->best, from, f->flow->model.parameter_count * f->flow->engine->real_size);
    f->best_loss = loss;
    f->report.best_epoch = epochs;
    return NF_OK;
}

static double rate_at(const fit *f, size_t epoch, size_t step) {
    const nf_fit_config *c = &f->config;
    return f->base_rate * nf_schedule_factor(c->schedule, c->schedule_factor, epoch / c->schedule_step, (double)step,
                                             (double)c->epochs * (double)f->steps_per_epoch);
}

/* One batch: gradient and step. Parameters change only when both are finite. */
static nf_status train_batch(fit *f, size_t epoch, size_t first, double *loss_sum, double *weight_sum) {
    const double rate = rate_at(f, epoch, f->report.steps);
    nf_step_sum sum;
    nf_status status = nf_fit_batch_gradient(f, epoch, first, rate, &sum);
    if (status != NF_OK)
        return status;
    f->evaluations += (uint64_t)sum.evaluations;
    /* Nothing to learn from rows that are not numbers or do not count; but if the flow maps none of the others, its parameters went astray. */
    if (sum.finite_rows == 0.0)
        return NF_OK;
    const double loss = nf_mean(sum.total.loss, sum.total.weight);
    if (!isfinite(loss))
        return nf_fail(NF_ERR_DIVERGED, f->function, "the loss is not finite in epoch %zu", epoch + 1);
    if (!f->validates && epoch > 0 && *weight_sum == 0.0)
        status = keep_best(f, epoch, f->report.train_loss);
    if (status != NF_OK)
        return status;
    f->optimizer->update.rate = rate;
    status = nf_units_step(&f->units, f->optimizer, f->flow, f->gradient);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    f->report.steps++;
    if (f->config.ema_decay > 0.0)
        f->flow->engine->average(f->average, f->flow->theta, nf_average_decay(f->config.ema_decay, f->report.steps), f->flow->model.parameter_count);
    *loss_sum += loss * sum.total.rows_weight;
    *weight_sum += sum.total.rows_weight;
    return NF_OK;
}

static bool progress_stops(fit *f, size_t epoch, double seconds) {
    if (!f->config.progress)
        return false;
    const nf_fit_progress p = {.struct_size = sizeof p,
                               .epoch = epoch + 1,
                               .epochs = f->config.epochs,
                               .steps = f->report.steps,
                               .train_loss = f->report.train_loss,
                               .validation_loss = f->report.validation_loss,
                               .best_loss = !f->validates ? f->report.train_loss : f->report.best_epoch ? f->best_loss : NAN,
                               .learning_rate = f->optimizer->update.rate,
                               .gradient_norm = f->last_norm,
                               .seconds = seconds,
                               .seconds_left = seconds / (double)(epoch + 1 - f->first_epoch) * (double)(f->config.epochs - epoch - 1),
                               .rhs_evaluations = f->report.rhs_evaluations};
    return NF_CALL_OUT(f->config.progress(f->config.progress_user, &p)) != 0;
}

static nf_status run_epoch(fit *f, size_t epoch) {
    const nf_shuffle order = nf_shuffle_begin(f->config.seed, STREAM_EPOCH + epoch, f->training_rows);
    double loss_sum = 0, weight_sum = 0;
    f->evaluations = 0;
    f->fetched = 0;
    for (size_t first = 0; first < f->training_rows; first += f->config.batch_size) {
        nf_status status = first == f->fetched ? nf_fit_fetch_steps(f, &order, first) : NF_OK;
        if (status == NF_OK)
            status = train_batch(f, epoch, first, &loss_sum, &weight_sum);
        if (status != NF_OK)
            return status;
    }
    if (f->report.steps == 0 && f->counted > 0.0) /* all batches were passed over, though there are rows to learn from */
        return nf_fail(NF_ERR_DIVERGED, f->function, "no row is finite with its noise in epoch %zu", epoch + 1);
    f->report.train_loss = nf_mean(loss_sum, weight_sum);
    f->report.rhs_evaluations = (double)f->evaluations / (double)f->training_rows;
    f->last_norm = nf_gradient_norm(f->gradient);
    return nf_fit_validate(f, &f->report.validation_loss);
}

/* Whether the fit is over; the same at the end of an epoch and where a checkpoint of that end is taken up. */
static bool is_over(fit *f) {
    const size_t done = f->report.epochs_run;
    const bool all = done == f->config.epochs;
    if (f->validates && f->config.patience != NF_NONE && done - f->report.best_epoch >= f->config.patience)
        f->report.stop_reason = NF_STOP_PATIENCE;
    else if (all)
        f->report.stop_reason = NF_STOP_EPOCHS;
    else
        return false;
    return true;
}

/* What follows an epoch: the best parameters, the checkpoint, and word to the caller, who may kill the process in his callback. */
static nf_status end_epoch(fit *f, size_t epoch) {
    f->report.epochs_run = epoch + 1;
    nf_status status = NF_OK;
    if (f->validates && f->report.validation_loss < f->best_loss)
        status = keep_best(f, epoch + 1, f->report.validation_loss);
    if (!f->validates && f->report.steps > 0 && is_over(f))
        status = keep_best(f, epoch + 1, f->report.train_loss);
    if (status != NF_OK)
        return status;
    const bool due = f->checkpoint && ((epoch + 1) % f->config.checkpoint_every == 0 || is_over(f));
    status = nf_ranks_agree(&f->ranks, due ? nf_checkpoint_write(f) : NF_OK);
    if (status != NF_OK)
        return status;
    bool stops = progress_stops(f, epoch, nf_now() - f->seconds_begun);
    status = nf_ranks_hear_all(&f->ranks, f->flow, "epoch", epoch + 1, &stops);
    if (status != NF_OK || !stops)
        return status;
    status = nf_ranks_agree(&f->ranks, f->checkpoint && !due ? nf_checkpoint_write(f) : NF_OK);
    if (status == NF_OK && !f->validates)
        status = keep_best(f, epoch + 1, f->report.train_loss);
    return status == NF_OK ? NF_STOPPED : status;
}

/* What read rows or took steps on them ended the fit: NF_ERR_DIVERGED, or a status of the caller's. */
static nf_status ended(fit *f, nf_status status) {
    if (status != NF_OK)
        f->report.stop_reason = status == NF_ERR_DIVERGED ? NF_STOP_DIVERGED : NF_STOP_CALLBACK;
    return status;
}

/* All epochs that are left. NF_OK, NF_STOPPED or an error; the best parameters are in f->best. */
static nf_status run_epochs(fit *f) {
    nf_status status = NF_OK;
    while (status == NF_OK && !is_over(f)) {
        const size_t epoch = f->report.epochs_run;
        status = ended(f, run_epoch(f, epoch));
        if (status == NF_OK)
            status = end_epoch(f, epoch);
    }
    return status;
}

/* That all ranks are about to do the same. */
static nf_status compare_settings(fit *f) {
    const nf_fit_config *c = &f->config;
    const nf_rank_setting settings[] = {NF_COMM_SETTINGS(f->ranks),
                                        NF_HALVES("config->epochs", c->epochs),
                                        NF_HALVES("config->batch_size", c->batch_size),
                                        NF_HALVES("config->patience", c->patience),
                                        NF_HALVES("config->seed", c->seed),
                                        NF_HALVES("the number of held-out rows", f->validation_rows),
                                        {"config->objective", c->objective},
                                        {"config->pairing", c->pairing},
                                        {"config->schedule", c->schedule},
                                        NF_HALVES("config->schedule_step", c->schedule_step),
                                        {"config->schedule_factor", c->schedule_factor},
                                        {"config->ema_decay", c->ema_decay},
                                        {"config->noise", c->noise},
                                        {"config->contamination", c->contamination},
                                        {"config->training_tolerance", c->training_tolerance},
                                        {"config->standardize", c->standardize},
                                        NF_OPTIMIZER_SETTINGS(f->optimizer)};
    return nf_ranks_compare(&f->ranks, settings, sizeof settings / sizeof *settings);
}

/* Rank 0's checkpoint, where it has one. */
static nf_status begin_checkpoints(fit *f) {
    unsigned char any = f->config.checkpoint != NULL;
    nf_status status = nf_ranks_broadcast(&f->ranks, &any, sizeof any, 0);
    if (status != NF_OK || !any)
        return status;
    status = ended(f, nf_checkpoint_sum_data(f));
    if (status == NF_OK)
        status = nf_ranks_agree(&f->ranks, f->ranks.rank == 0 ? nf_checkpoint_begin(f) : NF_OK);
    return status == NF_OK ? nf_checkpoint_share(f) : status;
}

static nf_status begin(fit *f) {
    const size_t bytes = f->flow->model.parameter_count * f->flow->engine->real_size;
    nf_status status = nf_ranks_agree(&f->ranks, nf_fit_allocate(f));
    if (status == NF_OK)
        status = compare_settings(f);
    if (status == NF_OK)
        status = nf_ranks_share_flow(&f->ranks, f->flow);
    if (status == NF_OK)
        status = ended(f, nf_fit_count_bad_rows(f));
    if (status == NF_OK)
        status = ended(f, nf_fit_standardize(f));
    if (status != NF_OK)
        return status;
    memcpy(f->best, f->flow->theta, bytes);
    memcpy(f->average, f->best, bytes);
    f->best_loss = INFINITY;
    status = begin_checkpoints(f);
    double loss;
    f->validates = f->first_epoch > 0 && !isnan(f->report.validation_loss);
    if (status == NF_OK && f->first_epoch > 0 && !f->validates)
        status = nf_fit_validate(f, &loss); /* whether any held-out row counts, which NaN does not tell */
    return status;
}

static nf_status run(fit *f) {
    nf_status status = begin(f);
    if (status == NF_OK)
        status = run_epochs(f);
    nf_checkpoint_end(f);
    if (status == NF_STOPPED)
        f->report.stop_reason = NF_STOP_CALLBACK;
    if (!f->initial)
        return status;
    const bool keeps = status == NF_OK || status == NF_STOPPED || status == NF_ERR_DIVERGED;
    memcpy(f->flow->theta, keeps ? f->best : f->initial, f->flow->model.parameter_count * f->flow->engine->real_size);
    f->flow->epoch = nf_unique();
    return status;
}

/* The data of all ranks, and the settings that follow from them. */
static nf_status settle(fit *f, const nf_fit_report *report) {
    nf_status status = nf_ranks_agree(&f->ranks, nf_fit_check_arguments(f, report));
    if (status == NF_OK)
        status = nf_rows_begin(&f->data, &f->ranks);
    if (status == NF_OK)
        status = nf_rows_begin(&f->held_out, &f->ranks);
    if (status == NF_OK)
        status = nf_fit_check_all_data(f);
    if (status != NF_OK)
        return status;
    nf_fit_fill_defaults(f);
    return NF_OK;
}

/* The caller's arguments, as far as they can be read. */
static nf_status read_arguments(fit *f, const nf_fit_config *config, size_t rows, const double *x, const double *context) {
    const nf_fit_config defaults = {.struct_size = sizeof defaults};
    nf_fit_config *c = &f->config;
    const nf_status status = nf_read_config(f->function, config ? config : &defaults, c, sizeof *c, NF_SIZE_THROUGH(nf_fit_config, allocator));
    if (status != NF_OK)
        return status;
    const size_t dim = f->flow ? f->flow->model.dim : 0, context_dim = f->flow ? f->flow->model.context_dim : 0;
    f->allocator = nf_allocator_or(c->allocator, f->flow ? &f->flow->allocator : NULL);
    f->data = (nf_rows){.dim = dim,
                        .context_dim = context_dim,
                        .own = rows,
                        .x = x,
                        .context = context,
                        .weight = c->weight,
                        .read = c->read,
                        .user = c->read_user};
    f->held_out = (nf_rows){.dim = dim,
                            .context_dim = context_dim,
                            .own = c->validation_x ? c->validation_rows : 0,
                            .x = c->validation_x,
                            .context = c->validation_context,
                            .weight = c->validation_weight};
    return nf_ranks_begin(&f->ranks, f->function, c->comm, &f->allocator);
}

nf_status nf_fit(nf_flow *flow, size_t rows, const double *x, const double *context, const nf_fit_config *config, nf_fit_report *report) {
    NF_CALL;
    nf_clear_error();
    fit f = {.function = __func__, .flow = flow};
    f.seconds_begun = nf_now();
    nf_status status = read_arguments(&f, config, rows, x, context);
    if (status != NF_OK)
        return status;
    status = settle(&f, report);
    if (status != NF_OK) {
        nf_fit_release(&f);
        return status;
    }
    f.report.struct_size = sizeof f.report;
    f.report.train_loss = f.report.validation_loss = f.report.best_loss = NAN;
    status = run(&f);
    f.report.best_loss = f.report.best_epoch ? f.best_loss : NAN;
    f.report.seconds = nf_now() - f.seconds_begun;
    if (report)
        nf_write_struct(report, &f.report, sizeof f.report);
    if (status == NF_OK || status == NF_STOPPED)
        nf_clear_error(); /* what a call within said about held-out rows that do not count */
    if (status == NF_OK && f.report.bad_rows)
        status = nf_fail(NF_ERR_ROWS, __func__, "%zu of %zu rows are not finite and were left out", f.report.bad_rows, f.data.total);
    nf_fit_release(&f);
    return status;
}
