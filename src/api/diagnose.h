/*
 * A diagnosis on its way. The checks call the flow through a table, so that the tests can give them a flow whose log_det is wrong or whose sampler is biased and see it
 * caught.
 */
#ifndef NF_API_DIAGNOSE_H
#define NF_API_DIAGNOSE_H

#include "api/handles.h"
#include "core/philox.h"

typedef struct nf_diagnose_calls {
    nf_status (*forward)(const nf_flow *, nf_workspace *, size_t, const double *, const double *, double *, double *);
    nf_status (*inverse)(const nf_flow *, nf_workspace *, size_t, const double *, const double *, double *, double *);
    nf_status (*log_prob)(const nf_flow *, nf_workspace *, size_t, const double *, const double *, double *);
    nf_status (*sample)(const nf_flow *, nf_workspace *, nf_rng *, size_t, const double *, double *, double *);
    nf_status (*grad_nll)(const nf_flow *, nf_workspace *, size_t, const double *, const double *, const double *, nf_gradient *, double *);
    nf_status (*forward_vjp)(const nf_flow *, nf_workspace *, size_t, const double *, const double *, const double *, const double *, double *,
                             double *, nf_gradient *);
    nf_status (*inverse_vjp)(const nf_flow *, nf_workspace *, size_t, const double *, const double *, const double *, const double *, double *,
                             double *, nf_gradient *);
} nf_diagnose_calls;

#define NF_DIAGNOSIS_BLOCKS 32

typedef struct nf_diagnosis {
    const nf_diagnose_calls *calls;
    nf_diagnose_config config; /* with the defaults filled in */
    nf_allocator allocator;
    const nf_flow *flow;
    nf_flow *exact; /* in double, with tight solvers */
    nf_workspace *workspace, *exact_workspace;
    nf_gradient *gradient; /* of the exact flow */
    size_t dim, context_dim, parameters;
    bool continuous, has_data;

    size_t rows, exact_rows;        /* that are looked at: the first exact_rows of them by the checks of the maps */
    double *x, *context;            /* rows of them */
    size_t *row_of;                 /* where they stand in the caller's */
    nf_rng rng;                     /* of samples */
    nf_sequence random;             /* of directions */

    nf_status status;               /* the first failure, after which nothing is done */
    char line[NF_ERROR_LENGTH];     /* what it said: calls that succeed after it clear the thread's */
    void *blocks[NF_DIAGNOSIS_BLOCKS];
    size_t block_count;
    nf_diagnose_report report;
} nf_diagnosis;

/* Memory until nf_diagnosis_drop(d, mark) with the mark taken before, block_count; NULL after a failure. */
void *nf_diagnosis_take(nf_diagnosis *d, size_t count, size_t size);
double *nf_diagnosis_numbers(nf_diagnosis *d, size_t count);
void nf_diagnosis_drop(nf_diagnosis *d, size_t mark);
/* Whether to go on after a call: bad rows show in the numbers, other failures end the diagnosis. */
bool nf_diagnosis_did(nf_diagnosis *d, nf_status status);
/* Ends it with this status and the thread's line. */
void nf_diagnosis_end(nf_diagnosis *d, nf_status status);
nf_finding nf_finding_of_error(double value, double threshold);
nf_finding nf_finding_of_score(double value, double threshold); /* that must not be small */

/* diagnose_maps.c: the maps, their log_det and gradients. */
void nf_diagnose_maps(nf_diagnosis *d);
/* diagnose_distribution.c and its parts: the density and the sampler, by themselves and against data. */
void nf_diagnose_distribution(nf_diagnosis *d);
/* Lower triangular L with L L' = a (n x n, row-major), in place; rows that depend on others get a small pivot. */
void nf_cholesky(double *a, size_t n);

nf_status nf_diagnose_with(const nf_diagnose_calls *calls, const nf_flow *flow, size_t rows, const double *x, const double *context,
                           const nf_diagnose_config *config, nf_diagnose_report *report);

#endif
