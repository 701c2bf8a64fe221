#include "engine/nets/field_hyper.h"

#include <string.h>

#include "engine/kernels/activation.h"
#include "engine/kernels/simd.h"
#include "engine/nets/hyper_nodes.h"

/* ---- one sample; the units are the lanes */

static real dot(size_t padded, const real *a, const real *b) {
    vec sum[PANEL_VECS];
    _Alignas(NF_ALIGN) real row[PANEL];
    for (size_t v = 0; v < PANEL_VECS; v++)
        sum[v] = vec_zero();
    for (size_t n = 0; n < padded; n += PANEL)
        for (size_t v = 0; v < PANEL_VECS; v++)
            sum[v] = vec_madd(vec_load(a + n + v * VEC_LANES), vec_load(b + n + v * VEC_LANES), sum[v]);
    for (size_t v = 0; v < PANEL_VECS; v++)
        vec_store(row + v * VEC_LANES, sum[v]);
    return panel_sum(row);
}

/*
 * a = W z + B for the active ones of VEC_LANES samples, a row each; `d` is a constant where this is called for few dimensions, and the loops
 * melt into one.
 */
VEC_INLINE void combine_units(size_t d, const field_hyper *f, real *const *nodes, const unsigned char *active, const real *z, real *restrict a) {
    const size_t padded = f->padded;
    for (size_t i = 0; i < VEC_LANES; i++) {
        if (!active[i])
            continue;
        const entry_rows n = rows_at(f, nodes[i]);
        const real *restrict w = n.w, *restrict b = n.b;
        real *restrict row = a + i * padded;
        for (size_t k = 0; k < padded; k += VEC_LANES) {
            vec sum = vec_madd(vec_load(w + k), vec_set1(z[i]), vec_load(b + k));
            for (size_t o = 1; o < d; o++)
                sum = vec_madd(vec_load(w + o * padded + k), vec_set1(z[o * PANEL + i]), sum);
            vec_store(row + k, sum);
        }
    }
}

static void combine_samples(const field_hyper *f, real *const *nodes, const unsigned char *active, const real *z, real *restrict a) {
    switch (f->shape.dim) {
    case 1:
        combine_units(1, f, nodes, active, z, a);
        return;
    case 2:
        combine_units(2, f, nodes, active, z, a);
        return;
    case 3:
        combine_units(3, f, nodes, active, z, a);
        return;
    default:
        combine_units(f->shape.dim, f, nodes, active, z, a);
    }
}

/* h = tanh(W z + B): of samples that stand side by side at once, because each loop loads some twenty constants. */
static void activate_samples(const field_hyper *f, real *const *nodes, const unsigned char *active, const real *z, real *restrict h) {
    combine_samples(f, nodes, active, z, h);
    for (size_t i = 0, end; i < VEC_LANES; i = end + 1) {
        for (end = i; end < VEC_LANES && active[end]; end++)
            ;
        R(activate)(NF_TANH, (end - i) * f->padded, h + i * f->padded);
    }
}

/* Sums over the units, a vector each that vec_sum_rows will bring to one number, for many samples at once. */
VEC_INLINE vec partial_dot(size_t padded, const real *a, const real *h) {
    vec sum[PANEL_VECS];
    VEC_UNROLL for (size_t v = 0; v < PANEL_VECS; v++) sum[v] = vec_zero();
    for (size_t k = 0; k < padded; k += PANEL) {
        VEC_UNROLL for (size_t v = 0; v < PANEL_VECS; v++) sum[v] = vec_madd(vec_load(a + k + v * VEC_LANES), vec_load(h + k + v * VEC_LANES), sum[v]);
    }
    return vec_fold_panel(sum);
}

/* sum c (1 - h^2) */
VEC_INLINE vec partial_trace(size_t padded, const real *c, const real *h) {
    const vec one = vec_set1(1);
    vec sum[PANEL_VECS];
    VEC_UNROLL for (size_t v = 0; v < PANEL_VECS; v++) sum[v] = vec_zero();
    for (size_t k = 0; k < padded; k += PANEL) {
        VEC_UNROLL for (size_t v = 0; v < PANEL_VECS; v++) {
            const vec t = vec_load(h + k + v * VEC_LANES);
            sum[v] = vec_madd(vec_load(c + k + v * VEC_LANES), vec_madd(-t, t, one), sum[v]);
        }
    }
    return vec_fold_panel(sum);
}

