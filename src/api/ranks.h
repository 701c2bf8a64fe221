/*
 * The processes that make a call together: nf_comm with the library's side of it. Every collective operation goes through here, so that a rank that fails
 * takes the others with it instead of leaving them to wait.
 *
 * The protocol: a rank that meets a failure goes on to the next place where all ranks compare their statuses (nf_ranks_agree, or a header that
 * carries a status), and there all of them learn of it. Between two such places no rank leaves.
 */
#ifndef NF_API_RANKS_H
#define NF_API_RANKS_H

#include "core/floating.h"
#include "core/memory.h"
#include "core/status.h"

typedef struct nf_ranks {
    const char *function;
    nf_comm comm;
    nf_allocator allocator;
    size_t rank, size, shards;
    bool fast;
    bool broken; /* a callback has failed: nobody is there any more */
    double *statuses, *spare; /* statuses: three numbers of each rank */
    size_t *counts;
    size_t spare_size;
} nf_ranks;

/* `comm` NULL: one rank. A failure is of this rank alone, and before anything was sent. */
nf_status nf_ranks_begin(nf_ranks *ranks, const char *function, const nf_comm *comm, const nf_allocator *allocator);
void nf_ranks_end(nf_ranks *ranks);

/* The status of the first rank that has one, on all ranks, with its line. */
nf_status nf_ranks_agree(nf_ranks *ranks, nf_status mine);

/* NF_OK or NF_ERR_IO, which is final. With one rank they do what is left to do. */
nf_status nf_ranks_gather(nf_ranks *ranks, const double *send, double *receive, size_t count);
nf_status nf_ranks_broadcast(nf_ranks *ranks, void *bytes, size_t size, size_t root);
nf_status nf_ranks_sum(nf_ranks *ranks, double *values, size_t count);
/* As nf_comm's; NF_ERR_MEMORY as well, agreed upon, where it goes by allgather. */
nf_status nf_ranks_exchange(nf_ranks *ranks, const double *send, const size_t *send_counts, double *receive, const size_t *receive_counts);

/* Settings that must be the same on all ranks; each as a number. NF_ERR_MISMATCH names the first that differs from rank 0's. */
typedef struct nf_rank_setting {
    const char *name;
    double value;
} nf_rank_setting;

nf_status nf_ranks_compare(nf_ranks *ranks, const nf_rank_setting *settings, size_t count);

/* Two settings that hold the halves of a word. */
#define NF_HALVES(name, word) {name, (double)((uint64_t)(word) >> 32)}, {name, (double)((uint64_t)(word) & UINT32_MAX)}

/* What both fits compare: of the table of ranks, and of the optimizer's handle. */
#define NF_COMM_SETTINGS(ranks)                                                                                                            \
    NF_HALVES("config->comm->shards", (ranks).shards), {"config->comm->fast", (ranks).fast},                                               \
        {"whether config->comm->exchange is there", (ranks).comm.exchange != NULL}
#define NF_OPTIMIZER_SETTINGS(optimizer)                                                                                                   \
    {"optimizer->kind", (optimizer)->update.kind}, {"optimizer->learning_rate", (optimizer)->update.rate},                                 \
        {"optimizer->beta1", (optimizer)->update.beta1}, {"optimizer->beta2", (optimizer)->update.beta2},                                  \
        {"optimizer->epsilon", (optimizer)->update.epsilon}, {"optimizer->weight_decay", (optimizer)->update.weight_decay},                \
        {"optimizer->momentum", (optimizer)->update.momentum}, {"optimizer->clip_norm", (optimizer)->clip_norm}

struct nf_flow;
/* That the flow's structure and engine are the same on all ranks; then all take rank 0's parameters. */
nf_status nf_ranks_share_flow(nf_ranks *ranks, struct nf_flow *flow);

/*
 * Between steps: *stop becomes true when it is on any rank. By the way the ranks see whether they still have the same parameters, which they have unless their processors
 * or mathematics libraries are not the same: else NF_ERR_MISMATCH on all of them. `unit` and `number` say in the message when that was.
 */
nf_status nf_ranks_hear_all(nf_ranks *ranks, const struct nf_flow *flow, const char *unit, size_t number, bool *stop);

/* Word of bytes, and of a vector's bits: to see whether ranks hold the same. */
uint64_t nf_ranks_digest(const void *bytes, size_t size);

#endif
