/* engine-test: planar layers against long double, far beyond what training meets, in both precisions. */
#include <stdio.h>
#include <stdlib.h>

#include "layer_tile.h"

/* ---- the layer in long double */

static long double softplus_l(long double a) { return (a > 0 ? a : 0) + log1pl(expl(-fabsl(a))); }

static long double tanh_gap(long double t) { /* t - tanh t, t >= 0 */
    if (t > 0.1L)
        return t - tanhl(t);
    static const long double series[] = {1 / 3.0L,          -2 / 15.0L,           17 / 315.0L,           -62 / 2835.0L,
                                         1382 / 155925.0L, -21844 / 6081075.0L, 929569 / 638512875.0L};
    long double sum = 0;
    for (int k = 6; k >= 0; k--)
        sum = sum * t * t + series[k];
    return sum * t * t * t;
}

/* t + (s - 1) tanh t = y: Newton's method in a bracket. */
static long double root_l(long double s, long double y) {
    const long double target = fabsl(y);
    long double low = s > 1 ? fmaxl(0, target - (s - 1)) : target, high = s > 1 ? target : target + (1 - s), t = (low + high) / 2;
    for (int k = 0; k < 400; k++) {
        const long double h = tanhl(t), f = tanh_gap(t) + s * h - target;
        if (f > 0)
            high = t;
        else
            low = t;
        long double next = t - f / (h * h + s * (1 - h * h));
        if (!(next > low && next < high))
            next = (low + high) / 2;
        if (next == t || fabsl(next - t) <= 4 * LDBL_EPSILON * t)
            break;
        t = next;
    }
    return copysignl(t, y);
}

static long double log_det_l(long double s, long double t) {
    const long double e = expl(-2 * fabsl(t)), q = 4 * e / ((1 + e) * (1 + e)), h = tanhl(t);
    return s < 0.5L ? logl(h * h + s * q) : log1pl((s - 1) * q);
}

static long double planar_l(size_t dim, const long double *p, bool inverse, const long double *in, long double *out) {
    const long double *u = p, *w = p + dim;
    long double a = 0, square = 0, y = p[2 * dim];
    for (size_t i = 0; i < dim; i++) {
        a += w[i] * u[i];
        square += w[i] * w[i];
        y += w[i] * in[i];
    }
    const long double s = softplus_l(a), k = softplus_l(-a) - 1, t = inverse ? root_l(s, y) : y, h = tanhl(t);
    for (size_t i = 0; i < dim; i++)
        out[i] = in[i] + (inverse ? -h : h) * (u[i] + k * w[i] / square);
    return inverse ? -log_det_l(s, t) : log_det_l(s, t);
}

/* ---- random layers */

/* w of a given length, u with a given w.u and some more across it. */
static void draw_layer(layer_tile *m, double length, double product, double across, double bias) {
    const size_t dim = m->t.dim;
    double w[MOST_DIM], v[MOST_DIM], square = 0, along = 0;
    for (size_t i = 0; i < dim; i++) {
        w[i] = normal();
        v[i] = normal();
        square += w[i] * w[i];
        along += w[i] * v[i];
    }
    for (size_t i = 0; i < dim; i++) {
        const double unit = w[i] / sqrt(square);
        m->theta[i] = (real)(product / length * unit + across * (v[i] - along / sqrt(square) * unit));
        m->theta[dim + i] = (real)(length * unit);
    }
    m->theta[2 * dim] = (real)bias;
}

typedef struct measures {
    double w, u_hat, b; /* 2-norm of w, max|uhat|, |b| */
    long double slope;
    double slope_error; /* relative, of what the layer works with */
} measures;

static measures measure(const layer_tile *m) {
    const size_t dim = m->t.dim;
    long double a = 0, square = 0, size = 0;
    for (size_t i = 0; i < dim; i++) {
        a += (long double)m->theta[i] * (long double)m->theta[dim + i];
        size += fabsl((long double)m->theta[i] * (long double)m->theta[dim + i]);
        square += (long double)m->theta[dim + i] * (long double)m->theta[dim + i];
    }
    measures q = {sqrt((double)square), 0, fabs((double)m->theta[2 * dim]), softplus_l(a), 0};
    for (size_t i = 0; i < dim; i++)
        q.u_hat = fmax(q.u_hat, fabs((double)((long double)m->theta[i] + (softplus_l(-a) - 1) * (long double)m->theta[dim + i] / square)));
    q.slope_error = 4 * (double)REAL_EPS + 4 * DBL_EPSILON * (double)size;
    return q;
}

