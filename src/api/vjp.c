/* The two vjps of a flow. */
#include "api/differentiate.h"
#include "core/floating.h"

static nf_status vjp(const char *function, const nf_flow *flow, nf_workspace *given, engine_job *job, nf_gradient *gradient,
                     const char *input) {
    nf_workspace *ws;
    nf_status status = nf_workspace_borrow(flow, given, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    engine_sum total;
    bool gathered;
    status = nf_differentiate(flow, ws, job, RUN_STORE_AND_PULL, gradient, &total, &gathered);
    if (status != NF_OK) {
        nf_fail_in(status, function);
    } else {
        if (gradient)
            nf_commit_slots(gradient, ws, nf_slots_of(flow, job->rows), gathered, 1.0);
        status = nf_run_end(function, ws, job, input);
    }
    nf_workspace_return(given, ws);
    return status;
}

static nf_status check_vjp(const char *function, const nf_flow *flow, const nf_workspace *ws, size_t rows, const char *name,
                           const double *in, const double *context, const nf_gradient *gradient) {
    nf_status status = nf_check_differentiation(function, flow, ws, rows, name, in, context);
    if (status == NF_OK && gradient)
        status = nf_check_gradient(function, flow, gradient);
    return status;
}

nf_status nf_forward_vjp(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *z, const double *context,
                         const double *grad_x, const double *grad_log_det, double *grad_z, double *grad_context, nf_gradient *gradient) {
    NF_CALL;
    nf_status status = check_vjp(__func__, flow, ws, rows, "z", z, context, gradient);
    if (status != NF_OK)
        return status;
    engine_job job = nf_differentiable_job(flow, rows, z, context, false, gradient);
    job.grad_out = grad_x;
    job.grad_log_det = grad_log_det;
    job.grad_in = grad_z;
    job.grad_context = grad_context;
    return vjp(__func__, flow, ws, &job, gradient, "z");
}

nf_status nf_inverse_vjp(const nf_flow *flow, nf_workspace *ws, size_t rows, const double *x, const double *context,
                         const double *grad_z, const double *grad_log_det, double *grad_x, double *grad_context, nf_gradient *gradient) {
    NF_CALL;
    nf_status status = check_vjp(__func__, flow, ws, rows, "x", x, context, gradient);
    if (status != NF_OK)
        return status;
    engine_job job = nf_differentiable_job(flow, rows, x, context, true, gradient);
    job.grad_out = grad_z;
    job.grad_log_det = grad_log_det;
    job.grad_in = grad_x;
    job.grad_context = grad_context;
    return vjp(__func__, flow, ws, &job, gradient, "x");
}
