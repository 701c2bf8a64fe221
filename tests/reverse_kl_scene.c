#include "reverse_kl_scene.h"

#include <fenv.h>
#include <math.h>

density plain_density(void) {
    return (density){.mean = {1.25, -0.785}, .sd = {0.5, 1.385}, .log_height = 3.85, .spoilt_above = INFINITY, .zero_above = INFINITY, .rounding = FE_TONEAREST};
}

double log_integral(const density *d) {
    double sum = d->log_height;
    for (size_t i = 0; i < DIM; i++)
        sum += 0.91893853320467274178 + log(d->sd[i]);
    return sum;
}

nf_status gaussian(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    density *d = user;
    d->other_mode += fegetround() != d->rounding;
    if (++d->calls == d->fails_at)
        return d->failure ? d->failure : (nf_status)-77;
    d->rows += rows;
    d->most_rows = rows > d->most_rows ? rows : d->most_rows;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = d->log_height;
        for (size_t i = 0; i < DIM; i++) {
            const double u = (x[r * DIM + i] - d->mean[i]) / d->sd[i];
            d->infinite += isfinite(u) ? 0 : 1;
            log_density[r] -= 0.5 * u * u;
            gradient[r * DIM + i] = -u / d->sd[i];
        }
        if (x[r * DIM] > d->spoilt_above)
            log_density[r] = NAN;
        if (d->calls >= d->zero_from && x[r * DIM] > d->zero_above)
            log_density[r] = -INFINITY;
    }
    return NF_OK;
}

nf_flow *affine_flow(void) {
    nf_flow *flow;
    must(nf_affine_create(DIM, NF_DOUBLE, &flow));
    return flow;
}

nf_reverse_kl_config plain_kl(size_t steps) {
    return (nf_reverse_kl_config){.struct_size = sizeof(nf_reverse_kl_config),
                                  .steps = steps,
                                  .samples = 64,
                                  .seed = 3,
                                  .schedule = NF_SCHEDULE_CONSTANT,
                                  .ema_decay = -1,
                                  .evaluation_samples = NF_NONE};
}

nf_reverse_kl_report report_of(nf_flow *flow, density *d, size_t steps, size_t samples, size_t evaluation_samples) {
    const nf_optimizer_config still = {.struct_size = sizeof still, .kind = NF_SGD, .learning_rate = -1};
    nf_reverse_kl_config config = plain_kl(steps);
    nf_reverse_kl_report report = {.struct_size = sizeof report};
    config.samples = samples;
    config.optimizer = &still;
    config.evaluation_samples = evaluation_samples;
    must(nf_fit_reverse_kl(flow, gaussian, d, &config, &report));
    return report;
}
