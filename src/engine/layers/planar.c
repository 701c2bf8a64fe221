/*
 * Planar layers (Rezende & Mohamed 2015, equation 10): x = z + uhat tanh(t), t = w.z + b. See planar_constraint.h for uhat and
 * the slope s, planar_root.c for the equation of the inverse. With a context, [u, w, b] is the output of a net on it.
 */
#include <stdbool.h>
#include <string.h>

#include "engine/kernels/dense.h"
#include "engine/kernels/vmath.h"
#include "engine/layer.h"
#include "engine/layers/layers.h"
#include "engine/layers/planar_constraint.h"
#include "engine/layers/planar_root.h"
#include "engine/nets/mlp.h"
#include "engine/pieces.h"

/* The record: the operation's input, tanh t and sech^2 t; of a conditional layer also the net's output and record. */
typedef struct planar_record {
    real *input, *tanh_t, *sech2_t, *out, *net;
} planar_record;

static planar_record map_record(const nf_layer *layer, size_t panels, real *base) {
    planar_record r = {.input = base};
    r.tanh_t = r.input + layer->dim * panels * PANEL;
    r.sech2_t = r.tanh_t + panels * PANEL;
    r.out = r.sech2_t + panels * PANEL;
    r.net = r.out + layer->net.outputs * panels * PANEL;
    return r;
}

static size_t record_size(const nf_layer *layer, size_t panels, bool inverse) {
    (void)inverse;
    const size_t own = (layer->dim + 2 + layer->net.outputs) * panels * PANEL;
    return layer->context_dim ? own + R(mlp_record_size)(&layer->net, panels) : own;
}

#define STATE_REALS (sizeof(newton_panel) / sizeof(real))
#define LANES_REALS (sizeof(planar_lanes) / sizeof(real))

/*
 * The parameters as rows of lanes: one set for all panels, or one for each panel of a conditional layer. Then what the operations
 * need of scratch: for the root, or for the cotangents of the parameters.
 */
typedef struct planar_map {
    size_t sets;                 /* 1, or the number of panels */
    planar_lanes *lanes;         /* [sets]; of an unconditional layer only `slope` is filled */
    real *u_hat;                 /* [sets][dim][PANEL] */
    real *rows;                  /* unconditional: w and b, [dim + 1][PANEL]; conditional: the net's output, [sets][2 dim + 1][PANEL] */
    real *y, *tanh_t, *sech2_t;  /* [panels][PANEL] */
    newton_panel *states;        /* [panels] */
    real *d_out, *d_context;     /* conditional: [panels][2 dim + 1][PANEL] and [panels][context_dim][PANEL] */
    double *sums;                /* unconditional: 2 dim */
    real *net;
} planar_map;

static size_t map_scratch(const nf_layer *layer, size_t panels, real *base, planar_map *m) {
    const size_t rows = layer->context_dim ? 2 * layer->dim + 1 : layer->dim + 1, line = panels * PANEL;
    size_t used = 0;
    m->sets = layer->context_dim ? panels : 1;
    m->lanes = take_reals(base, &used, m->sets * LANES_REALS);
    m->u_hat = take_reals(base, &used, m->sets * layer->dim * PANEL);
    m->rows = take_reals(base, &used, m->sets * rows * PANEL);
    m->y = take_reals(base, &used, line);
    m->tanh_t = take_reals(base, &used, line);
    m->sech2_t = take_reals(base, &used, line);
    m->states = take_reals(base, &used, panels * STATE_REALS);
    m->d_out = take_reals(base, &used, layer->net.outputs * line);
    m->d_context = take_reals(base, &used, layer->context_dim * line);
    m->sums = take_reals(base, &used, 2 * layer->dim * sizeof(double) / sizeof(real));
    m->net = take_reals(base, &used, layer->context_dim ? R(mlp_scratch_size)(&layer->net, panels) : 0);
    return used;
}

static size_t scratch_size(const nf_layer *layer, size_t panels) {
    planar_map unused;
    return map_scratch(layer, panels, NULL, &unused);
}

/* The rows of one panel. */
typedef struct planar_rows {
    const real *u, *w, *b; /* u: conditional layers only */
    const real *u_hat, *slope;
} planar_rows;

