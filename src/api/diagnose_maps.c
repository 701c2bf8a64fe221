/*
 * Checks of the two maps: whether one undoes the other, whether log_det is that of the Jacobian, and whether derivatives are those of the numbers that they belong to.
 * Errors are measured against what the condition of the map allows.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "api/diagnose.h"

/* Random cotangents for each norm; |J' g|^2 has the mean |J|^2 (Frobenius) when g is standard normal. */
enum { PROBES = 8, DIRECTIONS = 4 };
/* Steps of differences: the next is this power of two shorter. */
enum { STEPS = 4, SHORTER = -7 };
#define MOST_JACOBIAN ((size_t)64)

typedef struct map_state {
    double *z, *x, *log_det, *back;   /* of the inverse, and of the forward map at z */
    double *norm, *forward_norm;      /* |J| / sqrt(dim) of the inverse and the forward map, each row */
    double *condition;                /* their product */
    double tolerance;                 /* relative error that arithmetic and solvers leave */
} map_state;

static double solver_tolerance(const nf_flow *flow) {
    double worst = 0;
    for (size_t i = 0; i < flow->model.layer_count; i++) {
        const nf_layer *layer = flow->model.layers[i];
        if (layer->kind == NF_LAYER_CNF) /* nothing controls the error of fixed steps: this much is asked of them */
            worst = fmax(worst, layer->cnf.method >= NF_RK4 ? 1e-4 : fmax(layer->cnf.rtol, layer->cnf.atol));
    }
    return worst;
}

static void fill_normal(nf_diagnosis *d, double *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = nf_sequence_normal(&d->random);
}

static double base_sd(const nf_diagnosis *d, size_t column) { return d->flow->model.sd ? d->flow->model.sd[column] : 1.0; }

/* ---- round trip and condition ---- */

static void measure_norm(nf_diagnosis *d, const double *at, bool inverse, double *norm) {
    const size_t n = d->exact_rows, mark = d->block_count;
    double *g = nf_diagnosis_numbers(d, n * d->dim), *back = nf_diagnosis_numbers(d, n * d->dim);
    for (size_t p = 0; p < PROBES && d->status == NF_OK; p++) {
        fill_normal(d, g, n * d->dim);
        nf_diagnosis_did(d, inverse ? d->calls->inverse_vjp(d->exact, d->exact_workspace, n, at, d->context, g, NULL, back, NULL, NULL)
                                    : d->calls->forward_vjp(d->exact, d->exact_workspace, n, at, d->context, g, NULL, back, NULL, NULL));
        for (size_t i = 0; i < n * d->dim; i++)
            norm[i / d->dim] += back[i] * back[i] / (double)(PROBES * d->dim);
    }
    for (size_t r = 0; r < n && d->status == NF_OK; r++)
        norm[r] = sqrt(norm[r]);
    nf_diagnosis_drop(d, mark);
}

static bool begin_maps(nf_diagnosis *d, map_state *s) {
    const size_t n = d->exact_rows;
    s->z = nf_diagnosis_numbers(d, n * d->dim);
    s->x = nf_diagnosis_numbers(d, n * d->dim);
    s->log_det = nf_diagnosis_numbers(d, n);
    s->back = nf_diagnosis_numbers(d, n);
    s->norm = nf_diagnosis_numbers(d, n);
    s->forward_norm = nf_diagnosis_numbers(d, n);
    s->condition = nf_diagnosis_numbers(d, n);
    s->tolerance = 1e3 * (d->flow->engine->precision == NF_SINGLE ? FLT_EPSILON : DBL_EPSILON) + 100 * solver_tolerance(d->flow);
    if (d->status != NF_OK)
        return false;
    if (!nf_diagnosis_did(d, d->calls->inverse(d->flow, d->workspace, n, d->x, d->context, s->z, s->log_det)) ||
        !nf_diagnosis_did(d, d->calls->forward(d->flow, d->workspace, n, s->z, d->context, s->x, s->back)))
        return false;
    measure_norm(d, d->x, true, s->norm);
    measure_norm(d, s->z, false, s->forward_norm);
    for (size_t r = 0; r < n && d->status == NF_OK; r++)
        s->condition[r] = fmax(1.0, s->norm[r] * s->forward_norm[r]);
    return d->status == NF_OK;
}