/* log_det is monotone in |t| and in s: it must lie between its values for all y and s that round-off cannot tell apart. */
static void check_log_det(const measures *q, long double y, double y_error, double got, size_t layer) {
    long double least = INFINITY, most = -INFINITY;
    for (int corner = 0; corner < 6; corner++) {
        const long double s = q->slope * (1 + (corner % 2 ? 1 : -1) * (long double)q->slope_error);
        long double moved = y + (long double)(corner / 2 - 1) * (long double)y_error;
        if (corner / 2 == 1 && fabsl(y) <= (long double)y_error)
            moved = 0;
        const long double value = -log_det_l(s, root_l(s, moved));
        least = fminl(least, value);
        most = fmaxl(most, value);
    }
    const double slack = 16 * (double)REAL_EPS * (1 + fabs(got));
    ck_assert_msg(got >= (double)least - slack && got <= (double)most + slack,
                  "layer %zu: inverse log_det %.9g, expected within [%.9Lg, %.9Lg] (s %.3Lg, y %.6Lg, seed %llu)", layer, got, least, most, q->slope,
                  y, (unsigned long long)seed);
}

/* Round trips of random layers. */
enum { MILLION = 1000000, FEW = 50000 };

/* One random layer and TILE_ROWS random rows; the worst round trip, in units. */
static double check_pairs(layer_tile *m, size_t layer, bool with_log_det) {
    const size_t dim = m->t.dim;
    m->counters.root_iterations = 0;
    draw_layer(m, pow(10, uniform(-9, 3)), uniform(-30, 60), layer % 3 ? normal() : signed_power(-6, 3), layer % 7 ? signed_power(-4, 4) : 0);
    const measures q = measure(m);
    static long double given[TILE_ROWS][MOST_DIM];
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const double size = signed_power(-6, 6);
        for (size_t f = 0; f < dim; f++)
            given[r][f] = (long double)(*at(m->x, dim, r, f) = (real)(r % 5 ? uniform(-1, 1) * size : normal()));
    }
    apply_layer(m, true, false);
    ck_assert_msg(m->counters.root_iterations <= 40 * TILE_ROWS, "layer %zu: %llu iterations (seed %llu)", layer,
                  (unsigned long long)m->counters.root_iterations, (unsigned long long)seed);
    double x_size[TILE_ROWS], x_norm[TILE_ROWS], z_size[TILE_ROWS], z_norm[TILE_ROWS], worst = 0;
    for (size_t r = 0; r < TILE_ROWS; r++) {
        long double y = (long double)m->theta[2 * dim];
        x_size[r] = x_norm[r] = z_size[r] = z_norm[r] = 0;
        for (size_t f = 0; f < dim; f++) {
            const double x = (double)given[r][f], z = (double)*at(m->x, dim, r, f);
            y += (long double)m->theta[dim + f] * given[r][f];
            x_size[r] = fmax(x_size[r], fabs(x));
            z_size[r] = fmax(z_size[r], fabs(z));
            x_norm[r] += fabs(x * (double)m->theta[dim + f]);
            z_norm[r] += fabs(z * (double)m->theta[dim + f]);
            ck_assert_msg(isfinite(z), "layer %zu, row %zu: not finite (seed %llu)", layer, r, (unsigned long long)seed);
        }
        if (with_log_det && r % 8 == 0)
            check_log_det(&q, y, ((double)dim + 2) * (double)REAL_EPS * (x_norm[r] + q.b) + 8 * (double)REAL_EPS * fabs((double)y), m->log_det[r], layer);
    }
    apply_layer(m, false, false);
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const double unit = (double)REAL_EPS * (x_size[r] + z_size[r] + q.u_hat * (1 + q.b + z_norm[r] + x_norm[r]) + 1);
        double error = 0;
        for (size_t f = 0; f < dim; f++)
            error = fmax(error, fabs((double)*at(m->x, dim, r, f) - (double)given[r][f]));
        ck_assert_msg(error <= 256 * unit, "layer %zu, row %zu: round trip off by %.3g units (s %.3Lg, |w| %.3g, |uhat| %.3g, b %.3g, seed %llu)",
                      layer, r, error / unit, q.slope, q.w, q.u_hat, q.b, (unsigned long long)seed);
        worst = fmax(worst, error / unit);
    }
    return worst;
}

