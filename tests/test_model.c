/* The structure of flows: tensors and their names, stacks, inversion, copies, and objects that belong to another structure. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

enum { ROWS = 19 };

/* What a flow does with ROWS given rows: x, log_det, z, log_prob. */
typedef struct behaviour {
    double *in, *context, *x, *log_det, *z, *log_prob;
} behaviour;

static behaviour observe(const nf_flow *flow, uint64_t stream) {
    random_source random = random_begin(stream);
    const size_t dim = nf_flow_dim(flow), context_dim = nf_flow_context_dim(flow);
    behaviour b = {.in = new_normals(&random, ROWS * dim, 1.285),
                   .context = context_dim ? new_normals(&random, ROWS * context_dim, 0.785) : NULL,
                   .x = new_numbers(ROWS * dim),
                   .log_det = new_numbers(ROWS),
                   .z = new_numbers(ROWS * dim),
                   .log_prob = new_numbers(ROWS)};
    must(nf_forward(flow, NULL, ROWS, b.in, b.context, b.x, b.log_det));
    must(nf_inverse(flow, NULL, ROWS, b.in, b.context, b.z, NULL));
    must(nf_log_prob(flow, NULL, ROWS, b.in, b.context, b.log_prob));
    return b;
}

static void forget(behaviour *b) {
    double *all[] = {b->in, b->context, b->x, b->log_det, b->z, b->log_prob};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static void behaves_as(const nf_flow *flow, const behaviour *expected, uint64_t stream) {
    const size_t dim = nf_flow_dim(flow);
    behaviour b = observe(flow, stream);
    same_bits("x", b.x, expected->x, ROWS * dim);
    same_bits("log_det", b.log_det, expected->log_det, ROWS);
    same_bits("z", b.z, expected->z, ROWS * dim);
    same_bits("log_prob", b.log_prob, expected->log_prob, ROWS);
    forget(&b);
}

static bool open_flow(int i, nf_flow **flow) {
    subject s;
    open_subject(&s, i, NF_DOUBLE, 1);
    must(nf_flow_clone(s.flow, flow));
    close_subject(&s);
    return true;
}

static nf_tensor tensor_at(const nf_flow *flow, size_t index) {
    nf_tensor t = {.struct_size = sizeof t};
    must(nf_tensor_info(flow, index, &t));
    return t;
}

/* ---- tensors ---- */

START_TEST(tensors_tile_the_parameter_vector) {
    nf_flow *flow;
    if (!open_flow(_i, &flow))
        return;
    size_t next = 0;
    for (size_t i = 0; i < nf_tensor_count(flow); i++) {
        const nf_tensor t = tensor_at(flow, i);
        ck_assert_uint_eq(t.offset, next);
        ck_assert(t.rank == 1 || t.rank == 2);
        ck_assert(t.rank == 2 || t.shape[1] == 1);
        ck_assert(strncmp(t.name, "layers.", 7) == 0);
        for (size_t k = 0; k < i; k++)
            ck_assert_str_ne(tensor_at(flow, k).name, t.name);
        next += t.shape[0] * t.shape[1];
    }
    ck_assert_uint_eq(next, nf_parameter_count(flow));
    nf_tensor t = {.struct_size = sizeof t};
    must_be(NF_ERR_ARGUMENT, nf_tensor_info(flow, nf_tensor_count(flow), &t));
    nf_flow_free(flow);
}
END_TEST

START_TEST(tensor_names_are_those_of_the_files) {
    static const struct {
        const char *name;
        size_t rank, rows, columns;
    } expected[] = {{"layers.0.net.0.weight", 2, 6, 3}, {"layers.0.net.0.bias", 1, 6, 1}, {"layers.0.net.1.weight", 2, 4, 6}, {"layers.0.net.1.bias", 1, 4, 1},
                    {"layers.1.net.0.weight", 2, 6, 4}, {"layers.1.net.0.bias", 1, 6, 1}, {"layers.1.net.1.weight", 2, 2, 6}, {"layers.1.net.1.bias", 1, 2, 1},
                    {"layers.2.net.0.weight", 2, 6, 3}, {"layers.2.net.0.bias", 1, 6, 1}, {"layers.2.net.1.weight", 2, 4, 6}, {"layers.2.net.1.bias", 1, 4, 1},
                    {"layers.3.log_scale", 1, 3, 1},    {"layers.3.shift", 1, 3, 1}};
    nf_flow *flow = make_realnvp(3, 2, NF_DOUBLE, NULL);
    ck_assert_uint_eq(nf_flow_dim(flow), 3);
    ck_assert_uint_eq(nf_flow_context_dim(flow), 2);
    ck_assert_uint_eq(nf_flow_layer_count(flow), 4);
    ck_assert_uint_eq(nf_tensor_count(flow), sizeof expected / sizeof expected[0]);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        const nf_tensor t = tensor_at(flow, i);
        ck_assert_str_eq(t.name, expected[i].name);
        ck_assert_uint_eq(t.rank, expected[i].rank);
        ck_assert_uint_eq(t.shape[0], expected[i].rows);
        ck_assert_uint_eq(t.shape[1], expected[i].columns);
    }
    must(nf_flow_invert(flow));
    ck_assert_str_eq(tensor_at(flow, 0).name, "layers.0.log_scale");
    ck_assert_str_eq(tensor_at(flow, 2).name, "layers.1.net.0.weight");
    nf_flow_free(flow);
}
END_TEST

