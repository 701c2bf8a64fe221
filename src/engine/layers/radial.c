/*
 * Radial layers (Rezende & Mohamed 2015, equation 14, with the constraint of their appendix A.2):
 *     x = z + bhat (z - center) / (a + r),   r = |z - center|,   a = softplus(alpha),   bhat = softplus(beta) - a.
 *
 * With sigma = softplus(beta) > 0 the distance to the center goes from r to rho = r A, A = (sigma + r) / (a + r), at the rate
 *     D = d rho / dr = (r^2 + 2 a r + sigma a) / (a + r)^2 > 0,
 * so that log det = (dim - 1) log A + log D. The inverse is the positive root of r^2 + (sigma - rho) r - a rho = 0. All of these are
 * computed from sums of positive numbers. With a context, [center, alpha, beta] is the output of a net on it.
 */
#include <stdbool.h>
#include <string.h>

#include "engine/kernels/dense.h"
#include "engine/kernels/vmath.h"
#include "engine/layer.h"
#include "engine/layers/layers.h"
#include "engine/layers/softplus.h"
#include "engine/nets/mlp.h"
#include "engine/pieces.h"

/* Softpluses are held at this size, so that quotients like sigma / a^2 stay in range; no r that is measured is so small. */
#define LEAST ((real)(NF_SINGLE_BUILD ? 1e-12 : 1e-80))

/* Parameters of a panel, lane by lane; the rates are d log a / dalpha and d log sigma / dbeta. */
typedef struct radial_lanes {
    real a[PANEL], sigma[PANEL], excess[PANEL]; /* excess: bhat */
    real a_rate[PANEL], sigma_rate[PANEL];
} radial_lanes;

#define LANES_REALS (sizeof(radial_lanes) / sizeof(real))

/* The record: the unit vector from the center to the sample, r, and of a conditional layer the net's output and record. */
typedef struct radial_record {
    real *unit, *r, *out, *net;
} radial_record;

static radial_record map_record(const nf_layer *layer, size_t panels, real *base) {
    radial_record r = {.unit = base};
    r.r = r.unit + layer->dim * panels * PANEL;
    r.out = r.r + panels * PANEL;
    r.net = r.out + layer->net.outputs * panels * PANEL;
    return r;
}

static size_t record_size(const nf_layer *layer, size_t panels, bool inverse) {
    (void)inverse;
    const size_t own = (layer->dim + 1 + layer->net.outputs) * panels * PANEL;
    return layer->context_dim ? own + R(mlp_record_size)(&layer->net, panels) : own;
}

/* Scratch: the parameters as rows of lanes, once for all panels or, of a conditional layer, for each; then the rest. */
typedef struct radial_map {
    radial_lanes *lanes;     /* [sets] */
    real *rows;              /* unconditional: center, [dim][PANEL]; conditional: the net's output, [panels][dim + 2][PANEL] */
    real *unit;              /* [dim][PANEL], where nothing is recorded */
    real *d_out, *d_context; /* conditional: [panels][dim + 2][PANEL] and [panels][context_dim][PANEL] */
    double *sums;            /* unconditional: dim */
    real *net;
} radial_map;

static size_t map_scratch(const nf_layer *layer, size_t panels, real *base, radial_map *m) {
    const size_t dim = layer->dim, sets = layer->context_dim ? panels : 1, rows = layer->context_dim ? sets * (dim + 2) : dim;
    size_t used = 0;
    m->lanes = take_reals(base, &used, sets * LANES_REALS);
    m->rows = take_reals(base, &used, rows * PANEL);
    m->unit = take_reals(base, &used, (dim + 1) * PANEL);
    m->d_out = take_reals(base, &used, layer->net.outputs * panels * PANEL);
    m->d_context = take_reals(base, &used, layer->context_dim * panels * PANEL);
    m->sums = take_reals(base, &used, dim * sizeof(double) / sizeof(real));
    m->net = take_reals(base, &used, layer->context_dim ? R(mlp_scratch_size)(&layer->net, panels) : 0);
    return used;
}

static size_t scratch_size(const nf_layer *layer, size_t panels) {
    radial_map unused;
    return map_scratch(layer, panels, NULL, &unused);
}

/* ---- parameters */

/* softplus(x), held, and the rate of its logarithm. */
static double held_softplus(double x, double *rate) {
    const double value = softplus(x);
    *rate = value < (double)LEAST ? 0 : logistic(x) / value;
    return value < (double)LEAST ? (double)LEAST : value;
}

