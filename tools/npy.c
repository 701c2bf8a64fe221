/* The header is a Python dictionary in text (numpy/lib/format.py has its description); it is parsed by hand, and strictly. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "npy.h"

enum { HEADER_LIMIT = 1 << 16, CHUNK = 1 << 16, WIDEST = 8 };

typedef struct array {
    FILE *file;
    const char *path;
    char *message;
    size_t message_size;
    char kind;    /* f, i, u or b */
    size_t width; /* bytes of an element */
    bool big_endian, fortran;
    size_t axes, shape[2];
    const char *next; /* in the header */
} array;

__attribute__((format(printf, 2, 3))) static bool fail(const array *a, const char *format, ...) {
    char detail[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    snprintf(a->message, a->message_size, "%s: %s", a->path, detail);
    return false;
}

static bool read_bytes(const array *a, void *bytes, size_t size, const char *what) {
    if (fread(bytes, 1, size, a->file) == size)
        return true;
    return ferror(a->file) ? fail(a, "%s", strerror(errno)) : fail(a, "this NPY file ends within its %s", what);
}

/* ---- The header */

static void skip_blanks(array *a) { a->next += strspn(a->next, " \t\n"); }

static bool take(array *a, char wanted) {
    skip_blanks(a);
    if (*a->next != wanted)
        return false;
    a->next++;
    return true;
}

static bool take_string(array *a, char *text, size_t size) {
    skip_blanks(a);
    const char quote = *a->next;
    if (quote != '\'' && quote != '"')
        return false;
    const char *end = strchr(++a->next, quote);
    if (!end || (size_t)(end - a->next) >= size)
        return false;
    memcpy(text, a->next, (size_t)(end - a->next));
    text[end - a->next] = '\0';
    a->next = end + 1;
    return true;
}

static bool take_type(array *a) {
    char text[16];
    if (!take_string(a, text, sizeof text))
        return fail(a, "NPY header: descr is not a plain type: arrays of records are not read");
    const char *order = strchr("<>|=", text[0]);
    char *end;
    const unsigned long width = text[0] && text[1] ? strtoul(text + 2, &end, 10) : 0;
    if (!order || width == 0 || *end || !strchr("fiub", text[1]) || width > WIDEST || (width & (width - 1)) != 0 ||
        (text[1] == 'f' && width < 4) || (text[1] == 'b' && width != 1))
        return fail(a, "NPY header: elements of type '%s' are not read: save the array as float64, with .astype(float)", text);
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    a->big_endian = text[0] == '>' || (text[0] == '=' && first == 0);
    a->kind = text[1];
    a->width = width;
    return true;
}

static bool take_order(array *a) {
    skip_blanks(a);
    a->fortran = strncmp(a->next, "True", 4) == 0;
    if (!a->fortran && strncmp(a->next, "False", 5) != 0)
        return fail(a, "NPY header: fortran_order is neither True nor False");
    a->next += a->fortran ? 4 : 5;
    return true;
}

static bool take_shape(array *a) {
    if (!take(a, '('))
        return fail(a, "NPY header: shape is not a tuple");
    while (!take(a, ')')) {
        skip_blanks(a);
        char *end;
        const unsigned long long length = *a->next >= '0' && *a->next <= '9' ? strtoull(a->next, &end, 10) : 0;
        if (*a->next < '0' || *a->next > '9' || length > SIZE_MAX / sizeof(double))
            return fail(a, "NPY header: shape has a length that is no sensible number");
        if (a->axes == 2)
            return fail(a, "an array of more than two axes: give it rows and columns, with .reshape(rows, -1)");
        a->shape[a->axes++] = (size_t)length;
        a->next = end;
        if (!take(a, ',') && (skip_blanks(a), *a->next != ')'))
            return fail(a, "NPY header: shape is not a tuple");
    }
    return a->axes > 0 || fail(a, "a single number, not an array: give it rows and columns");
}

/* Each of the three keys once, in any order. */
static bool parse_header(array *a) {
    unsigned seen = 0;
    if (!take(a, '{'))
        return fail(a, "NPY header: not a dictionary");
    while (!take(a, '}')) {
        char key[32];
        if (!take_string(a, key, sizeof key) || !take(a, ':'))
            return fail(a, "NPY header: a key is missing");
        const unsigned bit = strcmp(key, "descr") == 0 ? 1 : strcmp(key, "fortran_order") == 0 ? 2 : strcmp(key, "shape") == 0 ? 4 : 0;
        if (bit == 0 || (seen & bit))
            return fail(a, "NPY header: the key '%s' is %s", key, bit ? "there twice" : "unknown");
        seen |= bit;
        if (!(bit == 1 ? take_type(a) : bit == 2 ? take_order(a) : take_shape(a)))
            return false;
        if (!take(a, ',') && (skip_blanks(a), *a->next != '}'))
            return fail(a, "NPY header: no comma after '%s'", key);
    }
    skip_blanks(a);
    if (*a->next)
        return fail(a, "NPY header: there is more behind its dictionary");
    return seen == 7 || fail(a, "NPY header: the key '%s' is missing", !(seen & 1) ? "descr" : !(seen & 2) ? "fortran_order" : "shape");
}

static bool read_header(array *a) {
    unsigned char start[8], length[4] = {0};
    if (!read_bytes(a, start, sizeof start, "first bytes"))
        return false;
    if (memcmp(start, "\x93NUMPY", 6) != 0)
        return fail(a, "neither text nor an NPY file");
    if (start[6] < 1 || start[6] > 3)
        return fail(a, "NPY version %d, and 1, 2 and 3 are read", start[6]);
    if (!read_bytes(a, length, start[6] == 1 ? 2 : 4, "first bytes"))
        return false;
    const size_t size = (size_t)length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
    if (size > HEADER_LIMIT)
        return fail(a, "an NPY header of %zu bytes, and at most %d are read", size, HEADER_LIMIT);
    char *header = malloc(size + 1);
    if (!header)
        return fail(a, "no memory for an NPY header");
    header[size] = '\0';
    a->next = header;
    bool good = read_bytes(a, header, size, "header");
    if (good && strlen(header) != size)
        good = fail(a, "NPY header: it is not text");
    good = good && parse_header(a);
    free(header);
    return good;
}

/* ---- The elements */

static double element(const array *a, const unsigned char *bytes) {
    uint64_t bits = 0;
    for (size_t i = 0; i < a->width; i++)
        bits |= (uint64_t)bytes[i] << 8 * (a->big_endian ? a->width - 1 - i : i);
    if (a->kind == 'f' && a->width == 8) {
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    if (a->kind == 'f') {
        const uint32_t half = (uint32_t)bits;
        float value;
        memcpy(&value, &half, sizeof value);
        return (double)value;
    }
    const uint64_t sign = (uint64_t)1 << (8 * a->width - 1);
    if (a->kind == 'i' && (bits & sign))
        return -(double)(~bits & (sign - 1)) - 1.0;
    return (double)bits;
}

/* In the order of the file. Room is asked for as elements come. */
static bool read_elements(const array *a, size_t count, double **values) {
    unsigned char chunk[CHUNK];
    size_t room = 0, done = 0;
    while (done < count) {
        const size_t most = CHUNK / a->width, wanted = count - done < most ? count - done : most;
        const size_t got = fread(chunk, a->width, wanted, a->file);
        if (got < wanted)
            return ferror(a->file) ? fail(a, "%s", strerror(errno))
                                   : fail(a, "it ends after %zu of the %zu numbers that its header promises", done + got, count);
        if (done + got > room) {
            room = count / 2 < done + got ? count : 2 * (done + got);
            double *larger = realloc(*values, room * sizeof *larger);
            if (!larger)
                return fail(a, "no memory for %zu numbers", room);
            *values = larger;
        }
        for (size_t i = 0; i < got; i++)
            (*values)[done + i] = element(a, chunk + i * a->width);
        done += got;
    }
    return true;
}

static bool to_rows(const array *a, csv_table *t) {
    double *rows = malloc(t->rows * t->columns * sizeof *rows);
    if (!rows)
        return fail(a, "no memory to turn an array in Fortran order into rows: save it with numpy.ascontiguousarray");
    for (size_t c = 0; c < t->columns; c++)
        for (size_t r = 0; r < t->rows; r++)
            rows[r * t->columns + c] = t->values[c * t->rows + r];
    free(t->values);
    t->values = rows;
    return true;
}

static bool find_faults(const array *a, csv_table *t) {
    t->faults = calloc(t->columns, sizeof *t->faults);
    if (!t->faults)
        return fail(a, "no memory for its columns");
    for (size_t i = 0; i < t->rows * t->columns; i++) {
        csv_fault *fault = &t->faults[i % t->columns];
        if (isfinite(t->values[i]))
            continue;
        if (fault->count++ == 0) {
            fault->line = i / t->columns + 1;
            snprintf(fault->text, sizeof fault->text, "%g", t->values[i]);
        }
        t->values[i] = NAN;
    }
    return true;
}

static bool read_array(array *a, csv_table *t) {
    if (!read_header(a))
        return false;
    t->rows = a->shape[0];
    t->columns = a->axes == 2 ? a->shape[1] : 1;
    if (t->rows == 0 || t->columns == 0)
        return fail(a, "it has no rows");
    if (t->columns > SIZE_MAX / sizeof(double) / t->rows)
        return fail(a, "its header promises %zu rows of %zu numbers, more than any memory holds", t->rows, t->columns);
    if (!read_elements(a, t->rows * t->columns, &t->values) || (a->fortran && a->axes == 2 && !to_rows(a, t)))
        return false;
    if (getc(a->file) != EOF)
        return fail(a, "there is more behind its array");
    return find_faults(a, t);
}

bool npy_read(FILE *file, const char *path, csv_table *table, char *message, size_t size) {
    array a = {.file = file, .path = path, .message = message, .message_size = size};
    *table = (csv_table){0};
    const bool good = read_array(&a, table);
    if (!good)
        csv_free(table);
    return good;
}

void npy_write(FILE *file, size_t rows, size_t columns, const double *values) {
    /* The data begin at a multiple of 64 bytes; the header is padded with blanks and ends with a newline. */
    char header[119];
    const int length = snprintf(header, sizeof header, "{'descr': '<f8', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, columns);
    memset(header + length, ' ', sizeof header - 1 - (size_t)length);
    header[sizeof header - 2] = '\n';
    const unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, sizeof header - 1, 0};
    fwrite(start, 1, sizeof start, file);
    fwrite(header, 1, sizeof header - 1, file);
    for (size_t i = 0; i < rows * columns; i++) {
        uint64_t bits;
        unsigned char bytes[8];
        memcpy(&bits, values + i, sizeof bits);
        for (size_t k = 0; k < 8; k++)
            bytes[k] = (unsigned char)(bits >> 8 * k);
        fwrite(bytes, 1, sizeof bytes, file);
    }
}
