/*
 * Planar flows fitted by reverse KL to the four energies of Rezende & Mohamed 2015, table 1: how close they come, and how long a step takes.
 *
 *     reverse_kl [--steps n] [--seeds n]
 *
 * A trainable diagonal Gaussian of initial standard deviation 3 and K = 8 and 32 planar layers; 256 samples a step, 10,000 steps, annealed from an
 * inverse temperature of .1 over half of them, otherwise the defaults of nf_fit_reverse_kl; one thread, single precision. KL(q || p) is log Z, by
 * quadrature over [-16, 16]^2, less the ELBO of a million samples of the fitted flow. Prints a Markdown table of means over the seeds 1 .. n, with
 * the worst of them. A step's time is processor time, all of the fit's work included; the reference is a Python library's step on this kind of
 * machine.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "energies.h"

enum { CHUNK = 10000, CHUNKS = 100 };

static const struct depth {
    size_t layers;
    double at_most[ENERGY_COUNT + 1]; /* KL, nats; 0: no aim */
    double reference_ms;
} depths[] = {{8, {0}, 2.74}, {32, {0, 0.02, 0.20, 0.15, 0.40}, 9.83}};

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "reverse_kl: %s\n", nf_last_error());
    exit(1);
}

static nf_flow *make_flow(size_t layers, uint64_t seed) {
    nf_flow *flow, *planar;
    const double spread[4] = {log(3.0), log(3.0), 0.0, 0.0};
    require(nf_affine_create(2, NF_SINGLE, &flow));
    require(nf_set_parameters(flow, spread));
    require(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = layers, .seed = seed, .precision = NF_SINGLE), &planar));
    require(nf_flow_append(flow, planar));
    return flow;
}

/* E_q[log p - log q], from samples that no fit has seen. */
static double elbo(const nf_flow *flow, int energy) {
    static double x[CHUNK * 2], log_q[CHUNK];
    nf_rng rng = {.seed = 777, .stream = 777};
    double sum = 0;
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        require(nf_sample(flow, NULL, &rng, CHUNK, NULL, x, log_q));
        for (size_t r = 0; r < CHUNK; r++) {
            double gradient[2];
            sum += energy_log_density(energy, x + 2 * r, gradient) - log_q[r];
        }
    }
    return sum / ((double)CHUNK * CHUNKS);
}

static void measure(int energy, const struct depth *d, size_t steps, size_t seeds) {
    const double log_norm = energy_log_norm(energy);
    double mean = 0, worst = -INFINITY, seconds = 0;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        nf_flow *flow = make_flow(d->layers, seed);
        const nf_reverse_kl_config config = {.struct_size = sizeof config, .steps = steps, .seed = seed,
                                             .beta_start = 0.1, .evaluation_samples = NF_NONE};
        const clock_t start = clock();
        require(nf_fit_reverse_kl(flow, energy_target, &energy, &config, NULL));
        seconds += (double)(clock() - start) / CLOCKS_PER_SEC;
        const double kl = log_norm - elbo(flow, energy);
        mean += kl / (double)seeds;
        worst = fmax(worst, kl);
        nf_flow_free(flow);
    }
    const double step = 1e3 * seconds / (double)seeds / (double)steps;
    char aim[16] = "";
    if (d->at_most[energy] > 0)
        snprintf(aim, sizeof aim, "%.2f", d->at_most[energy]);
    printf("| %d | %.4f | %zu | %.3f | %.3f | %s | %.4f | %.2f | %.1f |\n", energy, log_norm, d->layers, mean, worst, aim, step, d->reference_ms,
           d->reference_ms / step);
    fflush(stdout);
}

int main(int count, char **arguments) {
    size_t steps = 10000, seeds = 3;
    for (int i = 1; i < count; i += 2) {
        const size_t value = i + 1 < count ? (size_t)strtoul(arguments[i + 1], NULL, 10) : 0;
        if (strcmp(arguments[i], "--steps") == 0)
            steps = value;
        else if (strcmp(arguments[i], "--seeds") == 0)
            seeds = value;
        else
            steps = 0;
    }
    if (steps == 0 || seeds == 0) {
        fprintf(stderr, "usage: reverse_kl [--steps n] [--seeds n]\n");
        return 1;
    }
    printf("| energy | log Z | K | mean KL(q, p), nats | worst | at most | cpu ms a step | reference ms | times as fast |\n"
           "|---|---|---|---|---|---|---|---|---|\n");
    for (size_t k = 0; k < sizeof depths / sizeof depths[0]; k++)
        for (int energy = 1; energy <= ENERGY_COUNT; energy++)
            measure(energy, &depths[k], steps, seeds);
    return 0;
}
