/* Model files: bytes <-> flow, and atomic saving. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/handles.h"
#include "core/floating.h"
#include "io/safetensors.h"
#include "io/schema.h"

#define FORMAT_NAME "nflow"
#define FORMAT_VERSION "1"

/* ---- a flow as bytes ---- */

static const char *dtype_of(const nf_flow *flow) { return flow->engine->precision == NF_SINGLE ? "F32" : "F64"; }

/* The parameters as little-endian bytes. */
static nf_status parameter_bytes(const nf_flow *flow, unsigned char **out) {
    const size_t count = flow->model.parameter_count, size = flow->engine->real_size;
    unsigned char *bytes = nf_allocate(&flow->allocator, count * size);
    if (!bytes)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for %zu parameters", count);
    if (size == sizeof(float))
        nf_le_store_f32(bytes, flow->theta, count);
    else
        nf_le_store_f64(bytes, flow->theta, count);
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
        strcpy(table[i].dtype, dtype_of(flow));
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
            return strcmp(t->dtype, "F32") == 0 ? NF_SINGLE : NF_DOUBLE;
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
    if (strcmp(found->dtype, dtype_of(flow)) != 0)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor %s has dtype %s, must be %s", wanted->name, found->dtype, dtype_of(flow));
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
    const size_t size = flow->engine->real_size;
    for (size_t i = 0; i < flow->tensor_count; i++) {
        const nf_model_tensor *t = &flow->tensors[i];
        const size_t count = t->shape[0] * t->shape[1];
        unsigned char *to = (unsigned char *)flow->theta + t->offset * size;
        const unsigned char *from = nf_st_find(file, t->name)->data;
        if (size == sizeof(float))
            nf_le_load_f32((float *)(void *)to, from, count);
        else
            nf_le_load_f64((double *)(void *)to, from, count);
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

static nf_status io_failure(const char *what, const char *path) {
    char reason[128] = "";
    const int code = errno;
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    const char *said = strerror_r(code, reason, sizeof reason);
#else
    const char *said = strerror_r(code, reason, sizeof reason) == 0 ? reason : "unknown error";
#endif
    return nf_fail(NF_ERR_IO, NULL, "%s %.200s: %s", what, path, said);
}

/* What is read of a file whose size need not be known (a pipe). Only the last piece has room left. */
typedef struct piece {
    struct piece *before;
    unsigned char *bytes;
    size_t room, used;
} piece;

#define PIECE_BYTES ((size_t)1 << 20)

static void drop_pieces(piece *last, const nf_allocator *allocator) {
    while (last) {
        piece *before = last->before;
        nf_release(allocator, last->bytes);
        nf_release(allocator, last);
        last = before;
    }
}

/* One more piece; NULL, and none at all any more, when there is no memory. */
static piece *add_piece(piece *before, size_t room, const nf_allocator *allocator) {
    piece *last = nf_allocate(allocator, sizeof *last);
    if (last)
        *last = (piece){before, nf_allocate(allocator, room), room, 0};
    if (last && last->bytes)
        return last;
    drop_pieces(last ? last : before, allocator);
    return NULL;
}

/* All pieces as one block, and none of them any more: the first one's own where it is the only one. */
static unsigned char *join_pieces(piece *last, size_t size, const nf_allocator *allocator) {
    unsigned char *bytes = last->bytes;
    if (!last->before) {
        nf_release(allocator, last);
        return bytes;
    }
    bytes = nf_allocate(allocator, size);
    for (const piece *p = last; bytes && p; p = p->before) {
        size -= p->used;
        memcpy(bytes + size, p->bytes, p->used);
    }
    drop_pieces(last, allocator);
    return bytes;
}

/* Whether a file begins as a model file does: only then is memory for all of it asked for. */
static bool looks_like_a_model(int fd) {
    unsigned char head[16];
    const ssize_t got = pread(fd, head, sizeof head, 0);
    return got > 0 && nf_st_may_begin(head, (size_t)got);
}

/*
 * All bytes of an open file, or those after which it cannot be a model file any more: a stream without an end (/dev/zero) must not fill the memory, nor
 * must a large table that was taken for a model. In memory are at most these and the pieces that they came in.
 */
static nf_status read_all(int fd, const char *path, const nf_allocator *allocator, unsigned char **out, size_t *out_size) {
    struct stat info;
    const bool known = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 && looks_like_a_model(fd);
    piece *last = add_piece(NULL, known ? (size_t)info.st_size + 1 : PIECE_BYTES, allocator);
    size_t used = 0;
    for (ssize_t got = 1; last && got != 0;) {
        got = read(fd, last->bytes + last->used, last->room - last->used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            nf_status status = io_failure("cannot read", path);
            drop_pieces(last, allocator);
            return status;
        }
        last->used += (size_t)got;
        used += (size_t)got;
        if (last->used < last->room)
            continue;
        if (!last->before && !nf_st_may_begin(last->bytes, last->used))
            break;
        last = add_piece(last, PIECE_BYTES, allocator);
    }
    *out = last ? join_pieces(last, used, allocator) : NULL;
    *out_size = used;
    return *out ? NF_OK : nf_fail(NF_ERR_MEMORY, NULL, "no memory for the bytes of %.200s, of which %zu were read", path, used);
}

nf_status nf_read_file(const char *path, const nf_allocator *allocator, unsigned char **bytes, size_t *size, bool *absent) {
    const int saved_errno = errno, fd = open(path, O_RDONLY | O_CLOEXEC);
    nf_status status = NF_OK;
    if (fd >= 0)
        status = read_all(fd, path, allocator, bytes, size);
    else if (absent && errno == ENOENT)
        *absent = true;
    else
        status = io_failure("cannot open", path);
    if (fd >= 0)
        close(fd);
    errno = saved_errno;
    return status;
}

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

static nf_status write_all(int fd, const char *path, const unsigned char *bytes, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t wrote = write(fd, bytes + done, size - done);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            if (wrote == 0)
                errno = EIO;
            return io_failure("cannot write", path);
        }
        done += (size_t)wrote;
    }
    return NF_OK;
}

