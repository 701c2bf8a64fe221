/* The configs of continuous flows: what is refused, and what zeros mean. */
#include <math.h>

#include "support.h"

enum { DIM = 2 };

static size_t count_of(size_t dim, nf_dynamics dynamics, size_t layers, size_t width) {
    nf_cnf *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = dim, .dynamics = dynamics, .hidden_layers = layers, .hidden_width = width), &flow));
    const size_t count = nf_parameter_count(flow);
    nf_flow_free(flow);
    return count;
}

START_TEST(the_default_net_is_deep_where_its_trace_is_cheap) {
    for (size_t dim = 1; dim <= 4; dim++) {
        const size_t layers = dim <= 2 ? 4 : 2, width = dim <= 2 ? 24 : 64;
        ck_assert_uint_eq(count_of(dim, NF_DYNAMICS_MLP, 0, 0), count_of(dim, NF_DYNAMICS_MLP, layers, width));
        ck_assert_uint_eq(count_of(dim, NF_DYNAMICS_MLP, 3, 0), count_of(dim, NF_DYNAMICS_MLP, 3, width));
        ck_assert_uint_eq(count_of(dim, NF_DYNAMICS_HYPER, 0, 0), count_of(dim, NF_DYNAMICS_HYPER, 2, 32));
    }
}
END_TEST

/* What the header says that zeros mean, against a flow with all of it written out: the same file, byte by byte. */
START_TEST(defaults_are_those_of_the_header) {
    for (int i = 0; i < 2; i++) {
        const nf_dynamics dynamics = (nf_dynamics)i;
        const nf_trace trace = i ? NF_TRACE_EXACT : NF_TRACE_HUTCHINSON;
        nf_cnf *flows[2];
        void *bytes[2];
        size_t size[2];
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = dynamics, .trace = trace, .seed = 3), &flows[0]));
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = dynamics, .trace = trace, .seed = 3, .activation = NF_TANH, .method = NF_DOPRI5,
                                     .units = i ? 64 : 0, .t0 = 0, .t1 = 1, .rtol = 1e-7, .atol = 1e-9, .steps = 32, .max_steps = 10000, .probes = 1,
                                     .gradient = NF_ODE_DISCRETE),
                           &flows[1]));
        for (int k = 0; k < 2; k++)
            must(nf_flow_save_memory(flows[k], &bytes[k], &size[k]));
        ck_assert_uint_eq(size[0], size[1]);
        ck_assert_mem_eq(bytes[0], bytes[1], size[0]);
        for (int k = 0; k < 2; k++) {
            nf_free(bytes[k]);
            nf_flow_free(flows[k]);
        }
    }
}
END_TEST

/* Files do not tell it, and a flow that came back with another one was another density. */
START_TEST(the_net_of_hyper_dynamics_has_no_choice_of_activation) {
    const double x[] = {0.31, -1.27};
    for (int activation = NF_ACTIVATION_DEFAULT; activation <= NF_SOFTPLUS; activation++) {
        nf_cnf *flow, *again;
        void *bytes;
        size_t size;
        double before, after;
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = NF_DYNAMICS_HYPER, .activation = (nf_activation)activation, .seed = 3), &flow));
        must(nf_flow_save_memory(flow, &bytes, &size));
        must(nf_flow_load_memory(bytes, size, &again));
        must(nf_log_prob(flow, NULL, 1, x, NULL, &before));
        must(nf_log_prob(again, NULL, 1, x, NULL, &after));
        ck_assert_mem_eq(&before, &after, sizeof before);
        nf_free(bytes);
        nf_flow_free(again);
        nf_flow_free(flow);
    }
}
END_TEST

START_TEST(configs_are_checked) {
    nf_cnf *flow;
#define REFUSED(status, text, ...)                                                                                                        \
    do {                                                                                                                                  \
        must_be(status, nf_cnf_create(NF_CONFIG(nf_cnf_config, __VA_ARGS__), &flow));                                                     \
        ck_assert_ptr_null(flow);                                                                                                         \
        must_say("nf_cnf_create", text);                                                                                                  \
    } while (0)
    REFUSED(NF_ERR_ARGUMENT, "dim", .dim = 0);
    REFUSED(NF_ERR_ARGUMENT, "dynamics is 2", .dim = 2, .dynamics = (nf_dynamics)2);
    REFUSED(NF_ERR_ARGUMENT, "method is 7", .dim = 2, .method = (nf_ode_method)7);
    REFUSED(NF_ERR_ARGUMENT, "t0 = 1 and t1 = 1", .dim = 2, .t0 = 1, .t1 = 1);
    REFUSED(NF_ERR_ARGUMENT, "t1 = inf", .dim = 2, .t1 = INFINITY);
    REFUSED(NF_ERR_ARGUMENT, "further apart", .dim = 2, .t0 = -1e308, .t1 = 1e308);
    REFUSED(NF_ERR_ARGUMENT, "not both 0", .dim = 2, .rtol = -1, .atol = -1);
    REFUSED(NF_ERR_ARGUMENT, "smooth", .dim = 2, .activation = NF_RELU);
    REFUSED(NF_ERR_ARGUMENT, "trace is 3", .dim = 2, .trace = (nf_trace)3);
    REFUSED(NF_ERR_ARGUMENT, "gradient is 2", .dim = 2, .gradient = (nf_ode_gradient)2);
    REFUSED(NF_ERR_ARGUMENT, "probes is 0", .dim = 2, .trace = NF_TRACE_HUTCHINSON, .probes = NF_NONE);
    REFUSED(NF_ERR_ARGUMENT, "steps is 0", .dim = 2, .steps = NF_NONE);
    REFUSED(NF_ERR_ARGUMENT, "max_steps 0", .dim = 2, .max_steps = NF_NONE);
    REFUSED(NF_ERR_ARGUMENT, "must be at most", .dim = 2, .max_steps = SIZE_MAX - 1);
    REFUSED(NF_ERR_ARGUMENT, "must be at most", .dim = 2, .steps = SIZE_MAX / 2 + 1);
    REFUSED(NF_ERR_ARGUMENT, "must be at most", .dim = 2, .probes = SIZE_MAX / 2 + 1);
    REFUSED(NF_ERR_ARGUMENT, "kinetic = nan", .dim = 2, .kinetic = NAN);
    REFUSED(NF_ERR_ARGUMENT, "jacobian = -1", .dim = 2, .jacobian = -1);
    REFUSED(NF_ERR_ARGUMENT, "dim 2 and context ", .dim = 2, .context_dim = SIZE_MAX);
    REFUSED(NF_ERR_ARGUMENT, "kinetic is 1e+300, beyond single", .dim = 2, .kinetic = 1e300, .precision = NF_SINGLE);
    REFUSED(NF_ERR_ARGUMENT, "t1 is 1e+39, beyond single", .dim = 2, .t1 = 1e39, .precision = NF_SINGLE);
    REFUSED(NF_ERR_ARGUMENT, "shared_step is 2", .dim = 2, .shared_step = 2);
    REFUSED(NF_ERR_ARGUMENT, "reserved is 1", .dim = 2, .reserved = 1);
    REFUSED(NF_ERR_UNSUPPORTED, "no context", .dim = 2, .context_dim = 1, .dynamics = NF_DYNAMICS_HYPER);
}
END_TEST

