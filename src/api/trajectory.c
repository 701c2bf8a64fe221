/* Where a continuous flow carries its samples on the way. */
#include <math.h>

#include "api/run.h"
#include "core/floating.h"

nf_status nf_check_instants(const char *function, double start, double end, size_t times, const double *t, bool *backward) {
    const double low = fmin(start, end), high = fmax(start, end);
    double direction = 0.0; /* of the first two that differ */
    for (size_t i = 0; i < times; i++) {
        if (!(t[i] >= low && t[i] <= high))
            return nf_fail(NF_ERR_ARGUMENT, function, "t[%zu] is %g, must be between %g and %g", i, t[i], low, high);
        const double step = i ? t[i] - t[i - 1] : 0.0;
        if (step * direction < 0.0)
            return nf_fail(NF_ERR_ARGUMENT, function, "t[%zu] is %g after %g: the instants are not monotone", i, t[i], t[i - 1]);
        direction = direction == 0.0 ? (double)(step > 0.0) - (double)(step < 0.0) : direction;
    }
    *backward = direction * (end - start) < 0.0;
    return NF_OK;
}

static nf_status check(const char *function, const nf_cnf *cnf, const nf_workspace *ws, size_t rows, const double *z, const double *context,
                       size_t times, const double *t, const double *path) {
    nf_status status = nf_check_evaluation(function, cnf, ws, rows, "z", z, context);
    if (status == NF_OK && times > 0)
        status = nf_check_pointer(function, "t", t);
    if (status == NF_OK && times > 0 && rows > 0)
        status = nf_check_pointer(function, "path", path);
    if (status != NF_OK)
        return status;
    if (cnf->model.layer_count != 1 || cnf->model.layers[0]->kind != NF_LAYER_CNF)
        return nf_fail(NF_ERR_ARGUMENT, function, "cnf is not a flow of one cnf layer");
    size_t size;
    if (!nf_size_multiply(times, rows, &size) || !nf_size_multiply(size, cnf->model.dim * sizeof *path, &size))
        return nf_fail(NF_ERR_ARGUMENT, function, "times is %zu, a path of which memory cannot hold", times);
    return NF_OK;
}

nf_status nf_cnf_trajectory(const nf_cnf *cnf, nf_workspace *given, size_t rows, const double *z, const double *context, size_t times,
                            const double *t, double *path) {
    NF_CALL;
    bool backward = false;
    nf_status status = check(__func__, cnf, given, rows, z, context, times, t, path);
    if (status == NF_OK) {
        const nf_layer *layer = cnf->model.layers[0];
        const double t0 = layer->cnf.t0, t1 = layer->cnf.t1;
        status = nf_check_instants(__func__, layer->inverted ? t1 : t0, layer->inverted ? t0 : t1, times, t, &backward);
    }
    if (status != NF_OK)
        return status;
    engine_job job = nf_job_of(cnf, rows, z, context, false);
    job.times = t;
    job.time_count = times;
    job.times_backward = backward;
    job.path = path;
    return nf_run_evaluation(__func__, cnf, given, &job, RUN_TRAJECTORY, "z");
}
