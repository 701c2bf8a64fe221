/*
 * Checkpoints of nf_fit that were edited and had their checksum made right, which the damage of tests/test_checkpoint.c never gets past. What a fit cannot go on from is
 * refused with a line that names it; from all else it goes on, and leaves the flow finite parameters. The names, their order and the sum are written out here once more: they are
 * the format, in which files of earlier versions are.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/checksum.h"
#include "core/memory.h"
#include "io/safetensors.h"
#include "support.h"

enum { ROWS = 48, DIM = 2, EPOCHS = 4, TENSORS = 7, VECTORS = 5, COUNTS = 4, LOSSES = 6, SETTINGS = 26, KEYS = SETTINGS + 4 };

/* In the order in which the sum is over them. */
static const char *const keys[KEYS] = {
    "format",           "version",           "flow",         "rows",           "validation_rows",        "epochs",         "batch_size",     "patience",
    "seed",             "objective",         "pairing",      "schedule",       "schedule_step",          "schedule_factor", "ema_decay",     "noise",
    "contamination",    "training_tolerance", "standardize", "optimizer.kind", "optimizer.learning_rate", "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon",
    "optimizer.weight_decay", "optimizer.momentum", "optimizer.clip_norm", "shards", "data", "checksum"};

static const char *const names[TENSORS] = {"parameters", "average", "best", "optimizer.m", "optimizer.v", "state.counts", "state.losses"};

static char path[300];
static double x[ROWS * DIM];

static void begin(void) {
    random_source random = random_begin(1);
    snprintf(path, sizeof path, "%s/nflow-forged-%ld", scratch_folder(), (long)getpid());
    for (size_t i = 0; i < ROWS * DIM; i++)
        x[i] = random_normal(&random) * 2.385;
}

static void end(void) { unlink(path); }

static nf_flow *flow_of(int precision) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_layers = 1, .hidden_width = 3, .seed = 5, .precision = (nf_precision)precision), &flow));
    return flow;
}

static int stop_at_second(void *user, const nf_fit_progress *progress) {
    (void)user;
    return progress->epoch == 2;
}

static nf_status fit(nf_flow *flow, const nf_optimizer_config *optimizer, nf_progress_fn progress) {
    const nf_fit_config config = {.struct_size = sizeof config, .epochs = EPOCHS, .batch_size = 16, .patience = EPOCHS, .seed = 7, .optimizer = optimizer, .checkpoint = path, .progress = progress};
    return nf_fit(flow, ROWS, x, NULL, &config, NULL);
}

/* ---- a file in parts */

typedef struct forgery {
    nf_allocator allocator;
    unsigned char *whole; /* what was read; the parts refer to it */
    nf_st_file *file;
    nf_st_tensor tensors[TENSORS];
    unsigned char *data[TENSORS]; /* copies, to be edited; a number of room more */
    const char *metadata[KEYS][2];
} forgery;

/* The checkpoint of a fit after its second epoch. */
static forgery open_forgery(int precision, const nf_optimizer_config *optimizer) {
    forgery f = {.allocator = nf_allocator_or(NULL, NULL), .whole = new_bytes(100000)};
    nf_flow *flow = flow_of(precision);
    unlink(path);
    must_be(NF_STOPPED, fit(flow, optimizer, stop_at_second));
    nf_flow_free(flow);
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    const size_t size = fread(f.whole, 1, 100000, file);
    fclose(file);
    must(nf_st_parse(&f.allocator, f.whole, size, &f.file));
    ck_assert_uint_eq(nf_st_count(f.file), TENSORS);
    for (size_t i = 0; i < TENSORS; i++) {
        const nf_st_tensor *t = nf_st_find(f.file, names[i]);
        ck_assert_msg(t != NULL, "no tensor %s", names[i]);
        f.tensors[i] = *t;
        f.data[i] = new_bytes(t->size + 8);
        memcpy(f.data[i], t->data, t->size);
        memset(f.data[i] + t->size, 0, 8);
        f.tensors[i].data = f.data[i];
    }
    for (size_t i = 0; i < KEYS; i++) {
        f.metadata[i][0] = keys[i];
        f.metadata[i][1] = nf_st_metadata(f.file, keys[i]);
        ck_assert_msg(f.metadata[i][1] != NULL, "no %s", keys[i]);
    }
    return f;
}

