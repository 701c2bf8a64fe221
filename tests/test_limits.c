/*
 * What a file may cost. Headers that are built to be slow or large, each at two sizes: the memory at its peak is at most 64 x header + 2 x data + 4 MiB, and the work,
 * counted in allocations, bytes asked for and strings compared, grows as the file does. All memory is counted, jansson's too.
 */
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/safetensors.h"
#include "support.h"

/* ---- memory that counts; each block has its size before it ---- */

static struct {
    size_t live, peak, calls, asked, compared;
} cost;

/* Names are sorted and looked for by comparing them; the library's and jansson's calls come here. */
int strcmp(const char *a, const char *b) {
    cost.compared++;
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return (unsigned char)*a - (unsigned char)*b;
}

int strncmp(const char *a, const char *b, size_t size) {
    cost.compared++;
    size_t i = 0;
    while (i + 1 < size && a[i] && a[i] == b[i])
        i++;
    return size ? (unsigned char)a[i] - (unsigned char)b[i] : 0;
}

#define BEFORE ((size_t)16)

static void *count_alloc(size_t size) {
    unsigned char *block = malloc(size + BEFORE);
    if (!block)
        return NULL;
    memcpy(block, &size, sizeof size);
    cost.live += size;
    cost.peak = cost.live > cost.peak ? cost.live : cost.peak;
    cost.calls++;
    cost.asked += size;
    return block + BEFORE;
}

static void count_free(void *pointer) {
    size_t size;
    if (!pointer)
        return;
    unsigned char *block = (unsigned char *)pointer - BEFORE;
    memcpy(&size, block, sizeof size);
    cost.live -= size;
    free(block);
}

static void *from_user(void *user, size_t size) {
    (void)user;
    return count_alloc(size);
}

static void to_user(void *user, void *pointer) {
    (void)user;
    count_free(pointer);
}

static const nf_allocator counting = {from_user, to_user, NULL};

/* ---- files ---- */

typedef struct text {
    char *at;
    size_t size, room;
} text;

static void put(text *t, const char *piece) {
    const size_t length = strlen(piece);
    if (t->size + length + 1 > t->room) {
        t->room = 2 * (t->size + length + 64);
        t->at = realloc(t->at, t->room);
        ck_assert_ptr_nonnull(t->at);
    }
    memcpy(t->at + t->size, piece, length + 1);
    t->size += length;
}

static void put_many(text *t, const char *piece, size_t count) {
    for (size_t i = 0; i < count; i++)
        put(t, piece);
}

static void put_numbered(text *t, const char *format, size_t number) {
    char piece[256];
    snprintf(piece, sizeof piece, format, number); /* the formats are the literals below */
    put(t, piece);
}

/* The header of a model whose flow has `layers` as its list, quoted. */
static void begin_model(text *t, const char *dim) {
    put(t, "{\"__metadata__\":{\"format\":\"nflow\",\"version\":\"1\",\"flow\":\"{\\\"dim\\\":");
    put(t, dim);
    put(t, ",\\\"context\\\":0,\\\"base\\\":{\\\"type\\\":\\\"normal\\\",\\\"scale\\\":2},\\\"layers\\\":[");
}

static void end_model(text *t) { put(t, "]}\"}}"); }

static void many_planar_layers(text *t, size_t n) {
    begin_model(t, "2");
    put_many(t, "{\\\"type\\\":\\\"planar\\\"},", n);
    put(t, "{\\\"type\\\":\\\"planar\\\"}");
    end_model(t);
}

static void many_hidden_layers(text *t, size_t n) {
    begin_model(t, "2");
    put(t, "{\\\"type\\\":\\\"cnf\\\",\\\"dynamics\\\":\\\"mlp\\\",\\\"activation\\\":\\\"tanh\\\",\\\"t0\\\":0,\\\"t1\\\":1,\\\"hidden\\\":[");
    put_many(t, "1,", n);
    put(t, "1]}");
    end_model(t);
}

static void long_permutation(text *t, size_t n) {
    char dim[32];
    snprintf(dim, sizeof dim, "%zu", n);
    begin_model(t, dim);
    put(t, "{\\\"type\\\":\\\"permutation\\\",\\\"permutation\\\":[0");
    for (size_t i = 1; i < n; i++)
        put_numbered(t, ",%zu", i);
    put(t, "]}");
    end_model(t);
}

static void many_short_permutations(text *t, size_t n) {
    begin_model(t, "1");
    put_many(t, "{\\\"type\\\":\\\"permutation\\\",\\\"permutation\\\":[0]},", n);
    put(t, "{\\\"type\\\":\\\"permutation\\\",\\\"permutation\\\":[0]}");
    end_model(t);
}

static void wide_base(text *t, size_t n) { /* few bytes that ask for much */
    char dim[32];
    snprintf(dim, sizeof dim, "%zu", n * 100000);
    begin_model(t, dim);
    end_model(t);
}

