/*
 * nf_fit: mini-batch training by maximum likelihood or flow matching.
 *
 * Nothing here grows with the number of rows: the order of the rows is computed, not stored, and batches are gathered into
 * one buffer. Row i of an epoch, its noise and the split are functions of the seed alone, so the number of threads changes no bit.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "api/fit.h"
#include "api/floating.h"
#include "api/handles.h"
#include "api/schedule.h"
#include "core/philox.h"
#include "core/shuffle.h"

/* Streams of the generator that a fit draws from. */
enum { STREAM_SPLIT = 1, STREAM_NOISE = 2, STREAM_MATCH = 3, STREAM_MATCH_VALIDATION = 4, STREAM_EPOCH = 1000 };

/* Draws of base sample and time for each held-out row, the same in every epoch, when flow matching is validated. */
#define MATCH_DRAWS ((size_t)16)

/* Rows gathered at once for the validation loss. */
#define VALIDATION_CHUNK ((size_t)1024)

typedef struct nf_fitting fit;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t size_or(size_t value, size_t fallback) { return value == 0 ? fallback : value; }

static nf_status check_data(const fit *f) {
    const nf_fit_config *c = &f->config;
    const size_t context_dim = f->flow->model.context_dim;
    if (f->rows == 0)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "rows is 0");
    if (!f->x)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "x is NULL");
    if ((context_dim != 0) != (f->context != NULL))
        return nf_fail(NF_ERR_ARGUMENT, f->function, context_dim ? "context is NULL, and the flow takes %zu columns"
                                                                 : "context is not NULL, and the flow takes %zu columns", context_dim);
    if (c->validation_rows && !c->validation_x)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->validation_x is NULL with %zu validation_rows", c->validation_rows);
    if (c->validation_rows && (context_dim != 0) != (c->validation_context != NULL))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->validation_context does not go with a flow of context_dim %zu", context_dim);
    for (size_t r = 0; c->weight && r < f->rows; r++)
        if (!(c->weight[r] >= 0.0) || !isfinite(c->weight[r]))
            return nf_fail(NF_ERR_ARGUMENT, f->function, "config->weight[%zu] is %g, must be finite and not negative", r, c->weight[r]);
    bool any = !c->weight;
    for (size_t r = 0; !any && r < f->rows; r++)
        any = c->weight[r] > 0.0;
    if (!any)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->weight is 0 for all %zu rows", f->rows);
    for (size_t r = 0; c->validation_weight && r < c->validation_rows; r++)
        if (!(c->validation_weight[r] >= 0.0) || !isfinite(c->validation_weight[r]))
            return nf_fail(NF_ERR_ARGUMENT, f->function, "config->validation_weight[%zu] is %g, must be finite and not negative", r,
                           c->validation_weight[r]);
    return NF_OK;
}

static nf_status check_settings(const fit *f) {
    const nf_fit_config *c = &f->config;
    if (c->schedule < NF_SCHEDULE_COSINE || c->schedule > NF_SCHEDULE_STEP)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->schedule is %d, which is none", (int)c->schedule);
    if (c->objective != NF_OBJECTIVE_LIKELIHOOD && c->objective != NF_OBJECTIVE_FLOW_MATCHING)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->objective is %d, which is none", (int)c->objective);
    if (c->pairing != NF_PAIRING_INDEPENDENT && c->pairing != NF_PAIRING_OPTIMAL)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->pairing is %d, which is none", (int)c->pairing);
    if (c->objective == NF_OBJECTIVE_FLOW_MATCHING && nf_check_flow_matching(f->function, f->flow) != NF_OK)
        return NF_ERR_ARGUMENT;
    if (c->checkpoint && !*c->checkpoint)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->checkpoint is an empty path");
    if (c->comm)
        return nf_fail(NF_ERR_UNSUPPORTED, f->function, "config->comm is set, and this library fits in one process only");
    if (!(c->ema_decay < 1.0))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->ema_decay is %g, must be less than 1", c->ema_decay);
    if (!isfinite(c->training_tolerance))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->training_tolerance is %g, must be finite", c->training_tolerance);
    if (!isfinite(c->noise))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->noise is %g, must be finite", c->noise);
    if (!isfinite(c->schedule_factor) || c->schedule_factor > 1.0)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->schedule_factor is %g, must be at most 1", c->schedule_factor);
    if (!(c->validation_fraction < 1.0))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->validation_fraction is %g, must be less than 1", c->validation_fraction);
    return NF_OK;
}

