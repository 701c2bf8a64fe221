/*
 * Fit a Real NVP to rows of data, measure it on rows that it has not seen, and draw new ones.
 *
 *     cc fit_and_sample.c $(pkg-config --cflags --libs libnflow) -lm -o fit_and_sample
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <nflow.h>

enum { ROWS = 4000, TRAINING = 3000, SAMPLES = 1000 };

/* Rows of a bent Gaussian: x2 = z2 + z1^2 / 2. Bending preserves area, so the entropy is that of two standard normals, log(2 pi e). */
static nf_status make_data(double x[ROWS][2]) {
    nf_flow *normal;
    nf_status status = nf_flow_create(2, 0, NF_DOUBLE, &normal);
    if (status == NF_OK)
        status = nf_sample(normal, NULL, &(nf_rng){.seed = 2}, ROWS, NULL, x[0], NULL);
    nf_flow_free(normal);
    for (size_t i = 0; status == NF_OK && i < ROWS; i++)
        x[i][1] += x[i][0] * x[i][0] / 2;
    return status;
}

static double mean(size_t rows, const double *values) {
    double sum = 0;
    for (size_t i = 0; i < rows; i++)
        sum += values[i];
    return sum / (double)rows;
}

int main(void) {
    static double x[ROWS][2], log_prob[ROWS - TRAINING], samples[SAMPLES][2];
    if (make_data(x) != NF_OK)
        return fprintf(stderr, "%s\n", nf_last_error()), EXIT_FAILURE;

    nf_flow *flow = NULL;
    nf_rng rng = {.seed = 1};
    nf_status status = nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2), &flow);
    if (status == NF_OK)
        status = nf_fit(flow, TRAINING, x[0], NULL, NF_CONFIG(nf_fit_config, .epochs = 40), NULL);
    if (status == NF_OK)
        status = nf_log_prob(flow, NULL, ROWS - TRAINING, x[TRAINING], NULL, log_prob);
    if (status == NF_OK)
        status = nf_sample(flow, NULL, &rng, SAMPLES, NULL, samples[0], NULL);
    if (status != NF_OK)
        fprintf(stderr, "%s\n", nf_last_error());
    nf_flow_free(flow);
    if (status != NF_OK)
        return EXIT_FAILURE;

    const double nll = -mean(ROWS - TRAINING, log_prob), entropy = log(2 * acos(-1.0)) + 1;
    printf("held-out NLL %.3f nats; the entropy of the density is %.3f\n", nll, entropy);
    for (size_t i = 0; i < 3; i++)
        printf("sample %zu: %6.3f %6.3f\n", i, samples[i][0], samples[i][1]);

    double height = 0; /* of the samples; E[x2] = 1/2 */
    for (size_t i = 0; i < SAMPLES; i++)
        height += samples[i][1] / SAMPLES;
    printf("mean of x2 over %d samples: %.3f, of the density: 0.500\n", SAMPLES, height);
    return fabs(nll - entropy) < 0.15 && fabs(height - 0.5) < 0.2 ? EXIT_SUCCESS : EXIT_FAILURE;
}
