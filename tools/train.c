/* nflow train: a flow fitted to the rows of a table. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "evaluate.h"
#include "output.h"
#include "progress.h"
#include "train.h"

#define NOTICED 0.1   /* nats */
#define MOST_OFF 10.0 /* nats that one row may add to the average */

static void add_number(json_t *object, const char *key, double value) {
    if (json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null()) != 0)
        die("no memory for the model's header");
}

static void add_count(json_t *object, const char *key, size_t value) {
    if (json_object_set_new(object, key, json_integer((json_int_t)value)) != 0)
        die("no memory for the model's header");
}

static void add_text(json_t *object, const char *key, const char *text) {
    json_t *string = json_string(text);
    if (json_object_set_new(object, key, string ? string : json_string("(not UTF-8)")) != 0)
        die("no memory for the model's header");
}

/* What is kept with the model about how it came about; and what --json says. No times: the same command gives the same bytes. */
static json_t *training_record(const train_options *o, const train_data *d, const nf_fit_config *config, const nf_fit_report *report,
                               json_t *points) {
    json_t *t = json_object();
    add_text(t, "version", nf_version());
    add_text(t, "data", d->source);
    add_count(t, "rows", d->rows);
    add_count(t, "held_out_rows", d->held_out);
    add_text(t, "flow", train_flow_name(o));
    add_count(t, "seed", o->seed);
    add_count(t, "batch", config->batch_size);
    add_count(t, "epochs", config->epochs);
    add_count(t, "epochs_run", report->epochs_run);
    add_count(t, "best_epoch", report->best_epoch);
    add_text(t, "objective", o->matching ? "flow matching" : "likelihood");
    add_number(t, "train_loss", report->train_loss);
    add_number(t, "held_out_loss", d->held_out > 0 ? report->best_loss : NAN);
    add_number(t, "held_out_nll", d->held_out > 0 && !o->matching ? report->best_loss : NAN);
    add_number(t, "gaussian_nll", d->gaussian_nll);
    if (json_object_set_new(t, "curve", points) != 0)
        die("no memory for the model's header");
    return t;
}

/* A fit that cannot be saved should not begin. */
static void check_output(const char *path) {
    struct stat place;
    if (strcmp(path, "-") == 0)
        return;
    const char *slash = strrchr(path, '/');
    char *folder = slash ? new_text("%.*s", (int)(slash - path + 1), path) : copy_text(".");
    if (access(folder, F_OK) != 0)
        die("%s: %s: make the folder first", folder, strerror(errno));
    free(folder);
    if (stat(path, &place) == 0 && S_ISDIR(place.st_mode))
        die("%s: this is a folder: give the model a name in it", path);
    if (!output_possible(path))
        die("%s: %s: the model could not be saved there", path, strerror(errno));
}

static const char *why_it_ended(const nf_fit_report *report) {
    switch (report->stop_reason) {
    case NF_STOP_PATIENCE:
        return "; it got no better";
    case NF_STOP_CALLBACK:
        return "; interrupted";
    case NF_STOP_DIVERGED:
        return "; then it diverged";
    case NF_STOP_EPOCHS:
        break;
    }
    return "";
}

static void put_likelihood(const train_data *d, const nf_fit_report *report) {
    if (d->held_out == 0) {
        fprintf(stderr, "training NLL %.4f nats a row, with the noise of the fit; no row was held out\n", report->train_loss);
        return;
    }
    fprintf(stderr, "held-out NLL %.4f nats a row", report->best_loss);
    if (isfinite(d->gaussian_nll))
        fprintf(stderr, "; a Gaussian with their covariance: %.4f", d->gaussian_nll);
    fputc('\n', stderr);
}

