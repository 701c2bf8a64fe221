/*
 * Reading what export_torch.py wrote: safetensors, with {"format": "nflow-import", "structure": JSON} in the metadata. Strict: what the format does
 * not allow is refused.
 */
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "import.h"
#include "safetensors.h"
#include "tool.h"

enum { MOST_HEADER = 100000000 };

typedef struct kept {
    struct kept *next;
    union {
        double number;
        void *pointer;
        long long whole;
    } block[];
} kept;

void *archive_keep(archive *a, size_t count, size_t size) {
    if (size > 0 && count > (SIZE_MAX - sizeof(kept)) / size)
        die("%s: %zu numbers are more than memory", a->path, count);
    kept *made = allocate(1, sizeof(kept) + count * size);
    made->next = a->kept;
    a->kept = made;
    return made->block;
}

char *archive_text(archive *a, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = archive_keep(a, (size_t)length + 1, 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void archive_close(archive *a) {
    json_decref(a->structure);
    while (a->kept) {
        kept *next = a->kept->next;
        free(a->kept);
        a->kept = next;
    }
}

/* ---- bytes */

static uint64_t little_endian(const unsigned char *bytes, size_t count) {
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++)
        value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

static double load(const char *dtype, const unsigned char *from) {
    double f64;
    float f32;
    int64_t i64;
    if (strcmp(dtype, "F64") == 0) {
        const uint64_t bits = little_endian(from, 8);
        memcpy(&f64, &bits, sizeof f64);
        return f64;
    }
    if (strcmp(dtype, "F32") == 0) {
        const uint32_t bits = (uint32_t)little_endian(from, 4);
        memcpy(&f32, &bits, sizeof f32);
        return (double)f32;
    }
    if (strcmp(dtype, "I64") == 0) {
        const uint64_t bits = little_endian(from, 8);
        memcpy(&i64, &bits, sizeof i64);
        return (double)i64;
    }
    return from[0] != 0;
}

static size_t width_of(const char *dtype) {
    return strcmp(dtype, "F64") == 0 || strcmp(dtype, "I64") == 0 ? 8 : strcmp(dtype, "F32") == 0 ? 4 : strcmp(dtype, "BOOL") == 0 ? 1 : 0;
}

/* ---- tensors */

static void read_shape(const archive *a, array *t, const json_t *shape) {
    enum { MOST = sizeof t->shape / sizeof t->shape[0] };
    t->rank = json_array_size(shape);
    t->count = 1;
    if (!json_is_array(shape) || t->rank > MOST)
        die("%s: tensor %s: its shape is no list of at most %d sizes", a->path, t->name, MOST);
    for (size_t i = 0; i < t->rank; i++) {
        const json_t *one = json_array_get(shape, i);
        if (!json_is_integer(one) || json_integer_value(one) < 0 || json_integer_value(one) > INT32_MAX)
            die("%s: tensor %s: its shape is no list of sizes", a->path, t->name);
        t->shape[i] = (size_t)json_integer_value(one);
        if (t->shape[i] > 0 && t->count > SIZE_MAX / 16 / t->shape[i])
            die("%s: tensor %s is larger than memory", a->path, t->name);
        t->count *= t->shape[i];
    }
}

static void read_tensor(archive *a, array *t, const json_t *entry, const unsigned char *data, size_t size) {
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_int_t begin = json_integer_value(json_array_get(offsets, 0)), end = json_integer_value(json_array_get(offsets, 1));
    const size_t width = dtype ? width_of(dtype) : 0;
    if (width == 0)
        die("%s: tensor %s: numbers of type %s are not read; F64, F32, I64 and BOOL are: convert the module with double()", a->path, t->name,
            dtype ? dtype : "?");
    read_shape(a, t, json_object_get(entry, "shape"));
    if (json_array_size(offsets) != 2 || begin < 0 || end < begin || (uintmax_t)end > size || (uintmax_t)(end - begin) != t->count * width)
        die("%s: tensor %s does not lie in the file", a->path, t->name);
    t->values = archive_keep(a, t->count, sizeof *t->values);
    for (size_t i = 0; i < t->count; i++) {
        t->values[i] = load(dtype, data + (size_t)begin + i * width);
        if (!isfinite(t->values[i]))
            die("%s: tensor %s: number %zu is %g", a->path, t->name, i, t->values[i]);
    }
}

static json_t *parse(const archive *a, const char *what, const char *text, size_t length) {
    json_error_t error;
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        die("%s: %s is no JSON (%s at byte %d)", a->path, what, error.text, error.position);
    if (!json_is_object(json))
        die("%s: %s is no JSON object", a->path, what);
    return json;
}

static void read_metadata(archive *a, const json_t *metadata) {
    const char *format = json_string_value(json_object_get(metadata, "format")), *version = json_string_value(json_object_get(metadata, "version"));
    const json_t *structure = json_object_get(metadata, "structure");
    if (format && strcmp(format, "nflow") == 0)
        die("%s: this is a model of nflow already", a->path);
    if (!format || strcmp(format, "nflow-import") != 0 || !json_is_string(structure))
        die("%s: it does not say how the module is built; write it with export_torch.py", a->path);
    if (!version || strcmp(version, "1") != 0)
        die("%s: version %s of the format is not known to this nflow", a->path, version ? version : "?");
    a->structure = parse(a, "the structure", json_string_value(structure), json_string_length(structure));
}

void archive_open(archive *a, const char *path) {
    size_t size;
    *a = (archive){.path = path};
    unsigned char *bytes = read_model_file(path, &size);
    const uint64_t length = size >= SAFETENSORS_LENGTH ? safetensors_length(bytes) : 0;
    if (length == 0 || length > MOST_HEADER || length > size - SAFETENSORS_LENGTH)
        die("%s: this is no safetensors file; write it with export_torch.py", path);
    json_t *header = parse(a, "the header", (const char *)bytes + SAFETENSORS_LENGTH, (size_t)length), *entry;
    const char *name;
    read_metadata(a, json_object_get(header, "__metadata__"));
    a->arrays = archive_keep(a, json_object_size(header), sizeof *a->arrays);
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        array *t = &a->arrays[a->count++];
        t->name = archive_text(a, "%s", name);
        read_tensor(a, t, entry, bytes + SAFETENSORS_LENGTH + (size_t)length, size - SAFETENSORS_LENGTH - (size_t)length);
    }
    json_decref(header);
    free(bytes);
}

/* ---- modules */

static node node_of(archive *a, const json_t *json, const char *path) {
    const char *kind = json_string_value(json_object_get(json, "class"));
    return (node){a, json, path, kind ? kind : "?"};
}

node node_root(archive *a) { return node_of(a, a->structure, ""); }

node node_child(const node *of, const char *name) {
    const json_t *json = json_object_get(json_object_get(of->json, "children"), name);
    return node_of(of->a, json, archive_text(of->a, "%s%s%s", of->path, *of->path ? "." : "", name));
}

node node_need_child(const node *of, const char *name) {
    const node child = node_child(of, name);
    if (!child.json)
        node_refuse(of, archive_text(of->a, "has no module %s, which this version of nflow looks for", name));
    return child;
}

node node_at(const node *of, size_t index) { return node_need_child(of, archive_text(of->a, "%zu", index)); }

size_t node_count(const node *of) { return json_object_size(json_object_get(of->json, "children")); }

bool node_is(const node *n, const char *kind) { return strcmp(n->kind, kind) == 0; }

void node_refuse(const node *n, const char *why) { die("%s: %s%s%s %s", n->a->path, n->path, *n->path ? ": " : "", n->kind, why); }

void node_refuse_kind(const node *n, const char *known) { node_refuse(n, archive_text(n->a, "cannot be imported; what can be is %s", known)); }

static const json_t *attribute_of(const node *n, const char *name) { return json_object_get(json_object_get(n->json, "attributes"), name); }

double node_number(const node *n, const char *attribute, double otherwise) {
    const json_t *value = attribute_of(n, attribute);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

bool node_flag(const node *n, const char *attribute, bool otherwise) {
    const json_t *value = attribute_of(n, attribute);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

const char *node_word(const node *n, const char *attribute, const char *otherwise) {
    const char *word = json_string_value(attribute_of(n, attribute));
    return word ? word : otherwise;
}

const json_t *node_callable(const node *n, const char *attribute) {
    const json_t *value = attribute_of(n, attribute);
    return json_object_get(value, "callable") ? value : NULL;
}

/* ---- tensors of modules */

array *node_find(const node *n, const char *name) {
    const char *full = *n->path ? archive_text(n->a, "%s.%s", n->path, name) : name;
    for (size_t i = 0; i < n->a->count; i++)
        if (strcmp(n->a->arrays[i].name, full) == 0) {
            n->a->arrays[i].used = true;
            return &n->a->arrays[i];
        }
    return NULL;
}

static const array *found(const node *n, const char *name) {
    const array *t = node_find(n, name);
    if (!t)
        node_refuse(n, archive_text(n->a, "has no tensor %s", name));
    return t;
}

const double *node_need(const node *n, const char *name, size_t count) {
    const array *t = found(n, name);
    if (t->count != count)
        node_refuse(n, archive_text(n->a, "has %zu numbers in %s, expected %zu", t->count, name, count));
    return t->values;
}

const array *node_need_matrix(const node *n, const char *name) {
    const array *t = found(n, name);
    if (t->rank != 2 || t->count == 0)
        node_refuse(n, archive_text(n->a, "has a %s that is no matrix", name));
    return t;
}

size_t *node_indices(const node *n, const char *name, size_t *count) {
    const array *t = found(n, name);
    size_t *indices = archive_keep(n->a, t->count, sizeof *indices);
    for (size_t i = 0; i < t->count; i++) {
        if (!(t->values[i] >= 0.0) || t->values[i] > INT32_MAX || t->values[i] != floor(t->values[i]))
            node_refuse(n, archive_text(n->a, "has %g among the indices %s", t->values[i], name));
        indices[i] = (size_t)t->values[i];
    }
    *count = t->count;
    return indices;
}

void node_ignore(const node *n, const char *name) { node_find(n, name); }

void node_ignore_all(const node *n) {
    const size_t length = strlen(n->path);
    for (size_t i = 0; i < n->a->count; i++)
        if (strncmp(n->a->arrays[i].name, n->path, length) == 0 && n->a->arrays[i].name[length] == '.')
            n->a->arrays[i].used = true;
}
