/*
 * plot.h - one picture of a flow in a plane, drawn by gnuplot
 *
 * Four panels: the data; samples of the flow; its density as a heat map, with contours of the smallest regions that hold 50, 90 and
 * 99 % of its mass, and the data on it; and the data carried back to the base.
 */
#ifndef PLOT_H
#define PLOT_H

#include <stddef.h>

#include "gnuplot.h"

typedef struct plot_picture {
    const char *title, *axis[2];
    plot_points data, samples, latent;
    plot_grid density; /* its box is the range of the first three panels */
} plot_picture;

/* Columns of a strip: what a flow has made of its base by then. */
#define PLOT_MOST_COLUMNS 8

typedef struct plot_column {
    const char *title;
    plot_points samples;
    const double *density; /* on the strip's grid */
} plot_column;

typedef struct plot_strip {
    const char *title;
    size_t columns; /* at most PLOT_MOST_COLUMNS */
    plot_column column[PLOT_MOST_COLUMNS];
    plot_grid grid; /* `value` is not looked at */
} plot_strip;

/* Samples above, densities below, a column for each time; files and result as plot_draw. */
plot_result plot_draw_strip(const plot_strip *strip, const char *prefix, char *message, size_t size);

/* Writes <prefix>.png and <prefix>.svg. After PLOT_FAILED, one line in message says why. */
plot_result plot_draw(const plot_picture *picture, const char *prefix, char *message, size_t size);

#endif
