/* engine-test: radial layers against long double, in both precisions. */
#include <stdio.h>

#include "layer_tile.h"

static long double softplus_l(long double a) { return (a > 0 ? a : 0) + log1pl(expl(-fabsl(a))); }

static long double log_det_l(size_t dim, long double a, long double sigma, long double r) {
    const long double s = a + r, more = (sigma - a) / s;
    const long double stretch = sigma < a / 2 ? logl((sigma + r) / s) : log1pl(more);
    const long double rate = sigma < a / 2 ? logl((r * r + 2 * a * r + sigma * a) / (s * s)) : log1pl(more * a / s);
    return (long double)(dim - 1) * stretch + rate;
}

static long double radius_l(long double a, long double sigma, long double rho) {
    const long double half = (rho - sigma) / 2, root = sqrtl(half * half + a * rho);
    return half > 0 ? half + root : rho > 0 ? a * rho / (root - half) : 0;
}

static long double radial_l(size_t dim, const long double *p, bool inverse, const long double *in, long double *out) {
    const long double a = softplus_l(p[dim]), sigma = softplus_l(p[dim + 1]);
    long double square = 0;
    for (size_t i = 0; i < dim; i++)
        square += (in[i] - p[i]) * (in[i] - p[i]);
    const long double distance = sqrtl(square), r = inverse ? radius_l(a, sigma, distance) : distance;
    for (size_t i = 0; i < dim; i++)
        out[i] = in[i] + (inverse ? -(sigma - a) / (sigma + r) : (sigma - a) / (a + r)) * (in[i] - p[i]);
    return inverse ? -log_det_l(dim, a, sigma, r) : log_det_l(dim, a, sigma, r);
}

static void draw_layer(layer_tile *m, double alpha, double beta, double spread) {
    const size_t dim = m->t.dim;
    for (size_t i = 0; i < dim; i++)
        m->theta[i] = (real)(spread * normal());
    m->theta[dim] = (real)alpha;
    m->theta[dim + 1] = (real)beta;
}

#define PAIRS 1000000

/*
 * A unit of round-off: eps * (max|x| + |bhat| + (max|z| + max|center|) max(1, sigma / a)), for z - center cannot be known better than to eps of
 * these, and sigma / a is the steepest that the forward map gets.
 *
 * The inverse's log_det is compared with the formula at the distance that the layer saw, give or take the round-off of the center's difference.
 */
static double check_pairs(layer_tile *m, size_t layer, bool with_log_det) {
    const size_t dim = m->t.dim;
    static long double given[TILE_ROWS][MOST_DIM];
    double size[TILE_ROWS], worst = 0, moved = 0;
    draw_layer(m, uniform(-12, 20), uniform(-12, 20), layer % 3 ? 1 : pow(10, uniform(-4, 4)));
    const long double a = softplus_l((long double)m->theta[dim]), sigma = softplus_l((long double)m->theta[dim + 1]);
    const double steep = fmax(1, (double)(sigma / a));
    for (size_t f = 0; f < dim; f++) { /* no fmax, on which gcc 12 for aarch64 breaks */
        const double distance = fabs((double)m->theta[f]);
        moved = distance > moved ? distance : moved;
    }
    for (size_t r = 0; r < TILE_ROWS; r++) {
        const double scale = signed_power(-6, 6);
        double largest = 0;
        for (size_t f = 0; f < dim; f++) {
            given[r][f] = (long double)(*at(m->x, dim, r, f) = (real)(r % 5 ? uniform(-1, 1) * scale : normal()));
            largest = fmax(largest, fabs((double)given[r][f]));
        }
        size[r] = largest + fabs((double)(sigma - a)) + moved * steep;
    }
    apply_layer(m, true, false);
    for (size_t r = 0; r < TILE_ROWS; r++) {
        double largest = 0;
        for (size_t f = 0; f < dim; f++) {
            ck_assert_msg(isfinite((double)*at(m->x, dim, r, f)), "layer %zu, row %zu: not finite (seed %llu)", layer, r, (unsigned long long)seed);
            largest = fmax(largest, fabs((double)*at(m->x, dim, r, f)));
        }
        size[r] += largest * steep;
        if (!with_log_det || r % 4)
            continue;
        long double square = 0, least = INFINITY, most = -INFINITY;
        for (size_t f = 0; f < dim; f++)
            square += (given[r][f] - (long double)m->theta[f]) * (given[r][f] - (long double)m->theta[f]);
        for (int k = 0; k < 8; k++) { /* round-off in rho, a and sigma, of either sign */
            const long double e = 8 * (long double)REAL_EPS, a_k = a * (1 + (k & 1 ? e : -e)), sigma_k = sigma * (1 + (k & 2 ? e : -e));
            const long double value = -log_det_l(dim, a_k, sigma_k, radius_l(a_k, sigma_k, sqrtl(square) * (1 + (k & 4 ? e : -e))));
            least = fminl(least, value);
            most = fmaxl(most, value);
        }
        const double got = m->log_det[r], slack = 16 * (double)REAL_EPS * ((double)dim + fabs(got));
        ck_assert_msg(got >= (double)least - slack && got <= (double)most + slack, "layer %zu: log_det %.9g, expected %.9Lg to %.9Lg (seed %llu)",
                      layer, got, least, most, (unsigned long long)seed);
    }
    apply_layer(m, false, false);
    for (size_t r = 0; r < TILE_ROWS; r++)
        for (size_t f = 0; f < dim; f++) {
            const double error = fabs((double)*at(m->x, dim, r, f) - (double)given[r][f]) / ((double)REAL_EPS * (size[r] + 1));
            ck_assert_msg(error <= 256, "layer %zu, row %zu: round trip off by %.3g units (a %.3Lg, sigma %.3Lg, seed %llu)", layer, r, error, a,
                          sigma, (unsigned long long)seed);
            worst = fmax(worst, error);
        }
    return worst;
}

