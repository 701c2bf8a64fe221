/*
 * The types of layer, as far as they can be told without numbers: the name in files, the fields of the JSON, what a
 * layer must satisfy, and its tensors. The numerics of each are in engine/layers/, in a file of the same name.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/memory.h"
#include "core/model.h"
#include "core/status.h"

static const nf_enum_name activation_names[] = {{"gelu", NF_GELU},         {"tanh", NF_TANH}, {"relu", NF_RELU}, {"silu", NF_SILU},
                                                {"softplus", NF_SOFTPLUS}, {NULL, 0}};
static const nf_enum_name scale_names[] = {{"exp", NF_SCALE_EXP}, {"tanh", NF_SCALE_TANH}, {"sigmoid", NF_SCALE_SIGMOID},
                                           {"softclip", NF_SCALE_SOFTCLIP}, {"inverse_sigmoid", NF_SCALE_INVERSE_SIGMOID}, {NULL, 0}};
static const nf_enum_name dynamics_names[] = {{"mlp", NF_DYNAMICS_MLP}, {"hyper", NF_DYNAMICS_HYPER}, {NULL, 0}};
static const nf_enum_name method_names[] = {{"dopri5", NF_DOPRI5}, {"tsit5", NF_TSIT5}, {"dop853", NF_DOP853}, {"bosh3", NF_BOSH3},
                                            {"rk4", NF_RK4},       {"midpoint", NF_MIDPOINT}, {"euler", NF_EULER}, {NULL, 0}};
static const nf_enum_name trace_names[] = {{"exact", NF_TRACE_EXACT}, {"hutchinson", NF_TRACE_HUTCHINSON}, {"hutchinson_normal", NF_TRACE_HUTCHINSON_NORMAL},
                                           {NULL, 0}};
static const nf_enum_name gradient_names[] = {{"discrete", NF_ODE_DISCRETE}, {"adjoint", NF_ODE_ADJOINT}, {NULL, 0}};

#define FIELD(key, form, member, required, names, applies) {key, form, offsetof(nf_layer, member), required, names, applies}
#define FIELDS_END {NULL, NF_FIELD_SIZE, 0, false, NULL, NULL}

static bool has_net(const nf_layer *layer) { return layer->context_dim > 0; }
static bool scale_is_clamped(const nf_layer *layer) { return layer->scale == NF_SCALE_TANH || layer->scale == NF_SCALE_SOFTCLIP; }
static bool scale_is_sigmoid(const nf_layer *layer) { return layer->scale == NF_SCALE_SIGMOID; }
static bool is_mlp(const nf_layer *layer) { return layer->cnf.dynamics == NF_DYNAMICS_MLP; }
static bool is_hyper(const nf_layer *layer) { return layer->cnf.dynamics == NF_DYNAMICS_HYPER; }

static nf_status check_net(const nf_layer *layer) {
    const char *type = nf_layer_type_of(layer->kind)->name;
    for (size_t j = 0; j < layer->net.hidden.count; j++)
        if (layer->net.hidden.items[j] == 0)
            return nf_fail(NF_ERR_ARGUMENT, NULL, "%s: hidden[%zu] is 0", type, j);
    if (layer->net.activation < NF_GELU || layer->net.activation > NF_SOFTPLUS)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "%s: activation is %d, which is none", type, (int)layer->net.activation);
    return NF_OK;
}

static nf_status net_outputs(nf_layer *layer, size_t per_dim, size_t more) {
    size_t outputs;
    if (!nf_size_multiply(layer->dim, per_dim, &outputs) || !nf_size_add(outputs, more, &outputs))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "%s: dim %zu is too large", nf_layer_type_of(layer->kind)->name, layer->dim);
    layer->net.outputs = outputs;
    return NF_OK;
}

/* planar: u, w, b; conditional: one net from the context to [u, w, b]. radial: center, alpha, beta likewise. */

static void conditioner_defaults(nf_layer *layer) { layer->net.activation = NF_TANH; }

static nf_status complete_conditioned(nf_layer *layer, size_t per_dim, size_t more) {
    if (layer->context_dim == 0) {
        layer->net = (nf_net){0, 0, {0, NULL}, NF_TANH};
        return NF_OK;
    }
    layer->net.inputs = layer->context_dim;
    nf_status status = net_outputs(layer, per_dim, more);
    return status == NF_OK ? check_net(layer) : status;
}

static nf_status planar_complete(nf_layer *layer) { return complete_conditioned(layer, 2, 1); }

