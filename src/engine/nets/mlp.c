#include "engine/nets/mlp.h"

#include "engine/kernels/activation.h"
#include "engine/kernels/dense.h"

static size_t widest_hidden(const nf_net *net) {
    size_t widest = 0;
    for (size_t j = 0; j < net->hidden.count; j++)
        if (net->hidden.items[j] > widest)
            widest = net->hidden.items[j];
    return widest;
}

size_t R(mlp_record_size)(const nf_net *net, size_t panels) {
    size_t size = 0;
    for (size_t j = 0; j < net->hidden.count; j++)
        size += 2 * net->hidden.items[j] * panels * PANEL;
    return size;
}

static size_t weights_scratch(const nf_net *net, size_t panels) {
    size_t most = 0;
    for (size_t j = 0; j < nf_net_layer_count(net); j++) {
        const size_t size = R(dense_weights_scratch)(nf_net_layer_outputs(net, j), nf_net_layer_inputs(net, j), panels);
        if (size > most)
            most = size;
    }
    return most;
}

size_t R(mlp_scratch_size)(const nf_net *net, size_t panels) {
    return 2 * widest_hidden(net) * panels * PANEL + weights_scratch(net, panels);
}

/* Smaller nets lie in the first cache with their weights as they are. */
#define PACKED_BYTES ((size_t)(16 << 10))

bool R(mlp_packs)(const nf_net *net) { return R(mlp_packed)(net) * sizeof(real) >= PACKED_BYTES; }

size_t R(mlp_packed)(const nf_net *net) {
    size_t size = 0;
    for (size_t j = 0; j < nf_net_layer_count(net); j++)
        size += nf_net_layer_outputs(net, j) * nf_net_layer_inputs(net, j);
    return size;
}

typedef void pack_layer(size_t out, size_t in, const real *W, real *packed);

static void pack(const nf_net *net, const real *theta, pack_layer *layer, real *packed) {
    for (size_t j = 0; j < nf_net_layer_count(net); j++) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
        layer(m, n, theta, packed);
        theta += m * n + m;
        packed += m * n;
    }
}

void R(mlp_pack_forward)(const nf_net *net, const real *theta, real *packed) { pack(net, theta, R(dense_pack_forward), packed); }

void R(mlp_pack_backward)(const nf_net *net, const real *theta, real *packed) { pack(net, theta, R(dense_pack_backward), packed); }

static void forward_layer(size_t m, size_t n, const real *theta, const real *packed, size_t panels, const real *in, real *out, size_t lanes) {
    if (packed)
        R(dense_packed_forward)(m, n, packed, theta + m * n, panels, in, n * PANEL, out, m * PANEL, lanes);
    else
        R(dense_forward)(m, n, theta, theta + m * n, panels, in, n * PANEL, out, m * PANEL, lanes);
}

void R(mlp_forward)(const nf_net *net, const real *theta, const real *packed, size_t panels, size_t lanes, const real *in, real *out,
                    real *record, real *scratch) {
    const size_t layers = nf_net_layer_count(net), spare = widest_hidden(net) * panels * PANEL;
    const size_t used = record ? PANEL : lanes; /* what is recorded is summed over all lanes */
    for (size_t j = 0; j < layers; j++) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j), size = m * panels * PANEL;
        if (j + 1 == layers) {
            forward_layer(m, n, theta, packed, panels, in, out, used);
            return;
        }
        real *h = record ? record : scratch + (j % 2) * spare;
        /* Panel by panel, so that the activation finds its rows in the nearest cache. */
        for (size_t p = 0; p < panels; p++) {
            real *rows = h + p * m * PANEL;
            forward_layer(m, n, theta, packed, 1, in + p * n * PANEL, rows, p + 1 == panels ? used : PANEL);
            if (record)
                R(activate_slope)(net->activation, m * PANEL, rows, rows + size);
            else
                R(activate)(net->activation, m * PANEL, rows);
        }
        if (record)
            record += 2 * size;
        in = h;
        theta += m * n + m;
        if (packed)
            packed += m * n;
    }
}

void R(mlp_vjp)(const nf_net *net, const real *theta, const real *packed, size_t panels, const real *in, const real *record,
                const real *d_out, real *d_in, real *gradient, bool fresh, real *scratch) {
    const size_t layers = nf_net_layer_count(net), spare = widest_hidden(net) * panels * PANEL;
    real *const weights_room = scratch + 2 * spare;
    const real *h = record + R(mlp_record_size)(net, panels);
    size_t offset = nf_net_parameter_count(net), packed_offset = packed ? R(mlp_packed)(net) : 0;
    for (size_t j = layers; j-- > 0;) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
        offset -= m * n + m;
        packed_offset -= packed ? m * n : 0;
        const size_t size = n * panels * PANEL;
        if (j > 0)
            h -= 2 * size;
        const real *below = j > 0 ? h : in, *const slope = j > 0 ? h + size : NULL;
        if (gradient)
            R(dense_backward_weights)(m, n, panels, d_out, m * PANEL, below, n * PANEL, weights_room, gradient + offset,
                                      gradient + offset + m * n, fresh);
        if (j == 0 && !d_in)
            return;
        real *d_below = j > 0 ? scratch + (j % 2) * spare : d_in;
        if (packed)
            R(dense_packed_backward_input)(m, n, packed + packed_offset, panels, d_out, m * PANEL, d_below, n * PANEL, 0, slope);
        else
            R(dense_backward_input)(m, n, theta + offset, panels, d_out, m * PANEL, d_below, n * PANEL, 0, slope);
        d_out = d_below;
    }
}

size_t R(mlp_rows_packed)(const nf_net *net) {
    size_t size = 0;
    for (size_t j = 0; j < nf_net_layer_count(net); j++)
        size += dense_rows_packed(nf_net_layer_outputs(net, j), nf_net_layer_inputs(net, j));
    return size;
}

size_t R(mlp_rows_scratch)(const nf_net *net, size_t rows) { return 2 * rows * dense_rows_width(widest_hidden(net)); }

void R(mlp_rows_pack)(const nf_net *net, const real *theta, real *packed) {
    for (size_t j = 0; j < nf_net_layer_count(net); j++) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
        R(dense_rows_pack)(m, n, theta, theta + m * n, packed);
        theta += m * n + m;
        packed += dense_rows_packed(m, n);
    }
}

void R(mlp_rows_forward)(const nf_net *net, const real *packed, size_t rows, const real *x, size_t x_stride, real *y, size_t y_stride,
                         real *scratch) {
    const size_t layers = nf_net_layer_count(net), spare = rows * dense_rows_width(widest_hidden(net));
    for (size_t j = 0; j < layers; j++) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j), width = dense_rows_width(m);
        if (j + 1 == layers) {
            R(dense_rows_forward)(m, n, packed, rows, x, x_stride, y, y_stride);
            return;
        }
        real *h = scratch + (j % 2) * spare;
        if (rows > 1 || !nf_net_is_gelu(net) || !R(dense_row_gelu)(m, n, packed, x, h)) {
            R(dense_rows_forward)(m, n, packed, rows, x, x_stride, h, width);
            R(activate)(net->activation, rows * width, h);
        }
        packed += dense_rows_packed(m, n);
        x = h;
        x_stride = width;
    }
}
