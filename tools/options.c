/* getopt_long over a table, and the help that the table gives. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "tool.h"

enum { MOST_OPTIONS = 64, HELP_COLUMN = 26, WIDTH = 79 };

bool read_number(const char *text, double *value) {
    char *end;
    if (*text == '\0' || isspace((unsigned char)*text))
        return false;
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value);
}

bool read_whole(const char *text, uint64_t *value) {
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    const unsigned long long whole = strtoull(text, &end, 10);
    if (*end == '\0' && errno == 0) {
        *value = whole;
        return true;
    }
    double number;
    if (!read_number(text, &number) || number < 0.0 || number > 0x1p53 || number != floor(number) || strpbrk(text, "xX"))
        return false;
    *value = (uint64_t)number;
    return true;
}

char **split_list(const char *list, size_t *count) {
    size_t words = 1;
    for (const char *c = list; *c; c++)
        words += *c == ',';
    char **array = allocate(1, words * sizeof *array + strlen(list) + 1), *text = (char *)(array + words);
    strcpy(text, list);
    for (size_t i = 0; i < words; i++) {
        array[i] = text;
        text += strcspn(text, ",");
        *text++ = '\0';
    }
    *count = words;
    return array;
}

/* Where a word stands in "a|b|c"; -1: nowhere. */
static int choice_of(const char *choices, const char *word) {
    int index = 0;
    for (const char *c = choices; *c; index++) {
        const size_t length = strcspn(c, "|");
        if (length == strlen(word) && strncmp(c, word, length) == 0)
            return index;
        c += length + (c[length] == '|');
    }
    return -1;
}

/* NULL, or what the value should have been. */
static const char *take(const option_entry *e, const char *value) {
    uint64_t whole = 0;
    double number = 0;
    switch (e->kind) {
    case OPTION_FLAG:
        *(bool *)e->target = true;
        return NULL;
    case OPTION_TEXT:
        *(const char **)e->target = value;
        return *value ? NULL : "something, not an empty word";
    case OPTION_COUNT:
        if (!read_whole(value, &whole) || whole == 0 || whole > SIZE_MAX / 2)
            return "a whole number, 1 or more";
        *(size_t *)e->target = (size_t)whole;
        return NULL;
    case OPTION_INTEGER:
        return read_whole(value, e->target) ? NULL : "a whole number, 0 or more";
    case OPTION_NUMBER:
        if (!read_number(value, &number) || number < 0.0)
            return "a number, 0 or more";
        *(double *)e->target = number;
        return NULL;
    case OPTION_CHOICE: {
        const int index = choice_of(e->value, value);
        if (index < 0)
            return e->value;
        *(int *)e->target = index;
        return NULL;
    }
    }
    return NULL;
}

/* Edits that turn one word into the other (Levenshtein 1966), words of up to 31 letters. */
static size_t distance(const char *a, const char *b) {
    size_t row[32], length = strlen(b);
    if (length > 31)
        return SIZE_MAX;
    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= length; j++) {
            const size_t replaced = diagonal + (*a != b[j - 1]);
            diagonal = row[j];
            const size_t fewer = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            row[j] = replaced < fewer ? replaced : fewer;
        }
    }
    return row[length];
}

static void unknown(const option_set *set, const char *word, char *message, size_t size) {
    const char *nearest = NULL;
    size_t least = 3;
    char name[40];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    for (size_t i = 0; i < set->count; i++) {
        const size_t edits = distance(name, set->entries[i].name);
        if (edits < least) {
            least = edits;
            nearest = set->entries[i].name;
        }
    }
    snprintf(message, size, "%s: there is no such option%s%s%s", word, nearest ? "; is it --" : "", nearest ? nearest : "",
             nearest ? " that you mean?" : "");
}

/* Names for getopt: a long option returns 256 + its index. */
static void prepare(const option_set *set, struct option *names, char *letters) {
    char *next = letters;
    *next++ = ':';
    *next++ = 'h';
    for (size_t i = 0; i < set->count; i++) {
        const option_entry *e = &set->entries[i];
        const int argument = e->kind == OPTION_FLAG ? no_argument : required_argument;
        names[i] = (struct option){e->name, argument, NULL, 256 + (int)i};
        if (!e->letter)
            continue;
        *next++ = e->letter;
        if (argument)
            *next++ = ':';
    }
    names[set->count] = (struct option){"help", no_argument, NULL, 'h'};
    names[set->count + 1] = (struct option){NULL, 0, NULL, 0};
    *next = '\0';
}

