/*
 * What a call leaves to its host: the floating-point mode, its flags, errno and the thread's locale, whatever the call is given. Calls with arguments of all kinds, good ones and numbers that are only
 * to be refused: they raise no flag, also where the host traps it, and change no errno. And what is the caller's own runs in the caller's mode, allocators too, and
 * what it raises stays raised.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <xmmintrin.h>
#endif

#include "support.h"

enum { ROWS = 10, DIM = 2, MOST = 500 };

#define TINY 5e-324 /* a denormal */

/* Beside those of C there is, on x86, one for operands that are denormals, which Fortran's compilers can trap. */
static void clear_flags(void) {
    feclearexcept(FE_ALL_EXCEPT);
#ifdef __x86_64__
    _mm_setcsr(_mm_getcsr() & ~(unsigned)_MM_EXCEPT_DENORM);
#endif
}

static int raised_flags(void) {
    int flags = fetestexcept(FE_ALL_EXCEPT);
#ifdef __x86_64__
    flags |= (int)(_mm_getcsr() & _MM_EXCEPT_DENORM);
#endif
    return flags;
}

typedef struct work {
    nf_flow *flow, *cnf, *affine;
    nf_gradient *gradient, *cnf_gradient;
    nf_optimizer *optimizer;
    nf_mlp *mlp;
    nf_rng rng;
    double x[ROWS * DIM], out[3 * ROWS * DIM], parameters[MOST], weight[ROWS], t[3];
} work;

static nf_status flat_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    (void)x;
    memset(log_density, 0, rows * sizeof *log_density);
    memset(gradient, 0, rows * DIM * sizeof *gradient);
    return NF_OK;
}

static nf_status still(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    (void)user;
    (void)row;
    (void)t;
    (void)y;
    memset(dydt, 0, count * sizeof *dydt);
    return NF_OK;
}

static void open_work(work *w) {
    random_source random = random_begin(31);
    memset(w, 0, sizeof *w);
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_width = 4, .seed = 1), &w->flow));
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_layers = 1, .hidden_width = 3, .seed = 2), &w->cnf));
    must(nf_affine_create(DIM, NF_DOUBLE, &w->affine));
    must(nf_gradient_create(w->flow, &w->gradient));
    must(nf_gradient_create(w->cnf, &w->cnf_gradient));
    must(nf_optimizer_create(w->flow, NULL, &w->optimizer));
    must(nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 1, .outputs = 1, .hidden_width = 3), &w->mlp));
    ck_assert_uint_le(nf_parameter_count(w->flow), MOST);
    must(nf_get_parameters(w->flow, w->parameters));
    w->rng = (nf_rng){1, 2, 3};
    for (size_t i = 0; i < ROWS * DIM; i++)
        w->x[i] = random_normal(&random);
    for (size_t i = 0; i < ROWS; i++)
        w->weight[i] = 0.1 + 0.3 * (double)i;
    w->t[1] = 0.3;
    w->t[2] = 1;
}

static void close_work(work *w) {
    nf_mlp_free(w->mlp);
    nf_optimizer_free(w->optimizer);
    nf_gradient_free(w->cnf_gradient);
    nf_gradient_free(w->gradient);
    nf_flow_free(w->affine);
    nf_flow_free(w->cnf);
    nf_flow_free(w->flow);
}

static nf_status freed(nf_flow *flow, nf_status status) {
    nf_flow_free(flow);
    return status;
}

static nf_status make_cnf(nf_cnf_config config) {
    nf_flow *flow = NULL;
    config.struct_size = sizeof config;
    config.dim = DIM;
    const nf_status status = nf_cnf_create(&config, &flow);
    return freed(flow, status);
}

static nf_status make_realnvp_of_scale(double scale) {
    nf_flow *flow = NULL;
    const nf_status status = nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .scale_clamp = scale), &flow);
    return freed(flow, status);
}

static nf_status make_net_of_scale(double scale) {
    nf_mlp *net = NULL;
    const nf_status status = nf_mlp_create(NF_CONFIG(nf_mlp_config, .inputs = 1, .outputs = 1, .output_scale = scale), &net);
    nf_mlp_free(net);
    return status;
}

static nf_status make_optimizer(const work *w, nf_optimizer_config config) {
    nf_optimizer *optimizer = NULL;
    config.struct_size = sizeof config;
    const nf_status status = nf_optimizer_create(w->flow, &config, &optimizer);
    nf_optimizer_free(optimizer);
    return status;
}

