/*
 * The tile: up to TILE_ROWS samples on their way through the layers.
 *
 * The lanes stand in panels of PANEL, feature-major within each panel: x[panel][feature][lane]. So every per-sample
 * operation is a loop over lanes with unit stride, whatever the dimension, and a product reads one panel from L1.
 * Lanes beyond `rows` are filled with copies of a good sample: they are computed and thrown away, and never make a NaN.
 */
#ifndef NF_ENGINE_TILE_H
#define NF_ENGINE_TILE_H

#include <stdbool.h>

#include "engine/real.h"
#include "engine/tile_failure.h"

#define TILE_ROWS 128
#define TILE_PANELS (TILE_ROWS / PANEL)

/*
 * A call of at most so many rows that records nothing may be computed with the features in the lanes instead of the samples
 * (tile.few): then a row costs a row, and not half a panel. By measurement; both ways have the same bits.
 */
#define FEW_ROWS 16

typedef struct tile {
    size_t rows, panels;
    size_t dim, context_dim;
    bool few;              /* at most FEW_ROWS rows, and all there are in the call: layers may leave the other lanes alone */
    real *x;               /* [panels][dim][PANEL] */
    const real *context;   /* [panels][context_dim][PANEL] */
    double *log_det;       /* [panels * PANEL]: always summed in double */
    double *penalty;       /* [panels * PANEL]: regularisers of the layers, weighted; NULL when they are not wanted */
    unsigned char *failed; /* [panels * PANEL]: enum row_failure */
} tile;

/* Lanes of panel p that hold samples. */
static inline size_t tile_lanes(const tile *t, size_t p) {
    size_t first = p * PANEL;
    return t->rows - first < PANEL ? t->rows - first : PANEL;
}

/* Lanes of panel p to compute: those that hold samples, rounded up to half a panel (one 64-byte vector). */
static inline size_t tile_width(const tile *t, size_t p) { return tile_lanes(t, p) <= PANEL / 2 ? PANEL / 2 : PANEL; }

static inline real *tile_panel(const tile *t, size_t p) { return t->x + p * t->dim * PANEL; }

#endif
