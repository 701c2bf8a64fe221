/* nf_fit_reverse_kl: a flow fitted to an unnormalised density. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "api/floating.h"
#include "api/handles.h"
#include "api/schedule.h"

/* Streams of the generator. */
enum { STREAM_STEPS = 11, STREAM_EVALUATION = 12 };

/* Samples evaluated at once. */
#define EVALUATION_CHUNK ((size_t)1024)

typedef struct kl_fit {
    const char *function;
    nf_reverse_kl_config config; /* with the defaults filled in */
    nf_allocator allocator;
    nf_flow *flow;
    nf_target_fn target;
    void *user;
    double beta, base_rate, begun;
    nf_workspace *workspace;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    void *average;
    double *samples; /* of the evaluation: EVALUATION_CHUNK of x, of the target's gradient, log q and log p */
    nf_reverse_kl_report report;
} kl_fit;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t size_or(size_t value, size_t fallback) { return value == 0 ? fallback : value; }

static nf_status check(const kl_fit *f) {
    const nf_reverse_kl_config *c = &f->config;
    if (c->schedule < NF_SCHEDULE_COSINE || c->schedule > NF_SCHEDULE_STEP)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->schedule is %d, which is none", (int)c->schedule);
    if (!isfinite(c->schedule_factor) || c->schedule_factor > 1.0)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->schedule_factor is %g, must be at most 1", c->schedule_factor);
    if (!(c->beta_start >= 0.0) || c->beta_start > 1.0)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->beta_start is %g, must be in (0, 1]", c->beta_start);
    if (!(c->ema_decay < 1.0))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->ema_decay is %g, must be less than 1", c->ema_decay);
    if (c->reserved != 0)
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->reserved is %d, must be 0", c->reserved);
    if ((f->flow->model.context_dim != 0) != (c->context != NULL))
        return nf_fail(NF_ERR_ARGUMENT, f->function, "config->context does not go with a flow of context_dim %zu", f->flow->model.context_dim);
    return NF_OK;
}

static void fill_defaults(kl_fit *f) {
    nf_reverse_kl_config *c = &f->config;
    c->steps = size_or(c->steps, 10000);
    c->samples = size_or(c->samples, 256);
    c->schedule_step = size_or(c->schedule_step, c->steps / 3 + 1);
    if (c->schedule_factor == 0.0 && c->schedule == NF_SCHEDULE_STEP)
        c->schedule_factor = 0.1;
    if (c->schedule_factor < 0.0)
        c->schedule_factor = 0.0;
    if (c->beta_start == 0.0)
        c->beta_start = 1.0;
    c->anneal_steps = size_or(c->anneal_steps, c->steps / 2);
    c->ema_decay = c->ema_decay == 0.0 ? 0.998 : c->ema_decay < 0.0 ? 0.0 : c->ema_decay;
    c->evaluation_samples = c->evaluation_samples == NF_NONE ? 0 : size_or(c->evaluation_samples, 10000);
    if (c->context && c->evaluation_samples > c->samples)
        c->evaluation_samples = c->samples;
    c->progress_every = size_or(c->progress_every, c->steps / 100 + 1);
}

static nf_status allocate(kl_fit *f) {
    const nf_optimizer_config standard = {.struct_size = sizeof standard, .learning_rate = 2e-2, .clip_norm = 10.0};
    const size_t bytes = f->flow->model.parameter_count * f->flow->engine->real_size;
    nf_status status = nf_workspace_create(f->flow, f->config.threads, &f->workspace);
    if (status == NF_OK)
        status = nf_gradient_create(f->flow, &f->gradient);
    if (status == NF_OK)
        status = nf_optimizer_create(f->flow, f->config.optimizer ? f->config.optimizer : &standard, &f->optimizer);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    f->base_rate = f->optimizer->update.rate;
    f->average = nf_allocate(&f->allocator, bytes);
    if (!f->average)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu parameters", f->flow->model.parameter_count);
    if (f->config.evaluation_samples) {
        f->samples = nf_allocate(&f->allocator, EVALUATION_CHUNK * (2 * f->flow->model.dim + 2) * sizeof *f->samples);
        if (!f->samples)
            return nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu samples", EVALUATION_CHUNK);
    }
    memcpy(f->average, f->flow->theta, bytes);
    return NF_OK;
}

static void release(kl_fit *f) {
    nf_release(&f->allocator, f->samples);
    nf_release(&f->allocator, f->average);
    nf_optimizer_free(f->optimizer);
    nf_gradient_free(f->gradient);
    nf_workspace_free(f->workspace);
}

