/*
 * The adjoint gradient of continuous flows: that of the discrete solution where it comes back, and rows that it does not bring back, which are bad and add
 * nothing.
 */
#include <math.h>
#include <stdlib.h>

#include "cnf_scene.h"

static void gradients_of(nf_flow *flow, int inverse, size_t rows, const double *in, const double *a, const double *b, double *d_in, double *d_theta) {
    nf_gradient *gradient;
    must(nf_gradient_create(flow, &gradient));
    must((inverse ? nf_inverse_vjp : nf_forward_vjp)(flow, NULL, rows, in, NULL, a, b, d_in, NULL, gradient));
    must(nf_gradient_get(gradient, d_theta));
    nf_gradient_free(gradient);
}

/* The adjoint's errors are of the tolerance, 1e-10, and stretched by the field on their way: under some seeds by more than a thousand. */
START_TEST(the_adjoint_agrees_with_the_discrete_gradient) {
    enum { ROWS = 21 };
    const double most = 3e-7;
    const nf_dynamics dynamics = (nf_dynamics)(_i % 2);
    random_source random = random_begin(55);
    double *in = new_normals(&random, ROWS * DIM, 1.2), *a = new_normals(&random, ROWS * DIM, 1), *b = new_normals(&random, ROWS, 1);
    double *d_in[2] = {new_numbers(ROWS * DIM), new_numbers(ROWS * DIM)}, *d_theta[2] = {NULL, NULL};
    for (int inverse = 0; inverse < 2; inverse++) {
        size_t count = 0;
        for (int adjoint = 0; adjoint < 2; adjoint++) {
            nf_flow *flow = MAKE(.dynamics = dynamics, .method = _i / 2 ? NF_DOP853 : NF_DOPRI5, .rtol = 1e-10, .atol = 1e-10, .gradient = (nf_ode_gradient)adjoint);
            count = nf_parameter_count(flow);
            d_theta[adjoint] = new_numbers(count);
            gradients_of(flow, inverse, ROWS, in, a, b, d_in[adjoint], d_theta[adjoint]);
            nf_flow_free(flow);
        }
        must_agree("input", row_error(d_in[1], d_in[0], ROWS, DIM), most);
        must_agree("parameters", whole_error(d_theta[1], d_theta[0], count), most);
        free(d_theta[0]);
        free(d_theta[1]);
    }
    free(in);
    free(a);
    free(b);
    free(d_in[0]);
    free(d_in[1]);
}
END_TEST

/*
 * Where max_steps lets the solver go a way, but not the adjoint equation back: such rows are bad, and add nothing to loss and gradient, those of
 * the layers around included. An affine layer stands on each side. Not every random field is harder on the way back: then another one is drawn.
 */
enum { UNTRACED = 1100, SCENES = 12 }; /* more tiles than slots, so that one is met in the middle of its sum */

static nf_flow *around_adjoint(nf_dynamics dynamics, uint64_t scene, size_t max_steps) {
    nf_flow *part[3], *flow;
    random_source random = random_begin(56 + 1000 * scene);
    must(nf_affine_create(DIM, NF_DOUBLE, &part[0]));
    part[1] = MAKE(.dynamics = dynamics, .gradient = NF_ODE_ADJOINT, .max_steps = max_steps, .rtol = 1e-4, .atol = 1e-4);
    must(nf_affine_create(DIM, NF_DOUBLE, &part[2]));
    for (int i = 0; i < 3; i++)
        randomize(part[i], &random, i == 1 && dynamics == NF_DYNAMICS_HYPER ? 2.0 : 0.5);
    must(nf_flow_create(DIM, 0, NF_DOUBLE, &flow));
    for (int i = 0; i < 3; i++)
        must(nf_flow_append(flow, part[i]));
    return flow;
}

/* Which rows of a score are NaN; they are NaN as a whole, and counted. */
static size_t untraced_rows(nf_flow *flow, const double *x, double *weight) {
    nf_workspace *ws;
    nf_stats stats = {.struct_size = sizeof stats};
    double *log_prob = new_numbers(UNTRACED), *score = new_numbers(UNTRACED * DIM);
    size_t count = 0;
    must(nf_workspace_create(flow, 3, &ws));
    const nf_status status = nf_score(flow, ws, UNTRACED, x, NULL, log_prob, score);
    for (size_t r = 0; r < UNTRACED; r++) {
        const int numbers = !isnan(log_prob[r]) + !isnan(score[r * DIM]) + !isnan(score[r * DIM + 1]);
        ck_assert_msg(numbers == 0 || numbers == 3, "row %zu: %g, %g, %g", r, log_prob[r], score[r * DIM], score[r * DIM + 1]);
        weight[r] = numbers ? 1.0 : 0.0;
        count += !numbers;
    }
    must(nf_workspace_stats(ws, &stats));
    ck_assert_uint_eq(stats.bad_rows, count);
    ck_assert_int_eq(status, count ? NF_ERR_ROWS : NF_OK);
    nf_workspace_free(ws);
    free(log_prob);
    free(score);
    return count;
}

