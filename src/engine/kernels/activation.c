#include "engine/kernels/activation.h"

#include "engine/kernels/gelu_lookup.h"
#include "engine/kernels/vmath.h"

/* One loop for each function, so that each is a vector loop: the functions are branch-free. */
#define VALUE_LOOP(function)                                                                                                     \
    for (size_t i = 0; i < count; i++)                                                                                           \
        h[i] = function(h[i]);                                                                                                   \
    return

#define SLOPE_LOOP(function)                                                                                                     \
    for (size_t i = 0; i < count; i++) {                                                                                         \
        real value, derivative;                                                                                                  \
        function(h[i], &value, &derivative);                                                                                     \
        h[i] = value;                                                                                                            \
        slope[i] = derivative;                                                                                                   \
    }                                                                                                                            \
    return

#define CURVATURE_LOOP(function)                                                                                                 \
    for (size_t i = 0; i < count; i++) {                                                                                         \
        real value, first, second;                                                                                               \
        function(h[i], &value, &first, &second);                                                                                 \
        h[i] = value;                                                                                                            \
        slope[i] = first;                                                                                                        \
        curvature[i] = second;                                                                                                   \
    }                                                                                                                            \
    return

#if GELU_LOOKUP
#define GELU_LOOP(slope, curvature)                                                                                              \
    gelu_run(count, h, slope, curvature);                                                                                        \
    return
#define GELU_VALUES GELU_LOOP(NULL, NULL)
#define GELU_SLOPES GELU_LOOP(slope, NULL)
#define GELU_CURVATURES GELU_LOOP(slope, curvature)
#else
#define GELU_VALUES VALUE_LOOP(vm_gelu)
#define GELU_SLOPES SLOPE_LOOP(vm_gelu_grad)
#define GELU_CURVATURES CURVATURE_LOOP(vm_gelu_grad2)
#endif

static inline void relu_grad(real x, real *value, real *slope) {
    *value = vm_positive_part(x);
    *slope = x > 0 ? 1 : 0;
}

static inline void relu_grad2(real x, real *value, real *slope, real *curvature) {
    relu_grad(x, value, slope);
    *curvature = 0;
}

void R(activate)(nf_activation activation, size_t count, real *restrict h) {
    switch (activation) {
    case NF_ACTIVATION_DEFAULT:
    case NF_GELU:
        GELU_VALUES;
    case NF_TANH:
        VALUE_LOOP(vm_tanh);
    case NF_RELU:
        VALUE_LOOP(vm_positive_part);
    case NF_SILU:
        VALUE_LOOP(vm_silu);
    case NF_SOFTPLUS:
        VALUE_LOOP(vm_softplus);
    }
}

void R(activate_slope)(nf_activation activation, size_t count, real *restrict h, real *restrict slope) {
    switch (activation) {
    case NF_ACTIVATION_DEFAULT:
    case NF_GELU:
        GELU_SLOPES;
    case NF_TANH:
        SLOPE_LOOP(vm_tanh_grad);
    case NF_RELU:
        SLOPE_LOOP(relu_grad);
    case NF_SILU:
        SLOPE_LOOP(vm_silu_grad);
    case NF_SOFTPLUS:
        SLOPE_LOOP(vm_softplus_grad);
    }
}

void R(activate_curvature)(nf_activation activation, size_t count, real *restrict h, real *restrict slope, real *restrict curvature) {
    switch (activation) {
    case NF_ACTIVATION_DEFAULT:
    case NF_GELU:
        GELU_CURVATURES;
    case NF_TANH:
        CURVATURE_LOOP(vm_tanh_grad2);
    case NF_RELU:
        CURVATURE_LOOP(relu_grad2);
    case NF_SILU:
        CURVATURE_LOOP(vm_silu_grad2);
    case NF_SOFTPLUS:
        CURVATURE_LOOP(vm_softplus_grad2);
    }
}
