/*
 * What a step of a fit costs on several ranks in one process, in processor time of the busiest and of the average rank: threads that wait take none, so what is
 * left is gradients, sums, copies and the optimizer. Beside it what each rank sends. `alone`: without a comm.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "measure.h"
#include "ranks.h"

enum { BLOCKS = 3 };

typedef struct fit_size {
    const char *name;
    size_t dim, width, batch, steps;
} fit_size;

typedef struct work {
    const fit_size *s;
    const double *x;
    double seconds[MOST_RANKS]; /* of a step */
} work;

static nf_status fit(void *user, const nf_comm *comm, char line[LINE]) {
    work *w = user;
    const size_t rows = w->s->batch, rank = comm ? (size_t)comm->rank : 0, size = comm ? (size_t)comm->size : 1;
    const size_t first = rows * rank / size, own = rows * (rank + 1) / size - first;
    nf_flow *flow;
    if (nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = w->s->dim, .couplings = 8, .hidden_width = w->s->width, .precision = NF_SINGLE), &flow) != NF_OK)
        exit(1);
    double took[2];
    nf_status status = NF_OK;
    for (int longer = 0; longer < 2 && status == NF_OK; longer++) { /* the difference is of steps alone */
        const double t = bench_seconds(0);
        status = nf_fit(flow, own, w->x + first * w->s->dim, NULL,
                        NF_CONFIG(nf_fit_config, .epochs = w->s->steps * (size_t)(1 + 3 * longer), .batch_size = rows, .validation_fraction = -1, .comm = comm), NULL);
        took[longer] = bench_seconds(0) - t;
    }
    snprintf(line, LINE, "%s", nf_last_error());
    w->seconds[rank] = fmin(w->seconds[rank], (took[1] - took[0]) / (double)(3 * w->s->steps));
    nf_flow_free(flow);
    return status;
}

static void measure(const fit_size *s, const double *x, int size, bool fast) {
    work w = {.s = s, .x = x};
    rank_result results[MOST_RANKS];
    char line[LINE];
    for (int r = 0; r < MOST_RANKS; r++)
        w.seconds[r] = INFINITY;
    for (int block = 0; block < BLOCKS; block++) {
        if (size == 0)
            fit(&w, NULL, line);
        else
            run_ranks(&(rank_options){.size = size, .fast = fast}, fit, &w, results);
        if (size > 0 && results[0].status != NF_OK)
            exit((fprintf(stderr, "%s\n", results[0].line), 1));
    }
    double most = 0, mean = 0;
    for (int r = 0; r < (size ? size : 1); r++) {
        most = fmax(most, w.seconds[r]);
        mean += w.seconds[r] / (size ? size : 1);
    }
    printf("| %s | %d | %s | %.3f | %.3f | %.3f |\n", s->name, size ? size : 1, size == 0 ? "alone" : fast ? "fast" : "same bits", 1e3 * most, 1e3 * mean,
           size ? 8e-6 * (double)results[0].numbers / (double)(5 * s->steps) : 0.0);
}

int main(void) {
    static const fit_size sizes[] = {{"small, 1024 rows", 2, 32, 1024, 20}, {"middle, 1024 rows", 16, 128, 1024, 3}, {"large, 1024 rows", 64, 256, 1024, 1}};
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("| model | ranks | sums | busiest rank, ms a step | mean, ms | MB sent a step |\n|---|---|---|---|---|---|");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        double *x = malloc(sizes[i].batch * sizes[i].dim * sizeof *x);
        nf_flow *base;
        if (!x || nf_flow_create(sizes[i].dim, 0, NF_DOUBLE, &base) != NF_OK ||
            nf_sample(base, NULL, &(nf_rng){.seed = 1}, sizes[i].batch, NULL, x, NULL) != NF_OK)
            return 1;
        measure(&sizes[i], x, 0, false);
        for (int size = 2; size <= 8; size *= 2)
            for (int fast = 0; fast < 2; fast++)
                measure(&sizes[i], x, size, fast);
        nf_flow_free(base);
        free(x);
    }
    return 0;
}
