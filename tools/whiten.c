/*
 * L = D U with a unit lower triangle U. In halves, U = [A 0; C B] is the shear z_b += B^-1 C z_a, and then A and B on their halves: so
 * couplings of one kind, each shearing all blocks of a level at once, make up U in as many levels as it takes to halve dim down to 1.
 */
#include <math.h>
#include <stdlib.h>

#include "safetensors.h"
#include "tool.h"
#include "whiten.h"

/* An element of L's diagonal. */
static double *spread(const whitening *w, size_t i) { return &w->factor[w->whole ? i * w->dim + i : i]; }

/* A column of one number: rounding would else be all of its variance. */
static void set_constant(const whitening *w, size_t column, double value) {
    w->mean[column] = value;
    for (size_t i = 0; i < w->dim; i++)
        w->factor[i > column ? i * w->dim + column : column * w->dim + i] = 0;
}

static bool varies(size_t rows, const double *x, size_t dim, size_t column) {
    for (size_t r = 1; r < rows; r++)
        if (x[r * dim + column] != x[column])
            return true;
    return false;
}

static void covariance(const whitening *w, size_t rows, const double *x, const double *weight) {
    const size_t dim = w->dim;
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        sum += weight ? weight[r] : 1.0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < dim; i++)
            w->mean[i] += (weight ? weight[r] : 1.0) / sum * x[r * dim + i];
    double *from_mean = allocate(dim, sizeof *from_mean);
    for (size_t r = 0; r < rows; r++) {
        const double share = (weight ? weight[r] : 1.0) / sum;
        for (size_t i = 0; i < dim; i++)
            from_mean[i] = x[r * dim + i] - w->mean[i];
        for (size_t i = 0; i < dim; i++)
            for (size_t j = 0; j <= i; j++)
                w->factor[i * dim + j] += share * from_mean[i] * from_mean[j];
    }
    for (size_t i = 0; rows > 1 && i < dim; i++)
        if (!varies(rows, x, dim, i))
            set_constant(w, i, x[i]);
    free(from_mean);
}

/* Lower triangle in place. What is left of a variance is at least 1e-12 of it: below, rounding is all there is. */
static void cholesky(whitening *w) {
    const size_t n = w->dim;
    double *a = w->factor;
    for (size_t j = 0; j < n; j++) {
        const double variance = a[j * n + j];
        for (size_t k = 0; k < j; k++)
            a[j * n + j] -= a[j * n + k] * a[j * n + k];
        if (!(a[j * n + j] > 1e-12 * variance)) {
            w->singular = true;
            a[j * n + j] = variance > 0.0 ? 1e-12 * variance : 1.0;
        }
        a[j * n + j] = sqrt(a[j * n + j]);
        w->log_det += log(a[j * n + j]);
        for (size_t i = j + 1; i < n; i++) {
            for (size_t k = 0; k < j; k++)
                a[i * n + j] -= a[i * n + k] * a[j * n + k];
            a[i * n + j] /= a[j * n + j];
        }
    }
}

/* Of each column by itself. Measured from the first row: so a column that does not vary has a variance of 0, and not of rounding. */
static void deviations(whitening *w, size_t rows, const double *x, const double *weight) {
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        sum += weight ? weight[r] : 1.0;
    for (size_t i = 0; i < w->dim; i++) {
        double mean = 0, square = 0;
        for (size_t r = 0; r < rows; r++)
            mean += (weight ? weight[r] : 1.0) / sum * (x[r * w->dim + i] - x[i]);
        for (size_t r = 0; r < rows; r++) {
            const double from_mean = x[r * w->dim + i] - x[i] - mean;
            square += (weight ? weight[r] : 1.0) / sum * from_mean * from_mean;
        }
        w->mean[i] = x[i] + mean;
        w->factor[i] = square > 0.0 ? sqrt(square) : 1.0;
        w->log_det += log(w->factor[i]);
    }
}

void whiten_fit(whitening *w, size_t rows, const double *x, const double *weight, size_t dim, bool whole) {
    *w = (whitening){.dim = dim,
                     .whole = whole,
                     .mean = allocate(dim, sizeof(double)),
                     .factor = allocate(whole ? dim * dim : dim, sizeof(double))};
    if (whole) {
        covariance(w, rows, x, weight);
        cholesky(w);
    } else {
        deviations(w, rows, x, weight);
    }
}

void whiten_free(whitening *w) {
    free(w->mean);
    free(w->factor);
    *w = (whitening){0};
}

void whiten_rows(const whitening *w, size_t rows, double *x) {
    for (size_t r = 0; r < rows; r++) {
        double *z = x + r * w->dim;
        for (size_t i = 0; i < w->dim; i++) {
            z[i] -= w->mean[i];
            for (size_t k = 0; w->whole && k < i; k++)
                z[i] -= w->factor[i * w->dim + k] * z[k];
            z[i] /= *spread(w, i);
        }
    }
}

double whiten_nll(const whitening *w, size_t rows, const double *z) {
    double square = 0;
    for (size_t i = 0; i < rows * w->dim; i++)
        square += z[i] * z[i];
    return rows > 0 ? w->log_det + 0.5 * (double)w->dim * log(2.0 * acos(-1.0)) + 0.5 * square / (double)rows : NAN;
}

/* ---- As a flow */

/* Blocks of a level are begin[i] .. begin[i + 1]; each is halved, the larger half first. A target is a coordinate of a second half. */
typedef struct level {
    size_t blocks, *begin;
    bool *target;
    size_t targets;
} level;

