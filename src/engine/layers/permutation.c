/* x[j] = z[source[j]]: a volume-preserving change of the order of coordinates. */
#include <string.h>

#include "engine/layer.h"
#include "engine/layers/layers.h"

static size_t record_size(const nf_layer *layer, size_t panels, bool inverse) {
    (void)layer;
    (void)panels;
    (void)inverse;
    return 0;
}

static size_t scratch_size(const nf_layer *layer, size_t panels) {
    (void)panels;
    return layer->dim * PANEL;
}

/* panel[j] = panel[source[j]], or the inverse of that. */
static void permute(const layer_run *run, size_t panels, real *x, bool inverse) {
    const size_t dim = run->layer->dim, *source = run->layer->source.items;
    for (size_t p = 0; p < panels; p++, x += dim * PANEL) {
        memcpy(run->scratch, x, dim * PANEL * sizeof(real));
        for (size_t j = 0; j < dim; j++) {
            const size_t from = inverse ? j : source[j], to = inverse ? source[j] : j;
            memcpy(x + to * PANEL, run->scratch + from * PANEL, PANEL * sizeof(real));
        }
    }
}

static int forward(const layer_run *run, tile *t) {
    permute(run, t->panels, t->x, false);
    return LAYER_OK;
}

static int inverse(const layer_run *run, tile *t) {
    permute(run, t->panels, t->x, true);
    return LAYER_OK;
}

/* The Jacobian is a permutation matrix: its transpose is its inverse. */
static void forward_vjp(const layer_run *run, const tile *t, cotangent *c) { permute(run, t->panels, c->x, true); }

static void inverse_vjp(const layer_run *run, const tile *t, cotangent *c) { permute(run, t->panels, c->x, false); }

const struct layer_ops R(permutation_ops) = {.record_size = record_size,
                                             .scratch_size = scratch_size,
                                             .forward = forward,
                                             .inverse = inverse,
                                             .forward_vjp = forward_vjp,
                                             .inverse_vjp = inverse_vjp,
                                             .adds_once = true};
