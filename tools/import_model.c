/* The draft of an imported flow, and the bytes of its model file: safetensors with the structure as JSON in the metadata. */
#include <stdint.h>
#include <string.h>

#include "import.h"
#include "safetensors.h"
#include "tool.h"

json_t *draft_list(const size_t *items, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer((json_int_t)items[i]));
    if (json_array_size(list) != count)
        die("no memory for a list of %zu", count);
    return list;
}

draft_layer *draft_add(draft *d, json_t *json, size_t tensors) {
    if (!json)
        die("no memory for a layer");
    if (d->count == d->room) {
        draft_layer *larger = archive_keep(d->a, 2 * d->room + 8, sizeof *larger);
        if (d->count > 0)
            memcpy(larger, d->layers, d->count * sizeof *larger);
        d->layers = larger;
        d->room = 2 * d->room + 8;
    }
    d->layers[d->count] = (draft_layer){json, archive_keep(d->a, tensors, sizeof(draft_tensor)), tensors};
    return &d->layers[d->count++];
}

void draft_tensor_set(draft_layer *layer, size_t index, const char *name, size_t rank, size_t rows, size_t columns, const double *values) {
    layer->tensors[index] = (draft_tensor){name, rank, rows, columns, values};
}

void draft_add_net(draft *d, json_t *json, const net *n) {
    json_t *hidden = json_array();
    for (size_t j = 0; j + 1 < n->count; j++) {
        if (n->layers[j].outputs != n->layers[j + 1].inputs)
            die("%s: a net's layers do not fit: %zu outputs go into %zu inputs", d->a->path, n->layers[j].outputs, n->layers[j + 1].inputs);
        json_array_append_new(hidden, json_integer((json_int_t)n->layers[j].outputs));
    }
    json_object_set_new(json, "hidden", hidden);
    json_object_set_new(json, "activation", json_string(n->activation));
    draft_layer *layer = draft_add(d, json, 2 * n->count);
    for (size_t j = 0; j < n->count; j++) {
        const linear *l = &n->layers[j];
        draft_tensor_set(layer, 2 * j, archive_text(d->a, "net.%zu.weight", j), 2, l->outputs, l->inputs, l->weight);
        draft_tensor_set(layer, 2 * j + 1, archive_text(d->a, "net.%zu.bias", j), 1, l->outputs, 1, l->bias);
    }
}

/* ---- the file */

static json_t *reals(const double *values, size_t count, double otherwise) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_real(values ? values[i] : otherwise));
    return list;
}

static json_t *base_of(const draft *d) {
    bool standard = true;
    for (size_t i = 0; i < d->dim; i++)
        standard = standard && (!d->mean || d->mean[i] == 0.0) && (!d->sd || d->sd[i] == 1.0);
    if (standard)
        return json_pack("{s:s, s:f}", "type", "normal", "scale", 1.0);
    return json_pack("{s:s, s:o, s:o}", "type", "normal", "mean", reals(d->mean, d->dim, 0), "sd", reals(d->sd, d->dim, 1));
}

/* Layer i of the model, base first. */
static const draft_layer *layer_at(const draft *d, size_t i) { return &d->layers[d->from_data ? d->count - 1 - i : i]; }

static json_t *flow_of(const draft *d) {
    json_t *layers = json_array();
    for (size_t i = 0; i < d->count; i++) {
        json_t *layer = layer_at(d, i)->json;
        if (d->from_data)
            json_object_set_new(layer, "inverted", json_true());
        json_array_append(layers, layer);
    }
    return json_pack("{s:I, s:I, s:o, s:o}", "dim", (json_int_t)d->dim, "context", (json_int_t)d->context_dim, "base", base_of(d), "layers", layers);
}

unsigned char *draft_write(const draft *d, size_t *size) {
    json_t *header = safetensors_model_header(flow_of(d));
    size_t data = 0, start;
    for (size_t i = 0; i < d->count; i++)
        for (size_t t = 0; t < layer_at(d, i)->count; t++) {
            const draft_tensor *tensor = &layer_at(d, i)->tensors[t];
            data = safetensors_add(header, i, tensor->name, tensor->rank, tensor->rows, tensor->columns, data);
        }
    unsigned char *bytes = safetensors_frame(header, data, &start), *next = bytes + start;
    *size = start + data;
    for (size_t i = 0; i < d->count; i++)
        for (size_t t = 0; t < layer_at(d, i)->count; t++) {
            const draft_tensor *tensor = &layer_at(d, i)->tensors[t];
            for (size_t k = 0; k < tensor->rows * tensor->columns; k++) {
                uint64_t bits;
                memcpy(&bits, &tensor->values[k], sizeof bits);
                next = safetensors_put_word(next, bits);
            }
        }
    for (size_t i = 0; i < d->count; i++)
        json_decref(d->layers[i].json);
    return bytes;
}