/* The error of a row over what it may be; not a number is the worst of all. */
static double excess(double error, double allowed) { return isfinite(error) ? error / allowed : INFINITY; }

static void sort_numbers(double *values, size_t count) { /* few of them */
    for (size_t i = 1; i < count; i++) {
        const double v = values[i];
        size_t k = i;
        for (; k > 0 && values[k - 1] > v; k--)
            values[k] = values[k - 1];
        values[k] = v;
    }
}

static void check_round_trip(nf_diagnosis *d, const map_state *s) {
    const size_t n = d->exact_rows, mark = d->block_count;
    double *errors = nf_diagnosis_numbers(d, n), worst = -1, pair_worst = -1;
    nf_diagnose_report *report = &d->report;
    for (size_t r = 0; r < n && d->status == NF_OK; r++) {
        double size = 1, pair = fabs(s->log_det[r] + s->back[r]);
        for (size_t i = 0; i < d->dim; i++) {
            const double error = fabs(s->x[r * d->dim + i] - d->x[r * d->dim + i]);
            size = fmax(size, fabs(d->x[r * d->dim + i]));
            errors[r] = isnan(error) || isnan(errors[r]) ? NAN : fmax(errors[r], error);
        }
        errors[r] = isnan(errors[r]) ? INFINITY : errors[r] / size;
        const double allowed = s->tolerance * s->condition[r], allowed_pair = allowed * (double)d->dim * fmax(1.0, fabs(s->log_det[r]));
        if (excess(errors[r], allowed) > worst) {
            worst = excess(errors[r], allowed);
            report->round_trip = nf_finding_of_error(errors[r], allowed);
            report->round_trip_condition = s->condition[r];
            report->round_trip_row = d->row_of[r];
        }
        if (excess(pair, allowed_pair) > pair_worst) {
            pair_worst = excess(pair, allowed_pair);
            report->log_det_pair = nf_finding_of_error(pair, allowed_pair);
        }
    }
    if (d->status == NF_OK) {
        sort_numbers(errors, n);
        report->round_trip_typical = errors[n / 2];
    }
    nf_diagnosis_drop(d, mark);
}

/* ---- log_det against the Jacobian ---- */

/* log|det a| by elimination with partial pivoting; a is destroyed. */
static double log_abs_det(double *a, size_t n) {
    double sum = 0;
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[pivot * n + k]))
                pivot = i;
        for (size_t j = 0; j < n; j++) {
            const double swap = a[k * n + j];
            a[k * n + j] = a[pivot * n + j];
            a[pivot * n + j] = swap;
        }
        sum += log(fabs(a[k * n + k]));
        for (size_t i = k + 1; i < n; i++) {
            const double factor = a[i * n + k] / a[k * n + k];
            for (size_t j = k + 1; j < n; j++)
                a[i * n + j] -= factor * a[k * n + j];
        }
    }
    return sum;
}

typedef struct jacobian_memory {
    double *at, *context, *out, *matrix;
} jacobian_memory;

/* No less than the numbers around x can tell; other columns may be narrower than that. */
static double step_along(double x, double step) { return fmax(step, 1e-9 * fabs(x)); }