static void put_result(const train_options *o, const train_data *d, const model *m, const nf_fit_report *report) {
    if (o->json) {
        json_t *result = json_deep_copy(m->training);
        json_object_del(result, "curve");
        add_text(result, "event", report->stop_reason == NF_STOP_CALLBACK ? "interrupted" : "done");
        add_text(result, "model", o->output);
        add_number(result, "seconds", report->seconds);
        json_dumpf(result, o->output_is_standard ? stderr : stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        fputc('\n', o->output_is_standard ? stderr : stdout);
        json_decref(result);
        return;
    }
    if (tool_quiet)
        return;
    fprintf(stderr, "%zu epochs in %.1f s%s; kept epoch %zu\n", report->epochs_run, report->seconds, why_it_ended(report),
            report->best_epoch);
    if (!o->matching) /* its losses are not likelihoods */
        put_likelihood(d, report);
    if (!o->output_is_standard)
        fprintf(stderr, "saved %s: %zu layers, %zu parameters\n", o->output, nf_flow_layer_count(m->flow), nf_parameter_count(m->flow));
}

static void save(const train_options *o, model *m) {
    char message[512];
    if (!model_save(m, o->output, message, sizeof message))
        die("%s: the model is not saved", message);
}

/*
 * The flow as it is saved. In single precision the maps of whitening and of the contexts are rounded with it, and so are the rows that it will see;
 * what is said of such a model is measured on it.
 */
static nf_flow *finish(nf_flow *flow, const train_options *o, const train_data *d, nf_fit_report *report) {
    if (o->precision != PRECISION_SINGLE)
        return train_finish(flow, o, d);
    double *fitted = train_fitted_log_prob(flow, d), nll = 0, off = 0, weights = 0;
    size_t lost = 0;
    bool capped = false;
    flow = train_finish(flow, o, d);
    double *saved = train_saved_log_prob(flow, d);
    for (size_t r = 0; r < d->sample.rows; r++) {
        const double weight = d->sample.weight ? d->sample.weight[r] : 1.0;
        if (!(weight > 0.0) || !isfinite(fitted[r])) /* the fit left it out, too */
            continue;
        if (!isfinite(saved[r])) {
            lost++;
            continue;
        }
        nll -= weight * saved[r];
        capped = capped || fabs(saved[r] - fitted[r]) > MOST_OFF;
        off += weight * fmin(fabs(saved[r] - fitted[r]), MOST_OFF);
        weights += weight;
    }
    if (weights > 0.0 && d->held_out > 0 && !o->matching)
        report->best_loss = nll / weights;
    if (lost > 0)
        warn("%zu of %zu rows are out of the saved model's reach in single precision", lost, d->sample.rows);
    if (weights > 0.0 && off / weights >= NOTICED)
        warn("in the saved model, in single precision, the log densities of rows are %.3g%s off on average: columns lie too far from 0 for "
             "their spread; shift them, or leave out --precision single",
             off / weights, capped ? " or more" : "");
    free(fitted);
    free(saved);
    return flow;
}

/* Ends the program when there is nothing to save. */
static void check_fit(nf_status status, const char *checkpoint, const nf_fit_report *report) {
    if (status == NF_ERR_MISMATCH && checkpoint)
        die("%s: it was begun with other data or options (%s); use those, or delete it to begin anew", checkpoint, nf_last_error());
    if (status == NF_ERR_FORMAT && checkpoint)
        die("%s: it is not what a fit leaves there (%s); delete it to begin anew", checkpoint, nf_last_error());
    if (status != NF_STOPPED && status != NF_ERR_DIVERGED)
        must(status);
    if (report->best_epoch == 0)
        die("the loss of no epoch was finite, so there is nothing to save; try a smaller --rate");
    if (status == NF_ERR_DIVERGED)
        warn("the loss is not finite any more after epoch %zu: what was best till then is saved; try a smaller --rate", report->epochs_run);
}

static int run(train_options *o, train_data *d) {
    nf_flow *flow = train_flow(o, d);
    const double offset = o->matching ? 0.0 : d->whitening.log_det; /* of the likelihood of whitened rows */
    model m = {.flow = flow,
               .path = o->output,
               .dim = d->dim,
               .context_dim = d->context_dim,
               .names = d->names,
               .context_names = d->context_names,
               .named = true,
               .context_named = true,
               .places = d->places,
               .table_columns = d->table_columns};
    progress p = {0};
    curve losses;
    char *checkpoint = o->resume ? new_text("%s.checkpoint", o->output) : NULL;
    nf_fit_config config;
    nf_optimizer_config optimizer;
    train_config(o, d, &config, &optimizer);
    config.checkpoint = checkpoint;
    config.progress = progress_show;
    config.progress_user = &p;
    if (checkpoint && access(checkpoint, F_OK) == 0)
        note("taking up the fit of %s", checkpoint);
    train_announce(o, d, flow, &config);
    curve_begin(&losses, checkpoint);
    progress_begin(&p, o->json ? PROGRESS_JSON : PROGRESS_TEXT, o->output_is_standard, offset, &losses);
    nf_fit_report report = {.struct_size = sizeof report};
    const nf_status status = nf_fit(flow, d->training, d->x, d->context, &config, &report);
    progress_end(&p);
    report.train_loss += offset;
    report.best_loss += offset;
    check_fit(status, checkpoint, &report);
    flow = finish(flow, o, d, &report);
    m.flow = flow;
    m.training = training_record(o, d, &config, &report, curve_json(&losses, offset));
    save(o, &m);
    if (checkpoint && status == NF_OK)
        unlink(checkpoint);
    curve_end(&losses, status == NF_OK);
    put_result(o, d, &m, &report);
    if (status == NF_STOPPED && checkpoint)
        note("the same command takes the fit up again");
    json_decref(m.training);
    nf_flow_free(flow);
    free(checkpoint);
    return status == NF_STOPPED ? STATUS_INTERRUPTED : status == NF_OK ? STATUS_DONE : STATUS_FAILED;
}

int nflow_train(int count, char **words) {
    train_options o = {.seed = 1};
    const option_entry entries[] = {
        {"output", 'o', OPTION_TEXT, &o.output, "MODEL", "where to save the model: a .safetensors file"},
        {"flow", 'F', OPTION_CHOICE, &o.flow, TRAIN_FLOWS, "kind of flow; default realnvp"},
        {"layers", 'l', OPTION_COUNT, &o.layers, "N", "couplings (default 8), or planar or radial layers (default 32); not for cnf"},
        {"hidden", 'H', OPTION_TEXT, &o.hidden, "WxN", "nets with N hidden layers of width W; default 64x2, for cnf of one or two columns 24x4"},
        {"columns", 0, OPTION_TEXT, &o.columns, "LIST", "columns to model, as names or numbers: a,b or 1,3-5; default: all others"},
        {"context-columns", 'c', OPTION_TEXT, &o.context_columns, "LIST",
         "columns to condition on: the flow models the others given these"},
        {"weight-column", 'w', OPTION_TEXT, &o.weight_column, "COLUMN", "how much each row counts; those of weight 0 are left out"},
        {"drop-missing", 0, OPTION_FLAG, &o.drop_missing, NULL, "leave out rows in which a column that is used is no number"},
        {"jitter", 'j', OPTION_TEXT, &o.jitter, "LIST",
         "add uniform noise to these columns, as wide as the smallest step between their values: for whole numbers and rounded ones; 'all' "
         "for all"},
        {"validation", 'v', OPTION_NUMBER, &o.validation, "FRACTION",
         "of the rows, drawn at random, held out to find the best epoch; default 0.1, with --matching 0"},
        {"epochs", 'e', OPTION_COUNT, &o.epochs, "N", "passes over the data; default: from 5 to 300, fewer for more rows; with --matching as many as make 20000 steps"},
        {"batch", 'b', OPTION_COUNT, &o.batch, "N", "rows a step; default 64, from 4000 training rows on 256, from 100000 on 1024"},
        {"rate", 'r', OPTION_NUMBER, &o.rate, "RATE", "learning rate at the beginning; default: the library's for this kind of flow"},
        {"patience", 'p', OPTION_COUNT, &o.patience, "N", "end after N epochs that did not get better; default: half of all"},
        {"noise", 0, OPTION_NUMBER, &o.noise, "SD",
         "Gaussian noise on the training rows, in standard deviations of a column, that shrinks with the rate; 0: none"},
        {"no-whitening", 0, OPTION_FLAG, &o.no_whitening, NULL,
         "do not make the rows uncorrelated: each column gets mean 0 and standard deviation 1 by itself"},
        {"matching", 0, OPTION_FLAG, &o.matching, NULL, "train a cnf by flow matching instead of by likelihood"},
        {"precision", 0, OPTION_CHOICE, &o.precision, TRAIN_PRECISIONS,
         "of training and of the saved model; default: trained in single, saved in double"},
        {"seed", 's', OPTION_INTEGER, &o.seed, "N", "of all that is random; default 1. The same command gives the same model"},
        OPTION_THREADS(&o.threads),
        {"resume", 'R', OPTION_FLAG, &o.resume, NULL,
         "keep a checkpoint, MODEL.checkpoint, while training, and take up a fit that left one"},
        {"json", 0, OPTION_FLAG, &o.json, NULL, "a line of JSON for each epoch and for the result, on the standard output"},
        OPTION_QUIET,
    };
    const option_set set = {"train",
                            "DATA -o MODEL",
                            "Fit a flow to the rows of a table (CSV or NPY; '-' is the standard input) and save it. An interrupt (Ctrl-C) "
                            "ends the fit after the current epoch, "
                            "and the best model so far is saved.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            1,
                            1};
    o.validation = o.rate = o.noise = -1.0;
    o.precision = -1;
    options_read(&set, count, words);
    train_check_options(&o);
    check_output(o.output);
    if (output_replaces(o.output, words[1]))
        die("-o %s: the model would take the place of its data: give it another name", o.output);
    train_data d;
    train_read(&d, words[1], &o);
    const int status = run(&o, &d);
    train_free(&d);
    finish_output();
    return status;
}
