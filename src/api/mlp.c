/* The public net: the layers' conditioner, by itself. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "api/config.h"
#include "api/construct.h"
#include "api/run.h"
#include "core/floating.h"
#include "engine/tile_failure.h"

struct nf_mlp {
    nf_allocator allocator;
    const nf_engine *engine;
    nf_net net;
    size_t hidden[NF_MOST_HIDDEN];
    size_t count; /* parameters */
    void *theta;
    uint64_t structure;
};

static nf_status check_config(const char *function, const nf_mlp_config *c) {
    if (c->inputs == 0 || c->outputs == 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->inputs is %zu and outputs %zu, both must be positive", c->inputs, c->outputs);
    if (c->precision != NF_DOUBLE && c->precision != NF_SINGLE)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->precision is %d, which is none", (int)c->precision);
    if (c->activation < NF_ACTIVATION_DEFAULT || c->activation > NF_SOFTPLUS)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->activation is %d, which is none", (int)c->activation);
    if (!isfinite(c->output_scale))
        return nf_fail(NF_ERR_ARGUMENT, function, "config->output_scale is %g, must be finite", c->output_scale);
    return NF_OK;
}

static nf_status fill(const char *function, const nf_mlp_config *c, nf_mlp *mlp) {
    mlp->engine = nf_engine_choose(c->precision);
    mlp->structure = nf_unique();
    mlp->net = (nf_net){.inputs = c->inputs,
                        .outputs = c->outputs,
                        .activation = c->activation == NF_ACTIVATION_DEFAULT ? NF_GELU : c->activation};
    nf_status status = nf_construct_hidden(function, nf_size_or_none(c->hidden_layers, 2), nf_size_or_none(c->hidden_width, 64),
                                           mlp->hidden, &mlp->net.hidden);
    if (status != NF_OK)
        return status;
    mlp->count = nf_net_parameter_count(&mlp->net);
    if (mlp->count > SIZE_MAX / 64 || mlp->engine->net_thread_size(&mlp->net) == SIZE_MAX)
        return nf_fail(NF_ERR_ARGUMENT, function, "a net of %zu inputs, %zu outputs and %zu hidden layers of %zu has more parameters than can be addressed",
                       c->inputs, c->outputs, mlp->net.hidden.count, mlp->net.hidden.count ? mlp->hidden[0] : 0);
    double *drawn = nf_allocate(&mlp->allocator, mlp->count * sizeof *drawn);
    mlp->theta = nf_allocate(&mlp->allocator, mlp->count * mlp->engine->real_size);
    if (drawn && mlp->theta) {
        const double scale = nf_real_or_none(c->output_scale, 1.0);
        nf_sequence random = nf_sequence_begin(c->seed, 0);
        nf_draw_net(&mlp->net, &random, scale, drawn);
        mlp->engine->from_double(mlp->theta, drawn, mlp->count);
    } else {
        status = nf_fail(NF_ERR_MEMORY, function, "no memory for %zu parameters", mlp->count);
    }
    nf_release(&mlp->allocator, drawn);
    return status;
}

nf_status nf_mlp_create(const nf_mlp_config *config, nf_mlp **out) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "mlp", out);
    if (status != NF_OK)
        return status;
    *out = NULL;
    nf_mlp_config c;
    status = nf_read_config(__func__, config, &c, sizeof c, NF_SIZE_THROUGH(nf_mlp_config, allocator));
    if (status == NF_OK)
        status = check_config(__func__, &c);
    if (status != NF_OK)
        return status;
    const nf_allocator allocator = nf_allocator_or_default(c.allocator);
    nf_mlp *mlp = nf_allocate_zeroed(&allocator, sizeof *mlp);
    if (!mlp)
        return nf_fail(NF_ERR_MEMORY, __func__, "no memory for a net");
    mlp->allocator = allocator;
    status = fill(__func__, &c, mlp);
    if (status != NF_OK) {
        nf_mlp_free(mlp);
        return status;
    }
    *out = mlp;
    return NF_OK;
}

