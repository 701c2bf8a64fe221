/*
 * The assignment problem by shortest augmenting paths (Jonker & Volgenant 1987, without their initial reductions): rows enter
 * one by one; each finds the cheapest chain of exchanges that ends at a free column, by Dijkstra's search on reduced costs.
 */
#include "engine/train/pairing.h"

#include <stdbool.h>
#include <string.h>

#include "engine/tile.h"

typedef struct problem {
    size_t n;
    real *cost;                  /* [n][n] */
    double *row_price, *price;   /* dual variables of rows and columns */
    double *distance;            /* of each column from the entering row */
    size_t *owner, *previous;    /* of a column: its row, n when it is free; the column before it on the path */
    unsigned char *scanned;
} problem;

static void *piece(real *base, size_t *used, size_t bytes) {
    const size_t start = *used, unit = NF_ALIGN / sizeof(real);
    *used += (bytes + NF_ALIGN - 1) / NF_ALIGN * unit;
    return base ? base + start : NULL;
}

static size_t map(problem *p, size_t n, real *base) {
    size_t used = 0;
    p->n = n;
    p->cost = piece(base, &used, n * n * sizeof *p->cost);
    p->row_price = piece(base, &used, n * sizeof *p->row_price);
    p->price = piece(base, &used, n * sizeof *p->price);
    p->distance = piece(base, &used, n * sizeof *p->distance);
    p->owner = piece(base, &used, n * sizeof *p->owner);
    p->previous = piece(base, &used, n * sizeof *p->previous);
    p->scanned = piece(base, &used, n);
    return used;
}

size_t R(pairing_scratch)(size_t most) {
    problem p;
    return map(&p, most, NULL);
}

static const real *sample(const real *panels, size_t dim, size_t i) { return panels + i / PANEL * dim * PANEL + i % PANEL; }

static void fill_costs(const problem *p, size_t dim, const real *a, const real *b) {
    for (size_t i = 0; i < p->n; i++) {
        const real *x = sample(a, dim, i);
        real *row = p->cost + i * p->n;
        memset(row, 0, p->n * sizeof *row);
        for (size_t f = 0; f < dim; f++)
            for (size_t j = 0; j < p->n; j++) {
                const real e = sample(b, dim, j)[f * PANEL] - x[f * PANEL];
                row[j] = madd(e, e, row[j]);
            }
    }
}

static double reduced(const problem *p, size_t row, size_t column) {
    return (double)p->cost[row * p->n + column] - p->row_price[row] - p->price[column];
}

/* The nearest column that is not scanned. */
static size_t nearest(const problem *p) {
    size_t best = p->n;
    for (size_t j = 0; j < p->n; j++)
        if (!p->scanned[j] && (best == p->n || p->distance[j] < p->distance[best]))
            best = j;
    return best;
}

static void enter(problem *p, size_t row) {
    const size_t n = p->n;
    size_t last;
    memset(p->scanned, 0, n);
    for (size_t j = 0; j < n; j++) {
        p->distance[j] = reduced(p, row, j);
        p->previous[j] = n;
    }
    for (;;) {
        last = nearest(p);
        if (p->owner[last] == n)
            break;
        p->scanned[last] = 1;
        const size_t next = p->owner[last];
        for (size_t j = 0; j < n; j++) {
            const double through = p->distance[last] + reduced(p, next, j);
            if (!p->scanned[j] && through < p->distance[j]) {
                p->distance[j] = through;
                p->previous[j] = last;
            }
        }
    }
    /* New prices keep every reduced cost at or above 0, and those along the path at 0. */
    p->row_price[row] += p->distance[last];
    for (size_t j = 0; j < n; j++)
        if (p->scanned[j]) {
            p->row_price[p->owner[j]] += p->distance[last] - p->distance[j];
            p->price[j] -= p->distance[last] - p->distance[j];
        }
    for (size_t j = last; p->previous[j] != n; j = p->previous[j]) {
        p->owner[j] = p->owner[p->previous[j]];
        last = p->previous[j];
    }
    p->owner[last] = row;
}

void R(pair_samples)(size_t n, size_t dim, const real *a, const real *b, real *scratch, size_t *partner) {
    problem p;
    map(&p, n, scratch);
    fill_costs(&p, dim, a, b);
    for (size_t j = 0; j < n; j++) {
        p.owner[j] = n;
        p.price[j] = 0;
        p.row_price[j] = 0;
    }
    for (size_t i = 0; i < n; i++)
        enter(&p, i);
    for (size_t j = 0; j < n; j++)
        partner[p.owner[j]] = j;
}
