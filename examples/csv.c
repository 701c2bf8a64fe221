/* A strict reader and a writer of tables of numbers. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "csv.h"

typedef struct reader {
    const char *path;
    char *text, *next;        /* the file, and its first line not read yet */
    size_t line;              /* its number, from 1 */
    char delimiter;           /* ' ' for any run of blanks */
    char **fields;            /* of the current line, cut out of text */
    size_t field_count, field_room, value_room;
    csv_table table;
    char *message;
    size_t message_size;
} reader;

__attribute__((format(printf, 2, 3))) static bool fail(reader *r, const char *format, ...) {
    char detail[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    snprintf(r->message, r->message_size, "%s: %s", r->path, detail);
    return false;
}

/* Room for one more element; false when there is no memory. */
static bool grow(void **array, size_t *room, size_t needed, size_t element) {
    if (needed <= *room)
        return true;
    size_t wanted = *room < 64 ? 64 : *room;
    while (wanted < needed) {
        if (wanted > SIZE_MAX / element / 2)
            return false;
        wanted *= 2;
    }
    void *larger = realloc(*array, wanted * element);
    if (!larger)
        return false;
    *array = larger;
    *room = wanted;
    return true;
}

/* The whole file as a string: pipes have no size to ask for. */
static bool read_text(reader *r) {
    FILE *file = fopen(r->path, "rb");
    if (!file)
        return fail(r, "%s", strerror(errno));
    size_t length = 0, room = 0;
    bool good = true;
    for (size_t got = 1; good && got > 0; length += got) {
        void *text = r->text;
        good = grow(&text, &room, length + 65537, 1);
        r->text = text;
        got = good ? fread(r->text + length, 1, room - length - 1, file) : 0;
    }
    if (!good)
        fail(r, "no memory for the file");
    else if (ferror(file))
        good = fail(r, "%s", strerror(errno));
    fclose(file);
    if (!good)
        return false;
    r->text[length] = '\0';
    if (strlen(r->text) != length)
        return fail(r, "this is not text: byte %zu is 0", strlen(r->text));
    r->next = strncmp(r->text, "\xef\xbb\xbf", 3) == 0 ? r->text + 3 : r->text; /* a byte order mark */
    return true;
}

static char *skip_blanks(char *s) { return s + strspn(s, " \t\v\f"); }

/* The next line that says something, as a string without blanks around it; NULL at the end. */
static char *next_line(reader *r) {
    while (*r->next) {
        char *line = r->next, *end = line + strcspn(line, "\r\n");
        r->next = end + (*end == '\0' ? 0 : strncmp(end, "\r\n", 2) == 0 ? 2 : 1);
        r->line++;
        *end = '\0';
        /* A tab may stand for an empty first or last field: only lines of nothing else are empty. */
        const char *first = skip_blanks(line);
        if (*first && *first != '#')
            return line;
    }
    return NULL;
}

static void trim(char **field) {
    *field = skip_blanks(*field);
    size_t length = strlen(*field);
    while (length > 0 && strchr(" \t\v\f", (*field)[length - 1]))
        (*field)[--length] = '\0';
}

/* Takes a field off the line, and says where the rest begins (NULL: nowhere). */
static char *cut_field(reader *r, char **rest) {
    const char blanks[] = " \t", one[] = {r->delimiter, '\0'};
    char *field = skip_blanks(*rest);
    if (r->delimiter == '\t')
        field = *rest + strspn(*rest, " ");
    const char *between = r->delimiter == ' ' ? blanks : one;
    char *end = field + strcspn(field, between), *quote = *field == '"' ? strchr(field + 1, '"') : NULL;
    if (quote && (quote[1] == '\0' || strchr(between, quote[1]))) {
        *quote = '\0';
        field++;
        end = quote + 1;
    }
    if (*end == '\0') {
        *rest = NULL;
    } else {
        *rest = end + 1;
        *end = '\0';
        if (r->delimiter == ' ' && *(*rest = skip_blanks(*rest)) == '\0')
            *rest = NULL;
    }
    return field;
}

static bool split(reader *r, char *line) {
    r->field_count = 0;
    for (char *rest = line; rest;) {
        void *fields = r->fields;
        if (!grow(&fields, &r->field_room, r->field_count + 1, sizeof *r->fields))
            return fail(r, "line %zu: no memory for its fields", r->line);
        r->fields = fields;
        char *field = cut_field(r, &rest);
        trim(&field);
        r->fields[r->field_count++] = field;
    }
    return true;
}

/* strtod takes more than decimal numbers: words, hexadecimal. */
static bool parse(const char *field, double *value) {
    char *end;
    *value = strtod(field, &end);
    return end != field && *end == '\0' && strspn(field, "+-.0123456789eE") == strlen(field);
}

static bool looks_numeric(const char *field) {
    char *end;
    strtod(field, &end);
    return end != field && *end == '\0';
}

static bool add_row(reader *r) {
    csv_table *t = &r->table;
    if (r->field_count != t->columns)
        return fail(r, "line %zu has %zu column%s, and the first line has %zu", r->line, r->field_count, r->field_count == 1 ? "" : "s",
                    t->columns);
    void *values = t->values;
    if (t->columns > SIZE_MAX / sizeof *t->values / (t->rows + 1) ||
        !grow(&values, &r->value_room, (t->rows + 1) * t->columns, sizeof *t->values))
        return fail(r, "line %zu: no memory for %zu rows", r->line, t->rows + 1);
    t->values = values;
    for (size_t i = 0; i < t->columns; i++) {
        double *value = t->values + t->rows * t->columns + i;
        const char *name = t->names ? t->names[i] : "", *open = t->names ? " (" : "", *close = t->names ? ")" : "";
        if (r->fields[i][0] == '\0')
            return fail(r, "line %zu, column %zu%s%.60s%s is empty", r->line, i + 1, open, name, close);
        if (!parse(r->fields[i], value))
            return fail(r, "line %zu, column %zu%s%.60s%s: \"%.60s\" is not a number", r->line, i + 1, open, name, close, r->fields[i]);
        if (!isfinite(*value))
            return fail(r, "line %zu, column %zu%s%.60s%s: %.60s is too large", r->line, i + 1, open, name, close, r->fields[i]);
    }
    t->rows++;
    return true;
}

static bool take_names(reader *r) {
    r->table.names = calloc(r->field_count, sizeof *r->table.names);
    if (!r->table.names)
        return fail(r, "line %zu: no memory for the names", r->line);
    for (size_t i = 0; i < r->field_count; i++) {
        const size_t size = strlen(r->fields[i]) + 1;
        r->table.names[i] = malloc(size);
        if (!r->table.names[i])
            return fail(r, "line %zu: no memory for the names", r->line);
        memcpy(r->table.names[i], r->fields[i], size);
    }
    return true;
}

/* The first line says how many columns there are, what is between them, and perhaps their names. */
static bool first_line(reader *r) {
    char *line = next_line(r);
    if (!line)
        return fail(r, "it has no rows");
    const char *body = skip_blanks(line);
    r->delimiter = strchr(body, ';') ? ';' : strchr(body, '\t') ? '\t' : strchr(body, ',') ? ',' : ' ';
    if (!split(r, line))
        return false;
    r->table.columns = r->field_count;
    size_t numbers = 0;
    for (size_t i = 0; i < r->field_count; i++)
        numbers += looks_numeric(r->fields[i]);
    return numbers == 0 ? take_names(r) : add_row(r);
}

bool csv_read(const char *path, csv_table *table, char *message, size_t size) {
    reader r = {.path = path, .message = message, .message_size = size};
    bool good = read_text(&r) && first_line(&r);
    for (char *line; good && (line = next_line(&r)) != NULL;)
        good = split(&r, line) && add_row(&r);
    if (good && r.table.rows == 0)
        good = fail(&r, "it has no rows, only a line of names");
    free(r.fields);
    free(r.text);
    if (!good)
        csv_free(&r.table);
    *table = r.table;
    return good;
}

/* Quoted where csv_read would not take it for one field otherwise; what would mislead it even so, a quote, semicolon or tab, is replaced. */
static void put_name(FILE *file, const char *name) {
    if (*name && name[strcspn(name, ",;\t")] == '\0' && !strchr("#\" ", *name)) {
        fputs(name, file);
        return;
    }
    fputc('"', file);
    for (; *name; name++)
        fputc(*name == '"' ? '\'' : *name == '\t' || *name == ';' ? ' ' : *name, file);
    fputc('"', file);
}

bool csv_write(const char *path, size_t rows, size_t columns, const double *values, const char *const *names, char *message, size_t size) {
    FILE *file = fopen(path, "w");
    if (!file) {
        snprintf(message, size, "%s: %s", path, strerror(errno));
        return false;
    }
    for (size_t i = 0; names && i < columns; i++) {
        put_name(file, names[i]);
        fputc(i + 1 < columns ? ',' : '\n', file);
    }
    for (size_t i = 0; i < rows * columns; i++)
        fprintf(file, "%.17g%c", values[i], (i + 1) % columns ? ',' : '\n');
    const bool good = !ferror(file);
    if (fclose(file) == 0 && good)
        return true;
    snprintf(message, size, "%s: %s", path, strerror(errno));
    return false;
}

void csv_free(csv_table *table) {
    for (size_t i = 0; table->names && i < table->columns; i++)
        free(table->names[i]);
    free(table->names);
    free(table->values);
    *table = (csv_table){0};
}