/* What suits the flow and the objective, as measured in bench/. */
typedef struct fit_defaults {
    double rate, weight_decay, noise, validation_fraction;
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
    return (fit_defaults){.rate = 5e-3, .weight_decay = 0.1, .noise = 0.25, .validation_fraction = 0.1, .epochs = 300};
}

static void fill_defaults(fit *f) {
    nf_fit_config *c = &f->config;
    const fit_defaults d = defaults_of(f);
    c->batch_size = size_or(c->batch_size, 64);
    c->ema_decay = c->ema_decay == 0.0 ? 0.998 : c->ema_decay < 0.0 ? 0.0 : c->ema_decay;
    c->training_tolerance = c->training_tolerance == 0.0 ? 1e-3 : c->training_tolerance < 0.0 ? 0.0 : c->training_tolerance;
    c->noise = c->noise == 0.0 ? d.noise : c->noise < 0.0 ? 0.0 : c->noise;
    if (c->schedule_factor == 0.0 && c->schedule == NF_SCHEDULE_STEP)
        c->schedule_factor = 0.1;
    if (c->schedule_factor < 0.0)
        c->schedule_factor = 0.0;
    const double fraction = c->validation_fraction == 0.0 ? d.validation_fraction : c->validation_fraction < 0.0 ? 0.0 : c->validation_fraction;
    f->validation_rows = c->validation_x ? c->validation_rows : (size_t)((double)f->rows * fraction);
    f->training_rows = c->validation_x ? f->rows : f->rows - f->validation_rows;
    if (c->batch_size > f->training_rows)
        c->batch_size = f->training_rows;
    f->steps_per_epoch = (f->training_rows + c->batch_size - 1) / c->batch_size;
    const size_t enough = MATCH_STEPS / f->steps_per_epoch + 1;
    c->epochs = size_or(c->epochs, d.epochs ? d.epochs : enough < FEWEST_EPOCHS ? FEWEST_EPOCHS : enough);
    c->patience = size_or(c->patience, c->epochs / 2 + 1);
    c->schedule_step = size_or(c->schedule_step, c->epochs / 3 + 1);
    c->checkpoint_every = size_or(c->checkpoint_every, 1);
    f->split = nf_shuffle_begin(c->seed, STREAM_SPLIT, f->rows);
}

static size_t training_row(const fit *f, size_t place) {
    return f->config.validation_x ? place : (size_t)nf_shuffle_at(&f->split, f->validation_rows + place);
}

static nf_status allocate(fit *f) {
    const nf_allocator *a = &f->allocator;
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    const size_t rows = f->config.batch_size > VALIDATION_CHUNK ? f->config.batch_size : VALIDATION_CHUNK;
    const size_t bytes = f->flow->model.parameter_count * f->flow->engine->real_size;
    nf_status status = nf_workspace_create(f->flow, f->config.threads, &f->workspace);
    if (status == NF_OK)
        status = nf_gradient_create(f->flow, &f->gradient);
    const fit_defaults d = defaults_of(f);
    const nf_optimizer_config standard = {
        .struct_size = sizeof standard, .kind = NF_ADAMW, .learning_rate = d.rate, .weight_decay = d.weight_decay, .clip_norm = 1.0};
    if (status == NF_OK)
        status = nf_optimizer_create(f->flow, f->config.optimizer ? f->config.optimizer : &standard, &f->optimizer);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    f->base_rate = f->optimizer->update.rate;
    f->batch_x = nf_allocate(a, rows * dim * sizeof(double));
    f->batch_context = nf_allocate(a, rows * context_dim * sizeof(double));
    f->batch_weight = nf_allocate(a, rows * sizeof(double));
    f->log_prob = nf_allocate(a, rows * sizeof(double));
    f->column_sd = nf_allocate_zeroed(a, dim * sizeof(double));
    f->own_tolerance = nf_allocate(a, 2 * f->flow->model.layer_count * sizeof(double));
    f->initial = nf_allocate(a, bytes);
    f->best = nf_allocate(a, bytes);
    f->average = nf_allocate(a, bytes);
    if (!f->batch_x || !f->batch_context || !f->batch_weight || !f->log_prob || !f->column_sd || !f->own_tolerance || !f->initial ||
        !f->best || !f->average)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for batches of %zu rows", rows);
    for (size_t i = 0; i < f->flow->model.layer_count; i++) {
        f->own_tolerance[2 * i] = f->flow->model.layers[i]->cnf.rtol;
        f->own_tolerance[2 * i + 1] = f->flow->model.layers[i]->cnf.atol;
    }
    memcpy(f->initial, f->flow->theta, bytes);
    return NF_OK;
}

