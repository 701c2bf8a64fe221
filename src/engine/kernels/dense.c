/*
 * The products of dense layers. All of them are one block product held in registers,
 *
 *     C[row][lanes] = start + sum_k A(row, k) * B[k][lanes]
 *
 * with A broadcast from any strides and B, C read in vectors: forward has A = W and B = X; the input's cotangent A = W
 * transposed and B = dY; the weights' gradient A = dY and B = X transposed; a single row A = x and B = W packed. Only the
 * drivers below differ: they cut the matrices so that what a block reads comes from L1 or streams from L2.
 */
#include "engine/kernels/dense.h"
#include "engine/kernels/gelu_lookup.h"

#include <stdbool.h>

#define MAX_ROWS DENSE_STRIP /* rows of a block */
#define BLOCK_VECS 2         /* vectors side by side in a block, */
#define BLOCK_LANES ((size_t)(BLOCK_VECS * VEC_LANES))
#define MAX_BLOCKS 4 /* and blocks that share A, when few rows leave registers free and the pipelines empty */
#define PANEL_BLOCKS ((size_t)(PANEL_VECS / BLOCK_VECS))
/* Links of the chains from one jump to the next: the loop's own instructions, and the jump out of it, cost a tenth of the time. By measurement. */
#if defined(__clang__)
#define UNROLL_LINKS _Pragma("clang loop unroll_count(8)")
#else
#define UNROLL_LINKS _Pragma("GCC unroll 8")
#endif

/* What a strip reads of A in one go: 24 KiB with AVX-512, in L1 while the panels go by. */
#define DEPTH_CHUNK ((size_t)128)
/*
 * The input's cotangent reads W by columns. Where the rows of W are so long that a strip's columns crowd a few sets of the first cache,
 * and strips narrower than a cache line, some columns (whole strips) are first packed together.
 */
#define PACKED_COLUMNS ((size_t)24)
#define PACKED_STRIDE ((size_t)(512 / sizeof(real)))
#define PACKED_SIZE ((size_t)((32 << 10) / sizeof(real))) /* and W is larger than that cache */
_Static_assert(PACKED_COLUMNS % MAX_ROWS == 0, "packed columns are whole strips");
/* The weights' gradient is summed in registers over so many samples before it is added to memory. */
#define SAMPLE_CHUNK ((size_t)128)
#define PANEL_CHUNK (SAMPLE_CHUNK / PANEL)
/* Layers so small that transposing X costs more than it saves: their gradient is summed lane by lane. By measurement. */
#define SMALL_IN (PANEL / 8 + 1)
#define SMALL_OUT ((size_t)2)

enum chain_start {
    START_ZERO,
    START_BIAS,   /* one value a row */
    START_COLUMN, /* one value a column: a vector that all rows share */
    START_MEMORY, /* go on with a chain that C holds */
    START_ADD     /* from zero, and the sum is added to C */
};

typedef struct product {
    enum chain_start start;
    size_t depth, segments;           /* k runs over `depth` values, and that for each segment of A */
    size_t a_row, a_depth, a_segment; /* steps of A */
    size_t b_row, c_row;              /* steps of B and C from one row to the next */
    bool packed;                      /* A is a packed strip: its steps are 1 and the rows of the block, that of B is PANEL */
    const real *bias;
} product;

/* One link of all chains of a block: a row of B times a value of A for each row of C. */
VEC_INLINE void run_link(const int mr, const int nv, const int nb, const real **a, size_t a_row, size_t a_depth, const real **b, size_t b_row,
                         vec sum[MAX_ROWS][MAX_BLOCKS * BLOCK_VECS]) {
    vec bk[MAX_BLOCKS * BLOCK_VECS];
    VEC_UNROLL for (int v = 0; v < nb * nv; v++) bk[v] = vec_load(b[v / nv] + v % nv * VEC_LANES);
    VEC_UNROLL for (int i = 0; i < mr; i++) {
        const vec ai = vec_set1((*a)[(size_t)i * a_row]);
        VEC_UNROLL for (int v = 0; v < nb * nv; v++) sum[i][v] = vec_madd(ai, bk[v], sum[i][v]);
    }
    *a += a_depth;
    VEC_UNROLL for (int n = 0; n < nb; n++) b[n] += b_row;
}

