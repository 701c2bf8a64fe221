/* What is seen: dots of the canvas, histograms, the range of a curve, durations, a curve that is kept. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "canvas.h"
#include "progress.h"
#include "scene.h"
#include "support.h"

/* The bytes of one row of a canvas. */
static void row_of(const canvas *c, size_t row, char *text, size_t size) {
    char path[] = "/tmp/nflow-view-XXXXXX";
    const int file = mkstemp(path), before = dup(STDOUT_FILENO);
    ck_assert_int_ge(file, 0);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    canvas_put(c, row);
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    const ssize_t length = pread(file, text, size - 1, 0);
    ck_assert_int_ge(length, 0);
    text[length] = '\0';
    close(file);
    unlink(path);
}

START_TEST(dots_are_braille) {
    canvas c;
    char text[64];
    canvas_begin(&c, 2, 1, false);
    canvas_dot(&c, 0.0, 0.0);     /* lower left: dot 7 */
    canvas_dot(&c, 0.999, 0.999); /* upper right of the second: dot 4 */
    canvas_dot(&c, 1.0, 0.5);     /* outside */
    canvas_dot(&c, -0.01, NAN);
    row_of(&c, 0, text, sizeof text);
    ck_assert_str_eq(text, "\xe2\xa1\x80\xe2\xa0\x88");
    canvas_free(&c);
}
END_TEST

START_TEST(ascii_counts_and_shades) {
    canvas c;
    char text[64];
    canvas_begin(&c, 4, 2, true);
    for (int i = 0; i < 5; i++)
        canvas_dot(&c, 0.3, 0.1);
    canvas_dot(&c, 0.6, 0.1);
    canvas_shade(&c, 3, 1, 4);
    row_of(&c, 1, text, sizeof text);
    ck_assert_str_eq(text, " *.#");
    row_of(&c, 0, text, sizeof text);
    ck_assert_str_eq(text, "    ");
    canvas_free(&c);
}
END_TEST

START_TEST(histogram_is_a_density) {
    double x[] = {0.5, 9, 1.5, 9, 1.6, 9, -3.0, 9, 2.0, 9}, density[2];
    const scene_points p = {5, x};
    scene_histogram(&p, 2, 0, 0.0, 2.0, 2, density);
    ck_assert_double_eq_tol(density[0], 0.2, 1e-15);
    ck_assert_double_eq_tol(density[1], 0.4, 1e-15); /* 2.0 and -3.0 are outside */
}
END_TEST

START_TEST(curve_range_leaves_the_beginning_out) {
    double loss[30], none[30];
    for (int i = 0; i < 30; i++) {
        loss[i] = i == 0 ? 1e6 : 2.0 + 1.0 / i;
        none[i] = NAN;
    }
    const scene s = {.epochs = 30, .train = loss, .held_out = none};
    double low, high;
    scene_curve_range(&s, &low, &high);
    ck_assert_double_lt(low, 2.0 + 1.0 / 29);
    ck_assert_double_gt(low, 1.9);
    ck_assert_double_lt(high, 3.0);
}
END_TEST

static void must_last(double seconds, const char *wanted) {
    char text[32];
    progress_duration(seconds, text, sizeof text);
    ck_assert_str_eq(text, wanted);
}

START_TEST(durations) {
    must_last(0.4, "0 s");
    must_last(59.4, "59 s");
    must_last(59.6, "1:00 min");
    must_last(605, "10 min");
    must_last(3723, "1 h 02 min");
    must_last(-1, "0 s");
    must_last(NAN, "0 s");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: views");
    TCase *tests = tcase_create("views");
    tcase_add_test(tests, dots_are_braille);
    tcase_add_test(tests, ascii_counts_and_shades);
    tcase_add_test(tests, histogram_is_a_density);
    tcase_add_test(tests, curve_range_leaves_the_beginning_out);
    tcase_add_test(tests, durations);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