static nf_status fit(work *w, nf_fit_config config) {
    config.struct_size = sizeof config;
    config.epochs = config.epochs ? config.epochs : 2;
    return nf_fit(w->flow, ROWS, w->x, NULL, &config, NULL);
}

static nf_status fit_kl(work *w, nf_reverse_kl_config config) {
    config.struct_size = sizeof config;
    config.steps = 3;
    config.samples = 10;
    config.evaluation_samples = 100;
    return nf_fit_reverse_kl(w->flow, flat_target, NULL, &config, NULL);
}

static nf_status solve(work *w, double t0, double t1, size_t times, nf_ode_config config) {
    config.struct_size = sizeof config;
    return nf_ode_solve(&config, 1, 1, still, NULL, t0, t1, w->x, times, w->t, w->out, NULL);
}

static nf_status diagnose(work *w, nf_diagnose_config config) {
    nf_diagnose_report report = {.struct_size = sizeof report};
    config.struct_size = sizeof config;
    config.samples = 100;
    config.permutations = 19;
    return nf_diagnose(w->flow, ROWS, w->x, NULL, &config, &report);
}

static nf_status save_and_load(const nf_flow *flow) {
    void *bytes;
    size_t size;
    nf_flow *loaded = NULL;
    nf_status status = nf_flow_save_memory(flow, &bytes, &size);
    if (status == NF_OK)
        status = nf_flow_load_memory(bytes, size, &loaded);
    nf_free(bytes);
    return freed(loaded, status);
}

static nf_status convert(const nf_flow *flow) {
    nf_flow *single = NULL;
    const nf_status status = nf_flow_convert(flow, NF_SINGLE, &single);
    return freed(single, status);
}

/* All ways to copy the settings of a layer, with a tolerance below the normal numbers. */
static nf_status copy_tiny_settings(void) {
    nf_flow *flow = NULL, *clone = NULL;
    nf_status status = nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_layers = 1, .hidden_width = 3, .atol = TINY), &flow);
    if (status == NF_OK)
        status = nf_flow_clone(flow, &clone);
    if (status == NF_OK)
        status = nf_flow_append(flow, clone);
    if (status == NF_OK)
        status = nf_flow_invert(flow);
    if (status == NF_OK)
        status = convert(flow);
    return freed(flow, status);
}

static nf_status write_tiny_report(void) {
    char text[2000];
    const nf_diagnose_report report = {.struct_size = sizeof report, .round_trip = {.verdict = NF_PASSED, .value = TINY, .threshold = TINY}};
    return nf_diagnose_text(&report, text, sizeof text) < sizeof text ? NF_OK : NF_ERR_MEMORY;
}

/* As many as it takes for a power of beta1 to underflow. */
static nf_status take_many_steps(const work *w) {
    nf_status status = NF_OK;
    for (int i = 0; i < 8000 && status == NF_OK; i++)
        status = nf_optimizer_step(w->optimizer, w->flow, w->gradient);
    return status;
}

/* A planar layer whose u.w is far below what it is constrained to: exp underflows. */
static nf_status evaluate_steep_layer(work *w) {
    nf_flow *flow;
    nf_status status = nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM), &flow);
    if (status == NF_OK)
        status = nf_set_parameters(flow, (const double[2 * DIM + 1]){-30, -30, 30, 30, 0});
    if (status == NF_OK)
        status = nf_log_prob(flow, NULL, ROWS, w->x, NULL, w->out);
    return freed(flow, status);
}

