/*
 * Continuous flows as a user meets them: the error of a round trip against the tolerance, rows in any company, steps in common, regularisers against their
 * integrals, Hutchinson's trace.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cnf_scene.h"

/* ---- accuracy */

/*
 * By how much the way back from one of four times stretches errors that were made on the way there: the Frobenius norm of z by x, and the norm of log_det by x,
 * the largest of the times, at least 1.
 */
static void stretches(nf_dynamics dynamics, size_t rows, const double *z, double *of_z, double *of_log_det) {
    double *x = new_numbers(rows * DIM), *d_z = new_numbers(rows * DIM), *d_x = new_numbers(rows * DIM), *ones = new_numbers(rows);
    for (size_t r = 0; r < rows; r++)
        of_z[r] = of_log_det[r] = ones[r] = 1;
    for (int quarter = 1; quarter <= 4; quarter++) {
        nf_flow *flow = MAKE(.dynamics = dynamics, .t1 = 0.25 * quarter, .rtol = 1e-6, .atol = 1e-6);
        double *square = new_bytes(rows * sizeof *square);
        must(nf_forward(flow, NULL, rows, z, NULL, x, NULL));
        for (size_t i = 0; i < DIM; i++) {
            for (size_t k = 0; k < rows * DIM; k++)
                d_z[k] = k % DIM == i;
            must(nf_inverse_vjp(flow, NULL, rows, x, NULL, d_z, NULL, d_x, NULL, NULL));
            for (size_t k = 0; k < rows * DIM; k++)
                square[k / DIM] += d_x[k] * d_x[k];
        }
        must(nf_inverse_vjp(flow, NULL, rows, x, NULL, NULL, ones, d_x, NULL, NULL));
        for (size_t r = 0; r < rows; r++) {
            of_z[r] = fmax(of_z[r], sqrt(square[r]));
            of_log_det[r] = fmax(of_log_det[r], hypot(d_x[r * DIM], d_x[r * DIM + 1]));
        }
        free(square);
        nf_flow_free(flow);
    }
    free(x);
    free(d_z);
    free(d_x);
    free(ones);
}

/*
 * The solver holds what it takes for a step's error to the tolerance, and the way back stretches what was made on the way there. An estimate may be too small:
 * of the rows of strong fields a few (of 200 up to 3, under 25 seeds) err by more, at most by 60 tolerances.
 */
START_TEST(round_trips_follow_the_tolerance) {
    enum { ROWS = 200 };
    const nf_dynamics dynamics = (nf_dynamics)(_i % 2);
    const nf_ode_method method = (nf_ode_method)(_i / 2);
    const double most = method == NF_BOSH3 ? 30 : 10; /* a method of order 3 takes many more steps, whose errors add up */
    random_source random = random_begin(52);
    double *z = new_normals(&random, ROWS * DIM, 1.2), *x = new_numbers(ROWS * DIM), *back = new_numbers(ROWS * DIM), *there = new_numbers(ROWS), *here = new_numbers(ROWS);
    double of_z[ROWS], of_log_det[ROWS];
    stretches(dynamics, ROWS, z, of_z, of_log_det);
    for (double tolerance = 1e-3; tolerance > (is_brief() ? 1e-5 : 1e-10); tolerance /= 10) {
        nf_flow *flow = MAKE(.dynamics = dynamics, .method = method, .rtol = tolerance, .atol = tolerance, .max_steps = 100000);
        double worst_z = 0, worst_log_det = 0;
        size_t beyond = 0;
        must(nf_forward(flow, NULL, ROWS, z, NULL, x, there));
        must(nf_inverse(flow, NULL, ROWS, x, NULL, back, here));
        for (size_t r = 0; r < ROWS; r++) {
            const double *a = back + r * DIM, *b = z + r * DIM, off_z = fmax(fabs(a[0] - b[0]), fabs(a[1] - b[1])) / of_z[r];
            beyond += off_z <= most * tolerance ? 0 : 1;
            worst_z = fmax(worst_z, off_z);
            worst_log_det = fmax(worst_log_det, fabs(there[r] + here[r]) / of_log_det[r]);
        }
        ck_assert_msg(beyond <= 3 * ROWS / 100 && worst_z <= 10 * most * tolerance && worst_log_det <= 300 * tolerance,
                      "dynamics %d, method %d at %g: z is off by %g tolerances, in %zu rows by more than %g, log_det by %g (seed %llu)", (int)dynamics, (int)method, tolerance,
                      worst_z / tolerance, beyond, most, worst_log_det / tolerance, (unsigned long long)test_seed());
        nf_flow_free(flow);
    }
    free(z);
    free(x);
    free(back);
    free(there);
    free(here);
}
END_TEST

