/*
 * Checkpoints of nf_fit: a fit that was stopped or killed and taken up again ends with the bits of one that was not, on other threads too; the checkpoint of
 * another fit is refused with the setting that differs, and a damaged one as what it is.
 */
#define _XOPEN_SOURCE 700
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

enum { ROWS = 300, DIM = 2, EPOCHS = 6 };

static char path[300];

static void set_path(void) {
    snprintf(path, sizeof path, "%s/nflow-checkpoint-%ld", scratch_folder(), (long)getpid());
    unlink(path);
}

static void drop_path(void) { unlink(path); }

static void *read_bytes(size_t *size) {
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *bytes = new_bytes(*size);
    ck_assert_uint_eq(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static void write_bytes(const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static bool exists(void) { return access(path, F_OK) == 0; }

static double *new_rows(uint64_t stream) {
    random_source random = random_begin(stream);
    return new_normals(&random, ROWS * DIM, 2.385);
}

/* Of several kinds of fits: everything that has state is on in the first. */
enum { KINDS = 5 };

static nf_flow *flow_of(int kind) {
    nf_flow *flow;
    if (kind >= 3)
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_layers = 1, .hidden_width = 4, .seed = 3, .rtol = kind == 4 ? 1e-4 : 0), &flow));
    else
        must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_layers = 1, .hidden_width = 6, .seed = 5,
                                         .precision = kind == 1 ? NF_SINGLE : NF_DOUBLE),
                               &flow));
    return flow;
}

static const nf_optimizer_config momentum = {.struct_size = sizeof momentum, .kind = NF_SGD, .learning_rate = 1e-3, .momentum = 0.85};

static nf_fit_config config_of(int kind) {
    nf_fit_config config = {.struct_size = sizeof config, .epochs = EPOCHS, .batch_size = 64, .seed = 11, .threads = 1};
    if (kind == 2) {
        config.optimizer = &momentum;
        config.schedule = NF_SCHEDULE_STEP;
        config.ema_decay = -1;
        config.validation_fraction = -1;
    }
    if (kind == 3) {
        config.objective = NF_OBJECTIVE_FLOW_MATCHING;
        config.validation_fraction = 0.2;
    }
    return config;
}

/* One that runs all its epochs, whatever the rows. */
static nf_fit_config patient(int kind) {
    nf_fit_config config = config_of(kind);
    config.patience = EPOCHS;
    return config;
}

typedef struct outcome {
    double *parameters;
    size_t count;
    nf_fit_report report;
} outcome;

static outcome outcome_of(nf_flow *flow, const nf_fit_report *report) {
    outcome o = {.count = nf_parameter_count(flow), .report = *report};
    o.parameters = new_numbers(o.count);
    must(nf_get_parameters(flow, o.parameters));
    nf_flow_free(flow);
    return o;
}

static void same_outcome(const outcome *a, const outcome *b) {
    same_bits("parameters", a->parameters, b->parameters, a->count);
    same_bits("train loss", &a->report.train_loss, &b->report.train_loss, 1);
    same_bits("validation loss", &a->report.validation_loss, &b->report.validation_loss, 1);
    same_bits("best loss", &a->report.best_loss, &b->report.best_loss, 1);
    ck_assert_uint_eq(a->report.epochs_run, b->report.epochs_run);
    ck_assert_uint_eq(a->report.best_epoch, b->report.best_epoch);
    ck_assert_uint_eq(a->report.steps, b->report.steps);
    same_bits("evaluations", &a->report.rhs_evaluations, &b->report.rhs_evaluations, 1);
    ck_assert_int_eq(a->report.stop_reason, b->report.stop_reason);
}

static outcome run(int kind, const nf_fit_config *config, const double *x) {
    nf_flow *flow = flow_of(kind);
    nf_fit_report report = {.struct_size = sizeof report};
    must(nf_fit(flow, ROWS, x, NULL, config, &report));
    return outcome_of(flow, &report);
}

