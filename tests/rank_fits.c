#include "rank_fits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

nf_flow *flow_of(enum kind kind, uint64_t seed) {
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

data *new_data(void) {
    data *d = new_bytes(sizeof *d);
    fill(d);
    return d;
}

/* Rank r has rows cut(r) .. cut(r + 1) - 1. */
static size_t cut(enum spread spread, size_t rows, int rank, int size) {
    static const size_t uneven[MOST_RANKS + 1] = {0, 0, 3, 3, 40, 41, 70, 99, 100}; /* hundredths */
    if (rank == 0)
        return 0;
    if (rank == size)
        return rows;
    return spread == EVEN ? rows * (size_t)rank / (size_t)size : spread == LAST_HAS_ALL ? 0 : rows * uneven[rank] / 100;
}

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

nf_status fit_on(void *user, const nf_comm *comm, char line[LINE]) {
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

size_t parameter_count(enum kind kind) {
    nf_flow *flow = flow_of(kind, 3);
    const size_t count = nf_parameter_count(flow);
    nf_flow_free(flow);
    ck_assert_uint_le(count, MOST_PARAMETERS);
    return count;
}


void fit_alone(task *t) {
    char line[LINE];
    must(fit_on(t, NULL, line));
}

task new_task(const data *d, enum kind kind) {
    task t = {.d = d, .kind = kind, .config = {.epochs = 2, .batch_size = kind == PLANAR ? 100 : 600, .seed = 9, .validation_fraction = .2}};
    return t;
}

void same_fit(const task *t, int size, const task *wanted) {
    const size_t count = parameter_count(wanted->kind);
    for (int r = 0; r < size; r++) {
        same_bits("parameters", t->parameters[r], wanted->parameters[0], count);
        same_bits("losses", &t->report[r].train_loss, &wanted->report[0].train_loss, 3);
        same_bits("evaluations", &t->report[r].rhs_evaluations, &wanted->report[0].rhs_evaluations, 1);
        ck_assert_uint_eq(t->report[r].steps, wanted->report[0].steps);
        ck_assert_uint_eq(t->report[r].best_epoch, wanted->report[0].best_epoch);
    }
}

void fit_on_ranks(const task *wanted, const rank_options *options, enum spread spread) {
    task *t = new_bytes(sizeof *t);
    rank_result results[MOST_RANKS];
    *t = *wanted;
    t->spread = spread;
    ck_assert(run_ranks(options, fit_on, t, results));
    all_are(results, options->size, NF_OK, NULL);
    same_fit(t, options->size, wanted);
    free(t);
}

void unchanged(const task *t, int size) {
    for (int r = 0; r < size; r++) {
        double before[MOST_PARAMETERS];
        nf_flow *flow = flow_of(t->kind, t->seed[r] ? t->seed[r] : 3);
        must(nf_get_parameters(flow, before));
        same_bits("parameters after a failure", t->parameters[r], before, nf_parameter_count(flow));
        nf_flow_free(flow);
    }
}
