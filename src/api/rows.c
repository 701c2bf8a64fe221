#include "api/rows.h"

#include <string.h>

#include "api/weights.h"

/* ---- parts */

static size_t rank_of(const nf_rows *rows, size_t ranks, size_t row) {
    size_t low = 0, high = ranks; /* begin[low] <= row < begin[high] */
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (rows->begin[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

nf_status nf_rows_begin(nf_rows *rows, nf_ranks *ranks) {
    const bool given = rows->x || rows->read;
    rows->total = rows->own;
    rows->given = given;
    rows->weighted = rows->weight != NULL;
    double largest = rows->weight ? nf_largest_weight(rows->own, rows->weight) : rows->own > 0; /* 1 each, beside ranks that have weights */
    rows->weight_scale = nf_weight_scale(largest);
    if (ranks->size == 1)
        return NF_OK;
    rows->begin = nf_allocate(&ranks->allocator, (ranks->size + 1) * sizeof *rows->begin);
    double *all = nf_allocate(&ranks->allocator, 4 * ranks->size * sizeof *all);
    nf_status status = NF_OK;
    if (!rows->begin || !all)
        status = nf_fail(NF_ERR_MEMORY, ranks->function, "no memory for the parts of %zu ranks", ranks->size);
    status = nf_ranks_agree(ranks, status);
    if (status == NF_OK)
        status = nf_ranks_gather(ranks, (double[]){(double)rows->own, given, rows->weight && rows->own, largest}, all, 4);
    rows->total = 0;
    rows->given = rows->weighted = false;
    for (size_t q = 0; status == NF_OK && rows->begin && all && q < ranks->size; q++) {
        rows->begin[q] = rows->total;
        rows->total += (size_t)all[4 * q];
        rows->given = rows->given || all[4 * q + 1] != 0.0;
        rows->weighted = rows->weighted || all[4 * q + 2] != 0.0;
        largest = all[4 * q + 3] > largest ? all[4 * q + 3] : largest;
        rows->begin[q + 1] = rows->total;
    }
    rows->weight_scale = nf_weight_scale(largest);
    nf_release(&ranks->allocator, all);
    return status;
}

void nf_rows_end(nf_rows *rows, const nf_allocator *allocator) {
    nf_release(allocator, rows->begin);
    rows->begin = NULL;
}

/* ---- reading */

nf_status nf_row_buffer_make(nf_row_buffer *b, const nf_ranks *ranks, const nf_rows *rows, size_t capacity) {
    if (capacity <= b->capacity)
        return NF_OK;
    nf_row_buffer_free(b, &ranks->allocator);
    size_t x, context;
    if (nf_size_multiply(capacity, rows->dim * sizeof(double), &x) && nf_size_multiply(capacity, rows->context_dim * sizeof(double), &context)) {
        b->x = nf_allocate(&ranks->allocator, x);
        b->context = nf_allocate(&ranks->allocator, context);
        b->weight = nf_allocate(&ranks->allocator, capacity * sizeof(double));
    }
    if (!b->x || !b->context || !b->weight) {
        nf_row_buffer_free(b, &ranks->allocator);
        return nf_fail(NF_ERR_MEMORY, ranks->function, "no memory for batches of %zu rows", capacity);
    }
    b->capacity = capacity;
    return NF_OK;
}

void nf_row_buffer_free(nf_row_buffer *b, const nf_allocator *allocator) {
    nf_release(allocator, b->weight);
    nf_release(allocator, b->context);
    nf_release(allocator, b->x);
    memset(b, 0, sizeof *b);
}

static nf_status call_reader(const nf_rows *rows, size_t count, const size_t *row, double *x, double *context) {
    nf_clear_error();
    const nf_status status = NF_CALL_OUT(rows->read(rows->user, count, row, x, rows->context_dim ? context : NULL));
    return nf_fail_of(status, "nf_fit", "config->read");
}

static void read_weights(const nf_rows *rows, size_t count, const size_t *row, double *weight) {
    for (size_t i = 0; i < count; i++) {
        const double scaled = (rows->weight ? rows->weight[row[i]] : 1.0) * rows->weight_scale;
        weight[i] = scaled < rows->least_weight ? 0.0 : scaled;
    }
}

nf_status nf_rows_read(const nf_rows *rows, size_t count, const size_t *row, double *x, double *context, double *weight) {
    const size_t dim = rows->dim, context_dim = rows->context_dim;
    if (weight)
        read_weights(rows, count, row, weight);
    if (rows->read)
        return count ? call_reader(rows, count, row, x, context) : NF_OK;
    for (size_t i = 0; i < count; i++) {
        memcpy(x + i * dim, rows->x + row[i] * dim, dim * sizeof *x);
        if (context_dim)
            memcpy(context + i * context_dim, rows->context + row[i] * context_dim, context_dim * sizeof *context);
    }
    return NF_OK;
}

/* ---- rows of other ranks */

/* Room for `wanted` things of 8 bytes. */
static void *grow(const nf_ranks *ranks, void *memory, size_t *size, size_t wanted) {
    if (memory && wanted <= *size)
        return memory;
    size_t bytes;
    nf_release(&ranks->allocator, memory);
    memory = nf_size_multiply(wanted, sizeof(double), &bytes) ? nf_allocate(&ranks->allocator, bytes) : NULL;
    *size = memory ? wanted : 0;
    return memory;
}

static nf_status no_memory(const nf_ranks *ranks, size_t count) {
    return nf_fail(NF_ERR_MEMORY, ranks->function, "no memory to exchange %zu rows", count);
}

_Static_assert(sizeof(size_t) <= sizeof(double), "places are as large as numbers, or smaller");

void nf_row_exchange_free(nf_row_exchange *e, const nf_allocator *allocator) {
    nf_row_buffer_free(&e->served, allocator);
    nf_release(allocator, e->counts);
    nf_release(allocator, e->wanted);
    nf_release(allocator, e->place);
    nf_release(allocator, e->received);
    nf_release(allocator, e->sent);
    memset(e, 0, sizeof *e);
}

/* Requests grouped by the rank that has the row; place[i] is where the i-th of them goes in the answer to the caller. */
static void sort_requests(const nf_rows *rows, const nf_ranks *ranks, nf_row_exchange *e, size_t count, const size_t *row) {
    size_t *asked = e->counts, *next = e->counts + ranks->size;
    memset(asked, 0, ranks->size * sizeof *asked);
    for (size_t i = 0; i < count; i++)
        asked[rank_of(rows, ranks->size, row[i])]++;
    for (size_t q = 0, sum = 0; q < ranks->size; sum += asked[q], q++)
        next[q] = sum;
    for (size_t i = 0; i < count; i++) {
        const size_t owner = rank_of(rows, ranks->size, row[i]), at = next[owner]++;
        e->place[at] = i;
        e->sent[at] = (double)(row[i] - rows->begin[owner]);
    }
}

static size_t sum_of(const size_t *counts, size_t size) {
    size_t sum = 0;
    for (size_t q = 0; q < size; q++)
        sum += counts[q];
    return sum;
}

/* How many rows every rank wants from this one. */
static nf_status count_served(nf_ranks *ranks, nf_row_exchange *e) {
    const size_t *asked = e->counts;
    size_t *served = e->counts + ranks->size, *ones = e->counts + 2 * ranks->size;
    double *out = e->received, *in = e->received + ranks->size;
    for (size_t q = 0; q < ranks->size; q++) {
        out[q] = (double)asked[q];
        ones[q] = 1;
    }
    const nf_status status = nf_ranks_exchange(ranks, out, ones, in, ones);
    for (size_t q = 0; status == NF_OK && q < ranks->size; q++)
        served[q] = (size_t)in[q];
    return status;
}

/* The rows that were asked for, x, context and weight of each one behind the other. A failure is told by the agreement that follows. */
static nf_status serve(const nf_rows *rows, nf_row_exchange *e, size_t count) {
    const size_t dim = rows->dim, context_dim = rows->context_dim, columns = dim + context_dim + 1;
    for (size_t i = 0; i < count; i++)
        e->wanted[i] = (size_t)e->received[i];
    const nf_status status = nf_rows_read(rows, count, e->wanted, e->served.x, e->served.context, e->served.weight);
    for (size_t i = 0; i < count; i++) {
        double *to = e->sent + i * columns;
        memcpy(to, e->served.x + i * dim, dim * sizeof *to);
        if (context_dim)
            memcpy(to + dim, e->served.context + i * context_dim, context_dim * sizeof *to);
        to[dim + context_dim] = e->served.weight[i];
    }
    return status;
}

static void take_rows(const nf_rows *rows, const nf_row_exchange *e, size_t count, nf_row_buffer *out) {
    const size_t dim = rows->dim, context_dim = rows->context_dim, columns = dim + context_dim + 1;
    for (size_t i = 0; i < count; i++) {
        const double *from = e->received + i * columns;
        memcpy(out->x + e->place[i] * dim, from, dim * sizeof *from);
        if (context_dim)
            memcpy(out->context + e->place[i] * context_dim, from + dim, context_dim * sizeof *from);
        out->weight[e->place[i]] = from[dim + context_dim];
    }
}

static void scale_counts(size_t *to, const size_t *from, size_t size, size_t columns) {
    for (size_t q = 0; q < size; q++)
        to[q] = from[q] * columns;
}

/* Memory for the requests of this rank. */
static nf_status make_room(const nf_ranks *ranks, nf_row_exchange *e, size_t count) {
    if (!e->counts)
        e->counts = nf_allocate(&ranks->allocator, 4 * ranks->size * sizeof *e->counts);
    e->place = grow(ranks, e->place, &e->place_size, count);
    e->sent = grow(ranks, e->sent, &e->sent_size, count);
    e->received = grow(ranks, e->received, &e->received_size, 2 * ranks->size);
    return e->counts && e->place && e->sent && e->received ? NF_OK : no_memory(ranks, count);
}

/* And for those of others, and the rows both ways, once it is known how many come and go. The requests still lie in `sent`. */
static nf_status make_room_to_serve(const nf_rows *rows, const nf_ranks *ranks, nf_row_exchange *e, size_t count, size_t served) {
    size_t in;
    if (!nf_size_multiply(count, rows->dim + rows->context_dim + 1, &in))
        return no_memory(ranks, count);
    e->received = grow(ranks, e->received, &e->received_size, in > served ? in : served);
    e->wanted = grow(ranks, e->wanted, &e->wanted_size, served);
    if (!e->received || !e->wanted)
        return no_memory(ranks, count + served);
    return nf_row_buffer_make(&e->served, ranks, rows, served);
}

static nf_status answer(const nf_rows *rows, const nf_ranks *ranks, nf_row_exchange *e, size_t served) {
    size_t out;
    if (!nf_size_multiply(served, rows->dim + rows->context_dim + 1, &out))
        return no_memory(ranks, served);
    e->sent = grow(ranks, e->sent, &e->sent_size, out);
    return e->sent ? serve(rows, e, served) : no_memory(ranks, served);
}

nf_status nf_rows_fetch(const nf_rows *rows, nf_ranks *ranks, nf_row_exchange *e, size_t count, const size_t *row, nf_row_buffer *out) {
    if (ranks->size == 1)
        return nf_rows_read(rows, count, row, out->x, out->context, out->weight);
    const size_t size = ranks->size, columns = rows->dim + rows->context_dim + 1;
    nf_status status = nf_ranks_agree(ranks, make_room(ranks, e, count));
    if (status != NF_OK)
        return status;
    const size_t *asked = e->counts, *serves = e->counts + size;
    size_t *to = e->counts + 2 * size, *from = e->counts + 3 * size;
    sort_requests(rows, ranks, e, count, row);
    status = count_served(ranks, e);
    if (status != NF_OK)
        return status;
    const size_t served = sum_of(serves, size);
    status = nf_ranks_agree(ranks, make_room_to_serve(rows, ranks, e, count, served));
    if (status == NF_OK)
        status = nf_ranks_exchange(ranks, e->sent, asked, e->received, serves);
    if (status == NF_OK)
        status = nf_ranks_agree(ranks, answer(rows, ranks, e, served));
    if (status != NF_OK)
        return status;
    scale_counts(to, serves, size, columns);
    scale_counts(from, asked, size, columns);
    status = nf_ranks_exchange(ranks, e->sent, to, e->received, from);
    if (status == NF_OK)
        take_rows(rows, e, count, out);
    return status;
}
