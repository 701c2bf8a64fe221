#include "engine/thread.h"

#include <string.h>

#include "engine/pieces.h"
#include "engine/train/pairing.h"

_Static_assert(TILE_ROWS <= NF_MOST_TILE && PANEL <= NF_MOST_PANEL, "the check of a layer's sizes knows the longest tiles and panels");

static size_t cache_size(const nf_layer *layer) {
    const struct layer_ops *ops = R(layer_ops_of)(layer->kind);
    return ops->cache_size ? aligned_reals(ops->cache_size(layer)) : 0;
}

/* In reals. */
typedef struct thread_sizes {
    size_t scratch, records, caches, kept, alone;
    bool repeats;
} thread_sizes;

/* False when they do not fit. */
static bool layer_sizes(const nf_model *model, thread_sizes *sizes) {
    memset(sizes, 0, sizeof *sizes);
    sizes->kept = model->parameter_count;
    for (size_t i = 0; i < model->layer_count; i++) {
        const nf_layer *layer = model->layers[i];
        const struct layer_ops *ops = R(layer_ops_of)(layer->kind);
        const size_t record = max_size(ops->record_size(layer, TILE_PANELS, false), ops->record_size(layer, TILE_PANELS, true));
        sizes->scratch = max_size(sizes->scratch, ops->scratch_size(layer, TILE_PANELS));
        sizes->repeats = sizes->repeats || ops->steep || (ops->vjp_loses && ops->vjp_loses(layer));
        if (ops->match)
            sizes->scratch = max_size(sizes->scratch, R(pairing_scratch)(TILE_ROWS));
        if (ops->match)
            sizes->alone = (2 * model->dim + model->context_dim) * PANEL;
        if (record > SIZE_MAX / 64 || !nf_size_add(sizes->records, aligned_reals(record), &sizes->records) ||
            !nf_size_add(sizes->caches, cache_size(layer), &sizes->caches))
            return false;
    }
    return sizes->scratch <= SIZE_MAX / 64 && sizes->records <= SIZE_MAX / 64 && sizes->caches <= SIZE_MAX / 64 &&
           sizes->kept <= SIZE_MAX / 64;
}

static thread_map map_memory(const nf_model *model, unsigned char *base, const thread_sizes *sizes) {
    thread_map m;
    memset(&m, 0, sizeof m);
    take_bytes(base, &m.bytes, sizeof m);
    m.places = take_bytes(base, &m.bytes, model->layer_count * sizeof *m.places);
    const size_t x = TILE_ROWS * model->dim * sizeof(real), c = TILE_ROWS * model->context_dim * sizeof(real);
    m.t.dim = model->dim;
    m.t.context_dim = model->context_dim;
    m.t.log_det = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(double));
    m.penalty = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(double));
    m.base = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(double));
    m.t.failed = take_bytes(base, &m.bytes, TILE_ROWS);
    m.cotangent_log_det = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(real));
    m.cotangent_penalty = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(real));
    m.t.x = take_bytes(base, &m.bytes, x);
    m.cotangent_x = take_bytes(base, &m.bytes, x);
    m.context = take_bytes(base, &m.bytes, c);
    m.cotangent_context = take_bytes(base, &m.bytes, c);
    m.scratch = take_bytes(base, &m.bytes, sizes->scratch * sizeof(real));
    m.alone = take_bytes(base, &m.bytes, sizes->alone * sizeof(real));
    m.records = take_bytes(base, &m.bytes, sizes->records * sizeof(real));
    m.caches = take_bytes(base, &m.bytes, sizes->caches * sizeof(real));
    m.kept = take_bytes(base, &m.bytes, sizes->kept * sizeof(real));
    m.repeats = sizes->repeats;
    m.t.context = model->context_dim ? m.context : NULL;
    return m;
}

size_t R(thread_size)(const nf_model *model) {
    thread_sizes sizes;
    size_t columns;
    if (!layer_sizes(model, &sizes) || !nf_size_add(model->dim, model->context_dim, &columns) ||
        columns > SIZE_MAX / 64 / TILE_ROWS / sizeof(real))
        return SIZE_MAX;
    return map_memory(model, NULL, &sizes).bytes;
}

/* Records lie in the order in which the layers are applied, caches in that of the layers. */
static void place_layers(const nf_model *model, const thread_map *m) {
    const size_t count = model->layer_count;
    real *cache = m->caches;
    for (size_t i = 0; i < count; i++) {
        m->places[i].ops = R(layer_ops_of)(model->layers[i]->kind);
        m->places[i].cache = cache;
        cache += cache_size(model->layers[i]);
    }
    for (int inverse = 0; inverse < 2; inverse++) {
        real *record = m->records;
        for (size_t k = 0; k < count; k++) {
            const size_t i = inverse ? count - 1 - k : k;
            const nf_layer *layer = model->layers[i];
            m->places[i].record[inverse] = record;
            record += aligned_reals(m->places[i].ops->record_size(layer, TILE_PANELS, (inverse != 0) != layer->inverted));
        }
    }
}

void R(begin_thread)(const nf_model *model, engine_thread *thread) {
    thread_sizes sizes;
    layer_sizes(model, &sizes);
    const thread_map m = map_memory(model, thread->memory, &sizes);
    memset(thread->memory, 0, (size_t)((unsigned char *)m.caches - (unsigned char *)thread->memory));
    memcpy(thread->memory, &m, sizeof m);
    place_layers(model, &m);
    for (size_t i = 0; i < model->layer_count; i++)
        if (cache_size(model->layers[i]) > 0)
            memset(m.places[i].cache, 0, NF_ALIGN);
}

void R(note_bad)(engine_thread *thread, engine_bad bad) {
    thread->bad.count++;
    if (bad.first >= thread->bad.first)
        return;
    const size_t count = thread->bad.count;
    thread->bad = bad;
    thread->bad.count = count;
}
