/* NPY files: every element type, order and version that is read, the same bytes back, and headers that lie. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "npy.h"
#include "support.h"

static char message[400];

/* A file with this header text and these data. */
static FILE *npy_file(int version, const char *header, const void *data, size_t size) {
    FILE *file = tmpfile();
    const size_t length = strlen(header);
    ck_assert_ptr_nonnull(file);
    fwrite("\x93NUMPY", 1, 6, file);
    putc(version, file);
    putc(0, file);
    for (size_t i = 0; i < (version == 1 ? 2 : 4); i++)
        putc((int)(length >> 8 * i & 255), file);
    fwrite(header, 1, length, file);
    if (size > 0)
        fwrite(data, 1, size, file);
    rewind(file);
    return file;
}

static bool reads(FILE *file, csv_table *t) {
    const bool good = npy_read(file, "a.npy", t, message, sizeof message);
    fclose(file);
    return good;
}

static const struct {
    const char *type;
    unsigned char bytes[48];
    double values[6];
} types[] = {
    {"<f8", {0x14, 0xae, 0x47, 0xe1, 0x7a, 0x14, 0x03, 0x40}, {2.385, 0, 0, 0, 0, 0}},
    {">f8", {0x40, 0x03, 0x14, 0x7a, 0xe1, 0x47, 0xae, 0x14}, {2.385, 0, 0, 0, 0, 0}},
    {"<f4", {0x00, 0x00, 0x20, 0x40, 0x00, 0x00, 0x8c, 0xc1}, {2.5, -17.5, 0, 0, 0, 0}},
    {">f4", {0x40, 0x20, 0x00, 0x00, 0xc1, 0x8c, 0x00, 0x00}, {2.5, -17.5, 0, 0, 0, 0}},
    {"|i1", {0x7f, 0x80, 0xff, 0x00, 0x05, 0xfb}, {127, -128, -1, 0, 5, -5}},
    {"|u1", {0x7f, 0x80, 0xff, 0x00, 0x05, 0xfb}, {127, 128, 255, 0, 5, 251}},
    {"|b1", {1, 0, 1}, {1, 0, 1, 0, 0, 0}},
    {"<i2", {0x00, 0x80, 0x34, 0x12}, {-32768, 0x1234, 0, 0, 0, 0}},
    {">i2", {0x80, 0x00, 0x12, 0x34}, {-32768, 0x1234, 0, 0, 0, 0}},
    {"<u2", {0x00, 0x80, 0x34, 0x12}, {32768, 0x1234, 0, 0, 0, 0}},
    {"<i4", {0xfe, 0xff, 0xff, 0xff, 7}, {-2, 7, 0, 0, 0, 0}},
    {"<u4", {0xfe, 0xff, 0xff, 0xff, 7}, {4294967294.0, 7, 0, 0, 0, 0}},
    {"<i8", {0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 9}, {-3, 9, 0, 0, 0, 0}},
    {">u8", {0, 0, 0, 0, 0, 0, 1, 2}, {258, 0, 0, 0, 0, 0}},
    {"<i8", {0, 0, 0, 0, 0, 0, 0, 0x80}, {-9223372036854775808.0, 0, 0, 0, 0, 0}},
};

/* Two rows of three, in C and in Fortran order, in each version. */
START_TEST(reads_every_type) {
    const size_t width = (size_t)(types[_i].type[2] - '0');
    for (int version = 1; version <= 3; version++)
        for (int fortran = 0; fortran < 2; fortran++) {
            char header[128];
            csv_table t;
            snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': %s, 'shape': (2, 3), }   \n", types[_i].type,
                     fortran ? "True" : "False");
            ck_assert_msg(reads(npy_file(version, header, types[_i].bytes, 6 * width), &t), "%s", message);
            ck_assert_uint_eq(t.rows, 2);
            ck_assert_uint_eq(t.columns, 3);
            ck_assert_ptr_null(t.names);
            for (size_t r = 0; r < 2; r++)
                for (size_t c = 0; c < 3; c++) {
                    const double wanted = types[_i].values[fortran ? c * 2 + r : r * 3 + c], got = t.values[r * 3 + c];
                    ck_assert_msg(got == wanted, "%s: %.17g for %.17g", types[_i].type, got, wanted);
                }
            csv_free(&t);
        }
}
END_TEST

