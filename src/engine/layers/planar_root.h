/*
 * The equation that inverts a planar layer: t + (s - 1) tanh t = y for t, where s > 0 is the layer's slope at t = 0.
 */
#ifndef NF_ENGINE_PLANAR_ROOT_H
#define NF_ENGINE_PLANAR_ROOT_H

#include <stdbool.h>

#include "engine/roots/newton.h"

/* Of one tile. Rows of PANEL lanes; those of panel p start at p * PANEL, slopes at p * slope_stride. */
typedef struct planar_equation {
    const real *y;     /* right side */
    const real *slope; /* s */
    size_t slope_stride; /* 0: the same for all panels */
    real *tanh, *sech2;  /* out: of the root */
} planar_equation;

/* Solve for all lanes of `panels` panels with `states`, one for each. Returns the evaluations of the first `rows` lanes. */
uint64_t R(planar_root)(const planar_equation *equation, size_t panels, size_t rows, newton_panel *states);

/*
 * log det of the forward map from tanh t and sech^2 t, log(1 + (s - 1) sech^2 t), without cancellation, for the lanes of a panel.
 * `below` and `above`: whether there may be slopes below 1/2, and others.
 */
void R(planar_log_det)(const real *slope, const real *tanh_t, const real *sech2_t, bool below, bool above, real *log_det);

#endif
