/*
 * The toy densities. Each is written so that it can be evaluated: mixtures of Gaussians, arcs of circles blurred by an isotropic
 * Gaussian (the density is an integral over the arc), and maps of Gaussians that preserve area.
 */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "toy.h"

#define PI 3.14159265358979323846
#define LOG_2PI 1.83787706640934548356

struct toy_set {
    const char *name, *about;
    void (*draw)(uint64_t key, double x[2]);
    double (*log_density)(const double x[2]);
    double (*entropy)(void);
};

/* ---- Random numbers: SplitMix64 (Steele, Lea & Flood 2014) as a function of a counter */

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t draw(uint64_t key, uint64_t counter) { return mix(key + (counter + 1) * 0x9e3779b97f4a7c15u); }

/* In (0, 1), 52 bits. */
static double uniform(uint64_t key, uint64_t counter) { return ((double)(draw(key, counter) >> 12) + 0.5) * 0x1p-52; }

/* Two independent normals from counters `counter` and `counter` + 1 (Box & Muller 1958). */
static void normals(uint64_t key, uint64_t counter, double z[2]) {
    const double r = sqrt(-2.0 * log(uniform(key, counter))), angle = 2.0 * PI * uniform(key, counter + 1);
    z[0] = r * cos(angle);
    z[1] = r * sin(angle);
}

/* ---- Shared pieces */

static double log_normal_2d(double dx, double dy, double sd_x, double sd_y) {
    const double a = dx / sd_x, b = dy / sd_y;
    return -0.5 * (a * a + b * b) - LOG_2PI - log(sd_x * sd_y);
}

static double log_add(double a, double b) {
    const double high = fmax(a, b), low = fmin(a, b);
    return low == -INFINITY ? high : high + log1p(exp(low - high));
}

/*
 * -integral of p log p over a box by the trapezoidal rule, which converges faster than any power of the step for a smooth density that
 * vanishes at the edges. A step of half the smallest standard deviation gives all but the last digits.
 */
static double entropy_on_grid(double (*log_density)(const double x[2]), const double low[2], const double high[2], double step) {
    double sum = 0;
    for (double y = low[1]; y <= high[1]; y += step)
        for (double x = low[0]; x <= high[0]; x += step) {
            const double log_p = log_density((const double[2]){x, y});
            if (log_p > -700.0)
                sum -= exp(log_p) * log_p;
        }
    return sum * step * step;
}

/* Part of a circle, drawn uniformly and blurred by a Gaussian of standard deviation sd in both directions. */
typedef struct arc {
    double weight, centre[2], radius, start, sweep;
} arc;

static void draw_arc(const arc *a, double sd, uint64_t key, uint64_t counter, double x[2]) {
    const double t = a->start + a->sweep * uniform(key, counter);
    double z[2];
    normals(key, counter + 1, z);
    x[0] = a->centre[0] + a->radius * cos(t) + sd * z[0];
    x[1] = a->centre[1] + a->radius * sin(t) + sd * z[1];
}

/*
 * With (r, phi) the polar coordinates of x about the centre, |x - c(t)|^2 = (r - R)^2 + 2 r R (1 - cos(t - phi)), so
 * p(x) = exp(-(r - R)^2 / (2 sd^2)) / (2 pi sd^2) * mean over the arc of exp(-r R (1 - cos(t - phi)) / sd^2).
 * The mean is taken by Simpson's rule, with the largest exponent taken out first; its step is a small part of the width of the peak.
 */
static double log_density_arc(const arc *a, double sd, const double x[2]) {
    enum { INTERVALS = 400 };
    const double dx = x[0] - a->centre[0], dy = x[1] - a->centre[1];
    const double r = hypot(dx, dy), phi = atan2(dy, dx), sharpness = r * a->radius / (sd * sd);
    double exponent[INTERVALS + 1], largest = -INFINITY, sum = 0;
    for (int i = 0; i <= INTERVALS; i++) {
        exponent[i] = sharpness * (cos(a->start + a->sweep * i / INTERVALS - phi) - 1.0);
        largest = fmax(largest, exponent[i]);
    }
    for (int i = 0; i <= INTERVALS; i++) {
        const double simpson = i == 0 || i == INTERVALS ? 1.0 : i % 2 ? 4.0 : 2.0;
        sum += exponent[i] - largest > -50.0 ? simpson * exp(exponent[i] - largest) : 0.0;
    }
    const double off = (r - a->radius) / sd;
    return -0.5 * off * off - LOG_2PI - 2.0 * log(sd) + largest + log(sum / (3.0 * INTERVALS));
}