static void planar_tensors(const nf_layer *layer, nf_tensor_sink sink, void *user) {
    if (layer->context_dim) {
        nf_net_tensors(&layer->net, sink, user);
        return;
    }
    sink(user, "u", 1, layer->dim, 1);
    sink(user, "w", 1, layer->dim, 1);
    sink(user, "b", 1, 1, 1);
}

static nf_status radial_complete(nf_layer *layer) { return complete_conditioned(layer, 1, 2); }

static void radial_tensors(const nf_layer *layer, nf_tensor_sink sink, void *user) {
    if (layer->context_dim) {
        nf_net_tensors(&layer->net, sink, user);
        return;
    }
    sink(user, "center", 1, layer->dim, 1);
    sink(user, "alpha", 1, 1, 1);
    sink(user, "beta", 1, 1, 1);
}

static const nf_field conditioned_fields[] = {
    FIELD("hidden", NF_FIELD_HIDDEN, net.hidden, true, NULL, has_net),
    FIELD("activation", NF_FIELD_ENUM, net.activation, true, activation_names, has_net),
    FIELDS_END,
};

/* coupling */

static void coupling_defaults(nf_layer *layer) {
    layer->net.activation = NF_GELU;
    layer->scale = NF_SCALE_EXP;
    layer->clamp = 3.0;
    layer->floor = 1e-3;
}

static nf_status check_indices(const nf_layer *layer, const char *name, const nf_size_list *list) {
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i] >= layer->dim)
            return nf_fail(NF_ERR_ARGUMENT, NULL, "%s[%zu] is %zu in a flow of %zu dimensions", name, i, list->items[i], layer->dim);
    return NF_OK;
}

/* Whether the indices of both lists are 0 .. dim-1, each once. The marks are put into the lists' own top bit: no memory is needed. */
#define INDEX_MARK (~(SIZE_MAX >> 1))

static size_t *index_slot(const nf_size_list *a, const nf_size_list *b, size_t i) {
    return i < a->count ? &a->items[i] : &b->items[i - a->count];
}

static bool is_partition(const nf_layer *layer, const nf_size_list *a, const nf_size_list *b, size_t *repeated) {
    if (a->count > layer->dim || b->count != layer->dim - a->count)
        return false;
    bool good = true;
    for (size_t i = 0; i < layer->dim && good; i++) {
        size_t value = *index_slot(a, b, i) & ~INDEX_MARK;
        size_t *mark = index_slot(a, b, value);
        good = !(*mark & INDEX_MARK);
        *mark |= INDEX_MARK;
        *repeated = value;
    }
    for (size_t i = 0; i < layer->dim; i++)
        *index_slot(a, b, i) &= ~INDEX_MARK;
    return good;
}

static nf_status coupling_complete(nf_layer *layer) {
    const nf_size_list *identity = &layer->identity, *transformed = &layer->transformed;
    nf_status status = check_indices(layer, "coupling: identity", identity);
    if (status == NF_OK)
        status = check_indices(layer, "coupling: transformed", transformed);
    if (status != NF_OK)
        return status;
    size_t index = 0;
    if (transformed->count == 0)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "coupling: transformed is empty");
    if (identity->count > layer->dim || transformed->count != layer->dim - identity->count)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "coupling: identity and transformed have %zu and %zu indices in %zu dimensions",
                       identity->count, transformed->count, layer->dim);
    if (!is_partition(layer, identity, transformed, &index))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "coupling: index %zu stands twice in identity and transformed", index);
    if (layer->scale < NF_SCALE_TANH || layer->scale > NF_SCALE_INVERSE_SIGMOID)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "coupling: scale is %d, which is none", (int)layer->scale);
    if (!(layer->clamp > 0.0) || !isfinite(layer->clamp))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "coupling: clamp is %g, must be positive", layer->clamp);
    if (!(layer->floor >= 0.0) || !isfinite(layer->floor))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "coupling: floor is %g, must be finite and not negative", layer->floor);
    if (!nf_size_add(identity->count, layer->context_dim, &layer->net.inputs))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "coupling: context %zu is too large", layer->context_dim);
    layer->net.outputs = 2 * transformed->count; /* cannot wrap: the list itself is in memory */
    return check_net(layer);
}

static void coupling_tensors(const nf_layer *layer, nf_tensor_sink sink, void *user) { nf_net_tensors(&layer->net, sink, user); }

