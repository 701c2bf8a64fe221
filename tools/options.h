/*
 * options.h - options of a subcommand as a table: parsed with getopt_long, checked, and printed as help
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum option_kind {
    OPTION_FLAG,    /* bool */
    OPTION_TEXT,    /* const char * */
    OPTION_COUNT,   /* size_t >= 1; also as 1e6 */
    OPTION_INTEGER, /* uint64_t */
    OPTION_NUMBER,  /* double, finite and not negative */
    OPTION_CHOICE   /* int: which of the words of `value`, "a|b|c" */
} option_kind;

typedef struct option_entry {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    option_kind kind;
    void *target;      /* holds the default, and is changed when the option is given */
    const char *value; /* what help calls the value, or the choices; NULL for a flag */
    const char *help;
} option_entry;

typedef struct option_set {
    const char *command, *arguments; /* "train", "DATA -o MODEL" */
    const char *about;               /* some lines */
    const option_entry *entries;
    size_t count;
    size_t least, most; /* words that are not options */
} option_set;

/*
 * Reads the words after words[0] (the command's name). The words that are no options come first in words[1] .. after the call, and *left
 * says how many. False, and one line in message, when something is wrong. *help: --help was met, the rest is not looked at.
 */
bool options_parse(const option_set *set, int count, char **words, size_t *left, bool *help, char *message, size_t size);

/* The same for a subcommand: prints help and ends the program, or dies with the message. */
size_t options_read(const option_set *set, int count, char **words);

void options_help(const option_set *set);

/* Words of a list, "a,b,c", into an array of strings that is one block to free; *count says how many. Nothing is trimmed; "" is one empty
 * word. */
char **split_list(const char *list, size_t *count);

/* A number from a whole string. */
bool read_number(const char *text, double *value);
bool read_whole(const char *text, uint64_t *value); /* 0 .. 2^64 - 1; 1e6 too, up to 2^53 */

/* Entries that most subcommands have. */
#define OPTION_QUIET                                                                                                                       \
    { "quiet", 'q', OPTION_FLAG, &tool_quiet, NULL, "say nothing but errors" }
#define OPTION_THREADS(target)                                                                                                             \
    { "threads", 't', OPTION_COUNT, target, "N", "threads; default: the processors. The results do not depend on it" }

#endif
