/*
 * Reverse KL on several ranks: the bits of one process however many there are; a rank that fails, or stops, takes all with it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "rank_checks.h"

enum { MOST_PARAMETERS = 2000 };

typedef struct kl_task {
    size_t samples, failing_call[MOST_RANKS], calls[MOST_RANKS];
    const nf_allocator *allocator[MOST_RANKS]; /* NULL: the flow's */
    bool stops[MOST_RANKS], disturbs[MOST_RANKS]; /* by progress */
    size_t more_steps[MOST_RANKS];             /* than config's */
    nf_reverse_kl_config config;
    nf_precision precision;
    bool context;
    nf_status fails_with;
    double parameters[MOST_RANKS][MOST_PARAMETERS];
    nf_reverse_kl_report report[MOST_RANKS];
} kl_task;

typedef struct kl_user {
    size_t calls, failing_call;
    nf_status status;
} kl_user;

static nf_status target(void *user, size_t rows, const double *x, double *log_density, double *grad_x) {
    kl_user *u = user;
    if (++u->calls == u->failing_call)
        return u->status;
    for (size_t r = 0; r < rows; r++) {
        const double a = x[2 * r] - 1, b = x[2 * r + 1] - x[2 * r];
        log_density[r] = x[2 * r] > 3 ? NAN : -a * a - 2 * b * b;
        grad_x[2 * r] = -2 * a + 4 * b;
        grad_x[2 * r + 1] = -4 * b;
    }
    return NF_OK;
}

typedef struct kl_watcher {
    bool stops, disturbs;
    nf_flow *flow;
} kl_watcher;

static int watch_kl(void *user, const nf_reverse_kl_progress *p) {
    const kl_watcher *w = user;
    if (w->disturbs && p->step == 3)
        move_a_little(w->flow);
    return w->stops && p->step >= 4;
}

static nf_status kl_on(void *user, const nf_comm *comm, char line[LINE]) {
    kl_task *t = user;
    const int rank = comm ? comm->rank : 0;
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .context_dim = t->context, .couplings = 2, .hidden_width = 6, .seed = 3 + (uint64_t)rank,
                                     .precision = t->precision),
                           &flow));
    double *context = new_bytes(t->samples * sizeof *context);
    for (size_t i = 0; i < t->samples; i++)
        context[i] = sin((double)i);
    nf_reverse_kl_config c = t->config;
    c.struct_size = sizeof c;
    c.samples = t->samples;
    c.steps += t->more_steps[rank];
    c.threads = 1 + (size_t)rank % 3;
    c.context = t->context ? context : NULL;
    c.comm = comm;
    c.allocator = t->allocator[rank];
    kl_watcher watcher = {t->stops[rank], t->disturbs[rank], flow};
    c.progress = watch_kl;
    c.progress_user = &watcher;
    kl_user u = {0, t->failing_call[rank], t->fails_with};
    t->report[rank].struct_size = sizeof t->report[rank];
    const nf_status status = nf_fit_reverse_kl(flow, target, &u, &c, &t->report[rank]);
    snprintf(line, LINE, "%s", nf_last_error());
    t->calls[rank] = u.calls;
    ck_assert_uint_le(nf_parameter_count(flow), MOST_PARAMETERS);
    must(nf_get_parameters(flow, t->parameters[rank]));
    nf_flow_free(flow);
    free(context);
    return status;
}

START_TEST(reverse_kl_does_not_depend_on_ranks) {
    kl_task *alone = new_bytes(sizeof *alone), *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    char line[LINE];
    *alone = (kl_task){.samples = _i == 2 ? 100 : 700, .config = {.steps = 12, .seed = 5, .evaluation_samples = 1500}, .precision = _i == 1, .context = _i == 0};
    must(kl_on(alone, NULL, line));
    ck_assert(_i == 2 || alone->report[0].bad_rows > 0);
    for (size_t i = 0; i < RANK_SIZES; i++) {
        *t = *alone;
        ck_assert(run_ranks(&(rank_options){.size = rank_sizes[i], .first_version = i == 1}, kl_on, t, results));
        all_are(results, rank_sizes[i], NF_OK, NULL);
        for (int r = 0; r < rank_sizes[i]; r++) {
            same_bits("parameters", t->parameters[r], alone->parameters[0], 300);
            same_bits("loss, elbo, evidence", &t->report[r].loss, &alone->report[0].loss, 5);
            ck_assert_uint_eq(t->report[r].bad_rows, alone->report[0].bad_rows);
        }
    }
    free(t);
    free(alone);
}
END_TEST

/* More shards than a rank computes at once, each with the contexts of its samples. */
START_TEST(reverse_kl_of_many_shards) {
    enum { MANY = 1300 }; /* 11 tiles */
    kl_task *wanted = new_bytes(sizeof *wanted), *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *wanted = (kl_task){.samples = MANY, .config = {.steps = 3, .seed = 5, .evaluation_samples = 100}, .context = true};
    *t = *wanted;
    ck_assert(run_ranks(&(rank_options){.size = 1, .shards = 11}, kl_on, wanted, results));
    all_are(results, 1, NF_OK, NULL);
    ck_assert(run_ranks(&(rank_options){.size = 3, .shards = 11}, kl_on, t, results));
    all_are(results, 3, NF_OK, NULL);
    for (int r = 0; r < 3; r++) {
        same_bits("parameters", t->parameters[r], wanted->parameters[0], 300);
        same_bits("loss", &t->report[r].loss, &wanted->report[0].loss, 1);
    }
    free(t);
    free(wanted);
}
END_TEST

