/* forward, inverse, log_prob, sample, score. */
#include "api/run.h"
#include "core/philox.h"

nf_status nf_check_evaluation(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name,
                              const double *input, const double *context) {
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status == NF_OK)
        status = nf_check_workspace(function, flow, ws);
    if (status == NF_OK && name && rows > 0)
        status = nf_check_pointer(function, name, input);
    if (status != NF_OK)
        return status;
    status = nf_check_rows(function, "rows", flow, rows);
    if (status == NF_OK && (rows > 0 || context))
        status = nf_check_context(function, "context", flow, context);
    return status;
}

/* Lanes of work: as many as threads can be used on so many rows. */
static size_t evaluation_lanes(const nf_workspace *ws, size_t rows) {
    const size_t tiles = nf_tiles_of(rows, ws->engine->tile_rows);
    return tiles < ws->thread_count ? tiles : ws->thread_count;
}

nf_status nf_run_evaluation(const char *function, const nf_flow *flow, nf_workspace *given, const engine_job *job, run_action action,
                            const char *input) {
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
    const nf_run run = {.job = job,
                        .workspace = ws,
                        .action = action,
                        .lanes = evaluation_lanes(ws, job->rows)};
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
    nf_status status = nf_check_evaluation(__func__, flow, ws, rows, "z", z, context);
    if (status != NF_OK)
        return status;
    engine_job job = nf_job_of(flow, rows, z, context, false);
    job.out = x;
    job.log_det = log_det;
    return nf_run_evaluation(__func__, flow, ws, &job, RUN_STORE, "z");
}

nf_status nf_inverse(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *z,
                     double *log_det) {
    nf_status status = nf_check_evaluation(__func__, flow, ws, rows, "x", x, context);
    if (status != NF_OK)
        return status;
    engine_job job = nf_job_of(flow, rows, x, context, true);
    job.out = z;
    job.log_det = log_det;
    return nf_run_evaluation(__func__, flow, ws, &job, RUN_STORE, "x");
}

nf_status nf_log_prob(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob) {
    nf_status status = nf_check_evaluation(__func__, flow, ws, rows, "x", x, context);
    if (status != NF_OK)
        return status;
    engine_job job = nf_job_of(flow, rows, x, context, true);
    job.log_prob = log_prob;
    job.density = true; /* also when nobody wants the number, the status is about it */
    return nf_run_evaluation(__func__, flow, ws, &job, RUN_STORE, "x");
}

nf_status nf_run_log_prob(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob) {
    engine_job job = nf_job_of(flow, rows, x, context, true);
    job.log_prob = log_prob;
    return nf_run_evaluation(NULL, flow, ws, &job, RUN_STORE, "x");
}

nf_status nf_sample(const nf_flow *flow, nf_workspace *ws, nf_rng *rng, size_t rows, const double *context, double *x,
                    double *log_prob) {
    nf_status status = nf_check_evaluation(__func__, flow, ws, rows, NULL, NULL, context);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "rng", rng);
    if (status != NF_OK)
        return status;
    engine_job job = nf_job_of(flow, rows, NULL, context, false);
    job.out = x;
    job.log_prob = log_prob;
    nf_philox_key(rng->seed, rng->stream, job.key);
    job.position = rng->position;
    status = nf_run_evaluation(__func__, flow, ws, &job, RUN_STORE, "z");
    if (status == NF_OK || status == NF_ERR_ROWS)
        rng->position += rows;
    return status;
}

nf_status nf_score(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context, double *log_prob,
                   double *score) {
    nf_status status = nf_check_evaluation(__func__, flow, ws, rows, "x", x, context);
    if (status != NF_OK)
        return status;
    engine_job job = nf_job_of(flow, rows, x, context, true);
    job.log_prob = log_prob;
    job.grad_in = score;
    job.record = true;
    job.density = true;
    job.scale = 1.0;
    return nf_run_evaluation(__func__, flow, ws, &job, RUN_STORE_AND_PULL, "x");
}
