/*
 * Memory. Each allocation of each call fails in turn, until the call succeeds: the answer is NF_ERR_MEMORY, nothing leaks, nothing changed, and the same call
 * then works. A call with a workspace allocates nothing. Only the calling thread allocates, and what an allocator gave goes back to it.
 */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

enum { DIM = 3, ROWS = 300 };

/* What a call may need, all made with one counted allocator, and what it makes. */
typedef struct scene {
    memory_counter memory, other;
    nf_allocator allocator, other_allocator;
    nf_precision precision;
    nf_flow *flow, *part, *affine;
    nf_mlp *net; /* DIM to DIM */
    nf_cnf *cnf;
    nf_gradient *gradient, *net_gradient, *cnf_gradient;
    nf_rng rng;
    double *x, *out, *scalar;
    void *file; /* of the flow */
    size_t file_size;
    char path[256];
    /* made by the call */
    nf_flow *made;
    nf_mlp *mlp;
    nf_workspace *ws;
    nf_gradient *made_gradient;
    nf_optimizer *optimizer;
    void *bytes;
    size_t size;
} scene;

static nf_status zero_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    (void)x;
    memset(log_density, 0, rows * sizeof *log_density);
    memset(gradient, 0, rows * DIM * sizeof *gradient);
    return NF_OK;
}

/* ---- the calls ---- */

static nf_status create_realnvp(scene *s) {
    return nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .precision = s->precision, .hidden_width = 5, .actnorm = 1, .allocator = &s->allocator),
                             &s->made);
}

static nf_status create_planar(scene *s) {
    return nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM, .layers = 2, .precision = s->precision, .allocator = &s->allocator), &s->made);
}

static nf_status create_radial(scene *s) {
    return nf_radial_create(NF_CONFIG(nf_radial_config, .dim = DIM, .context_dim = 2, .hidden_width = 4, .precision = s->precision, .allocator = &s->allocator), &s->made);
}

static nf_status create_flow(scene *s) { return nf_flow_create_with(DIM, 1, s->precision, &s->made, &s->allocator); }

static nf_status create_mlp(scene *s) {
    return nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 2, .outputs = 3, .hidden_width = 4, .precision = s->precision, .allocator = &s->allocator), &s->mlp);
}

static nf_status create_conditional_planar(scene *s) {
    return nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM, .context_dim = 2, .hidden_width = 4, .precision = s->precision, .allocator = &s->allocator), &s->made);
}

static nf_status create_cnf(scene *s) {
    return nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_width = 4, .precision = s->precision, .allocator = &s->allocator), &s->made);
}

static nf_status mlp_workspace(scene *s) { return nf_mlp_workspace_create(s->net, &s->ws); }

static nf_status mlp_gradient(scene *s) { return nf_mlp_gradient_create(s->net, &s->made_gradient); }

static nf_status mlp_optimizer(scene *s) { return nf_mlp_optimizer_create(s->net, NULL, &s->optimizer); }

static nf_status mlp_forward(scene *s) { return nf_mlp_forward(s->net, NULL, ROWS, s->x, s->out); }

static nf_status mlp_vjp(scene *s) { return nf_mlp_vjp(s->net, NULL, ROWS, s->x, s->x, NULL, s->out, s->net_gradient); }

static nf_status append(scene *s) {
    const nf_status status = nf_flow_append(s->flow, s->part);
    if (status == NF_OK)
        s->part = NULL;
    return status;
}

static nf_status invert(scene *s) { return nf_flow_invert(s->flow); }

static nf_status set_base(scene *s) {
    const double sd[DIM] = {0.385, 1.5, 2.385};
    return nf_flow_set_base_normal(s->flow, NULL, sd);
}

static nf_status clone(scene *s) { return nf_flow_clone(s->flow, &s->made); }

static nf_status convert(scene *s) { return nf_flow_convert(s->flow, s->precision == NF_DOUBLE ? NF_SINGLE : NF_DOUBLE, &s->made); }

static nf_status standardize(scene *s) { return nf_affine_standardize(s->affine, ROWS, s->x); }

