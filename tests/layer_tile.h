/*
 * For the tests of single layers: one layer of the engine on a tile of its own, and random numbers whose seed failures print.
 * NFLOW_TEST_SEED in the environment replaces the seed.
 */
#ifndef NF_TESTS_LAYER_TILE_H
#define NF_TESTS_LAYER_TILE_H

#include "aligned.h"
#include <stdlib.h>
#include <string.h>

#include "engine/layers/layers.h"

#define MOST_DIM 8
#define MOST_PARAMETERS (2 * MOST_DIM + 1)

static uint64_t seed, random_state;

static inline void begin_random(uint64_t stream) {
    seed = seed_given(2385);
    random_state = seed * 0x9e3779b97f4a7c15u + stream;
}

static inline double uniform(double low, double high) { /* splitmix64 */
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return low + (high - low) * ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

static inline double normal(void) { return sqrt(-2 * log(uniform(0, 1))) * cos(uniform(0, 6.283185307179586)); }

static inline double signed_power(double low, double high) { return (uniform(0, 1) < 0.5 ? -1 : 1) * pow(10, uniform(low, high)); }

typedef struct layer_tile {
    const struct layer_ops *ops;
    nf_layer layer;
    layer_run run;
    tile t;
    engine_counters counters;
    real theta[MOST_PARAMETERS + 1], gradient[MOST_PARAMETERS + 1];
    real *x, *cotangent_x, *cotangent_log_det, *scratch, *record;
    double *log_det;
    unsigned char failed[TILE_ROWS];
} layer_tile;

static inline void open_tile(layer_tile *m, const struct layer_ops *ops, nf_layer_kind kind, size_t dim, size_t rows) {
    memset(m, 0, sizeof *m);
    m->ops = ops;
    m->layer = (nf_layer){.kind = kind, .dim = dim};
    m->x = new_aligned(TILE_ROWS * dim * sizeof(real), 0);
    m->cotangent_x = new_aligned(TILE_ROWS * dim * sizeof(real), 0);
    m->cotangent_log_det = new_aligned(TILE_ROWS * sizeof(real), 0);
    m->log_det = new_aligned(TILE_ROWS * sizeof(double), 0);
    m->scratch = new_aligned(ops->scratch_size(&m->layer, TILE_PANELS) * sizeof(real), 0);
    size_t record = ops->record_size(&m->layer, TILE_PANELS, true), other = ops->record_size(&m->layer, TILE_PANELS, false);
    m->record = new_aligned((record > other ? record : other) * sizeof(real), 0);
    m->t = (tile){.rows = rows, .panels = (rows + PANEL - 1) / PANEL, .dim = dim, .x = m->x, .log_det = m->log_det, .failed = m->failed};
    m->run = (layer_run){.layer = &m->layer, .theta = m->theta, .scratch = m->scratch, .counters = &m->counters, .gradient = m->gradient};
}

static inline void close_tile(layer_tile *m) {
    free(m->x);
    free(m->cotangent_x);
    free(m->cotangent_log_det);
    free(m->log_det);
    free(m->scratch);
    free(m->record);
}

static inline real *at(real *panels, size_t dim, size_t row, size_t feature) {
    return panels + (row / PANEL * dim + feature) * PANEL + row % PANEL;
}

/* Rows beyond t.rows are copies of row 0, as in the engine. */
static inline void pad_rows(layer_tile *m) {
    for (size_t r = m->t.rows; r < m->t.panels * PANEL; r++)
        for (size_t f = 0; f < m->t.dim; f++)
            *at(m->x, m->t.dim, r, f) = *at(m->x, m->t.dim, 0, f);
}

static inline void apply_layer(layer_tile *m, bool inverse, bool record) {
    pad_rows(m);
    memset(m->log_det, 0, TILE_ROWS * sizeof(double));
    m->run.record = record ? m->record : NULL;
    ck_assert_msg((inverse ? m->ops->inverse : m->ops->forward)(&m->run, &m->t) == LAYER_OK, "the layer wants memory");
}

/* Random cotangents for the rows, zeros elsewhere; then the vjp. The cotangents as they were are left in `given`, [rows][dim + 1]. */
static inline void pull_layer(layer_tile *m, bool inverse, double *given) {
    const size_t dim = m->t.dim;
    memset(m->cotangent_x, 0, TILE_ROWS * dim * sizeof(real));
    memset(m->cotangent_log_det, 0, TILE_ROWS * sizeof(real));
    memset(m->gradient, 0, sizeof m->gradient);
    for (size_t r = 0; r < m->t.rows; r++) {
        for (size_t f = 0; f < dim; f++) {
            *at(m->cotangent_x, dim, r, f) = (real)normal();
            given[r * (dim + 1) + f] = (double)*at(m->cotangent_x, dim, r, f);
        }
        m->cotangent_log_det[r] = (real)normal();
        given[r * (dim + 1) + dim] = (double)m->cotangent_log_det[r];
    }
    cotangent c = {.x = m->cotangent_x, .log_det = m->cotangent_log_det};
    (inverse ? m->ops->inverse_vjp : m->ops->forward_vjp)(&m->run, &m->t, &c);
}

/* The map of one row in long double; returns the log_det that the operation adds. */
typedef long double reference_map(size_t dim, const long double *parameters, bool inverse, const long double *in, long double *out);

/* sum of cotangents times results, over one row. */
static inline long double reference_loss(reference_map *map, size_t dim, const long double *parameters, bool inverse, const long double *in,
                                         const double *given) {
    long double out[MOST_DIM], sum = (long double)given[dim] * map(dim, parameters, inverse, in, out);
    for (size_t f = 0; f < dim; f++)
        sum += (long double)given[f] * out[f];
    return sum;
}

static inline void must_be_close(const char *what, size_t index, double got, long double expected, double scale, double units) {
    const double error = fabs(got - (double)expected);
    ck_assert_msg(error <= units * (double)REAL_EPS * scale, "%s %zu: %.9g, expected %.9Lg (error %.3g, allowed %.3g, seed %llu)", what, index,
                  got, expected, error, units * (double)REAL_EPS * scale, (unsigned long long)seed);
}

/* d loss / d *variable, which is one of `parameters` or `in`: central differences of fourth order. */
static inline long double reference_slope(reference_map *map, size_t dim, const long double *parameters, bool inverse, const long double *in,
                                          const double *given, long double *variable) {
    static const long double h = 4e-6L, weights[] = {1, -8, 8, -1};
    static const int places[] = {-2, -1, 1, 2};
    const long double kept = *variable;
    long double sum = 0;
    for (int k = 0; k < 4; k++) {
        *variable = kept + (long double)places[k] * h;
        sum += weights[k] * reference_loss(map, dim, parameters, inverse, in, given);
    }
    *variable = kept;
    return sum / (12 * h);
}

/*
 * The vjp of the layer, whose parameters and rows are set, against central differences of the reference in long double. An error is
 * allowed in units of round-off of the largest cotangent, at least 1.
 */
static inline void check_vjp(layer_tile *m, reference_map *map, size_t parameters, bool inverse, double units) {
    const size_t dim = m->t.dim, rows = m->t.rows;
    double *given = calloc(rows * (dim + 1), sizeof *given), scale = 1;
    long double theta[MOST_PARAMETERS], in[MOST_DIM], expected[MOST_PARAMETERS] = {0};
    ck_assert_ptr_nonnull(given);
    long double *rows_in = calloc(rows * dim, sizeof *rows_in);
    ck_assert_ptr_nonnull(rows_in);
    for (size_t r = 0; r < rows; r++)
        for (size_t f = 0; f < dim; f++)
            rows_in[r * dim + f] = (long double)*at(m->x, dim, r, f);
    apply_layer(m, inverse, true);
    pull_layer(m, inverse, given);
    for (size_t i = 0; i < parameters; i++)
        theta[i] = (long double)m->theta[i];
    for (size_t r = 0; r < rows; r++) {
        const double *c = given + r * (dim + 1);
        memcpy(in, rows_in + r * dim, dim * sizeof *in);
        for (size_t f = 0; f < dim; f++) {
            const long double slope = reference_slope(map, dim, theta, inverse, in, c, in + f);
            must_be_close("cotangent of row", r, (double)*at(m->cotangent_x, dim, r, f), slope, fmax(1, fabs((double)slope)), units);
        }
        for (size_t i = 0; i < parameters; i++) {
            const long double slope = reference_slope(map, dim, theta, inverse, in, c, theta + i);
            expected[i] += slope;
            scale = fmax(scale, fabs((double)slope));
        }
    }
    for (size_t i = 0; i < parameters; i++)
        must_be_close("gradient of parameter", i, (double)m->gradient[i], expected[i], scale, units * sqrt((double)rows));
    free(given);
    free(rows_in);
}

#endif
