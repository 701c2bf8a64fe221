/*
 * planar_density - planar flows trained by maximum likelihood, through their inverse
 *
 *     cc planar_density.c arguments.c toy.c plot.c gnuplot.c $(pkg-config --cflags --libs libnflow) -lm -o planar_density
 *     planar_density [--epochs n] [--layers K] [--output prefix]
 *
 * The flow is an affine layer, K planar layers (32) and an affine layer that standardises the data. Trains on two moons, two blobs and boomerang, prints the held-out
 * negative log-likelihood beside the entropy of each, and draws prefix-<set>.png and .svg: data, samples, density, latent.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "nflow.h"
#include "plot.h"
#include "toy.h"

enum { TRAIN = 4000, TEST = 4000, SHOWN = 1500, GRID = 181, MOST_LAYERS = 10000 };

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "planar_density: %s\n", nf_last_error());
    exit(1);
}

static nf_flow *make_flow(size_t layers, const double *x) {
    nf_flow *flow, *data_end;
    nf_planar *planar;
    require(nf_affine_create(2, NF_SINGLE, &flow));
    require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = layers, .seed = 4, .precision = NF_SINGLE), &planar));
    require(nf_affine_create(2, NF_SINGLE, &data_end));
    require(nf_affine_standardize(data_end, TRAIN, x));
    require(nf_flow_append(flow, planar));
    require(nf_flow_append(flow, data_end));
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

static void draw(const nf_flow *flow, const char *name, const double *x, double nll, const char *prefix) {
    static double samples[SHOWN * 2], latent[SHOWN * 2], cells[GRID * GRID * 2], value[GRID * GRID];
    plot_grid grid = {.nx = GRID, .ny = GRID, .low = {x[0], x[1]}, .high = {x[0], x[1]}, .value = value};
    nf_rng rng = {.seed = 5};
    require(nf_sample(flow, NULL, &rng, SHOWN, NULL, samples, NULL));
    require(nf_inverse(flow, NULL, SHOWN, x, NULL, latent, NULL));
    for (size_t i = 0; i < 2 * SHOWN; i++) {
        grid.low[i % 2] = fmin(grid.low[i % 2], x[i]);
        grid.high[i % 2] = fmax(grid.high[i % 2], x[i]);
    }
    for (int k = 0; k < 2; k++) {
        const double margin = 0.1 * (grid.high[k] - grid.low[k]);
        grid.low[k] -= margin;
        grid.high[k] += margin;
    }
    for (size_t i = 0; i < GRID * GRID; i++) {
        cells[2 * i] = grid.low[0] + (grid.high[0] - grid.low[0]) * (double)(i % GRID) / (GRID - 1);
        cells[2 * i + 1] = grid.low[1] + (grid.high[1] - grid.low[1]) * (double)(i / GRID) / (GRID - 1);
    }
    require(nf_log_prob(flow, NULL, GRID * GRID, cells, NULL, value));
    for (size_t i = 0; i < GRID * GRID; i++)
        value[i] = exp(value[i]);
    char title[128], path[512], message[400];
    snprintf(title, sizeof title, "planar flow on %s: held-out NLL %.3f nats", name, nll);
    snprintf(path, sizeof path, "%s-%s", prefix, name);
    const plot_picture picture = {title, {"x1", "x2"}, {SHOWN, x}, {SHOWN, samples}, {SHOWN, latent}, grid};
    const plot_result result = plot_draw(&picture, path, message, sizeof message);
    if (result == PLOT_FAILED) {
        fprintf(stderr, "planar_density: %s\n", message);
        exit(1);
    }
    printf(result == PLOT_DRAWN ? "  drew %s.png and %s.svg\n" : "  no picture: gnuplot is not installed\n", path, path);
}

int main(int count, char **arguments) {
    static const char *const names[] = {"two_moons", "two_blobs", "boomerang"};
    static double train[TRAIN * 2], test[TEST * 2];
    const char *prefix = NULL;
    size_t epochs = 150, layers = 32;
    for (int i = 1; i < count; i += 2) {
        const char *value = i + 1 < count ? arguments[i + 1] : "";
        if (strcmp(arguments[i], "--epochs") == 0)
            epochs = (size_t)argument_count("--epochs", value, 1, ARGUMENT_MOST);
        else if (strcmp(arguments[i], "--layers") == 0)
            layers = (size_t)argument_count("--layers", value, 1, MOST_LAYERS);
        else if (strcmp(arguments[i], "--output") == 0 && *value)
            prefix = value;
        else
            epochs = 0;
    }
    if (epochs == 0) {
        fprintf(stderr, "usage: planar_density [--epochs n] [--layers K] [--output prefix]\n");
        return 1;
    }
    for (size_t s = 0; s < sizeof names / sizeof names[0]; s++) {
        const toy_set *set = toy_find(names[s]);
        toy_rows(set, 7, 0, TRAIN, train);
        toy_rows(set, 7, TRAIN, TEST, test);
        nf_flow *flow = make_flow(layers, train);
        nf_fit_report report = {.struct_size = sizeof report};
        require(nf_fit(flow, TRAIN, train, NULL, NF_CONFIG(nf_fit_config, .epochs = epochs, .seed = 1), &report));
        const double nll = mean_nll(flow, TEST, test);
        printf("%-10s K = %zu: held-out NLL %.4f nats, entropy %.4f, %.2f s\n", names[s], layers, nll, toy_entropy(set), report.seconds);
        if (prefix)
            draw(flow, names[s], train, nll, prefix);
        nf_flow_free(flow);
        if (!isfinite(nll))
            return 1;
    }
    return 0;
}
