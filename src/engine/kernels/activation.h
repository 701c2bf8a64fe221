/* The activation functions of nets, with their derivatives, over runs of numbers. */
#ifndef NF_ENGINE_ACTIVATION_H
#define NF_ENGINE_ACTIVATION_H

#include "engine/real.h"
#include "nflow.h"

/* h := f(h) */
void R(activate)(nf_activation activation, size_t count, real *h);
/* h := f(h), slope := f'(h) */
void R(activate_slope)(nf_activation activation, size_t count, real *h, real *slope);
/* the same with f''(h), for the traces of Jacobians and their derivatives */
void R(activate_curvature)(nf_activation activation, size_t count, real *h, real *slope, real *curvature);

#endif
