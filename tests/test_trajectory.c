/*
 * Trajectories of continuous flows: the path ends with the bits of nf_forward, begins where it starts, and in between agrees with a flow that ends
 * there; for all methods, both dynamics, both directions, with instants in either order.
 */
#include <math.h>
#include <stdlib.h>

#include "support.h"

enum { DIM = 3, ROWS = 141, TIMES = 7 };

static const nf_ode_method methods[] = {NF_DOPRI5, NF_TSIT5, NF_DOP853, NF_BOSH3, NF_RK4, NF_MIDPOINT, NF_EULER};
#define METHODS ((int)(sizeof methods / sizeof methods[0]))

static nf_flow *make(nf_dynamics dynamics, nf_ode_method method, double t0, double t1, nf_precision precision, int shared) {
    nf_cnf *flow;
    /* Steps of the methods without control small enough for the comparison, whose flows do not share them. */
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = DIM, .context_dim = dynamics == NF_DYNAMICS_MLP ? 2 : 0, .dynamics = dynamics, .method = method,
                                 .precision = precision, .hidden_layers = 2, .hidden_width = 7, .units = 6, .t0 = t0, .t1 = t1, .rtol = 1e-8,
                                 .atol = 1e-8, .steps = method == NF_EULER ? 2000 : 200, .shared_step = shared),
                       &flow));
    random_source random = random_begin(41);
    randomize(flow, &random, 0.6);
    return flow;
}

typedef struct data {
    double *z, *context, *x, *path;
} data;

static data make_data(void) {
    random_source random = random_begin(42);
    return (data){new_normals(&random, ROWS * DIM, 1.2), new_normals(&random, ROWS * 2, 1.0), new_numbers(ROWS * DIM), new_numbers(TIMES * ROWS * DIM)};
}

static void free_data(data *d) {
    free(d->z);
    free(d->context);
    free(d->x);
    free(d->path);
}

static double tolerance_of(nf_ode_method method) { return method == NF_EULER ? 1e-2 : method == NF_MIDPOINT ? 1e-4 : 3e-6; }

static void check_path(nf_dynamics dynamics, nf_ode_method method, double t0, double t1, bool inverted, bool backward) {
    data d = make_data();
    nf_flow *flow = make(dynamics, method, t0, t1, NF_DOUBLE, 0);
    const double *context = nf_flow_context_dim(flow) ? d.context : NULL;
    const double from = inverted ? t1 : t0, to = inverted ? t0 : t1;
    double t[TIMES];
    if (inverted)
        must(nf_flow_invert(flow));
    for (size_t i = 0; i < TIMES; i++) {
        const double s = (double)i * (double)i / ((TIMES - 1) * (TIMES - 1));
        t[backward ? TIMES - 1 - i : i] = i == TIMES - 1 ? to : from + s * (to - from);
    }
    must(nf_forward(flow, NULL, ROWS, d.z, context, d.x, NULL));
    must(nf_cnf_trajectory(flow, NULL, ROWS, d.z, context, TIMES, t, d.path));
    const size_t first = backward ? TIMES - 1 : 0, last = backward ? 0 : TIMES - 1;
    same_bits("start", d.path + first * ROWS * DIM, d.z, ROWS * DIM);
    same_bits("end", d.path + last * ROWS * DIM, d.x, ROWS * DIM);
    for (size_t i = 0; i < TIMES; i += is_brief() ? 4 : 1) {
        if (t[i] == from || t[i] == to)
            continue;
        nf_flow *part = make(dynamics, method, inverted ? t[i] : from, inverted ? from : t[i], NF_DOUBLE, 0);
        if (inverted)
            must(nf_flow_invert(part));
        must(nf_forward(part, NULL, ROWS, d.z, context, d.x, NULL));
        must_agree("between", row_error(d.path + i * ROWS * DIM, d.x, ROWS, DIM), tolerance_of(method));
        nf_flow_free(part);
    }
    nf_flow_free(flow);
    free_data(&d);
}

