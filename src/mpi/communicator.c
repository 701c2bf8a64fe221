/* nf_comm over an MPI communicator. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Partners with whom messages are under way at once, and the most numbers of one message. */
#define PARTNERS 32
#define MESSAGE ((size_t)1 << 27)

static _Thread_local char line[NF_MPI_LINE];

const char *nf_mpi_last_error(void) { return line; }

void nf_mpi_say(const char *text) { snprintf(line, sizeof line, "%s", text); }

nf_status nf_mpi_fail(nf_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    return status;
}

/* MPI's code, with its own words. */
static int outcome(const char *function, int code) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (code == MPI_SUCCESS)
        return 0;
    MPI_Error_string(code, text, &length);
    nf_mpi_fail(NF_ERR_IO, "%s: %.500s", function, text);
    return code;
}

/* ---- operations */

int nf_mpi_allgather(void *user, const double *send, double *receive, size_t count) {
    const nf_mpi *mpi = user;
    if (count > INT_MAX)
        return outcome("MPI_Allgather", MPI_ERR_COUNT); /* on all of them */
    return outcome("MPI_Allgather", MPI_Allgather(send, (int)count, MPI_DOUBLE, receive, (int)count, MPI_DOUBLE, mpi->communicator));
}

int nf_mpi_broadcast(void *user, void *bytes, size_t size, int root) {
    const nf_mpi *mpi = user;
    for (size_t done = 0, most = MESSAGE; done < size; done += most) {
        const int part = (int)(size - done < most ? size - done : most);
        const int code = MPI_Bcast((char *)bytes + done, part, MPI_BYTE, root, mpi->communicator);
        if (code != MPI_SUCCESS)
            return outcome("MPI_Bcast", code);
    }
    return 0;
}

static int barrier(void *user) {
    const nf_mpi *mpi = user;
    return outcome("MPI_Barrier", MPI_Barrier(mpi->communicator));
}

static int allreduce(void *user, double *values, size_t count) {
    const nf_mpi *mpi = user;
    for (size_t done = 0; done < count; done += MESSAGE) {
        const int part = (int)(count - done < MESSAGE ? count - done : MESSAGE);
        const int code = MPI_Allreduce(MPI_IN_PLACE, values + done, part, MPI_DOUBLE, MPI_SUM, mpi->communicator);
        if (code != MPI_SUCCESS)
            return outcome("MPI_Allreduce", code);
    }
    return 0;
}

/* Where a rank's block begins is found from that of the last one: the ranks are visited in order. */
typedef struct side {
    const size_t *counts;
    size_t at, rank; /* the block of `rank` begins at `at` */
} side;

static size_t seek(side *s, size_t rank) {
    while (s->rank > rank)
        s->at -= s->counts[--s->rank];
    while (s->rank < rank)
        s->at += s->counts[s->rank++];
    return s->at;
}

/* Messages of one pair of partners whose number `part` is due: both sides cut alike. */
static int post(const nf_mpi *mpi, double *receive, size_t receive_count, int from, const double *send, size_t send_count, int to, size_t part,
                int *posted) {
    int code = MPI_SUCCESS;
    const size_t done = part * MESSAGE;
    if (done < receive_count)
        code = MPI_Irecv(receive + done, (int)(receive_count - done < MESSAGE ? receive_count - done : MESSAGE), MPI_DOUBLE, from, 0, mpi->communicator,
                         &mpi->requests[(*posted)++]);
    if (code == MPI_SUCCESS && done < send_count)
        code = MPI_Isend(send + done, (int)(send_count - done < MESSAGE ? send_count - done : MESSAGE), MPI_DOUBLE, to, 0, mpi->communicator,
                         &mpi->requests[(*posted)++]);
    return code;
}

/*
 * By messages between pairs and not by MPI_Alltoallv, whose displacements are ints; and pairs that have nothing to say cost nothing. In turn k a rank sends to the k-th
 * after it and receives from the k-th before it.
 */
