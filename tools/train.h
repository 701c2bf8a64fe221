/*
 * train.h - the parts of nflow train: its options, the rows to train on, and the settings that follow from both
 */
#ifndef TRAIN_H
#define TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nflow.h"
#include "whiten.h"

#define TRAIN_FLOWS "realnvp|planar|radial|cnf"
enum { FLOW_REALNVP, FLOW_PLANAR, FLOW_RADIAL, FLOW_CNF };
#define TRAIN_PRECISIONS "single|double"
enum { PRECISION_SINGLE, PRECISION_DOUBLE }; /* negative: train in single, save in double */

typedef struct train_options {
    const char *output, *hidden, *columns, *context_columns, *weight_column, *jitter;
    int flow, precision;
    size_t layers, epochs, batch, patience, threads;
    size_t hidden_layers, hidden_width; /* of `hidden`; 0: the default */
    double validation, rate, noise;     /* negative: not given */
    uint64_t seed;
    bool drop_missing, no_whitening, matching, resume, json, output_is_standard;
} train_options;

/* Rows in the table's units. */
typedef struct train_sample {
    size_t rows;
    double *x, *context, *weight; /* context and weight may be NULL */
} train_sample;

typedef struct train_data {
    const char *source;              /* the table's name, without folders */
    size_t rows, training, held_out; /* rows = training + held_out, shuffled: the training rows come first */
    size_t dim, context_dim;
    double *x, *context, *weight; /* context and weight may be NULL */
    char **names, **context_names;
    size_t *places, table_columns; /* of both in a table without names; NULL: it has names, or these columns in this order and no others */
    whitening whitening, context_scaling; /* of the training rows: x and context have gone through them */
    double gaussian_nll;                  /* mean over the held-out rows under the training rows' Gaussian; NaN: does not apply */
    train_sample sample; /* with --precision single: the held-out rows, or some training rows where none is held out; to measure the saved model */
} train_data;

/* Ends the program when options do not go together; fills in what follows from them. */
void train_check_options(train_options *o);
const char *train_flow_name(const train_options *o);

/* Ends the program when the table cannot be trained on. */
void train_read(train_data *d, const char *path, const train_options *o);
void train_free(train_data *d);

nf_flow *train_flow(const train_options *o, const train_data *d);
void train_config(const train_options *o, const train_data *d, nf_fit_config *config, nf_optimizer_config *optimizer);
void train_announce(const train_options *o, const train_data *d, const nf_flow *flow, const nf_fit_config *config);

/* The flow in the precision that it is saved in, with the maps of whitening and of the contexts in it. The old one is freed. */
nf_flow *train_finish(nf_flow *flow, const train_options *o, const train_data *d);

/* Log densities of the sample, under the flow that was trained, or under that which train_finish gave, which takes rows as they are. For free(). */
double *train_fitted_log_prob(const nf_flow *flow, const train_data *d);
double *train_saved_log_prob(const nf_flow *flow, const train_data *d);

/* Smallest difference between two values of a column; 0 when there is one value. */
double smallest_step(size_t rows, const double *x, size_t columns, size_t column);

#endif
