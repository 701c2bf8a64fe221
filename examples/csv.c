/* A strict reader and a writer of tables of numbers. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "csv.h"

#define BYTE_ORDER_MARK "\xef\xbb\xbf" /* in UTF-8; says nothing, and is no part of the first name */

enum { CHUNK = 1 << 16, LONGEST_FIELD = 1 << 24 };

typedef struct reader {
    const char *path;
    FILE *file;
    bool lenient, end;        /* end: the stream has no more */
    char *text;               /* what is read and not used yet: text[start] to text[stop] */
    size_t start, stop, room;
    size_t before;            /* bytes of the file before text */
    size_t line, breaks;      /* number of the current row's first line, from 1; line ends within its quotes */
    char delimiter;           /* ' ' for any run of blanks */
    char **fields;            /* of the current line, cut out of text */
    size_t field_count, field_room, value_room;
    csv_table table;
    char *message;
    size_t message_size;
} reader;

__attribute__((format(printf, 2, 3))) static bool fail(const reader *r, const char *format, ...) {
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

/* More of the stream behind what is left of text, which moves to its beginning. A table may be far larger than its text should be in memory. */
static bool fill(reader *r) {
    if (r->start > 0)
        memmove(r->text, r->text + r->start, r->stop - r->start);
    r->before += r->start;
    r->stop -= r->start;
    r->start = 0;
    void *text = r->text;
    if (!grow(&text, &r->room, r->stop + CHUNK + 1, 1))
        return fail(r, "line %zu: no memory for its text", r->line + 1);
    r->text = text;
    const size_t got = fread(r->text + r->stop, 1, CHUNK, r->file);
    if (got < CHUNK && ferror(r->file))
        return fail(r, "%s", strerror(errno));
    const char *zero = memchr(r->text + r->stop, '\0', got);
    if (zero)
        return fail(r, "this is not text: byte %zu is 0", r->before + (size_t)(zero - r->text));
    r->stop += got;
    r->end = got < CHUNK;
    return true;
}

/* Where the line ends that is `from` bytes behind `start`, or `stop`: the last one, without an end. False when the stream fails. */
static bool find_end(reader *r, size_t from, size_t *at) {
    for (size_t looked = from;;) {
        size_t i = r->start + looked;
        while (i < r->stop && r->text[i] != '\n' && r->text[i] != '\r')
            i++;
        *at = i;
        /* What follows a carriage return decides how long the end is. */
        if (r->end || i + 1 < r->stop || (i < r->stop && r->text[i] == '\n'))
            return true;
        looked = i - r->start;
        if (!fill(r))
            return false;
    }
}

static char *skip_blanks(char *s) { return s + strspn(s, " \t\v\f"); }

/* What may stand between fields; while the delimiter is not known, all that it can be. */
static const char *between_fields(const reader *r) {
    return r->delimiter == ' ' ? " \t" : r->delimiter == ';' ? ";" : r->delimiter == '\t' ? "\t" : r->delimiter == ',' ? "," : ";\t, ";
}

/* A tab may stand for an empty field. */
static char *begin_field(const reader *r, char *s) { return r->delimiter == '\t' ? s + strspn(s, " ") : skip_blanks(s); }

/* The quote that ends a field which begins with one; "" is a quote within. NULL: there is none. */
static char *closing_quote(char *field) {
    char *at = strchr(field + 1, '"');
    while (at && at[1] == '"')
        at = strchr(at + 2, '"');
    return at;
}

/* What follows a field with quotes around it, and the blanks behind it; NULL: there are none around it. */
static char *behind_quotes(char *field, const char *between) {
    char *at = *field == '"' ? closing_quote(field) : NULL;
    if (!at)
        return NULL;
    at++;
    char *end = at + strspn(at, " ");
    return *at == '\0' || strchr(between, *at) ? at : *end == '\0' || strchr(between, *end) ? end : NULL;
}

/* The quote that begins a field and that nothing ends in this text; NULL: there is none. `at` is where a field begins, or behind one. */
static char *open_quote(const reader *r, char *at, bool begins) {
    const char *between = between_fields(r);
    for (;; at++) {
        char *field = begins ? begin_field(r, at) : at, *behind = begins ? behind_quotes(field, between) : NULL;
        if (begins && !behind && *field == '"' && !closing_quote(field))
            return field;
        at = behind ? behind : field;
        at += strcspn(at, between);
        if (*at == '\0')
            return NULL;
        begins = true;
    }
}

/* How far behind `start` the quote is that ends a field over line ends, when the next one does; else 0. False when the stream fails. */
static bool find_closing(reader *r, size_t quote, size_t *closing) {
    *closing = 0;
    for (size_t at = quote + 1; at - quote < LONGEST_FIELD;) {
        const char *text = r->text + r->start;
        const size_t size = r->stop - r->start;
        const char *found = memchr(text + at, '"', size - at);
        at = found ? (size_t)(found - text) : size;
        size_t behind = at + 1;
        while (behind < size && text[behind] == ' ')
            behind++;
        if (behind >= size && !r->end) {
            if (!fill(r))
                return false;
        } else if (at + 1 < size && text[at + 1] == '"') {
            at += 2;
        } else {
            if (at < size && (behind == size || strchr("\n\r", text[behind]) || strchr(between_fields(r), text[at + 1]) ||
                              strchr(between_fields(r), text[behind])))
                *closing = at;
            return true;
        }
    }
    return true;
}

/* From where its first line ends to where the row does: quotes hold lines together. A quote that nothing ends is a letter. */
static bool find_row_end(reader *r, size_t *end) {
    for (size_t from = 0, closing;; from = closing + 1) {
        char *text = r->text + r->start, kept = r->text[*end];
        r->text[*end] = '\0'; /* text has room for it behind stop */
        const char *quote = open_quote(r, text + from, from == 0);
        r->text[*end] = kept;
        if (!quote)
            return true;
        const size_t opening = (size_t)(quote - text);
        if (!find_closing(r, opening, &closing) || !find_end(r, closing > 0 ? closing : from, end))
            return false;
        if (closing == 0)
            return true;
        for (size_t i = r->start + opening; i < r->start + closing; i++)
            r->breaks += r->text[i] == '\n' || (r->text[i] == '\r' && r->text[i + 1] != '\n');
    }
}

/* Each line end becomes a blank: names and messages are lines. */
static void join_lines(char *row) {
    char *to = row;
    for (const char *from = row; *from; from++)
        if (from[0] != '\r' || from[1] != '\n')
            *to++ = *from;
    *to = '\0';
    for (char *end = row; *(end += strcspn(end, "\n\r"));)
        *end = ' ';
}

/* The next row that says something, as a string without its end; *row is NULL at the end of the stream. */
static bool next_row(reader *r, char **row) {
    for (size_t end;;) {
        if (!find_end(r, 0, &end))
            return false;
        if (r->line == 0 && end - r->start >= 3 && memcmp(r->text + r->start, BYTE_ORDER_MARK, 3) == 0)
            r->start += 3;
        if (r->start == r->stop) {
            *row = NULL;
            return true;
        }
        r->line += 1 + r->breaks;
        r->breaks = 0;
        /* A tab may stand for an empty first or last field: only lines of nothing else are empty. */
        size_t first = r->start;
        while (first < end && strchr(" \t\v\f", r->text[first]))
            first++;
        const bool says = first < end && r->text[first] != '#';
        if (says && memchr(r->text + first, '"', end - first) && !find_row_end(r, &end))
            return false;
        *row = r->text + r->start;
        r->start = end == r->stop ? end : end + (r->text[end] == '\r' && end + 1 < r->stop && r->text[end + 1] == '\n' ? 2 : 1);
        r->text[end] = '\0';
        if (r->breaks > 0)
            join_lines(*row);
        if (says)
            return true;
    }
}

static void trim(char **field) {
    *field = skip_blanks(*field);
    size_t length = strlen(*field);
    while (length > 0 && strchr(" \t\v\f", (*field)[length - 1]))
        (*field)[--length] = '\0';
}

static char *take_quotes_off(char *field) {
    char *from = ++field, *to = field;
    while (*from != '"' || from[1] == '"') {
        from += *from == '"';
        *to++ = *from++;
    }
    *to = '\0';
    return field;
}

/* Takes a field off the line, and says where the rest begins (NULL: nowhere). */
static char *cut_field(reader *r, char **rest) {
    const char *between = between_fields(r);
    char *field = begin_field(r, *rest), *end = behind_quotes(field, between);
    if (end)
        field = take_quotes_off(field);
    else
        end = field + strcspn(field, between);
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

static bool refuse(const reader *r, size_t column, const char *field) {
    const char *const *names = (const char *const *)r->table.names;
    char where[128];
    snprintf(where, sizeof where, "line %zu, column %zu%s%.60s%s", r->line, column + 1, names ? " (" : "", names ? names[column] : "", names ? ")" : "");
    if (*field == '\0')
        return fail(r, "%s is empty", where);
    double value;
    return fail(r, parse(field, &value) ? "%s: %.60s is too large" : "%s: \"%.60s\" is not a number", where, field);
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
        if (parse(r->fields[i], value) && isfinite(*value))
            continue;
        if (!r->lenient)
            return refuse(r, i, r->fields[i]);
        *value = NAN;
        if (t->faults[i].count++ == 0) {
            t->faults[i].line = r->line;
            snprintf(t->faults[i].text, sizeof t->faults[i].text, "%s", r->fields[i]);
        }
    }
    t->rows++;
    return true;
}

static bool take_names(reader *r) {
    r->table.names_line = r->line;
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

/* The first of ; tab , that the line has outside quotes. */
static char guess_delimiter(char *line) {
    static const char ends[] = ";\t, ";
    bool semicolon = false, tab = false, comma = false;
    for (char *at = line, *behind; *at; at++) {
        if ((at == line || strchr(ends, at[-1])) && (behind = behind_quotes(at, ends)))
            at = behind;
        if (*at == '\0')
            break;
        semicolon = semicolon || *at == ';';
        tab = tab || *at == '\t';
        comma = comma || *at == ',';
    }
    return semicolon ? ';' : tab ? '\t' : comma ? ',' : ' ';
}

/* The first line says how many columns there are, what is between them, and perhaps their names. */
static bool first_line(reader *r) {
    char *line;
    if (!next_row(r, &line))
        return false;
    if (!line)
        return fail(r, "it has no rows");
    r->delimiter = guess_delimiter(skip_blanks(line));
    if (!split(r, line))
        return false;
    r->table.columns = r->field_count;
    if (r->lenient && !(r->table.faults = calloc(r->field_count, sizeof *r->table.faults)))
        return fail(r, "line %zu: no memory for its fields", r->line);
    size_t numbers = 0;
    for (size_t i = 0; i < r->field_count; i++)
        numbers += looks_numeric(r->fields[i]);
    return numbers == 0 ? take_names(r) : add_row(r);
}

static bool read_all(reader *r, csv_table *table) {
    char *line;
    bool good = first_line(r);
    while (good && (good = next_row(r, &line)) && line)
        good = split(r, line) && add_row(r);
    if (good && r->table.rows == 0)
        good = fail(r, "it has no rows, only a line of names");
    free(r->fields);
    free(r->text);
    if (!good)
        csv_free(&r->table);
    *table = r->table;
    return good;
}

bool csv_read(const char *path, csv_table *table, char *message, size_t size) {
    reader r = {.path = path, .file = fopen(path, "rb"), .message = message, .message_size = size};
    if (!r.file) {
        *table = (csv_table){0};
        return fail(&r, "%s", strerror(errno));
    }
    const bool good = read_all(&r, table);
    fclose(r.file);
    return good;
}

bool csv_read_lenient(FILE *file, const char *path, csv_table *table, char *message, size_t size) {
    reader r = {.path = path, .file = file, .lenient = true, .message = message, .message_size = size};
    return read_all(&r, table);
}

/* Quoted where csv_read would not take it for one field otherwise: alone, blanks would part it, and the file must not begin with a byte order mark. */
static void put_name(FILE *file, const char *name, bool alone) {
    if (*name && name[strcspn(name, alone ? ",;\t\r\n " : ",;\t\r\n")] == '\0' && !strchr("#\" ", *name) && strncmp(name, BYTE_ORDER_MARK, 3) != 0) {
        fputs(name, file);
        return;
    }
    fputc('"', file);
    for (; *name; name++)
        fputs(*name == '"' ? "\"\"" : (const char[]){*name, '\0'}, file);
    fputc('"', file);
}

void csv_put_names(FILE *file, size_t columns, const char *const *names) {
    for (size_t i = 0; i < columns; i++) {
        put_name(file, names[i], columns == 1);
        fputc(i + 1 < columns ? ',' : '\n', file);
    }
}

bool csv_write(const char *path, size_t rows, size_t columns, const double *values, const char *const *names, char *message, size_t size) {
    FILE *file = fopen(path, "w");
    if (!file) {
        snprintf(message, size, "%s: %s", path, strerror(errno));
        return false;
    }
    if (names)
        csv_put_names(file, columns, names);
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
    free(table->faults);
    free(table->values);
    *table = (csv_table){0};
}
