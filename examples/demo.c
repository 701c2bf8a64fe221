/*
 * demo: train a Real NVP on a toy density or on a CSV file, say how well it does, save it, and draw it.
 *
 *     cc demo.c arguments.c csv.c toy.c plot.c gnuplot.c $(pkg-config --cflags --libs libnflow) -lm -o demo
 *     demo [--data file.csv] [--set two_moons] [--epochs n] [--seconds s] [--seed n] [--output prefix]
 */
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arguments.h"
#include "csv.h"
#include "nflow.h"
#include "plot.h"
#include "toy.h"

enum {
    TOY_TRAINING = 10000,
    TOY_HELD_OUT = 5000,
    MOST_TRAINING = 20000, /* of a CSV file */
    FEWEST_ROWS = 50,
    STEPS = 4000, /* of the optimizer, about */
    GRID = 180,
    SHOWN = 1500, /* points in a panel */
    MARGINAL_SAMPLES = 40000,
    NEW_ROWS = 1000
};

typedef struct options {
    const char *data, *output;
    const toy_set *set;
    size_t epochs;
    double seconds;
    uint64_t seed;
} options;

typedef struct rows {
    size_t dim, training, held_out;
    double *values; /* training rows, then held-out ones */
    char **names;   /* NULL: none */
    csv_table table;
} rows;

