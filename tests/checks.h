/*
 * Check, with assertions that cost nothing while they hold: its own write a message to the runner each time, which took most of the time of the suites that look at many
 * numbers. To be included instead of check.h.
 */
#ifndef NF_TESTS_CHECKS_H
#define NF_TESTS_CHECKS_H

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* The others (ck_assert_int_eq and so on) are made of this one. */
#undef ck_assert_msg
#define ck_assert_msg(expression, ...)     \
    do {                                   \
        if (!(expression))                 \
            ck_abort_msg(__VA_ARGS__);     \
    } while (0)
#undef ck_assert
#define ck_assert(expression) ck_assert_msg(expression, "Assertion '%s' failed", #expression)

/*
 * Under sanitizers and valgrind, which set NFLOW_TEST_BRIEF, a test of many random cases takes fewer of them: all are taken by the plain run of the same suites.
 */
static inline bool is_brief(void) { return getenv("NFLOW_TEST_BRIEF") != NULL; }

/* The seed of what a test draws: of the environment, or the usual one. */
static inline unsigned long long seed_given(unsigned long long usual) {
    const char *given = getenv("NFLOW_TEST_SEED");
    return given ? strtoull(given, NULL, 0) : usual;
}

/* What main returns. */
static inline int run_suite(Suite *suite) {
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

/* What a file said that was refused, and the message: a line of the table in docs/refused.md, appended to the file that NFLOW_REFUSED names. */
static inline void note_refusal(const char *text, const char *message) {
    const char *path = getenv("NFLOW_REFUSED");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file)
        return;
    fputs("| `", file);
    for (; *text; text++)
        if ((unsigned char)*text < 0x7f)
            fputc(*text, file);
        else
            fprintf(file, "\\x%02x", (unsigned)(unsigned char)*text);
    fprintf(file, "` | %s |\n", message);
    fclose(file);
}

#endif
