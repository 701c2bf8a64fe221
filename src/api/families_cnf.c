/* Continuous normalizing flows: constructor and solver settings. */
#include <stddef.h>

#include "api/construct.h"
#include "core/floating.h"

/* In place of the defaults; 0 keeps them. */
static void set_solver(nf_cnf_spec *cnf, nf_ode_method method, double rtol, double atol, size_t steps, size_t max_steps) {
    cnf->method = method;
    cnf->rtol = nf_real_or_none(rtol, cnf->rtol);
    cnf->atol = nf_real_or_none(atol, cnf->atol);
    cnf->steps = nf_size_or_none(steps, cnf->steps);
    cnf->max_steps = nf_size_or_none(max_steps, cnf->max_steps);
}

static nf_layer draft_of(const nf_cnf_config *c, const nf_size_list *hidden) {
    nf_layer draft = nf_layer_draft(NF_LAYER_CNF, c->dim, c->context_dim);
    draft.net.hidden = *hidden;
    if (c->activation != NF_ACTIVATION_DEFAULT)
        draft.net.activation = c->activation;
    draft.cnf.dynamics = c->dynamics;
    draft.cnf.width = c->dynamics == NF_DYNAMICS_HYPER ? nf_size_or_none(c->units, 64) : 0;
    if (c->t0 != 0.0 || c->t1 != 0.0) {
        draft.cnf.t0 = c->t0;
        draft.cnf.t1 = c->t1;
    }
    set_solver(&draft.cnf, c->method, c->rtol, c->atol, c->steps, c->max_steps);
    draft.cnf.shared_step = c->shared_step != 0;
    draft.cnf.trace = c->trace;
    draft.cnf.gradient = c->gradient;
    draft.cnf.probes = nf_size_or_none(c->probes, draft.cnf.probes);
    draft.cnf.noise_seed = c->seed;
    draft.cnf.kinetic = c->kinetic;
    draft.cnf.jacobian = c->jacobian;
    return draft;
}

/* In one or two dimensions the exact trace of more hidden layers costs little, and four narrow layers fit better than two wide ones in less time. */
static void default_shape(const nf_cnf_config *given, size_t *layers, size_t *width) {
    const bool hyper = given->dynamics == NF_DYNAMICS_HYPER, deep = !hyper && given->dim <= 2;
    *layers = deep ? 4 : 2;
    *width = deep ? 24 : hyper ? 32 : 64;
}

nf_status nf_cnf_create(const nf_cnf_config *config, nf_cnf **flow) {
    NF_CALL;
    nf_cnf_config given;
    nf_status status = NF_CONSTRUCT_READ(nf_cnf_config, config, &given, flow);
    size_t items[NF_MOST_HIDDEN];
    nf_size_list hidden = {0, NULL};
    if (status == NF_OK && given.shared_step != 0 && given.shared_step != 1)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "config->shared_step is %d, must be 0 or 1", given.shared_step);
    if (status == NF_OK && given.reserved != 0)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "config->reserved is %d, must be 0", given.reserved);
    if (status == NF_OK) {
        size_t layers, width;
        default_shape(&given, &layers, &width);
        status = nf_construct_hidden(__func__, nf_size_or_none(given.hidden_layers, layers), nf_size_or_none(given.hidden_width, width), items,
                                     &hidden);
    }
    if (status != NF_OK)
        return status;
    nf_construction c = nf_construct_begin(__func__, given.allocator, given.dim, given.context_dim, given.precision);
    if (c.status == NF_OK) {
        const nf_layer draft = draft_of(&given, &hidden);
        nf_construct_add(&c, &draft);
    }
    nf_construct_layout(&c);
    if (c.status == NF_OK) {
        nf_sequence random = nf_sequence_begin(given.seed, 0);
        nf_draw_net(&c.flow->model.layers[0]->net, &random, 0.1, c.parameters);
    }
    return nf_construct_finish(&c, flow);
}

nf_status nf_cnf_set_solver(nf_flow *flow, nf_ode_method method, double rtol, double atol, size_t steps, size_t max_steps) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    nf_layer draft = nf_layer_draft(NF_LAYER_CNF, 1, 0);
    set_solver(&draft.cnf, method, rtol, atol, steps, max_steps);
    status = nf_check_solver(&draft.cnf);
    if (status == NF_OK)
        status = nf_layer_check_reals(&draft, flow->engine->precision);
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    size_t layers = 0;
    for (size_t i = 0; i < flow->model.layer_count; i++) {
        nf_cnf_spec *cnf = &flow->model.layers[i]->cnf;
        if (flow->model.layers[i]->kind != NF_LAYER_CNF)
            continue;
        layers++;
        cnf->method = draft.cnf.method;
        cnf->rtol = draft.cnf.rtol;
        cnf->atol = draft.cnf.atol;
        cnf->steps = draft.cnf.steps;
        cnf->max_steps = draft.cnf.max_steps;
    }
    return layers ? NF_OK : nf_fail(NF_ERR_ARGUMENT, __func__, "the flow has no cnf layer");
}
