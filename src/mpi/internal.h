/* What the two files of libnflow_mpi share. */
#ifndef NF_MPI_INTERNAL_H
#define NF_MPI_INTERNAL_H

#include "nflow_mpi.h"

struct nf_mpi {
    nf_comm table;
    MPI_Comm communicator;
    int rank, size;
    MPI_Request *requests;
};

enum { NF_MPI_LINE = 640 };

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
nf_status nf_mpi_fail(nf_status status, const char *format, ...);
void nf_mpi_say(const char *line); /* "": forget */

/* As nf_comm's: 0, or MPI's code, with a line. */
int nf_mpi_allgather(void *user, const double *send, double *receive, size_t count);
int nf_mpi_broadcast(void *user, void *bytes, size_t size, int root);
int nf_mpi_exchange(void *user, const double *send, const size_t *send_counts, double *receive, const size_t *receive_counts);

#endif
