/*
 * The block product that all products of dense layers are made of, held in registers:
 *
 *     C[row][lanes] = start + sum_k A(row, k) * B[k][lanes]
 *
 * with A broadcast from any strides and B, C read in vectors: forward has A = W and B = X; the input's cotangent A = W
 * transposed and B = dY; the weights' gradient A = dY and B = X transposed; a single row A = x and B = W packed. Only their
 * drivers differ: they cut the matrices so that what a block reads comes from L1 or streams from L2.
 */
#ifndef NF_ENGINE_KERNELS_BLOCK_H
#define NF_ENGINE_KERNELS_BLOCK_H

#include "engine/kernels/dense.h"

#define MAX_ROWS DENSE_STRIP /* rows of a block */
#define BLOCK_VECS 2         /* vectors side by side in a block, */
#define BLOCK_LANES ((size_t)(BLOCK_VECS * VEC_LANES))
#define MAX_BLOCKS 4 /* and blocks that share A, when few rows leave registers free and the pipelines empty */

enum chain_start {
    START_ZERO,
    START_BIAS,   /* one value a row */
    START_COLUMN, /* one value a column: a vector that all rows share */
    START_MEMORY, /* go on with a chain that C holds */
    START_ADD     /* from zero, and the sum is added to C */
};

typedef struct product {
    enum chain_start start;
    size_t chains;                    /* 1, 2 or 4; more than one in one segment, and not sloped */
    size_t depth, segments;           /* k runs over `depth` values, and that for each segment of A */
    size_t a_row, a_depth, a_segment; /* steps of A */
    size_t b_row, c_row;              /* steps of B and C from one row to the next */
    bool packed;                      /* A is a packed strip: its steps are 1 and the rows of the block, that of B is PANEL */
    bool sloped;                      /* what is stored is multiplied by what stands so far behind it, in another array */
    uintptr_t slope;
    const real *bias;
} product;

static inline const real *slope_of(const real *stored, uintptr_t slope) { return (const real *)((uintptr_t)stored + slope); }

typedef void block_function(const product *p, const real *a, const real *const *b, real *const *c);

/* The blocks for one number of rows: of one vector, of two, also from packed strips, and several of two at once (NULL where registers are short). */
typedef struct block_row {
    block_function *half, *one, *packed, *two, *four;
} block_row;

/* The same for sums of several chains, of one vector and of two. */
typedef struct chained_row {
    block_function *half, *one;
} chained_row;

/* By the number of rows. */
extern const block_row R(block_table)[MAX_ROWS + 1];
extern const chained_row R(two_chains)[MAX_ROWS / 2 + 1], R(four_chains)[MAX_ROWS / 4 + 1];

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* The next strip when `rows` are left: the last two even, because a strip of one or two rows cannot fill the pipelines. */
static inline size_t chained_strip(size_t rows, size_t chains) {
    const size_t most = MAX_ROWS / chains;
    if (rows <= most)
        return rows;
    return rows < 2 * most ? (rows + 1) / 2 : most;
}

static inline size_t strip_rows(size_t rows) { return chained_strip(rows, 1); }

/* Where the lanes of B and C lie: `vectors` vectors, a panel of them together, and so many reals from panel to panel. */
typedef struct lane_map {
    size_t vectors, b_panel, c_panel;
} lane_map;

/* Where vector v of all lanes begins, panels being `panel` reals apart. */
static inline size_t lanes_at(size_t v, size_t panel) { return v / PANEL_VECS * panel + v % PANEL_VECS * VEC_LANES; }

/*
 * Weights and gradients of a large layer come from beyond L2, a few rows at a time: too few for the processor to foresee. Those that the
 * next strip needs are fetched while this one is computed. Below so many bytes it would cost more than it saves; a gradient has been
 * away for longer, and one that is written over for the longest.
 */
#define FETCH_BYTES ((size_t)(128 << 10))
#define FETCH_GRADIENT_BYTES ((size_t)(48 << 10))
#define FETCH_FRESH_BYTES ((size_t)(8 << 10))

static inline bool fetches(size_t out, size_t in, size_t least) { return out * in * sizeof(real) >= least; }

/*
 * To the first cache, or to L2 only: where rows lie a power of two apart, what the first brings a strip ahead may be driven out of it again. Always inlined, as gcc
 * takes a function that fetches alone for one that does nothing.
 */
enum fetch_to { TO_FIRST_CACHE, TO_L2 };

VEC_INLINE void fetch_rows(const enum fetch_to to, size_t rows, size_t stride, size_t count, const real *a) {
    for (size_t i = 0; i < rows; i++, a += stride)
        for (size_t k = 0; k < count; k += NF_ALIGN / sizeof(real)) {
            if (to == TO_L2)
                __builtin_prefetch(a + k, 1, 2);
            else
                __builtin_prefetch(a + k);
        }
}

/* One block of MAX_ROWS rows and BLOCK_VECS vectors whose C is fetched from L2 while it is computed. */
void R(run_late_block)(const product *p, const real *a, const real *b, real *c);

/* A strip over any number of lanes. */
void R(run_wide_strip)(const product *p, const block_row *f, const lane_map *map, const real *a, const real *b, real *c);

/* The same in several chains, rows <= MAX_ROWS / chains. */
void R(run_chained_strip)(const product *p, size_t rows, const lane_map *map, const real *a, const real *b, real *c);

/* One strip of `rows` <= MAX_ROWS rows over all the lanes. Where these are one block, a small product feels what it costs to look for more. */
VEC_INLINE void run_strip(const product *p, size_t rows, const lane_map *map, const real *a, const real *b, real *c) {
    const block_row *f = &R(block_table)[rows];
    if (map->vectors == BLOCK_VECS)
        (p->packed ? f->packed : f->one)(p, a, &b, &c);
    else
        R(run_wide_strip)(p, f, map, a, b, c);
}

#endif