static nf_status workspace(scene *s) { return nf_workspace_create(s->flow, 1, &s->ws); }

static nf_status workspace_of_threads(scene *s) { return nf_workspace_create(s->flow, 3, &s->ws); }

static nf_status gradient(scene *s) { return nf_gradient_create(s->flow, &s->made_gradient); }

static nf_status optimizer(scene *s) { return nf_optimizer_create(s->flow, NULL, &s->optimizer); }

static nf_status forward(scene *s) { return nf_forward(s->flow, NULL, ROWS, s->x, NULL, s->out, s->scalar); }

static nf_status inverse(scene *s) { return nf_inverse(s->flow, NULL, ROWS, s->x, NULL, s->out, s->scalar); }

static nf_status log_prob(scene *s) { return nf_log_prob(s->flow, NULL, ROWS, s->x, NULL, s->scalar); }

static nf_status score(scene *s) { return nf_score(s->flow, NULL, ROWS, s->x, NULL, s->scalar, s->out); }

static nf_status sample(scene *s) { return nf_sample(s->flow, NULL, &s->rng, ROWS, NULL, s->out, s->scalar); }

static nf_status forward_vjp(scene *s) { return nf_forward_vjp(s->flow, NULL, ROWS, s->x, NULL, s->x, NULL, s->out, NULL, s->gradient); }

static nf_status inverse_vjp(scene *s) { return nf_inverse_vjp(s->flow, NULL, ROWS, s->x, NULL, s->x, NULL, s->out, NULL, s->gradient); }

static nf_status grad_nll(scene *s) { return nf_grad_nll(s->flow, NULL, ROWS, s->x, NULL, NULL, s->gradient, NULL); }

static nf_status grad_reverse_kl(scene *s) { return nf_grad_reverse_kl(s->flow, NULL, &s->rng, ROWS, NULL, zero_target, NULL, s->gradient, NULL); }

/* The checkpoints of a continuous layer are one more block, or more, in a temporary workspace. */
static nf_status cnf_grad_nll(scene *s) { return nf_grad_nll(s->cnf, NULL, ROWS, s->x, NULL, NULL, s->cnf_gradient, NULL); }

static nf_status cnf_trajectory(scene *s) { return nf_cnf_trajectory(s->cnf, NULL, ROWS, s->x, NULL, 1, (double[]){0.5}, s->out); }

static nf_status grad_flow_matching(scene *s) {
    return nf_grad_flow_matching(s->cnf, NULL, &s->rng, ROWS, s->x, NULL, NULL, NF_PAIRING_OPTIMAL, s->cnf_gradient, NULL);
}

static nf_status fit_by_matching(scene *s) {
    return nf_fit(s->cnf, ROWS, s->x, NULL, NF_CONFIG(nf_fit_config, .objective = NF_OBJECTIVE_FLOW_MATCHING, .epochs = 2), NULL);
}

static nf_status fit(scene *s) {
    return nf_fit(s->flow, ROWS, s->x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .threads = 2), NULL);
}

/* The path's model makes way; what a failed call left of the checkpoint goes too, for the call that follows. */
static nf_status fit_with_checkpoint(scene *s) {
    unlink(s->path);
    return nf_fit(s->flow, ROWS, s->x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .checkpoint = s->path), NULL);
}

static nf_status resume_fit(scene *s) {
    const nf_fit_config config = {.struct_size = sizeof config, .epochs = 2, .checkpoint = s->path};
    unlink(s->path);
    nf_flow *other = make_realnvp(DIM, 0, s->precision, NULL);
    must(nf_fit(other, ROWS, s->x, NULL, &config, NULL));
    nf_flow_free(other);
    return nf_fit(s->flow, ROWS, s->x, NULL, &config, NULL);
}

static nf_status fit_reverse_kl(scene *s) {
    return nf_fit_reverse_kl(s->flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .steps = 2, .samples = 20, .evaluation_samples = 50), NULL);
}

static nf_status save_memory(scene *s) { return nf_flow_save_memory(s->flow, &s->bytes, &s->size); }

