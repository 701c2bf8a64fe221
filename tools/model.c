/* Model files as the command reads and writes them: with the names of the columns and the history of the training in their metadata. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "output.h"
#include "safetensors.h"
#include "tool.h"

/* ---- Names */

char **model_default_names(char letter, size_t count) {
    enum { ROOM = 24 };
    char **names = allocate(count, sizeof *names + ROOM), *text = (char *)(names + count);
    for (size_t i = 0; i < count; i++, text += ROOM) {
        names[i] = text;
        snprintf(text, ROOM, "%c%zu", letter, i + 1);
    }
    return names;
}

/* A table's first line would be taken for numbers with it, or for less names. */
static bool is_a_name(const json_t *string) {
    const char *text = json_string_value(string);
    char *end = NULL;
    if (text && *text)
        strtod(text, &end);
    return end && *end != '\0' && !strpbrk(text, "\n\r");
}

static bool is_among(char *const *names, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

char **model_more_names(const model *m, const char *const *wanted, size_t count) {
    char **names = allocate(count, sizeof *names);
    for (size_t i = 0; i < count; i++) {
        names[i] = copy_text(wanted[i]);
        while (is_among(m->names, m->dim, names[i]) || is_among(m->context_names, m->context_dim, names[i]) ||
               is_among(names, i, names[i])) {
            char *longer = new_text("%s_", names[i]);
            free(names[i]);
            names[i] = longer;
        }
    }
    return names;
}

void model_free_names(char **names, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

/* `count` strings of an array, in one block; NULL when it is not that. */
static char **names_of(const json_t *array, size_t count) {
    size_t size = count * sizeof(char *), used = 0;
    if (!array || json_array_size(array) != count || count == 0)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        if (!is_a_name(json_array_get(array, i)))
            return NULL;
        size += json_string_length(json_array_get(array, i)) + 1;
    }
    char **names = allocate(1, size), *text = (char *)(names + count);
    for (size_t i = 0; i < count; i++) {
        names[i] = text + used;
        strcpy(names[i], json_string_value(json_array_get(array, i)));
        used += strlen(names[i]) + 1;
    }
    return names;
}

/* JSON in a string of the metadata; NULL: there is none, or it is no JSON. */
static json_t *metadata_of(const json_t *header, const char *key) {
    const char *text = json_string_value(json_object_get(json_object_get(header, "__metadata__"), key));
    return text ? json_loads(text, 0, NULL) : NULL;
}

static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* A table could not tell such columns apart. */
static void refuse_equal_names(const model *m) {
    const size_t count = m->dim + m->context_dim;
    const char **all = allocate(count, sizeof *all);
    memcpy(all, m->names, m->dim * sizeof *all);
    memcpy(all + m->dim, m->context_names, m->context_dim * sizeof *all);
    qsort(all, count, sizeof *all, compare_texts);
    for (size_t i = 1; i < count; i++)
        if (strcmp(all[i - 1], all[i]) == 0)
            die("%s: two of its columns are called \"%.60s\": train it anew, with another name for one of them", m->path, all[i]);
    free(all);
}

/* ---- Loading */

/* What people will confuse with a model, by name. */
static void say_not_a_model(const char *path, const unsigned char *bytes, size_t size) {
    const char *line = nf_last_error(), *detail = strstr(line, ": ");
    detail = detail ? detail + 2 : line;
    if (size < SAFETENSORS_LENGTH || safetensors_length(bytes) > size - SAFETENSORS_LENGTH)
        die("%s: this is not a model file (%s); the model comes first, then the data", path, detail);
    die("%s: %s", path, detail);
}

/* Counts of an array, from 1, as places from 0; all different. */
static bool places_of(const json_t *array, size_t count, json_int_t of, size_t *places) {
    if (!json_is_array(array) || json_array_size(array) != count)
        return false;
    for (size_t i = 0; i < count; i++) {
        const json_t *place = json_array_get(array, i);
        if (!json_is_integer(place) || json_integer_value(place) < 1 || json_integer_value(place) > of)
            return false;
        places[i] = (size_t)json_integer_value(place) - 1;
    }
    return true;
}

static bool all_differ(const size_t *places, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i; k++)
            if (places[i] == places[k])
                return false;
    return true;
}

