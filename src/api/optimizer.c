/* Optimizers: settings and state here, arithmetic in engine/train/. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "api/config.h"
#include "api/handles.h"
#include "core/floating.h"

static nf_status check_number(const char *function, const char *name, double value, double below) {
    if (isfinite(value) && value < below)
        return NF_OK;
    return nf_fail(NF_ERR_ARGUMENT, function, "config->%s is %g, must be finite%s", name, value, below == 1.0 ? " and less than 1" : "");
}

static nf_status read_settings(const char *function, const nf_optimizer_config *config, nf_optimizer *o, nf_optimizer_config *c) {
    nf_status status = nf_read_config(function, config, c, sizeof *c, NF_SIZE_THROUGH(nf_optimizer_config, allocator));
    if (status != NF_OK)
        return status;
    if (c->kind < NF_ADAM || c->kind > NF_RMSPROP)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->kind is %d, which is none", (int)c->kind);
    if (c->reserved != 0)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->reserved is %d, must be 0", c->reserved);
    const struct {
        const char *name;
        double value, below;
    } numbers[] = {{"learning_rate", c->learning_rate, INFINITY}, {"beta1", c->beta1, 1.0},
                   {"beta2", c->beta2, 1.0},                      {"epsilon", c->epsilon, INFINITY},
                   {"weight_decay", c->weight_decay, INFINITY},   {"momentum", c->momentum, INFINITY},
                   {"clip_norm", c->clip_norm, INFINITY}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        status = check_number(function, numbers[i].name, numbers[i].value, numbers[i].below);
        if (status != NF_OK)
            return status;
    }
    o->update.kind = c->kind;
    o->update.rate = nf_real_or_none(c->learning_rate, 1e-3);
    o->update.beta1 = nf_real_or_none(c->beta1, 0.9);
    o->update.beta2 = nf_real_or_none(c->beta2, 0.999);
    o->update.epsilon = nf_real_or_none(c->epsilon, 1e-8);
    o->update.weight_decay = nf_real_or_none(c->weight_decay, 0.0);
    o->update.momentum = nf_real_or_none(c->momentum, 0.0);
    o->clip_norm = nf_real_or_none(c->clip_norm, 0.0);
    return NF_OK;
}

/* What is rounded to the precision of the parameters, and would make infinities of them. */
static nf_status check_reals(const char *function, const engine_update *u, const nf_engine *engine) {
    const struct {
        const char *name;
        double value;
    } reals[] = {{"learning_rate", u->rate}, {"epsilon", u->epsilon}, {"weight_decay", u->weight_decay}, {"momentum", u->momentum}};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        if (!nf_finite_row(&reals[i].value, 1, engine))
            return nf_fail(NF_ERR_ARGUMENT, function, "config->%s is %g, must be finite in the flow's precision", reals[i].name, reals[i].value);
    return NF_OK;
}

/* A step goes along the parameters and the state side by side: see nf_place_apart. */
#define FIRST_PLACE (NF_PAGE / 3)
#define SECOND_PLACE (2 * NF_PAGE / 3)

static nf_status make_state(const char *function, nf_optimizer *o, const void *theta) {
    const size_t bytes = o->count * o->engine->real_size; /* of theta, which is there */
    size_t all;
    o->state = nf_size_multiply(bytes, 2, &all) && nf_size_add(all, 2 * NF_PAGE, &all) ? nf_allocate(&o->allocator, all) : NULL;
    if (!o->state)
        return nf_fail(NF_ERR_MEMORY, function, "no memory for the state of %zu parameters", o->count);
    o->m = memset(nf_place_apart(o->state, theta, FIRST_PLACE), 0, bytes);
    o->v = memset(nf_place_apart((unsigned char *)o->m + bytes, theta, SECOND_PLACE), 0, bytes);
    return NF_OK;
}

nf_status nf_optimizer_make(const char *function, const nf_allocator *allocator, const nf_engine *engine, uint64_t structure,
                            size_t count, const void *theta, const nf_optimizer_config *config, nf_optimizer **out) {
    nf_optimizer settings = {0};
    nf_optimizer_config c = {0};
    const nf_optimizer_config defaults = {.struct_size = sizeof defaults};
    nf_status status = read_settings(function, config ? config : &defaults, &settings, &c);
    if (status != NF_OK)
        return status;
    status = check_reals(function, &settings.update, engine);
    if (status != NF_OK)
        return status;
    /* A gradient that was always 0 makes no step, also without epsilon: 0 / 0 would be none. */
    settings.update.epsilon = fmax(settings.update.epsilon, engine->precision == NF_SINGLE ? (double)__FLT_MIN__ : __DBL_MIN__);
    settings.allocator = nf_allocator_or(c.allocator, allocator);
    settings.engine = engine;
    settings.structure = structure;
    settings.count = count;
    nf_optimizer *o = nf_allocate(&settings.allocator, sizeof *o);
    if (!o)
        return nf_fail(NF_ERR_MEMORY, function, "no memory for an optimizer");
    status = make_state(function, &settings, theta);
    if (status != NF_OK) {
        nf_release(&settings.allocator, o);
        return status;
    }
    *o = settings;
    *out = o;
    return NF_OK;
}

