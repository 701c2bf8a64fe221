/* Pictures of a scene, as scripts for gnuplot. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "scene.h"
#include "tool.h"

enum { BINS = 50 };

#define PICTURE "picture" /* in the temporary directory */

#define DATA_COLOUR "#1f4e79"
#define SAMPLE_COLOUR "#b5482a"
#define LATENT_COLOUR "#2f6f4f"

typedef struct job {
    gnuplot g;
    const scene *s;
    FILE *script;
} job;

/* ---- Columns far from 0 */

static void shift_points(scene_points *p, size_t dim, const double *offset) {
    double *x = allocate(p->rows, dim * sizeof *x);
    for (size_t i = 0; i < p->rows * dim; i++)
        x[i] = p->x[i] - offset[i % dim];
    p->x = x;
}

/* The scene less the offsets of its columns, which their names tell; free the points of data and samples. */
static scene shifted(const scene *s, char names[SCENE_MOST][PLOT_NAME]) {
    scene t = *s;
    double offset[SCENE_MOST] = {0};
    for (size_t i = 0; i < s->dim; i++) {
        offset[i] = plot_offset(s->low[i], s->high[i]);
        plot_axis_name(names[i], s->names[i], offset[i]);
        t.names[i] = names[i];
        t.low[i] -= offset[i];
        t.high[i] -= offset[i];
    }
    for (size_t i = 0; i < 2; i++) {
        t.density.low[i] -= offset[i];
        t.density.high[i] -= offset[i];
    }
    shift_points(&t.data, s->dim, offset);
    shift_points(&t.samples, s->dim, offset);
    return t;
}

/* ---- Data */

static bool write_points(const job *j, const char *name, const scene_points *p, size_t most) {
    FILE *file = gnuplot_create(&j->g, name);
    if (!file)
        return false;
    for (size_t r = 0; r < p->rows && r < most; r++)
        for (size_t i = 0; i < j->s->dim; i++)
            fprintf(file, "%.9g%c", p->x[r * j->s->dim + i], i + 1 < j->s->dim ? ' ' : '\n');
    return gnuplot_finish(&j->g, file, name);
}

/* Bins as lines of: middle, density of the first kind of points, of the second. */
static bool write_histogram(const job *j, const char *name, size_t column, const scene_points *a, const scene_points *b, double low,
                            double high) {
    double of_a[BINS], of_b[BINS];
    scene_histogram(a, j->s->dim, column, low, high, BINS, of_a);
    scene_histogram(b, j->s->dim, column, low, high, BINS, of_b);
    FILE *file = gnuplot_create(&j->g, name);
    if (!file)
        return false;
    for (size_t i = 0; i < BINS; i++)
        fprintf(file, "%.9g %.6g %.6g\n", low + ((double)i + 0.5) / BINS * (high - low), of_a[i], of_b[i]);
    return gnuplot_finish(&j->g, file, name);
}

static bool write_line(const job *j) {
    const scene *s = j->s;
    FILE *file = gnuplot_create(&j->g, "line.txt");
    if (!file)
        return false;
    for (size_t i = 0; s->line && i < SCENE_LINE; i++)
        fprintf(file, "%.9g %.6g\n", s->low[0] + (s->high[0] - s->low[0]) * (double)i / (SCENE_LINE - 1),
                isfinite(s->line[i]) ? s->line[i] : 0.0);
    return gnuplot_finish(&j->g, file, "line.txt");
}

static bool write_curve(const job *j) {
    FILE *file = gnuplot_create(&j->g, "curve.txt");
    if (!file)
        return false;
    for (size_t i = 0; i < j->s->epochs; i++)
        fprintf(file, "%.0f %.8g %.8g\n", j->s->epoch[i], j->s->train[i], j->s->held_out[i]);
    return gnuplot_finish(&j->g, file, "curve.txt");
}

