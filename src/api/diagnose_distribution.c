/*
 * Checks of the density and the sampler: whether the density integrates to 1, whether samples come from the base that they should, what a target makes of them, and
 * whether data could be samples. Tests have a p-value; those against data are exact for any flow: paired with the samples of the same context, data and samples may
 * change places, and a rank among samples is uniform.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/diagnose.h"
#include "api/gradients.h"
#include "core/moments.h"

/* Ranks are among this many samples a row of data; slices beside the axes; centres of the mixture for importance sampling; permutations at the most. */
enum { RANKED = 63, SLICES = 32, CENTRES = 256, MOST_PERMUTATIONS = 100000 };
#define GRID_DIM ((size_t)3)

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- Kolmogorov & Smirnov ---- */

/* P(D > d) for n points, by the limit law with Stephens' (1970) correction for few of them. */
static double kolmogorov(double distance, size_t n) {
    const double root = sqrt((double)n), t = (root + 0.12 + 0.11 / root) * distance;
    double sum = 0;
    if (t < 0.2)
        return 1; /* where the series is slow: 1 to twelve digits */
    for (int k = 1; k <= 100; k++)
        sum += (k % 2 ? 2 : -2) * exp(-2.0 * k * k * t * t);
    return fmin(1, fmax(0, sum));
}

/* The p-value of points that should be uniform on (0, 1); they get sorted. 0 when one is not a number. */
static double uniform_p(double *points, size_t n) {
    double distance = 0;
    for (size_t i = 0; i < n; i++)
        if (isnan(points[i]))
            return 0;
    qsort(points, n, sizeof *points, compare);
    for (size_t i = 0; i < n; i++)
        distance = fmax(distance, fmax((double)(i + 1) / (double)n - points[i], points[i] - (double)i / (double)n));
    return kolmogorov(distance, n);
}

/* ---- linear algebra ---- */

void nf_cholesky(double *a, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, a[i * n + i]);
    for (size_t j = 0; j < n; j++) {
        const double own = a[j * n + j] > 0 ? a[j * n + j] : largest;
        for (size_t k = 0; k < j; k++)
            a[j * n + j] -= a[j * n + k] * a[j * n + k];
        a[j * n + j] = sqrt(fmax(a[j * n + j], 1e-14 * own));
        for (size_t i = j + 1; i < n; i++) {
            for (size_t k = 0; k < j; k++)
                a[i * n + j] -= a[i * n + k] * a[j * n + k];
            a[i * n + j] /= a[j * n + j];
        }
        for (size_t i = 0; i < j; i++)
            a[i * n + j] = 0;
    }
}

/* Samples of one context (the first row's, if there is one), their mean, and the Cholesky factor of their covariance. */
typedef struct cloud {
    size_t count;
    double *x, *context, *mean, *factor;
    double *t; /* samples in units of the factor */
    double log_factor; /* log det of the factor */
} cloud;

static void repeat_context(const nf_diagnosis *d, double *to, size_t count) {
    for (size_t r = 0; r < count && d->context_dim; r++)
        memcpy(to + r * d->context_dim, d->context, d->context_dim * sizeof *to);
}

static void whiten(const nf_diagnosis *d, const cloud *c, const double *x, double *t) {
    for (size_t i = 0; i < d->dim; i++) {
        double sum = x[i] - c->mean[i];
        for (size_t k = 0; k < i; k++)
            sum -= c->factor[i * d->dim + k] * t[k];
        t[i] = sum / c->factor[i * d->dim + i];
    }
}

static void place(const nf_diagnosis *d, const cloud *c, const double *t, double *x) {
    for (size_t i = 0; i < d->dim; i++) {
        x[i] = c->mean[i];
        for (size_t k = 0; k <= i; k++)
            x[i] += c->factor[i * d->dim + k] * t[k];
    }
}

static void measure_cloud(nf_diagnosis *d, cloud *c) {
    const size_t dim = d->dim;
    for (size_t r = 0; r < c->count; r++)
        for (size_t i = 0; i < dim; i++)
            c->mean[i] += c->x[r * dim + i] / (double)c->count;
    for (size_t r = 0; r < c->count; r++)
        for (size_t i = 0; i < dim; i++)
            for (size_t k = 0; k <= i; k++)
                c->factor[i * dim + k] += (c->x[r * dim + i] - c->mean[i]) * (c->x[r * dim + k] - c->mean[k]) / (double)c->count;
    nf_cholesky(c->factor, dim);
    for (size_t i = 0; i < dim; i++)
        c->log_factor += log(c->factor[i * dim + i]);
    for (size_t r = 0; r < c->count; r++)
        whiten(d, c, c->x + r * dim, c->t + r * dim);
}

