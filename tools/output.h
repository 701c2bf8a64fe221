/*
 * output.h - files that are written whole or not at all: into a temporary file beside their place, which is renamed in the end
 *
 * What is no regular file, as a pipe or a device, is written to as it is, and so are the standard output, by "-" or by another name, and
 * other open files (/dev/fd/3). A symbolic link stays, and what it leads to is replaced. A file keeps its mode. A signal that ends the
 * program takes the temporary file away; so there is one such output at a time.
 */
#ifndef OUTPUT_H
#define OUTPUT_H

#include <stdbool.h>
#include <stdio.h>

typedef struct output {
    FILE *file;
    const char *name;        /* for messages */
    char *place, *temporary; /* NULL: what is written is in its place at once */
} output;

/* NULL or "-": the standard output. False, and errno, when it cannot be written there. */
bool output_open(output *o, const char *path);

/* Whether that is the standard output: "-", or a name such as /dev/stdout that leads to it. */
bool output_is_standard(const char *path);

/* Whether output_open would succeed now; nothing is changed. False: and errno. */
bool output_possible(const char *path);

/* Whether what is written to one would take the place of the other, a file that is read: "-" is the standard input. */
bool output_replaces(const char *path, const char *input);

/* False, and errno, when not all could be written: then the old file, or none, is where it was. */
bool output_close(output *o);

#endif