static size_t middle(size_t from, size_t to) { return from + (to - from + 1) / 2; }

static void find_targets(level *l) {
    l->targets = 0;
    for (size_t b = 0; b < l->blocks; b++)
        for (size_t i = l->begin[b]; i < l->begin[b + 1]; i++) {
            l->target[i] = i >= middle(l->begin[b], l->begin[b + 1]);
            l->targets += l->target[i];
        }
}

/* Every block of two or more becomes two. */
static void halve(level *l, size_t dim) {
    size_t *finer = allocate(dim + 1, sizeof *finer), count = 0;
    for (size_t b = 0; b < l->blocks; b++) {
        finer[count++] = l->begin[b];
        if (l->begin[b + 1] - l->begin[b] > 1)
            finer[count++] = middle(l->begin[b], l->begin[b + 1]);
    }
    finer[count] = dim;
    free(l->begin);
    l->begin = finer;
    l->blocks = count;
}

/* One block; of a diagonal all are halved already, and none is a target. */
static level first_level(const whitening *w) {
    const size_t dim = w->dim;
    level l = {.blocks = w->whole ? 1 : dim, .begin = allocate(dim + 1, sizeof *l.begin), .target = allocate(dim, sizeof *l.target)};
    for (size_t b = 1; b <= l.blocks; b++)
        l.begin[b] = w->whole ? dim : b;
    find_targets(&l);
    return l;
}

static void free_level(level *l) {
    free(l->begin);
    free(l->target);
}

/*
 * The weights of a level: t of the targets, in order, from the identity coordinates, in order. `w` holds 2 targets x (dim - targets): the
 * log scales stay 0, and the shift of a target is its row of B^-1 C.
 */
static void put_weights(const whitening *u, const level *l, double *w) {
    const size_t dim = u->dim, inputs = dim - l->targets;
    double *solved = allocate(dim * dim, sizeof *solved);
    for (size_t b = 0, row = l->targets, column = 0; b < l->blocks; b++) {
        const size_t from = l->begin[b], to = l->begin[b + 1], half = middle(from, to);
        for (size_t i = half; i < to; i++, row++)
            for (size_t j = from; j < half; j++) {
                double value = u->factor[i * dim + j] / u->factor[i * dim + i];
                for (size_t k = half; k < i; k++)
                    value -= u->factor[i * dim + k] / u->factor[i * dim + i] * solved[k * dim + j];
                solved[i * dim + j] = value;
                w[row * inputs + column + j - from] = value;
            }
        column += half - from;
    }
    free(solved);
}

static json_t *indices(const level *l, size_t dim, bool targets) {
    json_t *array = json_array();
    for (size_t i = 0; i < dim; i++)
        if (l->target[i] == targets)
            json_array_append_new(array, json_integer((json_int_t)i));
    return array;
}

/* The structure of the flow. */
static json_t *structure(const whitening *w) {
    json_t *layers = json_array();
    level l = first_level(w);
    for (; l.targets > 0; halve(&l, w->dim), find_targets(&l))
        json_array_append_new(layers,
                              json_pack("{s:s, s:o, s:o, s:[], s:s, s:s}", "type", "coupling", "identity", indices(&l, w->dim, false),
                                        "transformed", indices(&l, w->dim, true), "hidden", "activation", "gelu", "scale", "exp"));
    free_level(&l);
    json_array_append_new(layers, json_pack("{s:s}", "type", "actnorm"));
    return json_pack("{s:I, s:I, s:{s:s, s:f}, s:o}", "dim", (json_int_t)w->dim, "context", (json_int_t)0, "base", "type", "normal", "scale", 1.0,
                     "layers", layers);
}

/* A file of the flow with all parameters 0. */
static unsigned char *blank_file(const whitening *w, size_t *size) {
    json_t *header = safetensors_model_header(structure(w));
    level l = first_level(w);
    size_t layer = 0, data = 0, start;
    for (; l.targets > 0; halve(&l, w->dim), find_targets(&l), layer++) {
        data = safetensors_add(header, layer, "net.0.weight", 2, 2 * l.targets, w->dim - l.targets, data);
        data = safetensors_add(header, layer, "net.0.bias", 1, 2 * l.targets, 1, data);
    }
    free_level(&l);
    data = safetensors_add(header, layer, "log_scale", 1, w->dim, 1, data);
    data = safetensors_add(header, layer, "shift", 1, w->dim, 1, data);
    unsigned char *bytes = safetensors_frame(header, data, &start);
    *size = start + data;
    return bytes;
}

/* The parameters, in the order of the layers. */
static double *parameters(const whitening *w, size_t count) {
    double *all = allocate(count, sizeof *all), *next = all;
    level l = first_level(w);
    for (; l.targets > 0; halve(&l, w->dim), find_targets(&l)) {
        put_weights(w, &l, next);
        next += 2 * l.targets * (w->dim - l.targets) + 2 * l.targets;
    }
    free_level(&l);
    for (size_t i = 0; i < w->dim; i++) {
        next[i] = log(*spread(w, i));
        next[w->dim + i] = w->mean[i];
    }
    return all;
}

nf_flow *whiten_flow(const whitening *w) {
    size_t size;
    unsigned char *bytes = blank_file(w, &size);
    nf_flow *flow;
    must(nf_flow_load_memory(bytes, size, &flow));
    double *all = parameters(w, nf_parameter_count(flow));
    must(nf_set_parameters(flow, all));
    free(all);
    free(bytes);
    return flow;
}
