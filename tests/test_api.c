/*
 * Bad arguments, one by one, of every function: the status, a line that names the function, the argument and the value, and nothing changed. (Other settings
 * are in test_config.c and test_optimizer.c.)
 */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

enum { DIM = 3, CONTEXT = 2, ROWS = 4 };

/* A flow with context and one without, what belongs to each, and what it all looked like before. */
typedef struct world {
    nf_flow *flow, *plain;
    nf_workspace *ws, *other_ws;
    nf_gradient *gradient, *other_gradient;
    nf_optimizer *optimizer, *other_optimizer;
    nf_mlp *mlp;
    nf_workspace *mlp_ws;
    nf_gradient *mlp_gradient;
    nf_optimizer *mlp_optimizer;
    nf_rng rng;
    double x[ROWS * DIM], context[ROWS * CONTEXT], out[ROWS * DIM], scalar[ROWS], loss;
    double weight[ROWS];
    void *file;
    size_t file_size, count, mlp_count;
    double *sum, *mlp_theta;
} world;

static nf_status zero_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    (void)x;
    memset(log_density, 0, rows * sizeof *log_density);
    memset(gradient, 0, rows * DIM * sizeof *gradient);
    return NF_OK;
}

static nf_status failing_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)rows;
    (void)x;
    (void)log_density;
    (void)gradient;
    return *(const nf_status *)user;
}

static world *make_world(void) {
    world *w = new_bytes(sizeof *w);
    random_source random = random_begin(1);
    w->flow = make_realnvp(DIM, CONTEXT, NF_DOUBLE, NULL);
    w->plain = make_realnvp(DIM, 0, NF_DOUBLE, NULL);
    must(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = DIM, .outputs = DIM, .hidden_width = 4), &w->mlp));
    must(nf_workspace_create(w->flow, 1, &w->ws));
    must(nf_workspace_create(w->plain, 1, &w->other_ws));
    must(nf_mlp_workspace_create(w->mlp, &w->mlp_ws));
    must(nf_gradient_create(w->flow, &w->gradient));
    must(nf_gradient_create(w->plain, &w->other_gradient));
    must(nf_mlp_gradient_create(w->mlp, &w->mlp_gradient));
    must(nf_optimizer_create(w->flow, NULL, &w->optimizer));
    must(nf_optimizer_create(w->plain, NULL, &w->other_optimizer));
    must(nf_mlp_optimizer_create(w->mlp, NULL, &w->mlp_optimizer));
    w->rng = (nf_rng){7, 8, 9};
    for (size_t i = 0; i < ROWS * DIM; i++)
        w->x[i] = random_normal(&random);
    for (size_t i = 0; i < ROWS * CONTEXT; i++)
        w->context[i] = random_normal(&random);
    for (size_t i = 0; i < ROWS; i++)
        w->weight[i] = 1.385;
    w->count = nf_parameter_count(w->flow);
    w->mlp_count = nf_mlp_parameter_count(w->mlp);
    must(nf_grad_nll(w->flow, w->ws, ROWS, w->x, w->context, NULL, w->gradient, NULL));
    w->sum = new_numbers(w->count);
    w->mlp_theta = new_numbers(w->mlp_count);
    must(nf_gradient_get(w->gradient, w->sum));
    must(nf_mlp_get_parameters(w->mlp, w->mlp_theta));
    must(nf_flow_save_memory(w->flow, &w->file, &w->file_size));
    return w;
}

static void free_world(world *w) {
    nf_flow_free(w->flow);
    nf_flow_free(w->plain);
    nf_mlp_free(w->mlp);
    nf_workspace *workspaces[] = {w->ws, w->other_ws, w->mlp_ws};
    nf_gradient *gradients[] = {w->gradient, w->other_gradient, w->mlp_gradient};
    nf_optimizer *optimizers[] = {w->optimizer, w->other_optimizer, w->mlp_optimizer};
    for (int i = 0; i < 3; i++) {
        nf_workspace_free(workspaces[i]);
        nf_gradient_free(gradients[i]);
        nf_optimizer_free(optimizers[i]);
    }
    nf_free(w->file);
    free(w->sum);
    free(w->mlp_theta);
    free(w);
}

static void nothing_changed(const world *w, const char *call) {
    void *file;
    size_t size;
    double *now = new_numbers(w->count), *theta = new_numbers(w->mlp_count);
    must(nf_flow_save_memory(w->flow, &file, &size));
    ck_assert_msg(size == w->file_size && memcmp(file, w->file, size) == 0, "%s changed the flow", call);
    must(nf_gradient_get(w->gradient, now));
    ck_assert_msg(equal_bits(now, w->sum, w->count), "%s changed the gradient", call);
    must(nf_mlp_get_parameters(w->mlp, theta));
    ck_assert_msg(equal_bits(theta, w->mlp_theta, w->mlp_count), "%s changed the net", call);
    ck_assert_msg(w->rng.seed == 7 && w->rng.stream == 8 && w->rng.position == 9, "%s changed the generator", call);
    nf_free(file);
    free(now);
    free(theta);
}

