/*
 * The vector of this build, as thin as it can be: what the dense kernels need and plain C cannot say.
 *
 * `vec` holds VEC_LANES reals: 64 bytes with AVX-512, 32 with AVX, 16 elsewhere. It is a GCC vector type, so a + b, a - b
 * and a * b are written as such. vec_madd(a, b, c) has the bits of madd(a[i], b[i], c[i]) in every lane; and no function
 * here lets a result depend on VEC_LANES, so that two builds of the same precision which both have fused multiply-add give
 * the same bits.
 */
#ifndef NF_ENGINE_SIMD_H
#define NF_ENGINE_SIMD_H

#include "engine/real.h"

#if defined(__AVX512F__) && defined(__FMA__)
#define VEC_BYTES 64
#elif defined(__AVX__)
#define VEC_BYTES 32
#else
#define VEC_BYTES 16
#endif

#if defined(__FMA__) || VEC_BYTES >= 32
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* The preprocessor must know the number of lanes, and cannot evaluate sizeof. */
#if NF_SINGLE_BUILD
#define VEC_LANES (VEC_BYTES / 4)
#else
#define VEC_LANES (VEC_BYTES / 8)
#endif
#define PANEL_VECS (NF_PANEL_BYTES / VEC_BYTES)

typedef real vec __attribute__((vector_size(VEC_BYTES)));
/* The same in memory: arrays of `real` may be read through it, with the alignment of the vector or of one real. */
typedef real vec_aligned __attribute__((vector_size(VEC_BYTES), may_alias));
typedef real vec_unaligned __attribute__((vector_size(VEC_BYTES), may_alias, aligned(sizeof(real))));

static inline vec vec_load(const real *x) { return *(const vec_aligned *)(const void *)x; }
static inline vec vec_loadu(const real *x) { return *(const vec_unaligned *)(const void *)x; }
static inline void vec_store(real *x, vec a) { *(vec_aligned *)(void *)x = a; }
static inline void vec_storeu(real *x, vec a) { *(vec_unaligned *)(void *)x = a; }

/* In a register from here on: a compiler that is short of others reads memory anew for each use. */
static inline vec vec_held(vec a) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(a));
#elif defined(__x86_64__)
    __asm__("" : "+x"(a));
#endif
    return a;
}

static inline vec vec_zero(void) { return (vec){0}; }

/* An initialiser and not vec_zero() + a, which would cost an addition and turn -0 into +0. */
static inline vec vec_set1(real a) {
#if VEC_LANES == 2
    return (vec){a, a};
#elif VEC_LANES == 4
    return (vec){a, a, a, a};
#elif VEC_LANES == 8
    return (vec){a, a, a, a, a, a, a, a};
#else
    return (vec){a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a};
#endif
}

/* a * b + c, fused where madd() fuses. */
static inline vec vec_madd(vec a, vec b, vec c) {
#if !NF_HAS_FMA
    return a * b + c;
#elif defined(__FMA__) && VEC_BYTES == 64
#if NF_SINGLE_BUILD
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#endif
#elif defined(__FMA__) && VEC_BYTES == 32
#if NF_SINGLE_BUILD
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#endif
#elif defined(__aarch64__)
#if NF_SINGLE_BUILD
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#endif
#else
    for (int i = 0; i < VEC_LANES; i++)
        c[i] = madd(a[i], b[i], c[i]);
    return c;
#endif
}

/*
 * Exchange blocks of w lanes (w a power of two) between a and b: of every 2w lanes, VEC_LOWER takes the first w of a, then
 * the first w of b; VEC_UPPER the second w of each. Both the transpose and the row sums below are made of these alone.
 */
#define VEC_LOWER_INDEX(i, w) (((i) & (w)) ? VEC_LANES + (i) - (w) : (i))
#define VEC_UPPER_INDEX(i, w) (((i) & (w)) ? VEC_LANES + (i) : (i) + (w))
#if VEC_LANES == 2
#define VEC_INDICES(f, w) f(0, w), f(1, w)
#elif VEC_LANES == 4
#define VEC_INDICES(f, w) f(0, w), f(1, w), f(2, w), f(3, w)
#elif VEC_LANES == 8
#define VEC_INDICES(f, w) f(0, w), f(1, w), f(2, w), f(3, w), f(4, w), f(5, w), f(6, w), f(7, w)
#else
#define VEC_INDICES(f, w)                                                                                                      \
    f(0, w), f(1, w), f(2, w), f(3, w), f(4, w), f(5, w), f(6, w), f(7, w), f(8, w), f(9, w), f(10, w), f(11, w), f(12, w),    \
        f(13, w), f(14, w), f(15, w)
#endif
#define VEC_LOWER(a, b, w) __builtin_shufflevector(a, b, VEC_INDICES(VEC_LOWER_INDEX, w))
#define VEC_UPPER(a, b, w) __builtin_shufflevector(a, b, VEC_INDICES(VEC_UPPER_INDEX, w))

#define VEC_INLINE static inline __attribute__((always_inline))
/* Before loops of constant length over arrays of vec, so that the arrays become registers. */
#if defined(__clang__)
#define VEC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define VEC_UNROLL _Pragma("GCC unroll 16")
#endif

/* One stage of the transpose; `w` is a literal because shuffles want constants. */
#define VEC_EXCHANGE(r, w)                                                                                                     \
    VEC_UNROLL for (int i_ = 0; i_ < VEC_LANES; i_++) {                                                                        \
        if (i_ & (w))                                                                                                          \
            continue;                                                                                                          \
        const vec a_ = r[i_], b_ = r[i_ + (w)];                                                                                \
        r[i_] = VEC_LOWER(a_, b_, w);                                                                                          \
        r[i_ + (w)] = VEC_UPPER(a_, b_, w);                                                                                    \
    }

