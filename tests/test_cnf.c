/*
 * Continuous flows as a user meets them: the error of a round trip against the tolerance, rows in any company, both gradients, steps in common,
 * regularisers against their integrals, Hutchinson's trace.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

enum { DIM = 2 };

static nf_flow *make_with(const nf_cnf_config *given) {
    nf_cnf_config config = *given;
    nf_cnf *flow;
    config.struct_size = sizeof config;
    config.dim = config.dim ? config.dim : DIM;
    config.hidden_width = config.hidden_width ? config.hidden_width : 12;
    config.units = 9;
    must(nf_cnf_create(&config, &flow));
    random_source random = random_begin(51);
    randomize(flow, &random, 0.5);
    return flow;
}

#define MAKE(...) make_with(NF_CONFIG(nf_cnf_config, __VA_ARGS__))

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
    for (size_t max_steps = 10; max_steps < 400 && !met; max_steps += 5) {
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

/* ---- gradients */

static void gradients_of(nf_flow *flow, int inverse, size_t rows, const double *in, const double *a, const double *b, double *d_in, double *d_theta) {
    nf_gradient *gradient;
    must(nf_gradient_create(flow, &gradient));
    must((inverse ? nf_inverse_vjp : nf_forward_vjp)(flow, NULL, rows, in, NULL, a, b, d_in, NULL, gradient));
    must(nf_gradient_get(gradient, d_theta));
    nf_gradient_free(gradient);
}

START_TEST(the_adjoint_agrees_with_the_discrete_gradient) {
    enum { ROWS = 21 };
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
        must_agree("input", row_error(d_in[1], d_in[0], ROWS, DIM), 1e-7);
        must_agree("parameters", whole_error(d_theta[1], d_theta[0], count), 1e-7);
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

/* The adjoint equation is linear in them; those below the normal numbers once made their rows bad. */
START_TEST(cotangents_of_the_adjoint_may_be_tiny) {
    const nf_precision precision = (nf_precision)(_i % 2);
    const double tiny = precision == NF_SINGLE ? 0x1p-140 : 0x1p-1060, x[] = {0.31, -1.27};
    nf_flow *flow = MAKE(.dynamics = (nf_dynamics)(_i / 2), .precision = precision, .gradient = NF_ODE_ADJOINT, .rtol = 1e-5, .atol = 1e-5);
    double got[2][DIM];
    for (int k = 0; k < 2; k++) {
        const double size = k ? tiny : 1, d_z[] = {size, -2 * size}, d_log_det = size;
        must(nf_inverse_vjp(flow, NULL, 1, x, NULL, d_z, &d_log_det, got[k], NULL, NULL));
    }
    for (size_t i = 0; i < DIM; i++)
        ck_assert_double_eq_tol(got[1][i] / tiny, got[0][i], 1e-2 * (1 + fabs(got[0][i])));
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

static size_t count_of(size_t dim, nf_dynamics dynamics, size_t layers, size_t width) {
    nf_cnf *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = dim, .dynamics = dynamics, .hidden_layers = layers, .hidden_width = width), &flow));
    const size_t count = nf_parameter_count(flow);
    nf_flow_free(flow);
    return count;
}

START_TEST(the_default_net_is_deep_where_its_trace_is_cheap) {
    for (size_t dim = 1; dim <= 4; dim++) {
        const size_t layers = dim <= 2 ? 4 : 2, width = dim <= 2 ? 24 : 64;
        ck_assert_uint_eq(count_of(dim, NF_DYNAMICS_MLP, 0, 0), count_of(dim, NF_DYNAMICS_MLP, layers, width));
        ck_assert_uint_eq(count_of(dim, NF_DYNAMICS_MLP, 3, 0), count_of(dim, NF_DYNAMICS_MLP, 3, width));
        ck_assert_uint_eq(count_of(dim, NF_DYNAMICS_HYPER, 0, 0), count_of(dim, NF_DYNAMICS_HYPER, 2, 32));
    }
}
END_TEST

/* What the header says that zeros mean, against a flow with all of it written out: the same file, byte by byte. */
START_TEST(defaults_are_those_of_the_header) {
    for (int i = 0; i < 2; i++) {
        const nf_dynamics dynamics = (nf_dynamics)i;
        const nf_trace trace = i ? NF_TRACE_EXACT : NF_TRACE_HUTCHINSON;
        nf_cnf *flows[2];
        void *bytes[2];
        size_t size[2];
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = dynamics, .trace = trace, .seed = 3), &flows[0]));
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = dynamics, .trace = trace, .seed = 3, .activation = NF_TANH, .method = NF_DOPRI5,
                                     .units = i ? 64 : 0, .t0 = 0, .t1 = 1, .rtol = 1e-7, .atol = 1e-9, .steps = 32, .max_steps = 10000, .probes = 1,
                                     .gradient = NF_ODE_DISCRETE),
                           &flows[1]));
        for (int k = 0; k < 2; k++)
            must(nf_flow_save_memory(flows[k], &bytes[k], &size[k]));
        ck_assert_uint_eq(size[0], size[1]);
        ck_assert_mem_eq(bytes[0], bytes[1], size[0]);
        for (int k = 0; k < 2; k++) {
            nf_free(bytes[k]);
            nf_flow_free(flows[k]);
        }
    }
}
END_TEST

