/* nf_diagnose: what is looked at, in which order, and the report as text. The checks are in diagnose_maps.c, diagnose_distribution.c and its parts. */
#include "api/diagnose.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/config.h"
#include "core/floating.h"
#include "core/plain.h"

/* Streams of the seed: samples count on from SAMPLES. */
enum { STREAM_SAMPLES = 1, STREAM_DIRECTIONS = 2, STREAM_ROWS = 3 };

/* ---- memory and status ---- */

void *nf_diagnosis_take(nf_diagnosis *d, size_t count, size_t size) {
    size_t bytes;
    if (d->status != NF_OK)
        return NULL;
    void *block = nf_size_multiply(count, size, &bytes) ? nf_allocate_zeroed(&d->allocator, bytes) : NULL;
    if (!block)
        nf_diagnosis_end(d, nf_fail(NF_ERR_MEMORY, NULL, "no memory for %zu numbers", count));
    else
        d->blocks[d->block_count++] = block;
    return block;
}

double *nf_diagnosis_numbers(nf_diagnosis *d, size_t count) { return nf_diagnosis_take(d, count, sizeof(double)); }

void nf_diagnosis_drop(nf_diagnosis *d, size_t mark) {
    while (d->block_count > mark)
        nf_release(&d->allocator, d->blocks[--d->block_count]);
}

void nf_diagnosis_end(nf_diagnosis *d, nf_status status) {
    d->status = status;
    snprintf(d->line, sizeof d->line, "%s", nf_last_error());
}

bool nf_diagnosis_did(nf_diagnosis *d, nf_status status) {
    if (d->status == NF_OK && status != NF_OK && status != NF_ERR_ROWS)
        nf_diagnosis_end(d, status);
    return d->status == NF_OK;
}

nf_finding nf_finding_of_error(double value, double threshold) {
    return (nf_finding){.value = value, .threshold = threshold, .verdict = value <= threshold ? NF_PASSED : NF_FAILED};
}

nf_finding nf_finding_of_score(double value, double threshold) {
    return (nf_finding){.value = value, .threshold = threshold, .verdict = value >= threshold ? NF_PASSED : NF_FAILED};
}

/* ---- what is looked at ---- */

static bool is_usable(const nf_diagnosis *d, const double *x, const double *context, size_t row) {
    const nf_engine *engine = d->flow->engine;
    return (!x || nf_finite_row(x + row * d->dim, d->dim, engine)) && (!context || nf_finite_row(context + row * d->context_dim, d->context_dim, engine));
}

/* One drawn row of each of so many even pieces, or the next in its piece that is finite: an order with a period, as classes in turn have it, does not show. */
static void choose_rows(nf_diagnosis *d, size_t rows, const double *x, const double *context) {
    const size_t wanted = d->config.rows < rows ? d->config.rows : rows;
    d->x = nf_diagnosis_numbers(d, wanted * d->dim);
    d->context = d->context_dim ? nf_diagnosis_numbers(d, wanted * d->context_dim) : NULL;
    d->row_of = nf_diagnosis_take(d, wanted, sizeof *d->row_of);
    if (d->status != NF_OK)
        return;
    nf_sequence random = nf_sequence_begin(d->config.seed, STREAM_ROWS);
    for (size_t i = 0; i < wanted; i++) {
        const double space = (double)rows / (double)wanted;
        const size_t begin = (size_t)((double)i * space), end = i + 1 < wanted ? (size_t)((double)(i + 1) * space) : rows, count = end - begin;
        const size_t drawn = (size_t)nf_sequence_below(&random, count);
        size_t row = begin + drawn, tried = 0;
        for (; tried < count && !is_usable(d, x, context, row); tried++)
            row = begin + (drawn + tried + 1) % count;
        if (tried == count)
            continue;
        if (x)
            memcpy(d->x + d->rows * d->dim, x + row * d->dim, d->dim * sizeof *x);
        if (context)
            memcpy(d->context + d->rows * d->context_dim, context + row * d->context_dim, d->context_dim * sizeof *x);
        d->row_of[d->rows++] = row;
    }
    d->exact_rows = d->rows < d->config.exact_rows ? d->rows : d->config.exact_rows;
    if (d->rows == 0)
        nf_diagnosis_end(d, nf_fail(NF_ERR_ARGUMENT, NULL, "none of the %zu rows is finite", rows));
    else if (!x)
        nf_diagnosis_did(d, d->calls->sample(d->flow, d->workspace, &d->rng, d->rows, d->context, d->x, NULL));
}