/* Central differences, with steps that move z by about `move` when they are `step`. */
static double difference_log_det(nf_diagnosis *d, const jacobian_memory *m, size_t row, double step) {
    const size_t dim = d->dim, points = 2 * dim;
    for (size_t p = 0; p < points; p++) {
        double *at = m->at + p * dim;
        memcpy(at, d->x + row * dim, dim * sizeof(double));
        const double along = step_along(at[p / 2], step);
        at[p / 2] += p % 2 ? -along : along;
        if (d->context_dim)
            memcpy(m->context + p * d->context_dim, d->context + row * d->context_dim, d->context_dim * sizeof(double));
    }
    nf_diagnosis_did(d, d->calls->inverse(d->exact, d->exact_workspace, points, m->at, d->context_dim ? m->context : NULL, m->out, NULL));
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j < dim; j++) {
            /* The step as it came out in the numbers around x. */
            const double moved = m->at[2 * i * dim + i] - m->at[(2 * i + 1) * dim + i];
            m->matrix[i * dim + j] = (m->out[2 * i * dim + j] - m->out[(2 * i + 1) * dim + j]) / moved;
        }
    return log_abs_det(m->matrix, dim);
}

static void check_log_det(nf_diagnosis *d, const map_state *s) {
    const size_t n = d->exact_rows, dim = d->dim, mark = d->block_count;
    const double move = d->continuous ? 1e-4 : 1e-5, relative = d->continuous ? 1e-5 : 1e-6;
    if (dim > MOST_JACOBIAN)
        return;
    double *log_det = nf_diagnosis_numbers(d, n), worst = -1;
    const jacobian_memory m = {.at = nf_diagnosis_numbers(d, 2 * dim * dim),
                               .context = nf_diagnosis_numbers(d, 2 * dim * d->context_dim),
                               .out = nf_diagnosis_numbers(d, 2 * dim * dim),
                               .matrix = nf_diagnosis_numbers(d, dim * dim)};
    if (d->status == NF_OK)
        nf_diagnosis_did(d, d->calls->inverse(d->exact, d->exact_workspace, n, d->x, d->context, NULL, log_det));
    for (size_t r = 0; r < n && d->status == NF_OK; r++) {
        const double step = move / s->norm[r];
        double rounding = 0; /* the size of a coordinate over its step */
        for (size_t i = 0; i < dim; i++)
            rounding = fmax(rounding, fabs(d->x[r * dim + i]) / step_along(d->x[r * dim + i], step));
        const double error = fabs(log_det[r] - difference_log_det(d, &m, r, step));
        const double allowed = (double)dim * s->condition[r] * (relative + 16 * DBL_EPSILON * rounding);
        if (excess(error, allowed) > worst) {
            worst = excess(error, allowed);
            d->report.log_det = nf_finding_of_error(error, allowed);
            d->report.log_det_row = d->row_of[r];
        }
    }
    nf_diagnosis_drop(d, mark);
}

static void check_accuracy(nf_diagnosis *d, const map_state *s) {
    const size_t n = d->exact_rows, mark = d->block_count;
    if (!d->continuous && d->flow->engine->precision == NF_DOUBLE)
        return;
    double *own = nf_diagnosis_numbers(d, n), *exact = nf_diagnosis_numbers(d, n), worst = -1;
    if (d->status == NF_OK && nf_diagnosis_did(d, d->calls->log_prob(d->flow, d->workspace, n, d->x, d->context, own)))
        nf_diagnosis_did(d, d->calls->log_prob(d->exact, d->exact_workspace, n, d->x, d->context, exact));
    for (size_t r = 0; r < n && d->status == NF_OK; r++) {
        const double error = fabs(own[r] - exact[r]), allowed = s->tolerance * s->condition[r] * ((double)d->dim + fabs(exact[r]));
        if (excess(error, allowed) > worst) {
            worst = excess(error, allowed);
            d->report.accuracy = nf_finding_of_error(error, allowed);
        }
    }
    nf_diagnosis_drop(d, mark);
}

/* ---- derivatives, along random directions of the parameters and inputs together ---- */

typedef struct slope {
    double *theta, *moved, *way;                     /* parameters, and a direction among them */
    double *at, *at_moved, *at_way;                  /* the map's input, rows x dim */
    double *context, *context_moved, *context_way;
    double *cotangent, *cotangent_log_det;           /* of the map's output */
    double *out, *log_det, *grad_at, *grad_context, *grad_theta;
} slope;

