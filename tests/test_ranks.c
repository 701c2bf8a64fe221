/*
 * Fits on several ranks: the bits of one process however many ranks there are and whoever has which rows; a rank that fails takes all with it, with its
 * status and line; checkpoints go on with another number of ranks.
 */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ranks.h"
#include "support.h"

enum { ROWS = 1700, HELD_OUT = 300, COLUMNS = 2, MOST_PARAMETERS = 2000 };

/* ---- fits of several kinds */

enum kind { COUPLINGS, PLANAR, MATCHING, PAIRED, CONTINUOUS, KINDS };

static nf_flow *flow_of(enum kind kind, uint64_t seed) {
    nf_flow *flow;
    switch (kind) {
    case COUPLINGS:
        must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = COLUMNS, .context_dim = 1, .couplings = 2, .hidden_width = 8, .seed = seed), &flow));
        break;
    case PLANAR:
        must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = COLUMNS, .layers = 3, .seed = seed, .precision = NF_SINGLE), &flow));
        break;
    case MATCHING:
    case PAIRED:
    case CONTINUOUS:
    case KINDS:
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = COLUMNS, .hidden_layers = 1, .hidden_width = 5, .seed = seed, .precision = kind == PAIRED), &flow));
        break;
    }
    return flow;
}

typedef struct data {
    double x[ROWS * COLUMNS], context[ROWS], weight[ROWS];
    double held_x[HELD_OUT * COLUMNS], held_context[HELD_OUT], held_weight[HELD_OUT];
} data;

static void fill(data *d) {
    random_source random = random_begin(77);
    for (size_t i = 0; i < ROWS; i++) {
        d->context[i] = random_normal(&random);
        d->x[2 * i] = random_normal(&random) + d->context[i];
        d->x[2 * i + 1] = 0.3 * random_normal(&random) + sin(d->x[2 * i]);
        d->weight[i] = random_uniform(&random, 0, 2);
    }
    for (size_t i = 0; i < HELD_OUT; i++) {
        d->held_context[i] = random_normal(&random);
        d->held_x[2 * i] = random_normal(&random);
        d->held_x[2 * i + 1] = random_normal(&random);
        d->held_weight[i] = random_uniform(&random, 0, 2);
    }
}

/* Who has which rows: rank r has rows cut[r] .. cut[r + 1] - 1. */
enum spread { EVEN, LAST_HAS_ALL, UNEVEN, SPREADS };

static size_t cut(enum spread spread, size_t rows, int rank, int size) {
    static const size_t uneven[MOST_RANKS + 1] = {0, 0, 3, 3, 40, 41, 70, 99, 100}; /* hundredths */
    if (rank == 0)
        return 0;
    if (rank == size)
        return rows;
    return spread == EVEN ? rows * (size_t)rank / (size_t)size : spread == LAST_HAS_ALL ? 0 : rows * uneven[rank] / 100;
}

/* A fit, the same on all ranks but for what a test spoils on one of them. */
typedef struct task {
    const data *d;
    enum kind kind;
    enum spread spread;
    nf_fit_config config;
    bool weighted, held_out, by_callback, first_alone_weighs;
    uint64_t seed[MOST_RANKS]; /* of the flow that rank brings; all 0: 3 */
    const nf_allocator *allocator[MOST_RANKS];
    nf_fit_config *own[MOST_RANKS]; /* in place of config */
    nf_flow *flow[MOST_RANKS];      /* made beforehand; NULL: made here */
    size_t failing_read[MOST_RANKS], reads[MOST_RANKS];
    /* what comes out */
    double parameters[MOST_RANKS][MOST_PARAMETERS];
    nf_fit_report report[MOST_RANKS];
} task;

typedef struct reader {
    const double *x, *context;
    size_t calls, failing_call;
} reader;

static nf_status read_rows(void *user, size_t count, const size_t *row, double *x, double *context) {
    reader *r = user;
    if (++r->calls == r->failing_call)
        return NF_ERR_IO;
    for (size_t i = 0; i < count; i++) {
        memcpy(x + i * COLUMNS, r->x + row[i] * COLUMNS, COLUMNS * sizeof *x);
        if (context)
            context[i] = r->context[row[i]];
    }
    return NF_OK;
}