/* The folder that a path's last component stands in, as a string of its own; NULL when there is no memory. */
static char *folder_of(const char *path, const nf_allocator *allocator) {
    const char *slash = strrchr(path, '/');
    const size_t length = slash ? (size_t)(slash - path) + 1 : 1;
    char *folder = nf_allocate(allocator, length + 1);
    if (folder) {
        memcpy(folder, slash ? path : ".", length);
        folder[length] = '\0';
    }
    return folder;
}

/* After the rename the new file is in place; only the folder's entry may be lost if the machine stops now. */
static nf_status sync_folder(const char *folder, const char *path) {
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd) != 0;
    /* Some file systems cannot sync a folder; there is no more to be done on them. */
    if (failed && fd >= 0 && (errno == EINVAL || errno == EBADF || errno == EROFS || errno == ENOTSUP))
        failed = 0;
    nf_status status = failed ? io_failure("the new file is in place but perhaps not durable: cannot sync the folder of", path) : NF_OK;
    if (fd >= 0)
        close(fd);
    return status;
}

static nf_status write_temporary(int fd, const char *temporary, const char *path, const unsigned char *bytes, size_t size) {
    struct stat old;
    nf_status status = NF_OK;
    /* The mode comes before the bytes, which a killed process may leave here: they are in no file that more may read than could the old one. */
    const bool is_old = stat(path, &old) == 0;
    if (!is_old && errno != ENOENT)
        status = io_failure("cannot look up the mode of", path);
    /* A rename would put the file in the place of a device or a pipe, /dev/null too; it refuses a folder by itself. */
    if (is_old && !S_ISREG(old.st_mode) && !S_ISDIR(old.st_mode))
        status = nf_fail(NF_ERR_IO, NULL, "cannot replace %.200s: it is not a file", path);
    else if (is_old && fchmod(fd, old.st_mode & 07777) != 0)
        status = io_failure("cannot set the mode of", temporary);
    if (status == NF_OK)
        status = write_all(fd, temporary, bytes, size);
    if (status == NF_OK && fsync(fd) != 0)
        status = io_failure("cannot sync", temporary);
    if (close(fd) != 0 && status == NF_OK)
        status = io_failure("cannot close", temporary);
    return status;
}

/* Beside the path, with a name that fits into a folder where the path's own does. */
static void name_temporary(const char *path, size_t folder_length, char *temporary, size_t room) {
    enum { MOST_KEPT = 200 }; /* of the 255 bytes that file systems allow */
    const size_t length = strlen(path), kept = length - folder_length < MOST_KEPT ? length : folder_length + MOST_KEPT;
    snprintf(temporary, room, "%.*s.%ld-%" PRIu64 ".tmp", (int)kept, path, (long)getpid(), nf_unique());
}

static nf_status save_bytes(const char *path, const char *folder, char *temporary, size_t room, const unsigned char *bytes, size_t size) {
    int fd = -1;
    /* A name that nobody else has; a left-over of a killed process makes it take the next. */
    for (int attempt = 0; attempt < 100 && fd < 0; attempt++) {
        name_temporary(path, strchr(path, '/') ? strlen(folder) : 0, temporary, room);
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0)
        return io_failure("cannot create", temporary);
    nf_status status = write_temporary(fd, temporary, path, bytes, size);
    if (status == NF_OK && rename(temporary, path) != 0)
        status = io_failure("cannot rename the new file to", path);
    if (status != NF_OK) {
        unlink(temporary);
        return status;
    }
    return sync_folder(folder, path);
}

nf_status nf_save_atomic(const char *path, const nf_allocator *allocator, const unsigned char *bytes, size_t size) {
    const size_t room = strlen(path) + 64;
    const int saved_errno = errno;
    char *folder = folder_of(path, allocator), *temporary = nf_allocate(allocator, room);
    nf_status status = folder && temporary ? save_bytes(path, folder, temporary, room, bytes, size)
                                           : nf_fail(NF_ERR_MEMORY, NULL, "no memory for the name of a file");
    nf_release(allocator, temporary);
    nf_release(allocator, folder);
    errno = saved_errno;
    return status;
}

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
