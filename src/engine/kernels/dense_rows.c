/* Products of a few rows, from weights that are packed for it. */
#include "engine/kernels/dense_row.h"
#include "engine/kernels/gelu_lookup.h"

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

/* One row times a block of `nv` vectors of columns; then GELU of it where `gelu`. */
VEC_INLINE void run_one_row(const int nv, const int chains, const bool gelu, size_t in, const real *packed, const real *x, real *y) {
    vec sum[MAX_BLOCKS * BLOCK_VECS];
    row_sums(nv, chains, in, packed, x, sum);
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
VEC_INLINE bool one_row(const bool gelu, size_t vectors, size_t chains, size_t in, const real *packed, const real *x, real *y) {
    switch (10 * vectors + chains) {
#define ONE_ROW(vectors, chains)                              \
    case 10 * (vectors) + (chains):                           \
        run_one_row(vectors, chains, gelu, in, packed, x, y); \
        return true
        ONE_ROW(1, 1);
        ONE_ROW(1, 2);
        ONE_ROW(1, 4);
        ONE_ROW(2, 1);
        ONE_ROW(2, 2);
        ONE_ROW(2, 4);
        ONE_ROW(4, 1);
        ONE_ROW(4, 2);
        ONE_ROW(4, 4);
        ONE_ROW(8, 1);
        ONE_ROW(8, 2);
    default:
        return false;
    }
}

/* All rows times a block of columns, a strip of them at a time. */
static void run_rows(size_t columns, size_t chains, size_t in, const real *packed, size_t rows, const real *x, size_t x_stride, real *y, size_t y_stride) {
    const lane_map map = {columns / VEC_LANES, PANEL, PANEL};
    product p = {.start = START_COLUMN, .chains = chains, .segments = 1, .a_row = x_stride, .a_depth = 1, .b_row = columns, .c_row = y_stride};
    packed += columns;
    size_t k = 0;
    do {
        p.depth = chains > 1 ? smaller(in - k, DENSE_DEPTH) : in;
        for (size_t i = 0, strip; i < rows; i += strip) {
            strip = chained_strip(rows - i, chains);
            if (chains > 1)
                R(run_chained_strip)(&p, strip, &map, x + i * x_stride + k, packed + k * columns, y + i * y_stride);
            else
                run_strip(&p, strip, &map, x + i * x_stride, packed, y + i * y_stride);
        }
        p.start = START_MEMORY;
        k += p.depth;
    } while (k < in);
}

/* The same, a row at a time: false where one_row() does not know this width. */
static bool run_each(size_t columns, size_t chains, size_t in, const real *packed, size_t rows, const real *x, size_t x_stride, real *y, size_t y_stride) {
    for (size_t i = 0; i < rows; i++)
        if (!one_row(false, columns / VEC_LANES, chains, in, packed, x + i * x_stride, y + i * y_stride))
            return false;
    return true;
}

void R(dense_rows_forward)(size_t out, size_t in, const real *packed, size_t rows, const real *x, size_t x_stride, real *y,
                           size_t y_stride) {
    const size_t width = dense_rows_width(out), chains = dense_chains(out, in);
    const bool alone = rows == 1 || chains == 4; /* of four outputs rows have too little in common to go together */
    for (size_t j = 0, columns; j < width; j += columns, packed += columns * (in + 1)) {
        columns = smaller(width - j, ROWS_COLUMNS);
        if (!alone || !run_each(columns, chains, in, packed, rows, x, x_stride, y + j, y_stride))
            run_rows(columns, chains, in, packed, rows, x, x_stride, y + j, y_stride);
    }
}

bool R(dense_row_gelu)(size_t out, size_t in, const real *packed, const real *x, real *y) {
    const size_t vectors = dense_rows_width(out) / VEC_LANES;
    return GELU_LOOKUP && vectors <= 4 && one_row(true, vectors, dense_chains(out, in), in, packed, x, y);
}