/* Rows of no weight may be bad. */
static void nll_of(nf_flow *flow, const double *x, const double *weight, nf_status wanted, double *loss, double *d_theta) {
    nf_gradient *gradient;
    must(nf_gradient_create(flow, &gradient));
    const nf_status status = nf_grad_nll(flow, NULL, UNTRACED, x, NULL, weight, gradient, loss);
    ck_assert_msg(status == wanted || (weight && status == NF_ERR_ROWS), "%s: %s", nf_status_name(status), nf_last_error());
    must(nf_gradient_get(gradient, d_theta));
    nf_gradient_free(gradient);
}

START_TEST(rows_that_the_adjoint_cannot_trace_add_nothing) {
    random_source random = random_begin(57);
    const nf_dynamics dynamics = (nf_dynamics)(_i % 2);
    double *x = new_normals(&random, UNTRACED * DIM, 1.2), *log_prob = new_numbers(UNTRACED), *weight = new_numbers(UNTRACED);
    bool met = false;
    for (uint64_t scene = 0; scene < SCENES && !met; scene++) {
        nf_flow *free_flow = around_adjoint(dynamics, scene, 0);
        const size_t count = nf_parameter_count(free_flow);
        double *got = new_numbers(count), *expected = new_numbers(count), losses[2];
        for (size_t max_steps = 4; max_steps < 60 && !met; max_steps++) {
            nf_flow *flow = around_adjoint(dynamics, scene, max_steps);
            if (nf_log_prob(flow, NULL, UNTRACED, x, NULL, log_prob) == NF_OK) {
                const size_t bad = untraced_rows(flow, x, weight);
                met = bad > 0 && bad < UNTRACED;
                nll_of(flow, x, NULL, bad ? NF_ERR_ROWS : NF_OK, &losses[0], got);
                nll_of(free_flow, x, weight, NF_OK, &losses[1], expected);
                must_agree("loss", whole_error(&losses[0], &losses[1], 1), 1e-13);
                must_agree("gradient", whole_error(got, expected, count), 1e-12);
            }
            nf_flow_free(flow);
        }
        nf_flow_free(free_flow);
        free(got);
        free(expected);
    }
    ck_assert_msg(met, "no budget loses some rows on the way back alone");
    free(x);
    free(log_prob);
    free(weight);
}
END_TEST

