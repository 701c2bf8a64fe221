/* Model files with names: the library reads them, and what is put beside the structure comes back. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"
#include "safetensors.h"
#include "tool.h"
#include "support.h" /* its must() is another */

static char path[300], message[600];

static void setup(void) { make_scratch_file(path, sizeof path, "model"); }

static void teardown(void) { unlink(path); }

static nf_flow *conditional_flow(void) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .context_dim = 1, .couplings = 2, .seed = 5), &flow));
    return flow;
}

START_TEST(names_and_training_come_back) {
    char *names[] = {"price, \"net\"", "x\xc3\xa9"}, *context[] = {"year"};
    model m = {.flow = conditional_flow(),
               .dim = 2,
               .context_dim = 1,
               .names = names,
               .context_names = context,
               .named = true,
               .context_named = true,
               .training = json_pack("{s:i, s:[f,n]}", "epochs", 7, "curve", 2.385)};
    ck_assert_msg(model_save(&m, path, message, sizeof message), "%s", message);
    nf_flow *flow;
    must(nf_flow_load(path, &flow)); /* the library takes it */
    const double x[2] = {0.25, -1.5}, c = 0.5;
    double a, b;
    must(nf_log_prob(flow, NULL, 1, x, &c, &a));
    must(nf_log_prob(m.flow, NULL, 1, x, &c, &b));
    ck_assert_double_eq(a, b);
    nf_flow_free(flow);
    model back;
    model_load(&back, path);
    ck_assert(back.named && back.context_named);
    ck_assert_str_eq(back.names[0], names[0]);
    ck_assert_str_eq(back.names[1], names[1]);
    ck_assert_str_eq(back.context_names[0], "year");
    ck_assert_int_eq(json_integer_value(json_object_get(back.training, "epochs")), 7);
    ck_assert_uint_eq(json_array_size(json_object_get(back.structure, "layers")), nf_flow_layer_count(m.flow));
    model_free(&back);
    json_decref(m.training);
    nf_flow_free(m.flow);
}
END_TEST

START_TEST(files_of_the_library_have_default_names) {
    nf_flow *flow = conditional_flow();
    must(nf_flow_save(flow, path));
    model m;
    model_load(&m, path);
    ck_assert(!m.named && !m.context_named);
    ck_assert_str_eq(m.names[1], "x2");
    ck_assert_str_eq(m.context_names[0], "c1");
    ck_assert_ptr_null(m.training);
    model_free(&m);
    nf_flow_free(flow);
}
END_TEST

/* Which of a table's columns would be which? */
START_TEST(refuses_columns_of_one_name) {
    char *names[] = {"a", "b"}, *context[] = {"a"};
    model m = {.flow = conditional_flow(), .dim = 2, .context_dim = 1, .names = names, .context_names = context};
    m.named = m.context_named = true;
    ck_assert_msg(model_save(&m, path, message, sizeof message), "%s", message);
    model_load(&m, path); /* ends the program */
}
END_TEST

/* They would not be read back from the first line of a table. */
START_TEST(names_that_no_table_has_are_none) {
    static char *const wrong[] = {"", "2", "-1e3", "nan", "a\nb"};
    char *names[] = {"a", wrong[_i]}, *context[] = {"year"};
    model m = {.flow = conditional_flow(), .dim = 2, .context_dim = 1, .names = names, .context_names = context};
    m.named = m.context_named = true;
    ck_assert_msg(model_save(&m, path, message, sizeof message), "%s", message);
    model back;
    model_load(&back, path);
    ck_assert(!back.named && back.context_named);
    ck_assert_str_eq(back.names[1], "x2");
    model_free(&back);
    nf_flow_free(m.flow);
}
END_TEST

