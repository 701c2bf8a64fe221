/*
 * Whether data could be samples. The tests are exact for any flow: paired with the samples of the same context, data and samples may change places, and a rank
 * among samples is uniform.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/diagnose_distribution.h"
#include "core/moments.h"

/* Ranks are among this many samples a row of data; slices beside the axes; permutations at the most. */
enum { RANKED = 63, SLICES = 32, MOST_PERMUTATIONS = 100000 };

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
        const double p = nf_uniform_p(ranks + i * d->rows, d->rows);
        if (p < smallest) {
            smallest = p;
            d->report.calibration_column = i;
        }
    }
    d->report.calibration = nf_finding_of_score(fmin(1, smallest * (double)d->dim), d->config.significance);
    nf_diagnosis_drop(d, mark);
}

void nf_diagnose_data(nf_diagnosis *d) {
    check_two_sample(d);
    check_calibration(d);
}