static void spread_layer(size_t dim, const real *theta, const radial_map *m) {
    double a_rate, sigma_rate;
    const double a = held_softplus((double)theta[dim], &a_rate), sigma = held_softplus((double)theta[dim + 1], &sigma_rate);
    for (size_t l = 0; l < PANEL; l++) {
        m->lanes->a[l] = (real)a;
        m->lanes->sigma[l] = (real)sigma;
        m->lanes->excess[l] = (real)(sigma - a);
        m->lanes->a_rate[l] = (real)a_rate;
        m->lanes->sigma_rate[l] = (real)sigma_rate;
    }
    for (size_t i = 0; i < dim * PANEL; i++)
        m->rows[i] = theta[i / PANEL];
}

static void softplus_lanes(const real *restrict x, real *restrict value, real *restrict rate) {
    for (size_t l = 0; l < PANEL; l++) {
        const real v = vm_softplus(x[l]), slope = vm_sigmoid(x[l]);
        rate[l] = v < LEAST ? 0 : slope / v;
        value[l] = v < LEAST ? LEAST : v;
    }
}

static void spread_lanes(const real *alpha_beta, radial_lanes *lanes) {
    softplus_lanes(alpha_beta, lanes->a, lanes->a_rate);
    softplus_lanes(alpha_beta + PANEL, lanes->sigma, lanes->sigma_rate);
    for (size_t l = 0; l < PANEL; l++)
        lanes->excess[l] = lanes->sigma[l] - lanes->a[l];
}

static void spread_parameters(const layer_run *run, size_t panels, const radial_map *m, const real *out) {
    const size_t dim = run->layer->dim;
    if (!run->layer->context_dim) {
        spread_layer(dim, run->theta, m);
        return;
    }
    for (size_t p = 0; p < panels; p++)
        spread_lanes(out + (p * (dim + 2) + dim) * PANEL, m->lanes + p);
}

/* ---- both directions */

/* The distance of each lane from its center, and the unit vector (0 at the center itself). */
static void measure(size_t dim, const real *restrict x, const real *restrict center, real *restrict unit, real *restrict distance) {
    _Alignas(NF_ALIGN) real largest[PANEL], square[PANEL] = {0};
    for (size_t l = 0; l < PANEL; l++)
        largest[l] = REAL_MIN;
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++) {
            const real v = x[i * PANEL + l] - center[i * PANEL + l], size = vm_abs(v);
            unit[i * PANEL + l] = v;
            largest[l] = size > largest[l] ? size : largest[l];
        }
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++) {
            const real v = unit[i * PANEL + l] / largest[l];
            unit[i * PANEL + l] = v;
            square[l] = madd(v, v, square[l]);
        }
    for (size_t l = 0; l < PANEL; l++) {
        const real root = vm_sqrt(square[l]);
        distance[l] = largest[l] * root;
        square[l] = root > 0 ? 1 / root : 0;
    }
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            unit[i * PANEL + l] *= square[l];
}

/* r from rho: of the two forms of the root, the one without cancellation. Scaled, so that no square leaves the range. */
static void solve(const radial_lanes *lanes, const real *restrict rho, real *restrict r) {
    for (size_t l = 0; l < PANEL; l++) {
        const real a = lanes->a[l], sigma = lanes->sigma[l];
        const real larger = a > sigma ? a : sigma, scale = larger > rho[l] ? larger : rho[l];
        const real half = (rho[l] - sigma) / scale * (real)0.5, product = a / scale * (rho[l] / scale);
        const real root = vm_sqrt(madd(half, half, product)), sum = vm_abs(half) + root;
        r[l] = scale * (half > 0 ? sum : sum > 0 ? product / sum : 0);
    }
}

/* log A and log D, by log1p of what they differ from 1 by unless that is close to -1. */
static void log_det_lanes(const radial_lanes *lanes, const real *restrict r, real across, real *restrict log_det) {
    for (size_t l = 0; l < PANEL; l++) {
        const real a = lanes->a[l], sigma = lanes->sigma[l], unit = 1 / (a + r[l]);
        const real inner = a * unit, outer = r[l] * unit, ratio = sigma * unit;
        const real more = lanes->excess[l] * unit;
        const bool near = sigma < (real)0.5 * a;
        const real stretch = near ? vm_log(outer + ratio) : vm_log1p(more);
        const real rate = near ? vm_log(madd(outer, madd(inner, 2, outer), ratio * inner)) : vm_log1p(more * inner);
        log_det[l] = madd(across, stretch, rate);
    }
}

/*
 * x - z = bhat y / (a + r); the other way it is bhat (x - center) / (sigma + r). Where a sample gets much closer to the center, the new distance
 * is put onto the center instead: the round-off of the old place would be large beside it.
 */
