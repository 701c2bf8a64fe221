/* nflow logprob: the log density of each row, or their mean. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "evaluate.h"

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
    if (e->output.json)
        printf("{\"rows\": %zu, \"bad_rows\": %zu, \"mean_nll\": %.17g, \"standard_error\": %.9g}\n", good, e->rows.rows - good, -mean,
               error);
    else
        printf("mean negative log-likelihood %.6f +- %.6f nats, %zu rows\n", -mean, error, good);
    finish_output();
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
        {"mean", 'm', OPTION_FLAG, &mean, NULL, "only the mean negative log-likelihood, with its standard error"},
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