static nf_status save(scene *s) { return nf_flow_save(s->flow, s->path); }

static nf_status load_memory(scene *s) { return nf_flow_load_memory_with(s->file, s->file_size, &s->made, &s->allocator); }

static nf_status load(scene *s) { return nf_flow_load_with(s->path, &s->made, &s->allocator); }

static const struct call {
    const char *function;
    nf_status (*act)(scene *);
    size_t fewest; /* allocations */
} calls[] = {
    {"nf_realnvp_create", create_realnvp, 9},
    {"nf_planar_create", create_planar, 6},
    {"nf_radial_create", create_radial, 5},
    {"nf_flow_create_with", create_flow, 2},
    {"nf_mlp_create", create_mlp, 2},
    {"nf_planar_create", create_conditional_planar, 5},
    {"nf_cnf_create", create_cnf, 2},
    {"nf_mlp_workspace_create", mlp_workspace, 1},
    {"nf_mlp_gradient_create", mlp_gradient, 1},
    {"nf_mlp_optimizer_create", mlp_optimizer, 1},
    {"nf_mlp_forward", mlp_forward, 1},
    {"nf_mlp_vjp", mlp_vjp, 1},
    {"nf_flow_append", append, 7},
    {"nf_flow_invert", invert, 5},
    {"nf_flow_set_base_normal", set_base, 1},
    {"nf_flow_clone", clone, 6},
    {"nf_flow_convert", convert, 7},
    {"nf_affine_standardize", standardize, 1},
    {"nf_workspace_create", workspace, 2},
    {"nf_workspace_create", workspace_of_threads, 3},
    {"nf_gradient_create", gradient, 3},
    {"nf_optimizer_create", optimizer, 2},
    {"nf_forward", forward, 2},
    {"nf_inverse", inverse, 2},
    {"nf_log_prob", log_prob, 2},
    {"nf_score", score, 2},
    {"nf_sample", sample, 2},
    {"nf_forward_vjp", forward_vjp, 2},
    {"nf_inverse_vjp", inverse_vjp, 2},
    {"nf_grad_nll", grad_nll, 2},
    {"nf_grad_reverse_kl", grad_reverse_kl, 2},
    {"nf_grad_nll", cnf_grad_nll, 3},
    {"nf_cnf_trajectory", cnf_trajectory, 2},
    {"nf_grad_flow_matching", grad_flow_matching, 2},
    {"nf_fit", fit_by_matching, 16},
    {"nf_fit", fit, 16},
    {"nf_fit", fit_with_checkpoint, 24},
    {"nf_fit", resume_fit, 24},
    {"nf_fit_reverse_kl", fit_reverse_kl, 10},
    {"nf_flow_save_memory", save_memory, 4},
    {"nf_flow_save", save, 4},
    {"nf_flow_load_memory_with", load_memory, 8},
    {"nf_flow_load_with", load, 9},
};

/* ---- a scene ---- */

static void set_scene(scene *s, nf_precision precision) {
    memset(s, 0, sizeof *s);
    random_source random = random_begin(6);
    s->precision = precision;
    s->allocator = counted_memory(&s->memory);
    s->other_allocator = counted_memory(&s->other);
    s->flow = make_realnvp(DIM, 0, precision, &s->allocator);
    s->part = make_realnvp(DIM, 0, precision, &s->other_allocator);
    nf_flow *affine;
    must(nf_affine_create(DIM, precision, &affine));
    must(nf_flow_create_with(DIM, 0, precision, &s->affine, &s->allocator));
    must(nf_flow_append(s->affine, affine));
    must(nf_gradient_create(s->flow, &s->gradient));
    must(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = DIM, .outputs = DIM, .hidden_width = 4, .precision = precision, .allocator = &s->allocator), &s->net));
    must(nf_mlp_gradient_create(s->net, &s->net_gradient));
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_width = 4, .precision = precision, .rtol = 1e-4, .atol = 1e-4, .allocator = &s->allocator),
                       &s->cnf));
    must(nf_gradient_create(s->cnf, &s->cnf_gradient));
    s->rng = (nf_rng){4, 5, 6};
    s->x = new_normals(&random, ROWS * DIM, 1.385);
    s->out = new_numbers(ROWS * DIM);
    s->scalar = new_numbers(ROWS);
    must(nf_flow_save_memory(s->flow, &s->file, &s->file_size));
    snprintf(s->path, sizeof s->path, "%s/nflow-alloc-%ld.safetensors", scratch_folder(), (long)getpid());
    must(nf_flow_save(s->flow, s->path));
}

