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
    tcase_add_test(tests, saving_keeps_the_mode_and_says_why_not);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
