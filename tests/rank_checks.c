#include "rank_checks.h"

#include <stdlib.h>
#include <string.h>

const int rank_sizes[RANK_SIZES] = {1, 2, 3, 4, 8};

void all_are(const rank_result *results, int size, nf_status status, const char *text) {
    for (int r = 0; r < size; r++) {
        ck_assert_msg(results[r].status == status, "rank %d of %d: %s (%s), not %s", r, size, nf_status_name(results[r].status), results[r].line,
                      nf_status_name(status));
        ck_assert_msg(!text || strstr(results[r].line, text), "rank %d of %d says: %s", r, size, results[r].line);
    }
}

void fail_each_allocation(const failing_body *b, int without_exchange, size_t least) {
    rank_result results[MOST_RANKS];
    const rank_options options = {.size = 3, .no_exchange = without_exchange, .shards = without_exchange ? 10 : 0};
    size_t calls = 1;
    for (size_t fail_at = 1; fail_at <= calls; fail_at++) {
        memory_counter counter = {0};
        nf_allocator allocator = counted_memory(&counter);
        b->prepare(b->task, &allocator, b->user);
        counter.fail_at = fail_at;
        counter.thread = 0;
        ck_assert(run_ranks(&options, b->body, b->task, results));
        ck_assert_uint_eq(counter.live, 0);
        if (results[0].status == NF_OK)
            break;
        calls = fail_at + 1;
        all_are(results, 3, NF_ERR_MEMORY, "(rank 1 of 3)");
        if (b->check)
            b->check(b->task);
    }
    all_are(results, 3, NF_OK, NULL);
    ck_assert_uint_gt(calls, least);
}

void fail_each_operation(const failing_body *b, int kind, size_t least) {
    rank_result results[MOST_RANKS];
    rank_options options = {.size = 3, .fast = kind == 1, .first_version = kind == 2};
    b->prepare(b->task, NULL, b->user);
    ck_assert(run_ranks(&options, b->body, b->task, results));
    all_are(results, 3, NF_OK, NULL);
    const size_t calls = results[1].calls;
    ck_assert_uint_gt(calls, least);
    for (size_t call = 1; call <= calls; call++) {
        b->prepare(b->task, NULL, b->user);
        options.failing_rank = (int)(call % 3);
        options.failing_call = call;
        ck_assert(run_ranks(&options, b->body, b->task, results));
        for (int r = 0; r < 3; r++)
            ck_assert_msg(results[r].status == NF_ERR_IO, "call %zu, rank %d: %s %s", call, r, nf_status_name(results[r].status), results[r].line);
        if (b->check)
            b->check(b->task);
    }
}

void move_a_little(nf_flow *flow) {
    double *parameters = new_parameters(flow);
    parameters[3] += 1e-9;
    must(nf_set_parameters(flow, parameters));
    free(parameters);
}
