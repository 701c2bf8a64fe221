#include "engine/net_rows.h"

#include <string.h>

#include "engine/nets/mlp.h"
#include "engine/pieces.h"
#include "engine/pull.h"
#include "engine/tile.h"

typedef struct net_map {
    real *in, *out, *d_in, *d_out, *record, *scratch;
    real *kept; /* the gradient as it was before a tile that may be repeated */
    unsigned char *failed;
    size_t bytes;
} net_map;

static net_map map_memory(const nf_net *net, unsigned char *base) {
    net_map m = {.bytes = 0};
    const size_t in = TILE_ROWS * net->inputs * sizeof(real), out = TILE_ROWS * net->outputs * sizeof(real);
    m.failed = take_bytes(base, &m.bytes, TILE_ROWS);
    m.in = take_bytes(base, &m.bytes, in);
    m.d_in = take_bytes(base, &m.bytes, in);
    m.out = take_bytes(base, &m.bytes, out);
    m.d_out = take_bytes(base, &m.bytes, out);
    m.record = take_bytes(base, &m.bytes, R(mlp_record_size)(net, TILE_PANELS) * sizeof(real));
    m.scratch = take_bytes(base, &m.bytes, R(mlp_scratch_size)(net, TILE_PANELS) * sizeof(real));
    m.kept = take_bytes(base, &m.bytes, nf_net_parameter_count(net) * sizeof(real));
    return m;
}

size_t R(net_thread_size)(const nf_net *net) {
    return nf_net_widest(net) > SIZE_MAX / 1024 / TILE_ROWS / sizeof(real) ? SIZE_MAX : map_memory(net, NULL).bytes;
}

/* Rows to lanes; lanes of bad rows, and those that hold none, are zero. Which rows are bad goes to `failed`. */
static void load(const double *rows, size_t features, size_t count, real *panels, unsigned char *failed, int reason) {
    const size_t lanes = (count + PANEL - 1) / PANEL * PANEL;
    for (size_t l = 0; l < lanes; l++) {
        real *lane = panels + l / PANEL * features * PANEL + l % PANEL;
        bool good = l < count && rows && !failed[l];
        for (size_t f = 0; good && f < features; f++) {
            lane[f * PANEL] = (real)rows[l * features + f];
            good = isfinite(lane[f * PANEL]);
        }
        if (good)
            continue;
        if (l < count && rows && !failed[l])
            failed[l] = (unsigned char)reason;
        for (size_t f = 0; f < features; f++)
            lane[f * PANEL] = 0;
    }
}

static void store(const real *panels, size_t features, size_t count, unsigned char *failed, double *rows) {
    for (size_t l = 0; l < count; l++) {
        const real *lane = panels + l / PANEL * features * PANEL + l % PANEL;
        for (size_t f = 0; f < features; f++)
            if (!isfinite(lane[f * PANEL]) && !failed[l])
                failed[l] = ROW_RANGE;
        for (size_t f = 0; rows && f < features; f++)
            rows[l * features + f] = failed[l] ? NAN : (double)lane[f * PANEL];
    }
}

/* Lanes of bad rows, and those that hold none, become copies of the first good one, so that nothing that is not finite is recorded; false when there is none. */
static bool cover(real *panels, size_t features, size_t count, const unsigned char *failed) {
    const unsigned char *found = memchr(failed, ROW_GOOD, count);
    if (!found)
        return false;
    const size_t good = (size_t)(found - failed), lanes = (count + PANEL - 1) / PANEL * PANEL;
    const real *source = panels + good / PANEL * features * PANEL + good % PANEL;
    for (size_t l = 0; l < lanes; l++) {
        real *lane = panels + l / PANEL * features * PANEL + l % PANEL;
        for (size_t f = 0; (l >= count || failed[l]) && f < features; f++)
            lane[f * PANEL] = source[f * PANEL];
    }
    return true;
}

static void note(engine_thread *thread, const unsigned char *failed) {
    for (size_t l = 0; l < thread->rows; l++) {
        if (!failed[l])
            continue;
        thread->bad.count++;
        if (thread->first + l < thread->bad.first) {
            thread->bad.first = thread->first + l;
            thread->bad.reason = failed[l];
        }
    }
}

