/*
 * Checks of the density and the sampler: a cloud of samples, whether it comes from the base that it should, and what a target makes of it. Tests have a p-value.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/diagnose_distribution.h"
#include "api/gradients.h"

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

double nf_uniform_p(double *points, size_t n) {
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

/* ---- samples ---- */

void nf_repeat_context(const nf_diagnosis *d, double *to, size_t count) {
    for (size_t r = 0; r < count && d->context_dim; r++)
        memcpy(to + r * d->context_dim, d->context, d->context_dim * sizeof *to);
}

static void whiten(const nf_diagnosis *d, const nf_cloud *c, const double *x, double *t) {
    for (size_t i = 0; i < d->dim; i++) {
        double sum = x[i] - c->mean[i];
        for (size_t k = 0; k < i; k++)
            sum -= c->factor[i * d->dim + k] * t[k];
        t[i] = sum / c->factor[i * d->dim + i];
    }
}

void nf_cloud_place(const nf_diagnosis *d, const nf_cloud *c, const double *t, double *x) {
    for (size_t i = 0; i < d->dim; i++) {
        x[i] = c->mean[i];
        for (size_t k = 0; k <= i; k++)
            x[i] += c->factor[i * d->dim + k] * t[k];
    }
}

static void measure_cloud(nf_diagnosis *d, nf_cloud *c) {
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

static bool draw_cloud(nf_diagnosis *d, nf_cloud *c) {
    *c = (nf_cloud){.count = d->config.samples};
    c->x = nf_diagnosis_numbers(d, c->count * d->dim);
    c->context = d->context_dim ? nf_diagnosis_numbers(d, c->count * d->context_dim) : NULL;
    c->mean = nf_diagnosis_numbers(d, d->dim);
    c->factor = nf_diagnosis_take(d, d->dim * sizeof(double), d->dim);
    c->t = nf_diagnosis_numbers(d, c->count * d->dim);
    if (d->status != NF_OK)
        return false;
    nf_repeat_context(d, c->context, c->count);
    if (!nf_diagnosis_did(d, d->calls->sample(d->flow, d->workspace, &d->rng, c->count, c->context, c->x, NULL)))
        return false;
    measure_cloud(d, c);
    return true;
}

/* ---- the sampler ---- */

static void check_sampler(nf_diagnosis *d, const nf_cloud *c) {
    const size_t mark = d->block_count, dim = d->dim;
    const double *mean = d->flow->model.mean, *sd = d->flow->model.sd;
    double *z = nf_diagnosis_numbers(d, c->count * dim), *u = nf_diagnosis_numbers(d, c->count), smallest = 1;
    if (d->status == NF_OK && nf_diagnosis_did(d, d->calls->inverse(d->flow, d->workspace, c->count, c->x, c->context, z, NULL))) {
        for (size_t i = 0; i < dim; i++) {
            for (size_t r = 0; r < c->count; r++)
                u[r] = 0.5 * erfc(-(z[r * dim + i] - (mean ? mean[i] : 0)) / (sd ? sd[i] : 1) * 0.70710678118654752440);
            smallest = fmin(smallest, nf_uniform_p(u, c->count));
        }
        d->report.sampler = nf_finding_of_score(fmin(1, smallest * (double)dim), d->config.significance);
    }
    nf_diagnosis_drop(d, mark);
}

/* ---- a target ---- */

static void check_target(nf_diagnosis *d, const nf_cloud *c) {
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

/* ---- all of them ---- */

void nf_diagnose_distribution(nf_diagnosis *d) {
    const size_t mark = d->block_count;
    nf_cloud c;
    if (draw_cloud(d, &c)) {
        check_sampler(d, &c);
        nf_diagnose_normalization(d, &c);
        check_target(d, &c);
    }
    nf_diagnosis_drop(d, mark);
    if (d->has_data)
        nf_diagnose_data(d);
}
