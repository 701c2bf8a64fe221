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

#include "api/fit.h"
#include "api/handles.h"
#include "api/schedule.h"
#include "core/clock.h"
#include "core/floating.h"
#include "core/moments.h"
#include "core/philox.h"
#include "core/shuffle.h"

typedef struct nf_fitting fit;

static size_t training_row(const fit *f, size_t place) {
    return f->held_out.given ? place : (size_t)nf_shuffle_at(&f->split, f->validation_rows + place);
}

static nf_plan plan_of(const fit *f, size_t rows) {
    return nf_plan_of(rows, f->flow->engine->tile_rows, f->ranks.shards, f->ranks.rank, f->ranks.size);
}

static size_t own_rows(const fit *f, size_t rows) {
    const nf_plan plan = plan_of(f, rows);
    return rows ? nf_plan_own_rows(&plan) : 0;
}

static nf_status allocate_handles(fit *f) {
    const nf_flow flow = nf_flow_in(f->flow, &f->allocator);
    nf_status status = nf_workspace_create(&flow, f->config.threads, &f->workspace);
    if (status == NF_OK)
        status = nf_gradient_create(&flow, &f->gradient);
    const nf_optimizer_config standard = nf_fit_standard_optimizer(f);
    if (status == NF_OK)
        status = nf_optimizer_create(&flow, f->config.optimizer ? f->config.optimizer : &standard, &f->optimizer);
    if (status == NF_OK)
        f->base_rate = f->optimizer->update.rate;
    return status == NF_OK ? NF_OK : nf_fail_in(status, f->function);
}

/* Rows that a rank has at once: those of the steps that are fetched together, and at least a chunk of held-out ones. */
static size_t most_rows(const fit *f) {
    const size_t batch = f->config.batch_size, full = own_rows(f, batch), last = own_rows(f, f->training_rows % batch);
    const size_t rows = (full > last ? full : last) * f->steps_at_once;
    return rows > VALIDATION_CHUNK ? rows : VALIDATION_CHUNK;
}

