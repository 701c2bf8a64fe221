#include "engine/ode/trail.h"

#include <string.h>

#define TIMES (3 * PANEL * sizeof(double))

static size_t state_bytes(const ode_trail *trail) { return trail->size * PANEL * sizeof(real); }
static size_t stage_bytes(const ode_trail *trail) { return trail->stages * state_bytes(trail); }

static size_t step_bytes(const ode_trail *trail, size_t chunk) {
    return TIMES + state_bytes(trail) + (chunk < trail->whole_chunks ? stage_bytes(trail) : 0);
}

void R(trail_begin)(ode_trail *trail, nf_arena *arena, size_t size, size_t stages, size_t room) {
    memset(trail, 0, sizeof *trail);
    trail->arena = arena;
    trail->size = size;
    trail->stages = stages;
    trail->whole_chunks = stages > 0 && size > 0 ? room / (TRAIL_CHUNK * stage_bytes(trail)) : 0;
}

static bool grow_directory(ode_trail *trail) {
    const size_t room = trail->chunk_room ? 2 * trail->chunk_room : 8;
    unsigned char **chunks = nf_arena_take(trail->arena, room * sizeof *chunks);
    if (!chunks)
        return false;
    if (trail->chunk_count)
        memcpy(chunks, trail->chunks, trail->chunk_count * sizeof *chunks);
    trail->chunks = chunks;
    trail->chunk_room = room;
    return true;
}

bool R(trail_reserve)(ode_trail *trail, const real *y) {
    if (trail->most < trail->chunk_count * TRAIL_CHUNK)
        return true;
    if (trail->chunk_count == trail->chunk_room && !grow_directory(trail))
        return false;
    unsigned char *chunk = nf_arena_take(trail->arena, TRAIL_CHUNK * step_bytes(trail, trail->chunk_count));
    if (!chunk)
        return false;
    trail->chunks[trail->chunk_count++] = chunk;
    for (size_t i = 0; i < TRAIL_CHUNK; i++) {
        const trail_step step = R(trail_at)(trail, (trail->chunk_count - 1) * TRAIL_CHUNK + i);
        memset(step.t, 0, TIMES);
        memcpy(step.y, y, state_bytes(trail));
        if (step.k)
            memset(step.k, 0, stage_bytes(trail));
    }
    return true;
}

void R(trail_add)(ode_trail *trail, size_t lane, double t, double h, double end, const real *y, const real *k, size_t k_stride) {
    const size_t index = trail->count[lane]++;
    const trail_step step = R(trail_at)(trail, index);
    step.t[lane] = t;
    step.h[lane] = h;
    step.end[lane] = end;
    for (size_t c = 0; c < trail->size; c++)
        step.y[c * PANEL + lane] = y[c * PANEL + lane];
    for (size_t j = 0; step.k && j < trail->stages; j++)
        for (size_t c = 0; c < trail->size; c++)
            step.k[(j * trail->size + c) * PANEL + lane] = k[j * k_stride + c * PANEL + lane];
    if (trail->count[lane] > trail->most)
        trail->most = trail->count[lane];
}

trail_step R(trail_at)(const ode_trail *trail, size_t step) {
    const size_t chunk = step / TRAIL_CHUNK;
    unsigned char *base = trail->chunks[chunk] + step % TRAIL_CHUNK * step_bytes(trail, chunk);
    double *times = (double *)(void *)base;
    real *y = (real *)(void *)(base + TIMES);
    return (trail_step){times, times + PANEL, times + 2 * PANEL, y, chunk < trail->whole_chunks ? y + trail->size * PANEL : NULL};
}
