#include "engine/nets/field_hyper.h"

#include <string.h>

#include "engine/kernels/activation.h"
#include "engine/kernels/dense.h"
#include "engine/kernels/simd.h"
#include "engine/kernels/vmath.h"
#include "engine/nets/mlp.h"
#include "engine/pieces.h"

#define POOL_BYTES ((size_t)4 << 20)
#define MOST_ENTRIES ((size_t)2048)
#define FEWEST_ENTRIES (PANEL * HYPER_STAGES) /* so that one panel's step always fits */
_Static_assert(FEWEST_ENTRIES * sizeof(real) <= NF_MOST_NODES, "the check of a layer's sizes knows how many nodes there may be");
#define SPAN_ROOM ((size_t)512)
#define SPAN_SLOTS (2 * SPAN_ROOM)

/* An entry: w [dim], u [dim] (gated, divided by the units), gate [dim], b, c, each a row of `padded` units; gradients alike. */
typedef struct entry_rows {
    real *w, *u, *gate, *b, *c;
} entry_rows;

static entry_rows rows_at(const field_hyper *f, real *entry) {
    const size_t size = f->shape.dim * f->padded;
    return (entry_rows){entry, entry + size, entry + 2 * size, entry + 3 * size, entry + 3 * size + f->padded};
}

/* ---- memory */

/* What stands first in the cache. */
typedef struct pool_head {
    uint64_t epoch;
    size_t count;
} pool_head;

static void size_field(field_hyper *f, const field_hyper_shape *shape) {
    f->shape = *shape;
    f->padded = (shape->units + PANEL - 1) / PANEL * PANEL;
    f->entry_size = (3 * shape->dim + 2) * f->padded;
    size_t room = POOL_BYTES / (f->entry_size * sizeof(real));
    room = room > MOST_ENTRIES ? MOST_ENTRIES : room < FEWEST_ENTRIES ? FEWEST_ENTRIES : room;
    f->pool.room = f->sums.room = room;
    for (f->pool.slot_count = 1; f->pool.slot_count < 2 * room;)
        f->pool.slot_count *= 2;
    f->sums.slot_count = f->pool.slot_count;
}

static size_t map_table(field_hyper_table *table, real *base, size_t used) {
    table->slots = take_reals(base, &used, reals_for(table->slot_count * sizeof *table->slots));
    table->times = take_reals(base, &used, reals_for(table->room * sizeof *table->times));
    return used;
}

static size_t map_cache(field_hyper *f, real *base, pool_head **head) {
    size_t used = 0;
    *head = take_reals(base, &used, reals_for(NF_ALIGN));
    used = map_table(&f->pool, base, used);
    f->packed = take_reals(base, &used, R(mlp_rows_packed)(f->shape.net));
    f->nodes = take_reals(base, &used, f->pool.room * f->entry_size);
    return used;
}

static size_t map_scratch(field_hyper *f, real *base) {
    const nf_net *net = f->shape.net;
    const size_t d = f->shape.dim, outputs = d + 1;
    size_t used = map_table(&f->sums, base, 0);
    f->gradients = take_reals(base, &used, f->sums.room * f->entry_size);
    f->spans = take_reals(base, &used, reals_for(SPAN_ROOM * sizeof *f->spans));
    f->span_slots = take_reals(base, &used, reals_for(SPAN_SLOTS * sizeof *f->span_slots));
    f->net_in = take_reals(base, &used, PANEL);
    f->net_out = take_reals(base, &used, dense_rows_width(net->outputs) * PANEL);
    f->net_record = take_reals(base, &used, R(mlp_record_size)(net, 1));
    f->net_room = take_reals(base, &used, R(mlp_scratch_size)(net, 1));
    f->rows_room = take_reals(base, &used, R(mlp_rows_scratch)(net, PANEL));
    f->activations = take_reals(base, &used, VEC_LANES * f->padded);
    f->errors = take_reals(base, &used, VEC_LANES * f->padded);
    f->cotangents = take_reals(base, &used, VEC_LANES * d);
    f->rows = take_reals(base, &used, 2 * f->padded + d * d);
    f->parts = take_reals(base, &used, outputs * VEC_LANES * VEC_LANES);
    f->kept = take_reals(base, &used, HYPER_STAGES * PANEL * f->padded);
    return used;
}

