/* Aligned memory, checked sizes, the bump arena, and arrays that are placed apart. */
#include <stdint.h>
#include <string.h>

#include "core/memory.h"
#include "support.h"

START_TEST(blocks_are_aligned_whatever_the_allocator_gives) {
    memory_counter counter = {.calls = 0};
    const nf_allocator counted = counted_memory(&counter), standard = nf_allocator_or_default(NULL), *const both[] = {&counted, &standard};
    for (size_t size = 0; size < 300; size++)
        for (int k = 0; k < 2; k++) {
            unsigned char *block = nf_allocate(both[k], size), *zeros = nf_allocate_zeroed(both[k], size);
            ck_assert(block && (uintptr_t)block % 64 == 0 && zeros && (uintptr_t)zeros % 64 == 0);
            for (size_t i = 0; i < size; i++)
                ck_assert_uint_eq(zeros[i], 0);
            memset(block, 255, size);
            nf_release(both[k], block);
            nf_release(both[k], zeros);
        }
    nf_release(&counted, NULL);
    ck_assert(counter.live == 0 && !counter.wrong);
    ck_assert_ptr_null(nf_allocate(&standard, SIZE_MAX - 70));
}
END_TEST

START_TEST(sizes_that_do_not_fit_are_told) {
    size_t out;
    ck_assert(nf_size_add(SIZE_MAX - 3, 3, &out) && out == SIZE_MAX);
    ck_assert(!nf_size_add(SIZE_MAX - 3, 4, &out) && out == SIZE_MAX);
    ck_assert(nf_size_multiply(SIZE_MAX / 3, 3, &out) && out == SIZE_MAX / 3 * 3);
    ck_assert(!nf_size_multiply(SIZE_MAX / 3 + 1, 3, &out) && out == SIZE_MAX);
    ck_assert(nf_size_multiply(0, SIZE_MAX, &out) && out == 0);
}
END_TEST

START_TEST(an_arena_says_what_would_have_done) {
    static _Alignas(64) unsigned char memory[256];
    nf_arena arena;
    nf_arena_init(&arena, memory, sizeof memory);
    ck_assert_ptr_eq(nf_arena_take(&arena, 1), memory);
    ck_assert_ptr_eq(nf_arena_take(&arena, 65), memory + 64);
    ck_assert_ptr_null(nf_arena_take(&arena, 65));
    ck_assert_uint_eq(arena.wanted, 320);
    ck_assert_ptr_eq(nf_arena_take(&arena, 64), memory + 192);
    ck_assert_ptr_eq(nf_arena_take(&arena, 0), memory + 256);
    ck_assert_ptr_null(nf_arena_take(&arena, SIZE_MAX));
    ck_assert_uint_eq(arena.wanted, SIZE_MAX);
}
END_TEST

/* Within a page, aligned, and as far from the other array as was asked, but for whole pages and less than an alignment. */
START_TEST(arrays_are_placed_apart) {
    static _Alignas(64) unsigned char memory[4 * NF_PAGE];
    for (size_t other = 0; other < 2 * NF_PAGE; other += 64)
        for (size_t at = 0; at < NF_PAGE; at += 448)
            for (size_t distance = 0; distance < NF_PAGE; distance += 455) {
                const unsigned char *const first = memory + at, *const got = nf_place_apart(memory + at, memory + other, distance);
                ck_assert(got >= first && got < first + NF_PAGE && (uintptr_t)got % 64 == 0);
                const size_t apart = ((uintptr_t)got - (uintptr_t)(memory + other)) % NF_PAGE;
                ck_assert(apart <= distance && apart + 64 > distance);
            }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("memory");
    TCase *all = tcase_create("all");
    tcase_add_test(all, blocks_are_aligned_whatever_the_allocator_gives);
    tcase_add_test(all, sizes_that_do_not_fit_are_told);
    tcase_add_test(all, an_arena_says_what_would_have_done);
    tcase_add_test(all, arrays_are_placed_apart);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