int nf_mpi_exchange(void *user, const double *send, const size_t *send_counts, double *receive, const size_t *receive_counts) {
    const nf_mpi *mpi = user;
    const size_t size = (size_t)mpi->size, rank = (size_t)mpi->rank;
    side out = {send_counts, 0, 0}, in = {receive_counts, 0, 0};
    MPI_Status statuses[2 * PARTNERS];
    size_t parts = 1;
    if (send_counts[rank] > 0)
        memcpy(receive + seek(&in, rank), send + seek(&out, rank), send_counts[rank] * sizeof *send);
    for (size_t first = 1; first < size; first += PARTNERS, parts = 1)
        for (size_t part = 0; part < parts; part++) {
            int posted = 0, code = MPI_SUCCESS;
            for (size_t k = first; k < size && k < first + PARTNERS && code == MPI_SUCCESS; k++) {
                const size_t to = (rank + k) % size, from = (rank + size - k) % size;
                const size_t longest = send_counts[to] > receive_counts[from] ? send_counts[to] : receive_counts[from];
                if (longest > parts * MESSAGE)
                    parts = (longest - 1) / MESSAGE + 1;
                code = post(mpi, receive + seek(&in, from), receive_counts[from], (int)from, send + seek(&out, to), send_counts[to], (int)to, part, &posted);
            }
            const int waited = MPI_Waitall(posted, mpi->requests, statuses);
            if (code != MPI_SUCCESS || waited != MPI_SUCCESS)
                return outcome("MPI_Isend and MPI_Irecv", code != MPI_SUCCESS ? code : waited);
        }
    return 0;
}

/* ---- making and freeing */

static nf_status check(MPI_Comm communicator) {
    int flag = 0;
    if (MPI_Initialized(&flag) != MPI_SUCCESS || !flag)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_create: MPI is not initialised");
    if (MPI_Finalized(&flag) != MPI_SUCCESS || flag)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_create: MPI is finalised");
    if (communicator == MPI_COMM_NULL)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_create: the communicator is MPI_COMM_NULL");
    if (MPI_Comm_test_inter(communicator, &flag) != MPI_SUCCESS || flag)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_create: the communicator is an intercommunicator");
    return NF_OK;
}

static nf_mpi *allocate(void) {
    nf_mpi *mpi = calloc(1, sizeof *mpi);
    MPI_Request *requests = calloc((size_t)2 * PARTNERS, sizeof *requests);
    if (mpi && requests) {
        mpi->requests = requests;
        return mpi;
    }
    free(requests);
    free(mpi);
    return NULL;
}

static nf_status fill(nf_mpi *mpi, MPI_Comm communicator) {
    mpi->communicator = communicator;
    int code = MPI_Comm_rank(communicator, &mpi->rank);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_size(communicator, &mpi->size);
    mpi->table = (nf_comm){.struct_size = sizeof mpi->table,
                           .rank = mpi->rank,
                           .size = mpi->size,
                           .user = mpi,
                           .allgather = nf_mpi_allgather,
                           .broadcast = nf_mpi_broadcast,
                           .barrier = barrier,
                           .exchange = nf_mpi_exchange,
                           .allreduce = allreduce};
    return outcome("nf_mpi_create: MPI_Comm_size", code) == 0 ? NF_OK : NF_ERR_IO;
}

nf_status nf_mpi_create(MPI_Comm communicator, nf_mpi **out) {
    nf_mpi_say("");
    if (!out)
        return nf_mpi_fail(NF_ERR_ARGUMENT, "nf_mpi_create: mpi is NULL");
    *out = NULL;
    nf_status status = check(communicator);
    if (status != NF_OK)
        return status;
    MPI_Comm copy = MPI_COMM_NULL;
    int code = MPI_Comm_dup(communicator, &copy);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN);
    if (code != MPI_SUCCESS)
        return outcome("nf_mpi_create: MPI_Comm_dup", code), NF_ERR_IO;
    nf_mpi *mpi = allocate();
    int good = mpi != NULL, all = 0;
    code = MPI_Allreduce(&good, &all, 1, MPI_INT, MPI_MIN, copy);
    if (code != MPI_SUCCESS)
        status = (outcome("nf_mpi_create: MPI_Allreduce", code), NF_ERR_IO);
    else if (!all)
        status = nf_mpi_fail(NF_ERR_MEMORY, "nf_mpi_create: a process has no memory");
    else
        status = fill(mpi, copy);
    if (status == NF_OK) {
        *out = mpi;
        return NF_OK;
    }
    MPI_Comm_free(&copy);
    if (mpi)
        free(mpi->requests);
    free(mpi);
    return status;
}

nf_status nf_mpi_create_f(MPI_Fint communicator, nf_mpi **mpi) { return nf_mpi_create(MPI_Comm_f2c(communicator), mpi); }

void nf_mpi_free(nf_mpi *mpi) {
    if (!mpi)
        return;
    int finalized = 0;
    if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized)
        MPI_Comm_free(&mpi->communicator);
    free(mpi->requests);
    free(mpi);
}

nf_comm *nf_mpi_comm(nf_mpi *mpi) { return mpi ? &mpi->table : NULL; }
