/* Forward, and the cotangent of the input: products over the lanes of a tile, from W as it stands or from packed strips. */
#include "engine/kernels/block.h"

#define FIRST_CACHE ((size_t)((32 << 10) / sizeof(real))) /* reals in it */

/*
 * The input's cotangent reads W by columns. Where the rows of W are so long that a strip's columns crowd a few sets of the first cache,
 * strips narrower than a cache line, and W larger than that cache, some columns (whole strips) are first packed together.
 */
#define PACKED_COLUMNS ((size_t)24)
#define PACKED_STRIDE ((size_t)(512 / sizeof(real)))
_Static_assert(PACKED_COLUMNS % MAX_ROWS == 0, "packed columns are whole strips");

/* The factor A of a whole product: at any steps; or packed, strip by strip for one chunk of the depth after the other. */
typedef struct factor {
    const real *at;
    size_t row, depth; /* steps; 1 and of no meaning where it is packed */
    bool packed, fetched;
} factor;

/* Products of so few links load and store more than they multiply: a row after the other, beside what they read of B, which stays in registers. */
#define SHALLOW_DEPTH 2

VEC_INLINE void run_shallow(const int depth, const int nv, size_t rows, const product *p, const factor *A, const real *b, real *c) {
    const real *a = A->at, *const bias = p->bias;
    const size_t a_row = A->row, a_depth = A->depth;
    const bool sloped = p->sloped;
    const uintptr_t slope = p->slope;
    vec bk[SHALLOW_DEPTH][BLOCK_VECS];
    VEC_UNROLL for (int k = 0; k < depth; k++) {
        VEC_UNROLL for (int v = 0; v < nv; v++) bk[k][v] = vec_load(b + (size_t)k * PANEL + v * VEC_LANES);
    }
    for (size_t i = 0; i < rows; i++, a += a_row, c += PANEL) {
        VEC_UNROLL for (int v = 0; v < nv; v++) {
            vec sum = bias ? vec_set1(bias[i]) : vec_zero();
            VEC_UNROLL for (int k = 0; k < depth; k++) sum = vec_madd(vec_set1(a[(size_t)k * a_depth]), bk[k][v], sum);
            real *const to = c + v * VEC_LANES;
            vec_store(to, sloped ? vec_load(slope_of(to, slope)) * sum : sum);
        }
    }
}

static void shallow_product(size_t rows, size_t depth, const product *p, const factor *A, const lane_map *map, const real *B, real *C) {
    for (size_t v = 0, nv; v < map->vectors; v += nv) {
        const real *b = B + lanes_at(v, map->b_panel);
        real *c = C + lanes_at(v, map->c_panel);
        nv = map->vectors - v < BLOCK_VECS ? 1 : BLOCK_VECS;
        if (depth == 1 && nv == 1)
            run_shallow(1, 1, rows, p, A, b, c);
        else if (depth == 1)
            run_shallow(1, BLOCK_VECS, rows, p, A, b, c);
        else if (nv == 1)
            run_shallow(2, 1, rows, p, A, b, c);
        else
            run_shallow(2, BLOCK_VECS, rows, p, A, b, c);
    }
}

/*
 * The rows of C are computed in bands that stay in L2 while all of the depth is summed, where this comes in more than one chunk. A band is whole strips, and of one size
 * for all lanes, so that packed strips can lie in its order.
 */
#define BAND_BYTES ((size_t)(128 << 10))
#define BAND_LANES ((size_t)128)

static size_t band_rows(size_t rows, size_t depth) {
    const size_t most = BAND_BYTES / (BAND_LANES * sizeof(real));
    if (depth <= DENSE_DEPTH || rows <= most)
        return rows;
    const size_t bands = (rows + most - 1) / most, even = (rows + bands - 1) / bands;
    return (even + MAX_ROWS - 1) / MAX_ROWS * MAX_ROWS;
}

/*
 * Strip after strip, A comes from the first cache and B, over all lanes, from L2. Block after block it is the other way round, which needs A as one stream, and is the
 * less to read: MAX_ROWS numbers for each BLOCK_LANES. With vectors of 64 bytes a link computes for so long that L2 keeps up with either.
 */
static inline bool block_after_block(const product *p, size_t rows, const lane_map *map) {
    return VEC_BYTES < 64 && p->packed && p->chains == 1 && rows * p->depth > FIRST_CACHE && map->vectors > BLOCK_VECS;
}

