/*
 * tool.h - what every subcommand of nflow needs: messages, exit statuses, memory, and the list of subcommands
 *
 * A subcommand that cannot go on ends the program through die(): nothing has to be undone, because files are written beside their place and
 * renamed.
 */
#ifndef TOOL_H
#define TOOL_H

#include <stdbool.h>
#include <stddef.h>

#include "nflow.h"

/* Exit statuses, as the man pages have them. */
enum {
    STATUS_DONE = 0,
    STATUS_FAILED = 1,       /* a file, the data or a computation */
    STATUS_USAGE = 2,        /* the arguments */
    STATUS_NOT_PASSED = 3,   /* diagnose: a check failed */
    STATUS_INTERRUPTED = 130 /* as a shell says of a program that an interrupt ended */
};

/* Subcommands: words[0] is their name. They return an exit status. */
int nflow_train(int count, char **words);
int nflow_sample(int count, char **words);
int nflow_logprob(int count, char **words);
int nflow_score(int count, char **words);
int nflow_transform(int count, char **words);
int nflow_info(int count, char **words);
int nflow_diagnose(int count, char **words);
int nflow_plot(int count, char **words);
int nflow_data(int count, char **words);
int nflow_import(int count, char **words);

extern const char *tool_command; /* the subcommand that runs; NULL: none */
extern bool tool_quiet;          /* -q: no notes, no progress */

/* One line on the standard error, "nflow train: ..."; then the end, with STATUS_FAILED, or STATUS_USAGE and where help is. */
_Noreturn __attribute__((format(printf, 1, 2))) void die(const char *format, ...);
_Noreturn __attribute__((format(printf, 1, 2))) void die_usage(const char *format, ...);

/* The same without the end; a note is not said when quiet. */
__attribute__((format(printf, 1, 2))) void warn(const char *format, ...);
__attribute__((format(printf, 1, 2))) void note(const char *format, ...);

/* A status of the library that is not NF_OK: its own line is the message. */
void must(nf_status status);

void *allocate(size_t count, size_t size); /* zeros */
char *copy_text(const char *text);
__attribute__((format(printf, 1, 2))) char *new_text(const char *format, ...);

/*
 * All of a model file or another safetensors file, or with "-" of the standard input; only the beginning of what is none, such as a large table or a
 * device without an end. Freed by the caller.
 */
unsigned char *read_model_file(const char *path, size_t *size);

/* For qsort of double: rising. */
int compare_numbers(const void *a, const void *b);

/* Processors that this process may use. */
size_t processors(void);

/* Ends with a message if what was written to the standard output did not get there. */
void finish_output(void);

#endif
