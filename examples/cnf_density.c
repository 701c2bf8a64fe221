/*
 * cnf_density - continuous normalizing flows trained by maximum likelihood, and what they do to their base over time
 *
 *     cc cnf_density.c arguments.c toy.c plot.c gnuplot.c $(pkg-config --cflags --libs libnflow) -lm -o cnf_density
 *     cnf_density [--epochs n] [--rows n] [--hyper] [--output prefix]
 *
 * Trains on two moons, two blobs and boomerang, prints the held-out negative log-likelihood beside the entropy of each, and draws
 * prefix-<set>.png and .svg: samples and density at five instants on the way from the base to the data.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "nflow.h"
#include "plot.h"
#include "toy.h"

enum { MOST_ROWS = 4000, TEST = 4000, SHOWN = 1500, GRID = 121, TIMES = 5 };

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "cnf_density: %s\n", nf_last_error());
    exit(1);
}

/* The continuous layer until `end`, of the whole way from 0 to 1. */
static nf_flow *make_layer(nf_dynamics dynamics, double end) {
    nf_flow *flow;
    require(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .dynamics = dynamics, .precision = NF_SINGLE, .t0 = 0, .t1 = end, .seed = 4, .rtol = 1e-5,
                                    .atol = 1e-6),
                          &flow));
    return flow;
}

/* With an affine layer behind it, which nf_fit sets to the mean and standard deviation of the data. */
static nf_flow *make_flow(nf_dynamics dynamics, double end) {
    nf_flow *flow, *affine;
    require(nf_affine_create(2, NF_SINGLE, &affine));
    if (end == 0.0)
        return affine;
    flow = make_layer(dynamics, end);
    require(nf_flow_append(flow, affine));
    return flow;
}

static double mean_nll(const nf_flow *flow, size_t rows, const double *x) {
    double *log_prob = malloc(rows * sizeof *log_prob), sum = 0;
    if (!log_prob)
        exit(1);
    require(nf_log_prob(flow, NULL, rows, x, NULL, log_prob));
    for (size_t i = 0; i < rows; i++)
        sum -= log_prob[i];
    free(log_prob);
    return sum / (double)rows;
}

/* The box of the points, with a margin, and the points of its grid. */
static plot_grid make_grid(size_t rows, const double *x, double *cells) {
    plot_grid grid = {.nx = GRID, .ny = GRID, .low = {x[0], x[1]}, .high = {x[0], x[1]}};
    for (size_t i = 0; i < 2 * rows; i++) {
        grid.low[i % 2] = fmin(grid.low[i % 2], x[i]);
        grid.high[i % 2] = fmax(grid.high[i % 2], x[i]);
    }
    for (int k = 0; k < 2; k++) {
        const double margin = 0.15 * (grid.high[k] - grid.low[k]);
        grid.low[k] -= margin;
        grid.high[k] += margin;
    }
    for (size_t i = 0; i < GRID * GRID; i++) {
        cells[2 * i] = grid.low[0] + (grid.high[0] - grid.low[0]) * (double)(i % GRID) / (GRID - 1);
        cells[2 * i + 1] = grid.low[1] + (grid.high[1] - grid.low[1]) * (double)(i / GRID) / (GRID - 1);
    }
    return grid;
}

/* Where the continuous layer carries base samples, in the data's units: the affine layer comes behind every instant. */
static void follow(const double *parameters, size_t layer_count, nf_dynamics dynamics, const double *t, double *path) {
    static double z[SHOWN * 2];
    nf_flow *layer = make_layer(dynamics, 1.0), *affine, *base;
    nf_rng rng = {.seed = 5};
    require(nf_set_parameters(layer, parameters));
    require(nf_affine_create(2, NF_SINGLE, &affine));
    require(nf_set_parameters(affine, parameters + layer_count));
    require(nf_flow_create(2, 0, NF_SINGLE, &base));
    require(nf_sample(base, NULL, &rng, SHOWN, NULL, z, NULL));
    require(nf_cnf_trajectory(layer, NULL, SHOWN, z, NULL, TIMES, t, path));
    require(nf_forward(affine, NULL, TIMES * SHOWN, path, NULL, path, NULL));
    nf_flow_free(base);
    nf_flow_free(affine);
    nf_flow_free(layer);
}

