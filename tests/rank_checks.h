/* What suites ask of ranks: that all of them end alike, and each failure of one of them in turn. */
#ifndef NF_TESTS_RANK_CHECKS_H
#define NF_TESTS_RANK_CHECKS_H

#include "ranks.h"
#include "support.h"

/* Of how many ranks a suite asks for the same bits. */
enum { RANK_SIZES = 5 };
extern const int rank_sizes[RANK_SIZES];

/* All end with this status, and their lines have `text` in them, unless it is NULL. */
void all_are(const rank_result *results, int size, nf_status status, const char *text);

/*
 * The failures of one rank, one after the other: `body` is told by `prepare` what it works on, and whose memory rank 1 has; `check`, unless it is
 * NULL, sees what is left after each failure.
 */
typedef struct failing_body {
    rank_body body;
    void *task, *user;
    void (*prepare)(void *task, const nf_allocator *of_rank_1, void *user);
    void (*check)(const void *task);
} failing_body;

/* Each of at least `least` allocations. */
void fail_each_allocation(const failing_body *b, int without_exchange, size_t least);
/* Each of at least `least` operations of the communication, on one rank after the other. With kind 1 it is fast, with 2 of the first version. */
void fail_each_operation(const failing_body *b, int kind, size_t least);

/* One parameter, as on a rank whose arithmetic differs unseen. */
void move_a_little(nf_flow *flow);

#endif
