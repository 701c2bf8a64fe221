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
    const char **names = allocate(dim + 1, sizeof *names);
    memcpy(names, to == TO_DATA ? data : latent, dim * sizeof *names);
    names[dim] = latent[dim];
    double *joined = table_join(e->rows.rows, out, dim, log_det, with_log_det ? 1 : 0);
    evaluation_write(e, dim + (with_log_det ? 1 : 0), joined, names);
    e->m.names = data;
    e->m.places = places;
    free(joined);
    free(names);
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
                            "or rows of the latent space to data.",
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