#define CALL(name, wanted, ...)                                                                                                           \
    static nf_status name(work *w) {                                                                                                      \
        (void)w;                                                                                                                          \
        __VA_ARGS__;                                                                                                                      \
    }                                                                                                                                     \
    enum { WANTED_##name = wanted };

CALL(parameters, NF_OK, return nf_set_parameters(w->flow, w->parameters))
CALL(parameters_nan, NF_ERR_ARGUMENT, w->parameters[3] = NAN; return nf_set_parameters(w->flow, w->parameters))
CALL(parameters_beyond, NF_ERR_ARGUMENT, w->parameters[3] = 1e300; nf_set_parameters(w->flow, w->parameters); return convert(w->flow))
CALL(net_parameters_nan, NF_ERR_ARGUMENT, w->parameters[2] = NAN; return nf_mlp_set_parameters(w->mlp, w->parameters))
CALL(net_of_nan, NF_ERR_ROWS, w->x[1] = NAN; return nf_mlp_forward(w->mlp, NULL, ROWS, w->x, w->out))
CALL(base_nan, NF_ERR_ARGUMENT, w->x[1] = NAN; return nf_flow_set_base_normal(w->flow, w->x, NULL))
CALL(base_sd_nan, NF_ERR_ARGUMENT, w->t[0] = 1; w->t[1] = NAN; return nf_flow_set_base_normal(w->flow, NULL, w->t))
CALL(solver, NF_OK, return nf_cnf_set_solver(w->cnf, NF_DOPRI5, 1e-5, 1e-3, 0, 0))
CALL(solver_nan, NF_ERR_ARGUMENT, return nf_cnf_set_solver(w->cnf, NF_DOPRI5, NAN, 1e-3, 0, 0))
CALL(solver_huge, NF_OK, return nf_cnf_set_solver(w->cnf, NF_DOPRI5, 1.7e308, 1.7e308, 0, 0))
CALL(cnf, NF_OK, return make_cnf((nf_cnf_config){.rtol = 1e-3, .kinetic = 0.1}))
CALL(cnf_nan, NF_ERR_ARGUMENT, return make_cnf((nf_cnf_config){.rtol = NAN}))
CALL(cnf_nan_t, NF_ERR_ARGUMENT, return make_cnf((nf_cnf_config){.t0 = NAN}))
CALL(cnf_nan_penalty, NF_ERR_ARGUMENT, return make_cnf((nf_cnf_config){.kinetic = NAN}))
CALL(realnvp, NF_OK, return make_realnvp_of_scale(0.3))
CALL(realnvp_nan, NF_ERR_ARGUMENT, return make_realnvp_of_scale(NAN))
CALL(optimizer, NF_OK, return make_optimizer(w, (nf_optimizer_config){.learning_rate = 0.1, .beta1 = 0.3}))
CALL(optimizer_nan, NF_ERR_ARGUMENT, return make_optimizer(w, (nf_optimizer_config){.learning_rate = NAN}))
CALL(optimizer_beta_nan, NF_ERR_ARGUMENT, return make_optimizer(w, (nf_optimizer_config){.beta2 = NAN}))
CALL(optimizer_tiny, NF_OK, return make_optimizer(w, (nf_optimizer_config){.learning_rate = TINY, .beta1 = TINY, .epsilon = TINY, .weight_decay = TINY}))
CALL(rate_tiny, NF_OK, return nf_optimizer_set_learning_rate(w->optimizer, TINY))
CALL(net_tiny, NF_OK, return make_net_of_scale(TINY))
CALL(realnvp_tiny, NF_OK, return make_realnvp_of_scale(TINY))
CALL(copies_tiny, NF_OK, return copy_tiny_settings())
CALL(kl_tiny, NF_OK, return fit_kl(w, (nf_reverse_kl_config){.beta_start = TINY}))
CALL(text_tiny, NF_OK, return write_tiny_report())
CALL(rate_nan, NF_ERR_ARGUMENT, return nf_optimizer_set_learning_rate(w->optimizer, NAN))
CALL(step_nan, NF_ERR_DIVERGED, w->parameters[0] = NAN; nf_gradient_set(w->gradient, w->parameters); return nf_optimizer_step(w->optimizer, w->flow, w->gradient))
CALL(many_steps, NF_OK, return take_many_steps(w))
CALL(steep_layer, NF_OK, return evaluate_steep_layer(w))
CALL(forward_nan, NF_ERR_ROWS, w->x[1] = NAN; return nf_forward(w->flow, NULL, ROWS, w->x, NULL, w->out, NULL))
CALL(forward_inf, NF_ERR_ROWS, w->x[1] = -INFINITY; return nf_forward(w->flow, NULL, ROWS, w->x, NULL, w->out, NULL))
CALL(inverse_huge, NF_OK, w->x[1] = 1e300; nf_inverse(w->flow, NULL, ROWS, w->x, NULL, w->out, NULL); return NF_OK)
CALL(log_prob, NF_OK, return nf_log_prob(w->flow, NULL, ROWS, w->x, NULL, w->out))
CALL(score, NF_OK, return nf_score(w->flow, NULL, ROWS, w->x, NULL, NULL, w->out))
CALL(sample, NF_OK, return nf_sample(w->flow, NULL, &w->rng, ROWS, NULL, w->out, NULL))
CALL(vjp_nan, NF_ERR_ROWS, w->weight[1] = NAN; return nf_inverse_vjp(w->flow, NULL, ROWS, w->x, NULL, w->x, w->weight, w->out, NULL, w->gradient))
CALL(nll, NF_OK, return nf_grad_nll(w->flow, NULL, ROWS, w->x, NULL, w->weight, w->gradient, NULL))
CALL(nll_weight_nan, NF_ERR_ARGUMENT, w->weight[1] = NAN; return nf_grad_nll(w->flow, NULL, ROWS, w->x, NULL, w->weight, w->gradient, NULL))
CALL(nll_reverse_kl, NF_OK, return nf_grad_reverse_kl(w->flow, NULL, &w->rng, ROWS, NULL, flat_target, NULL, w->gradient, NULL))
CALL(matching, NF_OK, return nf_grad_flow_matching(w->cnf, NULL, &w->rng, ROWS, w->x, NULL, w->weight, NF_PAIRING_OPTIMAL, w->cnf_gradient, NULL))
CALL(matching_weight_nan, NF_ERR_ARGUMENT, w->weight[1] = NAN;
     return nf_grad_flow_matching(w->cnf, NULL, &w->rng, ROWS, w->x, NULL, w->weight, NF_PAIRING_OPTIMAL, w->cnf_gradient, NULL))
CALL(path, NF_OK, return nf_cnf_trajectory(w->cnf, NULL, ROWS, w->x, NULL, 3, w->t, w->out))
CALL(path_nan, NF_ERR_ARGUMENT, w->t[1] = NAN; return nf_cnf_trajectory(w->cnf, NULL, ROWS, w->x, NULL, 3, w->t, w->out))
CALL(ode, NF_OK, return solve(w, 0, 1, 3, (nf_ode_config){.rtol = 1e-3}))
CALL(ode_nan_times, NF_ERR_ARGUMENT, w->t[1] = NAN; return solve(w, 0, 1, 3, (nf_ode_config){.rtol = 1e-3}))
CALL(ode_nan_end, NF_ERR_ARGUMENT, return solve(w, 0, NAN, 0, (nf_ode_config){.rtol = 1e-3}))
CALL(ode_nan_tolerance, NF_ERR_ARGUMENT, return solve(w, 0, 1, 0, (nf_ode_config){.rtol = NAN}))
CALL(ode_too_long, NF_ERR_ARGUMENT, return solve(w, -1e308, 1.7e308, 0, (nf_ode_config){.rtol = 1e-3}))
CALL(standardize, NF_OK, return nf_affine_standardize(w->affine, ROWS, w->x))
CALL(standardize_nan, NF_ERR_ARGUMENT, w->x[1] = NAN; return nf_affine_standardize(w->affine, ROWS, w->x))
CALL(fit_plain, NF_OK, return fit(w, (nf_fit_config){.seed = 1}))
CALL(fit_nan_row, NF_ERR_ROWS, w->x[3] = NAN; return fit(w, (nf_fit_config){.seed = 1}))
CALL(fit_weights, NF_OK, return fit(w, (nf_fit_config){.weight = w->weight}))
CALL(fit_weight_nan, NF_ERR_ARGUMENT, w->weight[1] = NAN; return fit(w, (nf_fit_config){.weight = w->weight}))
CALL(fit_held_out, NF_OK, return fit(w, (nf_fit_config){.validation_rows = 3, .validation_x = w->x}))
CALL(fit_held_out_nan, NF_OK, w->out[0] = w->out[1] = NAN; return fit(w, (nf_fit_config){.validation_rows = 1, .validation_x = w->out}))
CALL(fit_average_nan, NF_ERR_ARGUMENT, return fit(w, (nf_fit_config){.ema_decay = NAN}))
CALL(fit_fraction_nan, NF_ERR_ARGUMENT, return fit(w, (nf_fit_config){.validation_fraction = NAN}))
CALL(fit_contamination_nan, NF_ERR_ARGUMENT, return fit(w, (nf_fit_config){.contamination = NAN}))
CALL(kl, NF_OK, return fit_kl(w, (nf_reverse_kl_config){.beta_start = 0.1}))
CALL(kl_nan, NF_ERR_ARGUMENT, return fit_kl(w, (nf_reverse_kl_config){.beta_start = NAN}))
CALL(kl_average_nan, NF_ERR_ARGUMENT, return fit_kl(w, (nf_reverse_kl_config){.ema_decay = NAN}))
CALL(diagnosis, NF_OK, return diagnose(w, (nf_diagnose_config){.seed = 3}))
CALL(diagnosis_nan, NF_ERR_ARGUMENT, return diagnose(w, (nf_diagnose_config){.significance = NAN}))
CALL(file, NF_OK, return save_and_load(w->cnf))

#define ROW(name) {#name, name, (nf_status)WANTED_##name}
static const struct {
    const char *name;
    nf_status (*call)(work *w);
    nf_status wanted;
} calls[] = {ROW(parameters), ROW(parameters_nan), ROW(parameters_beyond), ROW(net_parameters_nan), ROW(net_of_nan), ROW(base_nan), ROW(base_sd_nan), ROW(solver), ROW(solver_nan),
             ROW(solver_huge), ROW(cnf), ROW(cnf_nan), ROW(cnf_nan_t), ROW(cnf_nan_penalty), ROW(realnvp), ROW(realnvp_nan), ROW(optimizer), ROW(optimizer_nan),
             ROW(optimizer_beta_nan), ROW(optimizer_tiny), ROW(rate_tiny), ROW(net_tiny), ROW(realnvp_tiny), ROW(copies_tiny), ROW(kl_tiny), ROW(text_tiny), ROW(rate_nan), ROW(step_nan), ROW(many_steps), ROW(steep_layer), ROW(forward_nan), ROW(forward_inf), ROW(inverse_huge), ROW(log_prob), ROW(score), ROW(sample), ROW(vjp_nan),
             ROW(nll), ROW(nll_weight_nan), ROW(nll_reverse_kl), ROW(matching), ROW(matching_weight_nan), ROW(path), ROW(path_nan), ROW(ode), ROW(ode_nan_times),
             ROW(ode_nan_end), ROW(ode_nan_tolerance), ROW(ode_too_long), ROW(standardize), ROW(standardize_nan), ROW(fit_plain), ROW(fit_nan_row), ROW(fit_weights),
             ROW(fit_weight_nan), ROW(fit_held_out), ROW(fit_held_out_nan), ROW(fit_average_nan), ROW(fit_fraction_nan), ROW(fit_contamination_nan), ROW(kl), ROW(kl_nan),
             ROW(kl_average_nan), ROW(diagnosis), ROW(diagnosis_nan), ROW(file)};

START_TEST(calls_leave_mode_flags_and_errno) {
    work w;
    open_work(&w);
    const locale_t own = newlocale(LC_ALL_MASK, "C.UTF-8", (locale_t)0), before = uselocale(own), set = uselocale((locale_t)0); /* none, where there is no such */
    fesetround(FE_UPWARD);
    clear_flags();
    errno = 1234;
    const nf_status status = calls[_i].call(&w);
    const int error = errno, flags = raised_flags(), mode = fegetround();
    fesetround(FE_TONEAREST);
    const locale_t after = uselocale(before);
    if (own)
        freelocale(own);
    ck_assert_msg(after == set, "%s: another locale is the thread's", calls[_i].name);
    ck_assert_msg(status == calls[_i].wanted, "%s: %s, %s", calls[_i].name, nf_status_name(status), nf_last_error());
    ck_assert_msg(error == 1234, "%s: errno is %d", calls[_i].name, error);
    ck_assert_msg(flags == 0, "%s: raises the flags %x", calls[_i].name, (unsigned)flags);
    ck_assert_msg(mode == FE_UPWARD, "%s: the mode is %d", calls[_i].name, mode);
    close_work(&w);
}
END_TEST

/* Numbers become text, and text numbers, as they do to nearest. */
START_TEST(text_is_the_same_in_any_mode) {
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    const double mean[DIM] = {0.1, -1.0 / 3}, sd[DIM] = {1e-7 / 3, 2.385};
    nf_flow *flow = make_realnvp(DIM, 0, NF_DOUBLE, NULL), *loaded;
    void *bytes, *same, *again;
    size_t size, same_size, again_size;
    must(nf_flow_set_base_normal(flow, mean, sd));
    must(nf_flow_save_memory(flow, &bytes, &size));
    for (int k = 0; k < 3; k++) {
        fesetround(modes[k]);
        const nf_status saved = nf_flow_save_memory(flow, &same, &same_size), read = nf_flow_load_memory(bytes, size, &loaded);
        fesetround(FE_TONEAREST);
        must(saved);
        must(read);
        must(nf_flow_save_memory(loaded, &again, &again_size));
        ck_assert_msg(same_size == size && memcmp(same, bytes, size) == 0, "mode %x: another file", (unsigned)modes[k]);
        ck_assert_msg(again_size == size && memcmp(again, bytes, size) == 0, "mode %x: another flow", (unsigned)modes[k]);
        nf_free(again);
        nf_free(same);
        nf_flow_free(loaded);
    }
    nf_free(bytes);
    nf_flow_free(flow);
}
END_TEST

/* In a host that flushes them, too. */
START_TEST(denormals_are_kept) {
    for (int single = 0; single < 2; single++) {
        const double tiny = single ? 0x1p-140 : 0x1p-1060;
        double z = tiny, x = 0;
        nf_flow *flow;
        must(nf_affine_create(1, single ? NF_SINGLE : NF_DOUBLE, &flow));
#ifdef __x86_64__
        const unsigned before = _mm_getcsr();
        _mm_setcsr(before | 0x8040); /* flush to zero, denormals are zeros */
#endif
        const nf_status status = nf_forward(flow, NULL, 1, &z, NULL, &x, NULL);
#ifdef __x86_64__
        const unsigned after = _mm_getcsr();
        _mm_setcsr(before);
        ck_assert_msg((after & 0x8040) == 0x8040, "the host's mode is %x", after);
#endif
        must(status);
        ck_assert_msg(x == tiny, "%g became %g", tiny, x);
        nf_flow_free(flow);
    }
}
END_TEST

#ifdef __GLIBC__
/* A trap is a signal, which ends the test. */
START_TEST(calls_do_not_trap) {
    work w;
    open_work(&w);
    feclearexcept(FE_ALL_EXCEPT);
    const int before = feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW); /* -1: this processor has none */
    const nf_status status = calls[_i].call(&w);
    const int during = fegetexcept();
    fedisableexcept(FE_ALL_EXCEPT);
    ck_assert_msg(status == calls[_i].wanted, "%s: %s, %s", calls[_i].name, nf_status_name(status), nf_last_error());
    ck_assert_msg(before == -1 || during == (FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW), "%s: the traps are %x", calls[_i].name, (unsigned)during);
    close_work(&w);
}
END_TEST
#endif