/* Run `nb` blocks of `mr` x `nv` vectors. mr, nv, nb and `packed` are constants where this is inlined, and all its arrays registers. */
VEC_INLINE void run_blocks(const int mr, const int nv, const int nb, const bool packed, const product *p, const real *a,
                           const real *const *b_of, real *const *c_of) {
    /* copies, because a store to C might change *p for all that the compiler knows */
    const enum chain_start start = p->start;
    const size_t a_row = packed ? 1 : p->a_row, a_depth = packed ? (size_t)mr : p->a_depth, b_row = packed ? PANEL : p->b_row;
    size_t c_row = p->c_row;
    const real *b[MAX_BLOCKS];
    real *c[MAX_BLOCKS];
    vec sum[MAX_ROWS][MAX_BLOCKS * BLOCK_VECS];
    VEC_UNROLL for (int n = 0; n < nb; n++) {
        b[n] = b_of[n];
        c[n] = c_of[n];
    }

    if (start == START_BIAS) {
        VEC_UNROLL for (int i = 0; i < mr; i++) {
            VEC_UNROLL for (int v = 0; v < nb * nv; v++) sum[i][v] = vec_set1(p->bias[i]);
        }
    } else if (start == START_COLUMN) {
        VEC_UNROLL for (int i = 0; i < mr; i++) {
            VEC_UNROLL for (int v = 0; v < nb * nv; v++) sum[i][v] = vec_load(b[v / nv] - b_row + v % nv * VEC_LANES);
        }
    } else if (start == START_MEMORY) {
        VEC_UNROLL for (int i = 0; i < mr; i++) {
            VEC_UNROLL for (int v = 0; v < nb * nv; v++) sum[i][v] =
                vec_load(c[v / nv] + (size_t)i * c_row + v % nv * VEC_LANES);
        }
    } else {
        VEC_UNROLL for (int i = 0; i < mr; i++) { VEC_UNROLL for (int v = 0; v < nb * nv; v++) sum[i][v] = vec_zero(); }
    }

    for (size_t s = p->segments; s > 0; s--) {
        const real *ak = a;
        if (nv == BLOCK_VECS && nb == 1 && 3 * mr >= 2 * MAX_ROWS) {
            UNROLL_LINKS for (size_t k = p->depth; k > 0; k--) run_link(mr, nv, nb, &ak, a_row, a_depth, b, b_row, sum);
        } else {
            for (size_t k = p->depth; k > 0; k--)
                run_link(mr, nv, nb, &ak, a_row, a_depth, b, b_row, sum);
        }
        a += p->a_segment;
    }

    /* Without this gcc computes the addresses of all rows of C before the loop, and spends its registers on them. */
    __asm__("" : "+r"(c_row));
    if (start == START_ADD) {
        VEC_UNROLL for (int i = 0; i < mr; i++) {
            VEC_UNROLL for (int v = 0; v < nb * nv; v++) {
                real *to = c[v / nv] + v % nv * VEC_LANES;
                vec_storeu(to, vec_loadu(to) + sum[i][v]);
            }
            VEC_UNROLL for (int n = 0; n < nb; n++) c[n] += c_row;
        }
    } else {
        VEC_UNROLL for (int i = 0; i < mr; i++) {
            VEC_UNROLL for (int v = 0; v < nb * nv; v++) vec_storeu(c[v / nv] + v % nv * VEC_LANES, sum[i][v]);
            VEC_UNROLL for (int n = 0; n < nb; n++) c[n] += c_row;
        }
    }
}

typedef void block_function(const product *p, const real *a, const real *const *b, real *const *c);

#define DEFINE_BLOCKS(mr, nv, nb)                                                                                              \
    static void blocks_##mr##_##nv##_##nb(const product *p, const real *a, const real *const *b, real *const *c) {             \
        run_blocks(mr, nv, nb, false, p, a, b, c);                                                                             \
    }
#define DEFINE_PACKED(mr)                                                                                                      \
    static void packed_##mr(const product *p, const real *a, const real *const *b, real *const *c) {                           \
        run_blocks(mr, 2, 1, true, p, a, b, c);                                                                                \
    }
#define DEFINE_ROWS(mr) DEFINE_BLOCKS(mr, 2, 1) DEFINE_BLOCKS(mr, 1, 1) DEFINE_PACKED(mr)
DEFINE_ROWS(1)
DEFINE_ROWS(2)
DEFINE_ROWS(3)
DEFINE_ROWS(4)
DEFINE_BLOCKS(1, 2, 4)
DEFINE_BLOCKS(1, 2, 2)
DEFINE_BLOCKS(2, 2, 2)
#if MAX_ROWS > 4
DEFINE_ROWS(5)
DEFINE_ROWS(6)
#endif
#if MAX_ROWS > 6
DEFINE_BLOCKS(3, 2, 2)
DEFINE_ROWS(7)
DEFINE_ROWS(8)
#endif
#if MAX_ROWS > 8
DEFINE_ROWS(9)
DEFINE_ROWS(10)
DEFINE_ROWS(11)
DEFINE_ROWS(12)
#endif