static planar_rows rows_of(const nf_layer *layer, const planar_map *m, const real *out, size_t p) {
    const size_t dim = layer->dim, set = layer->context_dim ? p : 0;
    const real *u = layer->context_dim ? out + set * (2 * dim + 1) * PANEL : NULL;
    const real *w = layer->context_dim ? u + dim * PANEL : m->rows;
    return (planar_rows){u, w, w + dim * PANEL, m->u_hat + set * dim * PANEL, m->lanes[set].slope};
}

static void fill(real *row, real value) {
    for (size_t l = 0; l < PANEL; l++)
        row[l] = value;
}

/* The parameters' rows, from theta or from the net's output. Returns the constraint of an unconditional layer. */
static planar_constraint spread_parameters(const layer_run *run, size_t panels, const planar_map *m, const real *out) {
    const size_t dim = run->layer->dim;
    planar_constraint c = {.slope = 1};
    if (run->layer->context_dim) {
        for (size_t p = 0; p < panels; p++) {
            const real *u = out + p * (2 * dim + 1) * PANEL;
            R(planar_constrain_lanes)(dim, u, u + dim * PANEL, m->lanes + p, m->u_hat + p * dim * PANEL);
        }
        return c;
    }
    const real *u = run->theta, *w = u + dim;
    c = R(planar_constrain)(dim, u, w);
    for (size_t i = 0; i < dim; i++) {
        fill(m->u_hat + i * PANEL, R(planar_u_hat)(&c, u[i], w[i]));
        fill(m->rows + i * PANEL, w[i]);
    }
    fill(m->rows + dim * PANEL, w[dim]);
    fill(m->lanes->slope, (real)c.slope);
    return c;
}

/* w.x + b */
static void project(size_t dim, const planar_rows *rows, const real *restrict x, real *restrict y) {
    _Alignas(NF_ALIGN) real sum[PANEL];
    memcpy(sum, rows->b, sizeof sum);
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            sum[l] = madd(rows->w[i * PANEL + l], x[i * PANEL + l], sum[l]);
    memcpy(y, sum, sizeof sum);
}

static void bend(const real *restrict t, real *restrict tanh_t, real *restrict sech2_t) {
    for (size_t l = 0; l < PANEL; l++)
        vm_tanh_sech2(t[l], tanh_t + l, sech2_t + l);
}

/* x += sign uhat tanh t */
static void displace(size_t dim, const planar_rows *rows, const real *restrict tanh_t, real sign, real *restrict x) {
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            x[i * PANEL + l] = madd(sign * tanh_t[l], rows->u_hat[i * PANEL + l], x[i * PANEL + l]);
}

static void add_log_det(const nf_layer *layer, const planar_constraint *c, const real *slope, const real *tanh_t, const real *sech2_t,
                        double sign, double *restrict log_det) {
    _Alignas(NF_ALIGN) real value[PANEL];
    const bool below = layer->context_dim || c->slope < 0.5, above = layer->context_dim || c->slope >= 0.5;
    R(planar_log_det)(slope, tanh_t, sech2_t, below, above, value);
    for (size_t l = 0; l < PANEL; l++)
        log_det[l] += sign * (double)value[l];
}

