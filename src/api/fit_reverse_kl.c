/* nf_fit_reverse_kl: a flow fitted to an unnormalised density. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "api/config.h"
#include "api/gradients.h"
#include "api/handles.h"
#include "api/importance.h"
#include "api/schedule.h"
#include "core/clock.h"
#include "core/floating.h"

/* Streams of the generator. */
enum { STREAM_STEPS = 11, STREAM_EVALUATION = 12 };

/* Samples evaluated at once, on each rank. */
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
    void *average, *initial;
    bool cut; /* a step failed, be it by the target's status: nothing is evaluated */
    double *samples; /* of the evaluation: EVALUATION_CHUNK of x, of the target's gradient, log q and log p */
    double *outcomes, *all_outcomes; /* status and logarithms of weights, of this rank and of all */
    nf_ranks ranks;
    nf_reducer reducer;
    nf_plan plan;
    double *context; /* of this rank's samples, in the order of its waves; NULL: none */
    nf_reverse_kl_report report;
} kl_fit;

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
    const nf_status status = nf_check_context(f->function, "config->context", f->flow, c->context);
    return status == NF_OK ? nf_check_rows(f->function, "config->samples", f->flow, c->samples) : status;
}

static void fill_defaults(kl_fit *f) {
    nf_reverse_kl_config *c = &f->config;
    c->steps = nf_size_or(c->steps, 10000);
    c->samples = nf_size_or(c->samples, 256);
    c->schedule_step = nf_size_or(c->schedule_step, c->steps / 3 + 1);
    c->schedule_factor = nf_schedule_factor_or_default(c->schedule, c->schedule_factor);
    if (c->beta_start == 0.0)
        c->beta_start = 1.0;
    c->anneal_steps = nf_size_or(c->anneal_steps, c->steps / 2);
    c->ema_decay = nf_real_or_none(c->ema_decay, 0.998);
    c->evaluation_samples = nf_size_or_none(c->evaluation_samples, 10000);
    if (c->context && c->evaluation_samples > c->samples)
        c->evaluation_samples = c->samples;
    c->progress_every = nf_size_or(c->progress_every, c->steps / 100 + 1);
}

/* The rows of the context that go with this rank's samples. */
static nf_status place_context(kl_fit *f) {
    const size_t columns = f->flow->model.context_dim, own = nf_plan_own_rows(&f->plan);
    if (!f->config.context)
        return NF_OK;
    size_t *place = nf_allocate(&f->allocator, own * sizeof *place);
    f->context = nf_allocate(&f->allocator, own * columns * sizeof *f->context);
    if (place && f->context) {
        nf_plan_places(&f->plan, place);
        for (size_t i = 0; i < own; i++)
            memcpy(f->context + i * columns, f->config.context + place[i] * columns, columns * sizeof *f->context);
    }
    nf_release(&f->allocator, place);
    return place && f->context ? NF_OK : nf_fail(NF_ERR_MEMORY, f->function, "no memory for the context of %zu samples", own);
}

static nf_status allocate_evaluation(kl_fit *f) {
    const nf_allocator *a = &f->allocator;
    const size_t outcomes = (1 + EVALUATION_CHUNK) * sizeof *f->outcomes;
    f->samples = nf_allocate(a, EVALUATION_CHUNK * (2 * f->flow->model.dim + 2) * sizeof *f->samples);
    f->outcomes = nf_allocate(a, outcomes);
    f->all_outcomes = f->ranks.size > 1 ? nf_allocate(a, f->ranks.size * outcomes) : f->outcomes;
    if (!f->samples || !f->outcomes || !f->all_outcomes)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu samples", EVALUATION_CHUNK);
    return NF_OK;
}

static nf_status allocate(kl_fit *f) {
    const nf_optimizer_config standard = {.struct_size = sizeof standard, .learning_rate = 2e-2, .clip_norm = 10.0};
    const size_t bytes = f->flow->model.parameter_count * f->flow->engine->real_size;
    const nf_flow flow = nf_flow_in(f->flow, &f->allocator);
    nf_status status = nf_workspace_begin(&flow, f->config.threads, &f->workspace);
    if (status == NF_OK)
        status = nf_gradient_create(&flow, &f->gradient);
    if (status == NF_OK)
        status = nf_optimizer_of_fit(&flow, f->config.optimizer ? f->config.optimizer : &standard, &f->optimizer);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    f->base_rate = f->optimizer->update.rate;
    f->average = nf_allocate(&f->allocator, bytes);
    f->initial = nf_allocate(&f->allocator, bytes);
    if (!f->average || !f->initial)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu parameters", f->flow->model.parameter_count);
    f->plan = nf_plan_of(f->config.samples, f->flow->engine->tile_rows, f->ranks.shards, f->ranks.rank, f->ranks.size);
    status = nf_reducer_make(&f->reducer, &f->ranks, f->flow->engine, f->flow->model.parameter_count, f->config.samples);
    if (status == NF_OK)
        status = place_context(f);
    if (status == NF_OK && f->config.evaluation_samples)
        status = allocate_evaluation(f);
    return status;
}

