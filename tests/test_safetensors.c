/* The safetensors reader and writer: what it must read, and some seventy lies that it must refuse with the right word. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/safetensors.h"
#include "support.h"

static nf_allocator standard(void) { return nf_allocator_or_default(NULL); }

/* Header text and data as a file; the header's length is what is claimed, not what is. */
static unsigned char *file_of(const char *header, size_t header_size, uint64_t claimed, const void *data, size_t data_size, size_t *size) {
    *size = 8 + header_size + data_size;
    unsigned char *bytes = malloc(*size);
    ck_assert_ptr_nonnull(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(claimed >> (8 * i));
    memcpy(bytes + 8, header, header_size);
    if (data_size)
        memcpy(bytes + 8 + header_size, data, data_size);
    return bytes;
}

static nf_status parse_text(const char *header, size_t data_size, nf_st_file **file, unsigned char **kept) {
    static const unsigned char data[64] = {1, 2, 3};
    const nf_allocator a = standard();
    size_t size;
    *kept = file_of(header, strlen(header), strlen(header), data, data_size, &size);
    *file = NULL;
    return nf_st_parse(&a, *kept, size, file);
}

START_TEST(reads_what_it_should) {
    const char *header = "{\"__metadata__\":{\"format\":\"nflow\",\"a\":\"\\u00e9\"},"
                         "\"w\":{\"dtype\":\"F64\",\"shape\":[2,1],\"data_offsets\":[0,16]},"
                         "\"empty\":{\"data_offsets\":[16,16],\"shape\":[0,7],\"dtype\":\"F32\"},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[16,20]}}      ";
    nf_st_file *file;
    unsigned char *bytes;
    ck_assert_int_eq(parse_text(header, 20, &file, &bytes), NF_OK);
    ck_assert_uint_eq(nf_st_count(file), 3);
    ck_assert_str_eq(nf_st_metadata(file, "format"), "nflow");
    ck_assert_str_eq(nf_st_metadata(file, "a"), "\xc3\xa9");
    ck_assert_ptr_null(nf_st_metadata(file, "b"));
    const nf_st_tensor *w = nf_st_find(file, "w"), *b = nf_st_find(file, "b"), *empty = nf_st_find(file, "empty");
    ck_assert(w && b && empty);
    ck_assert_ptr_null(nf_st_find(file, "x"));
    ck_assert_uint_eq(w->rank, 2);
    ck_assert_uint_eq(w->shape[0], 2);
    ck_assert_uint_eq(w->size, 16);
    ck_assert_ptr_eq(w->data, bytes + 8 + strlen(header));
    ck_assert_uint_eq(b->rank, 0);
    ck_assert_uint_eq(b->size, 4);
    ck_assert_uint_eq(empty->size, 0);
    nf_st_free(file);
    free(bytes);
}
END_TEST

/* The header's order is not that of the data. */
START_TEST(reads_tensors_in_any_order) {
    nf_st_file *file;
    unsigned char *bytes;
    ck_assert_int_eq(parse_text("{\"c\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[6,10]},\"a\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[0,2]},"
                                "\"none\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[2,2]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
                                10, &file, &bytes),
                     NF_OK);
    static const char *const order[] = {"a", "none", "b", "c"};
    ck_assert_uint_eq(nf_st_count(file), 4);
    for (size_t i = 0; i < 4; i++)
        ck_assert_str_eq(nf_st_at(file, i)->name, order[i]);
    nf_st_free(file);
    free(bytes);
}
END_TEST

/* Sizes that add up to more than a size can hold are refused before anything is copied; an empty tensor has no bytes to copy. */
START_TEST(writes_no_more_than_memory_holds) {
    const nf_allocator a = standard();
    const unsigned char data[2] = {3, 8};
    nf_st_tensor tensors[] = {{.name = "a", .dtype = "I8", .rank = 1, .shape = {2}, .data = data, .size = 2},
                              {.name = "b", .dtype = "I8", .rank = 1, .shape = {SIZE_MAX}, .data = NULL, .size = SIZE_MAX - 1}};
    unsigned char *bytes = NULL;
    size_t size = 0;
    ck_assert_int_eq(nf_st_write(&a, tensors, 2, NULL, 0, &bytes, &size), NF_ERR_MEMORY);
    ck_assert_ptr_null(bytes);
    tensors[1].shape[0] = tensors[1].size = 0;
    nf_st_file *file;
    ck_assert_int_eq(nf_st_write(&a, tensors, 2, NULL, 0, &bytes, &size), NF_OK);
    ck_assert_int_eq(nf_st_parse(&a, bytes, size, &file), NF_OK);
    ck_assert_uint_eq(nf_st_find(file, "b")->size, 0);
    ck_assert_mem_eq(nf_st_find(file, "a")->data, data, 2);
    nf_st_free(file);
    nf_release(&a, bytes);
}
END_TEST

START_TEST(reads_a_file_without_tensors_and_without_metadata) {
    nf_st_file *file;
    unsigned char *bytes;
    ck_assert_int_eq(parse_text("{}", 0, &file, &bytes), NF_OK);
    ck_assert_uint_eq(nf_st_count(file), 0);
    ck_assert_ptr_null(nf_st_metadata(file, "format"));
    ck_assert_ptr_null(nf_st_find(file, "w"));
    nf_st_free(file);
    free(bytes);
}
END_TEST

#define GOOD "\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]"

/* Headers over `data` bytes, and a piece of the message that each must get. */
static const struct {
    const char *header;
    size_t data;
    const char *says;
} lies[] = {
    {"", 0, "does not begin"},
    {"   {}", 0, "does not begin"},
    {"[]", 0, "does not begin"},
    {"\"w\"", 0, "does not begin"},
    {"{", 0, "bad JSON"},
    {"{}x", 0, "bad JSON"},
    {"{}{}", 0, "bad JSON"},
    {"{\"w\"}", 0, "bad JSON"},
    {"{\"w\":}", 0, "bad JSON"},
    {"{'w':1}", 0, "bad JSON"},
    {"{\"w\":{" GOOD "},}", 16, "bad JSON"},
    {"{\"w\":{" GOOD "} \"v\":1}", 16, "bad JSON"},
    {"{\"\xff\":{" GOOD "}}", 16, "bad JSON"},
    {"{\"\xc0\xaf\":{" GOOD "}}", 16, "bad JSON"},
    {"{\"\xed\xa0\x80\":{" GOOD "}}", 16, "bad JSON"},
    {"{\"a\\u0000b\":{" GOOD "}}", 16, "bad JSON"},
    {"{\"\\ud800\":{" GOOD "}}", 16, "bad JSON"},
    {"{\"w\":{" GOOD "},\"w\":{" GOOD "}}", 16, "duplicate"},
    {"{\"w\":{\"dtype\":\"F64\",\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]}}", 16, "duplicate"},
    {"{\"w\":{" GOOD "},\"\\u0077\":{" GOOD "}}", 16, "duplicate"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[99999999999999999999],\"data_offsets\":[0,16]}}", 16, "bad JSON"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[1e999],\"data_offsets\":[0,16]}}", 16, "bad JSON"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[02],\"data_offsets\":[0,16]}}", 16, "bad JSON"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[NaN],\"data_offsets\":[0,16]}}", 16, "bad JSON"},
    {"{\"\":{" GOOD "}}", 16, "empty name"},
    {"{\"w\":1}", 0, "tensor w: is not an object"},
    {"{\"w\":null}", 0, "tensor w: is not an object"},
    {"{\"w\":[1,2]}", 0, "tensor w: is not an object"},
    {"{\"w\":{}}", 0, "tensor w: dtype is missing"},
    {"{\"w\":{\"shape\":[2],\"data_offsets\":[0,16]}}", 16, "tensor w: dtype is missing"},
    {"{\"w\":{\"dtype\":64,\"shape\":[2],\"data_offsets\":[0,16]}}", 16, "tensor w: dtype is missing or not"},
    {"{\"w\":{\"dtype\":\"F64\",\"data_offsets\":[0,16]}}", 16, "tensor w: shape is missing"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2]}}", 16, "tensor w: data_offsets is missing"},
    {"{\"w\":{" GOOD ",\"more\":1}}", 16, "tensor w: key \"more\""},
    {"{\"w\":{\"dtype\":\"F65\",\"shape\":[2],\"data_offsets\":[0,16]}}", 16, "tensor w: dtype is \"F65\""},
    {"{\"w\":{\"dtype\":\"f64\",\"shape\":[2],\"data_offsets\":[0,16]}}", 16, "tensor w: dtype is \"f64\""},
    {"{\"w\":{\"dtype\":\"\",\"shape\":[2],\"data_offsets\":[0,16]}}", 16, "tensor w: dtype is \"\""},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":2,\"data_offsets\":[0,16]}}", 16, "tensor w: shape is not a list"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":\"2\",\"data_offsets\":[0,16]}}", 16, "tensor w: shape is not a list"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2.0],\"data_offsets\":[0,16]}}", 16, "tensor w: shape[0] is not a count"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2e0],\"data_offsets\":[0,16]}}", 16, "tensor w: shape[0] is not a count"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[-2],\"data_offsets\":[0,16]}}", 16, "tensor w: shape[0] is not a count"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[\"2\"],\"data_offsets\":[0,16]}}", 16, "tensor w: shape[0] is not a count"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[1,null],\"data_offsets\":[0,16]}}", 16, "tensor w: shape[1] is not a count"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,16]}}", 16, "tensor w: has rank 9"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[9223372036854775807,2],\"data_offsets\":[0,16]}}", 16, "tensor w: shape is larger than memory"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "tensor w: shape is larger than memory"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0, "tensor w: shape is larger than memory"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16,16]}}", 16, "tensor w: data_offsets are not two"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0]}}", 16, "tensor w: data_offsets are not two"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":16}}", 16, "tensor w: data_offsets are not two"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16.0]}}", 16, "tensor w: data_offsets are not two"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[-16,0]}}", 16, "tensor w: data_offsets are not two"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[\"0\",16]}}", 16, "tensor w: data_offsets are not two"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,-16]}}", 16, "tensor w: data_offsets are not two"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[16,0]}}", 16, "run backwards"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]}}", 8, "end at 16"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[9223372036854775800,9223372036854775807]}}", 16, "tensor w: data_offsets end"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[3],\"data_offsets\":[0,16]}}", 16, "asks for 24"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,16]}}", 16, "asks for 8"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,16]}}", 16, "asks for 8"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[0,16]}}", 16, "asks for 0"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[8,16]}}", 16, "hole of 8"},
    {"{\"w\":{" GOOD "},\"v\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[24,32]}}", 32, "tensor v: there is a hole of 8"},
    {"{\"w\":{" GOOD "},\"v\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[8,16]}}", 16, "tensor v: its data overlap"},
    {"{\"w\":{" GOOD "},\"v\":{" GOOD "}}", 16, "overlap"},
    {"{\"w\":{" GOOD "}}", 17, "1 bytes after the last"},
    {"{}", 5, "5 bytes after the last"},
    {"{\"__metadata__\":1}", 0, "__metadata__: is not an object"},
    {"{\"__metadata__\":[]}", 0, "__metadata__: is not an object"},
    {"{\"__metadata__\":{\"format\":1}}", 0, "__metadata__: format is not a string"},
    {"{\"__metadata__\":{\"format\":{}}}", 0, "__metadata__: format is not a string"},
    {"{\"w\":{\"dtype\":\"F64\",\"shape\":[[2]],\"data_offsets\":[0,16]}}", 16, "nests deeper"},
    {"{\"w\":[[[[[[[[[[]]]]]]]]]]}", 0, "nests deeper"},
    {"{\"a\":[{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]}", 0,
     "objects and lists"},
};

