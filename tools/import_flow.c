/* Whole flows: the base, the order of the layers, and which library they are of. */
#include <math.h>
#include <string.h>

#include "import.h"
#include "tool.h"

/* ---- nflows */

static void nflows_flow(draft *d, const node *root) {
    const node transform = node_need_child(root, "_transform"), base = node_need_child(root, "_distribution"),
               embedding = node_child(root, "_embedding_net");
    if (!node_is(&base, "StandardNormal"))
        node_refuse_kind(&base, "StandardNormal");
    if (embedding.json && !node_is(&embedding, "Identity"))
        node_refuse(&embedding, "embeds a context, which nflow does not");
    node_ignore(&base, "_log_z");
    d->from_data = true;
    layers_of_nflows(d, &transform);
}

/* The dimension, from the first layer that shows it. */
static size_t nflows_dim(const node *n) {
    if (node_is(n, "CompositeTransform")) {
        const node list = node_need_child(n, "_transforms");
        size_t dim = 0;
        for (size_t i = 0; dim == 0 && i < node_count(&list); i++) {
            const node one = node_at(&list, i);
            dim = nflows_dim(&one);
        }
        return dim;
    }
    static const char *const names[] = {"shift", "bias", "_permutation"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (node_find(n, names[i]))
            return node_find(n, names[i])->count;
    const double features = node_number(n, "features", 0);
    return features >= 1 && features <= 1e9 ? (size_t)features : 0;
}

/* ---- normflows */

static void normflows_flow(draft *d, const node *root) {
    const node base = node_need_child(root, "q0"), flows = node_need_child(root, "flows"), target = node_child(root, "p");
    if (!node_is(&base, "DiagGaussian"))
        node_refuse_kind(&base, "DiagGaussian");
    const array *mean = node_find(&base, "loc");
    if (!mean || mean->count == 0)
        node_refuse(&base, "has no loc");
    node_ignore_all(&target); /* what the flow was trained to approximate */
    d->dim = mean->count;
    d->mean = mean->values;
    const double *log_sd = node_need(&base, "log_scale", d->dim), temperature = node_number(&base, "temperature", 1);
    double *sd = archive_keep(d->a, d->dim, sizeof *sd);
    for (size_t i = 0; i < d->dim; i++)
        sd[i] = exp(log_sd[i]) * temperature;
    d->sd = sd;
    for (size_t i = 0; i < node_count(&flows); i++) {
        const node one = node_at(&flows, i);
        layers_of_normflows(d, &one);
    }
}

/* ---- zuko */

static void zuko_flow(draft *d, const node *root) {
    const node transform = node_need_child(root, "transform"), base = node_need_child(root, "base");
    const json_t *f = node_callable(&base, "f") ? node_callable(&base, "f") : node_callable(&base, "meta");
    const char *name = json_string_value(json_object_get(f, "callable"));
    if (!name || strcmp(name, "DiagNormal") != 0)
        node_refuse(&base, archive_text(d->a, "is %s; DiagNormal can be imported", name ? name : "no distribution with a name"));
    const array *mean = node_find(&base, "_0");
    if (!mean || mean->count == 0)
        node_refuse(&base, "has no mean");
    d->dim = mean->count;
    d->mean = mean->values;
    d->sd = node_need(&base, "_1", d->dim);
    d->from_data = true;
    layers_of_zuko(d, &transform);
}

/* ---- the hypernetwork CNF of torchdiffeq's example: from base at t0 to data at t1 */

static const char cnf_name[] = "the hypernetwork CNF";

static void cnf_flow(draft *d, const node *hyper, const cnf_options *options) {
    net n = {.activation = "tanh", .count = 3, .layers = archive_keep(d->a, 3, sizeof(linear))};
    for (size_t i = 0; i < 3; i++) {
        const char *weight = archive_text(d->a, "fc%zu.weight", i + 1), *bias = archive_text(d->a, "fc%zu.bias", i + 1);
        const array *w = node_need_matrix(hyper, weight);
        n.layers[i] = (linear){w->shape[1], w->shape[0], w->values, node_need(hyper, bias, w->shape[0])};
    }
    const double t0 = isnan(options->t0) ? 0 : options->t0, t1 = isnan(options->t1) ? 10 : options->t1;
    const double variance = isnan(options->variance) ? .1 : options->variance;
    /* 3 width dim + width outputs: the width is an attribute, where there is a module; of a state dict, that of two dimensions. */
    const size_t outputs = n.layers[2].outputs, hidden = n.layers[0].outputs;
    const double named = node_number(hyper, "width", (double)(outputs / 7));
    const size_t width = named >= 1 && named <= (double)outputs ? (size_t)named : 0;
    if (width == 0 || outputs % width != 0 || outputs / width % 3 != 1 || outputs / width < 4 || n.layers[0].inputs != 1 ||
        n.layers[1].inputs != hidden || n.layers[1].outputs != hidden || n.layers[2].inputs != hidden)
        node_refuse(hyper, archive_text(d->a, "is no hypernetwork 1 - h - h - 3 width dim + width with width %g", named));
    d->dim = (outputs / width - 1) / 3;
    double *sd = archive_keep(d->a, d->dim, sizeof *sd);
    for (size_t i = 0; i < d->dim; i++)
        sd[i] = sqrt(variance);
    d->sd = sd;
    draft_add_net(
        d,
        json_pack("{s:s, s:s, s:I, s:f, s:f}", "type", "cnf", "dynamics", "hyper", "width", (json_int_t)width, "t0", t0, "t1", t1),
        &n);
    json_object_set_new(d->layers[0].json, "hidden", json_integer((json_int_t)hidden));
    json_object_del(d->layers[0].json, "activation");
}

/* ---- which */

static void refuse_cnf_options(const draft *d, const cnf_options *o) {
    const char *given = !isnan(o->t0) ? "t0" : !isnan(o->t1) ? "t1" : !isnan(o->variance) ? "base-variance" : NULL;
    if (given)
        die_usage("--%s: %s has a flow of %s, and this is of a CNF", given, d->a->path, d->what);
}

static void refuse_unused(const archive *a) {
    for (size_t i = 0; i < a->count; i++)
        if (!a->arrays[i].used)
            die("%s: the tensor %s belongs to nothing that nflow knows: the module does more than its class says", a->path, a->arrays[i].name);
}

void draft_flow(draft *d, archive *a, const cnf_options *options) {
    const node root = node_root(a), hyper = node_child(&root, "hyper_net");
    *d = (draft){.a = a};
    const bool is_flow = node_is(&root, "Flow");
    if ((is_flow || node_is(&root, "SimpleRealNVP")) && node_child(&root, "_transform").json) {
        const node transform = node_need_child(&root, "_transform");
        d->dim = nflows_dim(&transform);
        d->what = "nflows";
        if (d->dim == 0)
            node_refuse(&transform, "has no layer that shows its dimension");
        nflows_flow(d, &root);
    } else if (node_is(&root, "NormalizingFlow")) {
        d->what = "normflows";
        normflows_flow(d, &root);
    } else if ((is_flow || node_is(&root, "NICE") || node_is(&root, "RealNVP")) && node_child(&root, "transform").json) {
        d->what = "zuko";
        zuko_flow(d, &root);
    } else if (node_is(&root, "CNF") && hyper.json) {
        d->what = cnf_name;
        cnf_flow(d, &hyper, options);
    } else if (node_is(&root, "StateDict")) {
        if (!node_find(&root, "hyper_net.fc1.weight"))
            die("%s: a state dict alone does not say how its module is built; give export_torch.py the module", a->path);
        d->what = cnf_name;
        cnf_flow(d, &hyper, options);
    } else {
        node_refuse_kind(
            &root,
            "SimpleRealNVP and Flow of nflows, NormalizingFlow of normflows, NICE, RealNVP and Flow of zuko, and the CNF of torchdiffeq's example");
    }
    if (strcmp(d->what, cnf_name) != 0)
        refuse_cnf_options(d, options);
    refuse_unused(a);
}