static void release(kl_fit *f) {
    if (f->all_outcomes != f->outcomes)
        nf_release(&f->allocator, f->all_outcomes);
    nf_release(&f->allocator, f->outcomes);
    nf_release(&f->allocator, f->samples);
    nf_release(&f->allocator, f->context);
    nf_reducer_free(&f->reducer);
    nf_release(&f->allocator, f->initial);
    nf_release(&f->allocator, f->average);
    nf_optimizer_free(f->optimizer);
    nf_gradient_free(f->gradient);
    nf_workspace_free(f->workspace);
    nf_ranks_end(&f->ranks);
}

/* The user's target at the inverse temperature of the step; in the caller's mode, as every target. */
static nf_status annealed(void *user, size_t rows, const double *x, double *log_density, double *grad_x) {
    const kl_fit *f = user;
    const nf_status status = f->target(f->user, rows, x, log_density, grad_x);
    NF_CALL;
    if (status != NF_OK || f->beta == 1.0)
        return status;
    for (size_t r = 0; r < rows; r++)
        log_density[r] *= f->beta;
    for (size_t i = 0; i < rows * f->flow->model.dim; i++)
        grad_x[i] *= f->beta;
    return NF_OK;
}

/* The temperature and the learning rate of a step. */
static void set_step(kl_fit *f, size_t step) {
    const nf_reverse_kl_config *c = &f->config;
    const double share = c->anneal_steps ? (double)step / (double)c->anneal_steps : 1.0;
    f->beta = share < 1.0 ? c->beta_start + (1.0 - c->beta_start) * share : 1.0;
    f->optimizer->update.rate = f->base_rate * nf_schedule_factor(c->schedule, c->schedule_factor, step / c->schedule_step, (double)step,
                                                                  (double)c->steps);
}

/* What a wave of a step draws from. */
typedef struct kl_step {
    kl_fit *f;
    nf_target_step step;
} kl_step;

static nf_status run_wave(void *user, const nf_wave *wave, nf_shard_sum *sums, nf_step_sum *sum) {
    const kl_step *s = user;
    kl_fit *f = s->f;
    const nf_status status = nf_run_target_wave(f->function, f->flow, f->workspace, &s->step, wave, f->gradient, sums);
    sum->bad_rows += (double)f->workspace->stats.bad_rows;
    return status;
}

static void set_parameters(kl_fit *f, const void *theta) {
    memcpy(f->flow->theta, theta, f->flow->model.parameter_count * f->flow->engine->real_size);
    f->flow->epoch = nf_unique();
}

static bool are_finite(const kl_fit *f, const void *theta) { return f->flow->engine->finite(theta, f->flow->model.parameter_count); }

static nf_status run_step(kl_fit *f, nf_rng *rng, size_t step, double *loss) {
    const nf_reverse_kl_config *c = &f->config;
    kl_step task = {f, {f->context, annealed, f, *rng}};
    nf_step_sum sum;
    set_step(f, step);
    nf_status status = nf_reduce(&f->reducer, &f->plan, run_wave, &task, f->gradient, &sum);
    if (status != NF_OK)
        return status;
    rng->position += c->samples;
    f->report.bad_rows += (size_t)sum.bad_rows;
    *loss = nf_mean(sum.total.loss, sum.total.weight);
    if (sum.total.weight == 0.0)
        return nf_fail(NF_ERR_DIVERGED, f->function, "none of the %zu samples of step %zu counts: the target is 0 or not finite at them, or the flow cannot map them",
                       c->samples, step + 1);
    if (!isfinite(*loss))
        return nf_fail(NF_ERR_DIVERGED, f->function, "the loss is not finite in step %zu", step + 1);
    status = nf_run_step(f->optimizer, f->flow, f->gradient);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    if (c->ema_decay > 0.0)
        f->flow->engine->average(f->average, f->flow->theta, nf_average_decay(c->ema_decay, step + 1), f->flow->model.parameter_count);
    return NF_OK;
}

