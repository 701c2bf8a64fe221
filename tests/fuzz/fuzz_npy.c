/* Fuzz target: any bytes as an NPY file. What reads is written, and reads again as the same numbers. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file without a name, at its beginning. */
static FILE *open_file(void) {
    FILE *file = tmpfile();
    if (!file)
        abort();
    return file;
}

static void check_again(const csv_table *table) {
    char message[256];
    csv_table again;
    FILE *file = open_file();
    npy_write(file, table->rows, table->columns, table->values);
    rewind(file);
    if (!npy_read(file, "again", &again, message, sizeof message))
        abort();
    if (again.rows != table->rows || again.columns != table->columns)
        abort();
    for (size_t i = 0; i < table->rows * table->columns; i++)
        if (isnan(table->values[i]) ? !isnan(again.values[i]) : again.values[i] != table->values[i])
            abort();
    csv_free(&again);
    fclose(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char message[256] = "";
    csv_table table;
    FILE *file = open_file();
    if (size > 0 && fwrite(data, 1, size, file) != size)
        abort();
    rewind(file);
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
    return 0;
}
