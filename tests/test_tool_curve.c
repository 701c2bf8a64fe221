/* The losses of a fit that is taken up: those of all epochs, whatever the moment at which it was killed. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "curve.h"
#include "support.h"

extern bool tool_quiet; /* tool.h, whose must() is another */

enum { ROWS = 40, EPOCHS = 9, KILLED = 5 };

typedef struct watcher {
    curve losses;
    size_t stop, written; /* stops after this epoch; the last one that is written down */
} watcher;

static int watch(void *user, const nf_fit_progress *now) {
    watcher *w = user;
    if (now->epoch <= w->written)
        curve_add(&w->losses, now->epoch, now->train_loss, now->validation_loss);
    return now->epoch == w->stop && now->epoch < EPOCHS;
}

static void fit_some(watcher *w, const char *checkpoint) {
    random_source random = random_begin(3);
    double *x = new_normals(&random, ROWS * 2, 1.0);
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 2, .hidden_layers = 1, .hidden_width = 4), &flow));
    curve_begin(&w->losses, checkpoint);
    const nf_fit_config config = {.struct_size = sizeof config, .epochs = EPOCHS, .patience = EPOCHS,
                                  .checkpoint = checkpoint, .progress = watch, .progress_user = w};
    must_be(w->stop < EPOCHS ? NF_STOPPED : NF_OK, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    nf_flow_free(flow);
    free(x);
}

static void make_path(char path[300], const char *name) { snprintf(path, 300, "%s/nflow-curve-%ld-%s", scratch_folder(), (long)getpid(), name); }

/* The line of the last epoch is whole, missing, or half there when the process ends. */
START_TEST(all_epochs_are_there) {
    char whole_path[300], killed_path[300], lines[300];
    make_path(whole_path, "whole");
    make_path(killed_path, "killed");
    make_path(lines, "killed.curve");
    watcher whole = {.stop = EPOCHS, .written = EPOCHS}, killed = {.stop = KILLED, .written = _i == 0 ? KILLED : KILLED - 1};
    fit_some(&whole, whole_path);
    fit_some(&killed, killed_path);
    curve_end(&killed.losses, false);
    if (_i == 2) {
        FILE *file = fopen(lines, "a");
        ck_assert_ptr_nonnull(file);
        fprintf(file, "%d 1.2", KILLED);
        ck_assert_int_eq(fclose(file), 0);
    }
    killed.stop = killed.written = EPOCHS;
    fit_some(&killed, killed_path);
    json_t *expected = curve_json(&whole.losses, 0.5), *found = curve_json(&killed.losses, 0.5);
    ck_assert_uint_eq(whole.losses.count, EPOCHS);
    ck_assert(json_equal(expected, found));
    json_decref(expected);
    json_decref(found);
    curve_end(&whole.losses, true);
    curve_end(&killed.losses, true);
    ck_assert_int_ne(access(lines, F_OK), 0);
    unlink(whole_path);
    unlink(killed_path);
}
END_TEST

/* A file that is left over beside no checkpoint is another fit's. */
START_TEST(another_fit_has_no_part_in_it) {
    char path[300], lines[300];
    make_path(path, "none");
    make_path(lines, "none.curve");
    FILE *file = fopen(lines, "w");
    ck_assert_ptr_nonnull(file);
    fputs("1 2.5 2.5\n", file);
    ck_assert_int_eq(fclose(file), 0);
    curve c;
    curve_begin(&c, path);
    ck_assert_uint_eq(c.count, 0);
    curve_add(&c, 1, 3.0, NAN);
    json_t *found = curve_json(&c, 1.0), *expected = json_pack("{s:[i], s:[f], s:[n]}", "epoch", 1, "train", 4.0, "validation");
    ck_assert(json_equal(expected, found));
    json_decref(expected);
    json_decref(found);
    curve_end(&c, true);
}
END_TEST

/* What is drawn is thinned; the file is not, so that it does not matter where a fit was stopped. */
START_TEST(the_file_has_every_epoch) {
    char path[300], lines[300], line[100];
    make_path(path, "many");
    make_path(lines, "many.curve");
    curve c;
    size_t count = 0;
    curve_begin(&c, path);
    for (size_t epoch = 1; epoch <= 1000; epoch++)
        curve_add(&c, epoch, 1.0 / (double)epoch, NAN);
    json_t *drawn = curve_json(&c, 0.0);
    ck_assert_uint_eq(json_array_size(json_object_get(drawn, "epoch")), 400);
    json_decref(drawn);
    curve_end(&c, false);
    FILE *file = fopen(lines, "r");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file))
        count++;
    ck_assert_uint_eq(count, 1000);
    ck_assert_int_eq(fclose(file), 0);
    unlink(lines);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: training curve");
    TCase *tests = tcase_create("curve");
    tool_quiet = true;
    tcase_add_loop_test(tests, all_epochs_are_there, 0, 3);
    tcase_add_test(tests, the_file_has_every_epoch);
    tcase_add_test(tests, another_fit_has_no_part_in_it);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
