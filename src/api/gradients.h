/* Gradients for the fits, of arguments that have been checked. */
#ifndef NF_API_GRADIENTS_H
#define NF_API_GRADIENTS_H

#include "api/shards.h"

/* ---- gradient_data.c */

/* The loss of flow matching alone, of independent pairs. Its status has no function yet. */
nf_status nf_run_matching_loss(const nf_flow *flow, nf_workspace *workspace, const nf_rng *rng, size_t rows, const double *x, const double *context,
                               const double *weight, double *loss);
/* That the flow has one continuous layer, and may have such pairs. */
nf_status nf_check_flow_matching(const char *function, const nf_flow *flow, nf_pairing pairing);

/* What a step of nf_fit learns from: the rank's rows, in the order of its waves; rng's position is that of the step's first row. */
typedef struct nf_data_step {
    const double *x, *context, *weight;
    nf_objective objective;
    nf_pairing pairing;
    nf_rng rng;
} nf_data_step;

/* A wave of nf_fit: its sums but for rows_weight. Bad rows are told by the workspace. */
nf_status nf_run_data_wave(const nf_flow *flow, nf_workspace *workspace, const nf_data_step *step, const nf_wave *wave, nf_gradient *gradient,
                           nf_shard_sum *sums);

/* ---- gradient_reverse_kl.c */

/* A target, in the caller's floating-point mode. Its status, with a line. */
nf_status nf_call_target(const char *function, nf_target_fn target, void *user, size_t rows, const double *x, double *log_p, double *grad_x);

/* What a step of reverse KL learns from: this rank's contexts, in the order of its waves, and the target; rng's position is that of the step's first sample. */
typedef struct nf_target_step {
    const double *context;
    nf_target_fn target;
    void *user;
    nf_rng rng;
} nf_target_step;

/* A wave of nf_fit_reverse_kl, and all rows of nf_grad_reverse_kl. */
nf_status nf_run_target_wave(const char *function, const nf_flow *flow, nf_workspace *workspace, const nf_target_step *step, const nf_wave *wave,
                             nf_gradient *gradient, nf_shard_sum *sums);

#endif
