/* Config structs: settings that are not allowed, and the sizes of structs of other versions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/config.h"
#include "support.h"

START_TEST(realnvp_configs) {
    const struct {
        const char *says;
        nf_realnvp_config config;
    } cases[] = {
        {"dim is 0", {.dim = 0}},
        {"dim is", {.dim = SIZE_MAX}},
        {"precision is 3", {.dim = 2, .precision = (nf_precision)3}},
        {"activation is 6", {.dim = 2, .activation = (nf_activation)6}},
        {"activation is -1", {.dim = 2, .activation = (nf_activation)-1}},
        {"hidden_layers is 65", {.dim = 2, .hidden_layers = 65}},
        {"hidden_width is 0", {.dim = 2, .hidden_width = NF_NONE}},
        {"scale is 5", {.dim = 2, .scale = (nf_scale)5}},
        {"scale is -1", {.dim = 2, .scale = (nf_scale)-1}},
        {"mask is 3", {.dim = 2, .mask = (nf_mask)3}},
        {"scale_clamp is nan", {.dim = 2, .scale_clamp = NAN}},
        {"scale_clamp is -1", {.dim = 2, .scale_clamp = -1}},
        {"scale_clamp is inf", {.dim = 2, .scale_clamp = INFINITY}},
        {"clamp is 1e+300, beyond single", {.dim = 2, .scale_clamp = 1e300, .precision = NF_SINGLE}},
        {"reserved is 4", {.dim = 2, .reserved = 4}},
        {"nf_realnvp_create: ", {.dim = 2, .hidden_width = SIZE_MAX / 4}},
        {"nf_realnvp_create: ", {.dim = 2, .context_dim = SIZE_MAX}},
        {" columns of context and 128 hidden units has more parameters", {.dim = 2, .context_dim = SIZE_MAX / 2}},
    };
    nf_flow *flow;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nf_realnvp_config config = cases[i].config;
        config.struct_size = sizeof config;
        flow = (nf_flow *)(void *)&config;
        must_be(NF_ERR_ARGUMENT, nf_realnvp_create(&config, &flow));
        ck_assert_msg(strstr(nf_last_error(), cases[i].says) != NULL, "\"%s\" does not say %s", nf_last_error(), cases[i].says);
        must_say("nf_realnvp_create", "");
        ck_assert_ptr_null(flow);
    }
    must_be(NF_ERR_ARGUMENT, nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2), NULL));
    must_be(NF_ERR_ARGUMENT, nf_realnvp_create(NULL, &flow));
    must_say("nf_realnvp_create", "config is NULL");
}
END_TEST

/* One over the least clamp is beyond the numbers; a net that says 0 was then scaled by what is no number. */
START_TEST(the_least_clamp_is_one) {
    const double x[] = {0.385, -1.25};
    const nf_precision precision = _i % 2 ? NF_SINGLE : NF_DOUBLE;
    const double clamp = precision == NF_SINGLE ? 1e-44 : 1e-320;
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .precision = precision, .scale = _i < 2 ? NF_SCALE_TANH : NF_SCALE_SOFTCLIP, .scale_clamp = clamp), &flow));
    const size_t count = nf_parameter_count(flow);
    double *theta = calloc(count, sizeof *theta), log_prob, loss;
    nf_gradient *gradient;
    must(nf_set_parameters(flow, theta));
    must(nf_log_prob(flow, NULL, 1, x, NULL, &log_prob));
    ck_assert_double_eq_tol(log_prob, -log(2 * acos(-1)) - (x[0] * x[0] + x[1] * x[1]) / 2, 1e-6);
    must(nf_gradient_create(flow, &gradient));
    must(nf_grad_nll(flow, NULL, 1, x, NULL, NULL, gradient, &loss));
    must(nf_gradient_get(gradient, theta));
    for (size_t i = 0; i < count; i++)
        ck_assert(isfinite(theta[i]));
    free(theta);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
}
END_TEST