START_TEST(one_axis_is_one_column) {
    csv_table t;
    const double data[3] = {2.385, NAN, -0.125};
    ck_assert(reads(npy_file(1, "{\"shape\":(3,),\"descr\":\"<f8\",\"fortran_order\":True}", data, sizeof data), &t));
    ck_assert_uint_eq(t.rows, 3);
    ck_assert_uint_eq(t.columns, 1);
    ck_assert_double_eq(t.values[0], 2.385);
    ck_assert_double_eq(t.values[2], -0.125);
    ck_assert_uint_eq(t.faults[0].count, 1);
    ck_assert_uint_eq(t.faults[0].line, 2);
    csv_free(&t);
}
END_TEST

/* As the machine has them. */
START_TEST(native_order_is_the_machines) {
    csv_table t;
    const double data[2] = {2.385, -0.125};
    ck_assert_msg(reads(npy_file(1, "{'descr': '=f8', 'fortran_order': False, 'shape': (2,), }", data, sizeof data), &t), "%s", message);
    same_bits("values", t.values, data, 2);
    csv_free(&t);
}
END_TEST

/* A header is text to its end. */
START_TEST(refuses_a_zero_in_a_header) {
    static const char header[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\0 ";
    csv_table t;
    FILE *file = tmpfile();
    fwrite("\x93NUMPY\1\0", 1, 8, file);
    putc(sizeof header - 1, file);
    putc(0, file);
    fwrite(header, 1, sizeof header - 1, file);
    fwrite((const double[]){2.385}, sizeof(double), 1, file);
    rewind(file);
    ck_assert(!reads(file, &t));
    ck_assert_ptr_nonnull(strstr(message, "it is not text"));
}
END_TEST

#define OK_REST "'fortran_order': False, 'shape': (2, 1), }"
static const struct {
    const char *header, *message;
} bad[] = {
    {"", "not a dictionary"},
    {"{}", "the key 'descr' is missing"},
    {"{'descr': '<f8', 'shape': (2, 1)}", "the key 'fortran_order' is missing"},
    {"{'descr': '<f8', 'fortran_order': False}", "the key 'shape' is missing"},
    {"{'descr': '<f8', 'descr': '<f8', " OK_REST, "'descr' is there twice"},
    {"{'descr': '<f8', 'more': 1, " OK_REST, "'more' is unknown"},
    {"{'descr': '<f8' " OK_REST, "no comma"},
    {"{'descr': '<f8', " OK_REST " x", "there is more behind its dictionary"},
    {"{'descr': [('a', '<f8')], " OK_REST, "arrays of records"},
    {"{'descr': '<c16', " OK_REST, "'<c16' are not read"},
    {"{'descr': '<f2', " OK_REST, "'<f2' are not read"},
    {"{'descr': '|O', " OK_REST, "'|O' are not read"},
    {"{'descr': '<U8', " OK_REST, "'<U8' are not read"},
    {"{'descr': '<f16', " OK_REST, "'<f16' are not read"},
    {"{'descr': '', " OK_REST, "'' are not read"},
    {"{'descr': '<f-8', " OK_REST, "are not read"},
    {"{'descr': '<i3', " OK_REST, "'<i3' are not read"},
    {"{'descr': '|b2', " OK_REST, "'|b2' are not read"},
    {"{'descr': '<f8', 'fortran_order': Maybe, 'shape': (2, 1), }", "neither True nor False"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1, 1), }", "more than two axes"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (), }", "a single number"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': 2, }", "not a tuple"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2 1), }", "not a tuple"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 1), }", "no sensible number"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999, 1), }", "no sensible number"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000000000000, 2000000000000000000), }", "more than any memory holds"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 2), }", "it ends after 2 of the 2000000000000000 numbers"},
    {"{'descr': '<f8', 'fortran_order': True, 'shape': (2, 1000000000000000), }", "it ends after 2 of the 2000000000000000 numbers"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 1), }", "it ends after 2 of the 3 numbers"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }", "there is more behind its array"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3), }", "it has no rows"},
};

