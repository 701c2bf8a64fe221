#include "io/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/status.h"
#include "io/json_limits.h"
#include "io/json_text.h"

#define LENGTH_BYTES ((size_t)8)
#define METADATA "__metadata__"
/* The header: an object of entries, each an object, with lists of numbers. */
#define HEADER_DEPTH 3

struct nf_st_file {
    nf_allocator allocator;
    json_t *header; /* holds the names and metadata */
    size_t count;
    nf_st_tensor *tensors;        /* by data */
    const nf_st_tensor **by_name; /* sorted */
};

static const struct {
    const char *name;
    size_t bits;
} dtypes[] = {{"F64", 64},     {"F32", 32},     {"F16", 16}, {"BF16", 16}, {"I64", 64}, {"I32", 32}, {"I16", 16}, {"I8", 8},
              {"U64", 64},     {"U32", 32},     {"U16", 16}, {"U8", 8},    {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8}};

static size_t dtype_bytes(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return dtypes[i].bits / 8;
    return 0;
}

static uint64_t load_length(const unsigned char *bytes) {
    uint64_t length = 0;
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)bytes[i] << (8 * i);
    return length;
}

static nf_status wrong(const char *tensor, const char *what) { return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: %s", tensor, what); }

static nf_status read_shape(const char *name, const json_t *shape, nf_st_tensor *t) {
    if (!json_is_array(shape))
        return wrong(name, "shape is not a list");
    t->rank = json_array_size(shape);
    if (t->rank > NF_ST_MOST_RANK)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: has rank %zu, at most %d are read", name, t->rank, NF_ST_MOST_RANK);
    for (size_t i = 0; i < t->rank; i++) {
        const json_t *n = json_array_get(shape, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: shape[%zu] is not a count", name, i);
        t->shape[i] = (uint64_t)json_integer_value(n);
    }
    return NF_OK;
}

/* The bytes that dtype and shape ask for; false when they do not fit. */
static bool shape_bytes(const nf_st_tensor *t, size_t *bytes) {
    bool fits = true, empty = false;
    *bytes = dtype_bytes(t->dtype);
    for (size_t i = 0; i < t->rank; i++)
        empty = empty || t->shape[i] == 0;
    if (empty)
        *bytes = 0;
    for (size_t i = 0; fits && !empty && i < t->rank; i++)
        fits = t->shape[i] <= SIZE_MAX && nf_size_multiply(*bytes, (size_t)t->shape[i], bytes);
    return fits;
}

static nf_status read_offsets(const char *name, const json_t *offsets, const unsigned char *data, size_t data_size, nf_st_tensor *t) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) || json_integer_value(begin) < 0 ||
        json_integer_value(end) < 0)
        return wrong(name, "data_offsets are not two counts");
    const uint64_t first = (uint64_t)json_integer_value(begin), last = (uint64_t)json_integer_value(end);
    if (first > last)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: data_offsets [%" PRIu64 ", %" PRIu64 "] run backwards", name, first, last);
    if (last > data_size)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: data_offsets end at %" PRIu64 ", and the file has %zu bytes of data", name, last,
                       data_size);
    t->data = data + first;
    t->size = (size_t)(last - first);
    return NF_OK;
}

static nf_status read_tensor(const char *name, json_t *entry, const unsigned char *data, size_t data_size, nf_st_tensor *t) {
    if (!*name)
        return nf_fail(NF_ERR_FORMAT, NULL, "header: a tensor has an empty name");
    if (!json_is_object(entry))
        return wrong(name, "is not an object");
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    if (!dtype)
        return wrong(name, "dtype is missing or not a string");
    if (!shape)
        return wrong(name, "shape is missing");
    if (!offsets)
        return wrong(name, "data_offsets is missing");
    if (json_object_size(entry) != 3) {
        const char *key;
        json_t *value;
        json_object_foreach(entry, key, value) {
            if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
                return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: key \"%.40s\" is not known", name, key);
        }
    }
    if (dtype_bytes(dtype) == 0)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: dtype is \"%.40s\", which is none", name, dtype);
    t->name = name;
    strcpy(t->dtype, dtype);
    nf_status status = read_shape(name, shape, t);
    if (status == NF_OK)
        status = read_offsets(name, offsets, data, data_size, t);
    if (status != NF_OK)
        return status;
    size_t wanted;
    if (!shape_bytes(t, &wanted))
        return wrong(name, "shape is larger than memory");
    if (wanted != t->size)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: has %zu bytes of data, and its shape asks for %zu", name, t->size, wanted);
    return NF_OK;
}