static bool progress_stops(const kl_fit *f, size_t step, double loss) {
    const double seconds = nf_now() - f->begun;
    if (!f->config.progress)
        return false;
    const nf_reverse_kl_progress p = {.struct_size = sizeof p,
                                      .step = step + 1,
                                      .steps = f->config.steps,
                                      .loss = loss,
                                      .beta = f->beta,
                                      .learning_rate = f->optimizer->update.rate,
                                      .seconds = seconds,
                                      .seconds_left = seconds / (double)(step + 1) * (double)(f->config.steps - step - 1)};
    return NF_CALL_OUT(f->config.progress(f->config.progress_user, &p)) != 0;
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
            f->cut = true;
            f->report.stop_reason = status == NF_ERR_DIVERGED ? NF_STOP_DIVERGED : NF_STOP_CALLBACK;
            return status;
        }
        f->report.steps = step + 1;
        since += loss;
        counted++;
        if (step >= tail) {
            sum += loss;
            f->report.loss = sum / (double)++summed;
        }
        if ((step + 1) % c->progress_every != 0 && step + 1 != c->steps)
            continue;
        bool stops = progress_stops(f, step, since / (double)counted);
        const nf_status heard = nf_ranks_hear_all(&f->ranks, f->flow, "step", step + 1, &stops);
        if (heard != NF_OK)
            return heard;
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

/* log p - log q of samples first .. first + rows - 1: -inf where p is 0, NaN where the flow or the target spoils the sample. */
static nf_status weigh_samples(kl_fit *f, size_t first, size_t rows, double *log_weight) {
    const size_t dim = f->flow->model.dim, chunk = EVALUATION_CHUNK;
    double *x = f->samples, *slope = x + chunk * dim, *log_q = slope + chunk * dim, *log_p = log_q + chunk;
    const double *context = f->config.context ? f->config.context + first * f->flow->model.context_dim : NULL;
    nf_rng rng = {f->config.seed, STREAM_EVALUATION, first};
    nf_status status = nf_sample(f->flow, f->workspace, &rng, rows, context, x, log_q);
    if (status != NF_OK && status != NF_ERR_ROWS)
        return status;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; !isfinite(log_q[r]) && i < dim; i++)
            x[r * dim + i] = 0.0; /* the target is shown numbers only */
    status = nf_call_target(f->function, f->target, f->user, rows, x, log_p, slope);
    for (size_t r = 0; status == NF_OK && r < rows; r++)
        log_weight[r] = isfinite(log_q[r]) && log_p[r] < INFINITY ? log_p[r] - log_q[r] : NAN;
    return status;
}

/* A chunk on each rank, and all weights in order. */
static nf_status weigh_round(kl_fit *f, size_t first, size_t chunk, nf_importance *w) {
    const size_t total = f->config.evaluation_samples, begin = first + f->ranks.rank * chunk, left = begin < total ? total - begin : 0;
    const size_t rows = left < chunk ? left : chunk;
    for (size_t i = 0; i < chunk; i++)
        f->outcomes[1 + i] = NAN;
    const nf_status own = rows ? weigh_samples(f, begin, rows, f->outcomes + 1) : NF_OK;
    f->outcomes[0] = own;
    const nf_status status = nf_ranks_gather(&f->ranks, f->outcomes, f->all_outcomes, 1 + chunk);
    if (status != NF_OK)
        return status;
    for (size_t q = 0; q < f->ranks.size; q++)
        if (f->all_outcomes[q * (1 + chunk)] != 0.0)
            return nf_ranks_agree(&f->ranks, own);
    for (size_t q = 0; q < f->ranks.size; q++)
        for (size_t i = 0; i < chunk; i++)
            if (!isnan(f->all_outcomes[q * (1 + chunk) + 1 + i]))
                nf_importance_add(w, f->all_outcomes[q * (1 + chunk) + 1 + i]);
    return NF_OK;
}

static nf_status evaluate(kl_fit *f) {
    const size_t total = f->config.evaluation_samples, share = (total + f->ranks.size - 1) / f->ranks.size;
    const size_t tile = f->flow->engine->tile_rows, tiles = (share + tile - 1) / tile * tile;
    const size_t chunk = f->ranks.size == 1 || tiles > EVALUATION_CHUNK ? EVALUATION_CHUNK : tiles;
    nf_importance w = nf_importance_begin();
    nf_status status = NF_OK;
    for (size_t first = 0; status == NF_OK && first < total; first += f->ranks.size * chunk)
        status = weigh_round(f, first, chunk, &w);
    if (status == NF_OK)
        nf_importance_tell(&w, &f->report);
    return status;
}

