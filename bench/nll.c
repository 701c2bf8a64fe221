/*
 * Held-out negative log-likelihood on tables of a user's own, such as the three two-dimensional sets that the flows are compared on.
 *
 *     nll [--model realnvp|planar] [--splits n] folder
 *
 * The folder holds two_moons.csv, two_blobs.csv and boomerang.csv: a line of names, then two numbers a line. Split s holds out every fifth
 * row of a shuffle seeded with s; a flow is created with seed s and fitted to the other rows by nf_fit with its defaults, seed s, on
 * one thread. Prints Markdown tables: the mean over the splits with its standard deviation, the worst, runs that diverged, and processor seconds.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "csv.h"
#include "nflow.h"

typedef struct data_set {
    const char *name;
    double realnvp, planar; /* at most, nats; planar with 32 layers */
} data_set;

static const data_set sets[] = {{"two_moons", 0.50, 0.60}, {"two_blobs", 0.34, 0.33}, {"boomerang", 4.22, 4.30}};
static const size_t depths[] = {2, 4, 8, 16, 32, 64};

typedef struct summary {
    size_t runs, failed;
    double mean, spread, worst, seconds, slowest; /* mean and spread as Welford's; seconds in all */
} summary;

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "nll: %s\n", nf_last_error());
    exit(1);
}

static csv_table read_set(const char *folder, const char *name) {
    char path[4096], message[512];
    csv_table table;
    snprintf(path, sizeof path, "%s/%s.csv", folder, name);
    if (!csv_read(path, &table, message, sizeof message)) {
        fprintf(stderr, "nll: %s\nnll: give a folder that holds two_moons.csv, two_blobs.csv and boomerang.csv, of two columns each\n", message);
        exit(1);
    }
    if (table.columns != 2 || table.rows < 10) {
        fprintf(stderr, "nll: %s has %zu rows of %zu columns; two columns and ten rows are needed\n", path, table.rows, table.columns);
        exit(1);
    }
    return table;
}

/* The next of splitmix64 (Steele, Lea & Flood 2014). */
static uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void shuffle_rows(csv_table *t, uint64_t seed) {
    uint64_t state = seed;
    for (size_t k = t->rows; k > 1; k--) {
        const size_t other = (size_t)(next(&state) % k);
        for (size_t c = 0; c < 2; c++) {
            const double kept = t->values[2 * (k - 1) + c];
            t->values[2 * (k - 1) + c] = t->values[2 * other + c];
            t->values[2 * other + c] = kept;
        }
    }
}

static nf_flow *make_realnvp(uint64_t seed) {
    nf_flow *flow;
    require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .seed = seed), &flow));
    return flow;
}

/* A trainable elementwise affine layer at the base, K planar layers, and an affine layer at the data end, which nf_fit standardises. */
static nf_flow *make_planar(size_t layers, uint64_t seed) {
    nf_flow *flow, *part;
    require(nf_affine_create(2, NF_DOUBLE, &flow));
    require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = layers, .seed = seed), &part));
    require(nf_flow_append(flow, part));
    require(nf_affine_create(2, NF_DOUBLE, &part));
    require(nf_flow_append(flow, part));
    return flow;
}

static double mean_nll(const nf_flow *flow, size_t rows, const double *x) {
    double *log_prob = malloc(rows * sizeof *log_prob), sum = 0;
    if (!log_prob)
        exit(1);
    require(nf_log_prob(flow, NULL, rows, x, NULL, log_prob));
    for (size_t r = 0; r < rows; r++)
        sum -= log_prob[r];
    free(log_prob);
    return sum / (double)rows;
}

/* One split; layers 0 means Real NVP. */
static void run_split(const csv_table *given, size_t layers, uint64_t split, summary *s) {
    csv_table t = *given;
    t.values = malloc(t.rows * 2 * sizeof *t.values);
    if (!t.values)
        exit(1);
    memcpy(t.values, given->values, t.rows * 2 * sizeof *t.values);
    shuffle_rows(&t, split);
    const size_t held_out = t.rows / 5, rows = t.rows - held_out;
    nf_flow *flow = layers ? make_planar(layers, split) : make_realnvp(split);
    const clock_t start = clock();
    const nf_status status = nf_fit(flow, rows, t.values, NULL, NF_CONFIG(nf_fit_config, .seed = split), NULL);
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (status != NF_ERR_DIVERGED)
        require(status);
    const double nll = mean_nll(flow, held_out, t.values + 2 * rows);
    s->runs++;
    s->failed += status != NF_OK || !isfinite(nll);
    const double delta = nll - s->mean;
    s->mean += delta / (double)s->runs;
    s->spread += delta * (nll - s->mean);
    s->worst = fmax(s->worst, nll);
    s->seconds += seconds;
    s->slowest = fmax(s->slowest, seconds);
    nf_flow_free(flow);
    free(t.values);
}

static void print_row(const char *flow, const data_set *set, const summary *s, double limit) {
    char aim[16] = "";
    if (limit > 0)
        snprintf(aim, sizeof aim, "%.2f", limit);
    printf("| %s | %s | %.3f | %.3f | %.3f | %s | %zu | %.2f | %.2f |\n", flow, set->name, s->mean, s->runs > 1 ? sqrt(s->spread / (double)(s->runs - 1)) : 0,
           s->worst, aim, s->failed, s->seconds / (double)s->runs, s->slowest);
    fflush(stdout);
}

static void measure(const char *folder, const data_set *set, size_t layers, size_t splits) {
    csv_table table = read_set(folder, set->name);
    summary s = {.worst = -INFINITY};
    char name[48] = "Real NVP";
    if (layers)
        snprintf(name, sizeof name, "planar, K = %zu", layers);
    for (uint64_t split = 1; split <= splits; split++)
        run_split(&table, layers, split, &s);
    print_row(name, set, &s, layers == 0 ? set->realnvp : layers == 32 ? set->planar : 0);
    csv_free(&table);
}

int main(int count, char **arguments) {
    const char *folder = NULL, *model = NULL;
    size_t splits = 0;
    bool wrong = false;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--model") == 0 && i + 1 < count)
            model = arguments[++i];
        else if (strcmp(arguments[i], "--splits") == 0 && i + 1 < count)
            wrong = wrong || (splits = (size_t)strtoul(arguments[++i], NULL, 10)) == 0;
        else
            wrong = wrong || folder || (folder = arguments[i])[0] == '-';
    }
    const bool planar = !model || strcmp(model, "planar") == 0, realnvp = !model || strcmp(model, "realnvp") == 0;
    if (wrong || !folder || !(planar || realnvp)) {
        fprintf(stderr, "usage: nll [--model realnvp|planar] [--splits n] folder\n"
                        "the folder holds two_moons.csv, two_blobs.csv and boomerang.csv, of two columns each\n");
        return 1;
    }
    printf("| flow | set | mean NLL, nats | sd | worst | at most | diverged | cpu s a run | slowest |\n|---|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; realnvp && i < sizeof sets / sizeof sets[0]; i++)
        measure(folder, &sets[i], 0, splits ? splits : 10);
    for (size_t k = 0; planar && k < sizeof depths / sizeof depths[0]; k++)
        for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
            measure(folder, &sets[i], depths[k], splits ? splits : 5);
    return 0;
}
