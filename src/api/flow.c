/* Flows: made, joined, inverted, copied; their parameters. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "api/config.h"
#include "api/handles.h"
#include "core/floating.h"

uint64_t nf_unique(void) {
    static _Atomic uint64_t last;
    return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

nf_status nf_check_pointer(const char *function, const char *name, const void *pointer) {
    return pointer ? NF_OK : nf_fail(NF_ERR_ARGUMENT, function, "%s is NULL", name);
}

nf_status nf_check_rows(const char *function, const char *name, const nf_flow *flow, size_t rows) {
    const size_t columns = flow->model.dim > flow->model.context_dim ? flow->model.dim : flow->model.context_dim;
    size_t total;
    if (nf_size_multiply(rows, columns * sizeof(double), &total))
        return NF_OK;
    return nf_fail(NF_ERR_ARGUMENT, function, "%s is %zu, which is more than memory can hold", name, rows);
}

nf_status nf_check_context(const char *function, const char *name, const nf_flow *flow, const double *context) {
    const size_t columns = flow->model.context_dim;
    if (columns == 0 && context)
        return nf_fail(NF_ERR_ARGUMENT, function, "%s is not NULL, and the flow takes none", name);
    if (columns != 0 && !context)
        return nf_fail(NF_ERR_ARGUMENT, function, "%s is NULL, and the flow takes %zu columns", name, columns);
    return NF_OK;
}

bool nf_finite_row(const double *row, size_t columns, const nf_engine *engine) {
    const double most = engine->precision == NF_SINGLE ? (double)__FLT_MAX__ : __DBL_MAX__;
    for (size_t i = 0; i < columns; i++)
        if (!isfinite(row[i]) || fabs(row[i]) > most) /* a comparison with NaN would raise a flag */
            return false;
    return true;
}

static nf_status check_precision(const char *function, nf_precision precision) {
    if (precision == NF_DOUBLE || precision == NF_SINGLE)
        return NF_OK;
    return nf_fail(NF_ERR_ARGUMENT, function, "precision is %d, which is none", (int)precision);
}

nf_status nf_flow_begin(const char *function, const nf_allocator *allocator, size_t dim, size_t context_dim, nf_precision precision,
                        nf_flow **out) {
    nf_status status = check_precision(function, precision);
    if (status != NF_OK)
        return status;
    if (dim == 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "dim is 0");
    const nf_allocator chosen = nf_allocator_or_default(allocator);
    nf_flow *flow = nf_allocate_zeroed(&chosen, sizeof *flow);
    if (!flow)
        return nf_fail(NF_ERR_MEMORY, function, "no memory for a flow");
    flow->allocator = chosen;
    flow->engine = nf_engine_choose(precision);
    nf_model_init(&flow->model, dim, context_dim);
    *out = flow;
    return NF_OK;
}

nf_status nf_flow_add(nf_flow *flow, const nf_layer *draft) {
    if (!flow->engine->supports(draft->kind))
        return nf_fail(NF_ERR_UNSUPPORTED, NULL, "this library has no %s layers", nf_layer_type_of(draft->kind)->name);
    nf_status status = nf_model_reserve(&flow->model, &flow->allocator, 1);
    nf_layer *layer = NULL;
    if (status == NF_OK)
        status = nf_layer_create(&flow->allocator, draft, &layer);
    if (status == NF_OK)
        nf_model_push(&flow->model, layer);
    return status;
}

nf_status nf_flow_finish(nf_flow *flow) {
    nf_status status = nf_model_layout(&flow->model);
    if (status == NF_OK)
        status = nf_model_tensors(&flow->model, &flow->allocator, &flow->tensors, &flow->tensor_count);
    if (status != NF_OK)
        return status;
    flow->theta = nf_allocate_zeroed(&flow->allocator, flow->model.parameter_count * flow->engine->real_size);
    if (!flow->theta)
        return nf_fail(NF_ERR_MEMORY, NULL, "no memory for %zu parameters", flow->model.parameter_count);
    flow->structure = nf_unique();
    flow->epoch = nf_unique();
    return NF_OK;
}

