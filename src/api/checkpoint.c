/*
 * Checkpoints of nf_fit. Whatever the rest of a fit depends on is in one safetensors file: the parameters, their average, the best ones and the
 * optimizer's moments as tensors, the counters and losses as two more, and, as metadata, the flow's structure and every setting that the bits
 * depend on. The order of the rows, the split and the noise are functions of the seed and the epoch, so the generator's position is the epoch.
 *
 * A checksum in the metadata covers all of it. It is there against damage, not against malice: a forged file is safe to read, and trains another fit.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "api/disk.h"
#include "api/fit.h"
#include "core/checksum.h"
#include "io/json_text.h"
#include "io/safetensors.h"
#include "io/schema.h"

#define FORMAT_NAME "nflow-checkpoint"
#define FORMAT_VERSION "1"

enum { VECTORS = 5, COUNTS = 4, REALS = 6, MOST_SETTINGS = 32, MOST_DIGITS = 40 };

static const char *const vector_names[VECTORS] = {"parameters", "average", "best", "optimizer.m", "optimizer.v"};

typedef struct setting {
    const char *name;
    char value[MOST_DIGITS];
} setting;

struct nf_checkpoint {
    char *flow; /* its structure, as JSON */
    setting settings[MOST_SETTINGS];
    size_t setting_count;
    bool failed; /* no memory for a number's digits */
};

/* ---- the settings that the bits of a fit depend on; all values as text ---- */

static char *next_setting(nf_checkpoint *c, const char *name) {
    setting *s = &c->settings[c->setting_count++];
    s->name = name;
    s->value[0] = '\0';
    return s->value;
}

static void set_count(nf_checkpoint *c, const char *name, uint64_t value) { snprintf(next_setting(c, name), MOST_DIGITS, "%" PRIu64, value); }

/* Whose numbers have a point whatever the locale, and are rounded alike in any mode. */
static void set_real(nf_checkpoint *c, const char *name, double value) {
    char *digits = next_setting(c, name);
    json_t *number = json_real(value);
    const size_t used = number ? nf_json_write(number, digits, MOST_DIGITS - 1, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17)) : 0;
    json_decref(number);
    c->failed = c->failed || used == 0 || used >= MOST_DIGITS;
    digits[used < MOST_DIGITS ? used : 0] = '\0';
}

static void describe(const nf_fitting *f, nf_checkpoint *c) {
    const nf_fit_config *config = &f->config;
    const engine_update *u = &f->optimizer->update;
    set_count(c, "rows", f->data.total);
    set_count(c, "validation_rows", f->validation_rows);
    set_count(c, "epochs", config->epochs);
    set_count(c, "batch_size", config->batch_size);
    set_count(c, "patience", config->patience);
    set_count(c, "seed", config->seed);
    set_count(c, "objective", (uint64_t)config->objective);
    set_count(c, "pairing", (uint64_t)config->pairing);
    set_count(c, "schedule", (uint64_t)config->schedule);
    set_count(c, "schedule_step", config->schedule_step);
    set_real(c, "schedule_factor", config->schedule_factor);
    set_real(c, "ema_decay", config->ema_decay);
    set_real(c, "noise", config->noise);
    set_real(c, "contamination", config->contamination);
    set_real(c, "training_tolerance", config->training_tolerance);
    set_count(c, "standardize", config->standardize >= 0);
    set_count(c, "optimizer.kind", (uint64_t)u->kind);
    set_real(c, "optimizer.learning_rate", f->base_rate);
    set_real(c, "optimizer.beta1", u->beta1);
    set_real(c, "optimizer.beta2", u->beta2);
    set_real(c, "optimizer.epsilon", u->epsilon);
    set_real(c, "optimizer.weight_decay", u->weight_decay);
    set_real(c, "optimizer.momentum", u->momentum);
    set_real(c, "optimizer.clip_norm", f->optimizer->clip_norm);
    set_count(c, "shards", f->ranks.shards);
    set_count(c, "data", f->data_sum);
}

/* ---- the fit as numbers ---- */

static void vectors_of(const nf_fitting *f, void *out[VECTORS]) {
    out[0] = f->flow->theta;
    out[1] = f->average;
    out[2] = f->best;
    out[3] = f->optimizer->m;
    out[4] = f->optimizer->v;
}

/*
 * Of the reals the norm is there for whoever looks into the file, since an epoch begins with none of the last one's; the rate is what progress is told of an epoch that
 * makes no step.
 */
