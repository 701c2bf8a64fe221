/*
 * Fuzz target: bytes as a sequence of calls. Each byte is a call or an argument; a few flows, workspaces, gradients and optimizers are made, changed, mixed up
 * and freed in any order. No sequence may do harm, an error leaves a line, and no error leaves a handle.
 */
#include <stdint.h>
#include <stdlib.h>

#include "fuzz_bytes.h"
#include "nflow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 3, MOST_DIM = 4, MOST_ROWS = 140, MOST_CALLS = 60, MOST_LAYERS = 12, MOST_PARAMETERS = 2000 };

typedef struct world {
    fuzz_bytes input;
    nf_flow *flow[SLOTS];
    nf_workspace *ws[SLOTS];
    nf_gradient *gradient[SLOTS];
    nf_optimizer *optimizer[SLOTS];
    nf_rng rng;
    double in[MOST_ROWS * MOST_DIM], out[MOST_ROWS * MOST_DIM], more[MOST_ROWS * MOST_DIM], context[MOST_ROWS * MOST_DIM], scalar[MOST_ROWS], extra[MOST_ROWS];
    double parameters[MOST_PARAMETERS];
} world;

static nf_flow **flow_slot(world *w) { return &w->flow[take(&w->input) % SLOTS]; }

/* A handle that is there, or NULL. */
static nf_flow *any_flow(world *w) { return *flow_slot(w); }

static size_t some_rows(world *w) {
    static const size_t rows[] = {1, 2, 0, 17, 33, 64, 128, 140};
    return rows[take(&w->input) % 8];
}

static const double *context_of(world *w, const nf_flow *flow) {
    fill(&w->input, w->context, MOST_ROWS * MOST_DIM);
    return nf_flow_context_dim(flow) ? w->context : NULL;
}

/* ---- making ---- */

static size_t some_dim(world *w) { return take(&w->input) % MOST_DIM + 1; }

static nf_status make_realnvp(world *w, nf_flow **out) {
    nf_realnvp_config c = {.struct_size = sizeof c, .dim = some_dim(w), .couplings = take(&w->input) % 3, .hidden_width = take(&w->input) % 9, .seed = take(&w->input)};
    c.context_dim = take(&w->input) % 3;
    c.hidden_layers = take(&w->input) % 4 == 3 ? NF_NONE : take(&w->input) % 3;
    c.precision = (nf_precision)(take(&w->input) % 2);
    c.activation = (nf_activation)(take(&w->input) % 7);
    c.scale = (nf_scale)(take(&w->input) % 6);
    c.mask = (nf_mask)(take(&w->input) % 4);
    c.scale_clamp = take(&w->input) % 4 ? 0 : take_number(&w->input);
    c.actnorm = (int)(take(&w->input) % 3) - 1;
    return nf_realnvp_create(&c, out);
}

static nf_status make_planar(world *w, nf_flow **out) {
    nf_planar_config c = {.struct_size = sizeof c, .dim = some_dim(w), .layers = take(&w->input) % 4, .seed = take(&w->input), .hidden_width = take(&w->input) % 5};
    c.context_dim = take(&w->input) % 3;
    c.precision = (nf_precision)(take(&w->input) % 2);
    return nf_planar_create(&c, out);
}

static nf_status make_radial(world *w, nf_flow **out) {
    nf_radial_config c = {.struct_size = sizeof c, .dim = some_dim(w), .layers = take(&w->input) % 4, .seed = take(&w->input), .hidden_width = take(&w->input) % 5};
    c.context_dim = take(&w->input) % 3;
    c.precision = (nf_precision)(take(&w->input) % 2);
    return nf_radial_create(&c, out);
}

static nf_status make_cnf(world *w, nf_flow **out) {
    nf_cnf_config c = {.struct_size = sizeof c, .dim = some_dim(w), .seed = take(&w->input), .hidden_width = take(&w->input) % 9, .units = take(&w->input) % 5};
    c.hidden_layers = take(&w->input) % 3;
    c.precision = (nf_precision)(take(&w->input) % 2);
    c.dynamics = (nf_dynamics)(take(&w->input) % 3);
    c.method = (nf_ode_method)(take(&w->input) % 8);
    c.steps = 2;
    c.max_steps = 8;
    c.rtol = c.atol = 1e-2;
    c.t1 = take(&w->input) % 4 ? 0 : take_number(&w->input);
    return nf_cnf_create(&c, out);
}