static void move(size_t dim, const radial_lanes *lanes, const real *restrict center, const real *restrict unit, const real *restrict rho,
                 const real *restrict r, bool inverted, real *restrict x) {
    _Alignas(NF_ALIGN) real shift[PANEL], length[PANEL], closer[PANEL];
    for (size_t l = 0; l < PANEL; l++) {
        const real forwards = r[l] / (lanes->a[l] + r[l]), backwards = rho[l] / (lanes->sigma[l] + r[l]);
        shift[l] = lanes->excess[l] * (inverted ? -backwards : forwards);
        length[l] = inverted ? r[l] : forwards * (lanes->sigma[l] + r[l]);
        closer[l] = length[l] < (real)0.5 * (inverted ? rho[l] : r[l]) ? 1 : 0;
    }
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++) {
            const bool anew = closer[l] > 0;
            x[i * PANEL + l] = madd(anew ? length[l] : shift[l], unit[i * PANEL + l], anew ? center[i * PANEL + l] : x[i * PANEL + l]);
        }
}

static int apply(const layer_run *run, tile *t, bool inverted) {
    const nf_layer *layer = run->layer;
    const size_t dim = t->dim;
    const bool conditional = layer->context_dim > 0;
    radial_map m;
    map_scratch(layer, TILE_PANELS, run->scratch, &m);
    radial_record record = {.out = m.rows};
    if (run->record)
        record = map_record(layer, TILE_PANELS, run->record);
    if (conditional)
        R(mlp_forward)(&layer->net, run->theta, NULL, t->panels, PANEL, t->context, record.out, record.net, m.net);
    spread_parameters(run, t->panels, &m, record.out);
    for (size_t p = 0; p < t->panels; p++) {
        const radial_lanes *lanes = m.lanes + (conditional ? p : 0);
        const real *center = conditional ? record.out + p * (dim + 2) * PANEL : m.rows;
        real *unit = run->record ? record.unit + p * dim * PANEL : m.unit;
        real *r = run->record ? record.r + p * PANEL : m.unit + dim * PANEL;
        _Alignas(NF_ALIGN) real rho[PANEL], value[PANEL];
        measure(dim, tile_panel(t, p), center, unit, inverted ? rho : r);
        if (inverted)
            solve(lanes, rho, r);
        else
            memcpy(rho, r, sizeof rho);
        move(dim, lanes, center, unit, rho, r, inverted, tile_panel(t, p));
        log_det_lanes(lanes, r, (real)(dim - 1), value);
        for (size_t l = 0; l < PANEL; l++)
            t->log_det[p * PANEL + l] += inverted ? -(double)value[l] : (double)value[l];
    }
    return LAYER_OK;
}

static int forward(const layer_run *run, tile *t) { return apply(run, t, false); }

static int inverse(const layer_run *run, tile *t) { return apply(run, t, true); }

/* ---- vjps */

/* Per lane: the cotangent of z - center is keep * d + radial * unit, that of the center drop * d - radial * unit. */
typedef struct radial_cotangents {
    _Alignas(NF_ALIGN) real keep[PANEL];
    real drop[PANEL], radial[PANEL];
    real log_a[PANEL], log_sigma[PANEL];
} radial_cotangents;

/*
 * With s = a + r, y = r unit, e = d.y and primes for d/dr:
 *     A' = -bhat / s^2,  dA/da = -A / s,  dA/dsigma = 1 / s,
 *     D' = -2 bhat a / s^3,  dD/da = (sigma - 2 a) / s^2 - 2 bhat a / s^3,  dD/dsigma = a / s^2.
 * forward (x = center + A y):     gA = e + c (dim - 1) / A,  gD = c / D;  gr = gA A' + gD D' is what the length r gets;
 * inverse (z = center + v / A):   gA = -(e + c (dim - 1)) / A,  gD = -c / D;  by rho = r A, dr/drho = 1/D and
 *                                 dr/da = -(r / D) dA/da, so rho gets gr / D and dA/da acts with gA - gr r / D (sigma likewise).
 * The cotangents of log a and log sigma stay in range where those of a and sigma do not.
 */
static void lanes_vjp(const radial_lanes *lanes, const real *restrict r, const real *restrict along, const real *restrict c, real across,
                      bool inverted, radial_cotangents *g) {
    for (size_t l = 0; l < PANEL; l++) {
        const real a = lanes->a[l], sigma = lanes->sigma[l], excess = lanes->excess[l];
        const real unit = 1 / (a + r[l]), inner = a * unit, outer = r[l] * unit, ratio = sigma * unit;
        const real stretch = outer + ratio, rate = madd(outer, madd(inner, 2, outer), ratio * inner);
        const real per_stretch = 1 / stretch, per_rate = 1 / rate, more = excess * unit;
        const real e = along[l] * r[l], spread = c[l] * across;
        const real g_stretch = inverted ? -(e + spread) * per_stretch : madd(spread, per_stretch, e);
        const real g_rate = inverted ? -c[l] * per_rate : c[l] * per_rate;
        const real g_length = -unit * more * madd(2 * inner, g_rate, g_stretch);
        const real acts = inverted ? madd(-g_length * r[l], per_rate, g_stretch) : g_stretch;
        g->radial[l] = inverted ? g_length * per_rate : g_length;
        g->keep[l] = inverted ? per_stretch : stretch;
        g->drop[l] = inverted ? more * per_stretch : -more;
        g->log_sigma[l] = ratio * madd(g_rate, inner, acts);
        g->log_a[l] = inner * madd(g_rate, madd(-2 * more, inner, ratio - 2 * inner), -acts * stretch);
    }
}