size_t R(field_hyper_cache)(const field_hyper_shape *shape) {
    field_hyper f;
    pool_head *head;
    size_field(&f, shape);
    return map_cache(&f, NULL, &head);
}

size_t R(field_hyper_scratch)(const field_hyper_shape *shape) {
    field_hyper f;
    size_field(&f, shape);
    return map_scratch(&f, NULL);
}

static void clear_table(field_hyper_table *table) {
    memset(table->slots, 0, table->slot_count * sizeof *table->slots);
    table->count = 0;
}

static void clear_spans(field_hyper *f) {
    memset(f->span_slots, 0, SPAN_SLOTS * sizeof *f->span_slots);
    f->span_count = 0;
}

void R(field_hyper_begin)(field_hyper *f, const field_hyper_shape *shape, const real *theta, uint64_t epoch, real *gradient, bool vjp,
                          real *cache, real *scratch) {
    pool_head *head;
    size_field(f, shape);
    map_cache(f, cache, &head);
    map_scratch(f, scratch);
    f->theta = theta;
    f->gradient = gradient;
    f->keep = vjp;
    f->pool_count = &head->count;
    if (head->epoch != epoch) {
        clear_table(&f->pool);
        R(mlp_rows_pack)(shape->net, theta, f->packed);
        head->epoch = epoch;
        head->count = 0;
    }
    f->pool.count = head->count;
    if (gradient)
        clear_table(&f->sums);
    clear_spans(f);
    memset(f->kept_stage, 0, sizeof f->kept_stage);
}

/* ---- tables */

static uint64_t key_of(double t) {
    uint64_t key;
    t += 0.0; /* one zero */
    memcpy(&key, &t, sizeof key);
    return key;
}

/* Instants on a dyadic grid have few bits, all of them high: a finaliser that brings every bit everywhere (Steele, Lea & Flood 2014). */
static size_t mix(uint64_t key) {
    key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
    key = (key ^ key >> 27) * 0x94d049bb133111ebu;
    return (size_t)(key ^ key >> 31);
}

/* The slot that holds the instant, or the empty one where it belongs. */
static field_hyper_slot *find_slot(const field_hyper_table *table, double t) {
    const uint64_t key = key_of(t);
    size_t i = mix(key) & (table->slot_count - 1);
    while (table->slots[i].index && table->slots[i].key != key)
        i = (i + 1) & (table->slot_count - 1);
    return &table->slots[i];
}

static size_t add_entry(field_hyper_table *table, field_hyper_slot *slot, double t) {
    table->times[table->count] = t;
    *slot = (field_hyper_slot){key_of(t), ++table->count};
    return table->count - 1;
}

static real *node_at(const field_hyper *f, size_t i) { return f->nodes + i * f->entry_size; }
static real *sum_at(const field_hyper *f, size_t i) { return f->gradients + i * f->entry_size; }

/* ---- from rows of units to lanes that are instants */

/* rows[n * stride + l] = from[l][at + n]; lanes beyond `count` become 0. */
static void collect(const field_hyper *f, size_t stride, size_t count, real *const *from, size_t at, real *rows) {
    for (size_t l = 0; l < PANEL; l += VEC_LANES)
        for (size_t n = 0; n < f->shape.units; n += VEC_LANES) {
            vec r[VEC_LANES];
            for (size_t i = 0; i < VEC_LANES; i++)
                r[i] = l + i < count ? vec_load(from[l + i] + at + n) : vec_zero();
            vec_transpose(r);
            for (size_t i = 0; i < VEC_LANES && n + i < f->shape.units; i++)
                vec_store(rows + (n + i) * stride + l, r[i]);
        }
}

/* ---- nodes */

