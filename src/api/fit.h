/* A fit on its way: what fit.c works on and checkpoint.c writes down. */
#ifndef NF_API_FIT_H
#define NF_API_FIT_H

#include "api/handles.h"
#include "core/shuffle.h"

typedef struct nf_checkpoint nf_checkpoint;

typedef struct nf_fitting {
    const char *function;
    nf_fit_config config;   /* with the defaults filled in */
    nf_allocator allocator; /* of the fit's own memory; the handles take the flow's */
    nf_flow *flow;
    size_t rows, training_rows, validation_rows, steps_per_epoch;
    const double *x, *context;
    nf_shuffle split; /* places 0 .. validation_rows - 1 are held out, unless an array was given */
    double base_rate;

    nf_workspace *workspace;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    double *own_tolerance; /* rtol and atol of each layer */
    double *batch_x, *batch_context, *batch_weight, *log_prob, *column_sd;
    void *initial, *best, *average; /* parameters */
    nf_checkpoint *checkpoint;      /* NULL: none */

    nf_fit_report report;
    size_t first_epoch; /* of this call: 0, or where the checkpoint left off */
    double best_loss, last_norm, seconds_begun;
    uint64_t evaluations; /* of right-hand sides in this epoch */
} nf_fitting;

/*
 * Take up config.checkpoint: a file that is there is read into the fit, whose parameters, average, best ones, optimizer and report become those that
 * were written; a path without a file gets one that holds the beginning, so that a place where nothing can be written is found before the first
 * epoch. NF_ERR_FORMAT: not a checkpoint, or a damaged one; NF_ERR_MISMATCH: one of another fit.
 */
nf_status nf_checkpoint_begin(nf_fitting *f);
nf_status nf_checkpoint_write(nf_fitting *f);
void nf_checkpoint_end(nf_fitting *f);

#endif
