#include "held_out.h"

#include <stdio.h>
#include <stdlib.h>

const char *const held_out_sets[HELD_OUT_SETS] = {"two_moons", "two_blobs", "boomerang"};

void held_out_require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "%s\n", nf_last_error());
    exit(1);
}

csv_table held_out_read(const char *folder, const char *name) {
    char path[4096], message[512];
    csv_table table;
    snprintf(path, sizeof path, "%s/%s.csv", folder, name);
    if (!csv_read(path, &table, message, sizeof message)) {
        fprintf(stderr, "%s\ngive a folder that holds two_moons.csv, two_blobs.csv and boomerang.csv, of two columns each\n", message);
        exit(1);
    }
    if (table.columns != 2 || table.rows < 10) {
        fprintf(stderr, "%s has %zu rows of %zu columns; two columns and ten rows are needed\n", path, table.rows, table.columns);
        exit(1);
    }
    return table;
}

/* The next of splitmix64 (Steele, Lea & Flood 2014). */
static uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void held_out_shuffle(csv_table *t, uint64_t seed) {
    uint64_t state = seed;
    for (size_t k = t->rows; k > 1; k--) {
        const size_t other = (size_t)(next(&state) % k);
        for (size_t c = 0; c < 2; c++) {
            const double kept = t->values[2 * (k - 1) + c];
            t->values[2 * (k - 1) + c] = t->values[2 * other + c];
            t->values[2 * other + c] = kept;
        }
    }
}

double held_out_nll(const nf_flow *flow, size_t rows, const double *x) {
    double *log_prob = malloc(rows * sizeof *log_prob), sum = 0;
    if (!log_prob)
        exit(1);
    held_out_require(nf_log_prob(flow, NULL, rows, x, NULL, log_prob));
    for (size_t r = 0; r < rows; r++)
        sum -= log_prob[r];
    free(log_prob);
    return sum / (double)rows;
}