static void wide_layer(text *t, size_t n) {
    char dim[32];
    snprintf(dim, sizeof dim, "%zu", n * 100000);
    begin_model(t, dim);
    put(t, "{\\\"type\\\":\\\"actnorm\\\"}");
    end_model(t);
}

static void many_objects(text *t, size_t n) {
    put(t, "{\"a\":[");
    put_many(t, "{},", n);
    put(t, "{}]}");
}

static void many_empty_tensors(text *t, size_t n) {
    put(t, "{");
    for (size_t i = 0; i < n; i++)
        put_numbered(t, i ? ",\"%zu\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]}" : "\"%zu\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]}", i);
    put(t, "}");
}

/* Tensors that claim to be a layer's, none of which is: each is looked for. */
static void many_strangers(text *t, size_t n) {
    put(t, "{");
    for (size_t i = 0; i < n; i++)
        put_numbered(t, "\"layers.%zu.w\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]},", i);
    put(t, "\"__metadata__\":{\"format\":\"nflow\",\"version\":\"1\",\"flow\":\"{\\\"dim\\\":1,\\\"context\\\":0,\\\"base\\\":{\\\"type\\\":\\\"normal\\\",\\\"scale\\\":1},"
           "\\\"layers\\\":[]}\"}}");
}

static void many_metadata_keys(text *t, size_t n) {
    put(t, "{\"__metadata__\":{");
    for (size_t i = 0; i < n; i++)
        put_numbered(t, "\"%zu\":\"\",", i);
    put(t, "\"format\":\"nflow\",\"version\":\"1\"}}");
}

static void long_numbers(text *t, size_t n) {
    put(t, "{\"w\":{\"dtype\":\"F64\",\"data_offsets\":[0,0],\"shape\":[");
    put_many(t, "0,", n);
    put(t, "0]}}");
}

static void one_digit_after_another(text *t, size_t n) {
    put(t, "{\"w\":{\"dtype\":\"F64\",\"data_offsets\":[0,0],\"shape\":[");
    put_many(t, "1234567890", n);
    put(t, "]}}");
}

static void one_long_name(text *t, size_t n) {
    put(t, "{\"");
    put_many(t, "abcdefghijklmnop", n);
    put(t, "\":1}");
}

static void escapes(text *t, size_t n) {
    put(t, "{\"__metadata__\":{\"format\":\"");
    put_many(t, "\\u00e9", n);
    put(t, "\"}}");
}

static void deep(text *t, size_t n) {
    put(t, "{\"a\":");
    put_many(t, "[", n);
}

static void spaces(text *t, size_t n) {
    put(t, "{");
    put_many(t, "                ", n);
    put(t, "}");
}

static const struct shape {
    const char *name;
    void (*build)(text *, size_t n);
    bool loads, compares;
} shapes[] = {
    {"planar layers", many_planar_layers, false, false},
    {"hidden layers", many_hidden_layers, false, false},
    {"a long permutation", long_permutation, true, false},
    {"short permutations", many_short_permutations, true, false},
    {"a wide base", wide_base, false, false},
    {"a wide layer", wide_layer, false, false},
    {"objects", many_objects, false, false},
    {"empty tensors", many_empty_tensors, false, true},
    {"strangers", many_strangers, false, true},
    {"metadata", many_metadata_keys, false, false},
    {"a long shape", long_numbers, false, false},
    {"a long number", one_digit_after_another, false, false},
    {"a long name", one_long_name, false, false},
    {"escapes", escapes, false, false},
    {"deep lists", deep, false, false},
    {"spaces", spaces, false, false},
};

static unsigned char *file_of(const text *header, size_t data, size_t *size) {
    *size = 8 + header->size + data;
    unsigned char *bytes = new_bytes(*size);
    memset(bytes, 0, *size);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((unsigned long long)header->size >> (8 * i));
    memcpy(bytes + 8, header->at, header->size);
    return bytes;
}

/* The work of one load, and the header's size. */
typedef struct work {
    size_t header, calls, asked, compared;
} work;

static work load_cost(const struct shape *s, size_t n) {
    text header = {NULL, 0, 0};
    size_t size;
    nf_flow *flow;
    s->build(&header, n);
    unsigned char *bytes = file_of(&header, 0, &size);
    memset(&cost, 0, sizeof cost);
    const nf_status status = nf_flow_load_memory_with(bytes, size, &flow, &counting);
    const work done = {header.size, cost.calls, cost.asked, cost.compared};
    ck_assert_msg(status == (s->loads ? NF_OK : NF_ERR_FORMAT), "%s: %s, %s", s->name, nf_status_name(status), nf_last_error());
    ck_assert_msg(cost.peak <= 64 * header.size + (4u << 20), "%s: a header of %zu bytes takes %zu at the peak, %.1f times as many", s->name, header.size, cost.peak,
                  (double)cost.peak / (double)header.size);
    nf_flow_free(flow);
    ck_assert_uint_eq(cost.live, 0);
    free(bytes);
    free(header.at);
    return done;
}