/* to[i][n] = from[n * d + i]; units beyond the last become 0. */
VEC_INLINE void separate(size_t d, size_t units, size_t padded, const real *restrict from, real *restrict to) {
    for (size_t i = 0; i < d; i++, to += padded) {
        for (size_t n = 0; n < units; n++)
            to[n] = from[n * d + i];
        for (size_t n = units; n < padded; n++)
            to[n] = 0;
    }
}

/* The net's output at an instant becomes an entry: gated and shared out, u = U sigmoid(G) / units, c = u.w. */
static void fill_node(const field_hyper *f, const real *out, real *entry) {
    const size_t d = f->shape.dim, units = f->shape.units, padded = f->padded, size = d * padded;
    const real share = (real)(1.0 / (double)units);
    const entry_rows node = rows_at(f, entry);
    for (size_t kind = 0; kind < 3; kind++, out += units * d)
        if (d == 2) /* known, the stride is made of shuffles */
            separate(2, units, padded, out, entry + kind * size);
        else
            separate(d, units, padded, out, entry + kind * size);
    separate(1, units, padded, out, node.b);
    real *restrict u = node.u, *restrict gate = node.gate, *restrict c = node.c;
    for (size_t k = 0; k < size; k++) {
        gate[k] = vm_sigmoid(gate[k]);
        u[k] *= gate[k] * share;
    }
    memset(c, 0, padded * sizeof(real));
    for (size_t i = 0; i < d; i++)
        for (size_t n = 0; n < padded; n++)
            c[n] = madd(u[i * padded + n], node.w[i * padded + n], c[n]);
}

/* Nodes of up to PANEL instants that are all missing and for which there is room. */
static void add_nodes(field_hyper *f, size_t count, const double *t) {
    const size_t stride = dense_rows_width(f->shape.net->outputs);
    for (size_t l = 0; l < count; l++)
        f->net_in[l] = (real)t[l];
    R(mlp_rows_forward)(f->shape.net, f->packed, count, f->net_in, 1, f->net_out, stride, f->rows_room);
    for (size_t l = 0; l < count; l++)
        fill_node(f, f->net_out + l * stride, node_at(f, add_entry(&f->pool, find_slot(&f->pool, t[l]), t[l])));
    *f->pool_count = f->pool.count;
}

static void forget_nodes(field_hyper *f) {
    clear_table(&f->pool);
    *f->pool_count = 0;
    clear_spans(f);
}

/* Makes nodes of those of `count` instants that have none. The pool must have room for all. */
static void need_nodes(field_hyper *f, size_t count, const double *t) {
    double missing[PANEL];
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        bool listed = find_slot(&f->pool, t[i])->index != 0;
        for (size_t j = n; j-- > 0 && !listed;)
            listed = key_of(missing[j]) == key_of(t[i]);
        if (listed)
            continue;
        missing[n++] = t[i];
        if (n == PANEL) {
            add_nodes(f, n, missing);
            n = 0;
        }
    }
    if (n)
        add_nodes(f, n, missing);
}

/* ---- spans */

static uint32_t *find_span(const field_hyper *f, double t, double h) {
    size_t i = mix(key_of(t) ^ key_of(h) * 3) & (SPAN_SLOTS - 1);
    for (; f->span_slots[i]; i = (i + 1) & (SPAN_SLOTS - 1)) {
        const field_hyper_span *span = &f->spans[f->span_slots[i] - 1];
        if (span->t == t && span->h == h)
            break;
    }
    return &f->span_slots[i];
}

static uint32_t sum_of(field_hyper *f, double t) {
    field_hyper_slot *slot = find_slot(&f->sums, t);
    if (slot->index)
        return (uint32_t)slot->index - 1;
    const size_t i = add_entry(&f->sums, slot, t);
    memset(sum_at(f, i), 0, f->entry_size * sizeof(real));
    return (uint32_t)i;
}

static void gather_gradient(field_hyper *f);

