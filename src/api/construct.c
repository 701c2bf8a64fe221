#include "api/construct.h"

#include <math.h>
#include <stdint.h>

nf_construction nf_construct_begin(const char *function, const nf_allocator *allocator, size_t dim, size_t context_dim, nf_precision precision) {
    nf_construction c = {.function = function};
    c.status = nf_flow_begin(function, allocator, dim, context_dim, precision, &c.flow);
    return c;
}

void nf_construct_add(nf_construction *c, const nf_layer *draft) {
    if (c->status != NF_OK)
        return;
    c->status = nf_flow_add(c->flow, draft);
    if (c->status == NF_OK)
        c->status = nf_layer_check_reals(c->flow->model.layers[c->flow->model.layer_count - 1], c->flow->engine->precision);
    if (c->status != NF_OK)
        nf_fail_in(c->status, c->function);
}

void nf_construct_layout(nf_construction *c) {
    if (c->status != NF_OK)
        return;
    c->status = nf_flow_finish(c->flow);
    if (c->status == NF_OK) {
        const size_t count = c->flow->model.parameter_count;
        c->parameters = count <= SIZE_MAX / sizeof(double) ? nf_allocate_zeroed(&c->flow->allocator, count * sizeof(double)) : NULL;
        if (!c->parameters)
            c->status = nf_fail(NF_ERR_MEMORY, NULL, "no memory for %zu parameters", count);
    }
    if (c->status != NF_OK) {
        nf_fail_in(c->status, c->function);
        return;
    }
}

nf_status nf_construct_finish(nf_construction *c, nf_flow **flow) {
    if (c->status == NF_OK) {
        nf_flow_put(c->flow, c->parameters);
        *flow = c->flow;
    }
    if (c->flow)
        nf_release(&c->flow->allocator, c->parameters);
    if (c->status != NF_OK)
        nf_flow_free(c->flow);
    return c->status;
}

nf_status nf_construct_read(const char *function, const void *config, void *copy, size_t size, size_t first_size, nf_flow **flow) {
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status != NF_OK)
        return status;
    *flow = NULL;
    return nf_read_config(function, config, copy, size, first_size);
}

nf_status nf_construct_count(const char *function, const char *name, size_t count) {
    if (count <= NF_MOST_LAYERS)
        return NF_OK;
    return nf_fail(NF_ERR_ARGUMENT, function, "config->%s is %zu, at most %d are possible", name, count, NF_MOST_LAYERS);
}

nf_status nf_construct_hidden(const char *function, size_t count, size_t width, size_t items[NF_MOST_HIDDEN], nf_size_list *list) {
    if (count > NF_MOST_HIDDEN)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->hidden_layers is %zu, at most %d are possible", count, NF_MOST_HIDDEN);
    if (count > 0 && width == 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->hidden_width is 0 with %zu hidden layers", count);
    for (size_t i = 0; i < count; i++)
        items[i] = width;
    *list = (nf_size_list){count, items};
    return NF_OK;
}

void nf_draw_net(const nf_net *net, nf_sequence *random, double last, double *parameters) {
    const double gain = net->activation == NF_TANH ? 1.0 : 2.0;
    for (size_t j = 0; j < nf_net_layer_count(net); j++) {
        const size_t n = nf_net_layer_inputs(net, j), m = nf_net_layer_outputs(net, j);
        const bool final = j == net->hidden.count;
        const double spread = n ? 1.0 / sqrt((double)n) : 0.0, sd = (final ? last : sqrt(gain)) * spread;
        for (size_t i = 0; i < m * n; i++)
            *parameters++ = sd * nf_sequence_normal(random);
        for (size_t i = 0; i < m; i++)
            *parameters++ = final ? 0.0 : spread * (2.0 * nf_sequence_uniform(random) - 1.0);
    }
}
