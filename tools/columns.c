/* The rows of a table for a model: which columns of the one are those of the other. */
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "tool.h"

/* How many of these columns, or contexts, stand before this one in a table without names. */
static size_t rank(const model *m, size_t first, size_t count, size_t column) {
    if (!m->places)
        return column - first;
    size_t before = 0;
    for (size_t i = first; i < first + count; i++)
        before += m->places[i] < m->places[column];
    return before;
}

double *model_join(const model *m, size_t rows, const double *x, const double *context, const char **names) {
    const size_t all = m->dim + m->context_dim;
    double *joined = allocate(rows, all * sizeof *joined);
    for (size_t i = 0; i < all; i++) {
        const size_t column = rank(m, 0, all, i);
        const double *from = i < m->dim ? x + i : context + (i - m->dim);
        const size_t stride = i < m->dim ? m->dim : m->context_dim;
        names[column] = i < m->dim ? m->names[i] : m->context_names[i - m->dim];
        for (size_t r = 0; r < rows; r++)
            joined[r * all + column] = from[r * stride];
    }
    return joined;
}

/* Columns of the table for names, all or none. */
static bool match_names(const table *t, char *const *names, size_t count, const char *option, size_t *index) {
    for (size_t i = 0; i < count; i++) {
        const size_t found = table_named(t, names[i], &index[i]);
        if (found > 1)
            die("%s: more than one column is called \"%.60s\"%s%s%s", t->path, names[i], option ? ": say which to take with " : "",
                option ? option : "", option ? ", by their numbers" : "");
        if (found == 0) {
            index[0] = i; /* the one that is missing */
            return false;
        }
    }
    return true;
}

/* The model's columns from `first` on in a table without names: one like that it was trained on, or the columns that it uses of such. */
static bool match_places(const model *m, const table *t, size_t first, size_t count, size_t *index) {
    const size_t all = m->dim + m->context_dim;
    const bool whole = m->places && t->data.columns == m->table_columns;
    if (!whole && t->data.columns != all)
        return false;
    for (size_t i = 0; i < count; i++)
        index[i] = whole ? m->places[first + i] : rank(m, 0, all, first + i);
    return true;
}

/* The context's columns are those that are left beside x_columns of the table; `left` is then how many. */
static bool match_left(const model *m, const table *t, const size_t *x, size_t x_columns, size_t *context, size_t *left) {
    size_t *others = allocate(t->data.columns, sizeof *others);
    *left = 0;
    for (size_t i = 0; i < t->data.columns; i++)
        if (!table_holds(x, x_columns, i))
            others[(*left)++] = i;
    for (size_t i = 0; i < m->context_dim && *left == m->context_dim; i++)
        context[i] = others[rank(m, m->dim, m->context_dim, m->dim + i)];
    free(others);
    return *left == m->context_dim;
}

static _Noreturn void refuse_columns(const model *m, const table *t, bool choice) {
    if (m->context_dim > 0)
        die("%s: it has %zu columns, and %s takes %zu and %zu of context", t->path, t->data.columns, m->path, m->dim, m->context_dim);
    die("%s: it has %zu column%s, and %s takes %zu%s", t->path, t->data.columns, t->data.columns == 1 ? "" : "s", m->path, m->dim,
        choice ? "; say which with --columns" : "");
}

static void take_given(const model *m, const table *t, const char *option, const char *list, size_t wanted, size_t *index) {
    char message[600];
    size_t *given, count;
    if (!table_find(t, list, &given, &count, message, sizeof message))
        die("%s", message);
    if (count != wanted)
        die("%s %s: these are %zu, and %s takes %zu", option, list, count, m->path, wanted);
    memcpy(index, given, count * sizeof *index);
    free(given);
}