/* One chunk of the depth of a band; `bias` of its first row, or NULL. */
static void run_blocks_of_band(product *p, size_t rows, const real *bias, const lane_map *map, const real *A, const real *B, real *C) {
    for (size_t v = 0, nv; v < map->vectors; v += nv) {
        nv = smaller(map->vectors - v, BLOCK_VECS);
        const real *b = B + lanes_at(v, map->b_panel), *a = A;
        real *c = C + lanes_at(v, map->c_panel);
        for (size_t j = 0, strip; j < rows; j += strip) {
            strip = strip_rows(rows - j);
            const block_row *f = &R(block_table)[strip];
            p->bias = bias ? bias + j : NULL;
            p->a_depth = strip;
            (nv == BLOCK_VECS ? f->packed : f->half)(p, a, &b, &c);
            a += strip * p->depth;
            c += strip * PANEL;
        }
    }
}

VEC_INLINE void run_strips_of_band(product *p, size_t rows, const real *bias, const factor *A, const lane_map *map, const real *a, const real *B, real *C) {
    const size_t chains = p->chains;
    for (size_t j = 0, strip; j < rows; j += strip) {
        strip = chained_strip(rows - j, chains);
        if (bias)
            p->bias = bias + j;
        if (A->packed)
            p->a_depth = strip;
        if (A->fetched)
            fetch_rows(TO_FIRST_CACHE, smaller(rows - j - strip, MAX_ROWS), A->row, p->depth, a + strip * A->row);
        if (chains > 1)
            R(run_chained_strip)(p, strip, map, a, B, C + j * PANEL);
        else
            run_strip(p, strip, map, a, B, C + j * PANEL);
        a += strip * (A->packed ? p->depth : A->row);
    }
}

/* A band: C[0..rows)[lanes] = start + A B over the whole depth, also when that is 0. `a` is where its part of A begins. */
VEC_INLINE void run_band(product *p, size_t rows, const real *bias, bool sloped, size_t depth, const factor *A, const lane_map *map, const real *a, const real *B,
                         real *C) {
    for (size_t k = 0;;) {
        p->depth = smaller(depth - k, DENSE_DEPTH);
        p->sloped = sloped && k + p->depth == depth;
        if (block_after_block(p, rows, map))
            run_blocks_of_band(p, rows, bias, map, a, B, C);
        else
            run_strips_of_band(p, rows, bias, A, map, a, B, C);
        k += p->depth;
        if (k >= depth)
            return;
        p->start = START_MEMORY;
        a += p->depth * (A->packed ? rows : A->depth);
        B += p->depth * PANEL;
    }
}

/* C[0..rows)[lanes] = start + A B. */
VEC_INLINE void run_product(product *p, size_t rows, size_t depth, const factor *A, const lane_map *map, const real *B, real *C) {
    if (0 < depth && depth <= SHALLOW_DEPTH && !A->packed && p->start != START_MEMORY) {
        shallow_product(rows, depth, p, A, map, B, C);
        return;
    }
    p->packed = A->packed;
    p->a_row = A->row; /* 1 where it is packed */
    p->a_depth = A->depth;
    const enum chain_start start = p->start;
    const real *const bias = p->bias;
    const bool sloped = p->sloped;
    const size_t band = band_rows(rows, depth);
    for (size_t first = 0, count; first < rows; first += count) {
        count = smaller(rows - first, band);
        p->start = start;
        run_band(p, count, bias ? bias + first : NULL, sloped, depth, A, map, A->at + first * (A->packed ? depth : A->row), B, C + first * PANEL);
    }
}

VEC_INLINE void pack_strip(size_t strip, size_t depth, const real *a, size_t row, size_t step, real *packed) {
    for (size_t d = 0; d < depth; d++, a += step, packed += strip) {
        for (size_t i = 0; i < strip; i++)
            packed[i] = a[i * row];
    }
}

