/*
 * A host program that uses OpenBLAS itself, with whichever build of it the loader finds: it changes the number of BLAS threads, multiplies
 * matrices, and meanwhile evaluates and trains flows with 1, 2, 3 and 8 threads and from threads of its own. The flows' bits must not depend on any of
 * this, and the host's setting must stay. Prints the build and the bits, for scripts/check-openblas.sh to compare between the builds.
 */
#include <cblas.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nflow.h"

extern void openblas_set_num_threads(int threads);
extern int openblas_get_num_threads(void);
extern char *openblas_get_config(void);
extern int openblas_get_parallel(void);

enum { ROWS = 1385, DIM = 6, SIDE = 192, STEPS = 3 };

static void require(int holds, const char *what) {
    if (holds)
        return;
    fprintf(stderr, "host: %s\n", what);
    exit(1);
}

static void good(nf_status status) { require(status == NF_OK, nf_last_error()); }

/* Fowler, Noll & Vo's hash 1a. */
static uint64_t mix(uint64_t hash, const void *bytes, size_t size) {
    for (const unsigned char *b = bytes; size > 0; size--)
        hash = (hash ^ *b++) * 0x100000001b3u;
    return hash;
}

/* Samples, densities and the parameters after some steps of training. */
static uint64_t bits_of_flow(nf_precision precision, size_t threads) {
    static const size_t sizes[] = {1, 7, 130, ROWS};
    nf_flow *flow, *planar;
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    double *x = malloc(ROWS * DIM * sizeof *x), *log_prob = malloc(ROWS * sizeof *log_prob), loss;
    uint64_t hash = 0xcbf29ce484222325u;
    good(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 4, .precision = precision, .seed = 5), &flow));
    good(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM, .layers = 3, .precision = precision, .seed = 6), &planar));
    good(nf_flow_append(flow, planar));
    good(nf_workspace_create(flow, threads, &ws));
    good(nf_gradient_create(flow, &gradient));
    good(nf_optimizer_create(flow, NULL, &optimizer));
    double *theta = malloc(nf_parameter_count(flow) * sizeof *theta);
    require(x && log_prob && theta, "no memory");
    nf_rng rng = {1, 2, 3};
    good(nf_sample(flow, ws, &rng, ROWS, NULL, x, log_prob));
    hash = mix(mix(hash, x, ROWS * DIM * sizeof *x), log_prob, ROWS * sizeof *log_prob);
    for (int step = 0; step < STEPS; step++) {
        good(nf_gradient_zero(gradient));
        good(nf_grad_nll(flow, ws, ROWS, x, NULL, NULL, gradient, &loss));
        good(nf_optimizer_step(optimizer, flow, gradient));
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        good(nf_log_prob(flow, ws, sizes[i], x, NULL, log_prob));
        hash = mix(hash, log_prob, sizes[i] * sizeof *log_prob);
    }
    good(nf_get_parameters(flow, theta));
    hash = mix(hash, theta, nf_parameter_count(flow) * sizeof *theta);
    free(theta);
    free(log_prob);
    free(x);
    nf_optimizer_free(optimizer);
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(flow);
    return hash;
}

static double a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE], expected[SIDE * SIDE];

static void multiply(void) { cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIDE, SIDE, SIDE, 1, a, SIDE, b, SIDE, 0, c, SIDE); }

typedef struct user {
    pthread_t thread;
    nf_precision precision;
    size_t threads;
    uint64_t hash;
} user;

static void *use_flow(void *argument) {
    user *u = argument;
    u->hash = bits_of_flow(u->precision, u->threads);
    return NULL;
}

int main(void) {
    static const size_t threads[] = {1, 2, 3, 8};
    uint64_t alone[2];
    for (int i = 0; i < SIDE * SIDE; i++) {
        a[i] = (double)(i * 7 % 101) / 101 - 0.385;
        b[i] = (double)(i * 13 % 103) / 103 - 0.385;
    }
    for (int p = 0; p < 2; p++)
        alone[p] = bits_of_flow(p ? NF_SINGLE : NF_DOUBLE, 1);
    for (int setting = 1; setting <= 3; setting++) {
        openblas_set_num_threads(setting);
        const int before = openblas_get_num_threads();
        multiply();
        memcpy(expected, c, sizeof c);
        user users[8];
        for (size_t i = 0; i < 8; i++) {
            users[i].precision = i % 2 ? NF_SINGLE : NF_DOUBLE;
            users[i].threads = threads[i / 2];
            require(pthread_create(&users[i].thread, NULL, use_flow, &users[i]) == 0, "no thread");
        }
        for (int i = 0; i < 20; i++) {
            multiply();
            require(memcmp(c, expected, sizeof c) == 0, "the host's own product changed");
        }
        for (size_t i = 0; i < 8; i++) {
            require(pthread_join(users[i].thread, NULL) == 0, "no thread to join");
            require(users[i].hash == alone[i % 2], "a flow has other bits beside the host's BLAS");
        }
        require(openblas_get_num_threads() == before, "the host's number of BLAS threads changed");
    }
    fprintf(stderr, "%s, threading %d\n", openblas_get_config(), openblas_get_parallel());
    printf("%016llx %016llx\n", (unsigned long long)alone[0], (unsigned long long)alone[1]);
    return 0;
}