/* ---- the caller's own ---- */

typedef struct host {
    size_t calls, wrong; /* in another mode than the caller's, or with another errno */
    double x[ROWS * DIM];
} host;

static void look(host *h) {
    h->calls++;
    h->wrong += fegetround() != FE_UPWARD || errno != 1234;
    feraiseexcept(FE_DIVBYZERO);
}

static void *host_alloc(void *user, size_t size) {
    look(user);
    return malloc(size);
}

static void host_release(void *user, void *pointer) {
    look(user);
    free(pointer);
}

static nf_status host_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    look(user);
    return flat_target(NULL, rows, x, log_density, gradient);
}

static nf_status host_read(void *user, size_t count, const size_t *row, double *x, double *context) {
    host *h = user;
    (void)context;
    look(h);
    for (size_t i = 0; i < count; i++)
        memcpy(x + i * DIM, h->x + row[i] * DIM, DIM * sizeof *x);
    return NF_OK;
}

static int host_progress(void *user, const nf_fit_progress *p) {
    (void)p;
    look(user);
    return 0;
}

static int host_kl_progress(void *user, const nf_reverse_kl_progress *p) {
    (void)p;
    look(user);
    return 0;
}

static nf_status host_ode(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    look(user);
    return still(NULL, count, row, t, y, dydt);
}