/* ---- copies ---- */

START_TEST(a_clone_is_the_same_and_apart) {
    nf_flow *flow, *clone;
    if (!open_flow(_i, &flow))
        return;
    behaviour before = observe(flow, 5);
    must(nf_flow_clone(flow, &clone));
    behaves_as(clone, &before, 5);

    /* One's workspace, gradient and optimizer serve the other. */
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
    must(nf_workspace_create(flow, 1, &ws));
    must(nf_gradient_create(flow, &gradient));
    must(nf_optimizer_create(flow, NULL, &optimizer));
    must(nf_grad_nll(clone, ws, ROWS, before.in, before.context, NULL, gradient, NULL));
    must(nf_optimizer_step(optimizer, clone, gradient));
    behaves_as(flow, &before, 5);

    /* Parameters, base and life of the clone are its own. */
    random_source random = random_begin(77);
    randomize(clone, &random, 0.3);
    double *sd = new_numbers(nf_flow_dim(flow));
    for (size_t i = 0; i < nf_flow_dim(flow); i++)
        sd[i] = 2.385;
    must(nf_flow_set_base_normal(clone, NULL, sd));
    must(nf_flow_invert(clone));
    behaves_as(flow, &before, 5);
    nf_flow_free(clone);
    behaves_as(flow, &before, 5);
    must(nf_flow_clone(flow, &clone));
    nf_flow_free(flow);
    behaves_as(clone, &before, 5);
    free(sd);
    nf_optimizer_free(optimizer);
    nf_gradient_free(gradient);
    nf_workspace_free(ws);
    nf_flow_free(clone);
    forget(&before);
}
END_TEST

START_TEST(converting_there_and_back_rounds_once) {
    nf_flow *flow, *single, *wide;
    if (!open_flow(_i, &flow))
        return;
    const size_t count = nf_parameter_count(flow);
    double *before = new_numbers(count), *after = new_numbers(count);
    must(nf_flow_convert(flow, NF_SINGLE, &single));
    must(nf_flow_convert(single, NF_DOUBLE, &wide));
    ck_assert_int_eq(nf_flow_precision(single), NF_SINGLE);
    ck_assert_int_eq(nf_flow_precision(wide), NF_DOUBLE);
    must(nf_get_parameters(flow, before));
    must(nf_get_parameters(wide, after));
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(after[i] == (double)(float)before[i], "parameter %zu: %.17g became %.17g", i, before[i], after[i]);
    must(nf_get_parameters(single, before));
    same_bits("parameters of the single flow", before, after, count);
    for (size_t i = 0; i < nf_tensor_count(flow); i++)
        ck_assert_str_eq(tensor_at(flow, i).name, tensor_at(single, i).name);
    nf_flow *same;
    must(nf_flow_convert(flow, NF_DOUBLE, &same));
    behaviour b = observe(flow, 9);
    behaves_as(same, &b, 9);
    forget(&b);
    nf_flow_free(same);
    nf_flow_free(flow);
    nf_flow_free(single);
    nf_flow_free(wide);
    free(before);
    free(after);
}
END_TEST

/* ---- inverting and appending ---- */