static int apply(const layer_run *run, tile *t, bool inverted) {
    const nf_layer *layer = run->layer;
    const size_t dim = t->dim, panels = t->panels;
    planar_map m;
    map_scratch(layer, TILE_PANELS, run->scratch, &m);
    planar_record r = {.tanh_t = m.tanh_t, .sech2_t = m.sech2_t, .out = m.rows};
    if (run->record) {
        r = map_record(layer, TILE_PANELS, run->record);
        memcpy(r.input, t->x, dim * panels * PANEL * sizeof(real));
    }
    /* All lanes: one that held anything could be slow to find its root. */
    if (layer->context_dim)
        R(mlp_forward)(&layer->net, run->theta, NULL, panels, PANEL, t->context, r.out, r.net, m.net);
    const planar_constraint c = spread_parameters(run, panels, &m, r.out);

    for (size_t p = 0; p < panels; p++) {
        const planar_rows rows = rows_of(layer, &m, r.out, p);
        real *y = m.y + p * PANEL;
        project(dim, &rows, tile_panel(t, p), y);
        if (!inverted)
            bend(y, r.tanh_t + p * PANEL, r.sech2_t + p * PANEL);
    }
    if (inverted) {
        const planar_equation equation = {.y = m.y,
                                          .slope = m.lanes->slope,
                                          .slope_stride = layer->context_dim ? LANES_REALS : 0,
                                          .tanh = r.tanh_t,
                                          .sech2 = r.sech2_t};
        run->counters->root_iterations += R(planar_root)(&equation, panels, t->rows, m.states);
    }
    for (size_t p = 0; p < panels; p++) {
        const planar_rows rows = rows_of(layer, &m, r.out, p);
        const real *tanh_t = r.tanh_t + p * PANEL, *sech2_t = r.sech2_t + p * PANEL;
        displace(dim, &rows, tanh_t, inverted ? -1 : 1, tile_panel(t, p));
        add_log_det(layer, &c, rows.slope, tanh_t, sech2_t, inverted ? -1 : 1, t->log_det + p * PANEL);
    }
    return LAYER_OK;
}

static int forward(const layer_run *run, tile *t) { return apply(run, t, false); }

static int inverse(const layer_run *run, tile *t) { return apply(run, t, true); }

/*
 * With D = tanh^2 t + s sech^2 t, l = log D, l_t = -2 (s - 1) tanh t sech^2 t / D and dl / dlog s = s sech^2 t / D:
 *
 * forward: dt = (uhat.d) sech^2 t + c l_t is the cotangent of t and, because t = w.z + b, of y;
 *          dlog s = c s sech^2 t / D;   duhat = d tanh t.
 * inverse: z = x - uhat tanh t, t + (s - 1) tanh t = y = w.x + b, log_det -l. By the implicit function theorem dt/dy = 1 / D and
 *          dt/dlog s = -s tanh t / D, so with g = -(uhat.d) sech^2 t - c l_t the cotangent of y is r = g / D;
 *          dlog s = -c s sech^2 t / D - s tanh t r;   duhat = -d tanh t.
 */
static void project_vjp(const real *restrict slope, const real *restrict tanh_t, const real *restrict sech2_t, const real *restrict e,
                        const real *restrict c, bool inverted, real *restrict dy, real *restrict dlog_s) {
    for (size_t l = 0; l < PANEL; l++) {
        const real s = slope[l], h = tanh_t[l], q = sech2_t[l];
        const real unit = 1 / madd(h, h, s * q), share = q * unit;
        const real dt = madd(e[l], q, -2 * c[l] * (s - 1) * h * share), direct = c[l] * s * share;
        const real r = -dt * unit;
        dy[l] = inverted ? r : dt;
        dlog_s[l] = inverted ? -madd(s * h, r, direct) : direct;
    }
}

