/*
 * Fits on several ranks of which one fails: it takes all with it, with its status and line, nobody hangs, and the flows are as before.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rank_fits.h"

START_TEST(arguments_of_one_rank) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    double weight[ROWS];
    nf_fit_config own;
    const nf_optimizer_config optimizer = {.struct_size = sizeof optimizer, .learning_rate = 3e-3};
    for (size_t i = 0; i < ROWS; i++)
        weight[i] = i == 11 ? NAN : 1;
    const struct {
        nf_status status;
        const char *says;
        nf_fit_config change;
    } cases[] = {{NF_ERR_ARGUMENT, "config->weight[11] is nan, must be finite and not negative (rank 1 of 3)", {.weight = weight}},
                 {NF_ERR_MISMATCH, "config->batch_size is 50, and on rank 0 it is 600 (rank 1 of 3)", {.batch_size = 50}},
                 {NF_ERR_MISMATCH, "config->seed is", {.seed = UINT64_C(1) << 40}},
                 {NF_ERR_MISMATCH, "config->noise", {.noise = .5}},
                 {NF_ERR_MISMATCH, "config->contamination is 0.5, and on rank 0 it is 0.02", {.contamination = .5}},
                 {NF_ERR_MISMATCH, "optimizer->kind", {.optimizer = &optimizer}},
                 {NF_ERR_ARGUMENT, "noise is nan", {.noise = NAN}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        *t = new_task(d, COUPLINGS);
        own = t->config;
        own.weight = cases[i].change.weight;
        own.batch_size = cases[i].change.batch_size ? cases[i].change.batch_size : own.batch_size;
        own.seed = cases[i].change.seed ? cases[i].change.seed : own.seed;
        own.noise = cases[i].change.noise;
        own.contamination = cases[i].change.contamination;
        own.optimizer = cases[i].change.optimizer;
        t->own[1] = &own;
        t->seed[2] = 8;
        ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, t, results));
        all_are(results, 3, cases[i].status, cases[i].says);
        unchanged(t, 3);
    }
    free(t);
    free(d);
}
END_TEST

/* Initial parameters come from rank 0, but probes are structure. */
START_TEST(flows_of_other_seeds) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = new_task(d, CONTINUOUS);
    t->seed[2] = 8;
    ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, t, results));
    all_are(results, 3, NF_ERR_MISMATCH, "the seed of the flow's continuous layers is 8, and on rank 0 it is 3 (rank 2 of 3)");
    unchanged(t, 3);
    free(t);
    free(d);
}
END_TEST

static nf_status fit_without_flow(void *user, const nf_comm *comm, char line[LINE]) {
    const data *d = user;
    nf_flow *flow = flow_of(PLANAR, 3);
    const nf_status status = nf_fit(comm->rank == 1 ? NULL : flow, ROWS, d->x, NULL, NF_CONFIG(nf_fit_config, .comm = comm), NULL);
    snprintf(line, LINE, "%s", nf_last_error());
    nf_flow_free(flow);
    return status;
}

START_TEST(a_rank_without_a_flow) {
    data *d = new_data();
    rank_result results[MOST_RANKS];
    ck_assert(run_ranks(&(rank_options){.size = 3}, fit_without_flow, d, results));
    all_are(results, 3, NF_ERR_ARGUMENT, "flow is NULL (rank 1 of 3)");
    free(d);
}
END_TEST

START_TEST(flows_that_differ) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = new_task(d, PLANAR);
    t->flow[1] = flow_of(CONTINUOUS, 3);
    ck_assert(run_ranks(&(rank_options){.size = 2}, fit_on, t, results));
    all_are(results, 2, NF_ERR_MISMATCH, NULL);
    nf_flow_free(t->flow[1]);
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = COLUMNS, .layers = 3, .precision = NF_DOUBLE), &t->flow[1]));
    ck_assert(run_ranks(&(rank_options){.size = 2}, fit_on, t, results));
    all_are(results, 2, NF_ERR_MISMATCH, "the flow's precision is 0, and on rank 0 it is 1 (rank 1 of 2)");
    nf_flow_free(t->flow[1]);
    free(t);
    free(d);
}
END_TEST