START_TEST(a_million_pairs) {
    begin_random(1);
    static layer_tile tiles[MOST_DIM];
    const size_t pairs = is_brief() ? FEW : MILLION;
    double worst = 0;
    for (size_t i = 0; i < MOST_DIM; i++)
        open_tile(&tiles[i], &R(planar_ops), NF_LAYER_PLANAR, i + 1, TILE_ROWS);
    for (size_t layer = 0; layer * TILE_ROWS < pairs; layer++)
        worst = fmax(worst, check_pairs(&tiles[layer % MOST_DIM], layer, layer / MOST_DIM % 4 == 0));
    for (size_t i = 0; i < MOST_DIM; i++)
        close_tile(&tiles[i]);
    printf("worst round trip of %zu pairs: %.2f units (seed %llu)\n", pairs, worst, (unsigned long long)seed);
}
END_TEST

/* ---- vjps */

static void check_vjps(size_t dim, double product, double units) {
    layer_tile m;
    for (int inverse = 0; inverse < 2; inverse++) {
        open_tile(&m, &R(planar_ops), NF_LAYER_PLANAR, dim, PANEL + 3);
        draw_layer(&m, 1.385, product, 0.385, 0.2385);
        for (size_t r = 0; r < m.t.rows; r++)
            for (size_t f = 0; f < dim; f++)
                *at(m.x, dim, r, f) = (real)(1.385 * normal());
        check_vjp(&m, planar_l, 2 * dim + 1, inverse == 1, units);
        close_tile(&m);
    }
}

START_TEST(vjps_are_the_derivatives) {
    static const double products[] = {-3.385, -1.2385, -0.4, 0.2385, 0.55, 2.385, 11.3, 40.7};
    begin_random(2);
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        for (size_t dim = 1; dim <= 5; dim += 2)
            check_vjps(dim, products[i], NF_SINGLE_BUILD ? 4096 : 1e6);
}
END_TEST

/* ---- limits */

START_TEST(no_direction_is_a_shift) {
    layer_tile m;
    begin_random(3);
    open_tile(&m, &R(planar_ops), NF_LAYER_PLANAR, 3, 5);
    for (size_t i = 0; i < 3; i++)
        m.theta[i] = (real)normal();
    m.theta[6] = (real)0.7385;
    for (int inverse = 0; inverse < 2; inverse++) {
        double before[15], given[20], expected[3] = {0};
        for (size_t r = 0; r < 5; r++)
            for (size_t f = 0; f < 3; f++)
                before[r * 3 + f] = (double)(*at(m.x, 3, r, f) = (real)normal());
        apply_layer(&m, inverse == 1, true);
        for (size_t r = 0; r < 5; r++) {
            ck_assert_double_eq(m.log_det[r], 0);
            for (size_t f = 0; f < 3; f++) {
                const double shift = (double)m.theta[f] * tanh((double)m.theta[6]);
                ck_assert_double_eq_tol((double)*at(m.x, 3, r, f), before[r * 3 + f] + (inverse ? -shift : shift), 8 * (double)REAL_EPS);
            }
        }
        pull_layer(&m, inverse == 1, given);
        for (size_t f = 0; f < 3; f++) {
            for (size_t r = 0; r < 5; r++)
                expected[f] += (inverse ? -1 : 1) * given[r * 4 + f] * tanh((double)m.theta[6]);
            ck_assert_double_eq_tol((double)m.gradient[f], expected[f], 32 * (double)REAL_EPS);
            ck_assert_double_eq((double)m.gradient[3 + f], 0);
        }
    }
    close_tile(&m);
}
END_TEST