/* The first is good. */
static const char *const places[] = {
    "{\"of\":4,\"columns\":[4,3],\"context_columns\":[1]}",
    "",
    "1",
    "{}",
    "[4,3,1]",
    "{\"of\":4,\"columns\":[4,3]}",
    "{\"of\":4,\"columns\":[4,3],\"context_columns\":[1],\"more\":1}",
    "{\"of\":3,\"columns\":[4,3],\"context_columns\":[1]}",
    "{\"of\":\"4\",\"columns\":[4,3],\"context_columns\":[1]}",
    "{\"of\":4,\"columns\":[4,3],\"context_columns\":[4]}",
    "{\"of\":4,\"columns\":[4,0],\"context_columns\":[1]}",
    "{\"of\":4,\"columns\":[4,2.5],\"context_columns\":[1]}",
    "{\"of\":4,\"columns\":[4,3,2],\"context_columns\":[1]}",
    "{\"of\":4,\"columns\":[4],\"context_columns\":[1]}",
    "{\"of\":4,\"columns\":[4,3],\"context_columns\":1}",
};

static void save_with_places(const char *text) {
    void *bytes;
    size_t size, head_size;
    nf_flow *flow = conditional_flow();
    must(nf_flow_save_memory(flow, &bytes, &size));
    const size_t data = SAFETENSORS_LENGTH + (size_t)safetensors_length(bytes);
    json_t *header = json_loadb((const char *)bytes + SAFETENSORS_LENGTH, data - SAFETENSORS_LENGTH, 0, NULL);
    ck_assert_int_eq(json_object_set_new(json_object_get(header, "__metadata__"), "places", json_string(text)), 0);
    unsigned char *head = safetensors_frame(header, 0, &head_size);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(head, 1, head_size, file), head_size);
    ck_assert_uint_eq(fwrite((char *)bytes + data, 1, size - data, file), size - data);
    ck_assert_int_eq(fclose(file), 0);
    free(head);
    nf_free(bytes);
    nf_flow_free(flow);
}

START_TEST(places_come_back) {
    model m;
    save_with_places(places[0]);
    for (int again = 0; again < 2; again++) {
        model_load(&m, path);
        ck_assert_uint_eq(m.table_columns, 4);
        ck_assert_uint_eq(m.places[0], 3);
        ck_assert_uint_eq(m.places[1], 2);
        ck_assert_uint_eq(m.places[2], 0);
        ck_assert_msg(model_save(&m, path, message, sizeof message), "%s", message);
        model_free(&m);
    }
}
END_TEST

START_TEST(refuses_places_that_are_none) {
    model m;
    save_with_places(places[_i]);
    model_load(&m, path); /* ends the program */
    ck_abort_msg("this was taken: %s", places[_i]);
}
END_TEST

/* ---- which columns of a table without names are the model's */

static void put_table(const char *text) {
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
}

static void must_read(const model *m, const char *text, const rows_options *o, bool with_x, const double *x, const double *context) {
    model_rows rows;
    put_table(text);
    model_read_rows(m, path, o, with_x, &rows);
    ck_assert_uint_eq(rows.rows, 1);
    if (with_x)
        same_bits("x", rows.x, x, m->dim);
    same_bits("context", rows.context, context, m->context_dim);
    model_free_rows(&rows);
}

/* Of a model of columns 5 and 2 of six, given 4 and 1: in such a table they stand there, in one of four in that order, and contexts alone or left over are in theirs. */
START_TEST(columns_stand_where_they_stood) {
    char *names[] = {"x5", "x2"}, *context_names[] = {"x4", "x1"};
    size_t stood[] = {4, 1, 3, 0};
    const model m = {.dim = 2, .context_dim = 2, .names = names, .context_names = context_names, .places = stood, .table_columns = 6, .path = "m"};
    const rows_options none = {0}, given = {.columns = "3,1"}, both = {.columns = "6,1", .context_columns = "2,5"};
    const double x[] = {5, 2}, context[] = {4, 1};
    must_read(&m, "1,2,3,4,5,6\n", &none, true, x, context);
    must_read(&m, "1,2,4,5\n", &none, true, x, context);
    must_read(&m, "1,4\n", &none, false, NULL, context);
    must_read(&m, "1,2,3,4,5,6\n", &none, false, NULL, context);
    must_read(&m, "2,1,5,4\n", &given, true, x, context);
    must_read(&m, "2,4,3,0,1,5\n", &both, true, x, context);
    const double other[] = {1, 2, 3, 4};
    const model plain = {.dim = 2, .context_dim = 2, .names = names, .context_names = context_names, .path = "m"};
    must_read(&plain, "1,2,3,4\n", &none, true, other, other + 2);
}
END_TEST