static bool draw_cloud(nf_diagnosis *d, cloud *c) {
    *c = (cloud){.count = d->config.samples};
    c->x = nf_diagnosis_numbers(d, c->count * d->dim);
    c->context = d->context_dim ? nf_diagnosis_numbers(d, c->count * d->context_dim) : NULL;
    c->mean = nf_diagnosis_numbers(d, d->dim);
    c->factor = nf_diagnosis_take(d, d->dim * sizeof(double), d->dim);
    c->t = nf_diagnosis_numbers(d, c->count * d->dim);
    if (d->status != NF_OK)
        return false;
    repeat_context(d, c->context, c->count);
    if (!nf_diagnosis_did(d, d->calls->sample(d->flow, d->workspace, &d->rng, c->count, c->context, c->x, NULL)))
        return false;
    measure_cloud(d, c);
    return true;
}

/* ---- the sampler ---- */

static void check_sampler(nf_diagnosis *d, const cloud *c) {
    const size_t mark = d->block_count, dim = d->dim;
    const double *mean = d->flow->model.mean, *sd = d->flow->model.sd;
    double *z = nf_diagnosis_numbers(d, c->count * dim), *u = nf_diagnosis_numbers(d, c->count), smallest = 1;
    if (d->status == NF_OK && nf_diagnosis_did(d, d->calls->inverse(d->flow, d->workspace, c->count, c->x, c->context, z, NULL))) {
        for (size_t i = 0; i < dim; i++) {
            for (size_t r = 0; r < c->count; r++)
                u[r] = 0.5 * erfc(-(z[r * dim + i] - (mean ? mean[i] : 0)) / (sd ? sd[i] : 1) * 0.70710678118654752440);
            smallest = fmin(smallest, uniform_p(u, c->count));
        }
        d->report.sampler = nf_finding_of_score(fmin(1, smallest * (double)dim), d->config.significance);
    }
    nf_diagnosis_drop(d, mark);
}

