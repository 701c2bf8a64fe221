/*
 * gallery - what the pictures of docs/gallery.md are drawn from, as tables for gnuplot
 *
 *     gallery fits FOLDER        three data sets by a planar flow, a Real NVP and a continuous flow: grids of densities
 *     gallery energies FOLDER    four energies by planar flows of 2, 8 and 32 layers: grids of densities
 *     gallery paths FOLDER       where continuous flows carry their samples, by likelihood and by flow matching; and densities at five instants
 *
 * Each prints lines of "name=value" (titles for the script that draws) to FOLDER/<what>.gp and writes its tables beside it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "energies.h"
#include "nflow.h"
#include "toy.h"

enum { TRAIN = 4000, TEST = 4000, GRID = 161, SHOWN = 1000, ROUTES = 220, INSTANTS = 61, TIMES = 5 };

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "gallery: %s\n", nf_last_error());
    exit(1);
}

static FILE *create(const char *folder, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    if (!file) {
        perror(path);
        exit(1);
    }
    return file;
}

static void finish(FILE *file) {
    if (ferror(file) | fclose(file)) {
        perror("gallery");
        exit(1);
    }
}

/* ---- Grids of densities, with the levels whose regions hold 99, 90 and 50 % of the mass on the grid */

typedef struct box {
    double low[2], high[2];
    size_t nx, ny;
} box;

static void cell_at(const box *b, size_t i, double x[2]) {
    x[0] = b->low[0] + (b->high[0] - b->low[0]) * (double)(i % b->nx) / (double)(b->nx - 1);
    x[1] = b->low[1] + (b->high[1] - b->low[1]) * (double)(i / b->nx) / (double)(b->ny - 1);
}

static int falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void put_levels(FILE *settings, const char *name, size_t cells, const double *density) {
    static const double share[3] = {0.5, 0.9, 0.99};
    double *sorted = malloc(cells * sizeof *sorted), total = 0, sum = 0;
    if (!sorted)
        exit(1);
    memcpy(sorted, density, cells * sizeof *sorted);
    qsort(sorted, cells, sizeof *sorted, falling);
    for (size_t i = 0; i < cells; i++)
        total += sorted[i];
    fprintf(settings, "%s_levels='", name);
    for (size_t i = 0, k = 0; i < cells && k < 3; i++)
        for (sum += sorted[i]; k < 3 && sum >= share[k] * total; k++)
            fprintf(settings, "%s%.8g", k ? "," : "", sorted[i]);
    fputs("'\n", settings);
    free(sorted);
}

/* Blocks of one y each, as gnuplot's grids are. */
static void put_grid(const char *folder, FILE *settings, const char *name, const box *b, const double *density) {
    char path[80];
    snprintf(path, sizeof path, "%s.txt", name);
    FILE *file = create(folder, path);
    for (size_t i = 0; i < b->nx * b->ny; i++) {
        double x[2];
        cell_at(b, i, x);
        fprintf(file, "%.6g %.6g %.6g\n%s", x[0], x[1], density[i], (i + 1) % b->nx == 0 ? "\n" : "");
    }
    finish(file);
    put_levels(settings, name, b->nx * b->ny, density);
}

static void put_points(const char *folder, const char *name, size_t rows, const double *x) {
    FILE *file = create(folder, name);
    for (size_t i = 0; i < rows; i++)
        fprintf(file, "%.6g %.6g\n", x[2 * i], x[2 * i + 1]);
    finish(file);
}

static double *cells_of(const box *b) {
    double *cells = malloc(2 * b->nx * b->ny * sizeof *cells);
    if (!cells)
        exit(1);
    for (size_t i = 0; i < b->nx * b->ny; i++)
        cell_at(b, i, cells + 2 * i);
    return cells;
}

static void flow_density(const nf_flow *flow, const box *b, double *density) {
    double *cells = cells_of(b);
    require(nf_log_prob(flow, NULL, b->nx * b->ny, cells, NULL, density));
    for (size_t i = 0; i < b->nx * b->ny; i++)
        density[i] = exp(density[i]);
    free(cells);
}