/* What is not linear, a sort's n log n comparisons, is far from the square, which would be 8 times as much again. */
START_TEST(memory_is_bounded_and_work_is_linear) {
    const size_t small = is_brief() ? 2500 : 20000;
    const struct shape *s = &shapes[_i];
    json_set_alloc_funcs(count_alloc, count_free);
    const work a = load_cost(s, small), b = load_cost(s, 8 * small);
    json_set_alloc_funcs(malloc, free);
    const double growth = (double)b.header / (double)a.header;
    ck_assert_msg((double)b.calls <= 1.3 * growth * (double)a.calls + 1000 && (double)b.asked <= 2.5 * growth * (double)a.asked + 1e5 &&
                      (double)b.compared <= 2 * growth * (double)a.compared + 1000,
                  "%s: %.1f times the header, %zu and %zu allocations of %zu and %zu bytes in all, %zu and %zu comparisons", s->name, growth, a.calls, b.calls,
                  a.asked, b.asked, a.compared, b.compared);
    if (s->compares)
        ck_assert_uint_gt(a.compared, small); /* so that they are counted */
}
END_TEST

typedef struct pipe_end {
    const char *path;
    const void *bytes;
    size_t size, written;
} pipe_end;

/* A thread: writes all bytes into a pipe. */
static void *write_pipe(void *user) {
    pipe_end *end = user;
    FILE *pipe = fopen(end->path, "wb");
    if (pipe) {
        end->written = fwrite(end->bytes, 1, end->size, pipe);
        fclose(pipe);
    }
    return NULL;
}

/* A whole model, where most bytes are data: the file's bytes and the parameters; of a pipe, whose size shows at its end, no more than that. */
START_TEST(data_are_held_once) {
    nf_flow *flow = NULL, *loaded;
    void *bytes;
    size_t size;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 8, .couplings = 2, .hidden_width = 1024, .seed = 2, .precision = _i % 2 ? NF_SINGLE : NF_DOUBLE), &flow));
    must(nf_flow_save_memory(flow, &bytes, &size));
    unsigned long long header = 0;
    for (size_t i = 0; i < 8; i++)
        header |= (unsigned long long)((unsigned char *)bytes)[i] << (8 * i);
    char path[300];
    snprintf(path, sizeof path, "%s/nflow-limits-%ld-%d", scratch_folder(), (long)getpid(), _i);
    const bool piped = _i >= 2;
    pipe_end end = {path, bytes, size, 0};
    pthread_t writer;
    if (piped) {
        ck_assert_int_eq(mkfifo(path, 0600), 0);
        ck_assert_int_eq(pthread_create(&writer, NULL, write_pipe, &end), 0);
    } else {
        must(nf_flow_save(flow, path));
    }
    json_set_alloc_funcs(count_alloc, count_free);
    memset(&cost, 0, sizeof cost);
    must(nf_flow_load_with(path, &loaded, &counting));
    json_set_alloc_funcs(malloc, free);
    const size_t data = size - 8 - (size_t)header;
    ck_assert_uint_gt(data, 8u << 20);
    ck_assert_msg(cost.peak <= 64 * (size_t)header + 2 * data + (4u << 20), "a header of %llu bytes and %zu of data take %zu at the peak", header, data, cost.peak);
    ck_assert_uint_ge(cost.peak, 2 * data);
    nf_flow_free(loaded);
    ck_assert_uint_eq(cost.live, 0);
    if (piped)
        ck_assert(pthread_join(writer, NULL) == 0 && end.written == size);
    remove(path);
    nf_free(bytes);
    nf_flow_free(flow);
}
END_TEST

/* Of several pieces, some are there when memory ends: no allocation of a pipe's bytes leaks another. Jansson has its own. */
START_TEST(memory_may_end_within_a_pipe) {
    nf_flow *flow = NULL, *loaded = NULL;
    pipe_end end = {.path = NULL};
    char path[300];
    void *bytes;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 8, .couplings = 2, .hidden_width = 512, .seed = 2), &flow));
    must(nf_flow_save_memory(flow, &bytes, &end.size));
    ck_assert_uint_gt(end.size, 3u << 20);
    snprintf(path, sizeof path, "%s/nflow-limits-%ld", scratch_folder(), (long)getpid());
    end.path = path;
    end.bytes = bytes;
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    signal(SIGPIPE, SIG_IGN); /* the reader breaks off */
    nf_status status = NF_ERR_MEMORY;
    size_t fail_at = 0;
    while (status != NF_OK) {
        memory_counter counter;
        const nf_allocator allocator = counted_memory(&counter);
        counter.fail_at = ++fail_at;
        pthread_t writer;
        ck_assert_int_eq(pthread_create(&writer, NULL, write_pipe, &end), 0);
        status = nf_flow_load_with(path, &loaded, &allocator);
        ck_assert_int_eq(pthread_join(writer, NULL), 0);
        ck_assert_msg(status == NF_OK || status == NF_ERR_MEMORY, "allocation %zu: %s", fail_at, nf_last_error());
        nf_flow_free(loaded);
        ck_assert_msg(counter.live == 0 && !counter.wrong, "allocation %zu: %zu live", fail_at, counter.live);
    }
    ck_assert_uint_gt(fail_at, 10);
    signal(SIGPIPE, SIG_DFL);
    remove(path);
    nf_free(bytes);
    nf_flow_free(flow);
}
END_TEST