static size_t many(size_t steps, size_t times) { return steps < NF_MOST_COUNT / times ? steps * times : NF_MOST_COUNT; }

/* The flow without the errors of its precision and its solvers. */
static void make_exact(nf_diagnosis *d) {
    const nf_flow flow = nf_flow_in(d->flow, &d->allocator);
    nf_diagnosis_did(d, nf_flow_convert(&flow, NF_DOUBLE, &d->exact));
    for (size_t i = 0; d->status == NF_OK && i < d->exact->model.layer_count; i++) {
        nf_cnf_spec *cnf = &d->exact->model.layers[i]->cnf;
        if (d->exact->model.layers[i]->kind != NF_LAYER_CNF)
            continue;
        d->continuous = true;
        cnf->rtol = fmin(cnf->rtol, 1e-10);
        cnf->atol = fmin(cnf->atol, 1e-10);
        cnf->steps = many(cnf->steps, 4);
        cnf->max_steps = many(cnf->max_steps, 100);
        cnf->trace = NF_TRACE_EXACT;
    }
    if (d->status == NF_OK)
        nf_diagnosis_did(d, nf_workspace_begin(&flow, d->config.threads, &d->workspace));
    if (d->status == NF_OK)
        nf_diagnosis_did(d, nf_workspace_begin(d->exact, d->config.threads, &d->exact_workspace));
    if (d->status == NF_OK)
        nf_diagnosis_did(d, nf_gradient_create(d->exact, &d->gradient));
}

static void fill_defaults(nf_diagnose_config *c) {
    c->rows = nf_size_or(c->rows, 1000);
    c->exact_rows = nf_size_or(c->exact_rows, 32);
    c->samples = nf_size_or(c->samples, 4096);
    c->permutations = nf_size_or(c->permutations, 1999);
    c->significance = c->significance == 0.0 ? 1e-3 : c->significance;
    c->least_effective_sample_size = c->least_effective_sample_size == 0.0 ? 0.05 : c->least_effective_sample_size;
    c->most_weight = c->most_weight == 0.0 ? 0.1 : c->most_weight;
}

static nf_status check_config(const nf_diagnose_config *c) {
    const struct {
        const char *name;
        double value;
    } fractions[] = {{"significance", c->significance}, {"least_effective_sample_size", c->least_effective_sample_size}, {"most_weight", c->most_weight}};
    for (size_t i = 0; i < sizeof fractions / sizeof fractions[0]; i++)
        if (!(fractions[i].value >= 0.0 && fractions[i].value <= 1.0))
            return nf_fail(NF_ERR_ARGUMENT, NULL, "config->%s is %g, must be between 0 and 1", fractions[i].name, fractions[i].value);
    if (c->samples == 1)
        return nf_fail(NF_ERR_ARGUMENT, NULL, "config->samples is 1, must be at least 2");
    return NF_OK;
}

/* ---- the report ---- */