/* ---- Flows */

static void append(nf_flow *flow, nf_flow *part) { require(nf_flow_append(flow, part)); }

static nf_flow *make_affine(void) {
    nf_flow *affine;
    require(nf_affine_create(2, NF_SINGLE, &affine));
    return affine;
}

static nf_flow *make_planar(size_t layers) {
    nf_flow *flow = make_affine();
    nf_planar *planar;
    require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = layers, .seed = 4, .precision = NF_SINGLE), &planar));
    append(flow, planar);
    append(flow, make_affine());
    return flow;
}

static nf_flow *make_realnvp(void) {
    nf_realnvp *flow;
    require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 12, .seed = 4, .precision = NF_SINGLE), &flow));
    return flow;
}

/* A continuous layer until `end` of the way from 0 to 1. */
static nf_flow *make_layer(double end) {
    nf_cnf *layer;
    require(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .precision = NF_SINGLE, .t0 = 0, .t1 = end, .seed = 4, .rtol = 1e-5, .atol = 1e-6), &layer));
    return layer;
}

/* With an affine layer at the data end, which nf_fit sets to the data's mean and standard deviation. */
static nf_flow *make_cnf(double end) {
    if (end == 0.0)
        return make_affine();
    nf_flow *flow = make_layer(end);
    append(flow, make_affine());
    return flow;
}

static double mean_nll(const nf_flow *flow, size_t rows, const double *x) {
    static double log_prob[TEST];
    double sum = 0;
    require(nf_log_prob(flow, NULL, rows, x, NULL, log_prob));
    for (size_t i = 0; i < rows; i++)
        sum -= log_prob[i];
    return sum / (double)rows;
}

/* ---- Three data sets by three flows */

static const struct panel_set {
    const char *name;
    box view;
} sets[3] = {
    {"two_moons", {{-1.6, -1.25}, {2.6, 1.75}, GRID, GRID}},
    {"pinwheel", {{-2.1, -2.1}, {2.1, 2.1}, GRID, GRID}},
    {"checkerboard", {{-4.6, -4.6}, {4.6, 4.6}, GRID, GRID}},
};

static void fit_one(const char *folder, FILE *settings, const struct panel_set *s, const char *kind, nf_flow *flow, const double *train,
                    const double *test, size_t epochs) {
    static double density[GRID * GRID];
    char name[64];
    nf_fit_report report = {.struct_size = sizeof report};
    require(nf_fit(flow, TRAIN, train, NULL, NF_CONFIG(nf_fit_config, .epochs = epochs, .seed = 1, .noise = 0.03), &report));
    snprintf(name, sizeof name, "%s_%s", s->name, kind);
    const double nll = mean_nll(flow, TEST, test);
    printf("%-24s held-out NLL %.3f nats, entropy %.3f, %.1f s\n", name, nll, toy_entropy(toy_find(s->name)), report.seconds);
    fflush(stdout);
    fprintf(settings, "%s_nll='%.3f'\n", name, nll);
    flow_density(flow, &s->view, density);
    put_grid(folder, settings, name, &s->view, density);
    nf_flow_free(flow);
}

static void fits(const char *folder, FILE *settings) {
    static double train[2 * TRAIN], test[2 * TEST], density[GRID * GRID];
    for (size_t k = 0; k < sizeof sets / sizeof sets[0]; k++) {
        const struct panel_set *s = &sets[k];
        const toy_set *set = toy_find(s->name);
        char name[64];
        toy_rows(set, 7, 0, TRAIN, train);
        toy_rows(set, 7, TRAIN, TEST, test);
        snprintf(name, sizeof name, "%s_points.txt", s->name);
        put_points(folder, name, SHOWN, train);
        for (size_t i = 0; i < GRID * GRID; i++) {
            double x[2];
            cell_at(&s->view, i, x);
            density[i] = exp(toy_log_density(set, x));
        }
        snprintf(name, sizeof name, "%s_truth", s->name);
        put_grid(folder, settings, name, &s->view, density);
        fprintf(settings, "%s_entropy='%.3f'\n", s->name, toy_entropy(set));
        fit_one(folder, settings, s, "planar", make_planar(64), train, test, 100);
        fit_one(folder, settings, s, "realnvp", make_realnvp(), train, test, 60);
        fit_one(folder, settings, s, "cnf", make_cnf(1.0), train, test, 60);
    }
}

