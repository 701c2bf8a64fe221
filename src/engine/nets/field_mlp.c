#include "engine/nets/field_mlp.h"

#include <string.h>

#include "core/philox.h"
#include "engine/kernels/activation.h"
#include "engine/kernels/dense.h"
#include "engine/pieces.h"

static size_t width(const nf_net *net, size_t j) { return net->hidden.items[j]; }
static size_t first_width(const nf_net *net) { return net->hidden.count ? width(net, 0) : net->outputs; }
static size_t last_width(const nf_net *net) { return net->hidden.count ? width(net, net->hidden.count - 1) : net->inputs; }

static size_t total_width(const nf_net *net) {
    size_t total = 0;
    for (size_t j = 0; j < net->hidden.count; j++)
        total += width(net, j);
    return total;
}

static size_t weight_offset(const nf_net *net, size_t layer) {
    size_t offset = 0;
    for (size_t j = 0; j < layer; j++)
        offset += (nf_net_layer_inputs(net, j) + 1) * nf_net_layer_outputs(net, j);
    return offset;
}

/* Lays the memory out; with base NULL only its size is meant. */
static size_t map(field_mlp *f, const field_mlp_shape *shape, real *base) {
    const nf_net *net = shape->net;
    const size_t depth = net->hidden.count, total = total_width(net), widest = nf_net_widest(net);
    f->shape = *shape;
    f->depth = depth;
    f->tangents = shape->probes ? shape->probes : shape->dim;
    f->share = shape->probes ? (real)(1.0 / (double)shape->probes) : 1;
    f->by_tangents = depth > 2 || (depth > 0 && shape->square);
    f->fold_size = f->by_tangents ? 0 : depth == 1 ? width(net, 0) : depth == 2 ? width(net, 0) * width(net, 1) : 0;
    const size_t p = f->tangents, fold = f->fold_size;
    size_t used = 0, room = 0;
    f->probe = take_reals(base, &used, p * shape->dim);
    f->u = take_reals(base, &used, p * first_width(net));
    f->v = take_reals(base, &used, p * last_width(net));
    f->fold = take_reals(base, &used, fold);
    f->d_u = take_reals(base, &used, p * first_width(net));
    f->d_v = take_reals(base, &used, p * last_width(net));
    f->d_fold = take_reals(base, &used, fold);
    f->input = take_reals(base, &used, net->inputs * PANEL);
    f->hidden = take_reals(base, &used, 3 * total * PANEL);
    f->out = take_reals(base, &used, (max_size(net->outputs, widest) + 1) * PANEL);
    f->d_input = take_reals(base, &used, net->inputs * PANEL);
    f->d_hidden = take_reals(base, &used, 2 * widest * PANEL);
    f->d_slope = take_reals(base, &used, total * PANEL);
    f->d_out = take_reals(base, &used, net->outputs * PANEL);
    f->tangent = take_reals(base, &used, f->by_tangents ? p * (2 * total + net->outputs) * PANEL : 0);
    f->d_tangent = take_reals(base, &used, f->by_tangents ? 2 * p * widest * PANEL : 0);
    for (size_t j = 0; j <= depth; j++) {
        const size_t m = nf_net_layer_outputs(net, j), n = nf_net_layer_inputs(net, j);
        room = max_size(room, R(dense_weights_scratch)(m, n, 1));
        if (f->by_tangents)
            room = max_size(room, R(dense_weights_scratch)(m, n, p));
        room = max_size(room, R(dense_weights_scratch)(1, m, 1));
    }
    f->room = take_reals(base, &used, room);
    return used;
}

size_t R(field_mlp_scratch)(const field_mlp_shape *shape) {
    field_mlp f;
    return map(&f, shape, NULL);
}

/* ---- what does not change along a path */

static void draw_probes(field_mlp *f) {
    for (size_t p = 0; p < f->tangents; p++) {
        nf_sequence random = nf_sequence_begin(f->shape.noise_seed, p);
        for (size_t i = 0; i < f->shape.dim; i++) {
            real *e = &f->probe[p * f->shape.dim + i];
            if (f->shape.probes == 0)
                *e = (real)(i == p);
            else if (f->shape.normal)
                *e = (real)nf_sequence_normal(&random);
            else
                *e = nf_sequence_bits(&random) >> 63 ? (real)1 : (real)-1;
        }
    }
}