static void drop_made(scene *s) {
    nf_flow_free(s->made);
    nf_mlp_free(s->mlp);
    nf_workspace_free(s->ws);
    nf_gradient_free(s->made_gradient);
    nf_optimizer_free(s->optimizer);
    nf_free(s->bytes);
}

static void check_memory(const scene *s, const char *function) {
    ck_assert_msg(!s->memory.wrong && !s->other.wrong, "%s: another thread allocated, or a pointer went to an allocator that did not give it", function);
}

/* Everything is freed, the flow first: handles may go in any order. */
static void clear_scene(scene *s, const char *function) {
    nf_flow_free(s->flow);
    nf_flow_free(s->part);
    nf_flow_free(s->affine);
    nf_flow_free(s->cnf);
    nf_gradient_free(s->cnf_gradient);
    nf_gradient_free(s->gradient);
    nf_mlp_free(s->net);
    nf_gradient_free(s->net_gradient);
    drop_made(s);
    free(s->x);
    free(s->out);
    free(s->scalar);
    nf_free(s->file);
    unlink(s->path);
    check_memory(s, function);
    ck_assert_msg(s->memory.live == 0 && s->other.live == 0, "%s: %zu and %zu blocks leak", function, s->memory.live, s->other.live);
}

/* What must not change: the flow and the others as files, the gradient, the generator. Taken while no allocation fails. */
typedef struct state {
    void *flow, *part, *affine, *cnf;
    size_t flow_size, part_size, affine_size, cnf_size, count, net_count, cnf_count;
    double *gradient, *net_gradient, *cnf_gradient;
    nf_rng rng;
} state;

static state state_of(scene *s) {
    state now = {.rng = s->rng, .count = nf_parameter_count(s->flow), .net_count = nf_mlp_parameter_count(s->net), .cnf_count = nf_parameter_count(s->cnf)};
    now.cnf_gradient = new_numbers(now.cnf_count);
    must(nf_gradient_get(s->cnf_gradient, now.cnf_gradient));
    must(nf_flow_save_memory(s->cnf, &now.cnf, &now.cnf_size));
    now.gradient = new_numbers(now.count);
    now.net_gradient = new_numbers(now.net_count);
    must(nf_gradient_get(s->net_gradient, now.net_gradient));
    must(nf_flow_save_memory(s->flow, &now.flow, &now.flow_size));
    must(nf_flow_save_memory(s->part, &now.part, &now.part_size));
    must(nf_flow_save_memory(s->affine, &now.affine, &now.affine_size));
    must(nf_gradient_get(s->gradient, now.gradient));
    return now;
}

static void free_state(state *s) {
    nf_free(s->flow);
    nf_free(s->part);
    nf_free(s->affine);
    nf_free(s->cnf);
    free(s->gradient);
    free(s->net_gradient);
    free(s->cnf_gradient);
}

static void same_state(const state *a, const state *b, const char *function, size_t n) {
    const bool same = a->flow_size == b->flow_size && memcmp(a->flow, b->flow, a->flow_size) == 0 && a->part_size == b->part_size &&
                      memcmp(a->part, b->part, a->part_size) == 0 && a->affine_size == b->affine_size &&
                      memcmp(a->affine, b->affine, a->affine_size) == 0 && equal_bits(a->gradient, b->gradient, a->count) &&
                      a->cnf_size == b->cnf_size && memcmp(a->cnf, b->cnf, a->cnf_size) == 0 &&
                      equal_bits(a->cnf_gradient, b->cnf_gradient, a->cnf_count) && equal_bits(a->net_gradient, b->net_gradient, a->net_count) && memcmp(&a->rng, &b->rng, sizeof a->rng) == 0;
    ck_assert_msg(same, "%s: something changed although allocation %zu failed", function, n);
}