/* ---- normalisation ---- */

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
static double grid_integral(nf_diagnosis *d, const cloud *c, const double *half, size_t per_side, grid_slices *s) {
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
        repeat_context(d, context, CHUNK);
    for (size_t first = 0; first < total && d->status == NF_OK; first += CHUNK) {
        const size_t rows = total - first < CHUNK ? total - first : CHUNK;
        for (size_t r = 0; r < rows; r++) {
            double t[GRID_DIM];
            size_t at = first + r;
            for (size_t i = 0; i < dim; i++, at /= per_side)
                t[i] = half[i] * ((2 * (double)(at % per_side) + 1) / (double)per_side - 1);
            place(d, c, t, x + r * dim);
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
static double doubt_of_grid(nf_diagnosis *d, const cloud *c, const double *half, size_t per_side, double fine) {
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

static double integrate(nf_diagnosis *d, const cloud *c, double *error) {
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

/* log of the mixture of t densities with FREEDOM degrees of freedom around the centres (the first samples), in the cloud's units. */
#define FREEDOM 5.0

static double log_mixture(const nf_diagnosis *d, const cloud *c, const double *t, double width, size_t centres) {
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
static void draw_mixture(nf_diagnosis *d, const cloud *c, double width, size_t centres, double *t) {
    const size_t k = (size_t)nf_sequence_below(&d->random, centres);
    double square = 0;
    for (int i = 0; i < (int)FREEDOM; i++) {
        const double n = nf_sequence_normal(&d->random);
        square += n * n / FREEDOM;
    }
    for (size_t i = 0; i < d->dim; i++)
        t[i] = c->t[k * d->dim + i] + width * nf_sequence_normal(&d->random) / sqrt(square);
}

static double integrate_by_sampling(nf_diagnosis *d, const cloud *c, double *error) {
    const size_t n = c->count, dim = d->dim, centres = n < CENTRES ? n : CENTRES, mark = d->block_count;
    const double width = pow((double)centres, -1.0 / ((double)dim + 4)); /* Scott 1992, of the sd */
    double *x = nf_diagnosis_numbers(d, n * dim), *log_g = nf_diagnosis_numbers(d, n), *log_prob = nf_diagnosis_numbers(d, n), *t = nf_diagnosis_numbers(d, dim);
    double sum = 0, square = 0;
    for (size_t r = 0; r < n && d->status == NF_OK; r++) {
        draw_mixture(d, c, width, centres, t);
        log_g[r] = log_mixture(d, c, t, width, centres);
        place(d, c, t, x + r * dim);
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

static void check_normalization(nf_diagnosis *d, const cloud *c) {
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

/* ---- a target ---- */

static void check_target(nf_diagnosis *d, const cloud *c) {
    const size_t n = c->count, mark = d->block_count;
    if (!d->config.target)
        return;
    double *log_p = nf_diagnosis_numbers(d, n), *log_q = nf_diagnosis_numbers(d, n), *gradient = nf_diagnosis_numbers(d, n * d->dim);
    double largest = -INFINITY, sum = 0, square = 0;
    if (d->status != NF_OK || !nf_diagnosis_did(d, d->calls->log_prob(d->flow, d->workspace, n, c->x, c->context, log_q)))
        return;
    const nf_status status = nf_call_target(NULL, d->config.target, d->config.target_user, n, c->x, log_p, gradient);
    if (status != NF_OK) {
        nf_diagnosis_end(d, status);
        return;
    }
    for (size_t r = 0; r < n; r++) {
        log_p[r] -= log_q[r];
        if (log_p[r] > largest)
            largest = log_p[r];
    }
    for (size_t r = 0; r < n; r++) {
        const double w = isnan(log_p[r]) ? 0 : exp(log_p[r] - largest);
        sum += w;
        square += w * w;
    }
    d->report.effective_sample_size = nf_finding_of_score(sum * sum / square / (double)n, d->config.least_effective_sample_size);
    d->report.largest_weight = nf_finding_of_error(1 / sum, d->config.most_weight);
    nf_diagnosis_drop(d, mark);
}

/* ---- data against samples ---- */

typedef struct projected {
    double at;
    size_t point; /* 2 i: row i of the data, 2 i + 1: its sample */
} projected;

static int compare_projected(const void *a, const void *b) {
    const projected *s = a, *t = b;
    return s->at != t->at ? (s->at > t->at) - (s->at < t->at) : (s->point > t->point) - (s->point < t->point);
}

/* Pairs of data and sample, with their context, in units of the pooled standard deviations. False when one of those is no number, as with a sample that is NaN. */
static bool fill_pairs(const nf_diagnosis *d, const double *samples, double *pairs) {
    const size_t width = d->dim + d->context_dim, n = d->rows;
    for (size_t p = 0; p < 2 * n; p++) {
        memcpy(pairs + p * width, (p % 2 ? samples : d->x) + p / 2 * d->dim, d->dim * sizeof *pairs);
        if (d->context_dim)
            memcpy(pairs + p * width + d->dim, d->context + p / 2 * d->context_dim, d->context_dim * sizeof *pairs);
    }
    for (size_t i = 0; i < width; i++) {
        double mean = 0, square = 0;
        for (size_t p = 0; p < 2 * n; p++)
            mean += pairs[p * width + i] / (double)(2 * n);
        for (size_t p = 0; p < 2 * n; p++)
            square += (pairs[p * width + i] - mean) * (pairs[p * width + i] - mean) / (double)(2 * n);
        double sd = sqrt(square);
        if (!isfinite(square)) { /* a column may be wide */
            nf_moments m = {0, 0, 0, 0, 0};
            for (size_t p = 0; p < 2 * n; p++)
                nf_moments_add(&m, pairs[p * width + i]);
            mean = m.mean;
            sd = nf_moments_sd(&m);
        }
        if (!isfinite(mean) || !isfinite(sd))
            return false;
        for (size_t p = 0; p < 2 * n; p++)
            pairs[p * width + i] = sd > 0 ? (pairs[p * width + i] - mean) / sd : 0;
    }
    return true;
}

/* The order of all points along the axes of x, then along random slices of x and context. */
static void sort_slices(nf_diagnosis *d, const double *pairs, size_t slices, projected *scratch, size_t *orders) {
    const size_t width = d->dim + d->context_dim, points = 2 * d->rows, mark = d->block_count;
    double *way = nf_diagnosis_numbers(d, width);
    for (size_t s = 0; s < slices && d->status == NF_OK; s++) {
        for (size_t i = 0; i < width; i++)
            way[i] = s < d->dim ? (double)(i == s) : nf_sequence_normal(&d->random);
        for (size_t p = 0; p < points; p++) {
            scratch[p] = (projected){0, p};
            for (size_t i = 0; i < width; i++)
                scratch[p].at += way[i] * pairs[p * width + i];
        }
        qsort(scratch, points, sizeof *scratch, compare_projected);
        for (size_t p = 0; p < points; p++)
            orders[s * points + p] = scratch[p].point;
    }
    nf_diagnosis_drop(d, mark);
}

/* The largest distance of the two distribution functions over all slices, when the pairs with a negative sign have changed places. In units of 1 / rows. */
static double distance(const size_t *orders, size_t slices, size_t points, const signed char *sign) {
    int largest = 0;
    for (size_t s = 0; s < slices; s++) {
        int ahead = 0;
        for (size_t p = 0; p < points; p++) {
            const size_t point = orders[s * points + p];
            ahead += point % 2 ? -sign[point / 2] : sign[point / 2];
            const int far = ahead < 0 ? -ahead : ahead;
            largest = far > largest ? far : largest;
        }
    }
    return largest;
}

/*
 * The p-value of the order of the pairs against that after random changes of place; NaN when it cannot be told from one that fails. The least that n of them
 * can give is 1 / (n + 1): while none has come as far and that would still pass, there are more of them than were asked for.
 */
static double permutation_p(nf_diagnosis *d, const size_t *orders, size_t slices, signed char *sign) {
    const size_t n = d->rows;
    const double significance = d->config.significance;
    size_t at_least = 1, k = 0;
    memset(sign, 1, n);
    const double own = distance(orders, slices, 2 * n, sign);
    for (; k < d->config.permutations || (at_least == 1 && k < MOST_PERMUTATIONS && significance * (double)(k + 1) <= 1); k++) {
        for (size_t i = 0; i < n; i++)
            sign[i] = nf_sequence_bits(&d->random) >> 63 ? 1 : -1;
        at_least += distance(orders, slices, 2 * n, sign) >= own;
    }
    const double p = (double)at_least / (double)(k + 1);
    return at_least == 1 && p >= significance ? NAN : p;
}

static void check_two_sample(nf_diagnosis *d) {
    const size_t n = d->rows, axes = d->dim, slices = axes + SLICES, mark = d->block_count;
    double *samples = nf_diagnosis_numbers(d, n * d->dim), *pairs = nf_diagnosis_numbers(d, 2 * n * (d->dim + d->context_dim)), p = 0;
    projected *scratch = nf_diagnosis_take(d, 2 * n, sizeof *scratch);
    size_t *orders = nf_diagnosis_take(d, 2 * n * slices, sizeof *orders);
    signed char *sign = nf_diagnosis_take(d, n, 1);
    if (d->status == NF_OK && nf_diagnosis_did(d, d->calls->sample(d->flow, d->workspace, &d->rng, n, d->context, samples, NULL)) &&
        fill_pairs(d, samples, pairs)) {
        sort_slices(d, pairs, slices, scratch, orders);
        if (d->status == NF_OK)
            p = permutation_p(d, orders, slices, sign);
    }
    if (d->status == NF_OK && !isnan(p))
        d->report.two_sample = nf_finding_of_score(p, d->config.significance);
    nf_diagnosis_drop(d, mark);
}

/* How many of each row's own samples lie below it, coordinate by coordinate, made continuous by a uniform number. NaN where one of them is. */
static void rank_rows(nf_diagnosis *d, double *ranks) {
    const size_t n = d->rows, dim = d->dim, mark = d->block_count;
    double *x = nf_diagnosis_numbers(d, RANKED * dim), *context = d->context_dim ? nf_diagnosis_numbers(d, RANKED * d->context_dim) : NULL;
    for (size_t r = 0; r < n && d->status == NF_OK; r++) {
        for (size_t k = 0; k < RANKED && d->context_dim; k++)
            memcpy(context + k * d->context_dim, d->context + r * d->context_dim, d->context_dim * sizeof *context);
        if (!nf_diagnosis_did(d, d->calls->sample(d->flow, d->workspace, &d->rng, RANKED, context, x, NULL)))
            break;
        for (size_t i = 0; i < dim; i++) {
            double below = nf_sequence_uniform(&d->random);
            for (size_t k = 0; k < RANKED; k++)
                below += isnan(x[k * dim + i]) ? (double)NAN : (double)(x[k * dim + i] < d->x[r * dim + i]);
            ranks[i * n + r] = below / (RANKED + 1);
        }
    }
    nf_diagnosis_drop(d, mark);
}

static void check_calibration(nf_diagnosis *d) {
    const size_t mark = d->block_count;
    double *ranks = nf_diagnosis_numbers(d, d->rows * d->dim), smallest = 2;
    if (d->status == NF_OK)
        rank_rows(d, ranks);
    for (size_t i = 0; i < d->dim && d->status == NF_OK; i++) {
        const double p = uniform_p(ranks + i * d->rows, d->rows);
        if (p < smallest) {
            smallest = p;
            d->report.calibration_column = i;
        }
    }
    d->report.calibration = nf_finding_of_score(fmin(1, smallest * (double)d->dim), d->config.significance);
    nf_diagnosis_drop(d, mark);
}

void nf_diagnose_distribution(nf_diagnosis *d) {
    const size_t mark = d->block_count;
    cloud c;
    if (draw_cloud(d, &c)) {
        check_sampler(d, &c);
        check_normalization(d, &c);
        check_target(d, &c);
    }
    nf_diagnosis_drop(d, mark);
    if (d->has_data) {
        check_two_sample(d);
        check_calibration(d);
    }
}