/* Transpose a square block held in registers: r[i][j] <-> r[j][i]. */
VEC_INLINE void vec_transpose(vec r[VEC_LANES]) {
#if VEC_LANES > 8
    VEC_EXCHANGE(r, 8)
#endif
#if VEC_LANES > 4
    VEC_EXCHANGE(r, 4)
#endif
#if VEC_LANES > 2
    VEC_EXCHANGE(r, 2)
#endif
    VEC_EXCHANGE(r, 1)
}

/*
 * to[j][i] = X[i][j] for i, j < VEC_LANES, rows so many reals apart: X and `to` aligned. Where halves of 32 bytes can be put together as they are loaded,
 * that is a stage of the transpose less, and shuffles within them go two at a time where those of 64 bytes go one.
 */
VEC_INLINE void vec_transpose_block(const real *X, size_t x_stride, real *to, size_t to_stride) {
#if VEC_BYTES >= 32
    enum { HALF = 32 / sizeof(real), QUARTER = HALF / 2 }; /* rows of a piece, and its lanes */
    VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i += HALF) {
        VEC_UNROLL for (size_t j = 0; j < VEC_LANES; j += QUARTER) {
            const real *x = X + i * x_stride + j;
            real *t = to + j * to_stride + i;
#if NF_SINGLE_BUILD
#define VEC_ROWS(r) _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(x + (r) * x_stride)), _mm_load_ps(x + ((r) + 4) * x_stride), 1)
            const __m256 z0 = VEC_ROWS(0), z1 = VEC_ROWS(1), z2 = VEC_ROWS(2), z3 = VEC_ROWS(3);
            const __m256 a = _mm256_unpacklo_ps(z0, z1), b = _mm256_unpackhi_ps(z0, z1), c = _mm256_unpacklo_ps(z2, z3), d = _mm256_unpackhi_ps(z2, z3);
            _mm256_store_ps(t, _mm256_shuffle_ps(a, c, 0x44));
            _mm256_store_ps(t + to_stride, _mm256_shuffle_ps(a, c, 0xee));
            _mm256_store_ps(t + 2 * to_stride, _mm256_shuffle_ps(b, d, 0x44));
            _mm256_store_ps(t + 3 * to_stride, _mm256_shuffle_ps(b, d, 0xee));
#else
#define VEC_ROWS(r) _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_load_pd(x + (r) * x_stride)), _mm_load_pd(x + ((r) + 2) * x_stride), 1)
            const __m256d z0 = VEC_ROWS(0), z1 = VEC_ROWS(1);
            _mm256_store_pd(t, _mm256_unpacklo_pd(z0, z1));
            _mm256_store_pd(t + to_stride, _mm256_unpackhi_pd(z0, z1));
#endif
#undef VEC_ROWS
        }
    }
#else
    vec r[VEC_LANES];
    VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) r[i] = vec_load(X + i * x_stride);
    vec_transpose(r);
    VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) vec_store(to + i * to_stride, r[i]);
#endif
}

/* One stage of the row sums: rows i and i + w become one row that holds half-sums of both. */
#define VEC_FOLD(r, w)                                                                                                         \
    VEC_UNROLL for (int i_ = 0; i_ < (w); i_++) {                                                                              \
        const vec a_ = r[i_], b_ = r[i_ + (w)];                                                                                \
        r[i_] = VEC_LOWER(a_, b_, w) + VEC_UPPER(a_, b_, w);                                                                   \
    }

/*
 * The sums of VEC_LANES rows at once: lane i of the result is the sum of r[i], in the order of panel_sum: the upper half of
 * the lanes is added to the lower half until one is left.
 */
VEC_INLINE vec vec_sum_rows(vec r[VEC_LANES]) {
#if VEC_LANES > 8
    VEC_FOLD(r, 8)
#endif
#if VEC_LANES > 4
    VEC_FOLD(r, 4)
#endif
#if VEC_LANES > 2
    VEC_FOLD(r, 2)
#endif
    VEC_FOLD(r, 1)
    return r[0];
}

/* The halving of panel_sum from a whole panel down to one vector. */
VEC_INLINE vec vec_fold_panel(vec v[PANEL_VECS]) {
#if PANEL_VECS > 4
    VEC_UNROLL for (int i = 0; i < 4; i++) v[i] = v[i] + v[i + 4];
#endif
#if PANEL_VECS > 2
    VEC_UNROLL for (int i = 0; i < 2; i++) v[i] = v[i] + v[i + 2];
#endif
    return v[0] + v[1];
}

/*
 * The sum of one row of a panel (aligned), always in the same order: the upper half of the lanes is added to the lower half
 * until one is left. For many rows the dense kernels use vec_sum_rows, which has the same bits.
 */
static inline real panel_sum(const real *row) {
    vec v[PANEL_VECS];
    VEC_UNROLL for (int i = 0; i < PANEL_VECS; i++) v[i] = vec_load(row + i * VEC_LANES);
    vec s = vec_fold_panel(v);
#if VEC_LANES > 8
    s = s + VEC_UPPER(s, s, 8);
#endif
#if VEC_LANES > 4
    s = s + VEC_UPPER(s, s, 4);
#endif
#if VEC_LANES > 2
    s = s + VEC_UPPER(s, s, 2);
#endif
    return s[0] + s[1];
}

#endif