/* ---- Two moons: two half circles of radius 1, the lower one shifted by (1, .5), standard deviation .1 */

#define MOON_SD 0.1
static const arc moons[2] = {{0.5, {0.0, 0.0}, 1.0, 0.0, PI}, {0.5, {1.0, 0.5}, 1.0, PI, PI}};

static void moons_draw(uint64_t key, double x[2]) { draw_arc(&moons[draw(key, 0) >> 63], MOON_SD, key, 1, x); }

static double moons_log_density(const double x[2]) {
    return log_add(log_density_arc(&moons[0], MOON_SD, x), log_density_arc(&moons[1], MOON_SD, x)) + log(0.5);
}

static double moons_entropy(void) {
    return entropy_on_grid(moons_log_density, (const double[2]){-1.8, -1.3}, (const double[2]){2.8, 1.8}, MOON_SD / 2);
}

/* ---- Two blobs: N((.5, -.5), .2^2 I) and N((-.5, .5), .2^2 I), equally often */

#define BLOB_SD 0.2

static void blobs_draw(uint64_t key, double x[2]) {
    const double side = draw(key, 0) >> 63 ? 0.5 : -0.5;
    double z[2];
    normals(key, 1, z);
    x[0] = side + BLOB_SD * z[0];
    x[1] = -side + BLOB_SD * z[1];
}

static double blobs_log_density(const double x[2]) {
    return log(0.5) + log_add(log_normal_2d(x[0] - 0.5, x[1] + 0.5, BLOB_SD, BLOB_SD),
                              log_normal_2d(x[0] + 0.5, x[1] - 0.5, BLOB_SD, BLOB_SD));
}

static double blobs_entropy(void) {
    return entropy_on_grid(blobs_log_density, (const double[2]){-2.5, -2.5}, (const double[2]){2.5, 2.5}, BLOB_SD / 4);
}

/* ---- Boomerang: y ~ N(0, 4^2), x = y^2 / 4 + N(0, 1). The bend preserves area, so the entropy is that of two Gaussians. */

static void boomerang_draw(uint64_t key, double x[2]) {
    double z[2];
    normals(key, 0, z);
    x[1] = 4.0 * z[1];
    x[0] = x[1] * x[1] / 4.0 + z[0];
}

static double boomerang_log_density(const double x[2]) { return log_normal_2d(x[0] - x[1] * x[1] / 4.0, x[1], 1.0, 4.0); }

static double boomerang_entropy(void) { return 1.0 + LOG_2PI + log(4.0); }

/* ---- Rings: circles of radius 1, 2 and 3, standard deviation .1, in proportion to their length */

#define RING_SD 0.1
static const arc rings[3] = {{1.0 / 6, {0.0, 0.0}, 1.0, 0.0, 2 * PI},
                             {2.0 / 6, {0.0, 0.0}, 2.0, 0.0, 2 * PI},
                             {3.0 / 6, {0.0, 0.0}, 3.0, 0.0, 2 * PI}};

static void rings_draw(uint64_t key, double x[2]) {
    const double u = uniform(key, 0);
    const arc *ring = &rings[u < rings[0].weight ? 0 : u < rings[0].weight + rings[1].weight ? 1 : 2];
    draw_arc(ring, RING_SD, key, 1, x);
}

static double rings_log_density(const double x[2]) {
    double log_p = -INFINITY;
    for (int k = 0; k < 3; k++)
        log_p = log_add(log_p, log(rings[k].weight) + log_density_arc(&rings[k], RING_SD, x));
    return log_p;
}

/* The density depends on the radius only: an integral along it, which vanishes at both ends. */
static double rings_entropy(void) {
    const double step = RING_SD / 8;
    double sum = 0;
    for (double r = step; r < 4.5; r += step) {
        const double log_p = rings_log_density((const double[2]){r, 0.0});
        sum -= log_p > -700.0 ? 2.0 * PI * r * exp(log_p) * log_p : 0.0;
    }
    return sum * step;
}

