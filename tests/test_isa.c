/* NFLOW_ISA forces a lesser instruction set, and what is no name of one, or is more than the processor has, does nothing. */
#include <stdlib.h>
#include <string.h>

#include "support.h"

static const char *const names[] = {"base", "v2", "v3", "v4"};
enum { NAMES = 4 };

/* Whether this library was built for it. */
static bool is_built(int rank) {
    static const bool built[NAMES] = {
        true,
#ifdef NF_HAVE_V2
        [1] = true,
#endif
#ifdef NF_HAVE_V3
        [2] = true,
#endif
#ifdef NF_HAVE_V4
        [3] = true,
#endif
    };
    return built[rank];
}

static int rank_of(const char *name) {
    for (int i = 0; i < NAMES; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    ck_abort_msg("%s is the name of no instruction set", name);
    return -1;
}

/* The instruction set of a new flow when NFLOW_ISA is `value`. */
static int rank_with(const char *value, nf_precision precision) {
    nf_flow *flow;
    if (value)
        setenv("NFLOW_ISA", value, 1);
    else
        unsetenv("NFLOW_ISA");
    must(nf_affine_create(2, precision, &flow));
    const int rank = rank_of(nf_flow_isa(flow));
    nf_flow_free(flow);
    return rank;
}

START_TEST(the_environment_decides_within_what_there_is) {
    const nf_precision precision = _i ? NF_SINGLE : NF_DOUBLE;
    const int best = rank_with(NULL, precision);
    ck_assert_int_eq(rank_with("base", precision), 0);
    for (int i = 0; i <= best; i++)
        ck_assert_int_eq(rank_with(names[i], precision), is_built(i) ? i : best);
    for (int i = best + 1; i < NAMES; i++)
        ck_assert_int_eq(rank_with(names[i], precision), best);
    ck_assert_int_eq(rank_with("v385", precision), best);
    ck_assert_int_eq(rank_with("", precision), best);
}
END_TEST

/* Builds that fuse their multiply-adds differ in rounding from those that do not, and by no more. */
START_TEST(all_agree) {
    const nf_precision precision = _i ? NF_SINGLE : NF_DOUBLE;
    enum { ROWS = 200, DIM = 5 };
    random_source random = random_begin(31);
    double *x = new_normals(&random, ROWS * DIM, 1.0), *first = new_numbers(ROWS), *other = new_numbers(ROWS);
    const int best = rank_with(NULL, precision);
    for (int i = 0; i <= best; i++) {
        setenv("NFLOW_ISA", names[i], 1);
        nf_flow *flow = make_realnvp(DIM, 0, precision, NULL);
        must(nf_log_prob(flow, NULL, ROWS, x, NULL, i == 0 ? first : other));
        if (i > 0)
            must_agree(names[i], row_error(other, first, ROWS, 1), _i ? 2e-5 : 1e-13);
        nf_flow_free(flow);
    }
    free(x);
    free(first);
    free(other);
}
END_TEST

/* Workspaces of a flow serve its clone, and all that they hold is laid out for one instruction set. */
START_TEST(a_clone_has_that_of_its_flow) {
    const nf_precision precision = _i ? NF_SINGLE : NF_DOUBLE;
    nf_flow *flow, *copy;
    unsetenv("NFLOW_ISA");
    must(nf_affine_create(2, precision, &flow));
    setenv("NFLOW_ISA", "base", 1);
    must(nf_flow_clone(flow, &copy));
    ck_assert_str_eq(nf_flow_isa(copy), nf_flow_isa(flow));
    nf_flow_free(copy);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("instruction sets");
    TCase *all = tcase_create("all");
    tcase_add_loop_test(all, the_environment_decides_within_what_there_is, 0, 2);
    tcase_add_loop_test(all, all_agree, 0, 2);
    tcase_add_loop_test(all, a_clone_has_that_of_its_flow, 0, 2);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