/* A target that calls the library itself. */
static nf_status nested_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    host *h = user;
    double y[1] = {1};
    look(h);
    if (nf_ode_solve(NULL, 1, 1, host_ode, h, 0, 1, y, 0, NULL, NULL, NULL) != NF_OK)
        h->wrong++;
    look(h);
    return flat_target(NULL, rows, x, log_density, gradient);
}

static nf_status host_fit(host *h, nf_flow *flow, const nf_allocator *a) {
    const nf_fit_config config = {.struct_size = sizeof config, .epochs = 2, .read = host_read, .read_user = h, .progress = host_progress, .progress_user = h, .allocator = a};
    return nf_fit(flow, ROWS, NULL, NULL, &config, NULL);
}

static nf_status host_fit_kl(host *h, nf_flow *flow, const nf_allocator *a) {
    const nf_reverse_kl_config config = {.struct_size = sizeof config, .steps = 4, .samples = 9, .evaluation_samples = 90, .beta_start = 0.5, .progress_every = 1,
                                         .progress = host_kl_progress, .progress_user = h, .allocator = a};
    return nf_fit_reverse_kl(flow, nested_target, h, &config, NULL);
}

static nf_status host_grad_kl(host *h, nf_flow *flow, const nf_allocator *a) {
    nf_gradient *gradient = NULL;
    nf_rng rng = {1, 2, 3};
    (void)a;
    nf_status status = nf_gradient_create(flow, &gradient);
    if (status == NF_OK)
        status = nf_grad_reverse_kl(flow, NULL, &rng, ROWS, NULL, host_target, h, gradient, NULL);
    nf_gradient_free(gradient);
    return status;
}