static real *part_at(const field_hyper *f, size_t output, size_t lane) { return f->parts + (output * VEC_LANES + lane) * VEC_LANES; }

/* The sums of VEC_LANES samples for one output. */
static void store_sums(const field_hyper *f, size_t output, real *to) {
    vec r[VEC_LANES];
    VEC_UNROLL for (size_t i = 0; i < VEC_LANES; i++) r[i] = vec_load(part_at(f, output, i));
    vec_store(to, vec_sum_rows(r));
}

static real *kept_at(const field_hyper *f, size_t stage, size_t lane) { return f->kept + (stage * PANEL + lane) * f->padded; }

/* J_ij = sum_n u_in g_n w_jn, dim x dim, with g = 1 - h^2. `spare`: a row. */
static void jacobian(const field_hyper *f, const entry_rows *n, const real *h, real *restrict spare, real *jac) {
    const size_t d = f->shape.dim, padded = f->padded;
    for (size_t i = 0; i < d; i++) {
        for (size_t k = 0; k < padded; k++)
            spare[k] = n->u[i * padded + k] * madd(-h[k], h[k], 1);
        for (size_t j = 0; j < d; j++)
            jac[i * d + j] = dot(padded, spare, n->w + j * padded);
    }
}

static real squared_norm(const field_hyper *f, const entry_rows *n, const real *h) {
    const size_t d = f->shape.dim;
    real *spare = f->rows, *jac = f->rows + 2 * f->padded, sum = 0;
    jacobian(f, n, h, spare, jac);
    for (size_t i = 0; i < d * d; i++)
        sum = madd(jac[i], jac[i], sum);
    return sum;
}

void R(field_hyper_rates)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, const real *z, real *k, real *trace,
                          real *square) {
    const size_t d = f->shape.dim, padded = f->padded;
    const bool keep = f->keep && stage != HYPER_NO_STAGE;
    real *found[PANEL], *const *nodes = R(hyper_nodes_of)(f, stage, t, active, found);
    for (size_t first = 0; first < PANEL; first += VEC_LANES) {
        real *rows = keep ? kept_at(f, stage, first) : f->activations;
        activate_samples(f, nodes + first, active + first, z + first, rows);
        for (size_t i = 0; i < VEC_LANES; i++) {
            const size_t l = first + i;
            if (!active[l]) {
                for (size_t o = 0; o <= d; o++)
                    vec_store(part_at(f, o, i), vec_zero());
                continue;
            }
            const entry_rows n = rows_at(f, nodes[l]);
            const real *h = rows + i * padded;
            for (size_t o = 0; o < d; o++)
                vec_store(part_at(f, o, i), partial_dot(padded, n.u + o * padded, h));
            if (trace)
                vec_store(part_at(f, d, i), partial_trace(padded, n.c, h));
            if (square)
                square[l] = squared_norm(f, &n, h);
        }
        for (size_t o = 0; o < d; o++)
            store_sums(f, o, k + o * PANEL + first);
        if (trace)
            store_sums(f, d, trace + first);
    }
    if (keep)
        f->kept_stage[stage] = true;
}

/* ---- the vjp */

/* The parts that come of the Jacobian's norm: e_n = sum_ij dJ_ij u_in w_jn, and with gradients those of u and w. */
static void square_vjp(const field_hyper *f, const entry_rows *n, const entry_rows *to, const real *h, real d_square, real *restrict e) {
    const size_t d = f->shape.dim, padded = f->padded;
    real *restrict g = f->rows, *spare = f->rows + padded, *jac = f->rows + 2 * padded;
    jacobian(f, n, h, spare, jac);
    memset(e, 0, padded * sizeof(real));
    for (size_t k = 0; k < padded; k++)
        g[k] = madd(-h[k], h[k], 1);
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++) {
            const real dj = 2 * d_square * jac[i * d + j];
            const real *u = n->u + i * padded, *w = n->w + j * padded;
            for (size_t k = 0; k < padded; k++)
                e[k] = madd(dj * u[k], w[k], e[k]);
            if (!to)
                continue;
            real *to_u = to->u + i * padded, *to_w = to->w + j * padded;
            for (size_t k = 0; k < padded; k++) {
                to_u[k] = madd(dj * g[k], w[k], to_u[k]);
                to_w[k] = madd(dj * g[k], u[k], to_w[k]);
            }
        }
}

