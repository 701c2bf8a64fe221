#include "engine/nets/hyper_nodes.h"

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

/* ---- for the samples */

real *const *R(hyper_nodes_of)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, real **found) {
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

real *const *R(hyper_sums_of)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, real **found) {
    if (stage != HYPER_NO_STAGE)
        return f->sum[stage];
    if (f->sums.count + PANEL > f->sums.room)
        gather_gradient(f);
    for (size_t l = 0; l < PANEL; l++)
        found[l] = active[l] ? sum_at(f, sum_of(f, t[l])) : NULL;
    return found;
}

/* ---- gradients of the net */

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
    R(mlp_vjp)(net, f->theta, NULL, 1, f->net_in, f->net_record, f->net_out, NULL, f->gradient, false, f->net_room);
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
