/*
 * A fit's step on the processes of an MPI program, by the clock, with sums in a fixed order and with allreduce, in turn; and the memory of a process before and after. The
 * times are the best of some blocks, the difference of a long fit and a short one. Run by scripts/bench-mpi.sh.
 *
 *     mpirun -n 2 steps dim width batch
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nflow_mpi.h>

enum { BLOCKS = 7, STEPS = 6 };

/* Most resident memory so far, MiB. */
static double most_memory(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[200];
    double kib = 0;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = atof(line + 6);
    if (file)
        fclose(file);
    return kib / 1024;
}

/* A fit of 2 steps, or of 2 + STEPS. */
static double fit_seconds(const nf_flow *from, const nf_comm *comm, size_t rows, size_t batch, const double *x, size_t steps) {
    nf_flow *flow;
    if (nf_flow_clone(from, &flow) != NF_OK)
        exit(1);
    const double t = MPI_Wtime();
    if (nf_fit(flow, rows, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 2 + steps, .batch_size = batch, .validation_fraction = -1, .comm = comm), NULL) != NF_OK)
        exit((fprintf(stderr, "%s\n", nf_last_error()), 1));
    nf_flow_free(flow);
    return MPI_Wtime() - t;
}

int main(int argc, char **argv) {
    int rank, size;
    nf_mpi *mpi;
    nf_flow *flow, *base;
    double best[2][2] = {{1e9, 1e9}, {1e9, 1e9}}, memory[2] = {0, 0}; /* best: by mode, short and long */
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const size_t dim = argc > 3 ? (size_t)atoi(argv[1]) : 2, width = argc > 3 ? (size_t)atoi(argv[2]) : 32, batch = argc > 3 ? (size_t)atoi(argv[3]) : 1024;
    const size_t rows = batch * (size_t)(rank + 1) / (size_t)size - batch * (size_t)rank / (size_t)size;
    double *x = malloc((rows + 1) * dim * sizeof *x);
    if (!x || nf_mpi_create(MPI_COMM_WORLD, &mpi) != NF_OK || nf_flow_create(dim, 0, NF_DOUBLE, &base) != NF_OK ||
        nf_sample(base, NULL, &(nf_rng){.seed = 1, .stream = (uint64_t)rank}, rows, NULL, x, NULL) != NF_OK ||
        nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = dim, .couplings = 8, .hidden_width = width, .precision = NF_SINGLE), &flow) != NF_OK)
        return 1;
    memory[0] = most_memory();
    for (int block = 0; block < BLOCKS; block++)
        for (int fast = 0; fast < 2; fast++) {
            nf_mpi_comm(mpi)->fast = fast;
            for (int longer = 0; longer < 2; longer++) {
                const double t = fit_seconds(flow, nf_mpi_comm(mpi), rows, batch, x, longer ? STEPS : 0);
                best[fast][longer] = t < best[fast][longer] ? t : best[fast][longer];
            }
            memory[1] = block == 0 && fast == 0 ? most_memory() : memory[1]; /* of the mode with the same bits */
        }
    if (rank == 0)
        printf("| d%zu w%zu, %zu rows, %zu parameters | %d | %.2f | %.2f | %.1f | %.1f |\n", dim, width, batch, nf_parameter_count(flow), size,
               1e3 * (best[0][1] - best[0][0]) / STEPS, 1e3 * (best[1][1] - best[1][0]) / STEPS, memory[0], memory[1]);
    nf_flow_free(flow);
    nf_flow_free(base);
    free(x);
    nf_mpi_free(mpi);
    MPI_Finalize();
    return 0;
}