static nf_status check_metadata(json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return nf_fail(NF_ERR_FORMAT, NULL, METADATA ": is not an object");
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return nf_fail(NF_ERR_FORMAT, NULL, METADATA ": %.80s is not a string", key);
    }
    return NF_OK;
}

/* By place of the data; empty tensors before the one that starts where they stand. */
static int compare_data(const void *a, const void *b) {
    const nf_st_tensor *s = a, *t = b;
    if (s->data != t->data)
        return s->data < t->data ? -1 : 1;
    return (s->size > t->size) - (s->size < t->size);
}

static int compare_names(const void *a, const void *b) {
    const nf_st_tensor *const *s = a, *const *t = b;
    return strcmp((*s)->name, (*t)->name);
}

/* The tensors cover the data from its first to its last byte, each once. */
static nf_status check_cover(const nf_st_file *file, const unsigned char *data, size_t data_size) {
    const unsigned char *next = data;
    for (size_t i = 0; i < file->count; i++) {
        const nf_st_tensor *t = &file->tensors[i];
        if (t->data > next)
            return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: there is a hole of %zu bytes before its data", t->name, (size_t)(t->data - next));
        if (t->data < next) /* which the first cannot: offsets are counts */
            return nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s: its data overlap those of %.80s", t->name, file->tensors[i - 1].name);
        next = t->data + t->size;
    }
    const size_t left = (size_t)(data + data_size - next);
    return left == 0 ? NF_OK : nf_fail(NF_ERR_FORMAT, NULL, "header: %zu bytes after the last tensor belong to none", left);
}

static nf_status read_tensors(nf_st_file *file, const unsigned char *data, size_t data_size) {
    const size_t most = json_object_size(file->header);
    file->tensors = nf_allocate_zeroed(&file->allocator, most * sizeof *file->tensors);
    file->by_name = nf_allocate(&file->allocator, most * sizeof *file->by_name);
    if (!file->tensors || !file->by_name)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a table of %zu tensors", most);
    const char *key;
    json_t *value;
    json_object_foreach(file->header, key, value) {
        nf_status status = strcmp(key, METADATA) == 0 ? check_metadata(value)
                                                      : read_tensor(key, value, data, data_size, &file->tensors[file->count++]);
        if (status != NF_OK)
            return status;
    }
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_data);
    for (size_t i = 0; i < file->count; i++)
        file->by_name[i] = &file->tensors[i];
    if (file->count > 0)
        qsort(file->by_name, file->count, sizeof *file->by_name, compare_names);
    return check_cover(file, data, data_size);
}

static const char no_brace[] = "header: does not begin with {";

static nf_status parse_header(const char *text, size_t size, json_t **header) {
    if (size == 0 || text[0] != '{')
        return nf_fail(NF_ERR_FORMAT, NULL, no_brace);
    nf_status status = nf_json_check_limits("header", text, size, HEADER_DEPTH);
    if (status != NF_OK)
        return status;
    json_error_t error;
    *header = nf_json_read(text, size, &error);
    if (*header)
        return NF_OK;
    if (nf_json_lacked_memory(&error))
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for the JSON of the header");
    return nf_fail(NF_ERR_FORMAT, NULL, "header: bad JSON at byte %d: %.160s", error.position, error.text);
}

bool nf_st_may_begin(const unsigned char *bytes, size_t size) {
    return (size < LENGTH_BYTES || load_length(bytes) <= NF_ST_HEADER_LIMIT) && (size <= LENGTH_BYTES || bytes[LENGTH_BYTES] == '{');
}