/* w.u far below where softplus underflows: the slope is held, everything stays finite, and the round trip is as good as ever. */
START_TEST(underflowing_slopes) {
    static const double products[] = {-80, -95, -120, -700, -760, -1e4};
    begin_random(4);
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        layer_tile m;
        double given[TILE_ROWS * 3], kept[TILE_ROWS * 2];
        open_tile(&m, &R(planar_ops), NF_LAYER_PLANAR, 2, TILE_ROWS);
        draw_layer(&m, 1.385, products[i], 0.385, 0.2385);
        const double u_hat = 2 / 1.385 + 2;
        for (size_t r = 0; r < TILE_ROWS; r++)
            for (size_t f = 0; f < 2; f++)
                kept[r * 2 + f] = (double)(*at(m.x, 2, r, f) = (real)normal());
        apply_layer(&m, true, true);
        for (size_t r = 0; r < TILE_ROWS; r++)
            ck_assert(isfinite(m.log_det[r]));
        pull_layer(&m, true, given);
        for (size_t p = 0; p < 5; p++)
            ck_assert_msg(isfinite((double)m.gradient[p]), "w.u %g: gradient %zu", products[i], p);
        apply_layer(&m, false, true);
        for (size_t r = 0; r < TILE_ROWS * 2; r++)
            ck_assert_double_eq_tol((double)*at(m.x, 2, r / 2, r % 2), kept[r], 256 * (double)REAL_EPS * (8 + u_hat * 20));
        pull_layer(&m, false, given);
        for (size_t p = 0; p < 5; p++)
            ck_assert(isfinite((double)m.gradient[p]));
        close_tile(&m);
    }
}
END_TEST

/* The root at 0, exactly. */
START_TEST(zero_stays_zero) {
    static const double products[] = {-30, -3, 0, 0.5413, 4, 60};
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        layer_tile m;
        begin_random(5);
        open_tile(&m, &R(planar_ops), NF_LAYER_PLANAR, 2, 1);
        draw_layer(&m, 2.385, products[i], 0, 0);
        apply_layer(&m, true, false);
        ck_assert_double_eq((double)*at(m.x, 2, 0, 0), 0);
        ck_assert_uint_eq(m.counters.root_iterations, 1);
        const measures q = measure(&m);
        must_be_close("log_det", i, m.log_det[0], -logl(q.slope), 1 + fabs(m.log_det[0]), 8 + q.slope_error / (double)REAL_EPS);
        close_tile(&m);
    }
}
END_TEST

/*
 * The guess is so good that one step and its confirmation do, for slopes up to 60 and |t| up to 6, in all but a few rows; were they one in forty,
 * most panels would take a third pass.
 */
START_TEST(two_evaluations_are_the_rule) {
    for (int i = 0; i < 40; i++) {
        layer_tile m;
        begin_random(60 + (uint64_t)i);
        open_tile(&m, &R(planar_ops), NF_LAYER_PLANAR, 2, TILE_ROWS);
        uint64_t iterations = 0;
        const double product = uniform(-30, 60);
        for (int round = 0; round < 20; round++) {
            draw_layer(&m, 1, product, 0, 0);
            for (size_t r = 0; r < TILE_ROWS; r++) {
                const double t = uniform(-6, 6);
                for (size_t f = 0; f < 2; f++)
                    *at(m.x, 2, r, f) = (real)t * m.theta[2 + f];
            }
            apply_layer(&m, false, false);
            m.counters.root_iterations = 0;
            apply_layer(&m, true, false);
            iterations += m.counters.root_iterations;
        }
        const double mean = (double)iterations / (20.0 * TILE_ROWS);
        ck_assert_msg(mean <= 2.01, "w.u = %.2f: %.3f evaluations a row (seed %llu)", product, mean, (unsigned long long)seed);
        close_tile(&m);
    }
}
END_TEST

/* ---- densities */

#if !NF_SINGLE_BUILD
typedef struct stack {
    layer_tile layers[4];
    size_t count, dim;
} stack;

static void open_stack(stack *s, size_t count, size_t dim) {
    s->count = count;
    s->dim = dim;
    for (size_t k = 0; k < count; k++) {
        open_tile(&s->layers[k], &R(planar_ops), NF_LAYER_PLANAR, dim, TILE_ROWS);
        draw_layer(&s->layers[k], uniform(0.7, 3), uniform(-2, 5), 0.5, normal());
    }
}

static void close_stack(stack *s) {
    for (size_t k = 0; k < s->count; k++)
        close_tile(&s->layers[k]);
}

