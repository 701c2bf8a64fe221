/* What a fit looks at before the first epoch: rows that are not numbers, and the mean and deviation of the columns of the others. */
#include "api/fit.h"
#include "core/moments.h"

typedef struct nf_fitting fit;

nf_status nf_fit_count_bad_rows(fit *f) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    nf_status status = NF_OK;
    size_t bad = 0;
    for (size_t first = 0; status == NF_OK && first < f->data.own; first += VALIDATION_CHUNK) {
        const size_t left = f->data.own - first, rows = left < VALIDATION_CHUNK ? left : VALIDATION_CHUNK;
        for (size_t i = 0; i < rows; i++)
            f->wanted[i] = first + i;
        status = nf_rows_read(&f->data, rows, f->wanted, f->batch.x, f->batch.context, NULL);
        for (size_t r = 0; status == NF_OK && r < rows; r++)
            bad += !nf_fit_has_numbers(f, f->batch.x + r * dim, context_dim ? f->batch.context + r * context_dim : NULL);
    }
    status = nf_ranks_agree(&f->ranks, status);
    const double own = (double)bad;
    if (status == NF_OK)
        status = nf_ranks_gather(&f->ranks, &own, f->all_outcomes, 1);
    for (size_t q = 0; status == NF_OK && q < f->ranks.size; q++)
        f->report.bad_rows += (size_t)f->all_outcomes[q];
    return status;
}

/* The columns of the rows that count: those of weight 0 may hold anything. */
static void add_rows(const fit *f, size_t rows, nf_moments *columns) {
    const size_t dim = f->flow->model.dim, context_dim = f->flow->model.context_dim;
    for (size_t r = 0; r < rows; r++) {
        const double *row = f->batch.x + r * dim;
        if (f->batch.weight[r] > 0.0 && nf_fit_has_numbers(f, row, context_dim ? f->batch.context + r * context_dim : NULL))
            for (size_t i = 0; i < dim; i++)
                nf_moments_add(&columns[i], row[i]);
    }
}

/*
 * Mean and standard deviation of the columns of the training rows that count, each once, and how many those are. Their order is that of the split, so every row goes to
 * rank 0 once; what that takes is little beside an epoch.
 */
static nf_status measure_columns(fit *f) {
    const size_t dim = f->flow->model.dim, step = VALIDATION_CHUNK;
    double *mean = f->column_mean, *sd = f->column_sd;
    nf_moments *columns = nf_allocate_zeroed(&f->allocator, dim * sizeof *columns);
    nf_status status = columns ? NF_OK : nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu columns", dim);
    status = nf_ranks_agree(&f->ranks, status);
    if (status != NF_OK || !columns) {
        nf_release(&f->allocator, columns);
        return status;
    }
    for (size_t first = 0; status == NF_OK && first < f->training_rows; first += step) {
        const size_t left = f->training_rows - first, most = left < step ? left : step, rows = f->ranks.rank == 0 ? most : 0;
        for (size_t i = 0; i < rows; i++)
            f->wanted[i] = nf_fit_training_row(f, first + i);
        status = nf_rows_fetch(&f->data, &f->ranks, &f->exchange, rows, f->wanted, &f->batch);
        if (status == NF_OK)
            add_rows(f, rows, columns);
    }
    for (size_t i = 0; status == NF_OK && i < dim; i++) {
        mean[i] = columns[i].mean;
        sd[i] = nf_moments_sd(&columns[i]);
    }
    f->counted = columns->count;
    nf_release(&f->allocator, columns);
    if (status == NF_OK)
        status = nf_ranks_broadcast(&f->ranks, &f->counted, sizeof f->counted, 0);
    if (status == NF_OK)
        status = nf_ranks_broadcast(&f->ranks, mean, dim * sizeof *mean, 0);
    if (status == NF_OK)
        status = nf_ranks_broadcast(&f->ranks, sd, dim * sizeof *sd, 0);
    return status;
}

nf_status nf_fit_standardize(fit *f) {
    double *parameters = nf_allocate(&f->allocator, f->flow->model.parameter_count * sizeof *parameters);
    nf_status status = parameters ? NF_OK : nf_fail(NF_ERR_MEMORY, f->function, "no memory for %zu parameters", f->flow->model.parameter_count);
    status = nf_ranks_agree(&f->ranks, status);
    if (status == NF_OK && parameters) {
        status = measure_columns(f);
        if (status == NF_OK && f->counted == 0.0 && !f->held_out.given && f->validation_rows > 0) {
            nf_fit_hold_out_none(f); /* the rows that count are all held out: nothing would be learnt */
            status = measure_columns(f);
        }
        if (status == NF_OK)
            nf_units_set(&f->units, f->column_mean, f->column_sd, f->flow, parameters);
    }
    nf_release(&f->allocator, parameters);
    return status;
}