/* Steps of lanes that are not known yet: their nodes together, and where their gradients go. */
static void add_spans(field_hyper *f, size_t stages, size_t count, const size_t *lanes, const double *t, const double *h, double times[][PANEL]) {
    double all[HYPER_STAGES * PANEL] = {0};
    size_t n = 0;
    for (size_t c = 0; c < count; c++)
        for (size_t j = 0; j < stages; j++)
            all[n++] = times[j][lanes[c]];
    need_nodes(f, n, all);
    for (size_t c = 0; c < count; c++) {
        uint32_t *slot = find_span(f, t[lanes[c]], h[lanes[c]]);
        if (*slot)
            continue;
        field_hyper_span *span = &f->spans[f->span_count++];
        *slot = (uint32_t)f->span_count;
        span->t = t[lanes[c]];
        span->h = h[lanes[c]];
        for (size_t j = 0; j < stages; j++) {
            span->node[j] = (uint32_t)find_slot(&f->pool, times[j][lanes[c]])->index - 1;
            if (f->gradient)
                span->gradient[j] = sum_of(f, times[j][lanes[c]]);
        }
    }
}

void R(field_hyper_prepare)(field_hyper *f, size_t stages, const unsigned char *active, const double *t, const double *h,
                            double times[][PANEL]) {
    size_t missing[PANEL], count = 0;
    /* When the gradients go home depends on the steps of this tile alone, not on what the pool has seen before: the order of the sums does. */
    if (f->gradient && f->sums.count + PANEL * HYPER_STAGES > f->sums.room) {
        gather_gradient(f);
        clear_spans(f);
    }
    if (f->pool.count + PANEL * HYPER_STAGES > f->pool.room)
        forget_nodes(f);
    if (f->span_count + PANEL > SPAN_ROOM)
        clear_spans(f);
    for (size_t l = 0, last = PANEL; l < PANEL; l++) {
        if (!active[l])
            continue;
        if ((last == PANEL || t[l] != t[last] || h[l] != h[last]) && !*find_span(f, t[l], h[l]))
            missing[count++] = l;
        last = l;
    }
    if (count)
        add_spans(f, stages, count, missing, t, h, times);
    const field_hyper_span *span = NULL;
    for (size_t l = 0; l < PANEL; l++) {
        if (!active[l])
            continue;
        if (!span || span->t != t[l] || span->h != h[l])
            span = &f->spans[*find_span(f, t[l], h[l]) - 1];
        for (size_t j = 0; j < stages; j++) {
            f->node[j][l] = node_at(f, span->node[j]);
            if (f->gradient)
                f->sum[j][l] = sum_at(f, span->gradient[j]);
        }
    }
    memset(f->kept_stage, 0, sizeof f->kept_stage);
}

/* The nodes of active lanes for a stage, or at instants outside of steps. */
static real *const *nodes_of(field_hyper *f, size_t stage, const double *t, const unsigned char *active, real **found) {
    if (stage != HYPER_NO_STAGE)
        return f->node[stage];
    double needed[PANEL];
    size_t count = 0;
    for (size_t l = 0; l < PANEL; l++)
        if (active[l])
            needed[count++] = t[l];
    if (f->pool.count + count > f->pool.room)
        forget_nodes(f);
    need_nodes(f, count, needed);
    for (size_t l = 0; l < PANEL; l++)
        found[l] = active[l] ? node_at(f, find_slot(&f->pool, t[l])->index - 1) : NULL;
    return found;
}

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
    real *found[PANEL], *const *nodes = nodes_of(f, stage, t, active, found);
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

/* The sums that the gradients of active lanes go to. */
static real *const *sums_of(field_hyper *f, size_t stage, const double *t, const unsigned char *active, real **found) {
    if (stage != HYPER_NO_STAGE)
        return f->sum[stage];
    if (f->sums.count + PANEL > f->sums.room)
        gather_gradient(f);
    for (size_t l = 0; l < PANEL; l++)
        found[l] = active[l] ? sum_at(f, sum_of(f, t[l])) : NULL;
    return found;
}