static int stop_at(void *user, const nf_fit_progress *progress) { return progress->epoch == *(size_t *)user; }

static int kill_at(void *user, const nf_fit_progress *progress) {
    if (progress->epoch == *(size_t *)user)
        kill(getpid(), SIGKILL);
    return 0;
}

static int count_calls(void *user, const nf_fit_progress *progress) {
    (void)progress;
    ++*(size_t *)user;
    return 0;
}

static nf_status give_rows(void *user, size_t count, const size_t *row, double *x, double *context) {
    (void)context;
    for (size_t i = 0; i < count; i++)
        memcpy(x + i * DIM, (const double *)user + row[i] * DIM, DIM * sizeof *x);
    return NF_OK;
}

/* ---- the same bits ---- */

START_TEST(a_stopped_fit_resumes_to_the_same_bits) {
    double *x = new_rows(1);
    nf_fit_config config = patient(_i);
    outcome whole = run(_i, &config, x);
    for (size_t every = 1; every <= 4; every += 3)
        for (size_t epoch = 1; epoch <= EPOCHS; epoch++) {
            set_path();
            config = patient(_i);
            config.checkpoint = path;
            config.checkpoint_every = every;
            config.progress = stop_at;
            config.progress_user = &epoch;
            nf_flow *flow = flow_of(_i);
            must_be(NF_STOPPED, nf_fit(flow, ROWS, x, NULL, &config, NULL));
            nf_flow_free(flow);
            size_t calls = 0;
            config.progress = count_calls;
            config.progress_user = &calls;
            config.threads = 3;
            outcome resumed = run(_i, &config, x);
            same_outcome(&resumed, &whole);
            ck_assert_uint_eq(calls, EPOCHS - epoch);
            free(resumed.parameters);
            /* Now the fit is over, and stays so. */
            calls = 0;
            outcome again = run(_i, &config, x);
            same_outcome(&again, &whole);
            ck_assert_uint_eq(calls, 0);
            free(again.parameters);
            drop_path();
        }
    free(whole.parameters);
    free(x);
}
END_TEST

START_TEST(a_killed_fit_resumes_to_the_same_bits) {
    double *x = new_rows(1);
    nf_fit_config config = patient(_i);
    outcome whole = run(_i, &config, x);
    for (size_t epoch = 1; epoch <= EPOCHS; epoch++)
        for (size_t every = 1; every <= 2; every++) {
            set_path();
            config = patient(_i);
            config.checkpoint = path;
            config.checkpoint_every = every;
            config.progress = kill_at;
            config.progress_user = &epoch;
            const pid_t child = fork();
            ck_assert_int_ge(child, 0);
            if (child == 0) {
                nf_fit(flow_of(_i), ROWS, x, NULL, &config, NULL);
                _exit(0); /* not reached: the callback kills */
            }
            int status;
            ck_assert_int_eq(waitpid(child, &status, 0), child);
            ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            size_t calls = 0;
            config.progress = count_calls;
            config.progress_user = &calls;
            config.threads = 2;
            outcome resumed = run(_i, &config, x);
            same_outcome(&resumed, &whole);
            ck_assert_uint_eq(calls, EPOCHS - (epoch == EPOCHS ? EPOCHS : epoch / every * every));
            free(resumed.parameters);
            drop_path();
        }
    free(whole.parameters);
    free(x);
}
END_TEST