static void read_places(model *m, const json_t *header) {
    if (!json_object_get(json_object_get(header, "__metadata__"), "places"))
        return;
    const size_t all = m->dim + m->context_dim;
    json_t *given = metadata_of(header, "places");
    const json_int_t of = json_integer_value(json_object_get(given, "of"));
    m->places = allocate(all, sizeof *m->places);
    m->table_columns = (size_t)of;
    if (json_object_size(given) != 3 || !places_of(json_object_get(given, "columns"), m->dim, of, m->places) ||
        !places_of(json_object_get(given, "context_columns"), m->context_dim, of, m->places + m->dim) || !all_differ(m->places, all))
        die("%s: __metadata__: places are not those of %zu columns and %zu contexts in a table", m->path, m->dim, m->context_dim);
    json_decref(given);
}

void model_load(model *m, const char *path) {
    size_t size;
    unsigned char *bytes = read_model_file(path, &size);
    *m = (model){.path = path, .bytes = size};
    if (nf_flow_load_memory(bytes, size, &m->flow) != NF_OK)
        say_not_a_model(path, bytes, size);
    m->dim = nf_flow_dim(m->flow);
    m->context_dim = nf_flow_context_dim(m->flow);
    json_t *header = json_loadb((const char *)bytes + SAFETENSORS_LENGTH, (size_t)safetensors_length(bytes), 0, NULL);
    json_t *names = metadata_of(header, "columns"), *context_names = metadata_of(header, "context_columns");
    m->names = names_of(names, m->dim);
    m->context_names = names_of(context_names, m->context_dim);
    m->named = m->names != NULL;
    m->context_named = m->context_names != NULL;
    if (!m->named)
        m->names = model_default_names('x', m->dim);
    if (!m->context_named)
        m->context_names = model_default_names('c', m->context_dim);
    refuse_equal_names(m);
    read_places(m, header);
    m->training = metadata_of(header, "training");
    m->structure = metadata_of(header, "flow");
    json_decref(names);
    json_decref(context_names);
    json_decref(header);
    free(bytes);
}

void model_free(model *m) {
    nf_flow_free(m->flow);
    free(m->names);
    free(m->context_names);
    free(m->places);
    json_decref(m->training);
    json_decref(m->structure);
    *m = (model){0};
}

/* ---- Saving */

static void add_metadata(json_t *metadata, const char *key, json_t *value) {
    char *text = json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (!text || json_object_set_new(metadata, key, json_string(text)) != 0)
        die("no memory for the model's header");
    free(text);
}

static json_t *array_of(char *const *names, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        if (json_array_append_new(array, json_string(names[i])) != 0)
            die("the model's header: the name of column %zu is not in UTF-8, or there is no memory for it", i + 1);
    return array;
}

static json_t *counts_of(const size_t *places, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer((json_int_t)places[i] + 1));
    return array;
}

json_t *model_places(const model *m) {
    if (!m->places)
        return NULL;
    return json_pack("{s:I, s:o, s:o}", "of", (json_int_t)m->table_columns, "columns", counts_of(m->places, m->dim), "context_columns",
                     counts_of(m->places + m->dim, m->context_dim));
}

/* The length and the header with more metadata: what stands before the data. */
static unsigned char *new_head(const model *m, const unsigned char *bytes, size_t *size) {
    json_t *header = json_loadb((const char *)bytes + SAFETENSORS_LENGTH, (size_t)safetensors_length(bytes), 0, NULL);
    json_t *metadata = json_object_get(header, "__metadata__");
    if (!metadata)
        die("no memory for the model's header");
    if (m->named) {
        json_t *names = array_of(m->names, m->dim);
        add_metadata(metadata, "columns", names);
        json_decref(names);
    }
    if (m->context_named && m->context_dim > 0) {
        json_t *names = array_of(m->context_names, m->context_dim);
        add_metadata(metadata, "context_columns", names);
        json_decref(names);
    }
    if (m->places) {
        json_t *places = model_places(m);
        add_metadata(metadata, "places", places);
        json_decref(places);
    }
    if (m->training)
        add_metadata(metadata, "training", m->training);
    return safetensors_frame(header, 0, size);
}

bool model_save(const model *m, const char *path, char *message, size_t size) {
    void *bytes;
    size_t length, head_size;
    output out;
    if (nf_flow_save_memory(m->flow, &bytes, &length) != NF_OK) {
        snprintf(message, size, "%s", nf_last_error());
        return false;
    }
    const size_t data = SAFETENSORS_LENGTH + (size_t)safetensors_length(bytes);
    unsigned char *head = new_head(m, bytes, &head_size);
    bool good = output_open(&out, path);
    if (good) {
        fwrite(head, 1, head_size, out.file);
        fwrite((unsigned char *)bytes + data, 1, length - data, out.file);
        good = output_close(&out);
    }
    if (!good)
        snprintf(message, size, "%s: %s", out.name, strerror(errno));
    free(head);
    nf_free(bytes);
    return good;
}