static void release(fit *f) {
    const nf_allocator *a = &f->allocator;
    nf_release(a, f->average);
    nf_release(a, f->best);
    nf_release(a, f->initial);
    nf_release(a, f->own_tolerance);
    nf_release(a, f->column_sd);
    nf_release(a, f->log_prob);
    nf_release(a, f->batch_weight);
    nf_release(a, f->batch_context);
    nf_release(a, f->batch_x);
    nf_optimizer_free(f->optimizer);
    nf_gradient_free(f->gradient);
    nf_workspace_free(f->workspace);
}

static bool finite_row(const double *row, size_t columns) {
    for (size_t i = 0; i < columns; i++)
        if (!isfinite(row[i]))
            return false;
    return true;
}

/* Mean and standard deviation of the columns of the finite training rows (Welford 1962). */
static size_t measure_columns(const fit *f, double *mean, double *sd) {
    const size_t dim = f->flow->model.dim;
    size_t used = 0;
    for (size_t i = 0; i < dim; i++)
        mean[i] = sd[i] = 0.0;
    for (size_t place = 0; place < f->training_rows; place++) {
        const double *row = f->x + training_row(f, place) * dim;
        if (!finite_row(row, dim))
            continue;
        used++;
        for (size_t i = 0; i < dim; i++) {
            const double delta = row[i] - mean[i];
            mean[i] += delta / (double)used;
            sd[i] += delta * (row[i] - mean[i]);
        }
    }
    for (size_t i = 0; i < dim; i++)
        sd[i] = used ? sqrt(sd[i] / (double)used) : 0.0;
    return used;
}

/* The affine layer at the data end takes the columns' mean and standard deviation, if nobody has set it before. */
static nf_status standardize(fit *f) {
    nf_flow *flow = f->flow;
    const nf_model *model = &flow->model;
    const size_t dim = model->dim;
    double *mean = nf_allocate(&f->allocator, dim * sizeof *mean);
    double *parameters = nf_allocate(&f->allocator, model->parameter_count * sizeof *parameters);
    nf_status status = NF_OK;
    if (!mean || !parameters) {
        status = nf_fail(NF_ERR_MEMORY, f->function, "no memory for the mean of %zu columns", dim);
    } else {
        const nf_floating saved = nf_floating_enter();
        measure_columns(f, mean, f->column_sd);
        const nf_layer *last = model->layer_count ? model->layers[model->layer_count - 1] : NULL;
        if (f->config.standardize >= 0 && last && last->kind == NF_LAYER_AFFINE && !last->inverted) {
            flow->engine->to_double(parameters, flow->theta, model->parameter_count);
            double *slice = parameters + last->parameter_offset;
            bool identity = true;
            for (size_t i = 0; i < 2 * dim; i++)
                identity = identity && slice[i] == 0.0;
            for (size_t i = 0; identity && i < dim; i++) {
                slice[i] = f->column_sd[i] > 0.0 && isfinite(f->column_sd[i]) ? log(f->column_sd[i]) : 0.0;
                slice[dim + i] = isfinite(mean[i]) ? mean[i] : 0.0;
            }
            if (identity)
                nf_flow_put(flow, parameters);
        }
        nf_floating_leave(saved);
    }
    nf_release(&f->allocator, parameters);
    nf_release(&f->allocator, mean);
    return status;
}