static nf_status fit_on(void *user, const nf_comm *comm, char line[LINE]) {
    task *t = user;
    const int rank = comm ? comm->rank : 0, size = comm ? comm->size : 1;
    const size_t first = cut(t->spread, ROWS, rank, size), rows = cut(t->spread, ROWS, rank + 1, size) - first;
    const size_t held = cut(t->spread, HELD_OUT, rank, size), held_rows = cut(t->spread, HELD_OUT, rank + 1, size) - held;
    nf_fit_config c = t->own[rank] ? *t->own[rank] : t->config;
    const bool context = t->kind == COUPLINGS;
    nf_flow *flow = t->flow[rank] ? t->flow[rank] : flow_of(t->kind, t->seed[rank] ? t->seed[rank] : 3);
    c.struct_size = sizeof c;
    c.comm = comm;
    c.threads = 1 + (size_t)rank % 2;
    c.objective = t->kind == MATCHING || t->kind == PAIRED ? NF_OBJECTIVE_FLOW_MATCHING : NF_OBJECTIVE_LIKELIHOOD;
    c.pairing = t->kind == PAIRED ? NF_PAIRING_OPTIMAL : NF_PAIRING_INDEPENDENT;
    if (t->weighted && !c.weight && !(t->first_alone_weighs && rank > 0))
        c.weight = t->d->weight + first;
    if (t->held_out && held_rows) {
        c.validation_rows = held_rows;
        c.validation_x = t->d->held_x + held * COLUMNS;
        c.validation_context = context ? t->d->held_context + held : NULL;
        c.validation_weight = t->weighted ? t->d->held_weight + held : NULL;
    }
    c.allocator = t->allocator[rank];
    reader reading = {t->d->x + first * COLUMNS, t->d->context + first, 0, t->failing_read[rank]};
    const bool arrays = rows > 0 && !t->by_callback;
    if (t->by_callback) {
        c.read = read_rows;
        c.read_user = &reading;
    }
    t->report[rank].struct_size = sizeof t->report[rank];
    const nf_status status = nf_fit(flow, rows, arrays ? reading.x : NULL, arrays && context ? reading.context : NULL, &c, &t->report[rank]);
    snprintf(line, LINE, "%s", nf_last_error());
    t->reads[rank] = reading.calls;
    if (nf_get_parameters(flow, t->parameters[rank]) != NF_OK)
        abort();
    if (!t->flow[rank])
        nf_flow_free(flow);
    return status;
}

static size_t parameter_count(enum kind kind) {
    nf_flow *flow = flow_of(kind, 3);
    const size_t count = nf_parameter_count(flow);
    nf_flow_free(flow);
    ck_assert_uint_le(count, MOST_PARAMETERS);
    return count;
}

/* The fit of one process without a comm. */
static void fit_alone(task *t) {
    char line[LINE];
    must(fit_on(t, NULL, line));
}

/* Small enough for a test, and more than one shard, not all full. */
static task new_task(const data *d, enum kind kind) {
    task t = {.d = d, .kind = kind, .config = {.epochs = 2, .batch_size = kind == PLANAR ? 100 : 600, .seed = 9, .validation_fraction = .2}};
    return t;
}

static data *new_data(void) {
    data *d = new_bytes(sizeof *d);
    fill(d);
    return d;
}

static void all_are(const rank_result *results, int size, nf_status status, const char *text) {
    for (int r = 0; r < size; r++) {
        ck_assert_msg(results[r].status == status, "rank %d of %d: %s (%s), not %s", r, size, nf_status_name(results[r].status), results[r].line,
                      nf_status_name(status));
        ck_assert_msg(!text || strstr(results[r].line, text), "rank %d of %d says: %s", r, size, results[r].line);
    }
}

static void same_fit(const task *t, int size, const task *wanted) {
    const size_t count = parameter_count(wanted->kind);
    for (int r = 0; r < size; r++) {
        same_bits("parameters", t->parameters[r], wanted->parameters[0], count);
        same_bits("losses", &t->report[r].train_loss, &wanted->report[0].train_loss, 3);
        same_bits("evaluations", &t->report[r].rhs_evaluations, &wanted->report[0].rhs_evaluations, 1);
        ck_assert_uint_eq(t->report[r].steps, wanted->report[0].steps);
        ck_assert_uint_eq(t->report[r].best_epoch, wanted->report[0].best_epoch);
    }
}

/* On so many ranks, with the bits of a fit that was done before. */
static void fit_on_ranks(const task *wanted, const rank_options *options, enum spread spread) {
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = *wanted;
    t->spread = spread;
    ck_assert(run_ranks(options, fit_on, t, results));
    all_are(results, options->size, NF_OK, NULL);
    same_fit(t, options->size, wanted);
    free(t);
}

static const int sizes[] = {1, 2, 3, 4, 8};

