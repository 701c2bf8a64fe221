#include "energies.h"

#include <math.h>

/* log(exp(-a^2/2) + exp(-b^2/2)) and the shares of the two terms, without underflow. */
static double log_sum(double a, double b, double *share_a, double *share_b) {
    const double u = -0.5 * a * a, v = -0.5 * b * b, most = u > v ? u : v;
    const double e = exp(u - most), f = exp(v - most);
    *share_a = e / (e + f);
    *share_b = f / (e + f);
    return most + log(e + f);
}

static double ring(const double z[2], double g[2]) {
    const double r = sqrt(z[0] * z[0] + z[1] * z[1]), d = (r - 2.0) / 0.4;
    const double a = (z[0] - 2.0) / 0.6, b = (z[0] + 2.0) / 0.6;
    double p, q;
    const double humps = log_sum(a, b, &p, &q);
    const double radial = r > 0.0 ? -d / 0.4 / r : 0.0;
    g[0] = radial * z[0] - (p * a + q * b) / 0.6;
    g[1] = radial * z[1];
    return -0.5 * d * d + humps;
}

static double wave(const double z[2], double *slope) {
    const double quarter = 1.57079632679489661923; /* sin(2 pi z / 4) */
    *slope = quarter * cos(quarter * z[0]);
    return sin(quarter * z[0]);
}

/* A wave, or two that part where `shift` grows. */
static double waves(const double z[2], double shift, double shift_slope, double scale, double g[2]) {
    double slope;
    const double w = wave(z, &slope), a = (z[1] - w) / scale, b = (z[1] - w + shift) / scale;
    double p, q;
    const double value = log_sum(a, b, &p, &q);
    g[0] = p * a * slope / scale + q * b * (slope - shift_slope) / scale;
    g[1] = -(p * a + q * b) / scale;
    return value;
}

static double single_wave(const double z[2], double scale, double g[2]) {
    double slope;
    const double a = (z[1] - wave(z, &slope)) / scale;
    g[0] = a * slope / scale;
    g[1] = -a / scale;
    return -0.5 * a * a;
}

static double envelope(const double z[2], double scale, double g[2]) {
    const double width = 20.0 * scale, x = z[0] / width, y = z[1] / width;
    g[0] -= 2.0 * x * x * x / width;
    g[1] -= 2.0 * y * y * y / width;
    return -0.5 * (x * x * x * x + y * y * y * y);
}

double energy_log_density(int energy, const double z[2], double g[2]) {
    double scale = 0.4, value = 0.0;
    switch (energy) {
    case 1:
        return ring(z, g);
    case 2:
        value = single_wave(z, scale, g);
        break;
    case 3: {
        scale = 0.35;
        const double e = (z[0] - 1.0) / 0.6, bump = 3.0 * exp(-0.5 * e * e);
        value = waves(z, bump, -bump * e / 0.6, scale, g);
        break;
    }
    case 4: {
        const double s = 1.0 / (1.0 + exp(-(z[0] - 1.0) / 0.3));
        value = waves(z, 3.0 * s, 3.0 * s * (1.0 - s) / 0.3, scale, g);
        break;
    }
    default:
        g[0] = g[1] = NAN;
        return NAN;
    }
    return value + envelope(z, scale, g);
}

nf_status energy_target(void *user, size_t rows, const double *x, double *log_density, double *grad_x) {
    const int energy = *(const int *)user;
    for (size_t r = 0; r < rows; r++)
        log_density[r] = energy_log_density(energy, x + 2 * r, grad_x + 2 * r);
    return NF_OK;
}

double energy_log_norm(int energy) {
    const int nodes = 1600;
    const double step = 32.0 / nodes;
    double sum = 0.0;
    for (int i = 0; i <= nodes; i++)
        for (int j = 0; j <= nodes; j++) {
            const double z[2] = {-16.0 + i * step, -16.0 + j * step};
            double g[2];
            sum += exp(energy_log_density(energy, z, g));
        }
    return log(sum * step * step);
}
