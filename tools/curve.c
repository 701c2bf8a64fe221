/* Losses in memory and in their file. */
#include "curve.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "safetensors.h"
#include "tool.h"

enum { MOST_POINTS = 400, COUNTS = 4, LOSSES = 6 };

static void remember(curve *c, curve_epoch epoch) {
    if (c->count == c->room) {
        c->room = c->room ? 2 * c->room : 512;
        c->epochs = realloc(c->epochs, c->room * sizeof *c->epochs);
        if (!c->epochs)
            die("no memory for the training curve");
    }
    c->epochs[c->count++] = epoch;
}

/* ---- The file: an epoch a line, with all digits */

static bool put(const curve *c, const curve_epoch *e) { return fprintf(c->file, "%zu %.17g %.17g\n", e->epoch, e->train, e->validation) > 0; }

/* What is there of epochs 1, 2, .. in order, till before `end`; the last line may be half a line. */
static void recall(curve *c, size_t end) {
    FILE *file = fopen(c->path, "r");
    char line[100];
    curve_epoch e;
    while (file && c->count + 1 < end && fgets(line, sizeof line, file) && strchr(line, '\n') &&
           sscanf(line, "%zu %lf %lf", &e.epoch, &e.train, &e.validation) == 3 && e.epoch == c->count + 1)
        remember(c, e);
    if (file)
        fclose(file);
}

/* A new file with what is known, in the place of the old one. */
static void begin_file(curve *c) {
    char *fresh = new_text("%s.new", c->path);
    c->file = fopen(fresh, "w");
    bool good = c->file != NULL;
    for (size_t i = 0; good && i < c->count; i++)
        good = put(c, &c->epochs[i]);
    if (!good || fflush(c->file) != 0 || rename(fresh, c->path) != 0)
        die("%s: %s", fresh, strerror(errno));
    free(fresh);
}

/* ---- The checkpoint, as src/api/checkpoint.c writes it */

/* Where `count` words of a tensor begin; NULL when it is not there. */
static const unsigned char *tensor_of(const json_t *header, const char *name, size_t count, const unsigned char *data, size_t size) {
    const json_t *offsets = json_object_get(json_object_get(header, name), "data_offsets");
    const json_int_t begin = json_integer_value(json_array_get(offsets, 0)), end = json_integer_value(json_array_get(offsets, 1));
    if (json_array_size(offsets) != 2 || begin < 0 || end < begin || (uint64_t)end > size || (uint64_t)(end - begin) != count * sizeof(uint64_t))
        return NULL;
    return data + begin;
}

static double loss_of(const unsigned char *bytes) {
    const uint64_t word = safetensors_word(bytes);
    double value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* Its last epoch, 0 when it has none or is no checkpoint: nf_fit will say so. */
static curve_epoch last_epoch(const char *checkpoint) {
    curve_epoch last = {0};
    size_t size;
    unsigned char *bytes = read_model_file(checkpoint, &size);
    const uint64_t length = size < SAFETENSORS_LENGTH ? 0 : safetensors_length(bytes);
    if (size >= SAFETENSORS_LENGTH && length <= size - SAFETENSORS_LENGTH) {
        const unsigned char *data = bytes + SAFETENSORS_LENGTH + length;
        const size_t left = size - SAFETENSORS_LENGTH - (size_t)length;
        json_t *header = json_loadb((const char *)bytes + SAFETENSORS_LENGTH, (size_t)length, 0, NULL);
        const unsigned char *counts = tensor_of(header, "state.counts", COUNTS, data, left),
                            *losses = tensor_of(header, "state.losses", LOSSES, data, left);
        if (counts && losses) /* epochs run; best, training, held-out loss */
            last = (curve_epoch){(size_t)safetensors_word(counts), loss_of(losses + 8), loss_of(losses + 16)};
        json_decref(header);
    }
    free(bytes);
    return last;
}

/* ---- The curve */

void curve_begin(curve *c, const char *checkpoint) {
    *c = (curve){0};
    if (!checkpoint)
        return;
    c->path = new_text("%s.curve", checkpoint);
    if (access(checkpoint, F_OK) == 0) {
        const curve_epoch last = last_epoch(checkpoint);
        recall(c, last.epoch);
        if (c->count + 1 < last.epoch)
            note("%s: the losses of the epochs %zu to %zu are not there, and will be missing in the training curve", c->path, c->count + 1,
                 last.epoch - 1);
        if (last.epoch > 0)
            remember(c, last);
    }
    begin_file(c);
}

void curve_add(curve *c, size_t epoch, double train, double validation) {
    remember(c, (curve_epoch){epoch, train, validation});
    if (c->file && (!put(c, &c->epochs[c->count - 1]) || fflush(c->file) != 0))
        die("%s: %s", c->path, strerror(errno));
}

void curve_end(curve *c, bool done) {
    if (c->file)
        fclose(c->file);
    if (c->path && done)
        unlink(c->path);
    free(c->path);
    free(c->epochs);
    *c = (curve){0};
}

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

json_t *curve_json(const curve *c, double offset) {
    json_t *all = json_object(), *epoch = json_array(), *train = json_array(), *validation = json_array();
    const size_t points = c->count < MOST_POINTS ? c->count : MOST_POINTS;
    for (size_t i = 0; i < points; i++) {
        const curve_epoch *e = &c->epochs[points > 1 ? i * (c->count - 1) / (points - 1) : 0];
        json_array_append_new(epoch, json_integer((json_int_t)e->epoch));
        json_array_append_new(train, number(e->train + offset));
        json_array_append_new(validation, number(e->validation + offset));
    }
    json_object_set_new(all, "epoch", epoch);
    json_object_set_new(all, "train", train);
    json_object_set_new(all, "validation", validation);
    return all;
}
