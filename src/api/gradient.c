/* Gradient objects. */
#include <math.h>
#include <string.h>

#include "api/handles.h"
#include "core/floating.h"

nf_status nf_check_gradient(const char *function, const nf_flow *flow, const nf_gradient *gradient) {
    const nf_status status = nf_check_pointer(function, "gradient", gradient);
    if (status != NF_OK || gradient->structure == flow->structure)
        return status;
    return nf_fail(NF_ERR_MISMATCH, function, "gradient belongs to another flow, or to this one before append or invert");
}

void nf_gradient_clear(nf_gradient *gradient) {
    gradient->empty = true;
    gradient->largest = 0.0;
}

void *nf_gradient_overwrite(nf_gradient *gradient) {
    gradient->empty = false;
    gradient->largest = NAN;
    return gradient->sum;
}

void *nf_gradient_numbers(nf_gradient *gradient) {
    if (gradient->empty)
        memset(gradient->sum, 0, gradient->count * gradient->engine->real_size);
    return nf_gradient_overwrite(gradient);
}

void nf_gradient_add(nf_gradient *gradient, const void *numbers) {
    const nf_engine *engine = gradient->engine;
    (gradient->empty ? engine->set_scaled : engine->add_scaled)(gradient->sum, numbers, 1.0, gradient->count);
    nf_gradient_overwrite(gradient);
}

void nf_gradient_scale(nf_gradient *gradient, double scale) {
    nf_gradient_overwrite(gradient);
    gradient->largest = gradient->engine->scale(gradient->sum, scale, gradient->count);
}

double nf_gradient_largest(const nf_gradient *gradient) {
    return isnan(gradient->largest) ? gradient->engine->largest(gradient->sum, gradient->count) : gradient->largest;
}

double nf_gradient_norm(const nf_gradient *gradient) {
    return gradient->empty ? 0.0 : gradient->engine->norm2(gradient->sum, gradient->count);
}

nf_status nf_gradient_make(const char *function, const nf_allocator *allocator, const nf_engine *engine, uint64_t structure, size_t count,
                           nf_gradient **out) {
    const size_t stride = (count * engine->real_size + 63) / 64 * 64;
    size_t all;
    const bool fits = nf_size_multiply(stride, GRADIENT_SLOTS, &all);
    nf_gradient *g = nf_allocate_zeroed(allocator, sizeof *g);
    if (g) {
        g->allocator = *allocator;
        g->engine = engine;
        g->structure = structure;
        g->count = count;
        nf_gradient_clear(g);
        g->stride = stride / engine->real_size;
        g->sum = nf_allocate(allocator, stride);
        g->slots = fits ? nf_allocate(allocator, all) : NULL;
    }
    if (!g || !g->sum || !g->slots) {
        nf_gradient_free(g);
        return nf_fail(NF_ERR_MEMORY, function, "no memory for the gradient of %zu parameters", count);
    }
    *out = g;
    return NF_OK;
}

nf_status nf_gradient_create(const nf_flow *flow, nf_gradient **out) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", out);
    if (status == NF_OK)
        *out = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    return nf_gradient_make(__func__, &flow->allocator, flow->engine, flow->structure, flow->model.parameter_count, out);
}

void nf_gradient_free(nf_gradient *gradient) {
    if (!gradient)
        return;
    const nf_allocator allocator = gradient->allocator;
    nf_release(&allocator, gradient->slots);
    nf_release(&allocator, gradient->sum);
    nf_release(&allocator, gradient);
}

nf_status nf_gradient_zero(nf_gradient *gradient) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        nf_gradient_clear(gradient);
    return status;
}

nf_status nf_gradient_get(const nf_gradient *gradient, double *out) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "out", out);
    if (status != NF_OK)
        return status;
    if (gradient->empty)
        memset(out, 0, gradient->count * sizeof *out);
    else
        gradient->engine->to_double(out, gradient->sum, gradient->count);
    return NF_OK;
}

nf_status nf_gradient_set(nf_gradient *gradient, const double *in) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "in", in);
    if (status != NF_OK)
        return status;
    gradient->engine->from_double(nf_gradient_overwrite(gradient), in, gradient->count);
    return NF_OK;
}