nf_status nf_optimizer_create(const nf_flow *flow, const nf_optimizer_config *config, nf_optimizer **out) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "optimizer", out);
    if (status == NF_OK)
        *out = NULL;
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status != NF_OK)
        return status;
    return nf_optimizer_make(__func__, &flow->allocator, flow->engine, flow->structure, flow->model.parameter_count, flow->theta, config, out);
}

nf_status nf_optimizer_of_fit(const nf_flow *flow, const nf_optimizer_config *config, nf_optimizer **out) {
    static const char member[] = "config->";
    char said[NF_ERROR_LENGTH];
    const nf_status status =
        nf_optimizer_make(NULL, &flow->allocator, flow->engine, flow->structure, flow->model.parameter_count, flow->theta, config, out);
    if (status == NF_OK || strncmp(nf_last_error(), member, strlen(member)) != 0)
        return status;
    memcpy(said, nf_last_error(), strlen(nf_last_error()) + 1);
    return nf_fail(status, NULL, "config->optimizer->%s", said + strlen(member));
}

void nf_optimizer_free(nf_optimizer *optimizer) {
    if (!optimizer)
        return;
    const nf_allocator allocator = optimizer->allocator;
    nf_release(&allocator, optimizer->state);
    nf_release(&allocator, optimizer);
}

nf_status nf_optimizer_set_learning_rate(nf_optimizer *optimizer, double rate) {
    NF_CALL;
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "optimizer", optimizer);
    if (status != NF_OK)
        return status;
    if (!nf_finite_row(&rate, 1, optimizer->engine) || rate < 0.0)
        return nf_fail(NF_ERR_ARGUMENT, __func__, "learning_rate is %g, must be finite in the flow's precision and not negative", rate);
    optimizer->update.rate = rate;
    return NF_OK;
}

/* Numbers that are smaller have squares, and a norm. */
static double ordinary(const nf_optimizer *o) { return o->engine->precision == NF_SINGLE ? 1e19 : 1e154; }

/* Whether the squares that Adam and RMSprop average overflow: a number whose average is infinite would never move again. */
static bool squares_overflow(const nf_optimizer *o, const nf_gradient *gradient, double norm, double clip) {
    if (o->update.kind == NF_SGD || norm * clip < ordinary(o))
        return false;
    const double g = nf_gradient_largest(gradient) * clip;
    return g * g > (o->engine->precision == NF_SINGLE ? FLT_MAX : DBL_MAX);
}

/* What the numbers of a step are at most. */
typedef struct step_bounds {
    double gradient; /* as the rule sees it */
    double moment;   /* of m afterwards */
    double change;   /* of a parameter, and of what is computed on the way */
} step_bounds;

/* `most`: no number of the gradient is larger. */
static step_bounds bounds_of(const nf_optimizer *o, const engine_update *u, const void *theta, double most) {
    const bool adam = u->kind == NF_ADAM || u->kind == NF_ADAMW, coupled = u->kind != NF_ADAMW && u->weight_decay > 0.0;
    step_bounds b = {.gradient = most * u->clip};
    if (coupled)
        b.gradient += u->weight_decay * o->engine->largest(theta, o->count);
    if (u->kind == NF_SGD) {
        b.moment = (u->first ? 0.0 : u->momentum) * o->most_moment + b.gradient;
        b.change = u->rate * b.moment;
    } else {
        b.moment = adam ? u->beta1 * o->most_moment + (1.0 - u->beta1) * b.gradient : 0.0;
        b.change = u->rate / (adam ? u->correction1 : 1.0) * fmax(adam ? b.moment : b.gradient, 1.0) / fmin(u->epsilon, 1.0);
    }
    return b;
}

/*
 * Whether these bounds leave no doubt that the step makes numbers of numbers: such changes are nothing beside the largest ones, so they carry none beyond. The bounds cost
 * nothing but are loose; a step that they leave in doubt is tried out first.
 */
static bool is_safe(const nf_optimizer *o, const engine_update *u, const step_bounds *b) {
    const bool single = o->engine->precision == NF_SINGLE;
    const double far = single ? 1e28 : 1e285, square = o->update.kind == NF_SGD ? far : ordinary(o);
    const bool shrinks = u->kind != NF_ADAMW || u->rate * u->weight_decay <= 2.0;
    return b->gradient < square && b->moment < far && b->change < far && shrinks;
}

