/* Pushes tiles of samples through the layers of a flow, and pulls cotangents back. */
#include "engine/engine.h"

#include <string.h>

#include "engine/kernels/random.h"
#include "engine/layer.h"
#include "engine/net_rows.h"
#include "engine/ode/solve.h"
#include "engine/pieces.h"
#include "engine/train/pairing.h"
#include "engine/train/update.h"

extern const nf_engine R(engine);

_Static_assert(TILE_ROWS <= NF_MOST_TILE && PANEL <= NF_MOST_PANEL, "the check of a layer's sizes knows the longest tiles and panels");

/* A layer of the flow, as its thread meets it: where its record lies when the flow runs forward [0] and inverse [1], and its cache. */
typedef struct layer_place {
    const struct layer_ops *ops;
    real *record[2], *cache;
} layer_place;

/* What lies where in a thread's memory, at the start of that memory: the same for all flows of a structure. */
typedef struct thread_map {
    tile t;
    layer_place *places; /* of all layers */
    real *context, *cotangent_x, *cotangent_context, *cotangent_log_det, *cotangent_penalty;
    double *base; /* log density of the base at z */
    uint32_t *source; /* the row of the tile that each lane was loaded from */
    real *scratch, *records, *caches;
    real *kept;   /* a slot as it was before a pull that may be repeated */
    bool repeats; /* some layer's vjp loses rows or is steep */
    size_t bytes;
} thread_map;

static size_t cache_size(const nf_layer *layer) {
    const struct layer_ops *ops = R(layer_ops_of)(layer->kind);
    return ops->cache_size ? aligned_reals(ops->cache_size(layer)) : 0;
}

/* In reals. */
typedef struct thread_sizes {
    size_t scratch, records, caches, kept;
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
    m.t.penalty = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(double));
    m.base = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(double));
    m.t.failed = take_bytes(base, &m.bytes, TILE_ROWS);
    m.source = take_bytes(base, &m.bytes, TILE_ROWS * sizeof *m.source);
    m.cotangent_log_det = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(real));
    m.cotangent_penalty = take_bytes(base, &m.bytes, TILE_ROWS * sizeof(real));
    m.t.x = take_bytes(base, &m.bytes, x);
    m.cotangent_x = take_bytes(base, &m.bytes, x);
    m.context = take_bytes(base, &m.bytes, c);
    m.cotangent_context = take_bytes(base, &m.bytes, c);
    m.scratch = take_bytes(base, &m.bytes, sizes->scratch * sizeof(real));
    m.records = take_bytes(base, &m.bytes, sizes->records * sizeof(real));
    m.caches = take_bytes(base, &m.bytes, sizes->caches * sizeof(real));
    m.kept = take_bytes(base, &m.bytes, sizes->kept * sizeof(real));
    m.repeats = sizes->repeats;
    m.t.context = model->context_dim ? m.context : NULL;
    return m;
}