START_TEST(instruction_sets_that_differ) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = new_task(d, PLANAR);
    const char *given = getenv("NFLOW_ISA");
    char kept[40];
    snprintf(kept, sizeof kept, "%s", given ? given : "");
    for (int r = 0; r < 2; r++) {
        setenv("NFLOW_ISA", "base", 1);
        if (r == 0 && given)
            setenv("NFLOW_ISA", kept, 1);
        else if (r == 0)
            unsetenv("NFLOW_ISA");
        t->flow[r] = flow_of(PLANAR, 3);
    }
    const bool same = strcmp(nf_flow_isa(t->flow[0]), nf_flow_isa(t->flow[1])) == 0; /* a processor with one only */
    ck_assert(run_ranks(&(rank_options){.size = 2}, fit_on, t, results));
    all_are(results, 2, same ? NF_OK : NF_ERR_MISMATCH, same ? NULL : "set NFLOW_ISA");
    nf_flow_free(t->flow[0]);
    nf_flow_free(t->flow[1]);
    free(t);
    free(d);
}
END_TEST

START_TEST(a_reader_that_fails) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = new_task(d, COUPLINGS);
    t->by_callback = true;
    ck_assert(run_ranks(&(rank_options){.size = 4}, fit_on, t, results));
    const size_t calls = t->reads[2];
    ck_assert_uint_gt(calls, 4);
    for (size_t call = 1; call <= calls; call++)
        for (int fast = 0; fast < 2; fast++) {
            *t = new_task(d, COUPLINGS);
            t->by_callback = true;
            t->failing_read[2] = call;
            ck_assert(run_ranks(&(rank_options){.size = 4, .fast = fast}, fit_on, t, results));
            all_are(results, 4, NF_ERR_IO, NULL);
            unchanged(t, 4);
        }
    free(t);
    free(d);
}
END_TEST

static void three_unchanged(const void *user) { unchanged(user, 3); }

static void prepare_wide_fit(void *user, const nf_allocator *of_rank_1, void *rows) {
    task *t = user;
    *t = new_task(rows, PLANAR);
    t->config.epochs = 1;
    t->config.batch_size = 1300;
    t->allocator[1] = of_rank_1;
}

/* Every allocation of one rank's fit, one after the other. */
START_TEST(memory_that_one_rank_lacks) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    fail_each_allocation(&(failing_body){fit_on, t, d, prepare_wide_fit, three_unchanged}, _i, 15);
    free(t);
    free(d);
}
END_TEST

static void prepare_fit(void *user, const nf_allocator *of_rank_1, void *rows) {
    task *t = user;
    prepare_wide_fit(t, of_rank_1, rows);
    t->config.batch_size = 700;
}

/* Communication that breaks at every place where there is some: nobody hangs, and the flows are as before. */
START_TEST(communication_that_fails) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    fail_each_operation(&(failing_body){fit_on, t, d, prepare_fit, three_unchanged}, _i, 6);
    free(t);
    free(d);
}
END_TEST

static int disturb(void *user, const nf_fit_progress *p) {
    (void)p;
    move_a_little(user);
    return 0;
}

START_TEST(ranks_that_come_apart) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    nf_fit_config own;
    *t = new_task(d, COUPLINGS);
    own = t->config;
    own.progress = disturb;
    own.progress_user = t->flow[2] = flow_of(COUPLINGS, 3);
    t->own[2] = &own;
    ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, t, results));
    all_are(results, 3, NF_ERR_MISMATCH, "rank 2 have come apart");
    nf_flow_free(t->flow[2]);
    free(t);
    free(d);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ranks that fail");
    TCase *failures = tcase_create("failures");
    tcase_set_timeout(failures, 120);
    tcase_add_test(failures, arguments_of_one_rank);
    tcase_add_test(failures, flows_of_other_seeds);
    tcase_add_test(failures, a_rank_without_a_flow);
    tcase_add_test(failures, flows_that_differ);
    tcase_add_test(failures, instruction_sets_that_differ);
    tcase_add_test(failures, a_reader_that_fails);
    tcase_add_loop_test(failures, memory_that_one_rank_lacks, 0, 2);
    tcase_add_loop_test(failures, communication_that_fails, 0, 3);
    tcase_add_test(failures, ranks_that_come_apart);
    suite_add_tcase(suite, failures);
    return run_suite(suite);
}