static void copy_row(const fit *f, size_t row, size_t at) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    memcpy(f->batch_x + at * dim, f->x + row * dim, dim * sizeof(double));
    if (context_dim)
        memcpy(f->batch_context + at * context_dim, f->context + row * context_dim, context_dim * sizeof(double));
    f->batch_weight[at] = f->config.weight ? f->config.weight[row] : 1.0;
}

/*
 * Gaussian noise on the rows of a batch; row i of the epoch draws the same whatever the batch size. It shrinks as the learning rate does, so
 * that the held-out loss finds, by choosing an epoch, how much smoothing the data want.
 */
static void add_noise(const fit *f, size_t epoch, size_t first, size_t rows, double noise) {
    const size_t dim = f->flow->model.dim;
    uint32_t key[2];
    nf_philox_key(f->config.seed, STREAM_NOISE, key);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < dim; i += 2) {
            double even, odd;
            f->flow->engine->normals(key, (uint64_t)epoch * f->training_rows + first + r, i / 2, 1, &even, &odd);
            f->batch_x[r * dim + i] += noise * f->column_sd[i] * even;
            if (i + 1 < dim)
                f->batch_x[r * dim + i + 1] += noise * f->column_sd[i + 1] * odd;
        }
}

static double rate_at(const fit *f, size_t epoch, size_t step) {
    const nf_fit_config *c = &f->config;
    return f->base_rate * nf_schedule_factor(c->schedule, c->schedule_factor, epoch / c->schedule_step, (double)step,
                                             (double)c->epochs * (double)f->steps_per_epoch);
}

static bool any_finite_row(const fit *f, size_t rows) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    for (size_t r = 0; r < rows; r++)
        if (finite_row(f->batch_x + r * dim, dim) && finite_row(f->batch_context + r * context_dim, context_dim))
            return true;
    return false;
}

static nf_status batch_gradient(const fit *f, size_t rows, uint64_t position, double *loss) {
    const double *context = f->flow->model.context_dim ? f->batch_context : NULL, *weight = f->config.weight ? f->batch_weight : NULL;
    if (f->config.objective == NF_OBJECTIVE_LIKELIHOOD)
        return nf_run_grad_nll(f->flow, f->workspace, rows, f->batch_x, context, weight, f->gradient, loss);
    nf_rng rng = {f->config.seed, STREAM_MATCH, position};
    return nf_run_flow_matching(NULL, f->flow, f->workspace, &rng, rows, f->batch_x, context, weight, f->config.pairing, f->gradient, loss);
}

/* Tolerances of continuous layers: at least `least`. */
static void set_tolerances(const fit *f, double least) {
    for (size_t i = 0; i < f->flow->model.layer_count; i++) {
        nf_layer *layer = f->flow->model.layers[i];
        layer->cnf.rtol = fmax(f->own_tolerance[2 * i], least);
        layer->cnf.atol = fmax(f->own_tolerance[2 * i + 1], least);
    }
}

