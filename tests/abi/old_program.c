/* A program of the first release: built against its header, which stands beside it, and run with the library of today. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "nflow.h"

enum { ROWS = 200, DIM = 2 };

static int epochs;

static int watch(void *user, const nf_fit_progress *progress) {
    ++*(int *)user;
    return progress->epoch == 3;
}

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            printf("line %d: %s (%s)\n", __LINE__, #condition, nf_last_error());      \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

int main(void) {
    static double x[ROWS * DIM], z[ROWS * DIM], log_prob[ROWS];
    struct { /* what lies behind the caller's structs stays as it is */
        nf_fit_report report;
        unsigned char guard[64];
    } fitted = {.report = {.struct_size = sizeof fitted.report}};
    struct {
        nf_stats stats;
        unsigned char guard[64];
    } worked = {.stats = {.struct_size = sizeof worked.stats}};
    nf_realnvp *flow;
    nf_flow *loaded;
    nf_workspace *ws;
    nf_rng rng = {1, 2, 0};
    void *bytes;
    size_t size;
    for (int i = 0; i < ROWS * DIM; i++)
        x[i] = sin(2.385 * i) * (1 + i % DIM) + 3;
    CHECK(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .seed = 7, .hidden_width = 8), &flow) == NF_OK);
    CHECK(nf_fit(flow, ROWS, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 5, .progress = watch, .progress_user = &epochs), &fitted.report) == NF_STOPPED);
    CHECK(epochs == 3 && fitted.report.epochs_run == 3 && fitted.report.struct_size == sizeof fitted.report);
    CHECK(nf_workspace_create(flow, 2, &ws) == NF_OK);
    CHECK(nf_log_prob(flow, ws, ROWS, x, NULL, log_prob) == NF_OK);
    CHECK(nf_workspace_stats(ws, &worked.stats) == NF_OK);
    for (size_t i = 0; i < sizeof fitted.guard; i++)
        CHECK(fitted.guard[i] == 0 && worked.guard[i] == 0);
    CHECK(nf_sample(flow, ws, &rng, ROWS, NULL, z, log_prob) == NF_OK && rng.position == ROWS && isfinite(z[0]));
    CHECK(nf_flow_save_memory(flow, &bytes, &size) == NF_OK && nf_flow_load_memory(bytes, size, &loaded) == NF_OK);
    CHECK(nf_flow_dim(loaded) == DIM && nf_parameter_count(loaded) == nf_parameter_count(flow));
    nf_free(bytes);
    nf_workspace_free(ws);
    nf_flow_free(loaded);
    nf_flow_free(flow);
    return 0;
}