static bool write_density(const job *j) {
    const plot_grid *grid = &j->s->density;
    double level[3] = {0};
    if (!grid->value)
        return true;
    if (!gnuplot_mass_levels(grid, 3, (const double[3]){0.5, 0.9, 0.99}, level))
        die("no memory for a picture");
    if (!gnuplot_grid(&j->g, "density.txt", grid))
        return false;
    gnuplot_contours(j->script, 3, level, "density.txt", "contours.txt");
    return true;
}

/* ---- Panels */

static void put_range(const job *j, char axis, const char *name, double low, double high) {
    fprintf(j->script, "set %clabel ", axis);
    gnuplot_quote(j->script, name);
    fprintf(j->script, " noenhanced offset %s\nset %crange [%.9g:%.9g]\n", axis == 'x' ? "0,0.5" : "1,0", axis, low, high);
}

static void put_plane(const job *j) {
    put_range(j, 'x', j->s->names[0], j->s->low[0], j->s->high[0]);
    put_range(j, 'y', j->s->names[1], j->s->low[1], j->s->high[1]);
}

static void put_scatter(const job *j, const char *title, const char *file, const char *colour) {
    fprintf(j->script, "set title '%s'\nplot directory . '/%s' using 1:2 with points pt 7 ps dot lc rgb '%s'\n", title, file, colour);
}

/* Where data are so far apart that no point of the grid has a density, as by one value of another unit, all of it is white. */
static bool is_empty(const plot_grid *g) {
    for (size_t i = 0; i < g->nx * g->ny; i++)
        if (g->value[i] > 0.0)
            return false;
    return true;
}

static void put_density(const job *j) {
    put_plane(j);
    if (is_empty(&j->s->density))
        fputs("set cbrange [0:1]\n", j->script);
    fprintf(j->script,
            "set title 'density; 50, 90, 99 %% inside the lines'\n"
            "plot directory . '/density.txt' with image%s, directory . '/contours.txt' with lines lw 0.9 lc rgb '#303030'\n",
            j->s->data.rows ? ", directory . '/data.txt' using 1:2 with points pt 7 ps 0.6 * dot lc rgb '#90303030'" : "");
}

/* Circles that hold 50, 90 and 99 % of N(0, I) in the plane: r^2 = -2 log(1 - share). */
static void put_latent(const job *j) {
    const double range = scene_latent_range(j->s);
    put_range(j, 'x', j->s->latent_names[0], -range, range);
    put_range(j, 'y', j->s->latent_names[1], -range, range);
    fputs("set title 'data in the latent space, and where N(0, I) is'\nset parametric\nset trange [0:2*pi]\nset samples 200\n"
          "plot directory . '/latent.txt' using 1:2 with points pt 7 ps dot lc rgb '" LATENT_COLOUR "', "
          "for [s in '0.5 0.9 0.99'] sqrt(-2*log(1-s))*cos(t), sqrt(-2*log(1-s))*sin(t) with lines lw 0.9 lc rgb '#303030'\nunset "
          "parametric\n",
          j->script);
}

static void put_title(const job *j) {
    gnuplot_quote(j->script, j->s->title);
    fputs(" noenhanced font ',14'\n", j->script);
}

static void begin_panels(const job *j, size_t rows, size_t columns) {
    fprintf(j->script, "set multiplot layout %zu,%zu margins char 8,char 2,char 3.5,char 4.5 spacing char 9,char 5.5 title ", rows,
            columns);
    put_title(j);
}

static void put_overview(const job *j) {
    const bool data = j->s->data.rows > 0;
    begin_panels(j, data ? 2 : 1, 2);
    fputs("set size square\n", j->script);
    put_plane(j);
    if (data)
        put_scatter(j, "data", "data.txt", DATA_COLOUR);
    put_scatter(j, "samples of the flow", "samples.txt", SAMPLE_COLOUR);
    put_density(j);
    if (data)
        put_latent(j);
    fputs("unset multiplot\n", j->script);
}

