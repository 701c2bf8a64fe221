/*
 * csv.h - tables of numbers as text
 *
 * Read: one row a line, fields separated by commas, semicolons, tabs or blanks (guessed from the first line: the first of ; tab , that
 * it has outside quotes, else blanks). The first line may be names, none of which is a number; quotes around a field are taken off, and ""
 * within them is a quote; a line end within them, as RFC 4180 has it, is read as a blank (a quote that nothing ends within 16 MB is a letter);
 * empty lines and lines that begin with # are skipped. Everything else is an error: a field that is not a finite decimal number, a line with
 * more or fewer fields than the first, a file without rows. Messages name the line in which a row begins.
 */
#ifndef CSV_H
#define CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* What is not a number in a column. */
typedef struct csv_fault {
    size_t count;  /* how many fields */
    size_t line;   /* of the first one, where its row begins */
    char text[48]; /* the first one; "" when it is empty */
} csv_fault;

typedef struct csv_table {
    size_t rows, columns;
    double *values;    /* rows x columns */
    char **names;      /* of the columns; NULL when the file has none */
    size_t names_line; /* where they stand */
    csv_fault *faults; /* of the columns; NULL but after csv_read_lenient */
} csv_table;

/* True, and a table for csv_free; or false, and one line in message that names the file, and the line and column where there is one. */
bool csv_read(const char *path, csv_table *table, char *message, size_t size);

/*
 * The same from an open stream, which stays open, and with any text for a field: what is not a finite number is NaN, and `faults` says where the
 * first one of each column was. So a caller that wants some columns of a table need not mind the others. `path` is for messages.
 */
bool csv_read_lenient(FILE *file, const char *path, csv_table *table, char *message, size_t size);

/* Comma-separated, with 17 digits, so that csv_read gives the same numbers. names may be NULL. */
bool csv_write(const char *path, size_t rows, size_t columns, const double *values, const char *const *names, char *message, size_t size);

/* One line of names, quoted where they must be. */
void csv_put_names(FILE *file, size_t columns, const char *const *names);

void csv_free(csv_table *table);

#endif