/* Allocation n of the call fails, alone or with all that follow; true when the call needs fewer. */
static bool fail_at(const struct call *c, nf_precision precision, bool once, size_t n) {
    scene s;
    set_scene(&s, precision);
    s.memory.once = once;
    state before = state_of(&s);
    const size_t live = s.memory.live;
    s.memory.calls = 0;
    s.memory.fail_at = n;
    const nf_status status = c->act(&s);
    s.memory.fail_at = 0;
    if (status == NF_OK) {
        ck_assert_msg(s.memory.calls == n - 1 && n > c->fewest, "%s made %zu allocations, at least %zu were expected", c->function, s.memory.calls, c->fewest);
    } else {
        ck_assert_msg(status == NF_ERR_MEMORY, "%s: %s when allocation %zu failed: %s", c->function, nf_status_name(status), n, nf_last_error());
        must_say(c->function, "no ");
        ck_assert_msg(!s.made && !s.mlp && !s.ws && !s.made_gradient && !s.optimizer && !s.bytes, "%s left a handle", c->function);
        ck_assert_msg(s.memory.live == live, "%s leaks %zu blocks when allocation %zu fails", c->function, s.memory.live - live, n);
        state after = state_of(&s);
        same_state(&after, &before, c->function, n);
        free_state(&after);
        must(c->act(&s));
    }
    free_state(&before);
    clear_scene(&s, c->function);
    return status == NF_OK;
}

START_TEST(each_allocation_may_fail) {
    for (int mode = 0; mode < 4; mode++) {
        size_t n = 1;
        while (!fail_at(&calls[_i], mode % 2 ? NF_SINGLE : NF_DOUBLE, mode > 1, n))
            ck_assert_msg(n++ < 1000, "%s never succeeds", calls[_i].function);
    }
}
END_TEST

/* nf_fit, nf_fit_reverse_kl and nf_diagnose take all their own memory from the allocator in the config, and none from that of the flow. */
START_TEST(fits_have_an_allocator_of_their_own) {
    static const char *const names[] = {"nf_fit", "nf_fit_reverse_kl", "nf_diagnose"};
    for (int which = 0; which < 3; which++)
        for (size_t n = 1, done = 0; !done; n++) {
            scene s;
            set_scene(&s, NF_DOUBLE);
            s.other.calls = 0;
            s.other.fail_at = n;
            const size_t live = s.other.live, before = s.memory.calls;
            const nf_fit_config config = {.struct_size = sizeof config, .epochs = 1, .threads = 2, .allocator = &s.other_allocator};
            const nf_reverse_kl_config kl = {.struct_size = sizeof kl, .steps = 2, .samples = 20, .evaluation_samples = 50, .allocator = &s.other_allocator};
            const nf_diagnose_config look = {.struct_size = sizeof look, .samples = 50, .permutations = 19, .allocator = &s.other_allocator};
            nf_diagnose_report report = {.struct_size = sizeof report};
            const nf_status status = which == 0   ? nf_fit(s.flow, ROWS, s.x, NULL, &config, NULL)
                                     : which == 1 ? nf_fit_reverse_kl(s.flow, zero_target, NULL, &kl, NULL)
                                                  : nf_diagnose(s.flow, ROWS, s.x, NULL, &look, &report);
            done = status == NF_OK;
            ck_assert(status == NF_OK || status == NF_ERR_MEMORY);
            ck_assert_msg(!done || n > 1, "%s never used its allocator", names[which]);
            ck_assert_msg(s.memory.calls == before, "%s used the allocator of the flow", names[which]);
            ck_assert_uint_eq(s.other.live, live);
            clear_scene(&s, names[which]);
        }
}
END_TEST