/* Files do not tell it, and a flow that came back with another one was another density. */
START_TEST(the_net_of_hyper_dynamics_has_no_choice_of_activation) {
    const double x[] = {0.31, -1.27};
    for (int activation = NF_ACTIVATION_DEFAULT; activation <= NF_SOFTPLUS; activation++) {
        nf_cnf *flow, *again;
        void *bytes;
        size_t size;
        double before, after;
        must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .dynamics = NF_DYNAMICS_HYPER, .activation = (nf_activation)activation, .seed = 3), &flow));
        must(nf_flow_save_memory(flow, &bytes, &size));
        must(nf_flow_load_memory(bytes, size, &again));
        must(nf_log_prob(flow, NULL, 1, x, NULL, &before));
        must(nf_log_prob(again, NULL, 1, x, NULL, &after));
        ck_assert_mem_eq(&before, &after, sizeof before);
        nf_free(bytes);
        nf_flow_free(again);
        nf_flow_free(flow);
    }
}
END_TEST

START_TEST(configs_are_checked) {
    nf_cnf *flow;
#define REFUSED(status, text, ...)                                                                                                        \
    do {                                                                                                                                  \
        must_be(status, nf_cnf_create(NF_CONFIG(nf_cnf_config, __VA_ARGS__), &flow));                                                     \
        ck_assert_ptr_null(flow);                                                                                                         \
        must_say("nf_cnf_create", text);                                                                                                  \
    } while (0)
    REFUSED(NF_ERR_ARGUMENT, "dim", .dim = 0);
    REFUSED(NF_ERR_ARGUMENT, "dynamics is 2", .dim = 2, .dynamics = (nf_dynamics)2);
    REFUSED(NF_ERR_ARGUMENT, "method is 7", .dim = 2, .method = (nf_ode_method)7);
    REFUSED(NF_ERR_ARGUMENT, "t0 = 1 and t1 = 1", .dim = 2, .t0 = 1, .t1 = 1);
    REFUSED(NF_ERR_ARGUMENT, "t1 = inf", .dim = 2, .t1 = INFINITY);
    REFUSED(NF_ERR_ARGUMENT, "further apart", .dim = 2, .t0 = -1e308, .t1 = 1e308);
    REFUSED(NF_ERR_ARGUMENT, "not both 0", .dim = 2, .rtol = -1, .atol = -1);
    REFUSED(NF_ERR_ARGUMENT, "smooth", .dim = 2, .activation = NF_RELU);
    REFUSED(NF_ERR_ARGUMENT, "trace is 3", .dim = 2, .trace = (nf_trace)3);
    REFUSED(NF_ERR_ARGUMENT, "gradient is 2", .dim = 2, .gradient = (nf_ode_gradient)2);
    REFUSED(NF_ERR_ARGUMENT, "probes is 0", .dim = 2, .trace = NF_TRACE_HUTCHINSON, .probes = NF_NONE);
    REFUSED(NF_ERR_ARGUMENT, "steps is 0", .dim = 2, .steps = NF_NONE);
    REFUSED(NF_ERR_ARGUMENT, "max_steps 0", .dim = 2, .max_steps = NF_NONE);
    REFUSED(NF_ERR_ARGUMENT, "must be at most", .dim = 2, .max_steps = SIZE_MAX - 1);
    REFUSED(NF_ERR_ARGUMENT, "must be at most", .dim = 2, .steps = SIZE_MAX / 2 + 1);
    REFUSED(NF_ERR_ARGUMENT, "must be at most", .dim = 2, .probes = SIZE_MAX / 2 + 1);
    REFUSED(NF_ERR_ARGUMENT, "kinetic = nan", .dim = 2, .kinetic = NAN);
    REFUSED(NF_ERR_ARGUMENT, "jacobian = -1", .dim = 2, .jacobian = -1);
    REFUSED(NF_ERR_ARGUMENT, "dim 2 and context ", .dim = 2, .context_dim = SIZE_MAX);
    REFUSED(NF_ERR_ARGUMENT, "kinetic is 1e+300, beyond single", .dim = 2, .kinetic = 1e300, .precision = NF_SINGLE);
    REFUSED(NF_ERR_ARGUMENT, "t1 is 1e+39, beyond single", .dim = 2, .t1 = 1e39, .precision = NF_SINGLE);
    REFUSED(NF_ERR_ARGUMENT, "shared_step is 2", .dim = 2, .shared_step = 2);
    REFUSED(NF_ERR_ARGUMENT, "reserved is 1", .dim = 2, .reserved = 1);
    REFUSED(NF_ERR_UNSUPPORTED, "no context", .dim = 2, .context_dim = 1, .dynamics = NF_DYNAMICS_HYPER);
}
END_TEST

