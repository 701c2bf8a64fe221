/*
 * Fits on several ranks: the bits of one process however many ranks there are and whoever has which rows; checkpoints go on with another number of ranks.
 */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rank_fits.h"

START_TEST(bits_do_not_depend_on_ranks) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    *t = new_task(d, (enum kind)_i);
    t->weighted = t->kind == COUPLINGS;
    fit_alone(t);
    for (size_t i = 0; i < RANK_SIZES; i++)
        fit_on_ranks(t, &(rank_options){.size = rank_sizes[i], .first_version = i % 2 == 0}, (enum spread)(i % SPREADS));
    free(t);
    free(d);
}
END_TEST

/* A rank without weights has weights of 1, whatever the size of the others'. */
START_TEST(a_rank_without_weights_weighs_1) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    for (size_t i = 0; i < ROWS; i++)
        d->weight[i] = i < ROWS / 2 ? ldexp(d->weight[i], 20) : 1.0;
    *t = new_task(d, COUPLINGS);
    t->weighted = true;
    fit_alone(t);
    t->first_alone_weighs = true;
    fit_on_ranks(t, &(rank_options){.size = 2}, EVEN);
    free(t);
    free(d);
}
END_TEST

/* Were it held out, the one row with weight would leave nothing to learn from. */
START_TEST(one_row_that_counts_is_trained_on) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    memset(d->weight, 0, sizeof d->weight);
    d->weight[1000] = 2;
    *t = new_task(d, COUPLINGS);
    t->weighted = true;
    t->config.validation_fraction = 0.99;
    t->config.epochs = 1;
    fit_alone(t);
    ck_assert_uint_eq(t->report[0].steps, 1);
    for (size_t i = 0; i < RANK_SIZES; i++)
        fit_on_ranks(t, &(rank_options){.size = rank_sizes[i]}, (enum spread)(i % SPREADS));
    free(t);
    free(d);
}
END_TEST

START_TEST(bits_do_not_depend_on_who_has_the_rows) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    *t = new_task(d, COUPLINGS);
    t->held_out = t->weighted = true;
    fit_alone(t);
    for (int spread = 0; spread < SPREADS; spread++) {
        t->by_callback = spread % 2 == 0;
        fit_on_ranks(t, &(rank_options){.size = 3}, (enum spread)spread);
        fit_on_ranks(t, &(rank_options){.size = 8, .first_version = true}, (enum spread)spread);
    }
    free(t);
    free(d);
}
END_TEST

START_TEST(a_callback_gives_the_bits_of_arrays) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t), *other = new_bytes(sizeof *t);
    *t = new_task(d, COUPLINGS);
    *other = *t;
    other->by_callback = true;
    fit_alone(t);
    fit_alone(other);
    same_fit(other, 1, t);
    free(other);
    free(t);
    free(d);
}
END_TEST

/* More shards than 8 are summed by trees; the ranks' parts of them are of any shape. */
START_TEST(many_shards) {
    static const size_t shards[] = {9, 12, 16, 50};
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
        *t = new_task(d, i % 2 ? COUPLINGS : PLANAR);
        t->weighted = t->kind == COUPLINGS; /* with its contexts: more than 8 shards of a rank are computed one part after the other */
        t->config.epochs = 3;
        t->config.batch_size = 1400; /* 11 tiles, and the last batch has none */
        t->config.validation_fraction = -1;
        ck_assert(run_ranks(&(rank_options){.size = 1, .shards = shards[i]}, fit_on, t, results));
        all_are(results, 1, NF_OK, NULL);
        for (int size = 2; size <= MOST_RANKS; size++)
            fit_on_ranks(t, &(rank_options){.size = size, .shards = shards[i], .no_exchange = size == 5}, (enum spread)(size % SPREADS));
    }
    free(t);
    free(d);
}
END_TEST

/* ---- many rows */

enum { FENCE = 4096, MANY = 12545, MANY_AND_A_TENTH = 13938, BATCH = 6273, FEATURES = 3 };

/* Memory with a fence behind it, which must be whole when it is given back. */
static void *fenced_allocate(void *user, size_t size) {
    unsigned char *block = malloc(FENCE + size + FENCE);
    (void)user;
    if (!block)
        return NULL;
    memcpy(block, &size, sizeof size);
    memset(block + FENCE + size, 0xA5, FENCE);
    return block + FENCE;
}

static void fenced_release(void *user, void *pointer) {
    bool *broken = user;
    if (!pointer)
        return;
    unsigned char *block = (unsigned char *)pointer - FENCE;
    size_t size;
    memcpy(&size, block, sizeof size);
    for (size_t i = 0; i < FENCE; i++)
        *broken = *broken || block[FENCE + size + i] != 0xA5;
    free(block);
}

/* One fit of a flow of two columns of context on each rank, with its own part of the rows. */
typedef struct many {
    size_t rows;
    double held_out;
    double *x, *context, *weight;
    bool broken[MOST_RANKS];
    double parameters[MOST_RANKS][MOST_PARAMETERS];
    size_t count[MOST_RANKS];
} many;

