/*
 * The products of dense layers, on samples that stand in panels of PANEL lanes.
 *
 * An activation matrix is X[panel][feature][PANEL]: aligned to 64 bytes, features contiguous within a panel, and
 * `x_stride` reals (a multiple of PANEL) from one panel to the next. Weights are W[out][in], row-major, as they stand in the
 * flat parameter vector: neither aligned nor packed. No argument may overlap another one that is written.
 *
 * The order of summation is part of the contract: it depends on the shape of the layer only, so a sample gets the same bits
 * in every lane, in every company, and from dense_rows_forward. All sums are chains of madd().
 */
#ifndef NF_ENGINE_KERNELS_DENSE_H
#define NF_ENGINE_KERNELS_DENSE_H

#include <stdbool.h>

#include "engine/kernels/simd.h"
#include "engine/pieces.h"
#include "engine/real.h"

/* Output rows that are held in registers together. */
#if VEC_BYTES == 64
#define DENSE_STRIP 12
#elif VEC_BYTES == 32
#define DENSE_STRIP 6
#elif defined(__aarch64__)
#define DENSE_STRIP 8
#else
#define DENSE_STRIP 4
#endif

/*
 * The chains of a sum of the forward product. The outputs of a small layer are so few vectors of one row that each link of a chain would wait for the one
 * before; there are two or four side by side, link k in chain k modulo their number. After each DENSE_DEPTH links, and at the end, the second half of the
 * chains is added to the first until one is left; then follow the links that were too few for all.
 */
#define DENSE_DEPTH ((size_t)128)
#define CHAINED_BYTES 128 /* a row of so many outputs has two chains, */
#define FOUR_CHAINS 4     /* and of so many outputs four, */
#define CHAINED_DEPTH 8   /* from so many links on */

static inline size_t dense_chains(size_t out, size_t in) {
    if (in < CHAINED_DEPTH || out > CHAINED_BYTES / sizeof(real))
        return 1;
    return out > FOUR_CHAINS ? 2 : 4;
}

/*
 * Y[j][lane] = bias[j] + sum_k W[j][k] X[k][lane]: dense_chains(out, in) chains of madd, the first from the bias (from 0 when bias is NULL), k ascending.
 * `lanes` (1..PANEL) lanes of the last panel are computed; its other lanes may hold anything afterwards.
 */
void R(dense_forward)(size_t out, size_t in, const real *W, const real *bias, size_t panels, const real *X, size_t x_stride,
                      real *Y, size_t y_stride, size_t lanes);

/*
 * dX[k][lane] = sum_j W[j][k] dY[j][lane]: one chain of madd, j ascending, from 0, or from what dX holds when `accumulate`.
 * The chain for k does not depend on the other columns, so a range of inputs [k0, k1) can be had with
 * R(dense_backward_input_range): the rows of W are then `w_stride` apart. `slope`, laid out as dX, or NULL: what the sums are multiplied by.
 */
void R(dense_backward_input)(size_t out, size_t in, const real *W, size_t panels, const real *dY, size_t y_stride, real *dX,
                             size_t x_stride, int accumulate, const real *slope);
void R(dense_backward_input_range)(size_t out, size_t columns, const real *W, size_t w_stride, size_t panels, const real *dY,
                                   size_t y_stride, real *dX, size_t x_stride, int accumulate, const real *slope);

/*
 * The same two products from weights that were packed, in * out reals, into the strips that stay in registers together: to the
 * same bits, and W is read as one stream. Packing costs about what a tile of 128 samples gains by it.
 */
void R(dense_pack_forward)(size_t out, size_t in, const real *W, real *packed);
void R(dense_packed_forward)(size_t out, size_t in, const real *packed, const real *bias, size_t panels, const real *X, size_t x_stride,
                             real *Y, size_t y_stride, size_t lanes);
void R(dense_pack_backward)(size_t out, size_t in, const real *W, real *packed);
void R(dense_packed_backward_input)(size_t out, size_t in, const real *packed, size_t panels, const real *dY, size_t y_stride, real *dX,
                                    size_t x_stride, int accumulate, const real *slope);

/*
 * dW[j][k] += sum dY[j][lane] X[k][lane] and dbias[j] += sum dY[j][lane] (unless dbias is NULL), over all lanes of all
 * panels, in an order that depends on (out, in, panels) only; with `fresh` what stood there is not read, and taken for 0. Lanes that hold no sample must be 0 in dY and finite in X.
 * `scratch` holds dense_weights_scratch(out, in, panels) reals, aligned.
 */
void R(dense_backward_weights)(size_t out, size_t in, size_t panels, const real *dY, size_t y_stride, const real *X,
                               size_t x_stride, real *scratch, real *dW, real *dbias, bool fresh);
size_t R(dense_weights_scratch)(size_t out, size_t in, size_t panels);

/*
 * The same layer for a few samples, with the features in the lanes: for the latency of one row.
 * R(dense_rows_pack) writes bias and W transposed, padded with zeros, to `packed`: dense_rows_packed(out, in) reals, aligned.
 * Then y[row][j] for j < dense_rows_width(out) has the bits of dense_forward; beyond `out` it is 0 for finite x.
 * x and y are one row after another, x_stride and y_stride reals apart; y is aligned, y_stride a multiple of 64 bytes and
 * at least dense_rows_width(out).
 */
static inline size_t dense_rows_width(size_t out) { return aligned_reals(out); }
static inline size_t dense_rows_packed(size_t out, size_t in) { return dense_rows_width(out) * (in + 1); }
void R(dense_rows_pack)(size_t out, size_t in, const real *W, const real *bias, real *packed);
void R(dense_rows_forward)(size_t out, size_t in, const real *packed, size_t rows, const real *x, size_t x_stride, real *y,
                           size_t y_stride);
/* GELU of such a layer, for one row: its sums meet it in registers. False, and nothing done, where this build or this width has no loop for it. */
bool R(dense_row_gelu)(size_t out, size_t in, const real *packed, const real *x, real *y);

#endif
