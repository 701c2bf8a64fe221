#include "api/weights.h"

#include <math.h>

#include "core/status.h"

nf_status nf_check_weights(const char *function, const char *name, size_t rows, const double *weight) {
    for (size_t r = 0; weight && r < rows; r++)
        if (!(weight[r] >= 0.0) || !isfinite(weight[r]))
            return nf_fail(NF_ERR_ARGUMENT, function, "%s[%zu] is %g, must be finite and not negative", name, r, weight[r]);
    return NF_OK;
}

double nf_largest_weight(size_t rows, const double *weight) {
    double largest = 0;
    for (size_t r = 0; r < rows; r++)
        largest = weight[r] > largest ? weight[r] : largest;
    return largest;
}

#define ORDINARY_WEIGHT 16 /* in powers of two, to both sides of 1 */

double nf_weight_scale(double largest) {
    int exponent;
    frexp(largest, &exponent);
    if (exponent >= -ORDINARY_WEIGHT && exponent <= ORDINARY_WEIGHT)
        return 1.0;
    return ldexp(1.0, exponent < -1000 ? 1000 : -exponent); /* within the numbers: denormal weights come as near as that takes them */
}

double nf_least_weight(const nf_engine *engine) { return engine->precision == NF_SINGLE ? 0x1p-100 : 0x1p-1000; }