static void draw(const nf_flow *flow, nf_dynamics dynamics, const char *name, size_t rows, const double *x, double nll, const char *prefix) {
    static double path[TIMES * SHOWN * 2], cells[GRID * GRID * 2], density[TIMES][GRID * GRID];
    const double t[TIMES] = {0, 0.25, 0.5, 0.75, 1};
    const size_t count = nf_parameter_count(flow), layer_count = count - 4;
    double *parameters = malloc(count * sizeof *parameters);
    char title[160], titles[TIMES][32], file[512], message[400];
    if (!parameters)
        exit(1);
    require(nf_get_parameters(flow, parameters));
    follow(parameters, layer_count, dynamics, t, path);
    snprintf(title, sizeof title, "continuous flow on %s: held-out NLL %.3f nats", name, nll);
    plot_strip strip = {.title = title, .columns = TIMES, .grid = make_grid(rows, x, cells)};
    for (size_t i = 0; i < TIMES; i++) {
        nf_flow *part = make_flow(dynamics, t[i]);
        require(nf_set_parameters(part, t[i] == 0.0 ? parameters + layer_count : parameters));
        require(nf_log_prob(part, NULL, GRID * GRID, cells, NULL, density[i]));
        for (size_t k = 0; k < GRID * GRID; k++)
            density[i][k] = exp(density[i][k]);
        nf_flow_free(part);
        snprintf(titles[i], sizeof titles[i], "t = %g", t[i]);
        strip.column[i] = (plot_column){titles[i], {SHOWN, path + i * SHOWN * 2}, density[i]};
    }
    snprintf(file, sizeof file, "%s-%s", prefix, name);
    const plot_result result = plot_draw_strip(&strip, file, message, sizeof message);
    free(parameters);
    if (result == PLOT_FAILED) {
        fprintf(stderr, "cnf_density: %s\n", message);
        exit(1);
    }
    printf(result == PLOT_DRAWN ? "  drew %s.png and %s.svg\n" : "  no picture: gnuplot is not installed\n", file, file);
}

int main(int count, char **arguments) {
    static const char *const names[] = {"two_moons", "two_blobs", "boomerang"};
    static double train[MOST_ROWS * 2], test[TEST * 2];
    const char *prefix = NULL;
    nf_dynamics dynamics = NF_DYNAMICS_MLP;
    size_t epochs = 60, rows = 2000;
    for (int i = 1; i < count; i++) {
        const char *value = i + 1 < count ? arguments[i + 1] : "";
        if (strcmp(arguments[i], "--hyper") == 0)
            dynamics = NF_DYNAMICS_HYPER;
        else if (strcmp(arguments[i], "--epochs") == 0)
            epochs = (size_t)argument_count("--epochs", value, 1, ARGUMENT_MOST), i++;
        else if (strcmp(arguments[i], "--rows") == 0)
            rows = (size_t)argument_count("--rows", value, 100, MOST_ROWS), i++;
        else if (strcmp(arguments[i], "--output") == 0 && *value)
            prefix = value, i++;
        else
            epochs = 0;
    }
    if (epochs == 0) {
        fprintf(stderr, "usage: cnf_density [--epochs n] [--rows 100..%d] [--hyper] [--output prefix]\n", MOST_ROWS);
        return 1;
    }
    for (size_t s = 0; s < sizeof names / sizeof names[0]; s++) {
        const toy_set *set = toy_find(names[s]);
        toy_rows(set, 7, 0, rows, train);
        toy_rows(set, 7, rows, TEST, test);
        nf_flow *flow = make_flow(dynamics, 1.0);
        nf_fit_report report = {.struct_size = sizeof report};
        require(nf_fit(flow, rows, train, NULL, NF_CONFIG(nf_fit_config, .epochs = epochs, .seed = 1), &report));
        const double nll = mean_nll(flow, TEST, test);
        printf("%-10s held-out NLL %.4f nats, entropy %.4f, %.2f s, %.0f evaluations a row and step\n", names[s], nll, toy_entropy(set), report.seconds,
               report.rhs_evaluations);
        if (prefix)
            draw(flow, dynamics, names[s], rows, train, nll, prefix);
        nf_flow_free(flow);
        if (!isfinite(nll))
            return 1;
    }
    return 0;
}