static nf_status fit_many(void *user, const nf_comm *comm, char line[LINE]) {
    many *m = user;
    const size_t rank = (size_t)comm->rank, size = (size_t)comm->size, first = m->rows * rank / size, rows = m->rows * (rank + 1) / size - first;
    const nf_allocator fenced = {fenced_allocate, fenced_release, &m->broken[rank]};
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = FEATURES, .context_dim = 2, .couplings = 2, .hidden_layers = 1, .hidden_width = 4, .seed = 3), &flow));
    const nf_status status = nf_fit(flow, rows, m->x + first * FEATURES, m->context + first * 2,
                                    NF_CONFIG(nf_fit_config, .epochs = 1, .batch_size = BATCH, .seed = 4, .validation_fraction = m->held_out,
                                              .weight = m->weight ? m->weight + first : NULL, .comm = comm, .allocator = &fenced),
                                    NULL);
    snprintf(line, LINE, "%s", nf_last_error());
    m->count[rank] = nf_parameter_count(flow);
    must(nf_get_parameters(flow, m->parameters[rank]));
    nf_flow_free(flow);
    return status;
}

/*
 * With 50 shards a batch of 6273 rows has one in the last of its 50 tiles; the next, of 6272, has 49, and of them rank 1 of 2 has 25 whole ones: more rows than of the larger
 * batch, and more than room is made for in any case. So it is too after a tenth is held out, and where one row alone counts and is
 * not held out in the end. Waves that are not the first have their own part of both columns of the context.
 */
START_TEST(a_smaller_batch_may_be_more_rows_of_a_rank) {
    many *alone = new_bytes(sizeof *alone), *m = new_bytes(sizeof *m);
    rank_result results[MOST_RANKS];
    random_source random = random_begin(5);
    memset(alone, 0, sizeof *alone);
    alone->rows = _i == 1 ? MANY_AND_A_TENTH : MANY;
    alone->held_out = _i == 0 ? -1 : _i == 1 ? 0.1 : 0.5;
    alone->x = new_normals(&random, alone->rows * FEATURES, 2.385);
    alone->context = new_normals(&random, alone->rows * 2, 1.385);
    if (_i > 1) {
        alone->weight = new_bytes(MANY * sizeof *alone->weight);
        memset(alone->weight, 0, MANY * sizeof *alone->weight);
        alone->weight[_i] = 1;
    }
    *m = *alone;
    ck_assert(run_ranks(&(rank_options){.size = 1, .shards = 50}, fit_many, alone, results));
    all_are(results, 1, NF_OK, NULL);
    for (int size = 2; size <= 5; size += 3) {
        ck_assert(run_ranks(&(rank_options){.size = size, .shards = 50}, fit_many, m, results));
        all_are(results, size, NF_OK, NULL);
        for (int r = 0; r < size; r++) {
            ck_assert_msg(!m->broken[r], "rank %d of %d wrote beyond its memory", r, size);
            same_bits("parameters", m->parameters[r], alone->parameters[0], alone->count[0]);
        }
    }
    free(alone->x);
    free(alone->context);
    free(alone->weight);
    free(alone);
    free(m);
}
END_TEST

START_TEST(fast_mode_is_close) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t), *fast = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = new_task(d, COUPLINGS);
    *fast = *t;
    fit_alone(t);
    ck_assert(run_ranks(&(rank_options){.size = 3, .fast = true}, fit_on, fast, results));
    all_are(results, 3, NF_OK, NULL);
    must_agree("parameters", whole_error(fast->parameters[0], t->parameters[0], parameter_count(COUPLINGS)), 1e-9);
    for (int r = 1; r < 3; r++)
        same_bits("parameters", fast->parameters[r], fast->parameters[0], parameter_count(COUPLINGS));
    free(fast);
    free(t);
    free(d);
}
END_TEST

START_TEST(all_start_from_rank_0) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    *t = new_task(d, COUPLINGS);
    fit_alone(t);
    t->seed[1] = 4;
    t->seed[2] = 5;
    fit_on_ranks(t, &(rank_options){.size = 3}, EVEN);
    free(t);
    free(d);
}
END_TEST

START_TEST(rows_that_are_not_finite_are_counted_on_all) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    char line[LINE];
    d->x[5] = NAN;
    d->x[2 * ROWS - 1] = INFINITY;
    d->context[700] = -INFINITY;
    task *alone = new_bytes(sizeof *t);
    *t = *alone = new_task(d, COUPLINGS);
    must_be(NF_ERR_ROWS, fit_on(alone, NULL, line));
    ck_assert(run_ranks(&(rank_options){.size = 4}, fit_on, t, results));
    all_are(results, 4, NF_ERR_ROWS, "3 of 1700 rows");
    same_fit(t, 4, alone);
    free(alone);
    free(t);
    free(d);
}
END_TEST

/* ---- checkpoints */

static char path[300];

static void set_path(void) {
    snprintf(path, sizeof path, "%s/nflow-ranks-%ld", scratch_folder(), (long)getpid());
    unlink(path);
}

static void drop_path(void) { unlink(path); }