/* A band of A for run_band, strip after strip as it reads them. */
static void pack_band(size_t rows, size_t depth, const real *a, size_t row, size_t step, size_t chains, real *packed) {
    for (size_t k = 0, chunk; k < depth; k += chunk) {
        chunk = smaller(depth - k, DENSE_DEPTH);
        for (size_t j = 0, strip; j < rows; j += strip) {
            strip = chained_strip(rows - j, chains);
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

/* The bands of A for run_product. */
static void pack_bands(size_t rows, size_t depth, const real *a, size_t row, size_t step, size_t chains, real *packed) {
    const size_t band = band_rows(rows, depth);
    for (size_t first = 0, count; first < rows; first += count) {
        count = smaller(rows - first, band);
        pack_band(count, depth, a + first * row, row, step, chains, packed + first * depth);
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
    product p = {.start = bias ? START_BIAS : START_ZERO, .chains = dense_chains(out, in), .segments = 1, .b_row = PANEL, .c_row = PANEL, .bias = bias};
    run_product(&p, out, in, A, &map, X, Y);
}

void R(dense_forward)(size_t out, size_t in, const real *W, const real *bias, size_t panels, const real *X, size_t x_stride,
                      real *Y, size_t y_stride, size_t lanes) {
    const factor A = {.at = W, .row = in, .depth = 1, .fetched = fetches(out, in, FETCH_BYTES)};
    forward(out, in, &A, bias, panels, X, x_stride, Y, y_stride, lanes);
}

void R(dense_pack_forward)(size_t out, size_t in, const real *W, real *packed) { pack_bands(out, in, W, in, 1, dense_chains(out, in), packed); }

void R(dense_packed_forward)(size_t out, size_t in, const real *packed, const real *bias, size_t panels, const real *X, size_t x_stride,
                             real *Y, size_t y_stride, size_t lanes) {
    const factor A = {.at = packed, .row = 1, .packed = true};
    forward(out, in, &A, bias, panels, X, x_stride, Y, y_stride, lanes);
}

static product input_product(int accumulate, const real *dX, const real *slope) {
    return (product){.start = accumulate ? START_MEMORY : START_ZERO,
                     .chains = 1,
                     .segments = 1,
                     .b_row = PANEL,
                     .c_row = PANEL,
                     .sloped = slope != NULL,
                     .slope = slope ? (uintptr_t)slope - (uintptr_t)dX : 0};
}

/* A band of the input's cotangent with some columns packed at a time: see PACKED_COLUMNS. */
static void packing_backward_input(size_t out, size_t columns, const real *W, size_t w_stride, const lane_map *map, const real *dY,
                                   real *dX, int accumulate, const real *slope) {
    real packed[DENSE_DEPTH * PACKED_COLUMNS];
    const factor A = {.at = packed, .row = 1, .packed = true};
    for (size_t j = 0, depth; j < out; j += depth) {
        depth = smaller(out - j, DENSE_DEPTH);
        for (size_t k = 0, count; k < columns; k += count) {
            count = smaller(columns - k, PACKED_COLUMNS);
            if (count == PACKED_COLUMNS)
                pack_columns(depth, W + j * w_stride + k, w_stride, packed);
            else
                pack_band(count, depth, W + j * w_stride + k, 1, w_stride, 1, packed);
            product p = input_product(accumulate || j > 0, dX, j + depth == out ? slope : NULL);
            run_product(&p, count, depth, &A, map, dY + j * PANEL, dX + k * PANEL);
        }
    }
}

void R(dense_backward_input_range)(size_t out, size_t columns, const real *W, size_t w_stride, size_t panels, const real *dY,
                                   size_t y_stride, real *dX, size_t x_stride, int accumulate, const real *slope) {
    const lane_map map = {panels * PANEL_VECS, y_stride, x_stride};
    const factor A = {.at = W, .row = 1, .depth = w_stride};
    product p = input_product(accumulate, dX, slope);
    if (VEC_BYTES == 64 || panels <= 1 || w_stride < PACKED_STRIDE || out * w_stride <= FIRST_CACHE) {
        run_product(&p, columns, out, &A, &map, dY, dX);
        return;
    }
    const size_t band = band_rows(columns, out);
    for (size_t first = 0, count; first < columns; first += count) {
        count = smaller(columns - first, band);
        packing_backward_input(out, count, W + first, w_stride, &map, dY, dX + first * PANEL, accumulate, slope ? slope + first * PANEL : NULL);
    }
}

void R(dense_backward_input)(size_t out, size_t in, const real *W, size_t panels, const real *dY, size_t y_stride, real *dX,
                             size_t x_stride, int accumulate, const real *slope) {
    R(dense_backward_input_range)(out, in, W, in, panels, dY, y_stride, dX, x_stride, accumulate, slope);
}

void R(dense_pack_backward)(size_t out, size_t in, const real *W, real *packed) { pack_bands(in, out, W, 1, in, 1, packed); }

void R(dense_packed_backward_input)(size_t out, size_t in, const real *packed, size_t panels, const real *dY, size_t y_stride, real *dX,
                                    size_t x_stride, int accumulate, const real *slope) {
    const lane_map map = {panels * PANEL_VECS, y_stride, x_stride};
    const factor A = {.at = packed, .row = 1, .packed = true};
    product p = input_product(accumulate, dX, slope);
    run_product(&p, in, out, &A, &map, dY, dX);
}
