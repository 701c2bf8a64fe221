/* Tables as the command reads them: columns by name and number, text columns, rows that are left out, pieces of a long file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"
#include "table.h"

static char path[300], message[600];
static table t;

static void setup(void) { make_scratch_file(path, sizeof path, "table"); }

static void teardown(void) { unlink(path); }

static void put(const char *text) {
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_msg(table_read(path, &t, message, sizeof message), "%s", message);
}

static void must_find(const char *list, size_t wanted, const size_t *columns) {
    size_t *index, count;
    ck_assert_msg(table_find(&t, list, &index, &count, message, sizeof message), "%s: %s", list, message);
    ck_assert_uint_eq(count, wanted);
    for (size_t i = 0; i < count; i++)
        ck_assert_uint_eq(index[i], columns[i]);
    free(index);
}

static void must_not_find(const char *list, const char *said) {
    size_t *index, count;
    ck_assert(!table_find(&t, list, &index, &count, message, sizeof message));
    ck_assert_ptr_null(index);
    ck_assert_msg(strstr(message, said), "%s: \"%s\"", list, message);
}

START_TEST(finds_columns) {
    put("a,b,c,2\n1,2,3,4\n");
    ck_assert_uint_eq(t.data.rows, 2); /* a name that is a number makes the line a row: no names */
    must_not_find("a", "there is no column \"a\"; it has 4 without names, so say 1 to 4");
    table_free(&t);
    put("a,b,c d,e\n1,2,3,4\n");
    must_find("a,e", 2, (const size_t[]){0, 3});
    must_find("c d,1", 2, (const size_t[]){2, 0});
    must_find("2-4", 3, (const size_t[]){1, 2, 3});
    must_not_find("a,1", "asked for twice");
    must_not_find("0", "there is no column \"0\"; it has a, b, c d, e");
    must_not_find("5", "there is no column \"5\"");
    must_not_find("3-2", "there is no column \"3-2\"");
    must_not_find("", "there is no column \"\"");
    must_not_find("A", "there is no column \"A\"");
    table_free(&t);
    char names[350];
    snprintf(names, sizeof names, "%0300d_,b,\n1,2,3\n", 0);
    put(names);
    snprintf(names, sizeof names, "there is no column \"A\"; it has %060d, b, x3", 0);
    must_not_find("A", names);
    table_free(&t);
}
END_TEST

/* As many as the table has columns, whatever its names. */
START_TEST(gives_columns_different_names) {
    size_t column;
    put("1,2\n");
    ck_assert_ptr_null(t.names);
    ck_assert_uint_eq(table_named(&t, "x1", &column), 0);
    table_free(&t);
    put(",x1,b,a,x4,a,x4_\n1,2,3,4,5,6,7\n");
    const char *const names[] = {"x1_", "x1", "b", "x4__", "x4", "x6", "x4_"};
    for (size_t i = 0; i < 7; i++) {
        ck_assert_str_eq(t.names[i], names[i]);
        ck_assert_uint_eq(table_named(&t, names[i], &column), 1);
        ck_assert_uint_eq(column, i);
    }
    ck_assert_uint_eq(table_named(&t, "a", &column), 2);
    must_find("x6,x1_,x1", 3, (const size_t[]){5, 0, 1});
    must_not_find("a", "more than one column is called \"a\": say which one by its number");
    table_free(&t);
    put("y,a,y\n1,2,3\n");
    ck_assert_str_eq(t.names[0], "x1");
    ck_assert_str_eq(t.names[2], "x3");
    table_free(&t);
}
END_TEST

START_TEST(text_matters_only_where_it_is_used) {
    const size_t numbers[] = {0, 2}, text[] = {1}, part[] = {3};
    put("a,cut,c,d\n1,Ideal,3,4\n5,Good,6,oops\n7,,8,9\n");
    ck_assert(table_check(&t, numbers, 2, message, sizeof message));
    ck_assert(!table_check(&t, text, 1, message, sizeof message));
    ck_assert_msg(
        strstr(
            message,
            ": line 2, column 2 (cut) is \"Ideal\", not a number: leave the column out with --columns, or such rows with --drop-missing"),
        "%s", message);
    ck_assert_uint_eq(t.data.faults[1].count, 3);
    ck_assert(!table_check(&t, part, 1, message, sizeof message));
    ck_assert_ptr_nonnull(strstr(message, "line 3, column 4 (d) is \"oops\""));
    ck_assert_uint_eq(table_drop(&t, part, 1), 1);
    ck_assert_uint_eq(t.data.rows, 2);
    ck_assert_uint_eq(t.numbers[1], 3);
    ck_assert(table_check(&t, part, 1, message, sizeof message));
    double *taken = table_take(&t, (const size_t[]){3, 0}, 2);
    const double wanted[] = {4, 1, 9, 7};
    same_bits("rows that are left", taken, wanted, 4);
    free(taken);
    table_free(&t);
}
END_TEST

/* Rows are told by their numbers in the file, however often some are left out. */
START_TEST(drops_rows_twice) {
    put("a,b\n1,2\n,4\n5,6\n7,\n9,10\n");
    ck_assert_uint_eq(table_drop(&t, (const size_t[]){0}, 1), 1);
    ck_assert_uint_eq(table_drop(&t, (const size_t[]){1}, 1), 1);
    ck_assert_uint_eq(table_drop(&t, (const size_t[]){0, 1}, 2), 0);
    ck_assert_uint_eq(t.data.rows, 3);
    const size_t numbers[] = {1, 3, 5};
    ck_assert_mem_eq(t.numbers, numbers, sizeof numbers);
    table_free(&t);
}
END_TEST

