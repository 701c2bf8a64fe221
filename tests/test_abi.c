/*
 * The binary interface: enum values, the layout of the first version of every struct, and what struct_size promises. Numbers
 * are written out here and not computed, because programs that were compiled yesterday hold exactly these.
 *
 * A change that makes one of these lines fail breaks such programs. Fields are appended after a struct's last one, and get
 * lines of their own.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nflow.h"
#include "support.h"

/* ---- Enums: 32 bits, pinned values ---- */

#define ENUM_IS_32_BITS(type) _Static_assert(sizeof(type) * CHAR_BIT == 32, #type " is not 32 bits wide")
#define VALUE(name, number) _Static_assert((int)(name) == (number), #name " is not " #number)

ENUM_IS_32_BITS(nf_status);
VALUE(NF_OK, 0);
VALUE(NF_STOPPED, 1);
VALUE(NF_ERR_ARGUMENT, -1);
VALUE(NF_ERR_MEMORY, -2);
VALUE(NF_ERR_ROWS, -3);
VALUE(NF_ERR_MISMATCH, -4);
VALUE(NF_ERR_UNSUPPORTED, -5);
VALUE(NF_ERR_IO, -6);
VALUE(NF_ERR_FORMAT, -7);
VALUE(NF_ERR_DIVERGED, -8);

ENUM_IS_32_BITS(nf_precision);
VALUE(NF_DOUBLE, 0);
VALUE(NF_SINGLE, 1);

ENUM_IS_32_BITS(nf_activation);
VALUE(NF_ACTIVATION_DEFAULT, 0);
VALUE(NF_GELU, 1);
VALUE(NF_TANH, 2);
VALUE(NF_RELU, 3);
VALUE(NF_SILU, 4);
VALUE(NF_SOFTPLUS, 5);

ENUM_IS_32_BITS(nf_scale);
VALUE(NF_SCALE_TANH, 0);
VALUE(NF_SCALE_EXP, 1);
VALUE(NF_SCALE_SIGMOID, 2);
VALUE(NF_SCALE_SOFTCLIP, 3);
VALUE(NF_SCALE_INVERSE_SIGMOID, 4);

ENUM_IS_32_BITS(nf_mask);
VALUE(NF_MASK_HALVES, 0);
VALUE(NF_MASK_CHECKERBOARD, 1);
VALUE(NF_MASK_RANDOM, 2);

ENUM_IS_32_BITS(nf_dynamics);
VALUE(NF_DYNAMICS_MLP, 0);
VALUE(NF_DYNAMICS_HYPER, 1);

ENUM_IS_32_BITS(nf_ode_method);
VALUE(NF_DOPRI5, 0);
VALUE(NF_TSIT5, 1);
VALUE(NF_DOP853, 2);
VALUE(NF_BOSH3, 3);
VALUE(NF_RK4, 4);
VALUE(NF_MIDPOINT, 5);
VALUE(NF_EULER, 6);

ENUM_IS_32_BITS(nf_trace);
VALUE(NF_TRACE_EXACT, 0);
VALUE(NF_TRACE_HUTCHINSON, 1);
VALUE(NF_TRACE_HUTCHINSON_NORMAL, 2);

ENUM_IS_32_BITS(nf_ode_gradient);
VALUE(NF_ODE_DISCRETE, 0);
VALUE(NF_ODE_ADJOINT, 1);

ENUM_IS_32_BITS(nf_optimizer_kind);
VALUE(NF_ADAM, 0);
VALUE(NF_ADAMW, 1);
VALUE(NF_SGD, 2);
VALUE(NF_RMSPROP, 3);

ENUM_IS_32_BITS(nf_schedule);
VALUE(NF_SCHEDULE_COSINE, 0);
VALUE(NF_SCHEDULE_CONSTANT, 1);
VALUE(NF_SCHEDULE_STEP, 2);

ENUM_IS_32_BITS(nf_objective);
VALUE(NF_OBJECTIVE_LIKELIHOOD, 0);
VALUE(NF_OBJECTIVE_FLOW_MATCHING, 1);

ENUM_IS_32_BITS(nf_pairing);
VALUE(NF_PAIRING_INDEPENDENT, 0);
VALUE(NF_PAIRING_OPTIMAL, 1);

ENUM_IS_32_BITS(nf_verdict);
VALUE(NF_PASSED, 0);
VALUE(NF_FAILED, 1);
VALUE(NF_SKIPPED, 2);