START_TEST(inverting_swaps_the_maps) {
    nf_flow *flow, *inverted;
    if (!open_flow(_i, &flow))
        return;
    const size_t dim = nf_flow_dim(flow), count = nf_parameter_count(flow);
    behaviour plain = observe(flow, 6);
    must(nf_flow_clone(flow, &inverted));
    must(nf_flow_invert(inverted));
    ck_assert_uint_eq(nf_flow_layer_count(inverted), nf_flow_layer_count(flow));
    behaviour swapped = observe(inverted, 6);
    same_bits("inverse of the inverted", swapped.z, plain.x, ROWS * dim);
    same_bits("forward of the inverted", swapped.x, plain.z, ROWS * dim);
    must(nf_flow_invert(inverted));
    behaves_as(inverted, &plain, 6);
    double *a = new_numbers(count), *b = new_numbers(count);
    must(nf_get_parameters(flow, a));
    must(nf_get_parameters(inverted, b));
    same_bits("parameters of the twice inverted", a, b, count);
    free(a);
    free(b);
    forget(&plain);
    forget(&swapped);
    nf_flow_free(flow);
    nf_flow_free(inverted);
}
END_TEST

START_TEST(appending_composes) {
    nf_flow *flow, *part;
    if (!open_flow(_i, &flow))
        return;
    const size_t dim = nf_flow_dim(flow), layers = nf_flow_layer_count(flow), count = nf_parameter_count(flow);
    must(nf_flow_clone(flow, &part));
    must(nf_flow_set_base_normal(part, NULL, NULL));
    random_source random = random_begin(88);
    randomize(part, &random, fixtures[_i / 2].sd);
    double *expected = new_numbers(2 * count), *got = new_numbers(2 * count), *log_det = new_numbers(ROWS);
    must(nf_get_parameters(flow, expected));
    must(nf_get_parameters(part, expected + count));
    behaviour first = observe(flow, 7);
    double *x = new_numbers(ROWS * dim);
    must(nf_forward(part, NULL, ROWS, first.x, first.context, x, log_det));
    must(nf_flow_append(flow, part));
    ck_assert_uint_eq(nf_flow_layer_count(flow), 2 * layers);
    must(nf_get_parameters(flow, got));
    same_bits("parameters of the stack", got, expected, 2 * count);
    behaviour both = observe(flow, 7);
    same_bits("x of the stack", both.x, x, ROWS * dim);
    for (size_t r = 0; r < ROWS; r++)
        log_det[r] += first.log_det[r];
    must_agree("log_det of the stack", row_error(both.log_det, log_det, ROWS, 1), 1e-13);
    free(expected);
    free(got);
    free(log_det);
    free(x);
    forget(&first);
    forget(&both);
    nf_flow_free(flow);
}
END_TEST

START_TEST(the_base_belongs_to_the_flow_that_is_appended_to) {
    nf_flow *flow = make_realnvp(2, 0, NF_DOUBLE, NULL), *part = make_realnvp(2, 0, NF_DOUBLE, NULL);
    const double mean[] = {0.385, -1.25}, sd[] = {0.5, 2.385}, one[] = {1, 1}, none[] = {0, 0};
    behaviour before = observe(flow, 3);
    must(nf_flow_set_base_normal(part, NULL, sd));
    must_be(NF_ERR_ARGUMENT, nf_flow_append(flow, part));
    must_say("nf_flow_append", "base");
    behaves_as(flow, &before, 3);
    must(nf_flow_set_base_normal(part, mean, NULL));
    must_be(NF_ERR_ARGUMENT, nf_flow_append(flow, part));
    must(nf_flow_set_base_normal(part, none, one));
    must(nf_flow_set_base_normal(flow, mean, sd));
    must(nf_flow_append(flow, part));
    double z[2] = {0.1, 0.2}, x[2], log_det, log_prob, expected = 0;
    must(nf_forward(flow, NULL, 1, z, NULL, x, &log_det));
    must(nf_log_prob(flow, NULL, 1, x, NULL, &log_prob));
    for (int i = 0; i < 2; i++)
        expected += -0.5 * pow((z[i] - mean[i]) / sd[i], 2) - log(sd[i]) - 0.91893853320467274178;
    expected -= log_det;
    must_agree("log_prob of the stack", whole_error(&log_prob, &expected, 1), 1e-12);
    forget(&before);
    nf_flow_free(flow);
}
END_TEST