/* u[p][n] = sum_i first[n][i] v_p[i], v[p][n] = sum_i v_p[i] last[i][n] */
static void project_probes(field_mlp *f) {
    const nf_net *net = f->shape.net;
    const size_t dim = f->shape.dim, m = first_width(net), n = last_width(net);
    const real *first = f->theta, *last = f->theta + weight_offset(net, f->depth);
    memset(f->u, 0, f->tangents * m * sizeof(real));
    memset(f->v, 0, f->tangents * n * sizeof(real));
    for (size_t p = 0; p < f->tangents; p++)
        for (size_t i = 0; i < dim; i++) {
            const real e = f->probe[p * dim + i];
            if (e == 0)
                continue;
            for (size_t k = 0; k < m; k++)
                f->u[p * m + k] = madd(first[k * net->inputs + i], e, f->u[p * m + k]);
            for (size_t k = 0; k < n; k++)
                f->v[p * n + k] = madd(e, last[i * n + k], f->v[p * n + k]);
        }
}

/* G[m][n] = sum_p V_p[m] U_p[n] of two layers, one row of it. */
static void outer_row(const field_mlp *f, size_t row, real *restrict g) {
    const size_t n = width(f->shape.net, 0), m = width(f->shape.net, 1);
    memset(g, 0, n * sizeof(real));
    for (size_t p = 0; p < f->tangents; p++) {
        const real v = f->v[p * m + row];
        for (size_t k = 0; k < n; k++)
            g[k] = madd(v, f->u[p * n + k], g[k]);
    }
}

static void fold_weights(field_mlp *f) {
    const nf_net *net = f->shape.net;
    if (f->depth == 1) {
        const size_t n = width(net, 0);
        memset(f->fold, 0, n * sizeof(real));
        for (size_t p = 0; p < f->tangents; p++)
            for (size_t k = 0; k < n; k++)
                f->fold[k] = madd(f->share * f->u[p * n + k], f->v[p * n + k], f->fold[k]);
        return;
    }
    const size_t n = width(net, 0), m = width(net, 1);
    const real *weight = f->theta + weight_offset(net, 1);
    for (size_t row = 0; row < m; row++) {
        outer_row(f, row, f->fold + row * n);
        for (size_t k = 0; k < n; k++)
            f->fold[row * n + k] *= f->share * weight[row * n + k];
    }
}

void R(field_mlp_begin)(field_mlp *f, const field_mlp_shape *shape, const real *theta, real *gradient, real *scratch) {
    map(f, shape, scratch);
    f->theta = theta;
    f->gradient = gradient;
    draw_probes(f);
    project_probes(f);
    if (!f->by_tangents && f->depth > 0)
        fold_weights(f);
    memset(f->d_u, 0, f->tangents * first_width(shape->net) * sizeof(real));
    memset(f->d_v, 0, f->tangents * last_width(shape->net) * sizeof(real));
    memset(f->d_fold, 0, f->fold_size * sizeof(real));
}

/* Gradients of U, V and the folded weights, back into those of the net's weights. */
static void unfold_gradient(const field_mlp *f) {
    const nf_net *net = f->shape.net;
    const size_t n = width(net, 0);
    if (f->depth == 1) {
        for (size_t p = 0; p < f->tangents; p++)
            for (size_t k = 0; k < n; k++) {
                f->d_u[p * n + k] = madd(f->share * f->d_fold[k], f->v[p * n + k], f->d_u[p * n + k]);
                f->d_v[p * n + k] = madd(f->share * f->d_fold[k], f->u[p * n + k], f->d_v[p * n + k]);
            }
        return;
    }
    const size_t m = width(net, 1), offset = weight_offset(net, 1);
    real *g = f->d_hidden; /* PANEL times as large as one row */
    for (size_t row = 0; row < m; row++) {
        real *d = f->d_fold + row * n;
        outer_row(f, row, g);
        for (size_t k = 0; k < n; k++) {
            f->gradient[offset + row * n + k] += f->share * d[k] * g[k];
            d[k] *= f->share * f->theta[offset + row * n + k];
        }
        for (size_t p = 0; p < f->tangents; p++) {
            real sum = 0;
            for (size_t k = 0; k < n; k++) {
                sum = madd(d[k], f->u[p * n + k], sum);
                f->d_u[p * n + k] = madd(d[k], f->v[p * m + row], f->d_u[p * n + k]);
            }
            f->d_v[p * m + row] += sum;
        }
    }
}

