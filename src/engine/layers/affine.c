/*
 * Elementwise affine map x = z exp(log_scale) + shift ("actnorm", Kingma & Dhariwal 2018, section 3.1).
 */
#include "engine/kernels/dense.h"
#include "engine/kernels/vmath.h"
#include "engine/layer.h"
#include "engine/layers/layers.h"

static size_t record_size(const nf_layer *layer, size_t panels, bool inverse) {
    (void)inverse;
    return layer->dim * panels * PANEL; /* z, whichever direction */
}

static size_t scratch_size(const nf_layer *layer, size_t panels) {
    (void)layer;
    (void)panels;
    return 0;
}

static void add_log_det(const layer_run *run, tile *t, double sign) {
    double sum = 0;
    for (size_t f = 0; f < t->dim; f++)
        sum += (double)run->theta[f];
    for (size_t l = 0; l < t->panels * PANEL; l++)
        t->log_det[l] += sign * sum;
}

static int forward(const layer_run *run, tile *t) {
    const real *log_scale = run->theta, *shift = run->theta + t->dim;
    for (size_t p = 0; p < t->panels; p++) {
        real *x = tile_panel(t, p);
        for (size_t f = 0; f < t->dim; f++) {
            const real scale = vm_exp(log_scale[f]);
            real *restrict row = x + f * PANEL;
            if (run->record)
                for (size_t l = 0; l < PANEL; l++)
                    run->record[(p * t->dim + f) * PANEL + l] = row[l];
            for (size_t l = 0; l < PANEL; l++)
                row[l] = madd(row[l], scale, shift[f]);
        }
    }
    add_log_det(run, t, 1.0);
    return LAYER_OK;
}

static int inverse(const layer_run *run, tile *t) {
    const real *log_scale = run->theta, *shift = run->theta + t->dim;
    for (size_t p = 0; p < t->panels; p++) {
        real *x = tile_panel(t, p);
        for (size_t f = 0; f < t->dim; f++) {
            const real scale = vm_exp(-log_scale[f]);
            real *restrict row = x + f * PANEL;
            for (size_t l = 0; l < PANEL; l++)
                row[l] = (row[l] - shift[f]) * scale;
            if (run->record)
                for (size_t l = 0; l < PANEL; l++)
                    run->record[(p * t->dim + f) * PANEL + l] = row[l];
        }
    }
    add_log_det(run, t, -1.0);
    return LAYER_OK;
}

static void add(const layer_run *run, size_t index, real value) { run->gradient[index] = run->fresh ? value : run->gradient[index] + value; }

/*
 * forward: dL/dz = d e^s, dL/ds = sum(d z e^s) + sum(c), dL/dshift = sum(d).
 * inverse: dL/dx = d e^-s, dL/ds = -sum(d z) - sum(c), dL/dshift = -sum(d e^-s).
 */
static void vjp(const layer_run *run, const tile *t, cotangent *c, bool inverted) {
    const real *log_scale = run->theta;
    real log_det = 0;
    for (size_t p = 0; p < t->panels; p++)
        log_det += panel_sum(c->log_det + p * PANEL);
    for (size_t f = 0; f < t->dim; f++) {
        const real scale = vm_exp(inverted ? -log_scale[f] : log_scale[f]);
        real sum_scale = log_det, sum_shift = 0;
        for (size_t p = 0; p < t->panels; p++) {
            real *restrict d = c->x + (p * t->dim + f) * PANEL;
            const real *restrict z = run->record + (p * t->dim + f) * PANEL;
            _Alignas(NF_ALIGN) real product[PANEL], shift[PANEL];
            for (size_t l = 0; l < PANEL; l++) {
                const real scaled = d[l] * scale;
                product[l] = (inverted ? d[l] : scaled) * z[l];
                shift[l] = inverted ? scaled : d[l];
                d[l] = scaled;
            }
            sum_scale += panel_sum(product);
            sum_shift += panel_sum(shift);
        }
        if (run->gradient) {
            add(run, f, inverted ? -sum_scale : sum_scale);
            add(run, t->dim + f, inverted ? -sum_shift : sum_shift);
        }
    }
}

static void forward_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, false); }

static void inverse_vjp(const layer_run *run, const tile *t, cotangent *c) { vjp(run, t, c, true); }

const struct layer_ops R(affine_ops) = {.record_size = record_size,
                                        .scratch_size = scratch_size,
                                        .forward = forward,
                                        .inverse = inverse,
                                        .forward_vjp = forward_vjp,
                                        .inverse_vjp = inverse_vjp,
                                        .adds_once = true};