/* log_det starts at 0, where a relative tolerance alone gives no scale. */
START_TEST(the_absolute_tolerance_may_be_zero) {
    enum { ROWS = 40 };
    const nf_ode_gradient gradients[] = {NF_ODE_DISCRETE, NF_ODE_ADJOINT};
    const nf_precision precision = (nf_precision)(_i % 2);
    const double rtol = precision == NF_SINGLE ? 1e-4 : 1e-6;
    random_source random = random_begin(61);
    double *x = new_normals(&random, ROWS * DIM, 1.2), usual[ROWS], got[ROWS];
    for (int shared = 0; shared < 2; shared++)
        for (int k = 0; k < 4; k++) {
            const double atol = k < 2 ? -1 : 1e-25;
            const nf_dynamics dynamics = (nf_dynamics)(_i / 2);
            nf_flow *flow = MAKE(.dynamics = dynamics, .precision = precision, .rtol = rtol, .atol = atol, .gradient = gradients[k % 2], .shared_step = shared);
            nf_flow *plain = MAKE(.dynamics = dynamics, .precision = precision, .rtol = rtol, .atol = rtol);
            nf_gradient *gradient;
            double loss;
            must(nf_log_prob(plain, NULL, ROWS, x, NULL, usual));
            must(nf_log_prob(flow, NULL, ROWS, x, NULL, got));
            for (size_t r = 0; r < ROWS; r++)
                ck_assert_msg(fabs(got[r] - usual[r]) < 300 * rtol, "row %zu: %g, expected %g", r, got[r], usual[r]);
            must(nf_gradient_create(flow, &gradient));
            must(nf_grad_nll(flow, NULL, ROWS, x, NULL, NULL, gradient, &loss));
            nf_gradient_free(gradient);
            nf_flow_free(plain);
            nf_flow_free(flow);
        }
    free(x);
}
END_TEST

/* ---- rows */

static void shuffle(random_source *random, size_t count, size_t *order) {
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t i = count; i > 1; i--) {
        const size_t j = (size_t)(random_bits(random) % i), keep = order[i - 1];
        order[i - 1] = order[j];
        order[j] = keep;
    }
}

START_TEST(densities_do_not_depend_on_the_batch) {
    enum { ROWS = 1000 };
    const size_t batches[] = {1, 7, 32, 1000};
    const nf_precision precision = (nf_precision)(_i / 2);
    nf_flow *flow = MAKE(.dynamics = (nf_dynamics)(_i % 2), .precision = precision, .rtol = 1e-5, .atol = 1e-6);
    random_source random = random_begin(53);
    double *x = new_normals(&random, ROWS * DIM, 1.7), *expected = new_numbers(ROWS), *got = new_numbers(ROWS), *mixed = new_numbers(ROWS * DIM);
    size_t order[ROWS];
    must(nf_log_prob(flow, NULL, ROWS, x, NULL, expected));
    for (size_t threads = 1; threads <= 2; threads++) {
        nf_workspace *ws;
        must(nf_workspace_create(flow, threads, &ws));
        for (size_t b = is_brief() ? 2 : 0; b < sizeof batches / sizeof *batches; b++) {
            for (size_t first = 0; first < ROWS; first += batches[b]) {
                const size_t rows = ROWS - first < batches[b] ? ROWS - first : batches[b];
                must(nf_log_prob(flow, ws, rows, x + first * DIM, NULL, got + first));
            }
            same_bits("log_prob", got, expected, ROWS);
        }
        shuffle(&random, ROWS, order);
        for (size_t r = 0; r < ROWS; r++)
            memcpy(mixed + r * DIM, x + order[r] * DIM, DIM * sizeof *x);
        must(nf_log_prob(flow, ws, ROWS, mixed, NULL, got));
        for (size_t r = 0; r < ROWS; r++)
            same_bits("shuffled", &got[r], &expected[order[r]], 1);
        nf_workspace_free(ws);
    }
    nf_flow_free(flow);
    free(x);
    free(expected);
    free(got);
    free(mixed);
}
END_TEST

