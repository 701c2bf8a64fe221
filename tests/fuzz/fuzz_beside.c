/*
 * Fuzz target: bytes as calls of what stands beside the flows' own maps: nets, ordinary differential equations, trajectories, fits to a target and diagnostics, with settings
 * and numbers of all kinds. Nothing does harm, an error leaves a line, and what a status says about results holds.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_bytes.h"
#include "nflow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_DIM = 4, MOST_ROWS = 40, MOST_TIMES = 5, MOST_CALLS = 4, NUMBERS = MOST_ROWS * MOST_DIM, MOST_PARAMETERS = 3000 };

static void check(nf_status status) {
    if ((status != NF_OK) != (*nf_last_error() != '\0'))
        abort();
}

/* ---- nets ---- */

static void train_net(fuzz_bytes *b, nf_mlp *net, size_t rows, size_t inputs, size_t outputs) {
    static double x[NUMBERS], y[NUMBERS], grad_y[NUMBERS], grad_x[NUMBERS], theta[MOST_PARAMETERS];
    nf_workspace *ws = NULL;
    nf_gradient *gradient = NULL;
    nf_optimizer *optimizer = NULL;
    const size_t count = nf_mlp_parameter_count(net);
    check(nf_mlp_workspace_create(net, &ws));
    check(nf_mlp_gradient_create(net, &gradient));
    const nf_optimizer_config c = {.struct_size = sizeof c, .kind = (nf_optimizer_kind)(take(b) % 5), .learning_rate = take_number(b)};
    check(nf_mlp_optimizer_create(net, &c, &optimizer));
    if (count <= MOST_PARAMETERS && take(b) % 2) {
        fill(b, theta, count);
        check(nf_mlp_set_parameters(net, theta));
    }
    fill(b, x, rows * inputs);
    fill(b, grad_y, rows * outputs);
    check(nf_mlp_forward(net, ws, rows, x, y));
    check(nf_mlp_vjp(net, ws, rows, x, take(b) % 4 ? grad_y : y, take(b) % 2 ? y : NULL, take(b) % 2 ? grad_x : NULL, gradient));
    check(nf_mlp_step(optimizer, net, gradient));
    if (count <= MOST_PARAMETERS)
        check(nf_mlp_get_parameters(net, theta));
    nf_workspace_free(ws);
    nf_gradient_free(gradient);
    nf_optimizer_free(optimizer);
}

static void use_net(fuzz_bytes *b) {
    nf_mlp *net = (nf_mlp *)b;
    nf_mlp_config c = {.struct_size = sizeof c, .inputs = take(b) % (MOST_DIM + 1), .outputs = take(b) % (MOST_DIM + 1), .seed = take(b)};
    c.precision = (nf_precision)(take(b) % 2);
    c.activation = (nf_activation)(take(b) % 7);
    c.hidden_layers = take(b) % 4 == 3 ? NF_NONE : take(b) % 3;
    c.hidden_width = take(b) % 9;
    c.output_scale = take(b) % 4 ? 0 : take_number(b);
    const nf_status status = nf_mlp_create(&c, &net);
    check(status);
    if ((status == NF_OK) != (net != NULL))
        abort();
    if (net)
        train_net(b, net, take(b) % (MOST_ROWS + 1), c.inputs, c.outputs);
    nf_mlp_free(net);
}

/* ---- equations ---- */

typedef struct equation {
    double rate;
    unsigned kind, fails;
    size_t size;
} equation;

static nf_status slope(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    equation *e = user;
    if (e->fails && --e->fails == 0)
        return NF_ERR_IO;
    for (size_t r = 0; r < count; r++) {
        if (row[r] >= MOST_ROWS)
            abort();
        for (size_t i = 0; i < e->size; i++) {
            const double v = y[r * e->size + i];
            dydt[r * e->size + i] = e->kind == 0 ? e->rate * v : e->kind == 1 ? v * v : e->kind == 2 ? e->rate * cos(t[r]) : sqrt(v);
        }
    }
    return NF_OK;
}

