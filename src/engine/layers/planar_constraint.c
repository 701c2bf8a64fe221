#include "engine/layers/planar_constraint.h"

#include <stdbool.h>

#include "engine/kernels/vmath.h"
#include "engine/layers/softplus.h"

planar_constraint R(planar_constrain)(size_t dim, const real *u, const real *w) {
    planar_constraint c = {.slope = 1};
    double a = 0, square = 0;
    for (size_t i = 0; i < dim; i++) { /* no fmax, on which gcc 12 for aarch64 breaks */
        const double size = fabs((double)w[i]);
        c.largest = size > c.largest ? size : c.largest;
    }
    if (c.largest == 0) {
        c.largest = 1;
        return c;
    }
    for (size_t i = 0; i < dim; i++) {
        const double scaled = (double)w[i] / c.largest;
        square = madd_double(scaled, scaled, square);
        a = madd_double((double)w[i], (double)u[i], a);
    }
    c.inverse_root = 1 / sqrt(square);
    c.norm = c.largest * sqrt(square);
    c.slope = softplus(a);
    c.log_rate = c.slope < (double)REAL_MIN ? 0 : logistic(a) / c.slope;
    c.slope = fmax(c.slope, (double)REAL_MIN);
    c.shift = (softplus(-a) - 1) / c.norm;
    c.shift_rate = -logistic(-a) / c.norm;
    return c;
}

static double unit(const planar_constraint *c, real w) { return (double)w / c->largest * c->inverse_root; }

real R(planar_u_hat)(const planar_constraint *c, real u, real w) { return (real)madd_double(c->shift, unit(c, w), (double)u); }

/*
 * With e = w / |w|, G the cotangent of uhat and P = G.e:
 *     da = log_rate d_log_s + shift_rate P,   du = G + w da,   dw = d_w + u da + (k / |w|^2) (G - 2 P e).
 * Where k / |w|^2 is beyond the numbers, the last product need not be.
 */
void R(planar_constrain_vjp)(const planar_constraint *c, size_t dim, const real *u, const real *w, const double *d_u_hat,
                             const double *d_w, double d_log_s, real *gradient) {
    double along = 0;
    for (size_t i = 0; i < dim; i++)
        along = madd_double(d_u_hat[i], unit(c, w[i]), along);
    const double da = madd_double(c->log_rate, d_log_s, c->shift_rate * along);
    const double turn = c->norm > 0 ? c->shift / c->norm : 0, direct = c->norm > 0 ? 1 : 0;
    const bool apart = fabs(turn) > DBL_MAX;
    for (size_t i = 0; i < dim; i++) {
        const double across = madd_double(-2 * along, unit(c, w[i]), d_u_hat[i]);
        const double turned = apart ? c->shift * across / c->norm : turn * across;
        gradient[i] += (real)madd_double((double)w[i], da, d_u_hat[i]);
        gradient[dim + i] += (real)(direct * d_w[i] + madd_double((double)u[i], da, turned));
    }
}

void R(planar_constrain_lanes)(size_t dim, const real *restrict u, const real *restrict w, planar_lanes *lanes, real *restrict u_hat) {
    _Alignas(NF_ALIGN) real a[PANEL] = {0}, square[PANEL] = {0};
    real *restrict largest = lanes->largest, *restrict inverse_root = lanes->inverse_root, *restrict norm = lanes->norm;
    real *restrict slope = lanes->slope, *restrict log_rate = lanes->log_rate;
    real *restrict shift = lanes->shift, *restrict shift_rate = lanes->shift_rate;
    for (size_t l = 0; l < PANEL; l++)
        largest[l] = 0;
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++) {
            const real size = vm_abs(w[i * PANEL + l]);
            largest[l] = size > largest[l] ? size : largest[l];
        }
    for (size_t l = 0; l < PANEL; l++) {
        norm[l] = largest[l];
        largest[l] = largest[l] > 0 ? largest[l] : 1;
    }
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++) {
            const real scaled = w[i * PANEL + l] / largest[l];
            square[l] = madd(scaled, scaled, square[l]);
            a[l] = madd(w[i * PANEL + l], u[i * PANEL + l], a[l]);
        }
    for (size_t l = 0; l < PANEL; l++) {
        const real root = vm_sqrt(square[l]), s = vm_softplus(a[l]), rate = vm_sigmoid(a[l]);
        const bool some = norm[l] > 0;
        norm[l] *= root;
        inverse_root[l] = some ? 1 / root : 0;
        slope[l] = !some ? 1 : s < REAL_MIN ? REAL_MIN : s;
        log_rate[l] = !some || s < REAL_MIN ? 0 : rate / s;
        shift[l] = some ? (vm_softplus(-a[l]) - 1) / norm[l] : 0;
        shift_rate[l] = some ? -vm_sigmoid(-a[l]) / norm[l] : 0;
    }
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            u_hat[i * PANEL + l] = madd(shift[l], w[i * PANEL + l] / largest[l] * inverse_root[l], u[i * PANEL + l]);
}

/* In the lanes where k / |w|^2 is beyond the numbers, its product is added to d_w here, and `turn` becomes 0. */
static void turn_apart(const planar_lanes *lanes, size_t dim, const real *w, const real *along, const real *d_u, real *turn, real *d_w) {
    for (size_t l = 0; l < PANEL; l++) {
        if (!(vm_abs(turn[l]) > REAL_MAX))
            continue;
        turn[l] = 0;
        for (size_t i = 0; i < dim; i++) {
            const size_t at = i * PANEL + l;
            const real across = madd(-2 * along[l], w[at] / lanes->largest[l] * lanes->inverse_root[l], d_u[at]);
            d_w[at] += lanes->shift[l] * across / lanes->norm[l];
        }
    }
}

void R(planar_constrain_lanes_vjp)(const planar_lanes *lanes, size_t dim, const real *restrict u, const real *restrict w,
                                   const real *restrict d_log_s, real *restrict d_u, real *restrict d_w) {
    const real *restrict largest = lanes->largest, *restrict inverse_root = lanes->inverse_root, *restrict norm = lanes->norm;
    const real *restrict shift = lanes->shift;
    _Alignas(NF_ALIGN) real along[PANEL] = {0}, da[PANEL], turn[PANEL];
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++)
            along[l] = madd(d_u[i * PANEL + l], w[i * PANEL + l] / largest[l] * inverse_root[l], along[l]);
    for (size_t l = 0; l < PANEL; l++) {
        da[l] = madd(lanes->log_rate[l], d_log_s[l], lanes->shift_rate[l] * along[l]);
        turn[l] = norm[l] > 0 ? shift[l] / norm[l] : 0;
    }
    turn_apart(lanes, dim, w, along, d_u, turn, d_w);
    for (size_t i = 0; i < dim; i++)
        for (size_t l = 0; l < PANEL; l++) {
            const size_t at = i * PANEL + l;
            const real across = madd(-2 * along[l], w[at] / largest[l] * inverse_root[l], d_u[at]);
            const real direct = norm[l] > 0 ? d_w[at] : 0;
            d_u[at] = madd(w[at], da[l], d_u[at]);
            d_w[at] = direct + madd(u[at], da[l], turn[l] * across);
        }
}