/* One column: bars of data, bars' outline of samples, the density as a line; and the latent space's bars with the normal density. */
static void put_overview_of_one(const job *j) {
    const bool data = j->s->data.rows > 0;
    begin_panels(j, 1, data ? 2 : 1);
    put_range(j, 'x', j->s->names[0], j->s->low[0], j->s->high[0]);
    fprintf(
        j->script,
        "set ylabel 'density' offset 1,0\nset yrange [0:*]\nset key top right\nset style fill solid 0.35 noborder\nset title '%s'\nplot ",
        data && j->s->line ? "data, samples and density"
        : data             ? "data and samples"
                           : "samples");
    if (data)
        fputs("directory . '/hist-0.txt' using 1:2 with boxes lc rgb '" DATA_COLOUR "' title 'data', ", j->script);
    fputs("directory . '/hist-0.txt' using 1:3 with histeps lc rgb '" SAMPLE_COLOUR "' title 'samples'", j->script);
    if (j->s->line)
        fputs(", directory . '/line.txt' with lines lw 1.6 lc rgb '#303030' title 'density'", j->script);
    fputs("\n", j->script);
    if (data) {
        const double range = scene_latent_range(j->s);
        put_range(j, 'x', j->s->latent_names[0], -range, range);
        fputs("set title 'data in the latent space'\nplot directory . '/latent-0.txt' using 1:2 with boxes lc rgb '" LATENT_COLOUR
              "' title 'data', "
              "exp(-x*x/2)/sqrt(2*pi) with lines lw 1.6 lc rgb '#303030' title 'N(0, 1)'\n",
              j->script);
    }
    fputs("unset multiplot\n", j->script);
}

static void put_single(const job *j, void (*panel)(const job *j)) {
    fputs("set multiplot layout 1,1 margins char 8,char 2,char 3.5,char 4.5 title ", j->script);
    put_title(j);
    fputs("set size square\n", j->script);
    panel(j);
    fputs("unset multiplot\n", j->script);
}

/* At most some four tics: 1, 2 or 5 times a power of ten apart. */
static double tic_step(double range) {
    const double power = pow(10.0, floor(log10(range / 4.0))), part = range / 4.0 / power;
    return power * (part <= 1.0 ? 1.0 : part <= 2.0 ? 2.0 : part <= 5.0 ? 5.0 : 10.0);
}

/* Axis names of a grid's edge, at one place however long the numbers beside the tics are. */
static void put_cell_names(const job *j, const char *below, const char *beside) {
    fputs("unset label\n", j->script);
    if (below) {
        fputs("set label 1 ", j->script);
        gnuplot_quote(j->script, below);
        fputs(" noenhanced at graph 0.5, char 1.6 center\n", j->script);
    }
    if (beside) {
        fputs("set label 2 ", j->script);
        gnuplot_quote(j->script, beside);
        fputs(" noenhanced at char 1.6, graph 0.5 center rotate\n", j->script);
    }
}

static void put_cell_axis(const job *j, char axis, double low, double high, bool numbers) {
    fprintf(j->script, "set %crange [%.9g:%.9g]\nset %ctics %.3g\nset format %c '%s'\n", axis, low, high, axis, tic_step(high - low), axis,
            numbers ? "%.6g" : "");
}

/*
 * A cell of the grid of pairs. On the diagonal the marginals of data (filled) and samples; below it data, above it samples. In the latent
 * space below and above are both data, and the diagonal has the normal density.
 */
