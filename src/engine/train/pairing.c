/*
 * The assignment problem by shortest augmenting paths (Jonker & Volgenant 1987, without their initial reductions): rows enter
 * one by one; each finds the cheapest chain of exchanges that ends at a free column, by Dijkstra's search on reduced costs.
 */
#include "engine/train/pairing.h"

#include <math.h>
#include <string.h>

#include "engine/pieces.h"

/* Columns are padded to whole lanes; what lies beyond n is as far as can be and never chosen. */
#define PAIR_LANES ((size_t)8)

typedef struct problem {
    size_t n, width;
    double *cost;                /* [n][width] */
    double *row_price, *price;   /* dual variables of rows and columns */
    double *distance;            /* of each column from the entering row; final once it is scanned */
    double *open;                /* the same, and infinite once it is */
    double *previous;            /* the column before it on the path, as a number among numbers; n: none */
    size_t *owner, *scanned;     /* of a column: its row, n when it is free; the columns that are scanned */
    size_t scanned_count;
} problem;

static size_t map(problem *p, size_t n, real *base) {
    size_t used = 0;
    p->n = n;
    p->width = (n + PAIR_LANES - 1) / PAIR_LANES * PAIR_LANES;
    p->cost = take_reals(base, &used, reals_for(n * p->width * sizeof *p->cost));
    p->row_price = take_reals(base, &used, reals_for(n * sizeof *p->row_price));
    p->price = take_reals(base, &used, reals_for(p->width * sizeof *p->price));
    p->distance = take_reals(base, &used, reals_for(p->width * sizeof *p->distance));
    p->open = take_reals(base, &used, reals_for(p->width * sizeof *p->open));
    p->previous = take_reals(base, &used, reals_for(p->width * sizeof *p->previous));
    p->owner = take_reals(base, &used, reals_for(n * sizeof *p->owner));
    p->scanned = take_reals(base, &used, reals_for(n * sizeof *p->scanned));
    return used;
}

size_t R(pairing_scratch)(size_t most) {
    problem p;
    return map(&p, most, NULL);
}

static const real *sample(const real *panels, size_t dim, size_t lane) { return panels + lane / PANEL * dim * PANEL + lane % PANEL; }

static void fill_costs(const problem *p, const size_t *lane, size_t dim, const real *a, const real *b) {
    for (size_t i = 0; i < p->n; i++) {
        const real *x = sample(a, dim, lane[i]);
        double *row = p->cost + i * p->width;
        for (size_t j = 0; j < p->width; j++)
            row[j] = j < p->n ? 0.0 : INFINITY;
        for (size_t f = 0; f < dim; f++)
            for (size_t j = 0; j < p->n; j++) {
                const double e = (double)sample(b, dim, lane[j])[f * PANEL] - (double)x[f * PANEL];
                row[j] = madd_double(e, e, row[j]);
            }
        /* So that paths of such costs are numbers still. */
        for (size_t j = 0; j < p->n; j++)
            row[j] = row[j] < 1e300 ? row[j] : 1e300;
    }
}

/* The first of the nearest columns that are not scanned. The lanes keep their own least, and no branch is in the loop. */
static size_t nearest(const problem *p) {
    double least[PAIR_LANES];
    for (size_t l = 0; l < PAIR_LANES; l++)
        least[l] = INFINITY;
    for (size_t j = 0; j < p->width; j += PAIR_LANES)
        for (size_t l = 0; l < PAIR_LANES; l++)
            least[l] = p->open[j + l] < least[l] ? p->open[j + l] : least[l];
    for (size_t l = 1; l < PAIR_LANES; l++)
        least[0] = least[l] < least[0] ? least[l] : least[0];
    size_t j = 0;
    while (p->open[j] != least[0])
        j++;
    return j;
}

/* Paths on from a row, which is `base` away; `last` is the column that led to it. A scanned column stays as it is: no path to it is shorter. */
static void relax(const problem *p, size_t row, double base, size_t last) {
    const double *restrict cost = p->cost + row * p->width, *restrict price = p->price;
    double *restrict distance = p->distance, *restrict open = p->open, *restrict previous = p->previous;
    const double from = base - p->row_price[row], mark = (double)last;
    for (size_t j = 0; j < p->width; j++) {
        const double through = from + (cost[j] - price[j]);
        const int shorter = through < open[j] && open[j] == distance[j];
        previous[j] = shorter ? mark : previous[j];
        distance[j] = shorter ? through : distance[j];
        open[j] = shorter ? through : open[j];
    }
}

static void enter(problem *p, size_t row) {
    const size_t n = p->n;
    for (size_t j = 0; j < p->width; j++) {
        p->distance[j] = p->open[j] = INFINITY;
        p->previous[j] = (double)n;
    }
    p->scanned_count = 0;
    relax(p, row, 0.0, n);
    size_t last = nearest(p);
    while (p->owner[last] != n) {
        p->scanned[p->scanned_count++] = last;
        p->open[last] = INFINITY;
        relax(p, p->owner[last], p->distance[last], last);
        last = nearest(p);
    }
    /* New prices keep every reduced cost at or above 0, and those along the path at 0. */
    p->row_price[row] += p->distance[last];
    for (size_t k = 0; k < p->scanned_count; k++) {
        const size_t j = p->scanned[k];
        p->row_price[p->owner[j]] += p->distance[last] - p->distance[j];
        p->price[j] -= p->distance[last] - p->distance[j];
    }
    for (size_t j; (j = (size_t)p->previous[last]) != n; last = j)
        p->owner[last] = p->owner[j];
    p->owner[last] = row;
}

void R(pair_samples)(size_t n, const size_t *lane, size_t dim, const real *a, const real *b, real *scratch, size_t *partner) {
    problem p;
    map(&p, n, scratch);
    fill_costs(&p, lane, dim, a, b);
    for (size_t j = 0; j < n; j++) {
        p.owner[j] = n;
        p.row_price[j] = 0;
    }
    memset(p.price, 0, p.width * sizeof *p.price);
    for (size_t i = 0; i < n; i++)
        enter(&p, i);
    for (size_t j = 0; j < n; j++)
        partner[lane[p.owner[j]]] = lane[j];
}