START_TEST(takes_all_columns_in_another_order) {
    put("1,2\n3,4\n");
    double *taken = table_take(&t, (const size_t[]){1, 0}, 2);
    same_bits("columns in turn", taken, (const double[]){2, 1, 4, 3}, 4);
    free(taken);
    table_free(&t);
}
END_TEST

START_TEST(takes_the_whole_table_without_a_copy) {
    put("1,2\n3,4\n");
    const double *before = t.data.values;
    double *taken = table_take(&t, (const size_t[]){0, 1}, 2);
    ck_assert_ptr_eq(taken, before);
    free(taken);
    table_free(&t);
}
END_TEST

/* Lines of all lengths lie across the ends of the reader's pieces, with each kind of line end. */
START_TEST(long_files_come_in_pieces) {
    static const char *const ends[] = {"\n", "\r\n", "\r"};
    enum { ROWS = 40000 };
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    fputs("row,square", file);
    fputs(ends[_i], file);
    for (int i = 0; i < ROWS; i++)
        fprintf(file, "%d,%*d%s", i, i % 13, i % 1000 * 7, ends[_i]);
    fputs("0,none", file);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_msg(table_read(path, &t, message, sizeof message), "%s", message);
    ck_assert_uint_eq(t.data.rows, ROWS + 1);
    for (int i = 0; i < ROWS; i++) {
        ck_assert_double_eq(t.data.values[2 * i], i);
        ck_assert_double_eq(t.data.values[2 * i + 1], i % 1000 * 7);
    }
    ck_assert_uint_eq(t.data.faults[1].line, ROWS + 2);
    table_free(&t);
}
END_TEST

START_TEST(names_the_file_that_is_missing) {
    ck_assert(!table_read("/nonexistent/a.csv", &t, message, sizeof message));
    ck_assert_str_eq(message, "/nonexistent/a.csv: No such file or directory");
    put("1\n");
    table_free(&t);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    fclose(file);
    ck_assert(!table_read(path, &t, message, sizeof message));
    ck_assert_ptr_nonnull(strstr(message, "it has no rows"));
}
END_TEST

static void must_write(const table_output *output, size_t rows, const double *values, const char *const *names, const char *wanted) {
    char text[300] = "";
    table_write(output, rows, 2, values, names);
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_gt(fread(text, 1, sizeof text - 1, file), 0);
    fclose(file);
    ck_assert_str_eq(text, wanted);
}

START_TEST(writes_tables_at_the_edge) {
    const table_output json = {.path = path, .format = -1, .json = true}, exact = {.path = path, .format = TABLE_CSV, .digits = 40};
    must_write(&json, 0, NULL, (const char *const[]){"a", "b"}, "{\"columns\": [\"a\", \"b\"], \"rows\": []}\n");
    must_write(&json, 1, (const double[]){1, 2}, (const char *const[]){"\xff", "b"}, "{\"columns\": [null, \"b\"], \"rows\": [\n[1, 2]\n]}\n");
    must_write(&exact, 1, (const double[]){0.1, 2}, (const char *const[]){"a", "b"}, "a,b\n0.10000000000000001,2\n");
}
END_TEST

START_TEST(writes_what_it_reads) {
    const double values[] = {2.385, 1.0 / 3.0, -1e-300, 1e300};
    const char *const names[] = {"a, b", "c"};
    for (int format = TABLE_CSV; format <= TABLE_NPY; format++) {
        const table_output output = {.path = path, .format = format};
        table_write(&output, 2, 2, values, names);
        ck_assert_msg(table_read(path, &t, message, sizeof message), "%s", message);
        ck_assert_int_eq(t.npy, format == TABLE_NPY);
        ck_assert_uint_eq(t.data.rows, 2);
        same_bits("values", t.data.values, values, 4);
        if (format == TABLE_CSV)
            ck_assert_str_eq(t.data.names[0], "a, b");
        table_free(&t);
    }
    const table_output output = {.path = path, .format = -1, .json = true, .digits = 4};
    const double holes[] = {2.385, NAN};
    char line[200] = "";
    table_write(&output, 1, 2, holes, names);
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_gt(fread(line, 1, sizeof line - 1, file), 0);
    fclose(file);
    ck_assert_str_eq(line, "{\"columns\": [\"a, b\", \"c\"], \"rows\": [\n[2.385, null]\n]}\n");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: table");
    TCase *tests = tcase_create("table");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, finds_columns);
    tcase_add_test(tests, gives_columns_different_names);
    tcase_add_test(tests, text_matters_only_where_it_is_used);
    tcase_add_test(tests, drops_rows_twice);
    tcase_add_test(tests, takes_all_columns_in_another_order);
    tcase_add_test(tests, takes_the_whole_table_without_a_copy);
    tcase_add_loop_test(tests, long_files_come_in_pieces, 0, 3);
    tcase_add_test(tests, names_the_file_that_is_missing);
    tcase_add_test(tests, writes_what_it_reads);
    tcase_add_test(tests, writes_tables_at_the_edge);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
