/*
 * One row of a small net, in registers from its input to its output: what one row waits for is not the arithmetic, but one layer for what another stored,
 * and in a chain every link for the one before.
 *
 * The chains of an output stand side by side in a vector of sums, so that two links of each, or four, take one product with so many values of the layer
 * below, repeated: which a shuffle or two make of the register that these are in.
 */
#include "engine/kernels/dense_row.h"
#include "engine/kernels/gelu_lookup.h"
#include "engine/nets/mlp.h"

#if GELU_LOOKUP

#define WIDEST ((size_t)32)
_Static_assert(WIDEST * sizeof(real) == CHAINED_BYTES && WIDEST == 2 * VEC_LANES, "all layers but the first have sums of two or four chains");

/* Vectors of sums: four outputs of four chains; a vector of outputs of two chains, or two. */
static size_t sum_vectors(size_t out) { return out <= FOUR_CHAINS ? 1 : out <= VEC_LANES ? 2 : 4; }

/* Columns of W that one line of it holds. */
static size_t line_columns(size_t out) { return out <= FOUR_CHAINS ? 4 : 2; }

static size_t packed_layer(size_t out, size_t in) { return (in / line_columns(out) + 1) * sum_vectors(out) * VEC_LANES; }

bool R(mlp_is_small)(const nf_net *net) {
    if (!nf_net_is_gelu(net) || net->hidden.count == 0 || net->outputs > WIDEST)
        return false;
    for (size_t j = 0; j < net->hidden.count; j++) {
        const size_t width = net->hidden.items[j];
        if (width < CHAINED_DEPTH || width > WIDEST || width % 4 != 0)
            return false;
    }
    return true;
}

size_t R(mlp_small_packed)(const nf_net *net) {
    size_t size = dense_rows_packed(net->hidden.items[0], net->inputs);
    for (size_t j = 1; j < nf_net_layer_count(net); j++)
        size += packed_layer(nf_net_layer_outputs(net, j), nf_net_layer_inputs(net, j));
    return size;
}

/* The output whose sum, and the chain of which, is in a lane of vector `of`: chosen so that folding leaves the outputs in their order. */
static size_t output_of(size_t out, size_t of, size_t lane, size_t *chain) {
    if (out <= FOUR_CHAINS) {
        *chain = lane / 4;
        return lane % 4;
    }
    *chain = lane % 2;
    return of / 2 * VEC_LANES + lane / 4 * 4 + of % 2 * 2 + lane % 4 / 2;
}

/* The bias, which the first chains start with, and then some columns at a time. */
static void pack_layer(size_t out, size_t in, const real *W, const real *bias, real *packed) {
    const size_t vectors = sum_vectors(out), columns = line_columns(out);
    for (size_t k = 0; k <= in; k += columns)
        for (size_t of = 0; of < vectors; of++)
            for (size_t lane = 0; lane < VEC_LANES; lane++, packed++) {
                size_t chain;
                const size_t j = output_of(out, of, lane, &chain);
                if (j >= out)
                    *packed = 0;
                else if (k == 0)
                    *packed = chain == 0 ? bias[j] : 0;
                else
                    *packed = W[j * in + k - columns + chain];
            }
}

void R(mlp_small_pack)(const nf_net *net, const real *theta, real *packed) {
    for (size_t j = 0; j < nf_net_layer_count(net); j++) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
        if (j == 0) {
            R(dense_rows_pack)(m, n, theta, theta + m * n, packed);
            packed += dense_rows_packed(m, n);
        } else {
            pack_layer(m, n, theta, theta + m * n, packed);
            packed += packed_layer(m, n);
        }
        theta += m * n + m;
    }
}

/* Four lanes of h in all quarters of a vector; and of these one, or another, half twice. */
#define QUARTER(h, quarter) _mm512_shuffle_f32x4((__m512)(h), (__m512)(h), (quarter) * 0x55)
#define PAIR(four, half) (vec) _mm512_permute_ps(four, (half) ? 0xee : 0x44)

VEC_INLINE void link_lines(const int vectors, vec values, const real *weights, vec *sum) {
    VEC_UNROLL for (int v = 0; v < vectors; v++) sum[v] = vec_madd(values, vec_load(weights + v * VEC_LANES), sum[v]);
}

/* The sums of the even links and of the odd ones, which are neighbours, added. */
VEC_INLINE vec fold_pairs(vec a, vec b) {
    return (vec)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x88) + (vec)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xdd);
}

