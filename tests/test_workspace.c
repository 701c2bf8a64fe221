/*
 * What a workspace held before is nobody's business: the memory that it is given may hold anything, also what looks like a cache of just these parameters, and calls of
 * few rows may come before calls of many. And threads that sum a large gradient take each number once.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

enum { DIM = 4, ROWS = 1024 };

/* ---- memory that looks like something */

static uint64_t word; /* what new memory is full of */

static void *full_allocate(void *user, size_t size) {
    uint64_t *block = malloc(size + sizeof word);
    (void)user;
    for (size_t i = 0; block && i < size / sizeof word + 1; i++)
        block[i] = word;
    return block;
}

static void full_release(void *user, void *pointer) {
    (void)user;
    free(pointer);
}

static nf_flow *flow_of(int kind, const nf_allocator *allocator) {
    nf_flow *flow;
    if (kind == 0)
        must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_width = 5, .seed = 3, .allocator = allocator), &flow));
    else
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = NF_DYNAMICS_HYPER, .units = 4, .hidden_width = 4, .method = NF_RK4, .steps = 2, .seed = 3,
                                     .allocator = allocator),
                           &flow));
    random_source random = random_begin(6);
    randomize(flow, &random, 0.385);
    return flow;
}

/* Caches are known by small numbers, of which each has its turn. */
START_TEST(memory_may_look_like_a_cache) {
    enum { FEW = 3, MANY = 200, WORDS = 300 };
    const nf_allocator full = {full_allocate, full_release, NULL};
    random_source random = random_begin(1);
    double *x = new_normals(&random, MANY * DIM, 1), expected[MANY], got[MANY];
    word = 0;
    nf_flow *flow = flow_of(_i, &full);
    must(nf_log_prob(flow, NULL, MANY, x, NULL, expected));
    for (word = 0; word < WORDS; word++) {
        nf_workspace *ws;
        must(nf_workspace_create(flow, 1, &ws));
        must(nf_log_prob(flow, ws, word % 2 ? FEW : MANY, x, NULL, got));
        same_bits("log_prob", got, expected, word % 2 ? FEW : MANY);
        must(nf_log_prob(flow, ws, word % 2 ? MANY : FEW, x, NULL, got));
        same_bits("log_prob", got, expected, word % 2 ? MANY : FEW);
        nf_workspace_free(ws);
    }
    nf_flow_free(flow);
    free(x);
}
END_TEST

/* ---- few rows, then many */

/* Layers may treat few rows in a way of their own, which flow matching through the layers beside its field must not take over. */
START_TEST(matching_follows_few_rows) {
    nf_flow *flow, *cnf;
    nf_workspace *ws;
    nf_gradient *gradient;
    random_source random = random_begin(2);
    double *x = new_normals(&random, ROWS * DIM, 1), loss[2], log_prob;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_width = 40, .seed = 3, .precision = (nf_precision)_i), &flow));
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_layers = 1, .hidden_width = 6, .seed = 3, .precision = (nf_precision)_i), &cnf));
    must(nf_flow_append(cnf, flow));
    randomize(cnf, &random, 0.2);
    must(nf_gradient_create(cnf, &gradient));
    double *g[2] = {new_numbers(nf_parameter_count(cnf)), new_numbers(nf_parameter_count(cnf))};
    for (int after = 0; after < 2; after++) {
        nf_rng rng = {5, 6, 0};
        must(nf_workspace_create(cnf, 1, &ws));
        if (after)
            must(nf_log_prob(cnf, ws, 1, x, NULL, &log_prob));
        must(nf_gradient_zero(gradient));
        must(nf_grad_flow_matching(cnf, ws, &rng, ROWS, x, NULL, NULL, NF_PAIRING_INDEPENDENT, gradient, &loss[after]));
        must(nf_gradient_get(gradient, g[after]));
        nf_workspace_free(ws);
    }
    same_bits("loss", &loss[1], &loss[0], 1);
    same_bits("gradient", g[1], g[0], nf_parameter_count(cnf));
    free(g[0]);
    free(g[1]);
    free(x);
    nf_gradient_free(gradient);
    nf_flow_free(cnf);
}
END_TEST

/* ---- what is counted */

static nf_stats stats_of(const nf_workspace *ws) {
    nf_stats stats = {.struct_size = sizeof stats};
    must(nf_workspace_stats(ws, &stats));
    return stats;
}

