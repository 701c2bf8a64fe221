#include "engine/net_rows.h"

#include <string.h>

#include "engine/nets/mlp.h"
#include "engine/pieces.h"
#include "engine/tile.h"

typedef struct net_map {
    real *in, *out, *d_in, *d_out, *record, *scratch;
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

void R(net_pull)(const nf_net *net, const void *theta, engine_thread *thread, const double *grad_y, double *y, double *grad_x,
                 void *gradient) {
    const net_map m = map_memory(net, thread->memory);
    const size_t panels = (thread->rows + PANEL - 1) / PANEL;
    unsigned char failed[TILE_ROWS]; /* in the push: what a bad cotangent spoils is not y */
    memcpy(failed, m.failed, TILE_ROWS);
    load(grad_y + thread->first * net->outputs, net->outputs, thread->rows, m.d_out, m.failed, ROW_COTANGENT);
    if (y) /* which may be the same array as grad_y */
        store(m.out, net->outputs, thread->rows, failed, y + thread->first * net->outputs);
    if (memchr(m.failed, ROW_GOOD, thread->rows))
        R(mlp_vjp)(net, theta, NULL, panels, m.in, m.record, m.d_out, grad_x ? m.d_in : NULL, gradient, m.scratch);
    if (grad_x)
        store(m.d_in, net->inputs, thread->rows, m.failed, grad_x + thread->first * net->inputs);
    note(thread, m.failed);
}
