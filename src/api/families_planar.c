/* Constructors of planar and radial flows, and their initial parameters. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "api/construct.h"
#include "core/floating.h"

/* Both configs have the same members in the same places; the constructors below work on this one. */
typedef nf_planar_config stack_config;

#define SAME(member)                                                                                                             \
    _Static_assert(offsetof(nf_planar_config, member) == offsetof(nf_radial_config, member), "configs of planar and radial flows differ")
SAME(dim);
SAME(context_dim);
SAME(layers);
SAME(seed);
SAME(precision);
SAME(activation);
SAME(hidden_layers);
SAME(hidden_width);
SAME(allocator);
_Static_assert(sizeof(nf_planar_config) == sizeof(nf_radial_config), "configs of planar and radial flows differ");

/* The net's last layer starts small: each sample's parameters differ little from the biases, which are drawn like those of a plain layer. */
static double *draw_conditioner(const nf_layer *layer, nf_sequence *random, double *parameters) {
    nf_draw_net(&layer->net, random, 0.05, parameters);
    return parameters + layer->parameter_count - layer->net.outputs;
}

/*
 * w.z + b then has a spread of about 1 over the base whatever the dimension: w standard normal for one or two coordinates, of the same
 * length for more. u is small, so that the flow starts close to the identity, but not 0, so that its layers differ.
 */
static void draw_planar(const nf_layer *layer, nf_sequence *random, double *parameters) {
    const double spread = layer->dim > 2 ? sqrt(2.0 / (double)layer->dim) : 1.0;
    double *p = layer->context_dim ? draw_conditioner(layer, random, parameters) : parameters;
    for (size_t i = 0; i < layer->dim; i++)
        *p++ = 0.1 * nf_sequence_normal(random);
    for (size_t i = 0; i < layer->dim; i++)
        *p++ = spread * nf_sequence_normal(random);
    *p = nf_sequence_normal(random);
}

/* Centers drawn from the base; a = sqrt(dim), the typical distance from them; beta so that bhat is 0 but for a little. */
static void draw_radial(const nf_layer *layer, nf_sequence *random, double *parameters) {
    double *p = layer->context_dim ? draw_conditioner(layer, random, parameters) : parameters;
    const double radius = sqrt((double)layer->dim), alpha = radius < 700.0 ? log(expm1(radius)) : radius; /* of which exp is no number */
    for (size_t i = 0; i < layer->dim; i++)
        *p++ = nf_sequence_normal(random);
    *p++ = alpha;
    *p = alpha + 0.1 * nf_sequence_normal(random);
}

static nf_status check_stack(const char *function, const stack_config *c) {
    if (c->dim == 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->dim is 0");
    if (c->activation < NF_ACTIVATION_DEFAULT || c->activation > NF_SOFTPLUS)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->activation is %d, which is none", (int)c->activation);
    return NF_OK;
}

static nf_status create_stack(const char *function, nf_layer_kind kind, const stack_config *config, nf_flow **flow) {
    size_t items[NF_MOST_HIDDEN];
    nf_size_list hidden = {0, NULL};
    const size_t layers = nf_size_or_none(config->layers, 1);
    nf_status status = check_stack(function, config);
    if (status == NF_OK)
        status = nf_construct_count(function, "layers", layers);
    if (status == NF_OK && config->context_dim > 0)
        status = nf_construct_hidden(function, nf_size_or_none(config->hidden_layers, 2), nf_size_or_none(config->hidden_width, 64), items,
                                     &hidden);
    if (status != NF_OK)
        return status;
    nf_construction c = nf_construct_begin(function, config->allocator, config->dim, config->context_dim, config->precision);
    for (size_t i = 0; c.status == NF_OK && i < layers; i++) {
        nf_layer draft = nf_layer_draft(kind, config->dim, config->context_dim);
        draft.net.hidden = hidden;
        if (config->activation != NF_ACTIVATION_DEFAULT)
            draft.net.activation = config->activation;
        nf_construct_add(&c, &draft);
    }
    nf_construct_layout(&c);
    for (size_t i = 0; c.status == NF_OK && i < c.flow->model.layer_count; i++) {
        const nf_layer *layer = c.flow->model.layers[i];
        nf_sequence random = nf_sequence_begin(config->seed, i);
        (kind == NF_LAYER_PLANAR ? draw_planar : draw_radial)(layer, &random, c.parameters + layer->parameter_offset);
    }
    return nf_construct_finish(&c, flow);
}

nf_status nf_planar_create(const nf_planar_config *config, nf_planar **flow) {
    NF_CALL;
    nf_planar_config given;
    const nf_status status = NF_CONSTRUCT_READ(nf_planar_config, config, &given, flow);
    return status == NF_OK ? create_stack(__func__, NF_LAYER_PLANAR, &given, flow) : status;
}

nf_status nf_radial_create(const nf_radial_config *config, nf_radial **flow) {
    NF_CALL;
    nf_radial_config given;
    nf_status status = NF_CONSTRUCT_READ(nf_radial_config, config, &given, flow);
    stack_config same;
    if (status == NF_OK) {
        memcpy(&same, &given, sizeof same);
        status = create_stack(__func__, NF_LAYER_RADIAL, &same, flow);
    }
    return status;
}
