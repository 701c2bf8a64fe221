/*
 * gnuplot.h - pictures by gnuplot: data and a script in a temporary directory, and gnuplot run on it
 */
#ifndef GNUPLOT_H
#define GNUPLOT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct plot_points {
    size_t rows;
    const double *xy; /* rows x 2 */
} plot_points;

/* Densities on a regular grid: value[iy * nx + ix] at low + (i / (n - 1)) (high - low). */
typedef struct plot_grid {
    size_t nx, ny;
    double low[2], high[2];
    const double *value;
} plot_grid;

/* The range of `count` numbers, `stride` apart, but for the outermost 0.2 % on either side, with some margin. False without memory. */
bool plot_range(size_t count, size_t stride, const double *x, double *low, double *high);

/*
 * What to take off the numbers of an axis before they are drawn: 0, or for a narrow range far from 0 a round number within it, since numbers beside the
 * tics have few digits. plot_axis_name tells it: "text - offset", cut to what fits.
 */
#define PLOT_NAME 256
double plot_offset(double low, double high);
void plot_axis_name(char name[PLOT_NAME], const char *text, double offset);

/* Adds a Gaussian kernel of two cells for each point to value[ny][nx]: the density of samples, but for a factor. */
void plot_smooth(size_t count, const double *xy, const plot_grid *grid, double *value);

typedef enum plot_result { PLOT_DRAWN, PLOT_NO_GNUPLOT, PLOT_FAILED } plot_result;

#define GNUPLOT_PATH 4016

typedef struct gnuplot {
    char directory[GNUPLOT_PATH]; /* names in it are shorter than 80 */
    char *message;                /* one line, after a failure */
    size_t message_size;
    sigset_t before; /* the signals that were blocked before gnuplot_begin */
} gnuplot;

/*
 * A directory of its own, until gnuplot_end removes it with all that is in it. Between the two the thread leaves SIGHUP, SIGINT and SIGTERM waiting, which
 * gnuplot does not: what ends the program ends it when the directory is gone.
 */
bool gnuplot_begin(gnuplot *g, char *message, size_t size);
void gnuplot_end(const gnuplot *g);

/* A file in the directory; gnuplot_finish closes it, and is false when not all was written. */
FILE *gnuplot_create(const gnuplot *g, const char *name);
bool gnuplot_finish(const gnuplot *g, FILE *file, const char *name);

/* Points that are finite, one a line, less an offset; a grid in blocks of one y each. */
bool gnuplot_points(const gnuplot *g, const char *name, const plot_points *points, const double offset[2]);
bool gnuplot_grid(const gnuplot *g, const char *name, const plot_grid *grid);

/*
 * Strings of gnuplot's, in quotes: text to be read, where control characters become spaces and bytes that are no UTF-8 '?', so that an SVG is well-formed; and
 * the name of a file, as it is.
 */
void gnuplot_quote(FILE *file, const char *text);
void gnuplot_quote_path(FILE *file, const char *path);

/* Bytes of the first `most` characters of text; bytes that are no UTF-8 count as one each. */
size_t plot_characters(const char *text, size_t most);

/* The densities above which lie the given shares (rising) of the mass that is on the grid; false without memory. */
bool gnuplot_mass_levels(const plot_grid *grid, size_t count, const double *share, double *level);

/* The lines that every script begins with: `directory`, what borders look like, the palette of densities. */
void gnuplot_style(const gnuplot *g, FILE *file);

/* Lines that put the contours of a grid's file at these levels, lowest first, into a file `contours`. */
void gnuplot_contours(FILE *file, size_t count, const double *level, const char *density, const char *contours);

/* "set terminal" for a file of a format, "png", "svg" or "pdf", of a size in pixels (a hundred an inch for pdf). */
void gnuplot_terminal(FILE *file, const char *format, unsigned width, unsigned height);

/* Runs the directory's plot.gp. */
plot_result gnuplot_run(const gnuplot *g);

#endif
