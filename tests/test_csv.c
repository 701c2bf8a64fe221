/* The CSV reader of the examples: what it takes, and what it says of what it does not take. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "csv.h"
#include "support.h"

static char path[128];

static void setup(void) { make_scratch_file(path, sizeof path, "csv"); }

static void teardown(void) { unlink(path); }

static void put(const char *text, size_t length) {
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(text, 1, length, file), length);
    ck_assert_int_eq(fclose(file), 0);
}

/* All of these hold the same two rows. */
static const struct {
    const char *text;
    const char *first_name; /* NULL: no names */
} good[] = {
    {"2.385,-1.75e1\n0.125,3\n", NULL},
    {"2.385,-1.75e1\n0.125,3", NULL},
    {"x,y\n2.385,-17.5\n.125,+3.\n", "x"},
    {"\"a, b\",y\n2.385,-17.5\n0.125,3\n", "a, b"},
    {"x;y\r\n2.385;-17.5\r\n0.125;3\r\n", "x"},
    {"x\ty\n2.385\t-17.5\n0.125\t3\n", "x"},
    {"x y\n2.385   -17.5\n  0.125 3  \n", "x"},
    {"# two rows\n\n 2.385 , -17.5 \n\n0.125, 3\n\n", NULL},
    {"\xef\xbb\xbfx,y\n2.385,-17.5\n0.125,3\n", "x"},
    {"x,y\r2.385,-17.5\r0.125,3\r", "x"},
    {"x,\"\"\n\"2.385\",\"-17.5\"\n0.125,3\n", "x"},
    {"\"a \"\"b\"\", c\",y\n\"2.385\" ,-17.5\n0.125, \"3\"  \n", "a \"b\", c"},
    {"\"\"\"\"\"\",\"\"\"\"\n2.385,-17.5\n0.125,3\n", "\"\""},
    {"\"a;\tb\" , y\n2.385,-17.5\n0.125,3\n", "a;\tb"},
    {"\"a\"\t\"b\"\n2.385\t\"-17.5\" \n\"0.125\" \t3\n", "a"},
    {"\"a, b\" \"c;d\"\n\"2.385\" -17.5\n0.125 3\n", "a, b"},
    {"5\",y\n2.385,-17.5\n0.125,3\n", "5\""},
    /* Lines within quotes. */
    {"\"a\nb\",y\n2.385,-17.5\n0.125,3\n", "a b"},
    {"\xef\xbb\xbf\"a\r\nb\r\n\r\nc\",y\r\n2.385,-17.5\r\n0.125,3\r\n", "a b  c"},
    {"\"a\rb\"\"\n\",y\r2.385,-17.5\r0.125,3\r", "a b\""},
    {"x;\"y\n\" \n2.385;-17.5\n0.125;3\n", "x"},
    {"\"a \nb\"\t\"c\n\nd\"\n2.385\t\"-17.5\n\"\n\"\n0.125\"\t3\n", "a  b"},
    {"\"a\n# b\" \"c\"\n2.385 -17.5\n0.125 \"3\n\"", "a # b"},
    {"# \"\nx,y\n2.385,-17.5\n# \"\n0.125,3\n", "x"},
    {"\"a,y\n2.385,-17.5\n0.125,3\n", "\"a"},
    {"\"a,y\n\"2.385\",-17.5\n0.125,\"3\"\n", "\"a"},
};

START_TEST(takes_what_is_a_table) {
    csv_table table;
    char message[256] = "";
    put(good[_i].text, strlen(good[_i].text));
    ck_assert_msg(csv_read(path, &table, message, sizeof message), "%s", message);
    ck_assert_uint_eq(table.rows, 2);
    ck_assert_uint_eq(table.columns, 2);
    const double expected[4] = {2.385, -17.5, 0.125, 3};
    ck_assert_mem_eq(table.values, expected, sizeof expected);
    if (good[_i].first_name)
        ck_assert_str_eq(table.names[0], good[_i].first_name);
    else
        ck_assert_ptr_null(table.names);
    csv_free(&table);
    ck_assert_ptr_null(table.values);
}
END_TEST

