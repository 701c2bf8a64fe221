/* Model files: a flow as bytes, and back. */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/disk.h"
#include "api/handles.h"
#include "core/floating.h"
#include "io/safetensors.h"
#include "io/schema.h"

#define FORMAT_NAME "nflow"
#define FORMAT_VERSION "1"

/* ---- a flow as bytes ---- */

/* The parameters as little-endian bytes. */
static nf_status parameter_bytes(const nf_flow *flow, unsigned char **out) {
    const size_t count = flow->model.parameter_count;
    unsigned char *bytes = nf_allocate(&flow->allocator, count * flow->engine->real_size);
    if (!bytes)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for %zu parameters", count);
    nf_le_store(bytes, flow->theta, count, flow->engine->precision);
    *out = bytes;
    return NF_OK;
}

static nf_status tensor_table(const nf_flow *flow, const unsigned char *bytes, nf_st_tensor **out) {
    nf_st_tensor *table = nf_allocate_zeroed(&flow->allocator, flow->tensor_count * sizeof *table);
    if (!table)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a table of %zu tensors", flow->tensor_count);
    for (size_t i = 0; i < flow->tensor_count; i++) {
        const nf_model_tensor *t = &flow->tensors[i];
        table[i].name = t->name;
        strcpy(table[i].dtype, nf_st_dtype(flow->engine->precision));
        table[i].rank = t->rank;
        table[i].shape[0] = t->shape[0];
        table[i].shape[1] = t->shape[1];
        table[i].data = bytes + t->offset * flow->engine->real_size;
        table[i].size = t->shape[0] * t->shape[1] * flow->engine->real_size;
    }
    *out = table;
    return NF_OK;
}

/* The file's bytes, to be released with `allocator`. */
static nf_status write_bytes(const nf_flow *flow, const nf_allocator *allocator, unsigned char **bytes, size_t *size) {
    char *text = NULL;
    unsigned char *parameters = NULL;
    nf_st_tensor *table = NULL;
    nf_status status = nf_schema_write(&flow->model, flow->engine->precision, &flow->allocator, &text);
    if (status == NF_OK)
        status = parameter_bytes(flow, &parameters);
    if (status == NF_OK)
        status = tensor_table(flow, parameters, &table);
    if (status == NF_OK) {
        const char *const metadata[][2] = {{"format", FORMAT_NAME}, {"version", FORMAT_VERSION}, {"flow", text}};
        status = nf_st_write(allocator, table, flow->tensor_count, metadata, 3, bytes, size);
    }
    nf_release(&flow->allocator, table);
    nf_release(&flow->allocator, parameters);
    nf_release(&flow->allocator, text);
    return status;
}

nf_status nf_flow_save_memory(const nf_flow *flow, void **bytes, size_t *size) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "bytes", bytes);
    if (status == NF_OK)
        *bytes = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "size", size);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    unsigned char *made = NULL;
    size_t length = 0;
    status = write_bytes(flow, &flow->allocator, &made, &length);
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    /* nf_free knows no allocator, so what it frees comes from malloc. */
    void *copy = malloc(length);
    if (copy)
        memcpy(copy, made, length);
    nf_release(&flow->allocator, made);
    if (!copy)
        return nf_fail(NF_ERR_MEMORY, __func__, "no memory for %zu bytes", length);
    *bytes = copy;
    *size = length;
    return NF_OK;
}

/* ---- bytes as a flow ---- */

static nf_status check_metadata(const nf_st_file *file, const char **flow, size_t *size) {
    const char *format = nf_st_metadata(file, "format"), *version = nf_st_metadata(file, "version");
    if (!format || strcmp(format, FORMAT_NAME) != 0)
        return nf_fail(NF_ERR_FORMAT, NULL, "__metadata__: format is %s%.40s%s, not \"" FORMAT_NAME "\"", format ? "\"" : "",
                       format ? format : "missing", format ? "\"" : "");
    if (!version || strcmp(version, FORMAT_VERSION) != 0)
        return nf_fail(NF_ERR_FORMAT, NULL, "__metadata__: version is %.40s, and this library reads " FORMAT_VERSION,
                       version ? version : "missing");
    *flow = nf_st_metadata(file, "flow");
    if (!*flow)
        return nf_fail(NF_ERR_FORMAT, NULL, "__metadata__: flow is missing");
    *size = strlen(*flow);
    return NF_OK;
}

