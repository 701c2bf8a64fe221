/*
 * A Real NVP fitted by all processes of an MPI program, each with rows of its own, as a simulator makes them; then samples, shared out. Run it with any
 * number of processes: the digest of the parameters stays what it is.
 *
 *     cc fit_over_processes.c $(pkg-config --cflags --libs nflow-mpi-openmpi) -lm -o fit_over_processes
 *     mpirun -n 4 ./fit_over_processes
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <nflow_mpi.h>

enum { ROWS = 8000, DIM = 2 }; /* of all processes */

/* The simulator: row number i of all is a function of i, whoever makes it. Here a bent Gaussian. */
static nf_status simulate(size_t first, size_t rows, double (*x)[DIM]) {
    nf_flow *normal;
    nf_status status = nf_flow_create(DIM, 0, NF_DOUBLE, &normal);
    if (status == NF_OK)
        status = nf_sample(normal, NULL, &(nf_rng){.seed = 2, .position = first}, rows, NULL, x[0], NULL);
    nf_flow_free(normal);
    for (size_t i = 0; status == NF_OK && i < rows; i++)
        x[i][1] += x[i][0] * x[i][0] / 2;
    return status;
}

static uint64_t digest(const nf_flow *flow) {
    const size_t count = nf_parameter_count(flow);
    double *parameters = malloc(count * sizeof *parameters);
    uint64_t sum = UINT64_C(14695981039346656037);
    if (parameters && nf_get_parameters(flow, parameters) == NF_OK)
        for (size_t i = 0; i < count * sizeof *parameters; i++)
            sum = (sum ^ ((const unsigned char *)parameters)[i]) * UINT64_C(1099511628211);
    free(parameters);
    return sum;
}

static nf_status work(nf_mpi *mpi, const nf_comm *comm) {
    const size_t rank = (size_t)comm->rank, size = (size_t)comm->size;
    const size_t first = ROWS * rank / size, rows = ROWS * (rank + 1) / size - first;
    double(*x)[DIM] = malloc((rows + 1) * sizeof *x);
    nf_flow *flow = NULL;
    nf_fit_report report = {.struct_size = sizeof report};
    nf_rng rng = {.seed = 3};
    nf_status status = x ? simulate(first, rows, x) : NF_ERR_MEMORY;
    if (status == NF_OK)
        status = nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 4, .precision = NF_SINGLE), &flow);
    /* A process that has failed so far calls all the same, with a flow that is NULL, so that the others hear of it. */
    const nf_status fitted = nf_fit(status == NF_OK ? flow : NULL, rows, x ? x[0] : NULL, NULL,
                                    NF_CONFIG(nf_fit_config, .epochs = 20, .batch_size = 512, .comm = comm), &report);
    if (status == NF_OK)
        status = fitted;
    if (fitted == NF_OK)
        status = nf_mpi_sample(mpi, flow, NULL, &rng, rows, NULL, x[0], NULL);
    if (status == NF_OK && rank == 0)
        printf("%zu processes: held-out loss %.4f nats (2.8379 is the entropy), %zu steps, %.2f s\nparameters %016" PRIx64 "\n", size, report.best_loss,
               report.steps, report.seconds, digest(flow));
    nf_flow_free(flow);
    free(x);
    return status;
}

int main(int argc, char **argv) {
    int provided;
    nf_mpi *mpi = NULL;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    nf_status status = nf_mpi_create(MPI_COMM_WORLD, &mpi);
    if (status == NF_OK)
        status = work(mpi, nf_mpi_comm(mpi));
    if (status != NF_OK)
        fprintf(stderr, "%s: %s %s\n", nf_status_name(status), nf_last_error(), nf_mpi_last_error());
    nf_mpi_free(mpi);
    MPI_Finalize();
    return status == NF_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
