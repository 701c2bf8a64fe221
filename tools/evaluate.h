/*
 * evaluate.h - what logprob, score and transform have in common: a model, the rows of a table for it, and a table out
 */
#ifndef EVALUATE_H
#define EVALUATE_H

#include "model.h"
#include "options.h"
#include "table.h"
#include "tool.h"

typedef struct evaluation {
    model m;
    model_rows rows;
    nf_workspace *workspace;
    size_t threads;
    rows_options choice;
    table_output output;
    bool append; /* the input's columns before the results */
} evaluation;

#define EVALUATION_OPTIONS(e)                                                                                                              \
    OPTION_COLUMNS(&(e)->choice), OPTION_DROP(&(e)->choice), OPTION_OUTPUT(&(e)->output), OPTION_FORMAT(&(e)->output),                     \
        OPTION_JSON(&(e)->output), OPTION_DIGITS(&(e)->output), OPTION_THREADS(&(e)->threads), OPTION_QUIET

#define OPTION_APPEND(e)                                                                                                                   \
    {                                                                                                                                      \
        "append", 'a', OPTION_FLAG, &(e)->append, NULL,                                                                                    \
            "write the columns that were read too, the model's and its context's, before the results"                                      \
    }

/* Reads the options; words[1] is then the model's path, and what is returned that of the data, NULL when there is none. Only one of them can be "-". */
const char *evaluation_words(const option_set *set, int count, char **words);
void evaluation_begin(evaluation *e, const char *model_path);
void evaluation_read(evaluation *e, const char *data_path);

/* The status to end with after a call on all rows: bad rows are said, and are NaN in the results. */
int evaluation_status(const evaluation *e, nf_status status);

/* Results of all rows, `columns` of these names, behind the input's if that was asked for. */
void evaluation_write(const evaluation *e, size_t columns, const double *results, const char *const *names);
void evaluation_end(evaluation *e);

#endif
