/* One row times a few vectors of columns, held in registers. */
#ifndef NF_ENGINE_KERNELS_DENSE_ROW_H
#define NF_ENGINE_KERNELS_DENSE_ROW_H

#include "engine/kernels/block.h"

/*
 * sum[v] = a piece of the bias + x times `nv` vectors of columns, which follow each other from `packed` on as R(dense_rows_pack) leaves them: the
 * bias, then one line for each input. In the chains of dense_forward: dense_chains(out, in). nv and `chains` are constants where this is inlined.
 */
VEC_INLINE void row_sums(const int nv, const int chains, size_t in, const real *packed, const real *x, vec *to) {
    vec sum[4 * MAX_BLOCKS * BLOCK_VECS]; /* chain after chain */
    VEC_UNROLL for (int v = 0; v < nv; v++) sum[v] = vec_load(packed + v * VEC_LANES);
    packed += nv * VEC_LANES;
    for (size_t k = 0, end; k < in; k = end) {
        end = chains > 1 ? smaller(in, k + DENSE_DEPTH) : in;
        if (chains > 1) {
            VEC_UNROLL for (int v = nv; v < chains * nv; v++) sum[v] = vec_zero();
            for (; k + (size_t)chains <= end; k += (size_t)chains)
                VEC_UNROLL for (int g = 0; g < chains; g++, packed += nv * VEC_LANES) {
                    const vec xk = vec_set1(x[k + (size_t)g]);
                    VEC_UNROLL for (int v = 0; v < nv; v++) sum[g * nv + v] = vec_madd(xk, vec_load(packed + v * VEC_LANES), sum[g * nv + v]);
                }
            VEC_UNROLL for (int half = chains / 2; half > 0; half /= 2) {
                VEC_UNROLL for (int v = 0; v < half * nv; v++) sum[v] = sum[v] + sum[half * nv + v];
            }
        }
        for (; k < end; k++, packed += nv * VEC_LANES) {
            const vec xk = vec_set1(x[k]);
            VEC_UNROLL for (int v = 0; v < nv; v++) sum[v] = vec_madd(xk, vec_load(packed + v * VEC_LANES), sum[v]);
        }
    }
    VEC_UNROLL for (int v = 0; v < nv; v++) to[v] = sum[v];
}

#endif