/* The blocks for one number of rows: of one vector, of two, also from packed strips, and several of two at once (NULL where registers are short). */
typedef struct block_row {
    block_function *half, *one, *packed, *two, *four;
} block_row;

/* clang-format off */
#define ROWS_ENTRY(mr, two, four) {blocks_##mr##_1_1, blocks_##mr##_2_1, packed_##mr, two, four}
static const block_row block_table[MAX_ROWS + 1] = {
    {NULL, NULL, NULL, NULL, NULL},
    ROWS_ENTRY(1, blocks_1_2_2, blocks_1_2_4),
    ROWS_ENTRY(2, blocks_2_2_2, NULL),
#if MAX_ROWS > 6
    ROWS_ENTRY(3, blocks_3_2_2, NULL),
#else
    ROWS_ENTRY(3, NULL, NULL),
#endif
    ROWS_ENTRY(4, NULL, NULL),
#if MAX_ROWS > 4
    ROWS_ENTRY(5, NULL, NULL),
    ROWS_ENTRY(6, NULL, NULL),
#endif
#if MAX_ROWS > 6
    ROWS_ENTRY(7, NULL, NULL),
    ROWS_ENTRY(8, NULL, NULL),
#endif
#if MAX_ROWS > 8
    ROWS_ENTRY(9, NULL, NULL),
    ROWS_ENTRY(10, NULL, NULL),
    ROWS_ENTRY(11, NULL, NULL),
    ROWS_ENTRY(12, NULL, NULL),
#endif
};
/* clang-format on */

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* The next strip when `rows` are left: the last two even, because a strip of one or two rows cannot fill the pipelines. */
static size_t strip_rows(size_t rows) {
    if (rows <= MAX_ROWS)
        return rows;
    return rows < 2 * MAX_ROWS ? (rows + 1) / 2 : MAX_ROWS;
}

/* Where the lanes of B and C lie: `vectors` vectors, a panel of them together, and so many reals from panel to panel. */
typedef struct lane_map {
    size_t vectors, b_panel, c_panel;
} lane_map;

static void set_blocks(const lane_map *map, size_t first, size_t count, const real *b, real *c, const real **b_of,
                       real **c_of) {
    for (size_t i = 0; i < count; i++) {
        const size_t panel = (first + i) / PANEL_BLOCKS, within = (first + i) % PANEL_BLOCKS * BLOCK_LANES;
        b_of[i] = b + panel * map->b_panel + within;
        c_of[i] = c + panel * map->c_panel + within;
    }
}

/*
 * Weights and gradients of a large layer come from beyond L2, a few rows at a time: too few for the processor to foresee. Those that the
 * next strip needs are fetched while this one is computed. Below so many bytes it would cost more than it saves; a gradient has been
 * away for longer.
 */
#define FETCH_BYTES ((size_t)(128 << 10))
#define FETCH_GRADIENT_BYTES ((size_t)(48 << 10))

static bool fetches(size_t out, size_t in, size_t least) { return out * in * sizeof(real) >= least; }

static void fetch_rows(size_t rows, size_t stride, size_t count, const real *a) {
    for (size_t i = 0; i < rows; i++, a += stride)
        for (size_t k = 0; k < count; k += NF_ALIGN / sizeof(real))
            __builtin_prefetch(a + k);
}

/* A strip over any number of lanes. */
static void run_wide_strip(const product *p, const block_row *f, const lane_map *map, const real *a, const real *b, real *c) {
    const real *b_of[MAX_BLOCKS];
    real *c_of[MAX_BLOCKS];
    const size_t blocks = map->vectors / BLOCK_VECS;
    size_t i = 0;
    if (f->four)
        for (; i + 4 <= blocks; i += 4) {
            set_blocks(map, i, 4, b, c, b_of, c_of);
            f->four(p, a, b_of, c_of);
        }
    if (f->two)
        for (; i + 2 <= blocks; i += 2) {
            set_blocks(map, i, 2, b, c, b_of, c_of);
            f->two(p, a, b_of, c_of);
        }
    block_function *one = p->packed ? f->packed : f->one;
    for (; i < blocks; i++) {
        set_blocks(map, i, 1, b, c, b_of, c_of);
        one(p, a, b_of, c_of);
    }
    if (map->vectors % BLOCK_VECS != 0) {
        set_blocks(map, i, 1, b, c, b_of, c_of);
        f->half(p, a, b_of, c_of);
    }
}