static void clear_inside(nf_flow *flow) {
    nf_model_clear(&flow->model, &flow->allocator);
    nf_release(&flow->allocator, flow->tensors);
    nf_release(&flow->allocator, flow->theta);
}

static void replace_inside(nf_flow *flow, const nf_flow *by) {
    nf_flow old = *flow;
    *flow = *by;
    clear_inside(&old);
}

void nf_flow_put(nf_flow *flow, const double *parameters) {
    flow->engine->from_double(flow->theta, parameters, flow->model.parameter_count);
    flow->epoch = nf_unique();
}

static nf_status create_empty(const char *function, size_t dim, size_t context_dim, nf_precision precision, nf_flow **flow,
                              const nf_allocator *allocator) {
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status != NF_OK)
        return status;
    *flow = NULL;
    if (dim > NF_MOST_COUNT || context_dim > NF_MOST_COUNT)
        return nf_fail(NF_ERR_ARGUMENT, function, "%s is %zu, must be at most %zu", dim > NF_MOST_COUNT ? "dim" : "context_dim",
                       dim > NF_MOST_COUNT ? dim : context_dim, NF_MOST_COUNT);
    nf_flow *made;
    status = nf_flow_begin(function, allocator, dim, context_dim, precision, &made);
    if (status != NF_OK)
        return status;
    status = nf_flow_finish(made);
    if (status != NF_OK) {
        nf_flow_free(made);
        return nf_fail_in(status, function);
    }
    *flow = made;
    return NF_OK;
}

nf_status nf_flow_create_with(size_t dim, size_t context_dim, nf_precision precision, nf_flow **flow, const nf_allocator *allocator) {
    return create_empty(__func__, dim, context_dim, precision, flow, allocator);
}

nf_status nf_flow_create(size_t dim, size_t context_dim, nf_precision precision, nf_flow **flow) {
    return create_empty(__func__, dim, context_dim, precision, flow, NULL);
}

void nf_flow_free(nf_flow *flow) {
    if (!flow)
        return;
    const nf_allocator allocator = flow->allocator;
    clear_inside(flow);
    nf_release(&allocator, flow);
}

size_t nf_flow_dim(const nf_flow *flow) { return flow ? flow->model.dim : 0; }

size_t nf_flow_context_dim(const nf_flow *flow) { return flow ? flow->model.context_dim : 0; }

size_t nf_flow_layer_count(const nf_flow *flow) { return flow ? flow->model.layer_count : 0; }

nf_precision nf_flow_precision(const nf_flow *flow) { return flow ? flow->engine->precision : NF_DOUBLE; }

const char *nf_flow_isa(const nf_flow *flow) { return flow ? flow->engine->isa : ""; }

static nf_status check_append(const char *function, const nf_flow *flow, const nf_flow *part) {
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status == NF_OK)
        status = nf_check_pointer(function, "part", part);
    if (status != NF_OK)
        return status;
    if (flow == part)
        return nf_fail(NF_ERR_ARGUMENT, function, "part is the flow itself");
    if (part->model.dim != flow->model.dim)
        return nf_fail(NF_ERR_MISMATCH, function, "part has %zu dimensions, flow has %zu", part->model.dim, flow->model.dim);
    if (part->model.context_dim != 0 && part->model.context_dim != flow->model.context_dim)
        return nf_fail(NF_ERR_MISMATCH, function, "part has context_dim %zu, flow has %zu", part->model.context_dim,
                       flow->model.context_dim);
    if (part->engine->precision != flow->engine->precision)
        return nf_fail(NF_ERR_MISMATCH, function, "part and flow have different precisions");
    if (!nf_model_base_is_standard(&part->model))
        return nf_fail(NF_ERR_ARGUMENT, function, "part has a base of its own, and only N(0, I) can be appended");
    return NF_OK;
}