/* g (sum_i dk_i u_i - 2 t (start + d_trace c)) of one sample and the units from k on, for t = tanh and g = 1 - t^2. */
VEC_INLINE vec unit_cotangent(size_t d, size_t padded, const entry_rows *n, size_t k, const real *dk, vec start, vec trace, vec t, vec g) {
    vec a = vec_madd(trace, vec_load(n->c + k), start) * (vec_set1(-2) * t);
    VEC_UNROLL for (size_t i = 0; i < d; i++) a = vec_madd(vec_set1(dk[i * VEC_LANES]), vec_load(n->u + i * padded + k), a);
    return a * g;
}

/*
 * Some samples that stand at the same instant: e, a row each, becomes the cotangent of W z + B. Where it has `begun`, with the Jacobian's norm, that is
 * gone on with. Where the gradients of the instant's entry are wanted (`to`), they are summed over the samples, in their order.
 */
static void unit_cotangents(size_t d, bool begun, size_t padded, size_t count, const entry_rows *n, const entry_rows *to, const real *z,
                            const real *dk, const real *d_trace, const real *restrict h, real *restrict e) {
    const vec one = vec_set1(1);
    for (size_t k = 0; k < padded; k += VEC_LANES) {
        vec to_b = to ? vec_load(to->b + k) : vec_zero(), to_c = to ? vec_load(to->c + k) : vec_zero();
        for (size_t s = 0; s < count; s++) {
            const vec trace = vec_set1(d_trace[s]), t = vec_load(h + s * padded + k), g = vec_madd(-t, t, one);
            const vec start = begun ? vec_load(e + s * padded + k) : vec_zero();
            const vec a = unit_cotangent(d, padded, n, k, dk + s, start, trace, t, g);
            vec_store(e + s * padded + k, a);
            to_b = to_b + a;
            to_c = vec_madd(trace, g, to_c);
        }
        if (!to)
            continue;
        vec_store(to->b + k, to_b);
        vec_store(to->c + k, to_c);
        for (size_t i = 0; i < d; i++) {
            vec w = vec_load(to->w + i * padded + k), u = vec_load(to->u + i * padded + k);
            for (size_t s = 0; s < count; s++) {
                w = vec_madd(vec_load(e + s * padded + k), vec_set1(z[i * PANEL + s]), w);
                u = vec_madd(vec_set1(dk[i * VEC_LANES + s]), vec_load(h + s * padded + k), u);
            }
            vec_store(to->w + i * padded + k, w);
            vec_store(to->u + i * padded + k, u);
        }
    }
}

#define FEW_DIMENSIONS 2

/* The same for few dimensions and with gradients: `d` is a constant, so that all sums stay in registers and nothing is read twice. */
VEC_INLINE void few_cotangents(size_t d, size_t padded, size_t count, const entry_rows *n, const entry_rows *to, const real *z, const real *dk,
                               const real *d_trace, const real *restrict h, real *restrict e) {
    const vec one = vec_set1(1);
    real *restrict const to_b = to->b, *restrict const to_c = to->c, *restrict const to_w = to->w, *restrict const to_u = to->u;
    for (size_t k = 0; k < padded; k += VEC_LANES) {
        vec b = vec_load(to_b + k), c = vec_load(to_c + k), w[FEW_DIMENSIONS], u[FEW_DIMENSIONS];
        VEC_UNROLL for (size_t i = 0; i < d; i++) {
            w[i] = vec_load(to_w + i * padded + k);
            u[i] = vec_load(to_u + i * padded + k);
        }
        for (size_t s = 0; s < count; s++) {
            const vec trace = vec_set1(d_trace[s]), t = vec_load(h + s * padded + k), g = vec_madd(-t, t, one);
            const vec a = unit_cotangent(d, padded, n, k, dk + s, vec_zero(), trace, t, g);
            vec_store(e + s * padded + k, a);
            b = b + a;
            c = vec_madd(trace, g, c);
            VEC_UNROLL for (size_t i = 0; i < d; i++) {
                w[i] = vec_madd(a, vec_set1(z[i * PANEL + s]), w[i]);
                u[i] = vec_madd(vec_set1(dk[i * VEC_LANES + s]), t, u[i]);
            }
        }
        vec_store(to_b + k, b);
        vec_store(to_c + k, c);
        VEC_UNROLL for (size_t i = 0; i < d; i++) {
            vec_store(to_w + i * padded + k, w[i]);
            vec_store(to_u + i * padded + k, u[i]);
        }
    }
}

