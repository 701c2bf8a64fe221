/* Products of a few rows, from weights that are packed for it. */
#include "engine/kernels/block.h"
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
