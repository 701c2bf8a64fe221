/*
 * Affine coupling (Dinh, Sohl-Dickstein & Bengio 2017, "Density estimation using Real NVP", equations 4 to 8):
 *     x_a = z_a,   x_b = z_b exp(S) + t,   [s, t] = net([z_a, context]),   log_det = sum S,
 * with S = s, or S = clamp tanh(s / clamp), which keeps one step of training from blowing the flow up, or one of the bounded scales of other libraries
 * (enum nf_scale).
 */
#include <string.h>

#include "engine/kernels/dense.h"
#include "engine/kernels/vmath.h"
#include "engine/layer.h"
#include "engine/layers/layers.h"
#include "engine/nets/mlp.h"

/* The record: the net's input and record, then per transformed coordinate the factor, z_b and dS/ds. */
typedef struct coupling_record {
    real *input, *net, *factor, *z, *slope;
    size_t size;
} coupling_record;

static coupling_record map_record(const nf_layer *layer, size_t panels, real *base) {
    const size_t rows = layer->transformed.count * panels * PANEL;
    coupling_record r = {.input = base};
    r.net = r.input + layer->net.inputs * panels * PANEL;
    r.factor = r.net + R(mlp_record_size)(&layer->net, panels);
    r.z = r.factor + rows;
    r.slope = r.z + rows;
    r.size = (size_t)(r.slope + rows - base);
    return r;
}

static size_t record_size(const nf_layer *layer, size_t panels, bool inverse) {
    (void)inverse;
    return layer->net.inputs * panels * PANEL + R(mlp_record_size)(&layer->net, panels) +
           3 * layer->transformed.count * panels * PANEL;
}

/* Scratch: the net's input (d_in in the vjp), its output (d_out), its own scratch; or the same for a few padded rows. */
static size_t scratch_size(const nf_layer *layer, size_t panels) {
    const nf_net *net = &layer->net;
    const size_t tile_size = (net->inputs + net->outputs) * panels * PANEL + R(mlp_scratch_size)(net, panels);
    const size_t few_size = dense_rows_width(layer->transformed.count) + R(mlp_rows_scratch)(net, FEW_ROWS) +
                            FEW_ROWS * (dense_rows_width(net->inputs) + dense_rows_width(net->outputs));
    return tile_size > few_size ? tile_size : few_size;
}

static void gather_input(const nf_layer *layer, const tile *t, real *input) {
    for (size_t p = 0; p < t->panels; p++, input += layer->net.inputs * PANEL) {
        const real *x = tile_panel(t, p);
        for (size_t i = 0; i < layer->identity.count; i++)
            memcpy(input + i * PANEL, x + layer->identity.items[i] * PANEL, PANEL * sizeof(real));
        if (layer->context_dim)
            memcpy(input + layer->identity.count * PANEL, t->context + p * t->context_dim * PANEL,
                   layer->context_dim * PANEL * sizeof(real));
    }
}

/* ---- S in place of s; its slope where a record is kept. A loop for each kind, so that each is a vector loop. */

static void tanh_exponents(real clamp, real unit, size_t count, real *restrict s, real *restrict slope) {
    if (!slope) {
        for (size_t i = 0; i < count; i++)
            s[i] = clamp * vm_tanh(s[i] * unit);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        real value, derivative;
        vm_tanh_grad(s[i] * unit, &value, &derivative);
        s[i] = clamp * value;
        slope[i] = derivative;
    }
}

static void softclip_exponents(real unit, size_t count, real *restrict s, real *restrict slope) {
    for (size_t i = 0; i < count; i++) {
        const real factor = 1 / madd(vm_abs(s[i]), unit, 1);
        s[i] *= factor;
        if (slope)
            slope[i] = factor * factor;
    }
}

/* log(sigmoid(s + 2) + floor), with slope sigmoid (1 - sigmoid) / (sigmoid + floor). */
static void sigmoid_exponents(real floor, size_t count, real *restrict s, real *restrict slope) {
    for (size_t i = 0; i < count; i++) {
        const real a = s[i] + 2, sigmoid = vm_sigmoid(a), scale = sigmoid + floor;
        if (slope)
            slope[i] = sigmoid * vm_sigmoid(-a) / scale;
        s[i] = vm_log(scale);
    }
}

/* sign log(sigmoid(s + 2)) = -sign softplus(-s - 2): right where the sigmoid underflows. */
static void log_sigmoid_exponents(real sign, size_t count, real *restrict s, real *restrict slope) {
    for (size_t i = 0; i < count; i++) {
        real value, derivative;
        vm_softplus_grad(-s[i] - 2, &value, &derivative);
        s[i] = -sign * value;
        if (slope)
            slope[i] = sign * derivative;
    }
}