START_TEST(solver_settings_are_checked_as_the_configs_are) {
    const double z[] = {0.31, -1.27};
    double before[2], after[2];
    nf_cnf *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .seed = 1), &flow));
    must(nf_forward(flow, NULL, 1, z, NULL, before, NULL));
#define REFUSED_SOLVER(text, ...)                                                                                                         \
    do {                                                                                                                                  \
        must_be(NF_ERR_ARGUMENT, nf_cnf_set_solver(flow, __VA_ARGS__));                                                                   \
        must_say("nf_cnf_set_solver", text);                                                                                              \
    } while (0)
    REFUSED_SOLVER("method is 7", (nf_ode_method)7, 0, 0, 0, 0);
    REFUSED_SOLVER("rtol = nan", NF_DOPRI5, NAN, 0, 0, 0);
    REFUSED_SOLVER("atol = inf", NF_DOPRI5, 0, INFINITY, 0, 0);
    REFUSED_SOLVER("not both 0", NF_DOPRI5, -1, -1, 0, 0);
    REFUSED_SOLVER("steps is 0", NF_RK4, 0, 0, NF_NONE, 0);
    REFUSED_SOLVER("max_steps 0", NF_DOPRI5, 0, 0, 0, NF_NONE);
    REFUSED_SOLVER("must be at most", NF_RK4, 0, 0, SIZE_MAX - 1, 0);
    REFUSED_SOLVER("must be at most", NF_DOPRI5, 0, 0, 0, SIZE_MAX - 1);
    must(nf_forward(flow, NULL, 1, z, NULL, after, NULL));
    ck_assert_mem_eq(before, after, sizeof before);
    nf_flow_free(flow);
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .seed = 1, .precision = NF_SINGLE), &flow));
    REFUSED_SOLVER("rtol is 1e+39, beyond single", NF_DOPRI5, 1e39, 0, 0, 0); /* a file of it could not be loaded */
    REFUSED_SOLVER("atol is 1e+39, beyond single", NF_DOPRI5, 0, 1e39, 0, 0);
    must(nf_cnf_set_solver(flow, NF_DOPRI5, 1e38, 1e38, 0, 0));
    nf_flow_free(flow);
}
END_TEST

/* Products of them with widths and dimensions once wrapped to little memory that was written beyond. */
START_TEST(probes_are_no_more_than_can_be_counted) {
    const size_t most = SIZE_MAX / 2 + 1, counts[] = {most >> 5, most >> 4, most >> 2, most >> 1, (most >> 1) + 1, most - 1, SIZE_MAX / 3, SIZE_MAX / 5};
    nf_cnf *flow;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t dim = 1; dim < 5; dim++)
            for (size_t deep = 0; deep < 2; deep++) {
                must_be(NF_ERR_ARGUMENT, nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = dim, .hidden_layers = deep ? 3 : 1, .hidden_width = 1,
                                                                 .trace = deep ? NF_TRACE_HUTCHINSON_NORMAL : NF_TRACE_HUTCHINSON, .probes = counts[i]),
                                                       &flow));
                must_say("nf_cnf_create", "probes is ");
                must_say("nf_cnf_create", "more than memory can hold");
            }
    /* What is not used is not asked for. */
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .probes = most - 1), &flow));
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("configs of cnf");
    TCase *c = tcase_create("configs of cnf");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, the_default_net_is_deep_where_its_trace_is_cheap);
    tcase_add_test(c, defaults_are_those_of_the_header);
    tcase_add_test(c, the_net_of_hyper_dynamics_has_no_choice_of_activation);
    tcase_add_test(c, configs_are_checked);
    tcase_add_test(c, solver_settings_are_checked_as_the_configs_are);
    tcase_add_test(c, probes_are_no_more_than_can_be_counted);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