START_TEST(planar_and_radial_configs) {
    const struct {
        const char *says;
        nf_planar_config config;
    } cases[] = {
        {"dim is 0", {.dim = 0}},
        {"precision is 3", {.dim = 2, .precision = (nf_precision)3}},
        {"activation is 6", {.dim = 2, .activation = (nf_activation)6}},
        {"hidden_layers is 65", {.dim = 2, .context_dim = 1, .hidden_layers = 65}},
        {"hidden_width is 0", {.dim = 2, .context_dim = 1, .hidden_width = NF_NONE}},
        {"_create: ", {.dim = SIZE_MAX / 2}},
    };
    nf_flow *flow;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        nf_planar_config planar = cases[i].config;
        nf_radial_config radial;
        planar.struct_size = sizeof planar;
        memcpy(&radial, &planar, sizeof radial);
        flow = (nf_flow *)(void *)&planar;
        must_be(NF_ERR_ARGUMENT, nf_planar_create(&planar, &flow));
        must_say("nf_planar_create", "");
        ck_assert_ptr_null(flow);
        ck_assert_msg(strstr(nf_last_error(), cases[i].says) != NULL, "\"%s\" does not say %s", nf_last_error(), cases[i].says);
        must_be(NF_ERR_ARGUMENT, nf_radial_create(&radial, &flow));
        must_say("nf_radial_create", "");
    }
    must_be(NF_ERR_ARGUMENT, nf_planar_create(NULL, &flow));
    must_be(NF_ERR_ARGUMENT, nf_radial_create(NULL, &flow));
    must_be(NF_ERR_ARGUMENT, nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2), NULL));
    must_be(NF_ERR_ARGUMENT, nf_radial_create(NF_CONFIG(nf_radial_config, .dim = 2), NULL));
}
END_TEST

/* ---- sized structs ---- */

/* The flow and the data of calls that need them. */
static nf_flow *some_flow;
static const double some_x[] = {0.385, -1.25, 2.385, 0.785};

enum { ROWS = 2, DIM = 2 };

static nf_status zero_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    (void)x;
    memset(log_density, 0, rows * sizeof *log_density);
    memset(gradient, 0, rows * DIM * sizeof *gradient);
    return NF_OK;
}

static nf_status call_realnvp(const void *c, void *flow) { return nf_realnvp_create(c, flow); }
static nf_status call_planar(const void *c, void *flow) { return nf_planar_create(c, flow); }
static nf_status call_radial(const void *c, void *flow) { return nf_radial_create(c, flow); }
static nf_status call_mlp(const void *c, void *mlp) { return nf_mlp_create(c, mlp); }
static nf_status call_optimizer(const void *c, void *optimizer) { return nf_optimizer_create(some_flow, c, optimizer); }
static nf_status call_fit(const void *c, void *unused) {
    (void)unused;
    return nf_fit(some_flow, ROWS, some_x, NULL, c, NULL);
}
static nf_status call_fit_reverse_kl(const void *c, void *unused) {
    (void)unused;
    return nf_fit_reverse_kl(some_flow, zero_target, NULL, c, NULL);
}

/* A flow with dim 2 (or whatever the second member means) from a struct of each size around the right ones: `first` of the first version, `size` of today's. */
static void check_sizes(const char *function, nf_status (*call)(const void *, void *), void (*release)(void *), const void *config, size_t first,
                        size_t size) {
    unsigned char bytes[1024] = {0};
    void *handle = NULL;
    ck_assert_uint_lt(size + 64, sizeof bytes);
    memcpy(bytes, config, size);
    const size_t small[] = {0, 1, sizeof(size_t), first - 1, first - sizeof(void *)};
    const size_t large[] = {first, size, size + 1, size + 8, size + 64};
    for (size_t i = 0; i < 5; i++) {
        memcpy(bytes, &small[i], sizeof small[i]);
        must_be(NF_ERR_ARGUMENT, call(bytes, &handle));
        must_say(function, "struct_size");
        ck_assert_ptr_null(handle);
    }
    for (size_t i = 0; i < 5; i++) {
        memcpy(bytes, &large[i], sizeof large[i]);
        memset(bytes + large[i], 0xAA, sizeof bytes - large[i]); /* what is behind it is not the config's */
        must(call(bytes, &handle));
        memset(bytes + large[i], 0, sizeof bytes - large[i]);
        if (release)
            release(handle);
        handle = NULL;
        if (large[i] <= size)
            continue;
        bytes[large[i] - 1] = 1; /* what this library does not know */
        must_be(NF_ERR_UNSUPPORTED, call(bytes, &handle));
        must_say(function, "struct_size");
        ck_assert_ptr_null(handle);
        bytes[large[i] - 1] = 0;
    }
}