static void put_cell(const job *j, size_t row, size_t column, bool latent) {
    const scene *s = j->s;
    const bool bottom = row + 1 == s->dim, left = column == 0;
    const double range = latent ? scene_latent_range(s) : 0.0;
    const char *const *names = latent ? s->latent_names : s->names;
    put_cell_names(j, bottom ? names[column] : NULL, left ? names[row] : NULL);
    put_cell_axis(j, 'x', latent ? -range : s->low[column], latent ? range : s->high[column], bottom);
    if (row != column) {
        put_cell_axis(j, 'y', latent ? -range : s->low[row], latent ? range : s->high[row], left);
        const bool data = row > column && s->data.rows > 0;
        fprintf(j->script, "plot directory . '/%s.txt' using %zu:%zu with points pt 7 ps dot lc rgb '%s'\n",
                latent ? "latent"
                : data ? "data"
                       : "samples",
                column + 1, row + 1,
                latent ? LATENT_COLOUR
                : data ? DATA_COLOUR
                       : SAMPLE_COLOUR);
        return;
    }
    fprintf(j->script, "set yrange [0:*]\nunset ytics\nfile = directory . '/%s-%zu.txt'\n", latent ? "latent" : "hist", row);
    if (latent)
        fputs("plot file using 1:2 with boxes lc rgb '" LATENT_COLOUR "', exp(-x*x/2)/sqrt(2*pi) with lines lc rgb '#303030'\n", j->script);
    else if (s->data.rows > 0)
        fputs("plot file using 1:2 with boxes lc rgb '" DATA_COLOUR "', file using 1:3 with histeps lw 1.3 lc rgb '" SAMPLE_COLOUR "'\n",
              j->script);
    else
        fputs("plot file using 1:3 with boxes lc rgb '" SAMPLE_COLOUR "'\n", j->script);
}

static void put_pairs(const job *j, bool latent) {
    const size_t n = j->s->dim;
    fprintf(j->script,
            "set style fill solid 0.35 noborder\nset tics font ',8'\nset multiplot layout %zu,%zu margins char 10,char 2,char 5,char %d "
            "spacing char 1.2,char 0.6 title ",
            n, n, latent ? 4 : 6);
    gnuplot_quote(j->script, j->s->title);
    if (!latent)
        fputs(" . \"\\n\" . ", j->script);
    if (!latent)
        gnuplot_quote(j->script, j->s->data.rows ? "below, filled: data; above, lines: samples of the flow" : "samples of the flow");
    fputs(" noenhanced font ',14'\n", j->script);
    for (size_t row = 0; row < n; row++)
        for (size_t column = 0; column < n; column++)
            put_cell(j, row, column, latent);
    fputs("unset multiplot\n", j->script);
}

static void put_curve(const job *j) {
    double low, high;
    scene_curve_range(j->s, &low, &high);
    fputs("set title ", j->script);
    put_title(j);
    fprintf(j->script,
            "set key top right\nset grid lc rgb '#dddddd'\nset xlabel 'epoch'\nset ylabel 'loss' offset 1,0\nset yrange [%.8g:%.8g]\n"
            "set arrow from %zu,graph 0 to %zu,graph 1 nohead dt 2 lc rgb '#808080'\n"
            "plot directory . '/curve.txt' using 1:2 with lines lw 1.6 lc rgb '" DATA_COLOUR "' title 'train', "
            "directory . '/curve.txt' using 1:3 with lines lw 1.6 lc rgb '" SAMPLE_COLOUR "' title 'held out'\n",
            low, high, j->s->best_epoch, j->s->best_epoch);
}

static bool write_all(const job *j) {
    static const scene_points none = {0};
    const scene *s = j->s;
    const double range = scene_latent_range(s);
    const size_t shown = s->dim > 4 ? SCENE_SHOWN / 2 : SCENE_SHOWN;
    bool good = write_points(j, "data.txt", &s->data, shown) && write_points(j, "samples.txt", &s->samples, shown) &&
                write_points(j, "latent.txt", &s->latent, shown) && write_line(j) && write_curve(j) && write_density(j);
    for (size_t i = 0; good && i < s->dim; i++) {
        char hist[32], latent[32];
        snprintf(hist, sizeof hist, "hist-%zu.txt", i);
        snprintf(latent, sizeof latent, "latent-%zu.txt", i);
        good = write_histogram(j, hist, i, &s->data, &s->samples, s->low[i], s->high[i]) &&
               write_histogram(j, latent, i, &s->latent, &none, -range, range);
    }
    return good;
}

