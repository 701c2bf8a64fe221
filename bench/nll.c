/*
 * Held-out negative log-likelihood on tables of a user's own, such as the three two-dimensional sets that the flows are compared on.
 *
 *     nll [--model realnvp|planar|cnf|hyper|matching|paired] [--first-split s] [--splits n] [--validate none|fifth|half] folder
 *
 * The folder holds two_moons.csv, two_blobs.csv and boomerang.csv: a line of names, then two numbers a line. Split s holds out the last fifth
 * of a shuffle seeded with s; a flow is created with seed s and fitted to the other rows by nf_fit with its defaults, seed s, on
 * one thread; continuous flows (cnf, hyper: by likelihood; matching, paired: by flow matching) compute in single. Prints Markdown
 * tables: the mean over the splits with its standard deviation, the worst, runs that diverged, and processor seconds.
 * Splits count from 1, or from --first-split: settings are tried on others than those that are reported.
 *
 * Which epoch is best is chosen by a tenth of the rows of the fit (`none` of the held-out ones). With `fifth` all the held-out rows choose it, and are what is
 * measured: so it flatters. With `half` one half of them chooses and the other is measured, in two fits that exchange them: all rows of the fit are trained on, and no
 * row is measured by a fit that has seen it.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "held_out.h"

typedef struct model {
    const char *name, *title;
    size_t splits;    /* unless asked for otherwise */
    double aim[HELD_OUT_SETS]; /* at most, nats; 0: none */
    nf_flow *(*make)(const struct model *model, uint64_t seed);
    size_t layers;    /* planar */
    nf_dynamics dynamics;
    nf_objective objective;
    nf_pairing pairing;
} model;

typedef struct summary {
    size_t runs, fits, failed;
    double mean, spread, worst, seconds, slowest; /* mean and spread as Welford's; seconds in all */
} summary;

static nf_flow *make_realnvp(const model *m, uint64_t seed) {
    nf_flow *flow;
    (void)m;
    held_out_require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .seed = seed), &flow));
    return flow;
}

/* An affine layer at the data end, which nf_fit standardises. */
static nf_flow *standardised(nf_flow *flow) {
    nf_flow *part;
    held_out_require(nf_affine_create(2, nf_flow_precision(flow), &part));
    held_out_require(nf_flow_append(flow, part));
    return flow;
}

/* A trainable elementwise affine layer at the base and K planar layers. */
static nf_flow *make_planar(const model *m, uint64_t seed) {
    nf_flow *flow, *part;
    held_out_require(nf_affine_create(2, NF_DOUBLE, &flow));
    held_out_require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = m->layers, .seed = seed), &part));
    held_out_require(nf_flow_append(flow, part));
    return standardised(flow);
}

static nf_flow *make_cnf(const model *m, uint64_t seed) {
    nf_flow *flow;
    held_out_require(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .seed = seed, .dynamics = m->dynamics, .precision = NF_SINGLE, .rtol = 1e-5, .atol = 1e-6), &flow));
    return standardised(flow);
}

static const model models[] = {
    {"realnvp", "Real NVP", 10, {0.50, 0.34, 4.22}, make_realnvp, 0, 0, 0, 0},
    {"planar", "planar, K = 2", 5, {0}, make_planar, 2, 0, 0, 0},
    {"planar", "planar, K = 4", 5, {0}, make_planar, 4, 0, 0, 0},
    {"planar", "planar, K = 8", 5, {0}, make_planar, 8, 0, 0, 0},
    {"planar", "planar, K = 16", 5, {0}, make_planar, 16, 0, 0, 0},
    {"planar", "planar, K = 32", 5, {0.60, 0.33, 4.30}, make_planar, 32, 0, 0, 0},
    {"planar", "planar, K = 64", 5, {0}, make_planar, 64, 0, 0, 0},
    {"cnf", "CNF, net", 5, {0.45, 0.34, 4.25}, make_cnf, 0, NF_DYNAMICS_MLP, NF_OBJECTIVE_LIKELIHOOD, 0},
    {"hyper", "CNF, hypernetwork", 5, {0.45, 0.34, 4.25}, make_cnf, 0, NF_DYNAMICS_HYPER, NF_OBJECTIVE_LIKELIHOOD, 0},
    {"matching", "CNF, net, matching", 5, {0}, make_cnf, 0, NF_DYNAMICS_MLP, NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_INDEPENDENT},
    {"paired", "CNF, net, matching of optimal pairs", 5, {0}, make_cnf, 0, NF_DYNAMICS_MLP, NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_OPTIMAL},
};
enum { MODELS = sizeof models / sizeof models[0] };

/* Whose loss chooses the best epoch. */
typedef enum validation { OWN_ROWS, HELD_OUT_FIFTH, HELD_OUT_HALVES } validation;
static const char *const validations[] = {"none", "fifth", "half"};

typedef struct part {
    size_t rows;
    const double *x;
} part;