/* The user's target at the inverse temperature of the step. */
static nf_status annealed(void *user, size_t rows, const double *x, double *log_density, double *grad_x) {
    const kl_fit *f = user;
    const nf_status status = f->target(f->user, rows, x, log_density, grad_x);
    if (status != NF_OK || f->beta == 1.0)
        return status;
    const nf_floating saved = nf_floating_enter();
    for (size_t r = 0; r < rows; r++)
        log_density[r] *= f->beta;
    for (size_t i = 0; i < rows * f->flow->model.dim; i++)
        grad_x[i] *= f->beta;
    nf_floating_leave(saved);
    return NF_OK;
}

/* The temperature and the learning rate of a step. */
static void set_step(kl_fit *f, size_t step) {
    const nf_reverse_kl_config *c = &f->config;
    const nf_floating saved = nf_floating_enter();
    const double share = c->anneal_steps ? (double)step / (double)c->anneal_steps : 1.0;
    f->beta = share < 1.0 ? c->beta_start + (1.0 - c->beta_start) * share : 1.0;
    f->optimizer->update.rate = f->base_rate * nf_schedule_factor(c->schedule, c->schedule_factor, step / c->schedule_step, (double)step,
                                                                  (double)c->steps);
    nf_floating_leave(saved);
}

static void follow_average(kl_fit *f, size_t step) {
    const double t = (double)step + 1.0;
    const nf_floating saved = nf_floating_enter();
    f->flow->engine->average(f->average, f->flow->theta, fmin(f->config.ema_decay, (1.0 + t) / (10.0 + t)), f->flow->model.parameter_count);
    nf_floating_leave(saved);
}

static nf_status run_step(kl_fit *f, nf_rng *rng, size_t step, double *loss) {
    const nf_reverse_kl_config *c = &f->config;
    set_step(f, step);
    nf_gradient_zero(f->gradient);
    nf_status status = nf_grad_reverse_kl(f->flow, f->workspace, rng, c->samples, c->context, annealed, f, f->gradient, loss);
    if (status == NF_ERR_ROWS) {
        nf_stats stats = {.struct_size = sizeof stats};
        nf_workspace_stats(f->workspace, &stats);
        f->report.bad_rows += stats.bad_rows;
        status = NF_OK;
    }
    if (status != NF_OK)
        return status;
    if (!isfinite(*loss))
        return nf_fail(NF_ERR_DIVERGED, f->function, "the loss is not finite in step %zu", step + 1);
    status = nf_run_step(f->optimizer, f->flow, f->gradient);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    if (c->ema_decay > 0.0)
        follow_average(f, step);
    return NF_OK;
}

static bool progress_stops(const kl_fit *f, size_t step, double loss) {
    const double seconds = now() - f->begun;
    const nf_reverse_kl_progress p = {.struct_size = sizeof p,
                                      .step = step + 1,
                                      .steps = f->config.steps,
                                      .loss = loss,
                                      .beta = f->beta,
                                      .learning_rate = f->optimizer->update.rate,
                                      .seconds = seconds,
                                      .seconds_left = seconds / (double)(step + 1) * (double)(f->config.steps - step - 1)};
    return f->config.progress(f->config.progress_user, &p) != 0;
}

static nf_status run_steps(kl_fit *f) {
    const nf_reverse_kl_config *c = &f->config;
    const size_t tail = c->steps - c->steps / 100 - 1;
    nf_rng rng = {c->seed, STREAM_STEPS, 0};
    double since = 0, sum = 0;
    size_t counted = 0, summed = 0;
    for (size_t step = 0; step < c->steps; step++) {
        double loss = NAN;
        const nf_status status = run_step(f, &rng, step, &loss);
        if (status != NF_OK) {
            f->report.stop_reason = status == NF_ERR_DIVERGED ? NF_STOP_DIVERGED : NF_STOP_CALLBACK;
            return status;
        }
        f->report.steps = step + 1;
        const nf_floating saved = nf_floating_enter();
        since += loss;
        counted++;
        if (step >= tail) {
            sum += loss;
            f->report.loss = sum / (double)++summed;
        }
        nf_floating_leave(saved);
        if (!c->progress || ((step + 1) % c->progress_every != 0 && step + 1 != c->steps))
            continue;
        const bool stops = progress_stops(f, step, since / (double)counted);
        since = 0;
        counted = 0;
        if (stops) {
            f->report.stop_reason = NF_STOP_CALLBACK;
            return NF_STOPPED;
        }
    }
    f->report.stop_reason = NF_STOP_EPOCHS;
    return NF_OK;
}

