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

/* A net both ways: its parameters, at no round address, packed; one row x and y; and a lane of a tile, all other lanes of which are zeros. */
typedef struct both {
    const nf_net *net;
    size_t parameters, lane;
    real *room, *theta, *packed, *tile, *out, *y, *scratch, x[MOST_INPUTS];
} both;

static both open_both(const nf_net *net, size_t lane) {
    both b = {.net = net, .parameters = nf_net_parameter_count(net), .lane = lane};
    b.room = new_aligned((b.parameters + 1) * sizeof(real), 0xff);
    b.theta = b.room + 1;
    b.packed = new_aligned(R(mlp_small_packed)(net) * sizeof(real), 0xff);
    b.tile = new_aligned(MOST_INPUTS * PANEL * sizeof(real), 0);
    b.out = new_aligned(MOST_OUTPUTS * PANEL * sizeof(real), 0xff);
    b.y = new_aligned(dense_rows_width(net->outputs) * sizeof(real), 0xff);
    b.scratch = new_aligned(R(mlp_scratch_size)(net, 1) * sizeof(real), 0xff);
    return b;
}

static void close_both(both *b) {
    free(b->room);
    free(b->packed);
    free(b->tile);
    free(b->out);
    free(b->y);
    free(b->scratch);
}

static void compare(both *b) {
    const nf_net *net = b->net;
    for (size_t i = 0; i < net->inputs; i++)
        b->tile[i * PANEL + b->lane] = b->x[i];
    R(mlp_small_pack)(net, b->theta, b->packed);
    R(mlp_small_forward)(net, b->packed, b->x, b->y);
    R(mlp_forward)(net, b->theta, NULL, 1, b->lane + 1, b->tile, b->out, NULL, b->scratch);
    for (size_t j = 0; j < net->outputs; j++) {
        const real got = b->y[j], want = b->out[j * PANEL + b->lane];
        ck_assert_msg(isnan(got) ? isnan(want) : memcmp(&got, &want, sizeof(real)) == 0,
                      "output %zu of %zu is %.9g, and %.9g in lane %zu: %zu inputs, the first %g, and parameter %g, %zu hidden layers from %zu units; seed %llu", j,
                      net->outputs, (double)got, (double)want, b->lane, net->inputs, (double)b->x[0], (double)b->theta[0], net->hidden.count, net->hidden.items[0], seed());
    }
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
        both b = open_both(&net, (size_t)(nf_sequence_uniform(&s) * (double)PANEL));
        for (size_t i = 0; i < b.parameters; i++)
            b.theta[i] = (real)((n % 10 == 0 ? 3 : 0.4) * nf_sequence_normal(&s));
        for (size_t i = 0; i < net.inputs; i++)
            b.x[i] = (real)nf_sequence_normal(&s);
        compare(&b);
        for (size_t j = 0; j < net.outputs; j++)
            ck_assert(!isnan(b.y[j]));
        close_both(&b);
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
    const real inputs_tried[] = {0, (real)-0.0, (real)1, REAL_MAX, (real)INFINITY, (real)-INFINITY, (real)NAN}, weights[] = {0, (real)-0.0, (real)1, (real)-1};
    both b = open_both(&net, 0);
    for (size_t w = 0; w < sizeof weights / sizeof weights[0]; w++) {
        for (size_t i = 0; i < b.parameters; i++)
            b.theta[i] = weights[w];
        for (size_t i = 0; i < sizeof inputs_tried / sizeof inputs_tried[0]; i++) {
            b.x[0] = inputs_tried[i];
            compare(&b);
        }
    }
    close_both(&b);
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