void R(field_mlp_finish)(const field_mlp *f) {
    const nf_net *net = f->shape.net;
    const size_t dim = f->shape.dim, m = first_width(net), n = last_width(net);
    if (!f->gradient)
        return;
    if (!f->by_tangents && f->depth > 0)
        unfold_gradient(f);
    real *first = f->gradient, *last = f->gradient + weight_offset(net, f->depth);
    for (size_t p = 0; p < f->tangents; p++)
        for (size_t i = 0; i < dim; i++) {
            const real e = f->probe[p * dim + i];
            if (e == 0)
                continue;
            for (size_t k = 0; k < m; k++)
                first[k * net->inputs + i] = madd(f->d_u[p * m + k], e, first[k * net->inputs + i]);
            for (size_t k = 0; k < n; k++)
                last[i * n + k] = madd(e, f->d_v[p * n + k], last[i * n + k]);
        }
}

/* ---- one panel */

typedef struct level {
    real *h, *slope, *curvature, *d_slope; /* [width][PANEL] */
    real *pushed, *tangent;                /* A_j and T_j: [tangents][width][PANEL] */
} level;

static level level_at(const field_mlp *f, size_t j) {
    size_t before = 0;
    for (size_t i = 0; i < j; i++)
        before += width(f->shape.net, i);
    const size_t size = width(f->shape.net, j) * PANEL;
    real *h = f->hidden + 3 * before * PANEL, *pushed = f->by_tangents ? f->tangent + 2 * f->tangents * before * PANEL : NULL;
    return (level){h, h + size, h + 2 * size, f->d_slope + before * PANEL, pushed, pushed ? pushed + f->tangents * size : NULL};
}

static real *pushed_out(const field_mlp *f) { return f->tangent + 2 * f->tangents * total_width(f->shape.net) * PANEL; }

enum derivatives { VALUES, SLOPES, CURVATURES };

static void load_input(const field_mlp *f, const double *t, const real *z, const real *context) {
    const size_t dim = f->shape.dim, more = f->shape.net->inputs - dim - 1;
    memcpy(f->input, z, dim * PANEL * sizeof(real));
    for (size_t l = 0; l < PANEL; l++)
        f->input[dim * PANEL + l] = (real)t[l];
    if (more)
        memcpy(f->input + (dim + 1) * PANEL, context, more * PANEL * sizeof(real));
}

static void run_net(const field_mlp *f, real *k, enum derivatives wanted) {
    const nf_net *net = f->shape.net;
    const real *in = f->input, *theta = f->theta;
    for (size_t j = 0; j <= f->depth; j++) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
        const level here = j < f->depth ? level_at(f, j) : (level){.h = k};
        R(dense_forward)(m, n, theta, theta + m * n, 1, in, n * PANEL, here.h, m * PANEL, PANEL);
        theta += (n + 1) * m;
        in = here.h;
        if (j == f->depth)
            return;
        if (wanted == VALUES)
            R(activate)(net->activation, m * PANEL, here.h);
        else if (wanted == SLOPES)
            R(activate_slope)(net->activation, m * PANEL, here.h, here.slope);
        else
            R(activate_curvature)(net->activation, m * PANEL, here.h, here.slope, here.curvature);
    }
}