/* The precision that the text names, or else that of the first parameter. */
static nf_precision precision_of(const nf_st_file *file, const nf_schema *schema) {
    if (schema->names_precision)
        return schema->precision;
    for (size_t i = 0; i < nf_st_count(file); i++) {
        const nf_st_tensor *t = nf_st_at(file, i);
        if (strncmp(t->name, "layers.", 7) == 0)
            return strcmp(t->dtype, nf_st_dtype(NF_SINGLE)) == 0 ? NF_SINGLE : NF_DOUBLE;
    }
    return NF_DOUBLE;
}

/* "[32, 2]" */
static void say_shape(size_t rank, const uint64_t *shape, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (size_t i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

static nf_status check_tensor(const nf_flow *flow, const nf_model_tensor *wanted, const nf_st_tensor *found) {
    if (!found)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %s is missing", wanted->name);
    const char *dtype = nf_st_dtype(flow->engine->precision);
    if (strcmp(found->dtype, dtype) != 0)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %s has dtype %s, must be %s", wanted->name, found->dtype, dtype);
    const uint64_t shape[2] = {wanted->shape[0], wanted->shape[1]};
    bool same = found->rank == wanted->rank;
    for (size_t i = 0; same && i < wanted->rank; i++)
        same = found->shape[i] == shape[i];
    if (same)
        return NF_OK;
    char has[NF_ST_MOST_RANK * 24], needs[64];
    say_shape(found->rank, found->shape, has, sizeof has);
    say_shape(wanted->rank, shape, needs, sizeof needs);
    return nf_fail(NF_ERR_FORMAT, NULL, "tensor %s has shape %s, must have %s", wanted->name, has, needs);
}

/* Of the tensors that claim to be a layer's, the first that none has: those that are wanted are marked, so that time stays linear. */
static nf_status find_stranger(const nf_flow *flow, const nf_st_file *file) {
    const size_t count = nf_st_count(file);
    bool *known = nf_allocate_zeroed(&flow->allocator, count * sizeof *known);
    if (!known)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for a table of %zu tensors", count);
    for (size_t i = 0; i < flow->tensor_count; i++)
        known[nf_st_find(file, flow->tensors[i].name) - nf_st_at(file, 0)] = true;
    nf_status status = NF_OK;
    for (size_t i = 0; status == NF_OK && i < count; i++)
        if (!known[i] && strncmp(nf_st_at(file, i)->name, "layers.", 7) == 0)
            status = nf_fail(NF_ERR_FORMAT, NULL, "tensor %.80s belongs to no layer of the flow", nf_st_at(file, i)->name);
    nf_release(&flow->allocator, known);
    return status;
}

/* All tensors of the model are there with their shapes, and no other that claims to be a layer's. */
static nf_status check_tensors(const nf_flow *flow, const nf_st_file *file) {
    size_t claimed = 0;
    for (size_t i = 0; i < flow->tensor_count; i++) {
        nf_status status = check_tensor(flow, &flow->tensors[i], nf_st_find(file, flow->tensors[i].name));
        if (status != NF_OK)
            return status;
    }
    for (size_t i = 0; i < nf_st_count(file); i++)
        claimed += strncmp(nf_st_at(file, i)->name, "layers.", 7) == 0;
    return claimed == flow->tensor_count ? NF_OK : find_stranger(flow, file);
}

/* Names are made for so many tensors more than the file has, so that a message can tell which is missing. */
#define MISSING_LIMIT ((size_t)64)

static nf_status list_tensors(nf_flow *flow, const nf_st_file *file) {
    const size_t wanted = nf_model_tensor_count(&flow->model), found = nf_st_count(file);
    if (wanted > found && wanted - found > MISSING_LIMIT)
        return nf_fail(NF_ERR_FORMAT, NULL, "flow: its layers have %zu tensors, and the file has %zu", wanted, found);
    return nf_model_tensors(&flow->model, &flow->allocator, &flow->tensors, &flow->tensor_count);
}

static nf_status read_parameters(nf_flow *flow, const nf_st_file *file) {
    for (size_t i = 0; i < flow->tensor_count; i++) {
        const nf_model_tensor *t = &flow->tensors[i];
        const size_t count = t->shape[0] * t->shape[1];
        unsigned char *to = (unsigned char *)flow->theta + t->offset * flow->engine->real_size;
        nf_le_load(to, nf_st_find(file, t->name)->data, count, flow->engine->precision);
        if (!flow->engine->finite(to, count))
            return nf_fail(NF_ERR_FORMAT, NULL, "tensor %s holds a number that is not finite", t->name);
    }
    return NF_OK;
}

/* Sizes are checked against the tensors in the file before memory for the parameters is asked for. */
static nf_status build_flow(nf_schema *schema, const nf_st_file *file, const nf_allocator *allocator, nf_flow **out) {
    nf_flow *flow;
    nf_status status =
        nf_flow_begin(NULL, allocator, schema->model.dim, schema->model.context_dim, precision_of(file, schema), &flow);
    if (status != NF_OK) {
        nf_model_clear(&schema->model, allocator);
        return status;
    }
    flow->model = schema->model;
    for (size_t i = 0; status == NF_OK && i < flow->model.layer_count; i++)
        if (!flow->engine->supports(flow->model.layers[i]->kind))
            status = nf_fail(NF_ERR_UNSUPPORTED, NULL, "layers[%zu]: this library has no %s layers", i,
                             nf_layer_type_of(flow->model.layers[i]->kind)->name);
    if (status == NF_OK)
        status = nf_schema_check_precision(schema, flow->engine->precision);
    if (status == NF_OK)
        status = list_tensors(flow, file);
    if (status == NF_OK)
        status = check_tensors(flow, file);
    if (status == NF_OK) {
        schema->model = flow->model;
        status = nf_schema_spread_scale(schema, &flow->allocator);
        flow->model = schema->model;
    }
    if (status == NF_OK) {
        nf_release(&flow->allocator, flow->tensors);
        flow->tensors = NULL;
        status = nf_flow_finish(flow);
    }
    if (status == NF_OK)
        status = read_parameters(flow, file);
    if (status != NF_OK) {
        nf_flow_free(flow);
        return status;
    }
    *out = flow;
    return NF_OK;
}

/* Jansson sets errno when it reads numbers; the caller's stays. */
static nf_status read_bytes(const void *bytes, size_t size, const nf_allocator *given, nf_flow **flow) {
    const nf_allocator allocator = nf_allocator_or_default(given);
    const int saved_errno = errno;
    nf_st_file *file = NULL;
    nf_status status = nf_st_parse(&allocator, bytes, size, &file);
    const char *text = NULL;
    size_t length = 0;
    nf_schema schema;
    memset(&schema, 0, sizeof schema);
    if (status == NF_OK)
        status = check_metadata(file, &text, &length);
    if (status == NF_OK)
        status = nf_schema_read(text, length, &allocator, &schema);
    if (status == NF_OK)
        status = build_flow(&schema, file, &allocator, flow);
    nf_st_free(file);
    errno = saved_errno;
    return status;
}

static nf_status load_memory(const char *function, const void *bytes, size_t size, nf_flow **flow, const nf_allocator *allocator) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status == NF_OK)
        *flow = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(function, "bytes", bytes);
    if (status != NF_OK)
        return status;
    status = read_bytes(bytes, size, allocator, flow);
    return status == NF_OK ? NF_OK : nf_fail_in(status, function);
}