/* With one step for all, a density is near that with steps of its own, and moves with its batch, within the tolerance. */
START_TEST(a_shared_step_is_an_option) {
    enum { ROWS = 64 };
    random_source random = random_begin(54);
    double *x = new_normals(&random, ROWS * DIM, 1.7), *own = new_numbers(ROWS), *shared = new_numbers(ROWS), alone;
    nf_flow *a = MAKE(.dynamics = (nf_dynamics)_i, .rtol = 1e-5, .atol = 1e-5), *b = MAKE(.dynamics = (nf_dynamics)_i, .rtol = 1e-5, .atol = 1e-5, .shared_step = 1);
    must(nf_log_prob(a, NULL, ROWS, x, NULL, own));
    must(nf_log_prob(b, NULL, ROWS, x, NULL, shared));
    must(nf_log_prob(b, NULL, 1, x, NULL, &alone));
    must_agree("shared", row_error(shared, own, ROWS, 1), 3e-3);
    ck_assert(!equal_bits(&alone, shared, 1));
    void *bytes;
    size_t size;
    nf_flow *loaded;
    must(nf_flow_save_memory(b, &bytes, &size));
    must(nf_flow_load_memory(bytes, size, &loaded));
    must(nf_log_prob(loaded, NULL, ROWS, x, NULL, own));
    same_bits("loaded", own, shared, ROWS);
    nf_free(bytes);
    nf_flow_free(loaded);
    nf_flow_free(a);
    nf_flow_free(b);
    free(x);
    free(own);
    free(shared);
}
END_TEST

/* One step for all may be too short for one row's sake: then rows have steps of their own, and the bits of those. */
START_TEST(a_stiff_row_spoils_no_other_with_a_shared_step) {
    enum { ROWS = 128 };
    const nf_dynamics dynamics = (nf_dynamics)(_i % 2);
    const nf_precision precision = _i / 2 ? NF_SINGLE : NF_DOUBLE;
    random_source random = random_begin(55);
    double *x = new_normals(&random, ROWS * DIM, 1.7), *log_prob = new_numbers(2 * ROWS), *score = new_numbers(2 * ROWS * DIM), *path = new_numbers(2 * ROWS * DIM);
    bool met = false;
    for (size_t max_steps = 10; max_steps < 400 && !met; max_steps++) {
        size_t bad[2] = {0, 0}, lost = 0;
        for (int shared = 0; shared < 2; shared++) {
            nf_workspace *ws;
            nf_flow *flow;
            must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = dynamics, .precision = precision, .hidden_layers = 2, .hidden_width = 16, .rtol = 1e-5,
                                         .atol = 1e-5, .max_steps = max_steps, .shared_step = shared),
                               &flow));
            random_source weights = random_begin(56);
            randomize(flow, &weights, dynamics == NF_DYNAMICS_HYPER ? 2.4 : 1.5);
            must(nf_workspace_create(flow, 1, &ws));
            nf_score(flow, ws, ROWS, x, NULL, NULL, score + shared * ROWS * DIM);
            nf_log_prob(flow, ws, ROWS, x, NULL, log_prob + shared * ROWS);
            nf_stats stats = {.struct_size = sizeof stats};
            must(nf_workspace_stats(ws, &stats));
            bad[shared] = stats.bad_rows;
            nf_cnf_trajectory(flow, ws, ROWS, x, NULL, 1, (double[]){1}, path + shared * ROWS * DIM);
            nf_workspace_free(ws);
            nf_flow_free(flow);
        }
        for (size_t i = 0; i < ROWS * DIM; i++) {
            lost += i < ROWS && isnan(log_prob[ROWS + i]);
            ck_assert_msg(!isnan(path[ROWS * DIM + i]) || isnan(path[i]), "a path is lost with a shared step alone");
            ck_assert_msg(!isnan(score[ROWS * DIM + i]) || isnan(score[i]), "a score is lost with a shared step alone");
        }
        ck_assert_uint_eq(bad[1], lost);
        if (bad[1] == 0)
            continue;
        same_bits("log density", log_prob, log_prob + ROWS, ROWS);
        met = bad[1] < ROWS / 2;
    }
    ck_assert_msg(met, "no budget loses a few rows");
    free(x);
    free(log_prob);
    free(score);
    free(path);
}
END_TEST