nf_status nf_st_parse(const nf_allocator *allocator, const void *bytes, size_t size, nf_st_file **out) {
    const unsigned char *start = bytes;
    if (size < LENGTH_BYTES)
        return nf_fail(NF_ERR_FORMAT, NULL, "the file has %zu bytes, too few for a header", size);
    const uint64_t length = load_length(start);
    if (length > NF_ST_HEADER_LIMIT)
        return nf_fail(NF_ERR_FORMAT, NULL, "header: claims %" PRIu64 " bytes, at most %" PRIu64 " are read", length, NF_ST_HEADER_LIMIT);
    if (size > LENGTH_BYTES && start[LENGTH_BYTES] != '{') /* before its length, which may be that of a beginning */
        return nf_fail(NF_ERR_FORMAT, NULL, no_brace);
    if (length > size - LENGTH_BYTES)
        return nf_fail(NF_ERR_FORMAT, NULL, "header: claims %" PRIu64 " bytes, and the file has %zu", length, size - LENGTH_BYTES);
    nf_st_file *file = nf_allocate_zeroed(allocator, sizeof *file);
    if (!file)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a file");
    file->allocator = *allocator;
    nf_status status = parse_header((const char *)start + LENGTH_BYTES, (size_t)length, &file->header);
    if (status == NF_OK)
        status = read_tensors(file, start + LENGTH_BYTES + length, size - LENGTH_BYTES - (size_t)length);
    if (status != NF_OK) {
        nf_st_free(file);
        return status;
    }
    *out = file;
    return NF_OK;
}

void nf_st_free(nf_st_file *file) {
    if (!file)
        return;
    const nf_allocator allocator = file->allocator;
    json_decref(file->header);
    nf_release(&allocator, file->by_name);
    nf_release(&allocator, file->tensors);
    nf_release(&allocator, file);
}

size_t nf_st_count(const nf_st_file *file) { return file->count; }

const nf_st_tensor *nf_st_at(const nf_st_file *file, size_t index) { return &file->tensors[index]; }

const nf_st_tensor *nf_st_find(const nf_st_file *file, const char *name) {
    const nf_st_tensor key = {.name = name}, *pointer = &key;
    const nf_st_tensor **found =
        file->count ? bsearch(&pointer, file->by_name, file->count, sizeof *file->by_name, compare_names) : NULL;
    return found ? *found : NULL;
}

const char *nf_st_metadata(const nf_st_file *file, const char *key) {
    return json_string_value(json_object_get(json_object_get(file->header, METADATA), key));
}

/* ---- writing: the header is put together as text, with jansson for what needs escapes ---- */

typedef struct text {
    char *at; /* NULL while the length is counted */
    size_t used;
    bool failed;
} text;

static void put(text *t, const char *piece, size_t length) {
    if (t->at)
        memcpy(t->at + t->used, piece, length);
    t->used += length;
}

static void put_string(text *t, const char *string) {
    json_malloc_t from;
    json_free_t to; /* the host may have given jansson an allocator */
    json_get_alloc_funcs(&from, &to);
    json_t *value = json_string(string);
    char *quoted = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    if (quoted)
        put(t, quoted, strlen(quoted));
    else
        t->failed = true;
    if (quoted)
        to(quoted);
    json_decref(value);
}

static void put_number(text *t, uint64_t number) {
    char digits[24];
    const int length = snprintf(digits, sizeof digits, "%" PRIu64, number);
    put(t, digits, (size_t)length);
}

static void put_tensor(text *t, const nf_st_tensor *tensor, uint64_t begin) {
    put_string(t, tensor->name);
    put(t, ":{\"dtype\":\"", 11);
    put(t, tensor->dtype, strlen(tensor->dtype));
    put(t, "\",\"shape\":[", 11);
    for (size_t i = 0; i < tensor->rank; i++) {
        if (i)
            put(t, ",", 1);
        put_number(t, tensor->shape[i]);
    }
    put(t, "],\"data_offsets\":[", 18);
    put_number(t, begin);
    put(t, ",", 1);
    put_number(t, begin + tensor->size);
    put(t, "]}", 2);
}