/* The file is a function of the fit: a way with stops ends with the bytes of the way without. */
START_TEST(the_last_checkpoint_has_the_same_bytes) {
    double *x = new_rows(1);
    nf_fit_config config = config_of(0);
    size_t size, other_size, epoch = 2;
    set_path();
    config.checkpoint = path;
    outcome whole = run(0, &config, x);
    void *bytes = read_bytes(&size), *other;
    unlink(path);
    config.progress = stop_at;
    config.progress_user = &epoch;
    nf_flow *flow = flow_of(0);
    must_be(NF_STOPPED, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    nf_flow_free(flow);
    config.progress = NULL;
    outcome resumed = run(0, &config, x);
    other = read_bytes(&other_size);
    ck_assert_uint_eq(size, other_size);
    ck_assert_mem_eq(bytes, other, size);
    free(bytes);
    free(other);
    free(whole.parameters);
    free(resumed.parameters);
    free(x);
    drop_path();
}
END_TEST

/* A fit of the first kind that leaves its checkpoint after an epoch. */
static void stop_after(const nf_fit_config *config, const double *x, size_t *epoch) {
    nf_fit_config stopping = *config;
    nf_flow *flow = flow_of(0);
    stopping.progress = stop_at;
    stopping.progress_user = epoch;
    must_be(NF_STOPPED, nf_fit(flow, ROWS, x, NULL, &stopping, NULL));
    nf_flow_free(flow);
}

/* A patience that ends the fit is kept through a stop in the epoch before, in the very one, and after the end. */
START_TEST(patience_is_part_of_the_state) {
    double *x = new_rows(1);
    /* A rate that spoils the held-out loss from the first epoch on. */
    const nf_optimizer_config wild = {.struct_size = sizeof wild, .kind = NF_ADAM, .learning_rate = 0.3};
    nf_fit_config config = config_of(0);
    config.epochs = 40;
    config.patience = 3;
    config.optimizer = &wild;
    config.schedule = NF_SCHEDULE_CONSTANT;
    outcome whole = run(0, &config, x);
    ck_assert_msg(whole.report.stop_reason == NF_STOP_PATIENCE, "the fit was not ended by its patience (seed %llu)", (unsigned long long)test_seed());
    const size_t last = whole.report.epochs_run;
    for (size_t epoch = last - 1; epoch <= last; epoch++) {
        set_path();
        config.checkpoint = path;
        stop_after(&config, x, &epoch);
        for (int again = 0; again < 2; again++) {
            outcome resumed = run(0, &config, x);
            same_outcome(&resumed, &whole);
            free(resumed.parameters);
        }
        drop_path();
    }
    free(whole.parameters);
    free(x);
}
END_TEST

/* A held-out row that counts, and that the flow cannot map: no loss is known, and patience counts the epochs all the same. */
START_TEST(no_held_out_loss_is_part_of_the_state) {
    double *x = new_rows(1), far[] = {1e300, 1.0};
    nf_fit_config config = config_of(0);
    config.epochs = 12;
    config.patience = 6;
    config.validation_rows = 1;
    config.validation_x = far;
    outcome whole = run(0, &config, x);
    ck_assert(isnan(whole.report.validation_loss) && whole.report.epochs_run == 6 && whole.report.best_epoch == 0);
    for (size_t epoch = 3; epoch <= 6; epoch += 3) {
        set_path();
        config.checkpoint = path;
        stop_after(&config, x, &epoch);
        outcome resumed = run(0, &config, x);
        same_outcome(&resumed, &whole);
        free(resumed.parameters);
        config.checkpoint = NULL;
        drop_path();
    }
    free(whole.parameters);
    free(x);
}
END_TEST

/* The flow that resumes may have any parameters: those of the file hold. */
START_TEST(parameters_come_from_the_file) {
    double *x = new_rows(1);
    nf_fit_config config = config_of(0);
    set_path();
    config.checkpoint = path;
    outcome whole = run(0, &config, x);
    nf_flow *flow = flow_of(0);
    random_source random = random_begin(8);
    randomize(flow, &random, 0.385);
    nf_fit_report report = {.struct_size = sizeof report};
    must(nf_fit(flow, ROWS, x, NULL, &config, &report));
    outcome again = outcome_of(flow, &report);
    same_outcome(&again, &whole);
    free(whole.parameters);
    free(again.parameters);
    free(x);
    drop_path();
}
END_TEST

/* ---- the checkpoint of another fit ---- */

/* Written out, so that other defaults of a fit change nothing here. */
static const nf_optimizer_config one_rule = {.struct_size = sizeof one_rule, .kind = NF_ADAMW, .learning_rate = 2e-3, .weight_decay = 0.1, .clip_norm = 1};
static const nf_optimizer_config other_beta = {.struct_size = sizeof other_beta, .kind = NF_ADAMW, .learning_rate = 2e-3, .weight_decay = 0.1, .clip_norm = 1, .beta1 = 0.85};
static const nf_optimizer_config other_rate = {.struct_size = sizeof other_rate, .kind = NF_ADAMW, .learning_rate = 2.5e-3, .weight_decay = 0.1, .clip_norm = 1};

static const nf_optimizer_config other_beta2 = {.struct_size = sizeof other_beta2, .kind = NF_ADAMW, .learning_rate = 2e-3, .weight_decay = 0.1, .clip_norm = 1, .beta2 = 0.9};
static const nf_optimizer_config other_epsilon = {.struct_size = sizeof other_epsilon, .kind = NF_ADAMW, .learning_rate = 2e-3, .weight_decay = 0.1, .clip_norm = 1, .epsilon = 1e-4};
static const nf_optimizer_config other_decay = {.struct_size = sizeof other_decay, .kind = NF_ADAMW, .learning_rate = 2e-3, .weight_decay = 0.25, .clip_norm = 1};
static const nf_optimizer_config other_clip = {.struct_size = sizeof other_clip, .kind = NF_ADAMW, .learning_rate = 2e-3, .weight_decay = 0.1, .clip_norm = 2};
static const nf_optimizer_config other_momentum = {.struct_size = sizeof other_momentum, .kind = NF_ADAMW, .learning_rate = 2e-3, .weight_decay = 0.1, .clip_norm = 1, .momentum = 0.5};

static const struct difference {
    nf_fit_config config;
    const char *says;
} differences[] = {
    {{.epochs = 7}, "epochs is 7, and there it is 6"},
    {{.batch_size = 50}, "batch_size is 50, and there it is 64"},
    {{.patience = 2}, "patience is 2, and there it is 4"},
    {{.seed = 12}, "seed is 12, and there it is 11"},
    {{.schedule = NF_SCHEDULE_CONSTANT}, "schedule is 1, and there it is 0"},
    {{.schedule_step = 5}, "schedule_step is 5, and there it is 3"},
    {{.schedule_factor = 0.5}, "schedule_factor is 0.5, and there it is 0"},
    {{.validation_fraction = 0.5}, "validation_rows is 150, and there it is 30"},
    {{.ema_decay = 0.5}, "ema_decay is 0.5, and there it is 0.998"},
    {{.noise = 0.5}, "noise is 0.5, and there it is 0.25"},
    {{.contamination = 0.5}, "contamination is 0.5, and there it is 0.02"},
    {{.training_tolerance = 0.5}, "training_tolerance is 0.5, and there it is 0.001"},
    {{.standardize = -1}, "standardize is 0, and there it is 1"},
    {{.optimizer = &momentum}, "optimizer.kind is 2, and there it is 1"},
    {{.optimizer = &other_beta}, "optimizer.beta1 is 0.8"},
    {{.optimizer = &other_beta2}, "optimizer.beta2 is 0.9"},
    {{.optimizer = &other_epsilon}, "optimizer.epsilon is "},
    {{.optimizer = &other_decay}, "optimizer.weight_decay is 0.25"},
    {{.optimizer = &other_momentum}, "optimizer.momentum is 0.5, and there it is 0.0"},
    {{.optimizer = &other_clip}, "optimizer.clip_norm is 2.0, and there it is 1.0"},
    {{.optimizer = &other_rate}, "optimizer.learning_rate is 0.0025"},
};

static void refuses(nf_flow *flow, size_t rows, const double *x, const nf_fit_config *config, nf_status status, const char *says) {
    const size_t count = nf_parameter_count(flow);
    double *before = new_numbers(count), *after = new_numbers(count);
    must(nf_get_parameters(flow, before));
    must_be(status, nf_fit(flow, rows, x, NULL, config, NULL));
    must_say("nf_fit", says);
    must_say("nf_fit", path);
    must(nf_get_parameters(flow, after));
    same_bits("parameters after a refusal", before, after, count);
    free(before);
    free(after);
}

START_TEST(refuses_the_checkpoint_of_another_fit) {
    double *x = new_rows(1), *weight = new_numbers(ROWS);
    set_path();
    nf_fit_config config = config_of(0);
    config.checkpoint = path;
    config.optimizer = &one_rule;
    config.noise = 0.25;
    config.ema_decay = 0.998;
    outcome whole = run(0, &config, x);
    free(whole.parameters);
    size_t size, size_after;
    void *bytes = read_bytes(&size), *after;
    nf_flow *flow = flow_of(0);
    for (size_t i = 0; i < sizeof differences / sizeof differences[0]; i++) {
        nf_fit_config c = differences[i].config;
        c.struct_size = sizeof c;
        c.checkpoint = path;
        c.epochs = c.epochs ? c.epochs : EPOCHS;
        c.batch_size = c.batch_size ? c.batch_size : 64;
        c.seed = c.seed ? c.seed : 11;
        c.optimizer = c.optimizer ? c.optimizer : &one_rule;
        c.noise = c.noise != 0 ? c.noise : 0.25;
        c.ema_decay = c.ema_decay != 0 ? c.ema_decay : 0.998;
        if (c.epochs == 7) /* whose default of patience is that of 6 epochs: nothing else differs */
            c.patience = 4;
        refuses(flow, ROWS, x, &c, NF_ERR_MISMATCH, differences[i].says);
    }
    refuses(flow, ROWS - 1, x, &config, NF_ERR_MISMATCH, "rows is 299, and there it is 300");
    x[17] += 1e-9;
    refuses(flow, ROWS, x, &config, NF_ERR_MISMATCH, "other data");
    x[17] -= 1e-9;
    for (size_t r = 0; r < ROWS; r++)
        weight[r] = 1;
    config.weight = weight;
    refuses(flow, ROWS, x, &config, NF_ERR_MISMATCH, "other data");
    config.weight = NULL;
    nf_flow *single = flow_of(1), *other;
    refuses(single, ROWS, x, &config, NF_ERR_MISMATCH, "a flow with another structure");
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 3, .hidden_layers = 1, .hidden_width = 6, .seed = 5), &other));
    refuses(other, ROWS, x, &config, NF_ERR_MISMATCH, "a flow with another structure");
    after = read_bytes(&size_after);
    ck_assert(size == size_after && memcmp(bytes, after, size) == 0);
    nf_flow_free(single);
    nf_flow_free(other);
    nf_flow_free(flow);
    free(bytes);
    free(after);
    free(weight);
    free(x);
    drop_path();
}
END_TEST