START_TEST(a_million_pairs) {
    static layer_tile tiles[MOST_DIM];
    double worst = 0;
    begin_random(1);
    for (size_t i = 0; i < MOST_DIM; i++)
        open_tile(&tiles[i], &R(radial_ops), NF_LAYER_RADIAL, i + 1, TILE_ROWS);
    for (size_t layer = 0; layer * TILE_ROWS < PAIRS; layer++)
        worst = fmax(worst, check_pairs(&tiles[layer % MOST_DIM], layer, layer / MOST_DIM % 4 == 0));
    for (size_t i = 0; i < MOST_DIM; i++)
        close_tile(&tiles[i]);
    printf("worst round trip of %d pairs: %.2f units (seed %llu)\n", PAIRS, worst, (unsigned long long)seed);
}
END_TEST

START_TEST(vjps_are_the_derivatives) {
    static const double shapes[][2] = {{0.385, -1.2385}, {-1.385, 2.385}, {2.1, 2.2}, {-3.3, -4.1}, {0.7, -6.2}};
    begin_random(2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t dim = 1; dim <= 5; dim += 2)
            for (int inverse = 0; inverse < 2; inverse++) {
                layer_tile m;
                open_tile(&m, &R(radial_ops), NF_LAYER_RADIAL, dim, PANEL + 3);
                draw_layer(&m, shapes[i][0], shapes[i][1], 0.385);
                for (size_t r = 0; r < m.t.rows; r++)
                    for (size_t f = 0; f < dim; f++)
                        *at(m.x, dim, r, f) = (real)((double)m.theta[f] + (uniform(0, 1) < 0.5 ? -1 : 1) * uniform(0.2, 2.5));
                check_vjp(&m, radial_l, dim + 2, inverse == 1, NF_SINGLE_BUILD ? 4096 : 1e6);
                close_tile(&m);
            }
}
END_TEST

