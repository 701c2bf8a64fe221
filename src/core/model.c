#include "core/model.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"
#include "core/status.h"

/* Parameter vectors longer than this are refused: all byte counts derived from them then fit in a size_t. */
#define PARAMETER_LIMIT (SIZE_MAX / 1024)

nf_layer nf_layer_draft(nf_layer_kind kind, size_t dim, size_t context_dim) {
    nf_layer draft;
    memset(&draft, 0, sizeof draft);
    draft.kind = kind;
    draft.dim = dim;
    draft.context_dim = context_dim;
    const nf_layer_type *type = nf_layer_type_of(kind);
    if (type->defaults)
        type->defaults(&draft);
    return draft;
}

static size_t *copy_list(nf_size_list *list, const nf_size_list *from, size_t *room) {
    list->count = from->count;
    list->items = room;
    if (from->count)
        memcpy(room, from->items, from->count * sizeof *room);
    return room + from->count;
}

typedef struct parameter_sum {
    size_t count;
    bool fits;
} parameter_sum;

static void add_tensor(void *user, const char *name, size_t rank, size_t rows, size_t columns) {
    parameter_sum *sum = user;
    (void)name;
    (void)rank;
    size_t size;
    sum->fits = nf_size_multiply(rows, columns, &size) && nf_size_add(sum->count, size, &sum->count) && sum->fits &&
                sum->count <= PARAMETER_LIMIT;
}

/* Sums and products that stay at SIZE_MAX once they are there. */
static size_t plus(size_t a, size_t b) {
    size_t sum;
    nf_size_add(a, b, &sum);
    return sum;
}

static size_t times(size_t a, size_t b) {
    size_t product;
    nf_size_multiply(a, b, &product);
    return product;
}

static size_t hidden_units(const nf_net *net) {
    size_t units = 0;
    for (size_t j = 0; j < net->hidden.count; j++)
        units = plus(units, net->hidden.items[j]);
    return units;
}

static nf_status too_large(const nf_layer *layer, const char *what) {
    return nf_fail(NF_ERR_ARGUMENT, NULL, "a %s layer of %zu dimensions, %zu columns of context and %zu hidden units %s", nf_layer_type_of(layer->kind)->name,
                   layer->dim, layer->context_dim, hidden_units(&layer->net), what);
}

/* At least as many numbers as the engine's memory for a tile holds. `tangents`: the vectors that the net of a cnf is differentiated along. */
static size_t reach_of(const nf_layer *layer, size_t tangents) {
    const size_t dim = layer->dim, hidden = hidden_units(&layer->net), ends = plus(layer->net.inputs, layer->net.outputs);
    /* Stages of an ODE solve are the most that there is of a sample's coordinates; other layers record some of them. */
    const size_t coordinates = times(layer->kind == NF_LAYER_CNF ? 64 : 16, dim);
    size_t reach = times(NF_MOST_TILE, plus(coordinates, times(8, plus(layer->context_dim, plus(ends, hidden)))));
    if (layer->kind != NF_LAYER_CNF)
        return reach;
    if (layer->cnf.dynamics == NF_DYNAMICS_HYPER) {
        const size_t node = times(plus(layer->cnf.width, NF_MOST_PANEL), plus(times(3, dim), 2));
        return plus(reach, plus(times(NF_MOST_NODES, node), times(8, times(dim, dim))));
    }
    const size_t along = plus(dim, plus(times(3, ends), times(4, hidden)));
    return plus(reach, times(times(NF_MOST_PANEL, tangents), along));
}

/* The memory itself may be refused later; here it is made sure that its size can be told. */
static nf_status check_reach(const nf_layer *layer) {
    const size_t most = SIZE_MAX / 4;
    const bool probed = layer->kind == NF_LAYER_CNF && layer->cnf.trace != NF_TRACE_EXACT;
    if (reach_of(layer, probed ? layer->cnf.probes : layer->dim) <= most)
        return NF_OK;
    if (probed && reach_of(layer, 1) <= most)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "cnf: probes is %zu in %zu dimensions, more than memory can hold", layer->cnf.probes, layer->dim);
    return too_large(layer, "is more than memory can hold");
}