/* ---- jansson's memory runs out, at each of its allocations in turn ---- */

static size_t json_calls, json_fails_at;

static void *failing_alloc(size_t size) { return ++json_calls == json_fails_at ? NULL : count_alloc(size); }

static nf_flow *varied_flow(void) {
    nf_flow *flow, *part;
    const double mean[] = {0.5, -1}, sd[] = {2, 0.385};
    const size_t source[] = {1, 0};
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .context_dim = 1, .couplings = 2, .hidden_width = 3, .seed = 9, .precision = NF_SINGLE), &flow));
    must(nf_permutation_create(2, source, NF_SINGLE, &part));
    must(nf_flow_invert(part));
    must(nf_flow_append(flow, part));
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .hidden_width = 3, .dynamics = NF_DYNAMICS_HYPER, .seed = 8, .precision = NF_SINGLE), &part));
    must(nf_flow_append(flow, part));
    must(nf_flow_set_base_normal(flow, mean, sd));
    return flow;
}

/* Of saving. Reading cannot be promised: jansson 2.14 takes its own want of memory within a string for bad JSON, and an assertion of its own may end the process. */
START_TEST(jansson_may_have_no_memory) {
    nf_flow *flow = varied_flow();
    if (_i)
        must(nf_flow_set_base_normal(flow, NULL, (const double[]){2.385, 2.385}));
    void *bytes, *again;
    size_t size, again_size, n = 0;
    must(nf_flow_save_memory(flow, &bytes, &size));
    do {
        memset(&cost, 0, sizeof cost);
        json_calls = 0;
        json_fails_at = ++n;
        again = NULL;
        json_set_alloc_funcs(failing_alloc, count_free);
        const nf_status status = nf_flow_save_memory(flow, &again, &again_size);
        json_set_alloc_funcs(malloc, free);
        ck_assert_msg(status == NF_OK || status == NF_ERR_MEMORY, "allocation %zu: %s, %s", n, nf_status_name(status), nf_last_error());
        ck_assert_msg(cost.live == 0 && (status == NF_OK) == (again != NULL), "allocation %zu leaves %zu bytes", n, cost.live);
        ck_assert(!again || (again_size == size && memcmp(again, bytes, size) == 0));
        nf_free(again);
    } while (json_calls >= n);
    ck_assert_uint_gt(n, 20);
    nf_free(bytes);
    nf_flow_free(flow);
}
END_TEST

/* Where jansson cannot even begin, on the header or on the flow's text, it is told from bad JSON. */
START_TEST(jansson_may_not_begin) {
    nf_flow *flow = varied_flow(), *loaded = NULL;
    nf_st_file *file = NULL;
    void *bytes;
    size_t size;
    must(nf_flow_save_memory(flow, &bytes, &size));
    json_calls = json_fails_at = 0;
    json_set_alloc_funcs(failing_alloc, count_free);
    must(nf_st_parse(&counting, bytes, size, &file));
    nf_st_free(file);
    const size_t of_header = json_calls;
    static const char *const says[] = {"no memory for the JSON of the header", "no memory for the JSON of the flow"};
    for (size_t k = 0; k < 2; k++) {
        json_calls = 0;
        json_fails_at = k ? of_header + 1 : 1;
        must_be(NF_ERR_MEMORY, nf_flow_load_memory(bytes, size, &loaded));
        must_say("nf_flow_load_memory", says[k]);
        ck_assert_ptr_null(loaded);
    }
    json_set_alloc_funcs(malloc, free);
    nf_free(bytes);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("limits of files");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, memory_is_bounded_and_work_is_linear, 0, (int)(sizeof shapes / sizeof shapes[0]));
    tcase_add_loop_test(c, data_are_held_once, 0, 4);
    tcase_add_test(c, memory_may_end_within_a_pipe);
    tcase_add_loop_test(c, jansson_may_have_no_memory, 0, 2);
    tcase_add_test(c, jansson_may_not_begin);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