/* ---- Four energies by planar flows */

static void energies(const char *folder, FILE *settings) {
    static const size_t depths[3] = {2, 8, 32};
    static double density[241 * 161];
    const double spread[4] = {log(3.0), log(3.0), 0.0, 0.0};
    for (int e = 1; e <= ENERGY_COUNT; e++) {
        const double half = e == 1 ? 4.0 : 6.0, log_norm = energy_log_norm(e);
        const box view = {{-half, -4.0}, {half, 4.0}, e == 1 ? 161 : 241, 161};
        char name[64];
        for (size_t i = 0; i < view.nx * view.ny; i++) {
            double x[2], gradient[2];
            cell_at(&view, i, x);
            density[i] = exp(energy_log_density(e, x, gradient) - log_norm);
        }
        snprintf(name, sizeof name, "energy%d_truth", e);
        put_grid(folder, settings, name, &view, density);
        for (size_t k = 0; k < 3; k++) {
            nf_flow *flow = make_affine();
            nf_planar *planar;
            nf_reverse_kl_report report = {.struct_size = sizeof report};
            require(nf_set_parameters(flow, spread));
            require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = depths[k], .seed = 1, .precision = NF_SINGLE), &planar));
            append(flow, planar);
            require(nf_fit_reverse_kl(flow, energy_target, &e, NF_CONFIG(nf_reverse_kl_config, .steps = 30000, .beta_start = 0.1, .seed = 1), &report));
            snprintf(name, sizeof name, "energy%d_k%zu", e, depths[k]);
            printf("%-24s KL(q || p) %.3f nats, %.1f s\n", name, log_norm - report.elbo, report.seconds);
            fflush(stdout);
            fprintf(settings, "%s_kl='%.3f'\n", name, log_norm - report.elbo);
            flow_density(flow, &view, density);
            put_grid(folder, settings, name, &view, density);
            nf_flow_free(flow);
        }
    }
}

/* ---- Paths of continuous flows */

/* Where the continuous layer carries z, in the data's units: the affine layer comes behind every instant. */
static void follow(const double *parameters, size_t layer_count, size_t rows, const double *z, size_t times, double *path) {
    nf_flow *layer = make_layer(1.0), *affine = make_affine();
    double t[INSTANTS];
    for (size_t i = 0; i < times; i++)
        t[i] = (double)i / (double)(times - 1);
    require(nf_set_parameters(layer, parameters));
    require(nf_set_parameters(affine, parameters + layer_count));
    require(nf_cnf_trajectory(layer, NULL, rows, z, NULL, times, t, path));
    require(nf_forward(affine, NULL, times * rows, path, NULL, path, NULL));
    nf_flow_free(affine);
    nf_flow_free(layer);
}

/* Lines of x, y, t, one block a sample. */
static void put_paths(const char *folder, const char *name, size_t rows, const double *path) {
    FILE *file = create(folder, name);
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < INSTANTS; i++)
            fprintf(file, "%.5g %.5g %.4g\n", path[2 * (i * rows + r)], path[2 * (i * rows + r) + 1], (double)i / (INSTANTS - 1));
        fputs("\n\n", file);
    }
    finish(file);
}