/* One strip of `rows` <= MAX_ROWS rows over all the lanes. Where these are one block, a small product feels what it costs to look for more. */
VEC_INLINE void run_strip(const product *p, size_t rows, const lane_map *map, const real *a, const real *b, real *c) {
    const block_row *f = &block_table[rows];
    if (map->vectors == BLOCK_VECS)
        (p->packed ? f->packed : f->one)(p, a, &b, &c);
    else
        run_wide_strip(p, f, map, a, b, c);
}

/* The factor A of a whole product: at any steps; or packed, strip by strip for one chunk of the depth after the other. */
typedef struct factor {
    const real *at;
    size_t row, depth; /* steps; 1 and of no meaning where it is packed */
    bool packed, fetched;
} factor;

/* Products of so few links load and store more than they multiply: a row after the other, beside what they read of B, which stays in registers. */
#define SHALLOW_DEPTH 2

VEC_INLINE void run_shallow(const int depth, const int nv, size_t rows, const real *bias, const factor *A, const real *b, real *c) {
    const real *a = A->at;
    const size_t a_row = A->row, a_depth = A->depth;
    vec bk[SHALLOW_DEPTH][BLOCK_VECS];
    VEC_UNROLL for (int k = 0; k < depth; k++) {
        VEC_UNROLL for (int v = 0; v < nv; v++) bk[k][v] = vec_load(b + (size_t)k * PANEL + v * VEC_LANES);
    }
    for (size_t i = 0; i < rows; i++, a += a_row, c += PANEL) {
        VEC_UNROLL for (int v = 0; v < nv; v++) {
            vec sum = bias ? vec_set1(bias[i]) : vec_zero();
            VEC_UNROLL for (int k = 0; k < depth; k++) sum = vec_madd(vec_set1(a[(size_t)k * a_depth]), bk[k][v], sum);
            vec_store(c + v * VEC_LANES, sum);
        }
    }
}

static void shallow_product(size_t rows, size_t depth, const real *bias, const factor *A, const lane_map *map, const real *B, real *C) {
    for (size_t v = 0, nv; v < map->vectors; v += nv) {
        const size_t panel = v / PANEL_VECS, within = v % PANEL_VECS * VEC_LANES;
        const real *b = B + panel * map->b_panel + within;
        real *c = C + panel * map->c_panel + within;
        nv = map->vectors - v < BLOCK_VECS ? 1 : BLOCK_VECS;
        if (depth == 1 && nv == 1)
            run_shallow(1, 1, rows, bias, A, b, c);
        else if (depth == 1)
            run_shallow(1, BLOCK_VECS, rows, bias, A, b, c);
        else if (nv == 1)
            run_shallow(2, 1, rows, bias, A, b, c);
        else
            run_shallow(2, BLOCK_VECS, rows, bias, A, b, c);
    }
}

/* C[0..rows)[lanes] = start + A B over the whole depth, also when that is 0. */
VEC_INLINE void run_product(product *p, size_t rows, size_t depth, const factor *A, const lane_map *map, const real *B, real *C) {
    const real *const bias = p->bias;
    if (0 < depth && depth <= SHALLOW_DEPTH && !A->packed && p->start != START_MEMORY) {
        shallow_product(rows, depth, bias, A, map, B, C);
        return;
    }
    p->packed = A->packed;
    p->a_row = A->row;
    p->a_depth = A->depth;
    for (size_t k = 0;;) {
        p->depth = smaller(depth - k, DEPTH_CHUNK);
        const real *a = A->packed ? A->at + k * rows : A->at + k * A->depth;
        for (size_t j = 0, strip; j < rows; j += strip) {
            strip = strip_rows(rows - j);
            if (bias)
                p->bias = bias + j;
            if (A->packed)
                p->a_depth = strip;
            if (A->fetched)
                fetch_rows(smaller(rows - j - strip, MAX_ROWS), A->row, p->depth, a + strip * A->row);
            run_strip(p, strip, map, a, B, C + j * PANEL);
            a += strip * (A->packed ? p->depth : A->row);
        }
        k += p->depth;
        if (k >= depth)
            return;
        p->start = START_MEMORY;
        B += p->depth * PANEL;
    }
}

VEC_INLINE void pack_strip(size_t strip, size_t depth, const real *a, size_t row, size_t step, real *packed) {
    for (size_t d = 0; d < depth; d++, a += step, packed += strip) {
        for (size_t i = 0; i < strip; i++)
            packed[i] = a[i * row];
    }
}