START_TEST(a_target_that_fails) {
    kl_task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    const kl_task sound = {.samples = 700, .config = {.steps = 8, .seed = 5, .evaluation_samples = 6000}, .fails_with = (nf_status)-77};
    *t = sound;
    ck_assert(run_ranks(&(rank_options){.size = 3}, kl_on, t, results));
    all_are(results, 3, NF_OK, NULL);
    const size_t calls = t->calls[1];
    for (size_t call = 1; call <= calls; call++)
        for (int fast = 0; fast < 2; fast++) {
            *t = sound;
            t->failing_call[1] = call;
            ck_assert(run_ranks(&(rank_options){.size = 3, .fast = fast}, kl_on, t, results));
            all_are(results, 3, (nf_status)-77, NULL);
        }
    free(t);
}
END_TEST

/* Rank 1 asks for it after 4 steps, or after 5, the first at which it is heard: all have made as many. */
START_TEST(progress_of_one_rank_stops_the_reverse_kl_of_all) {
    kl_task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    const size_t every[] = {2, 5};
    for (size_t k = 0; k < 2; k++) {
        *t = (kl_task){.samples = 200, .config = {.steps = 30, .progress_every = every[k], .evaluation_samples = 100}};
        t->stops[1] = true;
        ck_assert(run_ranks(&(rank_options){.size = 3}, kl_on, t, results));
        all_are(results, 3, NF_STOPPED, NULL);
        for (int r = 0; r < 3; r++) {
            ck_assert_uint_eq(t->report[r].steps, k ? 5 : 4);
            ck_assert_int_eq(t->report[r].stop_reason, NF_STOP_CALLBACK);
            same_bits("parameters", t->parameters[r], t->parameters[0], 40);
            same_bits("elbo", &t->report[r].elbo, &t->report[0].elbo, 1);
        }
    }
    free(t);
}
END_TEST

static void prepare_kl(void *user, const nf_allocator *of_rank_1, void *context) {
    kl_task *t = user;
    *t = (kl_task){.samples = 700, .config = {.steps = 2, .progress_every = 1, .evaluation_samples = 700}, .context = *(const bool *)context};
    t->allocator[1] = of_rank_1;
}

/* At every operation, from the first comparison to the last of the report. */
START_TEST(reverse_kl_whose_communication_fails) {
    kl_task *t = new_bytes(sizeof *t);
    bool context = false;
    fail_each_operation(&(failing_body){kl_on, t, &context, prepare_kl, NULL}, _i, 6);
    free(t);
}
END_TEST

START_TEST(memory_that_one_rank_lacks_for_reverse_kl) {
    kl_task *t = new_bytes(sizeof *t);
    bool context = true;
    fail_each_allocation(&(failing_body){kl_on, t, &context, prepare_kl, NULL}, _i, 6);
    free(t);
}
END_TEST

START_TEST(reverse_kl_that_comes_apart) {
    kl_task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = (kl_task){.samples = 300, .config = {.steps = 6}, .disturbs = {[1] = true}};
    ck_assert(run_ranks(&(rank_options){.size = 3}, kl_on, t, results));
    all_are(results, 3, NF_ERR_MISMATCH, "rank 1 have come apart");
    all_are(results, 3, NF_ERR_MISMATCH, "step 3");
    free(t);
}
END_TEST

START_TEST(reverse_kl_settings_that_are_wrong_or_differ) {
    kl_task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = (kl_task){.samples = 200, .config = {.steps = 3, .beta_start = -1}};
    ck_assert(run_ranks(&(rank_options){.size = 2}, kl_on, t, results));
    all_are(results, 2, NF_ERR_ARGUMENT, "beta_start is -1");
    *t = (kl_task){.samples = 200, .config = {.steps = 3}, .more_steps = {[2] = 1}};
    ck_assert(run_ranks(&(rank_options){.size = 3}, kl_on, t, results));
    all_are(results, 3, NF_ERR_MISMATCH, "config->steps");
    free(t);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("reverse KL on ranks");
    TCase *bits = tcase_create("bits"), *failures = tcase_create("failures");
    tcase_set_timeout(bits, 120);
    tcase_set_timeout(failures, 120);
    tcase_add_loop_test(bits, reverse_kl_does_not_depend_on_ranks, 0, 3);
    tcase_add_test(bits, reverse_kl_of_many_shards);
    tcase_add_test(failures, a_target_that_fails);
    tcase_add_test(failures, progress_of_one_rank_stops_the_reverse_kl_of_all);
    tcase_add_loop_test(failures, reverse_kl_whose_communication_fails, 0, 3);
    tcase_add_loop_test(failures, memory_that_one_rank_lacks_for_reverse_kl, 0, 2);
    tcase_add_test(failures, reverse_kl_that_comes_apart);
    tcase_add_test(failures, reverse_kl_settings_that_are_wrong_or_differ);
    suite_add_tcase(suite, bits);
    suite_add_tcase(suite, failures);
    return run_suite(suite);
}