static nf_status make_other(world *w, nf_flow **out) {
    static const size_t source[] = {1, 0, 2, 3};
    const nf_precision precision = (nf_precision)(take(&w->input) % 3);
    const size_t dim = some_dim(w);
    switch (take(&w->input) % 3) {
    case 0:
        return nf_permutation_create(dim, source, precision, out);
    case 1:
        return nf_affine_create(dim, precision, out);
    default:
        return nf_flow_create(dim, take(&w->input) % 3, precision, out);
    }
}

static void make_flow(world *w) {
    static nf_status (*const makers[])(world *, nf_flow **) = {make_realnvp, make_planar, make_radial, make_cnf, make_other};
    nf_flow **slot = flow_slot(w), *made = (nf_flow *)w;
    const nf_status status = makers[take(&w->input) % 5](w, &made);
    if ((status == NF_OK) != (made != NULL))
        abort();
    nf_flow_free(*slot);
    *slot = made;
}

static void make_parts(world *w) {
    const size_t i = take(&w->input) % SLOTS;
    nf_flow *flow = any_flow(w);
    switch (take(&w->input) % 3) {
    case 0:
        nf_workspace_free(w->ws[i]);
        nf_workspace_create(flow, take(&w->input) % 3, &w->ws[i]);
        break;
    case 1:
        nf_gradient_free(w->gradient[i]);
        nf_gradient_create(flow, &w->gradient[i]);
        break;
    default:
        nf_optimizer_free(w->optimizer[i]);
        nf_optimizer_create(flow,
                            NF_CONFIG(nf_optimizer_config, .kind = (nf_optimizer_kind)(take(&w->input) % 5), .learning_rate = take_number(&w->input),
                                      .clip_norm = take_number(&w->input)),
                            &w->optimizer[i]);
    }
}

/* ---- changing ---- */

static void append(world *w) {
    nf_flow **a = flow_slot(w), **b = flow_slot(w);
    if (*a && *b && nf_flow_layer_count(*a) + nf_flow_layer_count(*b) > MOST_LAYERS)
        return;
    if (nf_flow_append(*a, *b) == NF_OK)
        *b = NULL;
}

static void copy(world *w) {
    nf_flow *from = any_flow(w), **to = flow_slot(w), *made = NULL;
    if (take(&w->input) % 2)
        nf_flow_clone(from, &made);
    else
        nf_flow_convert(from, (nf_precision)(take(&w->input) % 3), &made);
    nf_flow_free(*to);
    *to = made;
}

static void change(world *w) {
    nf_flow *flow = any_flow(w);
    fill(&w->input, w->in, MOST_ROWS * MOST_DIM);
    switch (take(&w->input) % 5) {
    case 0:
        nf_flow_invert(flow);
        break;
    case 1:
        nf_flow_set_base_normal(flow, take(&w->input) % 2 ? w->in : NULL, take(&w->input) % 2 ? w->in + 8 : NULL);
        break;
    case 2:
        nf_affine_standardize(flow, some_rows(w), w->in);
        break;
    case 3:
        nf_cnf_set_solver(flow, (nf_ode_method)(take(&w->input) % 8), 1e-2, 1e-2, 2, 8);
        break;
    default:
        if (nf_parameter_count(flow) <= MOST_PARAMETERS && nf_parameter_count(flow) > 0) {
            fill(&w->input, w->parameters, nf_parameter_count(flow));
            nf_set_parameters(flow, w->parameters);
        }
    }
}

/* ---- evaluating ---- */

static nf_workspace *some_workspace(world *w) { return take(&w->input) % 2 ? w->ws[take(&w->input) % SLOTS] : NULL; }

static void evaluate(world *w) {
    nf_flow *flow = any_flow(w);
    nf_workspace *ws = some_workspace(w);
    const size_t rows = some_rows(w);
    const double *context = context_of(w, flow);
    fill(&w->input, w->in, MOST_ROWS * MOST_DIM);
    switch (take(&w->input) % 6) {
    case 0:
        nf_forward(flow, ws, rows, w->in, context, w->out, w->scalar);
        break;
    case 1:
        nf_inverse(flow, ws, rows, w->in, context, take(&w->input) % 2 ? w->in : w->out, w->scalar);
        break;
    case 2:
        nf_log_prob(flow, ws, rows, w->in, context, w->scalar);
        break;
    case 3:
        nf_sample(flow, ws, &w->rng, rows, context, w->out, w->scalar);
        break;
    case 4:
        nf_score(flow, ws, rows, w->in, context, w->scalar, w->out);
        break;
    default: {
        nf_stats stats = {.struct_size = sizeof stats};
        nf_workspace_stats(ws, &stats);
    }
    }
}

