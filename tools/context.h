/*
 * context.h - the context of samples, from a list on the command line or from a table
 */
#ifndef CONTEXT_H
#define CONTEXT_H

#include "model.h"

typedef struct context_options {
    const char *values; /* --context 1.5,2: the same for all rows */
    const char *file;   /* --context-file: a table with the context's columns */
} context_options;

#define OPTION_CONTEXT(o)                                                                                                                  \
    { "context", 'c', OPTION_TEXT, &(o)->values, "VALUES", "context of all rows, as numbers: 1.5,2" }
#define OPTION_CONTEXT_FILE(o)                                                                                                             \
    { "context-file", 'C', OPTION_TEXT, &(o)->file, "FILE", "contexts, as a table with the model's context columns" }

/* Numbers of --context, checked; NULL when it was not given. Ends the program when it does not fit the model. */
double *context_values(const model *m, const context_options *o);

/*
 * Context rows for a number of samples of each context: NULL for a model without. *rows is the number of samples of one context, and
 * becomes that of all. Ends the program when the options do not fit the model.
 */
double *context_rows(const model *m, const context_options *o, size_t *rows);

#endif