/* An optimizer with an allocator of its own. */
START_TEST(optimizers_have_an_allocator_of_their_own) {
    scene s;
    set_scene(&s, NF_DOUBLE);
    const size_t live = s.memory.live, before = s.other.live;
    must(nf_optimizer_create(s.flow, NF_CONFIG(nf_optimizer_config, .allocator = &s.other_allocator), &s.optimizer));
    ck_assert_uint_eq(s.memory.live, live);
    ck_assert_uint_gt(s.other.live, before);
    clear_scene(&s, "nf_optimizer_create");
}
END_TEST

START_TEST(calls_with_a_workspace_allocate_nothing) {
    const size_t threads = _i / 2 ? 3 : 1;
    scene s;
    double loss;
    set_scene(&s, _i % 2 ? NF_SINGLE : NF_DOUBLE);
    must(nf_workspace_create(s.flow, threads, &s.ws));
    must(nf_optimizer_create(s.flow, NULL, &s.optimizer));
    s.memory.calls = 0;
    double *theta = new_numbers(nf_parameter_count(s.flow)), *g = new_numbers(nf_parameter_count(s.flow));
    nf_stats stats = {.struct_size = sizeof stats};
    for (int pass = 0; pass < 2; pass++) {
        must(nf_forward(s.flow, s.ws, ROWS, s.x, NULL, s.out, s.scalar));
        must(nf_inverse(s.flow, s.ws, ROWS, s.x, NULL, s.out, s.scalar));
        must(nf_log_prob(s.flow, s.ws, ROWS, s.x, NULL, s.scalar));
        must(nf_score(s.flow, s.ws, ROWS, s.x, NULL, s.scalar, s.out));
        must(nf_sample(s.flow, s.ws, &s.rng, ROWS, NULL, s.out, s.scalar));
        must(nf_forward_vjp(s.flow, s.ws, ROWS, s.x, NULL, s.x, s.x, s.out, NULL, s.gradient));
        must(nf_inverse_vjp(s.flow, s.ws, ROWS, s.x, NULL, s.x, s.x, s.out, NULL, s.gradient));
        must(nf_gradient_zero(s.gradient));
        must(nf_grad_nll(s.flow, s.ws, ROWS, s.x, NULL, NULL, s.gradient, &loss));
        must(nf_grad_reverse_kl(s.flow, s.ws, &s.rng, ROWS, NULL, zero_target, NULL, s.gradient, &loss));
        must(nf_gradient_get(s.gradient, g));
        must(nf_gradient_set(s.gradient, g));
        must(nf_optimizer_step(s.optimizer, s.flow, s.gradient));
        must(nf_get_parameters(s.flow, theta));
        must(nf_set_parameters(s.flow, theta));
        must(nf_workspace_stats(s.ws, &stats));
        s.x[0] = NAN; /* bad rows do not allocate either */
        must_be(NF_ERR_ROWS, nf_grad_nll(s.flow, s.ws, ROWS, s.x, NULL, NULL, s.gradient, &loss));
        s.x[0] = 0.385;
    }
    ck_assert_msg(s.memory.calls == 0, "%zu allocations", s.memory.calls);
    free(theta);
    free(g);
    clear_scene(&s, "calls with a workspace");
}
END_TEST

/* All that is made from a handle uses its allocator, and an allocator outlives the flow that brought it. */
START_TEST(what_is_made_from_a_handle_has_its_allocator) {
    memory_counter counter;
    nf_allocator allocator = counted_memory(&counter);
    nf_flow *flow = make_realnvp(DIM, 0, NF_DOUBLE, &allocator), *copy;
    nf_gradient *g;
    nf_workspace *ws;
    nf_optimizer *o;
    allocator = (nf_allocator){NULL, NULL, NULL}; /* it was copied */
    must(nf_flow_clone(flow, &copy));
    must(nf_gradient_create(copy, &g));
    must(nf_workspace_create(copy, 2, &ws));
    must(nf_optimizer_create(copy, NULL, &o));
    const size_t live = counter.live;
    nf_flow_free(flow);
    nf_flow_free(copy);
    ck_assert(counter.live > 0 && counter.live < live);
    nf_optimizer_free(o);
    nf_workspace_free(ws);
    nf_gradient_free(g);
    ck_assert_uint_eq(counter.live, 0);
    ck_assert(!counter.wrong);
}
END_TEST

