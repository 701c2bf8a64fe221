/* A model, rows, results. */
#include <stdlib.h>
#include <string.h>

#include "evaluate.h"

const char *evaluation_words(const option_set *set, int count, char **words) {
    const char *data = options_read(set, count, words) == 2 ? words[2] : NULL;
    if (data && strcmp(words[1], "-") == 0 && strcmp(data, "-") == 0)
        die_usage("only one of the files can be the standard input");
    return data;
}

void evaluation_begin(evaluation *e, const char *model_path) {
    table_spare_model(&e->output, model_path);
    model_load(&e->m, model_path);
    must(nf_workspace_create(e->m.flow, e->threads ? e->threads : processors(), &e->workspace));
}

void evaluation_read(evaluation *e, const char *data_path) { model_read_rows(&e->m, data_path, &e->choice, true, &e->rows); }

int evaluation_status(const evaluation *e, nf_status status) {
    if (status != NF_ERR_ROWS) {
        must(status);
        return STATUS_DONE;
    }
    nf_stats stats = {.struct_size = sizeof stats};
    must(nf_workspace_stats(e->workspace, &stats));
    const size_t first = e->rows.numbers ? e->rows.numbers[stats.first_bad_row] : stats.first_bad_row + 1;
    warn("%zu of %zu rows are out of the flow's reach and have nan, first row %zu: they are far from all that it was trained on",
         stats.bad_rows, e->rows.rows, first);
    return STATUS_FAILED;
}

void evaluation_write(const evaluation *e, size_t columns, const double *results, const char *const *names) {
    if (!e->append) {
        table_write(&e->output, e->rows.rows, columns, results, names);
        return;
    }
    const size_t before = e->m.dim + e->m.context_dim;
    const char **all = allocate(before + columns, sizeof *all);
    double *input = model_join(&e->m, e->rows.rows, e->rows.x, e->rows.context, all);
    memcpy(all + before, names, columns * sizeof *all);
    double *joined = table_join(e->rows.rows, input, before, results, columns);
    table_write(&e->output, e->rows.rows, before + columns, joined, all);
    free(joined);
    free(input);
    free(all);
}

void evaluation_end(evaluation *e) {
    nf_workspace_free(e->workspace);
    model_free_rows(&e->rows);
    model_free(&e->m);
}