/* What is held out, and how a continuous layer learns. */
START_TEST(refuses_other_held_out_rows_and_objectives) {
    double *x = new_rows(1), *held_out = new_rows(2);
    nf_flow *flow = flow_of(0);
    nf_cnf *cnf;
    set_path();
    nf_fit_config config = {.struct_size = sizeof config, .epochs = 1, .checkpoint = path, .validation_x = held_out, .validation_rows = 20};
    must(nf_fit(flow, ROWS, x, NULL, &config, NULL));
    held_out[39] += 1e-9;
    refuses(flow, ROWS, x, &config, NF_ERR_MISMATCH, "other data");
    held_out[39] -= 1e-9;
    must(nf_fit(flow, ROWS, x, NULL, &config, NULL));
    ck_assert_int_eq(remove(path), 0);
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .hidden_width = 4, .method = NF_RK4, .steps = 2), &cnf));
    config = (nf_fit_config){.struct_size = sizeof config, .epochs = 1, .checkpoint = path, .noise = -1, .ema_decay = 0.5, .standardize = -1,
                             .validation_fraction = -1, .patience = 1, .optimizer = &one_rule, .objective = NF_OBJECTIVE_FLOW_MATCHING};
    must(nf_fit(cnf, 20, x, NULL, &config, NULL));
    config.pairing = NF_PAIRING_OPTIMAL;
    refuses(cnf, 20, x, &config, NF_ERR_MISMATCH, "pairing is 1, and there it is 0");
    config.pairing = NF_PAIRING_INDEPENDENT;
    config.objective = NF_OBJECTIVE_LIKELIHOOD;
    refuses(cnf, 20, x, &config, NF_ERR_MISMATCH, "objective is 0, and there it is 1");
    nf_flow_free(cnf);
    nf_flow_free(flow);
    free(held_out);
    free(x);
    drop_path();
}
END_TEST

