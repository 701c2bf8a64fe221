/*
 * npy.h - numpy's array files (format versions 1, 2 and 3): one or two axes of floats or integers, of either byte order, in C or Fortran
 * order
 */
#ifndef NPY_H
#define NPY_H

#include <stdbool.h>
#include <stdio.h>

#include "csv.h"

enum { NPY_FIRST_BYTE = 0x93 }; /* no text begins with it */

/*
 * An array as a table without names; one axis is one column. `faults` has the number of the first row, from 1, that is not finite in each
 * column. False, and one line in message, for what is not such a file; memory grows with what the stream holds, not with what its header
 * claims.
 */
bool npy_read(FILE *file, const char *path, csv_table *table, char *message, size_t size);

/* Version 1.0, '<f8', C order. The caller looks at ferror. */
void npy_write(FILE *file, size_t rows, size_t columns, const double *values);

#endif