/* With a step in common the way back of one row may use up the steps of all: what it has added is taken back, and the row fails alone. */
START_TEST(a_stiff_way_back_spoils_no_other_with_a_shared_step) {
    enum { ROWS = 128 };
    const nf_dynamics dynamics = (nf_dynamics)(_i % 2);
    const size_t context_dim = dynamics == NF_DYNAMICS_MLP;
    random_source random = random_of_seed(2385, 59);
    double *x = new_normals(&random, ROWS * DIM, 1.2), *context = new_normals(&random, ROWS, 1.0), *ones = new_numbers(ROWS), *log_prob = new_numbers(ROWS);
    double *d_x[2] = {new_numbers(ROWS * DIM), new_numbers(ROWS * DIM)}, *d_context[2] = {new_numbers(ROWS), new_numbers(ROWS)}, *d_theta[2] = {NULL, NULL};
    bool met = false;
    for (size_t r = 0; r < ROWS; r++)
        ones[r] = 1;
    for (size_t max_steps = 4; max_steps < 200 && !met; max_steps++) {
        size_t count = 0, lost[2] = {0, 0};
        bool comes = true;
        for (int shared = 0; shared < 2 && comes; shared++) {
            nf_flow *flow = MAKE(.dynamics = dynamics, .context_dim = context_dim, .gradient = NF_ODE_ADJOINT, .max_steps = max_steps, .rtol = 1e-6, .atol = 1e-6,
                                 .shared_step = shared);
            random_source weights = random_of_seed(2385, 60);
            randomize(flow, &weights, dynamics == NF_DYNAMICS_HYPER ? 2.0 : 0.8);
            comes = nf_log_prob(flow, NULL, ROWS, x, context_dim ? context : NULL, log_prob) == NF_OK;
            nf_gradient *gradient;
            must(nf_gradient_create(flow, &gradient));
            nf_inverse_vjp(flow, NULL, ROWS, x, context_dim ? context : NULL, NULL, ones, d_x[shared], context_dim ? d_context[shared] : NULL, gradient);
            count = nf_parameter_count(flow);
            free(d_theta[shared]);
            d_theta[shared] = new_numbers(count);
            must(nf_gradient_get(gradient, d_theta[shared]));
            for (size_t r = 0; r < ROWS; r++)
                lost[shared] += isnan(d_x[shared][r * DIM]) ? 1 : 0;
            nf_gradient_free(gradient);
            nf_flow_free(flow);
        }
        if (!comes || lost[1] == 0 || lost[0] >= ROWS / 2)
            continue;
        met = true;
        ck_assert_msg(lost[1] <= lost[0] + ROWS / 16, "%zu rows are lost, and %zu with a step in common", lost[0], lost[1]);
        bool same = true;
        for (size_t r = 0; r < ROWS; r++) {
            same = same && isnan(d_x[0][r * DIM]) == isnan(d_x[1][r * DIM]);
            if (isnan(d_x[0][r * DIM]) || isnan(d_x[1][r * DIM]))
                continue;
            must_agree("slope", whole_error(d_x[1] + r * DIM, d_x[0] + r * DIM, DIM), 1e-2);
            if (context_dim)
                must_agree("slope of the context", whole_error(d_context[1] + r, d_context[0] + r, 1), 1e-2);
        }
        if (same)
            must_agree("gradient", whole_error(d_theta[1], d_theta[0], count), 1e-3);
    }
    ck_assert_msg(met, "no budget loses a few rows on the way back alone");
    for (int k = 0; k < 2; k++) {
        free(d_x[k]);
        free(d_context[k]);
        free(d_theta[k]);
    }
    free(x);
    free(context);
    free(ones);
    free(log_prob);
}
END_TEST

/*
 * Where paths contract by orders of magnitude the way back leaves them, though it arrives: those rows are bad too, and the gradient is that of the others
 * by the discrete solution. The fields are the same whatever the seed, for some contract nowhere.
 */
START_TEST(rows_whose_adjoint_goes_astray_add_nothing) {
    enum { ROWS = 40 };
    static const uint64_t seeds[] = {2385, 5, 6, 16, 17};
    random_source random = random_of_seed(seeds[_i], 58), weights = random_of_seed(seeds[_i], 51);
    nf_flow *flows[2];
    nf_gradient *gradient;
    double *x = new_normals(&random, ROWS * DIM, 0.7), *score = new_numbers(ROWS * DIM), weight[ROWS], losses[2];
    for (int adjoint = 0; adjoint < 2; adjoint++)
        flows[adjoint] = MAKE(.hidden_layers = 1, .gradient = (nf_ode_gradient)adjoint, .rtol = 1e-5, .atol = 1e-5);
    const size_t count = nf_parameter_count(flows[0]);
    double *theta = new_normals(&weights, count, 0.5), *got = new_numbers(count), *expected = new_numbers(count);
    size_t good = ROWS;
    for (int k = 0; k < 30 && good == ROWS; k++) { /* fields that grow until the first row is lost */
        for (size_t i = 0; i < count; i++)
            theta[i] *= 1.2;
        for (int adjoint = 0; adjoint < 2; adjoint++)
            must(nf_set_parameters(flows[adjoint], theta));
        const nf_status status = nf_score(flows[1], NULL, ROWS, x, NULL, NULL, score);
        if (status == NF_ERR_ROWS)
            must_say("nf_score", "the adjoint equation does not come back");
        good = 0;
        for (size_t r = 0; r < ROWS; r++) {
            weight[r] = isnan(score[r * DIM]) ? 0 : 1;
            good += isnan(score[r * DIM]) ? 0 : 1;
        }
        ck_assert_int_eq(status, good < ROWS ? NF_ERR_ROWS : NF_OK);
    }
    ck_assert_msg(good > 0 && good < ROWS, "%zu good rows", good);
    must(nf_gradient_create(flows[0], &gradient));
    must(nf_grad_nll(flows[0], NULL, ROWS, x, NULL, weight, gradient, &losses[0]));
    must(nf_gradient_get(gradient, expected));
    nf_gradient_free(gradient);
    must(nf_gradient_create(flows[1], &gradient));
    must_be(NF_ERR_ROWS, nf_grad_nll(flows[1], NULL, ROWS, x, NULL, NULL, gradient, &losses[1]));
    must(nf_gradient_get(gradient, got));
    double most = 0;
    for (size_t i = 0; i < count; i++)
        most = fmax(most, fabs(expected[i]));
    must_agree("loss", whole_error(&losses[1], &losses[0], 1), 1e-12);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(fabs(got[i] - expected[i]) <= 0.1 * most, "parameter %zu: %g, by the discrete solution %g", i, got[i], expected[i]);
    nf_gradient_free(gradient);
    nf_flow_free(flows[0]);
    nf_flow_free(flows[1]);
    double *arrays[] = {x, score, theta, got, expected};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
}
END_TEST