/* 1 / clamp, a number for the least clamp too: an s of 0 is multiplied by it. */
static real clamp_unit(const nf_layer *layer) {
    const double unit = 1.0 / layer->clamp;
    return unit < REAL_MAX ? (real)unit : REAL_MAX;
}

static void scale_exponents(const nf_layer *layer, size_t count, real *s, real *slope) {
    const real clamp = (real)layer->clamp, unit = clamp_unit(layer), floor = (real)layer->floor;
    switch (layer->scale) {
    case NF_SCALE_EXP:
        for (size_t i = 0; slope && i < count; i++)
            slope[i] = 1;
        return;
    case NF_SCALE_TANH:
        tanh_exponents(clamp, unit, count, s, slope);
        return;
    case NF_SCALE_SOFTCLIP:
        softclip_exponents(unit, count, s, slope);
        return;
    case NF_SCALE_SIGMOID:
        if (floor > 0)
            sigmoid_exponents(floor, count, s, slope);
        else
            log_sigmoid_exponents(1, count, s, slope);
        return;
    case NF_SCALE_INVERSE_SIGMOID:
        log_sigmoid_exponents(-1, count, s, slope);
        return;
    }
}

static void transform_row(real *restrict x, const real *restrict s, const real *restrict shift, double *restrict log_det,
                          real *restrict factor, real *restrict z) {
    for (size_t l = 0; l < PANEL; l++) {
        const real e = vm_exp(s[l]);
        factor[l] = e;
        z[l] = x[l];
        x[l] = madd(x[l], e, shift[l]);
        log_det[l] += (double)s[l];
    }
}

static void invert_row(real *restrict x, const real *restrict s, const real *restrict shift, double *restrict log_det,
                       real *restrict factor, real *restrict z) {
    for (size_t l = 0; l < PANEL; l++) {
        const real e = vm_exp(-s[l]);
        factor[l] = e;
        x[l] = (x[l] - shift[l]) * e;
        z[l] = x[l];
        log_det[l] -= (double)s[l];
    }
}

/*
 * ---- the cache: weights packed for a few rows, for tiles forward and for tiles back, each for the parameters of an epoch. Tiles pack
 * when they are the second of their epoch: for one alone it would cost more than it saves.
 */

enum packing { FEW, FORWARD, BACKWARD, PACKINGS };

typedef struct cache_head {
    uint64_t packed[PACKINGS], met[PACKINGS]; /* epochs */
} cache_head;
_Static_assert(sizeof(cache_head) <= NF_ALIGN, "the first 64 bytes of a cache are zeros at first");

#define CACHE_HEAD (NF_ALIGN / sizeof(real))

static size_t tile_packing(const nf_net *net) { return R(mlp_packs)(net) ? R(mlp_packed)(net) : 0; }

static size_t few_packed(const nf_net *net) { return R(mlp_is_small)(net) ? R(mlp_small_packed)(net) : R(mlp_rows_packed)(net); }

static void pack_few(const nf_net *net, const real *theta, real *packed) {
    (R(mlp_is_small)(net) ? R(mlp_small_pack) : R(mlp_rows_pack))(net, theta, packed);
}

static size_t cache_size(const nf_layer *layer) {
    return CACHE_HEAD + few_packed(&layer->net) + 2 * tile_packing(&layer->net);
}

static real *packed_at(const layer_run *run, enum packing packing) {
    const nf_net *net = &run->layer->net;
    real *few = run->cache + CACHE_HEAD;
    if (packing == FEW)
        return few;
    real *tiles = few + few_packed(net);
    return packing == FORWARD ? tiles : tiles + tile_packing(net);
}

static void pack(const layer_run *run, enum packing packing) {
    static void (*const by[PACKINGS])(const nf_net *, const real *, real *) = {pack_few, R(mlp_pack_forward), R(mlp_pack_backward)};
    by[packing](&run->layer->net, run->theta, packed_at(run, packing));
}

/* Weights packed for this epoch; NULL when tiles are as well off without. */
static const real *packed_weights(const layer_run *run, enum packing packing) {
    cache_head *head = (cache_head *)(void *)run->cache;
    if (head->packed[packing] == run->epoch)
        return packed_at(run, packing);
    if (packing != FEW) {
        const bool second = head->met[packing] == run->epoch;
        head->met[packing] = run->epoch;
        if (!second || !R(mlp_packs)(&run->layer->net))
            return NULL;
    }
    pack(run, packing);
    head->packed[packing] = run->epoch;
    return packed_at(run, packing);
}

/* ---- a few rows, with the features in the lanes */

