#include "engine/kernels/block.h"

/* Links of the chains from one jump to the next: the loop's own instructions, and the jump out of it, cost a tenth of the time. By measurement. */
#if defined(__clang__)
#define UNROLL_LINKS _Pragma("clang loop unroll_count(8)")
#else
#define UNROLL_LINKS _Pragma("GCC unroll 8")
#endif

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

/*
 * Run `nb` blocks of `mr` x `nv` vectors, and with `late` fetch C before the last segment. mr, nv, nb, `packed` and `late` are constants where this is inlined,
 * and all its arrays registers.
 */
VEC_INLINE void run_blocks(const int mr, const int nv, const int nb, const bool packed, const bool late, const product *p, const real *a,
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

    if (p->sloped) /* at hand when the chains end */
        VEC_UNROLL for (int i = 0; i < mr; i++) {
            VEC_UNROLL for (int v = 0; v < nb * nv; v++) __builtin_prefetch(slope_of(c[v / nv] + (size_t)i * c_row + v % nv * VEC_LANES, p->slope));
        }
    for (size_t s = p->segments; s > 0; s--) {
        const real *ak = a;
        if (late && s == 1)
            VEC_UNROLL for (int i = 0; i < mr; i++) {
                VEC_UNROLL for (int v = 0; v < nb * nv; v++) __builtin_prefetch(c[v / nv] + (size_t)i * c_row + v % nv * VEC_LANES, 1);
            }
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
    } else if (p->sloped) {
        const uintptr_t slope = p->slope;
        VEC_UNROLL for (int i = 0; i < mr; i++) {
            VEC_UNROLL for (int v = 0; v < nb * nv; v++) {
                real *to = c[v / nv] + v % nv * VEC_LANES;
                vec_store(to, vec_load(slope_of(to, slope)) * sum[i][v]);
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

/* A block of `mr` x `nv` vectors whose sums are `chains` chains side by side, all constants where this is inlined: chain after chain in `sum`. */
VEC_INLINE void run_chains(const int chains, const int mr, const int nv, const product *p, const real *a, const real *b, real *c) {
    const enum chain_start start = p->start;
    const size_t a_row = p->a_row, a_depth = p->a_depth, b_row = p->b_row, count = p->depth / (size_t)chains;
    size_t c_row = p->c_row;
    vec sum[MAX_ROWS][MAX_BLOCKS * BLOCK_VECS], bk[BLOCK_VECS];
    if (start == START_BIAS) {
        VEC_UNROLL for (int i = 0; i < mr; i++) { VEC_UNROLL for (int v = 0; v < nv; v++) sum[i][v] = vec_set1(p->bias[i]); }
    } else if (start == START_COLUMN) {
        VEC_UNROLL for (int i = 0; i < mr; i++) { VEC_UNROLL for (int v = 0; v < nv; v++) sum[i][v] = vec_load(b - b_row + v * VEC_LANES); }
    } else if (start == START_MEMORY) {
        VEC_UNROLL for (int i = 0; i < mr; i++) { VEC_UNROLL for (int v = 0; v < nv; v++) sum[i][v] = vec_load(c + (size_t)i * c_row + v * VEC_LANES); }
    } else {
        VEC_UNROLL for (int i = 0; i < mr; i++) { VEC_UNROLL for (int v = 0; v < nv; v++) sum[i][v] = vec_zero(); }
    }
    VEC_UNROLL for (int i = mr; i < chains * mr; i++) { VEC_UNROLL for (int v = 0; v < nv; v++) sum[i][v] = vec_zero(); }
    for (size_t k = count; k > 0; k--) {
        VEC_UNROLL for (int g = 0; g < chains; g++, a += a_depth, b += b_row) {
            VEC_UNROLL for (int v = 0; v < nv; v++) bk[v] = vec_held(vec_load(b + v * VEC_LANES));
            VEC_UNROLL for (int i = 0; i < mr; i++) {
                const vec ai = vec_set1(a[(size_t)i * a_row]);
                VEC_UNROLL for (int v = 0; v < nv; v++) sum[g * mr + i][v] = vec_madd(ai, bk[v], sum[g * mr + i][v]);
            }
        }
    }
    VEC_UNROLL for (int half = chains / 2; half > 0; half /= 2) {
        VEC_UNROLL for (int i = 0; i < half * mr; i++) {
            VEC_UNROLL for (int v = 0; v < nv; v++) sum[i][v] = sum[i][v] + sum[half * mr + i][v];
        }
    }
    for (size_t k = p->depth % (size_t)chains; k > 0; k--)
        run_link(mr, nv, 1, &a, a_row, a_depth, &b, b_row, sum);
    __asm__("" : "+r"(c_row)); /* as above */
    VEC_UNROLL for (int i = 0; i < mr; i++) {
        VEC_UNROLL for (int v = 0; v < nv; v++) vec_store(c + v * VEC_LANES, sum[i][v]);
        c += c_row;
    }
}

#define DEFINE_CHAINS(chains, mr, nv)                                                                                          \
    static void chains_##chains##_##mr##_##nv(const product *p, const real *a, const real *const *b, real *const *c) {         \
        run_chains(chains, mr, nv, p, a, *b, *c);                                                                              \
    }
#define DEFINE_CHAIN_ROWS(chains, mr) DEFINE_CHAINS(chains, mr, 2) DEFINE_CHAINS(chains, mr, 1)
DEFINE_CHAIN_ROWS(2, 1)
DEFINE_CHAIN_ROWS(2, 2)
DEFINE_CHAIN_ROWS(4, 1)
#if MAX_ROWS > 4
DEFINE_CHAIN_ROWS(2, 3)
#endif
#if MAX_ROWS > 6
DEFINE_CHAIN_ROWS(2, 4)
DEFINE_CHAIN_ROWS(4, 2)
#endif
#if MAX_ROWS > 8
DEFINE_CHAIN_ROWS(2, 5)
DEFINE_CHAIN_ROWS(2, 6)
DEFINE_CHAIN_ROWS(4, 3)
#endif

/* clang-format off */
#define CHAINS_ENTRY(chains, mr) {chains_##chains##_##mr##_1, chains_##chains##_##mr##_2}
const chained_row R(two_chains)[MAX_ROWS / 2 + 1] = {
    {NULL, NULL},
    CHAINS_ENTRY(2, 1),
    CHAINS_ENTRY(2, 2),
#if MAX_ROWS > 4
    CHAINS_ENTRY(2, 3),
#endif
#if MAX_ROWS > 6
    CHAINS_ENTRY(2, 4),
#endif
#if MAX_ROWS > 8
    CHAINS_ENTRY(2, 5),
    CHAINS_ENTRY(2, 6),
#endif
};
const chained_row R(four_chains)[MAX_ROWS / 4 + 1] = {
    {NULL, NULL},
    CHAINS_ENTRY(4, 1),
#if MAX_ROWS > 6
    CHAINS_ENTRY(4, 2),
#endif
#if MAX_ROWS > 8
    CHAINS_ENTRY(4, 3),
#endif
};
/* clang-format on */

#define DEFINE_BLOCKS(mr, nv, nb)                                                                                              \
    static void blocks_##mr##_##nv##_##nb(const product *p, const real *a, const real *const *b, real *const *c) {             \
        run_blocks(mr, nv, nb, false, false, p, a, b, c);                                                                      \
    }
#define DEFINE_PACKED(mr)                                                                                                      \
    static void packed_##mr(const product *p, const real *a, const real *const *b, real *const *c) {                           \
        run_blocks(mr, 2, 1, true, false, p, a, b, c);                                                                         \
    }
void R(run_late_block)(const product *p, const real *a, const real *b, real *c) { run_blocks(MAX_ROWS, BLOCK_VECS, 1, false, true, p, a, &b, &c); }
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

/* clang-format off */
#define ROWS_ENTRY(mr, two, four) {blocks_##mr##_1_1, blocks_##mr##_2_1, packed_##mr, two, four}
const block_row R(block_table)[MAX_ROWS + 1] = {
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

static void set_blocks(const lane_map *map, size_t first, size_t count, const real *b, real *c, const real **b_of,
                       real **c_of) {
    for (size_t i = 0; i < count; i++) {
        const size_t v = (first + i) * BLOCK_VECS;
        b_of[i] = b + lanes_at(v, map->b_panel);
        c_of[i] = c + lanes_at(v, map->c_panel);
    }
}

void R(run_wide_strip)(const product *p, const block_row *f, const lane_map *map, const real *a, const real *b, real *c) {
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

void R(run_chained_strip)(const product *p, size_t rows, const lane_map *map, const real *a, const real *b, real *c) {
    const chained_row *f = p->chains == 2 ? &R(two_chains)[rows] : &R(four_chains)[rows];
    const real *b_of;
    real *c_of;
    for (size_t i = 0; i < map->vectors / BLOCK_VECS; i++) {
        set_blocks(map, i, 1, b, c, &b_of, &c_of);
        f->one(p, a, &b_of, &c_of);
    }
    if (map->vectors % BLOCK_VECS != 0) {
        set_blocks(map, map->vectors / BLOCK_VECS, 1, b, c, &b_of, &c_of);
        f->half(p, a, &b_of, &c_of);
    }
}