/* At a training's tolerance as well: of paths that run together in dz/dt = a tanh z, those that are kept have about the right gradient. */
START_TEST(rows_are_found_astray_at_a_loose_tolerance) {
    enum { ROWS = 32 };
    double x[ROWS], score[2][ROWS];
    size_t lost = 0;
    for (size_t r = 0; r < ROWS; r++)
        x[r] = 0.02 * (double)(r + 1);
    for (int k = 1; k < 60; k++) {
        for (int adjoint = 0; adjoint < 2; adjoint++) {
            nf_flow *flow;
            must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 1, .method = (nf_ode_method)(_i % 4), .precision = _i / 4 ? NF_SINGLE : NF_DOUBLE, .hidden_layers = 1,
                                         .hidden_width = 1, .rtol = 1e-3, .atol = 1e-3, .gradient = (nf_ode_gradient)adjoint),
                               &flow));
            ck_assert_uint_eq(nf_parameter_count(flow), 5);
            must(nf_set_parameters(flow, (double[]){1, 0, 0, 0.25 * k, 0}));
            nf_score(flow, NULL, ROWS, x, NULL, NULL, score[adjoint]);
            nf_flow_free(flow);
        }
        for (size_t r = 0; r < ROWS; r++) {
            lost += isnan(score[1][r]) != 0;
            ck_assert_msg(isnan(score[1][r]) || fabs(score[1][r] - score[0][r]) <= 0.5 * (0.1 + fabs(score[0][r])), "a = %g: %g at %g, by the discrete solution %g",
                          0.25 * k, score[1][r], x[r], score[0][r]);
        }
    }
    ck_assert(lost > 0 && lost < 59 * ROWS);
}
END_TEST

/* log p = -|x|^2 / 2 - 3 */
static nf_status normal_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)user;
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = -3;
        for (size_t i = 0; i < DIM; i++) {
            log_density[r] -= 0.5 * x[r * DIM + i] * x[r * DIM + i];
            gradient[r * DIM + i] = -x[r * DIM + i];
        }
    }
    return NF_OK;
}

/* Euler's steps contract by a tenth one way, and grow by 1.9 the other: the way back ends beyond the numbers, and nothing controls it. */
START_TEST(rows_whose_adjoint_overflows_add_nothing) {
    enum { STEPS = 2000 };
    const double a = 0.9 * STEPS, theta[] = {a, 0, 0.37, 0, a, -0.82, 0.21, 0.45}, x[] = {0.31, -1.27};
    double log_prob, loss, got[8] = {0};
    nf_cnf *flow;
    nf_gradient *gradient;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .precision = (nf_precision)_i, .hidden_layers = NF_NONE, .method = NF_EULER, .steps = STEPS,
                                 .gradient = NF_ODE_ADJOINT),
                       &flow));
    must(nf_set_parameters(flow, theta));
    must(nf_log_prob(flow, NULL, 1, x, NULL, &log_prob));
    must(nf_gradient_create(flow, &gradient));
    must_be(NF_ERR_ROWS, nf_grad_nll(flow, NULL, 1, x, NULL, NULL, gradient, &loss));
    must_say("nf_grad_nll", "does not come back");
    ck_assert_double_nan(loss);
    must(nf_gradient_get(gradient, got));
    for (size_t i = 0; i < 8; i++)
        ck_assert_double_eq(got[i], 0);
    nf_gradient_free(gradient);
    nf_flow_free(flow);
}
END_TEST

/*
 * The adjoint equation is linear in them; those below the normal numbers once made their rows bad. What holds for them is the tolerance of the least normal number:
 * in single precision a sixth of these. In double precision it is nothing to them, and their steps are those of the path.
 */
