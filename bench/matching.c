/*
 * How long a continuous flow takes to each level of held-out likelihood, by likelihood training and by flow matching with independent and optimal pairs.
 *
 *     matching [--fits n] [--plot prefix] folder
 *
 * The folder holds two_moons.csv, two_blobs.csv and boomerang.csv, as for nll. Each point is a whole fit of its own (the schedule of the rate ends with it), of so many
 * epochs that its processor time doubles from one to the next, averaged over `fits` (3) splits of 80/20. One JSON line each; with --plot a picture
 * of them all as prefix.svg, by gnuplot.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "held_out.h"

enum { SETS = HELD_OUT_SETS, WAYS = 3, POINTS = 8 };

typedef struct way {
    const char *name;
    nf_objective objective;
    nf_pairing pairing;
    size_t epochs; /* of the first point */
} way;

static const way ways[WAYS] = {{"likelihood", NF_OBJECTIVE_LIKELIHOOD, NF_PAIRING_INDEPENDENT, 3},
                               {"flow matching", NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_INDEPENDENT, 32},
                               {"flow matching, optimal pairs", NF_OBJECTIVE_FLOW_MATCHING, NF_PAIRING_OPTIMAL, 12}};

typedef struct point {
    double seconds, nll;
} point;

static point fit(const way *w, const csv_table *t, size_t epochs, uint64_t seed) {
    const size_t held_out = t->rows / 5, rows = t->rows - held_out;
    nf_flow *flow, *affine;
    held_out_require(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .seed = seed, .precision = NF_SINGLE, .rtol = 1e-5, .atol = 1e-6), &flow));
    held_out_require(nf_affine_create(2, NF_SINGLE, &affine));
    held_out_require(nf_flow_append(flow, affine));
    const clock_t start = clock();
    const nf_fit_config config = {.struct_size = sizeof config, .epochs = epochs, .seed = seed, .objective = w->objective, .pairing = w->pairing, .patience = NF_NONE};
    held_out_require(nf_fit(flow, rows, t->values, NULL, &config, NULL));
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    const point p = {seconds, held_out_nll(flow, held_out, t->values + 2 * rows)};
    nf_flow_free(flow);
    return p;
}

static void measure(const char *folder, size_t fits, point curve[SETS][WAYS][POINTS]) {
    for (size_t s = 0; s < SETS; s++)
        for (size_t w = 0; w < WAYS; w++)
            for (size_t p = 0; p < POINTS; p++) {
                point sum = {0, 0};
                const size_t epochs = ways[w].epochs << p;
                for (size_t i = 0; i < fits; i++) {
                    csv_table table = held_out_read(folder, held_out_sets[s]);
                    held_out_shuffle(&table, i + 1);
                    const point one = fit(&ways[w], &table, epochs, i + 1);
                    sum.seconds += one.seconds / (double)fits;
                    sum.nll += one.nll / (double)fits;
                    csv_free(&table);
                }
                curve[s][w][p] = sum;
                printf("{\"work\": \"cnf_fit\", \"set\": \"%s\", \"by\": \"%s\", \"epochs\": %zu, \"cpu_seconds\": %.3f, \"held_out_nll\": %.3f}\n", held_out_sets[s],
                       ways[w].name, epochs, sum.seconds, sum.nll);
                fflush(stdout);
            }
}

/* gnuplot reads the script from a pipe. */
static void plot(point curve[SETS][WAYS][POINTS], const char *prefix) {
    FILE *gnuplot = popen("gnuplot", "w");
    if (!gnuplot) {
        fprintf(stderr, "matching: gnuplot cannot be started\n");
        exit(1);
    }
    fprintf(gnuplot, "set terminal svg size 1200,420 font 'sans-serif,12' background rgb 'white'\nset output '%s.svg'\nset multiplot layout 1,3\n"
                     "set logscale x\nset format x '%%g'\nset xlabel 'processor seconds of the fit'\nset ylabel 'held-out NLL, nats'\nset key bottom left reverse Left\n"
                     "set grid lc rgb '#dddddd'\nset border 3\nset tics nomirror\n",
            prefix);
    static const char *const colors[WAYS] = {"#1f4e79", "#b5482a", "#2f8f6f"};
    for (size_t s = 0; s < SETS; s++) {
        double best = INFINITY, worst = -INFINITY;
        for (size_t w = 0; w < WAYS; w++)
            for (size_t p = 0; p < POINTS; p++) {
                best = fmin(best, curve[s][w][p].nll);
                worst = fmax(worst, curve[s][w][p].nll);
            }
        worst = fmin(worst, best + 1.2);
        const double margin = 0.05 * (worst - best);
        fprintf(gnuplot, "set title '%s' noenhanced\nset yrange [%g:%g]\nplot ", held_out_sets[s], best - margin, worst + margin);
        for (size_t w = 0; w < WAYS; w++)
            fprintf(gnuplot, "'-' using 1:2 with linespoints lw 2 pt 7 ps 0.5 lc rgb '%s' title '%s'%s", colors[w], ways[w].name, w + 1 < WAYS ? ", " : "\n");
        for (size_t w = 0; w < WAYS; w++) {
            for (size_t p = 0; p < POINTS; p++)
                fprintf(gnuplot, "%g %g\n", curve[s][w][p].seconds, curve[s][w][p].nll);
            fputs("e\n", gnuplot);
        }
        fputs("unset key\n", gnuplot);
    }
    fputs("unset multiplot\n", gnuplot);
    if (pclose(gnuplot) != 0)
        exit(1);
}

int main(int count, char **arguments) {
    static point curve[SETS][WAYS][POINTS];
    const char *folder = NULL, *prefix = NULL;
    size_t fits = 3;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--fits") == 0 && i + 1 < count)
            fits = (size_t)strtoul(arguments[++i], NULL, 10);
        else if (strcmp(arguments[i], "--plot") == 0 && i + 1 < count)
            prefix = arguments[++i];
        else
            folder = folder || arguments[i][0] == '-' ? "" : arguments[i];
    }
    if (!folder || !*folder || fits == 0) {
        fprintf(stderr, "usage: matching [--fits n] [--plot prefix] folder\n");
        return 1;
    }
    measure(folder, fits, curve);
    if (prefix)
        plot(curve, prefix);
    return 0;
}
