#include "api/shards.h"

#include <string.h>

/* Status, bad rows, finite rows, evaluations; the sums of a rank's shards follow. */
enum { HEADER = 4, SUMS = sizeof(nf_shard_sum) / sizeof(double), TAIL = SUMS + 4 };

/* ---- which shards and rows are whose */

static size_t first_shard(size_t shards, size_t rank, size_t ranks) { return shards * rank / ranks; }
static size_t rank_of_shard(size_t shard, size_t shards, size_t ranks) { return ((shard + 1) * ranks - 1) / shards; }

nf_plan nf_plan_of(size_t rows, size_t tile_rows, size_t shards, size_t rank, size_t ranks) {
    nf_plan p = {.rows = rows, .tile_rows = tile_rows, .tiles = nf_tiles_of(rows, tile_rows)};
    p.shards = p.tiles < shards ? p.tiles : shards;
    p.first = first_shard(p.shards, rank, ranks);
    p.last = first_shard(p.shards, rank + 1, ranks);
    return p;
}

static size_t rows_of_shards(const nf_plan *p, size_t first, size_t last) {
    size_t tiles = 0;
    for (size_t s = first; s < last; s++)
        tiles += (p->tiles - s + p->shards - 1) / p->shards;
    const size_t end = (p->tiles - 1) % p->shards; /* the shard of the last tile, which need not be full */
    return tiles * p->tile_rows - (first <= end && end < last ? p->tiles * p->tile_rows - p->rows : 0);
}

size_t nf_plan_own_rows(const nf_plan *p) { return p->first < p->last ? rows_of_shards(p, p->first, p->last) : 0; }

static size_t wave_end(const nf_plan *p, size_t first) { return p->last - first < GRADIENT_SLOTS ? p->last : first + GRADIENT_SLOTS; }

void nf_plan_places(const nf_plan *p, size_t *place) {
    for (size_t first = p->first; first < p->last; first = wave_end(p, first))
        for (size_t turn = 0; turn < p->tiles; turn += p->shards)
            for (size_t s = first; s < wave_end(p, first) && turn + s < p->tiles; s++)
                for (size_t row = (turn + s) * p->tile_rows, i = 0; i < p->tile_rows && row + i < p->rows; i++)
                    *place++ = row + i;
}

/* ---- the tree over the shards of a group */

static size_t group_count(size_t shards) { return shards < GRADIENT_SLOTS ? shards : GRADIENT_SLOTS; }
static size_t group_begin(size_t shards, size_t group) { return shards * group / group_count(shards); }

/* Where a node's left half ends: after the largest power of two that is less than its size. */
static size_t middle_of(size_t low, size_t high) {
    size_t half = 1;
    while (2 * half < high - low)
        half *= 2;
    return low + half;
}

/* Largest nodes that lie whole within shards first .. last - 1. */
static size_t count_nodes(size_t low, size_t high, size_t first, size_t last) {
    if (high <= first || low >= last)
        return 0;
    if (first <= low && high <= last)
        return 1;
    const size_t middle = middle_of(low, high);
    return count_nodes(low, middle, first, last) + count_nodes(middle, high, first, last);
}

static size_t count_roots(size_t shards, size_t rank, size_t ranks) {
    const size_t first = first_shard(shards, rank, ranks), last = first_shard(shards, rank + 1, ranks);
    size_t roots = 0;
    for (size_t g = 0; g < group_count(shards); g++)
        roots += count_nodes(group_begin(shards, g), group_begin(shards, g + 1), first, last);
    return roots;
}

/* ---- memory */

static size_t bits_of(size_t n) {
    size_t bits = 0;
    for (; n > 0; n /= 2)
        bits++;
    return bits;
}

/* Numbers of eight bytes that hold a slice. */
static size_t slice_numbers(const nf_reducer *r, size_t rank) {
    const size_t begin = rank * r->slice, left = begin < r->count ? r->count - begin : 0;
    return ((left < r->slice ? left : r->slice) * r->engine->real_size + sizeof(double) - 1) / sizeof(double);
}

static bool allocate_exchange(nf_reducer *r) {
    const nf_allocator *a = &r->ranks->allocator;
    const size_t size = r->ranks->size, slice = r->slice * r->engine->real_size, most = size * r->most_roots;
    size_t out, in;
    const size_t arriving = most < r->shards ? most : r->shards;
    /* The same memory takes the slices of the sum, one from each rank. */
    if (!nf_size_multiply(slice * size, r->most_roots ? r->most_roots : 1, &out) || !nf_size_multiply(slice, arriving > size ? arriving : size, &in))
        return false;
    r->send = nf_allocate_zeroed(a, out);
    r->receive = nf_allocate(a, in);
    r->send_counts = nf_allocate(a, size * sizeof(size_t));
    r->receive_counts = nf_allocate(a, size * sizeof(size_t));
    return r->send && r->receive && r->send_counts && r->receive_counts;
}