/* The sum of the densities of the rows that stand in the last layer's tile. */
static double sum_density(stack *s, size_t rows) {
    double log_det[TILE_ROWS] = {0}, sum = 0;
    for (size_t k = s->count; k-- > 0;) {
        layer_tile *m = &s->layers[k];
        m->t.rows = rows;
        m->t.panels = (rows + PANEL - 1) / PANEL;
        apply_layer(m, true, false);
        for (size_t r = 0; r < rows; r++)
            log_det[r] += m->log_det[r];
        if (k > 0)
            memcpy(s->layers[k - 1].x, m->x, TILE_ROWS * s->dim * sizeof(real));
    }
    for (size_t r = 0; r < rows; r++) {
        double square = 0;
        for (size_t f = 0; f < s->dim; f++)
            square += *at(s->layers[0].x, s->dim, r, f) * *at(s->layers[0].x, s->dim, r, f);
        sum += exp(log_det[r] - 0.5 * square - (double)s->dim * 0.91893853320467274178);
    }
    return sum;
}

/*
 * The box that holds the image of the ball of radius 7.5 around the mean of the base, outside of which nothing is that counts. The map is
 * a homeomorphism: the image of the sphere encloses that of the ball.
 */
static void find_box(stack *s, double low[2], double high[2]) {
    enum { TURNS = 16 * TILE_ROWS };
    for (size_t f = 0; f < s->dim; f++) {
        low[f] = INFINITY;
        high[f] = -INFINITY;
    }
    for (size_t first = 0; first < TURNS; first += TILE_ROWS) {
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const double turn = 6.283185307179586 * (double)(first + r) / TURNS;
            *at(s->layers[0].x, s->dim, r, 0) = s->dim == 1 ? (r % 2 ? 7.5 : -7.5) : 7.5 * cos(turn);
            if (s->dim == 2)
                *at(s->layers[0].x, 2, r, 1) = 7.5 * sin(turn);
        }
        for (size_t k = 0; k < s->count; k++) {
            layer_tile *m = &s->layers[k];
            if (k > 0)
                memcpy(m->x, s->layers[k - 1].x, TILE_ROWS * s->dim * sizeof(real));
            apply_layer(m, false, false);
        }
        for (size_t r = 0; r < TILE_ROWS; r++)
            for (size_t f = 0; f < s->dim; f++) {
                const double x = *at(s->layers[s->count - 1].x, s->dim, r, f);
                low[f] = fmin(low[f], x - 0.02);
                high[f] = fmax(high[f], x + 0.02);
            }
    }
}

/* By the trapezoidal rule on the box, which converges faster than any power of the step here. */
static double integral(stack *s, size_t nodes, const double low[2], const double high[2]) {
    const double step = (high[0] - low[0]) / (double)nodes, other = s->dim == 2 ? (high[1] - low[1]) / (double)nodes : 1;
    const size_t points = s->dim == 1 ? nodes : nodes * nodes;
    double sum = 0;
    for (size_t first = 0; first < points; first += TILE_ROWS) {
        const size_t rows = points - first < TILE_ROWS ? points - first : TILE_ROWS;
        for (size_t r = 0; r < rows; r++) {
            *at(s->layers[s->count - 1].x, s->dim, r, 0) = low[0] + step * (double)((first + r) % nodes);
            if (s->dim == 2)
                *at(s->layers[s->count - 1].x, 2, r, 1) = low[1] + other * (double)((first + r) / nodes);
        }
        sum += sum_density(s, rows);
    }
    return sum * step * other;
}

/* The node count is doubled until the integral no longer changes. */
static void check_integral(size_t count, size_t dim, size_t start, size_t most) {
    stack s;
    open_stack(&s, count, dim);
    double low[2], high[2];
    find_box(&s, low, high);
    double before = integral(&s, start, low, high);
    for (size_t nodes = 2 * start; nodes <= most; nodes *= 2) {
        const double now = integral(&s, nodes, low, high);
        if (fabs(now - before) < 1e-8) {
            ck_assert_msg(fabs(now - 1) < 1e-8, "%zu layers, dim %zu: integral %.12f (seed %llu)", count, dim, now, (unsigned long long)seed);
            close_stack(&s);
            return;
        }
        before = now;
    }
    ck_abort_msg("%zu layers, dim %zu: the integral is not stable with %zu nodes, %.12f (seed %llu)", count, dim, most, before,
                 (unsigned long long)seed);
}