static const struct {
    const char *text, *message;
} bad[] = {
    {"", "it has no rows"},
    {"\n# nothing\n \n", "it has no rows"},
    {"x,y\n", "it has no rows, only a line of names"},
    {"x,y\n1.5,2\n3.5\n", "line 3 has 1 column, and the first line has 2"},
    {"1.5,2\n3.5,4,5\n", "line 2 has 3 columns, and the first line has 2"},
    {"1.5,2\n3.5,4,\n", "line 2 has 3 columns, and the first line has 2"},
    {"1.5,2\r\n\r\n3.5,abc\r\n", "line 3, column 2: \"abc\" is not a number"},
    {"x,depth\n1.5,2\n3.5,4.5m\n", "line 3, column 2 (depth): \"4.5m\" is not a number"},
    {"1.5,2\n3.5,\n", "line 2, column 2 is empty"},
    {"x,depth\n,2\n", "line 2, column 1 (x) is empty"},
    {"x,2.5\n1,2\n", "line 1, column 1: \"x\" is not a number"},
    {"1.5,2\n3.5,nan\n", "line 2, column 2: \"nan\" is not a number"},
    {"nan,inf\n3.5,1\n", "line 1, column 1: \"nan\" is not a number"},
    {"1.5,2\n3.5,-inf\n", "line 2, column 2: \"-inf\" is not a number"},
    {"1.5,2\n3.5,0x1p3\n", "line 2, column 2: \"0x1p3\" is not a number"},
    {"1.5,2\n3.5,1e999\n", "line 2, column 2: 1e999 is too large"},
    {"1.5,2\n3.5,1 2\n", "line 2, column 2: \"1 2\" is not a number"},
    {"1.5,2\n3.5,\"1\"2\n", "line 2, column 2: \"\"1\"2\" is not a number"},
    {"x;y\n1,5;2\n", "line 2, column 1 (x): \"1,5\" is not a number"},
    {"\"x\ny\",z\n1,2\n\"3\n4\",5\n", "line 4, column 1 (x y): \"3 4\" is not a number"},
    {"x,\"y\n\nz\"\n1,2\n3\n", "line 5 has 1 column, and the first line has 2"},
    {"x,\"y\r\nz\"\r\n1,2\r\n3\r\n", "line 4 has 1 column, and the first line has 2"},
    {"x,y,z\n1,\"a\nb\",\"c\n2,3,4\n", "line 2, column 2 (y): \"a b\" is not a number"},
    {"x\n\xef\xbb\xbf" "1\n", "line 2, column 1 (x): \"\xef\xbb\xbf" "1\" is not a number"},
    {"x\ty\tz\n1\t\t3\n", "line 2, column 2 (y) is empty"},
    {"x,y\n1,\"2\n3\"4,5\n", "line 2, column 2 (y): \"\"2\" is not a number"},
};

START_TEST(says_what_is_not) {
    csv_table table;
    char message[256] = "", expected[256];
    put(bad[_i].text, strlen(bad[_i].text));
    ck_assert_msg(!csv_read(path, &table, message, sizeof message), "this was taken: %s", bad[_i].text);
    snprintf(expected, sizeof expected, "%s: %s", path, bad[_i].message);
    ck_assert_str_eq(message, expected);
    ck_assert_ptr_null(table.values);
    ck_assert_ptr_null(table.names);
}
END_TEST

START_TEST(refuses_bytes_and_missing_files) {
    csv_table table;
    char message[256] = "";
    put("1,2\n3,\0", 7);
    ck_assert(!csv_read(path, &table, message, sizeof message));
    ck_assert_ptr_nonnull(strstr(message, "this is not text: byte 6 is 0"));
    ck_assert(!csv_read("/nonexistent/file.csv", &table, message, sizeof message));
    ck_assert_str_eq(message, "/nonexistent/file.csv: No such file or directory");
    ck_assert(!csv_read("/", &table, message, sizeof message));
    ck_assert_str_eq(message, "/: Is a directory");
    ck_assert(!csv_write("/nonexistent/file.csv", 1, 1, (const double[]){2.5}, NULL, message, sizeof message));
    ck_assert_str_eq(message, "/nonexistent/file.csv: No such file or directory");
}
END_TEST

/* A disk that is full is noticed. */
START_TEST(notices_a_full_disk) {
    char message[256] = "";
    if (access("/dev/full", W_OK) != 0)
        return;
    ck_assert(!csv_write("/dev/full", 1, 1, (const double[]){2.5}, NULL, message, sizeof message));
    ck_assert_str_eq(message, "/dev/full: No space left on device");
}
END_TEST