nf_status nf_reducer_make(nf_reducer *r, nf_ranks *ranks, const nf_engine *engine, size_t parameters, size_t rows) {
    const nf_allocator *a = &ranks->allocator;
    const nf_plan plan = nf_plan_of(rows, engine->tile_rows, ranks->shards, ranks->rank, ranks->size);
    const size_t own = (plan.shards + ranks->size - 1) / ranks->size, depth = bits_of((plan.shards - 1) / GRADIENT_SLOTS) + 1;
    const size_t unit = sizeof(double) / engine->real_size, header = (HEADER + SUMS * own) * sizeof(double);
    *r = (nf_reducer){.ranks = ranks, .engine = engine, .count = parameters, .shards = plan.shards};
    r->slice = ((parameters + ranks->size - 1) / ranks->size + unit - 1) / unit * unit;
    r->most_roots = own < GRADIENT_SLOTS + 2 * depth ? own : GRADIENT_SLOTS + 2 * depth;
    r->node_count = plan.shards > GRADIENT_SLOTS ? r->most_roots + depth : 0;
    size_t nodes;
    bool made = nf_size_multiply(parameters * engine->real_size, r->node_count, &nodes);
    r->roots = nf_allocate(a, (r->most_roots + 1) * sizeof *r->roots);
    r->header = nf_allocate(a, header);
    made = made && r->roots && r->header;
    if (made && r->node_count)
        made = (r->nodes = nf_allocate(a, nodes)) != NULL;
    if (made && ranks->size > 1)
        made = (r->headers = nf_allocate(a, ranks->size * header)) != NULL;
    if (made && ranks->fast)
        made = (r->values = nf_allocate(a, (parameters + TAIL) * sizeof(double))) != NULL;
    else if (made && ranks->size > 1)
        made = allocate_exchange(r);
    return made ? NF_OK : nf_fail(NF_ERR_MEMORY, ranks->function, "no memory to sum gradients of %zu parameters", parameters);
}

void nf_reducer_free(nf_reducer *r) {
    if (!r->ranks)
        return;
    const nf_allocator *a = &r->ranks->allocator;
    nf_release(a, r->receive_counts);
    nf_release(a, r->send_counts);
    nf_release(a, r->values);
    nf_release(a, r->receive);
    nf_release(a, r->send);
    nf_release(a, r->headers);
    nf_release(a, r->header);
    nf_release(a, r->roots);
    nf_release(a, r->nodes);
}

/* ---- this rank's part */

typedef struct part {
    nf_reducer *reducer;
    const nf_plan *plan;
    nf_wave_fn run;
    void *user;
    const nf_gradient *gradient;
    nf_shard_sum *sums;
    nf_step_sum *step;
    nf_status status;
    nf_wave wave;  /* the last that was run */
    bool gathered; /* its slots, which are all, are summed already */
    size_t roots;
} part;

/* A shard's gradient; they are asked for in order, and computed a wave at a time. After a failure the slots hold anything. */
static void *shard_gradient(part *p, size_t shard) {
    if (shard >= p->wave.first + p->wave.count) {
        const size_t end = wave_end(p->plan, shard);
        const bool all = p->reducer->ranks->size == 1 && p->plan->shards <= GRADIENT_SLOTS;
        p->wave = (nf_wave){.first = shard,
                            .count = end - shard,
                            .shards = p->plan->shards,
                            .row = p->wave.row + p->wave.rows,
                            .rows = rows_of_shards(p->plan, shard, end),
                            .gathered = all ? &p->gathered : NULL};
        if (p->status == NF_OK)
            p->status = p->run(p->user, &p->wave, p->sums + (shard - p->plan->first), p->step);
    }
    return (unsigned char *)p->gradient->slots + (shard - p->wave.first) * p->gradient->stride * p->reducer->engine->real_size;
}

static void *node_at(const nf_reducer *r, size_t index) { return r->nodes + index * r->count * r->engine->real_size; }