/* d becomes the cotangent of the input, d_center that of the center. */
static void coordinate_vjp(const radial_cotangents *g, const real *restrict unit, real *restrict d, real *restrict d_center) {
    for (size_t l = 0; l < PANEL; l++) {
        const real radial = g->radial[l] * unit[l];
        d_center[l] = madd(g->drop[l], d[l], -radial);
        d[l] = madd(g->keep[l], d[l], radial);
    }
}

static void panel_vjp(size_t dim, const radial_lanes *lanes, const radial_record *record, size_t p, const real *c, bool inverted,
                      const real *restrict d, radial_cotangents *g) {
    _Alignas(NF_ALIGN) real along[PANEL] = {0};
    const real *restrict unit = record->unit + p * dim * PANEL;
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            along[l] = madd(unit[i * PANEL + l], d[i * PANEL + l], along[l]);
    lanes_vjp(lanes, record->r + p * PANEL, along, c + p * PANEL, (real)(dim - 1), inverted, g);
}

static void conditional_vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    const nf_layer *layer = run->layer;
    const size_t dim = t->dim;
    radial_map m;
    map_scratch(layer, TILE_PANELS, run->scratch, &m);
    const radial_record record = map_record(layer, TILE_PANELS, run->record);
    spread_parameters(run, t->panels, &m, record.out);
    for (size_t p = 0; p < t->panels; p++) {
        real *d = c->x + p * dim * PANEL, *d_center = m.d_out + p * (dim + 2) * PANEL, *d_alpha = d_center + dim * PANEL;
        radial_cotangents g;
        panel_vjp(dim, m.lanes + p, &record, p, c->log_det, inverted, d, &g);
        for (size_t i = 0; i < dim; i++)
            coordinate_vjp(&g, record.unit + (p * dim + i) * PANEL, d + i * PANEL, d_center + i * PANEL);
        for (size_t l = 0; l < PANEL; l++) {
            d_alpha[l] = m.lanes[p].a_rate[l] * g.log_a[l];
            d_alpha[PANEL + l] = m.lanes[p].sigma_rate[l] * g.log_sigma[l];
        }
    }
    R(mlp_vjp)(&layer->net, run->theta, NULL, t->panels, t->context, record.net, m.d_out, m.d_context, run->gradient, false, m.net);
    for (size_t i = 0; i < t->panels * t->context_dim * PANEL; i++)
        c->context[i] += m.d_context[i];
}

static void shared_vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    const size_t dim = t->dim;
    radial_map m;
    map_scratch(run->layer, TILE_PANELS, run->scratch, &m);
    const radial_record record = map_record(run->layer, TILE_PANELS, run->record);
    spread_parameters(run, t->panels, &m, NULL);
    double sum_a = 0, sum_sigma = 0;
    memset(m.sums, 0, dim * sizeof *m.sums);
    for (size_t p = 0; p < t->panels; p++) {
        real *d = c->x + p * dim * PANEL;
        _Alignas(NF_ALIGN) real d_center[PANEL];
        radial_cotangents g;
        panel_vjp(dim, m.lanes, &record, p, c->log_det, inverted, d, &g);
        for (size_t i = 0; i < dim; i++) {
            coordinate_vjp(&g, record.unit + (p * dim + i) * PANEL, d + i * PANEL, d_center);
            m.sums[i] += (double)panel_sum(d_center);
        }
        sum_a += (double)panel_sum(g.log_a);
        sum_sigma += (double)panel_sum(g.log_sigma);
    }
    if (!run->gradient)
        return;
    double a_rate, sigma_rate;
    held_softplus((double)run->theta[dim], &a_rate);
    held_softplus((double)run->theta[dim + 1], &sigma_rate);
    for (size_t i = 0; i < dim; i++)
        run->gradient[i] += (real)m.sums[i];
    run->gradient[dim] += (real)(a_rate * sum_a);
    run->gradient[dim + 1] += (real)(sigma_rate * sum_sigma);
}

static void vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    (run->layer->context_dim ? conditional_vjp : shared_vjp)(run, t, c, inverted);
}

static void forward_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, false); }

static void inverse_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, true); }

const struct layer_ops R(radial_ops) = {.record_size = record_size,
                                        .scratch_size = scratch_size,
                                        .forward = forward,
                                        .inverse = inverse,
                                        .forward_vjp = forward_vjp,
                                        .inverse_vjp = inverse_vjp};