START_TEST(bits_do_not_depend_on_ranks) {
    data *d = new_data();
    task *t = new_bytes(sizeof *t);
    *t = new_task(d, (enum kind)_i);
    t->weighted = t->kind == COUPLINGS;
    fit_alone(t);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        fit_on_ranks(t, &(rank_options){.size = sizes[i], .first_version = i % 2 == 0}, (enum spread)(i % SPREADS));
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
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        fit_on_ranks(t, &(rank_options){.size = sizes[i]}, (enum spread)(i % SPREADS));
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
        *t = new_task(d, PLANAR);
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

/* ---- failures */

/* A fit that fails leaves every rank's flow as it was. */
static void unchanged(const task *t, int size) {
    for (int r = 0; r < size; r++) {
        double before[MOST_PARAMETERS];
        nf_flow *flow = flow_of(t->kind, t->seed[r] ? t->seed[r] : 3);
        must(nf_get_parameters(flow, before));
        same_bits("parameters after a failure", t->parameters[r], before, nf_parameter_count(flow));
        nf_flow_free(flow);
    }
}

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

/*
 * The failures of one rank, one after the other: `body` is told by `prepare` what it works on, and whose memory rank 1 has; `check`, unless it is
 * NULL, sees what is left after each failure.
 */
typedef struct failing_body {
    rank_body body;
    void *task, *user;
    void (*prepare)(void *task, const nf_allocator *of_rank_1, void *user);
    void (*check)(const void *task);
} failing_body;

/* Each of at least `least` allocations. */
static void fail_each_allocation(const failing_body *b, int without_exchange, size_t least) {
    rank_result results[MOST_RANKS];
    const rank_options options = {.size = 3, .no_exchange = without_exchange, .shards = without_exchange ? 10 : 0};
    size_t calls = 1;
    for (size_t fail_at = 1; fail_at <= calls; fail_at++) {
        memory_counter counter = {0};
        nf_allocator allocator = counted_memory(&counter);
        b->prepare(b->task, &allocator, b->user);
        counter.fail_at = fail_at;
        counter.thread = 0;
        ck_assert(run_ranks(&options, b->body, b->task, results));
        ck_assert_uint_eq(counter.live, 0);
        if (results[0].status == NF_OK)
            break;
        calls = fail_at + 1;
        all_are(results, 3, NF_ERR_MEMORY, "(rank 1 of 3)");
        if (b->check)
            b->check(b->task);
    }
    all_are(results, 3, NF_OK, NULL);
    ck_assert_uint_gt(calls, least);
}

/* Each of at least `least` operations of the communication, on one rank after the other. With kind 1 it is fast, with 2 of the first version. */
static void fail_each_operation(const failing_body *b, int kind, size_t least) {
    rank_result results[MOST_RANKS];
    rank_options options = {.size = 3, .fast = kind == 1, .first_version = kind == 2};
    b->prepare(b->task, NULL, b->user);
    ck_assert(run_ranks(&options, b->body, b->task, results));
    all_are(results, 3, NF_OK, NULL);
    const size_t calls = results[1].calls;
    ck_assert_uint_gt(calls, least);
    for (size_t call = 1; call <= calls; call++) {
        b->prepare(b->task, NULL, b->user);
        options.failing_rank = (int)(call % 3);
        options.failing_call = call;
        ck_assert(run_ranks(&options, b->body, b->task, results));
        for (int r = 0; r < 3; r++)
            ck_assert_msg(results[r].status == NF_ERR_IO, "call %zu, rank %d: %s %s", call, r, nf_status_name(results[r].status), results[r].line);
        if (b->check)
            b->check(b->task);
    }
}

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

static void move_a_little(nf_flow *flow) {
    double parameters[MOST_PARAMETERS];
    must(nf_get_parameters(flow, parameters));
    parameters[3] += 1e-9;
    must(nf_set_parameters(flow, parameters));
}

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

/* ---- reverse KL */

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
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *t = *alone;
        ck_assert(run_ranks(&(rank_options){.size = sizes[i], .first_version = i == 1}, kl_on, t, results));
        all_are(results, sizes[i], NF_OK, NULL);
        for (int r = 0; r < sizes[i]; r++) {
            same_bits("parameters", t->parameters[r], alone->parameters[0], 300);
            same_bits("loss, elbo, evidence", &t->report[r].loss, &alone->report[0].loss, 5);
            ck_assert_uint_eq(t->report[r].bad_rows, alone->report[0].bad_rows);
        }
    }
    free(t);
    free(alone);
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
    Suite *suite = suite_create("ranks");
    TCase *bits = tcase_create("bits"), *failures = tcase_create("failures");
    tcase_set_timeout(bits, 120);
    tcase_set_timeout(failures, 120);
    tcase_add_checked_fixture(bits, NULL, drop_path);
    tcase_add_loop_test(bits, bits_do_not_depend_on_ranks, 0, KINDS);
    tcase_add_test(bits, bits_do_not_depend_on_who_has_the_rows);
    tcase_add_test(bits, a_rank_without_weights_weighs_1);
    tcase_add_test(bits, one_row_that_counts_is_trained_on);
    tcase_add_test(bits, a_callback_gives_the_bits_of_arrays);
    tcase_add_test(bits, many_shards);
    tcase_add_test(bits, fast_mode_is_close);
    tcase_add_test(bits, all_start_from_rank_0);
    tcase_add_test(bits, rows_that_are_not_finite_are_counted_on_all);
    tcase_add_test(bits, checkpoints_go_on_with_other_ranks);
    tcase_add_loop_test(bits, reverse_kl_does_not_depend_on_ranks, 0, 3);
    tcase_add_checked_fixture(failures, NULL, drop_path);
    tcase_add_test(failures, a_checkpoint_of_other_data_is_refused_by_all);
    tcase_add_test(failures, arguments_of_one_rank);
    tcase_add_test(failures, flows_of_other_seeds);
    tcase_add_test(failures, a_rank_without_a_flow);
    tcase_add_test(failures, flows_that_differ);
    tcase_add_test(failures, instruction_sets_that_differ);
    tcase_add_test(failures, a_reader_that_fails);
    tcase_add_loop_test(failures, memory_that_one_rank_lacks, 0, 2);
    tcase_add_loop_test(failures, communication_that_fails, 0, 3);
    tcase_add_test(failures, ranks_that_come_apart);
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