/* The sum over a node into the memory of node `at`; those after it are free. */
static void sum_node(part *p, size_t low, size_t high, size_t at) {
    nf_reducer *r = p->reducer;
    if (high - low == 1) {
        memcpy(node_at(r, at), shard_gradient(p, low), r->count * r->engine->real_size);
        return;
    }
    const size_t middle = middle_of(low, high);
    sum_node(p, low, middle, at);
    const void *right;
    if (high - middle == 1) {
        right = shard_gradient(p, middle);
    } else {
        sum_node(p, middle, high, at + 1);
        right = node_at(r, at + 1);
    }
    r->engine->add_scaled(node_at(r, at), right, 1.0, r->count);
}

static void sum_own(part *p, size_t low, size_t high) {
    if (high <= p->plan->first || low >= p->plan->last)
        return;
    if (p->plan->first <= low && high <= p->plan->last) {
        if (p->plan->shards <= GRADIENT_SLOTS) { /* each is a group, and stays where it is */
            p->reducer->roots[p->roots++] = shard_gradient(p, low);
            return;
        }
        sum_node(p, low, high, p->roots);
        p->reducer->roots[p->roots] = node_at(p->reducer, p->roots);
        p->roots++;
        return;
    }
    const size_t middle = middle_of(low, high);
    sum_own(p, low, middle);
    sum_own(p, middle, high);
}

static void add_sums(nf_shard_sum *total, const nf_shard_sum *sums, size_t count) {
    for (size_t i = 0; i < count; i++) {
        total->loss += sums[i].loss;
        total->weight += sums[i].weight;
        total->rows_weight += sums[i].rows_weight;
    }
}

/* ---- over the ranks, in a fixed order */

/* The sums of all ranks, and whether all of them have come this far. */
static nf_status share_sums(part *p, nf_step_sum *sum) {
    nf_reducer *r = p->reducer;
    nf_ranks *ranks = r->ranks;
    const size_t shards = p->plan->shards, length = HEADER + SUMS * ((shards + ranks->size - 1) / ranks->size);
    const double own[HEADER] = {(double)p->status, p->step->bad_rows, p->step->finite_rows, p->step->evaluations};
    memcpy(r->header, own, sizeof own);
    nf_status status = nf_ranks_gather(ranks, r->header, r->headers, length);
    if (status != NF_OK)
        return status;
    memset(sum, 0, sizeof *sum);
    for (size_t q = 0; q < ranks->size; q++) {
        const double *h = r->headers + q * length;
        if (h[0] != 0.0)
            return nf_ranks_agree(ranks, p->status);
        sum->bad_rows += h[1];
        sum->finite_rows += h[2];
        sum->evaluations += h[3];
        add_sums(&sum->total, (const nf_shard_sum *)(const void *)(h + HEADER),
                 first_shard(shards, q + 1, ranks->size) - first_shard(shards, q, ranks->size));
    }
    return NF_OK;
}

/* What a rank has of each slice, to the rank whose slice it is. */
static nf_status exchange_slices(part *p) {
    nf_reducer *r = p->reducer;
    const size_t size = r->ranks->size, real = r->engine->real_size, mine = slice_numbers(r, r->ranks->rank);
    double *to = r->send;
    for (size_t q = 0; q < size; q++) {
        const size_t begin = q * r->slice, numbers = slice_numbers(r, q), left = begin < r->count ? r->count - begin : 0;
        for (size_t i = 0; i < p->roots && left > 0; i++, to += numbers)
            memcpy(to, (const unsigned char *)r->roots[i] + begin * real, (left < r->slice ? left : r->slice) * real);
        r->send_counts[q] = p->roots * numbers;
        r->receive_counts[q] = count_roots(p->plan->shards, q, size) * mine;
    }
    return nf_ranks_exchange(r->ranks, r->send, r->send_counts, r->receive, r->receive_counts);
}

/* The slice of a node, summed in the memory of what has arrived: nodes in order, `next` the first that is not used yet. */
static double *finish_node(const nf_reducer *r, size_t shards, size_t low, size_t high, double **next) {
    const size_t ranks = r->ranks->size, numbers = slice_numbers(r, r->ranks->rank);
    if (rank_of_shard(low, shards, ranks) == rank_of_shard(high - 1, shards, ranks)) {
        double *node = *next;
        *next += numbers;
        return node;
    }
    const size_t middle = middle_of(low, high);
    double *left = finish_node(r, shards, low, middle, next), *right = finish_node(r, shards, middle, high, next);
    r->engine->add_scaled(left, right, 1.0, numbers * sizeof(double) / r->engine->real_size);
    return left;
}

