/* Messages, memory and the machine. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "safetensors.h"
#include "tool.h"

const char *tool_command;
bool tool_quiet;

__attribute__((format(printf, 1, 0))) static void say(const char *format, va_list arguments) {
    fflush(stdout);
    fprintf(stderr, tool_command ? "nflow %s: " : "nflow: ", tool_command);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

/* What is held then is the system's to take back: nobody unwinds to free it, and no leak is to be found in it. */
static _Noreturn void end(int status) {
    fflush(NULL);
    _exit(status);
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    end(STATUS_FAILED);
}

void die_usage(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    fprintf(stderr, "Try 'nflow%s%s --help'.\n", tool_command ? " " : "", tool_command ? tool_command : "");
    end(STATUS_USAGE);
}

void warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
}

void note(const char *format, ...) {
    if (tool_quiet)
        return;
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
}

void must(nf_status status) {
    if (status != NF_OK)
        die("%s", nf_last_error());
}

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count > 0 ? count : 1, size);
    if (!memory)
        die("no memory for %zu elements of %zu bytes: use fewer rows or columns", count, size);
    return memory;
}

char *copy_text(const char *text) {
    char *copy = strdup(text);
    if (!copy)
        die("no memory");
    return copy;
}

char *new_text(const char *format, ...) {
    va_list arguments;
    char *text;
    va_start(arguments, format);
    const int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0)
        die("no memory");
    return text;
}

unsigned char *read_model_file(const char *path, size_t *size) {
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file)
        die("%s: %s", path, strerror(errno));
    size_t room = 1 << 16;
    unsigned char *bytes = allocate(room, 1);
    *size = 0;
    for (size_t got; (got = fread(bytes + *size, 1, room - *size, file)) > 0;) {
        *size += got;
        if (*size > SAFETENSORS_LENGTH && bytes[SAFETENSORS_LENGTH] != '{')
            break;
        if (*size == room) {
            unsigned char *larger = room < SIZE_MAX / 2 ? realloc(bytes, room *= 2) : NULL;
            if (!larger)
                die("%s: no memory for the file", path);
            bytes = larger;
        }
    }
    if (ferror(file))
        die("%s: %s", path, strerror(errno));
    if (file != stdin)
        fclose(file);
    return bytes;
}

int compare_numbers(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

size_t processors(void) {
    cpu_set_t set;
    const int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return count > 0 ? (size_t)count : 1;
}

void finish_output(void) {
    if (fflush(stdout) != 0 || ferror(stdout))
        die("standard output: %s", errno ? strerror(errno) : "it could not be written");
}
