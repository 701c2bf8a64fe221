/* A fit on its way: what fit.c and its parts work on and checkpoint.c writes down. */
#ifndef NF_API_FIT_H
#define NF_API_FIT_H

#include "api/handles.h"
#include "api/rows.h"
#include "api/shards.h"
#include "api/units.h"
#include "core/shuffle.h"

/* Streams of the generator that a fit draws from. */
enum { STREAM_SPLIT = 1, STREAM_NOISE = 2, STREAM_MATCH = 3, STREAM_MATCH_VALIDATION = 4, STREAM_WIDE = 5, STREAM_EPOCH = 1000 };

/* Held-out rows, or rows to look at, that a rank gathers at once. */
#define VALIDATION_CHUNK ((size_t)1024)

typedef struct nf_checkpoint nf_checkpoint;

typedef struct nf_fitting {
    const char *function;
    nf_fit_config config;   /* with the defaults filled in */
    nf_allocator allocator; /* of the fit's own memory; the handles take the flow's */
    nf_flow *flow;
    nf_ranks ranks;
    nf_rows data, held_out; /* of all ranks; held_out: arrays that were given */
    size_t training_rows, validation_rows, steps_per_epoch;
    nf_shuffle split; /* places 0 .. validation_rows - 1 are held out, unless an array was given */
    double base_rate;

    nf_workspace *workspace;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    double *own_tolerance; /* rtol and atol of each layer */
    nf_reducer reducer;
    nf_row_exchange exchange;
    nf_row_buffer batch;      /* this rank's rows of the next steps, or of held-out ones */
    size_t *wanted, *place;   /* as many: numbers of rows, and their places in their steps */
    size_t steps_at_once, fetched, used; /* places of the epoch that were fetched; rows of the buffer that were used */
    double *log_prob, *column_mean, *column_sd;
    double counted; /* training rows that have weight and are numbers */
    nf_units units; /* of the columns */
    double *outcomes, *all_outcomes; /* of held-out rows: status, then pairs of a loss and a weight, of this rank and of all */
    void *initial, *best, *average; /* parameters */
    nf_checkpoint *checkpoint;      /* NULL: none, or none on this rank */
    uint64_t data_sum;              /* of all data, where rank 0 has checkpoints */

    bool validates; /* some held-out row counts: it is a number and has weight; known after an epoch, and where a checkpoint is taken up */
    nf_fit_report report;
    size_t first_epoch; /* of this call: 0, or where the checkpoint left off */
    double best_loss, last_norm, seconds_begun;
    uint64_t evaluations; /* of right-hand sides in this epoch */
} nf_fitting;

/* The checks of this rank's arguments; of what can be said of the data of all ranks only (collective); and the defaults that follow from both. */
nf_status nf_fit_check_arguments(const nf_fitting *f, const nf_fit_report *report);
nf_status nf_fit_check_all_data(nf_fitting *f);
void nf_fit_fill_defaults(nf_fitting *f);
void nf_fit_hold_out_none(nf_fitting *f); /* after all */
nf_optimizer_config nf_fit_standard_optimizer(const nf_fitting *f);

/* Of this rank alone; the flow's first parameters are kept as soon as there is room for them. */
nf_status nf_fit_allocate(nf_fitting *f);
void nf_fit_release(nf_fitting *f);

/* Collective: how many rows of all ranks are not finite, and the columns of the others in the units of the affine layer. */
nf_status nf_fit_count_bad_rows(nf_fitting *f);
nf_status nf_fit_standardize(nf_fitting *f);

size_t nf_fit_training_row(const nf_fitting *f, size_t place); /* its number in the data */
nf_plan nf_fit_plan(const nf_fitting *f, size_t rows);         /* of a step of so many rows */
/* Collective: this rank's rows of the next steps, which begin at place `first` of the epoch. */
nf_status nf_fit_fetch_steps(nf_fitting *f, const nf_shuffle *order, size_t first);
/* Collective: the gradient of the batch that begins at place `first`, whose rows were fetched; the same on all ranks. */
nf_status nf_fit_batch_gradient(nf_fitting *f, size_t epoch, size_t first, double rate, nf_step_sum *sum);

/* Whether a row is one of numbers in the flow's precision; `context` NULL: there is none. */
bool nf_fit_has_numbers(const nf_fitting *f, const double *x, const double *context);

/* Collective: the held-out loss of the parameters that would be kept now, their average where there is one; NaN when no row counts. It also tells
 * whether any does. */
nf_status nf_fit_validate(nf_fitting *f, double *loss);

/*
 * Take up config.checkpoint: a file that is there is read into the fit, whose parameters, average, best ones, optimizer and report become those that
 * were written; a path without a file gets one that holds the beginning, so that a place where nothing can be written is found before the first
 * epoch. NF_ERR_FORMAT: not a checkpoint, or a damaged one; NF_ERR_MISMATCH: one of another fit.
 */
nf_status nf_checkpoint_begin(nf_fitting *f);
nf_status nf_checkpoint_share(nf_fitting *f); /* collective: rank 0's fit for all */
nf_status nf_checkpoint_sum_data(nf_fitting *f); /* collective: f->data_sum */
nf_status nf_checkpoint_write(nf_fitting *f);
void nf_checkpoint_end(nf_fitting *f);

#endif
