/*
 * A Real NVP of 64 dimensions on samples of a Gaussian whose covariance is known: how far from the truth does the fit end?
 *
 *     gaussian [--epochs n] [--threads n]
 *
 * x = L n with n standard normal and L lower triangular with one on the diagonal and entries N(0, .15^2) below it, so log det L = 0. Trains on 50,000
 * rows and prints KL(p || q) = E_p[log p - log q], from 50,000 rows that the fit has not seen, with its standard error, and beside it the KL of the
 * best Gaussian with independent coordinates.
 *
 * Four couplings with linear conditioners can be this Gaussian up to little. Each free parameter that the truth does not need costs 1 / (2 rows)
 * nats on the average; so there is no hidden layer, and the clamp keeps the couplings' scales near 1, which here could only tell noise.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nflow.h"

enum { DIM = 64, ROWS = 50000 };

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "gaussian: %s\n", nf_last_error());
    exit(1);
}

static double factor[DIM][DIM]; /* L */

static void normals(uint64_t stream, size_t rows, double *out) {
    nf_flow *base;
    nf_rng rng = {.seed = 64, .stream = stream};
    require(nf_flow_create(DIM, 0, NF_DOUBLE, &base));
    require(nf_sample(base, NULL, &rng, rows, NULL, out, NULL));
    nf_flow_free(base);
}

static void make_factor(void) {
    normals(1, DIM, factor[0]);
    for (size_t i = 0; i < DIM; i++)
        for (size_t j = 0; j < DIM; j++)
            factor[i][j] = j > i ? 0 : j == i ? 1 : 0.15 * factor[i][j];
}

/* Rows of the target and their log densities. */
static void draw(uint64_t stream, double *x, double *log_density) {
    normals(stream, ROWS, x);
    for (size_t r = 0; r < ROWS; r++) {
        double *row = x + r * DIM;
        log_density[r] = -0.91893853320467274178 * DIM;
        for (size_t i = DIM; i-- > 0;) {
            double sum = 0;
            log_density[r] -= 0.5 * row[i] * row[i];
            for (size_t j = 0; j <= i; j++)
                sum += factor[i][j] * row[j];
            row[i] = sum;
        }
    }
}

/* KL to the Gaussian with the same variances and no correlations: half the sum of their logarithms, for log det L is 0. */
static double independent(void) {
    double sum = 0;
    for (size_t i = 0; i < DIM; i++) {
        double variance = 0;
        for (size_t j = 0; j <= i; j++)
            variance += factor[i][j] * factor[i][j];
        sum += 0.5 * log(variance);
    }
    return sum;
}

int main(int count, char **arguments) {
    size_t epochs = 30, threads = 1;
    for (int i = 1; i < count; i += 2) {
        const size_t value = i + 1 < count ? (size_t)strtoul(arguments[i + 1], NULL, 10) : 0;
        if (strcmp(arguments[i], "--epochs") == 0)
            epochs = value;
        else if (strcmp(arguments[i], "--threads") == 0)
            threads = value;
        else
            epochs = 0;
    }
    if (epochs == 0 || threads == 0) {
        fprintf(stderr, "usage: gaussian [--epochs n] [--threads n]\n");
        return 1;
    }
    double *x = malloc(ROWS * DIM * sizeof *x), *truth = malloc(ROWS * sizeof *truth), *log_prob = malloc(ROWS * sizeof *log_prob);
    if (!x || !truth || !log_prob)
        return 1;
    make_factor();
    draw(2, x, truth);
    nf_flow *flow;
    require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .seed = 1,
                                        .precision = NF_SINGLE, .couplings = 4, .hidden_layers = NF_NONE, .scale_clamp = 0.01), &flow));
    const clock_t start = clock();
    const nf_optimizer_config adam = {.struct_size = sizeof adam, .learning_rate = 5e-3, .clip_norm = 10};
    require(nf_fit(flow, ROWS, x, NULL,
                   NF_CONFIG(nf_fit_config, .epochs = epochs, .batch_size = 256,
                             .threads = threads, .optimizer = &adam, .noise = -1, .seed = 1), NULL));
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    draw(3, x, truth);
    require(nf_log_prob(flow, NULL, ROWS, x, NULL, log_prob));
    double mean = 0, spread = 0;
    for (size_t r = 0; r < ROWS; r++) {
        const double value = truth[r] - log_prob[r], delta = value - mean;
        mean += delta / (double)(r + 1);
        spread += delta * (value - mean);
    }
    printf("dim %d, %d rows, %zu epochs: KL(p || q) %.4f +- %.4f nats (at most 0.05), with independent coordinates %.2f; %.1f cpu s\n", DIM, ROWS,
           epochs, mean, sqrt(spread) / ROWS, independent(), seconds);
    nf_flow_free(flow);
    free(log_prob);
    free(truth);
    free(x);
    return 0;
}