/* The pieces that a step is done in: one, or many where the gradient is empty, of zeros that nobody had to write. */
typedef struct piece {
    size_t count;
    const void *g;
    void *theta, *m, *v;
} piece;

static piece piece_of(const nf_optimizer *o, void *theta, const nf_gradient *gradient, size_t first) {
    static const double zeros[128];
    const size_t left = o->count - first, offset = first * o->engine->real_size, most = gradient->empty ? sizeof zeros / sizeof *zeros : left;
    return (piece){.count = left < most ? left : most,
                   .g = gradient->empty ? (const void *)zeros : gradient->sum,
                   .theta = (unsigned char *)theta + offset,
                   .m = (unsigned char *)o->m + offset,
                   .v = (unsigned char *)o->v + offset};
}

static bool overflows(const nf_optimizer *o, const engine_update *u, void *theta, const nf_gradient *gradient) {
    bool any = false;
    for (size_t first = 0, count; first < o->count && !any; first += count) {
        const piece p = piece_of(o, theta, gradient, first);
        any = o->engine->update_overflows(u, p.theta, p.g, p.m, p.v, p.count);
        count = p.count;
    }
    return any;
}

static void update(const nf_optimizer *o, const engine_update *u, void *theta, const nf_gradient *gradient) {
    for (size_t first = 0, count; first < o->count; first += count) {
        const piece p = piece_of(o, theta, gradient, first);
        o->engine->update(u, p.theta, p.g, p.m, p.v, p.count);
        count = p.count;
    }
}

/* With the floating-point environment entered. The norm is for clipping, and otherwise for gradients that are not ordinary alone. */
static nf_status step(nf_optimizer *o, void *theta, const nf_gradient *gradient) {
    const double most = o->clip_norm > 0.0 ? INFINITY : nf_gradient_largest(gradient);
    const bool measured = !(most < ordinary(o));
    const double norm = measured ? nf_gradient_norm(gradient) : 0.0;
    if (!isfinite(norm))
        return nf_fail(NF_ERR_DIVERGED, NULL, "the gradient is not finite (its norm is %g)", norm);
    engine_update u = o->update;
    const uint64_t t = o->steps + 1;
    u.first = t == 1;
    u.clip = o->clip_norm > 0.0 ? fmin(1.0, o->clip_norm / (norm + 1e-6)) : 1.0;
    if (squares_overflow(o, gradient, norm, u.clip))
        return nf_fail(NF_ERR_DIVERGED, NULL, "the gradient is finite, but its squares are not (its norm is %g, and clip_norm %g)", norm, o->clip_norm);
    u.correction1 = 1.0 - pow(u.beta1, (double)t);
    u.correction2 = 1.0 - pow(u.beta2, (double)t);
    const step_bounds bounds = bounds_of(o, &u, theta, measured ? norm : most);
    const bool safe = is_safe(o, &u, &bounds);
    if (!safe && overflows(o, &u, theta, gradient))
        return nf_fail(NF_ERR_DIVERGED, NULL, "the parameters are not finite after step %llu, which was not taken (the gradient's norm is %g, and the learning rate %g)",
                       (unsigned long long)t, measured ? norm : nf_gradient_norm(gradient), u.rate);
    update(o, &u, theta, gradient);
    o->most_moment = safe ? bounds.moment : o->engine->largest(o->m, o->count);
    o->steps = t;
    return NF_OK;
}

nf_status nf_optimizer_apply(nf_optimizer *optimizer, void *theta, const nf_gradient *gradient) {
    const nf_floating saved = nf_floating_enter();
    const nf_status status = step(optimizer, theta, gradient);
    nf_floating_leave(saved);
    return status;
}

nf_status nf_run_step(nf_optimizer *optimizer, nf_flow *flow, const nf_gradient *gradient) {
    const nf_status status = nf_optimizer_apply(optimizer, flow->theta, gradient);
    if (status == NF_OK)
        flow->epoch = nf_unique();
    return status;
}

nf_status nf_optimizer_step(nf_optimizer *optimizer, nf_flow *flow, const nf_gradient *gradient) {
    nf_clear_error();
    nf_status status = nf_check_pointer(__func__, "optimizer", optimizer);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "flow", flow);
    if (status == NF_OK)
        status = nf_check_pointer(__func__, "gradient", gradient);
    if (status != NF_OK)
        return status;
    if (optimizer->structure != flow->structure)
        return nf_fail(NF_ERR_MISMATCH, __func__, "optimizer belongs to another flow, or to this one before append or invert");
    status = nf_check_gradient(__func__, flow, gradient);
    if (status != NF_OK)
        return status;
    status = nf_run_step(optimizer, flow, gradient);
    return status == NF_OK ? NF_OK : nf_fail_in(status, __func__);
}