START_TEST(parts_that_do_not_fit_are_refused) {
    nf_flow *flow = make_realnvp(3, 2, NF_DOUBLE, NULL), *wide = make_realnvp(4, 2, NF_DOUBLE, NULL), *other = make_realnvp(3, 1, NF_DOUBLE, NULL);
    nf_flow *single = make_realnvp(3, 2, NF_SINGLE, NULL), *plain = make_realnvp(3, 0, NF_DOUBLE, NULL), *affine;
    must(nf_affine_create(3, NF_DOUBLE, &affine));
    behaviour before = observe(flow, 4), of_part = observe(other, 4);
    must_be(NF_ERR_MISMATCH, nf_flow_append(flow, wide));
    must_say("nf_flow_append", "4 dimensions");
    must_be(NF_ERR_MISMATCH, nf_flow_append(flow, other));
    must_say("nf_flow_append", "context_dim 1");
    must_be(NF_ERR_MISMATCH, nf_flow_append(flow, single));
    must_say("nf_flow_append", "precision");
    must_be(NF_ERR_MISMATCH, nf_flow_append(plain, other));
    must_be(NF_ERR_ARGUMENT, nf_flow_append(flow, flow));
    behaves_as(flow, &before, 4);
    behaves_as(other, &of_part, 4);
    must(nf_flow_append(flow, affine)); /* no context: goes into any stack */
    must(nf_flow_append(flow, plain));
    ck_assert_uint_eq(nf_flow_layer_count(flow), 4 + 1 + 4);
    ck_assert_uint_eq(nf_flow_context_dim(flow), 2);
    forget(&before);
    forget(&of_part);
    nf_flow_free(flow);
    nf_flow_free(wide);
    nf_flow_free(other);
    nf_flow_free(single);
}
END_TEST

/* ---- what belongs to a structure ---- */

typedef struct belongings {
    nf_workspace *ws;
    nf_gradient *gradient;
    nf_optimizer *optimizer;
} belongings;

static belongings own(const nf_flow *flow) {
    belongings b;
    must(nf_workspace_create(flow, 1, &b.ws));
    must(nf_gradient_create(flow, &b.gradient));
    must(nf_optimizer_create(flow, NULL, &b.optimizer));
    return b;
}

static void disown(belongings *b) {
    nf_workspace_free(b->ws);
    nf_gradient_free(b->gradient);
    nf_optimizer_free(b->optimizer);
}

static nf_status zero_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    (void)x;
    memset(log_density, 0, rows * sizeof *log_density);
    memset(gradient, 0, rows * *(size_t *)user * sizeof *gradient);
    return NF_OK;
}

/* Every call that takes one of them answers `wanted`. */
static void answers(nf_flow *flow, const belongings *b, nf_status wanted) {
    size_t dim = nf_flow_dim(flow);
    double in[8] = {0.385, 0.285}, out[8], scalar[4];
    nf_rng rng = {1, 2, 3};
    must_be(wanted, nf_forward(flow, b->ws, 1, in, NULL, out, scalar));
    must_be(wanted, nf_inverse(flow, b->ws, 1, in, NULL, out, scalar));
    must_be(wanted, nf_log_prob(flow, b->ws, 1, in, NULL, scalar));
    must_be(wanted, nf_score(flow, b->ws, 1, in, NULL, scalar, out));
    must_be(wanted, nf_sample(flow, b->ws, &rng, 1, NULL, out, scalar));
    must_be(wanted, nf_forward_vjp(flow, b->ws, 1, in, NULL, in, scalar, out, NULL, NULL));
    must_be(wanted, nf_inverse_vjp(flow, NULL, 1, in, NULL, in, scalar, out, NULL, b->gradient));
    must_be(wanted, nf_grad_nll(flow, b->ws, 1, in, NULL, NULL, b->gradient, scalar));
    must_be(wanted, nf_grad_nll(flow, NULL, 1, in, NULL, NULL, b->gradient, scalar));
    must_be(wanted, nf_grad_reverse_kl(flow, NULL, &rng, 1, NULL, zero_target, &dim, b->gradient, scalar));
    must_be(wanted, nf_optimizer_step(b->optimizer, flow, b->gradient));
    ck_assert_uint_eq(rng.position, wanted == NF_OK ? 5 : 3);
    if (wanted != NF_OK)
        must_say("nf_optimizer_step", "belongs to another flow");
}

