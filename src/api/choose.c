/* Which build of the engine a flow computes with. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

typedef struct isa_build {
    const char *name;
    const nf_engine *engines[2]; /* by nf_precision */
} isa_build;

#define BUILD(isa) extern const nf_engine nfe_engine_f64_##isa, nfe_engine_f32_##isa
#define ENTRY(isa) {#isa, {&nfe_engine_f64_##isa, &nfe_engine_f32_##isa}}

BUILD(base);
#ifdef NF_HAVE_V2
BUILD(v2);
#endif
#ifdef NF_HAVE_V3
BUILD(v3);
#endif
#ifdef NF_HAVE_V4
BUILD(v4);
#endif

/* From the plainest to the most able. */
static const isa_build builds[] = {
    ENTRY(base),
#ifdef NF_HAVE_V2
    ENTRY(v2),
#endif
#ifdef NF_HAVE_V3
    ENTRY(v3),
#endif
#ifdef NF_HAVE_V4
    ENTRY(v4),
#endif
};

#define BUILD_COUNT (sizeof builds / sizeof builds[0])

static bool processor_runs(const char *name) {
#if defined(__x86_64__)
    /* What the levels of the x86-64 psABI ask for, as far as the compiler uses it. */
    if (strcmp(name, "v2") == 0)
        return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    if (strcmp(name, "v3") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2");
    if (strcmp(name, "v4") == 0)
        return processor_runs("v3") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return strcmp(name, "base") == 0;
}

const nf_engine *nf_engine_choose(nf_precision precision) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    const char *most = getenv("NFLOW_ISA");
    size_t best = 0;
    for (size_t i = 1; i < BUILD_COUNT; i++)
        if (processor_runs(builds[i].name))
            best = i;
    /* A name that is not known, or more than the processor runs, changes nothing. */
    for (size_t i = 0; most && i < best; i++)
        if (strcmp(most, builds[i].name) == 0)
            best = i;
    return builds[best].engines[precision == NF_SINGLE];
}