static void densities_in_time(const char *folder, FILE *settings, const double *parameters, size_t layer_count) {
    static double density[GRID * GRID], z[2 * SHOWN], path[TIMES * 2 * SHOWN];
    const box view = {{-1.7, -1.5}, {2.7, 2.0}, GRID, GRID};
    nf_flow *base;
    nf_rng rng = {.seed = 5};
    require(nf_flow_create(2, 0, NF_SINGLE, &base));
    require(nf_sample(base, NULL, &rng, SHOWN, NULL, z, NULL));
    follow(parameters, layer_count, SHOWN, z, TIMES, path);
    for (size_t i = 0; i < TIMES; i++) {
        char name[64];
        nf_flow *part = make_cnf((double)i / (TIMES - 1));
        require(nf_set_parameters(part, i == 0 ? parameters + layer_count : parameters));
        flow_density(part, &view, density);
        snprintf(name, sizeof name, "time%zu", i);
        put_grid(folder, settings, name, &view, density);
        snprintf(name, sizeof name, "time%zu_points.txt", i);
        put_points(folder, name, SHOWN, path + i * 2 * SHOWN);
        nf_flow_free(part);
    }
    nf_flow_free(base);
}

static void paths(const char *folder, FILE *settings) {
    static double train[2 * TRAIN], test[2 * TEST], z[2 * ROUTES], path[INSTANTS * 2 * ROUTES];
    static const struct way {
        const char *name;
        nf_objective objective;
        nf_pairing pairing;
        size_t epochs;
    } ways[3] = {
        {"likelihood", NF_OBJECTIVE_LIKELIHOOD, NF_PAIRING_INDEPENDENT, 60},
        {"matching", NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_INDEPENDENT, 300},
        {"optimal", NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_OPTIMAL, 300},
    };
    const toy_set *set = toy_find("two_moons");
    nf_flow *base;
    nf_rng rng = {.seed = 6};
    toy_rows(set, 7, 0, TRAIN, train);
    toy_rows(set, 7, TRAIN, TEST, test);
    require(nf_flow_create(2, 0, NF_SINGLE, &base));
    require(nf_sample(base, NULL, &rng, ROUTES, NULL, z, NULL));
    for (size_t k = 0; k < 3; k++) {
        char name[64];
        nf_flow *flow = make_cnf(1.0);
        const size_t count = nf_parameter_count(flow), layer_count = count - 4;
        double *parameters = malloc(count * sizeof *parameters);
        if (!parameters)
            exit(1);
        require(nf_fit(flow, TRAIN, train, NULL,
                       NF_CONFIG(nf_fit_config, .epochs = ways[k].epochs, .objective = ways[k].objective, .pairing = ways[k].pairing, .seed = 1), NULL));
        const double nll = mean_nll(flow, TEST, test);
        printf("%-24s held-out NLL %.3f nats\n", ways[k].name, nll);
        fflush(stdout);
        fprintf(settings, "%s_nll='%.3f'\n", ways[k].name, nll);
        require(nf_get_parameters(flow, parameters));
        follow(parameters, layer_count, ROUTES, z, INSTANTS, path);
        snprintf(name, sizeof name, "%s.txt", ways[k].name);
        put_paths(folder, name, ROUTES, path);
        if (k == 0)
            densities_in_time(folder, settings, parameters, layer_count);
        free(parameters);
        nf_flow_free(flow);
    }
    nf_flow_free(base);
}

int main(int count, char **arguments) {
    static const struct part {
        const char *name;
        void (*run)(const char *folder, FILE *settings);
    } parts[] = {{"fits", fits}, {"energies", energies}, {"paths", paths}};
    for (size_t i = 0; count == 3 && i < sizeof parts / sizeof parts[0]; i++)
        if (strcmp(arguments[1], parts[i].name) == 0) {
            char name[32];
            snprintf(name, sizeof name, "%s.gp", parts[i].name);
            FILE *settings = create(arguments[2], name);
            parts[i].run(arguments[2], settings);
            finish(settings);
            return 0;
        }
    fprintf(stderr, "usage: gallery fits|energies|paths FOLDER\n");
    return 1;
}
