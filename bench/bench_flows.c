/*
 * Flows at the sizes of the peers' table: forward, inverse, log_prob, the training step (likelihood gradient and Adam) and the latency of one row, in
 * both precisions, beside the FMA peak of the same process. One JSON line a figure.
 *
 *     bench_flows [threads [blocks [family]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"
#include "nflow.h"

typedef struct size_of_work {
    const char *family, *name;
    size_t dim, width, batch, layers; /* width: of couplings' nets; units of a cnf */
} size_of_work;

static const size_of_work sizes[] = {
    {"realnvp", "report", 2, 32, 32, 6},       {"realnvp", "small", 2, 32, 32, 8},      {"realnvp", "d8", 8, 64, 256, 8},
    {"realnvp", "middle", 16, 128, 1024, 8},   {"realnvp", "large", 64, 256, 4096, 8}, {"planar", "K8", 2, 0, 1024, 8},
    {"planar", "K32", 2, 0, 1024, 32},         {"cnf", "report", 2, 64, 32, 1},
};

typedef struct work {
    nf_flow *flow;
    nf_workspace *workspace;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    size_t rows;
    double *x, *z, *log_prob;
} work;

static void train_step(void *user) {
    work *w = user;
    double loss;
    bench_require(nf_gradient_zero(w->gradient));
    bench_require(nf_grad_nll(w->flow, w->workspace, w->rows, w->x, NULL, NULL, w->gradient, &loss));
    bench_require(nf_optimizer_step(w->optimizer, w->flow, w->gradient));
}

static void forward(void *user) {
    work *w = user;
    bench_require(nf_forward(w->flow, w->workspace, w->rows, w->x, NULL, w->z, w->log_prob));
}

static void inverse(void *user) {
    work *w = user;
    bench_require(nf_inverse(w->flow, w->workspace, w->rows, w->x, NULL, w->z, w->log_prob));
}

static void log_prob(void *user) {
    work *w = user;
    bench_require(nf_log_prob(w->flow, w->workspace, w->rows, w->x, NULL, w->log_prob));
}

static void one_row(void *user) {
    work *w = user;
    bench_require(nf_log_prob(w->flow, w->workspace, 1, w->x, NULL, w->log_prob));
}

/* Multiply-adds of one row through all nets, times two. The other families are not made of products. */
static double flops_of_row(const size_of_work *s) {
    const double h = (double)s->width, d = (double)(s->dim / 2);
    return strcmp(s->family, "realnvp") == 0 ? 2.0 * (double)s->layers * (d * h + h * h + h * 2.0 * d) : 0.0;
}

static void create(const size_of_work *s, nf_precision precision, nf_flow **flow) {
    if (strcmp(s->family, "realnvp") == 0)
        bench_require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = s->dim, .couplings = s->layers, .hidden_width = s->width,
                                            .precision = precision, .actnorm = -1, .seed = 11),
                                  flow));
    else if (strcmp(s->family, "planar") == 0)
        bench_require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = s->dim, .layers = s->layers, .precision = precision, .seed = 11), flow));
    else
        bench_require(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = s->dim, .units = s->width, .dynamics = NF_DYNAMICS_HYPER, .rtol = 1e-7,
                                        .atol = 1e-9, .precision = precision, .seed = 11),
                              flow));
}

static void open_work(work *w, const size_of_work *s, nf_precision precision, size_t threads) {
    w->rows = s->batch;
    create(s, precision, &w->flow);
    bench_require(nf_workspace_create(w->flow, threads, &w->workspace));
    bench_require(nf_gradient_create(w->flow, &w->gradient));
    bench_require(nf_optimizer_create(w->flow, NF_CONFIG(nf_optimizer_config, .learning_rate = 1e-6), &w->optimizer));
    w->x = malloc(w->rows * s->dim * sizeof *w->x);
    w->z = malloc(w->rows * s->dim * sizeof *w->z);
    w->log_prob = malloc(w->rows * sizeof *w->log_prob);
    if (!w->x || !w->z || !w->log_prob)
        exit(1);
    nf_rng rng = {3, 5, 0};
    bench_require(nf_sample(w->flow, NULL, &rng, w->rows, NULL, w->x, NULL));
}

static void close_work(work *w) {
    free(w->log_prob);
    free(w->z);
    free(w->x);
    nf_optimizer_free(w->optimizer);
    nf_gradient_free(w->gradient);
    nf_workspace_free(w->workspace);
    nf_flow_free(w->flow);
}

/* Both precisions of one size together, so that their ratio is of the same minutes. */
static void measure(const size_of_work *s, size_t threads, size_t blocks) {
    static const struct {
        const char *name;
        bench_work run;
        double flops;
    } calls[] = {{"forward", forward, 1}, {"inverse", inverse, 1}, {"log_prob", log_prob, 1}, {"train_step", train_step, 3}, {"one_row", one_row, 0}};
    enum { CALLS = sizeof calls / sizeof *calls };
    work works[2] = {{0}};
    bench_case cases[2 * CALLS];
    size_t count = 0;
    for (int single = 1; single >= 0; single--) {
        work *w = &works[single];
        open_work(w, s, single ? NF_SINGLE : NF_DOUBLE, threads);
        for (size_t i = 0; i < CALLS; i++) {
            const int one = calls[i].run == one_row;
            if (one && threads > 1)
                continue;
            cases[count++] = (bench_case){.flow = s->family, .work = calls[i].name, .size = s->name, .isa = nf_flow_isa(w->flow), .single = single,
                                          .threads = threads, .rows = one ? 1 : (double)w->rows,
                                          .flops = flops_of_row(s) * (one ? 1 : calls[i].flops * (double)w->rows), .run = calls[i].run, .user = w};
        }
    }
    bench_run(cases, count, blocks, 0.02);
    if (threads == 1 && s == sizes)
        for (int single = 1; single >= 0; single--) {
            double best, mean;
            bench_peaks(cases[0].isa, single, &best, &mean);
            bench_line("processor", "none", "fma_peak", "registers", single, cases[0].isa, 1);
            printf(", \"gflops\": %.4g, \"gflops_mean\": %.4g}\n", best, mean);
        }
    for (size_t i = 0; i < count; i++)
        bench_print(&cases[i]);
    close_work(&works[0]);
    close_work(&works[1]);
}

int main(int count, char **arguments) {
    const size_t threads = count > 1 ? (size_t)strtoul(arguments[1], NULL, 10) : 1;
    const size_t blocks = count > 2 ? (size_t)strtoul(arguments[2], NULL, 10) : 15;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (count <= 3 || strcmp(arguments[3], sizes[i].family) == 0)
            measure(&sizes[i], threads, blocks);
    return 0;
}