/* T_1^p = s_1 U_p, then A_j = W_j T_{j-1}, T_j = s_j A_j; the last product only for the norm of the Jacobian. */
static void push_tangents(const field_mlp *f, bool to_the_end) {
    const nf_net *net = f->shape.net;
    const size_t first = width(net, 0);
    const level bottom = level_at(f, 0);
    for (size_t p = 0; p < f->tangents; p++)
        for (size_t n = 0; n < first; n++)
            for (size_t l = 0; l < PANEL; l++)
                bottom.tangent[(p * first + n) * PANEL + l] = bottom.slope[n * PANEL + l] * f->u[p * first + n];
    for (size_t j = 1; j < f->depth; j++) {
        const size_t n = width(net, j - 1), m = width(net, j);
        const level here = level_at(f, j), below = level_at(f, j - 1);
        R(dense_forward)(m, n, f->theta + weight_offset(net, j), NULL, f->tangents, below.tangent, n * PANEL, here.pushed, m * PANEL, PANEL);
        for (size_t p = 0; p < f->tangents; p++)
            for (size_t i = 0; i < m * PANEL; i++)
                here.tangent[p * m * PANEL + i] = here.slope[i] * here.pushed[p * m * PANEL + i];
    }
    if (to_the_end) {
        const size_t n = last_width(net), m = net->outputs;
        R(dense_forward)(m, n, f->theta + weight_offset(net, f->depth), NULL, f->tangents, level_at(f, f->depth - 1).tangent, n * PANEL, pushed_out(f),
                         m * PANEL, PANEL);
    }
}

/* sum += a[row] * b[row] over rows, lane by lane */
static void add_products(size_t rows, const real *a, const real *b, real *restrict sum) {
    for (size_t i = 0; i < rows; i++)
        for (size_t l = 0; l < PANEL; l++)
            sum[l] = madd(a[i * PANEL + l], b[i * PANEL + l], sum[l]);
}

/* Without hidden layers the Jacobian is the weight itself. */
static real linear_trace(const field_mlp *f) {
    real sum = 0;
    for (size_t i = 0; i < f->tangents * f->shape.dim; i++) {
        const size_t p = i / f->shape.dim, k = i % f->shape.dim;
        sum = madd(f->v[p * f->shape.net->inputs + k], f->probe[i], sum);
    }
    return f->share * sum;
}

static real linear_square(const field_mlp *f) {
    real sum = 0;
    for (size_t i = 0; i < f->tangents * f->shape.dim; i++)
        sum = madd(f->u[i], f->u[i], sum);
    return f->share * sum;
}

static void fill(real *row, real value) {
    for (size_t l = 0; l < PANEL; l++)
        row[l] = value;
}

static void trace_of(const field_mlp *f, real *trace) {
    const nf_net *net = f->shape.net;
    if (f->depth == 0) {
        fill(trace, linear_trace(f));
        return;
    }
    const level top = level_at(f, f->depth - 1);
    if (f->by_tangents) {
        const size_t n = last_width(net);
        fill(trace, 0);
        for (size_t i = 0; i < f->tangents * n; i++)
            for (size_t l = 0; l < PANEL; l++)
                trace[l] = madd(f->share * f->v[i], top.tangent[i * PANEL + l], trace[l]);
    } else if (f->depth == 1) {
        R(dense_forward)(1, width(net, 0), f->fold, NULL, 1, top.slope, width(net, 0) * PANEL, trace, PANEL, PANEL);
    } else {
        const size_t n = width(net, 0), m = width(net, 1);
        R(dense_forward)(m, n, f->fold, NULL, 1, level_at(f, 0).slope, n * PANEL, f->out, m * PANEL, PANEL);
        fill(trace, 0);
        add_products(m, f->out, top.slope, trace);
    }
}

void R(field_mlp_rates)(const field_mlp *f, const double *t, const real *z, const real *context, real *k, real *trace, real *square) {
    load_input(f, t, z, context);
    run_net(f, k, trace || square ? SLOPES : VALUES);
    if (f->by_tangents && (trace || square))
        push_tangents(f, square != NULL);
    if (trace)
        trace_of(f, trace);
    if (!square)
        return;
    if (f->depth == 0) {
        fill(square, linear_square(f));
        return;
    }
    fill(square, 0);
    add_products(f->tangents * f->shape.dim, pushed_out(f), pushed_out(f), square);
    for (size_t l = 0; l < PANEL; l++)
        square[l] *= f->share;
}

