#include "engine/nets/field_hyper.h"

#include <string.h>

#include "engine/kernels/simd.h"
#include "engine/kernels/vmath.h"
#include "engine/nets/mlp.h"

#define POOL_BYTES ((size_t)4 << 20)
#define MOST_NODES ((size_t)1024)

static size_t aligned(size_t count) {
    const size_t unit = NF_ALIGN / sizeof(real);
    return (count + unit - 1) / unit * unit;
}

static size_t reals_of(size_t bytes) { return aligned((bytes + sizeof(real) - 1) / sizeof(real)); }

/* A node: w [dim], u [dim] (gated, divided by the units), b, c, each a row of `padded` units; then their gradients alike. */
typedef struct node_rows {
    real *w, *u, *b, *c;
} node_rows;

static node_rows rows_at(const field_hyper *f, real *node) {
    const size_t d = f->shape.dim, row = f->padded;
    return (node_rows){node, node + d * row, node + 2 * d * row, node + (2 * d + 1) * row};
}

static real *node_at(const field_hyper *f, size_t i) { return f->nodes + i * f->node_size; }
static real *node_gradient(const field_hyper *f, real *node) { return node + f->node_size / 2; }

static real *piece(real *base, size_t *used, size_t count) {
    const size_t start = *used;
    *used += aligned(count);
    return base ? base + start : NULL;
}

static size_t map(field_hyper *f, const field_hyper_shape *shape, real *base) {
    const nf_net *net = shape->net;
    size_t used = 0;
    f->shape = *shape;
    f->padded = (shape->units + PANEL - 1) / PANEL * PANEL;
    f->node_size = 2 * (2 * shape->dim + 2) * f->padded;
    f->node_room = POOL_BYTES / (f->node_size * sizeof(real));
    f->node_room = f->node_room > MOST_NODES ? MOST_NODES : f->node_room < 2 * PANEL ? 2 * PANEL : f->node_room;
    for (f->slot_count = 1; f->slot_count < 2 * f->node_room;)
        f->slot_count *= 2;
    f->nodes = piece(base, &used, f->node_room * f->node_size);
    f->times = (double *)(void *)piece(base, &used, reals_of(f->node_room * sizeof(double)));
    f->slots = (field_hyper_slot *)(void *)piece(base, &used, reals_of(f->slot_count * sizeof *f->slots));
    f->net_in = piece(base, &used, PANEL);
    f->net_out = piece(base, &used, net->outputs * PANEL);
    f->d_out = piece(base, &used, net->outputs * PANEL);
    f->net_record = piece(base, &used, R(mlp_record_size)(net, 1));
    f->net_room = piece(base, &used, R(mlp_scratch_size)(net, 1));
    f->rows = piece(base, &used, 3 * f->padded + shape->dim * shape->dim + 3 * shape->dim);
    return used;
}

size_t R(field_hyper_scratch)(const field_hyper_shape *shape) {
    field_hyper f;
    return map(&f, shape, NULL);
}

static void clear_pool(field_hyper *f) {
    memset(f->slots, 0, f->slot_count * sizeof *f->slots);
    f->node_count = 0;
    f->last = NULL;
}

void R(field_hyper_begin)(field_hyper *f, const field_hyper_shape *shape, const real *theta, real *gradient, real *scratch) {
    map(f, shape, scratch);
    f->theta = theta;
    f->gradient = gradient;
    clear_pool(f);
}

/* ---- the pool */

static uint64_t key_of(double t) {
    uint64_t key;
    t += 0.0; /* one zero */
    memcpy(&key, &t, sizeof key);
    return key;
}

/* The slot that holds the key, or the empty one where it belongs. */
static field_hyper_slot *find_slot(const field_hyper *f, uint64_t key) {
    uint64_t mixed = key * 0x9e3779b97f4a7c15u; /* Fibonacci hashing: Knuth, TAOCP 3, 6.4 */
    mixed ^= mixed >> 32;
    size_t i = (size_t)mixed & (f->slot_count - 1);
    while (f->slots[i].node && f->slots[i].key != key)
        i = (i + 1) & (f->slot_count - 1);
    return &f->slots[i];
}

/* What the net gives at the time of lane l, into a node. */
static void fill_node(const field_hyper *f, size_t l, real *node) {
    const size_t d = f->shape.dim, units = f->shape.units, fields = units * d;
    const real share = (real)(1.0 / (double)units);
    const node_rows n = rows_at(f, node);
    const real *w = f->net_out + l, *u = w + fields * PANEL, *gate = u + fields * PANEL, *b = gate + fields * PANEL;
    memset(node, 0, f->node_size * sizeof(real));
    for (size_t k = 0; k < units; k++) {
        real c = 0;
        for (size_t i = 0; i < d; i++) {
            const size_t at = (k * d + i) * PANEL;
            const real gated = u[at] * gate[at] * share;
            n.w[i * f->padded + k] = w[at];
            n.u[i * f->padded + k] = gated;
            c = madd(gated, w[at], c);
        }
        n.b[k] = b[k * PANEL];
        n.c[k] = c;
    }
}

