/*
 * model.h - model files as nflow writes them: a flow, and beside its structure the names of its columns and how it was trained
 *
 * The library keeps no metadata but its own; it ignores other keys of a file's __metadata__, as safetensors' readers do. So the names are
 * put into the header of what nf_flow_save_memory gives, as JSON in strings: "columns" and "context_columns" (arrays of strings),
 * "places" (an object) of a model whose table had no names and other columns, or the context elsewhere than at the end, "training" (an
 * object).
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "nflow.h"
#include "table.h"

typedef struct model {
    nf_flow *flow;
    const char *path;
    size_t dim, context_dim;
    char **names, **context_names; /* dim and context_dim of them; x1, x2, .. and c1, .. when the file has none */
    bool named, context_named;     /* whether it has */
    size_t *places, table_columns; /* of all dim + context_dim in a table without names, from 0, of so many columns; NULL: in this order */
    json_t *training;              /* NULL: none */
    json_t *structure;             /* the file's description of the flow */
    size_t bytes;                  /* of the file */
} model;

/* Ends the program with a message when the file is none. */
void model_load(model *m, const char *path);
void model_free(model *m);

/* Of the metadata; NULL: none. */
json_t *model_places(const model *m);

/* All of it or nothing, as output.h has it. False, and one line in message. */
bool model_save(const model *m, const char *path, char *message, size_t size);

/* Names for columns that have none: "x1", ..; one block to free. */
char **model_default_names(char letter, size_t count);

/* Names for columns beside the model's and its context's: those wanted, each with _ behind as long as another has it; for
 * model_free_names. */
char **model_more_names(const model *m, const char *const *wanted, size_t count);
void model_free_names(char **names, size_t count);

/*
 * The model's columns, in its order, of a table: by name when both have names, else by place. The context of columns that were given, or
 * found by names that it has not, is what is left of the table. Rows are complete then: a field that is no number ends the program, or is
 * left out with `drop_missing`. `x` and `context` are for free(); context is NULL for a model without. `with_x` false: the context's
 * columns alone.
 */
typedef struct model_rows {
    size_t rows;
    double *x, *context;
    size_t *numbers; /* of the rows in the table, from 1; NULL: all are there */
} model_rows;

typedef struct rows_options {
    const char *columns, *context_columns; /* --columns, --context-columns: over the names; NULL: not given */
    bool drop_missing;
    bool by_name_only; /* neither option is the command's: messages do not speak of them */
} rows_options;

void model_read_rows(const model *m, const char *path, const rows_options *options, bool with_x, model_rows *rows);
void model_free_rows(model_rows *rows);

/* Rows and contexts side by side, in the order in which model_read_rows takes them without names; `names` has room for all. */
double *model_join(const model *m, size_t rows, const double *x, const double *context, const char **names);

#define OPTION_COLUMNS(o)                                                                                                                  \
    {                                                                                                                                      \
        "columns", 0, OPTION_TEXT, &(o)->columns, "LIST",                                                                                  \
            "the model's columns in the table, as names or numbers: a,b or 1,3-5; default: by their names"                                 \
    }, {                                                                                                                                   \
        "context-columns", 0, OPTION_TEXT, &(o)->context_columns, "LIST",                                                                  \
            "its context's columns in the table; default: by their names, or those that are left"                                          \
    }
#define OPTION_DROP(o)                                                                                                                     \
    { "drop-missing", 0, OPTION_FLAG, &(o)->drop_missing, NULL, "leave out rows in which one of these columns is no number" }

#endif
