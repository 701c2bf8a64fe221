/*
 * How the cost of log_prob and of a training step grows: with rows, dim, width, layers and threads, the others at the middle size (d16, width 128, 8
 * couplings, 1024 rows, single precision, one thread). One line a point, "curve x log_prob-us train-us", for bench/growth.gp.
 */
#include <stdio.h>
#include <stdlib.h>

#include "measure.h"
#include "nflow.h"

typedef struct work {
    nf_flow *flow;
    nf_workspace *workspace;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    size_t rows;
    double *x, *log_prob;
} work;

static void log_prob(void *user) {
    work *w = user;
    bench_require(nf_log_prob(w->flow, w->workspace, w->rows, w->x, NULL, w->log_prob));
}

static void train_step(void *user) {
    work *w = user;
    double loss;
    bench_require(nf_gradient_zero(w->gradient));
    bench_require(nf_grad_nll(w->flow, w->workspace, w->rows, w->x, NULL, NULL, w->gradient, &loss));
    bench_require(nf_optimizer_step(w->optimizer, w->flow, w->gradient));
}

typedef struct point {
    size_t rows, dim, width, layers, threads;
} point;

static void measure(const char *curve, size_t x, const point *p) {
    work w = {.rows = p->rows};
    bench_require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = p->dim, .couplings = p->layers, .hidden_width = p->width, .precision = NF_SINGLE,
                                        .actnorm = -1, .seed = 11),
                              &w.flow));
    bench_require(nf_workspace_create(w.flow, p->threads, &w.workspace));
    bench_require(nf_gradient_create(w.flow, &w.gradient));
    bench_require(nf_optimizer_create(w.flow, NF_CONFIG(nf_optimizer_config, .learning_rate = 1e-6), &w.optimizer));
    w.x = malloc(p->rows * p->dim * sizeof *w.x);
    w.log_prob = malloc(p->rows * sizeof *w.log_prob);
    if (!w.x || !w.log_prob)
        exit(1);
    nf_rng rng = {3, 5, 0};
    bench_require(nf_sample(w.flow, NULL, &rng, p->rows, NULL, w.x, NULL));
    bench_case cases[] = {{.isa = nf_flow_isa(w.flow), .single = 1, .threads = p->threads, .run = log_prob, .user = &w},
                          {.isa = nf_flow_isa(w.flow), .single = 1, .threads = p->threads, .run = train_step, .user = &w}};
    /* The largest batches take seconds: once is enough for them. */
    bench_run(cases, 2, (double)p->rows * (double)p->width * (double)p->width < 1e9 ? 5 : 1, 0.01);
    printf("%s %zu %.4g %.4g\n", curve, x, cases[0].us, cases[1].us);
    fflush(stdout);
    free(w.log_prob);
    free(w.x);
    nf_optimizer_free(w.optimizer);
    nf_gradient_free(w.gradient);
    nf_workspace_free(w.workspace);
    nf_flow_free(w.flow);
}

int main(void) {
    const point middle = {1024, 16, 128, 8, 1}, few = {1024, 2, 32, 4, 1};
    for (size_t n = 1; n <= 1000000; n = n * 10) {
        for (size_t k = 1; k <= 4 && n * k <= 1000000; k = k == 1 ? 2 : k == 2 ? 4 : 5) {
            point p = few;
            p.rows = n * k;
            measure("rows", n * k, &p);
        }
    }
    for (size_t n = 1; n <= 1024; n *= 2) {
        point p = middle;
        p.dim = n;
        measure("dim", n, &p);
    }
    for (size_t n = 4; n <= 1024; n *= 2) {
        point p = middle;
        p.width = n;
        p.rows = 256;
        measure("width", n, &p);
    }
    for (size_t n = 1; n <= 64; n *= 2) {
        point p = middle;
        p.layers = n;
        measure("layers", n, &p);
    }
    for (size_t n = 1; n <= 8; n++) {
        point p = middle;
        p.threads = n;
        p.rows = 8192;
        measure("threads", n, &p);
    }
    return 0;
}