static bool take_slope(nf_diagnosis *d, slope *s) {
    const size_t n = d->exact_rows, size = n * d->dim, context = n * d->context_dim;
    double **const parameters[] = {&s->theta, &s->moved, &s->way, &s->grad_theta};
    double **const rows[] = {&s->at_moved, &s->at_way, &s->cotangent, &s->out, &s->grad_at};
    double **const contexts[] = {&s->context_moved, &s->context_way, &s->grad_context};
    for (size_t i = 0; i < sizeof parameters / sizeof parameters[0]; i++)
        *parameters[i] = nf_diagnosis_numbers(d, d->parameters);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        *rows[i] = nf_diagnosis_numbers(d, size);
    for (size_t i = 0; i < sizeof contexts / sizeof contexts[0]; i++)
        *contexts[i] = d->context_dim ? nf_diagnosis_numbers(d, context) : NULL;
    s->cotangent_log_det = nf_diagnosis_numbers(d, n);
    s->log_det = nf_diagnosis_numbers(d, n);
    s->context = d->context;
    return d->status == NF_OK && nf_diagnosis_did(d, nf_get_parameters(d->exact, s->theta));
}

static double dot(const double *a, const double *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

static double largest(const double *a, size_t count) {
    double most = 0;
    for (size_t i = 0; i < count; i++)
        most = fmax(most, fabs(a[i]));
    return most;
}

static void move(double *to, const double *from, const double *way, double step, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = from[i] + step * way[i];
}

static bool is_called(const nf_tensor *t, const char *name) {
    const char *end = strrchr(t->name, '.');
    return end && strcmp(end + 1, name) == 0;
}

/*
 * Steps in proportion to the size of each tensor, so that no layer leaves its straight part. Small ones are moved as those of 0.1 are, but for the w of a
 * planar layer, of which only the direction says little however short it is. Those of a shift are in proportion to the scale beside it, of an affine layer, where the
 * log scales stand before it: a column may lie far from 0 and be narrow. However large the numbers are, the steps and their squares stay finite.
 */
static void choose_way(nf_diagnosis *d, slope *s) {
    fill_normal(d, s->way, d->parameters);
    for (size_t i = 0; i < nf_tensor_count(d->exact); i++) {
        nf_tensor t = {.struct_size = sizeof t};
        if (!nf_diagnosis_did(d, nf_tensor_info(d->exact, i, &t)))
            return;
        const size_t count = t.shape[0] * t.shape[1];
        const double *theta = s->theta + t.offset, longest = largest(theta, count);
        const double least = is_called(&t, "w") && longest > 0 ? fmin(longest, 0.1) : 0.1;
        const double size = fmax(sqrt(dot(theta, theta, count) / (double)count), least);
        const bool is_shift = is_called(&t, "shift");
        for (size_t k = 0; k < count; k++)
            s->way[t.offset + k] *= fmin(is_shift ? exp(s->theta[t.offset + k - count]) : size, 1e150);
    }
}

/* What a derivative along a random way is like: |gradient| |way| / sqrt(count). */
static double typical_slope(const double *gradient, const double *way, size_t count) {
    return count ? sqrt(dot(gradient, gradient, count) * dot(way, way, count) / (double)count) : 0;
}

static double step_of(const nf_diagnosis *d) { return d->continuous ? 1e-4 : 1e-5; }

static void put_parameters(nf_diagnosis *d, const double *theta) { nf_diagnosis_did(d, nf_set_parameters(d->exact, theta)); }

/* A derivative along a way, what it is like, and the differences of falling steps that it is compared with. */
typedef struct comparison {
    double got, scale, allowed;
    double wanted[STEPS], error[STEPS]; /* relative */
    size_t count;
} comparison;

/* One more difference; `rounding` is how far off that alone makes it. True when there should be another, of a shorter step: the map may bend within this one. */
static bool compare_difference(comparison *c, double wanted, double rounding) {
    const double error = fabs(c->got - wanted);
    c->wanted[c->count] = wanted;
    c->error[c->count] = (isnan(error) ? INFINITY : fmax(error - rounding, 0)) / c->scale;
    return !(c->error[c->count++] <= c->allowed) && c->count < STEPS;
}

/*
 * The error, which a difference that agrees with the derivative tells, or else the two differences in a row that agree best with each other. NaN when they do not agree
 * to what is allowed: they say nothing then.
 */
static double error_of(const comparison *c) {
    double error = c->error[c->count - 1], least = INFINITY;
    if (error <= c->allowed)
        return error;
    for (size_t i = 1; i < c->count; i++) {
        const double doubt = fabs(c->wanted[i] - c->wanted[i - 1]) / c->scale;
        if (doubt < least) {
            least = doubt;
            error = c->error[i];
        }
    }
    return isfinite(error) && least > c->allowed ? NAN : error;
}

/* The worst of the directions that say something. */
typedef struct directions {
    double worst, allowed;
    size_t count;
} directions;

static void add_direction(directions *all, const comparison *c) {
    const double error = error_of(c);
    if (isnan(error))
        return;
    all->worst = fmax(all->worst, error);
    all->count++;
}

static nf_finding finding_of(const directions *all) {
    return all->count ? nf_finding_of_error(all->worst, all->allowed) : (nf_finding){.value = NAN, .threshold = NAN, .verdict = NF_SKIPPED};
}

static directions begin_directions(const nf_diagnosis *d) { return (directions){.allowed = d->continuous ? 1e-2 : 1e-3}; }

static double loss_slope(nf_diagnosis *d, slope *s, double h) {
    double loss[2] = {0};
    for (int side = 0; side < 2 && d->status == NF_OK; side++) {
        move(s->moved, s->theta, s->way, side ? -h : h, d->parameters);
        put_parameters(d, s->moved);
        nf_diagnosis_did(d, d->calls->grad_nll(d->exact, d->exact_workspace, d->exact_rows, d->x, d->context, NULL, d->gradient, &loss[side]));
    }
    return (loss[0] - loss[1]) / (2 * h);
}

static void check_gradient(nf_diagnosis *d) {
    const size_t mark = d->block_count;
    slope s = {0};
    directions all = begin_directions(d);
    double loss = 0;
    if (d->parameters && take_slope(d, &s)) {
        nf_gradient_zero(d->gradient);
        nf_diagnosis_did(d, d->calls->grad_nll(d->exact, d->exact_workspace, d->exact_rows, d->x, d->context, NULL, d->gradient, &loss));
        nf_gradient_get(d->gradient, s.grad_theta);
        for (size_t k = 0; k < DIRECTIONS && d->status == NF_OK; k++) {
            choose_way(d, &s);
            comparison c = {.got = dot(s.grad_theta, s.way, d->parameters), .allowed = all.allowed};
            c.scale = typical_slope(s.grad_theta, s.way, d->parameters) + 1e-5 * (1 + fabs(loss));
            for (double h = step_of(d); compare_difference(&c, loss_slope(d, &s, h), 0);)
                h = ldexp(h, SHORTER);
            add_direction(&all, &c);
        }
        put_parameters(d, s.theta);
        d->report.gradient = finding_of(&all);
    }
    nf_diagnosis_drop(d, mark);
}

/* <cotangent, output> + <cotangent of log_det, log_det> of the map at what was moved. */
static double project(nf_diagnosis *d, const slope *s, bool inverse) {
    const size_t n = d->exact_rows;
    nf_diagnosis_did(d, (inverse ? d->calls->inverse : d->calls->forward)(d->exact, d->exact_workspace, n, s->at_moved, s->context_moved, s->out, s->log_det));
    return dot(s->out, s->cotangent, n * d->dim) + dot(s->log_det, s->cotangent_log_det, n);
}

/* How far terms are off that each are rounded: the root of the sum of their squares, in units of the last place. */
static double rounding_of(const double *a, const double *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += a[i] * a[i] * b[i] * b[i];
    return DBL_EPSILON * sqrt(sum);
}

/* The difference of the map along the way. */
static double map_slope(nf_diagnosis *d, slope *s, bool inverse, double h) {
    double value[2];
    for (int side = 0; side < 2; side++) {
        const double step = side ? -h : h;
        move(s->moved, s->theta, s->way, step, d->parameters);
        move(s->at_moved, s->at, s->at_way, step, d->exact_rows * d->dim);
        move(s->context_moved, s->context, s->context_way, step, d->exact_rows * d->context_dim);
        put_parameters(d, s->moved);
        value[side] = project(d, s, inverse);
    }
    return (value[0] - value[1]) / (2 * h);
}

/*
 * The vjp against differences of the map along one way through inputs, contexts and parameters. The relative error, beyond what rounding makes of the
 * differences where inputs or outputs are large beside what they move by.
 */
static void compare_vjp(nf_diagnosis *d, slope *s, bool inverse, const double *norm, comparison *c) {
    const size_t n = d->exact_rows, size = n * d->dim, context = n * d->context_dim;
    choose_way(d, s);
    fill_normal(d, s->context_way, context);
    fill_normal(d, s->cotangent, size);
    fill_normal(d, s->cotangent_log_det, n);
    for (size_t i = 0; i < size; i++)
        s->at_way[i] = nf_sequence_normal(&d->random) * (inverse ? 1 / norm[i / d->dim] : base_sd(d, i % d->dim));
    nf_gradient_zero(d->gradient);
    nf_diagnosis_did(d, (inverse ? d->calls->inverse_vjp : d->calls->forward_vjp)(d->exact, d->exact_workspace, n, s->at, s->context, s->cotangent,
                                                                                s->cotangent_log_det, s->grad_at, s->grad_context, d->gradient));
    nf_gradient_get(d->gradient, s->grad_theta);
    c->got = dot(s->grad_at, s->at_way, size) + dot(s->grad_context, s->context_way, context) + dot(s->grad_theta, s->way, d->parameters);
    c->scale = typical_slope(s->grad_at, s->at_way, size) + typical_slope(s->grad_context, s->context_way, context) +
               typical_slope(s->grad_theta, s->way, d->parameters) + 1e-5;
    bool again = true;
    for (double h = step_of(d); again && d->status == NF_OK; h = ldexp(h, SHORTER)) {
        const double wanted = map_slope(d, s, inverse, h);
        again = compare_difference(c, wanted, 4 * (rounding_of(s->at, s->grad_at, size) + rounding_of(s->out, s->cotangent, size)) / h);
    }
    put_parameters(d, s->theta);
}

static nf_finding check_vjp(nf_diagnosis *d, const map_state *m, bool inverse) {
    const size_t mark = d->block_count;
    slope s = {0};
    directions all = begin_directions(d);
    if (take_slope(d, &s)) {
        s.at = inverse ? d->x : m->z;
        for (size_t k = 0; k < DIRECTIONS && d->status == NF_OK; k++) {
            comparison c = {.allowed = all.allowed};
            compare_vjp(d, &s, inverse, m->norm, &c);
            if (c.count)
                add_direction(&all, &c);
        }
    }
    nf_diagnosis_drop(d, mark);
    return finding_of(&all);
}

void nf_diagnose_maps(nf_diagnosis *d) {
    map_state s;
    const size_t mark = d->block_count;
    if (begin_maps(d, &s)) {
        check_round_trip(d, &s);
        check_log_det(d, &s);
        check_accuracy(d, &s);
        check_gradient(d);
        d->report.forward_vjp = check_vjp(d, &s, false);
        d->report.inverse_vjp = check_vjp(d, &s, true);
    }
    nf_diagnosis_drop(d, mark);
}
