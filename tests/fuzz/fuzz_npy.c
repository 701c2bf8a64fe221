/* Fuzz target: any bytes as an NPY file. What reads is written, and reads again as the same numbers. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A stream in memory: files of a disk would take twice the time of all the rest. */
static FILE *opened(FILE *file) {
    if (!file)
        abort();
    return file;
}

static void check_again(const csv_table *table) {
    char message[256], *bytes = NULL;
    size_t size = 0;
    csv_table again;
    FILE *file = opened(open_memstream(&bytes, &size));
    npy_write(file, table->rows, table->columns, table->values);
    if (fclose(file) != 0)
        abort();
    file = opened(fmemopen(bytes, size, "rb"));
    if (!npy_read(file, "again", &again, message, sizeof message))
        abort();
    if (again.rows != table->rows || again.columns != table->columns)
        abort();
    for (size_t i = 0; i < table->rows * table->columns; i++)
        if (isnan(table->values[i]) ? !isnan(again.values[i]) : again.values[i] != table->values[i])
            abort();
    csv_free(&again);
    fclose(file);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char message[256] = "";
    csv_table table;
    /* A block of its own, which is not const: a stream that is read from writes nothing to it. */
    uint8_t *bytes = malloc(size + (size == 0));
    if (!bytes)
        return 0;
    if (size)
        memcpy(bytes, data, size);
    FILE *file = opened(fmemopen(bytes, size, "rb"));
    if (npy_read(file, "input", &table, message, sizeof message)) {
        if (table.rows == 0 || table.columns == 0 || table.names)
            abort();
        for (size_t i = 0; i < table.rows * table.columns; i++) /* what is not finite is a fault, and NaN */
            if (!isfinite(table.values[i]) && (!isnan(table.values[i]) || table.faults[i % table.columns].count == 0))
                abort();
        check_again(&table);
        csv_free(&table);
    } else if (!*message) {
        abort();
    }
    fclose(file);
    free(bytes);
    return 0;
}