static void close_forgery(forgery *f) {
    for (size_t i = 0; i < TENSORS; i++)
        free(f->data[i]);
    nf_st_free(f->file);
    free(f->whole);
}

/* The file with its sum, which is over the structure, the settings and the tensors. Parts whose name is NULL are left out of the file. */
static void write_forgery(const forgery *f) {
    const char *metadata[KEYS][2];
    nf_st_tensor tensors[TENSORS];
    char digits[24];
    size_t count = 0, tensor_count = 0, size;
    unsigned char *bytes;
    uint64_t sum = 1;
    for (size_t i = 2; i < KEYS - 1; i++)
        sum = nf_mix_bytes(sum, f->metadata[i][1], strlen(f->metadata[i][1]));
    for (size_t i = 0; i < TENSORS; i++)
        sum = nf_mix_bytes(sum, f->tensors[i].data, f->tensors[i].size);
    snprintf(digits, sizeof digits, "%016" PRIx64, sum);
    for (size_t i = 0; i < KEYS; i++)
        if (f->metadata[i][0]) {
            metadata[count][0] = f->metadata[i][0];
            metadata[count++][1] = i == KEYS - 1 ? digits : f->metadata[i][1];
        }
    for (size_t i = 0; i < TENSORS; i++)
        if (f->tensors[i].name)
            tensors[tensor_count++] = f->tensors[i];
    must(nf_st_write(&f->allocator, tensors, tensor_count, (const char *const(*)[2])metadata, count, &bytes, &size));
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
    nf_release(&f->allocator, bytes);
}

/* That a fit refuses the file and leaves its flow alone. */
static void refused(const forgery *f, int precision, nf_status status, const char *says) {
    nf_flow *flow = flow_of(precision), *untouched = flow_of(precision);
    write_forgery(f);
    must_be(status, fit(flow, NULL, NULL));
    must_say("nf_fit", path);
    must_say("nf_fit", says);
    same_parameters(flow, untouched);
    nf_flow_free(flow);
    nf_flow_free(untouched);
}

/* That a fit goes on from it, and gives finite parameters whether it then diverges or not. */
static void harmless(const forgery *f, int precision, const char *what, size_t at, double value) {
    nf_flow *flow = flow_of(precision);
    write_forgery(f);
    const nf_status status = fit(flow, NULL, NULL);
    ck_assert_msg(status == NF_OK || status == NF_ERR_DIVERGED, "%s[%zu] = %g: %s", what, at, value, nf_last_error());
    double *parameters = new_parameters(flow);
    for (size_t i = 0; i < nf_parameter_count(flow); i++)
        ck_assert_msg(isfinite(parameters[i]), "%s[%zu] = %g: parameter %zu is %g", what, at, value, i, parameters[i]);
    free(parameters);
    nf_flow_free(flow);
}

/* ---- the tests, in both precisions */

/* What nothing was done to goes on: the forger's sum is the library's. */
START_TEST(a_copy_is_as_good) {
    forgery f = open_forgery(_i, NULL);
    nf_flow *flow = flow_of(_i), *copied = flow_of(_i);
    must(fit(flow, NULL, NULL));
    write_forgery(&f);
    must(fit(copied, NULL, NULL));
    same_parameters(flow, copied);
    nf_flow_free(flow);
    nf_flow_free(copied);
    close_forgery(&f);
}
END_TEST

