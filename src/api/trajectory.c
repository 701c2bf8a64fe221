/* Where a continuous flow carries its samples on the way. */
#include "api/handles.h"

nf_status nf_cnf_trajectory(const nf_cnf *cnf, nf_workspace *ws, size_t rows, const double *z, const double *context, size_t times,
                            const double *t, double *path) {
    nf_clear_error();
    (void)context;
    nf_status status = nf_check_pointer(__func__, "cnf", cnf);
    if (status == NF_OK)
        status = nf_check_workspace(__func__, cnf, ws);
    if (status == NF_OK && rows > 0)
        status = nf_check_pointer(__func__, "z", z);
    if (status == NF_OK && times > 0)
        status = nf_check_pointer(__func__, "t", t);
    if (status == NF_OK && times > 0 && rows > 0)
        status = nf_check_pointer(__func__, "path", path);
    if (status != NF_OK)
        return status;
    if (cnf->model.layer_count != 1 || cnf->model.layers[0]->kind != NF_LAYER_CNF)
        return nf_fail(NF_ERR_ARGUMENT, __func__, "cnf is not a flow of one cnf layer");
    return nf_fail(NF_ERR_UNSUPPORTED, __func__, "this library integrates no trajectories");
}
