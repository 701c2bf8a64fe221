/* nflow logprob: the log density of each row, or their mean. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "evaluate.h"
#include "output.h"

static void put_object(const table_output *to, const double *results) {
    output out;
    if (!output_open(&out, to->path))
        die("%s: %s", out.name, strerror(errno));
    fprintf(out.file, "{\"rows\": %.0f, \"bad_rows\": %.0f, \"mean_nll\": %.17g, \"standard_error\": %.9g}\n", results[0], results[1],
            results[2], results[3]);
    if (!output_close(&out))
        die("%s: %s", out.name, strerror(errno));
}

/* Over the rows that have a density; the error is that of the mean. */
static void put_mean(const evaluation *e, const double *log_prob) {
    double mean = 0, square = 0;
    size_t good = 0;
    for (size_t i = 0; i < e->rows.rows; i++)
        if (isfinite(log_prob[i])) {
            mean += log_prob[i];
            good++;
        }
    if (good == 0)
        die("no row has a density");
    mean /= (double)good;
    for (size_t i = 0; i < e->rows.rows; i++)
        if (isfinite(log_prob[i]))
            square += (log_prob[i] - mean) * (log_prob[i] - mean);
    const double error = sqrt(square / (double)good / (double)good);
    const double results[] = {(double)good, (double)(e->rows.rows - good), -mean, error};
    const char *const names[] = {"rows", "bad_rows", "mean_nll", "standard_error"};
    if (table_is_default(&e->output)) {
        printf("mean negative log-likelihood %.6f +- %.6f nats, %zu rows\n", -mean, error, good);
        finish_output();
    } else if (table_format_of(&e->output) == TABLE_JSON) {
        put_object(&e->output, results);
    } else {
        table_write(&e->output, 1, 4, results, names);
    }
}

static void put_rows(const evaluation *e, const double *log_prob) {
    char **name = model_more_names(&e->m, (const char *const[]){"log_prob"}, 1);
    evaluation_write(e, 1, log_prob, (const char *const *)name);
    model_free_names(name, 1);
}

int nflow_logprob(int count, char **words) {
    evaluation e = {.output.format = -1};
    bool mean = false;
    const option_entry entries[] = {
        {"mean", 'm', OPTION_FLAG, &mean, NULL,
         "only the mean negative log-likelihood, with its standard error: a sentence, or a row with --output or --format"},
        OPTION_APPEND(&e),
        EVALUATION_OPTIONS(&e),
    };
    const option_set set = {"logprob",
                            "MODEL DATA",
                            "Log density of each row of a table under a model, in nats, as a column log_prob.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            2,
                            2};
    const char *data = evaluation_words(&set, count, words);
    if (mean && e.append)
        die_usage("--mean and --append: a mean has no row to be beside");
    evaluation_begin(&e, words[1]);
    evaluation_read(&e, data);
    double *log_prob = allocate(e.rows.rows, sizeof *log_prob);
    const int status = evaluation_status(&e, nf_log_prob(e.m.flow, e.workspace, e.rows.rows, e.rows.x, e.rows.context, log_prob));
    if (mean)
        put_mean(&e, log_prob);
    else
        put_rows(&e, log_prob);
    free(log_prob);
    evaluation_end(&e);
    return status;
}
