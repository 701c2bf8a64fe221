/* Options of the command: what is taken, and what is said of what is not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "support.h"

static bool flag;
static const char *text;
static size_t count;
static uint64_t seed;
static double number;
static int choice;
static const option_entry entries[] = {
    {"flag", 'f', OPTION_FLAG, &flag, NULL, "a flag"},        {"text", 't', OPTION_TEXT, &text, "TEXT", "some text"},
    {"count", 'n', OPTION_COUNT, &count, "N", "a count"},     {"seed", 0, OPTION_INTEGER, &seed, "N", "a seed"},
    {"number", 'x', OPTION_NUMBER, &number, "X", "a number"}, {"choice", 'c', OPTION_CHOICE, &choice, "one|two|three", "a choice"},
};
static const option_set set = {"verb", "A [B]", "About.", entries, sizeof entries / sizeof entries[0], 1, 2};

static char message[300];
static size_t left;
static bool help;
static char *words[16];

/* Blanks part the words. */
static bool parse(const char *line) {
    static char copy[200];
    int n = 0;
    flag = false;
    text = NULL;
    count = 0;
    seed = 0;
    number = 0;
    choice = 0;
    *message = '\0';
    snprintf(copy, sizeof copy, "verb %s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        words[n++] = word;
    words[n] = NULL;
    return options_parse(&set, n, words, &left, &help, message, sizeof message);
}

START_TEST(takes_options_anywhere) {
    ck_assert_msg(parse("a -f --text=hello -n 12 b --seed 18446744073709551615 -x2.385 -c two"), "%s", message);
    ck_assert(flag && !help);
    ck_assert_str_eq(text, "hello");
    ck_assert_uint_eq(count, 12);
    ck_assert(seed == UINT64_MAX);
    ck_assert_double_eq(number, 2.385);
    ck_assert_int_eq(choice, 1);
    ck_assert_uint_eq(left, 2);
    ck_assert_str_eq(words[1], "a");
    ck_assert_str_eq(words[2], "b");
    ck_assert(parse("-n 1e6 - "));
    ck_assert_uint_eq(count, 1000000);
    ck_assert_str_eq(words[1], "-");
    ck_assert(parse("-- -f"));
    ck_assert_str_eq(words[1], "-f");
    ck_assert(!flag);
    ck_assert(parse("--cou 7 a"));
    ck_assert_uint_eq(count, 7);
    ck_assert(parse("--help -n nonsense"));
    ck_assert(help);
}
END_TEST

static const struct {
    const char *line, *message;
} bad[] = {
    {"", "something is missing: nflow verb A [B]"},
    {"a b c", "c: one word too many: nflow verb A [B]"},
    {"a --cuont 3", "--cuont: there is no such option; is it --count that you mean?"},
    {"a --cuont=3", "--cuont=3: there is no such option; is it --count that you mean?"},
    {"a --nothing-like-it", "--nothing-like-it: there is no such option"},
    {"a --cabct", "--cabct: there is no such option"},
    {"a -z", "-z: there is no such option"},
    {"a -n", "-n: its value is missing"},
    {"a --count", "--count: its value is missing"},
    {"a --flag=3", "--flag=3: it takes no value"},
    {"a -n 0", "--count 0: this should be a whole number, 1 or more"},
    {"a -n -3", "--count -3: this should be a whole number, 1 or more"},
    {"a -n 2.5", "--count 2.5: this should be a whole number, 1 or more"},
    {"a -n 1e99", "--count 1e99: this should be a whole number, 1 or more"},
    {"a -n 18446744073709551615", "--count 18446744073709551615: this should be a whole number, 1 or more"},
    {"a -n 0x10", "--count 0x10: this should be a whole number, 1 or more"},
    {"a --seed 18446744073709551616", "--seed 18446744073709551616: this should be a whole number, 0 or more"},
    {"a -x nan", "--number nan: this should be a number, 0 or more"},
    {"a -x 3m", "--number 3m: this should be a number, 0 or more"},
    {"a -x \t3", "--number \t3: this should be a number, 0 or more"},
    {"a -x -1", "--number -1: this should be a number, 0 or more"},
    {"a -c four", "--choice four: this should be one of one|two|three"},
    {"a -c twos", "--choice twos: this should be one of one|two|three"},
    {"a -c tw", "--choice tw: this should be one of one|two|three"},
    {"a --text=", "--text : this should be something, not an empty word"},
};

START_TEST(says_what_is_wrong) {
    ck_assert(!parse(bad[_i].line));
    ck_assert_str_eq(message, bad[_i].message);
}
END_TEST

START_TEST(splits_lists) {
    size_t n;
    char **list = split_list("a,,bc", &n);
    ck_assert_uint_eq(n, 3);
    ck_assert_str_eq(list[0], "a");
    ck_assert_str_eq(list[1], "");
    ck_assert_str_eq(list[2], "bc");
    free(list);
    list = split_list("", &n);
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(list[0], "");
    free(list);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: options");
    TCase *tests = tcase_create("options");
    tcase_add_test(tests, takes_options_anywhere);
    tcase_add_loop_test(tests, says_what_is_wrong, 0, (int)(sizeof bad / sizeof bad[0]));
    tcase_add_test(tests, splits_lists);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
