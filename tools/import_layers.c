/*
 * Layers of nflows (Durkan et al. 2020), normflows (Stimper et al. 2023) and zuko (Rozet et al. 2022) as nflow's. The formulas are those of these
 * libraries' documentation; what differs from nflow's is the order of a net's outputs, the direction of the map, and the function that bounds a
 * scale.
 */
#include <math.h>
#include <string.h>

#include "import.h"

/* ---- couplings */

/* The rows of the last layer in nflow's order, s first; without s, zeros, so that the scale is 1. */
static void order_outputs(archive *a, const coupling_parts *p, linear *last) {
    const size_t n = p->transformed_count;
    double *weight = archive_keep(a, 2 * n * last->inputs, sizeof *weight), *bias = archive_keep(a, 2 * n, sizeof *bias);
    for (size_t i = 0; i < 2 * n; i++) {
        if (i < n && !p->s)
            continue;
        const size_t from = i < n ? p->s[i] : p->t[i - n];
        memcpy(weight + i * last->inputs, last->weight + from * last->inputs, last->inputs * sizeof *weight);
        bias[i] = last->bias[from];
    }
    *last = (linear){last->inputs, 2 * n, weight, bias};
}

void draft_add_coupling(draft *d, const node *of, const coupling_parts *p, net n) {
    linear *last = &n.layers[n.count - 1];
    if (p->transformed_count == 0 || p->identity_count + p->transformed_count != d->dim)
        node_refuse(of, archive_text(d->a, "splits %zu dimensions into %zu and %zu", d->dim, p->identity_count, p->transformed_count));
    if (last->outputs != p->transformed_count * (p->s ? 2 : 1))
        node_refuse(of, archive_text(d->a, "has a net of %zu outputs for %zu dimensions", last->outputs, p->transformed_count));
    if (n.layers[0].inputs < p->identity_count ||
        (n.layers[0].inputs > p->identity_count && d->context_dim && n.layers[0].inputs != p->identity_count + d->context_dim))
        node_refuse(of, archive_text(d->a, "has a net of %zu inputs for %zu dimensions", n.layers[0].inputs, p->identity_count));
    if (n.layers[0].inputs > p->identity_count)
        d->context_dim = n.layers[0].inputs - p->identity_count;
    order_outputs(d->a, p, last);
    json_t *json = json_pack("{s:s, s:o, s:o, s:s, s:s, s:i}", "type", "coupling", "identity", draft_list(p->identity, p->identity_count),
                             "transformed", draft_list(p->transformed, p->transformed_count), "activation", n.activation, "scale", p->scale,
                             "context", (int)(n.layers[0].inputs - p->identity_count));
    if (p->clamp > 0.0)
        json_object_set_new(json, "clamp", json_real(p->clamp));
    if (strcmp(p->scale, "sigmoid") == 0)
        json_object_set_new(json, "floor", json_real(p->floor));
    draft_add_net(d, json, &n);
}

void draft_add_affine(draft *d, const double *log_scale, const double *shift) {
    draft_layer *layer = draft_add(d, json_pack("{s:s}", "type", "actnorm"), 2);
    draft_tensor_set(layer, 0, "log_scale", 1, d->dim, 1, log_scale);
    draft_tensor_set(layer, 1, "shift", 1, d->dim, 1, shift);
}

void draft_add_permutation(draft *d, const size_t *source) {
    draft_add(d, json_pack("{s:s, s:o}", "type", "permutation", "permutation", draft_list(source, d->dim)), 0);
}

/* first + step i, for `count` outputs of a net. */
static size_t *outputs_from(archive *a, size_t first, size_t step, size_t count) {
    size_t *rows = archive_keep(a, count, sizeof *rows);
    for (size_t i = 0; i < count; i++)
        rows[i] = first + step * i;
    return rows;
}

/* ---- nflows: from data to noise, y = x scale + shift; the net gives all shifts, then all scales */