/* One coordinate of one row, without the arrays that several go through from loop to loop: each would be waited for. */
VM_INLINE void map_one(const nf_layer *layer, real *x, real s, real shift, double *log_det, bool inverted) {
    real exponent, factor;
    if (layer->scale == NF_SCALE_TANH && layer->clamp <= VM_EXP_NORMAL) {
        exponent = (real)layer->clamp * vm_tanh(s * clamp_unit(layer));
        factor = vm_exp_normal(inverted ? -exponent : exponent);
    } else {
        real scaled = s; /* its address is taken: not that of what the other branch holds in a register */
        scale_exponents(layer, 1, &scaled, NULL);
        exponent = scaled;
        factor = vm_exp(inverted ? -exponent : exponent);
    }
    *x = inverted ? (*x - shift) * factor : madd(*x, factor, shift);
    *log_det += inverted ? -(double)exponent : (double)exponent;
}

/* x_b := (x_b - t) exp(-S) or x_b exp(S) + t of one row; its terms of the log_det one after the other, as in a tile. */
static void map_few(const nf_layer *layer, real *lane, real *restrict s, const real *restrict shift, real *restrict moved, double *log_det,
                    bool inverted) {
    const size_t b = layer->transformed.count, *items = layer->transformed.items;
    if (b == 1) {
        map_one(layer, lane + items[0] * PANEL, *s, *shift, log_det, inverted);
        return;
    }
    double sum = *log_det;
    scale_exponents(layer, b, s, NULL);
    for (size_t i = 0; i < b; i++)
        moved[i] = lane[items[i] * PANEL];
    if (inverted) {
        for (size_t i = 0; i < b; i++)
            moved[i] = (moved[i] - shift[i]) * vm_exp(-s[i]);
        for (size_t i = 0; i < b; i++)
            sum -= (double)s[i];
    } else {
        for (size_t i = 0; i < b; i++)
            moved[i] = madd(moved[i], vm_exp(s[i]), shift[i]);
        for (size_t i = 0; i < b; i++)
            sum += (double)s[i];
    }
    for (size_t i = 0; i < b; i++)
        lane[items[i] * PANEL] = moved[i];
    *log_det = sum;
}

static void gather_row(const nf_layer *layer, const tile *t, size_t row, real *x) {
    for (size_t i = 0; i < layer->identity.count; i++)
        x[i] = t->x[layer->identity.items[i] * PANEL + row];
    for (size_t i = 0; i < layer->context_dim; i++)
        x[layer->identity.count + i] = t->context[i * PANEL + row];
}

/* Rows through a net that mlp_small_forward takes, one after the other: they do not wait for each other. In one function with apply_few a row takes 2 % longer. */
static int apply_small(const layer_run *run, tile *t, bool inverted) {
    const nf_layer *layer = run->layer;
    const size_t b = layer->transformed.count, out = dense_rows_width(2 * b);
    real *moved = run->scratch, *x = moved + dense_rows_width(b), *y = x + dense_rows_width(layer->net.inputs);
    const real *const packed = packed_weights(run, FEW);
    const bool direct = layer->net.inputs == 1 && layer->identity.count == 1;
    for (size_t r = 0; r < t->rows; r++) {
        if (!direct)
            gather_row(layer, t, r, x);
        R(mlp_small_forward)(&layer->net, packed, direct ? t->x + layer->identity.items[0] * PANEL + r : x, y + r * out);
    }
    for (size_t r = 0; r < t->rows; r++)
        map_few(layer, t->x + r, y + r * out, y + r * out + b, moved, t->log_det + r, inverted);
    return LAYER_OK;
}

static int apply_few(const layer_run *run, tile *t, bool inverted) {
    const nf_layer *layer = run->layer;
    const nf_net *net = &layer->net;
    const size_t in = dense_rows_width(net->inputs), out = dense_rows_width(net->outputs);
    real *moved = run->scratch, *x = moved + dense_rows_width(layer->transformed.count), *y = x + t->rows * in;
    for (size_t r = 0; r < t->rows; r++)
        gather_row(layer, t, r, x + r * in);
    R(mlp_rows_forward)(net, packed_weights(run, FEW), t->rows, x, in, y, out, y + t->rows * out);
    for (size_t r = 0; r < t->rows; r++)
        map_few(layer, t->x + r, y + r * out, y + r * out + layer->transformed.count, moved, t->log_det + r, inverted);
    return LAYER_OK;
}

/* ---- a tile */

