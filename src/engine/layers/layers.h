/* The tables of the bijections, one a file of this folder. */
#ifndef NF_ENGINE_LAYERS_H
#define NF_ENGINE_LAYERS_H

#include "engine/layer.h"

extern const struct layer_ops R(planar_ops);
extern const struct layer_ops R(radial_ops);
extern const struct layer_ops R(coupling_ops);
extern const struct layer_ops R(permutation_ops);
extern const struct layer_ops R(affine_ops);
extern const struct layer_ops R(cnf_ops);

#endif
