/* Reading, choosing columns, writing. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "npy.h"
#include "options.h"
#include "output.h"
#include "table.h"
#include "tool.h"

/* ---- Names */

static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* How many of the sorted names are this one. */
static size_t occurrences(char **sorted, size_t count, const char *name) {
    char **found = bsearch(&name, sorted, count, sizeof *sorted, compare_texts), **first = found, **last = found;
    if (!found)
        return 0;
    while (first > sorted && strcmp(first[-1], name) == 0)
        first--;
    while (last + 1 < sorted + count && strcmp(last[1], name) == 0)
        last++;
    return (size_t)(last - first) + 1;
}

/* x and the column's number, and as many _ as tell it from the file's names; so made names differ from each other too. */
static char *made_name(size_t column, char **sorted, size_t count) {
    char *name = new_text("x%zu", column + 1);
    while (occurrences(sorted, count, name) > 0) {
        char *longer = new_text("%s_", name);
        free(name);
        name = longer;
    }
    return name;
}

static char **different_names(const csv_table *d) {
    const size_t count = d->columns;
    char **names = allocate(count, sizeof *names), **sorted = allocate(count, sizeof *sorted);
    memcpy(sorted, d->names, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_texts);
    for (size_t i = 0; i < count; i++) {
        const bool own = *d->names[i] && occurrences(sorted, count, d->names[i]) == 1;
        names[i] = own ? copy_text(d->names[i]) : made_name(i, sorted, count);
    }
    free(sorted);
    return names;
}

static size_t count_name(char *const *names, size_t count, const char *name, size_t *first) {
    size_t found = 0;
    for (size_t i = count; names && i-- > 0;)
        if (strcmp(names[i], name) == 0) {
            *first = i;
            found++;
        }
    return found;
}

size_t table_named(const table *t, const char *name, size_t *column) {
    const size_t found = count_name(t->data.names, t->data.columns, name, column);
    return found > 0 ? found : count_name(t->names, t->data.columns, name, column);
}

const char *table_name(const table *t, size_t column, char *room, size_t size) {
    if (t->data.names && *t->data.names[column])
        return t->data.names[column];
    snprintf(room, size, "column %zu", column + 1);
    return room;
}

/* ---- Reading */

bool table_read(const char *path, table *t, char *message, size_t size) {
    const bool input = strcmp(path, "-") == 0;
    FILE *file = input ? stdin : fopen(path, "rb");
    *t = (table){.path = input ? "standard input" : path};
    if (!file) {
        snprintf(message, size, "%s: %s", path, strerror(errno));
        return false;
    }
    const int first = getc(file);
    if (first != EOF)
        ungetc(first, file);
    t->npy = first == NPY_FIRST_BYTE;
    const bool good = t->npy ? npy_read(file, t->path, &t->data, message, size) : csv_read_lenient(file, t->path, &t->data, message, size);
    if (!input)
        fclose(file);
    if (good && t->data.names)
        t->names = different_names(&t->data);
    return good;
}

void table_free(table *t) {
    for (size_t i = 0; t->names && i < t->data.columns; i++)
        free(t->names[i]);
    free(t->names);
    free(t->numbers);
    t->names = NULL;
    t->numbers = NULL;
    csv_free(&t->data);
}

/* ---- Columns */

/* The names that there are, as far as they fit: the first always does. */
static void list_names(const table *t, char *list, size_t size) {
    size_t used = 0;
    *list = '\0';
    for (size_t i = 0; t->data.names && i < t->data.columns; i++) {
        const char *name = *t->data.names[i] ? t->data.names[i] : t->names[i];
        const int length = snprintf(list + used, size - used, "%s%.60s", i ? ", " : "", name);
        if (length < 0 || used + (size_t)length + 8 > size) {
            snprintf(list + used, size - used, "%s", used + 6 < size ? ", ..." : "");
            return;
        }
        used += (size_t)length;
    }
}

static bool unknown_column(const table *t, const char *word, char *message, size_t size) {
    char names[256];
    list_names(t, names, sizeof names);
    if (*names)
        snprintf(message, size, "%s: there is no column \"%.60s\"; it has %s", t->path, word, names);
    else
        snprintf(message, size, "%s: there is no column \"%.60s\"; it has %zu without names, so say 1 to %zu", t->path, word,
                 t->data.columns, t->data.columns);
    return false;
}