/* This rank's slice of the whole sum, and then all slices. */
static nf_status finish_slices(part *p, double scale, nf_gradient *g) {
    nf_reducer *r = p->reducer;
    const size_t shards = p->plan->shards, real = r->engine->real_size, slice = r->slice * real / sizeof(double);
    const size_t reals = slice_numbers(r, r->ranks->rank) * sizeof(double) / real;
    double *next = r->receive, *result = r->send; /* which was sent */
    memset(result, 0, slice * sizeof *result);
    for (size_t group = 0; group < group_count(shards); group++)
        r->engine->add_scaled(result, finish_node(r, shards, group_begin(shards, group), group_begin(shards, group + 1), &next), 1.0, reals);
    r->engine->scale(result, scale, reals);
    const nf_status status = nf_ranks_gather(r->ranks, result, r->receive, slice);
    if (status == NF_OK)
        memcpy(nf_gradient_overwrite(g), r->receive, r->count * real);
    return status;
}

static nf_status reduce_fixed(part *p, nf_gradient *g, nf_step_sum *sum) {
    nf_status status = share_sums(p, sum);
    if (status != NF_OK || !(sum->total.weight > 0.0))
        return status;
    status = exchange_slices(p);
    return status == NF_OK ? finish_slices(p, 1.0 / sum->total.weight, g) : status;
}

/* ---- over the ranks, in whatever order allreduce takes */

static nf_status reduce_fast(part *p, nf_gradient *g, nf_step_sum *sum) {
    nf_reducer *r = p->reducer;
    const nf_step_sum *own = p->step;
    nf_shard_sum total = {0, 0, 0};
    memset(r->values, 0, r->count * sizeof *r->values);
    for (size_t i = 1; i < p->roots; i++)
        r->engine->add_scaled(r->roots[0], r->roots[i], 1.0, r->count);
    if (p->roots > 0 && p->status == NF_OK)
        r->engine->to_double(r->values, r->roots[0], r->count);
    if (p->status == NF_OK)
        add_sums(&total, p->sums, p->plan->last - p->plan->first);
    double *tail = r->values + r->count;
    const double numbers[TAIL] = {total.loss, total.weight, total.rows_weight, own->bad_rows, own->finite_rows, own->evaluations, p->status != NF_OK};
    memcpy(tail, numbers, sizeof numbers);
    const nf_status status = nf_ranks_sum(r->ranks, r->values, r->count + TAIL);
    if (status != NF_OK)
        return status;
    if (tail[TAIL - 1] != 0.0)
        return nf_ranks_agree(r->ranks, p->status);
    *sum = (nf_step_sum){{tail[0], tail[1], tail[2]}, tail[3], tail[4], tail[5]};
    const double scale = sum->total.weight > 0.0 ? 1.0 / sum->total.weight : 0.0;
    for (size_t i = 0; i < r->count; i++)
        r->values[i] *= scale;
    r->engine->from_double(nf_gradient_overwrite(g), r->values, r->count);
    return NF_OK;
}

static nf_status reduce_alone(part *p, nf_gradient *g, nf_step_sum *sum) {
    if (p->status != NF_OK)
        return p->status;
    *sum = *p->step;
    add_sums(&sum->total, p->sums, p->plan->shards);
    if (!(sum->total.weight > 0.0))
        return NF_OK;
    for (size_t i = 0; i < p->roots && !p->gathered; i++)
        nf_gradient_add(g, p->reducer->roots[i]);
    nf_gradient_scale(g, 1.0 / sum->total.weight);
    return NF_OK;
}

nf_status nf_reduce(nf_reducer *r, const nf_plan *plan, nf_wave_fn run, void *user, nf_gradient *gradient, nf_step_sum *sum) {
    nf_step_sum step = {{0, 0, 0}, 0, 0, 0};
    part p = {.reducer = r,
              .plan = plan,
              .run = run,
              .user = user,
              .gradient = gradient,
              .sums = (nf_shard_sum *)(void *)(r->header + HEADER),
              .step = &step,
              .wave = {.first = plan->first}};
    nf_gradient_clear(gradient);
    memset(p.sums, 0, (plan->last - plan->first) * sizeof *p.sums);
    for (size_t g = 0; g < group_count(plan->shards); g++)
        sum_own(&p, group_begin(plan->shards, g), group_begin(plan->shards, g + 1));
    const nf_status status = r->ranks->size == 1 ? reduce_alone(&p, gradient, sum) : r->ranks->fast ? reduce_fast(&p, gradient, sum)
                                                                                                    : reduce_fixed(&p, gradient, sum);
    return status;
}