/* The loss of the measured rows by a fit to others; `choosing` rows choose the epoch, or none does, and the fit takes some of its own. */
static double run_fit(const model *m, uint64_t split, part fitted, part choosing, part measured, summary *s) {
    nf_flow *flow = m->make(m, split);
    const clock_t start = clock();
    const nf_status status = nf_fit(flow, fitted.rows, fitted.x, NULL,
                                    NF_CONFIG(nf_fit_config, .seed = split, .objective = m->objective, .pairing = m->pairing, .validation_rows = choosing.rows,
                                              .validation_x = choosing.x),
                                    NULL);
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (status != NF_ERR_DIVERGED)
        held_out_require(status);
    const double nll = held_out_nll(flow, measured.rows, measured.x);
    s->failed += status != NF_OK || !isfinite(nll);
    s->fits++;
    s->seconds += seconds;
    s->slowest = fmax(s->slowest, seconds);
    nf_flow_free(flow);
    return nll;
}

static void run_split(const csv_table *given, const model *m, validation by, uint64_t split, summary *s) {
    csv_table t = *given;
    t.values = malloc(t.rows * 2 * sizeof *t.values);
    if (!t.values)
        exit(1);
    memcpy(t.values, given->values, t.rows * 2 * sizeof *t.values);
    held_out_shuffle(&t, split);
    const size_t fifth = t.rows / 5, half = fifth / 2;
    const part nothing = {0, NULL}, fitted = {t.rows - fifth, t.values}, held_out = {fifth, t.values + 2 * fitted.rows};
    double nll;
    if (by == HELD_OUT_HALVES) {
        const part first = {half, held_out.x}, second = {fifth - half, held_out.x + 2 * half};
        nll = (double)second.rows * run_fit(m, split, fitted, first, second, s);
        nll = (nll + (double)first.rows * run_fit(m, split, fitted, second, first, s)) / (double)fifth;
    } else {
        nll = run_fit(m, split, fitted, by == HELD_OUT_FIFTH ? held_out : nothing, held_out, s);
    }
    s->runs++;
    const double delta = nll - s->mean;
    s->mean += delta / (double)s->runs;
    s->spread += delta * (nll - s->mean);
    s->worst = fmax(s->worst, nll);
    free(t.values);
}

static void print_row(const model *m, size_t set, const summary *s) {
    char aim[16] = "";
    if (m->aim[set] > 0)
        snprintf(aim, sizeof aim, "%.2f", m->aim[set]);
    printf("| %s | %s | %.3f | %.3f | %.3f | %s | %zu | %.2f | %.2f |\n", m->title, held_out_sets[set], s->mean,
           s->runs > 1 ? sqrt(s->spread / (double)(s->runs - 1)) : 0, s->worst, aim, s->failed, s->seconds / (double)s->fits, s->slowest);
    fflush(stdout);
}

static void measure(const char *folder, const model *m, validation by, size_t set, size_t first, size_t splits) {
    csv_table table = held_out_read(folder, held_out_sets[set]);
    summary s = {.worst = -INFINITY};
    for (uint64_t split = first; split < first + splits; split++)
        run_split(&table, m, by, split, &s);
    print_row(m, set, &s);
    csv_free(&table);
}

int main(int count, char **arguments) {
    const char *folder = NULL, *only = NULL;
    size_t first = 1, splits = 0, chosen = 0;
    bool wrong = false;
    size_t by = OWN_ROWS;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--model") == 0 && i + 1 < count)
            only = arguments[++i];
        else if (strcmp(arguments[i], "--first-split") == 0 && i + 1 < count)
            wrong = wrong || (first = (size_t)strtoul(arguments[++i], NULL, 10)) == 0;
        else if (strcmp(arguments[i], "--splits") == 0 && i + 1 < count)
            wrong = wrong || (splits = (size_t)strtoul(arguments[++i], NULL, 10)) == 0;
        else if (strcmp(arguments[i], "--validate") == 0 && i + 1 < count) {
            i++;
            for (by = 0; by <= HELD_OUT_HALVES && strcmp(arguments[i], validations[by]) != 0;)
                by++;
            wrong = wrong || by > HELD_OUT_HALVES;
        } else
            wrong = wrong || folder || (folder = arguments[i])[0] == '-';
    }
    for (size_t m = 0; m < MODELS; m++)
        chosen += !only || strcmp(only, models[m].name) == 0;
    if (wrong || !folder || chosen == 0) {
        fprintf(stderr, "usage: nll [--model realnvp|planar|cnf|hyper|matching|paired] [--first-split s] [--splits n] [--validate none|fifth|half] folder\n"
                        "the folder holds two_moons.csv, two_blobs.csv and boomerang.csv, of two columns each\n");
        return 1;
    }
    printf("| flow | set | mean NLL, nats | sd | worst | at most | diverged | cpu s a run | slowest |\n|---|---|---|---|---|---|---|---|---|\n");
    for (size_t m = 0; m < MODELS; m++)
        for (size_t set = 0; (!only || strcmp(only, models[m].name) == 0) && set < HELD_OUT_SETS; set++)
            measure(folder, &models[m], (validation)by, set, first, splits ? splits : models[m].splits);
    return 0;
}
