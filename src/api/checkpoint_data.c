/* The sum over the data of a fit, x, context and weights, the held-out ones too: by it a checkpoint knows the data that it was begun with. */
#include "api/fit.h"
#include "core/checksum.h"

enum column { COLUMN_X, COLUMN_CONTEXT, COLUMN_WEIGHT };

/* This rank's numbers of one kind. */
static nf_status mix_own(nf_fitting *f, const nf_rows *rows, enum column column, uint64_t *sum) {
    const size_t at_once = f->batch.capacity;
    for (size_t first = 0; first < rows->own; first += at_once) {
        const size_t left = rows->own - first, count = left < at_once ? left : at_once;
        for (size_t i = 0; i < count; i++)
            f->wanted[i] = first + i;
        const nf_status status = nf_rows_read(rows, count, f->wanted, f->batch.x, f->batch.context, f->batch.weight);
        if (status != NF_OK)
            return status;
        if (column == COLUMN_X)
            *sum = nf_mix_numbers(*sum, f->batch.x, count * rows->dim);
        else if (column == COLUMN_CONTEXT)
            *sum = nf_mix_numbers(*sum, f->batch.context, count * rows->context_dim);
        else
            *sum = nf_mix_numbers(*sum, f->batch.weight, count);
    }
    return NF_OK;
}

/* The sum goes from rank to rank, so that it is that of the data in one place. */
static nf_status mix_rows(nf_fitting *f, const nf_rows *rows, enum column column, uint64_t *sum) {
    const size_t columns = column == COLUMN_X ? rows->dim : column == COLUMN_CONTEXT ? rows->context_dim : 1;
    const bool there = rows->given && (column != COLUMN_WEIGHT || rows->weighted);
    nf_status failed = NF_OK;
    *sum = nf_mix(*sum, there ? rows->total * columns : 0);
    for (size_t q = 0; there && columns && q < f->ranks.size; q++) {
        if (q == f->ranks.rank)
            failed = mix_own(f, rows, column, sum);
        const nf_status status = nf_ranks_broadcast(&f->ranks, sum, sizeof *sum, q);
        if (status != NF_OK)
            return status;
    }
    return nf_ranks_agree(&f->ranks, failed);
}

nf_status nf_checkpoint_sum_data(nf_fitting *f) {
    const nf_rows *const parts[] = {&f->data, &f->held_out};
    nf_status status = NF_OK;
    f->data_sum = 1;
    for (size_t i = 0; i < 2; i++) {
        static const enum column data_order[] = {COLUMN_X, COLUMN_CONTEXT, COLUMN_WEIGHT};
        for (size_t k = 0; status == NF_OK && k < 3; k++)
            status = mix_rows(f, parts[i], data_order[k], &f->data_sum);
    }
    return status;
}
