/*
 * Real NVP at the sizes of the peers' table: the training step (likelihood gradient and Adam), log_prob and the latency of one row, beside the FMA
 * peak of the same process. One JSON line a figure.
 *
 *     bench_flows [threads]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "measure.h"
#include "nflow.h"

typedef struct size_of_work {
    const char *name;
    size_t dim, width, batch, couplings;
} size_of_work;

static const size_of_work sizes[] = {{"report", 2, 32, 32, 6},
                                     {"small", 2, 32, 32, 8},
                                     {"d8", 8, 64, 256, 8},
                                     {"middle", 16, 128, 1024, 8},
                                     {"large", 64, 256, 4096, 8}};

typedef struct work {
    nf_flow *flow;
    nf_workspace *workspace;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    size_t rows;
    double *x, *log_prob;
} work;

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "%s\n", nf_last_error());
    exit(1);
}

static void train_step(void *user) {
    work *w = user;
    double loss;
    nf_gradient_zero(w->gradient);
    require(nf_grad_nll(w->flow, w->workspace, w->rows, w->x, NULL, NULL, w->gradient, &loss));
    require(nf_optimizer_step(w->optimizer, w->flow, w->gradient));
}

static void log_prob(void *user) {
    work *w = user;
    require(nf_log_prob(w->flow, w->workspace, w->rows, w->x, NULL, w->log_prob));
}

static void one_row(void *user) {
    work *w = user;
    require(nf_log_prob(w->flow, w->workspace, 1, w->x, NULL, w->log_prob));
}

/* Multiply-adds of one row through all nets, times two. */
static double flops_of_row(const size_of_work *s) {
    const double h = (double)s->width, d = (double)(s->dim / 2);
    return 2.0 * (double)s->couplings * (d * h + h * h + h * 2.0 * d);
}

static void measure(const size_of_work *s, nf_precision precision, size_t threads) {
    work w = {.rows = s->batch};
    require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = s->dim, .couplings = s->couplings, .hidden_width = s->width,
                                        .precision = precision, .actnorm = -1, .seed = 11),
                              &w.flow));
    require(nf_workspace_create(w.flow, threads, &w.workspace));
    require(nf_gradient_create(w.flow, &w.gradient));
    require(nf_optimizer_create(w.flow, NF_CONFIG(nf_optimizer_config, .learning_rate = 1e-5), &w.optimizer));
    w.x = malloc(w.rows * s->dim * sizeof *w.x);
    w.log_prob = malloc(w.rows * sizeof *w.log_prob);
    if (!w.x || !w.log_prob)
        exit(1);
    nf_rng rng = {3, 5, 0};
    require(nf_sample(w.flow, NULL, &rng, w.rows, NULL, w.x, NULL));

    const char *isa = nf_flow_isa(w.flow), *real = precision == NF_SINGLE ? "f32" : "f64";
    const double peak = bench_peak(isa, precision == NF_SINGLE) * (double)threads;
    const double row = flops_of_row(s), batch = row * (double)s->batch;
    const double step = bench_median(train_step, &w, 15, 0.02), density = bench_median(log_prob, &w, 15, 0.02);
    const double latency = bench_median(one_row, &w, 15, 0.01);
    const char *form = "{\"work\": \"%s\", \"size\": \"%s\", \"real\": \"%s\", \"isa\": \"%s\", \"threads\": %zu, \"us\": %.3f, "
                       "\"gflops\": %.1f, \"peak\": %.1f, \"of_peak\": %.3f}\n";
    printf(form, "train_step", s->name, real, isa, threads, step * 1e6, 3e-9 * batch / step, peak, 3e-9 * batch / step / peak);
    printf(form, "log_prob", s->name, real, isa, threads, density * 1e6, 1e-9 * batch / density, peak, 1e-9 * batch / density / peak);
    printf(form, "one_row", s->name, real, isa, threads, latency * 1e6, 1e-9 * row / latency, peak, 1e-9 * row / latency / peak);
    fflush(stdout);
    free(w.log_prob);
    free(w.x);
    nf_optimizer_free(w.optimizer);
    nf_gradient_free(w.gradient);
    nf_workspace_free(w.workspace);
    nf_flow_free(w.flow);
}

int main(int count, char **arguments) {
    const size_t threads = count > 1 ? (size_t)strtoul(arguments[1], NULL, 10) : 1;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        measure(&sizes[i], NF_SINGLE, threads);
        measure(&sizes[i], NF_DOUBLE, threads);
    }
    return 0;
}