/* In the order of the report. */
static const struct {
    const char *name;
    size_t offset;
    bool score;
} checks[] = {
    {"round trip", offsetof(nf_diagnose_report, round_trip), false},
    {"log_det of both maps", offsetof(nf_diagnose_report, log_det_pair), false},
    {"log_det, Jacobian", offsetof(nf_diagnose_report, log_det), false},
    {"accuracy of log_prob", offsetof(nf_diagnose_report, accuracy), false},
    {"gradient", offsetof(nf_diagnose_report, gradient), false},
    {"forward vjp", offsetof(nf_diagnose_report, forward_vjp), false},
    {"inverse vjp", offsetof(nf_diagnose_report, inverse_vjp), false},
    {"normalization", offsetof(nf_diagnose_report, normalization), false},
    {"sampler, p", offsetof(nf_diagnose_report, sampler), true},
    {"effective sample size", offsetof(nf_diagnose_report, effective_sample_size), true},
    {"largest weight", offsetof(nf_diagnose_report, largest_weight), false},
    {"data and samples, p", offsetof(nf_diagnose_report, two_sample), true},
    {"calibration, p", offsetof(nf_diagnose_report, calibration), true},
};
enum { CHECKS = sizeof checks / sizeof checks[0] };
#define FIRST_REPORT NF_SIZE_THROUGH(nf_diagnose_report, calibration_column)

static nf_finding *finding(nf_diagnose_report *report, size_t i) { return (nf_finding *)(void *)((unsigned char *)report + checks[i].offset); }

static nf_finding read_finding(const nf_diagnose_report *report, size_t i) {
    nf_finding f;
    memcpy(&f, (const unsigned char *)report + checks[i].offset, sizeof f);
    return f;
}

static void skip_all(nf_diagnose_report *report) {
    for (size_t i = 0; i < CHECKS; i++)
        *finding(report, i) = (nf_finding){.value = NAN, .threshold = NAN, .verdict = NF_SKIPPED};
    report->round_trip_typical = report->round_trip_condition = report->normalization_error = NAN;
}

/* One more line at the end of the text, whose length is told whether it fits or not. */
static void put_line(char *text, size_t size, size_t *used, const char *more) {
    const size_t length = strlen(more);
    for (size_t i = 0; i < length && *used + i + 1 < size; i++) {
        text[*used + i] = more[i];
        text[*used + i + 1] = '\0';
    }
    *used += length;
}

static void describe(const nf_diagnose_report *report, size_t i, char *more, size_t size) {
    *more = '\0';
    if (i == 0)
        snprintf(more, size, "  at row %zu with condition %.2g, typical %.2g", report->round_trip_row, report->round_trip_condition, report->round_trip_typical);
    if (checks[i].offset == offsetof(nf_diagnose_report, log_det))
        snprintf(more, size, "  at row %zu", report->log_det_row);
    if (checks[i].offset == offsetof(nf_diagnose_report, normalization))
        snprintf(more, size, "  +- %.2g", report->normalization_error);
    if (checks[i].offset == offsetof(nf_diagnose_report, calibration))
        snprintf(more, size, "  of column %zu", report->calibration_column);
}

static size_t write_text(const nf_diagnose_report *report, char *text, size_t size) {
    static const char *const verdicts[] = {"passed ", "FAILED ", "skipped"};
    size_t used = 0;
    if (text && size)
        *text = '\0';
    if (!report || report->struct_size < FIRST_REPORT)
        return 0;
    nf_diagnose_report known = {.struct_size = sizeof known}; /* a smaller one says nothing of later checks */
    skip_all(&known);
    memcpy(&known, report, report->struct_size < sizeof known ? report->struct_size : sizeof known);
    for (size_t i = 0; i < CHECKS; i++) {
        const nf_finding f = read_finding(&known, i);
        char row[256], more[128];
        describe(&known, i, more, sizeof more);
        if (f.verdict == NF_PASSED || f.verdict == NF_FAILED)
            snprintf(row, sizeof row, "%s  %-22s %-10.3g %s %-8.2g%s\n", verdicts[f.verdict], checks[i].name, f.value, checks[i].score ? "at least" : "at most ",
                     f.threshold, more);
        else
            snprintf(row, sizeof row, "%s  %s\n", verdicts[NF_SKIPPED], checks[i].name);
        put_line(text, text ? size : 0, &used, row);
    }
    char row[64];
    snprintf(row, sizeof row, "%zu of %d checks failed, %zu skipped\n", report->failed, (int)CHECKS, report->skipped);
    put_line(text, text ? size : 0, &used, row);
    return used;
}