/* The center stays where it is, and softpluses that underflow are held: all is finite. */
START_TEST(limits) {
    static const double shapes[][2] = {{-120, 0.385}, {0.385, -120}, {-800, -800}, {-800, 60}, {60, -800}, {0.385, 0.385}};
    begin_random(3);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int inverse = 0; inverse < 2; inverse++) {
            layer_tile m;
            double given[12];
            open_tile(&m, &R(radial_ops), NF_LAYER_RADIAL, 3, 3);
            draw_layer(&m, shapes[i][0], shapes[i][1], 1.385);
            for (size_t f = 0; f < 3; f++) {
                *at(m.x, 3, 0, f) = m.theta[f];
                *at(m.x, 3, 1, f) = m.theta[f] + (f == 1 ? (real)2.385 : 0);
                *at(m.x, 3, 2, f) = (real)normal() * 1000;
            }
            apply_layer(&m, inverse == 1, true);
            for (size_t f = 0; f < 3; f++)
                ck_assert_double_eq((double)*at(m.x, 3, 0, f), (double)m.theta[f]);
            for (size_t r = 0; r < 3; r++)
                ck_assert_msg(isfinite(m.log_det[r]), "case %zu, row %zu: log_det %g", i, r, m.log_det[r]);
            if (i == 5)
                for (size_t r = 0; r < 3; r++)
                    ck_assert_double_eq(m.log_det[r], 0);
            pull_layer(&m, inverse == 1, given);
            for (size_t p = 3; p < 5; p++)
                ck_assert_msg(isfinite((double)m.gradient[p]), "case %zu: gradient of parameter %zu is %g", i, p, (double)m.gradient[p]);
            close_tile(&m);
        }
}
END_TEST

#if !NF_SINGLE_BUILD
/* The density of K layers at x is smooth but at the centers: the trapezoidal rule between their images. */
static double density(layer_tile *layers, size_t count, double x) {
    double log_det = 0, z = x;
    for (size_t k = count; k-- > 0;) {
        *at(layers[k].x, 1, 0, 0) = z;
        apply_layer(&layers[k], true, false);
        z = *at(layers[k].x, 1, 0, 0);
        log_det += layers[k].log_det[0];
    }
    return exp(log_det - 0.5 * z * z - 0.91893853320467274178);
}

static double image(layer_tile *layers, size_t first, size_t count, double z) {
    for (size_t k = first; k < count; k++) {
        *at(layers[k].x, 1, 0, 0) = z;
        apply_layer(&layers[k], false, false);
        z = *at(layers[k].x, 1, 0, 0);
    }
    return z;
}

/* By tanh-sinh quadrature (Takahasi & Mori 1974), which does not mind what happens at the ends. */
static double piece(layer_tile *layers, size_t count, double low, double high) {
    const double h = 0.02, half = 0.5 * (high - low);
    double sum = 0;
    for (int k = -180; k <= 180; k++) {
        const double t = h * k, inner = 1.5707963267948966 * sinh(t), weight = 1.5707963267948966 * cosh(t) / (cosh(inner) * cosh(inner));
        sum += weight * density(layers, count, low + half * (1 + tanh(inner)));
    }
    return sum * h * half;
}

START_TEST(densities_integrate_to_1) {
    begin_random(4);
    for (size_t i = 0; i < 12; i++) {
        const size_t count = 1 + i % 4;
        layer_tile layers[4];
        double cuts[6];
        for (size_t k = 0; k < count; k++) {
            open_tile(&layers[k], &R(radial_ops), NF_LAYER_RADIAL, 1, 1);
            draw_layer(&layers[k], uniform(-1, 2), uniform(-2, 3), 1.385);
        }
        size_t cut = 0;
        cuts[cut++] = image(layers, 0, count, -8.5);
        for (size_t k = 0; k < count; k++)
            cuts[cut++] = image(layers, k + 1, count, layers[k].theta[0]);
        cuts[cut++] = image(layers, 0, count, 8.5);
        double sum = 0;
        for (size_t a = 0; a < cut; a++)
            for (size_t b = a + 1; b < cut; b++)
                if (cuts[b] < cuts[a]) {
                    const double kept = cuts[a];
                    cuts[a] = cuts[b];
                    cuts[b] = kept;
                }
        for (size_t k = 0; k + 1 < cut; k++)
            sum += piece(layers, count, cuts[k], cuts[k + 1]);
        ck_assert_msg(fabs(sum - 1) < 1e-8, "%zu layers: integral %.12f (seed %llu)", count, sum, (unsigned long long)seed);
        for (size_t k = 0; k < count; k++)
            close_tile(&layers[k]);
    }
}
END_TEST
#endif

int main(void) {
    Suite *suite = suite_create("radial");
    TCase *all = tcase_create("radial layers");
    tcase_set_timeout(all, 300);
    tcase_add_test(all, a_million_pairs);
    tcase_add_test(all, vjps_are_the_derivatives);
    tcase_add_test(all, limits);
#if !NF_SINGLE_BUILD
    tcase_add_test(all, densities_integrate_to_1);
#endif
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
