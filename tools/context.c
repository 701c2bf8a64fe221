/* Contexts of samples. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "options.h"
#include "tool.h"

double *context_values(const model *m, const context_options *o) {
    if (!o->values)
        return NULL;
    if (m->context_dim == 0)
        die_usage("--context: %s takes no context", m->path);
    size_t count;
    char **word = split_list(o->values, &count);
    if (count != m->context_dim)
        die_usage("--context %s: these are %zu numbers, and %s takes %zu", o->values, count, m->path, m->context_dim);
    double *values = allocate(count, sizeof *values);
    for (size_t i = 0; i < count; i++)
        if (!read_number(word[i], &values[i]))
            die_usage("--context %s: \"%s\" is not a number", o->values, word[i]);
    free(word);
    return values;
}

static double *repeat(const double *from, size_t contexts, size_t columns, size_t each) {
    double *all = allocate(contexts * each, columns * sizeof *all);
    for (size_t r = 0; r < contexts * each; r++)
        memcpy(all + r * columns, from + r / each * columns, columns * sizeof *all);
    return all;
}

double *context_rows(const model *m, const context_options *o, size_t *rows) {
    if (m->context_dim == 0 && o->file)
        die_usage("--context-file: %s takes no context", m->path);
    if (o->file && o->values)
        die_usage("--context and --context-file: one of them is enough");
    double *values = context_values(m, o);
    if (m->context_dim == 0)
        return NULL;
    double *all;
    if (values) {
        all = repeat(values, 1, m->context_dim, *rows);
    } else if (o->file) {
        const rows_options choice = {0};
        model_rows given;
        model_read_rows(m, o->file, &choice, false, &given);
        if (*rows > SIZE_MAX / sizeof(double) / given.rows)
            die("%zu rows for each of %zu contexts are too many", *rows, given.rows);
        all = repeat(given.context, given.rows, m->context_dim, *rows);
        *rows *= given.rows;
        model_free_rows(&given);
    } else {
        die_usage("%s takes a context of %zu number%s (%s%s): give it with --context or --context-file", m->path, m->context_dim,
                  m->context_dim == 1 ? "" : "s", m->context_names[0], m->context_dim > 1 ? ", .." : "");
    }
    free(values);
    return all;
}