static void put_header(text *t, const nf_st_tensor *tensors, size_t count, const char *const (*metadata)[2], size_t metadata_count) {
    uint64_t begin = 0;
    put(t, "{", 1);
    if (metadata_count) {
        put(t, "\"" METADATA "\":{", 16);
        for (size_t i = 0; i < metadata_count; i++) {
            if (i)
                put(t, ",", 1);
            put_string(t, metadata[i][0]);
            put(t, ":", 1);
            put_string(t, metadata[i][1]);
        }
        put(t, "}", 1);
    }
    for (size_t i = 0; i < count; i++) {
        if (i || metadata_count)
            put(t, ",", 1);
        put_tensor(t, &tensors[i], begin);
        begin += tensors[i].size;
    }
    put(t, "}", 1);
    while (t->used % 8)
        put(t, " ", 1);
}

nf_status nf_st_write(const nf_allocator *allocator, const nf_st_tensor *tensors, size_t count, const char *const (*metadata)[2],
                      size_t metadata_count, unsigned char **bytes, size_t *size) {
    text measure = {NULL, 0, false};
    put_header(&measure, tensors, count, metadata, metadata_count);
    size_t total = LENGTH_BYTES;
    bool fits = nf_size_add(total, measure.used, &total);
    for (size_t i = 0; i < count; i++)
        fits = nf_size_add(total, tensors[i].size, &total) && fits;
    unsigned char *made = fits && !measure.failed ? nf_allocate(allocator, total) : NULL;
    if (!made)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a file of %zu bytes", total);
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        made[i] = (unsigned char)((uint64_t)measure.used >> (8 * i));
    text header = {(char *)made + LENGTH_BYTES, 0, false};
    put_header(&header, tensors, count, metadata, metadata_count);
    if (header.failed) {
        nf_release(allocator, made);
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for the header of a file");
    }
    unsigned char *data = made + LENGTH_BYTES + header.used;
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].size)
            memcpy(data, tensors[i].data, tensors[i].size);
        data += tensors[i].size;
    }
    *bytes = made;
    *size = total;
    return NF_OK;
}

/* ---- numbers ---- */

void nf_le_load_u64(uint64_t *to, const unsigned char *from, size_t count) {
    for (size_t i = 0; i < count; i++, from += 8) {
        to[i] = 0;
        for (int b = 0; b < 8; b++)
            to[i] |= (uint64_t)from[b] << (8 * b);
    }
}

void nf_le_load_f64(double *to, const unsigned char *from, size_t count) {
    for (size_t i = 0; i < count; i++, from += 8) {
        uint64_t bits;
        nf_le_load_u64(&bits, from, 1);
        memcpy(&to[i], &bits, sizeof bits);
    }
}

static void load_f32(float *to, const unsigned char *from, size_t count) {
    for (size_t i = 0; i < count; i++, from += 4) {
        uint32_t bits = 0;
        for (int b = 0; b < 4; b++)
            bits |= (uint32_t)from[b] << (8 * b);
        memcpy(&to[i], &bits, sizeof bits);
    }
}

void nf_le_store_u64(unsigned char *to, const uint64_t *from, size_t count) {
    for (size_t i = 0; i < count; i++, to += 8)
        for (int b = 0; b < 8; b++)
            to[b] = (unsigned char)(from[i] >> (8 * b));
}

void nf_le_store_f64(unsigned char *to, const double *from, size_t count) {
    for (size_t i = 0; i < count; i++, to += 8) {
        uint64_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        nf_le_store_u64(to, &bits, 1);
    }
}

static void store_f32(unsigned char *to, const float *from, size_t count) {
    for (size_t i = 0; i < count; i++, to += 4) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        for (int b = 0; b < 4; b++)
            to[b] = (unsigned char)(bits >> (8 * b));
    }
}

const char *nf_st_dtype(nf_precision precision) { return precision == NF_SINGLE ? "F32" : "F64"; }

void nf_le_load(void *to, const unsigned char *from, size_t count, nf_precision precision) {
    if (precision == NF_SINGLE)
        load_f32(to, from, count);
    else
        nf_le_load_f64(to, from, count);
}

void nf_le_store(unsigned char *to, const void *from, size_t count, nf_precision precision) {
    if (precision == NF_SINGLE)
        store_f32(to, from, count);
    else
        nf_le_store_f64(to, from, count);
}
