/*
 * The continuous flow of the 2022 report: hyper dynamics of 64 units from a net of 2 x 32, 100 epochs of 400 rows in batches of 32, Adam, base N(0, 0.1 I), rtol
 * 1e-7 and atol 1e-9 in single precision, one thread; with steps for each row and with one step for a batch. A JSON line for each fit, and one for what an
 * evaluation of the right-hand side costs in it. The rows are two moons.
 *
 *     bench_cnf [steps]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"
#include "nflow.h"
#include "toy.h"

enum { ROWS = 400, BATCH = 32 };

static double data[ROWS * 2], log_prob[ROWS];

static nf_flow *make(nf_dynamics dynamics, int shared, double tolerance) {
    const double sd[2] = {sqrt(0.1), sqrt(0.1)};
    nf_flow *flow;
    bench_require(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .dynamics = dynamics, .precision = NF_SINGLE, .hidden_layers = 2, .hidden_width = 32, .units = 64,
                                    .rtol = tolerance, .atol = tolerance / 100, .t0 = 0, .t1 = 1, .seed = 3, .shared_step = shared),
                          &flow));
    bench_require(nf_flow_set_base_normal(flow, NULL, sd));
    return flow;
}

/* The order of the rows is computed, so that both runs see the same batches. */
static void take_batch(size_t step, double *x) {
    for (size_t i = 0; i < BATCH; i++) {
        const size_t row = (step * BATCH + i) * 137 % ROWS;
        memcpy(x + 2 * i, data + 2 * row, 2 * sizeof *x);
    }
}

static void train(const char *name, nf_dynamics dynamics, int shared, double tolerance, size_t steps) {
    nf_flow *flow = make(dynamics, shared, tolerance);
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    double x[BATCH * 2], loss = NAN, evaluations = 0;
    bench_require(nf_workspace_create(flow, 1, &ws));
    bench_require(nf_gradient_create(flow, &gradient));
    bench_require(nf_optimizer_create(flow, NF_CONFIG(nf_optimizer_config, .learning_rate = 1e-3), &optimizer));
    const double cpu = bench_seconds(0), start = bench_seconds(1);
    for (size_t step = 0; step < steps; step++) {
        nf_stats stats = {.struct_size = sizeof stats};
        take_batch(step, x);
        nf_gradient_zero(gradient);
        bench_require(nf_grad_nll(flow, ws, BATCH, x, NULL, NULL, gradient, &loss));
        bench_require(nf_optimizer_step(optimizer, flow, gradient));
        bench_require(nf_workspace_stats(ws, &stats));
        evaluations += (double)stats.rhs_evaluations;
    }
    const double seconds = bench_seconds(1) - start, cpu_seconds = bench_seconds(0) - cpu;
    double sum = 0;
    bench_require(nf_log_prob(flow, ws, ROWS, data, NULL, log_prob));
    for (size_t r = 0; r < ROWS; r++)
        sum -= log_prob[r];
    bench_line("libnflow", "cnf", "fit", name, 1, nf_flow_isa(flow), 1);
    printf(", \"us\": %.1f, \"steps\": %zu, \"rtol\": %g, \"seconds\": %.3f, \"cpu_seconds\": %.3f, \"evaluations_a_row_and_step\": %.1f, \"nll\": %.3f}\n",
           1e6 * cpu_seconds, steps, tolerance, seconds, cpu_seconds, evaluations / (double)(steps * BATCH), sum / ROWS);
    bench_line("libnflow", "cnf", "evaluation", name, 1, nf_flow_isa(flow), 1); /* of the batch, with its share of the gradient and the optimizer */
    printf(", \"us\": %.3f}\n", 1e6 * cpu_seconds * BATCH / evaluations);
    fflush(stdout);
    nf_optimizer_free(optimizer);
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}

int main(int count, char **arguments) {
    const size_t steps = count > 1 ? (size_t)strtoul(arguments[1], NULL, 10) : 1300;
    if (steps == 0) {
        fprintf(stderr, "usage: bench_cnf [steps]\n");
        return 1;
    }
    toy_rows(toy_find("two_moons"), 7, 0, ROWS, data);
    train("report-own-step", NF_DYNAMICS_HYPER, 0, 1e-7, steps);
    train("report-shared-step", NF_DYNAMICS_HYPER, 1, 1e-7, steps);
    train("report-own-step-1e-4", NF_DYNAMICS_HYPER, 0, 1e-4, steps);
    train("net-2x32-own-step", NF_DYNAMICS_MLP, 0, 1e-7, steps);
    train("net-2x32-own-step-1e-4", NF_DYNAMICS_MLP, 0, 1e-4, steps);
    return 0;
}