size_t nf_diagnose_text(const nf_diagnose_report *report, char *text, size_t size) {
    NF_CALL;
    nf_clear_error();
    const nf_host host = nf_leave_host();
    const size_t length = write_text(report, text, size);
    nf_return_to(&host);
    return length;
}

static void run(nf_diagnosis *d, size_t rows, const double *x, const double *context) {
    skip_all(&d->report);
    make_exact(d);
    if (d->status == NF_OK)
        choose_rows(d, rows, x, context);
    if (d->status == NF_OK)
        nf_diagnose_maps(d);
    if (d->status == NF_OK)
        nf_diagnose_distribution(d);
    for (size_t i = 0; i < CHECKS; i++) {
        d->report.failed += finding(&d->report, i)->verdict == NF_FAILED;
        d->report.skipped += finding(&d->report, i)->verdict == NF_SKIPPED;
    }
    nf_diagnosis_drop(d, 0);
    nf_gradient_free(d->gradient);
    nf_workspace_free(d->exact_workspace);
    nf_workspace_free(d->workspace);
    nf_flow_free(d->exact);
}

nf_status nf_diagnose_with(const nf_diagnose_calls *calls, const nf_flow *flow, size_t rows, const double *x, const double *context,
                           const nf_diagnose_config *config, nf_diagnose_report *report) {
    NF_CALL;
    const char *const function = "nf_diagnose";
    const nf_diagnose_config defaults = {.struct_size = sizeof defaults};
    nf_clear_error();
    nf_status status = nf_check_pointer(function, "flow", flow);
    if (status == NF_OK)
        status = nf_check_pointer(function, "report", report);
    if (status != NF_OK)
        return status;
    nf_diagnosis d = {.calls = calls, .flow = flow, .dim = flow->model.dim, .context_dim = flow->model.context_dim, .parameters = flow->model.parameter_count};
    status = nf_read_config(function, config ? config : &defaults, &d.config, sizeof d.config, NF_SIZE_THROUGH(nf_diagnose_config, allocator));
    if (status != NF_OK)
        return status;
    status = nf_check_room(function, "report", report, FIRST_REPORT);
    if (status != NF_OK)
        return status;
    if (d.context_dim != 0 && !rows)
        return nf_fail(NF_ERR_ARGUMENT, function, "rows is 0, and the flow needs rows of context, of %zu columns", d.context_dim);
    status = nf_check_context(function, "context", flow, context);
    if (status != NF_OK)
        return status;
    if (x && !rows)
        return nf_fail(NF_ERR_ARGUMENT, function, "rows is 0, and x is not NULL");
    fill_defaults(&d.config);
    status = check_config(&d.config);
    if (status != NF_OK)
        return nf_fail_in(status, function);
    d.allocator = nf_allocator_or(d.config.allocator, &flow->allocator);
    d.has_data = x != NULL;
    d.rng = (nf_rng){d.config.seed, STREAM_SAMPLES, 0};
    d.random = nf_sequence_begin(d.config.seed, STREAM_DIRECTIONS);
    run(&d, rows ? rows : d.config.exact_rows, x, context);
    if (d.status != NF_OK)
        return nf_fail(d.status, function, "%s", d.line);
    nf_write_struct(report, &d.report, sizeof d.report);
    nf_clear_error();
    return NF_OK;
}

nf_status nf_diagnose(const nf_flow *flow, size_t rows, const double *x, const double *context, const nf_diagnose_config *config,
                      nf_diagnose_report *report) {
    static const nf_diagnose_calls calls = {.forward = nf_forward,
                                            .inverse = nf_inverse,
                                            .log_prob = nf_log_prob,
                                            .sample = nf_sample,
                                            .grad_nll = nf_grad_nll,
                                            .forward_vjp = nf_forward_vjp,
                                            .inverse_vjp = nf_inverse_vjp};
    return nf_diagnose_with(&calls, flow, rows, x, context, config, report);
}
