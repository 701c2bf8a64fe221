/*
 * The floating-point environment: a call computes in the default one (round to nearest, nothing trapped, denormals kept) and
 * leaves the caller's as it was, flags included.
 */
#ifndef NF_API_FLOATING_H
#define NF_API_FLOATING_H

#if defined(__x86_64__)
#include <xmmintrin.h>
/* The library's arithmetic is all SSE and AVX: its control word is all that matters, and costs nanoseconds. */
typedef unsigned int nf_floating;
static inline nf_floating nf_floating_enter(void) {
    const nf_floating saved = _mm_getcsr();
    _mm_setcsr(0x1F80); /* all exceptions masked, to nearest, denormals kept */
    return saved;
}
static inline void nf_floating_leave(nf_floating saved) { _mm_setcsr(saved); }
#else
#include <fenv.h>
typedef fenv_t nf_floating;
static inline nf_floating nf_floating_enter(void) {
    fenv_t saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void nf_floating_leave(nf_floating saved) { fesetenv(&saved); }
#endif

#endif