/* What no bit depends on may change: threads, how often the file is written, who is told, whose memory it is, and whether a callback gives the rows. */
START_TEST(goes_on_with_other_free_settings) {
    double *x = new_rows(1);
    memory_counter counter = {0};
    const nf_allocator allocator = counted_memory(&counter);
    size_t calls = 0, epoch = 2;
    const nf_fit_config config = patient(0);
    outcome whole = run(0, &config, x);
    const nf_fit_config others[] = {{.threads = 4}, {.checkpoint_every = 3}, {.progress = count_calls, .progress_user = &calls}, {.allocator = &allocator}, {.read = give_rows, .read_user = x}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        set_path();
        nf_fit_config c = config;
        c.checkpoint = path;
        stop_after(&c, x, &epoch);
        c.threads = others[i].threads;
        c.checkpoint_every = others[i].checkpoint_every;
        c.progress = others[i].progress;
        c.progress_user = others[i].progress_user;
        c.allocator = others[i].allocator;
        c.read = others[i].read;
        c.read_user = others[i].read_user;
        outcome resumed = run(0, &c, c.read ? NULL : x);
        same_outcome(&resumed, &whole);
        free(resumed.parameters);
        drop_path();
    }
    ck_assert_uint_eq(calls, EPOCHS - epoch);
    ck_assert(counter.calls > 0 && counter.live == 0);
    free(whole.parameters);
    free(x);
}
END_TEST