static void state_of(const nf_fitting *f, uint64_t counts[COUNTS], double reals[REALS]) {
    counts[0] = f->report.epochs_run;
    counts[1] = f->report.best_epoch;
    counts[2] = f->report.steps;
    counts[3] = f->optimizer->steps;
    reals[0] = f->best_loss;
    reals[1] = f->report.train_loss;
    reals[2] = f->report.validation_loss;
    reals[3] = f->last_norm;
    reals[4] = f->optimizer->update.rate;
    reals[5] = f->report.rhs_evaluations;
}

/* After the vectors. */
static void take_state(nf_fitting *f, const uint64_t counts[COUNTS], const double reals[REALS]) {
    f->first_epoch = f->report.epochs_run = (size_t)counts[0];
    f->report.best_epoch = (size_t)counts[1];
    f->report.steps = (size_t)counts[2];
    f->optimizer->steps = counts[3];
    f->best_loss = reals[0];
    f->report.train_loss = reals[1];
    f->report.validation_loss = reals[2];
    f->last_norm = reals[3];
    f->optimizer->update.rate = reals[4];
    f->report.rhs_evaluations = reals[5];
    f->optimizer->most_moment = f->flow->engine->largest(f->optimizer->m, f->optimizer->count);
}

/* All tensors of a checkpoint, vectors first; without data. */
static void tensor_table(const nf_fitting *f, nf_st_tensor table[VECTORS + 2]) {
    const size_t count = f->flow->model.parameter_count;
    memset(table, 0, (VECTORS + 2) * sizeof *table);
    for (size_t i = 0; i < VECTORS; i++) {
        table[i] = (nf_st_tensor){.name = vector_names[i], .rank = 1, .shape = {count}, .size = count * f->flow->engine->real_size};
        strcpy(table[i].dtype, nf_st_dtype(f->flow->engine->precision));
    }
    table[VECTORS] = (nf_st_tensor){.name = "state.counts", .dtype = "U64", .rank = 1, .shape = {COUNTS}, .size = COUNTS * sizeof(uint64_t)};
    table[VECTORS + 1] = (nf_st_tensor){.name = "state.losses", .dtype = "F64", .rank = 1, .shape = {REALS}, .size = REALS * sizeof(double)};
}

static uint64_t file_sum(const nf_checkpoint *c, const nf_st_tensor table[VECTORS + 2]) {
    uint64_t sum = nf_mix_bytes(1, c->flow, strlen(c->flow));
    for (size_t i = 0; i < c->setting_count; i++)
        sum = nf_mix_bytes(sum, c->settings[i].value, strlen(c->settings[i].value));
    for (size_t i = 0; i < VECTORS + 2; i++)
        sum = nf_mix_bytes(sum, table[i].data, table[i].size);
    return sum;
}

/* ---- writing ---- */

static nf_status write_table(nf_fitting *f, const nf_st_tensor table[VECTORS + 2]) {
    const nf_checkpoint *c = f->checkpoint;
    const char *metadata[MOST_SETTINGS + 4][2] = {{"format", FORMAT_NAME}, {"version", FORMAT_VERSION}, {"flow", c->flow}};
    char digits[24];
    unsigned char *bytes = NULL;
    size_t size = 0, count = 3;
    snprintf(digits, sizeof digits, "%016" PRIx64, file_sum(c, table));
    for (size_t i = 0; i < c->setting_count; i++, count++) {
        metadata[count][0] = c->settings[i].name;
        metadata[count][1] = c->settings[i].value;
    }
    metadata[count][0] = "checksum";
    metadata[count++][1] = digits;
    nf_status status = nf_st_write(&f->allocator, table, VECTORS + 2, (const char *const(*)[2])metadata, count, &bytes, &size);
    if (status == NF_OK)
        status = nf_save_atomic(f->config.checkpoint, &f->allocator, bytes, size);
    nf_release(&f->allocator, bytes);
    return status;
}

nf_status nf_checkpoint_write(nf_fitting *f) {
    nf_st_tensor table[VECTORS + 2];
    void *vectors[VECTORS];
    uint64_t counts[COUNTS];
    double reals[REALS];
    unsigned char count_bytes[sizeof counts], real_bytes[sizeof reals];
    tensor_table(f, table);
    vectors_of(f, vectors);
    state_of(f, counts, reals);
    nf_le_store_u64(count_bytes, counts, COUNTS);
    nf_le_store_f64(real_bytes, reals, REALS);
    unsigned char *bytes = nf_allocate(&f->allocator, VECTORS * table[0].size);
    if (!bytes)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for a checkpoint of %zu parameters", f->flow->model.parameter_count);
    for (size_t i = 0; i < VECTORS; i++) {
        table[i].data = bytes + i * table[0].size;
        nf_le_store(bytes + i * table[0].size, vectors[i], f->flow->model.parameter_count, f->flow->engine->precision);
    }
    table[VECTORS].data = count_bytes;
    table[VECTORS + 1].data = real_bytes;
    const nf_status status = write_table(f, table);
    nf_release(&f->allocator, bytes);
    return status == NF_OK ? NF_OK : nf_fail_in(status, f->function);
}

