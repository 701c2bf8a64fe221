#include "api/importance.h"

#include <math.h>

nf_importance nf_importance_begin(void) { return (nf_importance){.shift = -INFINITY}; }

void nf_importance_add(nf_importance *w, double value) {
    w->count++;
    if (value == -INFINITY) {
        w->zeros++;
        return;
    }
    const double delta = value - w->mean;
    w->mean += delta / (double)(w->count - w->zeros);
    w->spread += delta * (value - w->mean);
    if (value > w->shift) {
        const double factor = exp(w->shift - value);
        w->sum *= factor;
        w->square *= factor * factor;
        w->shift = value;
    }
    const double e = exp(value - w->shift);
    w->sum += e;
    w->square += e * e;
}

void nf_importance_tell(const nf_importance *w, nf_reverse_kl_report *report) {
    const double n = (double)w->count;
    if (w->count == 0)
        return;
    report->elbo = w->zeros ? -INFINITY : w->mean;
    report->elbo_error = w->zeros || w->count == 1 ? NAN : sqrt(w->spread / n / n);
    report->log_evidence = w->shift + log(w->sum / n);
    report->effective_sample_size = w->zeros < w->count ? w->sum * w->sum / w->square / n : 0.0;
}