START_TEST(solver_settings_are_checked_as_the_configs_are) {
    const double z[] = {0.31, -1.27};
    double before[2], after[2];
    nf_cnf *flow;
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .seed = 1), &flow));
    must(nf_forward(flow, NULL, 1, z, NULL, before, NULL));
#define REFUSED_SOLVER(text, ...)                                                                                                         \
    do {                                                                                                                                  \
        must_be(NF_ERR_ARGUMENT, nf_cnf_set_solver(flow, __VA_ARGS__));                                                                   \
        must_say("nf_cnf_set_solver", text);                                                                                              \
    } while (0)
    REFUSED_SOLVER("method is 7", (nf_ode_method)7, 0, 0, 0, 0);
    REFUSED_SOLVER("rtol = nan", NF_DOPRI5, NAN, 0, 0, 0);
    REFUSED_SOLVER("atol = inf", NF_DOPRI5, 0, INFINITY, 0, 0);
    REFUSED_SOLVER("not both 0", NF_DOPRI5, -1, -1, 0, 0);
    REFUSED_SOLVER("steps is 0", NF_RK4, 0, 0, NF_NONE, 0);
    REFUSED_SOLVER("max_steps 0", NF_DOPRI5, 0, 0, 0, NF_NONE);
    REFUSED_SOLVER("must be at most", NF_RK4, 0, 0, SIZE_MAX - 1, 0);
    REFUSED_SOLVER("must be at most", NF_DOPRI5, 0, 0, 0, SIZE_MAX - 1);
    must(nf_forward(flow, NULL, 1, z, NULL, after, NULL));
    ck_assert_mem_eq(before, after, sizeof before);
    nf_flow_free(flow);
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .seed = 1, .precision = NF_SINGLE), &flow));
    REFUSED_SOLVER("rtol is 1e+39, beyond single", NF_DOPRI5, 1e39, 0, 0, 0); /* a file of it could not be loaded */
    REFUSED_SOLVER("atol is 1e+39, beyond single", NF_DOPRI5, 0, 1e39, 0, 0);
    must(nf_cnf_set_solver(flow, NF_DOPRI5, 1e38, 1e38, 0, 0));
    nf_flow_free(flow);
}
END_TEST

/* Products of them with widths and dimensions once wrapped to little memory that was written beyond. */
START_TEST(probes_are_no_more_than_can_be_counted) {
    const size_t most = SIZE_MAX / 2 + 1, counts[] = {most >> 5, most >> 4, most >> 2, most >> 1, (most >> 1) + 1, most - 1, SIZE_MAX / 3, SIZE_MAX / 5};
    nf_cnf *flow;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t dim = 1; dim < 5; dim++)
            for (size_t deep = 0; deep < 2; deep++) {
                must_be(NF_ERR_ARGUMENT, nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = dim, .hidden_layers = deep ? 3 : 1, .hidden_width = 1,
                                                                 .trace = deep ? NF_TRACE_HUTCHINSON_NORMAL : NF_TRACE_HUTCHINSON, .probes = counts[i]),
                                                       &flow));
                must_say("nf_cnf_create", "probes is ");
                must_say("nf_cnf_create", "more than memory can hold");
            }
    /* What is not used is not asked for. */
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .probes = most - 1), &flow));
    nf_flow_free(flow);
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
    tcase_add_loop_test(c, the_adjoint_agrees_with_the_discrete_gradient, 0, 4);
    tcase_add_loop_test(c, rows_that_the_adjoint_cannot_trace_add_nothing, 0, 2);
    tcase_add_loop_test(c, rows_whose_adjoint_goes_astray_add_nothing, 0, 5);
    tcase_add_loop_test(c, rows_are_found_astray_at_a_loose_tolerance, 0, 8);
    tcase_add_loop_test(c, rows_whose_adjoint_overflows_add_nothing, 0, 2);
    tcase_add_loop_test(c, cotangents_of_the_adjoint_may_be_tiny, 0, 4);
    tcase_add_test(c, the_loss_of_reverse_kl_leaves_untraced_rows_out);
    tcase_add_loop_test(c, regularisers_are_their_integrals, 0, 4);
    if (!is_brief()) /* a mean of many */
        tcase_add_loop_test(c, estimated_log_det_is_unbiased_about_the_exact, 0, 2);
    tcase_add_test(c, the_default_net_is_deep_where_its_trace_is_cheap);
    tcase_add_test(c, defaults_are_those_of_the_header);
    tcase_add_test(c, the_net_of_hyper_dynamics_has_no_choice_of_activation);
    tcase_add_test(c, configs_are_checked);
    tcase_add_test(c, solver_settings_are_checked_as_the_configs_are);
    tcase_add_test(c, probes_are_no_more_than_can_be_counted);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