void R(net_push)(const nf_net *net, const void *theta, engine_thread *thread, size_t first, size_t rows, const double *x, double *y,
                 bool record) {
    const net_map m = map_memory(net, thread->memory);
    const size_t panels = (rows + PANEL - 1) / PANEL, last = rows - (panels - 1) * PANEL;
    thread->first = first;
    thread->rows = rows;
    memset(m.failed, 0, TILE_ROWS);
    load(x + first * net->inputs, net->inputs, rows, m.in, m.failed, ROW_INPUT);
    cover(m.in, net->inputs, rows, m.failed);
    R(mlp_forward)(net, theta, NULL, panels, last, m.in, m.out, record ? m.record : NULL, m.scratch);
    unsigned char before[TILE_ROWS];
    memcpy(before, m.failed, rows);
    store(m.out, net->outputs, rows, m.failed, y ? y + first * net->outputs : NULL);
    if (!record)
        note(thread, m.failed);
    else if (memcmp(before, m.failed, rows) != 0 && cover(m.in, net->inputs, rows, m.failed))
        R(mlp_forward)(net, theta, NULL, panels, last, m.in, m.out, m.record, m.scratch);
}

/* Whether the part of a row's gradient is not finite, found by the row alone. A cotangent that is not finite counts as zero. */
static bool is_row_steep(const nf_net *net, const void *theta, const net_map *m, const double *x, const double *grad_y, void *gradient) {
    const size_t count = nf_net_parameter_count(net);
    unsigned char failed[TILE_ROWS] = {ROW_GOOD};
    load(x, net->inputs, 1, m->in, failed, ROW_INPUT);
    cover(m->in, net->inputs, 1, failed);
    load(grad_y, net->outputs, 1, m->d_out, failed, ROW_COTANGENT);
    memset(gradient, 0, count * sizeof(real));
    R(mlp_forward)(net, theta, NULL, 1, 1, m->in, m->out, m->record, m->scratch);
    R(mlp_vjp)(net, theta, NULL, 1, m->in, m->record, m->d_out, NULL, gradient, false, m->scratch);
    return !R(all_finite)(gradient, count);
}

/* Rows whose part of the gradient is not finite are tried one by one, and the tile is pushed again without them. `failed`: in the push. The gradient is lost. */
static void find_steep(const nf_net *net, const void *theta, engine_thread *thread, const double *x, const double *grad_y, unsigned char *failed,
                       void *gradient) {
    const net_map m = map_memory(net, thread->memory);
    const size_t rows = thread->rows, panels = (rows + PANEL - 1) / PANEL, last = rows - (panels - 1) * PANEL;
    for (size_t l = 0; l < rows; l++)
        if (!failed[l] && is_row_steep(net, theta, &m, x + l * net->inputs, grad_y + l * net->outputs, gradient))
            failed[l] = m.failed[l] = ROW_SLOPE;
    load(x, net->inputs, rows, m.in, failed, ROW_INPUT);
    load(grad_y, net->outputs, rows, m.d_out, m.failed, ROW_COTANGENT);
    if (cover(m.in, net->inputs, rows, failed))
        R(mlp_forward)(net, theta, NULL, panels, last, m.in, m.out, m.record, m.scratch);
}

static void pull_tile(const nf_net *net, const void *theta, const engine_thread *thread, bool wanted, void *gradient) {
    const net_map m = map_memory(net, thread->memory);
    const size_t panels = (thread->rows + PANEL - 1) / PANEL;
    if (memchr(m.failed, ROW_GOOD, thread->rows))
        R(mlp_vjp)(net, theta, NULL, panels, m.in, m.record, m.d_out, wanted ? m.d_in : NULL, gradient, false, m.scratch);
}

void R(net_pull)(const nf_net *net, const void *theta, engine_thread *thread, const double *x, const double *grad_y, bool careful, double *y,
                 double *grad_x, void *gradient) {
    const net_map m = map_memory(net, thread->memory);
    const double *own_x = x + thread->first * net->inputs, *own_grad_y = grad_y + thread->first * net->outputs;
    const size_t kept = careful && gradient ? nf_net_parameter_count(net) : 0;
    unsigned char failed[TILE_ROWS]; /* in the push: what a bad cotangent spoils is not y */
    memcpy(failed, m.failed, TILE_ROWS);
    load(own_grad_y, net->outputs, thread->rows, m.d_out, m.failed, ROW_COTANGENT);
    if (kept)
        memcpy(m.kept, gradient, kept * sizeof(real));
    pull_tile(net, theta, thread, grad_x != NULL, gradient);
    if (kept && !R(all_finite)(gradient, kept) && R(all_finite)(m.kept, kept)) {
        find_steep(net, theta, thread, own_x, own_grad_y, failed, gradient);
        memcpy(gradient, m.kept, kept * sizeof(real));
        pull_tile(net, theta, thread, grad_x != NULL, gradient);
    }
    /* Nothing is stored before all is read: an output may be the same array as an input. */
    if (y)
        store(m.out, net->outputs, thread->rows, failed, y + thread->first * net->outputs);
    if (grad_x)
        store(m.d_in, net->inputs, thread->rows, m.failed, grad_x + thread->first * net->inputs);
    note(thread, m.failed);
}
