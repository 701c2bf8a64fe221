/*
 * planar_energy - planar flows fitted to the four energies of Rezende & Mohamed 2015, table 1, by reverse KL
 *
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

/* Where the picture's cell (i, j) of an energy lies. */
static void cell_at(int energy, int i, int j, double z[2]) {
    z[0] = half_width[energy] * (2.0 * j / (CELLS - 1) - 1.0);
    z[1] = 4.0 * (2.0 * i / (CELLS - 1) - 1.0);
}

static void write_panel(FILE *plot, int row, int column, int energy, const nf_flow *flow) {
    fprintf(plot, "$p%d_%d << EOD\n", row, column);
    for (int i = 0; i < CELLS; i++) {
        for (int j = 0; j < CELLS; j++) {
            double z[2], gradient[2], value;
            cell_at(energy, i, j, z);
            if (flow)
                require(nf_log_prob(flow, NULL, 1, z, NULL, &value));
            else
                value = energy_log_density(energy, z, gradient);
            fprintf(plot, "%.4g %.4g %.5g\n", z[0], z[1], exp(value));
        }
        fputc('\n', plot);
    }
    fputs("EOD\n", plot);
}

static void write_layout(FILE *plot, const char *prefix, const char *suffix, const char *terminal) {
    fprintf(plot, "set terminal %s\nset output '%s%s'\nset multiplot layout %d,%d margins 0.02,0.98,0.03,0.95 spacing 0.03,0.06\n", terminal, prefix,
            suffix, ENERGY_COUNT, COLUMNS);
    fputs("unset key\nunset colorbox\nunset xtics\nunset ytics\nset border lw 0.6 lc rgb '#909090'\n"
          "set palette defined (0 '#ffffff', 1 '#b3cfe8', 2 '#2f7abb', 3 '#0b3a6b')\n",
          plot);
    for (int e = 1; e <= ENERGY_COUNT; e++)
        for (int c = 0; c < COLUMNS; c++) {
            if (c == 0)
                fprintf(plot, "set title 'energy %d: the target'\n", e);
            else
                fprintf(plot, "set title 'energy %d: K = %zu'\n", e, depths[c - 1]);
            fprintf(plot, "set xrange [%g:%g]\nset yrange [-4:4]\nplot $p%d_%d with image\n", -half_width[e], half_width[e], e, c);
        }
    fputs("unset multiplot\nunset output\n", plot);
}

int main(int count, char **arguments) {
    const char *prefix = NULL;
    size_t steps = 10000;
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--steps") == 0)
            steps = (size_t)argument_count("--steps", arguments[i + 1], 1, ARGUMENT_MOST);
        else if (strcmp(arguments[i], "--output") == 0)
            prefix = arguments[i + 1];
        else
            steps = 0;
    }
    if (steps == 0 || count % 2 == 0) {
        fprintf(stderr, "usage: planar_energy [--steps n] [--output prefix]\n");
        return 1;
    }
    FILE *plot = prefix ? popen("gnuplot", "w") : NULL;
    printf("KL(q || p) in nats, effective sample size, seconds; %zu steps of 256 samples\n", steps);
    for (int e = 1; e <= ENERGY_COUNT; e++) {
        const double log_norm = energy_log_norm(e);
        printf("energy %d, log Z = %.4f:", e, log_norm);
        if (plot)
            write_panel(plot, e, 0, e, NULL);
        for (int c = 1; c < COLUMNS; c++) {
            nf_flow *flow = make_flow(depths[c - 1], 1);
            nf_reverse_kl_report report = {.struct_size = sizeof report};
            require(nf_fit_reverse_kl(flow, energy_target, &e, NF_CONFIG(nf_reverse_kl_config, .steps = steps, .beta_start = 0.1, .seed = 1), &report));
            printf("  K = %zu: %.4f, %.2f, %.2f s", depths[c - 1], log_norm - report.elbo, report.effective_sample_size, report.seconds);
            fflush(stdout);
            if (plot)
                write_panel(plot, e, c, e, flow);
            if (!isfinite(report.elbo)) {
                fprintf(stderr, "\nplanar_energy: the ELBO is not finite\n");
                return 1;
            }
            nf_flow_free(flow);
        }
        putchar('\n');
    }
    if (!plot)
        return 0;
    write_layout(plot, prefix, ".png", "png truecolor size 1000,960");
    write_layout(plot, prefix, ".svg", "svg size 1000,960 font 'sans-serif,11' background rgb 'white'");
    if (pclose(plot) != 0) {
        fprintf(stderr, "planar_energy: gnuplot did not draw the picture (is it installed?)\n");
        return 1;
    }
    printf("drew %s.png and %s.svg\n", prefix, prefix);
    return 0;
}
