/* Work done in a call, for nf_stats: counted by the layers, gathered by the api. */
#ifndef NF_ENGINE_COUNTERS_H
#define NF_ENGINE_COUNTERS_H

#include <stdint.h>

typedef struct engine_counters {
    uint64_t rhs_evaluations, steps_accepted, steps_rejected, root_iterations;
} engine_counters;

#endif
