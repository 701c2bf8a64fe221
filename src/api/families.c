/* Constructors of the families of flows: which layers they are made of, and their initial parameters. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "api/construct.h"
#include "core/floating.h"
#include "core/moments.h"

/* Real NVP */

static void draw_couplings(const nf_flow *flow, uint64_t seed, double *parameters) {
    for (size_t i = 0; i < flow->model.layer_count; i++) {
        const nf_layer *layer = flow->model.layers[i];
        nf_sequence random = nf_sequence_begin(seed, i);
        if (layer->kind == NF_LAYER_COUPLING)
            nf_draw_net(&layer->net, &random, 0.05, parameters + layer->parameter_offset);
    }
}

/* The first `kept` of `order` go to the end. */
static void swap_parts(size_t *order, size_t *spare, size_t dim, size_t kept) {
    memcpy(spare, order, kept * sizeof *order);
    memmove(order, order + kept, (dim - kept) * sizeof *order);
    memcpy(order + dim - kept, spare, kept * sizeof *order);
}

static void shuffle(nf_sequence *random, size_t *order, size_t count) {
    for (size_t k = count; k > 1; k--) {
        const size_t other = (size_t)nf_sequence_below(random, k), kept = order[k - 1];
        order[k - 1] = order[other];
        order[other] = kept;
    }
}

/*
 * The split of coupling i: first the coordinates that stay, whose number is returned, then those that are transformed. Odd
 * couplings swap the parts of the even one before them. A single coordinate is always transformed. `order` has room for 2 dim.
 */
static size_t split(nf_mask mask, size_t dim, size_t i, nf_sequence *random, size_t *order) {
    const size_t even = (dim + 1) / 2, kept = mask == NF_MASK_CHECKERBOARD && dim > 1 ? even : dim / 2;
    if (i % 2 == 1 && dim > 1) {
        swap_parts(order, order + dim, dim, kept);
        return dim - kept;
    }
    for (size_t k = 0; k < dim; k++)
        order[k] = mask != NF_MASK_CHECKERBOARD ? k : k < even ? 2 * k : 2 * (k - even) + 1;
    if (mask == NF_MASK_RANDOM)
        shuffle(random, order, dim);
    return kept;
}

static void add_coupling(nf_construction *c, const nf_realnvp_config *config, const nf_size_list *hidden, size_t identity,
                         size_t *order) {
    nf_layer draft = nf_layer_draft(NF_LAYER_COUPLING, config->dim, config->context_dim);
    draft.identity = (nf_size_list){identity, order};
    draft.transformed = (nf_size_list){config->dim - identity, order + identity};
    draft.net.hidden = *hidden;
    draft.net.activation = config->activation == NF_ACTIVATION_DEFAULT ? NF_GELU : config->activation;
    draft.scale = config->scale;
    draft.clamp = config->scale_clamp == 0.0 ? 3.0 : config->scale_clamp;
    nf_construct_add(c, &draft);
}

static void add_affine(nf_construction *c, size_t dim) {
    const nf_layer draft = nf_layer_draft(NF_LAYER_AFFINE, dim, 0);
    nf_construct_add(c, &draft);
}

