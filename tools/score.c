/* nflow score: the gradient of the log density with respect to each row. */
#include <stdlib.h>

#include "evaluate.h"

int nflow_score(int count, char **words) {
    evaluation e = {.output.format = -1};
    const option_entry entries[] = {OPTION_APPEND(&e), EVALUATION_OPTIONS(&e)};
    const option_set set = {"score",
                            "MODEL DATA",
                            "Gradient of the log density at each row of a table: a column score_NAME for each of the model's columns.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            2,
                            2};
    const char *data = evaluation_words(&set, count, words);
    evaluation_begin(&e, words[1]);
    evaluation_read(&e, data);
    double *score = allocate(e.rows.rows, e.m.dim * sizeof *score);
    char **wanted = allocate(e.m.dim, sizeof *wanted);
    for (size_t i = 0; i < e.m.dim; i++)
        wanted[i] = new_text("score_%s", e.m.names[i]);
    char **names = model_more_names(&e.m, (const char *const *)wanted, e.m.dim);
    const int status = evaluation_status(&e, nf_score(e.m.flow, e.workspace, e.rows.rows, e.rows.x, e.rows.context, NULL, score));
    evaluation_write(&e, e.m.dim, score, (const char *const *)names);
    model_free_names(wanted, e.m.dim);
    model_free_names(names, e.m.dim);
    free(score);
    evaluation_end(&e);
    return status;
}