static void sample_cotangents(size_t d, bool begun, size_t padded, size_t count, const entry_rows *n, const entry_rows *to, const real *z,
                              const real *dk, const real *d_trace, const real *h, real *e) {
    if (begun || !to || d > FEW_DIMENSIONS)
        unit_cotangents(d, begun, padded, count, n, to, z, dk, d_trace, h, e);
    else if (d == 1)
        few_cotangents(1, padded, count, n, to, z, dk, d_trace, h, e);
    else
        few_cotangents(2, padded, count, n, to, z, dk, d_trace, h, e);
}

void R(field_hyper_vjp)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, const real *z, const real *d_k,
                        const real *d_trace, const real *d_speed, const real *d_square, bool parameters, real *d_z) {
    const size_t d = f->shape.dim, padded = f->padded;
    const bool kept = stage != HYPER_NO_STAGE && f->kept_stage[stage], sum = parameters && f->gradient;
    real *found[PANEL], *found_sums[PANEL];
    real *const *sums = sum ? R(hyper_sums_of)(f, stage, t, active, found_sums) : NULL;
    real *const *nodes = R(hyper_nodes_of)(f, stage, t, active, found);
    real *dk = f->cotangents;
    for (size_t first = 0; first < PANEL; first += VEC_LANES) {
        const unsigned char *on = active + first;
        real *rows = kept ? kept_at(f, stage, first) : f->activations, *e = f->errors;
        if (!kept)
            activate_samples(f, nodes + first, on, z + first, rows);
        for (size_t i = 0, run; i < VEC_LANES; i += run) {
            const size_t l = first + i;
            run = 1;
            if (!on[i]) {
                for (size_t o = 0; o < d; o++)
                    vec_store(part_at(f, o, i), vec_zero());
                continue;
            }
            const entry_rows n = rows_at(f, nodes[l]), to = rows_at(f, sum ? sums[l] : nodes[l]);
            while (!d_square && i + run < VEC_LANES && on[i + run] && nodes[l + run] == nodes[l] && (!sum || sums[l + run] == sums[l]))
                run++;
            for (size_t s = 0; s < run; s++)
                for (size_t o = 0; o < d; o++) {
                    real *to_dk = dk + o * VEC_LANES + s;
                    *to_dk = d_k[o * PANEL + l + s];
                    if (d_speed && d_speed[l + s] != 0)
                        *to_dk = madd(2 * d_speed[l + s], dot(padded, n.u + o * padded, rows + (i + s) * padded), *to_dk);
                }
            const bool begun = d_square && d_square[l] != 0;
            if (begun)
                square_vjp(f, &n, sum ? &to : NULL, rows + i * padded, d_square[l], e + i * padded);
            sample_cotangents(d, begun, padded, run, &n, sum ? &to : NULL, z + l, dk, d_trace + l, rows + i * padded, e + i * padded);
            for (size_t s = 0; s < run; s++)
                for (size_t o = 0; o < d; o++)
                    vec_store(part_at(f, o, i + s), partial_dot(padded, n.w + o * padded, e + (i + s) * padded));
        }
        for (size_t o = 0; o < d; o++)
            store_sums(f, o, d_z + o * PANEL + first);
    }
}