START_TEST(refuses_hostile_headers) {
    csv_table t;
    const double data[2] = {2.385, 1.5};
    ck_assert(!reads(npy_file(1, bad[_i].header, data, sizeof data), &t));
    ck_assert_msg(strncmp(message, "a.npy: ", 7) == 0 && strstr(message, bad[_i].message), "\"%s\" for \"%s\"", message, bad[_i].header);
    ck_assert_ptr_null(t.values);
}
END_TEST

/* Every beginning of a good file is refused, in a way that says so. */
START_TEST(refuses_files_that_end_early) {
    char whole[512];
    FILE *file = tmpfile();
    const double values[6] = {1, 2, 3, 4, 5, 6.5};
    npy_write(file, 2, 3, values);
    const long size = ftell(file);
    rewind(file);
    ck_assert_uint_eq(fread(whole, 1, (size_t)size, file), (size_t)size);
    fclose(file);
    for (long length = 1; length < size; length++) {
        csv_table t;
        FILE *part = tmpfile();
        fwrite(whole, 1, (size_t)length, part);
        rewind(part);
        ck_assert(!reads(part, &t));
        ck_assert_ptr_nonnull(strstr(message, " ends "));
    }
    csv_table t;
    ck_assert(!reads(npy_file(4, "{}", NULL, 0), &t));
    ck_assert_ptr_nonnull(strstr(message, "NPY version 4"));
    ck_assert(!reads(npy_file(0, "{}", NULL, 0), &t));
    ck_assert_ptr_nonnull(strstr(message, "NPY version 0"));
}
END_TEST

/* A header of four gigabytes is not waited for. */
START_TEST(refuses_a_header_that_is_too_long) {
    csv_table t;
    FILE *file = tmpfile();
    fwrite("\x93NUMPY\2\0\xff\xff\xff\xff{", 1, 13, file);
    rewind(file);
    ck_assert(!reads(file, &t));
    ck_assert_ptr_nonnull(strstr(message, "header of 4294967295 bytes"));
}
END_TEST

START_TEST(reads_what_it_writes) {
    enum { ROWS = 3000, COLUMNS = 7 };
    random_source random = random_begin(1);
    double *values = new_normals(&random, ROWS * COLUMNS, 1e3);
    FILE *file = tmpfile();
    csv_table t;
    npy_write(file, ROWS, COLUMNS, values);
    ck_assert_int_eq(ftell(file) % 64, (long)(ROWS * COLUMNS * 8 + 128) % 64);
    rewind(file);
    ck_assert_msg(reads(file, &t), "%s", message);
    same_bits("values", t.values, values, ROWS * COLUMNS);
    csv_free(&t);
    free(values);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: npy");
    TCase *tests = tcase_create("npy");
    tcase_add_loop_test(tests, reads_every_type, 0, (int)(sizeof types / sizeof types[0]));
    tcase_add_test(tests, one_axis_is_one_column);
    tcase_add_test(tests, native_order_is_the_machines);
    tcase_add_test(tests, refuses_a_zero_in_a_header);
    tcase_add_loop_test(tests, refuses_hostile_headers, 0, (int)(sizeof bad / sizeof bad[0]));
    tcase_add_test(tests, refuses_files_that_end_early);
    tcase_add_test(tests, refuses_a_header_that_is_too_long);
    tcase_add_test(tests, reads_what_it_writes);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