/* ---- regularisers (Finlay et al. 2020) */

typedef struct regularised {
    nf_flow *plain, *flow;
    double *x;
    size_t rows;
} regularised;

static double penalty_of(void *user, const double *theta) {
    regularised *r = user;
    nf_gradient *gradient;
    double losses[2];
    nf_flow *flows[2] = {r->plain, r->flow};
    for (int i = 0; i < 2; i++) {
        must(nf_set_parameters(flows[i], theta));
        must(nf_gradient_create(flows[i], &gradient));
        must(nf_grad_nll(flows[i], NULL, r->rows, r->x, NULL, NULL, gradient, &losses[i]));
        nf_gradient_free(gradient);
    }
    return losses[1] - losses[0];
}

static double loss_of(void *user, const double *theta) {
    regularised *r = user;
    nf_gradient *gradient;
    double loss;
    must(nf_set_parameters(r->flow, theta));
    must(nf_gradient_create(r->flow, &gradient));
    must(nf_grad_nll(r->flow, NULL, r->rows, r->x, NULL, NULL, gradient, &loss));
    nf_gradient_free(gradient);
    return loss;
}

/* The integrals of |f|^2 and |df/dz|_F^2 along the path, by Simpson's rule, f and its Jacobian from Euler steps of length 1. */
static void integrals(nf_dynamics dynamics, const double *theta, const nf_flow *flow, const double *x, double *kinetic, double *jacobian) {
    enum { NODES = 161 }; /* at 41 the rule's own error is 1e-5 on fields that some seeds draw, and falls by 256 here */
    double z[DIM], path[NODES][DIM], t[NODES];
    *kinetic = *jacobian = 0;
    must(nf_inverse(flow, NULL, 1, x, NULL, z, NULL));
    for (size_t i = 0; i < NODES; i++)
        t[i] = (double)i / (NODES - 1);
    must(nf_cnf_trajectory(flow, NULL, 1, z, NULL, NODES, t, path[0]));
    for (size_t i = 0; i < NODES; i++) {
        nf_flow *field = MAKE(.dynamics = dynamics, .method = NF_EULER, .steps = 1, .t0 = t[i], .t1 = t[i] + 1);
        must(nf_set_parameters(field, theta));
        const double w = (i == 0 || i == NODES - 1 ? 1.0 : i % 2 ? 4.0 : 2.0) / (3.0 * (NODES - 1)), h = 1e-5;
        double f[DIM], ends[2][DIM];
        must(nf_forward(field, NULL, 1, path[i], NULL, f, NULL));
        for (size_t c = 0; c < DIM; c++) {
            *kinetic += w * (f[c] - path[i][c]) * (f[c] - path[i][c]);
            for (int side = 0; side < 2; side++) {
                double at[DIM];
                memcpy(at, path[i], sizeof at);
                at[c] += side ? -h : h;
                must(nf_forward(field, NULL, 1, at, NULL, ends[side], NULL));
                for (size_t j = 0; j < DIM; j++)
                    ends[side][j] -= at[j];
            }
            for (size_t j = 0; j < DIM; j++) {
                const double e = (ends[0][j] - ends[1][j]) / (2 * h);
                *jacobian += w * e * e;
            }
        }
        nf_flow_free(field);
    }
}

