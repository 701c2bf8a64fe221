/*
 * What the fragments of the pages stand in when `make check-docs` runs them: one program a page, each fragment in braces of its own after the one
 * before it. Blocks that begin with "static" go where it says "file scope".
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nflow.h>

enum { ROWS = 400, NEW = 100 };

static void require(nf_status status) {
    if (status == NF_OK)
        return;
    fprintf(stderr, "%s: %s\n", nf_status_name(status), nf_last_error());
    exit(1);
}

/* file scope */

int main(void) {
    static double x[2 * ROWS], samples[2 * NEW], log_prob[ROWS];
    nf_flow *normal, *flow;
    nf_rng rng = {.seed = 1};
    require(nf_flow_create(2, 0, NF_DOUBLE, &normal));
    require(nf_sample(normal, NULL, &rng, ROWS, NULL, x, NULL));
    for (int i = 0; i < ROWS; i++)
        x[2 * i + 1] = 0.5 * x[2 * i + 1] + x[2 * i] * x[2 * i];
    nf_flow_free(normal);
    require(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 4, .hidden_width = 16, .precision = NF_SINGLE), &flow));
    require(nf_fit(flow, ROWS, x, NULL, NF_CONFIG(nf_fit_config, .epochs = 10), NULL));
    (void)samples;
    (void)log_prob;

    /* fragments */

    nf_flow_free(flow);
    return 0;
}
