/* What the suites of fits on ranks share: five kinds of them on the same data, each rank with its part of the rows, and a task that says what is spoilt on which rank. */
#ifndef NF_TESTS_RANK_FITS_H
#define NF_TESTS_RANK_FITS_H

#include "rank_checks.h"

enum { ROWS = 1700, HELD_OUT = 300, COLUMNS = 2, MOST_PARAMETERS = 2000 };

enum kind { COUPLINGS, PLANAR, MATCHING, PAIRED, CONTINUOUS, KINDS };

nf_flow *flow_of(enum kind kind, uint64_t seed);

typedef struct data {
    double x[ROWS * COLUMNS], context[ROWS], weight[ROWS];
    double held_x[HELD_OUT * COLUMNS], held_context[HELD_OUT], held_weight[HELD_OUT];
} data;

data *new_data(void);

/* Who has which rows: as many each; the last one all; or some none, and the others anything. */
enum spread { EVEN, LAST_HAS_ALL, UNEVEN, SPREADS };

/* A fit, the same on all ranks but for what a test spoils on one of them. */
typedef struct task {
    const data *d;
    enum kind kind;
    enum spread spread;
    nf_fit_config config;
    bool weighted, held_out, by_callback, first_alone_weighs;
    uint64_t seed[MOST_RANKS]; /* of the flow that rank brings; all 0: 3 */
    const nf_allocator *allocator[MOST_RANKS];
    nf_fit_config *own[MOST_RANKS]; /* in place of config */
    nf_flow *flow[MOST_RANKS];      /* made beforehand; NULL: made here */
    size_t failing_read[MOST_RANKS], reads[MOST_RANKS];
    /* what comes out */
    double parameters[MOST_RANKS][MOST_PARAMETERS];
    nf_fit_report report[MOST_RANKS];
} task;

/* Small enough for a test, and more than one shard, not all full. */
task new_task(const data *d, enum kind kind);

/* A rank_body, of a task; on all rows where comm is NULL. */
nf_status fit_on(void *user, const nf_comm *comm, char line[LINE]);

/* The fit of one process without a comm. */
void fit_alone(task *t);

/* On so many ranks, with the bits of a fit that was done before. */
void fit_on_ranks(const task *wanted, const rank_options *options, enum spread spread);

size_t parameter_count(enum kind kind);
void same_fit(const task *t, int size, const task *wanted);

/* A fit that fails leaves every rank's flow as it was. */
void unchanged(const task *t, int size);

#endif