/* The layers of both, with flow's base, in flow's memory. */
static nf_status join_models(const nf_flow *flow, const nf_flow *part, nf_model *joined) {
    nf_status status = nf_model_copy(&flow->model, &flow->allocator, joined);
    if (status != NF_OK)
        return status;
    status = nf_model_reserve(joined, &flow->allocator, part->model.layer_count);
    for (size_t i = 0; status == NF_OK && i < part->model.layer_count; i++) {
        nf_layer *layer;
        status = nf_layer_create(&flow->allocator, part->model.layers[i], &layer);
        if (status == NF_OK)
            nf_model_push(joined, layer);
    }
    if (status == NF_OK)
        status = nf_model_layout(joined);
    if (status != NF_OK)
        nf_model_clear(joined, &flow->allocator);
    return status;
}

nf_status nf_flow_append(nf_flow *flow, nf_flow *part) {
    NF_CALL;
    nf_clear_error();
    nf_status status = check_append(__func__, flow, part);
    if (status != NF_OK)
        return status;
    nf_flow joined = {.allocator = flow->allocator, .engine = flow->engine};
    status = join_models(flow, part, &joined.model);
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    status = nf_flow_finish(&joined);
    if (status != NF_OK) {
        clear_inside(&joined);
        return nf_fail_in(status, __func__);
    }
    const size_t size = flow->engine->real_size, head = flow->model.parameter_count * size;
    memcpy(joined.theta, flow->theta, head);
    memcpy((unsigned char *)joined.theta + head, part->theta, part->model.parameter_count * size);
    replace_inside(flow, &joined);
    nf_flow_free(part);
    return NF_OK;
}

nf_status nf_flow_invert(nf_flow *flow) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    nf_flow reversed = {.allocator = flow->allocator, .engine = flow->engine};
    status = nf_model_copy(&flow->model, &flow->allocator, &reversed.model);
    if (status == NF_OK) {
        nf_model_reverse(&reversed.model);
        status = nf_flow_finish(&reversed);
        if (status != NF_OK)
            clear_inside(&reversed);
    }
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    const size_t size = flow->engine->real_size, count = flow->model.layer_count;
    for (size_t i = 0; i < count; i++) {
        const nf_layer *from = flow->model.layers[i], *to = reversed.model.layers[count - 1 - i];
        memcpy((unsigned char *)reversed.theta + to->parameter_offset * size,
               (const unsigned char *)flow->theta + from->parameter_offset * size, from->parameter_count * size);
    }
    replace_inside(flow, &reversed);
    return NF_OK;
}

nf_status nf_flow_set_base_normal(nf_flow *flow, const double *mean, const double *sd) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    for (size_t i = 0; i < flow->model.dim; i++) {
        if (mean && !isfinite(mean[i]))
            return nf_fail(NF_ERR_ARGUMENT, __func__, "mean[%zu] is %g, must be finite", i, mean[i]);
        if (sd && (!isfinite(sd[i]) || sd[i] <= 0.0))
            return nf_fail(NF_ERR_ARGUMENT, __func__, "sd[%zu] is %g, must be positive and finite", i, sd[i]);
    }
    status = nf_model_set_base(&flow->model, &flow->allocator, mean, sd);
    return status == NF_OK ? NF_OK : nf_fail_in(status, __func__);
}

static nf_status copy_flow(const nf_flow *flow, nf_precision precision, nf_flow **out) {
    nf_flow *copy;
    nf_status status = nf_flow_begin(NULL, &flow->allocator, flow->model.dim, flow->model.context_dim, precision, &copy);
    if (status != NF_OK)
        return status;
    status = nf_model_copy(&flow->model, &copy->allocator, &copy->model);
    if (status == NF_OK)
        status = nf_flow_finish(copy);
    if (status != NF_OK) {
        nf_flow_free(copy);
        return status;
    }
    *out = copy;
    return NF_OK;
}