/* Importance weights w = p / q of samples of q: their mean estimates Z, the mean of their logarithm the ELBO. */
typedef struct weights {
    double sum, square, shift; /* of exp(log w - shift), shift the largest so far */
    double mean, spread;       /* Welford's, of log w */
    size_t count;
} weights;

static void add_weight(weights *w, double value) {
    w->count++;
    const double delta = value - w->mean;
    w->mean += delta / (double)w->count;
    w->spread += delta * (value - w->mean);
    if (value > w->shift) {
        const double factor = exp(w->shift - value);
        w->sum *= factor;
        w->square *= factor * factor;
        w->shift = value;
    }
    const double e = exp(value - w->shift);
    w->sum += e;
    w->square += e * e;
}

static nf_status evaluate(kl_fit *f) {
    const size_t dim = f->flow->model.dim, chunk = EVALUATION_CHUNK, total = f->config.evaluation_samples;
    if (total == 0)
        return NF_OK;
    double *x = f->samples, *slope = x + chunk * dim, *log_q = slope + chunk * dim, *log_p = log_q + chunk;
    weights w = {.shift = -INFINITY};
    nf_rng rng = {f->config.seed, STREAM_EVALUATION, 0};
    nf_status status = NF_OK;
    for (size_t first = 0; status == NF_OK && first < total; first += chunk) {
        const size_t rows = total - first < chunk ? total - first : chunk;
        const double *context = f->config.context ? f->config.context + first * f->flow->model.context_dim : NULL;
        status = nf_sample(f->flow, f->workspace, &rng, rows, context, x, log_q);
        if (status == NF_ERR_ROWS)
            status = NF_OK;
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; !isfinite(log_q[r]) && i < dim; i++)
                x[r * dim + i] = 0.0; /* the target is shown numbers only */
        if (status == NF_OK)
            status = f->target(f->user, rows, x, log_p, slope);
        const nf_floating saved = nf_floating_enter();
        for (size_t r = 0; status == NF_OK && r < rows; r++)
            if (isfinite(log_q[r]) && isfinite(log_p[r]))
                add_weight(&w, log_p[r] - log_q[r]);
        nf_floating_leave(saved);
    }
    if (status == NF_OK && w.count > 0) {
        const nf_floating saved = nf_floating_enter();
        const double n = (double)w.count;
        f->report.elbo = w.mean;
        f->report.elbo_error = sqrt(w.spread / n / n);
        f->report.log_evidence = w.shift + log(w.sum / n);
        f->report.effective_sample_size = w.sum * w.sum / w.square / n;
        nf_floating_leave(saved);
    }
    return status;
}

static nf_status run(kl_fit *f) {
    nf_status status = allocate(f);
    if (status != NF_OK)
        return status;
    status = run_steps(f);
    if (f->config.ema_decay > 0.0 && (status == NF_OK || status == NF_STOPPED)) {
        memcpy(f->flow->theta, f->average, f->flow->model.parameter_count * f->flow->engine->real_size);
        f->flow->epoch = nf_unique();
    }
    if (status != NF_OK && status != NF_STOPPED)
        return status;
    const nf_status evaluated = evaluate(f);
    return evaluated == NF_OK ? status : evaluated;
}

nf_status nf_fit_reverse_kl(nf_flow *flow, nf_target_fn target, void *user, const nf_reverse_kl_config *config,
                            nf_reverse_kl_report *report) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK && !target)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "target is NULL");
    if (status != NF_OK)
        return status;
    const nf_reverse_kl_config defaults = {.struct_size = sizeof defaults};
    kl_fit f = {.function = __func__, .flow = flow, .target = target, .user = user, .begun = now()};
    status = nf_read_config(__func__, config ? config : &defaults, &f.config, sizeof f.config,
                            offsetof(nf_reverse_kl_config, allocator) + sizeof f.config.allocator);
    if (status == NF_OK && report && report->struct_size < sizeof *report)
        status = nf_fail(NF_ERR_ARGUMENT, __func__, "report->struct_size is %zu, which is too small", report->struct_size);
    if (status == NF_OK)
        status = check(&f);
    if (status != NF_OK)
        return status;
    fill_defaults(&f);
    f.allocator = f.config.allocator ? *f.config.allocator : flow->allocator;
    f.report = (nf_reverse_kl_report){.struct_size = sizeof f.report,
                                      .loss = NAN,
                                      .elbo = NAN,
                                      .elbo_error = NAN,
                                      .log_evidence = NAN,
                                      .effective_sample_size = NAN};
    status = run(&f);
    release(&f);
    f.report.seconds = now() - f.begun;
    if (report) {
        const size_t size = report->struct_size;
        *report = f.report;
        report->struct_size = size;
    }
    return status;
}