static bool ambiguous_column(const table *t, const char *word, char *message, size_t size) {
    snprintf(message, size, "%s: more than one column is called \"%.60s\": say which one by its number", t->path, word);
    return false;
}

/* First and last column that a word stands for, from 0. */
static bool find_word(const table *t, const char *word, size_t *first, size_t *last) {
    if (table_named(t, word, first) == 1) {
        *last = *first;
        return true;
    }
    char from[24];
    uint64_t low, high;
    const char *dash = strchr(word, '-');
    const size_t length = dash ? (size_t)(dash - word) : strlen(word);
    if (length >= sizeof from)
        return false;
    memcpy(from, word, length);
    from[length] = '\0';
    if (!read_whole(from, &low) || !(dash ? read_whole(dash + 1, &high) : (high = low, true)))
        return false;
    *first = (size_t)low - 1;
    *last = (size_t)high - 1;
    return low >= 1 && low <= high && high <= t->data.columns;
}

bool table_find(const table *t, const char *list, size_t **index, size_t *count, char *message, size_t size) {
    size_t words, first, last;
    char **word = split_list(list, &words);
    bool *used = allocate(t->data.columns, sizeof *used), good = true;
    *index = allocate(t->data.columns, sizeof **index);
    *count = 0;
    for (size_t i = 0; good && i < words; i++) {
        if (!find_word(t, word[i], &first, &last)) {
            good = (table_named(t, word[i], &first) > 1 ? ambiguous_column : unknown_column)(t, word[i], message, size);
            break;
        }
        for (size_t c = first; good && c <= last; c++) {
            if (used[c]) {
                snprintf(message, size, "%s: the column \"%.60s\" is asked for twice", t->path, word[i]);
                good = false;
            } else {
                used[c] = true;
                (*index)[(*count)++] = c;
            }
        }
    }
    free(used);
    free(word);
    if (!good) {
        free(*index);
        *index = NULL;
    }
    return good;
}

bool table_holds(const size_t *index, size_t count, size_t column) {
    for (size_t i = 0; i < count; i++)
        if (index[i] == column)
            return true;
    return false;
}

bool table_has_comma(const table *t, size_t column) {
    const char *text = t->data.faults[column].text, *comma = strchr(text, ',');
    return comma && comma[1] >= '0' && comma[1] <= '9' && text[strspn(text, "+-.,0123456789")] == '\0';
}

bool table_check(const table *t, const size_t *index, size_t count, char *message, size_t size) {
    for (size_t i = 0; i < count; i++) {
        const csv_fault *fault = &t->data.faults[index[i]];
        if (fault->count == 0)
            continue;
        char name[100] = "";
        if (t->data.names)
            snprintf(name, sizeof name, " (%.60s)", t->data.names[index[i]]);
        snprintf(message, size, "%s: %s %zu, column %zu%s %s%.47s%s: %s", t->path, t->npy ? "row" : "line", fault->line, index[i] + 1, name,
                 *fault->text ? "is \"" : "is empty", fault->text, *fault->text ? "\", not a number" : "",
                 table_has_comma(t, index[i]) ? "write numbers with a decimal point, and without commas"
                                              : "leave the column out with --columns, or such rows with --drop-missing");
        return false;
    }
    return true;
}

size_t table_drop(table *t, const size_t *index, size_t count) {
    csv_table *d = &t->data;
    size_t kept = 0, *numbers = allocate(d->rows, sizeof *numbers);
    for (size_t r = 0; r < d->rows; r++) {
        bool whole = true;
        for (size_t i = 0; i < count; i++)
            whole = whole && !isnan(d->values[r * d->columns + index[i]]);
        if (whole && kept < r)
            memcpy(d->values + kept * d->columns, d->values + r * d->columns, d->columns * sizeof *d->values);
        if (whole)
            numbers[kept++] = t->numbers ? t->numbers[r] : r + 1;
    }
    for (size_t i = 0; i < count; i++)
        d->faults[index[i]].count = 0;
    const size_t dropped = d->rows - kept;
    d->rows = kept;
    free(dropped > 0 ? t->numbers : numbers);
    if (dropped > 0)
        t->numbers = numbers;
    return dropped;
}