START_TEST(structure_decides_what_fits) {
    nf_flow *flow = make_realnvp(2, 0, NF_DOUBLE, NULL), *twin = make_realnvp(2, 0, NF_DOUBLE, NULL), *affine;
    belongings b = own(flow);
    answers(flow, &b, NF_OK);
    answers(twin, &b, NF_ERR_MISMATCH); /* made alike, but another flow */
    const double sd[] = {0.5, 2.385};
    must(nf_flow_set_base_normal(flow, NULL, sd));
    random_source random = random_begin(3);
    randomize(flow, &random, 0.3);
    answers(flow, &b, NF_OK);
    must(nf_flow_invert(flow));
    answers(flow, &b, NF_ERR_MISMATCH);
    belongings after = own(flow);
    answers(flow, &after, NF_OK);
    must(nf_affine_create(2, NF_DOUBLE, &affine));
    must(nf_flow_append(flow, affine));
    answers(flow, &after, NF_ERR_MISMATCH);

    /* The gradient of one structure with the optimizer of another. */
    belongings last = own(flow);
    must_be(NF_ERR_MISMATCH, nf_optimizer_step(last.optimizer, flow, after.gradient));
    must_be(NF_ERR_MISMATCH, nf_optimizer_step(after.optimizer, flow, last.gradient));
    must(nf_optimizer_step(last.optimizer, flow, last.gradient));
    nf_flow_free(flow); /* handles may be freed in any order */
    disown(&b);
    disown(&after);
    disown(&last);
    nf_flow_free(twin);
}
END_TEST

/* ---- constructors ---- */

START_TEST(affine_standardizes) {
    nf_flow *flow;
    double x[3 * 50], z[3 * 50];
    random_source random = random_begin(12);
    for (size_t r = 0; r < 50; r++) {
        x[3 * r] = 1e6 + 2.385 * random_normal(&random);
        x[3 * r + 1] = -0.001 * random_normal(&random);
        x[3 * r + 2] = 17.5;
    }
    must(nf_affine_create(3, NF_DOUBLE, &flow));
    must(nf_affine_standardize(flow, 50, x));
    must(nf_inverse(flow, NULL, 50, x, NULL, z, NULL));
    for (size_t i = 0; i < 3; i++) {
        double mean = 0, square = 0;
        for (size_t r = 0; r < 50; r++)
            mean += z[3 * r + i] / 50;
        for (size_t r = 0; r < 50; r++)
            square += (z[3 * r + i] - mean) * (z[3 * r + i] - mean) / 50;
        ck_assert_msg(fabs(mean) < 1e-8, "column %zu: mean %g", i, mean);
        ck_assert_msg(fabs(square - (i < 2)) < 1e-8, "column %zu: variance %g", i, square);
    }
    must_be(NF_ERR_ARGUMENT, nf_affine_standardize(flow, 0, x));
    x[4] = NAN;
    double kept[6], now[6];
    must(nf_get_parameters(flow, kept));
    must_be(NF_ERR_ARGUMENT, nf_affine_standardize(flow, 50, x));
    must_say("nf_affine_standardize", "x[1][1]");
    must(nf_get_parameters(flow, now));
    same_bits("parameters", now, kept, 6);
    nf_flow_free(flow);
    flow = make_realnvp(3, 0, NF_DOUBLE, NULL);
    must_be(NF_ERR_ARGUMENT, nf_affine_standardize(flow, 1, z));
    nf_flow_free(flow);
}
END_TEST

/* As many as would take all memory before they run out. */
START_TEST(layers_are_counted_first) {
    nf_flow *flow;
    must_be(NF_ERR_ARGUMENT, nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = 65537), &flow));
    must_say("nf_planar_create", "layers is 65537, at most 65536");
    must_be(NF_ERR_ARGUMENT, nf_radial_create(NF_CONFIG(nf_radial_config, .dim = 2, .layers = SIZE_MAX - 1), &flow));
    must_say("nf_radial_create", "layers is ");
    must_be(NF_ERR_ARGUMENT, nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = SIZE_MAX / 2), &flow));
    must_say("nf_realnvp_create", "couplings is ");
}
END_TEST