nf_status nf_layer_create(const nf_allocator *allocator, const nf_layer *draft, nf_layer **layer) {
    const nf_size_list *lists[] = {&draft->net.hidden, &draft->identity, &draft->transformed, &draft->source};
    size_t items = 0, bytes;
    bool fits = true;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        fits = nf_size_add(items, lists[i]->count, &items) && fits;
    fits = fits && nf_size_multiply(items, sizeof(size_t), &bytes) && nf_size_add(bytes, sizeof(nf_layer), &bytes);
    nf_layer *made = fits ? nf_allocate(allocator, bytes) : NULL;
    if (!made)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a layer");
    *made = *draft;
    size_t *room = (size_t *)(made + 1);
    room = copy_list(&made->net.hidden, &draft->net.hidden, room);
    room = copy_list(&made->identity, &draft->identity, room);
    room = copy_list(&made->transformed, &draft->transformed, room);
    copy_list(&made->source, &draft->source, room);

    const nf_layer_type *type = nf_layer_type_of(made->kind);
    nf_status status = type->complete(made);
    parameter_sum sum = {0, true};
    if (status == NF_OK) {
        type->tensors(made, add_tensor, &sum);
        if (!sum.fits)
            status = too_large(made, "has more parameters than can be addressed");
    }
    if (status == NF_OK)
        status = check_reach(made);
    if (status != NF_OK) {
        nf_release(allocator, made);
        return status;
    }
    made->parameter_count = sum.count;
    *layer = made;
    return NF_OK;
}

nf_status nf_layer_check_reals(const nf_layer *layer, nf_precision precision) {
    const nf_layer_type *type = nf_layer_type_of(layer->kind);
    for (const nf_field *f = type->fields; precision == NF_SINGLE && f->key; f++) {
        double value;
        if (f->form != NF_FIELD_REAL || (f->applies && !f->applies(layer)))
            continue;
        memcpy(&value, (const char *)layer + f->offset, sizeof value);
        if (fabs(value) > FLT_MAX)
            return nf_fail(NF_ERR_ARGUMENT, NULL, "%s: %s is %g, beyond single precision", type->name, f->key, value);
    }
    return NF_OK;
}

void nf_model_init(nf_model *model, size_t dim, size_t context_dim) {
    memset(model, 0, sizeof *model);
    model->dim = dim;
    model->context_dim = context_dim;
}

void nf_model_clear(nf_model *model, const nf_allocator *allocator) {
    for (size_t i = 0; i < model->layer_count; i++)
        nf_release(allocator, model->layers[i]);
    nf_release(allocator, model->layers);
    nf_release(allocator, model->mean);
    nf_model_init(model, model->dim, model->context_dim);
}

nf_status nf_model_copy(const nf_model *model, const nf_allocator *allocator, nf_model *copy) {
    nf_model_init(copy, model->dim, model->context_dim);
    nf_status status = nf_model_set_base(copy, allocator, model->mean, model->sd);
    if (status == NF_OK)
        status = nf_model_reserve(copy, allocator, model->layer_count);
    for (size_t i = 0; status == NF_OK && i < model->layer_count; i++) {
        nf_layer *layer;
        status = nf_layer_create(allocator, model->layers[i], &layer);
        if (status == NF_OK)
            nf_model_push(copy, layer);
    }
    if (status == NF_OK)
        status = nf_model_layout(copy);
    if (status != NF_OK)
        nf_model_clear(copy, allocator);
    return status;
}

nf_status nf_model_reserve(nf_model *model, const nf_allocator *allocator, size_t extra) {
    size_t wanted, bytes;
    if (!nf_size_add(model->layer_count, extra, &wanted) || !nf_size_multiply(wanted, sizeof *model->layers, &bytes))
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for %zu more layers", extra);
    if (wanted <= model->layer_capacity)
        return NF_OK;
    nf_layer **layers = nf_allocate(allocator, bytes);
    if (!layers)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a list of %zu layers", wanted);
    if (model->layer_count)
        memcpy(layers, model->layers, model->layer_count * sizeof *layers);
    nf_release(allocator, model->layers);
    model->layers = layers;
    model->layer_capacity = wanted;
    return NF_OK;
}

void nf_model_push(nf_model *model, nf_layer *layer) { model->layers[model->layer_count++] = layer; }

nf_status nf_model_layout(nf_model *model) {
    size_t total = 0;
    for (size_t i = 0; i < model->layer_count; i++)
        if (!nf_size_add(total, model->layers[i]->parameter_count, &total) || total > PARAMETER_LIMIT)
            return nf_fail(NF_ERR_ARGUMENT, NULL, "the flow has more parameters than can be addressed");
    size_t offset = 0;
    for (size_t i = 0; i < model->layer_count; i++) {
        model->layers[i]->parameter_offset = offset;
        offset += model->layers[i]->parameter_count;
    }
    model->parameter_count = total;
    return NF_OK;
}

void nf_model_reverse(nf_model *model) {
    for (size_t i = 0, j = model->layer_count; i < j; i++) {
        j--;
        nf_layer *layer = model->layers[i];
        model->layers[i] = model->layers[j];
        model->layers[j] = layer;
    }
    for (size_t i = 0; i < model->layer_count; i++)
        model->layers[i]->inverted = !model->layers[i]->inverted;
}