START_TEST(other_formats_are_refused) {
    char says[100];
    forgery f = open_forgery(_i, NULL);
    const forgery whole = f;
    f.metadata[0][1] = "nflow-checkpoints";
    refused(&f, _i, NF_ERR_FORMAT, "format is nflow-checkpoints, not nflow-checkpoint");
    f = whole;
    f.metadata[1][1] = "2";
    refused(&f, _i, NF_ERR_FORMAT, "version is 2, and this library reads 1");
    for (size_t i = 0; i < KEYS; i++) {
        f = whole;
        f.metadata[i][0] = NULL;
        snprintf(says, sizeof says, i == KEYS - 1 ? "it says nothing" : "%s is missing", keys[i]);
        refused(&f, _i, NF_ERR_FORMAT, says);
    }
    f = whole;
    f.metadata[2][1] = "{}";
    refused(&f, _i, NF_ERR_MISMATCH, "a flow with another structure");
    for (size_t i = 3; i < KEYS - 1; i++) {
        f = whole;
        f.metadata[i][1] = "385";
        snprintf(says, sizeof says, i == KEYS - 2 ? "it is of other data" : ": %s is ", keys[i]);
        refused(&f, _i, NF_ERR_MISMATCH, says);
        f.metadata[i][1] = "1234567890123456789012345678901234567890"; /* one digit more than there is room for */
        snprintf(says, sizeof says, "%s is not a number", keys[i]);
        refused(&f, _i, NF_ERR_FORMAT, says);
    }
    close_forgery(&f);
}
END_TEST

START_TEST(other_tensors_are_refused) {
    char says[100];
    forgery f = open_forgery(_i, NULL);
    const forgery whole = f;
    for (size_t i = 0; i < TENSORS; i++) {
        const size_t real = f.tensors[i].size / f.tensors[i].shape[0];
        f.tensors[i].name = NULL;
        snprintf(says, sizeof says, "tensor %s is missing", names[i]);
        refused(&f, _i, NF_ERR_FORMAT, says);
        f = whole;
        snprintf(says, sizeof says, "tensor %s is not %" PRIu64 " numbers of %s", names[i], f.tensors[i].shape[0], f.tensors[i].dtype);
        f.tensors[i].rank = 2; /* as many numbers, in a column */
        f.tensors[i].shape[1] = 1;
        refused(&f, _i, NF_ERR_FORMAT, says);
        f = whole;
        f.tensors[i].rank = 0;
        f.tensors[i].size = real;
        refused(&f, _i, NF_ERR_FORMAT, says);
        f = whole;
        strcpy(f.tensors[i].dtype, real == 8 ? "I64" : "I32");
        refused(&f, _i, NF_ERR_FORMAT, says);
        f = whole;
        for (int more = -1; more <= 1; more += 2) {
            f.tensors[i].shape[0] = whole.tensors[i].shape[0] + (uint64_t)more;
            f.tensors[i].size = f.tensors[i].shape[0] * real;
            refused(&f, _i, NF_ERR_FORMAT, says);
        }
        f = whole;
    }
    close_forgery(&f);
}
END_TEST

static const double odd[] = {NAN, INFINITY, -INFINITY, 1e308, -1, 5e-324, 0, 1e19};
enum { ODD = sizeof odd / sizeof odd[0] };

/* Each number of each vector: the best parameters become the flow's, so they must be numbers. */
START_TEST(parameters_and_moments) {
    forgery f = open_forgery(_i, NULL);
    for (size_t t = 0; t < VECTORS; t++) {
        const size_t real = f.tensors[t].size / f.tensors[t].shape[0];
        for (size_t at = 0; at < f.tensors[t].shape[0]; at += at == 0 ? f.tensors[t].shape[0] - 1 : 1)
            for (size_t k = 0; k < ODD; k++) {
                unsigned char kept[8];
                const float single = (float)odd[k];
                memcpy(kept, f.data[t] + at * real, real);
                nf_le_store(f.data[t] + at * real, real == 8 ? (const void *)&odd[k] : &single, 1, (nf_precision)_i);
                if (strcmp(names[t], "best") == 0 && !isfinite(real == 8 ? odd[k] : (double)single))
                    refused(&f, _i, NF_ERR_FORMAT, "tensor best holds a number that is not finite");
                else
                    harmless(&f, _i, names[t], at, odd[k]);
                memcpy(f.data[t] + at * real, kept, real);
            }
    }
    close_forgery(&f);
}
END_TEST