ENUM_IS_32_BITS(nf_stop_reason);
VALUE(NF_STOP_EPOCHS, 0);
VALUE(NF_STOP_PATIENCE, 1);
VALUE(NF_STOP_CALLBACK, 2);
VALUE(NF_STOP_DIVERGED, 3);

/* ---- Layout, where size_t and pointers have 64 bits ---- */

#if SIZE_MAX == UINT64_MAX && UINTPTR_MAX == UINT64_MAX

#define AT(type, field, bytes) _Static_assert(offsetof(type, field) == (bytes), #type "." #field " is not at " #bytes)
/* The last field of the first version and where it ends; nothing may follow it, or a field appended later would hide in the
 * padding. */
#define ENDS(type, field, bytes)                                                                                               \
    _Static_assert(offsetof(type, field) + sizeof(((type *)0)->field) == (bytes),                                              \
                   #type "." #field " does not end at " #bytes);                                                               \
    _Static_assert(sizeof(type) == (bytes), #type " has padding, or another size, after " #field)

AT(nf_rng, seed, 0);
AT(nf_rng, stream, 8);
AT(nf_rng, position, 16);
ENDS(nf_rng, position, 24);

AT(nf_allocator, alloc, 0);
AT(nf_allocator, release, 8);
AT(nf_allocator, user, 16);
ENDS(nf_allocator, user, 24);

#define FAMILY_OF_PLANAR(type)                                                                                                 \
    AT(type, struct_size, 0);                                                                                                  \
    AT(type, dim, 8);                                                                                                          \
    AT(type, context_dim, 16);                                                                                                 \
    AT(type, layers, 24);                                                                                                      \
    AT(type, seed, 32);                                                                                                        \
    AT(type, precision, 40);                                                                                                   \
    AT(type, activation, 44);                                                                                                  \
    AT(type, hidden_layers, 48);                                                                                               \
    AT(type, hidden_width, 56);                                                                                                \
    AT(type, allocator, 64);                                                                                                   \
    ENDS(type, allocator, 72)
FAMILY_OF_PLANAR(nf_planar_config);
FAMILY_OF_PLANAR(nf_radial_config);

AT(nf_realnvp_config, struct_size, 0);
AT(nf_realnvp_config, dim, 8);
AT(nf_realnvp_config, context_dim, 16);
AT(nf_realnvp_config, couplings, 24);
AT(nf_realnvp_config, seed, 32);
AT(nf_realnvp_config, precision, 40);
AT(nf_realnvp_config, activation, 44);
AT(nf_realnvp_config, hidden_layers, 48);
AT(nf_realnvp_config, hidden_width, 56);
AT(nf_realnvp_config, scale, 64);
AT(nf_realnvp_config, mask, 68);
AT(nf_realnvp_config, scale_clamp, 72);
AT(nf_realnvp_config, actnorm, 80);
AT(nf_realnvp_config, reserved, 84);
AT(nf_realnvp_config, allocator, 88);
ENDS(nf_realnvp_config, allocator, 96);

AT(nf_cnf_config, struct_size, 0);
AT(nf_cnf_config, dim, 8);
AT(nf_cnf_config, context_dim, 16);
AT(nf_cnf_config, seed, 24);
AT(nf_cnf_config, precision, 32);
AT(nf_cnf_config, activation, 36);
AT(nf_cnf_config, dynamics, 40);
AT(nf_cnf_config, method, 44);
AT(nf_cnf_config, hidden_layers, 48);
AT(nf_cnf_config, hidden_width, 56);
AT(nf_cnf_config, units, 64);
AT(nf_cnf_config, t0, 72);
AT(nf_cnf_config, t1, 80);
AT(nf_cnf_config, rtol, 88);
AT(nf_cnf_config, atol, 96);
AT(nf_cnf_config, steps, 104);
AT(nf_cnf_config, max_steps, 112);
AT(nf_cnf_config, trace, 120);
AT(nf_cnf_config, gradient, 124);
AT(nf_cnf_config, probes, 128);
AT(nf_cnf_config, kinetic, 136);
AT(nf_cnf_config, jacobian, 144);
AT(nf_cnf_config, allocator, 152);
AT(nf_cnf_config, shared_step, 160);
ENDS(nf_cnf_config, reserved, 168);

AT(nf_tensor, struct_size, 0);
AT(nf_tensor, name, 8);
AT(nf_tensor, rank, 16);
AT(nf_tensor, shape, 24);
AT(nf_tensor, offset, 40);
ENDS(nf_tensor, offset, 48);

AT(nf_stats, struct_size, 0);
AT(nf_stats, bad_rows, 8);
AT(nf_stats, first_bad_row, 16);
AT(nf_stats, rhs_evaluations, 24);
AT(nf_stats, steps_accepted, 32);
AT(nf_stats, steps_rejected, 40);
AT(nf_stats, root_iterations, 48);
ENDS(nf_stats, root_iterations, 56);

AT(nf_optimizer_config, struct_size, 0);
AT(nf_optimizer_config, kind, 8);
AT(nf_optimizer_config, reserved, 12);
AT(nf_optimizer_config, learning_rate, 16);
AT(nf_optimizer_config, beta1, 24);
AT(nf_optimizer_config, beta2, 32);
AT(nf_optimizer_config, epsilon, 40);
AT(nf_optimizer_config, weight_decay, 48);
AT(nf_optimizer_config, momentum, 56);
AT(nf_optimizer_config, clip_norm, 64);
AT(nf_optimizer_config, allocator, 72);
ENDS(nf_optimizer_config, allocator, 80);

AT(nf_comm, struct_size, 0);
AT(nf_comm, rank, 8);
AT(nf_comm, size, 12);
AT(nf_comm, user, 16);
AT(nf_comm, allgather, 24);
AT(nf_comm, broadcast, 32);
AT(nf_comm, barrier, 40);
AT(nf_comm, exchange, 48);
AT(nf_comm, allreduce, 56);
AT(nf_comm, shards, 64);
AT(nf_comm, fast, 72);
AT(nf_comm, reserved, 76);
ENDS(nf_comm, reserved, 80);

AT(nf_fit_progress, struct_size, 0);
AT(nf_fit_progress, epoch, 8);
AT(nf_fit_progress, epochs, 16);
AT(nf_fit_progress, steps, 24);
AT(nf_fit_progress, train_loss, 32);
AT(nf_fit_progress, validation_loss, 40);
AT(nf_fit_progress, best_loss, 48);
AT(nf_fit_progress, learning_rate, 56);
AT(nf_fit_progress, gradient_norm, 64);
AT(nf_fit_progress, seconds, 72);
AT(nf_fit_progress, seconds_left, 80);
ENDS(nf_fit_progress, rhs_evaluations, 96);

AT(nf_ode_config, struct_size, 0);
AT(nf_ode_config, method, 8);
AT(nf_ode_config, reserved, 12);
AT(nf_ode_config, rtol, 16);
AT(nf_ode_config, atol, 24);
AT(nf_ode_config, steps, 32);
AT(nf_ode_config, max_steps, 40);
AT(nf_ode_config, allocator, 48);
ENDS(nf_ode_config, allocator, 56);

AT(nf_fit_config, struct_size, 0);
AT(nf_fit_config, epochs, 8);
AT(nf_fit_config, batch_size, 16);
AT(nf_fit_config, patience, 24);
AT(nf_fit_config, threads, 32);
AT(nf_fit_config, seed, 40);
AT(nf_fit_config, optimizer, 48);
AT(nf_fit_config, schedule, 56);
AT(nf_fit_config, objective, 60);
AT(nf_fit_config, schedule_step, 64);
AT(nf_fit_config, schedule_factor, 72);
AT(nf_fit_config, validation_fraction, 80);
AT(nf_fit_config, validation_rows, 88);
AT(nf_fit_config, validation_x, 96);
AT(nf_fit_config, validation_context, 104);
AT(nf_fit_config, validation_weight, 112);
AT(nf_fit_config, weight, 120);
AT(nf_fit_config, ema_decay, 128);
AT(nf_fit_config, noise, 136);
AT(nf_fit_config, training_tolerance, 144);
AT(nf_fit_config, standardize, 152);
AT(nf_fit_config, pairing, 156);
AT(nf_fit_config, checkpoint, 160);
AT(nf_fit_config, checkpoint_every, 168);
AT(nf_fit_config, comm, 176);
AT(nf_fit_config, progress, 184);
AT(nf_fit_config, progress_user, 192);
AT(nf_fit_config, allocator, 200);
AT(nf_fit_config, read, 208);
AT(nf_fit_config, read_user, 216);
AT(nf_fit_config, contamination, 224);
ENDS(nf_fit_config, contamination, 232);

AT(nf_fit_report, struct_size, 0);
AT(nf_fit_report, epochs_run, 8);
AT(nf_fit_report, best_epoch, 16);
AT(nf_fit_report, steps, 24);
AT(nf_fit_report, train_loss, 32);
AT(nf_fit_report, validation_loss, 40);
AT(nf_fit_report, best_loss, 48);
AT(nf_fit_report, seconds, 56);
AT(nf_fit_report, stop_reason, 64);
AT(nf_fit_report, reserved, 68);
AT(nf_fit_report, bad_rows, 72);
ENDS(nf_fit_report, rhs_evaluations, 88);

AT(nf_reverse_kl_progress, struct_size, 0);
AT(nf_reverse_kl_progress, step, 8);
AT(nf_reverse_kl_progress, steps, 16);
AT(nf_reverse_kl_progress, loss, 24);
AT(nf_reverse_kl_progress, beta, 32);
AT(nf_reverse_kl_progress, learning_rate, 40);
AT(nf_reverse_kl_progress, seconds, 48);
AT(nf_reverse_kl_progress, seconds_left, 56);
ENDS(nf_reverse_kl_progress, seconds_left, 64);

AT(nf_reverse_kl_config, struct_size, 0);
AT(nf_reverse_kl_config, steps, 8);
AT(nf_reverse_kl_config, samples, 16);
AT(nf_reverse_kl_config, threads, 24);
AT(nf_reverse_kl_config, seed, 32);
AT(nf_reverse_kl_config, optimizer, 40);
AT(nf_reverse_kl_config, schedule, 48);
AT(nf_reverse_kl_config, reserved, 52);
AT(nf_reverse_kl_config, schedule_step, 56);
AT(nf_reverse_kl_config, schedule_factor, 64);
AT(nf_reverse_kl_config, beta_start, 72);
AT(nf_reverse_kl_config, anneal_steps, 80);
AT(nf_reverse_kl_config, ema_decay, 88);
AT(nf_reverse_kl_config, evaluation_samples, 96);
AT(nf_reverse_kl_config, context, 104);
AT(nf_reverse_kl_config, progress_every, 112);
AT(nf_reverse_kl_config, progress, 120);
AT(nf_reverse_kl_config, progress_user, 128);
AT(nf_reverse_kl_config, allocator, 136);
AT(nf_reverse_kl_config, comm, 144);
ENDS(nf_reverse_kl_config, comm, 152);

AT(nf_reverse_kl_report, struct_size, 0);
AT(nf_reverse_kl_report, steps, 8);
AT(nf_reverse_kl_report, loss, 16);
AT(nf_reverse_kl_report, elbo, 24);
AT(nf_reverse_kl_report, elbo_error, 32);
AT(nf_reverse_kl_report, log_evidence, 40);
AT(nf_reverse_kl_report, effective_sample_size, 48);
AT(nf_reverse_kl_report, seconds, 56);
AT(nf_reverse_kl_report, bad_rows, 64);
AT(nf_reverse_kl_report, stop_reason, 72);
AT(nf_reverse_kl_report, reserved, 76);
ENDS(nf_reverse_kl_report, reserved, 80);

AT(nf_finding, value, 0);
AT(nf_finding, threshold, 8);
AT(nf_finding, verdict, 16);
AT(nf_finding, reserved, 20);
ENDS(nf_finding, reserved, 24);

AT(nf_diagnose_config, struct_size, 0);
AT(nf_diagnose_config, rows, 8);
AT(nf_diagnose_config, exact_rows, 16);
AT(nf_diagnose_config, samples, 24);
AT(nf_diagnose_config, permutations, 32);
AT(nf_diagnose_config, threads, 40);
AT(nf_diagnose_config, seed, 48);
AT(nf_diagnose_config, significance, 56);
AT(nf_diagnose_config, least_effective_sample_size, 64);
AT(nf_diagnose_config, most_weight, 72);
AT(nf_diagnose_config, target, 80);
AT(nf_diagnose_config, target_user, 88);
AT(nf_diagnose_config, allocator, 96);
ENDS(nf_diagnose_config, allocator, 104);

AT(nf_diagnose_report, struct_size, 0);
AT(nf_diagnose_report, failed, 8);
AT(nf_diagnose_report, skipped, 16);
AT(nf_diagnose_report, round_trip, 24);
AT(nf_diagnose_report, round_trip_typical, 48);
AT(nf_diagnose_report, round_trip_condition, 56);
AT(nf_diagnose_report, round_trip_row, 64);
AT(nf_diagnose_report, log_det_pair, 72);
AT(nf_diagnose_report, log_det, 96);
AT(nf_diagnose_report, log_det_row, 120);
AT(nf_diagnose_report, accuracy, 128);
AT(nf_diagnose_report, gradient, 152);
AT(nf_diagnose_report, forward_vjp, 176);
AT(nf_diagnose_report, inverse_vjp, 200);
AT(nf_diagnose_report, normalization, 224);
AT(nf_diagnose_report, normalization_error, 248);
AT(nf_diagnose_report, sampler, 256);
AT(nf_diagnose_report, effective_sample_size, 280);
AT(nf_diagnose_report, largest_weight, 304);
AT(nf_diagnose_report, two_sample, 328);
AT(nf_diagnose_report, calibration, 352);
AT(nf_diagnose_report, calibration_column, 376);
ENDS(nf_diagnose_report, calibration_column, 384);

AT(nf_mlp_config, struct_size, 0);
AT(nf_mlp_config, inputs, 8);
AT(nf_mlp_config, outputs, 16);
AT(nf_mlp_config, seed, 24);
AT(nf_mlp_config, precision, 32);
AT(nf_mlp_config, activation, 36);
AT(nf_mlp_config, hidden_layers, 40);
AT(nf_mlp_config, hidden_width, 48);
AT(nf_mlp_config, output_scale, 56);
AT(nf_mlp_config, allocator, 64);
ENDS(nf_mlp_config, allocator, 72);

#endif

/* ---- Names and versions of the library that runs ---- */

START_TEST(version_is_that_of_the_header) {
    char expected[64];
    snprintf(expected, sizeof expected, "%d.%d.%d", NFLOW_VERSION_MAJOR, NFLOW_VERSION_MINOR, NFLOW_VERSION_PATCH);
    ck_assert_str_eq(nf_version(), expected);
}
END_TEST

START_TEST(every_status_has_its_name) {
    static const struct {
        int value;
        const char *name;
    } statuses[] = {
        {0, "NF_OK"},
        {1, "NF_STOPPED"},
        {-1, "NF_ERR_ARGUMENT"},
        {-2, "NF_ERR_MEMORY"},
        {-3, "NF_ERR_ROWS"},
        {-4, "NF_ERR_MISMATCH"},
        {-5, "NF_ERR_UNSUPPORTED"},
        {-6, "NF_ERR_IO"},
        {-7, "NF_ERR_FORMAT"},
        {-8, "NF_ERR_DIVERGED"},
        {-9, "unknown status"},
        {2, "unknown status"},
        {INT_MIN, "unknown status"},
        {INT_MAX, "unknown status"},
    };
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        ck_assert_str_eq(nf_status_name((nf_status)statuses[i].value), statuses[i].name);
}
END_TEST

/* ---- What struct_size promises ---- */

/* A caller of a later version: the same struct with fields behind it that this library has never heard of. */
typedef struct later_realnvp {
    nf_realnvp_config known;
    unsigned char unknown[24];
} later_realnvp;

static later_realnvp later_config(void) {
    later_realnvp later = {.known = {.dim = 3, .couplings = 2, .seed = 2385, .hidden_layers = 1, .hidden_width = 5}};
    later.known.struct_size = sizeof later;
    return later;
}

START_TEST(longer_config_with_a_zero_tail_is_taken) {
    const later_realnvp later = later_config();
    nf_flow *flow = NULL;
    ck_assert_int_eq(nf_realnvp_create(&later.known, &flow), NF_OK);
    ck_assert_uint_eq(nf_flow_dim(flow), 3);

    nf_realnvp_config plain = later.known;
    plain.struct_size = sizeof plain;
    nf_flow *same = NULL;
    ck_assert_int_eq(nf_realnvp_create(&plain, &same), NF_OK);
    ck_assert_uint_eq(nf_parameter_count(flow), nf_parameter_count(same));
    nf_flow_free(same);
    nf_flow_free(flow);
}
END_TEST

/* Every byte of the tail counts, the first and the last too. */
START_TEST(longer_config_with_an_unknown_field_is_refused) {
    for (size_t i = 0; i < sizeof later_config().unknown; i++) {
        later_realnvp later = later_config();
        later.unknown[i] = 1;
        nf_flow *flow = (nf_flow *)&later;
        ck_assert_msg(nf_realnvp_create(&later.known, &flow) == NF_ERR_UNSUPPORTED, "byte %zu of the tail", i);
        ck_assert_msg(flow == NULL, "byte %zu of the tail", i);
        ck_assert_ptr_nonnull(strstr(nf_last_error(), "nf_realnvp_create"));
    }
}
END_TEST

START_TEST(shorter_config_is_refused) {
    const size_t sizes[] = {0, 1, sizeof(size_t), sizeof(nf_realnvp_config) - sizeof(void *), sizeof(nf_realnvp_config) - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        nf_realnvp_config config = later_config().known;
        config.struct_size = sizes[i];
        nf_flow *flow = (nf_flow *)&config;
        ck_assert_msg(nf_realnvp_create(&config, &flow) == NF_ERR_ARGUMENT, "struct_size %zu", sizes[i]);
        ck_assert_msg(flow == NULL, "struct_size %zu", sizes[i]);
    }
}
END_TEST

/* The same two rules for configs that are given beside a flow, or without one. */
START_TEST(other_configs_follow_the_same_rules) {
    const later_realnvp later = later_config();
    nf_flow *flow = NULL;
    ck_assert_int_eq(nf_realnvp_create(&later.known, &flow), NF_OK);

    struct {
        nf_optimizer_config known;
        double unknown;
    } rule = {.known = {.learning_rate = 2.385e-3}};
    nf_optimizer *optimizer = NULL;
    rule.known.struct_size = sizeof rule;
    ck_assert_int_eq(nf_optimizer_create(flow, &rule.known, &optimizer), NF_OK);
    nf_optimizer_free(optimizer);
    rule.unknown = 2.385;
    ck_assert_int_eq(nf_optimizer_create(flow, &rule.known, &optimizer), NF_ERR_UNSUPPORTED);
    ck_assert_ptr_null(optimizer);
    rule.known.struct_size = sizeof rule.known - 1;
    ck_assert_int_eq(nf_optimizer_create(flow, &rule.known, &optimizer), NF_ERR_ARGUMENT);
    ck_assert_ptr_null(optimizer);

    struct {
        nf_mlp_config known;
        double unknown;
    } net = {.known = {.inputs = 3, .outputs = 2, .hidden_layers = 1, .hidden_width = 5}};
    nf_mlp *mlp = NULL;
    net.known.struct_size = sizeof net;
    ck_assert_int_eq(nf_mlp_create(&net.known, &mlp), NF_OK);
    nf_mlp_free(mlp);
    net.unknown = 2.385;
    ck_assert_int_eq(nf_mlp_create(&net.known, &mlp), NF_ERR_UNSUPPORTED);
    ck_assert_ptr_null(mlp);
    net.known.struct_size = sizeof net.known - 1;
    ck_assert_int_eq(nf_mlp_create(&net.known, &mlp), NF_ERR_ARGUMENT);
    ck_assert_ptr_null(mlp);

    const double x[] = {0.731, -1.385, 2.219, -0.442, 1.093, -2.771};
    struct {
        nf_fit_config known;
        double unknown;
    } fit = {.known = {.epochs = 1, .validation_fraction = -1}, .unknown = 2.385};
    fit.known.struct_size = sizeof fit;
    ck_assert_int_eq(nf_fit(flow, 2, x, NULL, &fit.known, NULL), NF_ERR_UNSUPPORTED);
    fit.known.struct_size = offsetof(nf_fit_config, read) - 1;
    ck_assert_int_eq(nf_fit(flow, 2, x, NULL, &fit.known, NULL), NF_ERR_ARGUMENT);
    nf_flow_free(flow);
}
END_TEST

/* Structs that the library fills: it reads struct_size, and bytes beyond the size that the caller gave stay what they were. */
START_TEST(filled_structs_end_where_the_caller_says) {
    const later_realnvp later = later_config();
    nf_flow *flow = NULL;
    nf_workspace *workspace = NULL;
    ck_assert_int_eq(nf_realnvp_create(&later.known, &flow), NF_OK);
    ck_assert_int_eq(nf_workspace_create(flow, 1, &workspace), NF_OK);

    unsigned char untouched[16];
    memset(untouched, 0xA5, sizeof untouched);

    struct {
        nf_stats known;
        unsigned char guard[16];
    } stats;
    memset(&stats, 0xA5, sizeof stats); /* the guard, and values that must be overwritten */
    stats.known.struct_size = sizeof stats.known;
    ck_assert_int_eq(nf_workspace_stats(workspace, &stats.known), NF_OK);
    ck_assert_uint_eq(stats.known.struct_size, sizeof stats.known);
    ck_assert_uint_eq(stats.known.bad_rows, 0);
    ck_assert_mem_eq(stats.guard, untouched, sizeof untouched);
    stats.known.struct_size = sizeof stats.known - 1;
    ck_assert_int_eq(nf_workspace_stats(workspace, &stats.known), NF_ERR_ARGUMENT);

    struct {
        nf_tensor known;
        unsigned char guard[16];
    } tensor;
    memset(&tensor, 0xA5, sizeof tensor);
    tensor.known.struct_size = sizeof tensor.known;
    ck_assert_int_eq(nf_tensor_info(flow, 0, &tensor.known), NF_OK);
    ck_assert_uint_eq(tensor.known.struct_size, sizeof tensor.known);
    ck_assert_uint_eq(tensor.known.offset, 0);
    ck_assert_mem_eq(tensor.guard, untouched, sizeof untouched);
    tensor.known.struct_size = sizeof tensor.known - 1;
    ck_assert_int_eq(nf_tensor_info(flow, 0, &tensor.known), NF_ERR_ARGUMENT);

    nf_workspace_free(workspace);
    nf_flow_free(flow);
}
END_TEST

/* struct_size of a report may be that of a caller from a later version; what this library does not know stays as it was. */
START_TEST(a_fit_writes_only_what_it_knows) {
    const later_realnvp later = later_config();
    nf_flow *flow = NULL;
    ck_assert_int_eq(nf_realnvp_create(&later.known, &flow), NF_OK);
    double x[64 * 3];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = 2.385 * (double)((i * 37) % 101) / 101 - 1.193;

    struct {
        nf_fit_report known;
        unsigned char guard[16];
    } report;
    unsigned char untouched[16];
    memset(untouched, 0xA5, sizeof untouched);
    memset(&report, 0xA5, sizeof report);
    report.known.struct_size = sizeof report.known;
    ck_assert_int_eq(nf_fit(flow, 64, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .seed = 7), &report.known), NF_OK);
    ck_assert_uint_eq(report.known.struct_size, sizeof report.known);
    ck_assert_uint_eq(report.known.epochs_run, 2);
    ck_assert_uint_eq(report.known.bad_rows, 0);
    ck_assert_int_eq(report.known.stop_reason, NF_STOP_EPOCHS);
    ck_assert_mem_eq(report.guard, untouched, sizeof untouched);
    /* The first version ended before rhs_evaluations: a caller of then is served, and nothing is written behind it. */
    memset(&report, 0xA5, sizeof report);
    report.known.struct_size = offsetof(nf_fit_report, rhs_evaluations);
    ck_assert_int_eq(nf_fit(flow, 64, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .seed = 7), &report.known), NF_OK);
    ck_assert_uint_eq(report.known.epochs_run, 2);
    ck_assert_mem_eq(&report.known.rhs_evaluations, untouched, sizeof report.known.rhs_evaluations);
    report.known.struct_size = offsetof(nf_fit_report, rhs_evaluations) - 1;
    ck_assert_int_eq(nf_fit(flow, 64, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .seed = 7), &report.known),
                     NF_ERR_ARGUMENT);
    nf_flow_free(flow);
}
END_TEST

static Suite *abi_suite(void) {
    Suite *suite = suite_create("abi");
    TCase *names = tcase_create("names");
    tcase_add_test(names, version_is_that_of_the_header);
    tcase_add_test(names, every_status_has_its_name);
    suite_add_tcase(suite, names);
    TCase *sizes = tcase_create("struct_size");
    tcase_add_test(sizes, longer_config_with_a_zero_tail_is_taken);
    tcase_add_test(sizes, longer_config_with_an_unknown_field_is_refused);
    tcase_add_test(sizes, shorter_config_is_refused);
    tcase_add_test(sizes, other_configs_follow_the_same_rules);
    tcase_add_test(sizes, filled_structs_end_where_the_caller_says);
    tcase_add_test(sizes, a_fit_writes_only_what_it_knows);
    suite_add_tcase(suite, sizes);
    return suite;
}

int main(void) {
    const int failed = run_suite(abi_suite());
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
