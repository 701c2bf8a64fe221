/*
 * The gradient of a step in micro-shards, and its sum over shards and ranks.
 *
 * The tiles of a step are dealt to S shards, tile i to shard i mod S; S is the number of tiles, at most what nf_comm asks for (8). A shard's gradient is the sum
 * over its tiles in order. The shards make up to 8 groups of neighbours; within a group they are summed by a binary tree, and the groups are added
 * in order. Nothing of this depends on ranks or threads. A rank has a range of neighbouring shards, sums what lies whole within it, and sends
 * the sums, cut into a slice for each rank; a rank finishes the tree for its slice, and all gather the slices.
 */
#ifndef NF_API_SHARDS_H
#define NF_API_SHARDS_H

#include <math.h>

#include "api/handles.h"
#include "api/ranks.h"

/* A step's rows on one rank of several. */
typedef struct nf_plan {
    size_t rows, tile_rows, tiles, shards;
    size_t first, last; /* this rank's shards are first .. last - 1 */
} nf_plan;

/* Shards that are computed at once, one for each slot of the gradient; their rows lie in the order of their tiles. */
typedef struct nf_wave {
    size_t first, count, shards; /* of the shards of the step */
    size_t row, rows;            /* of the rank's rows */
    bool *gathered;              /* NULL, or the gradient's sum may take the sum of the slots instead of them, if it is said there */
} nf_wave;

typedef struct nf_shard_sum {
    double loss, weight; /* over good rows */
    double rows_weight;  /* over all rows that are not left out */
} nf_shard_sum;

/* What is summed over all ranks beside the gradient. */
typedef struct nf_step_sum {
    nf_shard_sum total;
    double bad_rows, finite_rows, evaluations; /* finite_rows: of numbers, and of a weight; 0 when no rank has one */
} nf_step_sum;

/* The mean of what was weighed; NaN when nothing was. */
static inline double nf_mean(double sum, double weight) { return weight > 0.0 ? sum / weight : NAN; }

nf_plan nf_plan_of(size_t rows, size_t tile_rows, size_t shards, size_t rank, size_t ranks);
size_t nf_plan_own_rows(const nf_plan *plan);
/* The places of this rank's rows in the step, nf_plan_own_rows of them, in the order in which its waves want them. */
void nf_plan_places(const nf_plan *plan, size_t *place);

/*
 * Computes a wave: its shards' gradients into the slots 0 .. count - 1 (or see gathered), their sums, and adds to the step's other sums. A status is not agreed
 * upon yet; bad rows are none.
 */
typedef nf_status (*nf_wave_fn)(void *user, const nf_wave *wave, nf_shard_sum *sums, nf_step_sum *step);

typedef struct nf_reducer {
    nf_ranks *ranks;
    const nf_engine *engine;
    size_t count, slice;          /* parameters, and of a rank's slice at most */
    size_t shards, most_roots;    /* of a rank */
    unsigned char *nodes;         /* sums of subtrees; none while each shard is a group */
    size_t node_count;
    void **roots;                 /* what this rank has to send */
    double *header, *headers;     /* status and sums of a rank, of all */
    double *send, *receive;       /* slices of roots */
    double *values;               /* fast: the gradient as doubles */
    size_t *send_counts, *receive_counts;
} nf_reducer;

/* For steps of at most `rows` rows. A failure is of this rank alone. */
nf_status nf_reducer_make(nf_reducer *reducer, nf_ranks *ranks, const nf_engine *engine, size_t parameters, size_t rows);
void nf_reducer_free(nf_reducer *reducer);

/*
 * Collective: the step's gradient into gradient->sum, divided by the total weight, and the sums; the same on all ranks. With no weight the gradient is
 * zero. A failure is the same on all ranks.
 */
nf_status nf_reduce(nf_reducer *reducer, const nf_plan *plan, nf_wave_fn run, void *user, nf_gradient *gradient, nf_step_sum *sum);

#endif
