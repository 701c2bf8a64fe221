/*
 * A flow inside a simulation: two threads share one const flow, and each draws and scores one proposal a step. Each has its own
 * workspace, so that the loop allocates nothing, which an allocator that counts shows; and its own stream of random numbers, so that the
 * outcome does not depend on who runs when.
 *
 * The simulation is a Metropolis-Hastings chain with independent proposals from the flow (Tierney 1994): it visits the target exactly, however rough the
 * flow is.
 *
 *     cc embed.c $(pkg-config --cflags --libs libnflow) -lm -o embed
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <nflow.h>

enum { CHAINS = 2, STEPS = 20000, TRAINING = 2000 };

/* ---- An allocator that counts, whichever thread calls it */

static atomic_size_t allocations;

static void *counting_alloc(void *user, size_t size) {
    atomic_fetch_add((atomic_size_t *)user, 1);
    return malloc(size);
}

static void counting_release(void *user, void *pointer) {
    (void)user;
    free(pointer);
}

static const nf_allocator counting = {.alloc = counting_alloc, .release = counting_release, .user = &allocations};

/* ---- The target: x1 ~ N(1, 0.5^2), x2 ~ N(x1^2, 0.5^2), up to a constant. E[x1] = 1, E[x2] = 1.25. */

static double target(const double x[2]) {
    const double a = (x[0] - 1.0) / 0.5, b = (x[1] - x[0] * x[0]) / 0.5;
    return -0.5 * (a * a + b * b);
}

typedef struct chain {
    const nf_flow *flow;
    nf_workspace *workspace;
    nf_rng rng;
    nf_status status;
    char error[200];
    double mean[2], accepted;
    size_t allocated_in_loop;
} chain;

/* In (0, 1): a linear congruential generator (Knuth's MMIX constants), the top bits. */
static double uniform(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(*state >> 11) + 0.5) * 0x1p-53;
}

static void *run(void *argument) {
    chain *c = argument;
    double here[2] = {1.0, 1.0}, here_weight = -INFINITY; /* log of target over proposal: the first proposal is taken */
    uint64_t state = 0x9e3779b97f4a7c15u * (c->rng.stream + 1);
    for (size_t step = 0; step < STEPS; step++) {
        double x[2], log_q;
        c->status = nf_sample(c->flow, c->workspace, &c->rng, 1, NULL, x, &log_q);
        if (c->status != NF_OK) {
            snprintf(c->error, sizeof c->error, "%s", nf_last_error()); /* the message belongs to this thread */
            return NULL;
        }
        const double weight = target(x) - log_q;
        if (log(uniform(&state)) < weight - here_weight) {
            here[0] = x[0];
            here[1] = x[1];
            here_weight = weight;
            c->accepted += 1.0 / STEPS;
        }
        c->mean[0] += here[0] / STEPS;
        c->mean[1] += here[1] / STEPS;
    }
    return NULL;
}

static int fail(const char *what) { return fprintf(stderr, "embed: %s\n", what), EXIT_FAILURE; }

/* Some rows of the target to fit to, made from normals. */
static nf_status make_rows(double rows[TRAINING][2]) {
    nf_flow *normal;
    nf_status status = nf_flow_create(2, 0, NF_DOUBLE, &normal);
    if (status == NF_OK)
        status = nf_sample(normal, NULL, &(nf_rng){.seed = 4}, TRAINING, NULL, rows[0], NULL);
    nf_flow_free(normal);
    for (size_t i = 0; status == NF_OK && i < TRAINING; i++) {
        rows[i][0] = 1.0 + 0.5 * rows[i][0];
        rows[i][1] = rows[i][0] * rows[i][0] + 0.5 * rows[i][1];
    }
    return status;
}

static nf_status run_chains(const nf_flow *flow, chain chains[CHAINS]) {
    nf_status status = NF_OK;
    for (size_t i = 0; status == NF_OK && i < CHAINS; i++) {
        chains[i] = (chain){.flow = flow, .rng = {.seed = 5, .stream = i}};
        status = nf_workspace_create(flow, 1, &chains[i].workspace);
    }
    const size_t before = atomic_load(&allocations);
    pthread_t threads[CHAINS];
    size_t started = 0;
    while (status == NF_OK && started < CHAINS && pthread_create(&threads[started], NULL, run, &chains[started]) == 0)
        started++;
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < CHAINS; i++) {
        chains[i].allocated_in_loop = atomic_load(&allocations) - before;
        nf_workspace_free(chains[i].workspace);
        if (status == NF_OK && (i >= started || chains[i].status != NF_OK))
            status = i >= started ? NF_ERR_MEMORY : chains[i].status;
    }
    return status;
}

int main(void) {
    static double rows[TRAINING][2];
    nf_flow *flow;
    if (make_rows(rows) != NF_OK ||
        nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 4, .hidden_width = 32, .allocator = &counting), &flow) != NF_OK)
        return fail(nf_last_error());
    if (nf_fit(flow, TRAINING, rows[0], NULL, NF_CONFIG(nf_fit_config, .epochs = 30), NULL) != NF_OK)
        return fail(nf_last_error());
    const size_t before = atomic_load(&allocations);

    static chain chains[CHAINS];
    if (run_chains(flow, chains) != NF_OK)
        return fail(chains[0].error[0] ? chains[0].error : chains[1].error[0] ? chains[1].error : "the chains could not be started");
    printf("to create and train: %zu allocations; in %d steps of %d threads: %zu\n", before, STEPS, CHAINS, chains[0].allocated_in_loop);
    int good = before > 0 && chains[0].allocated_in_loop == 0;
    for (size_t i = 0; i < CHAINS; i++) {
        printf("chain %zu: accepted %.0f %%, mean (%.3f, %.3f), exactly (1, 1.25)\n", i, 100 * chains[i].accepted, chains[i].mean[0],
               chains[i].mean[1]);
        good = good && chains[i].accepted > 0.5 && fabs(chains[i].mean[0] - 1.0) < 0.05 && fabs(chains[i].mean[1] - 1.25) < 0.1;
    }

    /* The stream of a chain is its own: run again, with whatever timing, it gives the same bits. */
    static chain again[CHAINS];
    if (run_chains(flow, again) != NF_OK)
        return fail("the chains could not be run again");
    for (size_t i = 0; i < CHAINS; i++)
        good = good && again[i].mean[0] == chains[i].mean[0] && again[i].mean[1] == chains[i].mean[1];
    puts(good ? "run again: the same bits" : "a check failed");
    nf_flow_free(flow);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