START_TEST(refuses_a_lie) {
    nf_st_file *file;
    unsigned char *bytes;
    ck_assert_msg(parse_text(lies[_i].header, lies[_i].data, &file, &bytes) == NF_ERR_FORMAT, "accepted: %s", lies[_i].header);
    ck_assert_ptr_null(file);
    ck_assert_msg(strstr(nf_last_error(), lies[_i].says) != NULL, "%s\n  got \"%s\", wanted \"%s\"", lies[_i].header, nf_last_error(),
                  lies[_i].says);
    note_refusal(lies[_i].header, nf_last_error());
    free(bytes);
}
END_TEST

START_TEST(refuses_lengths_that_lie) {
    const nf_allocator a = standard();
    nf_st_file *file = NULL;
    size_t size;
    const uint64_t claims[] = {3, 100, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof claims / sizeof claims[0]; i++) {
        unsigned char *bytes = file_of("{}", 2, claims[i], NULL, 0, &size);
        ck_assert_int_eq(nf_st_parse(&a, bytes, size, &file), NF_ERR_FORMAT);
        ck_assert_msg(strstr(nf_last_error(), "claims") != NULL, "%s", nf_last_error());
        free(bytes);
    }
    for (size_t cut = 0; cut < 8; cut++) {
        const unsigned char few[8] = {2};
        ck_assert_int_eq(nf_st_parse(&a, few, cut, &file), NF_ERR_FORMAT);
        ck_assert_ptr_nonnull(strstr(nf_last_error(), "too few"));
    }
}
END_TEST