/* ---- damage ---- */

static void check_damaged(const double *x, const nf_fit_config *config, const outcome *whole, const char *what, size_t at) {
    nf_flow *flow;
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM, .layers = 1, .seed = 2), &flow));
    double *before = new_numbers(nf_parameter_count(flow)), *after = new_numbers(nf_parameter_count(flow));
    must(nf_get_parameters(flow, before));
    const nf_status status = nf_fit(flow, 8, x, NULL, config, NULL);
    must(nf_get_parameters(flow, after));
    /* Only what is no part of the content, such as a space of the padding, may change unseen. */
    const double *wanted = status == NF_OK ? whole->parameters : before;
    ck_assert_msg((status == NF_OK || status == NF_ERR_FORMAT) && equal_bits(after, wanted, nf_parameter_count(flow)), "%s %zu: %s, %s", what, at,
                  nf_status_name(status), nf_last_error());
    free(before);
    free(after);
    nf_flow_free(flow);
}

START_TEST(damage_is_seen) {
    double *x = new_rows(1);
    nf_flow *flow;
    nf_fit_report report = {.struct_size = sizeof report};
    size_t size;
    set_path();
    const nf_fit_config config = {.struct_size = sizeof config, .epochs = 2, .seed = 3, .checkpoint = path};
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = DIM, .layers = 1, .seed = 2), &flow));
    must(nf_fit(flow, 8, x, NULL, &config, &report));
    outcome whole = outcome_of(flow, &report);
    unsigned char *bytes = read_bytes(&size);
    for (size_t cut = 0; cut < size; cut++) {
        write_bytes(bytes, cut);
        check_damaged(x, &config, &whole, "cut at", cut);
    }
    random_source random = random_begin(9);
    for (size_t at = 0; at < size; at++) {
        const unsigned char old = bytes[at];
        bytes[at] = (unsigned char)(old ^ (1 + random_bits(&random) % 255));
        write_bytes(bytes, size);
        check_damaged(x, &config, &whole, "byte", at);
        bytes[at] = old;
    }
    write_bytes(bytes, size);
    flow = NULL;
    must_be(NF_ERR_FORMAT, nf_flow_load(path, &flow)); /* it is no model */
    must_say("nf_flow_load", "format is \"nflow-checkpoint\"");
    free(bytes);
    free(whole.parameters);
    free(x);
    drop_path();
}
END_TEST