START_TEST(cotangents_of_the_adjoint_may_be_tiny) {
    const nf_precision precision = (nf_precision)(_i % 2);
    const double tiny = precision == NF_SINGLE ? 0x1p-140 : 0x1p-1060, x[] = {0.31, -1.27};
    nf_flow *flow = MAKE(.dynamics = (nf_dynamics)(_i / 2), .precision = precision, .gradient = NF_ODE_ADJOINT, .rtol = 1e-5, .atol = 1e-5);
    const double most = precision == NF_SINGLE ? 0.2 : 1e-2;
    double got[2][DIM];
    for (int k = 0; k < 2; k++) {
        const double size = k ? tiny : 1, d_z[] = {size, -2 * size}, d_log_det = size;
        must(nf_inverse_vjp(flow, NULL, 1, x, NULL, d_z, &d_log_det, got[k], NULL, NULL));
    }
    for (size_t i = 0; i < DIM; i++)
        ck_assert_double_eq_tol(got[1][i] / tiny, got[0][i], most * (1 + fabs(got[0][i])));
    nf_flow_free(flow);
}
END_TEST

/* Reverse KL shows samples to its target before it knows whether they can be traced: its loss is that of the rows of its gradient all the same. */
START_TEST(the_loss_of_reverse_kl_leaves_untraced_rows_out) {
    bool met = false;
    double *x = new_numbers(UNTRACED * DIM), *log_q = new_numbers(UNTRACED), *log_p = new_numbers(UNTRACED), *d = new_numbers(UNTRACED * DIM),
           *d_z = new_numbers(UNTRACED * DIM), *z = new_numbers(UNTRACED * DIM), *ones = new_numbers(UNTRACED), loss;
    nf_flow *base;
    must(nf_flow_create(DIM, 0, NF_DOUBLE, &base));
    enum { BUDGETS = 56 };
    for (size_t k = 0; k < SCENES * BUDGETS && !met; k++) {
        nf_flow *flow = around_adjoint(NF_DYNAMICS_MLP, k / BUDGETS, 4 + k % BUDGETS);
        nf_gradient *gradient;
        nf_rng rng[3] = {{5, 6, 7}, {5, 6, 7}, {5, 6, 7}};
        must(nf_gradient_create(flow, &gradient));
        must(nf_sample(base, NULL, &rng[0], UNTRACED, NULL, z, NULL));
        if (nf_sample(flow, NULL, &rng[1], UNTRACED, NULL, x, log_q) == NF_OK) {
            normal_target(NULL, UNTRACED, x, log_p, d);
            for (size_t r = 0; r < UNTRACED; r++)
                ones[r] = -1.0;
            for (size_t i = 0; i < UNTRACED * DIM; i++)
                d[i] = -d[i];
            const nf_status status = nf_forward_vjp(flow, NULL, UNTRACED, z, NULL, d, ones, d_z, NULL, NULL);
            double mean = 0;
            size_t good = 0;
            for (size_t r = 0; r < UNTRACED; r++)
                if (!isnan(d_z[r * DIM])) {
                    mean += log_q[r] - log_p[r];
                    good++;
                }
            mean /= (double)good;
            met = good > 0 && good < UNTRACED;
            must_be(status, nf_grad_reverse_kl(flow, NULL, &rng[2], UNTRACED, NULL, normal_target, NULL, gradient, &loss));
            if (good)
                must_agree("loss", whole_error(&loss, &mean, 1), 1e-12);
        }
        nf_gradient_free(gradient);
        nf_flow_free(flow);
    }
    ck_assert_msg(met, "no budget loses some rows on the way back alone");
    double *arrays[] = {x, log_q, log_p, d, d_z, z, ones};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        free(arrays[i]);
    nf_flow_free(base);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("adjoint gradients of cnf");
    TCase *c = tcase_create("adjoint gradients of cnf");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, the_adjoint_agrees_with_the_discrete_gradient, 0, 4);
    tcase_add_loop_test(c, rows_that_the_adjoint_cannot_trace_add_nothing, 0, 2);
    tcase_add_loop_test(c, rows_whose_adjoint_goes_astray_add_nothing, 0, 5);
    tcase_add_loop_test(c, a_stiff_way_back_spoils_no_other_with_a_shared_step, 0, 2);
    tcase_add_loop_test(c, rows_are_found_astray_at_a_loose_tolerance, 0, 8);
    tcase_add_loop_test(c, rows_whose_adjoint_overflows_add_nothing, 0, 2);
    tcase_add_loop_test(c, cotangents_of_the_adjoint_may_be_tiny, 0, 4);
    tcase_add_test(c, the_loss_of_reverse_kl_leaves_untraced_rows_out);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