static unsigned char *written(size_t *size) {
    static const double w[] = {2.385, -1.7, 0.25};
    static unsigned char data[24];
    nf_le_store_f64(data, w, 3);
    const nf_st_tensor tensors[] = {{.name = "layers.0.w", .dtype = "F64", .rank = 2, .shape = {3, 1}, .data = data, .size = 24},
                                    {.name = "a \"quoted\" name\n", .dtype = "F64", .rank = 1, .shape = {1}, .data = data, .size = 8}};
    const char *const metadata[][2] = {{"format", "nflow"}, {"text", "{\"dim\": 2}"}};
    const nf_allocator a = standard();
    unsigned char *bytes;
    ck_assert_int_eq(nf_st_write(&a, tensors, 2, metadata, 2, &bytes, size), NF_OK);
    return bytes;
}

START_TEST(writes_what_it_reads_and_always_the_same) {
    const nf_allocator a = standard();
    size_t size, again;
    unsigned char *bytes = written(&size), *twin = written(&again);
    ck_assert_uint_eq(size, again);
    ck_assert_mem_eq(bytes, twin, size);
    ck_assert_uint_eq((unsigned)bytes[0] % 8, 0);
    nf_st_file *file;
    ck_assert_int_eq(nf_st_parse(&a, bytes, size, &file), NF_OK);
    ck_assert_str_eq(nf_st_metadata(file, "text"), "{\"dim\": 2}");
    double w[3];
    nf_le_load_f64(w, nf_st_find(file, "layers.0.w")->data, 3);
    ck_assert_double_eq(w[0], 2.385);
    ck_assert_double_eq(w[2], 0.25);
    ck_assert_ptr_nonnull(nf_st_find(file, "a \"quoted\" name\n"));
    nf_st_free(file);
    nf_release(&a, bytes);
    nf_release(&a, twin);
}
END_TEST

