/*
 * Fuzz target: any bytes as a model file. What loads is a flow like any other: it saves to bytes that load to the same bytes, and it can be evaluated.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model_mutator.h"
#include "nflow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 3, MOST_DIM = 64, MOST_PARAMETERS = 5000 };

/* Numbers that many files share are enough to walk through every layer once. */
static void evaluate(nf_flow *flow) {
    const size_t dim = nf_flow_dim(flow), context_dim = nf_flow_context_dim(flow);
    if (dim > MOST_DIM || context_dim > MOST_DIM || nf_parameter_count(flow) > MOST_PARAMETERS || nf_flow_layer_count(flow) > 32)
        return;
    double x[ROWS * MOST_DIM], z[ROWS * MOST_DIM], context[ROWS * MOST_DIM], log_det[ROWS];
    for (size_t i = 0; i < ROWS * MOST_DIM; i++) {
        x[i] = 0.385 * (double)(i % 7) - 1;
        context[i] = 0.5 - 0.25 * (double)(i % 5);
    }
    nf_cnf_set_solver(flow, NF_EULER, 0, 0, 2, 4); /* refused by flows without such layers */
    nf_inverse(flow, NULL, ROWS, x, context_dim ? context : NULL, z, log_det);
    nf_forward(flow, NULL, ROWS, x, context_dim ? context : NULL, z, log_det);
}

static void save_again(const nf_flow *flow) {
    void *bytes = NULL, *again = NULL;
    size_t size = 0, again_size = 0;
    nf_flow *copy = NULL;
    if (nf_flow_save_memory(flow, &bytes, &size) != NF_OK || nf_flow_load_memory(bytes, size, &copy) != NF_OK ||
        nf_flow_save_memory(copy, &again, &again_size) != NF_OK || size != again_size || memcmp(bytes, again, size) != 0)
        abort();
    nf_free(bytes);
    nf_free(again);
    nf_flow_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nf_flow *flow = NULL;
    /* A block of its own, so that a read past its end is seen; and never NULL, which is another error. */
    uint8_t *bytes = malloc(size + (size == 0));
    if (!bytes)
        return 0;
    if (size)
        memcpy(bytes, data, size);
    const nf_status status = nf_flow_load_memory(bytes, size, &flow);
    if ((status == NF_OK) != (flow != NULL) || (status != NF_OK && status != NF_ERR_FORMAT && status != NF_ERR_UNSUPPORTED && status != NF_ERR_MEMORY) ||
        (status != NF_OK) != (*nf_last_error() != '\0'))
        abort();
    if (flow) {
        save_again(flow);
        evaluate(flow);
    }
    nf_flow_free(flow);
    free(bytes);
    return 0;
}
