/*
 * The rows that a fit learns from: arrays or a callback, all here or in parts on ranks. A row has one number in all of them: the parts stand one behind the
 * other in the order of the ranks.
 */
#ifndef NF_API_ROWS_H
#define NF_API_ROWS_H

#include "api/ranks.h"

typedef struct nf_rows {
    size_t dim, context_dim;
    size_t own, total;
    const double *x, *context, *weight; /* own rows; weight NULL: all 1 */
    nf_rows_fn read;                    /* in place of x and context */
    void *user;
    size_t *begin; /* size + 1: the number of the first row of each rank; NULL with one rank */
    bool given, weighted; /* on any rank: an array or callback, weights */
    double weight_scale;  /* nf_weight_scale of those of all ranks; they are read with it */
    double least_weight;  /* scaled, below which a weight is 0: a batch of such rows alone has no mean in the flow's precision */
} nf_rows;

/* Rows that were asked for, in the order of the asking. */
typedef struct nf_row_buffer {
    size_t capacity;
    double *x, *context, *weight;
} nf_row_buffer;

/* What a fetch over ranks needs; grows. */
typedef struct nf_row_exchange {
    nf_row_buffer served;
    double *sent, *received;
    size_t *place, *wanted, *counts; /* counts: 4 for each rank */
    size_t sent_size, received_size, place_size, wanted_size;
} nf_row_exchange;

/* Collective: learns the parts of the other ranks. */
nf_status nf_rows_begin(nf_rows *rows, nf_ranks *ranks);
void nf_rows_end(nf_rows *rows, const nf_allocator *allocator);

nf_status nf_row_buffer_make(nf_row_buffer *buffer, const nf_ranks *ranks, const nf_rows *rows, size_t capacity); /* of this rank alone */
void nf_row_buffer_free(nf_row_buffer *buffer, const nf_allocator *allocator);

/* `count` rows by their numbers into a buffer that has room. Own rows are numbered from 0 here. */
nf_status nf_rows_read(const nf_rows *rows, size_t count, const size_t *row, double *x, double *context, double *weight);

/* Collective: every rank gets the rows that it asks for, wherever they are. With one rank it reads. */
nf_status nf_rows_fetch(const nf_rows *rows, nf_ranks *ranks, nf_row_exchange *exchange, size_t count, const size_t *row, nf_row_buffer *out);
void nf_row_exchange_free(nf_row_exchange *exchange, const nf_allocator *allocator);

#endif