/* ---- reading ---- */

/* The file's metadata in place of this fit's, so that the sum over what was written can be taken again. */
static nf_status read_settings(const nf_st_file *file, const nf_checkpoint *own, nf_checkpoint *found) {
    const char *format = nf_st_metadata(file, "format"), *version = nf_st_metadata(file, "version"), *flow = nf_st_metadata(file, "flow");
    if (!format || strcmp(format, FORMAT_NAME) != 0)
        return nf_fail(NF_ERR_FORMAT, NULL, "__metadata__: format is %.40s, not " FORMAT_NAME, format ? format : "missing");
    if (!version || strcmp(version, FORMAT_VERSION) != 0)
        return nf_fail(NF_ERR_FORMAT, NULL, "__metadata__: version is %.40s, and this library reads " FORMAT_VERSION, version ? version : "missing");
    if (!flow)
        return nf_fail(NF_ERR_FORMAT, NULL, "__metadata__: flow is missing");
    *found = *own;
    found->flow = (char *)(uintptr_t)flow; /* only read */
    for (size_t i = 0; i < own->setting_count; i++) {
        const char *value = nf_st_metadata(file, own->settings[i].name);
        if (!value || strlen(value) >= MOST_DIGITS)
            return nf_fail(NF_ERR_FORMAT, NULL, "__metadata__: %s is %s", own->settings[i].name, value ? "not a number" : "missing");
        strcpy(found->settings[i].value, value);
    }
    return NF_OK;
}

/* Vectors are compared with the flow only when the structures agree: until then any length will do. */
static nf_status find_tensors(const nf_st_file *file, const nf_st_tensor wanted[VECTORS + 2], nf_st_tensor found[VECTORS + 2]) {
    for (size_t i = 0; i < VECTORS + 2; i++) {
        const nf_st_tensor *t = nf_st_find(file, wanted[i].name);
        if (!t)
            return nf_fail(NF_ERR_FORMAT, NULL, "tensor %s is missing", wanted[i].name);
        found[i] = *t;
    }
    return NF_OK;
}

static nf_status check_sum(const nf_st_file *file, const nf_checkpoint *found, const nf_st_tensor tensors[VECTORS + 2]) {
    const char *said = nf_st_metadata(file, "checksum");
    char digits[24];
    snprintf(digits, sizeof digits, "%016" PRIx64, file_sum(found, tensors));
    if (said && strcmp(said, digits) == 0)
        return NF_OK;
    return nf_fail(NF_ERR_FORMAT, NULL, "its checksum is %s, and it says %.16s: the file is damaged", digits, said ? said : "nothing");
}

static nf_status check_same(const nf_checkpoint *own, const nf_checkpoint *found) {
    if (strcmp(own->flow, found->flow) != 0)
        return nf_fail(NF_ERR_MISMATCH, NULL, "it is of a flow with another structure, to which random masks and the seed of continuous layers belong");
    for (size_t i = 0; i < own->setting_count; i++) {
        const setting *o = &own->settings[i], *t = &found->settings[i];
        if (strcmp(o->value, t->value) == 0)
            continue;
        if (strcmp(o->name, "data") == 0)
            return nf_fail(NF_ERR_MISMATCH, NULL, "it is of other data: x, context, weights or held-out rows differ");
        return nf_fail(NF_ERR_MISMATCH, NULL, "%s is %s, and there it is %s", o->name, o->value, t->value);
    }
    return NF_OK;
}

static nf_status check_tensors(const nf_st_tensor wanted[VECTORS + 2], const nf_st_tensor found[VECTORS + 2]) {
    for (size_t i = 0; i < VECTORS + 2; i++)
        if (found[i].rank != 1 || found[i].shape[0] != wanted[i].shape[0] || strcmp(found[i].dtype, wanted[i].dtype) != 0)
            return nf_fail(NF_ERR_FORMAT, NULL, "tensor %s is not %" PRIu64 " numbers of %s", wanted[i].name, wanted[i].shape[0], wanted[i].dtype);
    return NF_OK;
}

/* The best parameters become the flow's, so they are numbers; what training went through may be not. */
static nf_status check_state(const nf_fitting *f, const uint64_t counts[COUNTS], const void *best) {
    if (counts[0] > f->config.epochs || counts[1] > counts[0] || counts[2] > SIZE_MAX)
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor state.counts: epoch %" PRIu64 " of %zu, the best %" PRIu64, counts[0], f->config.epochs, counts[1]);
    if (!f->flow->engine->finite(best, f->flow->model.parameter_count))
        return nf_fail(NF_ERR_FORMAT, NULL, "tensor best holds a number that is not finite");
    return NF_OK;
}