START_TEST(no_truncation_and_no_flipped_byte_does_harm) {
    const nf_allocator a = standard();
    size_t size, accepted = 0;
    unsigned char *bytes = written(&size);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *piece = malloc(cut + 1); /* of its own, so that a read beyond it is seen */
        memcpy(piece, bytes, cut);
        nf_st_file *file = NULL;
        ck_assert_int_eq(nf_st_parse(&a, piece, cut, &file), NF_ERR_FORMAT);
        free(piece);
    }
    for (size_t at = 0; at < size; at++)
        for (int bit = 0; bit < 8; bit++) {
            bytes[at] ^= (unsigned char)(1 << bit);
            nf_st_file *file = NULL;
            const nf_status status = nf_st_parse(&a, bytes, size, &file);
            ck_assert(status == NF_OK || status == NF_ERR_FORMAT);
            accepted += status == NF_OK;
            nf_st_free(file);
            bytes[at] ^= (unsigned char)(1 << bit);
        }
    ck_assert_uint_ge(accepted, 32 * 8); /* at least every flip in the data */
    nf_release(&a, bytes);
}
END_TEST

/* An allocator that fails at the n-th call and counts what is not given back. */
typedef struct failing {
    long left, live;
} failing;

static void *failing_alloc(void *user, size_t size) {
    failing *f = user;
    if (f->left-- == 0)
        return NULL;
    f->live++;
    return malloc(size);
}