START_TEST(reads_what_it_writes) {
    enum { ROWS = 3000, COLUMNS = 7 };
    double *values = malloc(ROWS * COLUMNS * sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        values[i] = sin(2.385 * (double)i) * pow(10.0, (double)(i % 600) - 300.0);
    const char *const names[COLUMNS] = {"a, \"b\"", "", "#c", "d e", "it's \"f\"", "\"1e;\t\"", "g"};
    char message[256] = "";
    csv_table table;
    for (int with_names = 0; with_names < 2; with_names++) {
        ck_assert_msg(csv_write(path, ROWS, COLUMNS, values, with_names ? names : NULL, message, sizeof message), "%s", message);
        ck_assert_msg(csv_read(path, &table, message, sizeof message), "%s", message);
        ck_assert_uint_eq(table.rows, ROWS);
        ck_assert_uint_eq(table.columns, COLUMNS);
        ck_assert_mem_eq(table.values, values, ROWS * COLUMNS * sizeof *values);
        ck_assert_int_eq(table.names != NULL, with_names);
        for (size_t i = 0; with_names && i < COLUMNS; i++)
            ck_assert_str_eq(table.names[i], names[i]);
        csv_free(&table);
    }
    free(values);
}
END_TEST

/* Without anything between columns to tell them by. */
START_TEST(reads_one_column_that_it_writes) {
    static const char *const names[] = {"my value", "", "a, b", "c;d e", "\"f\" g", "5\"", "\xef\xbb\xbfx", "\xef\xbb\xbf", "#c"};
    const double values[] = {2.385, -17.5};
    char message[256] = "";
    csv_table table;
    ck_assert_msg(csv_write(path, 2, 1, values, &names[_i], message, sizeof message), "%s", message);
    ck_assert_msg(csv_read(path, &table, message, sizeof message), "%s", message);
    ck_assert_uint_eq(table.rows, 2);
    ck_assert_uint_eq(table.columns, 1);
    ck_assert_str_eq(table.names[0], names[_i]);
    csv_free(&table);
}
END_TEST

/* Text with lines in it, longer than what is read at a time: each row stays one, and the line numbers are the file's. */
START_TEST(keeps_rows_with_lines_in_them) {
    enum { ROWS = 4000 };
    char message[256] = "";
    csv_table table;
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs("id,note,x\n", file);
    for (int i = 0; i < ROWS; i++)
        fprintf(file, "%d,\"%*d said \"\"yes, no\"\"\r\n,\n\",%d.5\n", i, i % 97, i, i);
    fclose(file);
    file = fopen(path, "rb");
    ck_assert_msg(csv_read_lenient(file, path, &table, message, sizeof message), "%s", message);
    fclose(file);
    ck_assert_uint_eq(table.rows, ROWS);
    ck_assert_uint_eq(table.columns, 3);
    for (size_t i = 0; i < ROWS; i++) {
        ck_assert(table.values[3 * i] == (double)i);
        ck_assert(table.values[3 * i + 2] == (double)i + .5);
    }
    ck_assert_uint_eq(table.faults[1].count, ROWS);
    ck_assert_uint_eq(table.faults[1].line, 2);
    ck_assert_str_eq(table.faults[1].text, "0 said \"yes, no\" ,");
    csv_free(&table);
    ck_assert(!csv_read(path, &table, message, sizeof message));
    ck_assert_ptr_nonnull(strstr(message, "line 2, column 2 (note): \"0 said"));
}
END_TEST

static Suite *csv_suite(void) {
    Suite *suite = suite_create("csv");
    TCase *tests = tcase_create("csv");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, takes_what_is_a_table, 0, (int)(sizeof good / sizeof good[0]));
    tcase_add_loop_test(tests, says_what_is_not, 0, (int)(sizeof bad / sizeof bad[0]));
    tcase_add_test(tests, refuses_bytes_and_missing_files);
    tcase_add_test(tests, notices_a_full_disk);
    tcase_add_test(tests, reads_what_it_writes);
    tcase_add_test(tests, keeps_rows_with_lines_in_them);
    tcase_add_loop_test(tests, reads_one_column_that_it_writes, 0, 9);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void) {
    return run_suite(csv_suite());
}