/* A struct of zeros is as none, as in every other place: these four take the flow's then. */
START_TEST(an_allocator_without_functions_is_none) {
    const nf_allocator none = {NULL, NULL, NULL};
    nf_diagnose_report report = {.struct_size = sizeof report};
    nf_optimizer *optimizer;
    scene s;
    set_scene(&s, NF_DOUBLE);
    const size_t live = s.memory.live;
    must(nf_optimizer_create(s.flow, NF_CONFIG(nf_optimizer_config, .allocator = &none), &optimizer));
    ck_assert_uint_gt(s.memory.live, live);
    nf_optimizer_free(optimizer);
    must(nf_fit(s.flow, ROWS, s.x, NULL, NF_CONFIG(nf_fit_config, .epochs = 1, .allocator = &none), NULL));
    must(nf_fit_reverse_kl(s.flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .steps = 1, .samples = 8, .evaluation_samples = 8, .allocator = &none), NULL));
    must(nf_diagnose(s.flow, ROWS, s.x, NULL, NF_CONFIG(nf_diagnose_config, .exact_rows = 1, .samples = 8, .permutations = 3, .allocator = &none), &report));
    ck_assert_uint_eq(s.memory.live, live);
    clear_scene(&s, "calls with an allocator of zeros");
}
END_TEST

/* Memory of which a block has at most `most` bytes. */
typedef struct small_memory {
    size_t most, refused;
} small_memory;

static void *small_alloc(void *user, size_t size) {
    small_memory *m = user;
    if (size <= m->most)
        return malloc(size);
    m->refused = size;
    return NULL;
}

static void small_release(void *user, void *pointer) {
    (void)user;
    free(pointer);
}

/* Who has memory for no more must hear how much it takes. */
START_TEST(a_workspace_without_memory_says_its_size) {
    small_memory memory = {.most = 16384};
    const nf_allocator allocator = {.alloc = small_alloc, .release = small_release, .user = &memory};
    nf_flow *flow = make_realnvp(DIM, 0, NF_DOUBLE, &allocator);
    nf_workspace *ws;
    size_t said = 0;
    must_be(NF_ERR_MEMORY, nf_workspace_create(flow, 2, &ws));
    ck_assert_uint_gt(memory.refused, memory.most);
    ck_assert_int_eq(sscanf(nf_last_error(), "nf_workspace_create: no memory for a workspace of 2 threads in 3 dimensions: %zu bytes", &said), 1);
    ck_assert_msg(said <= memory.refused && said + 128 > memory.refused, "%zu bytes of %zu", said, memory.refused); /* the rest is of the alignment */
    must_be(NF_ERR_MEMORY, nf_workspace_create(flow, 0, &ws));
    must_say("nf_workspace_create", "no memory for a workspace of 1 thread in 3 dimensions");
    memory.most = memory.refused; /* of one thread */
    must(nf_workspace_create(flow, 1, &ws));
    nf_workspace_free(ws);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("memory of every call");
    TCase *failing = tcase_create("failing"), *own = tcase_create("allocators"), *none = tcase_create("none");
    tcase_add_loop_test(failing, each_allocation_may_fail, 0, (int)(sizeof calls / sizeof calls[0]));
    tcase_add_test(own, fits_have_an_allocator_of_their_own);
    tcase_add_test(own, optimizers_have_an_allocator_of_their_own);
    tcase_add_test(own, what_is_made_from_a_handle_has_its_allocator);
    tcase_add_test(own, an_allocator_without_functions_is_none);
    tcase_add_test(own, a_workspace_without_memory_says_its_size);
    tcase_add_loop_test(none, calls_with_a_workspace_allocate_nothing, 0, 4);
    tcase_set_timeout(failing, 60);
    tcase_set_timeout(own, 60);
    suite_add_tcase(suite, failing);
    suite_add_tcase(suite, own);
    suite_add_tcase(suite, none);
    return run_suite(suite);
}
