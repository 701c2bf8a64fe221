/*
 * The floating-point environment: a call computes in the default one (round to nearest, nothing trapped, denormals kept) and
 * leaves the caller's as it was, flags included. So it does with errno, which functions of <math.h> set: pow, for one, where it underflows.
 */
#ifndef NF_CORE_FLOATING_H
#define NF_CORE_FLOATING_H

#include <errno.h>
#include <stdbool.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
/* The library's arithmetic is all SSE and AVX: their control word is all that matters, and costs nanoseconds. Numbers as text: core/plain.h. */
typedef unsigned int nf_mode;
static inline nf_mode nf_mode_enter(void) {
    const nf_mode saved = _mm_getcsr();
    _mm_setcsr(0x1F80); /* all exceptions masked, to nearest, denormals kept */
    return saved;
}
static inline void nf_mode_leave(nf_mode saved) { _mm_setcsr(saved); }
#else
#include <fenv.h>
typedef fenv_t nf_mode;
static inline nf_mode nf_mode_enter(void) {
    fenv_t saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void nf_mode_leave(nf_mode saved) { fesetenv(&saved); }
#endif

typedef struct nf_floating {
    nf_mode mode;
    int error; /* errno */
} nf_floating;

static inline nf_floating nf_floating_enter(void) {
    const int error = errno;
    return (nf_floating){nf_mode_enter(), error};
}

static inline void nf_floating_leave(nf_floating saved) {
    nf_mode_leave(saved.mode);
    errno = saved.error;
}

/*
 * A call that computes with the caller's numbers before or between its loops, or calls back: from NF_CALL, its first line, to wherever it returns it is in
 * the default environment, so that no check of an argument can trap or leave a flag. Calls may stand within calls; the outermost one
 * counts. Calls that only check pointers and counts, and then run rows, do with the pair above.
 */
typedef struct nf_call {
    nf_floating saved;
    bool outermost;
} nf_call;

void nf_call_begin(nf_call *call);
void nf_call_end(nf_call *call);
#define NF_CALL                                                                                                                            \
    nf_call call_in_progress __attribute__((cleanup(nf_call_end)));                                                                        \
    nf_call_begin(&call_in_progress)

/* Around whatever is the caller's own, allocators too: it has the caller's mode, flags and errno, and what it does to the last two stays. */
nf_call *nf_call_lend(void);
void nf_call_take_back(nf_call *call);

/* The value of a call of a function of the caller's, with those two around it. */
#define NF_CALL_OUT(call)                                                                                                                  \
    __extension__({                                                                                                                        \
        nf_call *lent = nf_call_lend();                                                                                                    \
        const __typeof__(call) answer = (call);                                                                                            \
        nf_call_take_back(lent);                                                                                                           \
        answer;                                                                                                                            \
    })

#endif
