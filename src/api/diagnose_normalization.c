/* Whether the density integrates to 1: by a grid around the samples in up to three dimensions, by importance sampling beyond. */
#include <math.h>

#include "api/diagnose_distribution.h"

/* Centres of the mixture that importance sampling draws from. */
enum { CENTRES = 256 };
#define GRID_DIM ((size_t)3)

/* ---- by a grid ---- */

/* What the slices of a grid across each axis have of the density, in units of its largest cell. */
typedef struct grid_slices {
    double largest; /* its log_prob */
    double *sums;   /* dim x per_side */
} grid_slices;

static void add_to_slices(const nf_diagnosis *d, grid_slices *s, size_t cell, size_t per_side, double log_prob) {
    if (!(log_prob > -INFINITY))
        return;
    if (log_prob > s->largest) {
        for (size_t i = 0; i < d->dim * per_side; i++)
            s->sums[i] *= exp(s->largest - log_prob);
        s->largest = log_prob;
    }
    for (size_t i = 0; i < d->dim; i++, cell /= per_side)
        s->sums[i * per_side + cell % per_side] += exp(log_prob - s->largest);
}

/* The largest share that one slice has. */
static double thickest(const nf_diagnosis *d, const grid_slices *s, size_t per_side) {
    double share = 0;
    for (size_t i = 0; i < d->dim; i++) {
        double sum = 0, most = 0;
        for (size_t k = 0; k < per_side; k++) {
            sum += s->sums[i * per_side + k];
            most = fmax(most, s->sums[i * per_side + k]);
        }
        share = sum > 0 ? fmax(share, most / sum) : share;
    }
    return share;
}

/* A sum over the midpoints of a grid in the cloud's units, `half` its half width, a chunk of rows at a time. `s`: NULL when slices are not wanted. */
static double grid_integral(nf_diagnosis *d, const nf_cloud *c, const double *half, size_t per_side, grid_slices *s) {
    enum { CHUNK = 4096 };
    const size_t dim = d->dim, mark = d->block_count;
    size_t total = 1;
    double sum = 0, cell = exp(c->log_factor);
    double *x = nf_diagnosis_numbers(d, CHUNK * dim), *context = d->context_dim ? nf_diagnosis_numbers(d, CHUNK * d->context_dim) : NULL;
    double *log_prob = nf_diagnosis_numbers(d, CHUNK);
    for (size_t i = 0; i < dim; i++) {
        total *= per_side;
        cell *= 2 * half[i] / (double)per_side;
    }
    if (d->status == NF_OK)
        nf_repeat_context(d, context, CHUNK);
    for (size_t first = 0; first < total && d->status == NF_OK; first += CHUNK) {
        const size_t rows = total - first < CHUNK ? total - first : CHUNK;
        for (size_t r = 0; r < rows; r++) {
            double t[GRID_DIM];
            size_t at = first + r;
            for (size_t i = 0; i < dim; i++, at /= per_side)
                t[i] = half[i] * ((2 * (double)(at % per_side) + 1) / (double)per_side - 1);
            nf_cloud_place(d, c, t, x + r * dim);
        }
        nf_diagnosis_did(d, d->calls->log_prob(d->flow, d->workspace, rows, x, context, log_prob));
        for (size_t r = 0; r < rows; r++) {
            sum += isnan(log_prob[r]) ? 0 : exp(log_prob[r]);
            if (s)
                add_to_slices(d, s, first + r, per_side, log_prob[r]);
        }
    }
    nf_diagnosis_drop(d, mark);
    return sum * cell;
}

/* From fewer samples than the first nothing is known of where the density lies, from fewer than the second not how far it reaches. */
#define LEAST_SAMPLES 10
#define FEW_SAMPLES 1000

/* Five standard errors, or twice what another resolution changed. */
static double allowed_of_integral(const nf_diagnosis *d, double error) { return 1e-3 + (d->dim <= GRID_DIM ? 2 : 5) * error; }

/*
 * A density that is narrow beside the cells may have few of them, and as much of it at half the resolution by chance: before it is said to be wrong there are more
 * resolutions. Where one slice has a third of all, none of them tells anything.
 */
static double doubt_of_grid(nf_diagnosis *d, const nf_cloud *c, const double *half, size_t per_side, double fine) {
    const size_t mark = d->block_count;
    grid_slices s = {-INFINITY, nf_diagnosis_numbers(d, d->dim * per_side)};
    double error = 0;
    if (d->status == NF_OK)
        grid_integral(d, c, half, per_side, &s);
    if (d->status == NF_OK && thickest(d, &s, per_side) > 1.0 / 3)
        error = INFINITY;
    for (size_t eighths = 7; eighths > 4 && isfinite(error); eighths--)
        error = fmax(error, fabs(grid_integral(d, c, half, per_side * eighths / 8, NULL) - fine));
    nf_diagnosis_drop(d, mark);
    return error;
}