static void apply_gates(const field_hyper *f, real *restrict out) {
    const size_t fields = f->shape.units * f->shape.dim * PANEL;
    for (size_t i = 2 * fields; i < 3 * fields; i++)
        out[i] = vm_sigmoid(out[i]);
}

/* Nodes of up to PANEL instants that are all missing. */
static void add_nodes(field_hyper *f, size_t count, const double *t) {
    if (f->node_count + count > f->node_room)
        R(field_hyper_finish)(f);
    for (size_t l = 0; l < PANEL; l++)
        f->net_in[l] = (real)t[l < count ? l : 0];
    R(mlp_forward)(f->shape.net, f->theta, 1, count, f->net_in, f->net_out, NULL, f->net_room);
    apply_gates(f, f->net_out);
    for (size_t l = 0; l < count; l++) {
        const uint64_t key = key_of(t[l]);
        field_hyper_slot *slot = find_slot(f, key);
        f->times[f->node_count] = t[l];
        fill_node(f, l, node_at(f, f->node_count));
        *slot = (field_hyper_slot){key, ++f->node_count};
    }
}

void R(field_hyper_prepare)(field_hyper *f, size_t count, const double *t) {
    double missing[PANEL];
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const uint64_t key = key_of(t[i]);
        bool listed = find_slot(f, key)->node != 0;
        for (size_t j = 0; j < n && !listed; j++)
            listed = key_of(missing[j]) == key;
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

static real *node_of(field_hyper *f, double t) {
    const uint64_t key = key_of(t);
    if (f->last && f->last_key == key)
        return f->last;
    size_t node = find_slot(f, key)->node;
    if (!node) {
        add_nodes(f, 1, &t);
        node = f->node_count;
    }
    f->last_key = key;
    f->last = node_at(f, node - 1);
    return f->last;
}

/* ---- one sample; the units are the lanes */

static real dot(size_t padded, const real *restrict a, const real *restrict b) {
    _Alignas(NF_ALIGN) real sum[PANEL] = {0};
    for (size_t n = 0; n < padded; n += PANEL)
        for (size_t l = 0; l < PANEL; l++)
            sum[l] = madd(a[n + l], b[n + l], sum[l]);
    return panel_sum(sum);
}

/* h = tanh(W z + B), g = 1 - h^2 */
static void activate_units(const field_hyper *f, const node_rows *n, const real *z, real *restrict h, real *restrict g) {
    const size_t padded = f->padded;
    for (size_t k = 0; k < padded; k++)
        h[k] = n->b[k];
    for (size_t i = 0; i < f->shape.dim; i++) {
        const real *restrict w = n->w + i * padded;
        const real zi = z[i * PANEL];
        for (size_t k = 0; k < padded; k++)
            h[k] = madd(w[k], zi, h[k]);
    }
    for (size_t k = 0; k < padded; k++) {
        h[k] = vm_tanh(h[k]);
        g[k] = madd(-h[k], h[k], 1);
    }
}

/* J_ij = sum_n u_in g_n w_jn, dim x dim. `spare`: a row. */
static void jacobian(const field_hyper *f, const node_rows *n, const real *g, real *restrict spare, real *jac) {
    for (size_t i = 0; i < f->shape.dim; i++) {
        for (size_t k = 0; k < f->padded; k++)
            spare[k] = n->u[i * f->padded + k] * g[k];
        for (size_t j = 0; j < f->shape.dim; j++)
            jac[i * f->shape.dim + j] = dot(f->padded, spare, n->w + j * f->padded);
    }
}

void R(field_hyper_rates)(field_hyper *f, const double *t, const unsigned char *active, const real *z, real *k, real *trace, real *square) {
    const size_t d = f->shape.dim;
    real *h = f->rows, *g = h + f->padded, *spare = g + f->padded, *jac = spare + f->padded;
    for (size_t l = 0; l < PANEL; l++) {
        if (!active[l])
            continue;
        const node_rows n = rows_at(f, node_of(f, t[l]));
        activate_units(f, &n, z + l, h, g);
        for (size_t i = 0; i < d; i++)
            k[i * PANEL + l] = dot(f->padded, n.u + i * f->padded, h);
        if (trace)
            trace[l] = dot(f->padded, n.c, g);
        if (square) {
            jacobian(f, &n, g, spare, jac);
            real sum = 0;
            for (size_t i = 0; i < d * d; i++)
                sum = madd(jac[i], jac[i], sum);
            square[l] = sum;
        }
    }
}

/* The parts of the vjp that come of the Jacobian's norm: e_n += sum_ij dJ_ij u_in w_jn, and with gradients those of u and w. */
static void square_vjp(const field_hyper *f, const node_rows *n, const node_rows *to, const real *g, real d_square, real *restrict e,
                       real *restrict spare, real *jac) {
    const size_t d = f->shape.dim, padded = f->padded;
    jacobian(f, n, g, spare, jac);
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

typedef struct sample_cotangent {
    const real *k; /* [dim] */
    real trace, square;
} sample_cotangent;

static void sample_vjp(const field_hyper *f, const node_rows *n, const node_rows *to, const real *z, const sample_cotangent *c, const real *restrict h,
                       const real *restrict g, real *restrict e, real *restrict spare, real *jac, real *d_z) {
    const size_t d = f->shape.dim, padded = f->padded;
    for (size_t k = 0; k < padded; k++)
        e[k] = c->trace * n->c[k];
    if (c->square != 0)
        square_vjp(f, n, to, g, c->square, e, spare, jac);
    /* e becomes the cotangent of W z + B: g (sum_i dk_i u_i - 2 h e) */
    for (size_t k = 0; k < padded; k++)
        e[k] *= -2 * h[k];
    for (size_t i = 0; i < d; i++) {
        const real dk = c->k[i], *restrict u = n->u + i * padded;
        for (size_t k = 0; k < padded; k++)
            e[k] = madd(dk, u[k], e[k]);
    }
    for (size_t k = 0; k < padded; k++)
        e[k] *= g[k];
    for (size_t i = 0; i < d; i++)
        d_z[i * PANEL] = dot(padded, e, n->w + i * padded);
    if (!to)
        return;
    for (size_t i = 0; i < d; i++) {
        real *restrict to_w = to->w + i * padded, *restrict to_u = to->u + i * padded;
        const real zi = z[i * PANEL], dk = c->k[i];
        for (size_t k = 0; k < padded; k++) {
            to_w[k] = madd(e[k], zi, to_w[k]);
            to_u[k] = madd(dk, h[k], to_u[k]);
        }
    }
    for (size_t k = 0; k < padded; k++) {
        to->b[k] += e[k];
        to->c[k] = madd(c->trace, g[k], to->c[k]);
    }
}

void R(field_hyper_vjp)(field_hyper *f, const double *t, const unsigned char *active, const real *z, const real *d_k, const real *d_trace,
                        const real *d_speed, const real *d_square, bool parameters, real *d_z) {
    const size_t d = f->shape.dim;
    real *h = f->rows, *g = h + f->padded, *spare = g + f->padded, *jac = spare + f->padded, *dk = jac + d * d;
    real *e = f->net_out; /* as long as a row at least */
    for (size_t l = 0; l < PANEL; l++) {
        if (!active[l])
            continue;
        real *node = node_of(f, t[l]);
        const node_rows n = rows_at(f, node), to = rows_at(f, node_gradient(f, node));
        activate_units(f, &n, z + l, h, g);
        for (size_t i = 0; i < d; i++) {
            dk[i] = d_k[i * PANEL + l];
            if (d_speed && d_speed[l] != 0)
                dk[i] = madd(2 * d_speed[l], dot(f->padded, n.u + i * f->padded, h), dk[i]);
        }
        const sample_cotangent c = {dk, d_trace[l], d_square ? d_square[l] : 0};
        sample_vjp(f, &n, parameters && f->gradient ? &to : NULL, z + l, &c, h, g, e, spare, jac, d_z + l);
    }
}

/* ---- gradients of the net */

/* From the gradient of node `index` to the cotangent of the net's output in lane l. */
static void node_cotangent(const field_hyper *f, size_t index, size_t l) {
    const size_t d = f->shape.dim, units = f->shape.units, fields = units * d;
    const real share = (real)(1.0 / (double)units);
    real *node = node_at(f, index);
    const node_rows n = rows_at(f, node), g = rows_at(f, node_gradient(f, node));
    const real *u = f->net_out + fields * PANEL + l, *gate = u + fields * PANEL;
    real *d_w = f->d_out + l, *d_u = d_w + fields * PANEL, *d_gate = d_u + fields * PANEL, *d_b = d_gate + fields * PANEL;
    for (size_t k = 0; k < units; k++) {
        for (size_t i = 0; i < d; i++) {
            const size_t at = (k * d + i) * PANEL, row = i * f->padded + k;
            const real d_gated = madd(g.c[k], n.w[row], g.u[row]) * share;
            d_w[at] = madd(g.c[k], n.u[row], g.w[row]);
            d_u[at] = d_gated * gate[at];
            d_gate[at] = d_gated * u[at] * gate[at] * (1 - gate[at]);
        }
        d_b[k * PANEL] = g.b[k];
    }
}

static void gather_gradient(const field_hyper *f) {
    const nf_net *net = f->shape.net;
    for (size_t first = 0; first < f->node_count; first += PANEL) {
        const size_t count = f->node_count - first < PANEL ? f->node_count - first : PANEL;
        for (size_t l = 0; l < PANEL; l++)
            f->net_in[l] = (real)f->times[first + (l < count ? l : 0)];
        R(mlp_forward)(net, f->theta, 1, PANEL, f->net_in, f->net_out, f->net_record, f->net_room);
        apply_gates(f, f->net_out);
        memset(f->d_out, 0, net->outputs * PANEL * sizeof(real));
        for (size_t l = 0; l < count; l++)
            node_cotangent(f, first + l, l);
        R(mlp_vjp)(net, f->theta, 1, f->net_in, f->net_record, f->d_out, NULL, f->gradient, f->net_room);
    }
}

void R(field_hyper_finish)(field_hyper *f) {
    if (f->gradient)
        gather_gradient(f);
    clear_pool(f);
}