static void check_scale_activation(const node *n) {
    static const double probes[] = {-1.5, -.25, .75, 2};
    const json_t *function = node_callable(n, "scale_activation"), *values = json_object_get(function, "values");
    if (!function)
        return; /* the versions before it could be chosen */
    for (size_t i = 0; i < sizeof probes / sizeof probes[0]; i++)
        if (fabs(json_number_value(json_array_get(values, i)) - (1 / (1 + exp(-probes[i] - 2)) + 1e-3)) > 1e-12)
            node_refuse(n, "has a scale_activation that is not sigmoid(x + 2) + 1e-3, the only one that nflow has");
}

static void nflows_coupling(draft *d, const node *n, bool scales) {
    coupling_parts p = {.scale = scales ? "sigmoid" : "exp", .floor = 1e-3};
    const node net_module = node_need_child(n, "transform_net");
    p.identity = node_indices(n, "identity_features", &p.identity_count);
    p.transformed = node_indices(n, "transform_features", &p.transformed_count);
    if (node_child(n, "unconditional_transform").json)
        node_refuse(n, "has an unconditional_transform, which nflow's couplings do not");
    if (scales)
        check_scale_activation(n);
    p.t = outputs_from(d->a, 0, 1, p.transformed_count);
    p.s = scales ? outputs_from(d->a, p.transformed_count, 1, p.transformed_count) : NULL;
    if (node_is(&net_module, "ResidualNet"))
        draft_add_coupling(d, n, &p, net_of_residual(&net_module));
    else if (node_is(&net_module, "Sequential"))
        draft_add_coupling(d, n, &p, net_of_sequence(&net_module));
    else
        node_refuse_kind(&net_module, "ResidualNet or Sequential");
}

/* y = weight (x - mean) / sqrt(var + eps) + bias with weight = softplus(unconstrained_weight) + eps, as it is in evaluation. */
static void nflows_batch_norm(draft *d, const node *n) {
    const double *weight = node_need(n, "unconstrained_weight", d->dim), *bias = node_need(n, "bias", d->dim);
    const double *mean = node_need(n, "running_mean", d->dim), *var = node_need(n, "running_var", d->dim), eps = node_number(n, "eps", 1e-5);
    double *log_scale = archive_keep(d->a, d->dim, sizeof *log_scale), *shift = archive_keep(d->a, d->dim, sizeof *shift);
    for (size_t i = 0; i < d->dim; i++) {
        const double scale = (log1p(exp(-fabs(weight[i]))) + fmax(weight[i], 0) + eps) / sqrt(var[i] + eps);
        log_scale[i] = log(scale);
        shift[i] = bias[i] - mean[i] * scale;
    }
    draft_add_affine(d, log_scale, shift);
}

void layers_of_nflows(draft *d, const node *n) {
    if (node_is(n, "CompositeTransform")) {
        const node list = node_need_child(n, "_transforms");
        for (size_t i = 0; i < node_count(&list); i++) {
            const node one = node_at(&list, i);
            layers_of_nflows(d, &one);
        }
    } else if (node_is(n, "AffineCouplingTransform") || node_is(n, "AdditiveCouplingTransform")) {
        nflows_coupling(d, n, node_is(n, "AffineCouplingTransform"));
    } else if (node_is(n, "BatchNorm")) {
        nflows_batch_norm(d, n);
    } else if (node_is(n, "ActNorm")) {
        draft_add_affine(d, node_need(n, "log_scale", d->dim), node_need(n, "shift", d->dim));
        node_ignore(n, "initialized"); /* a tensor in later versions; it matters in training alone */
    } else if (node_is(n, "Permutation") || node_is(n, "RandomPermutation") || node_is(n, "ReversePermutation")) {
        size_t count;
        const size_t *source = node_indices(n, "_permutation", &count);
        if (count != d->dim)
            node_refuse(n, "does not permute all dimensions");
        draft_add_permutation(d, source);
    } else {
        node_refuse_kind(
            n, "AffineCouplingTransform, AdditiveCouplingTransform, BatchNorm, ActNorm, Permutation, RandomPermutation, ReversePermutation");
    }
}

/* ---- normflows: from base to data; the net gives shift and scale in turn */

static net normflows_net(const node *n) {
    const node sequence = node_child(n, "net");
    if (node_is(n, "Sequential"))
        return net_of_sequence(n);
    if (!node_is(n, "MLP") || !sequence.json)
        node_refuse_kind(n, "normflows.nets.MLP or Sequential");
    return net_of_sequence(&sequence);
}

