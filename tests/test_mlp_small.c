/* engine-test: one row of a small net in registers, against the same net over a tile: bit for bit. NFLOW_TEST_SEED replaces the seed. */
#include "aligned.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/philox.h"
#include "engine/kernels/dense.h"
#include "engine/kernels/gelu_lookup.h"
#include "engine/nets/mlp.h"

#define MOST_INPUTS 150
#define MOST_OUTPUTS 40
#define MOST_LAYERS 4

static unsigned long long seed(void) { return seed_given(2385); }

static size_t pick(nf_sequence *s, const size_t *from, size_t count) { return from[(size_t)(nf_sequence_uniform(s) * (double)count)]; }
#define PICK(s, from) pick(s, from, sizeof from / sizeof from[0])

/* One row through both, which is in some lane of a tile of its kind. */
static void compare(nf_sequence *s, const nf_net *net, double sd) {
    const size_t parameters = nf_net_parameter_count(net), lane = (size_t)(nf_sequence_uniform(s) * (double)PANEL);
    real *theta = new_aligned((parameters + 1) * sizeof(real), 0xff) /* at no round address */, *packed = new_aligned(R(mlp_small_packed)(net) * sizeof(real), 0xff);
    real *tile = new_aligned(MOST_INPUTS * PANEL * sizeof(real), 0), *out = new_aligned(MOST_OUTPUTS * PANEL * sizeof(real), 0xff);
    real *y = new_aligned(dense_rows_width(net->outputs) * sizeof(real), 0xff), *scratch = new_aligned(R(mlp_scratch_size)(net, 1) * sizeof(real), 0xff);
    real row[MOST_INPUTS];
    theta++;
    for (size_t i = 0; i < parameters; i++)
        theta[i] = (real)(sd * nf_sequence_normal(s));
    for (size_t i = 0; i < net->inputs; i++)
        tile[i * PANEL + lane] = row[i] = (real)nf_sequence_normal(s);
    R(mlp_small_pack)(net, theta, packed);
    R(mlp_small_forward)(net, packed, row, y);
    R(mlp_forward)(net, theta, NULL, 1, lane + 1, tile, out, NULL, scratch);
    for (size_t j = 0; j < net->outputs; j++)
        ck_assert_msg(memcmp(&y[j], &out[j * PANEL + lane], sizeof(real)) == 0,
                      "output %zu of %zu is %.9g, and %.9g in lane %zu: inputs %zu, %zu hidden layers of %zu, %zu, %zu; seed %llu", j, net->outputs, (double)y[j],
                      (double)out[j * PANEL + lane], lane, net->inputs, net->hidden.count, net->hidden.items[0], net->hidden.items[1], net->hidden.items[2],
                      seed());
    free(theta - 1);
    free(packed);
    free(tile);
    free(out);
    free(y);
    free(scratch);
}

static const size_t widths[] = {8, 12, 16, 20, 24, 28, 32}, inputs[] = {0, 1, 2, 3, 7, 8, 9, 15, 32, 40, 128, 131, 150},
                    outputs[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 18, 31, 32};

START_TEST(a_row_has_the_bits_of_a_tile) {
    nf_sequence s = nf_sequence_begin(seed(), 1);
    size_t compared = 0;
    for (int n = 0; n < 2000; n++) {
        size_t hidden[MOST_LAYERS] = {PICK(&s, widths), PICK(&s, widths), PICK(&s, widths)};
        const size_t layers[] = {1, 2, 3};
        const nf_net net = {PICK(&s, inputs), PICK(&s, outputs), {PICK(&s, layers), hidden}, n % 2 ? NF_GELU : NF_ACTIVATION_DEFAULT};
        ck_assert_msg(R(mlp_is_small)(&net) == GELU_LOOKUP, "net %d", n);
        if (!R(mlp_is_small)(&net))
            continue;
        compare(&s, &net, n % 10 == 0 ? 3 : 0.4);
        compared++;
    }
    ck_assert(compared == (GELU_LOOKUP ? 2000 : 0));
}
END_TEST

