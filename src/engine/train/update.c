#include "engine/train/update.h"

#include <math.h>
#include <string.h>

/* The gradient as the rule sees it: clipped, then with the decay added (all kinds but adamw, which shrinks theta instead). */
static inline real effective(real g, real theta, real clip, real decay) { return madd(decay, theta, g * clip); }

static void adam(const engine_update *u, real *restrict theta, const real *restrict g, real *restrict m, real *restrict v,
                 size_t count) {
    const bool decoupled = u->kind == NF_ADAMW;
    const real clip = (real)u->clip, decay = decoupled ? 0 : (real)u->weight_decay;
    const real shrink = decoupled ? (real)(1.0 - u->rate * u->weight_decay) : 1;
    const real b1 = (real)u->beta1, b2 = (real)u->beta2, a1 = (real)(1.0 - u->beta1), a2 = (real)(1.0 - u->beta2);
    const real step = (real)(u->rate / u->correction1), root = (real)(1.0 / sqrt(u->correction2)), eps = (real)u->epsilon;
    for (size_t i = 0; i < count; i++) {
        const real e = effective(g[i], theta[i], clip, decay);
        m[i] = madd(b1, m[i], a1 * e);
        v[i] = madd(b2, v[i], a2 * e * e);
#if NF_SINGLE_BUILD
        const real s = __builtin_sqrtf(v[i]);
#else
        const real s = __builtin_sqrt(v[i]);
#endif
        theta[i] = theta[i] * shrink - step * m[i] / madd(s, root, eps);
    }
}

static void sgd(const engine_update *u, real *restrict theta, const real *restrict g, real *restrict m, size_t count) {
    const real clip = (real)u->clip, decay = (real)u->weight_decay, rate = (real)u->rate;
    const real momentum = u->first ? 0 : (real)u->momentum;
    for (size_t i = 0; i < count; i++) {
        m[i] = madd(momentum, m[i], effective(g[i], theta[i], clip, decay));
        theta[i] -= rate * m[i];
    }
}

static void rmsprop(const engine_update *u, real *restrict theta, const real *restrict g, real *restrict v, size_t count) {
    const real clip = (real)u->clip, decay = (real)u->weight_decay, rate = (real)u->rate, eps = (real)u->epsilon;
    const real b2 = (real)u->beta2, a2 = (real)(1.0 - u->beta2);
    for (size_t i = 0; i < count; i++) {
        const real e = effective(g[i], theta[i], clip, decay);
        v[i] = madd(b2, v[i], a2 * e * e);
#if NF_SINGLE_BUILD
        theta[i] -= rate * e / (__builtin_sqrtf(v[i]) + eps);
#else
        theta[i] -= rate * e / (__builtin_sqrt(v[i]) + eps);
#endif
    }
}

void R(update)(const engine_update *u, void *theta, const void *g, void *m, void *v, size_t count) {
    switch (u->kind) {
    case NF_ADAM:
    case NF_ADAMW:
        adam(u, theta, g, m, v, count);
        break;
    case NF_SGD:
        sgd(u, theta, g, m, count);
        break;
    case NF_RMSPROP:
        rmsprop(u, theta, g, v, count);
        break;
    }
}

void R(average)(void *mean, const void *theta, double decay, size_t count) {
    real *restrict a = mean;
    const real *restrict b = theta;
    const real d = (real)decay, e = (real)(1.0 - decay);
    for (size_t i = 0; i < count; i++)
        a[i] = madd(d, a[i], e * b[i]);
}

void R(set_scaled)(void *to, const void *from, double scale, size_t count) {
    real *restrict a = to;
    const real *restrict b = from;
    const real s = (real)scale;
    for (size_t i = 0; i < count; i++)
        a[i] = madd(s, b[i], 0);
}

void R(add_scaled)(void *to, const void *from, double scale, size_t count) {
    real *restrict a = to;
    const real *restrict b = from;
    const real s = (real)scale;
    for (size_t i = 0; i < count; i++)
        a[i] = madd(s, b[i], a[i]);
}

/* Magnitudes are ordered as their bits are, and a loop of integers is a vector loop. */
static inline real_uint magnitude(const void *value) {
    real_uint bits;
    memcpy(&bits, value, sizeof bits);
    return bits & ~((real_uint)1 << (8 * sizeof(real) - 1));
}

static double of_magnitude(real_uint bits) {
    real value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

double R(largest)(const void *values, size_t count) {
    const real *a = values;
    real_uint most = 0;
    for (size_t i = 0; i < count; i++) {
        const real_uint size = magnitude(a + i);
        most = size > most ? size : most;
    }
    return of_magnitude(most);
}

double R(scale)(void *values, double scale, size_t count) {
    real *a = values;
    const real s = (real)scale;
    real_uint most = 0;
    for (size_t i = 0; i < count; i++) {
        const real value = madd(s, a[i], 0);
        const real_uint size = magnitude(&value);
        a[i] = value;
        most = size > most ? size : most;
    }
    return of_magnitude(most);
}

/* Of numbers whose squares are none: in units of the largest. Any that are not finite make it so. */
static double scaled_norm(const real *g, size_t count, double sum) {
    const double largest = R(largest)(g, count);
    if (!isfinite(largest) || largest == 0.0 || isnan(sum))
        return sqrt(sum);
    sum = 0;
    for (size_t i = 0; i < count; i++)
        sum = madd_double((double)g[i] / largest, (double)g[i] / largest, sum);
    return largest * sqrt(sum);
}

/* Eight chains, so that the loop is a vector loop; their number is fixed, so the sum is the same on every instruction set with FMA. */
double R(norm2)(const void *values, size_t count) {
    const real *g = values;
    double sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (size_t l = 0; l < 8; l++)
            sum[l] = madd_double((double)g[i + l], (double)g[i + l], sum[l]);
    for (size_t l = 0; i < count; i++, l++)
        sum[l] = madd_double((double)g[i], (double)g[i], sum[l]);
    const double whole = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
    return whole > 0x1p-900 && whole < INFINITY ? sqrt(whole) : scaled_norm(g, count, whole);
}