void R(field_hyper_vjp)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, const real *z, const real *d_k,
                        const real *d_trace, const real *d_speed, const real *d_square, bool parameters, real *d_z) {
    const size_t d = f->shape.dim, padded = f->padded;
    const bool kept = stage != HYPER_NO_STAGE && f->kept_stage[stage], sum = parameters && f->gradient;
    real *found[PANEL], *found_sums[PANEL];
    real *const *sums = sum ? sums_of(f, stage, t, active, found_sums) : NULL;
    real *const *nodes = nodes_of(f, stage, t, active, found);
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

/* ---- gradients of the net */

/* The gathered gradient of an instant becomes, in place, the cotangent of the net's output there, a row for each of w, u, gate. */
static void output_cotangent(const field_hyper *f, const entry_rows *n, const entry_rows *sum) {
    const size_t d = f->shape.dim, padded = f->padded;
    const vec share = vec_set1((real)(1.0 / (double)f->shape.units)), units = vec_set1((real)f->shape.units), one = vec_set1(1);
    for (size_t i = 0; i < d; i++) {
        const real *w = n->w + i * padded, *u = n->u + i * padded, *gate = n->gate + i * padded;
        real *dw = sum->w + i * padded, *du = sum->u + i * padded, *dgate = sum->gate + i * padded;
        for (size_t k = 0; k < padded; k += VEC_LANES) {
            const vec dc = vec_load(sum->c + k), uk = vec_load(u + k), g = vec_load(gate + k);
            const vec d_gated = vec_madd(dc, vec_load(w + k), vec_load(du + k)) * share;
            vec_store(dw + k, vec_madd(dc, uk, vec_load(dw + k)));
            vec_store(du + k, d_gated * g);
            vec_store(dgate + k, d_gated * (uk * units) * (one - g));
        }
    }
}

/* The hidden layers at the instants in net_in, into the record: the net without its last layer, and the activation that a net leaves out at its end. */
static void record_hidden(const field_hyper *f) {
    const nf_net *net = f->shape.net;
    const size_t hidden = net->hidden.count;
    if (hidden == 0)
        return;
    const size_t size = net->hidden.items[hidden - 1] * PANEL;
    const nf_net below = {net->inputs, net->hidden.items[hidden - 1], {hidden - 1, net->hidden.items}, net->activation};
    real *last = f->net_record + R(mlp_record_size)(&below, 1);
    R(mlp_forward)(&below, f->theta, NULL, 1, PANEL, f->net_in, last, f->net_record, f->net_room);
    R(activate_slope)(net->activation, size, last, last + size);
}

static void gather_instants(field_hyper *f, size_t first, size_t count) {
    const nf_net *net = f->shape.net;
    const size_t d = f->shape.dim, fields = f->shape.units * d * PANEL, row = f->padded;
    const double *t = f->sums.times + first;
    real *from[PANEL];
    if (f->pool.count + count > f->pool.room)
        forget_nodes(f);
    need_nodes(f, count, t);
    for (size_t l = 0; l < count; l++) {
        const entry_rows node = rows_at(f, node_at(f, find_slot(&f->pool, t[l])->index - 1)), sum = rows_at(f, sum_at(f, first + l));
        output_cotangent(f, &node, &sum);
        from[l] = sum_at(f, first + l);
    }
    for (size_t i = 0; i < d; i++)
        for (size_t kind = 0; kind < 3; kind++)
            collect(f, d * PANEL, count, from, (kind * d + i) * row, f->net_out + kind * fields + i * PANEL);
    collect(f, PANEL, count, from, 3 * d * row, f->net_out + 3 * fields);
    for (size_t l = 0; l < PANEL; l++)
        f->net_in[l] = (real)t[l < count ? l : 0];
    record_hidden(f);
    R(mlp_vjp)(net, f->theta, NULL, 1, f->net_in, f->net_record, f->net_out, NULL, f->gradient, f->net_room);
}

static void gather_gradient(field_hyper *f) {
    for (size_t first = 0; first < f->sums.count; first += PANEL)
        gather_instants(f, first, f->sums.count - first < PANEL ? f->sums.count - first : PANEL);
    clear_table(&f->sums);
}

void R(field_hyper_finish)(field_hyper *f) {
    if (f->gradient)
        gather_gradient(f);
}
