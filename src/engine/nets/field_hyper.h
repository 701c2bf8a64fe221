/*
 * Dynamics of continuous flows whose weights a net computes from t alone: the mean of `units` planar fields,
 *     f(z, t) = (1 / units) sum_n U_n sigmoid(G_n) tanh(W_n.z + B_n),   (W, U, G, B) = net(t)
 * (Chen et al. 2018, section 4.2, with the gates of its published program). The trace of the Jacobian is the weighted sum
 * sum_n c_n (1 - tanh^2), c_n = U_n sigmoid(G_n).W_n / units.
 *
 * The net is the dear part, so what it gives at an instant is kept, with what comes of it, in a pool of nodes that all samples
 * share and that lives as long as the workspace; a row then costs a few vector operations over the units. Gradients are
 * gathered by instant and go through the net many instants at a time.
 *
 * A solver tells which steps come next (prepare), and then asks by the number of the stage, so that a sample's nodes are looked
 * up once a step. Outside of steps the stage is HYPER_NO_STAGE, and the nodes are found by their time.
 */
#ifndef NF_ENGINE_FIELD_HYPER_H
#define NF_ENGINE_FIELD_HYPER_H

#include <stdbool.h>

#include "core/model.h"
#include "engine/real.h"

#define HYPER_STAGES 13 /* the most that a step has */
#define HYPER_NO_STAGE ((size_t)-1)

typedef struct field_hyper_shape {
    const nf_net *net; /* 1 -> 3 units dim + units */
    size_t dim, units;
} field_hyper_shape;

/* Where what belongs to an instant is: open addressing by the bits of t. */
typedef struct field_hyper_slot {
    uint64_t key;
    size_t index; /* plus one; 0: empty */
} field_hyper_slot;

typedef struct field_hyper_table {
    field_hyper_slot *slots;
    double *times; /* of the entries */
    size_t count, room, slot_count;
} field_hyper_table;

/* A step that lanes stand on. */
typedef struct field_hyper_span {
    double t, h;
    uint32_t node[HYPER_STAGES], gradient[HYPER_STAGES];
} field_hyper_span;

typedef struct field_hyper {
    field_hyper_shape shape;
    const real *theta;
    real *gradient; /* of theta, added to; NULL when it is not wanted */
    bool keep;      /* rates keep their tanh for the vjp of the same stage */
    size_t padded, entry_size;
    field_hyper_table pool, sums; /* nodes; their gradients */
    size_t *pool_count;           /* that of the pool, where it persists */
    real *nodes, *gradients;
    field_hyper_span *spans;
    uint32_t *span_slots;
    size_t span_count;
    real *packed; /* the net, for rows; where it persists */
    real *net_in, *net_out, *net_record, *net_room, *rows_room, *parts, *kept;
    real *activations, *errors, *cotangents; /* of VEC_LANES samples: [padded] each, and [dim][VEC_LANES] */
    real *rows;                              /* two of units, and a Jacobian */
    bool kept_stage[HYPER_STAGES];
    real *node[HYPER_STAGES][PANEL], *sum[HYPER_STAGES][PANEL]; /* of the lanes of the prepared panel */
} field_hyper;

/* In reals. The cache persists while the workspace lives; its first 64 bytes are zero at first. */
size_t R(field_hyper_cache)(const field_hyper_shape *shape);
size_t R(field_hyper_scratch)(const field_hyper_shape *shape);

/*
 * `epoch` tells parameters apart: nodes of another one are forgotten. `scratch` is the field's until finish; `gradient` may be
 * NULL. `vjp`: vjps will be asked for.
 */
void R(field_hyper_begin)(field_hyper *f, const field_hyper_shape *shape, const real *theta, uint64_t epoch, real *gradient, bool vjp,
                          real *cache, real *scratch);

/*
 * The steps of one panel: lane l stands at t[l] with step h[l], and its stages are at times[stage][lane]. Computes the nodes
 * that are missing, together.
 */
void R(field_hyper_prepare)(field_hyper *f, size_t stages, const unsigned char *active, const double *t, const double *h,
                            double times[][PANEL]);

/* One panel, active lanes: z, k [dim][PANEL], trace, square (the Jacobian's squared norm) [PANEL] or NULL. k of other lanes is 0. */
void R(field_hyper_rates)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, const real *z, real *k, real *trace,
                          real *square);

/* As R(field_mlp_vjp), on active lanes; d_z of the others is 0. */
void R(field_hyper_vjp)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, const real *z, const real *d_k,
                        const real *d_trace, const real *d_speed, const real *d_square, bool parameters, real *d_z);

/* Brings the gathered gradients home through the net. */
void R(field_hyper_finish)(field_hyper *f);

#endif