static void solve(fuzz_bytes *b) {
    static double y[NUMBERS], path[MOST_TIMES * NUMBERS];
    double t[MOST_TIMES];
    equation e = {.rate = take_number(b), .kind = take(b) % 4, .size = take(b) % (MOST_DIM + 1)};
    e.fails = take(b) % 4 ? 0 : take(b);
    nf_ode_config c = {.struct_size = sizeof c, .method = (nf_ode_method)(take(b) % 8), .max_steps = take(b) % 40 + 1};
    c.rtol = take(b) % 2 ? 1e-3 : take_number(b);
    c.atol = take(b) % 2 ? 1e-3 : take_number(b);
    c.steps = take(b) % 5;
    nf_stats stats = {.struct_size = sizeof stats};
    const size_t rows = take(b) % (MOST_ROWS + 1), times = take(b) % (MOST_TIMES + 1);
    const double t0 = take_number(b), t1 = take_number(b);
    fill(b, y, NUMBERS);
    for (size_t i = 0; i < times; i++)
        t[i] = take(b) % 8 ? t0 + (t1 - t0) * (double)i / MOST_TIMES : take_number(b);
    check(nf_ode_solve(&c, rows, e.size, slope, &e, t0, t1, y, times, t, take(b) % 4 ? path : NULL, &stats));
}

/* ---- flows ---- */

/* kinds 3: continuous flows too. */
static nf_flow *make_flow(fuzz_bytes *b, size_t dim, unsigned kinds) {
    nf_flow *flow = NULL;
    const size_t context_dim = take(b) % 3;
    const uint64_t seed = take(b);
    const nf_precision precision = (nf_precision)(take(b) % 2);
    switch (take(b) % kinds) {
    case 0:
        check(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = dim, .context_dim = context_dim, .couplings = 1, .hidden_layers = 1, .hidden_width = 3,
                                          .seed = seed, .precision = precision),
                                &flow));
        break;
    case 1:
        check(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = dim, .context_dim = context_dim, .layers = 2, .seed = seed, .precision = precision), &flow));
        break;
    default:
        check(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = dim, .context_dim = context_dim, .hidden_layers = 1, .hidden_width = 3, .seed = seed,
                                      .precision = precision, .rtol = 1e-2, .atol = 1e-2, .max_steps = 8, .method = (nf_ode_method)(take(b) % 7)),
                            &flow));
    }
    return flow;
}

static void follow(fuzz_bytes *b) {
    static double z[NUMBERS], context[NUMBERS], path[MOST_TIMES * NUMBERS];
    double t[MOST_TIMES];
    nf_flow *flow = make_flow(b, take(b) % 3 + 1, 3);
    const size_t rows = take(b) % (MOST_ROWS + 1), times = take(b) % (MOST_TIMES + 1);
    fill(b, z, NUMBERS);
    fill(b, context, NUMBERS);
    for (size_t i = 0; i < times; i++)
        t[i] = take(b) % 8 ? (double)i / MOST_TIMES : take_number(b);
    check(nf_cnf_trajectory(flow, NULL, rows, z, nf_flow_context_dim(flow) ? context : NULL, times, t, path));
    nf_flow_free(flow);
}

typedef struct target_settings {
    double width;
    unsigned kind, fails;
    size_t dim;
} target_settings;

static nf_status target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    target_settings *s = user;
    if (s->fails && --s->fails == 0)
        return NF_ERR_IO;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = s->kind == 1 && x[r * s->dim] < 0 ? -INFINITY : s->kind == 2 && x[r * s->dim] < -2 ? NAN : 0;
        for (size_t i = 0; i < s->dim; i++) {
            const double u = x[r * s->dim + i] / s->width;
            log_density[r] -= 0.5 * u * u;
            gradient[r * s->dim + i] = -u / s->width;
        }
    }
    return NF_OK;
}