/* Cotangents of uhat.d, of y and of log s for one panel; d becomes the cotangent of the operation's input. */
static void panel_vjp(const nf_layer *layer, const planar_rows *rows, const planar_record *r, size_t p, bool inverted, const real *c,
                      const real *restrict d, real *restrict dy, real *restrict dlog_s) {
    _Alignas(NF_ALIGN) real e[PANEL] = {0};
    for (size_t i = 0; i < layer->dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            e[l] = madd(rows->u_hat[i * PANEL + l], d[i * PANEL + l], e[l]);
    project_vjp(rows->slope, r->tanh_t + p * PANEL, r->sech2_t + p * PANEL, e, c + p * PANEL, inverted, dy, dlog_s);
}

/* One coordinate: the lanes' parts of the cotangents of uhat and w, and d becomes that of the input. */
static void coordinate_vjp(const real *restrict tanh_t, const real *restrict dy, const real *restrict w, const real *restrict input,
                           real sign, real *restrict d, real *restrict d_u_hat, real *restrict d_w) {
    for (size_t l = 0; l < PANEL; l++) {
        d_u_hat[l] = sign * d[l] * tanh_t[l];
        d_w[l] = input[l] * dy[l];
        d[l] = madd(w[l], dy[l], d[l]);
    }
}

/* A net's parameters: cotangents lane by lane, then the net's own vjp. */
static void conditional_vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    const nf_layer *layer = run->layer;
    const size_t dim = t->dim, outputs = 2 * dim + 1;
    planar_map m;
    map_scratch(layer, TILE_PANELS, run->scratch, &m);
    const planar_record r = map_record(layer, TILE_PANELS, run->record);
    spread_parameters(run, t->panels, &m, r.out);
    for (size_t p = 0; p < t->panels; p++) {
        const planar_rows rows = rows_of(layer, &m, r.out, p);
        real *d = c->x + p * dim * PANEL, *d_u = m.d_out + p * outputs * PANEL, *d_w = d_u + dim * PANEL, *d_b = d_w + dim * PANEL;
        _Alignas(NF_ALIGN) real dlog_s[PANEL];
        panel_vjp(layer, &rows, &r, p, inverted, c->log_det, d, d_b, dlog_s);
        for (size_t i = 0; i < dim; i++)
            coordinate_vjp(r.tanh_t + p * PANEL, d_b, rows.w + i * PANEL, r.input + (p * dim + i) * PANEL, inverted ? -1 : 1,
                           d + i * PANEL, d_u + i * PANEL, d_w + i * PANEL);
        R(planar_constrain_lanes_vjp)(m.lanes + p, dim, rows.u, rows.w, dlog_s, d_u, d_w);
    }
    R(mlp_vjp)(&layer->net, run->theta, NULL, t->panels, t->context, r.net, m.d_out, m.d_context, run->gradient, false, m.net);
    for (size_t i = 0; i < t->panels * t->context_dim * PANEL; i++)
        c->context[i] += m.d_context[i];
}

static void shared_vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    const size_t dim = t->dim;
    planar_map m;
    map_scratch(run->layer, TILE_PANELS, run->scratch, &m);
    const planar_record r = map_record(run->layer, TILE_PANELS, run->record);
    const planar_constraint constraint = spread_parameters(run, t->panels, &m, NULL);
    const planar_rows rows = rows_of(run->layer, &m, NULL, 0);
    double sum_log_s = 0, sum_b = 0;
    memset(m.sums, 0, 2 * dim * sizeof *m.sums);
    for (size_t p = 0; p < t->panels; p++) {
        real *d = c->x + p * dim * PANEL;
        _Alignas(NF_ALIGN) real dy[PANEL], dlog_s[PANEL], d_u_hat[PANEL], d_w[PANEL];
        panel_vjp(run->layer, &rows, &r, p, inverted, c->log_det, d, dy, dlog_s);
        for (size_t i = 0; i < dim; i++) {
            coordinate_vjp(r.tanh_t + p * PANEL, dy, rows.w + i * PANEL, r.input + (p * dim + i) * PANEL, inverted ? -1 : 1,
                           d + i * PANEL, d_u_hat, d_w);
            if (!run->gradient)
                continue;
            m.sums[i] += (double)panel_sum(d_u_hat);
            m.sums[dim + i] += (double)panel_sum(d_w);
        }
        sum_b += (double)panel_sum(dy);
        sum_log_s += (double)panel_sum(dlog_s);
    }
    if (!run->gradient)
        return;
    R(planar_constrain_vjp)(&constraint, dim, run->theta, run->theta + dim, m.sums, m.sums + dim, sum_log_s, run->gradient);
    run->gradient[2 * dim] += (real)sum_b;
}

static void vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    (run->layer->context_dim ? conditional_vjp : shared_vjp)(run, t, c, inverted);
}

static void forward_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, false); }

static void inverse_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, true); }

/* Gradients grow like 1/|w|^2: those of u, w and b, or of the biases by which a net gives them. */
static size_t steep(const nf_layer *layer) { return 2 * layer->dim + 1; }

const struct layer_ops R(planar_ops) = {.record_size = record_size,
                                        .scratch_size = scratch_size,
                                        .forward = forward,
                                        .inverse = inverse,
                                        .forward_vjp = forward_vjp,
                                        .inverse_vjp = inverse_vjp,
                                        .steep = steep};