/* One batch: gradient and step. Parameters change only when both are finite. */
static nf_status train_batch(fit *f, const nf_shuffle *order, size_t epoch, size_t first, double *loss_sum, double *weight_sum) {
    const size_t left = f->training_rows - first, rows = left < f->config.batch_size ? left : f->config.batch_size;
    double weight = 0;
    for (size_t i = 0; i < rows; i++) {
        copy_row(f, training_row(f, (size_t)nf_shuffle_at(order, first + i)), i);
        weight += f->batch_weight[i];
    }
    if (!(weight > 0.0))
        return NF_OK; /* a batch of rows that do not count */
    const double rate = rate_at(f, epoch, f->report.steps);
    if (f->config.noise > 0.0)
        add_noise(f, epoch, first, rows, f->config.noise * (f->base_rate > 0.0 ? rate / f->base_rate : 1.0));
    double loss;
    nf_gradient_zero(f->gradient);
    set_tolerances(f, f->config.training_tolerance);
    nf_status status = batch_gradient(f, rows, (uint64_t)epoch * f->training_rows + first, &loss);
    set_tolerances(f, 0.0);
    f->evaluations += f->workspace->stats.rhs_evaluations;
    if (status != NF_OK && status != NF_ERR_ROWS)
        return nf_fail_in(status, f->function);
    if (status == NF_ERR_ROWS) {
        nf_stats stats = {.struct_size = sizeof stats};
        nf_workspace_stats(f->workspace, &stats);
        /* Nothing to learn from rows that are not numbers; but if the flow maps none of those that are, its parameters went astray. */
        if (stats.bad_rows == rows && !any_finite_row(f, rows))
            return NF_OK;
    }
    if (!isfinite(loss))
        return nf_fail(NF_ERR_DIVERGED, f->function, "the loss is not finite in epoch %zu", epoch + 1);
    f->optimizer->update.rate = rate;
    status = nf_run_step(f->optimizer, f->flow, f->gradient);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    f->report.steps++;
    if (f->config.ema_decay > 0.0) {
        /* A short memory at first, so that the start is forgotten. */
        const double t = (double)f->report.steps, decay = fmin(f->config.ema_decay, (1.0 + t) / (10.0 + t));
        f->flow->engine->average(f->average, f->flow->theta, decay, f->flow->model.parameter_count);
    }
    *loss_sum += loss * weight;
    *weight_sum += weight;
    return NF_OK;
}

/* The matching loss of held-out rows; every row's draws are its own, and paired with nobody's. */
static nf_status match_chunk(const fit *f, size_t first, size_t rows, const double *x, const double *context, double *loss_sum,
                             double *weight_sum) {
    double weight = 0;
    for (size_t i = 0; i < rows; i++)
        weight += f->batch_weight[i];
    for (size_t draw = 0; draw < MATCH_DRAWS && weight > 0.0; draw++) {
        nf_rng rng = {f->config.seed, STREAM_MATCH_VALIDATION, draw * f->validation_rows + first};
        double loss;
        const nf_status status = nf_run_flow_matching(NULL, f->flow, f->workspace, &rng, rows, x, context, f->batch_weight,
                                                      NF_PAIRING_INDEPENDENT, NULL, &loss);
        if (status != NF_OK && status != NF_ERR_ROWS)
            return nf_fail_in(status, f->function);
        if (isnan(loss))
            continue; /* no row of this chunk is a number */
        *loss_sum += weight * loss;
        *weight_sum += weight;
    }
    return NF_OK;
}

static nf_status validation_chunk(fit *f, size_t first, size_t rows, double *loss_sum, double *weight_sum) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    const nf_fit_config *c = &f->config;
    const double *x = f->batch_x, *context = context_dim ? f->batch_context : NULL;
    if (c->validation_x) {
        x = c->validation_x + first * dim;
        context = context_dim ? c->validation_context + first * context_dim : NULL;
        for (size_t i = 0; i < rows; i++)
            f->batch_weight[i] = c->validation_weight ? c->validation_weight[first + i] : 1.0;
    } else {
        for (size_t i = 0; i < rows; i++)
            copy_row(f, (size_t)nf_shuffle_at(&f->split, first + i), i);
    }
    if (c->objective == NF_OBJECTIVE_FLOW_MATCHING)
        return match_chunk(f, first, rows, x, context, loss_sum, weight_sum);
    nf_status status = nf_run_log_prob(f->flow, f->workspace, rows, x, context, f->log_prob);
    if (status != NF_OK && status != NF_ERR_ROWS)
        return nf_fail_in(status, f->function);
    const nf_floating saved = nf_floating_enter();
    for (size_t i = 0; i < rows; i++) {
        /* A row of the data that is not a number is not held against the flow; one that the flow cannot map is. */
        if (!finite_row(x + i * dim, dim) || (context && !finite_row(context + i * context_dim, context_dim)))
            continue;
        *loss_sum -= f->batch_weight[i] * f->log_prob[i];
        *weight_sum += f->batch_weight[i];
    }
    nf_floating_leave(saved);
    return NF_OK;
}

