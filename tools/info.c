/* nflow info: what a model file holds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "options.h"
#include "tool.h"

static void put_list(const char *what, char *const *names, size_t count, bool named) {
    int at = printf("%-12s", what);
    for (size_t i = 0; i < count; i++) {
        const int length = (int)strlen(names[i]) + 2;
        if (at + length > 79 && i > 0)
            at = printf("\n%-12s", "") - 1;
        at += printf("%s%s", names[i], i + 1 < count ? ", " : "");
    }
    puts(named ? "" : "  (the file has no names)");
}

/* "coupling 1 -> 1, net 64x64 gelu" */
static void describe_layer(const json_t *layer, char *text, size_t size) {
    const char *type = json_string_value(json_object_get(layer, "type"));
    const json_t *hidden = json_object_get(layer, "hidden"), *activation = json_object_get(layer, "activation");
    const json_t *dynamics = json_object_get(layer, "dynamics"), *method = json_object_get(layer, "method");
    size_t used = (size_t)snprintf(text, size, "%.40s", type ? type : "?");
    if (json_is_string(dynamics))
        used += (size_t)snprintf(text + used, size - used, ", %.20s dynamics", json_string_value(dynamics));
    if (json_is_string(method))
        used += (size_t)snprintf(text + used, size - used, ", %.20s", json_string_value(method));
    if (json_object_get(layer, "identity"))
        used += (size_t)snprintf(text + used, size - used, " %zu -> %zu", json_array_size(json_object_get(layer, "identity")),
                                 json_array_size(json_object_get(layer, "transformed")));
    if (json_is_array(hidden) && json_array_size(hidden) == 0)
        used += (size_t)snprintf(text + used, size - used, ", linear");
    for (size_t i = 0; i < json_array_size(hidden) && used + 24 < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? "x" : ", net ",
                                 (long long)json_integer_value(json_array_get(hidden, i)));
    if (json_array_size(hidden) > 0 && json_is_string(activation) && used + 24 < size)
        used += (size_t)snprintf(text + used, size - used, " %.20s", json_string_value(activation));
    if (json_is_true(json_object_get(layer, "inverted")) && used + 12 < size)
        snprintf(text + used, size - used, ", inverted");
}

/* Equal descriptions that follow one another are one line. */
static void put_layers(const json_t *structure) {
    const json_t *layers = json_object_get(structure, "layers");
    char now[200], next[200];
    const size_t count = json_array_size(layers);
    for (size_t i = 0, same = 1; i < count; i++) {
        describe_layer(json_array_get(layers, i), now, sizeof now);
        if (i + 1 < count)
            describe_layer(json_array_get(layers, i + 1), next, sizeof next);
        if (i + 1 < count && strcmp(now, next) == 0) {
            same++;
            continue;
        }
        printf("%-12s%zu %s %s\n", i + 1 == same ? "layers" : "", same, same == 1 ? " " : "x", now);
        same = 1;
    }
    puts("            (from base to data)");
}

static void put_training(const json_t *t) {
    const char *data = json_string_value(json_object_get(t, "data")), *flow = json_string_value(json_object_get(t, "flow"));
    const bool held_out = json_integer_value(json_object_get(t, "held_out_rows")) > 0;
    const char *objective = json_string_value(json_object_get(t, "objective"));
    const json_t *nll = json_object_get(t, held_out ? "held_out_nll" : "train_loss"), *gaussian = json_object_get(t, "gaussian_nll");
    if (data)
        printf("%-12s%s on %s, %lld rows, %lld held out\n", "trained", flow ? flow : "?", data,
               (long long)json_integer_value(json_object_get(t, "rows")),
               (long long)json_integer_value(json_object_get(t, "held_out_rows")));
    if (json_is_integer(json_object_get(t, "epochs_run")))
        printf("%-12s%lld epochs, %s %lld\n", "", (long long)json_integer_value(json_object_get(t, "epochs_run")),
               held_out ? "the best was" : "kept epoch",
               (long long)json_integer_value(json_object_get(t, "best_epoch")));
    if (!json_is_number(nll) || !objective || strcmp(objective, "likelihood") != 0)
        return;
    printf("%-12s%.4f nats a row %s", "NLL", json_number_value(nll), held_out ? "held out" : "in training, with noise");
    if (held_out && json_is_number(gaussian))
        printf("; of a Gaussian %.4f", json_number_value(gaussian));
    putchar('\n');
}

static void put_tensors(const nf_flow *flow) {
    for (size_t i = 0; i < nf_tensor_count(flow); i++) {
        nf_tensor t = {.struct_size = sizeof t};
        must(nf_tensor_info(flow, i, &t));
        if (t.rank == 1)
            printf("  %-28s %zu\n", t.name, t.shape[0]);
        else
            printf("  %-28s %zu x %zu\n", t.name, t.shape[0], t.shape[1]);
    }
}

static json_t *names_json(char *const *names, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_string(names[i]));
    return array;
}

/* A path may be any bytes, and JSON is UTF-8: ? stands for what is beyond ASCII then. */
static json_t *path_json(const char *path) {
    json_t *string = json_string(path);
    if (string)
        return string;
    char *text = copy_text(path);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c > 127)
            *c = '?';
    string = json_string(text);
    free(text);
    return string;
}

static void put_json(const model *m) {
    json_t *all = json_object();
    json_object_set_new(all, "file", path_json(m->path));
    json_object_set_new(all, "bytes", json_integer((json_int_t)m->bytes));
    json_object_set_new(all, "dim", json_integer((json_int_t)m->dim));
    json_object_set_new(all, "context_dim", json_integer((json_int_t)m->context_dim));
    json_object_set_new(all, "precision", json_string(nf_flow_precision(m->flow) == NF_SINGLE ? "single" : "double"));
    json_object_set_new(all, "layers", json_integer((json_int_t)nf_flow_layer_count(m->flow)));
    json_object_set_new(all, "parameters", json_integer((json_int_t)nf_parameter_count(m->flow)));
    json_object_set_new(all, "columns", names_json(m->names, m->dim));
    json_object_set_new(all, "context_columns", names_json(m->context_names, m->context_dim));
    if (m->places)
        json_object_set_new(all, "places", model_places(m));
    json_object_set(all, "flow", m->structure);
    json_object_set(all, "training", m->training ? m->training : json_null());
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    putchar('\n');
    json_decref(all);
}

int nflow_info(int count, char **words) {
    bool json = false, tensors = false;
    const option_entry entries[] = {
        {"tensors", 0, OPTION_FLAG, &tensors, NULL, "list the parameters' names and shapes"},
        {"json", 0, OPTION_FLAG, &json, NULL, "everything as JSON, the training curve too"},
    };
    const option_set set = {"info",
                            "MODEL",
                            "What a model file holds: columns, layers, sizes, how it was trained.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            1,
                            1};
    options_read(&set, count, words);
    model m;
    model_load(&m, words[1]);
    if (json) {
        put_json(&m);
    } else {
        printf("%-12s%s, %zu bytes\n", "file", m.path, m.bytes);
        put_list("columns", m.names, m.dim, m.named);
        if (m.context_dim > 0)
            put_list("given", m.context_names, m.context_dim, m.context_named);
        printf("%-12s%zu, %s precision\n", "parameters", nf_parameter_count(m.flow),
               nf_flow_precision(m.flow) == NF_SINGLE ? "single" : "double");
        put_layers(m.structure);
        put_training(m.training);
        if (tensors)
            put_tensors(m.flow);
    }
    model_free(&m);
    finish_output();
    return STATUS_DONE;
}
