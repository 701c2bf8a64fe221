/*
 * cnf_matching - one continuous flow, trained three ways: by likelihood, by flow matching, and by flow matching of optimal pairs
 *
 *     cc cnf_matching.c arguments.c toy.c $(pkg-config --cflags --libs libnflow) -lm -o cnf_matching
 *     cnf_matching [--set name] [--rows n] [--seconds s]
 *
 * Likelihood training solves the equation for every batch; flow matching (Lipman et al. 2023) never does, and optimal pairs (Tong et al. 2023) make its
 * paths straight. Each way is given about the same time, and the density of held-out rows is always found by integration.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "nflow.h"
#include "toy.h"

enum { MOST_ROWS = 4000, TEST = 4000 };

typedef struct way {
    const char *name;
    nf_objective objective;
    nf_pairing pairing;
} way;

static const way ways[] = {{"likelihood", NF_OBJECTIVE_LIKELIHOOD, NF_PAIRING_INDEPENDENT},
                           {"flow matching", NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_INDEPENDENT},
                           {"flow matching, optimal pairs", NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_OPTIMAL}};

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "cnf_matching: %s\n", nf_last_error());
    exit(1);
}

static nf_flow *make_flow(void) {
    nf_flow *flow, *affine;
    require(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .precision = NF_SINGLE, .seed = 4, .rtol = 1e-5, .atol = 1e-6), &flow));
    require(nf_affine_create(2, NF_SINGLE, &affine));
    require(nf_flow_append(flow, affine));
    return flow;
}

static nf_fit_report fit(nf_flow *flow, const way *w, size_t rows, const double *x, size_t epochs) {
    nf_fit_report report = {.struct_size = sizeof report};
    require(nf_fit(flow, rows, x, NULL, NF_CONFIG(nf_fit_config, .objective = w->objective, .pairing = w->pairing, .epochs = epochs, .seed = 1), &report));
    return report;
}

/* Epochs for a time, by the time of a few; the schedule of the rate then ends with the time. */
static size_t epochs_for(const way *w, size_t rows, const double *x, double seconds) {
    nf_flow *flow = make_flow();
    const size_t trial = 4;
    const double one = fit(flow, w, rows, x, trial).seconds / (double)trial;
    nf_flow_free(flow);
    return one > 0 && seconds > 2 * one ? (size_t)fmin(seconds / one, (double)ARGUMENT_MOST) : 2;
}

/* Mean negative log-likelihood, and the evaluations of the field that one row's density takes. */
static double mean_nll(const nf_flow *flow, size_t rows, const double *x, double *evaluations) {
    double *log_prob = malloc(rows * sizeof *log_prob), sum = 0;
    nf_workspace *ws;
    nf_stats stats = {.struct_size = sizeof stats};
    if (!log_prob)
        exit(1);
    require(nf_workspace_create(flow, 1, &ws));
    require(nf_log_prob(flow, ws, rows, x, NULL, log_prob));
    require(nf_workspace_stats(ws, &stats));
    for (size_t i = 0; i < rows; i++)
        sum -= log_prob[i];
    *evaluations = (double)stats.rhs_evaluations / (double)rows;
    nf_workspace_free(ws);
    free(log_prob);
    return sum / (double)rows;
}

int main(int count, char **arguments) {
    static double train[MOST_ROWS * 2], test[TEST * 2];
    const toy_set *set = toy_find("two_moons");
    size_t rows = 2000;
    double seconds = 2;
    for (int i = 1; i < count; i += 2) {
        const char *value = i + 1 < count ? arguments[i + 1] : "";
        if (strcmp(arguments[i], "--set") == 0)
            set = toy_find(value);
        else if (strcmp(arguments[i], "--rows") == 0)
            rows = (size_t)argument_count("--rows", value, 100, MOST_ROWS);
        else if (strcmp(arguments[i], "--seconds") == 0)
            seconds = argument_positive("--seconds", value);
        else
            set = NULL;
    }
    if (!set) {
        fprintf(stderr, "usage: cnf_matching [--set name] [--rows 100..%d] [--seconds s]\nsets:", MOST_ROWS);
        for (size_t i = 0; toy_at(i); i++)
            fprintf(stderr, " %s", toy_name(toy_at(i)));
        fprintf(stderr, "\n");
        return 1;
    }
    toy_rows(set, 7, 0, rows, train);
    toy_rows(set, 7, rows, TEST, test);
    printf("%s, %zu rows, entropy %.4f nats\n", toy_name(set), rows, toy_entropy(set));
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        nf_flow *flow = make_flow();
        double evaluations;
        const nf_fit_report report = fit(flow, &ways[i], rows, train, epochs_for(&ways[i], rows, train, seconds));
        const double nll = mean_nll(flow, TEST, test, &evaluations);
        printf("%-30s %5zu epochs in %5.2f s: held-out NLL %.4f nats, %.0f evaluations for a density\n", ways[i].name, report.epochs_run, report.seconds, nll,
               evaluations);
        nf_flow_free(flow);
        if (!isfinite(nll))
            return 1;
    }
    return 0;
}
