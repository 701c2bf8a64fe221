/* A batch of a fit: its rows, their noise, its gradient. */
#include <math.h>
#include <stdint.h>

#include "api/fit.h"
#include "api/gradients.h"
#include "core/philox.h"

typedef struct nf_fitting fit;

size_t nf_fit_training_row(const fit *f, size_t place) {
    return f->held_out.given ? place : (size_t)nf_shuffle_at(&f->split, f->validation_rows + place);
}

nf_plan nf_fit_plan(const fit *f, size_t rows) {
    return nf_plan_of(rows, f->flow->engine->tile_rows, f->ranks.shards, f->ranks.rank, f->ranks.size);
}

/* Rows of all ranks in the batch that begins at place `first` of an epoch. */
static size_t batch_rows(const fit *f, size_t first) {
    const size_t left = f->training_rows - first;
    return left < f->config.batch_size ? left : f->config.batch_size;
}

nf_status nf_fit_fetch_steps(fit *f, const nf_shuffle *order, size_t first) {
    size_t count = 0, at = first;
    for (size_t step = 0; step < f->steps_at_once && at < f->training_rows; step++) {
        const size_t rows = batch_rows(f, at);
        const nf_plan plan = nf_fit_plan(f, rows);
        nf_plan_places(&plan, f->place + count);
        for (const size_t end = count + nf_plan_own_rows(&plan); count < end; count++)
            f->wanted[count] = nf_fit_training_row(f, (size_t)nf_shuffle_at(order, at + f->place[count]));
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

nf_status nf_fit_batch_gradient(fit *f, size_t epoch, size_t first, double rate, nf_step_sum *sum) {
    batch b = take_batch(f, epoch, first);
    const nf_plan plan = nf_fit_plan(f, b.rows);
    const size_t own = nf_plan_own_rows(&plan);
    if (f->config.noise > 0.0)
        add_noise(&b, (uint64_t)epoch * f->training_rows + first, own, f->config.noise * (f->base_rate > 0.0 ? rate / f->base_rate : 1.0));
    f->used += own;
    set_tolerances(f, f->config.training_tolerance);
    const nf_status status = nf_reduce(&f->reducer, &plan, run_wave, &b, f->gradient, sum);
    set_tolerances(f, 0.0);
    return status;
}