_Noreturn __attribute__((format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs("demo: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(EXIT_FAILURE);
}

static void must(nf_status status) {
    if (status != NF_OK)
        die("%s", nf_last_error());
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        die("no memory for %zu numbers", count);
    return memory;
}

/* ---- Options */

static void usage(FILE *file) {
    fputs("usage: demo [--data file.csv] [--set name] [--epochs n] [--seconds s] [--seed n] [--output prefix]\n"
          "  --data     train on the rows of a CSV file of any number of columns\n"
          "  --set      or on one of the toy densities:\n",
          file);
    for (size_t i = 0; i < toy_count(); i++)
        fprintf(file, "               %-14s%s\n", toy_name(toy_at(i)), toy_about(toy_at(i)));
    fputs("  --epochs   how often each row is seen (as often as makes some 4000 steps)\n"
          "  --seconds  stop training after this time (7)\n"
          "  --seed     of the toy rows, the first parameters, the shuffles and the samples (5)\n"
          "  --output   writes prefix.safetensors, prefix-samples.csv, prefix.png and prefix.svg (demo)\n",
          file);
}

static bool is_option(const char *name) {
    static const char *const names[] = {"--data", "--output", "--epochs", "--seed", "--seconds", "--set"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static void read_option(options *o, const char *name, const char *value) {
    if (strcmp(name, "--data") == 0)
        o->data = value;
    else if (strcmp(name, "--output") == 0)
        o->output = value;
    else if (strcmp(name, "--epochs") == 0)
        o->epochs = (size_t)argument_count(name, value, 1, ARGUMENT_MOST);
    else if (strcmp(name, "--seed") == 0)
        o->seed = argument_count(name, value, 0, UINT64_MAX);
    else if (strcmp(name, "--seconds") == 0)
        o->seconds = argument_positive(name, value);
    else if (!(o->set = toy_find(value)))
        die("--set %s: there is no such set; demo --help lists them", value);
}

static options read_options(int count, char **words) {
    options o = {.output = "demo", .set = toy_find("two_moons"), .seconds = 7.0, .seed = 5};
    for (int i = 1; i < count; i += 2) {
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            usage(stdout);
            exit(EXIT_SUCCESS);
        }
        if (!is_option(words[i]))
            die("%s: there is no such option; demo --help lists them", words[i]);
        if (i + 1 == count)
            die("%s: its value is missing; demo --help says more", words[i]);
        read_option(&o, words[i], words[i + 1]);
    }
    return o;
}

/* ---- Data */

static rows toy_data(const options *o) {
    rows r = {.dim = 2, .training = TOY_TRAINING, .held_out = TOY_HELD_OUT};
    r.values = allocate((r.training + r.held_out) * 2, sizeof *r.values);
    toy_rows(o->set, o->seed, 0, r.training + r.held_out, r.values);
    printf("%s (%s): %zu rows to train on, %zu held out\n", toy_name(o->set), toy_about(o->set), r.training, r.held_out);
    return r;
}

static void swap_rows(double *a, double *b, size_t dim) {
    for (size_t i = 0; i < dim; i++) {
        const double kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

/* Fisher & Yates, with the numbers of a linear congruential generator (Knuth's MMIX constants). */
static void shuffle(double *values, size_t count, size_t dim, uint64_t seed) {
    uint64_t state = seed * 2 + 1;
    for (size_t left = count; left > 1; left--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const size_t other = (size_t)((double)(state >> 11) * 0x1p-53 * (double)left);
        swap_rows(values + (left - 1) * dim, values + other * dim, dim);
    }
}

static void refuse_constant_columns(const options *o, const csv_table *t) {
    for (size_t c = 0; c < t->columns; c++) {
        bool varies = false;
        for (size_t r = 1; r < t->rows && !varies; r++)
            varies = t->values[r * t->columns + c] != t->values[c];
        if (!varies)
            die("%s: column %zu%s%s%s is %g in every row, so the rows have no density", o->data, c + 1, t->names ? " (" : "",
                t->names ? t->names[c] : "", t->names ? ")" : "", t->values[c]);
    }
}

static rows csv_data(const options *o) {
    rows r = {0};
    char message[512];
    if (!csv_read(o->data, &r.table, message, sizeof message))
        die("%s", message);
    if (r.table.rows < FEWEST_ROWS)
        die("%s: it has %zu rows, and a fit needs at least %d", o->data, r.table.rows, FEWEST_ROWS);
    refuse_constant_columns(o, &r.table);
    r.dim = r.table.columns;
    r.values = r.table.values;
    r.names = r.table.names;
    shuffle(r.values, r.table.rows, r.dim, o->seed);
    r.held_out = r.table.rows / 5;
    r.training = r.table.rows - r.held_out;
    printf("%s: %zu rows of %zu column%s; %zu to train on, %zu held out\n", o->data, r.table.rows, r.dim, r.dim == 1 ? "" : "s", r.training,
           r.held_out);
    if (r.training > MOST_TRAINING) {
        printf("of these, %d and %d, drawn at random, so that the demo stays short\n", MOST_TRAINING, MOST_TRAINING / 4);
        memmove(r.values + MOST_TRAINING * r.dim, r.values + r.training * r.dim, MOST_TRAINING / 4 * r.dim * sizeof *r.values);
        r.training = MOST_TRAINING;
        r.held_out = MOST_TRAINING / 4;
    }
    return r;
}

/* ---- Training */

typedef struct progress_line {
    bool terminal, stopped;
    double limit, last;
    size_t said; /* tenths of the way */
} progress_line;

static int show_progress(void *user, const nf_fit_progress *p) {
    progress_line *line = user;
    const size_t tenth = 10 * p->epoch / p->epochs;
    const bool end = p->epoch == p->epochs;
    line->stopped = p->seconds > line->limit && !end;
    if (line->terminal ? p->seconds - line->last > 0.05 || end || line->stopped : tenth > line->said || line->stopped) {
        printf("%sepoch %4zu/%zu   train %8.3f   validation %8.3f nats   %4.1f s left%s", line->terminal ? "\r" : "", p->epoch, p->epochs,
               p->train_loss, p->validation_loss, fmin(p->seconds_left, fmax(line->limit - p->seconds, 0.0)), line->terminal ? " " : "\n");
        fflush(stdout);
        line->last = p->seconds;
        line->said = tenth;
    }
    return line->stopped;
}

/* The library's defaults, which suit a few hundred rows; many rows go in larger batches, so that it does not take long, and with less blur, none of it wide. */
static nf_status fit(const options *o, const rows *r, nf_flow *flow, progress_line *line, nf_fit_report *report) {
    const bool many = r->training >= 4000;
    const size_t batch = many ? 256 : 64, epochs = STEPS * batch / r->training;
    const nf_fit_config *config = NF_CONFIG(nf_fit_config, .batch_size = batch, .seed = o->seed, .noise = many ? 0.05 : 0.0,
                                            .contamination = many ? -1.0 : 0.0,
                                            .epochs = o->epochs ? o->epochs : epochs < 20 ? 20 : epochs > 300 ? 300 : epochs,
                                            .progress = show_progress, .progress_user = line);
    return nf_fit(flow, r->training, r->values, NULL, config, report);
}

static nf_flow *train(const options *o, const rows *r) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = r->dim, .seed = o->seed), &flow));
    printf("Real NVP of %zu layers, %zu parameters, computing with the instruction set %s\n", nf_flow_layer_count(flow),
           nf_parameter_count(flow), nf_flow_isa(flow));
    progress_line line = {.terminal = isatty(STDOUT_FILENO), .limit = o->seconds};
    nf_fit_report report = {.struct_size = sizeof report};
    const nf_status status = fit(o, r, flow, &line, &report);
    if (line.terminal)
        putchar('\n');
    if (status != NF_STOPPED)
        must(status);
    printf("%zu epochs in %.1f s%s; kept the parameters of epoch %zu, the best on the validation rows\n", report.epochs_run,
           report.seconds, status == NF_STOPPED                       ? " (--seconds ended it)"
           : report.stop_reason == NF_STOP_PATIENCE ? " (it got no better)"
                                                      : "",
           report.best_epoch);
    return flow;
}

/* ---- How good it is */

typedef struct estimate {
    double mean, error; /* standard error of the mean */
} estimate;

static estimate mean_of(size_t count, const double *values) {
    double mean = 0, square = 0;
    for (size_t i = 0; i < count; i++)
        mean += values[i] / (double)count;
    for (size_t i = 0; i < count; i++)
        square += (values[i] - mean) * (values[i] - mean);
    return (estimate){mean, sqrt(square / (double)count / (double)count)};
}

static estimate nll(const nf_flow *flow, size_t count, const double *x) {
    double *value = allocate(count, sizeof *value);
    must(nf_log_prob(flow, NULL, count, x, NULL, value));
    for (size_t i = 0; i < count; i++)
        value[i] = -value[i];
    const estimate e = mean_of(count, value);
    free(value);
    return e;
}

static estimate true_nll(const toy_set *set, size_t count, const double *x) {
    double *value = allocate(count, sizeof *value);
    for (size_t i = 0; i < count; i++)
        value[i] = -toy_log_density(set, x + 2 * i);
    const estimate e = mean_of(count, value);
    free(value);
    return e;
}

static double evaluate(const options *o, const rows *r, const nf_flow *flow) {
    const double *held_out = r->values + r->training * r->dim;
    const estimate seen = nll(flow, r->training, r->values), unseen = nll(flow, r->held_out, held_out);
    printf("negative log-likelihood, nats:\n"
           "  the flow, training rows     %8.4f +- %.4f\n"
           "  the flow, held-out rows     %8.4f +- %.4f\n",
           seen.mean, seen.error, unseen.mean, unseen.error);
    if (!o->data) {
        const estimate truth = true_nll(o->set, r->held_out, held_out);
        printf("  the truth, held-out rows    %8.4f +- %.4f\n"
               "  entropy of the truth        %8.4f\n",
               truth.mean, truth.error, toy_entropy(o->set));
    }
    return unseen.mean;
}

/* ---- The picture: the first two columns */

static double *first_two(size_t count, size_t dim, const double *x) {
    double *xy = allocate(2 * count, sizeof *xy);
    for (size_t i = 0; i < count; i++)
        memcpy(xy + 2 * i, x + i * dim, 2 * sizeof *xy);
    return xy;
}

static void density_of_plane(const nf_flow *flow, const plot_grid *grid, double *value) {
    double *points = allocate(2 * GRID * GRID, sizeof *points);
    for (size_t i = 0; i < GRID * GRID; i++) {
        points[2 * i] = grid->low[0] + (grid->high[0] - grid->low[0]) * (double)(i % GRID) / (GRID - 1);
        points[2 * i + 1] = grid->low[1] + (grid->high[1] - grid->low[1]) * (double)(i / GRID) / (GRID - 1);
    }
    const nf_status status = nf_log_prob(flow, NULL, GRID * GRID, points, NULL, value);
    if (status != NF_ERR_ROWS) /* the flow may not reach a corner: those are left white */
        must(status);
    for (size_t i = 0; i < GRID * GRID; i++)
        value[i] = exp(value[i]);
    free(points);
}

/* ---- Files */

static char *file_name(const options *o, const char *suffix) {
    const size_t size = strlen(o->output) + strlen(suffix) + 1;
    char *path = allocate(size, 1);
    snprintf(path, size, "%s%s", o->output, suffix);
    return path;
}

static void save(const options *o, const rows *r, const nf_flow *flow) {
    char *model = file_name(o, ".safetensors"), *csv = file_name(o, "-samples.csv"), message[512];
    must(nf_flow_save(flow, model));
    double *samples = allocate(NEW_ROWS * r->dim, sizeof *samples);
    nf_rng rng = {.seed = o->seed, .stream = 2};
    must(nf_sample(flow, NULL, &rng, NEW_ROWS, NULL, samples, NULL));
    if (!csv_write(csv, NEW_ROWS, r->dim, samples, (const char *const *)r->names, message, sizeof message))
        die("%s", message);
    printf("saved the flow as %s, and %d new rows as %s\n", model, NEW_ROWS, csv);
    free(samples);
    free(csv);
    free(model);
}

static void draw(const options *o, const rows *r, const nf_flow *flow, double held_out_nll) {
    if (r->dim < 2) {
        puts("no picture: it needs two columns");
        return;
    }
    const size_t shown = r->training < SHOWN ? r->training : SHOWN;
    const size_t drawn = r->dim == 2 ? shown : shown + MARGINAL_SAMPLES / (1 + r->dim / 50);
    double *samples = allocate(drawn * r->dim, sizeof *samples), *latent = allocate(shown * r->dim, sizeof *latent);
    double *value = allocate(GRID * GRID, sizeof *value);
    nf_rng rng = {.seed = o->seed, .stream = 1};
    must(nf_sample(flow, NULL, &rng, drawn, NULL, samples, NULL));
    must(nf_inverse(flow, NULL, shown, r->values, NULL, latent, NULL));
    double *data_xy = first_two(shown, r->dim, r->values), *sample_xy = first_two(drawn, r->dim, samples);
    double *latent_xy = first_two(shown, r->dim, latent);
    plot_grid grid = {.nx = GRID, .ny = GRID, .value = value};
    for (size_t i = 0; i < 2; i++)
        if (!plot_range(r->training + r->held_out, r->dim, r->values + i, &grid.low[i], &grid.high[i]))
            die("no memory");
    if (r->dim == 2)
        density_of_plane(flow, &grid, value);
    else
        plot_smooth(drawn, sample_xy, &grid, value); /* only the joint density is known */

    char title[600], message[400];
    const char *source = o->data && strrchr(o->data, '/') ? strrchr(o->data, '/') + 1 : o->data ? o->data : toy_name(o->set);
    snprintf(title, sizeof title, "Real NVP on %.*s: held-out NLL %.3f nats%s", (int)plot_characters(source, 100), source, held_out_nll,
             r->dim > 2 ? " (first two columns drawn)" : "");
    const plot_picture picture = {.title = title,
                                  .axis = {r->names ? r->names[0] : "x1", r->names ? r->names[1] : "x2"},
                                  .data = {shown, data_xy},
                                  .samples = {shown, sample_xy},
                                  .latent = {shown, latent_xy},
                                  .density = grid};
    const plot_result result = plot_draw(&picture, o->output, message, sizeof message);
    if (result == PLOT_FAILED)
        die("%s", message);
    if (result == PLOT_NO_GNUPLOT)
        puts("no picture: gnuplot is not installed");
    else
        printf("drew %s.png and %s.svg%s\n", o->output, o->output, r->dim > 2 ? ", of the first two columns" : "");
    free(latent_xy);
    free(sample_xy);
    free(data_xy);
    free(value);
    free(latent);
    free(samples);
}

int main(int argc, char **argv) {
    const options o = read_options(argc, argv);
    rows r = o.data ? csv_data(&o) : toy_data(&o);
    nf_flow *flow = train(&o, &r);
    const double held_out_nll = evaluate(&o, &r, flow);
    save(&o, &r, flow);
    draw(&o, &r, flow, held_out_nll);
    nf_flow_free(flow);
    if (o.data)
        csv_free(&r.table);
    else
        free(r.values);
    return EXIT_SUCCESS;
}