static int apply(const layer_run *run, tile *t, bool inverted) {
    if (t->few && !run->record)
        return (R(mlp_is_small)(&run->layer->net) ? apply_small : apply_few)(run, t, inverted);
    const nf_layer *layer = run->layer;
    const size_t outputs = layer->net.outputs, b = layer->transformed.count;
    real *out = run->scratch + layer->net.inputs * t->panels * PANEL;
    real *net_scratch = out + outputs * t->panels * PANEL;
    coupling_record r = {.input = run->scratch};
    if (run->record)
        r = map_record(layer, TILE_PANELS, run->record);
    gather_input(layer, t, r.input);
    R(mlp_forward)(&layer->net, run->theta, packed_weights(run, FORWARD), t->panels, tile_lanes(t, t->panels - 1), r.input, out, r.net,
                   net_scratch);

    _Alignas(NF_ALIGN) real unused[2 * PANEL];
    for (size_t p = 0; p < t->panels; p++) {
        real *s = out + p * outputs * PANEL, *x = tile_panel(t, p);
        const size_t start = p * b * PANEL;
        scale_exponents(layer, b * PANEL, s, run->record ? r.slope + start : NULL);
        for (size_t i = 0; i < b; i++) {
            real *row = x + layer->transformed.items[i] * PANEL;
            real *factor = run->record ? r.factor + start + i * PANEL : unused;
            real *z = run->record ? r.z + start + i * PANEL : unused + PANEL;
            (inverted ? invert_row : transform_row)(row, s + i * PANEL, s + (b + i) * PANEL, t->log_det + p * PANEL, factor, z);
        }
    }
    return LAYER_OK;
}

static int forward(const layer_run *run, tile *t) { return apply(run, t, false); }

static int inverse(const layer_run *run, tile *t) { return apply(run, t, true); }

/* dS = d z e + c, dt = d, and d becomes d e. The slope of S comes first: where a bounded scale saturates it is small, and d z may be beyond the range of `real`. */
static void forward_row_vjp(real *restrict d, const real *restrict c, const real *restrict factor, const real *restrict z,
                            const real *restrict slope, real *restrict ds, real *restrict dt) {
    for (size_t l = 0; l < PANEL; l++) {
        const real scaled = d[l] * factor[l];
        ds[l] = madd(scaled * slope[l], z[l], c[l] * slope[l]);
        dt[l] = d[l];
        d[l] = scaled;
    }
}

/* z = (x - t) e: dS = -d z - c, dt = -d e, and d becomes d e. */
static void inverse_row_vjp(real *restrict d, const real *restrict c, const real *restrict factor, const real *restrict z,
                            const real *restrict slope, real *restrict ds, real *restrict dt) {
    for (size_t l = 0; l < PANEL; l++) {
        const real scaled = d[l] * factor[l];
        ds[l] = -madd(d[l] * slope[l], z[l], c[l] * slope[l]);
        dt[l] = -scaled;
        d[l] = scaled;
    }
}

static void scatter_input(const nf_layer *layer, const tile *t, const real *d_in, cotangent *c) {
    for (size_t p = 0; p < t->panels; p++, d_in += layer->net.inputs * PANEL) {
        real *d = c->x + p * t->dim * PANEL;
        for (size_t i = 0; i < layer->identity.count; i++)
            for (size_t l = 0; l < PANEL; l++)
                d[layer->identity.items[i] * PANEL + l] += d_in[i * PANEL + l];
        if (!layer->context_dim)
            continue;
        real *context = c->context + p * t->context_dim * PANEL;
        const real *d_context = d_in + layer->identity.count * PANEL;
        for (size_t i = 0; i < layer->context_dim * PANEL; i++)
            context[i] += d_context[i];
    }
}

static void vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    const nf_layer *layer = run->layer;
    const size_t outputs = layer->net.outputs, b = layer->transformed.count;
    real *d_in = run->scratch, *d_out = d_in + layer->net.inputs * t->panels * PANEL;
    real *net_scratch = d_out + outputs * t->panels * PANEL;
    const coupling_record r = map_record(layer, TILE_PANELS, run->record);
    for (size_t p = 0; p < t->panels; p++) {
        real *d = c->x + p * t->dim * PANEL, *ds = d_out + p * outputs * PANEL, *dt = ds + b * PANEL;
        const size_t start = p * b * PANEL;
        for (size_t i = 0; i < b; i++)
            (inverted ? inverse_row_vjp : forward_row_vjp)(
                d + layer->transformed.items[i] * PANEL, c->log_det + p * PANEL, r.factor + start + i * PANEL,
                r.z + start + i * PANEL, r.slope + start + i * PANEL, ds + i * PANEL, dt + i * PANEL);
    }
    R(mlp_vjp)(&layer->net, run->theta, packed_weights(run, BACKWARD), t->panels, r.input, r.net, d_out, run->ends ? NULL : d_in, run->gradient, run->fresh,
               net_scratch);
    if (!run->ends)
        scatter_input(layer, t, d_in, c);
}

static void forward_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, false); }

static void inverse_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, true); }

const struct layer_ops R(coupling_ops) = {.record_size = record_size,
                                          .scratch_size = scratch_size,
                                          .cache_size = cache_size,
                                          .forward = forward,
                                          .inverse = inverse,
                                          .forward_vjp = forward_vjp,
                                          .inverse_vjp = inverse_vjp,
                                          .adds_once = true};
