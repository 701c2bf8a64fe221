/* forward, inverse, log_prob, sample, score. */
#include <stdint.h>
#include <string.h>

#include "api/run.h"
#include "core/philox.h"

/* The checks that all share. `input` may be NULL for functions that take none. */
static nf_status check(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name,
                       const double *input, const double *context) {
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status == NF_OK)
        status = nf_check_workspace(function, flow, ws);
    if (status == NF_OK && name && rows > 0)
        status = nf_check_pointer(function, name, input);
    if (status != NF_OK)
        return status;
    size_t total;
    if (!nf_size_multiply(rows, flow->model.dim * sizeof(double), &total))
        return nf_fail(NF_ERR_ARGUMENT, function, "rows is %zu, which is more than memory can hold", rows);
    if (flow->model.context_dim == 0 && context)
        return nf_fail(NF_ERR_ARGUMENT, function, "context is not NULL, and the flow takes none");
    if (flow->model.context_dim != 0 && rows > 0 && !context)
        return nf_fail(NF_ERR_ARGUMENT, function, "context is NULL, and the flow takes %zu columns", flow->model.context_dim);
    return NF_OK;
}

static engine_job job_of(const nf_flow *flow, size_t rows, const double *in, const double *context, bool inverse) {
    return (engine_job){.model = &flow->model,
                        .theta = flow->theta,
                        .epoch = flow->epoch,
                        .inverse = inverse,
                        .in = in,
                        .context = context,
                        .rows = rows};
}

static nf_status evaluate(const char *function, const nf_flow *flow, nf_workspace *given, const engine_job *job, const char *input) {
    if (job->rows == 0) {
        if (given)
            nf_run_begin(given);
        return NF_OK;
    }
    nf_workspace *ws;
    nf_status status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    nf_run_begin(ws);
    const nf_run run = {.function = function,
                        .job = job,
                        .workspace = ws,
                        .action = job->record ? RUN_STORE_AND_PULL : RUN_STORE,
                        .lanes = nf_evaluation_lanes(ws, job->rows)};
    status = nf_run_rows(&run, 0);
    if (status != NF_OK)
        nf_fail_in(status, function);
    else
        status = nf_run_end(function, ws, job, input);
    nf_workspace_return(given, ws);
    return status;
}

nf_status nf_forward(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *z, const double *context, double *x,
                     double *log_det) {
    nf_status status = check(__func__, flow, ws, rows, "z", z, context);
    if (status != NF_OK)
        return status;
    engine_job job = job_of(flow, rows, z, context, false);
    job.out = x;
    job.log_det = log_det;
    return evaluate(__func__, flow, ws, &job, "z");
}

nf_status nf_inverse(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *z,
                     double *log_det) {
    nf_status status = check(__func__, flow, ws, rows, "x", x, context);
    if (status != NF_OK)
        return status;
    engine_job job = job_of(flow, rows, x, context, true);
    job.out = z;
    job.log_det = log_det;
    return evaluate(__func__, flow, ws, &job, "x");
}

nf_status nf_log_prob(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob) {
    nf_status status = check(__func__, flow, ws, rows, "x", x, context);
    if (status != NF_OK)
        return status;
    engine_job job = job_of(flow, rows, x, context, true);
    job.log_prob = log_prob;
    return evaluate(__func__, flow, ws, &job, "x");
}

nf_status nf_run_log_prob(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob) {
    engine_job job = job_of(flow, rows, x, context, true);
    job.log_prob = log_prob;
    return evaluate(NULL, flow, ws, &job, "x");
}

nf_status nf_sample(const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *context, double *x,
                    double *log_prob) {
    nf_status status = check(__func__, flow, ws, rows, NULL, NULL, context);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "rng", rng);
    if (status != NF_OK)
        return status;
    engine_job job = job_of(flow, rows, NULL, context, false);
    job.out = x;
    job.log_prob = log_prob;
    nf_philox_key(rng->seed, rng->stream, job.key);
    job.position = rng->position;
    status = evaluate(__func__, flow, ws, &job, "z");
    if (status == NF_OK || status == NF_ERR_ROWS)
        rng->position += rows;
    return status;
}

nf_status nf_score(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob,
                   double *score) {
    nf_status status = check(__func__, flow, ws, rows, "x", x, context);
    if (status != NF_OK)
        return status;
    engine_job job = job_of(flow, rows, x, context, true);
    job.log_prob = log_prob;
    job.grad_in = score;
    job.record = true;
    job.density = true;
    job.scale = 1.0;
    return evaluate(__func__, flow, ws, &job, "x");
}