/* ---- the vjp */

static void backward_weights(const field_mlp *f, size_t j, size_t panels, const real *d, const real *x, bool bias) {
    const nf_net *net = f->shape.net;
    const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
    real *at = f->gradient + weight_offset(net, j);
    R(dense_backward_weights)(m, n, panels, d, m * PANEL, x, n * PANEL, f->room, at, bias ? at + m * n : NULL, false);
}

/* The cotangents of the slopes from that of the trace, for one or two hidden layers. */
static void folded_vjp(const field_mlp *f, const real *d_trace, bool parameters) {
    const nf_net *net = f->shape.net;
    const size_t n = width(net, 0);
    const level first = level_at(f, 0);
    if (f->depth == 1) {
        for (size_t i = 0; i < n; i++)
            for (size_t l = 0; l < PANEL; l++)
                first.d_slope[i * PANEL + l] = f->fold[i] * d_trace[l];
        if (parameters)
            R(dense_backward_weights)(1, n, 1, d_trace, PANEL, first.slope, n * PANEL, f->room, f->d_fold, NULL, false);
        return;
    }
    const size_t m = width(net, 1);
    const level second = level_at(f, 1);
    R(dense_forward)(m, n, f->fold, NULL, 1, first.slope, n * PANEL, second.d_slope, m * PANEL, PANEL);
    for (size_t i = 0; i < m; i++)
        for (size_t l = 0; l < PANEL; l++) {
            second.d_slope[i * PANEL + l] *= d_trace[l];
            f->out[i * PANEL + l] = second.slope[i * PANEL + l] * d_trace[l];
        }
    R(dense_backward_input)(m, n, f->fold, 1, f->out, m * PANEL, first.d_slope, n * PANEL, 0, NULL);
    if (parameters)
        R(dense_backward_weights)(m, n, 1, f->out, m * PANEL, first.slope, n * PANEL, f->room, f->d_fold, NULL, false);
}

/* sums[p][n] += sum over lanes of a[p][n] times b[n] (b the same for every p) */
static void sum_lanes(size_t tangents, size_t rows, const real *a, const real *b, real *sums) {
    _Alignas(NF_ALIGN) real product[PANEL];
    for (size_t i = 0; i < tangents * rows; i++) {
        for (size_t l = 0; l < PANEL; l++)
            product[l] = a[i * PANEL + l] * b[i % rows * PANEL + l];
        sums[i] += panel_sum(product);
    }
}