/* NaN when nothing was weighed. */
static double mean_of(double sum, double weight) {
    const nf_floating saved = nf_floating_enter();
    const double mean = weight > 0.0 ? sum / weight : NAN;
    nf_floating_leave(saved);
    return mean;
}

/* The held-out loss of the parameters that would be kept now: their average where there is one. */
static nf_status validate(fit *f, double *loss) {
    double loss_sum = 0, weight_sum = 0;
    nf_status status = NF_OK;
    void *current = f->flow->theta;
    if (f->config.ema_decay > 0.0) {
        f->flow->theta = f->average;
        f->flow->epoch = nf_unique();
    }
    for (size_t first = 0; status == NF_OK && first < f->validation_rows; first += VALIDATION_CHUNK) {
        const size_t left = f->validation_rows - first;
        status = validation_chunk(f, first, left < VALIDATION_CHUNK ? left : VALIDATION_CHUNK, &loss_sum, &weight_sum);
    }
    if (f->flow->theta != current) {
        f->flow->theta = current;
        f->flow->epoch = nf_unique();
    }
    *loss = mean_of(loss_sum, weight_sum);
    return status;
}

static void keep_best(fit *f, size_t epoch, double loss) {
    const void *from = f->config.ema_decay > 0.0 ? f->average : f->flow->theta;
    memcpy(f->best, from, f->flow->model.parameter_count * f->flow->engine->real_size);
    f->best_loss = loss;
    f->report.best_epoch = epoch + 1;
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
                               .best_loss = f->best_loss,
                               .learning_rate = f->optimizer->update.rate,
                               .gradient_norm = f->last_norm,
                               .seconds = seconds,
                               .seconds_left = seconds / (double)(epoch + 1 - f->first_epoch) * (double)(f->config.epochs - epoch - 1),
                               .rhs_evaluations = f->report.rhs_evaluations};
    return f->config.progress(f->config.progress_user, &p) != 0;
}

static nf_status run_epoch(fit *f, size_t epoch) {
    const nf_shuffle order = nf_shuffle_begin(f->config.seed, STREAM_EPOCH + epoch, f->training_rows);
    double loss_sum = 0, weight_sum = 0;
    f->evaluations = 0;
    for (size_t first = 0; first < f->training_rows; first += f->config.batch_size) {
        const nf_floating saved = nf_floating_enter();
        const nf_status status = train_batch(f, &order, epoch, first, &loss_sum, &weight_sum);
        nf_floating_leave(saved);
        if (status != NF_OK)
            return status;
    }
    f->report.train_loss = mean_of(loss_sum, weight_sum);
    f->report.rhs_evaluations = (double)f->evaluations / (double)f->training_rows;
    const nf_floating saved = nf_floating_enter();
    f->last_norm = f->flow->engine->norm2(f->gradient->sum, f->gradient->count);
    nf_floating_leave(saved);
    return validate(f, &f->report.validation_loss);
}

/* Whether the fit is over; the same at the end of an epoch and where a checkpoint of that end is taken up. */
static bool is_over(fit *f) {
    const size_t done = f->report.epochs_run;
    const bool all = done == f->config.epochs;
    if (f->validation_rows > 0 && f->config.patience != NF_NONE && done - f->report.best_epoch >= f->config.patience)
        f->report.stop_reason = NF_STOP_PATIENCE;
    else if (all)
        f->report.stop_reason = NF_STOP_EPOCHS;
    else
        return false;
    return true;
}

/* What follows an epoch: the best parameters, the checkpoint, and word to the caller, who may kill the process in his callback. */
static nf_status end_epoch(fit *f, size_t epoch) {
    const bool validates = f->validation_rows > 0;
    f->report.epochs_run = epoch + 1;
    if (validates ? f->report.validation_loss < f->best_loss : isfinite(f->report.train_loss))
        keep_best(f, epoch, validates ? f->report.validation_loss : f->report.train_loss);
    const bool due = f->checkpoint && ((epoch + 1) % f->config.checkpoint_every == 0 || is_over(f));
    nf_status status = due ? nf_checkpoint_write(f) : NF_OK;
    if (status != NF_OK || !progress_stops(f, epoch, now() - f->seconds_begun))
        return status;
    if (f->checkpoint && !due)
        status = nf_checkpoint_write(f);
    f->report.stop_reason = NF_STOP_CALLBACK;
    return status == NF_OK ? NF_STOPPED : status;
}

