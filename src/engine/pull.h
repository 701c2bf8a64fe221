/* The vjp of a tile that was pushed. */
#ifndef NF_ENGINE_PULL_H
#define NF_ENGINE_PULL_H

#include "engine/engine.h"
#include "engine/real.h"

void R(pull)(const engine_job *job, engine_thread *thread, size_t slot, bool first, bool last, engine_sum *sum);
bool R(adds_once)(nf_layer_kind kind);
/* Whether all exponents are below the highest: an integer loop, which vectorises. */
bool R(all_finite)(const void *values, size_t count);

#endif
