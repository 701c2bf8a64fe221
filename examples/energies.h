/* The four energies of Rezende & Mohamed 2015, table 1: unnormalised densities exp(-U) in the plane. */
#ifndef NFLOW_EXAMPLES_ENERGIES_H
#define NFLOW_EXAMPLES_ENERGIES_H

#include <stddef.h>

#include "nflow.h"

/*
 * Energy 1 is a ring with two humps; 2 to 4 are waves, which go on for ever and so have no norm: an envelope exp(-(|z|_4 / (20 s))^4 / 2), s the
 * scale of the wave, ends them softly about 20 s from the origin.
 */
#define ENERGY_COUNT 4

/* log density (unnormalised) at z and its gradient; energy is 1 .. ENERGY_COUNT. */
double energy_log_density(int energy, const double z[2], double gradient[2]);

/* For nf_fit_reverse_kl: `user` points to an int, the number of the energy. */
nf_status energy_target(void *user, size_t rows, const double *x, double *log_density, double *grad_x);

/* log of the integral over [-16, 16]^2, by the trapezoidal rule, which converges geometrically for what vanishes at the border. */
double energy_log_norm(int energy);

#endif
