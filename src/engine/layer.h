/*
 * What a layer is to the engine: a table of operations on a tile, one table for each bijection, written once against `real`.
 *
 * To add a bijection: a file in engine/layers/ that ends in its table, a line in registry.c, its entry in
 * core/layer_types.c, a constructor in api/families.c, a fixture in the conformance suite.
 */
#ifndef NF_ENGINE_LAYER_H
#define NF_ENGINE_LAYER_H

#include <stdbool.h>

#include "core/memory.h"
#include "core/model.h"
#include "engine/counters.h"
#include "engine/tile.h"

/* What an operation of one layer is given beside the tile. */
typedef struct layer_run {
    const nf_layer *layer;
    const real *theta; /* the layer's parameters, not aligned */
    real *record;      /* what the vjp will need, record_size reals, 64-byte aligned; NULL when no vjp follows */
    real *scratch;     /* scratch_size reals, 64-byte aligned, of no meaning between operations */
    real *gradient;    /* vjp only: the layer's slice of the parameter gradient, added to; NULL when it is not wanted */
    bool fresh;        /* nothing was added to it yet: see adds_once */
    bool ends;         /* vjp only: nobody reads the cotangents of the input and of the context, which may be left as they are */
    nf_arena *arena;   /* memory that grows: for records whose size is known only as they are made. See LAYER_ARENA */
    engine_counters *counters;
    real *cache;       /* cache_size reals, 64-byte aligned, the layer's as long as the workspace lives; its first 64 bytes are 0 at first */
    uint64_t epoch;    /* never 0, and changes whenever the parameters may have: guards what a layer keeps in its cache */
} layer_run;

/* The cotangents of the loss, in the tile's layout. */
typedef struct cotangent {
    real *x;             /* [panels][dim][PANEL]: of the operation's output on entry, of its input on return */
    const real *log_det; /* [panels * PANEL]: of the log_det that the operation added; the same for all layers */
    const real *penalty; /* [panels * PANEL]: of the regularisers; NULL when the push did not want them */
    real *context;       /* [panels][context_dim][PANEL], added to; NULL when there is no context */
} cotangent;

/*
 * Flow matching (Lipman et al. 2023): the field of a continuous layer, taken in its forward direction (or against it), at the
 * samples of a tile and their times, against the velocities that it should have. In arrays of the tile's lanes; lanes of no
 * sample have weight 0.
 */
typedef struct layer_match {
    bool inverse;
    const double *fraction; /* of the way from the layer's input to its output */
    const real *distance;   /* [panels][dim][PANEL]: from input to output, along which the sample moves */
    const real *weight;
    real *context;          /* the tile's */
    double farthest;        /* a lane with a larger loss adds nothing, and may become a copy of another */
    double *loss;           /* squared error of the velocity, written; its weighted sum's gradient is added to run.gradient */
} layer_match;

/* Where a continuous layer carries the samples of a tile on their way forward. */
typedef struct layer_path {
    bool inverse;    /* the layer stands inverted in its flow */
    const double *t; /* instants in order from the start to the end of the way, or `backward` */
    size_t times;
    bool backward;
    void (*visit)(void *user, size_t index, size_t lane, const real *x); /* a lane's features, PANEL apart, at instant `index` */
    void *user;
} layer_path;

/*
 * forward and inverse return LAYER_OK, or LAYER_ARENA when the arena has no room: the tile's content is then undefined,
 * arena->wanted says how much would have done, and the engine repeats the whole tile with a larger arena.
 *
 * A lane whose inversion or integration fails sets tile.failed and may hold anything; other lanes must not notice.
 * Lanes of a panel beyond tile_width may hold anything on return, but what is recorded for the vjp must be finite on all
 * PANEL lanes wherever it is summed over lanes: the vjps are called with full panels and cotangents that are zero on lanes
 * that hold no sample.
 */
enum layer_result { LAYER_OK = 0, LAYER_ARENA = 1 };

struct layer_ops {
    size_t (*record_size)(const nf_layer *layer, size_t panels, bool inverse); /* in reals */
    size_t (*scratch_size)(const nf_layer *layer, size_t panels);              /* in reals, for all four operations */
    size_t (*cache_size)(const nf_layer *layer);                               /* in reals; NULL: none */
    int (*forward)(const layer_run *run, tile *t);
    int (*inverse)(const layer_run *run, tile *t);
    void (*match)(const layer_run *run, const tile *t, const layer_match *match); /* NULL, this and path: the layer has no field */
    void (*path)(const layer_run *run, tile *t, const layer_path *path);          /* moves the tile to the end, as forward does */
    void (*forward_vjp)(const layer_run *run, const tile *t, cotangent *c); /* after forward with a record; t->x is not read */
    void (*inverse_vjp)(const layer_run *run, const tile *t, cotangent *c); /* after inverse with a record */
    /*
     * Its vjps add to each number of the gradient once, the sum over the tile, and lose no lanes; where the gradient is fresh they write it, all of it, without
     * reading it. For other layers the engine clears a fresh gradient, and it is never told of it.
     */
    bool adds_once;
    /*
     * Whether its vjps may fail lanes, of those that tile.failed does not name yet, by naming them there: the engine then throws away what the tile
     * gave so far, and repeats it with cotangents of zero in these lanes. NULL: never.
     */
    bool (*vjp_loses)(const nf_layer *layer);
    /*
     * How many of the layer's last parameters show it when a row's part of the gradient is beyond the numbers, as it may be where the row's map is not: the engine
     * looks at them after each tile, and throws such rows away. NULL: it is not looked for.
     */
    size_t (*steep)(const nf_layer *layer);
};

/* NULL: this build of the library has no such layer. */
const struct layer_ops *R(layer_ops_of)(nf_layer_kind kind);

#endif