START_TEST(paths_agree_with_shorter_flows) {
    check_path(NF_DYNAMICS_MLP, methods[_i], 0.25, 1.385, false, false);
    check_path(NF_DYNAMICS_HYPER, methods[_i], 1.385, -0.25, false, true);
    check_path(NF_DYNAMICS_MLP, methods[_i], 0.25, 1.385, true, true);
    check_path(NF_DYNAMICS_HYPER, methods[_i], 0.25, 1.385, true, false);
}
END_TEST

/* Far from 0 many fixed steps begin and end at one number: the path still begins at z and ends at x, and moves on in between. */
START_TEST(steps_may_be_shorter_than_the_spacing_of_times) {
    static const double ends[][2] = {{1e17, 1e17 + 32}, {1e16, 1e16 + 8}, {-1e17, -1e17 - 48}, {3, 3 + 0x1p-48}};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        for (int m = 4; m < METHODS; m++)
            for (int backward = 0; backward < 2; backward++) {
                const double z[2] = {0.385, -0.4}, from = ends[i][0], to = ends[i][1];
                double x[2], path[3][2], t[3] = {from, from + (to - from) / 2, to};
                nf_flow *flow;
                must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .t0 = from, .t1 = to, .method = methods[m], .steps = 32, .seed = 3), &flow));
                if (backward) {
                    t[0] = to;
                    t[2] = from;
                }
                must(nf_forward(flow, NULL, 1, z, NULL, x, NULL));
                must(nf_cnf_trajectory(flow, NULL, 1, z, NULL, 3, t, path[0]));
                same_bits("start", path[backward ? 2 : 0], z, 2);
                same_bits("end", path[backward ? 0 : 2], x, 2);
                ck_assert((path[1][0] - z[0]) * (x[0] - path[1][0]) >= 0);
                nf_flow_free(flow);
            }
}
END_TEST

START_TEST(rows_and_threads_change_no_bit) {
    const nf_dynamics dynamics = _i ? NF_DYNAMICS_HYPER : NF_DYNAMICS_MLP;
    data d = make_data();
    for (int precision = 0; precision < 2; precision++) {
        nf_flow *flow = make(dynamics, NF_TSIT5, 0.25, 1.385, (nf_precision)precision, 0);
        const double *context = nf_flow_context_dim(flow) ? d.context : NULL, t[TIMES] = {0.25, 0.3, 0.3, 0.77, 1.0, 1.3, 1.385};
        double *other = new_numbers(TIMES * ROWS * DIM), one[TIMES * DIM];
        nf_workspace *ws;
        must(nf_workspace_create(flow, 3, &ws));
        must(nf_cnf_trajectory(flow, NULL, ROWS, d.z, context, TIMES, t, d.path));
        must(nf_cnf_trajectory(flow, ws, ROWS, d.z, context, TIMES, t, other));
        same_bits("path", d.path, other, TIMES * ROWS * DIM);
        for (size_t r = 0; r < ROWS; r += 29) {
            must(nf_cnf_trajectory(flow, ws, 1, d.z + r * DIM, context ? context + 2 * r : NULL, TIMES, t, one));
            for (size_t i = 0; i < TIMES; i++)
                same_bits("row", one + i * DIM, d.path + (i * ROWS + r) * DIM, DIM);
        }
        nf_workspace_free(ws);
        nf_flow_free(flow);
        free(other);
    }
    free_data(&d);
}
END_TEST

START_TEST(bad_rows_are_nan_everywhere) {
    data d = make_data();
    nf_flow *flow = make(NF_DYNAMICS_MLP, NF_DOPRI5, 0.25, 1.385, NF_DOUBLE, 0);
    const double t[TIMES] = {0.25, 0.3, 0.5, 0.77, 1.0, 1.3, 1.385};
    double *good = new_numbers(TIMES * ROWS * DIM);
    must(nf_cnf_trajectory(flow, NULL, ROWS, d.z, d.context, TIMES, t, good));
    d.z[5 * DIM + 1] = INFINITY;
    must_be(NF_ERR_ROWS, nf_cnf_trajectory(flow, NULL, ROWS, d.z, d.context, TIMES, t, d.path));
    must_say("nf_cnf_trajectory", "z[5][1] is inf");
    for (size_t i = 0; i < TIMES; i++)
        for (size_t r = 0; r < ROWS; r++)
            if (r == 5)
                ck_assert(isnan(d.path[(i * ROWS + r) * DIM]) && isnan(d.path[(i * ROWS + r) * DIM + 2]));
            else
                same_bits("other rows", d.path + (i * ROWS + r) * DIM, good + (i * ROWS + r) * DIM, DIM);
    must(nf_cnf_set_solver(flow, NF_DOPRI5, 1e-10, 1e-10, 0, 2));
    d.z[5 * DIM + 1] = 0;
    must_be(NF_ERR_ROWS, nf_cnf_trajectory(flow, NULL, ROWS, d.z, d.context, TIMES, t, d.path));
    must_say("nf_cnf_trajectory", "max_steps");
    ck_assert(isnan(d.path[0]));
    nf_flow_free(flow);
    free(good);
    free_data(&d);
}
END_TEST