static nf_status host_solve(host *h, nf_flow *flow, const nf_allocator *a) {
    double y[1] = {1};
    (void)flow;
    return nf_ode_solve(NF_CONFIG(nf_ode_config, .allocator = a), 1, 1, host_ode, h, 0, 1, y, 0, NULL, NULL, NULL);
}

static nf_status host_diagnose(host *h, nf_flow *flow, const nf_allocator *a) {
    nf_diagnose_report report = {.struct_size = sizeof report};
    return nf_diagnose(flow, ROWS, h->x, NULL, NF_CONFIG(nf_diagnose_config, .samples = 64, .permutations = 19, .target = host_target, .target_user = h, .allocator = a), &report);
}

static nf_status host_create(host *h, nf_flow *flow, const nf_allocator *a) {
    nf_flow *made = NULL;
    (void)h;
    (void)flow;
    const nf_status status = nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .allocator = a), &made);
    return freed(made, status);
}

static nf_status host_evaluate(host *h, nf_flow *flow, const nf_allocator *a) {
    double log_prob[ROWS];
    (void)a;
    return nf_log_prob(flow, NULL, ROWS, h->x, NULL, log_prob);
}

static const struct {
    const char *name;
    nf_status (*call)(host *h, nf_flow *flow, const nf_allocator *a);
} hosts[] = {{"nf_fit", host_fit}, {"nf_fit_reverse_kl", host_fit_kl}, {"nf_grad_reverse_kl", host_grad_kl}, {"nf_ode_solve", host_solve}, {"nf_diagnose", host_diagnose},
             {"nf_cnf_create", host_create}, {"nf_log_prob", host_evaluate}};