static nf_status take_tensors(nf_fitting *f, const nf_st_tensor found[VECTORS + 2]) {
    const size_t count = f->flow->model.parameter_count;
    const nf_precision precision = f->flow->engine->precision;
    void *vectors[VECTORS];
    uint64_t counts[COUNTS];
    double reals[REALS];
    vectors_of(f, vectors);
    nf_le_load_u64(counts, found[VECTORS].data, COUNTS);
    nf_le_load_f64(reals, found[VECTORS + 1].data, REALS);
    nf_le_load(f->best, found[2].data, count, precision);
    nf_status status = check_state(f, counts, f->best);
    if (status != NF_OK)
        return status;
    for (size_t i = 0; i < VECTORS; i++)
        nf_le_load(vectors[i], found[i].data, count, precision);
    take_state(f, counts, reals);
    f->flow->epoch = nf_unique();
    return NF_OK;
}

static nf_status read_file(nf_fitting *f, const nf_st_file *file) {
    nf_checkpoint found;
    nf_st_tensor wanted[VECTORS + 2], tensors[VECTORS + 2];
    tensor_table(f, wanted);
    nf_status status = read_settings(file, f->checkpoint, &found);
    if (status == NF_OK)
        status = find_tensors(file, wanted, tensors);
    if (status == NF_OK)
        status = check_sum(file, &found, tensors);
    if (status == NF_OK)
        status = check_same(f->checkpoint, &found);
    if (status == NF_OK)
        status = check_tensors(wanted, tensors);
    return status == NF_OK ? take_tensors(f, tensors) : status;
}

/* Messages about what is in a file begin with its name. */
static nf_status in_file(nf_status status, const nf_fitting *f) {
    if (status != NF_ERR_FORMAT && status != NF_ERR_MISMATCH)
        return status;
    char line[NF_ERROR_LENGTH];
    snprintf(line, sizeof line, "%s", nf_last_error());
    return nf_fail(status, NULL, "checkpoint %.200s: %s", f->config.checkpoint, line);
}

static nf_status resume(nf_fitting *f) {
    unsigned char *bytes = NULL;
    size_t size = 0;
    bool absent = false;
    nf_st_file *file = NULL;
    nf_status status = nf_read_file(f->config.checkpoint, &f->allocator, &bytes, &size, &absent);
    if (status == NF_OK && absent)
        return nf_checkpoint_write(f);
    if (status == NF_OK)
        status = nf_st_parse(&f->allocator, bytes, size, &file);
    if (status == NF_OK)
        status = read_file(f, file);
    nf_st_free(file);
    nf_release(&f->allocator, bytes);
    return status == NF_OK ? NF_OK : nf_fail_in(in_file(status, f), f->function);
}

nf_status nf_checkpoint_begin(nf_fitting *f) {
    nf_checkpoint *c = nf_allocate_zeroed(&f->allocator, sizeof *c);
    if (!c)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for a checkpoint");
    f->checkpoint = c;
    nf_status status = nf_schema_write(&f->flow->model, f->flow->engine->precision, &f->allocator, &c->flow);
    if (status != NF_OK)
        return nf_fail_in(status, f->function);
    describe(f, c);
    if (c->failed)
        return nf_fail(NF_ERR_MEMORY, f->function, "no memory for the settings of a checkpoint");
    return resume(f);
}

nf_status nf_checkpoint_share(nf_fitting *f) {
    void *vectors[VECTORS];
    uint64_t counts[COUNTS];
    double reals[REALS];
    nf_status status = NF_OK;
    vectors_of(f, vectors);
    state_of(f, counts, reals);
    for (size_t i = 0; status == NF_OK && i < VECTORS; i++)
        status = nf_ranks_broadcast(&f->ranks, vectors[i], f->flow->model.parameter_count * f->flow->engine->real_size, 0);
    if (status == NF_OK)
        status = nf_ranks_broadcast(&f->ranks, counts, sizeof counts, 0);
    if (status == NF_OK)
        status = nf_ranks_broadcast(&f->ranks, reals, sizeof reals, 0);
    if (status == NF_OK && f->ranks.rank > 0) {
        take_state(f, counts, reals);
        f->flow->epoch = nf_unique();
    }
    return status;
}

void nf_checkpoint_end(nf_fitting *f) {
    if (!f->checkpoint)
        return;
    nf_release(&f->allocator, f->checkpoint->flow);
    nf_release(&f->allocator, f->checkpoint);
    f->checkpoint = NULL;
}