/* Those of four chains, which are a quarter each: to lanes 0 to 3. */
VEC_INLINE vec fold_quarters(vec a) {
    a = a + (vec)_mm512_shuffle_f32x4((__m512)a, (__m512)a, 0xee);
    return a + (vec)_mm512_shuffle_f32x4((__m512)a, (__m512)a, 0x55);
}

/* From `in` values in h to the sums of the next layer, in h. `vectors` is a constant where this is inlined. */
VEC_INLINE void next_layer(const int vectors, size_t in, const real *packed, vec h[2]) {
    const int line = vectors * VEC_LANES;
    const __m512i each = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    vec sum[4];
    VEC_UNROLL for (int v = 0; v < vectors; v++) sum[v] = vec_load(packed + v * VEC_LANES);
    packed += line;
#define QUARTER_LINKS(of, quarter)                                                              \
    if (in <= (of) * VEC_LANES + 4 * (quarter))                                                 \
        goto fold;                                                                              \
    {                                                                                           \
        const __m512 four = QUARTER(h[of], quarter);                                            \
        if (vectors == 1) {                                                                     \
            link_lines(1, (vec)_mm512_permutevar_ps(four, each), packed, sum);                  \
        } else {                                                                                \
            link_lines(vectors, PAIR(four, 0), packed, sum);                                    \
            link_lines(vectors, PAIR(four, 1), packed + line, sum);                             \
            packed += line;                                                                     \
        }                                                                                       \
        packed += line;                                                                         \
    }
    QUARTER_LINKS(0, 0)
    QUARTER_LINKS(0, 1)
    QUARTER_LINKS(0, 2)
    QUARTER_LINKS(0, 3)
    QUARTER_LINKS(1, 0)
    QUARTER_LINKS(1, 1)
    QUARTER_LINKS(1, 2)
    QUARTER_LINKS(1, 3)
fold:
    h[0] = vectors == 1 ? fold_quarters(sum[0]) : fold_pairs(sum[0], sum[1]);
    if (vectors == 4)
        h[1] = fold_pairs(sum[2], sum[3]);
}

VEC_INLINE void activate_row(size_t width, vec h[2]) {
    h[0] = gelu_value(h[0], gelu_prepare(h[0]));
    if (width > VEC_LANES)
        h[1] = gelu_value(h[1], gelu_prepare(h[1]));
}

/* Its loops and jumps lie as they did when it was measured: 16 bytes further on a row of eight couplings takes 4 % longer. */
__attribute__((aligned(64))) void R(mlp_small_forward)(const nf_net *net, const real *packed, const real *x, real *y) {
    const size_t layers = nf_net_layer_count(net);
    size_t width = net->hidden.items[0];
    vec h[2] = {vec_zero(), vec_zero()};
    const bool two = width > VEC_LANES, chained = dense_chains(width, net->inputs) > 1;
    if (two && chained)
        row_sums(2, 2, net->inputs, packed, x, h);
    else if (two)
        row_sums(2, 1, net->inputs, packed, x, h);
    else if (chained)
        row_sums(1, 2, net->inputs, packed, x, h);
    else
        row_sums(1, 1, net->inputs, packed, x, h);
    packed += dense_rows_packed(width, net->inputs);
    for (size_t j = 1; j < layers; j++) {
        activate_row(width, h);
        const size_t next = nf_net_layer_outputs(net, j);
        switch (sum_vectors(next)) {
        case 1:
            next_layer(1, width, packed, h);
            break;
        case 2:
            next_layer(2, width, packed, h);
            break;
        default:
            next_layer(4, width, packed, h);
        }
        packed += packed_layer(next, width);
        width = next;
    }
    vec_store(y, h[0]);
    if (width > VEC_LANES)
        vec_store(y + VEC_LANES, h[1]);
}

#else

bool R(mlp_is_small)(const nf_net *net) {
    (void)net;
    return false;
}

size_t R(mlp_small_packed)(const nf_net *net) {
    (void)net;
    return 0;
}

void R(mlp_small_pack)(const nf_net *net, const real *theta, real *packed) {
    (void)net;
    (void)theta;
    (void)packed;
}

void R(mlp_small_forward)(const nf_net *net, const real *packed, const real *x, real *y) {
    (void)net;
    (void)packed;
    (void)x;
    (void)y;
}

#endif