/* The strips of A for run_product, one after the other as it reads them. */
static void pack_strips(size_t rows, size_t depth, const real *a, size_t row, size_t step, real *packed) {
    for (size_t k = 0, chunk; k < depth; k += chunk) {
        chunk = smaller(depth - k, DEPTH_CHUNK);
        for (size_t j = 0, strip; j < rows; j += strip) {
            strip = strip_rows(rows - j);
            const real *from = a + j * row + k * step;
            if (strip == MAX_ROWS && row == 1)
                pack_strip(MAX_ROWS, chunk, from, 1, step, packed);
            else if (strip == MAX_ROWS && step == 1)
                pack_strip(MAX_ROWS, chunk, from, row, 1, packed);
            else
                pack_strip(strip, chunk, from, row, step, packed);
            packed += strip * chunk;
        }
    }
}

/* PACKED_COLUMNS columns of W at once, so that each line of it is read once. */
static void pack_columns(size_t depth, const real *W, size_t w_stride, real *packed) {
    for (size_t d = 0; d < depth; d++, W += w_stride, packed += MAX_ROWS)
        VEC_UNROLL for (size_t s = 0; s < PACKED_COLUMNS / MAX_ROWS; s++) {
            VEC_UNROLL for (size_t i = 0; i < MAX_ROWS; i++) packed[s * depth * MAX_ROWS + i] = W[s * MAX_ROWS + i];
        }
}

VEC_INLINE void forward(size_t out, size_t in, const factor *A, const real *bias, size_t panels, const real *X, size_t x_stride, real *Y,
                    size_t y_stride, size_t lanes) {
    if (panels == 0)
        return;
    const size_t last = (lanes + VEC_LANES - 1) / VEC_LANES;
    const lane_map map = {(panels - 1) * PANEL_VECS + last, x_stride, y_stride};
    product p = {.start = bias ? START_BIAS : START_ZERO, .segments = 1, .b_row = PANEL, .c_row = PANEL, .bias = bias};
    run_product(&p, out, in, A, &map, X, Y);
}

void R(dense_forward)(size_t out, size_t in, const real *W, const real *bias, size_t panels, const real *X, size_t x_stride,
                      real *Y, size_t y_stride, size_t lanes) {
    const factor A = {.at = W, .row = in, .depth = 1, .fetched = fetches(out, in, FETCH_BYTES)};
    forward(out, in, &A, bias, panels, X, x_stride, Y, y_stride, lanes);
}

void R(dense_pack_forward)(size_t out, size_t in, const real *W, real *packed) { pack_strips(out, in, W, in, 1, packed); }

void R(dense_packed_forward)(size_t out, size_t in, const real *packed, const real *bias, size_t panels, const real *X, size_t x_stride,
                             real *Y, size_t y_stride, size_t lanes) {
    const factor A = {.at = packed, .row = 1, .packed = true};
    forward(out, in, &A, bias, panels, X, x_stride, Y, y_stride, lanes);
}

static product input_product(int accumulate) {
    return (product){.start = accumulate ? START_MEMORY : START_ZERO, .segments = 1, .b_row = PANEL, .c_row = PANEL};
}

/* The input's cotangent with some columns packed at a time: see PACKED_COLUMNS. */
static void packing_backward_input(size_t out, size_t columns, const real *W, size_t w_stride, const lane_map *map, const real *dY,
                                   real *dX, int accumulate) {
    real packed[DEPTH_CHUNK * PACKED_COLUMNS];
    const factor A = {.at = packed, .row = 1, .packed = true};
    for (size_t j = 0, depth; j < out; j += depth) {
        depth = smaller(out - j, DEPTH_CHUNK);
        for (size_t k = 0, count; k < columns; k += count) {
            count = smaller(columns - k, PACKED_COLUMNS);
            if (count == PACKED_COLUMNS)
                pack_columns(depth, W + j * w_stride + k, w_stride, packed);
            else
                pack_strips(count, depth, W + j * w_stride + k, 1, w_stride, packed);
            product p = input_product(accumulate || j > 0);
            run_product(&p, count, depth, &A, map, dY + j * PANEL, dX + k * PANEL);
        }
    }
}

void R(dense_backward_input_range)(size_t out, size_t columns, const real *W, size_t w_stride, size_t panels, const real *dY,
                                   size_t y_stride, real *dX, size_t x_stride, int accumulate) {
    const lane_map map = {panels * PANEL_VECS, y_stride, x_stride};
    const factor A = {.at = W, .row = 1, .depth = w_stride};
    product p = input_product(accumulate);
    if (VEC_BYTES < 64 && panels > 1 && w_stride >= PACKED_STRIDE && out * w_stride > PACKED_SIZE)
        packing_backward_input(out, columns, W, w_stride, &map, dY, dX, accumulate);
    else
        run_product(&p, columns, out, &A, &map, dY, dX);
}

