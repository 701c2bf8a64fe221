/*
 * Peak resident memory, each case in a process of its own: training the large and the small model, and nf_fit over 10^3 and over 10^7 rows, less the caller's
 * array. One JSON line a figure, in MiB.
 *
 *     bench_memory [threads]
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"
#include "nflow.h"

/* Rows of cheap numbers, near enough to normal. */
static double *make_rows(size_t count) {
    double *x = malloc(count * sizeof *x);
    if (!x)
        exit(1);
    unsigned long long state = 2385;
    for (size_t i = 0; i < count; i++) {
        double sum = -2;
        for (int k = 0; k < 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(state >> 11) * 0x1p-53;
        }
        x[i] = 1.7 * sum;
    }
    return x;
}

typedef struct scenario {
    const char *work, *size;
    size_t dim, width, couplings, batch, rows; /* rows: of a fit; 0: training steps */
} scenario;

static const scenario scenarios[] = {{"train", "small", 2, 32, 8, 32, 0},
                                     {"train", "large", 64, 256, 8, 4096, 0},
                                     {"fit", "1e3 rows", 2, 32, 8, 1000, 1000},
                                     {"fit", "1e7 rows", 2, 32, 8, 1000, 10000000}};

static int stop(void *user, const nf_fit_progress *progress) {
    (void)user;
    (void)progress;
    return 1; /* after an epoch */
}

static void run(const scenario *s, size_t threads) {
    nf_flow *flow;
    const size_t rows = s->rows ? s->rows : s->batch;
    double *x = make_rows(rows * s->dim), loss;
    bench_require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = s->dim, .couplings = s->couplings, .hidden_width = s->width, .precision = NF_SINGLE,
                                        .seed = 11),
                              &flow));
    if (s->rows) {
        const nf_status status = nf_fit(flow, rows, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 1, .batch_size = s->batch, .threads = threads, .progress = stop),
                                        NULL);
        bench_require(status == NF_STOPPED ? NF_OK : status);
    } else {
        nf_workspace *ws;
        nf_gradient *gradient;
        nf_optimizer *optimizer;
        bench_require(nf_workspace_create(flow, threads, &ws));
        bench_require(nf_gradient_create(flow, &gradient));
        bench_require(nf_optimizer_create(flow, NULL, &optimizer));
        for (int step = 0; step < 3; step++) {
            bench_require(nf_gradient_zero(gradient));
            bench_require(nf_grad_nll(flow, ws, rows, x, NULL, NULL, gradient, &loss));
            bench_require(nf_optimizer_step(optimizer, flow, gradient));
        }
        nf_optimizer_free(optimizer);
        nf_gradient_free(gradient);
        nf_workspace_free(ws);
    }
    nf_flow_free(flow);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const double array = (double)(rows * s->dim * sizeof *x) / 1048576, peak = (double)usage.ru_maxrss / 1024;
    printf("{\"by\": \"libnflow\", \"flow\": \"realnvp\", \"work\": \"memory_%s\", \"size\": \"%s\", \"real\": \"f32\", \"threads\": %zu, \"mib\": %.1f, "
           "\"mib_of_rows\": %.1f, \"mib_beside_rows\": %.1f}\n",
           s->work, s->size, threads, peak, array, peak - array);
    fflush(stdout);
    free(x);
}

int main(int count, char **arguments) {
    const size_t threads = count > 1 ? (size_t)strtoul(arguments[1], NULL, 10) : 1;
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        const pid_t child = fork();
        if (child == 0) {
            run(&scenarios[i], threads);
            _exit(0);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            return 1;
    }
    return 0;
}
