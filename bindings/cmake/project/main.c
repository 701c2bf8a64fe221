#include <math.h>
#include <nflow.h>

int main(void) {
    nf_realnvp *flow;
    const double x[2] = {.5, -.25};
    double log_prob = NAN;
    if (nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .seed = 7), &flow) != NF_OK)
        return 1;
    const nf_status status = nf_log_prob(flow, NULL, 1, x, NULL, &log_prob);
    nf_flow_free(flow);
    return status != NF_OK || !isfinite(log_prob);
}