/* That all ranks are about to do the same. */
static nf_status compare_settings(kl_fit *f) {
    const nf_reverse_kl_config *c = &f->config;
    const size_t numbers = c->context ? c->samples * f->flow->model.context_dim : 0;
    const uint64_t context = numbers ? nf_ranks_digest(c->context, numbers * sizeof(double)) : 0;
    const nf_rank_setting settings[] = {NF_COMM_SETTINGS(f->ranks),
                                        NF_HALVES("config->steps", c->steps),
                                        NF_HALVES("config->samples", c->samples),
                                        NF_HALVES("config->seed", c->seed),
                                        NF_HALVES("config->evaluation_samples", c->evaluation_samples),
                                        NF_HALVES("config->progress_every", c->progress_every),
                                        NF_HALVES("the digest of config->context", context),
                                        {"config->schedule", c->schedule},
                                        NF_HALVES("config->schedule_step", c->schedule_step),
                                        {"config->schedule_factor", c->schedule_factor},
                                        {"config->beta_start", c->beta_start},
                                        NF_HALVES("config->anneal_steps", c->anneal_steps),
                                        {"config->ema_decay", c->ema_decay},
                                        NF_OPTIMIZER_SETTINGS(f->optimizer)};
    return nf_ranks_compare(&f->ranks, settings, sizeof settings / sizeof *settings);
}

static nf_status begin(kl_fit *f) {
    const size_t bytes = f->flow->model.parameter_count * f->flow->engine->real_size;
    nf_status status = nf_ranks_agree(&f->ranks, allocate(f));
    if (f->initial)
        memcpy(f->initial, f->flow->theta, bytes); /* before those of rank 0 arrive */
    if (status == NF_OK)
        status = compare_settings(f);
    if (status == NF_OK)
        status = nf_ranks_share_flow(&f->ranks, f->flow);
    if (status == NF_OK)
        memcpy(f->average, f->flow->theta, bytes);
    return status;
}

/* All steps, and the evaluation of what they led to, also where progress stopped them. */
static nf_status run_all(kl_fit *f) {
    nf_status status = begin(f);
    if (status != NF_OK)
        return status;
    status = run_steps(f);
    if (f->config.ema_decay > 0.0 && (status == NF_OK || status == NF_STOPPED) && are_finite(f, f->average))
        set_parameters(f, f->average);
    if (f->cut || (status != NF_OK && status != NF_STOPPED))
        return status;
    const nf_status evaluated = evaluate(f);
    if (evaluated != NF_OK)
        return evaluated;
    nf_clear_error(); /* what a call within said about samples that are left out */
    return status;
}

static nf_status run(kl_fit *f) {
    const nf_status status = run_all(f);
    const bool keeps = status == NF_OK || status == NF_STOPPED || status == NF_ERR_DIVERGED;
    if (!keeps && f->initial)
        set_parameters(f, f->initial);
    return status;
}

/* Checks of this rank's arguments; the others hear of what they find. */
static nf_status check_arguments(const kl_fit *f, const nf_reverse_kl_report *report) {
    nf_status status = nf_check_pointer(f->function, "flow", f->flow);
    if (status == NF_OK && !f->target)
        status = nf_fail(NF_ERR_ARGUMENT, f->function, "target is NULL");
    if (status == NF_OK && report)
        status = nf_check_room(f->function, "report", report, NF_SIZE_THROUGH(nf_reverse_kl_report, reserved));
    return status == NF_OK ? check(f) : status;
}

nf_status nf_fit_reverse_kl(nf_flow *flow, nf_target_fn target, void *user, const nf_reverse_kl_config *config,
                            nf_reverse_kl_report *report) {
    NF_CALL;
    nf_clear_error();
    const nf_reverse_kl_config defaults = {.struct_size = sizeof defaults};
    kl_fit f = {.function = __func__, .flow = flow, .target = target, .user = user, .begun = nf_now()};
    nf_status status = nf_read_config(__func__, config ? config : &defaults, &f.config, sizeof f.config, NF_SIZE_THROUGH(nf_reverse_kl_config, allocator));
    if (status != NF_OK)
        return status;
    f.allocator = nf_allocator_or(f.config.allocator, flow ? &flow->allocator : NULL);
    status = nf_ranks_begin(&f.ranks, __func__, f.config.comm, &f.allocator);
    if (status != NF_OK)
        return status;
    status = nf_ranks_agree(&f.ranks, check_arguments(&f, report));
    if (status != NF_OK) {
        release(&f);
        return status;
    }
    fill_defaults(&f);
    f.report = (nf_reverse_kl_report){.struct_size = sizeof f.report,
                                      .loss = NAN,
                                      .elbo = NAN,
                                      .elbo_error = NAN,
                                      .log_evidence = NAN,
                                      .effective_sample_size = NAN};
    status = run(&f);
    release(&f);
    f.report.seconds = nf_now() - f.begun;
    if (report)
        nf_write_struct(report, &f.report, sizeof f.report);
    return status;
}