static void free_flow(void *flow) { nf_flow_free(flow); }
static void free_mlp(void *mlp) { nf_mlp_free(mlp); }
static void free_optimizer(void *optimizer) { nf_optimizer_free(optimizer); }

/* The initial radius is sqrt(dim), whose exponential is beyond the numbers in half a million dimensions. */
START_TEST(radial_flows_of_many_dimensions) {
    const size_t dims[] = {500000, 600000};
    for (size_t i = 0; i < 2; i++) {
        const size_t count = dims[i] + 2;
        nf_flow *flow;
        must(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = dims[i], .seed = 5), &flow));
        double *theta = malloc(count * sizeof *theta);
        ck_assert_ptr_nonnull(theta);
        ck_assert_uint_eq(nf_parameter_count(flow), count);
        must(nf_get_parameters(flow, theta));
        ck_assert_msg(fabs(theta[count - 2] - sqrt((double)dims[i])) < 1e-9, "alpha is %g", theta[count - 2]);
        must(nf_set_parameters(flow, theta));
        free(theta);
        nf_flow_free(flow);
    }
}
END_TEST

START_TEST(struct_sizes) {
    some_flow = make_realnvp(DIM, 0, NF_DOUBLE, NULL);
    const nf_realnvp_config realnvp = {.dim = 2, .couplings = 1};
    const nf_planar_config planar = {.dim = 2};
    const nf_radial_config radial = {.dim = 2};
    const nf_mlp_config mlp = {.inputs = 2, .outputs = 1};
    const nf_optimizer_config optimizer = {.learning_rate = 0.1};
    const nf_fit_config fit = {.epochs = 1};
    const nf_reverse_kl_config kl = {.steps = 1, .samples = 2, .evaluation_samples = NF_NONE};
    check_sizes("nf_realnvp_create", call_realnvp, free_flow, &realnvp, sizeof realnvp, sizeof realnvp);
    check_sizes("nf_planar_create", call_planar, free_flow, &planar, sizeof planar, sizeof planar);
    check_sizes("nf_radial_create", call_radial, free_flow, &radial, sizeof radial, sizeof radial);
    check_sizes("nf_mlp_create", call_mlp, free_mlp, &mlp, sizeof mlp, sizeof mlp);
    check_sizes("nf_optimizer_create", call_optimizer, free_optimizer, &optimizer, sizeof optimizer, sizeof optimizer);
    check_sizes("nf_fit", call_fit, NULL, &fit, offsetof(nf_fit_config, read), sizeof fit);
    check_sizes("nf_fit_reverse_kl", call_fit_reverse_kl, NULL, &kl, offsetof(nf_reverse_kl_config, comm), sizeof kl);
    nf_flow_free(some_flow);
}
END_TEST

/* Into a struct of a later version the library writes what it knows and no further. */
START_TEST(larger_structs_are_filled_as_far_as_known) {
    nf_workspace *ws;
    some_flow = make_realnvp(DIM, 0, NF_DOUBLE, NULL);
    must(nf_workspace_create(some_flow, 1, &ws));
    struct {
        nf_stats known;
        unsigned char later[32];
    } stats;
    struct {
        nf_tensor known;
        unsigned char later[32];
    } tensor;
    struct {
        nf_fit_report known;
        unsigned char later[32];
    } report;
    memset(&stats, 0xAA, sizeof stats);
    memset(&tensor, 0xAA, sizeof tensor);
    memset(&report, 0xAA, sizeof report);
    stats.known.struct_size = sizeof stats;
    tensor.known.struct_size = sizeof tensor;
    report.known.struct_size = sizeof report;
    must(nf_workspace_stats(ws, &stats.known));
    must(nf_tensor_info(some_flow, 0, &tensor.known));
    must(nf_fit(some_flow, ROWS, some_x, NULL, NF_CONFIG(nf_fit_config, .epochs = 1), &report.known));
    ck_assert(stats.known.struct_size == sizeof stats && stats.known.bad_rows == 0);
    ck_assert(tensor.known.struct_size == sizeof tensor && tensor.known.offset == 0);
    ck_assert(report.known.struct_size == sizeof report && report.known.epochs_run == 1);
    for (size_t i = 0; i < 32; i++)
        ck_assert(stats.later[i] == 0xAA && tensor.later[i] == 0xAA && report.later[i] == 0xAA);
    nf_workspace_free(ws);
    nf_flow_free(some_flow);
}
END_TEST