static size_t thread_size(const nf_model *model) {
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

/* Zeros where lanes that hold no sample must start as numbers, and empty caches, which are known by their first bytes. */
static void begin_thread(const nf_model *model, engine_thread *thread) {
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

static thread_map map_thread(const engine_thread *thread) { return *(const thread_map *)thread->memory; }

static void note_bad(engine_thread *thread, engine_bad bad) {
    thread->bad.count++;
    if (bad.first >= thread->bad.first)
        return;
    const size_t count = thread->bad.count;
    thread->bad = bad;
    thread->bad.count = count;
}

static real *lane_of(real *panels, size_t features, size_t lane) {
    return panels + lane / PANEL * features * PANEL + lane % PANEL;
}

/* One row of doubles into a lane; the first column that is not finite in `real`, or `features`. */
static size_t load_lane(const double *row, size_t features, real *lane) {
    size_t bad = features;
    for (size_t f = 0; f < features; f++) {
        const real value = (real)row[f];
        lane[f * PANEL] = value;
        if (!isfinite(value) && bad == features)
            bad = f;
    }
    return bad;
}

/* Of the generator, for the first row of a tile. */
static uint64_t position_of(const engine_job *job, size_t first) {
    if (job->dealt.own == 0)
        return job->position + first;
    const size_t at = job->dealt.skip + first / TILE_ROWS;
    return job->position + (at / job->dealt.own * job->dealt.all + job->dealt.first + at % job->dealt.own) * TILE_ROWS;
}

static void draw_base(const engine_job *job, thread_map *m, size_t first, size_t rows) {
    const nf_model *model = job->model;
    const uint64_t position = position_of(job, first);
    double even[PANEL], odd[PANEL];
    for (size_t p = 0; p < m->t.panels; p++) {
        const size_t start = p * PANEL, lanes = rows - start < PANEL ? rows - start : PANEL;
        real *panel = tile_panel(&m->t, p);
        for (size_t f = 0; f < model->dim; f += 2) {
            R(engine).normals(job->key, position + start, f / 2, lanes, even, odd);
            for (size_t l = 0; l < lanes; l++) {
                panel[f * PANEL + l] = (real)(model->mean ? madd_double(model->sd[f], even[l], model->mean[f]) : even[l]);
                if (f + 1 < model->dim)
                    panel[(f + 1) * PANEL + l] = (real)(model->mean ? madd_double(model->sd[f + 1], odd[l], model->mean[f + 1]) : odd[l]);
            }
        }
    }
}

/* Lanes [from, to) of one panel become copies of lane `source` of any panel; zeros when that is NULL. */
static void spread_lane(const real *source, size_t features, real *panel, size_t from, size_t to) {
    for (size_t f = 0; f < features; f++) {
        const real value = source ? source[f * PANEL] : 0;
        for (size_t l = from; l < to; l++)
            panel[f * PANEL + l] = value;
    }
}

/* Lanes that failed, and those beyond the rows, become copies of the first good lane (of zeros when there is none). */
static void fill_lanes(thread_map *m) {
    tile *t = &m->t;
    size_t good = 0;
    while (good < t->rows && t->failed[good])
        good++;
    const real *x = good < t->rows ? lane_of(t->x, t->dim, good) : NULL;
    const real *context = good < t->rows ? lane_of(m->context, t->context_dim, good) : NULL;
    for (size_t l = 0; l < t->rows; l++)
        if (t->failed[l]) {
            spread_lane(x, t->dim, lane_of(t->x, t->dim, l), 0, 1);
            spread_lane(context, t->context_dim, lane_of(m->context, t->context_dim, l), 0, 1);
        }
    const size_t last = t->panels - 1, used = tile_lanes(t, last);
    spread_lane(x, t->dim, tile_panel(t, last), used, PANEL);
    spread_lane(context, t->context_dim, m->context + last * t->context_dim * PANEL, used, PANEL);
}

/* Lanes beyond the rows become copies of the first. */
static void fill_beyond(thread_map *m) {
    const size_t last = m->t.panels - 1;
    spread_lane(m->t.x, m->t.dim, tile_panel(&m->t, last), tile_lanes(&m->t, last), PANEL);
}

static void load_tile(const engine_job *job, engine_thread *thread, thread_map *m, size_t first, bool note) {
    tile *t = &m->t;
    if (!job->in)
        draw_base(job, m, first, t->rows);
    for (size_t l = 0; l < t->rows; l++) {
        const double *row = job->in ? job->in + (first + l) * t->dim : NULL;
        const double *context = t->context_dim ? job->context + (first + l) * t->context_dim : NULL;
        const size_t bad_x = row ? load_lane(row, t->dim, lane_of(t->x, t->dim, l)) : t->dim;
        const size_t bad_c = context ? load_lane(context, t->context_dim, lane_of(m->context, t->context_dim, l)) : t->context_dim;
        if (!note)
            continue;
        t->failed[l] = bad_x < t->dim ? ROW_INPUT : bad_c < t->context_dim ? ROW_CONTEXT : ROW_GOOD;
        if (bad_x < t->dim)
            note_bad(thread, (engine_bad){0, first + l, ROW_INPUT, bad_x, row[bad_x]});
        else if (bad_c < t->context_dim)
            note_bad(thread, (engine_bad){0, first + l, ROW_CONTEXT, bad_c, context[bad_c]});
    }
    fill_lanes(m);
}

/* log N(z; mean, sd^2) of every lane, in double, features in order. */
static void base_density(const nf_model *model, const tile *t, double *density) {
    double constant = -0.91893853320467274178 * (double)model->dim; /* log(2 pi) / 2 */
    for (size_t f = 0; model->mean && f < model->dim; f++)
        constant -= log(model->sd[f]);
    for (size_t p = 0; p < t->panels; p++) {
        double sum[PANEL] = {0};
        const real *x = tile_panel(t, p);
        const size_t lanes = tile_width(t, p);
        for (size_t f = 0; f < model->dim; f++, x += PANEL) {
            if (!model->mean) {
                for (size_t l = 0; l < lanes; l++)
                    sum[l] = madd_double((double)x[l], (double)x[l], sum[l]);
                continue;
            }
            for (size_t l = 0; l < lanes; l++) {
                const double e = ((double)x[l] - model->mean[f]) / model->sd[f];
                sum[l] = madd_double(e, e, sum[l]);
            }
        }
        for (size_t l = 0; l < lanes; l++)
            density[p * PANEL + l] = madd_double(-0.5, sum[l], constant);
    }
}

/* What every operation of layer `index` is given; the caller adds a record or a gradient. */
static layer_run run_of(const engine_job *job, const thread_map *m, size_t index, engine_thread *thread, engine_counters *counters) {
    const nf_layer *layer = job->model->layers[index];
    return (layer_run){.layer = layer,
                       .theta = (const real *)job->theta + layer->parameter_offset,
                       .scratch = m->scratch,
                       .cache = m->places[index].cache,
                       .arena = &thread->arena,
                       .counters = counters,
                       .epoch = job->epoch};
}

static real *slot_of(const engine_job *job, size_t slot) { return (real *)job->slots + slot * job->slot_stride; }

/* Where a layer adds its part of the parameter gradient; NULL when nobody wants it. */
static real *gradient_of(const engine_job *job, size_t slot, const nf_layer *layer) {
    return job->slots ? slot_of(job, slot) + layer->parameter_offset : NULL;
}

/* The first `count` layers of the forward or of the inverse flow. */
static int apply_layers(const engine_job *job, bool backwards, size_t count, engine_thread *thread, thread_map *m) {
    const nf_model *model = job->model;
    int result = LAYER_OK;
    thread->arena.used = 0;
    for (size_t i = 0; i < count && result == LAYER_OK; i++) {
        const size_t index = backwards ? model->layer_count - 1 - i : i;
        const layer_place *place = &m->places[index];
        layer_run run = run_of(job, m, index, thread, &thread->counters);
        run.record = job->record ? place->record[backwards] : NULL;
        result = backwards != run.layer->inverted ? place->ops->inverse(&run, &m->t) : place->ops->forward(&run, &m->t);
    }
    return result;
}

/*
 * A loss beyond this is a number, but its gradient may not be: the products of a sample's numbers that it is made of are of its size, times
 * weights and factors, and samples are summed.
 */
#define FARTHEST_LOSS ((double)REAL_MAX * 0x1p-20)

static double farthest_loss(const engine_job *job) { return job->record && job->density && job->slots ? FARTHEST_LOSS : DBL_MAX; }

/* Of a lane that has come through the layers; their part alone where no density is asked for. */
static double log_prob_of(const engine_job *job, const thread_map *m, size_t lane) {
    return m->base[lane] + (job->inverse ? m->t.log_det[lane] : -m->t.log_det[lane]);
}

/* Rows that came out of the layers as failed or not finite, or beyond `farthest`; true when there are new ones. */
static bool check_lanes(const engine_job *job, engine_thread *thread, thread_map *m, const unsigned char *before, double farthest) {
    tile *t = &m->t;
    bool any = false;
    for (size_t l = 0; l < t->rows; l++) {
        if (before[l]) {
            t->failed[l] = before[l];
            continue;
        }
        if (!t->failed[l]) {
            const real *lane = lane_of(t->x, t->dim, l);
            bool finite = fabs(log_prob_of(job, m, l)) <= farthest && fabs(t->penalty ? t->penalty[l] : 0.0) <= farthest;
            for (size_t f = 0; f < t->dim; f++)
                finite = finite && isfinite(lane[f * PANEL]);
            if (finite)
                continue;
            t->failed[l] = ROW_RANGE;
        }
        note_bad(thread, (engine_bad){0, thread->first + l, t->failed[l], 0, 0.0});
        any = true;
    }
    return any;
}

/* The map of a tile of so many rows, nothing loaded yet. */
static thread_map begin_tile(engine_thread *thread, size_t first, size_t rows) {
    thread_map m = map_thread(thread);
    thread->first = first;
    thread->rows = rows;
    m.t.rows = rows;
    m.t.panels = (rows + PANEL - 1) / PANEL;
    return m;
}

static int push(const engine_job *job, engine_thread *thread, size_t first, size_t rows) {
    thread_map m = begin_tile(thread, first, rows);
    const engine_bad bad_before = thread->bad;
    const engine_counters counters_before = thread->counters;
    unsigned char before[TILE_ROWS];
    const bool density = job->density || job->log_prob;
    m.t.few = job->rows <= FEW_ROWS && !job->record;
    if (!job->penalty)
        m.t.penalty = NULL;
    if (!density) /* nor does it matter whether there is one */
        memset(m.base, 0, m.t.panels * PANEL * sizeof(double));
    /* Twice at most: bad lanes are copies of a good lane the second time, and there is nothing left to fail. */
    for (bool again = true, note = true; again; note = false) {
        load_tile(job, thread, &m, first, note);
        memcpy(before, m.t.failed, rows);
        memset(m.t.log_det, 0, m.t.panels * PANEL * sizeof(double));
        if (m.t.penalty)
            memset(m.t.penalty, 0, m.t.panels * PANEL * sizeof(double));
        if (density && !job->inverse)
            base_density(job->model, &m.t, m.base);
        memset(m.t.failed, 0, rows);
        if (apply_layers(job, job->inverse, job->model->layer_count, thread, &m) != LAYER_OK) {
            thread->bad = bad_before;
            thread->counters = counters_before;
            return ENGINE_ARENA;
        }
        if (density && job->inverse)
            base_density(job->model, &m.t, m.base);
        again = check_lanes(job, thread, &m, before, farthest_loss(job)) && job->record;
    }
    return ENGINE_OK;
}

static thread_map map_pushed(const engine_thread *thread) {
    thread_map m = map_thread(thread);
    m.t.rows = thread->rows;
    m.t.panels = (thread->rows + PANEL - 1) / PANEL;
    return m;
}

static void store_lanes(const tile *t, real *panels, size_t features, double *rows) {
    for (size_t l = 0; l < t->rows; l++) {
        const real *lane = lane_of(panels, features, l);
        for (size_t f = 0; f < features; f++)
            rows[l * features + f] = t->failed[l] ? NAN : (double)lane[f * PANEL];
    }
}

static void store(const engine_job *job, engine_thread *thread) {
    thread_map m = map_pushed(thread);
    const tile *t = &m.t;
    if (job->out)
        store_lanes(t, t->x, t->dim, job->out + thread->first * t->dim);
    for (size_t l = 0; l < t->rows; l++) {
        if (job->log_det)
            job->log_det[thread->first + l] = t->failed[l] ? NAN : t->log_det[l];
        if (job->log_prob)
            job->log_prob[thread->first + l] = t->failed[l] ? NAN : log_prob_of(job, &m, l);
    }
}

static void reject(engine_thread *thread, size_t row, int reason) {
    thread_map m = map_pushed(thread);
    const size_t l = row - thread->first;
    if (m.t.failed[l])
        return;
    m.t.failed[l] = (unsigned char)reason;
    note_bad(thread, (engine_bad){0, row, reason, 0, 0.0});
}

static bool any_good(const tile *t) { return memchr(t->failed, ROW_GOOD, t->rows) != NULL; }

static double weight_of(const engine_job *job, size_t row) { return job->weight ? job->weight[row] * job->weight_scale : 1.0; }

/* Cotangents of sum_rows weight * scale * log_prob, and the loss that goes with them. */
static void density_cotangents(const engine_job *job, const engine_thread *thread, thread_map *m, engine_sum *sum) {
    const nf_model *model = job->model;
    const tile *t = &m->t;
    for (size_t l = 0; l < t->panels * PANEL; l++) {
        double c = 0;
        if (l < t->rows && !t->failed[l]) {
            const double w = weight_of(job, thread->first + l);
            c = w * job->scale;
            sum->loss += w * (-(m->base[l] + t->log_det[l]) + (job->penalty ? t->penalty[l] : 0.0));
            sum->weight += w;
            sum->good++;
        }
        m->cotangent_log_det[l] = (real)c;
        m->cotangent_penalty[l] = (real)-c;
    }
    for (size_t p = 0; p < t->panels; p++) {
        const real *x = tile_panel(t, p), *c = m->cotangent_log_det + p * PANEL;
        real *d = m->cotangent_x + p * t->dim * PANEL;
        for (size_t f = 0; f < t->dim; f++, x += PANEL, d += PANEL) {
            if (!model->mean) {
                for (size_t l = 0; l < PANEL; l++)
                    d[l] = -c[l] * x[l];
                continue;
            }
            const double mean = model->mean[f], sd = model->sd[f]; /* whose square need not be a number */
            for (size_t l = 0; l < PANEL; l++)
                d[l] = (real)(-(double)c[l] * (((double)x[l] - mean) / sd / sd));
        }
    }
}

/* Cotangents that the caller gives; a row of them that is not finite is a bad row. */
static void given_cotangents(const engine_job *job, engine_thread *thread, thread_map *m, engine_sum *sum) {
    tile *t = &m->t;
    memset(m->cotangent_x, 0, t->panels * t->dim * PANEL * sizeof(real));
    memset(m->cotangent_log_det, 0, t->panels * PANEL * sizeof(real));
    for (size_t l = 0; l < t->rows; l++) {
        const size_t row = thread->first + l;
        if (t->failed[l])
            continue;
        real *lane = lane_of(m->cotangent_x, t->dim, l);
        const real log_det = (real)(job->grad_log_det ? job->scale * job->grad_log_det[row] : job->log_q ? job->scale : 0.0);
        size_t bad = t->dim;
        for (size_t f = 0; job->grad_out && f < t->dim; f++) {
            lane[f * PANEL] = (real)(job->scale * job->grad_out[row * t->dim + f]);
            if (!isfinite(lane[f * PANEL]) && bad == t->dim)
                bad = f;
        }
        if (isfinite(log_det) && bad == t->dim) {
            m->cotangent_log_det[l] = log_det;
            sum->good++;
            continue;
        }
        for (size_t f = 0; f < t->dim; f++)
            lane[f * PANEL] = 0;
        t->failed[l] = job->log_q ? ROW_TARGET : ROW_COTANGENT; /* a target's gradient may be a number in double alone */
        note_bad(thread, (engine_bad){0, row, t->failed[l], bad, bad < t->dim ? job->grad_out[row * t->dim + bad] : job->grad_log_det[row]});
    }
}

/* What is not finite in each lane of panels makes `spoilt` NaN there; it is zero before. */
static void find_spoilt(const real *panels, size_t count, size_t features, real *spoilt) {
    for (size_t p = 0; p < count; p++)
        for (size_t f = 0; f < features; f++, panels += PANEL)
            for (size_t l = 0; l < PANEL; l++)
                spoilt[p * PANEL + l] = madd(panels[l], 0, spoilt[p * PANEL + l]);
}

/* Rows that have a value, and a cotangent beyond the numbers: bad as a whole. */
static void check_slopes(const engine_job *job, engine_thread *thread, tile *t, const cotangent *c) {
    _Alignas(NF_ALIGN) real spoilt[TILE_ROWS] = {0};
    find_spoilt(c->x, t->panels, t->dim, spoilt);
    if (job->grad_context && c->context)
        find_spoilt(c->context, t->panels, t->context_dim, spoilt);
    for (size_t l = 0; l < t->rows; l++) {
        const size_t row = thread->first + l;
        if (spoilt[l] == 0 || t->failed[l])
            continue;
        t->failed[l] = ROW_SLOPE;
        note_bad(thread, (engine_bad){0, row, ROW_SLOPE, 0, 0.0});
        if (job->log_prob)
            job->log_prob[row] = NAN;
    }
}

/* Rows that a layer's vjp could not follow; true when there are any. */
static bool note_untraced(engine_thread *thread, const tile *t, const unsigned char *before) {
    bool any = false;
    for (size_t l = 0; l < t->rows; l++)
        if (t->failed[l] != before[l]) {
            note_bad(thread, (engine_bad){0, thread->first + l, t->failed[l], 0, 0.0});
            any = true;
        }
    return any;
}

/* Whether all exponents are below the highest: an integer loop, which vectorises. */
static bool all_finite(const void *values, size_t count) {
    const unsigned char *bytes = values;
    const real_uint exponent = NF_SINGLE_BUILD ? (real_uint)0x7f800000u : (real_uint)0x7ff0000000000000u;
    real_uint bad = 0;
    for (size_t i = 0; i < count; i++) {
        real_uint bits;
        memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return bad == 0;
}

/* Whether the gradient of a layer is not finite; without care it is looked at where the layer may be too steep. */
static bool is_steep(const struct layer_ops *ops, const layer_run *run, bool careful) {
    const size_t count = !run->gradient ? 0 : careful ? run->layer->parameter_count : ops->steep ? ops->steep(run->layer) : 0;
    return count > 0 && !all_finite(run->gradient + run->layer->parameter_count - count, count);
}

/* The slot that a tile adds to: whether it is the first one there, and whether it has to look at what all of them have added. */
typedef struct slot_turn {
    size_t slot;
    bool first, last;
} slot_turn;

/* Of the slot after a pull through the layers: numbers that are none, of layers where this tile may have put them, or of any. */
typedef struct slot_state {
    bool steep, spoilt;
} slot_state;

/*
 * The cotangents of the layers' output become those of their input; false when a layer lost rows, and all is to be done again without them. A tile
 * without a good row is left alone: it was mapped as the origin, whose numbers may be anything.
 */
static bool pull_layers(const engine_job *job, engine_thread *thread, const thread_map *m, cotangent *c, slot_turn turn, slot_state *state) {
    const size_t count = job->model->layer_count;
    const bool any = any_good(&m->t);
    unsigned char before[TILE_ROWS];
    engine_counters counters = {0, 0, 0, 0}; /* the steps of nf_stats are those of the push */
    bool whole = true;
    *state = (slot_state){false, false};
    memcpy(before, m->t.failed, m->t.rows);
    for (size_t i = count; whole && i-- > 0;) {
        const size_t index = job->inverse ? count - 1 - i : i;
        const layer_place *place = &m->places[index];
        layer_run run = run_of(job, m, index, thread, &counters);
        run.record = place->record[job->inverse];
        run.gradient = gradient_of(job, turn.slot, run.layer);
        if (turn.first && run.gradient) /* layer by layer, so that what is cleared is at hand when it is added to */
            memset(run.gradient, 0, run.layer->parameter_count * sizeof(real));
        if (any && job->inverse != run.layer->inverted)
            place->ops->inverse_vjp(&run, &m->t, c);
        else if (any)
            place->ops->forward_vjp(&run, &m->t, c);
        whole = !any || !place->ops->vjp_loses || !note_untraced(thread, &m->t, before);
        state->steep = state->steep || (any && is_steep(place->ops, &run, job->careful));
        if (turn.last && run.gradient) /* likewise */
            state->spoilt = state->spoilt || !all_finite(run.gradient, run.layer->parameter_count);
    }
    thread->counters.rhs_evaluations += counters.rhs_evaluations;
    return whole;
}

static void begin_cotangents(const engine_job *job, engine_thread *thread, thread_map *m, engine_sum *sum) {
    if (job->density)
        density_cotangents(job, thread, m, sum);
    else
        given_cotangents(job, thread, m, sum);
    if (m->t.context)
        memset(m->cotangent_context, 0, m->t.panels * m->t.context_dim * PANEL * sizeof(real));
}

/* Rows whose part of the gradient is not finite, found one by one: all others have cotangents of zero meanwhile. The slot is lost. */
static void find_steep(const engine_job *job, engine_thread *thread, thread_map *m, cotangent *c, size_t slot) {
    tile *t = &m->t;
    const engine_counters counters_before = thread->counters;
    unsigned char failed[TILE_ROWS];
    engine_sum unused = {0, 0, 0, false};
    memcpy(failed, t->failed, t->rows);
    for (size_t l = 0; l < t->rows; l++) {
        if (failed[l])
            continue;
        memset(t->failed, ROW_SLOPE, t->rows);
        t->failed[l] = ROW_GOOD;
        begin_cotangents(job, thread, m, &unused);
        slot_state state;
        pull_layers(job, thread, m, c, (slot_turn){slot, true, false}, &state);
        if (!state.steep)
            continue;
        failed[l] = ROW_SLOPE;
        note_bad(thread, (engine_bad){0, thread->first + l, ROW_SLOPE, 0, 0.0});
    }
    memcpy(t->failed, failed, t->rows);
    thread->counters = counters_before;
}

static void pull(const engine_job *job, engine_thread *thread, size_t slot, bool first, bool last, engine_sum *sum) {
    const nf_model *model = job->model;
    const engine_sum sum_before = *sum;
    thread_map m = map_pushed(thread);
    cotangent c = {.x = m.cotangent_x,
                   .log_det = m.cotangent_log_det,
                   .penalty = job->penalty ? m.cotangent_penalty : NULL,
                   .context = model->context_dim ? m.cotangent_context : NULL};
    const size_t kept = (m.repeats || job->careful) && job->slots && !first ? model->parameter_count * sizeof(real) : 0;
    if (kept)
        memcpy(m.kept, slot_of(job, slot), kept);
    slot_state state = {false, false};
    for (bool whole = false, searched = false; !whole;) {
        *sum = sum_before;
        begin_cotangents(job, thread, &m, sum);
        whole = pull_layers(job, thread, &m, &c, (slot_turn){slot, first, last}, &state);
        if (whole && state.steep && !searched && (!kept || all_finite(m.kept, model->parameter_count))) {
            find_steep(job, thread, &m, &c, slot);
            searched = true;
            whole = false;
        }
        if (!whole && kept)
            memcpy(slot_of(job, slot), m.kept, kept);
    }
    sum->spoilt = state.spoilt;
    if (job->grad_in || job->grad_context)
        check_slopes(job, thread, &m.t, &c);
    if (job->grad_in)
        store_lanes(&m.t, c.x, model->dim, job->grad_in + thread->first * model->dim);
    if (job->grad_context && c.context)
        store_lanes(&m.t, c.context, model->context_dim, job->grad_context + thread->first * model->context_dim);
    for (size_t l = 0; job->log_prob && l < m.t.rows; l++) /* stored, but the pull may have found the row bad */
        if (m.t.failed[l])
            job->log_prob[thread->first + l] = NAN;
}

/* ---- flow matching */

/* Uniform in (0, 1), from the block of normals after those of the base sample. */
static void draw_fractions(const engine_job *job, size_t first, size_t rows, double *fraction) {
    double even[TILE_ROWS], odd[TILE_ROWS];
    R(engine).normals(job->key, position_of(job, first), (job->model->dim + 1) / 2, rows, even, odd);
    for (size_t l = 0; l < rows; l++)
        fraction[l] = 0.5 * erfc(-0.70710678118654752440 * even[l]);
}

/* ends: where the samples are to arrive, in the place of cotangent_x; t.x: where they start. They become distances and points on the way. */
static void put_on_the_way(thread_map *m, const size_t *partner, const double *fraction) {
    tile *t = &m->t;
    real *ends = m->cotangent_x;
    _Alignas(NF_ALIGN) real start[TILE_ROWS];
    for (size_t f = 0; f < t->dim; f++) {
        for (size_t l = 0; l < t->rows; l++)
            start[l] = lane_of(t->x, t->dim, partner[l])[f * PANEL];
        for (size_t l = 0; l < t->rows; l++) {
            real *x = lane_of(t->x, t->dim, l) + f * PANEL, *end = lane_of(ends, t->dim, l) + f * PANEL;
            *end -= start[l];
            *x = madd((real)fraction[l], *end, start[l]);
        }
    }
}

/* Rows that could not be brought to the field, or whose base sample could not. */
static void note_lost(const engine_job *job, engine_thread *thread, thread_map *m, const unsigned char *before) {
    for (size_t l = 0; l < m->t.rows; l++)
        m->base[l] = 0;
    check_lanes(job, thread, m, before, DBL_MAX);
    fill_lanes(m);
}

/* Data back to the field's end, into the place of cotangent_x, and base samples up to its start, into the tile. */
static void bring_ends(const engine_job *job, engine_thread *thread, thread_map *m) {
    const size_t outer = job->model->layer_count - 1 - job->matched, rows = m->t.rows, first = thread->first;
    tile *t = &m->t;
    unsigned char before[TILE_ROWS];
    memset(t->log_det, 0, t->panels * PANEL * sizeof(double));
    load_tile(job, thread, m, first, true);
    memcpy(before, t->failed, rows);
    memset(t->failed, 0, rows);
    apply_layers(job, true, outer, thread, m);
    note_lost(job, thread, m, before);
    memcpy(m->cotangent_x, t->x, t->panels * t->dim * PANEL * sizeof(real));
    memcpy(before, t->failed, rows);
    memset(t->failed, 0, rows);
    draw_base(job, m, first, rows);
    fill_beyond(m);
    apply_layers(job, false, job->matched, thread, m);
    note_lost(job, thread, m, before);
}

/* The losses of good rows; one beyond `farthest`, or that is no number, makes its row bad. */
static void sum_losses(const engine_job *job, engine_thread *thread, const tile *t, const double *loss, double farthest, engine_sum *sum) {
    for (size_t l = 0; l < t->rows; l++) {
        const size_t row = thread->first + l;
        if (t->failed[l])
            continue;
        if (!(loss[l] <= farthest)) {
            note_bad(thread, (engine_bad){0, row, ROW_RANGE, 0, 0.0});
            continue;
        }
        const double w = weight_of(job, row);
        sum->loss += w * loss[l];
        sum->weight += w;
        sum->good++;
    }
}

/* Bad rows keep to themselves: neither their data nor their base samples are given to others. */
static void find_partners(const engine_job *job, const thread_map *m, size_t *partner) {
    size_t good[TILE_ROWS], count = 0;
    for (size_t l = 0; l < m->t.rows; l++) {
        partner[l] = l;
        if (!m->t.failed[l])
            good[count++] = l;
    }
    if (job->paired)
        R(pair_samples)(count, good, m->t.dim, m->cotangent_x, m->t.x, m->scratch, partner);
}

static void match(const engine_job *job, engine_thread *thread, size_t first, size_t rows, size_t slot, engine_sum *sum) {
    thread_map m = begin_tile(thread, first, rows);
    tile *t = &m.t;
    const double farthest = job->slots ? FARTHEST_LOSS : DBL_MAX;
    double fraction[TILE_ROWS] = {0}, loss[TILE_ROWS];
    size_t partner[TILE_ROWS];
    t->few = false;
    t->penalty = NULL;
    bring_ends(job, thread, &m);
    if (!any_good(t))
        return;
    draw_fractions(job, first, rows, fraction);
    find_partners(job, &m, partner);
    put_on_the_way(&m, partner, fraction);
    for (size_t l = 0; l < t->panels * PANEL; l++)
        m.cotangent_log_det[l] = l < rows && !t->failed[l] ? (real)(job->scale * weight_of(job, first + l)) : 0;
    layer_run run = run_of(job, &m, job->matched, thread, &thread->counters);
    run.gradient = gradient_of(job, slot, run.layer);
    const layer_match task = {run.layer->inverted, fraction, m.cotangent_x, m.cotangent_log_det, m.context, farthest, loss};
    m.places[job->matched].ops->match(&run, t, &task);
    sum_losses(job, thread, t, loss, farthest, sum);
}

static bool matches(nf_layer_kind kind) {
    const struct layer_ops *ops = R(layer_ops_of)(kind);
    return ops && ops->match;
}

/* ---- trajectories */

typedef struct path_sink {
    const engine_job *job;
    size_t first, rows;
} path_sink;

static double *path_row(const path_sink *s, size_t index, size_t lane) {
    return s->job->path + (index * s->job->rows + s->first + lane) * s->job->model->dim;
}

static void keep_point(void *user, size_t index, size_t lane, const real *x) {
    const path_sink *s = user;
    if (lane >= s->rows)
        return;
    double *row = path_row(s, index, lane);
    for (size_t f = 0; f < s->job->model->dim; f++)
        row[f] = (double)x[f * PANEL];
}

static void trajectory(const engine_job *job, engine_thread *thread, size_t first, size_t rows) {
    const nf_model *model = job->model;
    thread_map m = begin_tile(thread, first, rows);
    tile *t = &m.t;
    unsigned char before[TILE_ROWS];
    t->few = false;
    t->penalty = NULL;
    load_tile(job, thread, &m, first, true);
    memcpy(before, t->failed, rows);
    memset(t->failed, 0, rows);
    memset(t->log_det, 0, t->panels * PANEL * sizeof(double));
    memset(m.base, 0, t->panels * PANEL * sizeof(double));
    path_sink sink = {job, first, rows};
    const layer_run run = run_of(job, &m, 0, thread, &thread->counters);
    const layer_path path = {.inverse = run.layer->inverted,
                             .t = job->times,
                             .times = job->time_count,
                             .backward = job->times_backward,
                             .visit = keep_point,
                             .user = &sink};
    m.places[0].ops->path(&run, t, &path);
    check_lanes(job, thread, &m, before, DBL_MAX);
    for (size_t l = 0; l < rows; l++)
        for (size_t i = 0; t->failed[l] && i < job->time_count; i++)
            for (size_t f = 0; f < model->dim; f++)
                path_row(&sink, i, l)[f] = NAN;
}

static void from_double(void *to, const double *from, size_t count) {
    real *r = to;
    for (size_t i = 0; i < count; i++)
        r[i] = (real)from[i];
}

static void to_double(double *to, const void *from, size_t count) {
    const real *r = from;
    for (size_t i = 0; i < count; i++)
        to[i] = (double)r[i];
}

static bool supports(nf_layer_kind kind) { return R(layer_ops_of)(kind) != NULL; }

#define NF_TEXT_(x) #x
#define NF_TEXT(x) NF_TEXT_(x)

const nf_engine R(engine) = {
    .isa = NF_TEXT(NF_ISA),
    .precision = NF_SINGLE_BUILD ? NF_SINGLE : NF_DOUBLE,
    .real_size = sizeof(real),
    .tile_rows = TILE_ROWS,
    .normals = NF_JOIN4(nfe_, normal_pairs, _f64_, NF_ISA),
    .supports = supports,
    .thread_size = thread_size,
    .begin_thread = begin_thread,
    .push = push,
    .store = store,
    .pull = pull,
    .reject = reject,
    .match = match,
    .matches = matches,
    .trajectory = trajectory,
    .ode_memory = R(ode_rows_memory),
    .ode_solve = R(ode_solve_rows),
    .net_thread_size = R(net_thread_size),
    .net_push = R(net_push),
    .net_pull = R(net_pull),
    .from_double = from_double,
    .to_double = to_double,
    .finite = all_finite,
    .add_scaled = R(add_scaled),
    .norm2 = R(norm2),
    .largest = R(largest),
    .update = R(update),
    .update_overflows = R(update_overflows),
    .average = R(average),
};