START_TEST(a_column_is_not_both_data_and_context) {
    char *names[] = {"a"}, *context_names[] = {"b"};
    const model m = {.dim = 1, .context_dim = 1, .names = names, .context_names = context_names, .path = "m"};
    model_rows rows;
    put_table("1,2\n");
    model_read_rows(&m, path, &(rows_options){.columns = "2", .context_columns = "2"}, true, &rows); /* ends the program */
}
END_TEST

START_TEST(some_row_is_left) {
    char *names[] = {"a"};
    const model m = {.dim = 1, .names = names, .path = "m"};
    model_rows rows;
    put_table("a\nnone\n");
    model_read_rows(&m, path, &(rows_options){.drop_missing = true}, true, &rows); /* ends the program */
}
END_TEST

START_TEST(rows_that_are_left_have_their_numbers) {
    char *names[] = {"a"};
    const model m = {.dim = 1, .names = names, .path = "m"};
    model_rows rows;
    put_table("a\nnone\n2.385\nnone\n3\n");
    model_read_rows(&m, path, &(rows_options){.drop_missing = true}, true, &rows);
    ck_assert_uint_eq(rows.rows, 2);
    const size_t numbers[] = {2, 4};
    ck_assert_mem_eq(rows.numbers, numbers, sizeof numbers);
    model_free_rows(&rows);
}
END_TEST

/* The old file stays, with its mode, when the new one cannot be written. */
START_TEST(saving_keeps_the_mode_and_says_why_not) {
    model m = {.flow = conditional_flow(), .dim = 2, .context_dim = 1};
    struct stat s;
    ck_assert_int_eq(chmod(path, 0640), 0);
    ck_assert(model_save(&m, path, message, sizeof message));
    ck_assert_int_eq(stat(path, &s), 0);
    ck_assert_int_eq(s.st_mode & 0777, 0640);
    ck_assert(!model_save(&m, "/nonexistent/m.safetensors", message, sizeof message));
    ck_assert_str_eq(message, "/nonexistent/m.safetensors: No such file or directory");
    if (access("/dev/full", W_OK) == 0) {
        ck_assert(!model_save(&m, "/dev/full", message, sizeof message));
        ck_assert_str_eq(message, "/dev/full: No space left on device");
    }
    nf_flow_free(m.flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: model files");
    TCase *tests = tcase_create("model files");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, names_and_training_come_back);
    tcase_add_test(tests, files_of_the_library_have_default_names);
    tcase_add_exit_test(tests, refuses_columns_of_one_name, STATUS_FAILED);
    tcase_add_loop_test(tests, names_that_no_table_has_are_none, 0, 5);
    tcase_add_test(tests, places_come_back);
    tcase_add_loop_exit_test(tests, refuses_places_that_are_none, STATUS_FAILED, 1, (int)(sizeof places / sizeof places[0]));
    tcase_add_test(tests, columns_stand_where_they_stood);
    tcase_add_exit_test(tests, a_column_is_not_both_data_and_context, STATUS_FAILED);
    tcase_add_exit_test(tests, some_row_is_left, STATUS_FAILED);
    tcase_add_test(tests, rows_that_are_left_have_their_numbers);
    tcase_add_test(tests, saving_keeps_the_mode_and_says_why_not);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
