/* What the suites of nf_fit share: a set to learn, a small flow, the plain settings, and a diary of the epochs. */
#ifndef NF_TESTS_FIT_SCENE_H
#define NF_TESTS_FIT_SCENE_H

#include "support.h"

enum { ROWS = 600, DIM = 2 };

/* A correlated Gaussian far from the base. Its entropy: 1 + log(2 pi) + log|det L| nats, L = [[2.385, 0], [1.1, 0.485]]. */
double *gaussian_rows(uint64_t stream, size_t rows);

nf_flow *make_flow(nf_precision precision);

/* Weighted, or not (NULL). */
double mean_nll(const nf_flow *flow, const double *x, const double *weight, size_t rows);

/* No noise, average, decay or schedule, so that what a test adds stands alone. */
nf_fit_config plain(size_t epochs);
extern const nf_optimizer_config plain_adam; /* of these */

typedef struct diary {
    const nf_flow *flow;
    size_t calls, stop_after;
    double *best, best_loss, told_best; /* told_best: what progress should say */
    double rates[64], losses[64], validation[64];
} diary;

/* To be config->progress; the first argument is the diary. */
int write_diary(void *user, const nf_fit_progress *p);
diary begin_diary(const nf_flow *flow);

#endif