/* A model is no checkpoint, and a folder neither, nor a device or a pipe, whose other end nobody waits for. */
START_TEST(other_files_are_refused) {
    double *x = new_rows(1);
    nf_flow *flow = flow_of(0);
    nf_fit_config config = config_of(0);
    set_path();
    config.checkpoint = path;
    must(nf_flow_save(flow, path));
    refuses(flow, ROWS, x, &config, NF_ERR_FORMAT, "format is nflow, not nflow-checkpoint");
    drop_path();
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    refuses(flow, ROWS, x, &config, NF_ERR_IO, "it is not a file");
    drop_path();
    config.checkpoint = "/dev/null";
    must_be(NF_ERR_IO, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must_say("nf_fit", "cannot take up /dev/null: it is not a file");
    config.checkpoint = "/";
    must_be(NF_ERR_IO, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must_say("nf_fit", "cannot read /");
    config.checkpoint = "/nonexistent-folder/c";
    must_be(NF_ERR_IO, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must_say("nf_fit", "cannot create /nonexistent-folder/c");
    config.checkpoint = "";
    must_be(NF_ERR_ARGUMENT, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    must_say("nf_fit", "config->checkpoint is an empty path");
    nf_flow_free(flow);
    free(x);
}
END_TEST

/* A fit that diverges leaves the last good checkpoint. */
START_TEST(divergence_keeps_the_last_good_checkpoint) {
    double *x = new_rows(1);
    const nf_optimizer_config absurd = {.struct_size = sizeof absurd, .kind = NF_SGD, .learning_rate = 1e300};
    nf_fit_config config = config_of(0);
    nf_flow *flow = flow_of(0);
    set_path();
    config.checkpoint = path;
    config.optimizer = &absurd;
    for (int again = 0; again < 2; again++)
        must_be(NF_ERR_DIVERGED, nf_fit(flow, ROWS, x, NULL, &config, NULL));
    ck_assert(exists());
    nf_flow_free(flow);
    free(x);
    drop_path();
}
END_TEST

int main(void) {
    Suite *suite = suite_create("checkpoints of a fit");
    TCase *same = tcase_create("same bits"), *other = tcase_create("other fits"), *damage = tcase_create("damage");
    tcase_set_timeout(same, 240);
    tcase_set_timeout(other, 60);
    tcase_set_timeout(damage, 240);
    tcase_add_loop_test(same, a_stopped_fit_resumes_to_the_same_bits, 0, KINDS);
    tcase_add_loop_test(same, a_killed_fit_resumes_to_the_same_bits, 0, KINDS);
    tcase_add_test(same, the_last_checkpoint_has_the_same_bytes);
    tcase_add_test(same, patience_is_part_of_the_state);
    tcase_add_test(same, no_held_out_loss_is_part_of_the_state);
    tcase_add_test(same, parameters_come_from_the_file);
    tcase_add_test(other, refuses_the_checkpoint_of_another_fit);
    tcase_add_test(other, refuses_other_held_out_rows_and_objectives);
    tcase_add_test(other, goes_on_with_other_free_settings);
    tcase_add_test(damage, damage_is_seen);
    tcase_add_test(damage, other_files_are_refused);
    tcase_add_test(damage, divergence_keeps_the_last_good_checkpoint);
    suite_add_tcase(suite, same);
    suite_add_tcase(suite, other);
    suite_add_tcase(suite, damage);
    return run_suite(suite);
}
