/* Conditioner nets of other libraries as nflow's: linear layers with one activation between them. */
#include <math.h>
#include <string.h>

#include "import.h"
#include "tool.h"

static linear linear_of(const node *n) {
    const array *weight = node_need_matrix(n, "weight");
    linear made = {.inputs = weight->shape[1], .outputs = weight->shape[0], .weight = weight->values};
    made.bias = node_find(n, "bias") ? node_need(n, "bias", made.outputs) : archive_keep(n->a, made.outputs, sizeof(double));
    return made;
}

/* Its name in model files; NULL: it is none of nflow's. */
static const char *activation_of_module(const node *n) {
    if (node_is(n, "ReLU") || (node_is(n, "LeakyReLU") && node_number(n, "negative_slope", 1) == 0))
        return "relu";
    if (node_is(n, "GELU") && strcmp(node_word(n, "approximate", "none"), "none") == 0)
        return "gelu";
    return node_is(n, "SiLU") ? "silu" : node_is(n, "Tanh") ? "tanh" : NULL;
}

/* Modules that do nothing to a trained net. */
static bool is_nothing(const node *n) { return node_is(n, "Dropout") || node_is(n, "Identity"); }

static void set_activation(net *made, const node *n) {
    const char *activation = activation_of_module(n);
    if (!activation)
        node_refuse(n, "is no activation of nflow's nets, which have ReLU, GELU (exact), SiLU and Tanh");
    if (made->activation && strcmp(made->activation, activation) != 0)
        node_refuse(n, archive_text(n->a, "follows %s in one net, and nflow's nets have one activation", made->activation));
    made->activation = activation;
}

net net_of_sequence(const node *sequence) {
    const size_t count = node_count(sequence);
    net made = {.layers = archive_keep(sequence->a, count, sizeof *made.layers)};
    bool after_linear = false;
    for (size_t i = 0; i < count; i++) {
        const node n = node_at(sequence, i);
        if (is_nothing(&n))
            continue;
        if (after_linear == node_is(&n, "Linear"))
            node_refuse(&n, after_linear ? "follows a linear layer without an activation between" : "stands where a linear layer should");
        if (after_linear)
            set_activation(&made, &n);
        else
            made.layers[made.count++] = linear_of(&n);
        after_linear = !after_linear;
    }
    if (!after_linear)
        node_refuse(sequence, made.count ? "ends in an activation, which nflow's nets do not" : "is empty");
    if (!made.activation)
        made.activation = "relu"; /* of no layer */
    return made;
}

/* ---- residual nets */

/* Which activation a function is, by its values where export_torch.py took them. */
static const char *activation_of_values(const json_t *callable) {
    static const double probes[] = {-1.5, -.25, .75, 2};
    enum { PROBES = sizeof probes / sizeof probes[0], KINDS = 3 };
    static const char *const names[KINDS] = {"relu", "gelu", "silu"};
    const json_t *values = json_object_get(callable, "values");
    for (size_t k = 0; k < KINDS && json_array_size(values) == PROBES; k++) {
        bool same = true;
        for (size_t i = 0; i < PROBES; i++) {
            const double x = probes[i], expected[KINDS] = {fmax(x, 0), x * .5 * erfc(-x * sqrt(.5)), x / (1 + exp(-x))};
            same = same && fabs(json_number_value(json_array_get(values, i)) - expected[k]) < 1e-12;
        }
        if (same)
            return names[k];
    }
    return NULL;
}

static double *new_matrix(archive *a, size_t rows, size_t columns) {
    if (columns > 0 && rows > (size_t)-1 / columns)
        die("%s: a net is larger than memory", a->path);
    return archive_keep(a, rows * columns, sizeof(double));
}

/*
 * `sign` times the rows of m (outputs x inputs, row-major), put into rows `row` .. of a matrix of `columns` columns, from column `column` on. A NULL
 * m is the identity.
 */
static void put(double *to, size_t columns, size_t row, size_t column, double sign, size_t outputs, size_t inputs, const double *m) {
    for (size_t i = 0; i < outputs; i++)
        for (size_t j = 0; j < inputs; j++)
            to[(row + i) * columns + column + j] = sign * (m ? m[i * inputs + j] : i == j);
}

static void put_bias(double *to, size_t row, double sign, size_t outputs, const double *bias) {
    for (size_t i = 0; i < outputs; i++)
        to[row + i] = sign * bias[i];
}

/*
 * The state h of a residual net as a linear function of the activations of the last layer, `inputs` of them: h = matrix a + bias. At first, of the
 * net's own input.
 */
typedef struct state {
    size_t width, inputs;
    const double *matrix, *bias;
} state;

/*
 * h + L2 f(L1 f(h)) as two plain layers. As f(h) - f(-h) = h, the first has f(h) and f(-h); the second has f(L1 f(h)), and h again in the same way.
 * The sum is left to whatever reads the state next: h = L2 a1 + a2 - a3.
 */
