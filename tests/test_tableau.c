/* engine-test: the Runge-Kutta tableaux satisfy their order conditions (Butcher 1963; Hairer, Norsett & Wanner 1993, II.2). */
#include "checks.h"
#include <math.h>

#include "engine/ode/tableau.h"

#define MOST 8 /* order */

/* A rooted tree as the levels of its nodes in depth-first order; all trees of an order are the canonical level sequences. */
typedef struct tree {
    int order, level[MOST];
} tree;

/* The next canonical sequence (Beyer & Hedetniemi 1980); false after the last, the bush. */
static bool next_tree(tree *t) {
    int p = t->order - 1;
    while (p >= 0 && t->level[p] <= 1)
        p--;
    if (p < 1)
        return false;
    int q = p - 1;
    while (t->level[q] != t->level[p] - 1)
        q--;
    for (int i = p; i < t->order; i++)
        t->level[i] = t->level[i - (p - q)];
    return true;
}

static int subtree_end(const tree *t, int root) {
    int end = root + 1;
    while (end < t->order && t->level[end] > t->level[root])
        end++;
    return end;
}

/* gamma(t): the product of the sizes of all subtrees. */
static double density(const tree *t) {
    double product = 1;
    for (int i = 0; i < t->order; i++)
        product *= subtree_end(t, i) - i;
    return product;
}

/* Phi_i(t) of every stage: the product over the children of sum_j a_ij Phi_j(child). */
static void elementary_weight(const ode_tableau *tableau, size_t stages, const tree *t, int root, long double phi[ODE_STAGES]) {
    for (size_t i = 0; i < stages; i++)
        phi[i] = 1;
    for (int child = root + 1, end = subtree_end(t, root); child < end; child = subtree_end(t, child)) {
        long double below[ODE_STAGES];
        elementary_weight(tableau, stages, t, child, below);
        for (size_t i = 0; i < stages; i++) {
            long double sum = 0; /* so that only the rounding of the coefficients is measured */
            for (size_t j = 0; j < i; j++)
                sum += tableau->a[i][j] * below[j];
            phi[i] *= sum;
        }
    }
}

/* The largest |sum_i weight_i Phi_i(t) - theta^order / gamma(t)| over trees of exactly this order; theta 0 asks for sums of 0. */
static double defect(const ode_tableau *tableau, const double *weight, int order, double theta, int *trees) {
    const size_t stages = tableau->stages + tableau->extra;
    tree t = {.order = order};
    for (int i = 0; i < order; i++)
        t.level[i] = i;
    double worst = 0;
    *trees = 0;
    do {
        long double phi[ODE_STAGES], sum = 0;
        elementary_weight(tableau, stages, &t, 0, phi);
        for (size_t i = 0; i < stages; i++)
            sum += weight[i] * phi[i];
        worst = fmax(worst, fabs((double)(sum - powl(theta, order) / density(&t))));
        ++*trees;
    } while (next_tree(&t));
    return worst;
}

static const nf_ode_method methods[] = {NF_DOPRI5, NF_TSIT5, NF_DOP853, NF_BOSH3, NF_RK4, NF_MIDPOINT, NF_EULER};
static const int orders[] = {5, 5, 8, 3, 4, 2, 1};
static const int dense_orders[] = {4, 4, 7, 3, 3, 2, 1};
static const int error_orders[] = {4, 4, 5, 2, 0, 0, 0}; /* up to which the error estimate vanishes; 0: none */
#define METHODS ((int)(sizeof methods / sizeof methods[0]))

START_TEST(trees_are_counted) {
    const int expected[] = {1, 1, 2, 4, 9, 20, 48, 115}; /* rooted trees of 1 .. 8 nodes */
    const ode_tableau *rk4 = R(ode_tableau_of)(NF_RK4);
    for (int order = 1; order <= MOST; order++) {
        int trees;
        defect(rk4, rk4->b, order, 1, &trees);
        ck_assert_int_eq(trees, expected[order - 1]);
    }
}
END_TEST

