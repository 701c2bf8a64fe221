/*
 * planar_energy - planar flows fitted to the four energies of Rezende & Mohamed 2015, table 1, by reverse KL
 *
 *     cc planar_energy.c arguments.c energies.c gnuplot.c $(pkg-config --cflags --libs libnflow) -lm -o planar_energy
 *     planar_energy [--steps n] [--output prefix]
 *
 * A trainable diagonal Gaussian of initial standard deviation 3 (an affine layer at the base) and K = 2, 8 and 32 planar layers, 256 samples a step, annealed. Prints
 * KL(q || p), which is log Z minus the ELBO, with log Z by quadrature, and draws the targets beside the flows.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "energies.h"
#include "gnuplot.h"

enum { COLUMNS = 4, CELLS = 121 };

static const size_t depths[COLUMNS - 1] = {2, 8, 32};
static const double half_width[ENERGY_COUNT + 1] = {0, 4, 8, 8, 8};

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "planar_energy: %s\n", nf_last_error());
    exit(1);
}

static nf_flow *make_flow(size_t layers, uint64_t seed) {
    nf_flow *flow;
    nf_planar *planar;
    const double spread[4] = {log(3.0), log(3.0), 0.0, 0.0};
    require(nf_affine_create(2, NF_SINGLE, &flow));
    require(nf_set_parameters(flow, spread));
    require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = layers, .seed = seed, .precision = NF_SINGLE), &planar));
    require(nf_flow_append(flow, planar));
    return flow;
}

/* The picture: a row for each energy, the target and then the flows. */
typedef struct panels {
    double density[ENERGY_COUNT][COLUMNS][CELLS * CELLS];
} panels;

static plot_grid grid_of(int energy, const double *density) {
    return (plot_grid){.nx = CELLS, .ny = CELLS, .low = {-half_width[energy], -4}, .high = {half_width[energy], 4}, .value = density};
}

/* The density of a flow, or without one of the target but for a factor, in each cell. */
static void fill(panels *p, int column, int energy, const nf_flow *flow) {
    static double z[CELLS * CELLS * 2];
    double *value = p->density[energy - 1][column], gradient[2];
    for (size_t i = 0; i < CELLS * CELLS; i++) {
        z[2 * i] = half_width[energy] * (2.0 * (double)(i % CELLS) / (CELLS - 1) - 1.0);
        z[2 * i + 1] = 4.0 * (2.0 * (double)(i / CELLS) / (CELLS - 1) - 1.0);
        value[i] = energy_log_density(energy, z + 2 * i, gradient);
    }
    if (flow)
        require(nf_log_prob(flow, NULL, CELLS * CELLS, z, NULL, value));
    for (size_t i = 0; i < CELLS * CELLS; i++)
        value[i] = exp(value[i]);
}

static void panel_name(char name[32], int energy, int column) { snprintf(name, 32, "panel-%d-%d.txt", energy, column); }

static void put_panels(FILE *file, const char *prefix, const char *format) {
    gnuplot_terminal(file, format, 1000, 960);
    fputs("set output ", file);
    gnuplot_quote_path(file, prefix);
    fprintf(file, " . '.%s'\nset multiplot layout %d,%d margins 0.02,0.98,0.03,0.95 spacing 0.03,0.06\n", format, ENERGY_COUNT, COLUMNS);
    for (int e = 1; e <= ENERGY_COUNT; e++)
        for (int c = 0; c < COLUMNS; c++) {
            char name[32];
            panel_name(name, e, c);
            if (c == 0)
                fprintf(file, "set title 'energy %d: the target'\n", e);
            else
                fprintf(file, "set title 'energy %d: K = %zu'\n", e, depths[c - 1]);
            fprintf(file, "set xrange [%g:%g]\nset yrange [-4:4]\nplot directory . '/%s' with image\n", -half_width[e], half_width[e], name);
        }
    fputs("unset multiplot\nunset output\n", file);
}

static bool write_files(const gnuplot *g, const panels *p, const char *prefix) {
    for (int e = 1; e <= ENERGY_COUNT; e++)
        for (int c = 0; c < COLUMNS; c++) {
            const plot_grid grid = grid_of(e, p->density[e - 1][c]);
            char name[32];
            panel_name(name, e, c);
            if (!gnuplot_grid(g, name, &grid))
                return false;
        }
    FILE *file = gnuplot_create(g, "plot.gp");
    if (!file)
        return false;
    gnuplot_style(g, file);
    fputs("unset xtics\nunset ytics\n", file);
    put_panels(file, prefix, "png");
    put_panels(file, prefix, "svg");
    return gnuplot_finish(g, file, "plot.gp");
}

static void draw(const panels *p, const char *prefix) {
    gnuplot g;
    char message[400];
    plot_result result = PLOT_FAILED;
    if (gnuplot_begin(&g, message, sizeof message)) {
        if (write_files(&g, p, prefix))
            result = gnuplot_run(&g);
        gnuplot_end(&g);
    }
    if (result == PLOT_FAILED) {
        fprintf(stderr, "planar_energy: %s\n", message);
        exit(1);
    }
    printf(result == PLOT_DRAWN ? "drew %s.png and %s.svg\n" : "no picture: gnuplot is not installed\n", prefix, prefix);
}

int main(int count, char **arguments) {
    static panels picture;
    const char *prefix = NULL;
    size_t steps = 10000;
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--steps") == 0)
            steps = (size_t)argument_count("--steps", arguments[i + 1], 1, ARGUMENT_MOST);
        else if (strcmp(arguments[i], "--output") == 0 && *arguments[i + 1])
            prefix = arguments[i + 1];
        else
            steps = 0;
    }
    if (steps == 0 || count % 2 == 0) {
        fprintf(stderr, "usage: planar_energy [--steps n] [--output prefix]\n");
        return 1;
    }
    printf("KL(q || p) in nats, effective sample size, seconds; %zu steps of 256 samples\n", steps);
    for (int e = 1; e <= ENERGY_COUNT; e++) {
        const double log_norm = energy_log_norm(e);
        printf("energy %d, log Z = %.4f:", e, log_norm);
        fill(&picture, 0, e, NULL);
        for (int c = 1; c < COLUMNS; c++) {
            nf_flow *flow = make_flow(depths[c - 1], 1);
            nf_reverse_kl_report report = {.struct_size = sizeof report};
            require(nf_fit_reverse_kl(flow, energy_target, &e, NF_CONFIG(nf_reverse_kl_config, .steps = steps, .beta_start = 0.1, .seed = 1), &report));
            printf("  K = %zu: %.4f, %.2f, %.2f s", depths[c - 1], log_norm - report.elbo, report.effective_sample_size, report.seconds);
            fflush(stdout);
            if (!isfinite(report.elbo)) {
                fprintf(stderr, "\nplanar_energy: the ELBO is not finite\n");
                return 1;
            }
            fill(&picture, c, e, flow);
            nf_flow_free(flow);
        }
        putchar('\n');
    }
    if (prefix)
        draw(&picture, prefix);
    return 0;
}