static state add_block(net *made, archive *a, state h, const linear *first, const linear *second) {
    const size_t w = h.width, mixed = first->outputs, wide = mixed + 2 * w;
    double *split = new_matrix(a, 2 * w, h.inputs), *split_bias = new_matrix(a, 2, w);
    put(split, h.inputs, 0, 0, 1, w, h.inputs, h.matrix);
    put(split, h.inputs, w, 0, -1, w, h.inputs, h.matrix);
    put_bias(split_bias, 0, 1, w, h.bias);
    put_bias(split_bias, w, -1, w, h.bias);
    made->layers[made->count++] = (linear){h.inputs, 2 * w, split, split_bias};

    double *middle = new_matrix(a, wide, 2 * w), *middle_bias = new_matrix(a, 1, wide);
    put(middle, 2 * w, 0, 0, 1, mixed, w, first->weight);
    put_bias(middle_bias, 0, 1, mixed, first->bias);
    for (size_t half = 0; half < 2; half++) {
        put(middle, 2 * w, mixed + half * w, 0, half ? -1 : 1, w, w, NULL);
        put(middle, 2 * w, mixed + half * w, w, half ? 1 : -1, w, w, NULL);
    }
    made->layers[made->count++] = (linear){2 * w, wide, middle, middle_bias};

    double *sum = new_matrix(a, w, wide);
    put(sum, wide, 0, 0, 1, w, mixed, second->weight);
    put(sum, wide, 0, mixed, 1, w, w, NULL);
    put(sum, wide, 0, mixed + w, -1, w, w, NULL);
    return (state){w, wide, sum, second->bias};
}

/* outer (inner x + inner_bias) + outer_bias as one layer. */
static linear compose(archive *a, const linear *outer, const state *inner) {
    double *weight = new_matrix(a, outer->outputs, inner->inputs), *bias = new_matrix(a, 1, outer->outputs);
    for (size_t i = 0; i < outer->outputs; i++) {
        double sum = outer->bias[i];
        for (size_t k = 0; k < outer->inputs; k++) {
            const double factor = outer->weight[i * outer->inputs + k];
            sum += factor * inner->bias[k];
            for (size_t j = 0; j < inner->inputs; j++)
                weight[i * inner->inputs + j] += factor * inner->matrix[k * inner->inputs + j];
        }
        bias[i] = sum;
    }
    return (linear){inner->inputs, outer->outputs, weight, bias};
}

static void expect_sizes(const node *n, const linear *l, size_t inputs, size_t outputs) {
    if (l->inputs != inputs || (outputs && l->outputs != outputs))
        node_refuse(n, archive_text(n->a, "is %zu x %zu, which does not fit", l->outputs, l->inputs));
}

static state residual_block(net *made, const node *block, state h) {
    const node linears = node_need_child(block, "linear_layers"), one = node_need_child(&linears, "0"), two = node_need_child(&linears, "1");
    const json_t *function = node_callable(block, "activation");
    const node module = node_child(block, "activation");
    const char *activation = module.json ? activation_of_module(&module) : function ? activation_of_values(function) : NULL;
    if (!node_is(block, "ResidualBlock"))
        node_refuse_kind(block, "ResidualBlock");
    if (node_child(block, "batch_norm_layers").json)
        node_refuse(block, "normalises within the net (batch_norm_within_layers), which nflow's nets cannot");
    if (node_child(block, "context_layer").json)
        node_refuse(block, "takes a context, by a gate that nflow's nets do not have");
    if (!activation || strcmp(activation, "tanh") == 0)
        node_refuse(block, "has an activation that cannot be written as a plain net; relu, gelu (exact) and silu can");
    if (made->activation && strcmp(made->activation, activation) != 0)
        node_refuse(block, "has another activation than the block before");
    made->activation = activation;
    const linear first = linear_of(&one), second = linear_of(&two);
    expect_sizes(&one, &first, h.width, 0);
    expect_sizes(&two, &second, first.outputs, h.width);
    return add_block(made, block->a, h, &first, &second);
}

net net_of_residual(const node *residual) {
    const node initial = node_need_child(residual, "initial_layer"), blocks = node_need_child(residual, "blocks"),
               final = node_need_child(residual, "final_layer");
    const size_t count = node_count(&blocks);
    net made = {.layers = archive_keep(residual->a, 2 * count + 1, sizeof *made.layers)};
    const linear first = linear_of(&initial), last = linear_of(&final);
    state h = {first.outputs, first.inputs, first.weight, first.bias};
    for (size_t i = 0; i < count; i++) {
        const node block = node_at(&blocks, i);
        h = residual_block(&made, &block, h);
    }
    expect_sizes(&final, &last, h.width, 0);
    made.layers[made.count++] = compose(residual->a, &last, &h);
    if (!made.activation)
        made.activation = "relu"; /* of no layer */
    return made;
}