START_TEST(regularisers_are_their_integrals) {
    enum { ROWS = 5 };
    const nf_dynamics dynamics = (nf_dynamics)(_i % 2);
    const nf_ode_gradient gradient_kind = (nf_ode_gradient)(_i / 2);
    random_source random = random_begin(56);
    double *x = new_normals(&random, ROWS * DIM, 1.2), expected = 0;
    regularised r = {.x = x, .rows = ROWS};
    r.plain = MAKE(.dynamics = dynamics, .rtol = 1e-10, .atol = 1e-10, .gradient = gradient_kind);
    r.flow = MAKE(.dynamics = dynamics, .rtol = 1e-10, .atol = 1e-10, .gradient = gradient_kind, .kinetic = 0.385, .jacobian = 0.135);
    const size_t count = nf_parameter_count(r.flow);
    double *theta = new_numbers(count), *got = new_numbers(count);
    must(nf_get_parameters(r.flow, theta));
    for (size_t i = 0; i < ROWS; i++) {
        double kinetic, jacobian;
        integrals(dynamics, theta, r.flow, x + i * DIM, &kinetic, &jacobian);
        expected += (0.385 * kinetic + 0.135 * jacobian) / ROWS;
    }
    const double penalty = penalty_of(&r, theta);
    must_agree("penalty", whole_error(&penalty, &expected, 1), 1e-6);
    nf_gradient *gradient;
    double loss;
    must(nf_gradient_create(r.flow, &gradient));
    must(nf_grad_nll(r.flow, NULL, ROWS, x, NULL, NULL, gradient, &loss));
    must(nf_gradient_get(gradient, got));
    for (size_t i = 0; i < count; i += 1 + count / (is_brief() ? 6 : 60)) {
        const double want = difference(loss_of, &r, theta, i, 1e-3);
        must_agree("gradient", whole_error(&got[i], &want, 1), 1e-6);
    }
    /* They belong to the loss, not to the density. */
    double densities[2][ROWS];
    must(nf_set_parameters(r.flow, theta));
    must(nf_set_parameters(r.plain, theta));
    must(nf_log_prob(r.flow, NULL, ROWS, x, NULL, densities[0]));
    must(nf_log_prob(r.plain, NULL, ROWS, x, NULL, densities[1]));
    same_bits("log_prob", densities[0], densities[1], ROWS);
    nf_gradient_free(gradient);
    nf_flow_free(r.plain);
    nf_flow_free(r.flow);
    free(x);
    free(theta);
    free(got);
}
END_TEST

/* ---- Hutchinson */

START_TEST(estimated_log_det_is_unbiased_about_the_exact) {
    enum { ROWS = 3, DRAWS = 400, WIDE = 7 };
    const nf_trace kind = _i ? NF_TRACE_HUTCHINSON_NORMAL : NF_TRACE_HUTCHINSON;
    random_source random = random_begin(57);
    double *z = new_normals(&random, ROWS * WIDE, 1), exact[ROWS], one[ROWS], again[ROWS], sum[ROWS] = {0}, square[ROWS] = {0};
    nf_flow *flow = MAKE(.dim = WIDE, .hidden_width = 6, .rtol = 1e-6, .atol = 1e-6);
    must(nf_forward(flow, NULL, ROWS, z, NULL, NULL, exact));
    nf_flow_free(flow);
    for (uint64_t draw = 0; draw < DRAWS; draw++) {
        flow = MAKE(.dim = WIDE, .hidden_width = 6, .rtol = 1e-6, .atol = 1e-6, .trace = kind, .probes = 2, .seed = 900 + draw);
        must(nf_forward(flow, NULL, ROWS, z, NULL, NULL, one));
        must(nf_forward(flow, NULL, ROWS, z, NULL, NULL, again));
        same_bits("the same call again", one, again, ROWS);
        for (size_t r = 0; r < ROWS; r++) {
            sum[r] += one[r];
            square[r] += one[r] * one[r];
        }
        nf_flow_free(flow);
    }
    for (size_t r = 0; r < ROWS; r++) {
        const double mean = sum[r] / DRAWS, error = sqrt(fmax(0, square[r] / DRAWS - mean * mean) / DRAWS);
        ck_assert_msg(error > 0 && fabs(mean - exact[r]) <= 3 * error, "row %zu: mean %g, standard error %g, exact %g (seed %llu)", r, mean, error, exact[r],
                      (unsigned long long)test_seed());
    }
    free(z);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cnf");
    TCase *c = tcase_create("cnf");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, round_trips_follow_the_tolerance, 0, 8);
    tcase_add_loop_test(c, the_absolute_tolerance_may_be_zero, 0, 4);
    tcase_add_loop_test(c, densities_do_not_depend_on_the_batch, 0, 4);
    tcase_add_loop_test(c, a_stiff_row_spoils_no_other_with_a_shared_step, 0, 4);
    tcase_add_loop_test(c, a_shared_step_is_an_option, 0, 2);
    tcase_add_loop_test(c, regularisers_are_their_integrals, 0, 4);
    if (!is_brief()) /* a mean of many */
        tcase_add_loop_test(c, estimated_log_det_is_unbiased_about_the_exact, 0, 2);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
