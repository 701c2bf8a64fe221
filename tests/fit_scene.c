#include "fit_scene.h"

#include <math.h>
#include <stdlib.h>

double *gaussian_rows(uint64_t stream, size_t rows) {
    random_source random = random_begin(stream);
    double *x = new_numbers(rows * DIM);
    for (size_t r = 0; r < rows; r++) {
        const double a = random_normal(&random), b = random_normal(&random);
        x[r * DIM] = 17.5 + 2.385 * a;
        x[r * DIM + 1] = -3.85 + 1.1 * a + 0.485 * b;
    }
    return x;
}

nf_flow *make_flow(nf_precision precision) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 4, .seed = 5, .precision = precision, .hidden_layers = 1, .hidden_width = 8), &flow));
    return flow;
}

double mean_nll(const nf_flow *flow, const double *x, const double *weight, size_t rows) {
    double *log_prob = new_numbers(rows), sum = 0, total = 0;
    must(nf_log_prob(flow, NULL, rows, x, NULL, log_prob));
    for (size_t r = 0; r < rows; r++) {
        const double w = weight ? weight[r] : 1.0;
        sum -= w * log_prob[r];
        total += w;
    }
    free(log_prob);
    return sum / total;
}

const nf_optimizer_config plain_adam = {.struct_size = sizeof plain_adam, .kind = NF_ADAM, .learning_rate = 5e-3};

nf_fit_config plain(size_t epochs) {
    return (nf_fit_config){.struct_size = sizeof(nf_fit_config),
                           .epochs = epochs,
                           .batch_size = 64,
                           .seed = 3,
                           .optimizer = &plain_adam,
                           .schedule = NF_SCHEDULE_CONSTANT,
                           .ema_decay = -1,
                           .noise = -1};
}

int write_diary(void *user, const nf_fit_progress *p) {
    diary *d = user;
    ck_assert_uint_eq(p->struct_size, sizeof *p);
    ck_assert_uint_eq(p->epoch, d->calls + 1);
    const double left = p->seconds / (double)p->epoch * (double)(p->epochs - p->epoch);
    ck_assert_msg(p->seconds > 0 && fabs(p->seconds_left - left) <= 1e-9 * left, "%g s left of %g after %zu", p->seconds_left, left, p->epoch);
    ck_assert(isfinite(p->gradient_norm) && p->gradient_norm > 0);
    d->told_best = isnan(p->validation_loss) ? p->train_loss : fmin(d->told_best, p->validation_loss);
    same_bits("best loss", &p->best_loss, &d->told_best, 1);
    ck_assert_uint_lt(d->calls, 64);
    d->rates[d->calls] = p->learning_rate;
    d->losses[d->calls] = p->train_loss;
    d->validation[d->calls] = p->validation_loss;
    d->calls++;
    if (p->validation_loss < d->best_loss) {
        d->best_loss = p->validation_loss;
        must(nf_get_parameters(d->flow, d->best));
    }
    return d->calls == d->stop_after;
}

diary begin_diary(const nf_flow *flow) {
    return (diary){.flow = flow, .best = new_numbers(nf_parameter_count(flow)), .best_loss = INFINITY, .told_best = INFINITY};
}
