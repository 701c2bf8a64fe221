/*
 * train.h - the parts of nflow train: its options, the rows to train on, and the settings that follow from both
 */
#ifndef TRAIN_H
#define TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nflow.h"

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
    bool drop_missing, matching, resume, json, output_is_standard;
} train_options;

typedef struct train_data {
    const char *source;              /* the table's name, without folders */
    size_t rows, training, held_out; /* rows = training + held_out, shuffled: the training rows come first */
    size_t dim, context_dim;
    double *x, *context, *weight; /* context and weight may be NULL */
    char **names, **context_names;
    double *context_mean, *context_sd; /* by which the context is scaled while training */
    double gaussian_nll; /* mean over the held-out rows under a Gaussian with the training rows' mean and covariance; NaN: none, or not of this fit */
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

/* Contexts to mean 0 and standard deviation 1; and the trained flow to contexts as they were. */
void train_scale_context(train_data *d);
void train_unscale_context(nf_flow *flow, const train_data *d);

/* Mean NLL of rows under the Gaussian with mean and covariance of others; NaN when the covariance is singular. Tested by itself. */
double gaussian_nll(size_t rows, const double *x, size_t held_out_rows, const double *held_out, size_t dim);

/* Smallest difference between two values of a column; 0 when there is one value. */
double smallest_step(size_t rows, const double *x, size_t columns, size_t column);

#endif
