/*
 * Ranks in one process: a thread each, and an nf_comm between them. A rank that breaks off takes the others out of their waiting, as a cluster's manager would.
 */
#ifndef NF_TESTS_RANKS_H
#define NF_TESTS_RANKS_H

#include <stdbool.h>

#include "nflow.h"

enum { MOST_RANKS = 8, LINE = 600 };

typedef struct rank_options {
    int size;
    bool first_version; /* a table that ends after `barrier` */
    bool no_exchange;
    bool fast;
    size_t shards;
    int failing_rank;  /* whose operation number failing_call (from 1; 0: none) fails */
    size_t failing_call;
} rank_options;

typedef struct rank_result {
    nf_status status;
    char line[LINE];
    size_t calls;  /* of operations */
    size_t numbers; /* doubles that this rank sends to others, with rings for gathers and sums */
} rank_result;

/* What a rank does; `line` takes its last error. */
typedef nf_status (*rank_body)(void *user, const nf_comm *comm, char line[LINE]);

/* body on each rank; results: options->size of them. False when the ranks did not make the same calls. */
bool run_ranks(const rank_options *options, rank_body body, void *user, rank_result *results);

#endif