/* All epochs that are left. NF_OK, NF_STOPPED or an error; the best parameters are in f->best. */
static nf_status run_epochs(fit *f) {
    nf_status status = NF_OK;
    while (status == NF_OK && !is_over(f)) {
        const size_t epoch = f->report.epochs_run;
        status = run_epoch(f, epoch);
        if (status == NF_ERR_DIVERGED)
            f->report.stop_reason = NF_STOP_DIVERGED;
        if (status == NF_OK)
            status = end_epoch(f, epoch);
    }
    return status;
}

static size_t count_bad_rows(const fit *f) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    size_t bad = 0;
    for (size_t r = 0; r < f->rows; r++)
        bad += !finite_row(f->x + r * dim, dim) || (context_dim && !finite_row(f->context + r * context_dim, context_dim));
    return bad;
}

static nf_status run(fit *f) {
    nf_status status = allocate(f);
    if (status == NF_OK)
        status = standardize(f);
    if (status != NF_OK)
        return status;
    memcpy(f->best, f->flow->theta, f->flow->model.parameter_count * f->flow->engine->real_size);
    memcpy(f->average, f->best, f->flow->model.parameter_count * f->flow->engine->real_size);
    f->best_loss = INFINITY;
    if (f->config.checkpoint)
        status = nf_checkpoint_begin(f);
    if (status == NF_OK)
        status = run_epochs(f);
    nf_checkpoint_end(f);
    const bool keeps = status == NF_OK || status == NF_STOPPED || status == NF_ERR_DIVERGED;
    memcpy(f->flow->theta, keeps ? f->best : f->initial, f->flow->model.parameter_count * f->flow->engine->real_size);
    f->flow->epoch = nf_unique();
    return status;
}

/* What the caller's struct has room for. */
static void write_report(const fit *f, nf_fit_report *report) {
    const size_t size = report->struct_size;
    memcpy(report, &f->report, size < sizeof *report ? size : sizeof *report);
    report->struct_size = size;
}

nf_status nf_fit(nf_flow *flow, size_t rows, const double *x, const double *context, const nf_fit_config *config, nf_fit_report *report) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    const nf_fit_config defaults = {.struct_size = sizeof defaults};
    fit f = {.function = __func__, .flow = flow, .rows = rows, .x = x, .context = context};
    f.seconds_begun = now();
    status = nf_read_config(__func__, config ? config : &defaults, &f.config, sizeof f.config,
                            offsetof(nf_fit_config, allocator) + sizeof f.config.allocator);
    if (status == NF_OK && report && report->struct_size < offsetof(nf_fit_report, bad_rows) + sizeof report->bad_rows)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "report->struct_size is %zu, which is too small", report->struct_size);
    if (status == NF_OK)
        status = check_data(&f);
    if (status == NF_OK)
        status = check_settings(&f);
    if (status != NF_OK)
        return status;
    const nf_floating saved = nf_floating_enter();
    fill_defaults(&f);
    nf_floating_leave(saved);
    f.allocator = f.config.allocator ? *f.config.allocator : flow->allocator;
    f.report.struct_size = sizeof f.report;
    f.report.train_loss = f.report.validation_loss = f.report.best_loss = NAN;
    f.report.bad_rows = count_bad_rows(&f);
    status = run(&f);
    release(&f);
    f.report.best_loss = f.report.best_epoch ? f.best_loss : NAN;
    f.report.seconds = now() - f.seconds_begun;
    if (report)
        write_report(&f, report);
    if (status == NF_OK && f.report.bad_rows)
        return nf_fail(NF_ERR_ROWS, __func__, "%zu of %zu rows are not finite and were left out", f.report.bad_rows, rows);
    return status;
}