/* ---- Checkerboard: uniform on the eight squares of side 2 in [-4, 4]^2 for which column + row is even */

static void checkerboard_draw(uint64_t key, double x[2]) {
    const int square = (int)(draw(key, 0) >> 61), row = square / 2, column = 2 * (square % 2) + row % 2;
    x[0] = 2.0 * (column + uniform(key, 1)) - 4.0;
    x[1] = 2.0 * (row + uniform(key, 2)) - 4.0;
}

static double checkerboard_log_density(const double x[2]) {
    const bool inside = fabs(x[0]) < 4.0 && fabs(x[1]) < 4.0;
    return inside && (int)(floor(x[0] / 2.0) + floor(x[1] / 2.0)) % 2 == 0 ? -log(32.0) : -INFINITY;
}

static double checkerboard_entropy(void) { return log(32.0); }

/*
 * ---- Pinwheel: five Gaussians N((1, 0), diag(.3^2, .1^2)) turned about the origin by multiples of 72 degrees, and then each point by 1.5 |x|
 * radians more. A rotation by an angle that depends on the radius alone preserves area, so the density needs no Jacobian.
 */

#define ARMS 5
#define ARM_LONG 0.3
#define ARM_WIDE 0.1
#define TWIST 1.5

static void pinwheel_draw(uint64_t key, double x[2]) {
    const double arm = floor(ARMS * uniform(key, 0));
    double z[2];
    normals(key, 1, z);
    const double along = 1.0 + ARM_LONG * z[0], across = ARM_WIDE * z[1];
    const double angle = 2.0 * PI * arm / ARMS + TWIST * hypot(along, across);
    x[0] = along * cos(angle) - across * sin(angle);
    x[1] = along * sin(angle) + across * cos(angle);
}

static double pinwheel_log_density(const double x[2]) {
    double log_p = -INFINITY;
    for (int arm = 0; arm < ARMS; arm++) {
        const double angle = 2.0 * PI * arm / ARMS + TWIST * hypot(x[0], x[1]);
        const double along = x[0] * cos(angle) + x[1] * sin(angle), across = x[1] * cos(angle) - x[0] * sin(angle);
        log_p = log_add(log_p, log_normal_2d(along - 1.0, across, ARM_LONG, ARM_WIDE));
    }
    return log_p - log(ARMS);
}

static double pinwheel_entropy(void) {
    return entropy_on_grid(pinwheel_log_density, (const double[2]){-3.5, -3.5}, (const double[2]){3.5, 3.5}, ARM_WIDE / 4);
}

/* ---- The table */

static const toy_set sets[] = {
    {"two_moons", "two half circles of radius 1, sd 0.1", moons_draw, moons_log_density, moons_entropy},
    {"two_blobs", "two Gaussians, sd 0.2", blobs_draw, blobs_log_density, blobs_entropy},
    {"boomerang", "x = y^2/4 + N(0, 1), y ~ N(0, 4^2)", boomerang_draw, boomerang_log_density, boomerang_entropy},
    {"rings", "circles of radius 1, 2, 3, sd 0.1", rings_draw, rings_log_density, rings_entropy},
    {"checkerboard", "uniform on eight squares of side 2", checkerboard_draw, checkerboard_log_density, checkerboard_entropy},
    {"pinwheel", "five twisted Gaussians", pinwheel_draw, pinwheel_log_density, pinwheel_entropy},
};

size_t toy_count(void) { return sizeof sets / sizeof sets[0]; }
const toy_set *toy_at(size_t index) { return index < toy_count() ? &sets[index] : NULL; }
const char *toy_name(const toy_set *set) { return set->name; }
const char *toy_about(const toy_set *set) { return set->about; }

const toy_set *toy_find(const char *name) {
    for (size_t i = 0; i < toy_count(); i++)
        if (strcmp(sets[i].name, name) == 0)
            return &sets[i];
    return NULL;
}

void toy_rows(const toy_set *set, uint64_t seed, uint64_t first, size_t rows, double *x) {
    for (size_t i = 0; i < rows; i++)
        set->draw(mix(mix(seed + 0x632be59bd9b4e019u) + first + i), x + 2 * i);
}

double toy_log_density(const toy_set *set, const double x[2]) { return set->log_density(x); }
double toy_entropy(const toy_set *set) { return set->entropy(); }
