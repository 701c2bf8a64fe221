/* nflow data: rows of one of the toy densities, to try things on. */
#include <stdio.h>
#include <stdlib.h>

#include "options.h"
#include "table.h"
#include "tool.h"
#include "toy.h"

static void list_sets(void) {
    for (size_t i = 0; i < toy_count(); i++)
        printf("%-14s entropy %7.4f nats   %s\n", toy_name(toy_at(i)), toy_entropy(toy_at(i)), toy_about(toy_at(i)));
    finish_output();
}

int nflow_data(int count, char **words) {
    size_t rows = 10000;
    uint64_t seed = 1, first = 0;
    bool list = false, density = false;
    table_output output = {.format = -1};
    const option_entry entries[] = {
        {"rows", 'n', OPTION_COUNT, &rows, "N", "how many; default 10000"},
        {"seed", 's', OPTION_INTEGER, &seed, "N", "of the sequence of rows; default 1"},
        {"skip", 0, OPTION_INTEGER, &first, "N", "leave out the first N rows of the sequence: held-out rows"},
        {"density", 0, OPTION_FLAG, &density, NULL, "add a column with the log of the true density"},
        {"list", 'l', OPTION_FLAG, &list, NULL, "the sets, and the least mean NLL that a model of them can have"},
        OPTION_OUTPUT(&output),
        OPTION_FORMAT(&output),
        OPTION_JSON(&output),
        OPTION_DIGITS(&output),
        OPTION_QUIET,
    };
    const option_set set = {
        "data", "SET | --list", "Rows of a toy density in the plane, columns x1 and x2.", entries, sizeof entries / sizeof entries[0], 0,
        1};
    const size_t left = options_read(&set, count, words);
    if (list) {
        list_sets();
        return STATUS_DONE;
    }
    if (left == 0)
        die_usage("which set? 'nflow data --list' has them");
    const toy_set *toy = toy_find(words[1]);
    if (!toy)
        die_usage("%s: there is no such set; 'nflow data --list' has them", words[1]);
    double *x = allocate(rows, 2 * sizeof *x), *truth = allocate(rows, sizeof *truth);
    toy_rows(toy, seed, first, rows, x);
    for (size_t i = 0; density && i < rows; i++)
        truth[i] = toy_log_density(toy, x + 2 * i);
    double *joined = table_join(rows, x, 2, truth, density ? 1 : 0);
    const char *const names[] = {"x1", "x2", "log_density"};
    table_write(&output, rows, density ? 3 : 2, joined, names);
    free(joined);
    free(truth);
    free(x);
    return STATUS_DONE;
}