nf_status nf_flow_clone(const nf_flow *flow, nf_flow **copy) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "copy", copy);
    if (status == NF_OK)
        *copy = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    nf_flow *made;
    status = copy_flow(flow, flow->engine->precision, &made);
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    memcpy(made->theta, flow->theta, flow->model.parameter_count * flow->engine->real_size);
    made->engine = flow->engine; /* whatever NFLOW_ISA says now: workspaces of one serve the other */
    made->structure = flow->structure;
    *copy = made;
    return NF_OK;
}

nf_status nf_flow_convert(const nf_flow *flow, nf_precision precision, nf_flow **copy) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "copy", copy);
    if (status == NF_OK)
        *copy = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK)
        status = check_precision(__func__, precision);
    if (status != NF_OK)
        return status;
    nf_flow *made;
    for (size_t i = 0; status == NF_OK && i < flow->model.layer_count; i++)
        status = nf_layer_check_reals(flow->model.layers[i], precision);
    if (status == NF_OK)
        status = copy_flow(flow, precision, &made);
    if (status != NF_OK)
        return nf_fail_in(status, __func__);
    const size_t count = flow->model.parameter_count;
    double *values = nf_allocate(&flow->allocator, count * sizeof *values);
    if (!values) {
        nf_flow_free(made);
        return nf_fail(NF_ERR_MEMORY, __func__, "no memory for %zu parameters", count);
    }
    flow->engine->to_double(values, flow->theta, count);
    nf_flow_put(made, values);
    const bool finite = made->engine->finite(made->theta, count);
    nf_release(&flow->allocator, values);
    if (!finite) {
        nf_flow_free(made);
        return nf_fail(NF_ERR_ARGUMENT, __func__, "a parameter is not finite in the precision asked for");
    }
    *copy = made;
    return NF_OK;
}

size_t nf_parameter_count(const nf_flow *flow) { return flow ? flow->model.parameter_count : 0; }

nf_status nf_get_parameters(const nf_flow *flow, double *out) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "out", out);
    if (status != NF_OK)
        return status;
    flow->engine->to_double(out, flow->theta, flow->model.parameter_count);
    return NF_OK;
}

nf_status nf_check_parameters(const char *function, const nf_engine *engine, size_t count, const double *in) {
    for (size_t i = 0; i < count; i++)
        if (!nf_finite_row(&in[i], 1, engine))
            return nf_fail(NF_ERR_ARGUMENT, function, "in[%zu] is %g, must be finite in the precision of the parameters", i, in[i]);
    return NF_OK;
}

nf_status nf_set_parameters(nf_flow *flow, const double *in) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "in", in);
    if (status == NF_OK)
        status = nf_check_parameters(__func__, flow->engine, flow->model.parameter_count, in);
    if (status != NF_OK)
        return status;
    nf_flow_put(flow, in);
    return NF_OK;
}

size_t nf_tensor_count(const nf_flow *flow) { return flow ? flow->tensor_count : 0; }

nf_status nf_tensor_info(const nf_flow *flow, size_t index, nf_tensor *info) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "info", info);
    if (status == NF_OK)
        status = nf_check_room(__func__, "info", info, NF_SIZE_THROUGH(nf_tensor, offset));
    if (status != NF_OK)
        return status;
    if (index >= flow->tensor_count)
        return nf_fail(NF_ERR_ARGUMENT, __func__, "index is %zu in a flow of %zu tensors", index, flow->tensor_count);
    const nf_model_tensor *t = &flow->tensors[index];
    const nf_tensor known = {.name = t->name, .rank = t->rank, .shape = {t->shape[0], t->shape[1]}, .offset = t->offset};
    nf_write_struct(info, &known, sizeof known);
    return NF_OK;
}