static nf_status check_realnvp(const char *function, const nf_realnvp_config *c) {
    if (c->dim == 0 || c->dim > SIZE_MAX / (2 * sizeof(size_t)))
        return nf_fail(NF_ERR_ARGUMENT, function, "config->dim is %zu", c->dim);
    if (c->activation < NF_ACTIVATION_DEFAULT || c->activation > NF_SOFTPLUS)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->activation is %d, which is none", (int)c->activation);
    if (c->mask < NF_MASK_HALVES || c->mask > NF_MASK_RANDOM)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->mask is %d, which is none", (int)c->mask);
    if (!isfinite(c->scale_clamp) || c->scale_clamp < 0.0)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->scale_clamp is %g, must be positive and finite", c->scale_clamp);
    if (c->reserved != 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->reserved is %d, must be 0", c->reserved);
    return NF_OK;
}

nf_status nf_realnvp_create(const nf_realnvp_config *config, nf_realnvp **flow) {
    NF_CALL;
    nf_realnvp_config given;
    nf_status status = NF_CONSTRUCT_READ(nf_realnvp_config, config, &given, flow);
    if (status == NF_OK)
        status = check_realnvp(__func__, &given);
    if (status == NF_OK)
        status = nf_construct_count(__func__, "couplings", nf_size_or_none(given.couplings, 8));
    size_t items[NF_MOST_HIDDEN];
    nf_size_list hidden = {0, NULL};
    if (status == NF_OK)
        status = nf_construct_hidden(__func__, nf_size_or_none(given.hidden_layers, 2), nf_size_or_none(given.hidden_width, 64), items, &hidden);
    if (status != NF_OK)
        return status;
    nf_construction c = nf_construct_begin(__func__, given.allocator, given.dim, given.context_dim, given.precision);
    size_t *order = NULL;
    if (c.status == NF_OK && !(order = nf_allocate(&c.flow->allocator, 2 * given.dim * sizeof *order)))
        c.status = nf_fail(NF_ERR_MEMORY, __func__, "no memory for %zu indices", given.dim);

    const bool splits = given.dim > 1 || given.context_dim > 0;
    nf_sequence random = nf_sequence_begin(given.seed, UINT64_MAX);
    for (size_t i = 0; splits && c.status == NF_OK && i < nf_size_or_none(given.couplings, 8); i++) {
        const size_t identity = split(given.mask, given.dim, i, &random, order);
        add_coupling(&c, &given, &hidden, identity, order);
        if (given.actnorm > 0)
            add_affine(&c, given.dim);
    }
    if (!splits || given.actnorm == 0)
        add_affine(&c, given.dim);
    if (c.flow)
        nf_release(&c.flow->allocator, order);
    nf_construct_layout(&c);
    if (c.status == NF_OK)
        draw_couplings(c.flow, given.seed, c.parameters);
    return nf_construct_finish(&c, flow);
}

/* Elementwise affine and permutation */

nf_status nf_permutation_create(size_t dim, const size_t *source, nf_precision precision, nf_flow **flow) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK)
        *flow = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "source", source);
    if (status != NF_OK)
        return status;
    if (dim > SIZE_MAX / sizeof(size_t))
        return nf_fail(NF_ERR_ARGUMENT, __func__, "dim is %zu", dim);
    nf_construction c = nf_construct_begin(__func__, NULL, dim, 0, precision);
    if (c.status == NF_OK) {
        /* The draft's list is only read. */
        nf_layer draft = nf_layer_draft(NF_LAYER_PERMUTATION, dim, 0);
        draft.source.count = dim;
        memcpy(&draft.source.items, &source, sizeof source);
        nf_construct_add(&c, &draft);
    }
    nf_construct_layout(&c);
    return nf_construct_finish(&c, flow);
}

nf_status nf_affine_create(size_t dim, nf_precision precision, nf_flow **flow) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    *flow = NULL;
    nf_construction c = nf_construct_begin(__func__, NULL, dim, 0, precision);
    if (c.status == NF_OK)
        add_affine(&c, dim);
    nf_construct_layout(&c);
    return nf_construct_finish(&c, flow);
}

/* Mean and standard deviation of each column. A column that does not vary is only shifted. */
static nf_status measure(const char *function, const nf_engine *engine, size_t rows, size_t dim, const double *x, double *parameters) {
    for (size_t f = 0; f < dim; f++) {
        nf_moments column = {0, 0, 0, 0, 0};
        for (size_t r = 0; r < rows; r++) {
            const double value = x[r * dim + f];
            if (!nf_finite_row(&value, 1, engine))
                return nf_fail(NF_ERR_ARGUMENT, function, "x[%zu][%zu] is %g, must be finite in the flow's precision", r, f, value);
            nf_moments_add(&column, value);
        }
        const double sd = nf_moments_sd(&column);
        if (!isfinite(column.mean) || !isfinite(sd))
            return nf_fail(NF_ERR_ARGUMENT, function, "column %zu of x is too wide to be standardised", f);
        parameters[f] = sd > 0.0 ? log(sd) : 0.0;
        parameters[dim + f] = column.mean;
    }
    return NF_OK;
}

nf_status nf_affine_standardize(nf_flow *affine, size_t rows, const double *x) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "affine", affine);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "x", x);
    if (status != NF_OK)
        return status;
    if (affine->model.layer_count != 1 || affine->model.layers[0]->kind != NF_LAYER_AFFINE || affine->model.layers[0]->inverted)
        return nf_fail(NF_ERR_ARGUMENT, __func__, "affine is not a flow of one affine layer");
    if (rows == 0)
        return nf_fail(NF_ERR_ARGUMENT, __func__, "rows is 0");
    const size_t dim = affine->model.dim;
    double *parameters = nf_allocate(&affine->allocator, 2 * dim * sizeof *parameters);
    if (!parameters)
        return nf_fail(NF_ERR_MEMORY, __func__, "no memory for %zu parameters", 2 * dim);
    status = measure(__func__, affine->engine, rows, dim, x, parameters);
    if (status == NF_OK)
        nf_flow_put(affine, parameters);
    nf_release(&affine->allocator, parameters);
    return status;
}