/* Which dimensions stay (first in the list) and which are transformed. `channel`: the first half, one more of an odd number, stays. */
static void normflows_split(const draft *d, const node *split, coupling_parts *p) {
    const char *mode = node_word(split, "mode", "?");
    const bool inverted = strstr(mode, "_inv") != NULL, channel = strncmp(mode, "channel", 7) == 0;
    size_t *first = archive_keep(d->a, d->dim, sizeof *first), *second = archive_keep(d->a, d->dim, sizeof *second), firsts = 0, seconds = 0;
    if (!channel && strncmp(mode, "checkerboard", 12) != 0)
        node_refuse(split, archive_text(d->a, "has the mode %s; channel, checkerboard and their _inv can be imported", mode));
    for (size_t i = 0; i < d->dim; i++) {
        if (channel ? i < (d->dim + 1) / 2 : i % 2 == 1)
            first[firsts++] = i;
        else
            second[seconds++] = i;
    }
    p->identity = inverted ? second : first;
    p->identity_count = inverted ? seconds : firsts;
    p->transformed = inverted ? first : second;
    p->transformed_count = inverted ? firsts : seconds;
}

static void normflows_coupling(draft *d, const node *n) {
    const node flows = node_need_child(n, "flows"), split = node_need_child(&flows, "0"), coupling = node_need_child(&flows, "1"),
               merge = node_need_child(&flows, "2"), map = node_need_child(&coupling, "param_map");
    const bool scales = node_flag(&coupling, "scale", true);
    const char *scale_map = node_word(&coupling, "scale_map", "exp");
    if (!node_is(&split, "Split") || !node_is(&coupling, "AffineCoupling") || !node_is(&merge, "Merge"))
        node_refuse(n, "is not made of Split, AffineCoupling and Merge");
    coupling_parts p = {.scale = "exp"};
    if (scales && strcmp(scale_map, "sigmoid") == 0)
        p.scale = "inverse_sigmoid";
    else if (scales && strcmp(scale_map, "sigmoid_inv") == 0)
        p.scale = "sigmoid";
    else if (scales && strcmp(scale_map, "exp") != 0)
        node_refuse(&coupling, archive_text(d->a, "has the scale_map %s; exp, sigmoid and sigmoid_inv can be imported", scale_map));
    normflows_split(d, &split, &p);
    const size_t step = scales ? 2 : 1;
    p.t = outputs_from(d->a, 0, step, p.transformed_count);
    p.s = scales ? outputs_from(d->a, 1, step, p.transformed_count) : NULL;
    draft_add_coupling(d, n, &p, normflows_net(&map));
}

static void normflows_planar(draft *d, const node *n) {
    if (strcmp(node_word(n, "act", "tanh"), "tanh") != 0)
        node_refuse(n, archive_text(d->a, "has the activation %s; nflow's planar layers have tanh", node_word(n, "act", "?")));
    draft_layer *layer = draft_add(d, json_pack("{s:s}", "type", "planar"), 3);
    draft_tensor_set(layer, 0, "u", 1, d->dim, 1, node_need(n, "u", d->dim));
    draft_tensor_set(layer, 1, "w", 1, d->dim, 1, node_need(n, "w", d->dim));
    draft_tensor_set(layer, 2, "b", 1, 1, 1, node_need(n, "b", 1));
}

/* Its a is |alpha|, nflow's is softplus(alpha). */
static void normflows_radial(draft *d, const node *n) {
    const double a = fabs(*node_need(n, "alpha", 1));
    double *alpha = archive_keep(d->a, 1, sizeof *alpha);
    *alpha = a + log(-expm1(-a));
    if (!(a > 0.0) || !isfinite(*alpha))
        node_refuse(n, "has an alpha of 0, which nflow's radial layers cannot have");
    node_ignore(n, "d");
    draft_layer *layer = draft_add(d, json_pack("{s:s}", "type", "radial"), 3);
    draft_tensor_set(layer, 0, "center", 1, d->dim, 1, node_need(n, "z_0", d->dim));
    draft_tensor_set(layer, 1, "alpha", 1, 1, 1, alpha);
    draft_tensor_set(layer, 2, "beta", 1, 1, 1, node_need(n, "beta", 1));
}