/* A program of the first version, whose struct ends there, gets so much and no more; one byte less is no version. */
START_TEST(structs_of_the_first_version_are_filled) {
    nf_workspace *ws;
    some_flow = make_realnvp(DIM, 0, NF_DOUBLE, NULL);
    must(nf_workspace_create(some_flow, 1, &ws));
    enum { FIT, KL, DIAGNOSE, STATS, TENSOR, STRUCTS };
    static const size_t first[STRUCTS] = {[FIT] = NF_SIZE_THROUGH(nf_fit_report, bad_rows),
                                          [KL] = NF_SIZE_THROUGH(nf_reverse_kl_report, reserved),
                                          [DIAGNOSE] = NF_SIZE_THROUGH(nf_diagnose_report, calibration_column),
                                          [STATS] = NF_SIZE_THROUGH(nf_stats, root_iterations),
                                          [TENSOR] = NF_SIZE_THROUGH(nf_tensor, offset)};
    for (int i = 0; i < STRUCTS; i++)
        for (size_t less = 0; less < 2; less++) {
            union {
                size_t struct_size;
                nf_fit_report fit;
                nf_reverse_kl_report kl;
                nf_diagnose_report diagnose;
                nf_stats stats;
                nf_tensor tensor;
                unsigned char bytes[1024];
            } to;
            nf_status status = NF_OK;
            memset(&to, 0xAA, sizeof to);
            to.struct_size = first[i] - less;
            if (i == FIT)
                status = nf_fit(some_flow, ROWS, some_x, NULL, NF_CONFIG(nf_fit_config, .epochs = 1), &to.fit);
            if (i == KL)
                status = nf_fit_reverse_kl(some_flow, zero_target, NULL, NF_CONFIG(nf_reverse_kl_config, .steps = 1, .samples = 2), &to.kl);
            if (i == DIAGNOSE)
                status = nf_diagnose(some_flow, 0, NULL, NULL, NF_CONFIG(nf_diagnose_config, .samples = 2, .exact_rows = 1), &to.diagnose);
            if (i == STATS)
                status = nf_workspace_stats(ws, &to.stats);
            if (i == TENSOR)
                status = nf_tensor_info(some_flow, 0, &to.tensor);
            ck_assert_int_eq(status, less ? NF_ERR_ARGUMENT : NF_OK);
            if (less)
                ck_assert_ptr_nonnull(strstr(nf_last_error(), "->struct_size is"));
            ck_assert_uint_eq(to.struct_size, first[i] - less);
            for (size_t k = less ? sizeof(size_t) : first[i]; k < sizeof to; k++)
                ck_assert_msg(to.bytes[k] == 0xAA, "struct %d: byte %zu of %zu is written", i, k, first[i]);
            if (!less && i == DIAGNOSE)
                ck_assert_uint_gt(nf_diagnose_text(&to.diagnose, NULL, 0), 0);
        }
    nf_workspace_free(ws);
    nf_flow_free(some_flow);
}
END_TEST

/* As it will be when a member has been appended: the older struct ends before it. */
START_TEST(a_struct_that_has_grown_is_cut) {
    struct grown {
        size_t struct_size, old, later;
    } from = {sizeof from, 11, 12}, to = {offsetof(struct grown, later), 1, 2};
    must(nf_check_room("f", "to", &to, offsetof(struct grown, later)));
    nf_write_struct(&to, &from, sizeof from);
    ck_assert(to.struct_size == offsetof(struct grown, later) && to.old == 11 && to.later == 2);
    to.struct_size--;
    must_be(NF_ERR_ARGUMENT, nf_check_room("f", "to", &to, offsetof(struct grown, later)));
    must_say("f", "to->struct_size is");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("configs");
    TCase *all = tcase_create("all");
    tcase_add_test(all, realnvp_configs);
    tcase_add_loop_test(all, the_least_clamp_is_one, 0, 4);
    tcase_add_test(all, planar_and_radial_configs);
    tcase_add_test(all, radial_flows_of_many_dimensions);
    tcase_add_test(all, struct_sizes);
    tcase_add_test(all, larger_structs_are_filled_as_far_as_known);
    tcase_add_test(all, structs_of_the_first_version_are_filled);
    tcase_add_test(all, a_struct_that_has_grown_is_cut);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