/* Epochs that were run, the best of them, steps, and those of the optimizer. */
START_TEST(counts_of_epochs_and_steps) {
    static const uint64_t values[] = {0, 1, 2, 3, EPOCHS, EPOCHS + 1, UINT64_C(1) << 32, UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX};
    forgery f = open_forgery(_i, NULL);
    for (size_t at = 0; at < COUNTS; at++)
        for (size_t k = 0; k < sizeof values / sizeof values[0]; k++) {
            uint64_t counts[COUNTS];
            char says[100];
            nf_le_load_u64(counts, f.data[VECTORS], COUNTS);
            const uint64_t kept = counts[at];
            ck_assert(counts[0] == 2 && counts[1] <= 2 && counts[2] == 6 && counts[3] == 6);
            counts[at] = values[k];
            nf_le_store_u64(f.data[VECTORS] + at * 8, &values[k], 1);
            snprintf(says, sizeof says, "tensor state.counts: epoch %" PRIu64 " of 4, the best %" PRIu64, counts[0], counts[1]);
            if (counts[0] > EPOCHS || counts[1] > counts[0] || counts[2] > SIZE_MAX)
                refused(&f, _i, NF_ERR_FORMAT, says);
            else
                harmless(&f, _i, "state.counts", at, (double)values[k]);
            nf_le_store_u64(f.data[VECTORS] + at * 8, &kept, 1);
        }
    close_forgery(&f);
}
END_TEST

START_TEST(losses) {
    forgery f = open_forgery(_i, NULL);
    for (size_t at = 0; at < LOSSES; at++)
        for (size_t k = 0; k < ODD; k++) {
            unsigned char kept[8];
            memcpy(kept, f.data[VECTORS + 1] + at * 8, 8);
            nf_le_store_f64(f.data[VECTORS + 1] + at * 8, &odd[k], 1);
            harmless(&f, _i, "state.losses", at, odd[k]);
            memcpy(f.data[VECTORS + 1] + at * 8, kept, 8);
        }
    close_forgery(&f);
}
END_TEST

/* The bound on the moments is not in the file, but follows from them: a step that would overflow is seen before it is taken. */
START_TEST(moments_are_measured) {
    const nf_optimizer_config eager = {.struct_size = sizeof eager, .kind = NF_SGD, .learning_rate = 1e-13, .momentum = 64};
    forgery f = open_forgery(_i, &eager);
    const size_t real = f.tensors[3].size / f.tensors[3].shape[0];
    const double largest = 1e308;
    const float single = 3e38F;
    nf_flow *flow = flow_of(_i);
    nf_le_store(f.data[3] + real, real == 8 ? (const void *)&largest : &single, 1, (nf_precision)_i);
    write_forgery(&f);
    must_be(NF_ERR_DIVERGED, fit(flow, &eager, NULL));
    must_say("nf_fit", "which was not taken");
    nf_flow_free(flow);
    close_forgery(&f);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("forged checkpoints");
    TCase *forged = tcase_create("forged");
    tcase_set_timeout(forged, 120);
    tcase_add_checked_fixture(forged, begin, end);
    tcase_add_loop_test(forged, a_copy_is_as_good, 0, 2);
    tcase_add_loop_test(forged, other_formats_are_refused, 0, 2);
    tcase_add_loop_test(forged, other_tensors_are_refused, 0, 2);
    tcase_add_loop_test(forged, parameters_and_moments, 0, 2);
    tcase_add_loop_test(forged, counts_of_epochs_and_steps, 0, 2);
    tcase_add_loop_test(forged, losses, 0, 2);
    tcase_add_loop_test(forged, moments_are_measured, 0, 2);
    suite_add_tcase(suite, forged);
    return run_suite(suite);
}
