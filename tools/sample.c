/* nflow sample: new rows from a model. */
#include <stdlib.h>

#include "context.h"
#include "options.h"
#include "table.h"
#include "tool.h"

typedef struct sample_options {
    size_t rows, threads;
    uint64_t seed, skip;
    bool log_prob;
    context_options context;
    table_output output;
} sample_options;

static int sample(const model *m, const sample_options *o) {
    size_t rows = o->rows;
    double *context = context_rows(m, &o->context, &rows);
    double *x = allocate(rows, m->dim * sizeof *x), *log_prob = allocate(rows, sizeof *log_prob);
    nf_workspace *workspace;
    nf_rng rng = {.seed = o->seed, .stream = 1, .position = o->skip};
    must(nf_workspace_create(m->flow, o->threads ? o->threads : processors(), &workspace));
    const nf_status status = nf_sample(m->flow, workspace, &rng, rows, context, x, log_prob);
    if (status == NF_ERR_ROWS)
        warn("%s; these rows are nan", nf_last_error());
    else
        must(status);
    const size_t before = m->dim + m->context_dim;
    const char **names = allocate(before + 1, sizeof *names);
    double *joined = model_join(m, rows, x, context, names);
    char **more = model_more_names(m, (const char *const[]){"log_prob"}, 1);
    names[before] = *more;
    double *all = table_join(rows, joined, before, log_prob, o->log_prob ? 1 : 0);
    table_write(&o->output, rows, before + (o->log_prob ? 1 : 0), all, names);
    free(all);
    free(joined);
    free(names);
    model_free_names(more, 1);
    nf_workspace_free(workspace);
    free(log_prob);
    free(x);
    free(context);
    return status == NF_OK ? STATUS_DONE : STATUS_FAILED;
}

int nflow_sample(int count, char **words) {
    sample_options o = {.rows = 1000, .seed = 1, .output.format = -1};
    const option_entry entries[] = {
        {"rows", 'n', OPTION_COUNT, &o.rows, "N", "how many, for each context; default 1000"},
        {"seed", 's', OPTION_INTEGER, &o.seed, "N", "of the random numbers; default 1"},
        {"skip", 0, OPTION_INTEGER, &o.skip, "N", "begin after the first N rows that this seed gives"},
        {"log-prob", 0, OPTION_FLAG, &o.log_prob, NULL, "add a column log_prob"},
        OPTION_CONTEXT(&o.context),
        OPTION_CONTEXT_FILE(&o.context),
        OPTION_OUTPUT(&o.output),
        OPTION_FORMAT(&o.output),
        OPTION_JSON(&o.output),
        OPTION_DIGITS(&o.output),
        OPTION_THREADS(&o.threads),
        OPTION_QUIET,
    };
    const option_set set = {
        "sample", "MODEL", "Draw rows from a model. The same seed gives the same rows.", entries, sizeof entries / sizeof entries[0], 1, 1};
    options_read(&set, count, words);
    model m;
    table_spare_model(&o.output, words[1]);
    model_load(&m, words[1]);
    const int status = sample(&m, &o);
    model_free(&m);
    return status;
}