static void normflows_permute(draft *d, const node *n) {
    const char *mode = node_word(n, "mode", "?");
    size_t count = d->dim, *source = archive_keep(d->a, d->dim, sizeof *source);
    if (strcmp(mode, "shuffle") == 0) {
        source = node_indices(n, "perm", &count);
        node_ignore(n, "inv_perm");
    } else if (strcmp(mode, "swap") == 0) {
        for (size_t i = 0; i < d->dim; i++)
            source[i] = (i + d->dim / 2) % d->dim;
    } else {
        node_refuse(n, archive_text(d->a, "has the mode %s; shuffle and swap can be imported", mode));
    }
    if (count != d->dim)
        node_refuse(n, "does not permute all dimensions");
    draft_add_permutation(d, source);
}

void layers_of_normflows(draft *d, const node *n) {
    if (node_is(n, "Planar")) {
        normflows_planar(d, n);
    } else if (node_is(n, "Radial")) {
        normflows_radial(d, n);
    } else if (node_is(n, "Permute")) {
        normflows_permute(d, n);
    } else if (node_is(n, "ActNorm") || node_is(n, "AffineConstFlow")) {
        if (node_is(n, "ActNorm") && *node_need(n, "data_dep_init_done", 1) == 0.0)
            node_refuse(n, "has not seen data yet: its scale and shift would change with the first batch");
        draft_add_affine(d, node_need(n, "s", d->dim), node_need(n, "t", d->dim));
    } else if (node_is(n, "AffineCouplingBlock")) {
        normflows_coupling(d, n);
    } else {
        node_refuse_kind(n, "AffineCouplingBlock, Planar, Radial, Permute, ActNorm, AffineConstFlow");
    }
}

/* ---- zuko: from data to noise, y = x exp(s) + shift with s = a / (1 + |a / log slope|); the net gives shift and a in turn */

static void zuko_coupling(draft *d, const node *n) {
    const json_t *univariate = node_callable(n, "univariate");
    const char *name = json_string_value(json_object_get(univariate, "callable"));
    const json_t *slope = json_object_get(json_object_get(univariate, "defaults"), "slope");
    const node hyper = node_need_child(n, "hyper");
    size_t count;
    const size_t *mask = node_indices(n, "mask", &count);
    if (!name || strcmp(name, "MonotonicAffineTransform") != 0)
        node_refuse(n, archive_text(d->a, "transforms by %s; MonotonicAffineTransform can be imported", name ? name : "what has no name"));
    if (!json_is_number(slope) || !(json_number_value(slope) > 0.0) || !(json_number_value(slope) < 1.0))
        node_refuse(n, "has a MonotonicAffineTransform without a slope in (0, 1): it is of a version of zuko whose scale nflow does not have");
    if (count != d->dim)
        node_refuse(n, "has a mask of another dimension");
    if (!node_is(&hyper, "MLP") && !node_is(&hyper, "Sequential"))
        node_refuse_kind(&hyper, "zuko.nn.MLP");
    size_t *identity = archive_keep(d->a, count, sizeof *identity), *transformed = archive_keep(d->a, count, sizeof *transformed);
    coupling_parts p = {.identity = identity, .transformed = transformed, .scale = "softclip", .clamp = -log(json_number_value(slope))};
    for (size_t i = 0; i < count; i++) {
        if (mask[i])
            identity[p.identity_count++] = i;
        else
            transformed[p.transformed_count++] = i;
    }
    p.t = outputs_from(d->a, 0, 2, p.transformed_count);
    p.s = outputs_from(d->a, 1, 2, p.transformed_count);
    draft_add_coupling(d, n, &p, net_of_sequence(&hyper));
}

void layers_of_zuko(draft *d, const node *n) {
    if (node_is(n, "LazyComposedTransform")) {
        const node list = node_need_child(n, "transforms");
        for (size_t i = 0; i < node_count(&list); i++) {
            const node one = node_at(&list, i);
            layers_of_zuko(d, &one);
        }
    } else if (node_is(n, "GeneralCouplingTransform")) {
        zuko_coupling(d, n);
    } else {
        node_refuse_kind(n, "GeneralCouplingTransform (of NICE and RealNVP)");
    }
}