START_TEST(steps_have_their_order_and_no_more) {
    const ode_tableau *t = R(ode_tableau_of)(methods[_i]);
    int trees;
    ck_assert_uint_eq(t->order, (size_t)orders[_i]);
    for (int order = 1; order <= orders[_i]; order++) {
        const double d = defect(t, t->b, order, 1, &trees);
        ck_assert_msg(d <= 1e-14, "%s: the conditions of order %d are missed by %g", t->name, order, d);
    }
    if (orders[_i] < MOST) {
        const double d = defect(t, t->b, orders[_i] + 1, 1, &trees);
        ck_assert_msg(d > 1e-6, "%s: order %d is met too (%g)", t->name, orders[_i] + 1, d);
    }
}
END_TEST

START_TEST(rows_sum_to_the_nodes) {
    const ode_tableau *t = R(ode_tableau_of)(methods[_i]);
    for (size_t i = 0; i < t->stages + t->extra; i++) {
        double sum = 0;
        for (size_t j = 0; j < ODE_STAGES; j++) {
            sum += t->a[i][j];
            ck_assert_msg(j < i || t->a[i][j] == 0, "%s: a[%zu][%zu] is not explicit", t->name, i, j);
        }
        ck_assert_msg(fabs(sum - t->c[i]) <= 2e-14, "%s: row %zu sums to c + %g", t->name, i, sum - t->c[i]);
    }
}
END_TEST

START_TEST(last_stage_is_the_next_first) {
    const ode_tableau *t = R(ode_tableau_of)(methods[_i]);
    if (!t->fsal)
        return;
    const size_t last = t->stages - 1;
    ck_assert(t->c[last] == 1 && t->b[last] == 0);
    ck_assert_uint_eq(t->weighted, last);
    for (size_t j = 0; j < last; j++)
        ck_assert_double_eq(t->a[last][j], t->b[j]);
}
END_TEST

START_TEST(error_estimates_have_their_order) {
    const ode_tableau *t = R(ode_tableau_of)(methods[_i]);
    int trees;
    if (error_orders[_i] == 0) {
        ck_assert_uint_eq(t->error_order, 0);
        return;
    }
    for (int order = 1; order <= error_orders[_i]; order++) {
        const double d = defect(t, t->error, order, 0, &trees);
        ck_assert_msg(d <= 1e-14, "%s: the error estimate sees order %d: %g", t->name, order, d);
    }
    ck_assert(defect(t, t->error, error_orders[_i] + 1, 0, &trees) > 1e-6);
    for (int order = 1; methods[_i] == NF_DOP853 && order <= 3; order++)
        ck_assert(defect(t, t->error3, order, 0, &trees) <= 1e-14);
}
END_TEST

START_TEST(dense_output_has_its_order) {
    const ode_tableau *t = R(ode_tableau_of)(methods[_i]);
    const double thetas[] = {0.0, 0.1385, 0.5, 0.7713, 1.0};
    for (size_t k = 0; k < sizeof thetas / sizeof thetas[0]; k++) {
        double weight[ODE_STAGES];
        int trees;
        R(ode_dense_weights)(t, thetas[k], weight);
        for (int order = 1; order <= dense_orders[_i]; order++) {
            const double d = defect(t, weight, order, thetas[k], &trees);
            ck_assert_msg(d <= 1e-13, "%s at %g: the conditions of order %d are missed by %g", t->name, thetas[k], order, d);
        }
    }
    double weight[ODE_STAGES];
    R(ode_dense_weights)(t, 1.0, weight);
    for (size_t i = 0; i < t->stages + t->extra; i++)
        ck_assert_msg(fabs(weight[i] - t->b[i]) <= 1e-15, "%s: the dense output does not end in the step", t->name);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("tableau");
    TCase *c = tcase_create("order");
    tcase_add_test(c, trees_are_counted);
    tcase_add_loop_test(c, steps_have_their_order_and_no_more, 0, METHODS);
    tcase_add_loop_test(c, rows_sum_to_the_nodes, 0, METHODS);
    tcase_add_loop_test(c, last_stage_is_the_next_first, 0, METHODS);
    tcase_add_loop_test(c, error_estimates_have_their_order, 0, METHODS);
    tcase_add_loop_test(c, dense_output_has_its_order, 0, METHODS);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