/* A call that must answer `status` and say `text`, and change nothing of the world `w`. */
#define refused(status, function, text, call)                                                                                            \
    do {                                                                                                                                  \
        must_be(status, call);                                                                                                            \
        must_say(function, text);                                                                                                         \
        nothing_changed(w, #call);                                                                                                        \
    } while (0)

#define BEGIN world *w = make_world()
#define END free_world(w)

/* ---- evaluating ---- */

START_TEST(evaluation) {
    BEGIN;
    const size_t endless = SIZE_MAX / 8;
    refused(NF_ERR_ARGUMENT, "nf_forward", "flow is NULL", nf_forward(NULL, w->ws, ROWS, w->x, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_forward", "z is NULL", nf_forward(w->flow, w->ws, ROWS, NULL, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_forward", "context is NULL", nf_forward(w->flow, w->ws, ROWS, w->x, NULL, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_forward", "context is not NULL", nf_forward(w->plain, NULL, ROWS, w->x, w->context, w->out, NULL));
    refused(NF_ERR_MISMATCH, "nf_forward", "ws belongs to another flow", nf_forward(w->flow, w->other_ws, ROWS, w->x, w->context, w->out, NULL));
    refused(NF_ERR_MISMATCH, "nf_forward", "ws belongs to another flow", nf_forward(w->flow, w->mlp_ws, ROWS, w->x, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_forward", "rows is", nf_forward(w->flow, w->ws, endless, w->x, w->context, w->out, NULL));

    refused(NF_ERR_ARGUMENT, "nf_inverse", "flow is NULL", nf_inverse(NULL, w->ws, ROWS, w->x, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_inverse", "x is NULL", nf_inverse(w->flow, w->ws, ROWS, NULL, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_inverse", "context is NULL", nf_inverse(w->flow, w->ws, ROWS, w->x, NULL, w->out, NULL));
    refused(NF_ERR_MISMATCH, "nf_inverse", "ws", nf_inverse(w->flow, w->other_ws, ROWS, w->x, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_inverse", "rows is", nf_inverse(w->flow, w->ws, endless, w->x, w->context, w->out, NULL));

    refused(NF_ERR_ARGUMENT, "nf_log_prob", "flow is NULL", nf_log_prob(NULL, w->ws, ROWS, w->x, w->context, w->scalar));
    refused(NF_ERR_ARGUMENT, "nf_log_prob", "x is NULL", nf_log_prob(w->flow, w->ws, ROWS, NULL, w->context, w->scalar));
    refused(NF_ERR_ARGUMENT, "nf_log_prob", "context is NULL", nf_log_prob(w->flow, w->ws, ROWS, w->x, NULL, w->scalar));
    refused(NF_ERR_MISMATCH, "nf_log_prob", "ws", nf_log_prob(w->flow, w->other_ws, ROWS, w->x, w->context, w->scalar));
    refused(NF_ERR_ARGUMENT, "nf_log_prob", "rows is", nf_log_prob(w->flow, w->ws, endless, w->x, w->context, w->scalar));

    refused(NF_ERR_ARGUMENT, "nf_sample", "flow is NULL", nf_sample(NULL, w->ws, &w->rng, ROWS, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_sample", "rng is NULL", nf_sample(w->flow, w->ws, NULL, ROWS, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_sample", "context is NULL", nf_sample(w->flow, w->ws, &w->rng, ROWS, NULL, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_sample", "context is not NULL", nf_sample(w->plain, NULL, &w->rng, ROWS, w->context, w->out, NULL));
    refused(NF_ERR_MISMATCH, "nf_sample", "ws", nf_sample(w->flow, w->other_ws, &w->rng, ROWS, w->context, w->out, NULL));
    refused(NF_ERR_ARGUMENT, "nf_sample", "rows is", nf_sample(w->flow, w->ws, &w->rng, endless, w->context, w->out, NULL));

    refused(NF_ERR_ARGUMENT, "nf_score", "flow is NULL", nf_score(NULL, w->ws, ROWS, w->x, w->context, w->scalar, w->out));
    refused(NF_ERR_ARGUMENT, "nf_score", "x is NULL", nf_score(w->flow, w->ws, ROWS, NULL, w->context, w->scalar, w->out));
    refused(NF_ERR_ARGUMENT, "nf_score", "context is NULL", nf_score(w->flow, w->ws, ROWS, w->x, NULL, w->scalar, w->out));
    refused(NF_ERR_MISMATCH, "nf_score", "ws", nf_score(w->flow, w->other_ws, ROWS, w->x, w->context, w->scalar, w->out));
    refused(NF_ERR_ARGUMENT, "nf_score", "rows is", nf_score(w->flow, w->ws, endless, w->x, w->context, w->scalar, w->out));
    END;
}
END_TEST

/* ---- gradients ---- */

START_TEST(gradients) {
    BEGIN;
    double bad_weight[][ROWS] = {{1, NAN, 1, 1}, {1, 1, -0.5, 1}, {INFINITY, 1, 1, 1}, {0, 0, 0, 0}};
    const char *says[] = {"weight[1] is nan", "weight[2] is -0.5", "weight[0] is inf", "sum to 0"};
    refused(NF_ERR_ARGUMENT, "nf_grad_nll", "flow is NULL", nf_grad_nll(NULL, w->ws, ROWS, w->x, w->context, NULL, w->gradient, &w->loss));
    refused(NF_ERR_ARGUMENT, "nf_grad_nll", "rows is 0", nf_grad_nll(w->flow, w->ws, 0, w->x, w->context, NULL, w->gradient, &w->loss));
    refused(NF_ERR_ARGUMENT, "nf_grad_nll", "rows is", nf_grad_nll(w->flow, w->ws, SIZE_MAX, w->x, w->context, NULL, w->gradient, &w->loss));
    refused(NF_ERR_ARGUMENT, "nf_grad_nll", "x is NULL", nf_grad_nll(w->flow, w->ws, ROWS, NULL, w->context, NULL, w->gradient, &w->loss));
    refused(NF_ERR_ARGUMENT, "nf_grad_nll", "context is NULL", nf_grad_nll(w->flow, w->ws, ROWS, w->x, NULL, NULL, w->gradient, &w->loss));
    refused(NF_ERR_ARGUMENT, "nf_grad_nll", "gradient is NULL", nf_grad_nll(w->flow, w->ws, ROWS, w->x, w->context, NULL, NULL, &w->loss));
    refused(NF_ERR_MISMATCH, "nf_grad_nll", "ws", nf_grad_nll(w->flow, w->other_ws, ROWS, w->x, w->context, NULL, w->gradient, &w->loss));
    refused(NF_ERR_MISMATCH, "nf_grad_nll", "gradient", nf_grad_nll(w->flow, w->ws, ROWS, w->x, w->context, NULL, w->other_gradient, &w->loss));
    refused(NF_ERR_MISMATCH, "nf_grad_nll", "gradient", nf_grad_nll(w->flow, w->ws, ROWS, w->x, w->context, NULL, w->mlp_gradient, &w->loss));
    for (size_t i = 0; i < 4; i++)
        refused(NF_ERR_ARGUMENT, "nf_grad_nll", says[i], nf_grad_nll(w->flow, w->ws, ROWS, w->x, w->context, bad_weight[i], w->gradient, &w->loss));

    nf_status own = NF_ERR_IO;
    refused(NF_ERR_ARGUMENT, "nf_grad_reverse_kl", "flow is NULL", nf_grad_reverse_kl(NULL, w->ws, &w->rng, ROWS, w->context, zero_target, NULL, w->gradient, NULL));
    refused(NF_ERR_ARGUMENT, "nf_grad_reverse_kl", "rng is NULL", nf_grad_reverse_kl(w->flow, w->ws, NULL, ROWS, w->context, zero_target, NULL, w->gradient, NULL));
    refused(NF_ERR_ARGUMENT, "nf_grad_reverse_kl", "rows is 0", nf_grad_reverse_kl(w->flow, w->ws, &w->rng, 0, w->context, zero_target, NULL, w->gradient, NULL));
    refused(NF_ERR_ARGUMENT, "nf_grad_reverse_kl", "context is NULL", nf_grad_reverse_kl(w->flow, w->ws, &w->rng, ROWS, NULL, zero_target, NULL, w->gradient, NULL));
    refused(NF_ERR_ARGUMENT, "nf_grad_reverse_kl", "target is NULL", nf_grad_reverse_kl(w->flow, w->ws, &w->rng, ROWS, w->context, NULL, NULL, w->gradient, NULL));
    refused(NF_ERR_ARGUMENT, "nf_grad_reverse_kl", "gradient is NULL", nf_grad_reverse_kl(w->flow, w->ws, &w->rng, ROWS, w->context, zero_target, NULL, NULL, NULL));
    refused(NF_ERR_MISMATCH, "nf_grad_reverse_kl", "ws", nf_grad_reverse_kl(w->flow, w->other_ws, &w->rng, ROWS, w->context, zero_target, NULL, w->gradient, NULL));
    refused(NF_ERR_MISMATCH, "nf_grad_reverse_kl", "gradient", nf_grad_reverse_kl(w->flow, w->ws, &w->rng, ROWS, w->context, zero_target, NULL, w->other_gradient, NULL));
    must_be(NF_ERR_IO, nf_grad_reverse_kl(w->flow, w->ws, &w->rng, ROWS, w->context, failing_target, &own, w->gradient, NULL));
    must_say("nf_grad_reverse_kl", "the target returned NF_ERR_IO (-6)");
    nothing_changed(w, "a target that fails");
    own = (nf_status)-123;
    must_be(own, nf_grad_reverse_kl(w->flow, w->ws, &w->rng, ROWS, w->context, failing_target, &own, w->gradient, NULL));
    must_say("nf_grad_reverse_kl", "the target returned unknown status (-123)");
    nothing_changed(w, "a target that fails in its own way");
    own = NF_STOPPED;
    must_be(NF_STOPPED, nf_grad_reverse_kl(w->flow, w->ws, &w->rng, ROWS, w->context, failing_target, &own, w->gradient, NULL));
    nothing_changed(w, "a target that stops");

    refused(NF_ERR_ARGUMENT, "nf_forward_vjp", "flow is NULL", nf_forward_vjp(NULL, w->ws, ROWS, w->x, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_forward_vjp", "rows is 0", nf_forward_vjp(w->flow, w->ws, 0, w->x, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_forward_vjp", "z is NULL", nf_forward_vjp(w->flow, w->ws, ROWS, NULL, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_forward_vjp", "context is NULL", nf_forward_vjp(w->flow, w->ws, ROWS, w->x, NULL, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_MISMATCH, "nf_forward_vjp", "ws", nf_forward_vjp(w->flow, w->other_ws, ROWS, w->x, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_MISMATCH, "nf_forward_vjp", "gradient", nf_forward_vjp(w->flow, w->ws, ROWS, w->x, w->context, w->x, NULL, w->out, NULL, w->other_gradient));
    refused(NF_ERR_ARGUMENT, "nf_inverse_vjp", "flow is NULL", nf_inverse_vjp(NULL, w->ws, ROWS, w->x, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_inverse_vjp", "rows is 0", nf_inverse_vjp(w->flow, w->ws, 0, w->x, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_inverse_vjp", "x is NULL", nf_inverse_vjp(w->flow, w->ws, ROWS, NULL, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_inverse_vjp", "context is not NULL", nf_inverse_vjp(w->plain, NULL, ROWS, w->x, w->context, w->x, NULL, w->out, NULL, NULL));
    refused(NF_ERR_MISMATCH, "nf_inverse_vjp", "ws", nf_inverse_vjp(w->flow, w->other_ws, ROWS, w->x, w->context, w->x, NULL, w->out, NULL, w->gradient));
    refused(NF_ERR_MISMATCH, "nf_inverse_vjp", "gradient", nf_inverse_vjp(w->flow, w->ws, ROWS, w->x, w->context, w->x, NULL, w->out, NULL, w->other_gradient));
    END;
}
END_TEST

START_TEST(handles_of_training) {
    BEGIN;
    nf_gradient *gradient = w->gradient;
    nf_optimizer *optimizer = w->optimizer;
    nf_workspace *ws = w->ws;
    refused(NF_ERR_ARGUMENT, "nf_gradient_create", "flow is NULL", nf_gradient_create(NULL, &gradient));
    refused(NF_ERR_ARGUMENT, "nf_gradient_create", "gradient is NULL", nf_gradient_create(w->flow, NULL));
    refused(NF_ERR_ARGUMENT, "nf_gradient_zero", "gradient is NULL", nf_gradient_zero(NULL));
    refused(NF_ERR_ARGUMENT, "nf_gradient_get", "gradient is NULL", nf_gradient_get(NULL, w->out));
    refused(NF_ERR_ARGUMENT, "nf_gradient_get", "out is NULL", nf_gradient_get(w->gradient, NULL));
    refused(NF_ERR_ARGUMENT, "nf_gradient_set", "gradient is NULL", nf_gradient_set(NULL, w->out));
    refused(NF_ERR_ARGUMENT, "nf_gradient_set", "in is NULL", nf_gradient_set(w->gradient, NULL));
    refused(NF_ERR_ARGUMENT, "nf_optimizer_create", "flow is NULL", nf_optimizer_create(NULL, NULL, &optimizer));
    refused(NF_ERR_ARGUMENT, "nf_optimizer_create", "optimizer is NULL", nf_optimizer_create(w->flow, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_optimizer_step", "optimizer is NULL", nf_optimizer_step(NULL, w->flow, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_optimizer_step", "flow is NULL", nf_optimizer_step(w->optimizer, NULL, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_optimizer_step", "gradient is NULL", nf_optimizer_step(w->optimizer, w->flow, NULL));
    refused(NF_ERR_MISMATCH, "nf_optimizer_step", "optimizer belongs", nf_optimizer_step(w->other_optimizer, w->flow, w->gradient));
    refused(NF_ERR_MISMATCH, "nf_optimizer_step", "gradient belongs", nf_optimizer_step(w->optimizer, w->flow, w->other_gradient));
    refused(NF_ERR_MISMATCH, "nf_optimizer_step", "optimizer belongs", nf_optimizer_step(w->mlp_optimizer, w->flow, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_workspace_create", "flow is NULL", nf_workspace_create(NULL, 1, &ws));
    refused(NF_ERR_ARGUMENT, "nf_workspace_create", "workspace is NULL", nf_workspace_create(w->flow, 1, NULL));
    refused(NF_ERR_ARGUMENT, "nf_workspace_create", "threads is 1000000", nf_workspace_create(w->flow, 1000000, &ws));
    ck_assert(!gradient && !optimizer && !ws);
    nf_stats stats = {.struct_size = sizeof stats - 1};
    refused(NF_ERR_ARGUMENT, "nf_workspace_stats", "struct_size", nf_workspace_stats(w->ws, &stats));
    refused(NF_ERR_ARGUMENT, "nf_workspace_stats", "stats is NULL", nf_workspace_stats(w->ws, NULL));
    stats.struct_size = sizeof stats;
    refused(NF_ERR_ARGUMENT, "nf_workspace_stats", "workspace is NULL", nf_workspace_stats(NULL, &stats));
    END;
}
END_TEST

/* ---- flows ---- */

START_TEST(flows) {
    BEGIN;
    nf_flow *flow = w->flow;
    const size_t good[] = {2, 0, 1}, twice[] = {0, 1, 1}, beyond[] = {0, 1, 3};
    const double bad_sd[][DIM] = {{1, 0, 1}, {1, -1, 1}, {1, NAN, 1}, {1, INFINITY, 1}}, bad_mean[DIM] = {0, 0, NAN};
    refused(NF_ERR_ARGUMENT, "nf_flow_create", "dim is 0", nf_flow_create(0, 0, NF_DOUBLE, &flow));
    refused(NF_ERR_ARGUMENT, "nf_flow_create", "precision is 7", nf_flow_create(2, 0, (nf_precision)7, &flow));
    refused(NF_ERR_ARGUMENT, "nf_flow_create", "flow is NULL", nf_flow_create(2, 0, NF_DOUBLE, NULL));
    refused(NF_ERR_ARGUMENT, "nf_flow_create_with", "dim is 0", nf_flow_create_with(0, 0, NF_DOUBLE, &flow, NULL));
    refused(NF_ERR_ARGUMENT, "nf_permutation_create", "source is NULL", nf_permutation_create(3, NULL, NF_DOUBLE, &flow));
    refused(NF_ERR_ARGUMENT, "nf_permutation_create", "flow is NULL", nf_permutation_create(3, good, NF_DOUBLE, NULL));
    refused(NF_ERR_ARGUMENT, "nf_permutation_create", "dim is 0", nf_permutation_create(0, good, NF_DOUBLE, &flow));
    refused(NF_ERR_ARGUMENT, "nf_permutation_create", "dim is", nf_permutation_create(SIZE_MAX, good, NF_DOUBLE, &flow));
    refused(NF_ERR_ARGUMENT, "nf_permutation_create", "precision is -1", nf_permutation_create(3, good, (nf_precision)-1, &flow));
    refused(NF_ERR_ARGUMENT, "nf_permutation_create", "1 twice", nf_permutation_create(3, twice, NF_DOUBLE, &flow));
    refused(NF_ERR_ARGUMENT, "nf_permutation_create", "source[2] is 3", nf_permutation_create(3, beyond, NF_DOUBLE, &flow));
    refused(NF_ERR_ARGUMENT, "nf_affine_create", "dim is 0", nf_affine_create(0, NF_DOUBLE, &flow));
    refused(NF_ERR_ARGUMENT, "nf_affine_create", "precision is 2", nf_affine_create(2, (nf_precision)2, &flow));
    refused(NF_ERR_ARGUMENT, "nf_affine_create", "flow is NULL", nf_affine_create(2, NF_DOUBLE, NULL));
    refused(NF_ERR_ARGUMENT, "nf_affine_standardize", "affine is NULL", nf_affine_standardize(NULL, ROWS, w->x));
    refused(NF_ERR_ARGUMENT, "nf_affine_standardize", "x is NULL", nf_affine_standardize(w->flow, ROWS, NULL));
    refused(NF_ERR_ARGUMENT, "nf_affine_standardize", "affine", nf_affine_standardize(w->flow, ROWS, w->x));
    refused(NF_ERR_ARGUMENT, "nf_flow_append", "flow is NULL", nf_flow_append(NULL, w->flow));
    refused(NF_ERR_ARGUMENT, "nf_flow_append", "part is NULL", nf_flow_append(w->flow, NULL));
    refused(NF_ERR_ARGUMENT, "nf_flow_append", "part is the flow itself", nf_flow_append(w->flow, w->flow));
    refused(NF_ERR_ARGUMENT, "nf_flow_invert", "flow is NULL", nf_flow_invert(NULL));
    refused(NF_ERR_ARGUMENT, "nf_flow_set_base_normal", "flow is NULL", nf_flow_set_base_normal(NULL, NULL, NULL));
    for (size_t i = 0; i < 4; i++)
        refused(NF_ERR_ARGUMENT, "nf_flow_set_base_normal", "sd[1] is", nf_flow_set_base_normal(w->flow, NULL, bad_sd[i]));
    refused(NF_ERR_ARGUMENT, "nf_flow_set_base_normal", "mean[2] is nan", nf_flow_set_base_normal(w->flow, bad_mean, NULL));
    flow = w->flow;
    refused(NF_ERR_ARGUMENT, "nf_flow_clone", "flow is NULL", nf_flow_clone(NULL, &flow));
    ck_assert_ptr_null(flow);
    refused(NF_ERR_ARGUMENT, "nf_flow_clone", "copy is NULL", nf_flow_clone(w->flow, NULL));
    flow = w->flow;
    refused(NF_ERR_ARGUMENT, "nf_flow_convert", "flow is NULL", nf_flow_convert(NULL, NF_SINGLE, &flow));
    ck_assert_ptr_null(flow);
    refused(NF_ERR_ARGUMENT, "nf_flow_convert", "copy is NULL", nf_flow_convert(w->flow, NF_SINGLE, NULL));
    refused(NF_ERR_ARGUMENT, "nf_flow_convert", "precision is 5", nf_flow_convert(w->flow, (nf_precision)5, &flow));
    ck_assert_ptr_null(flow);
    END;
}
END_TEST

START_TEST(parameters) {
    BEGIN;
    double *theta = new_numbers(w->count);
    nf_tensor info = {.struct_size = sizeof info};
    must(nf_get_parameters(w->flow, theta));
    const double kept = theta[5];
    refused(NF_ERR_ARGUMENT, "nf_get_parameters", "flow is NULL", nf_get_parameters(NULL, theta));
    refused(NF_ERR_ARGUMENT, "nf_get_parameters", "out is NULL", nf_get_parameters(w->flow, NULL));
    refused(NF_ERR_ARGUMENT, "nf_set_parameters", "flow is NULL", nf_set_parameters(NULL, theta));
    refused(NF_ERR_ARGUMENT, "nf_set_parameters", "in is NULL", nf_set_parameters(w->flow, NULL));
    theta[0] += 1; /* all or nothing */
    theta[5] = NAN;
    refused(NF_ERR_ARGUMENT, "nf_set_parameters", "in[5] is nan", nf_set_parameters(w->flow, theta));
    theta[5] = -INFINITY;
    refused(NF_ERR_ARGUMENT, "nf_set_parameters", "in[5] is -inf", nf_set_parameters(w->flow, theta));
    theta[5] = 1e300;
    nf_flow *single, *wide;
    must(nf_flow_convert(w->flow, NF_SINGLE, &single));
    refused(NF_ERR_ARGUMENT, "nf_set_parameters", "in[5] is 1e+300", nf_set_parameters(single, theta));
    must(nf_flow_clone(w->flow, &wide));
    must(nf_set_parameters(wide, theta));
    nf_flow *copy = wide;
    refused(NF_ERR_ARGUMENT, "nf_flow_convert", "not finite in the precision", nf_flow_convert(wide, NF_SINGLE, &copy));
    ck_assert_ptr_null(copy);
    nf_flow *loose;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .scale_clamp = 1e300), &loose));
    refused(NF_ERR_ARGUMENT, "nf_flow_convert", "clamp is 1e+300, beyond single", nf_flow_convert(loose, NF_SINGLE, &copy));
    nf_flow_free(loose);
    theta[5] = kept;
    refused(NF_ERR_ARGUMENT, "nf_tensor_info", "flow is NULL", nf_tensor_info(NULL, 0, &info));
    refused(NF_ERR_ARGUMENT, "nf_tensor_info", "info is NULL", nf_tensor_info(w->flow, 0, NULL));
    refused(NF_ERR_ARGUMENT, "nf_tensor_info", "index is 99", nf_tensor_info(w->flow, 99, &info));
    info.struct_size = sizeof info - 8;
    refused(NF_ERR_ARGUMENT, "nf_tensor_info", "struct_size", nf_tensor_info(w->flow, 0, &info));
    nf_flow_free(single);
    nf_flow_free(wide);
    free(theta);
    END;
}
END_TEST

/* ---- fits ---- */

static nf_status no_rows(void *user, size_t count, const size_t *row, double *x, double *context) {
    (void)user, (void)count, (void)row, (void)x, (void)context;
    return NF_ERR_IO;
}

START_TEST(fit_configs) {
    BEGIN;
    const double weight[] = {1, -1, 1, 1}, other[] = {1, 1, INFINITY, 1};
    const nf_comm small = {.struct_size = 8}, nobody = {.struct_size = sizeof nobody}, deaf = {.struct_size = sizeof deaf, .size = 2};
    const nf_comm beyond = {.struct_size = sizeof beyond, .rank = 1, .size = 1}, quick = {.struct_size = sizeof quick, .size = 1, .fast = 2};
    const nf_comm reserved = {.struct_size = sizeof reserved, .size = 1, .reserved = 1};
    const nf_optimizer_config optimizer = {.struct_size = sizeof optimizer, .kind = (nf_optimizer_kind)9};
    const struct {
        const char *says;
        nf_status status;
        nf_fit_config config;
    } cases[] = {
        {"schedule is 3", NF_ERR_ARGUMENT, {.schedule = (nf_schedule)3}},
        {"0 continuous layers", NF_ERR_ARGUMENT, {.objective = NF_OBJECTIVE_FLOW_MATCHING}},
        {"objective is 2", NF_ERR_ARGUMENT, {.objective = (nf_objective)2}},
        {"checkpoint is an empty path", NF_ERR_ARGUMENT, {.checkpoint = ""}},
        {"struct_size is 8", NF_ERR_ARGUMENT, {.comm = &small}},
        {"comm: rank 0 of 0", NF_ERR_ARGUMENT, {.comm = &nobody}},
        {"comm: rank 1 of 1", NF_ERR_ARGUMENT, {.comm = &beyond}},
        {"allgather is NULL", NF_ERR_ARGUMENT, {.comm = &deaf}},
        {"fast is 2", NF_ERR_ARGUMENT, {.comm = &quick}},
        {"reserved is 1", NF_ERR_ARGUMENT, {.comm = &reserved}},
        {"x is not NULL", NF_ERR_ARGUMENT, {.read = no_rows}},
        {"ema_decay is 1", NF_ERR_ARGUMENT, {.ema_decay = 1}},
        {"ema_decay is nan", NF_ERR_ARGUMENT, {.ema_decay = NAN}},
        {"noise is nan", NF_ERR_ARGUMENT, {.noise = NAN}},
        {"noise is inf", NF_ERR_ARGUMENT, {.noise = INFINITY}},
        {"contamination is 1.5", NF_ERR_ARGUMENT, {.contamination = 1.5}},
        {"contamination is nan", NF_ERR_ARGUMENT, {.contamination = NAN}},
        {"schedule_factor is 1.5", NF_ERR_ARGUMENT, {.schedule_factor = 1.5}},
        {"schedule_factor is nan", NF_ERR_ARGUMENT, {.schedule_factor = NAN}},
        {"validation_fraction is 1", NF_ERR_ARGUMENT, {.validation_fraction = 1}},
        {"validation_fraction is nan", NF_ERR_ARGUMENT, {.validation_fraction = NAN}},
        {"weight[1] is -1", NF_ERR_ARGUMENT, {.weight = weight}},
        {"weight[2] is inf", NF_ERR_ARGUMENT, {.weight = other}},
        {"validation_x is NULL", NF_ERR_ARGUMENT, {.validation_rows = 2}},
        {"validation_context is NULL, and the flow takes 2 columns", NF_ERR_ARGUMENT, {.validation_rows = 2, .validation_x = w->x}},
        {"validation_weight[1] is -1", NF_ERR_ARGUMENT, {.validation_rows = 2, .validation_x = w->x, .validation_context = w->context, .validation_weight = weight}},
        {"validation_rows is 0 with a validation_weight", NF_ERR_ARGUMENT, {.validation_weight = w->x}},
        {"validation_rows is 0 with a validation_weight", NF_ERR_ARGUMENT, {.validation_x = w->x, .validation_weight = w->x}},
        {"validation_rows is 0 with a validation_context", NF_ERR_ARGUMENT, {.validation_context = w->context}},
        {"pairing is 2", NF_ERR_ARGUMENT, {.pairing = (nf_pairing)2}},
        {"threads is", NF_ERR_ARGUMENT, {.threads = SIZE_MAX}},
        {"config->optimizer->kind is 9", NF_ERR_ARGUMENT, {.optimizer = &optimizer}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nf_fit_config config = cases[i].config;
        config.struct_size = sizeof config;
        refused(cases[i].status, "nf_fit", cases[i].says, nf_fit(w->flow, ROWS, w->x, w->context, &config, NULL));
    }
    nf_fit_report report = {.struct_size = offsetof(nf_fit_report, rhs_evaluations) - 1};
    must_be(NF_ERR_ARGUMENT, nf_fit(w->flow, ROWS, w->x, w->context, NF_CONFIG(nf_fit_config, .threads = 5000), NULL));
    ck_assert_str_eq(nf_last_error(), "nf_fit: threads is 5000, at most 4096 make sense");
    /* The optimizer's settings by their place in the fit's. */
    must_be(NF_ERR_ARGUMENT, nf_fit(w->flow, ROWS, w->x, w->context, NF_CONFIG(nf_fit_config, .optimizer = &optimizer), NULL));
    ck_assert_str_eq(nf_last_error(), "nf_fit: config->optimizer->kind is 9, which is none");
    refused(NF_ERR_ARGUMENT, "nf_fit", "flow is NULL", nf_fit(NULL, ROWS, w->x, w->context, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "rows is 0", nf_fit(w->flow, 0, w->x, w->context, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "more than memory can hold", nf_fit(w->flow, SIZE_MAX / 8, w->x, w->context, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "more than memory can hold",
            nf_fit(w->flow, SIZE_MAX, NULL, NULL, NF_CONFIG(nf_fit_config, .read = no_rows), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "config->validation_rows",
            nf_fit(w->flow, ROWS, w->x, w->context,
                   NF_CONFIG(nf_fit_config, .validation_rows = SIZE_MAX / 8, .validation_x = w->x, .validation_context = w->context), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "config->validation_context is not NULL, and the flow takes none",
            nf_fit(w->plain, ROWS, w->x, NULL,
                   NF_CONFIG(nf_fit_config, .validation_rows = 2, .validation_x = w->x, .validation_context = w->context), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "x is NULL", nf_fit(w->flow, ROWS, NULL, w->context, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "context is NULL", nf_fit(w->flow, ROWS, w->x, NULL, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "context is not NULL", nf_fit(w->plain, ROWS, w->x, w->context, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit", "report->struct_size", nf_fit(w->flow, ROWS, w->x, w->context, NULL, &report));
    END;
}
END_TEST

START_TEST(reverse_kl_configs) {
    BEGIN;
    const nf_optimizer_config old = {.struct_size = 8};
    const double *const context = w->context;
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(w->plain, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .threads = 5000), NULL));
    ck_assert_str_eq(nf_last_error(), "nf_fit_reverse_kl: threads is 5000, at most 4096 make sense");
    must_be(NF_ERR_ARGUMENT, nf_fit_reverse_kl(w->plain, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .optimizer = &old), NULL));
    ck_assert_ptr_eq(strstr(nf_last_error(), "nf_fit_reverse_kl: config->optimizer->struct_size is 8"), nf_last_error());
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "flow is NULL", nf_fit_reverse_kl(NULL, zero_target, NULL, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "target is NULL", nf_fit_reverse_kl(w->flow, NULL, NULL, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "context", nf_fit_reverse_kl(w->flow, zero_target, NULL, NULL, NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "config->samples is",
            nf_fit_reverse_kl(w->flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .samples = NF_NONE, .context = context), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "config->samples is",
            nf_fit_reverse_kl(w->plain, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .samples = NF_NONE), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "schedule is -1",
            nf_fit_reverse_kl(w->flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .schedule = (nf_schedule)-1, .context = context), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "beta_start is 2",
            nf_fit_reverse_kl(w->flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .beta_start = 2, .context = context), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "ema_decay is 1",
            nf_fit_reverse_kl(w->flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .ema_decay = 1, .context = context), NULL));
    refused(NF_ERR_ARGUMENT, "nf_fit_reverse_kl", "reserved is 2",
            nf_fit_reverse_kl(w->flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .reserved = 2, .context = context), NULL));
    END;
}
END_TEST

/* ---- nets, files, and what cannot fail ---- */

START_TEST(nets) {
    BEGIN;
    nf_mlp *mlp = w->mlp;
    nf_workspace *ws = w->ws;
    nf_gradient *gradient = w->gradient;
    nf_optimizer *optimizer = w->optimizer;
    refused(NF_ERR_ARGUMENT, "nf_mlp_create", "inputs is 0", nf_mlp_create(NF_CONFIG(nf_mlp_config, .outputs = 1), &mlp));
    ck_assert_ptr_null(mlp);
    refused(NF_ERR_ARGUMENT, "nf_mlp_create", "outputs 0", nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 1), &mlp));
    refused(NF_ERR_ARGUMENT, "nf_mlp_create", "precision is 2", nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 1, .outputs = 1, .precision = (nf_precision)2), &mlp));
    refused(NF_ERR_ARGUMENT, "nf_mlp_create", "activation is 9", nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 1, .outputs = 1, .activation = (nf_activation)9), &mlp));
    refused(NF_ERR_ARGUMENT, "nf_mlp_create", "output_scale is nan", nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 1, .outputs = 1, .output_scale = NAN), &mlp));
    refused(NF_ERR_ARGUMENT, "nf_mlp_create", "mlp is NULL", nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 1, .outputs = 1), NULL));
    refused(NF_ERR_ARGUMENT, "nf_mlp_get_parameters", "mlp is NULL", nf_mlp_get_parameters(NULL, w->out));
    refused(NF_ERR_ARGUMENT, "nf_mlp_get_parameters", "out is NULL", nf_mlp_get_parameters(w->mlp, NULL));
    refused(NF_ERR_ARGUMENT, "nf_mlp_set_parameters", "mlp is NULL", nf_mlp_set_parameters(NULL, w->out));
    refused(NF_ERR_ARGUMENT, "nf_mlp_set_parameters", "in is NULL", nf_mlp_set_parameters(w->mlp, NULL));
    refused(NF_ERR_ARGUMENT, "nf_mlp_workspace_create", "mlp is NULL", nf_mlp_workspace_create(NULL, &ws));
    refused(NF_ERR_ARGUMENT, "nf_mlp_gradient_create", "mlp is NULL", nf_mlp_gradient_create(NULL, &gradient));
    refused(NF_ERR_ARGUMENT, "nf_mlp_optimizer_create", "mlp is NULL", nf_mlp_optimizer_create(NULL, NULL, &optimizer));
    ck_assert(!ws && !gradient && !optimizer);
    refused(NF_ERR_ARGUMENT, "nf_mlp_forward", "mlp is NULL", nf_mlp_forward(NULL, w->mlp_ws, ROWS, w->x, w->out));
    refused(NF_ERR_ARGUMENT, "nf_mlp_forward", "x is NULL", nf_mlp_forward(w->mlp, w->mlp_ws, ROWS, NULL, w->out));
    refused(NF_ERR_ARGUMENT, "nf_mlp_forward", "rows is", nf_mlp_forward(w->mlp, w->mlp_ws, SIZE_MAX / 4, w->x, w->out));
    refused(NF_ERR_MISMATCH, "nf_mlp_forward", "ws", nf_mlp_forward(w->mlp, w->ws, ROWS, w->x, w->out));
    refused(NF_ERR_ARGUMENT, "nf_mlp_vjp", "grad_y is NULL", nf_mlp_vjp(w->mlp, w->mlp_ws, ROWS, w->x, NULL, NULL, w->out, w->mlp_gradient));
    refused(NF_ERR_ARGUMENT, "nf_mlp_vjp", "rows is 0", nf_mlp_vjp(w->mlp, w->mlp_ws, 0, w->x, w->x, NULL, w->out, w->mlp_gradient));
    refused(NF_ERR_MISMATCH, "nf_mlp_vjp", "gradient", nf_mlp_vjp(w->mlp, w->mlp_ws, ROWS, w->x, w->x, NULL, w->out, w->gradient));
    refused(NF_ERR_MISMATCH, "nf_mlp_step", "optimizer", nf_mlp_step(w->optimizer, w->mlp, w->mlp_gradient));
    refused(NF_ERR_MISMATCH, "nf_mlp_step", "gradient", nf_mlp_step(w->mlp_optimizer, w->mlp, w->gradient));
    refused(NF_ERR_ARGUMENT, "nf_mlp_step", "optimizer is NULL", nf_mlp_step(NULL, w->mlp, w->mlp_gradient));
    refused(NF_ERR_ARGUMENT, "nf_mlp_step", "mlp is NULL", nf_mlp_step(w->mlp_optimizer, NULL, w->mlp_gradient));
    refused(NF_ERR_ARGUMENT, "nf_mlp_step", "gradient is NULL", nf_mlp_step(w->mlp_optimizer, w->mlp, NULL));
    END;
}
END_TEST

START_TEST(file_arguments) {
    BEGIN;
    nf_flow *flow = w->flow;
    void *bytes = w;
    size_t size;
    refused(NF_ERR_ARGUMENT, "nf_flow_save", "flow is NULL", nf_flow_save(NULL, "no-such-file"));
    refused(NF_ERR_ARGUMENT, "nf_flow_save", "path is NULL", nf_flow_save(w->flow, NULL));
    refused(NF_ERR_IO, "nf_flow_save", "no-such-folder", nf_flow_save(w->flow, "no-such-folder/file"));
    refused(NF_ERR_ARGUMENT, "nf_flow_save_memory", "flow is NULL", nf_flow_save_memory(NULL, &bytes, &size));
    ck_assert_ptr_null(bytes);
    refused(NF_ERR_ARGUMENT, "nf_flow_save_memory", "bytes is NULL", nf_flow_save_memory(w->flow, NULL, &size));
    refused(NF_ERR_ARGUMENT, "nf_flow_save_memory", "size is NULL", nf_flow_save_memory(w->flow, &bytes, NULL));
    refused(NF_ERR_ARGUMENT, "nf_flow_load", "path is NULL", nf_flow_load(NULL, &flow));
    ck_assert_ptr_null(flow);
    refused(NF_ERR_ARGUMENT, "nf_flow_load", "flow is NULL", nf_flow_load("no-such-file", NULL));
    refused(NF_ERR_IO, "nf_flow_load", "no-such-file", nf_flow_load("no-such-file", &flow));
    refused(NF_ERR_IO, "nf_flow_load_with", "no-such-file", nf_flow_load_with("no-such-file", &flow, NULL));
    refused(NF_ERR_ARGUMENT, "nf_flow_load_memory", "bytes is NULL", nf_flow_load_memory(NULL, 5, &flow));
    refused(NF_ERR_ARGUMENT, "nf_flow_load_memory", "flow is NULL", nf_flow_load_memory("", 0, NULL));
    refused(NF_ERR_FORMAT, "nf_flow_load_memory", "", nf_flow_load_memory("", 0, &flow));
    refused(NF_ERR_FORMAT, "nf_flow_load_memory_with", "", nf_flow_load_memory_with("12345678", 8, &flow, NULL));
    END;
}
END_TEST

typedef struct {
    int calls, sound; /* so many calls give rows */
    nf_status then;
} few_rows;

static nf_status read_few(void *user, size_t count, const size_t *row, double *x, double *context) {
    few_rows *f = user;
    (void)context;
    for (size_t i = 0; i < 2 * count; i++)
        x[i] = sin(2.385 * (double)(2 * row[i / 2] + i % 2));
    return f->calls++ < f->sound ? NF_OK : f->then;
}

/* Whichever call it is, and whatever status, the report says that the callback ended the fit. */
START_TEST(a_reader_ends_a_fit) {
    static const nf_status statuses[] = {(nf_status)-77, NF_ERR_ROWS, NF_ERR_IO, NF_STOPPED, NF_ERR_DIVERGED};
    const nf_status then = statuses[_i];
    few_rows all = {0, 1000, NF_OK};
    nf_fit_config config = {.struct_size = sizeof config, .epochs = 2, .batch_size = 16, .read = read_few, .read_user = &all};
    nf_fit_report report = {.struct_size = sizeof report};
    nf_flow *flow;
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2), &flow));
    must(nf_fit(flow, 40, NULL, NULL, &config, &report));
    ck_assert_int_eq(report.stop_reason, NF_STOP_EPOCHS);
    for (int sound = 0; sound < all.calls; sound++) {
        few_rows few = {0, sound, then};
        config.read_user = &few;
        must_be(then, nf_fit(flow, 40, NULL, NULL, &config, &report));
        ck_assert_int_eq(report.stop_reason, then == NF_ERR_DIVERGED ? NF_STOP_DIVERGED : NF_STOP_CALLBACK);
    }
    nf_flow_free(flow);
}
END_TEST

START_TEST(null_is_nothing) {
    nf_flow_free(NULL);
    nf_workspace_free(NULL);
    nf_gradient_free(NULL);
    nf_optimizer_free(NULL);
    nf_mlp_free(NULL);
    nf_free(NULL);
    ck_assert_uint_eq(nf_flow_dim(NULL), 0);
    ck_assert_uint_eq(nf_flow_context_dim(NULL), 0);
    ck_assert_uint_eq(nf_flow_layer_count(NULL), 0);
    ck_assert_uint_eq(nf_parameter_count(NULL), 0);
    ck_assert_uint_eq(nf_mlp_parameter_count(NULL), 0);
    ck_assert_uint_eq(nf_tensor_count(NULL), 0);
    ck_assert_int_eq(nf_flow_precision(NULL), NF_DOUBLE);
    ck_assert_str_eq(nf_flow_isa(NULL), "");
}
END_TEST

START_TEST(names_and_versions) {
    const struct {
        nf_status status;
        int value;
        const char *name;
    } statuses[] = {{NF_OK, 0, "NF_OK"},
                    {NF_STOPPED, 1, "NF_STOPPED"},
                    {NF_ERR_ARGUMENT, -1, "NF_ERR_ARGUMENT"},
                    {NF_ERR_MEMORY, -2, "NF_ERR_MEMORY"},
                    {NF_ERR_ROWS, -3, "NF_ERR_ROWS"},
                    {NF_ERR_MISMATCH, -4, "NF_ERR_MISMATCH"},
                    {NF_ERR_UNSUPPORTED, -5, "NF_ERR_UNSUPPORTED"},
                    {NF_ERR_IO, -6, "NF_ERR_IO"},
                    {NF_ERR_FORMAT, -7, "NF_ERR_FORMAT"},
                    {NF_ERR_DIVERGED, -8, "NF_ERR_DIVERGED"}};
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        ck_assert_int_eq((int)statuses[i].status, statuses[i].value);
        ck_assert_str_eq(nf_status_name(statuses[i].status), statuses[i].name);
    }
    ck_assert_str_eq(nf_status_name((nf_status)17), "unknown status");
    ck_assert_str_eq(nf_status_name((nf_status)-9), "unknown status");
    char version[64];
    snprintf(version, sizeof version, "%d.%d.%d", NFLOW_VERSION_MAJOR, NFLOW_VERSION_MINOR, NFLOW_VERSION_PATCH);
    ck_assert_str_eq(nf_version(), version);

    nf_flow *flow;
    must(nf_flow_create(2, 0, NF_DOUBLE, &flow));
    const char *isa = nf_flow_isa(flow);
    ck_assert_msg(strcmp(isa, "base") == 0 || strcmp(isa, "v2") == 0 || strcmp(isa, "v3") == 0 || strcmp(isa, "v4") == 0, "instruction set %s", isa);
    nf_flow_free(flow);
    ck_assert_int_eq(setenv("NFLOW_ISA", "base", 1), 0);
    must(nf_flow_create(2, 0, NF_SINGLE, &flow));
    ck_assert_str_eq(nf_flow_isa(flow), "base");
    nf_flow_free(flow);
}
END_TEST

static void *fail_elsewhere(void *unused) {
    (void)unused;
    const char *before = nf_last_error();
    if (before[0] != '\0')
        return (void *)(uintptr_t)"a new thread has an error";
    nf_flow_invert(NULL);
    return strstr(nf_last_error(), "nf_flow_invert") ? NULL : (void *)(uintptr_t)"the thread does not have its error";
}

START_TEST(the_last_error_is_the_threads_own) {
    nf_flow *flow;
    pthread_t thread;
    void *complaint;
    ck_assert_str_eq(nf_last_error(), "");
    must_be(NF_ERR_ARGUMENT, nf_flow_create(0, 0, NF_DOUBLE, &flow));
    ck_assert_int_eq(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, &complaint), 0);
    ck_assert_msg(complaint == NULL, "%s", (const char *)complaint);
    must_say("nf_flow_create", "dim is 0");
    must(nf_flow_create(1, 0, NF_DOUBLE, &flow));
    ck_assert_str_eq(nf_last_error(), "");
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("bad arguments");
    TCase *all = tcase_create("all");
    tcase_add_test(all, evaluation);
    tcase_add_test(all, gradients);
    tcase_add_test(all, handles_of_training);
    tcase_add_test(all, flows);
    tcase_add_test(all, parameters);
    tcase_add_test(all, fit_configs);
    tcase_add_test(all, reverse_kl_configs);
    tcase_add_test(all, nets);
    tcase_add_test(all, file_arguments);
    tcase_add_loop_test(all, a_reader_ends_a_fit, 0, 5);
    tcase_add_test(all, null_is_nothing);
    tcase_add_test(all, names_and_versions);
    tcase_add_test(all, the_last_error_is_the_threads_own);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