void nf_mlp_free(nf_mlp *mlp) {
    if (!mlp)
        return;
    const nf_allocator allocator = mlp->allocator;
    nf_release(&allocator, mlp->theta);
    nf_release(&allocator, mlp);
}

size_t nf_mlp_parameter_count(const nf_mlp *mlp) { return mlp ? mlp->count : 0; }

nf_status nf_mlp_get_parameters(const nf_mlp *mlp, double *out) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "mlp", mlp);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "out", out);
    if (status != NF_OK)
        return status;
    mlp->engine->to_double(out, mlp->theta, mlp->count);
    return NF_OK;
}

nf_status nf_mlp_set_parameters(nf_mlp *mlp, const double *in) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "mlp", mlp);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "in", in);
    if (status == NF_OK)
        status = nf_check_parameters(__func__, mlp->engine, mlp->count, in);
    if (status != NF_OK)
        return status;
    mlp->engine->from_double(mlp->theta, in, mlp->count);
    return NF_OK;
}

nf_status nf_mlp_workspace_create(const nf_mlp *mlp, nf_workspace **workspace) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "workspace", workspace);
    if (status == NF_OK)
        *workspace = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "mlp", mlp);
    if (status != NF_OK)
        return status;
    status = nf_workspace_make(&mlp->allocator, mlp->engine, mlp->structure, 0, mlp->engine->net_thread_size(&mlp->net), 1, workspace);
    return status == NF_OK ? NF_OK : nf_fail_in(status, __func__);
}

nf_status nf_mlp_gradient_create(const nf_mlp *mlp, nf_gradient **gradient) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "gradient", gradient);
    if (status == NF_OK)
        *gradient = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "mlp", mlp);
    if (status != NF_OK)
        return status;
    return nf_gradient_make(__func__, &mlp->allocator, mlp->engine, mlp->structure, mlp->count, gradient);
}

nf_status nf_mlp_optimizer_create(const nf_mlp *mlp, const nf_optimizer_config *config, nf_optimizer **optimizer) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "optimizer", optimizer);
    if (status == NF_OK)
        *optimizer = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "mlp", mlp);
    if (status != NF_OK)
        return status;
    return nf_optimizer_make(__func__, &mlp->allocator, mlp->engine, mlp->structure, mlp->count, mlp->theta, config, optimizer);
}

static nf_status check_call(const char *function, const nf_mlp *mlp, const nf_workspace *ws, size_t rows, const double *x) {
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "mlp", mlp);
    if (status == NF_OK && rows > 0)
        status = nf_check_pointer(function, "x", x);
    if (status == NF_OK && ws && ws->structure != mlp->structure)
        status = nf_fail(NF_ERR_MISMATCH, function, "ws belongs to something else than this net");
    size_t total;
    if (status == NF_OK && !nf_size_multiply(rows, nf_net_widest(&mlp->net) * sizeof(double), &total))
        status = nf_fail(NF_ERR_ARGUMENT, function, "rows is %zu, which is more than memory can hold", rows);
    return status;
}

/* The rows of a call, and its outputs. */
typedef struct net_call {
    size_t rows;
    const double *x, *grad_y; /* grad_y NULL: there is no pull */
    double *y, *grad_x;
    nf_gradient *gradient;
} net_call;

/* The tiles of a call, one after the other: push, and pull when there are cotangents. */
static void walk(const nf_mlp *mlp, nf_workspace *ws, const net_call *c, bool careful) {
    const nf_engine *engine = mlp->engine;
    engine_thread *thread = &ws->threads[0];
    void *slot = c->gradient ? c->gradient->slots : NULL;
    nf_run_begin(ws);
    if (slot)
        memset(slot, 0, mlp->count * engine->real_size);
    const nf_floating saved = nf_floating_enter();
    for (size_t first = 0; first < c->rows; first += engine->tile_rows) {
        const size_t left = c->rows - first, count = left < engine->tile_rows ? left : engine->tile_rows;
        engine->net_push(&mlp->net, mlp->theta, thread, first, count, c->x, c->grad_y ? NULL : c->y, c->grad_y != NULL);
        if (c->grad_y)
            engine->net_pull(&mlp->net, mlp->theta, thread, c->x, c->grad_y, careful, c->y, c->grad_x, slot);
    }
    nf_floating_leave(saved);
}