START_TEST(what_is_the_callers_runs_in_its_mode) {
    host h = {0, 0, {0}};
    const nf_allocator allocator = {host_alloc, host_release, &h};
    random_source random = random_begin(32);
    for (size_t i = 0; i < ROWS * DIM; i++)
        h.x[i] = random_normal(&random);
    nf_flow *flow = make_realnvp(DIM, 0, NF_DOUBLE, &allocator);
    h.calls = h.wrong = 0;
    fesetround(FE_UPWARD);
    feclearexcept(FE_ALL_EXCEPT);
    errno = 1234;
    const nf_status status = hosts[_i].call(&h, flow, &allocator);
    const int error = errno, flags = fetestexcept(FE_ALL_EXCEPT);
    fesetround(FE_TONEAREST);
    ck_assert_msg(status == NF_OK, "%s: %s", hosts[_i].name, nf_last_error());
    ck_assert_uint_gt(h.calls, 0);
    ck_assert_msg(h.wrong == 0, "%s: %zu of %zu calls find another mode or errno", hosts[_i].name, h.wrong, h.calls);
    ck_assert_int_eq(error, 1234);
    ck_assert_msg(flags == FE_DIVBYZERO, "%s: the flags are %x, and what the caller's own raised is %x", hosts[_i].name, (unsigned)flags, (unsigned)FE_DIVBYZERO);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("floating-point environment");
    TCase *t = tcase_create("host");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, calls_leave_mode_flags_and_errno, 0, sizeof calls / sizeof calls[0]);
#ifdef __GLIBC__
    tcase_add_loop_test(t, calls_do_not_trap, 0, sizeof calls / sizeof calls[0]);
#endif
    tcase_add_test(t, text_is_the_same_in_any_mode);
    tcase_add_test(t, denormals_are_kept);
    tcase_add_loop_test(t, what_is_the_callers_runs_in_its_mode, 0, sizeof hosts / sizeof hosts[0]);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