static const nf_field coupling_fields[] = {
    FIELD("identity", NF_FIELD_LIST, identity, true, NULL, NULL),
    FIELD("transformed", NF_FIELD_LIST, transformed, true, NULL, NULL),
    FIELD("hidden", NF_FIELD_HIDDEN, net.hidden, true, NULL, NULL),
    FIELD("activation", NF_FIELD_ENUM, net.activation, true, activation_names, NULL),
    FIELD("scale", NF_FIELD_ENUM, scale, true, scale_names, NULL),
    FIELD("clamp", NF_FIELD_REAL, clamp, true, NULL, scale_is_clamped),
    FIELD("floor", NF_FIELD_REAL, floor, true, NULL, scale_is_sigmoid),
    FIELDS_END,
};

/* permutation: x[j] = z[source[j]] */

static nf_status permutation_complete(nf_layer *layer) {
    const nf_size_list none = {0, NULL};
    size_t index = 0;
    nf_status status = check_indices(layer, "permutation: source", &layer->source);
    if (status != NF_OK)
        return status;
    if (layer->source.count != layer->dim)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "permutation: source has %zu indices in %zu dimensions", layer->source.count, layer->dim);
    if (!is_partition(layer, &layer->source, &none, &index))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "permutation: source has %zu twice", index);
    return NF_OK;
}

static void no_tensors(const nf_layer *layer, nf_tensor_sink sink, void *user) {
    (void)layer;
    (void)sink;
    (void)user;
}

static const nf_field permutation_fields[] = {
    FIELD("permutation", NF_FIELD_LIST, source, true, NULL, NULL),
    FIELDS_END,
};

/* affine, "actnorm" in files */

static nf_status affine_complete(nf_layer *layer) {
    (void)layer;
    return NF_OK;
}

static void affine_tensors(const nf_layer *layer, nf_tensor_sink sink, void *user) {
    sink(user, "log_scale", 1, layer->dim, 1);
    sink(user, "shift", 1, layer->dim, 1);
}

static const nf_field affine_fields[] = {FIELDS_END};

/* cnf */

static void cnf_defaults(nf_layer *layer) {
    layer->net.activation = NF_TANH;
    layer->cnf = (nf_cnf_spec){.dynamics = NF_DYNAMICS_MLP,
                               .t1 = 1.0,
                               .rtol = 1e-7,
                               .atol = 1e-9,
                               .method = NF_DOPRI5,
                               .gradient = NF_ODE_DISCRETE,
                               .trace = NF_TRACE_EXACT,
                               .steps = 32,
                               .max_steps = 10000,
                               .probes = 1};
}

nf_status nf_check_solver(const nf_cnf_spec *c) {
    if (c->method < NF_DOPRI5 || c->method > NF_EULER)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: method is %d, which is none", (int)c->method);
    if (!(c->rtol >= 0.0) || !(c->atol >= 0.0) || !isfinite(c->rtol) || !isfinite(c->atol) || (c->rtol == 0.0 && c->atol == 0.0))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: rtol = %g and atol = %g, must be finite, not negative, not both 0", c->rtol, c->atol);
    if (c->steps == 0 || c->max_steps == 0)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: steps is %zu and max_steps %zu, must be positive", c->steps, c->max_steps);
    if (c->steps > NF_MOST_COUNT || c->max_steps > NF_MOST_COUNT)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: steps is %zu and max_steps %zu, must be at most %zu", c->steps, c->max_steps, NF_MOST_COUNT);
    return NF_OK;
}

static nf_status cnf_complete(nf_layer *layer) {
    const nf_cnf_spec *c = &layer->cnf;
    const bool hyper = c->dynamics == NF_DYNAMICS_HYPER;
    if (!hyper && c->dynamics != NF_DYNAMICS_MLP)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: dynamics is %d, which is none", (int)c->dynamics);
    if (!isfinite(c->t0) || !isfinite(c->t1) || c->t0 == c->t1)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: t0 = %g and t1 = %g, must be finite and different", c->t0, c->t1);
    if (fabs(c->t1 / 2 - c->t0 / 2) > DBL_MAX / 2)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: t0 = %g and t1 = %g are further apart than a number can tell", c->t0, c->t1);
    const nf_status solver = nf_check_solver(c);
    if (solver != NF_OK)
        return solver;
    if (c->trace < NF_TRACE_EXACT || c->trace > NF_TRACE_HUTCHINSON_NORMAL)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: trace is %d, which is none", (int)c->trace);
    if (c->gradient != NF_ODE_DISCRETE && c->gradient != NF_ODE_ADJOINT)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: gradient is %d, which is none", (int)c->gradient);
    if (c->trace != NF_TRACE_EXACT && c->probes == 0)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: probes is 0");
    if (c->probes > NF_MOST_COUNT)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: probes is %zu, must be at most %zu", c->probes, NF_MOST_COUNT);
    if (!(c->kinetic >= 0.0) || !(c->jacobian >= 0.0) || !isfinite(c->kinetic) || !isfinite(c->jacobian))
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: kinetic = %g and jacobian = %g, must be finite and not negative", c->kinetic,
                       c->jacobian);
    if (hyper) {
        if (layer->context_dim)
            return nf_fail(NF_ERR_UNSUPPORTED, NULL, "cnf: hyper dynamics take no context, and context is %zu", layer->context_dim);
        if (c->width == 0)
            return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: width is 0");
        size_t fields;
        if (!nf_size_multiply(c->width, 3, &fields))
            return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: width %zu is too large", c->width);
        layer->net.inputs = 1;
        layer->net.activation = NF_TANH; /* always: files do not tell it */
        nf_status status = net_outputs(layer, fields, c->width);
        if (status != NF_OK)
            return status;
    } else {
        size_t inputs;
        if (!nf_size_add(layer->dim, layer->context_dim, &inputs) || !nf_size_add(inputs, 1, &inputs))
            return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: dim %zu and context %zu are too large", layer->dim, layer->context_dim);
        layer->net.inputs = inputs;
        layer->net.outputs = layer->dim;
        if (layer->net.activation == NF_RELU)
            return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: activation is relu; the dynamics need a smooth one");
    }
    return check_net(layer);
}

