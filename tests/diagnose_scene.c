#include "diagnose_scene.h"

const nf_diagnose_calls sound = {.forward = nf_forward,
                                 .inverse = nf_inverse,
                                 .log_prob = nf_log_prob,
                                 .sample = nf_sample,
                                 .grad_nll = nf_grad_nll,
                                 .forward_vjp = nf_forward_vjp,
                                 .inverse_vjp = nf_inverse_vjp};

nf_diagnose_report diagnose(const nf_diagnose_calls *calls, const nf_flow *flow, size_t rows, const double *x, const double *context,
                            const nf_diagnose_config *config) {
    nf_diagnose_report report = {.struct_size = sizeof report};
    must(nf_diagnose_with(calls, flow, rows, x, context, config, &report));
    return report;
}

void must_pass(const char *what, const nf_diagnose_report *report) {
    char text[4096];
    nf_diagnose_text(report, text, sizeof text);
    ck_assert_msg(report->failed == 0, "%s fails (seed %llu):\n%s", what, (unsigned long long)test_seed(), text);
}

void must_fail(const char *what, const nf_diagnose_report *report, const nf_finding *f) {
    char text[4096];
    nf_diagnose_text(report, text, sizeof text);
    ck_assert_msg(f->verdict == NF_FAILED && report->failed > 0, "%s is not caught:\n%s", what, text);
}

nf_flow *trained_like(nf_precision precision) {
    random_source random = random_begin(3);
    nf_flow *flow = make_realnvp(DIM, 0, precision, NULL);
    randomize(flow, &random, 0.185);
    return flow;
}

double *drawn_rows(const nf_flow *flow, size_t rows) {
    double *x = new_numbers(rows * nf_flow_dim(flow));
    nf_rng rng = {99, 3, 0};
    must(nf_sample(flow, NULL, &rng, rows, NULL, x, NULL));
    return x;
}
