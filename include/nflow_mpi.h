/*
 * nflow_mpi.h - flows fitted and evaluated over the processes of an MPI program
 *
 * A companion of libnflow, built once for each MPI (pkg-config nflow-mpi-openmpi, nflow-mpi-mpich). It never calls MPI_Init, MPI_Finalize or MPI_Abort, talks on a
 * duplicate of the communicator that it is given, and calls MPI from the thread that calls it only: MPI_THREAD_FUNNELED is enough for flows
 * with threads of their own, MPI_THREAD_SINGLE without.
 *
 *     nf_mpi *mpi;
 *     nf_mpi_create(MPI_COMM_WORLD, &mpi);
 *     nf_fit(flow, my_rows, my_x, NULL, NF_CONFIG(nf_fit_config, .batch_size = 4096, .comm = nf_mpi_comm(mpi)), &report);
 *     nf_mpi_free(mpi);
 *
 * Everything here is collective: all processes of the communicator call it, and return the same status. Failures of MPI are NF_ERR_IO on the processes that
 * see them. Lines about failures are in nf_mpi_last_error, the failing process's on all of them; those of nf_fit are in nf_last_error as always. MIT licence.
 */
#ifndef NFLOW_MPI_H
#define NFLOW_MPI_H

#include <mpi.h>

#include "nflow.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nf_mpi nf_mpi; /* a duplicate of a communicator, and the table of operations over it */

/*
 * From a communicator of C, or of Fortran (a handle of the module mpi, or comm%MPI_VAL of mpi_f08). MPI must be initialised and not finalised, and the communicator no
 * intercommunicator: NF_ERR_ARGUMENT, told on this process alone. NF_ERR_MEMORY, NF_ERR_IO. Errors of the duplication itself go to the communicator's error handler.
 */
NF_API nf_status nf_mpi_create(MPI_Comm communicator, nf_mpi **mpi);
NF_API nf_status nf_mpi_create_f(MPI_Fint communicator, nf_mpi **mpi);
NF_API void nf_mpi_free(nf_mpi *mpi); /* NULL is allowed; after MPI_Finalize it frees memory only */

/* The table for nf_fit_config.comm and nf_reverse_kl_config.comm, as long as mpi lives. Its members `shards` and `fast` may be set, the same on all processes. */
NF_API nf_comm *nf_mpi_comm(nf_mpi *mpi);

/*
 * As nf_log_prob and nf_sample, for rows in parts: each process gives and gets rows of its own, as many as it likes, and the work is shared evenly, whoever has the rows. A
 * process holds at most 65536 rows of others at a time. The flow is the same on all processes, and the results have the bits of one process that does all rows in the order
 * of the ranks. nf_mpi_sample: rng is the same on all processes (NF_ERR_MISMATCH), and its position grows by the rows of all; x and log_prob may each be NULL, on any process.
 * NF_ERR_ROWS: rows of some process are bad, and NaN.
 */
NF_API nf_status nf_mpi_log_prob(nf_mpi *mpi, const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context,
                                 double *log_prob);
NF_API nf_status nf_mpi_sample(nf_mpi *mpi, const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *context, double *x,
                               double *log_prob);

/* One line about the last failure of MPI or of this library in this thread, or "". */
NF_API const char *nf_mpi_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
