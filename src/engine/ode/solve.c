#include "engine/ode/solve.h"

#include <string.h>

#include "engine/ode/integrate.h"

/* One panel of rows: the callback sees only the lanes that are active, row by row. */
typedef struct session {
    ode_task *task;
    size_t first, rows;
    double *y, *dydt; /* [PANEL][size] */
    bool stop;
} session;

/* In bytes: state, flags, the solver's memory, and the rows that the callback sees. */
typedef struct layout {
    size_t state, active, solver, y, dydt, bytes;
} layout;

static bool place(size_t *total, size_t count, size_t size, size_t *offset) {
    size_t bytes;
    *offset = *total;
    if (!nf_size_multiply(count, size, &bytes) || !nf_size_add(*total, bytes, total) || !nf_size_add(*total, NF_ALIGN - 1, total))
        return false;
    *total &= ~(size_t)(NF_ALIGN - 1);
    return true;
}

static bool lay_out(size_t size, layout *l) {
    *l = (layout){0};
    if (size > SIZE_MAX / sizeof(real) / PANEL / (4 * ODE_STAGES))
        return false;
    return place(&l->bytes, size * PANEL, sizeof(real), &l->state) && place(&l->bytes, 2 * PANEL, 1, &l->active) &&
           place(&l->bytes, R(ode_scratch_size)(1, size), sizeof(real), &l->solver) &&
           place(&l->bytes, size * PANEL, sizeof(double), &l->y) && place(&l->bytes, size * PANEL, sizeof(double), &l->dydt);
}

size_t R(ode_rows_memory)(size_t size) {
    layout l;
    return lay_out(size, &l) ? l.bytes : SIZE_MAX;
}

static void call_back(void *user, size_t panel, size_t stage, const double *t, const unsigned char *active, const real *y, real *k) {
    session *s = user;
    const size_t size = s->task->size;
    size_t row[PANEL] = {0}, count = 0;
    double at[PANEL] = {0};
    (void)panel;
    (void)stage;
    if (s->stop)
        return;
    for (size_t l = 0; l < s->rows; l++) {
        if (!active[l])
            continue;
        for (size_t c = 0; c < size; c++)
            s->y[count * size + c] = (double)y[c * PANEL + l];
        row[count] = s->first + l;
        at[count++] = t[l];
    }
    if (count == 0)
        return;
    s->stop = !s->task->rhs(s->task->user, count, row, at, s->y, s->dydt);
    for (size_t i = 0; i < count && !s->stop; i++)
        for (size_t c = 0; c < size; c++)
            k[c * PANEL + row[i] - s->first] = (real)s->dydt[i * size + c];
}

static double *path_row(const session *s, size_t index, size_t lane) {
    return s->task->path + (index * s->task->rows + s->first + lane) * s->task->size;
}

static void keep_sample(void *user, size_t index, size_t lane, const real *y) {
    const session *s = user;
    double *row = path_row(s, index, lane);
    for (size_t c = 0; c < s->task->size; c++)
        row[c] = (double)y[c * PANEL];
}

static bool finite_lane(size_t size, const real *lane) {
    for (size_t c = 0; c < size; c++)
        if (!isfinite(lane[c * PANEL]))
            return false;
    return true;
}

/* Rows that could not be followed are NaN from start to end. */
static void store_rows(const session *s, const real *state, unsigned char *outcome) {
    const ode_task *task = s->task;
    for (size_t l = 0; l < s->rows; l++) {
        double *row = task->y + (s->first + l) * task->size;
        if (outcome[l] == ODE_ARRIVED && !finite_lane(task->size, state + l))
            outcome[l] = ODE_RANGE;
        const bool failed = outcome[l] != ODE_ARRIVED;
        task->outcome[s->first + l] = outcome[l];
        for (size_t c = 0; c < task->size; c++)
            row[c] = failed ? NAN : (double)state[c * PANEL + l];
        for (size_t i = 0; failed && i < task->time_count; i++)
            for (size_t c = 0; c < task->size; c++)
                path_row(s, i, l)[c] = NAN;
    }
}

static void load_rows(const session *s, real *state, unsigned char *active, unsigned char *outcome) {
    const ode_task *task = s->task;
    memset(state, 0, task->size * PANEL * sizeof(real));
    memset(active, 0, PANEL);
    for (size_t l = 0; l < s->rows; l++) {
        for (size_t c = 0; c < task->size; c++)
            state[c * PANEL + l] = (real)task->y[(s->first + l) * task->size + c];
        active[l] = finite_lane(task->size, state + l);
        outcome[l] = ODE_START;
    }
}

bool R(ode_solve_rows)(ode_task *task, void *memory) {
    unsigned char *base = memory;
    layout l;
    lay_out(task->size, &l);
    real *state = (real *)(void *)(base + l.state);
    unsigned char *active = base + l.active, *outcome = active + PANEL;
    session s = {.task = task, .y = (double *)(void *)(base + l.y), .dydt = (double *)(void *)(base + l.dydt)};
    const ode_problem problem = {.tableau = R(ode_tableau_of)(task->method),
                                 .t0 = task->t0,
                                 .t1 = task->t1,
                                 .rtol = task->rtol,
                                 .atol = task->atol,
                                 .steps = task->steps,
                                 .max_steps = task->max_steps,
                                 .samples = task->times,
                                 .sample_count = task->time_count,
                                 .samples_backward = task->times_backward,
                                 .stop = &s.stop};
    const ode_field field = {.user = &s, .size = task->size, .controlled = task->size, .rhs = call_back, .sample = keep_sample};
    for (s.first = 0; s.first < task->rows && !s.stop; s.first += PANEL) {
        ode_run run = {.panels = 1, .y = state, .active = active, .outcome = outcome, .scratch = (real *)(void *)(base + l.solver)};
        s.rows = task->rows - s.first < PANEL ? task->rows - s.first : PANEL;
        load_rows(&s, state, active, outcome);
        R(ode_integrate)(&problem, &field, &run);
        task->evaluations += run.evaluations;
        task->accepted += run.accepted;
        task->rejected += run.rejected;
        if (!s.stop)
            store_rows(&s, state, outcome);
    }
    return !s.stop;
}
