#include "io/schema.h"

#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "io/json_limits.h"
#include "io/json_text.h"

/* A flow's JSON is four deep: flow, layers, layer, list. */
#define DEPTH_LIMIT 4

static const void *member(const nf_layer *layer, const nf_field *field) { return (const unsigned char *)layer + field->offset; }

static void *mutable_member(nf_layer *layer, const nf_field *field) { return (unsigned char *)layer + field->offset; }

static bool applies(const nf_field *field, const nf_layer *layer) { return !field->applies || field->applies(layer); }

/* What a layer's context_dim is when its JSON does not say. */
static size_t default_context(nf_layer_kind kind, size_t flow_context) {
    return kind == NF_LAYER_COUPLING || kind == NF_LAYER_CNF ? flow_context : 0;
}

/* Of the hypernetwork's two equal hidden layers files name one width. */
static bool hidden_is_pair(const nf_layer *layer) {
    return layer->kind == NF_LAYER_CNF && layer->cnf.dynamics == NF_DYNAMICS_HYPER;
}

/* ---- writing: NULL from any step means no memory, and jansson's setters take NULL as a failure ---- */

static json_t *write_list(const nf_size_list *list) {
    json_t *array = json_array();
    for (size_t i = 0; array && i < list->count; i++)
        if (json_array_append_new(array, json_integer((json_int_t)list->items[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *write_reals(const double *values, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++)
        if (json_array_append_new(array, json_real(values[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *write_field(const nf_layer *layer, const nf_field *field) {
    const void *value = member(layer, field);
    switch (field->form) {
    case NF_FIELD_LIST:
        return write_list(value);
    case NF_FIELD_HIDDEN: {
        const nf_size_list *list = value;
        if (hidden_is_pair(layer) && list->count == 2 && list->items[0] == list->items[1])
            return json_integer((json_int_t)list->items[0]);
        return write_list(list);
    }
    case NF_FIELD_SIZE:
        return json_integer((json_int_t) * (const size_t *)value);
    case NF_FIELD_SEED: {
        char digits[24];
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)*(const uint64_t *)value);
        return json_string(digits);
    }
    case NF_FIELD_REAL:
        return json_real(*(const double *)value);
    case NF_FIELD_ENUM: {
        int number;
        memcpy(&number, value, sizeof number);
        for (const nf_enum_name *n = field->names; n->name; n++)
            if (n->value == number)
                return json_string(n->name);
        return NULL;
    }
    }
    return NULL;
}

static json_t *write_layer(const nf_layer *layer, size_t flow_context) {
    const nf_layer_type *type = nf_layer_type_of(layer->kind);
    json_t *object = json_object();
    bool good = json_object_set_new(object, "type", json_string(type->name)) == 0;
    for (const nf_field *f = type->fields; good && f->key; f++)
        if (applies(f, layer))
            good = json_object_set_new(object, f->key, write_field(layer, f)) == 0;
    if (good && layer->context_dim != default_context(layer->kind, flow_context))
        good = json_object_set_new(object, "context", json_integer((json_int_t)layer->context_dim)) == 0;
    if (good && layer->inverted)
        good = json_object_set_new(object, "inverted", json_true()) == 0;
    if (!good) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *write_base(const nf_model *model) {
    bool isotropic = model->layer_count > 0 || model->dim <= NF_SCHEMA_BARE_DIM || !model->mean;
    for (size_t i = 0; model->mean && i < model->dim; i++)
        isotropic = isotropic && model->mean[i] == 0.0 && model->sd[i] == model->sd[0];
    json_t *object = json_object();
    bool good = json_object_set_new(object, "type", json_string("normal")) == 0;
    if (isotropic)
        good = good && json_object_set_new(object, "scale", json_real(model->mean ? model->sd[0] : 1.0)) == 0;
    else
        good = good && json_object_set_new(object, "mean", write_reals(model->mean, model->dim)) == 0 &&
               json_object_set_new(object, "sd", write_reals(model->sd, model->dim)) == 0;
    if (!good) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *write_flow(const nf_model *model, nf_precision precision) {
    json_t *object = json_object(), *layers = json_array();
    bool good = object && layers && json_object_set_new(object, "dim", json_integer((json_int_t)model->dim)) == 0 &&
                json_object_set_new(object, "context", json_integer((json_int_t)model->context_dim)) == 0 &&
                json_object_set_new(object, "base", write_base(model)) == 0;
    if (good && precision == NF_SINGLE)
        good = json_object_set_new(object, "precision", json_string("single")) == 0;
    for (size_t i = 0; good && i < model->layer_count; i++)
        good = json_array_append_new(layers, write_layer(model->layers[i], model->context_dim)) == 0;
    if (good)
        good = json_object_set(object, "layers", layers) == 0;
    json_decref(layers);
    if (!good) {
        json_decref(object);
        return NULL;
    }
    return object;
}

nf_status nf_schema_write(const nf_model *model, nf_precision precision, const nf_allocator *allocator, char **text) {
    json_t *flow = write_flow(model, precision);
    const size_t flags = JSON_COMPACT;
    const size_t size = flow ? nf_json_write(flow, NULL, 0, flags) : 0;
    char *made = size ? nf_allocate(allocator, size + 1) : NULL;
    if (made && nf_json_write(flow, made, size, flags) == size) {
        made[size] = '\0';
        *text = made;
    } else {
        nf_release(allocator, made);
        made = NULL;
    }
    json_decref(flow);
    return made ? NF_OK : nf_fail(NF_ERR_MEMORY, NULL, "no memory for the description of the flow");
}

/* ---- reading ---- */

/* Where in the text something is wrong, for messages: "flow", or "flow.layers[3] (coupling)". */
typedef struct place {
    size_t layer; /* SIZE_MAX: the flow itself */
    const char *type;
} place;

static nf_status wrong(const place *at, const char *key, const char *what) {
    if (at->layer == SIZE_MAX)
        return nf_fail(NF_ERR_FORMAT, NULL, "flow: %s %s", key, what);
    return nf_fail(NF_ERR_FORMAT, NULL, "flow: layers[%zu] (%s): %s %s", at->layer, at->type, key, what);
}

static nf_status read_size(const place *at, const char *key, const json_t *value, size_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return wrong(at, key, "is not a count");
    if ((uintmax_t)json_integer_value(value) > SIZE_MAX)
        return wrong(at, key, "is larger than memory");
    *out = (size_t)json_integer_value(value);
    return NF_OK;
}

static nf_status read_real(const place *at, const char *key, const json_t *value, double *out) {
    if (!json_is_number(value) || !isfinite(json_number_value(value)))
        return wrong(at, key, "is not a number");
    *out = json_number_value(value);
    return NF_OK;
}

/* A list in memory of its own, which the reader of the layer releases. */
static nf_status read_list(const place *at, const char *key, const json_t *value, const nf_allocator *allocator, nf_size_list *out) {
    if (!json_is_array(value))
        return wrong(at, key, "is not a list");
    const size_t count = json_array_size(value);
    out->items = nf_allocate(allocator, count * sizeof *out->items);
    if (!out->items)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a list of %zu", count);
    out->count = count;
    for (size_t i = 0; i < count; i++) {
        nf_status status = read_size(at, key, json_array_get(value, i), &out->items[i]);
        if (status != NF_OK)
            return status;
    }
    return NF_OK;
}

static nf_status read_hidden(const place *at, const char *key, const json_t *value, const nf_allocator *allocator, const nf_layer *draft,
                             nf_size_list *out) {
    if (!json_is_integer(value))
        return read_list(at, key, value, allocator, out);
    if (!hidden_is_pair(draft))
        return wrong(at, key, "is not a list");
    out->items = nf_allocate(allocator, 2 * sizeof *out->items);
    if (!out->items)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a list of 2");
    out->count = 2;
    nf_status status = read_size(at, key, value, &out->items[0]);
    out->items[1] = out->items[0];
    return status;
}

static nf_status read_seed(const place *at, const char *key, const json_t *value, uint64_t *out) {
    const char *text = json_string_value(value);
    uint64_t seed = 0;
    if (!text || !*text)
        return wrong(at, key, "is not a string of digits");
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || seed > (UINT64_MAX - (uint64_t)(*text - '0')) / 10)
            return wrong(at, key, "is not a string of digits");
        seed = seed * 10 + (uint64_t)(*text - '0');
    }
    *out = seed;
    return NF_OK;
}

static nf_status read_enum(const place *at, const nf_field *field, const json_t *value, void *out) {
    const char *text = json_string_value(value);
    for (const nf_enum_name *n = field->names; text && n->name; n++)
        if (strcmp(n->name, text) == 0) {
            memcpy(out, &n->value, sizeof n->value);
            return NF_OK;
        }
    if (!text)
        return wrong(at, field->key, "is not a name");
    return nf_fail(NF_ERR_FORMAT, NULL, "flow: layers[%zu] (%s): %s is \"%.40s\", which is none", at->layer, at->type, field->key, text);
}

static nf_status read_field(const place *at, const nf_field *field, const json_t *value, const nf_allocator *allocator, nf_layer *draft) {
    void *out = mutable_member(draft, field);
    switch (field->form) {
    case NF_FIELD_LIST:
        return read_list(at, field->key, value, allocator, out);
    case NF_FIELD_HIDDEN:
        return read_hidden(at, field->key, value, allocator, draft, out);
    case NF_FIELD_SIZE:
        return read_size(at, field->key, value, out);
    case NF_FIELD_SEED:
        return read_seed(at, field->key, value, out);
    case NF_FIELD_REAL:
        return read_real(at, field->key, value, out);
    case NF_FIELD_ENUM:
        return read_enum(at, field, value, out);
    }
    return NF_OK;
}

static bool is_known(const nf_layer_type *type, const nf_layer *draft, const char *key) {
    if (strcmp(key, "type") == 0 || strcmp(key, "inverted") == 0 || strcmp(key, "context") == 0)
        return true;
    for (const nf_field *f = type->fields; f->key; f++)
        if (strcmp(f->key, key) == 0)
            return applies(f, draft);
    return false;
}

static nf_status read_fields(const place *at, json_t *object, const nf_allocator *allocator, nf_layer *draft) {
    const nf_layer_type *type = nf_layer_type_of(draft->kind);
    for (const nf_field *f = type->fields; f->key; f++) {
        const json_t *value = json_object_get(object, f->key);
        if (!applies(f, draft))
            continue;
        if (!value && f->required)
            return wrong(at, f->key, "is missing");
        nf_status status = value ? read_field(at, f, value, allocator, draft) : NF_OK;
        if (status != NF_OK)
            return status;
    }
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        if (!is_known(type, draft, key))
            return nf_fail(NF_ERR_FORMAT, NULL, "flow: layers[%zu] (%s): key \"%.40s\" is not known", at->layer, at->type, key);
    }
    return NF_OK;
}

static nf_status read_header(place *at, json_t *object, const nf_model *model, nf_layer *draft) {
    const json_t *type = json_object_get(object, "type"), *inverted = json_object_get(object, "inverted");
    const json_t *context = json_object_get(object, "context");
    nf_layer_kind kind;
    if (!json_is_object(object))
        return nf_fail(NF_ERR_FORMAT, NULL, "flow: layers[%zu] is not an object", at->layer);
    if (!json_is_string(type))
        return nf_fail(NF_ERR_FORMAT, NULL, "flow: layers[%zu] has no type", at->layer);
    if (!nf_layer_kind_by_name(json_string_value(type), &kind))
        return nf_fail(NF_ERR_FORMAT, NULL, "flow: layers[%zu] has the type \"%.40s\", which is none", at->layer, json_string_value(type));
    at->type = nf_layer_type_of(kind)->name;
    size_t context_dim = default_context(kind, model->context_dim);
    if (context) {
        nf_status status = read_size(at, "context", context, &context_dim);
        if (status != NF_OK)
            return status;
        if (context_dim != 0 && context_dim != model->context_dim)
            return wrong(at, "context", "is neither 0 nor the flow's");
    }
    *draft = nf_layer_draft(kind, model->dim, context_dim);
    if (inverted && !json_is_boolean(inverted))
        return wrong(at, "inverted", "is neither true nor false");
    draft->inverted = json_is_true(inverted);
    return NF_OK;
}

/* What a layer finds wrong with itself is a fault of the file. */
static nf_status as_format(nf_status status, size_t layer) {
    if (status != NF_ERR_ARGUMENT && status != NF_ERR_UNSUPPORTED)
        return status;
    char line[NF_ERROR_LENGTH];
    strncpy(line, nf_last_error(), sizeof line - 1);
    line[sizeof line - 1] = '\0';
    return nf_fail(NF_ERR_FORMAT, NULL, "flow: layers[%zu]: %.400s", layer, line);
}

nf_status nf_schema_check_precision(const nf_schema *schema, nf_precision precision) {
    nf_status status = NF_OK;
    for (size_t i = 0; status == NF_OK && i < schema->model.layer_count; i++)
        status = as_format(nf_layer_check_reals(schema->model.layers[i], precision), i);
    return status;
}

static nf_status read_layer(json_t *object, size_t index, const nf_allocator *allocator, nf_model *model) {
    place at = {index, ""};
    nf_layer draft;
    memset(&draft, 0, sizeof draft);
    nf_status status = read_header(&at, object, model, &draft);
    if (status == NF_OK)
        status = read_fields(&at, object, allocator, &draft);
    nf_layer *layer = NULL;
    if (status == NF_OK)
        status = as_format(nf_layer_create(allocator, &draft, &layer), index);
    nf_release(allocator, draft.net.hidden.items);
    nf_release(allocator, draft.identity.items);
    nf_release(allocator, draft.transformed.items);
    nf_release(allocator, draft.source.items);
    if (status == NF_OK)
        nf_model_push(model, layer);
    return status;
}

static nf_status read_reals(const char *key, const json_t *value, size_t count, const nf_allocator *allocator, double **out) {
    const place at = {SIZE_MAX, ""};
    if (!json_is_array(value) || json_array_size(value) != count)
        return wrong(&at, key, "is not a list of dim numbers");
    *out = nf_allocate(allocator, count * sizeof **out);
    if (!*out)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a base of %zu dimensions", count);
    for (size_t i = 0; i < count; i++) {
        nf_status status = read_real(&at, key, json_array_get(value, i), &(*out)[i]);
        if (status != NF_OK)
            return status;
    }
    return NF_OK;
}

/* The scale of an isotropic base, or a mean and sd for each dimension. */
static nf_status read_base(json_t *base, const nf_allocator *allocator, nf_schema *schema) {
    nf_model *model = &schema->model;
    const place at = {SIZE_MAX, ""};
    const char *type = json_string_value(json_object_get(base, "type"));
    const json_t *scale = json_object_get(base, "scale"), *mean = json_object_get(base, "mean"), *sd = json_object_get(base, "sd");
    if (!json_is_object(base) || !type || strcmp(type, "normal") != 0)
        return wrong(&at, "base", "is not {\"type\": \"normal\", ...}");
    if (json_object_size(base) != (scale ? 2u : 3u) || (!scale && (!mean || !sd)))
        return wrong(&at, "base", "has neither scale alone nor mean and sd");
    if (scale) {
        double value = 0.0;
        nf_status status = read_real(&at, "base.scale", scale, &value);
        if (status != NF_OK || value == 1.0)
            return status;
        if (!(value > 0.0))
            return wrong(&at, "base.scale", "is not positive");
        schema->scale = value;
        return NF_OK;
    }
    double *means = NULL, *sds = NULL;
    nf_status status = read_reals("base.mean", mean, model->dim, allocator, &means);
    if (status == NF_OK)
        status = read_reals("base.sd", sd, model->dim, allocator, &sds);
    for (size_t i = 0; status == NF_OK && i < model->dim; i++)
        if (!(sds[i] > 0.0))
            status = wrong(&at, "base.sd", "is not positive");
    if (status == NF_OK)
        status = nf_model_set_base(model, allocator, means, sds);
    nf_release(allocator, means);
    nf_release(allocator, sds);
    return status;
}

nf_status nf_schema_spread_scale(nf_schema *schema, const nf_allocator *allocator) {
    nf_model *model = &schema->model;
    size_t bytes;
    if (schema->scale == 0.0)
        return NF_OK;
    double *sd = nf_size_multiply(model->dim, sizeof *sd, &bytes) ? nf_allocate(allocator, bytes) : NULL;
    if (!sd)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a base of %zu dimensions", model->dim);
    for (size_t i = 0; i < model->dim; i++)
        sd[i] = schema->scale;
    nf_status status = nf_model_set_base(model, allocator, NULL, sd);
    nf_release(allocator, sd);
    return status;
}

static nf_status read_precision(const json_t *flow, nf_schema *schema) {
    const place at = {SIZE_MAX, ""};
    const json_t *value = json_object_get(flow, "precision");
    const char *text = json_string_value(value);
    schema->names_precision = value != NULL;
    schema->precision = NF_DOUBLE;
    if (!value)
        return NF_OK;
    if (!text || (strcmp(text, "single") != 0 && strcmp(text, "double") != 0))
        return wrong(&at, "precision", "is neither \"single\" nor \"double\"");
    schema->precision = strcmp(text, "single") == 0 ? NF_SINGLE : NF_DOUBLE;
    return NF_OK;
}

static nf_status read_flow(json_t *flow, const nf_allocator *allocator, nf_schema *schema) {
    const place at = {SIZE_MAX, ""};
    if (!json_is_object(flow))
        return nf_fail(NF_ERR_FORMAT, NULL, "flow: is not an object");
    const char *key;
    json_t *value, *layers = json_object_get(flow, "layers");
    json_object_foreach(flow, key, value) {
        static const char *const known[] = {"dim", "context", "base", "layers", "precision"};
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            found = found || strcmp(key, known[i]) == 0;
        if (!found)
            return nf_fail(NF_ERR_FORMAT, NULL, "flow: key \"%.40s\" is not known", key);
    }
    size_t dim = 0, context_dim = 0;
    nf_status status = read_size(&at, "dim", json_object_get(flow, "dim"), &dim);
    if (status == NF_OK)
        status = read_size(&at, "context", json_object_get(flow, "context"), &context_dim);
    if (status == NF_OK)
        status = read_precision(flow, schema);
    if (status != NF_OK)
        return status;
    if (dim == 0)
        return wrong(&at, "dim", "is 0");
    if (!json_is_array(layers))
        return wrong(&at, "layers", "is not a list");
    nf_model_init(&schema->model, dim, context_dim);
    status = read_base(json_object_get(flow, "base"), allocator, schema);
    if (status == NF_OK)
        status = nf_model_reserve(&schema->model, allocator, json_array_size(layers));
    if (status == NF_OK && schema->scale != 0.0 && json_array_size(layers) == 0 && dim > NF_SCHEMA_BARE_DIM)
        status = wrong(&at, "base.scale", "is for more dimensions than a flow without layers may have");
    for (size_t i = 0; status == NF_OK && i < json_array_size(layers); i++)
        status = read_layer(json_array_get(layers, i), i, allocator, &schema->model);
    if (status == NF_OK)
        status = as_format(nf_model_layout(&schema->model), 0);
    if (status != NF_OK)
        nf_model_clear(&schema->model, allocator);
    return status;
}

nf_status nf_schema_read(const char *text, size_t size, const nf_allocator *allocator, nf_schema *schema) {
    nf_status status = nf_json_check_limits("flow", text, size, DEPTH_LIMIT);
    if (status != NF_OK)
        return status;
    json_error_t error;
    json_t *flow = nf_json_read(text, size, &error);
    if (!flow)
        return nf_json_lacked_memory(&error)
                   ? nf_fail(NF_ERR_MEMORY, NULL, "no memory for the JSON of the flow")
                   : nf_fail(NF_ERR_FORMAT, NULL, "flow: bad JSON at byte %d: %.160s", error.position, error.text);
    status = read_flow(flow, allocator, schema);
    json_decref(flow);
    return status;
}
