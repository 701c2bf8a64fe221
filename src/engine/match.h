/* Flow matching of a tile (Lipman et al. 2023), in place of push and pull. */
#ifndef NF_ENGINE_MATCH_H
#define NF_ENGINE_MATCH_H

#include "engine/engine.h"
#include "engine/real.h"

void R(match)(const engine_job *job, engine_thread *thread, size_t first, size_t rows, size_t slot, bool last, engine_sum *sum);
bool R(matches)(nf_layer_kind kind);

#endif
