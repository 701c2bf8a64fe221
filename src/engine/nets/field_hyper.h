/*
 * Dynamics of continuous flows whose weights a net computes from t alone: the mean of `units` planar fields,
 *     f(z, t) = (1 / units) sum_n U_n sigmoid(G_n) tanh(W_n.z + B_n),   (W, U, G, B) = net(t)
 * (Chen et al. 2018, section 4.2, with the gates of its published program). The trace of the Jacobian is the weighted sum
 * sum_n c_n (1 - tanh^2), c_n = U_n sigmoid(G_n).W_n / units.
 *
 * The net is the dear part, so what it gives at an instant is kept, with what comes of it, in a pool of nodes that is shared by
 * all samples; a row then costs a few vector operations over the units. Gradients are gathered in the nodes and go through the
 * net many instants at a time.
 */
#ifndef NF_ENGINE_FIELD_HYPER_H
#define NF_ENGINE_FIELD_HYPER_H

#include <stdbool.h>

#include "core/model.h"
#include "engine/real.h"

typedef struct field_hyper_shape {
    const nf_net *net; /* 1 -> 3 units dim + units */
    size_t dim, units;
} field_hyper_shape;

/* The pool's index: open addressing by the bits of t. */
typedef struct field_hyper_slot {
    uint64_t key;
    size_t node; /* plus one; 0: empty */
} field_hyper_slot;

typedef struct field_hyper {
    field_hyper_shape shape;
    const real *theta;
    real *gradient; /* of theta, added to; NULL when it is not wanted */
    size_t padded, node_size, node_room, node_count, slot_count;
    real *nodes;
    double *times; /* of the nodes */
    field_hyper_slot *slots;
    real *net_in, *net_out, *net_record, *d_out, *net_room, *rows;
    uint64_t last_key; /* of the latest look-up */
    real *last;
} field_hyper;

size_t R(field_hyper_scratch)(const field_hyper_shape *shape); /* in reals */

/* `scratch` is the field's until finish; `gradient` may be NULL. */
void R(field_hyper_begin)(field_hyper *f, const field_hyper_shape *shape, const real *theta, real *gradient, real *scratch);

/* Computes the nodes of these instants, as far as they are missing, together. */
void R(field_hyper_prepare)(field_hyper *f, size_t count, const double *t);

/* One panel, active lanes: z, k [dim][PANEL], trace, square (the Jacobian's squared norm) [PANEL] or NULL. */
void R(field_hyper_rates)(field_hyper *f, const double *t, const unsigned char *active, const real *z, real *k, real *trace, real *square);

/* As R(field_mlp_vjp), on active lanes. */
void R(field_hyper_vjp)(field_hyper *f, const double *t, const unsigned char *active, const real *z, const real *d_k, const real *d_trace,
                        const real *d_speed, const real *d_square, bool parameters, real *d_z);

/* Brings the gradients of the nodes home through the net, and forgets the nodes. */
void R(field_hyper_finish)(field_hyper *f);

#endif
