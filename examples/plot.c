/* The pictures of the examples, in gnuplot's words. */
#include <math.h>
#include <stdio.h>

#include "plot.h"

typedef struct job {
    gnuplot g;
    const plot_picture *picture;
    double offset[2]; /* of the picture's axes, but those of the latent panel */
    plot_grid density; /* the picture's, less the offset */
    const plot_strip *strip; /* or this */
} job;

static const double origin[2] = {0.0, 0.0};
static const char *const column_names[] = {"samples-%zu.txt", "density-%zu.txt"};

/* Largest distance from the origin that the latent panel shows: 3.5 standard deviations, or what the points need. */
static double latent_range(const plot_points *latent) {
    double range = 3.5;
    for (size_t i = 0; i < 2 * latent->rows; i++)
        if (isfinite(latent->xy[i]))
            range = fmax(range, fmin(1.05 * fabs(latent->xy[i]), 6.0));
    return range;
}

/* What both files have in common. The contours are computed once, into a file of their own. */
static void put_style(FILE *file, const job *j, const double level[3]) {
    gnuplot_style(&j->g, file);
    fprintf(file, "dot = %.2f\n", j->picture->data.rows > 3000 ? 0.22 : 0.34);
    gnuplot_contours(file, 3, level, "density.txt", "contours.txt");
    fputs("set size square\n", file);
}

static void put_axes(FILE *file, const char *const axis[2], const double low[2], const double high[2]) {
    fputs("set xlabel ", file);
    gnuplot_quote(file, axis[0]);
    fputs(" noenhanced offset 0,0.5\nset ylabel ", file);
    gnuplot_quote(file, axis[1]);
    fprintf(file, " noenhanced offset 1,0\nset xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n", low[0], high[0], low[1], high[1]);
}

static void put_panels(FILE *file, const job *j) {
    const plot_picture *p = j->picture;
    const double circle = latent_range(&p->latent);
    char axis[2][PLOT_NAME];
    for (int k = 0; k < 2; k++)
        plot_axis_name(axis[k], p->axis[k], j->offset[k]);
    fputs("set multiplot layout 1,4 margins 0.035,0.99,0.13,0.82 spacing 0.04,0 title ", file);
    gnuplot_quote(file, p->title);
    fputs(" noenhanced font ',15'\n", file);
    put_axes(file, (const char *const[2]){axis[0], axis[1]}, j->density.low, j->density.high);
    fputs("set title 'data'\nplot directory . '/data.txt' with points pt 7 ps dot lc rgb '#1f4e79'\n"
          "set title 'samples of the flow'\nplot directory . '/samples.txt' with points pt 7 ps dot lc rgb '#b5482a'\n"
          "set title 'density; 50, 90, 99 % inside the lines'\n"
          "plot directory . '/density.txt' with image, directory . '/data.txt' with points pt 7 ps 0.6 * dot lc rgb '#90303030', "
          "directory . '/contours.txt' with lines lw 0.9 lc rgb '#303030'\n"
          "set title 'data in the base N(0, I)'\n",
          file);
    put_axes(file, (const char *const[2]){"z1", "z2"}, (const double[2]){-circle, -circle}, (const double[2]){circle, circle});
    /* Circles that hold 50, 90 and 99 % of N(0, I) in the plane: r^2 = -2 log(1 - share). */
    fputs("set parametric\nset trange [0:2*pi]\nset samples 200\n"
          "plot directory . '/latent.txt' with points pt 7 ps dot lc rgb '#2f6f4f', "
          "for [s in '0.5 0.9 0.99'] sqrt(-2*log(1-s))*cos(t), sqrt(-2*log(1-s))*sin(t) with lines lw 0.9 lc rgb '#303030'\n"
          "unset parametric\nunset multiplot\nunset output\n",
          file);
}

/* The same panels as PNG and as SVG, of a size in pixels. */
static void put_both(FILE *file, const job *j, const char *prefix, unsigned width, unsigned height, void (*panels)(FILE *file, const job *j)) {
    static const char *const formats[2] = {"png", "svg"};
    for (int i = 0; i < 2; i++) {
        gnuplot_terminal(file, formats[i], width, height);
        fputs("set output ", file);
        gnuplot_quote_path(file, prefix);
        fprintf(file, " . '.%s'\n", formats[i]);
        panels(file, j);
    }
}