static void cnf_tensors(const nf_layer *layer, nf_tensor_sink sink, void *user) { nf_net_tensors(&layer->net, sink, user); }

static const nf_field cnf_fields[] = {
    FIELD("dynamics", NF_FIELD_ENUM, cnf.dynamics, true, dynamics_names, NULL),
    FIELD("hidden", NF_FIELD_HIDDEN, net.hidden, true, NULL, NULL),
    FIELD("activation", NF_FIELD_ENUM, net.activation, true, activation_names, is_mlp),
    FIELD("width", NF_FIELD_SIZE, cnf.width, true, NULL, is_hyper),
    FIELD("t0", NF_FIELD_REAL, cnf.t0, true, NULL, NULL),
    FIELD("t1", NF_FIELD_REAL, cnf.t1, true, NULL, NULL),
    FIELD("method", NF_FIELD_ENUM, cnf.method, false, method_names, NULL),
    FIELD("rtol", NF_FIELD_REAL, cnf.rtol, false, NULL, NULL),
    FIELD("atol", NF_FIELD_REAL, cnf.atol, false, NULL, NULL),
    FIELD("steps", NF_FIELD_SIZE, cnf.steps, false, NULL, NULL),
    FIELD("max_steps", NF_FIELD_SIZE, cnf.max_steps, false, NULL, NULL),
    FIELD("shared_step", NF_FIELD_SIZE, cnf.shared_step, false, NULL, NULL),
    FIELD("trace", NF_FIELD_ENUM, cnf.trace, false, trace_names, NULL),
    FIELD("probes", NF_FIELD_SIZE, cnf.probes, false, NULL, NULL),
    FIELD("noise_seed", NF_FIELD_SEED, cnf.noise_seed, false, NULL, NULL),
    FIELD("gradient", NF_FIELD_ENUM, cnf.gradient, false, gradient_names, NULL),
    FIELD("kinetic", NF_FIELD_REAL, cnf.kinetic, false, NULL, NULL),
    FIELD("jacobian", NF_FIELD_REAL, cnf.jacobian, false, NULL, NULL),
    FIELDS_END,
};

static const nf_layer_type layer_types[NF_LAYER_KINDS] = {
    [NF_LAYER_PLANAR] = {"planar", conditioned_fields, conditioner_defaults, planar_complete, planar_tensors},
    [NF_LAYER_RADIAL] = {"radial", conditioned_fields, conditioner_defaults, radial_complete, radial_tensors},
    [NF_LAYER_COUPLING] = {"coupling", coupling_fields, coupling_defaults, coupling_complete, coupling_tensors},
    [NF_LAYER_PERMUTATION] = {"permutation", permutation_fields, NULL, permutation_complete, no_tensors},
    [NF_LAYER_AFFINE] = {"actnorm", affine_fields, NULL, affine_complete, affine_tensors},
    [NF_LAYER_CNF] = {"cnf", cnf_fields, cnf_defaults, cnf_complete, cnf_tensors},
};

const nf_layer_type *nf_layer_type_of(nf_layer_kind kind) { return &layer_types[kind]; }

bool nf_layer_kind_by_name(const char *name, nf_layer_kind *kind) {
    for (int k = 0; k < NF_LAYER_KINDS; k++)
        if (strcmp(layer_types[k].name, name) == 0) {
            *kind = (nf_layer_kind)k;
            return true;
        }
    return false;
}
