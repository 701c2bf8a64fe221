/* Fuzz target: any bytes as a table of numbers. What reads is written, and reads again as the same numbers. */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file without a place on a disk, and its path. */
static int open_memory(char *path, size_t room) {
    const int fd = memfd_create("table", 0);
    if (fd < 0)
        abort();
    snprintf(path, room, "/proc/self/fd/%d", fd);
    return fd;
}

static void check_again(const csv_table *table) {
    char path[64], message[256];
    csv_table again;
    const int fd = open_memory(path, sizeof path);
    if (!csv_write(path, table->rows, table->columns, table->values, NULL, message, sizeof message) || !csv_read(path, &again, message, sizeof message))
        abort();
    if (again.rows != table->rows || again.columns != table->columns ||
        memcmp(again.values, table->values, table->rows * table->columns * sizeof *table->values) != 0)
        abort();
    csv_free(&again);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64], message[256] = "";
    csv_table table;
    const int fd = open_memory(path, sizeof path);
    for (size_t done = 0; done < size;) {
        const ssize_t wrote = write(fd, data + done, size - done);
        if (wrote <= 0)
            abort();
        done += (size_t)wrote;
    }
    if (csv_read(path, &table, message, sizeof message)) {
        for (size_t i = 0; i < table.rows * table.columns; i++)
            if (!isfinite(table.values[i]))
                abort();
        if (table.rows == 0 || table.columns == 0)
            abort();
        check_again(&table);
        csv_free(&table);
    } else if (!*message) {
        abort();
    }
    close(fd);
    return 0;
}