static bool write_script(const job *j, const char *prefix) {
    double level[3] = {0};
    if (!gnuplot_mass_levels(&j->picture->density, 3, (const double[3]){0.5, 0.9, 0.99}, level))
        return snprintf(j->g.message, j->g.message_size, "no memory for a picture"), false;
    FILE *file = gnuplot_create(&j->g, "plot.gp");
    if (!file)
        return false;
    put_style(file, j, level);
    put_both(file, j, prefix, 1720, 500, put_panels);
    return gnuplot_finish(&j->g, file, "plot.gp");
}

static void put_column(FILE *file, const job *j, size_t row, size_t i) {
    const plot_column *column = &j->strip->column[i];
    char name[64];
    snprintf(name, sizeof name, column_names[row], i);
    fputs("set title ", file);
    gnuplot_quote(file, row == 0 ? column->title : "");
    fprintf(file, " noenhanced\nplot directory . '/%s' with %s\n", name, row == 0 ? "points pt 7 ps 0.25 lc rgb '#b5482a'" : "image");
}

static void put_columns(FILE *file, const job *j) {
    const plot_strip *s = j->strip;
    fprintf(file, "set multiplot layout 2,%zu margins 0.02,0.99,0.05,0.86 spacing 0.02,0.04 title ", s->columns);
    gnuplot_quote(file, s->title);
    fprintf(file, " noenhanced font ',15'\nset xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n", s->grid.low[0], s->grid.high[0], s->grid.low[1], s->grid.high[1]);
    for (size_t row = 0; row < 2; row++)
        for (size_t i = 0; i < s->columns; i++)
            put_column(file, j, row, i);
    fputs("unset multiplot\nunset output\n", file);
}

static bool write_strip(const job *j, const char *prefix) {
    const plot_strip *s = j->strip;
    for (size_t i = 0; i < s->columns; i++) {
        char points[64], density[64];
        plot_grid grid = s->grid;
        grid.value = s->column[i].density;
        snprintf(points, sizeof points, column_names[0], i);
        snprintf(density, sizeof density, column_names[1], i);
        if (!gnuplot_points(&j->g, points, &s->column[i].samples, origin) || !gnuplot_grid(&j->g, density, &grid))
            return false;
    }
    FILE *file = gnuplot_create(&j->g, "plot.gp");
    if (!file)
        return false;
    gnuplot_style(&j->g, file);
    fputs("unset tics\nset size square\n", file);
    put_both(file, j, prefix, (unsigned)(280 * s->columns), 640, put_columns);
    return gnuplot_finish(&j->g, file, "plot.gp");
}

plot_result plot_draw(const plot_picture *picture, const char *prefix, char *message, size_t size) {
    job j = {.picture = picture, .density = picture->density};
    for (int k = 0; k < 2; k++) {
        j.offset[k] = plot_offset(picture->density.low[k], picture->density.high[k]);
        j.density.low[k] -= j.offset[k];
        j.density.high[k] -= j.offset[k];
    }
    if (!gnuplot_begin(&j.g, message, size))
        return PLOT_FAILED;
    plot_result result = PLOT_FAILED;
    if (gnuplot_points(&j.g, "data.txt", &picture->data, j.offset) && gnuplot_points(&j.g, "samples.txt", &picture->samples, j.offset) &&
        gnuplot_points(&j.g, "latent.txt", &picture->latent, origin) && gnuplot_grid(&j.g, "density.txt", &j.density) && write_script(&j, prefix))
        result = gnuplot_run(&j.g);
    gnuplot_end(&j.g);
    return result;
}

plot_result plot_draw_strip(const plot_strip *strip, const char *prefix, char *message, size_t size) {
    job j = {.strip = strip};
    if (!gnuplot_begin(&j.g, message, size))
        return PLOT_FAILED;
    const plot_result result = write_strip(&j, prefix) ? gnuplot_run(&j.g) : PLOT_FAILED;
    gnuplot_end(&j.g);
    return result;
}
