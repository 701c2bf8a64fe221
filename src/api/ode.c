/* The solver of the continuous layers, for systems of the caller's. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "api/config.h"
#include "api/construct.h"
#include "core/floating.h"

/* What the callback needs; its status ends the solve. */
typedef struct caller {
    nf_ode_fn f;
    void *user;
    nf_status status;
} caller;

static bool call_back(void *user, size_t count, const size_t *row, const double *t, const double *y, double *dydt) {
    caller *c = user;
    nf_clear_error();
    c->status = NF_CALL_OUT(c->f(c->user, count, row, t, y, dydt));
    return c->status == NF_OK;
}

static nf_status check_settings(const char *function, const nf_ode_config *c) {
    if (c->method < NF_DOPRI5 || c->method > NF_EULER)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->method is %d, which is none", (int)c->method);
    if (c->reserved != 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->reserved is %d, must be 0", c->reserved);
    if (!isfinite(c->rtol) || !isfinite(c->atol) || (c->rtol < 0.0 && c->atol < 0.0))
        return nf_fail(NF_ERR_ARGUMENT, function, "config->rtol is %g and atol %g, must be finite and not both 0", c->rtol, c->atol);
    if (c->max_steps == NF_NONE)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->max_steps is none, must be positive");
    return NF_OK;
}

static nf_status check_times(const char *function, const ode_task *task, bool *backward) {
    if (!isfinite(task->t0) || !isfinite(task->t1) || task->t0 == task->t1 || !isfinite(task->t1 - task->t0))
        return nf_fail(NF_ERR_ARGUMENT, function, "t0 is %g and t1 %g, must be finite and different", task->t0, task->t1);
    return nf_check_instants(function, task->t0, task->t1, task->time_count, task->times, backward);
}

static nf_status check(const char *function, const ode_task *task, nf_ode_fn f) {
    nf_status status = NF_OK;
    if (task->size == 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "size is 0");
    if (!f)
        return nf_fail(NF_ERR_ARGUMENT, function, "f is NULL");
    if (task->rows > 0)
        status = nf_check_pointer(function, "y", task->y);
    if (status == NF_OK && task->time_count > 0)
        status = nf_check_pointer(function, "t", task->times);
    if (status == NF_OK && task->time_count > 0 && task->rows > 0)
        status = nf_check_pointer(function, "path", task->path);
    if (status != NF_OK)
        return status;
    size_t total;
    if (!nf_size_multiply(task->rows, task->size, &total) || !nf_size_multiply(total, sizeof(double), &total) ||
        !nf_size_multiply(total, task->time_count ? task->time_count : 1, &total))
        return nf_fail(NF_ERR_ARGUMENT, function, "rows is %zu, size %zu and times %zu, more than memory can hold", task->rows, task->size,
                       task->time_count);
    return NF_OK;
}

static void take_settings(const nf_ode_config *c, ode_task *task) {
    const bool controlled = c->method <= NF_BOSH3;
    const size_t standard = controlled ? 0 : 32;
    task->method = c->method;
    task->rtol = nf_real_or_none(c->rtol, 1e-7);
    task->atol = nf_real_or_none(c->atol, 1e-9);
    task->steps = c->steps == NF_NONE ? standard : nf_size_or_none(c->steps, standard);
    task->max_steps = nf_size_or_none(c->max_steps, 10000);
}

/* The bad rows into the statistics; the line about the first. */
static nf_status conclude(const char *function, const ode_task *task, nf_stats *stats) {
    size_t bad = 0, first = 0;
    for (size_t r = task->rows; r-- > 0;)
        if (task->outcome[r] != ODE_ARRIVED) {
            bad++;
            first = r;
        }
    if (stats) {
        const nf_stats known = {.bad_rows = bad,
                                .first_bad_row = first,
                                .rhs_evaluations = task->evaluations,
                                .steps_accepted = task->accepted,
                                .steps_rejected = task->rejected};
        nf_write_struct(stats, &known, sizeof known);
    }
    if (bad == 0)
        return NF_OK;
    static const char *const reasons[] = {[ODE_ARRIVED] = "",
                                          [ODE_UNDERFLOW] = "the step underflowed",
                                          [ODE_BUDGET] = "max_steps were not enough",
                                          [ODE_START] = "y is not finite at t0",
                                          [ODE_RANGE] = "y is beyond the range of the numbers"};
    return nf_fail(NF_ERR_ROWS, function, "row %zu: %s (%zu of %zu rows are bad)", first, reasons[task->outcome[first]], bad, task->rows);
}

static nf_status solve(const char *function, const nf_allocator *allocator, ode_task *task, caller *c, nf_stats *stats) {
    const nf_engine *engine = nf_engine_choose(NF_DOUBLE);
    const size_t size = engine->ode_memory(task->size);
    void *memory = size == SIZE_MAX ? NULL : nf_allocate(allocator, size);
    task->outcome = nf_allocate_zeroed(allocator, task->rows);
    nf_status status = NF_OK;
    if (!memory || !task->outcome) {
        status = nf_fail(NF_ERR_MEMORY, function, "no memory for %zu systems of %zu components", task->rows, task->size);
    } else {
        const bool through = engine->ode_solve(task, memory);
        status = through ? conclude(function, task, stats) : nf_fail_of(c->status, function, "f");
    }
    nf_release(allocator, task->outcome);
    nf_release(allocator, memory);
    return status;
}

nf_status nf_ode_solve(const nf_ode_config *config, size_t rows, size_t size, nf_ode_fn f, void *user, double t0, double t1, double *y,
                       size_t times, const double *t, double *path, nf_stats *stats) {
    NF_CALL;
    nf_clear_error();
    const nf_ode_config defaults = {.struct_size = sizeof defaults};
    nf_ode_config c;
    nf_status status = nf_read_config(__func__, config ? config : &defaults, &c, sizeof c, NF_SIZE_THROUGH(nf_ode_config, allocator));
    if (status == NF_OK)
        status = check_settings(__func__, &c);
    if (status == NF_OK && stats)
        status = nf_check_room(__func__, "stats", stats, NF_SIZE_THROUGH(nf_stats, root_iterations));
    caller back = {.f = f, .user = user, .status = NF_OK};
    ode_task task = {.t0 = t0,
                     .t1 = t1,
                     .rows = rows,
                     .size = size,
                     .rhs = call_back,
                     .user = &back,
                     .y = y,
                     .times = t,
                     .time_count = times,
                     .path = path};
    if (status == NF_OK)
        status = check(__func__, &task, f);
    if (status == NF_OK)
        status = check_times(__func__, &task, &task.times_backward);
    if (status != NF_OK)
        return status;
    take_settings(&c, &task);
    const nf_allocator allocator = nf_allocator_or_default(c.allocator);
    return solve(__func__, &allocator, &task, &back, stats);
}