void R(dense_backward_input)(size_t out, size_t in, const real *W, size_t panels, const real *dY, size_t y_stride, real *dX,
                             size_t x_stride, int accumulate) {
    R(dense_backward_input_range)(out, in, W, in, panels, dY, y_stride, dX, x_stride, accumulate);
}

void R(dense_pack_backward)(size_t out, size_t in, const real *W, real *packed) { pack_strips(in, out, W, 1, in, packed); }

void R(dense_packed_backward_input)(size_t out, size_t in, const real *packed, size_t panels, const real *dY, size_t y_stride, real *dX,
                                    size_t x_stride, int accumulate) {
    const lane_map map = {panels * PANEL_VECS, y_stride, x_stride};
    const factor A = {.at = packed, .row = 1, .packed = true};
    product p = input_product(accumulate);
    run_product(&p, in, out, &A, &map, dY, dX);
}

/* to[0..count) += the first lanes of s */
static void add_lanes(real *to, vec s, size_t count) {
    if (count == VEC_LANES) {
        vec_storeu(to, vec_loadu(to) + s);
        return;
    }
    real lanes[VEC_LANES];
    vec_storeu(lanes, s);
    for (size_t i = 0; i < count; i++)
        to[i] += lanes[i];
}

/* Lane by lane over the panels, then one fold: as a vector whose lanes are still to be summed. */
static vec row_sum(size_t panels, const real *a, size_t a_stride) {
    vec v[PANEL_VECS];
    VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) v[i] = vec_load(a + i * VEC_LANES);
    for (size_t p = 1; p < panels; p++) {
        a += a_stride;
        VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) v[i] = v[i] + vec_load(a + i * VEC_LANES);
    }
    return vec_fold_panel(v);
}

static vec row_dot(size_t panels, const real *a, size_t a_stride, const real *b, size_t b_stride) {
    vec v[PANEL_VECS];
    VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) v[i] = vec_load(a + i * VEC_LANES) * vec_load(b + i * VEC_LANES);
    for (size_t p = 1; p < panels; p++) {
        a += a_stride;
        b += b_stride;
        VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) {
            v[i] = vec_madd(vec_load(a + i * VEC_LANES), vec_load(b + i * VEC_LANES), v[i]);
        }
    }
    return vec_fold_panel(v);
}

static void bias_gradient(size_t out, size_t panels, const real *dY, size_t y_stride, real *dbias) {
    for (size_t j = 0; j < out; j += VEC_LANES) {
        const size_t count = smaller(out - j, VEC_LANES);
        vec s[VEC_LANES];
        VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) s[i] =
            i < count ? row_sum(panels, dY + (j + i) * PANEL, y_stride) : vec_zero();
        add_lanes(dbias + j, vec_sum_rows(s), count);
    }
}

/* The gradient of a small W: its elements in the order of memory, as many at a time as a vector has lanes. */
static void small_gradient(size_t out, size_t in, size_t panels, const real *dY, size_t y_stride, const real *X,
                           size_t x_stride, real *dW) {
    const size_t size = out * in;
    size_t j = 0, k = 0;
    for (size_t e = 0; e < size; e += VEC_LANES) {
        const size_t count = smaller(size - e, VEC_LANES);
        vec s[VEC_LANES];
        VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) {
            if (i >= count) {
                s[i] = vec_zero();
                continue;
            }
            s[i] = row_dot(panels, dY + j * PANEL, y_stride, X + k * PANEL, x_stride);
            if (++k == in) {
                k = 0;
                j++;
            }
        }
        add_lanes(dW + e, vec_sum_rows(s), count);
    }
}

/*
 * The same where one row of dY, or of X, meets all rows of the other in a single panel: it stays in registers. The product of a row that is not there is
 * one that is, and not added.
 */
static void row_gradient(size_t count, const real *row, const real *others, real *dW) {
    vec fixed[PANEL_VECS];
    VEC_UNROLL for (int v = 0; v < PANEL_VECS; v++) fixed[v] = vec_load(row + v * VEC_LANES);
    for (size_t e = 0, some; e < count; e += some, others += some * PANEL) {
        some = smaller(count - e, VEC_LANES);
        vec s[VEC_LANES];
        VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) {
            const real *other = others + (i < some ? i : 0) * PANEL;
            vec v[PANEL_VECS];
            VEC_UNROLL for (int u = 0; u < PANEL_VECS; u++) v[u] = fixed[u] * vec_load(other + u * VEC_LANES);
            s[i] = vec_fold_panel(v);
        }
        add_lanes(dW + e, vec_sum_rows(s), some);
    }
}