static void put_kind(const job *j, scene_kind kind) {
    const bool one = j->s->dim == 1;
    if (kind == SCENE_CURVE)
        put_curve(j);
    else if (kind == SCENE_PAIRS)
        put_pairs(j, false);
    else if (kind == SCENE_LATENT && j->s->dim > 2)
        put_pairs(j, true);
    else if (one)
        put_overview_of_one(j);
    else if (kind == SCENE_LATENT)
        put_single(j, put_latent);
    else if (kind == SCENE_DENSITY)
        put_single(j, put_density);
    else
        put_overview(j);
}

static bool write_script(job *j, scene_kind kind, const char *format, unsigned width, unsigned height) {
    j->script = gnuplot_create(&j->g, "plot.gp");
    if (!j->script)
        return false;
    gnuplot_style(&j->g, j->script);
    fprintf(j->script, "dot = %.2f\n", j->s->data.rows > 800 || j->s->samples.rows > 800 ? 0.28 : 0.42);
    if (!write_all(j)) {
        fclose(j->script);
        return false;
    }
    gnuplot_terminal(j->script, format, width, height);
    fputs("set output directory . '/" PICTURE "'\n", j->script);
    put_kind(j, kind);
    fputs("unset output\n", j->script);
    return gnuplot_finish(&j->g, j->script, "plot.gp");
}

/* The words that each format ends with. gnuplot does not say when its disk is full. */
static bool is_whole(FILE *picture, const char *format) {
    const char *end = strcmp(format, "svg") == 0 ? "</svg>" : strcmp(format, "pdf") == 0 ? "%%EOF" : "IEND";
    char tail[33] = "";
    if (fseek(picture, -32, SEEK_END) != 0 || fread(tail, 1, 32, picture) != 32)
        return false;
    for (size_t i = 0; i < 32; i++)
        if (strncmp(tail + i, end, strlen(end)) == 0)
            return fseek(picture, 0, SEEK_SET) == 0;
    return false;
}

/* From the temporary directory to its place, where the old picture is, or none, until the new one is whole. */
static bool deliver(const job *j, const char *path, const char *format) {
    char *drawn = new_text("%s/" PICTURE, j->g.directory), bytes[1 << 14];
    FILE *picture = fopen(drawn, "rb");
    const char *why = NULL;
    output out;
    if (!picture || !is_whole(picture, format)) {
        why = "gnuplot drew a part of it: is the disk of TMPDIR, or of /tmp, full?";
    } else if (!output_open(&out, path)) {
        why = strerror(errno);
    } else {
        for (size_t size; (size = fread(bytes, 1, sizeof bytes, picture)) > 0;)
            fwrite(bytes, 1, size, out.file);
        if (!output_close(&out))
            why = strerror(errno);
    }
    if (picture)
        fclose(picture);
    free(drawn);
    if (why)
        snprintf(j->g.message, j->g.message_size, "%s", why);
    return !why;
}

plot_result picture_draw(const scene *s, scene_kind kind, const char *path, const char *format, unsigned width, unsigned height,
                         char *message, size_t size) {
    char names[SCENE_MOST][PLOT_NAME];
    const scene drawn = shifted(s, names);
    job j = {.s = &drawn};
    plot_result result = PLOT_FAILED;
    if (gnuplot_begin(&j.g, message, size)) {
        if (write_script(&j, kind, format, width, height))
            result = gnuplot_run(&j.g);
        if (result == PLOT_DRAWN && !deliver(&j, path, format))
            result = PLOT_FAILED;
        gnuplot_end(&j.g);
    }
    free(drawn.data.x);
    free(drawn.samples.x);
    return result;
}