/* Sums of zeros keep their sign, and what is not finite comes out at the same outputs. */
START_TEST(zeros_and_what_is_not_finite_pass_as_in_a_tile) {
    size_t hidden[MOST_LAYERS] = {12, 20};
    const nf_net net = {2, 4, {2, hidden}, NF_GELU};
    if (!R(mlp_is_small)(&net))
        return;
    const size_t parameters = nf_net_parameter_count(&net);
    const real inputs_tried[] = {0, (real)-0.0, (real)1, REAL_MAX, (real)INFINITY, (real)-INFINITY, (real)NAN}, weights[] = {0, (real)-0.0, (real)1, (real)-1};
    real *theta = new_aligned(parameters * sizeof(real), 0), *packed = new_aligned(R(mlp_small_packed)(&net) * sizeof(real), 0xff);
    real *tile = new_aligned(2 * PANEL * sizeof(real), 0), *out = new_aligned(4 * PANEL * sizeof(real), 0xff);
    real *y = new_aligned(dense_rows_width(4) * sizeof(real), 0xff), *scratch = new_aligned(R(mlp_scratch_size)(&net, 1) * sizeof(real), 0xff);
    for (size_t w = 0; w < sizeof weights / sizeof weights[0]; w++) {
        for (size_t i = 0; i < parameters; i++)
            theta[i] = weights[w];
        R(mlp_small_pack)(&net, theta, packed);
        for (size_t i = 0; i < sizeof inputs_tried / sizeof inputs_tried[0]; i++) {
            const real x[2] = {inputs_tried[i], 0};
            tile[0] = x[0];
            R(mlp_small_forward)(&net, packed, x, y);
            R(mlp_forward)(&net, theta, NULL, 1, 1, tile, out, NULL, scratch);
            for (size_t j = 0; j < 4; j++)
                ck_assert_msg(isnan(y[j]) ? isnan(out[j * PANEL]) : memcmp(&y[j], &out[j * PANEL], sizeof(real)) == 0, "weights %g, input %g: %g, and %g in a tile", (double)weights[w],
                              (double)x[0], (double)y[j], (double)out[j * PANEL]);
        }
    }
    free(theta);
    free(packed);
    free(tile);
    free(out);
    free(y);
    free(scratch);
}
END_TEST

START_TEST(other_nets_are_left_alone) {
    size_t hidden[MOST_LAYERS] = {16, 16};
    const nf_net sound = {1, 2, {2, hidden}, NF_GELU};
    ck_assert(R(mlp_is_small)(&sound) == GELU_LOOKUP);
    nf_net other = sound;
    other.activation = NF_TANH;
    ck_assert(!R(mlp_is_small)(&other));
    other = sound;
    other.outputs = 33;
    ck_assert(!R(mlp_is_small)(&other));
    other = sound;
    other.hidden.count = 0;
    ck_assert(!R(mlp_is_small)(&other));
    const size_t not_taken[] = {1, 4, 7, 10, 18, 30, 33, 36, 64};
    for (size_t i = 0; i < sizeof not_taken / sizeof not_taken[0]; i++)
        for (size_t j = 0; j < 2; j++) {
            hidden[0] = hidden[1] = 16;
            hidden[j] = not_taken[i];
            ck_assert_msg(!R(mlp_is_small)(&sound), "width %zu of layer %zu", not_taken[i], j);
        }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("mlp_small");
    TCase *tcase = tcase_create("mlp_small");
    tcase_add_test(tcase, a_row_has_the_bits_of_a_tile);
    tcase_add_test(tcase, zeros_and_what_is_not_finite_pass_as_in_a_tile);
    tcase_add_test(tcase, other_nets_are_left_alone);
    tcase_set_timeout(tcase, 120);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