/* Whether an output lies where an input was. */
static bool overwrites(const net_call *c) { return c->x == c->y || c->x == c->grad_x || c->grad_y == c->y || c->grad_y == c->grad_x; }

/* As nf_differentiate_lanes: a gradient that is not finite is computed again with care, or with care at once. */
static nf_status run(const char *function, const nf_mlp *mlp, nf_workspace *given, const net_call *c) {
    nf_workspace *ws = given;
    nf_status status = NF_OK;
    if (!given)
        status = nf_workspace_make(&mlp->allocator, mlp->engine, mlp->structure, 0, mlp->engine->net_thread_size(&mlp->net), 1, &ws);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    const bool careful = c->gradient && overwrites(c);
    walk(mlp, ws, c, careful);
    if (c->gradient && !careful && !mlp->engine->finite(c->gradient->slots, mlp->count))
        walk(mlp, ws, c, true);
    if (c->gradient) {
        const nf_floating saved = nf_floating_enter();
        nf_gradient_add(c->gradient, c->gradient->slots);
        nf_floating_leave(saved);
    }
    const engine_bad bad = ws->threads[0].bad;
    ws->stats.bad_rows = bad.count;
    ws->stats.first_bad_row = bad.count ? bad.first : 0;
    if (!given)
        nf_workspace_free(ws);
    if (bad.count == 0)
        return NF_OK;
    if (bad.reason == ROW_SLOPE)
        return nf_fail(NF_ERR_ROWS, function, "row %zu: the gradient is beyond the range of the numbers (%zu bad rows in all)", bad.first, bad.count);
    return nf_fail(NF_ERR_ROWS, function, "row %zu is not finite, in or out (%zu bad rows in all)", bad.first, bad.count);
}

nf_status nf_mlp_forward(const nf_mlp *mlp, nf_workspace *ws, size_t rows, const double *x, double *y) {
    nf_status status = check_call(__func__, mlp, ws, rows, x);
    return status == NF_OK ? run(__func__, mlp, ws, &(net_call){.rows = rows, .x = x, .y = y}) : status;
}

nf_status nf_mlp_vjp(const nf_mlp *mlp, nf_workspace *ws, size_t rows, const double *x, const double *grad_y, double *y, double *grad_x,
                     nf_gradient *gradient) {
    nf_status status = check_call(__func__, mlp, ws, rows, x);
    if (status == NF_OK && rows == 0)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "rows is 0");
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "grad_y", grad_y);
    if (status == NF_OK && gradient && gradient->structure != mlp->structure)
        status = nf_fail(NF_ERR_MISMATCH, __func__, "gradient belongs to something else than this net");
    return status == NF_OK ? run(__func__, mlp, ws, &(net_call){rows, x, grad_y, y, grad_x, gradient}) : status;
}

nf_status nf_mlp_step(nf_optimizer *optimizer, nf_mlp *mlp, const nf_gradient *gradient) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "optimizer", optimizer);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "mlp", mlp);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "gradient", gradient);
    if (status != NF_OK)
        return status;
    if (optimizer->structure != mlp->structure || gradient->structure != mlp->structure)
        return nf_fail(NF_ERR_MISMATCH, __func__, "%s belongs to something else than this net",
                       optimizer->structure != mlp->structure ? "optimizer" : "gradient");
    status = nf_optimizer_apply(optimizer, mlp->theta, gradient);
    return status == NF_OK ? NF_OK : nf_fail_in(status, __func__);
}