static void must_be_finite(const nf_flow *flow) {
    static double theta[MOST_PARAMETERS];
    const size_t count = nf_parameter_count(flow);
    if (count <= MOST_PARAMETERS && nf_get_parameters(flow, theta) == NF_OK)
        for (size_t i = 0; i < count; i++)
            if (!isfinite(theta[i]))
                abort();
}

static void fit_target(fuzz_bytes *b) {
    static double context[NUMBERS];
    nf_flow *flow = make_flow(b, take(b) % 3 + 1, 3);
    target_settings s = {.width = take_number(b), .kind = take(b) % 4, .dim = nf_flow_dim(flow)};
    s.fails = take(b) % 4 ? 0 : take(b) % 8;
    nf_optimizer_config o = {.struct_size = sizeof o, .kind = (nf_optimizer_kind)(take(b) % 5), .learning_rate = take_number(b), .clip_norm = take_number(b)};
    nf_reverse_kl_config c = {.struct_size = sizeof c, .steps = take(b) % 4 + 1, .samples = MOST_ROWS, .threads = take(b) % 3, .optimizer = take(b) % 2 ? &o : NULL};
    c.schedule = (nf_schedule)(take(b) % 4);
    c.schedule_factor = take(b) % 4 ? 0 : take_number(b);
    c.beta_start = take(b) % 4 ? 0 : take_number(b);
    c.ema_decay = take(b) % 4 ? 0 : take_number(b);
    c.evaluation_samples = take(b) % 2 ? NF_NONE : take(b) % MOST_ROWS + 1;
    fill(b, context, NUMBERS);
    c.context = nf_flow_context_dim(flow) ? context : NULL;
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    check(nf_fit_reverse_kl(flow, target, &s, &c, &report));
    must_be_finite(flow);
    nf_flow_free(flow);
}

static void diagnose(fuzz_bytes *b) {
    static double x[NUMBERS], context[NUMBERS];
    char text[200];
    nf_flow *flow = make_flow(b, take(b) % 2 ? 1 : 4, 2); /* the grids of two and three, and tight solvers, take too long */
    target_settings s = {.width = take_number(b), .kind = take(b) % 4, .dim = nf_flow_dim(flow)};
    s.fails = take(b) % 4 ? 0 : take(b) % 8;
    nf_diagnose_config c = {.struct_size = sizeof c, .rows = take(b) % 20, .exact_rows = take(b) % 4 + 1, .samples = take(b) % 64 + 1, .permutations = take(b) % 40 + 1};
    c.threads = take(b) % 3;
    c.significance = take(b) % 4 ? 0.5 : take_number(b);
    if (c.significance >= 0 && c.significance < 0.1)
        c.significance = 0.1; /* less asks for many permutations */
    c.least_effective_sample_size = take(b) % 4 ? 0 : take_number(b);
    c.target = take(b) % 2 ? target : NULL;
    c.target_user = &s;
    const size_t rows = take(b) % (MOST_ROWS + 1);
    fill(b, x, NUMBERS);
    fill(b, context, NUMBERS);
    nf_diagnose_report report = {.struct_size = sizeof report};
    const nf_status status = nf_diagnose(flow, rows, take(b) % 4 ? x : NULL, nf_flow_context_dim(flow) ? context : NULL, &c, &report);
    check(status);
    if (status == NF_OK && (nf_diagnose_text(&report, text, sizeof text) == 0 || strlen(text) >= sizeof text))
        abort();
    must_be_finite(flow);
    nf_flow_free(flow);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const acts[])(fuzz_bytes *) = {use_net, solve, follow, fit_target, use_net, solve, follow, fit_target, diagnose};
    fuzz_bytes b = {data, size, 0};
    for (size_t calls = 0; b.at < size && calls < MOST_CALLS; calls++)
        acts[take(&b) % (sizeof acts / sizeof acts[0])](&b);
    return 0;
}