static int stop_at_second(void *user, const nf_fit_progress *p) {
    (void)user;
    return p->epoch == 2;
}

START_TEST(checkpoints_go_on_with_other_ranks) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t), *begun = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    nf_fit_config stopping;
    char line[LINE];
    *t = new_task(d, COUPLINGS);
    t->config.epochs = 4;
    t->weighted = true;
    fit_alone(t);
    for (int i = 0; i < 3; i++) {
        set_path();
        *begun = *t;
        begun->config.checkpoint = path;
        begun->spread = (enum spread)i;
        stopping = begun->config;
        stopping.progress = stop_at_second;
        begun->own[i == 2 ? 0 : 1] = &stopping; /* one rank stops all */
        if (i == 2)
            must_be(NF_STOPPED, fit_on(begun, NULL, line));
        else
            ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, begun, results));
        if (i < 2)
            all_are(results, 3, NF_STOPPED, NULL);
        t->config.checkpoint = path;
        fit_on_ranks(t, &(rank_options){.size = i == 0 ? 1 : 4}, UNEVEN);
        t->config.checkpoint = NULL;
    }
    free(begun);
    free(t);
    free(d);
}
END_TEST

START_TEST(a_checkpoint_of_other_data_is_refused_by_all) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    nf_fit_config own;
    rank_result results[MOST_RANKS];
    char line[LINE];
    set_path();
    *t = new_task(d, COUPLINGS);
    t->config.checkpoint = path;
    must(fit_on(t, NULL, line));
    const double kept = d->x[2 * ROWS - 2];
    d->x[2 * ROWS - 2] += 1;
    ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, t, results));
    all_are(results, 3, NF_ERR_MISMATCH, "other data");
    d->x[2 * ROWS - 2] = kept; /* to the bit */
    own = t->config;
    own.checkpoint = "";
    t->own[1] = t->own[2] = &own; /* rank 0's path counts */
    ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, t, results));
    all_are(results, 3, NF_OK, NULL);
    t->own[0] = &own;
    ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, t, results));
    all_are(results, 3, NF_ERR_ARGUMENT, "config->checkpoint is an empty path (rank 0 of 3)");
    t->own[0] = t->own[1] = t->own[2] = NULL;
    t->config.checkpoint = "/nonexistent/folder/file";
    ck_assert(run_ranks(&(rank_options){.size = 3}, fit_on, t, results));
    all_are(results, 3, NF_ERR_IO, "(rank 0 of 3)");
    free(t);
    free(d);
}
END_TEST

/* The shards are a setting like others: a program without a comm has 8. Who sums them is none, and in fast mode neither are the bits. */
START_TEST(a_checkpoint_knows_its_shards) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    char line[LINE];
    set_path();
    *t = new_task(d, COUPLINGS);
    t->config.checkpoint = path;
    ck_assert(run_ranks(&(rank_options){.size = 2, .shards = 9}, fit_on, t, results));
    all_are(results, 2, NF_OK, NULL);
    must_be(NF_ERR_MISMATCH, fit_on(t, NULL, line));
    ck_assert_msg(strstr(line, ": shards is 8, and there it is 9"), "%s", line);
    ck_assert(run_ranks(&(rank_options){.size = 2, .shards = 10}, fit_on, t, results));
    all_are(results, 2, NF_ERR_MISMATCH, ": shards is 10, and there it is 9");
    ck_assert(run_ranks(&(rank_options){.size = 3, .shards = 9, .fast = true}, fit_on, t, results));
    all_are(results, 3, NF_OK, NULL);
    ck_assert(run_ranks(&(rank_options){.size = 1, .shards = 9}, fit_on, t, results));
    all_are(results, 1, NF_OK, NULL);
    free(t);
    free(d);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ranks");
    TCase *bits = tcase_create("bits"), *checkpoints = tcase_create("checkpoints");
    tcase_set_timeout(bits, 120);
    tcase_set_timeout(checkpoints, 120);
    tcase_add_loop_test(bits, bits_do_not_depend_on_ranks, 0, KINDS);
    tcase_add_test(bits, bits_do_not_depend_on_who_has_the_rows);
    tcase_add_test(bits, a_rank_without_weights_weighs_1);
    tcase_add_test(bits, one_row_that_counts_is_trained_on);
    tcase_add_test(bits, a_callback_gives_the_bits_of_arrays);
    tcase_add_test(bits, many_shards);
    tcase_add_loop_test(bits, a_smaller_batch_may_be_more_rows_of_a_rank, 0, 6);
    tcase_add_test(bits, fast_mode_is_close);
    tcase_add_test(bits, all_start_from_rank_0);
    tcase_add_test(bits, rows_that_are_not_finite_are_counted_on_all);
    tcase_add_checked_fixture(checkpoints, NULL, drop_path);
    tcase_add_test(checkpoints, checkpoints_go_on_with_other_ranks);
    tcase_add_test(checkpoints, a_checkpoint_knows_its_shards);
    tcase_add_test(checkpoints, a_checkpoint_of_other_data_is_refused_by_all);
    suite_add_tcase(suite, bits);
    suite_add_tcase(suite, checkpoints);
    return run_suite(suite);
}
