/* What both kinds of drawing compute. */
#include <math.h>
#include <stdlib.h>

#include "scene.h"
#include "tool.h"

void scene_curve_range(const scene *s, double *low, double *high) {
    double *all = allocate(2 * s->epochs, sizeof *all);
    size_t count = 0;
    for (size_t i = 0; i < s->epochs; i++) {
        if (isfinite(s->train[i]))
            all[count++] = s->train[i];
        if (isfinite(s->held_out[i]))
            all[count++] = s->held_out[i];
    }
    qsort(all, count, sizeof *all, compare_numbers);
    *low = count ? all[0] : 0.0;
    *high = count ? all[count - 1 - count / 10] : 1.0;
    free(all);
    const double margin = *high > *low ? 0.08 * (*high - *low) : 0.5;
    *low -= margin;
    *high += margin;
}

void scene_histogram(const scene_points *p, size_t dim, size_t column, double low, double high, size_t bins, double *density) {
    const double width = (high - low) / (double)bins;
    for (size_t i = 0; i < bins; i++)
        density[i] = 0.0;
    for (size_t r = 0; r < p->rows; r++) {
        const double at = (p->x[r * dim + column] - low) / width;
        if (at >= 0.0 && at < (double)bins)
            density[(size_t)at] += 1.0 / (width * (double)p->rows);
    }
}

double scene_latent_range(const scene *s) {
    double range = 3.5;
    for (size_t i = 0; i < s->latent.rows * s->dim; i++)
        if (isfinite(s->latent.x[i]))
            range = fmax(range, fmin(1.05 * fabs(s->latent.x[i]), 6.0));
    return range;
}