double *table_take(table *t, const size_t *index, size_t count) {
    bool all = count == t->data.columns;
    for (size_t i = 0; i < count && all; i++)
        all = index[i] == i;
    if (all) {
        double *whole = t->data.values;
        t->data.values = NULL;
        t->data.rows = 0;
        return whole;
    }
    if (count > SIZE_MAX / sizeof(double) / (t->data.rows + 1))
        return NULL;
    double *values = malloc((t->data.rows * count + 1) * sizeof *values);
    for (size_t r = 0; values && r < t->data.rows; r++)
        for (size_t i = 0; i < count; i++)
            values[r * count + i] = t->data.values[r * t->data.columns + index[i]];
    return values;
}

double *table_join(size_t rows, const double *a, size_t a_columns, const double *b, size_t b_columns) {
    const size_t columns = a_columns + b_columns;
    double *joined = allocate(rows, columns * sizeof *joined);
    for (size_t r = 0; r < rows; r++) {
        memcpy(joined + r * columns, a + r * a_columns, a_columns * sizeof *joined);
        if (b_columns > 0)
            memcpy(joined + r * columns + a_columns, b + r * b_columns, b_columns * sizeof *joined);
    }
    return joined;
}

/* ---- Output */

static bool ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static void put_csv(FILE *file, int digits, size_t rows, size_t columns, const double *values, const char *const *names) {
    csv_put_names(file, columns, names);
    for (size_t i = 0; i < rows * columns; i++)
        fprintf(file, "%.*g%c", digits, values[i], (i + 1) % columns ? ',' : '\n');
}

static void put_json(FILE *file, int digits, size_t rows, size_t columns, const double *values, const char *const *names) {
    fputs("{\"columns\": [", file);
    for (size_t i = 0; i < columns; i++) {
        json_t *name = json_string(names[i]);
        if (i)
            fputs(", ", file);
        if (!name || json_dumpf(name, file, JSON_ENCODE_ANY) != 0)
            fputs("null", file); /* not UTF-8 */
        json_decref(name);
    }
    fputs("], \"rows\": [", file);
    for (size_t i = 0; i < rows * columns; i++) {
        fputs(i % columns ? ", " : i ? "],\n[" : "\n[", file);
        if (isfinite(values[i]))
            fprintf(file, "%.*g", digits, values[i]);
        else
            fputs("null", file);
    }
    fputs(rows ? "]\n]}\n" : "]}\n", file);
}

static bool is_standard(const table_output *to) { return !to->path || strcmp(to->path, "-") == 0; }

table_format table_format_of(const table_output *to) {
    if (to->json)
        return TABLE_JSON;
    if (to->format >= 0)
        return (table_format)to->format;
    if (is_standard(to))
        return TABLE_CSV;
    return ends_with(to->path, ".npy") ? TABLE_NPY : ends_with(to->path, ".json") ? TABLE_JSON : TABLE_CSV;
}

bool table_is_default(const table_output *to) { return is_standard(to) && !to->json && to->format < 0; }

void table_spare_model(const table_output *to, const char *model_path) {
    if (output_replaces(to->path, model_path))
        die("-o %s: the table would take the place of the model: give it another name", to->path);
}

void table_write(const table_output *to, size_t rows, size_t columns, const double *values, const char *const *names) {
    const bool standard = is_standard(to);
    const table_format format = table_format_of(to);
    const bool terminal = standard && isatty(STDOUT_FILENO);
    if (terminal && format == TABLE_NPY)
        die("an NPY file is not for a terminal: give it a name, with -o FILE, or a pipe");
    const int digits = to->digits == 0 ? terminal ? 6 : 17 : to->digits < 17 ? (int)to->digits : 17;
    output out;
    if (!output_open(&out, to->path))
        die("%s: %s", out.name, strerror(errno));
    if (format == TABLE_NPY)
        npy_write(out.file, rows, columns, values);
    else
        (format == TABLE_JSON ? put_json : put_csv)(out.file, digits, rows, columns, values, names);
    if (!output_close(&out))
        die("%s: %s", out.name, strerror(errno));
}