/* True when the columns were found by place. */
static bool choose_x(const model *m, const table *t, const rows_options *o, size_t *index) {
    if (o->columns) {
        take_given(m, t, "--columns", o->columns, m->dim, index);
        return false;
    }
    if (m->named && match_names(t, m->names, m->dim, o->by_name_only ? NULL : "--columns", index))
        return false;
    if (m->named && t->data.names)
        die("%s: there is no column \"%s\", which %s was trained on%s", t->path, m->names[index[0]], m->path,
            o->by_name_only ? "" : "; say which columns to take with --columns");
    if (match_places(m, t, 0, m->dim, index))
        return true;
    if (!match_names(t, m->names, m->dim, o->by_name_only ? NULL : "--columns", index)) /* x1, .. as a model without names writes them */
        refuse_columns(m, t, !o->by_name_only);
    return false;
}

/* As given, by name, by place where the data's columns are, and else what is left of the table. */
static void choose_context(const model *m, const table *t, const rows_options *o, bool by_place, const size_t *x, size_t x_columns,
                           size_t *context) {
    size_t left;
    if (o->context_columns) {
        take_given(m, t, "--context-columns", o->context_columns, m->context_dim, context);
        return;
    }
    const char *option = x_columns > 0 && !o->by_name_only ? "--context-columns" : NULL; /* there is none for a table of contexts */
    if (m->context_named && match_names(t, m->context_names, m->context_dim, option, context))
        return;
    if (m->context_named && t->data.names)
        die("%s: there is no column \"%s\", which is a context of %s%s", t->path, m->context_names[context[0]], m->path,
            option ? "; say which it is with --context-columns" : "");
    if (by_place && match_places(m, t, m->dim, m->context_dim, context))
        return;
    if (match_left(m, t, x, x_columns, context, &left) || match_names(t, m->context_names, m->context_dim, option, context))
        return;
    if (x_columns == 0)
        refuse_columns(m, t, false);
    die("%s: %zu columns are left for the context, and %s takes %zu%s", t->path, left, m->path, m->context_dim,
        option ? ": say which with --context-columns" : "");
}

/* Columns by name where both sides have names, else by place: x first, then the context. */
static void choose_columns(const model *m, const table *t, const rows_options *o, bool with_x, size_t *index) {
    const size_t x_columns = with_x ? m->dim : 0;
    const bool by_place = !with_x || choose_x(m, t, o, index);
    if (m->context_dim == 0 && o->context_columns)
        die_usage("--context-columns: %s takes no context", m->path);
    if (m->context_dim == 0)
        return;
    choose_context(m, t, o, by_place, index, x_columns, index + x_columns);
    char room[32];
    for (size_t i = x_columns; i < x_columns + m->context_dim; i++)
        if (table_holds(index, x_columns, index[i]))
            die("%s: the column \"%.60s\" would be both data and context", t->path, table_name(t, index[i], room, sizeof room));
}

void model_read_rows(const model *m, const char *path, const rows_options *o, bool with_x, model_rows *rows) {
    table t;
    char message[600];
    if (!table_read(path, &t, message, sizeof message))
        die("%s", message);
    const size_t x_columns = with_x ? m->dim : 0, columns = x_columns + m->context_dim;
    size_t *index = allocate(columns, sizeof *index);
    choose_columns(m, &t, o, with_x, index);
    if (o->drop_missing) {
        const size_t dropped = table_drop(&t, index, columns);
        if (dropped > 0)
            note("%s: left out %zu row%s with something that is not a number", t.path, dropped, dropped == 1 ? "" : "s");
    } else if (!table_check(&t, index, columns, message, sizeof message)) {
        die("%s", message);
    }
    if (t.data.rows == 0)
        die("%s: no row is left", t.path);
    *rows = (model_rows){.rows = t.data.rows, .x = with_x ? table_take(&t, index, x_columns) : NULL, .numbers = t.numbers};
    t.numbers = NULL;
    if (m->context_dim > 0)
        rows->context = table_take(&t, index + x_columns, m->context_dim);
    if ((with_x && !rows->x) || (m->context_dim > 0 && !rows->context))
        die("%s: no memory for its rows", path);
    free(index);
    table_free(&t);
}

void model_free_rows(model_rows *rows) {
    free(rows->x);
    free(rows->context);
    free(rows->numbers);
    *rows = (model_rows){0};
}
