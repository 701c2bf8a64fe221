#include "api/units.h"

#include <math.h>

#include "core/memory.h"

bool nf_units_allocate(nf_units *u, const nf_allocator *allocator, const nf_flow *flow, bool wanted) {
    const nf_model *model = &flow->model;
    const nf_layer *last = model->layer_count ? model->layers[model->layer_count - 1] : NULL;
    u->layer = wanted && last && last->kind == NF_LAYER_AFFINE && !last->inverted ? last : NULL;
    u->dim = model->dim;
    u->mean = nf_allocate(allocator, 9 * u->dim * sizeof(double));
    if (!u->mean)
        return false;
    u->sd = u->mean + u->dim;
    u->log_sd = u->sd + u->dim;
    u->own = u->log_sd + u->dim;
    u->shown = u->own + 2 * u->dim;
    u->stepped = u->shown + 2 * u->dim;
    return true;
}

void nf_units_release(nf_units *u, const nf_allocator *allocator) { nf_release(allocator, u->mean); }

void nf_units_set(nf_units *u, const double *mean, const double *sd, nf_flow *flow, double *parameters) {
    for (size_t i = 0; i < u->dim; i++) {
        u->mean[i] = isfinite(mean[i]) ? mean[i] : 0.0;
        u->sd[i] = sd[i] > 0.0 && isfinite(sd[i]) ? sd[i] : 1.0;
        u->log_sd[i] = log(u->sd[i]);
    }
    if (!u->layer)
        return;
    flow->engine->to_double(parameters, flow->theta, flow->model.parameter_count);
    double *slice = parameters + u->layer->parameter_offset;
    for (size_t i = 0; i < 2 * u->dim; i++)
        if (slice[i] != 0.0)
            return;
    for (size_t i = 0; i < u->dim; i++) {
        slice[i] = u->log_sd[i];
        slice[u->dim + i] = u->mean[i];
    }
    nf_flow_put(flow, parameters);
}

nf_status nf_units_step(const nf_units *u, nf_optimizer *optimizer, nf_flow *flow, nf_gradient *gradient) {
    if (!u->layer)
        return nf_run_step(optimizer, flow, gradient);
    const nf_engine *engine = flow->engine;
    const size_t dim = u->dim, offset = u->layer->parameter_offset * engine->real_size;
    void *theta = (char *)flow->theta + offset, *sum = (char *)nf_gradient_numbers(gradient) + offset;
    engine->to_double(u->shown, sum, 2 * dim);
    for (size_t i = 0; i < dim; i++)
        u->shown[dim + i] *= u->sd[i];
    engine->from_double(sum, u->shown, 2 * dim);

    engine->to_double(u->own, theta, 2 * dim);
    for (size_t i = 0; i < dim; i++) {
        u->shown[i] = u->own[i] - u->log_sd[i];
        u->shown[dim + i] = (u->own[dim + i] - u->mean[i]) / u->sd[i];
    }
    if (!nf_finite_row(u->shown, 2 * dim, engine))
        return nf_fail(NF_ERR_DIVERGED, NULL, "the affine layer is not finite in units of the columns");
    engine->from_double(theta, u->shown, 2 * dim);
    engine->to_double(u->shown, theta, 2 * dim); /* as they were rounded */
    nf_status status = nf_run_step(optimizer, flow, gradient);
    engine->to_double(u->stepped, theta, 2 * dim);
    for (size_t i = 0; i < dim && status == NF_OK; i++) {
        u->own[i] += u->stepped[i] - u->shown[i];
        u->own[dim + i] += u->sd[i] * (u->stepped[dim + i] - u->shown[dim + i]);
    }
    if (status == NF_OK && !nf_finite_row(u->own, 2 * dim, engine))
        status = nf_fail(NF_ERR_DIVERGED, NULL, "the affine layer is not finite after a step");
    engine->from_double(theta, u->own, 2 * dim);
    return status;
}
