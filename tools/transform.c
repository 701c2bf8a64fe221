/* nflow transform: rows to the latent space, where they should look like N(0, I), and back. */
#include <stdlib.h>
#include <string.h>

#include "evaluate.h"

enum { TO_LATENT, TO_DATA };

/* z1, z2, .. and log_det, but for names that the model's columns have. */
static char **latent_names(const model *m) {
    char **letters = model_default_names('z', m->dim);
    const char **wanted = allocate(m->dim + 1, sizeof *wanted);
    memcpy(wanted, letters, m->dim * sizeof *wanted);
    wanted[m->dim] = "log_det";
    char **names = model_more_names(m, wanted, m->dim + 1);
    free(wanted);
    free(letters);
    return names;
}

/* With the context, which the way back needs, unless that is among what was read and is written too. `there` has the names of the results. */
static void write_rows(const evaluation *e, model *there, const double *out, const double *log_det, const char *log_det_name) {
    if (e->append)
        there->context_dim = 0;
    const size_t columns = there->dim + there->context_dim, more = log_det ? 1 : 0;
    const char **names = allocate(columns + more, sizeof *names);
    double *joined = model_join(there, e->rows.rows, out, e->rows.context, names);
    double *all = table_join(e->rows.rows, joined, columns, log_det, more);
    if (log_det)
        names[columns] = log_det_name;
    evaluation_write(e, columns + more, all, names);
    free(all);
    free(joined);
    free(names);
}

/* The names of the input and of the output are those of the two spaces. */
static int transform(evaluation *e, int to, const char *data_path, bool with_log_det) {
    const size_t dim = e->m.dim;
    char **latent = latent_names(&e->m), **data = e->m.names;
    size_t *places = e->m.places;
    if (to == TO_DATA) {
        e->m.names = latent;
        e->m.named = true;
        e->m.places = NULL; /* of other columns */
    }
    evaluation_read(e, data_path);
    double *out = allocate(e->rows.rows, dim * sizeof *out), *log_det = allocate(e->rows.rows, sizeof *log_det);
    const nf_status done =
        (to == TO_DATA ? nf_forward : nf_inverse)(e->m.flow, e->workspace, e->rows.rows, e->rows.x, e->rows.context, out, log_det);
    const int status = evaluation_status(e, done);
    model there = e->m;
    there.names = to == TO_DATA ? data : latent;
    there.places = to == TO_DATA ? places : NULL;
    write_rows(e, &there, out, with_log_det ? log_det : NULL, latent[dim]);
    e->m.names = data;
    e->m.places = places;
    free(log_det);
    free(out);
    model_free_names(latent, dim + 1);
    return status;
}

int nflow_transform(int count, char **words) {
    evaluation e = {.output.format = -1};
    int to = TO_LATENT;
    bool log_det = false;
    const option_entry entries[] = {
        {"to", 0, OPTION_CHOICE, &to, "latent|data", "which way; default latent"},
        {"log-det", 0, OPTION_FLAG, &log_det, NULL, "add a column log_det, of the Jacobian of this map"},
        OPTION_APPEND(&e),
        EVALUATION_OPTIONS(&e),
    };
    const option_set set = {"transform",
                            "MODEL DATA",
                            "Carry the rows of a table to the latent space of a model, columns z1, z2, .., where they are standard normal "
                            "if the model is good; "
                            "or rows of the latent space to data. The columns of a context are written beside them.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            2,
                            2};
    const char *data = evaluation_words(&set, count, words);
    evaluation_begin(&e, words[1]);
    const int status = transform(&e, to, data, log_det);
    evaluation_end(&e);
    return status;
}
