/* Walking the rows of a call: tiles, lanes of work, threads, growing arenas. */
#ifndef NF_API_RUN_H
#define NF_API_RUN_H

#include "api/handles.h"

/* What is done with each tile. */
typedef enum run_action {
    RUN_STORE,          /* push, store */
    RUN_STORE_AND_PULL, /* push, store, pull */
    RUN_MATCH,          /* flow matching */
    RUN_TRAJECTORY,
    RUN_PULL            /* pull what is there: one tile a thread, pushed before */
} run_action;

typedef struct nf_run {
    const engine_job *job;
    nf_workspace *workspace;
    run_action action;
    size_t lanes;      /* of work: lane i does tiles i, i + lanes, ... in order, on thread i mod threads */
    size_t first_slot; /* lane i adds to gradient slot first_slot + i, modulo the slots */
    size_t slots;
    bool watched; /* the last tile of each looks whether it holds numbers alone */
    bool fresh;   /* the slots may hold anything: the first tile of each is all that it has then */
    bool gathers; /* all lanes, of one tile each and on one thread, add to the first slot in turn */
} nf_run;

/* Rows to be mapped, and nothing asked for yet. */
engine_job nf_job_of(const nf_flow *flow, size_t rows, const double *in, const double *context, bool inverse);

/* The workspace's statistics and bad rows start anew. */
void nf_run_begin(nf_workspace *workspace);
/* NF_OK, or NF_ERR_MEMORY when an arena cannot grow. Bad rows are gathered in the workspace, counted from `row`. */
nf_status nf_run_rows(const nf_run *run, size_t row);
/* NF_OK or NF_ERR_ROWS, with the line that tells about the first bad row. `input` is what the call names its rows. */
nf_status nf_run_end(const char *function, const nf_workspace *workspace, const engine_job *job, const char *input);

/* The caller's workspace, or a temporary one of one thread that nf_workspace_return frees. */
nf_status nf_workspace_borrow(const nf_flow *flow, nf_workspace *given, nf_workspace **workspace);
void nf_workspace_return(nf_workspace *given, nf_workspace *workspace);

/*
 * What the functions share that map rows: their checks (`name` NULL: no input), which clear the error, and the call itself. A job of no
 * rows is NF_OK.
 */
nf_status nf_check_evaluation(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name,
                              const double *input, const double *context);
nf_status nf_run_evaluation(const char *function, const nf_flow *flow, nf_workspace *ws, const engine_job *job, run_action action,
                            const char *input);
/* nf_log_prob of arguments that have been checked. */
nf_status nf_run_log_prob(const nf_flow *flow, nf_workspace *workspace, size_t rows, const double *x, const double *context, double *log_prob);

#endif