/* The root mean square of x_i - z_i over a cube: of normal rows a few that lie far out would decide it. */
static double distance_from_identity(const nf_flow *flow) {
    enum { MANY = 2000 };
    random_source random = random_begin(31);
    const size_t dim = nf_flow_dim(flow), context_dim = nf_flow_context_dim(flow);
    double *z = new_numbers(MANY * dim), *x = new_numbers(MANY * dim), *context = context_dim ? new_normals(&random, MANY * context_dim, 0.785) : NULL, square = 0;
    for (size_t k = 0; k < MANY * dim; k++)
        z[k] = random_uniform(&random, -2.2, 2.2);
    must(nf_forward(flow, NULL, MANY, z, context, x, NULL));
    for (size_t k = 0; k < MANY * dim; k++)
        square += (x[k] - z[k]) * (x[k] - z[k]) / (double)(MANY * dim);
    free(z);
    free(x);
    free(context);
    return sqrt(square);
}

/* Every mask, dimension and context makes a flow that is close to the identity, reproducible from its seed, and moves every coordinate. */
START_TEST(realnvp_of_any_shape) {
    const nf_mask mask = (nf_mask)(_i % 3);
    for (size_t dim = 1; dim <= 7; dim++)
        for (size_t context_dim = 0; context_dim <= 2; context_dim += 2) {
            nf_flow *flow, *again;
            const nf_realnvp_config config = {.struct_size = sizeof config,
                                              .dim = dim,
                                              .context_dim = context_dim,
                                              .seed = 3 + dim,
                                              .mask = mask,
                                              .hidden_width = is_brief() ? 8 : 0, /* 0: the width that it has without */
                                              .actnorm = _i / 3 - 1};
            must(nf_realnvp_create(&config, &flow));
            must(nf_realnvp_create(&config, &again));
            const size_t count = nf_parameter_count(flow);
            double *a = new_numbers(count), *b = new_numbers(count);
            must(nf_get_parameters(flow, a));
            must(nf_get_parameters(again, b));
            same_bits("parameters from the same seed", a, b, count);
            must_agree("distance of the untrained flow from the identity", distance_from_identity(flow), 0.3);
            random_source random = random_begin(dim);
            randomize(flow, &random, 0.4);
            behaviour far = observe(flow, dim);
            for (size_t i = 0; i < dim && (dim > 1 || context_dim || _i / 3 >= 1); i++) {
                double moved = 0;
                for (size_t r = 0; r < ROWS; r++)
                    moved = fmax(moved, fabs(far.x[r * dim + i] - far.in[r * dim + i]));
                ck_assert_msg(moved > 1e-3, "mask %d, dim %zu: coordinate %zu never moves", mask, dim, i);
            }
            forget(&far);
            free(a);
            free(b);
            nf_flow_free(flow);
            nf_flow_free(again);
        }
}
END_TEST

int main(void) {
    const int subjects = 2 * (int)fixture_count;
    Suite *suite = suite_create("structure of flows");
    TCase *looped = tcase_create("of every layer"), *stacks = tcase_create("stacks"), *made = tcase_create("constructors");
    tcase_add_loop_test(looped, tensors_tile_the_parameter_vector, 0, subjects);
    tcase_add_loop_test(looped, a_clone_is_the_same_and_apart, 0, subjects);
    tcase_add_loop_test(looped, converting_there_and_back_rounds_once, 0, subjects);
    tcase_add_loop_test(looped, inverting_swaps_the_maps, 0, subjects);
    tcase_add_loop_test(looped, appending_composes, 0, subjects);
    tcase_add_test(stacks, tensor_names_are_those_of_the_files);
    tcase_add_test(stacks, the_base_belongs_to_the_flow_that_is_appended_to);
    tcase_add_test(stacks, parts_that_do_not_fit_are_refused);
    tcase_add_test(stacks, structure_decides_what_fits);
    tcase_add_test(made, affine_standardizes);
    tcase_add_test(made, layers_are_counted_first);
    tcase_add_loop_test(made, realnvp_of_any_shape, 0, 9);
    suite_add_tcase(suite, looped);
    suite_add_tcase(suite, stacks);
    suite_add_tcase(suite, made);
    return run_suite(suite);
}