/* A tile that finds no room for its checkpoints is done again with more, and is counted once. The exact gradient solves nothing, and the adjoint equation is a solve whose evaluations count. */
START_TEST(what_is_done_again_is_counted_once) {
    const bool adjoint = _i >= 2;
    nf_flow *flow, *second;
    nf_workspace *ws;
    nf_gradient *gradient;
    random_source random = random_begin(4);
    double *x = new_normals(&random, ROWS * DIM, 1), *log_prob = new_numbers(ROWS), loss;
    const nf_cnf_config config = {.struct_size = sizeof config, .dim = DIM, .hidden_layers = 1, .hidden_width = 6, .seed = 3, .rtol = 1e-10, .atol = 1e-10,
                                  .gradient = adjoint ? NF_ODE_ADJOINT : NF_ODE_DISCRETE};
    must(nf_cnf_create(&config, &flow));
    must(nf_cnf_create(&config, &second)); /* which may have no room when the first is done */
    must(nf_flow_append(flow, second));
    randomize(flow, &random, adjoint ? 0.385 : 1.385);
    x[5] = x[4 * 700] = NAN;
    must(nf_gradient_create(flow, &gradient));
    must(nf_workspace_create(flow, 1 + (size_t)_i % 2, &ws));
    must_be(NF_ERR_ROWS, nf_grad_nll(flow, ws, ROWS, x, NULL, NULL, gradient, &loss));
    const nf_stats first = stats_of(ws);
    must_be(NF_ERR_ROWS, nf_grad_nll(flow, ws, ROWS, x, NULL, NULL, gradient, &loss));
    const nf_stats again = stats_of(ws);
    must_be(NF_ERR_ROWS, nf_log_prob(flow, ws, ROWS, x, NULL, log_prob));
    const nf_stats density = stats_of(ws);
    ck_assert_msg(first.bad_rows == 2 && first.first_bad_row == 1, "%zu bad rows, the first %zu", first.bad_rows, first.first_bad_row);
    ck_assert_msg(first.rhs_evaluations == again.rhs_evaluations, "%llu evaluations, then %llu", (unsigned long long)first.rhs_evaluations,
                  (unsigned long long)again.rhs_evaluations);
    ck_assert(first.steps_accepted == again.steps_accepted && first.steps_rejected == again.steps_rejected && again.bad_rows == 2);
    ck_assert(again.steps_accepted == density.steps_accepted && again.steps_rejected == density.steps_rejected);
    ck_assert_msg(adjoint ? again.rhs_evaluations > density.rhs_evaluations : again.rhs_evaluations == density.rhs_evaluations, "%llu evaluations, and %llu without a gradient", (unsigned long long)again.rhs_evaluations,
                  (unsigned long long)density.rhs_evaluations);
    nf_workspace_free(ws);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
    free(log_prob);
    free(x);
}
END_TEST

/* ---- a large gradient */

/* Of so many parameters, in all its slots, that several threads sum it; not a multiple of what one of them takes at once. */
START_TEST(threads_sum_each_number_once) {
    nf_flow *flow;
    nf_gradient *gradient;
    random_source random = random_begin(3);
    double *x = new_normals(&random, ROWS * DIM, 1), expected_loss = 0, loss;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_layers = 2, .hidden_width = 150, .seed = 3, .precision = (nf_precision)_i), &flow));
    const size_t count = nf_parameter_count(flow);
    ck_assert(8 * count > 3 * 65536 && count % 2048 != 0);
    must(nf_gradient_create(flow, &gradient));
    double *expected = new_numbers(count), *got = new_numbers(count);
    for (size_t threads = 1; threads <= 8; threads++) {
        nf_workspace *ws;
        must(nf_workspace_create(flow, threads, &ws));
        must(nf_gradient_zero(gradient));
        must(nf_grad_nll(flow, ws, ROWS, x, NULL, NULL, gradient, threads == 1 ? &expected_loss : &loss));
        must(nf_gradient_get(gradient, threads == 1 ? expected : got));
        if (threads > 1) {
            same_bits("loss", &loss, &expected_loss, 1);
            same_bits("gradient", got, expected, count);
        }
        nf_workspace_free(ws);
    }
    free(expected);
    free(got);
    free(x);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("workspaces");
    TCase *c = tcase_create("memory");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, memory_may_look_like_a_cache, 0, 2);
    tcase_add_loop_test(c, matching_follows_few_rows, 0, 2);
    tcase_add_loop_test(c, what_is_done_again_is_counted_once, 0, 4);
    tcase_add_loop_test(c, threads_sum_each_number_once, 0, 2);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