/*
 * Columns [0, width) of one panel of X, width <= PANEL, as rows: to[lane][k]. Whole vectors of k: the last is padded with 0. A panel's
 * columns are a page or less, over before the processor foresees them; those of `next`, which come after, are fetched meanwhile.
 */
static void transpose_panel(size_t width, const real *X, const real *next, real *to) {
    for (size_t k = 0; k < width; k += VEC_LANES) {
        for (size_t lane = 0; lane < PANEL; lane += VEC_LANES) {
            vec r[VEC_LANES];
            fetch_rows(1, 0, VEC_LANES * VEC_LANES, next + k * PANEL + lane * VEC_LANES);
            if (width - k >= VEC_LANES) {
                VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) r[i] = vec_load(X + (k + i) * PANEL + lane);
            } else {
                VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) r[i] =
                    k + i < width ? vec_load(X + (k + i) * PANEL + lane) : vec_zero();
            }
            vec_transpose(r);
            VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) vec_store(to + (lane + i) * PANEL + k, r[i]);
        }
    }
}

/*
 * dW[0..out)[0..width) += dY' X for one panel's width of inputs and one chunk of samples; W has `in` columns. When dbias is
 * not NULL, also the bias: just before the product reads the same rows of dY, which then costs next to nothing.
 */
static void gradient_columns(size_t out, size_t in, size_t width, size_t panels, const real *dY, size_t y_stride,
                             const real *transposed, real *dW, real *dbias) {
    const lane_map map = {(width + VEC_LANES - 1) / VEC_LANES, 0, 0};
    const bool whole = width % VEC_LANES == 0, fetched = fetches(out, in, FETCH_GRADIENT_BYTES);
    real aside[MAX_ROWS * PANEL] __attribute__((aligned(NF_ALIGN))); /* for a dW that ends within a vector */
    const product p = {.start = whole ? START_ADD : START_ZERO,
                       .depth = PANEL,
                       .segments = panels,
                       .a_row = PANEL,
                       .a_depth = 1,
                       .a_segment = y_stride,
                       .b_row = PANEL,
                       .c_row = whole ? in : PANEL};
    size_t summed = 0;
    for (size_t j = 0, rows; j < out; j += rows) {
        rows = strip_rows(out - j);
        for (size_t count; dbias != NULL && summed < j + rows; summed += count) {
            count = smaller(out - summed, VEC_LANES);
            bias_gradient(count, panels, dY + summed * PANEL, y_stride, dbias + summed);
        }
        if (fetched) /* a line more, because dW is not aligned */
            fetch_rows(smaller(out - j - rows, MAX_ROWS), in, width + NF_ALIGN / sizeof(real), dW + (j + rows) * in);
        run_strip(&p, rows, &map, dY + j * PANEL, transposed, whole ? dW + j * in : aside);
        if (whole)
            continue;
        for (size_t i = 0; i < rows; i++) {
            for (size_t k = 0; k < width; k += VEC_LANES)
                add_lanes(dW + (j + i) * in + k, vec_load(aside + i * PANEL + k), smaller(width - k, VEC_LANES));
        }
    }
}

size_t R(dense_weights_scratch)(size_t out, size_t in, size_t panels) {
    if (in <= SMALL_IN || out <= SMALL_OUT)
        return 0;
    return smaller(panels, PANEL_CHUNK) * PANEL * PANEL;
}

void R(dense_backward_weights)(size_t out, size_t in, size_t panels, const real *dY, size_t y_stride, const real *X,
                               size_t x_stride, real *scratch, real *dW, real *dbias) {
    if (panels == 0)
        return;
    if (in <= SMALL_IN || out <= SMALL_OUT) {
        if (dbias != NULL)
            bias_gradient(out, panels, dY, y_stride, dbias);
        if (panels == 1 && in == 1)
            row_gradient(out, X, dY, dW);
        else if (panels > 1 || out > SMALL_OUT)
            small_gradient(out, in, panels, dY, y_stride, X, x_stride, dW);
        else
            for (size_t j = 0; j < out; j++)
                row_gradient(in, dY + j * PANEL, X, dW + j * in);
        return;
    }
    for (size_t first = 0, count; first < panels; first += count) {
        count = smaller(panels - first, PANEL_CHUNK);
        for (size_t k = 0; k < in; k += PANEL) {
            const size_t width = smaller(in - k, PANEL);
            const real *x = X + first * x_stride + k * PANEL, *const after = k + width < in ? x + width * PANEL : x;
            for (size_t i = 0; i < count; i++, x += x_stride)
                transpose_panel(width, x, i + 1 < count ? x + x_stride : after, scratch + i * PANEL * PANEL);
            gradient_columns(out, in, width, count, dY + first * y_stride, y_stride, scratch, dW + k, k == 0 ? dbias : NULL);
        }
    }
}

