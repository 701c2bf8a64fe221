/* The table of the types of layer that this library computes. */
#include "engine/layers/layers.h"

static const struct layer_ops *const table[NF_LAYER_KINDS] = {
    [NF_LAYER_PLANAR] = &R(planar_ops),
    [NF_LAYER_RADIAL] = &R(radial_ops),
    [NF_LAYER_COUPLING] = &R(coupling_ops),
    [NF_LAYER_PERMUTATION] = &R(permutation_ops),
    [NF_LAYER_AFFINE] = &R(affine_ops),
    [NF_LAYER_CNF] = &R(cnf_ops),
};

const struct layer_ops *R(layer_ops_of)(nf_layer_kind kind) { return table[kind]; }