START_TEST(densities_integrate_to_1) {
    begin_random(7);
    for (size_t i = 0; i < (is_brief() ? 4 : 40); i++)
        check_integral(1 + i % 4, 1, 1024, (size_t)1 << 20);
    for (size_t count = 1; count <= 4 && !is_brief(); count++)
        check_integral(count, 2, 512, 8192);
}
END_TEST

/* ---- steep densities on the line */

static double image(stack *s, size_t first, double z) {
    for (size_t k = first; k < s->count; k++) {
        s->layers[k].t.rows = s->layers[k].t.panels = 1;
        *at(s->layers[k].x, 1, 0, 0) = z;
        apply_layer(&s->layers[k], false, false);
        z = *at(s->layers[k].x, 1, 0, 0);
    }
    return z;
}

/*
 * By tanh-sinh quadrature (Takahasi & Mori 1974). Near a steep point that is an end of the piece the density is like distance^(-2/3) down to a
 * distance of slope^(3/2), so the distance from the nearer end is computed as such.
 */
static double piece(stack *s, double low, double high, double h) {
    double sum = 0;
    for (double t = -4; t <= 4; t += h) {
        const double inner = 1.5707963267948966 * sinh(t), distance = (high - low) / (1 + exp(2 * fabs(inner)));
        const double weight = 0.5 * (high - low) * 1.5707963267948966 * cosh(t) / (cosh(inner) * cosh(inner));
        *at(s->layers[s->count - 1].x, 1, 0, 0) = inner < 0 ? low + distance : high - distance;
        sum += weight * sum_density(s, 1);
    }
    return sum * h;
}

static int in_order(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The panels meet at the images of each layer's steepest point, t = 0; the step is halved until the sum no longer changes. */
static void check_steep(stack *s) {
    double cuts[6], before = INFINITY;
    size_t count = 0;
    cuts[count++] = image(s, 0, -8.5);
    cuts[count++] = image(s, 0, 8.5);
    for (size_t k = 0; k < s->count; k++) {
        const double point = image(s, k, -s->layers[k].theta[2] / s->layers[k].theta[1]);
        if (point > cuts[0] && point < cuts[1])
            cuts[count++] = point;
    }
    qsort(cuts, count, sizeof *cuts, in_order);
    for (double h = 0.04; h > 0.002; h /= 2) {
        double now = 0;
        for (size_t i = 0; i + 1 < count; i++)
            now += piece(s, cuts[i], cuts[i + 1], h);
        if (fabs(now - before) < 1e-8) {
            ck_assert_msg(fabs(now - 1) < 1e-8, "%zu layers: integral %.12f (seed %llu)", s->count, now, (unsigned long long)seed);
            return;
        }
        before = now;
    }
    ck_abort_msg("%zu layers: the integral is not stable, %.12f (seed %llu)", s->count, before, (unsigned long long)seed);
}

/*
 * One layer over the whole range of slopes, its steep point at 0, where x has all the digits that a slope of 1e-13 needs; up to four with the steep
 * points anywhere, and slopes that the digits of x resolve there.
 */
START_TEST(steep_densities_integrate_to_1) {
    begin_random(8);
    for (size_t i = 0; i < 60; i++) {
        stack s;
        const bool alone = i % 2 == 0;
        open_stack(&s, alone ? 1 : 1 + i / 2 % 4, 1);
        for (size_t k = 0; k < s.count; k++)
            draw_layer(&s.layers[k], uniform(0.7, 3), alone ? uniform(-30, 60) : uniform(-6, 12), 0, alone ? 0 : normal());
        check_steep(&s);
        close_stack(&s);
    }
}
END_TEST
#endif

int main(void) {
    Suite *suite = suite_create("planar");
    TCase *all = tcase_create("planar layers");
    tcase_set_timeout(all, 300);
    tcase_add_test(all, a_million_pairs);
    tcase_add_test(all, vjps_are_the_derivatives);
    tcase_add_test(all, no_direction_is_a_shift);
    tcase_add_test(all, underflowing_slopes);
    tcase_add_test(all, zero_stays_zero);
    tcase_add_test(all, two_evaluations_are_the_rule);
#if !NF_SINGLE_BUILD
    tcase_add_test(all, densities_integrate_to_1);
    tcase_add_test(all, steep_densities_integrate_to_1);
#endif
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
