/*
 * scene.h - what nflow plot draws, by gnuplot (picture.c) or in the terminal (screen.c)
 */
#ifndef SCENE_H
#define SCENE_H

#include <stdbool.h>
#include <stddef.h>

#include "gnuplot.h"

#define SCENE_KINDS "auto|overview|density|latent|pairs|curve"
typedef enum scene_kind { SCENE_AUTO, SCENE_OVERVIEW, SCENE_DENSITY, SCENE_LATENT, SCENE_PAIRS, SCENE_CURVE } scene_kind;

enum { SCENE_MOST = 8 }; /* columns of a grid of pairs */

typedef struct scene_points {
    size_t rows; /* 0: there are none */
    double *x;   /* rows x dim of the scene */
} scene_points;

typedef struct scene {
    const char *title;
    size_t dim; /* columns that are drawn, at most SCENE_MOST */
    const char *names[SCENE_MOST];
    const char *latent_names[SCENE_MOST];
    scene_points data, samples, latent; /* latent: of the data, by the same columns */
    double low[SCENE_MOST], high[SCENE_MOST];
    plot_grid density;         /* of the first two columns; `value` NULL: none */
    double *line;              /* of one column: its density at SCENE_LINE points from low to high */
    size_t epochs, best_epoch; /* the training curve; NaN where there is no loss */
    double *epoch, *train, *held_out;
} scene;

enum { SCENE_LINE = 400, SCENE_SHOWN = 2000 /* points of a scatter plot */ };

/* A file in a format that its name ends in. One line in message after PLOT_FAILED. */
plot_result picture_draw(const scene *s, scene_kind kind, const char *path, const char *format, unsigned width, unsigned height,
                         char *message, size_t size);

/* On the standard output, in `columns` x `lines` characters. */
void screen_draw(const scene *s, scene_kind kind, size_t columns, size_t lines, bool ascii);

/* Range of the losses that matters: the first epochs may be far above it. */
void scene_curve_range(const scene *s, double *low, double *high);

/* Shares of the points in `bins` equal parts of low .. high, as densities. */
void scene_histogram(const scene_points *p, size_t dim, size_t column, double low, double high, size_t bins, double *density);

/* Largest distance from the origin that a latent panel shows. */
double scene_latent_range(const scene *s);

#endif