/* The cotangent of T_L from those of the trace and of the norm. */
static void tangent_cotangent(const field_mlp *f, const real *d_trace, const real *d_square, bool parameters, real *d) {
    const nf_net *net = f->shape.net;
    const size_t n = last_width(net), dim = f->shape.dim;
    const level top = level_at(f, f->depth - 1);
    _Alignas(NF_ALIGN) real scaled[PANEL];
    for (size_t l = 0; l < PANEL; l++)
        scaled[l] = f->share * d_trace[l];
    for (size_t i = 0; i < f->tangents * n; i++)
        for (size_t l = 0; l < PANEL; l++)
            d[i * PANEL + l] = f->v[i] * scaled[l];
    if (parameters) {
        _Alignas(NF_ALIGN) real product[PANEL];
        for (size_t i = 0; i < f->tangents * n; i++) {
            for (size_t l = 0; l < PANEL; l++)
                product[l] = top.tangent[i * PANEL + l] * scaled[l];
            f->d_v[i] += panel_sum(product);
        }
    }
    if (!d_square)
        return;
    real *out = pushed_out(f); /* becomes its own cotangent */
    for (size_t i = 0; i < f->tangents * dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            out[i * PANEL + l] *= 2 * f->share * d_square[l];
    if (parameters)
        backward_weights(f, f->depth, f->tangents, out, top.tangent, false);
    R(dense_backward_input)(dim, n, f->theta + weight_offset(net, f->depth), f->tangents, out, dim * PANEL, d, n * PANEL, 1, NULL);
}

static void tangents_vjp(const field_mlp *f, const real *d_trace, const real *d_square, bool parameters) {
    const nf_net *net = f->shape.net;
    const size_t half = f->tangents * nf_net_widest(net) * PANEL;
    real *d = f->d_tangent, *other = f->d_tangent + half;
    memset(f->d_slope, 0, total_width(net) * PANEL * sizeof(real));
    tangent_cotangent(f, d_trace, d_square, parameters, d);
    for (size_t j = f->depth; j-- > 0;) {
        const size_t m = width(net, j);
        const level here = level_at(f, j);
        if (j == 0) {
            for (size_t i = 0; i < f->tangents * m; i++)
                for (size_t l = 0; l < PANEL; l++)
                    here.d_slope[i % m * PANEL + l] = madd(d[i * PANEL + l], f->u[i], here.d_slope[i % m * PANEL + l]);
            if (parameters)
                sum_lanes(f->tangents, m, d, here.slope, f->d_u);
            return;
        }
        const size_t n = width(net, j - 1);
        for (size_t i = 0; i < f->tangents * m; i++)
            for (size_t l = 0; l < PANEL; l++) {
                const size_t at = i * PANEL + l, slope = i % m * PANEL + l;
                here.d_slope[slope] = madd(d[at], here.pushed[at], here.d_slope[slope]);
                d[at] *= here.slope[slope];
            }
        if (parameters)
            backward_weights(f, j, f->tangents, d, level_at(f, j - 1).tangent, false);
        R(dense_backward_input)(m, n, f->theta + weight_offset(net, j), f->tangents, d, m * PANEL, other, n * PANEL, 0, NULL);
        real *swap = d;
        d = other;
        other = swap;
    }
}

/* Without hidden layers trace and norm depend on the weights alone. */
static void linear_vjp(const field_mlp *f, const real *d_trace, const real *d_square) {
    const size_t dim = f->shape.dim;
    const real trace = f->share * panel_sum(d_trace), square = d_square ? 2 * f->share * panel_sum(d_square) : 0;
    for (size_t p = 0; p < f->tangents; p++)
        for (size_t i = 0; i < dim; i++)
            f->d_u[p * dim + i] += madd(square, f->u[p * dim + i], trace * f->probe[p * dim + i]);
}

void R(field_mlp_vjp)(const field_mlp *f, const double *t, const real *z, const real *context, const real *d_k, const real *d_trace,
                      const real *d_speed, const real *d_square, bool parameters, real *d_z, real *d_context) {
    const nf_net *net = f->shape.net;
    const size_t dim = f->shape.dim;
    const bool sums = parameters && f->gradient;
    load_input(f, t, z, context);
    run_net(f, f->d_out, CURVATURES);
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++) {
            const size_t at = i * PANEL + l;
            f->d_out[at] = d_speed ? madd(2 * d_speed[l], f->d_out[at], d_k[at]) : d_k[at];
        }
    if (f->by_tangents) {
        push_tangents(f, d_square != NULL);
        tangents_vjp(f, d_trace, d_square, sums);
    } else if (f->depth > 0) {
        folded_vjp(f, d_trace, sums);
    } else if (sums) {
        linear_vjp(f, d_trace, d_square);
    }
    const real *d = f->d_out;
    for (size_t j = f->depth + 1; j-- > 0;) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
        const level below = j > 0 ? level_at(f, j - 1) : (level){.h = f->input};
        real *d_below = j > 0 ? f->d_hidden + (j % 2) * nf_net_widest(net) * PANEL : f->d_input;
        if (sums)
            backward_weights(f, j, 1, d, below.h, true);
        R(dense_backward_input)(m, n, f->theta + weight_offset(net, j), 1, d, m * PANEL, d_below, n * PANEL, 0, NULL);
        for (size_t i = 0; j > 0 && i < n * PANEL; i++)
            d_below[i] = madd(d_below[i], below.slope[i], below.d_slope[i] * below.curvature[i]);
        d = d_below;
    }
    memcpy(d_z, f->d_input, dim * PANEL * sizeof(real));
    for (size_t i = 0; parameters && d_context && i < (net->inputs - dim - 1) * PANEL; i++)
        d_context[i] += f->d_input[(dim + 1) * PANEL + i];
}