bool nf_model_base_is_standard(const nf_model *model) {
    for (size_t i = 0; model->mean && i < model->dim; i++)
        if (model->mean[i] != 0.0 || model->sd[i] != 1.0)
            return false;
    return true;
}

nf_status nf_model_set_base(nf_model *model, const nf_allocator *allocator, const double *mean, const double *sd) {
    double *block = NULL;
    if (mean || sd) {
        size_t bytes;
        if (!nf_size_multiply(model->dim, 2 * sizeof(double), &bytes) || !(block = nf_allocate(allocator, bytes)))
            return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a base of %zu dimensions", model->dim);
        for (size_t i = 0; i < model->dim; i++) {
            block[i] = mean ? mean[i] : 0.0;
            block[model->dim + i] = sd ? sd[i] : 1.0;
        }
    }
    nf_release(allocator, model->mean);
    model->mean = block;
    model->sd = block ? block + model->dim : NULL;
    return NF_OK;
}

typedef struct tensor_count {
    size_t count, name_bytes, layer;
} tensor_count;

static size_t name_length(size_t layer, const char *name) {
    int length = snprintf(NULL, 0, "layers.%zu.%s", layer, name);
    return length > 0 ? (size_t)length + 1 : 1;
}

static void count_tensor(void *user, const char *name, size_t rank, size_t rows, size_t columns) {
    tensor_count *c = user;
    (void)rank;
    (void)rows;
    (void)columns;
    c->count++;
    c->name_bytes += name_length(c->layer, name);
}

static tensor_count count_tensors(const nf_model *model) {
    tensor_count c = {0, 0, 0};
    for (c.layer = 0; c.layer < model->layer_count; c.layer++)
        nf_layer_type_of(model->layers[c.layer]->kind)->tensors(model->layers[c.layer], count_tensor, &c);
    return c;
}

size_t nf_model_tensor_count(const nf_model *model) { return count_tensors(model).count; }

typedef struct tensor_writer {
    nf_model_tensor *next;
    char *name;
    size_t layer, offset;
} tensor_writer;

static void write_tensor(void *user, const char *name, size_t rank, size_t rows, size_t columns) {
    tensor_writer *w = user;
    size_t length = name_length(w->layer, name);
    snprintf(w->name, length, "layers.%zu.%s", w->layer, name);
    *w->next++ = (nf_model_tensor){w->name, rank, {rows, rank == 2 ? columns : 1}, w->offset};
    w->name += length;
    w->offset += rows * columns;
}

nf_status nf_model_tensors(const nf_model *model, const nf_allocator *allocator, nf_model_tensor **tensors, size_t *count) {
    tensor_count c = count_tensors(model);
    nf_model_tensor *block = nf_allocate(allocator, c.count * sizeof *block + c.name_bytes);
    if (!block)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a table of %zu tensors", c.count);
    tensor_writer w = {block, (char *)(block + c.count), 0, 0};
    for (; w.layer < model->layer_count; w.layer++)
        nf_layer_type_of(model->layers[w.layer]->kind)->tensors(model->layers[w.layer], write_tensor, &w);
    *tensors = block;
    *count = c.count;
    return NF_OK;
}

size_t nf_net_widest(const nf_net *net) {
    size_t widest = net->inputs > net->outputs ? net->inputs : net->outputs;
    for (size_t j = 0; j < net->hidden.count; j++)
        if (net->hidden.items[j] > widest)
            widest = net->hidden.items[j];
    return widest;
}

void nf_net_tensors(const nf_net *net, nf_tensor_sink sink, void *user) {
    for (size_t j = 0; j < nf_net_layer_count(net); j++) {
        char name[64];
        snprintf(name, sizeof name, "net.%zu.weight", j);
        sink(user, name, 2, nf_net_layer_outputs(net, j), nf_net_layer_inputs(net, j));
        snprintf(name, sizeof name, "net.%zu.bias", j);
        sink(user, name, 1, nf_net_layer_outputs(net, j), 1);
    }
}

/* Asked for in every call: without the names of the tensors. */
size_t nf_net_parameter_count(const nf_net *net) {
    size_t count = 0, size;
    for (size_t j = 0; j < nf_net_layer_count(net); j++) {
        const size_t in = nf_net_layer_inputs(net, j);
        if (in == SIZE_MAX || !nf_size_multiply(nf_net_layer_outputs(net, j), in + 1, &size) || !nf_size_add(count, size, &count))
            return SIZE_MAX;
    }
    return count;
}