START_TEST(arguments_are_checked) {
    data d = make_data();
    nf_flow *flow = make(NF_DYNAMICS_MLP, NF_DOPRI5, 0.25, 1.385, NF_DOUBLE, 0), *other = make(NF_DYNAMICS_HYPER, NF_DOPRI5, 0.25, 1.385, NF_DOUBLE, 0);
    nf_workspace *foreign;
    const double t[3] = {0.25, 0.5, 1.385};
    must(nf_workspace_create(other, 1, &foreign));
#define REFUSED(status, text, ...)                                                                                                        \
    do {                                                                                                                                  \
        must_be(status, nf_cnf_trajectory(__VA_ARGS__));                                                                                  \
        must_say("nf_cnf_trajectory", text);                                                                                              \
    } while (0)
    REFUSED(NF_ERR_ARGUMENT, "flow is NULL", NULL, NULL, ROWS, d.z, d.context, 3, t, d.path);
    REFUSED(NF_ERR_MISMATCH, "ws", flow, foreign, ROWS, d.z, d.context, 3, t, d.path);
    REFUSED(NF_ERR_ARGUMENT, "z is NULL", flow, NULL, ROWS, NULL, d.context, 3, t, d.path);
    REFUSED(NF_ERR_ARGUMENT, "context is NULL", flow, NULL, ROWS, d.z, NULL, 3, t, d.path);
    REFUSED(NF_ERR_ARGUMENT, "t is NULL", flow, NULL, ROWS, d.z, d.context, 3, NULL, d.path);
    REFUSED(NF_ERR_ARGUMENT, "path is NULL", flow, NULL, ROWS, d.z, d.context, 3, t, NULL);
    REFUSED(NF_ERR_ARGUMENT, "times is", flow, NULL, ROWS, d.z, d.context, SIZE_MAX / 8, t, d.path);
    REFUSED(NF_ERR_ARGUMENT, "t[1] is 1.5", flow, NULL, ROWS, d.z, d.context, 2, ((double[]){0.3, 1.5}), d.path);
    REFUSED(NF_ERR_ARGUMENT, "t[0] is nan", flow, NULL, ROWS, d.z, d.context, 1, ((double[]){NAN}), d.path);
    REFUSED(NF_ERR_ARGUMENT, "t[2] is 0.4 after 0.5", flow, NULL, ROWS, d.z, d.context, 3, ((double[]){0.4, 0.5, 0.4}), d.path);
    must(nf_cnf_trajectory(flow, NULL, ROWS, d.z, d.context, 0, NULL, NULL));
    must(nf_cnf_trajectory(flow, NULL, 0, NULL, NULL, 3, t, NULL));
    nf_flow *affine;
    must(nf_affine_create(DIM, NF_DOUBLE, &affine));
    REFUSED(NF_ERR_ARGUMENT, "one cnf layer", affine, NULL, ROWS, d.z, NULL, 3, t, d.path);
    nf_flow_free(affine);
    nf_workspace_free(foreign);
    nf_flow_free(flow);
    nf_flow_free(other);
    free_data(&d);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("trajectory");
    TCase *c = tcase_create("trajectory");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, paths_agree_with_shorter_flows, 0, METHODS);
    tcase_add_test(c, steps_may_be_shorter_than_the_spacing_of_times);
    tcase_add_loop_test(c, rows_and_threads_change_no_bit, 0, 2);
    tcase_add_test(c, bad_rows_are_nan_everywhere);
    tcase_add_test(c, arguments_are_checked);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