static void failing_release(void *user, void *pointer) {
    ((failing *)user)->live--;
    free(pointer);
}

START_TEST(each_failed_allocation_is_told_and_leaks_nothing) {
    size_t size;
    unsigned char *bytes = written(&size);
    bool succeeded = false;
    for (long n = 0; n < 20 && !succeeded; n++) {
        failing state = {n, 0};
        const nf_allocator a = {failing_alloc, failing_release, &state};
        nf_st_file *file = NULL;
        const nf_status status = nf_st_parse(&a, bytes, size, &file);
        succeeded = status == NF_OK;
        ck_assert(succeeded || status == NF_ERR_MEMORY);
        nf_st_free(file);
        ck_assert_int_eq(state.live, 0);
    }
    ck_assert(succeeded);
    const nf_allocator a = standard();
    nf_release(&a, bytes);
}
END_TEST

/* Names in no order are found, each its own tensor. (What that costs is counted in test_limits.c.) */
START_TEST(finds_each_of_many_tensors) {
    enum { COUNT = 5000 };
    const nf_allocator a = standard();
    nf_st_tensor *tensors = calloc(COUNT, sizeof *tensors);
    char(*names)[24] = malloc(COUNT * sizeof *names);
    static unsigned char data[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "t%zu", (i * 7919) % COUNT);
        tensors[i] = (nf_st_tensor){.name = names[i], .dtype = "U8", .rank = 1, .shape = {1}, .data = data + i, .size = 1};
        data[i] = (unsigned char)(i % 251);
    }
    unsigned char *bytes;
    size_t size;
    ck_assert_int_eq(nf_st_write(&a, tensors, COUNT, NULL, 0, &bytes, &size), NF_OK);
    nf_st_file *file;
    ck_assert_int_eq(nf_st_parse(&a, bytes, size, &file), NF_OK);
    ck_assert_uint_eq(nf_st_count(file), COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        const nf_st_tensor *found = nf_st_find(file, names[i]);
        ck_assert_ptr_eq(found, nf_st_at(file, i));
        ck_assert_str_eq(found->name, names[i]);
        ck_assert_uint_eq(*found->data, i % 251);
    }
    ck_assert_ptr_null(nf_st_find(file, "t5000"));
    nf_st_free(file);
    nf_release(&a, bytes);
    free(names);
    free(tensors);
}
END_TEST

static Suite *suite(void) {
    Suite *s = suite_create("safetensors");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, reads_what_it_should);
    tcase_add_test(c, reads_tensors_in_any_order);
    tcase_add_test(c, writes_no_more_than_memory_holds);
    tcase_add_test(c, reads_a_file_without_tensors_and_without_metadata);
    tcase_add_loop_test(c, refuses_a_lie, 0, sizeof lies / sizeof lies[0]);
    tcase_add_test(c, refuses_lengths_that_lie);
    tcase_add_test(c, writes_what_it_reads_and_always_the_same);
    tcase_add_test(c, no_truncation_and_no_flipped_byte_does_harm);
    tcase_add_test(c, each_failed_allocation_is_told_and_leaks_nothing);
    tcase_add_test(c, finds_each_of_many_tensors);
    suite_add_tcase(s, c);
    return s;
}

int main(void) {
    return run_suite(suite());
}