nf_status nf_flow_load_memory_with(const void *bytes, size_t size, nf_flow **flow, const nf_allocator *allocator) {
    return load_memory(__func__, bytes, size, flow, allocator);
}

nf_status nf_flow_load_memory(const void *bytes, size_t size, nf_flow **flow) { return load_memory(__func__, bytes, size, flow, NULL); }

/* ---- files ---- */

static nf_status load_file(const char *function, const char *path, nf_flow **flow, const nf_allocator *given) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status == NF_OK)
        *flow = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(function, "path", path);
    if (status != NF_OK)
        return status;
    const nf_allocator allocator = nf_allocator_or_default(given);
    unsigned char *bytes = NULL;
    size_t size = 0;
    status = nf_read_file(path, &allocator, &bytes, &size, NULL);
    if (status == NF_OK)
        status = read_bytes(bytes, size, given, flow);
    nf_release(&allocator, bytes);
    if (status == NF_ERR_FORMAT || status == NF_ERR_UNSUPPORTED) {
        char line[NF_ERROR_LENGTH];
        strncpy(line, nf_last_error(), sizeof line - 1);
        line[sizeof line - 1] = '\0';
        return nf_fail(status, function, "%.200s: %s", path, line);
    }
    return status == NF_OK ? NF_OK : nf_fail_in(status, function);
}

nf_status nf_flow_load_with(const char *path, nf_flow **flow, const nf_allocator *allocator) {
    return load_file(__func__, path, flow, allocator);
}

nf_status nf_flow_load(const char *path, nf_flow **flow) { return load_file(__func__, path, flow, NULL); }

nf_status nf_flow_save(const nf_flow *flow, const char *path) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "path", path);
    if (status != NF_OK)
        return status;
    unsigned char *bytes = NULL;
    size_t size = 0;
    status = write_bytes(flow, &flow->allocator, &bytes, &size);
    if (status == NF_OK)
        status = nf_save_atomic(path, &flow->allocator, bytes, size);
    nf_release(&flow->allocator, bytes);
    return status == NF_OK ? NF_OK : nf_fail_in(status, __func__);
}