static double integrate(nf_diagnosis *d, const nf_cloud *c, double *error) {
    static const size_t sides[GRID_DIM] = {16384, 256, 40};
    const size_t per_side = sides[d->dim - 1];
    double half[GRID_DIM] = {0}, wide[GRID_DIM] = {0};
    for (size_t r = 0; r < c->count; r++)
        for (size_t i = 0; i < d->dim; i++)
            half[i] = fmax(half[i], fabs(c->t[r * d->dim + i]));
    for (size_t i = 0; i < d->dim; i++) {
        half[i] = 1.3 * half[i] + 1;
        wide[i] = 1.5 * half[i];
    }
    const double fine = grid_integral(d, c, half, per_side, NULL), coarse = grid_integral(d, c, half, per_side / 2, NULL);
    *error = fabs(fine - coarse);
    if (c->count < FEW_SAMPLES) /* they do not tell how far the density reaches */
        *error = fmax(*error, fabs(grid_integral(d, c, wide, per_side, NULL) - fine));
    if (!(fabs(fine - 1) <= allowed_of_integral(d, *error)))
        *error = fmax(*error, doubt_of_grid(d, c, half, per_side, fine));
    return fine;
}

/* ---- by importance sampling ---- */

/* log of the mixture of t densities with FREEDOM degrees of freedom around the centres (the first samples), in the cloud's units. */
#define FREEDOM 5.0

static double log_mixture(const nf_diagnosis *d, const nf_cloud *c, const double *t, double width, size_t centres) {
    const double dim = (double)d->dim, shape = 0.5 * (FREEDOM + dim);
    double sum = 0;
    for (size_t k = 0; k < centres; k++) {
        double square = 0;
        for (size_t i = 0; i < d->dim; i++) {
            const double delta = (t[i] - c->t[k * d->dim + i]) / width;
            square += delta * delta;
        }
        sum += pow(1 + square / FREEDOM, -shape);
    }
    return log(sum / (double)centres) + lgamma(shape) - lgamma(0.5 * FREEDOM) - 0.5 * dim * log(FREEDOM * 3.14159265358979323846) - dim * log(width) -
           c->log_factor;
}

/* One draw of the mixture. A t variate is a normal over the root of a mean of FREEDOM squared normals. */
static void draw_mixture(nf_diagnosis *d, const nf_cloud *c, double width, size_t centres, double *t) {
    const size_t k = (size_t)nf_sequence_below(&d->random, centres);
    double square = 0;
    for (int i = 0; i < (int)FREEDOM; i++) {
        const double n = nf_sequence_normal(&d->random);
        square += n * n / FREEDOM;
    }
    for (size_t i = 0; i < d->dim; i++)
        t[i] = c->t[k * d->dim + i] + width * nf_sequence_normal(&d->random) / sqrt(square);
}

static double integrate_by_sampling(nf_diagnosis *d, const nf_cloud *c, double *error) {
    const size_t n = c->count, dim = d->dim, centres = n < CENTRES ? n : CENTRES, mark = d->block_count;
    const double width = pow((double)centres, -1.0 / ((double)dim + 4)); /* Scott 1992, of the sd */
    double *x = nf_diagnosis_numbers(d, n * dim), *log_g = nf_diagnosis_numbers(d, n), *log_prob = nf_diagnosis_numbers(d, n), *t = nf_diagnosis_numbers(d, dim);
    double sum = 0, square = 0;
    for (size_t r = 0; r < n && d->status == NF_OK; r++) {
        draw_mixture(d, c, width, centres, t);
        log_g[r] = log_mixture(d, c, t, width, centres);
        nf_cloud_place(d, c, t, x + r * dim);
    }
    if (d->status == NF_OK)
        nf_diagnosis_did(d, d->calls->log_prob(d->flow, d->workspace, n, x, c->context, log_prob));
    for (size_t r = 0; r < n && d->status == NF_OK; r++) {
        const double w = isnan(log_prob[r]) ? 0 : exp(log_prob[r] - log_g[r]);
        sum += w;
        square += w * w;
    }
    nf_diagnosis_drop(d, mark);
    const double mean = sum / (double)n;
    /* With few weights that count, the standard error says little, and says it too boldly. */
    const bool trusted = sum * sum > fmax(0.1 * (double)n, 100) * square;
    *error = trusted ? sqrt(fmax(0, square / (double)n - mean * mean) / (double)n) : INFINITY;
    return mean;
}

void nf_diagnose_normalization(nf_diagnosis *d, const nf_cloud *c) {
    double error = INFINITY, integral = NAN;
    if (d->dim > GRID_DIM)
        integral = integrate_by_sampling(d, c, &error);
    else if (c->count >= LEAST_SAMPLES)
        integral = integrate(d, c, &error);
    if (d->status != NF_OK)
        return;
    d->report.normalization_error = error;
    if (error < 0.1 || isnan(error))
        d->report.normalization = nf_finding_of_error(fabs(integral - 1), allowed_of_integral(d, error));
}