static nf_status allocate(fit *f) {
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

static void release(fit *f) {
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

/* The columns of the rows that count: those of weight 0 may hold anything. */
static void add_rows(const fit *f, size_t rows, nf_moments *columns) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    for (size_t r = 0; r < rows; r++) {
        const double *row = f->batch.x + r * dim;
        if (f->batch.weight[r] > 0.0 && nf_fit_has_numbers(f, row, context_dim ? f->batch.context + r * context_dim : NULL))
            for (size_t i = 0; i < dim; i++)
                nf_moments_add(&columns[i], row[i]);
    }
}

/*
 * Mean and standard deviation of the columns of the training rows that count, each once. Their order is that of the split, so every row goes to rank 0 once; what that
 * takes is little beside an epoch.
 */
static nf_status measure_columns(fit *f) {
    const size_t dim = f->flow->model.dim, step = VALIDATION_CHUNK;
    double *mean = f->column_mean, *sd = f->column_sd;
    nf_moments *columns = nf_allocate_zeroed(&f->allocator, dim * sizeof *columns);
    nf_status status = columns ? NF_OK : nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu columns", dim);
    status = nf_ranks_agree(&f->ranks, status);
    if (status != NF_OK || !columns) {
        nf_release(&f->allocator, columns);
        return status;
    }
    for (size_t first = 0; status == NF_OK && first < f->training_rows; first += step) {
        const size_t left = f->training_rows - first, most = left < step ? left : step, rows = f->ranks.rank == 0 ? most : 0;
        for (size_t i = 0; i < rows; i++)
            f->wanted[i] = training_row(f, first + i);
        status = nf_rows_fetch(&f->data, &f->ranks, &f->exchange, rows, f->wanted, &f->batch);
        if (status == NF_OK)
            add_rows(f, rows, columns);
    }
    for (size_t i = 0; status == NF_OK && i < dim; i++) {
        mean[i] = columns[i].mean;
        sd[i] = nf_moments_sd(&columns[i]);
    }
    nf_release(&f->allocator, columns);
    if (status == NF_OK)
        status = nf_ranks_broadcast(&f->ranks, mean, dim * sizeof *mean, 0);
    if (status == NF_OK)
        status = nf_ranks_broadcast(&f->ranks, sd, dim * sizeof *sd, 0);
    return status;
}

static nf_status standardize(fit *f) {
    double *parameters = nf_allocate(&f->allocator, f->flow->model.parameter_count * sizeof *parameters);
    nf_status status = parameters ? NF_OK : nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu parameters", f->flow->model.parameter_count);
    status = nf_ranks_agree(&f->ranks, status);
    if (status == NF_OK && parameters) {
        status = measure_columns(f);
        if (status == NF_OK)
            nf_units_set(&f->units, f->column_mean, f->column_sd, f->flow, parameters);
    }
    nf_release(&f->allocator, parameters);
    return status;
}

/* Rows of all ranks in the batch that begins at place `first` of an epoch. */
static size_t batch_rows(const fit *f, size_t first) {
    const size_t left = f->training_rows - first;
    return left < f->config.batch_size ? left : f->config.batch_size;
}

/* This rank's rows of the next steps, which begin at place `first` of the epoch. */
static nf_status fetch_steps(fit *f, const nf_shuffle *order, size_t first) {
    size_t count = 0, at = first;
    for (size_t step = 0; step < f->steps_at_once && at < f->training_rows; step++) {
        const size_t rows = batch_rows(f, at);
        const nf_plan plan = plan_of(f, rows);
        nf_plan_places(&plan, f->place + count);
        for (const size_t end = count + nf_plan_own_rows(&plan); count < end; count++)
            f->wanted[count] = training_row(f, (size_t)nf_shuffle_at(order, at + f->place[count]));
        at += rows;
    }
    f->fetched = at;
    f->used = 0;
    return nf_rows_fetch(&f->data, &f->ranks, &f->exchange, count, f->wanted, &f->batch);
}

/* The batch of a step on this rank: rows of the buffer. */
typedef struct batch {
    fit *f;
    nf_data_step step;
    double *x;
    const size_t *place;
    size_t rows; /* of all ranks */
} batch;

/* Rows that draw their noise together. */
#define NOISE_ROWS ((size_t)64)

/* How much wider the noise of some rows is (nf_fit_config.contamination). */
#define WIDE_NOISE 8.0

/* Whether row `place` of all epochs is one of those. */
static bool is_wide(const fit *f, const uint32_t key[2], uint64_t place) {
    const uint32_t counter[4] = {(uint32_t)place, (uint32_t)(place >> 32), 0, 0};
    uint32_t drawn[4];
    nf_philox(key, counter, drawn);
    return drawn[0] < f->config.contamination * 0x1p32;
}

/*
 * Gaussian noise on the rows of a batch; row i of the epoch draws the same whatever the batch size. It shrinks as the learning rate does, so
 * that the held-out loss finds, by choosing an epoch, how much smoothing the data want.
 */
static void add_noise(const batch *b, uint64_t position, size_t rows, double noise) {
    const fit *f = b->f;
    const size_t dim = f->flow->model.dim;
    const bool contaminated = f->config.contamination > 0.0;
    uint32_t key[2], wide_key[2];
    nf_philox_key(f->config.seed, STREAM_NOISE, key);
    nf_philox_key(f->config.seed, STREAM_WIDE, wide_key);
    for (size_t r = 0, count; r < rows; r += count) {
        /* Rows whose places follow one another, as all do on a single rank, draw together. */
        const uint64_t place = position + b->place[r];
        double even[NOISE_ROWS], odd[NOISE_ROWS], width[NOISE_ROWS];
        count = 0;
        do {
            width[count] = contaminated && is_wide(f, wide_key, place + count) ? WIDE_NOISE * noise : noise;
            count++;
        } while (count < NOISE_ROWS && r + count < rows && position + b->place[r + count] == place + count);
        for (size_t i = 0; i < dim; i += 2) {
            double *x = b->x + r * dim + i;
            f->flow->engine->normals(key, place, i / 2, count, even, odd);
            for (size_t k = 0; k < count; k++, x += dim) {
                x[0] += width[k] * f->column_sd[i] * even[k];
                if (i + 1 < dim)
                    x[1] += width[k] * f->column_sd[i + 1] * odd[k];
            }
        }
    }
}

static double rate_at(const fit *f, size_t epoch, size_t step) {
    const nf_fit_config *c = &f->config;
    return f->base_rate * nf_schedule_factor(c->schedule, c->schedule_factor, epoch / c->schedule_step, (double)step,
                                             (double)c->epochs * (double)f->steps_per_epoch);
}

/* Whether a row of the batch is one of numbers. */
static bool has_numbers(const batch *b, size_t row) {
    const nf_model *model = &b->f->flow->model;
    return nf_fit_has_numbers(b->f, b->step.x + row * model->dim, b->step.context ? b->step.context + row * model->context_dim : NULL);
}

/* Whether any row of a wave is one of numbers, and counts. */
static bool any_row_counts(const batch *b, const nf_wave *wave) {
    for (size_t r = wave->row; r < wave->row + wave->rows; r++)
        if ((!b->step.weight || b->step.weight[r] > 0.0) && has_numbers(b, r))
            return true;
    return false;
}

/* Weights of the rows of a wave, by shard; its tiles take turns. Rows that are left out have none. */
static void weigh_rows(const batch *b, const nf_wave *wave, nf_shard_sum *sums) {
    const size_t tile_rows = b->f->flow->engine->tile_rows;
    for (size_t r = 0; r < wave->rows; r++)
        if (b->f->report.bad_rows == 0 || has_numbers(b, wave->row + r))
            sums[r / tile_rows % wave->count].rows_weight += b->step.weight ? b->step.weight[wave->row + r] : 1.0;
}

static nf_status run_wave(void *user, const nf_wave *wave, nf_shard_sum *sums, nf_step_sum *sum) {
    const batch *b = user;
    fit *f = b->f;
    const nf_status status = nf_run_data_wave(f->flow, f->workspace, &b->step, wave, f->gradient, sums);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    double good = 0;
    weigh_rows(b, wave, sums);
    for (size_t i = 0; i < wave->count; i++)
        good += sums[i].weight;
    sum->finite_rows += good > 0.0 || any_row_counts(b, wave);
    sum->evaluations += (double)f->workspace->stats.rhs_evaluations;
    return NF_OK;
}

/* Tolerances of continuous layers: at least `least`. */
static void set_tolerances(const fit *f, double least) {
    for (size_t i = 0; i < f->flow->model.layer_count; i++) {
        nf_layer *layer = f->flow->model.layers[i];
        layer->cnf.rtol = fmax(f->own_tolerance[2 * i], least);
        layer->cnf.atol = fmax(f->own_tolerance[2 * i + 1], least);
    }
}

/* The rows of a step's batch that this rank has; they were fetched. */
static batch take_batch(fit *f, size_t epoch, size_t first) {
    const size_t rows = batch_rows(f, first), at = f->used;
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    batch b = {.f = f, .rows = rows, .x = f->batch.x + at * dim, .place = f->place + at};
    b.step = (nf_data_step){.x = b.x,
                            .context = context_dim ? f->batch.context + at * context_dim : NULL,
                            .weight = f->data.weighted ? f->batch.weight + at : NULL,
                            .objective = f->config.objective,
                            .pairing = f->config.pairing,
                            .rng = {f->config.seed, STREAM_MATCH, (uint64_t)epoch * f->training_rows + first}};
    return b;
}

/* The batch's gradient, the same on all ranks. */
static nf_status batch_gradient(batch *b, uint64_t position, double rate, nf_step_sum *sum) {
    fit *f = b->f;
    const nf_plan plan = plan_of(f, b->rows);
    const size_t own = nf_plan_own_rows(&plan);
    if (f->config.noise > 0.0)
        add_noise(b, position, own, f->config.noise * (f->base_rate > 0.0 ? rate / f->base_rate : 1.0));
    f->used += own;
    set_tolerances(f, f->config.training_tolerance);
    const nf_status status = nf_reduce(&f->reducer, &plan, run_wave, b, f->gradient, sum);
    set_tolerances(f, 0.0);
    return status;
}

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

/* One batch: gradient and step. Parameters change only when both are finite. */
static nf_status train_batch(fit *f, size_t epoch, size_t first, double *loss_sum, double *weight_sum) {
    const double rate = rate_at(f, epoch, f->report.steps);
    batch b = take_batch(f, epoch, first);
    nf_step_sum sum;
    nf_status status = batch_gradient(&b, (uint64_t)epoch * f->training_rows + first, rate, &sum);
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
    if (f->config.ema_decay > 0.0) {
        /* A short memory at first, so that the start is forgotten. */
        const double t = (double)f->report.steps, decay = fmin(f->config.ema_decay, (1.0 + t) / (10.0 + t));
        f->flow->engine->average(f->average, f->flow->theta, decay, f->flow->model.parameter_count);
    }
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
        nf_status status = first == f->fetched ? fetch_steps(f, &order, first) : NF_OK;
        if (status == NF_OK)
            status = train_batch(f, epoch, first, &loss_sum, &weight_sum);
        if (status != NF_OK)
            return status;
    }
    f->report.train_loss = nf_mean(loss_sum, weight_sum);
    f->report.rhs_evaluations = (double)f->evaluations / (double)f->training_rows;
    f->last_norm = f->flow->engine->norm2(f->gradient->sum, f->gradient->count);
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

/* All epochs that are left. NF_OK, NF_STOPPED or an error; the best parameters are in f->best. */
static nf_status run_epochs(fit *f) {
    nf_status status = NF_OK;
    while (status == NF_OK && !is_over(f)) {
        const size_t epoch = f->report.epochs_run;
        status = run_epoch(f, epoch);
        if (status == NF_OK)
            status = end_epoch(f, epoch);
        if (status == NF_ERR_DIVERGED)
            f->report.stop_reason = NF_STOP_DIVERGED;
    }
    return status;
}

/* Rows of all ranks that are not finite. */
static nf_status count_bad_rows(fit *f) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    nf_status status = NF_OK;
    size_t bad = 0;
    for (size_t first = 0; status == NF_OK && first < f->data.own; first += VALIDATION_CHUNK) {
        const size_t left = f->data.own - first, rows = left < VALIDATION_CHUNK ? left : VALIDATION_CHUNK;
        for (size_t i = 0; i < rows; i++)
            f->wanted[i] = first + i;
        status = nf_rows_read(&f->data, rows, f->wanted, f->batch.x, f->batch.context, NULL);
        for (size_t r = 0; status == NF_OK && r < rows; r++)
            bad += !nf_fit_has_numbers(f, f->batch.x + r * dim, context_dim ? f->batch.context + r * context_dim : NULL);
    }
    status = nf_ranks_agree(&f->ranks, status);
    const double own = (double)bad;
    if (status == NF_OK)
        status = nf_ranks_gather(&f->ranks, &own, f->all_outcomes, 1);
    for (size_t q = 0; status == NF_OK && q < f->ranks.size; q++)
        f->report.bad_rows += (size_t)f->all_outcomes[q];
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
    status = nf_checkpoint_sum_data(f);
    if (status == NF_OK)
        status = nf_ranks_agree(&f->ranks, f->ranks.rank == 0 ? nf_checkpoint_begin(f) : NF_OK);
    return status == NF_OK ? nf_checkpoint_share(f) : status;
}

static nf_status begin(fit *f) {
    const size_t bytes = f->flow->model.parameter_count * f->flow->engine->real_size;
    nf_status status = nf_ranks_agree(&f->ranks, allocate(f));
    if (status == NF_OK)
        status = compare_settings(f);
    if (status == NF_OK)
        status = nf_ranks_share_flow(&f->ranks, f->flow);
    if (status == NF_OK)
        status = count_bad_rows(f);
    if (status == NF_OK)
        status = standardize(f);
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
    const nf_status status = nf_read_config(f->function, config ? config : &defaults, c, sizeof *c,
                                            offsetof(nf_fit_config, allocator) + sizeof c->allocator);
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
        release(&f);
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
    release(&f);
    return status;
}