/*
 * Packed rows stand in blocks of columns, each as wide as a row's accumulators and contiguous, so that one row reads its
 * weights in a single stream; a block begins with its piece of the bias, followed by one line for each input.
 */
#define ROWS_COLUMNS (MAX_BLOCKS * BLOCK_LANES)

void R(dense_rows_pack)(size_t out, size_t in, const real *W, const real *bias, real *packed) {
    const size_t width = dense_rows_width(out);
    for (size_t j = 0, columns; j < width; j += columns) {
        columns = smaller(width - j, ROWS_COLUMNS);
        for (size_t i = 0; i < columns; i++)
            packed[i] = j + i < out && bias != NULL ? bias[j + i] : 0;
        packed += columns;
        for (size_t k = 0; k < in; k++, packed += columns) {
            for (size_t i = 0; i < columns; i++)
                packed[i] = j + i < out ? W[(j + i) * in + k] : 0;
        }
    }
}

/* One row times a block of `nv` vectors of columns, whose weights follow each other from `packed` on, after the bias; then GELU of it where `gelu`. */
VEC_INLINE void run_one_row(const int nv, const bool gelu, size_t in, const real *packed, const real *x, real *y) {
    vec sum[MAX_BLOCKS * BLOCK_VECS];
    VEC_UNROLL for (int v = 0; v < nv; v++) sum[v] = vec_load(packed + v * VEC_LANES);
    packed += nv * VEC_LANES;
    for (size_t k = 0; k < in; k++, packed += nv * VEC_LANES) {
        const vec xk = vec_set1(x[k]);
        VEC_UNROLL for (int v = 0; v < nv; v++) sum[v] = vec_madd(xk, vec_load(packed + v * VEC_LANES), sum[v]);
    }
#if GELU_LOOKUP
    if (gelu) {
        VEC_UNROLL for (int v = 0; v < nv; v++) sum[v] = gelu_value(sum[v], gelu_prepare(sum[v]));
    }
#else
    (void)gelu;
#endif
    VEC_UNROLL for (int v = 0; v < nv; v++) vec_store(y + v * VEC_LANES, sum[v]);
}

/* The usual widths of one row, without what the general path does for several: false for another. */
static bool one_row(size_t vectors, size_t in, const real *packed, const real *x, real *y) {
    switch (vectors) {
    case 1:
        run_one_row(1, false, in, packed, x, y);
        return true;
    case 2:
        run_one_row(2, false, in, packed, x, y);
        return true;
    case 4:
        run_one_row(4, false, in, packed, x, y);
        return true;
    case MAX_BLOCKS * BLOCK_VECS:
        run_one_row(MAX_BLOCKS * BLOCK_VECS, false, in, packed, x, y);
        return true;
    default:
        return false;
    }
}

void R(dense_rows_forward)(size_t out, size_t in, const real *packed, size_t rows, const real *x, size_t x_stride, real *y,
                           size_t y_stride) {
    const size_t width = dense_rows_width(out);
    for (size_t j = 0, columns; j < width; j += columns, packed += columns * (in + 1)) {
        columns = smaller(width - j, ROWS_COLUMNS);
        if (rows == 1 && one_row(columns / VEC_LANES, in, packed, x, y + j))
            continue;
        const lane_map map = {columns / VEC_LANES, PANEL, PANEL};
        const product p = {.start = START_COLUMN,
                           .depth = in,
                           .segments = 1,
                           .a_row = x_stride,
                           .a_depth = 1,
                           .b_row = columns,
                           .c_row = y_stride};
        for (size_t i = 0, strip; i < rows; i += strip) {
            strip = strip_rows(rows - i);
            run_strip(&p, strip, &map, x + i * x_stride, packed + columns, y + i * y_stride + j);
        }
    }
}

bool R(dense_row_gelu)(size_t out, size_t in, const real *packed, const real *x, real *y) {
    const size_t vectors = dense_rows_width(out) / VEC_LANES;
    if (GELU_LOOKUP && vectors == 2)
        run_one_row(2, true, in, packed, x, y);
    else if (GELU_LOOKUP && vectors == 4)
        run_one_row(4, true, in, packed, x, y);
    else
        return false;
    return true;
}