static nf_status target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    const size_t dim = nf_flow_dim(user);
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = 0;
        for (size_t i = 0; i < dim; i++) {
            log_density[r] -= 0.5 * x[r * dim + i] * x[r * dim + i];
            gradient[r * dim + i] = -x[r * dim + i];
        }
    }
    return NF_OK;
}

static void differentiate(world *w) {
    nf_flow *flow = any_flow(w);
    nf_workspace *ws = some_workspace(w);
    nf_gradient *gradient = w->gradient[take(&w->input) % SLOTS];
    const size_t rows = some_rows(w);
    const double *context = context_of(w, flow), *weight = take(&w->input) % 2 ? w->extra : NULL;
    double loss;
    fill(&w->input, w->in, MOST_ROWS * MOST_DIM);
    fill(&w->input, w->extra, MOST_ROWS);
    switch (take(&w->input) % 7) {
    case 0:
        nf_grad_nll(flow, ws, rows, w->in, context, weight, gradient, &loss);
        break;
    case 1:
        nf_grad_reverse_kl(flow, ws, &w->rng, rows, context, target, flow, gradient, &loss);
        break;
    case 2:
        nf_forward_vjp(flow, ws, rows, w->in, context, w->in, w->scalar, w->out, context ? w->more : NULL, gradient);
        break;
    case 3:
        nf_inverse_vjp(flow, ws, rows, w->in, context, NULL, w->scalar, w->out, NULL, take(&w->input) % 2 ? gradient : NULL);
        break;
    case 4:
        nf_grad_flow_matching(flow, ws, &w->rng, rows, w->in, context, weight, (nf_pairing)(take(&w->input) % 3), gradient, &loss);
        break;
    case 5:
        nf_gradient_zero(gradient);
        break;
    default:
        nf_optimizer_step(w->optimizer[take(&w->input) % SLOTS], flow, gradient);
    }
}

static void save(world *w) {
    nf_flow *flow = any_flow(w), *loaded = NULL;
    void *bytes = NULL;
    size_t size = 0;
    if (nf_flow_save_memory(flow, &bytes, &size) == NF_OK && (nf_flow_load_memory(bytes, size, &loaded) != NF_OK || !loaded))
        abort();
    nf_flow_free(loaded);
    nf_free(bytes);
}

static void fit(world *w) {
    nf_flow *flow = any_flow(w);
    const double *context = context_of(w, flow);
    fill(&w->input, w->in, MOST_ROWS * MOST_DIM);
    nf_fit_config c = {.struct_size = sizeof c, .epochs = 1, .batch_size = take(&w->input) % 70, .threads = take(&w->input) % 3,
                       .noise = take(&w->input) % 4 ? 0 : take_number(&w->input)};
    c.validation_fraction = take(&w->input) % 2 ? take_number(&w->input) : 0;
    c.objective = (nf_objective)(take(&w->input) % 5 == 4);
    nf_fit(flow, some_rows(w) % 40, w->in, context, &c, NULL);
}

static void drop(world *w) {
    const size_t i = take(&w->input) % SLOTS;
    switch (take(&w->input) % 4) {
    case 0:
        nf_flow_free(w->flow[i]);
        w->flow[i] = NULL;
        break;
    case 1:
        nf_workspace_free(w->ws[i]);
        w->ws[i] = NULL;
        break;
    case 2:
        nf_gradient_free(w->gradient[i]);
        w->gradient[i] = NULL;
        break;
    default:
        nf_optimizer_free(w->optimizer[i]);
        w->optimizer[i] = NULL;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const acts[])(world *) = {make_flow, make_parts, append, copy, change, evaluate, evaluate, differentiate, differentiate, save, fit, drop, make_flow, make_parts};
    world *w = calloc(1, sizeof *w);
    if (!w)
        return 0;
    w->input = (fuzz_bytes){data, size, 0};
    for (size_t calls = 0; w->input.at < size && calls < MOST_CALLS; calls++)
        acts[take(&w->input) % (sizeof acts / sizeof acts[0])](w);
    for (size_t i = 0; i < SLOTS; i++) {
        nf_flow_free(w->flow[i]);
        nf_workspace_free(w->ws[i]);
        nf_gradient_free(w->gradient[i]);
        nf_optimizer_free(w->optimizer[i]);
    }
    free(w);
    return 0;
}
