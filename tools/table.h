/*
 * table.h - tables as nflow reads and writes them: CSV or NPY, from a file or a pipe; columns by name or number
 */
#ifndef TABLE_H
#define TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "csv.h"

typedef struct table {
    csv_table data;   /* what is not a number is NaN, and data.faults says where */
    char **names;     /* all different: x and the column's number where the file has none, or one twice; NULL: it has none at all */
    size_t *numbers;  /* of the rows in the file, from 1; NULL: none was taken out */
    const char *path; /* for messages */
    bool npy;         /* faults count rows, not lines */
} table;

/* From a file, or from the standard input for "-". The format is found from the first byte. */
bool table_read(const char *path, table *t, char *message, size_t size);
void table_free(table *t);

/* "carat,depth", "1,3", "2-5": names first, then numbers from 1. `index` is for free(). */
bool table_find(const table *t, const char *list, size_t **index, size_t *count, char *message, size_t size);
bool table_holds(const size_t *index, size_t count, size_t column); /* whether it is among them */

/* How many columns have this name, and the first of them. The file's names come before those that it lacks. */
size_t table_named(const table *t, const char *name, size_t *column);

/* The name of a column, or "column 3" in `room`. */
const char *table_name(const table *t, size_t column, char *room, size_t size);

/* False when one of these columns has something that is not a number; the message names the line, the column and what may be done. */
bool table_check(const table *t, const size_t *index, size_t count, char *message, size_t size);

/* Whether what is first no number in a column is one with a comma: "1,5", as much of Europe writes it, or "1,000". */
bool table_has_comma(const table *t, size_t column);

/* Takes the rows out in which one of these columns is not a number; returns how many there were. The columns have no faults then. */
size_t table_drop(table *t, const size_t *index, size_t count);

/* These columns of all rows, for free(), or NULL without memory. When they are all of them in order, the table's own values, which it has
 * no more. */
double *table_take(table *t, const size_t *index, size_t count);

/* Columns of two arrays side by side. */
double *table_join(size_t rows, const double *a, size_t a_columns, const double *b, size_t b_columns);

typedef enum table_format { TABLE_CSV, TABLE_NPY, TABLE_JSON } table_format;

typedef struct table_output {
    const char *path; /* NULL or "-": the standard output */
    int format;       /* a table_format; negative: by the path's end, and CSV without one */
    bool json;        /* the same as format json */
    size_t digits;    /* significant ones; 0: 17, with which numbers read back the same, and 6 on a terminal */
} table_output;

table_format table_format_of(const table_output *to);
bool table_is_default(const table_output *to); /* nothing was said about where and how */

/* Ends the program with a message when the table would take the place of this model file. */
void table_spare_model(const table_output *to, const char *model_path);

/* `names`: of the columns. Ends the program with a message when it fails. */
void table_write(const table_output *to, size_t rows, size_t columns, const double *values, const char *const *names);

#define OPTION_FORMAT(output)                                                                                                              \
    { "format", 'f', OPTION_CHOICE, &(output)->format, "csv|npy|json", "of the output; default: by its name, else csv" }
#define OPTION_OUTPUT(output)                                                                                                              \
    { "output", 'o', OPTION_TEXT, &(output)->path, "FILE", "where to; default: the standard output" }
#define OPTION_JSON(output)                                                                                                                \
    { "json", 0, OPTION_FLAG, &(output)->json, NULL, "the same as --format json" }
#define OPTION_DIGITS(output)                                                                                                              \
    {                                                                                                                                      \
        "digits", 0, OPTION_COUNT, &(output)->digits, "N",                                                                                 \
            "digits of numbers as text; default 17, with which they read back the same; 6 on a terminal"                                   \
    }

#endif