static const option_entry *entry_of(const option_set *set, int code) {
    for (size_t i = 0; i < set->count; i++)
        if (code == 256 + (int)i || code == set->entries[i].letter)
            return &set->entries[i];
    return NULL;
}

static bool check_words(const option_set *set, size_t count, char **words, char *message, size_t size) {
    if (count < set->least) {
        snprintf(message, size, "something is missing: nflow %s %s", set->command, set->arguments);
        return false;
    }
    if (count > set->most) {
        snprintf(message, size, "%s: one word too many: nflow %s %s", words[set->most], set->command, set->arguments);
        return false;
    }
    return true;
}

bool options_parse(const option_set *set, int count, char **words, size_t *left, bool *help, char *message, size_t size) {
    struct option names[MOST_OPTIONS + 2];
    char letters[2 * MOST_OPTIONS + 3];
    prepare(set, names, letters);
    opterr = 0;
    optind = 0; /* glibc: begin anew */
    *help = false;
    for (int code; (code = getopt_long(count, words, letters, names, NULL)) != -1;) {
        if (code == 'h') {
            *help = true;
            return true;
        }
        const char *word = words[optind - 1];
        if (code == ':') {
            snprintf(message, size, "%s: its value is missing", word);
            return false;
        }
        if (code == '?') {
            if (optopt && strncmp(word, "--", 2) == 0)
                snprintf(message, size, "%s: it takes no value", word);
            else if (optopt)
                snprintf(message, size, "-%c: there is no such option", optopt);
            else
                unknown(set, word, message, size);
            return false;
        }
        const option_entry *e = entry_of(set, code);
        const char *wanted = e ? take(e, optarg) : NULL;
        if (wanted) {
            snprintf(message, size, "--%s %s: this should be %s%s", e->name, optarg, e->kind == OPTION_CHOICE ? "one of " : "", wanted);
            return false;
        }
    }
    *left = (size_t)(count - optind);
    memmove(words + 1, words + optind, *left * sizeof *words);
    return check_words(set, *left, words + 1, message, size);
}

/* Breaks text at blanks so that it stays between two columns; lines in text stay lines. */
static void put_wrapped(const char *text, int column) {
    int at = column;
    while (*text) {
        const int length = (int)strcspn(text, " \n");
        if (at > column && at + length > WIDTH) {
            printf("\n%*s", column, "");
            at = column;
        }
        printf("%.*s", length, text);
        text += length;
        at += length;
        if (*text == '\n') {
            printf("\n%*s", column, "");
            at = column;
            text++;
        } else if (*text == ' ') {
            text++;
            if (at + 1 + (int)strcspn(text, " \n") <= WIDTH) {
                putchar(' ');
                at++;
            } else {
                printf("\n%*s", column, "");
                at = column;
            }
        }
    }
    putchar('\n');
}

static void help_entry(const char *name, char letter, const char *value, const char *help) {
    char left[128];
    const int length = letter ? snprintf(left, sizeof left, "  -%c, --%s%s%s", letter, name, value ? " " : "", value ? value : "")
                              : snprintf(left, sizeof left, "      --%s%s%s", name, value ? " " : "", value ? value : "");
    if (length + 2 > HELP_COLUMN)
        printf("%s\n%*s", left, HELP_COLUMN, "");
    else
        printf("%-*s", HELP_COLUMN, left);
    put_wrapped(help, HELP_COLUMN);
}

void options_help(const option_set *set) {
    printf("usage: nflow %s [OPTIONS] %s\n\n", set->command, set->arguments);
    put_wrapped(set->about, 0);
    putchar('\n');
    for (size_t i = 0; i < set->count; i++)
        help_entry(set->entries[i].name, set->entries[i].letter, set->entries[i].value, set->entries[i].help);
    help_entry("help", 'h', NULL, "this");
    printf("\nThe manual: man nflow-%s\n", set->command);
}

size_t options_read(const option_set *set, int count, char **words) {
    size_t left;
    bool help;
    char message[512];
    if (!options_parse(set, count, words, &left, &help, message, sizeof message))
        die_usage("%s", message);
    if (!help)
        return left;
    options_help(set);
    finish_output();
    exit(STATUS_DONE);
}
