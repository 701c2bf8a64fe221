/*
 * A flow put together from parts: a Real NVP, a permutation and an affine layer that takes it to the units of the data. The stack
 * lists its tensors, is inverted as a whole, and inverted back.
 *
 *     cc stack.c $(pkg-config --cflags --libs libnflow) -lm -o stack
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <nflow.h>

enum { DIM = 3, ROWS = 5 };

static int fail(const char *what) { return fprintf(stderr, "stack: %s\n", what), EXIT_FAILURE; }

/* Appending moves a part's layers to the data end and frees it; a part that could not be appended is still ours. */
static nf_status append(nf_flow *stack, nf_status made, nf_flow *part) {
    const nf_status status = made == NF_OK ? nf_flow_append(stack, part) : made;
    if (status != NF_OK)
        nf_flow_free(part);
    return status;
}

static nf_status append_units(nf_flow *stack, const double data[4][DIM]) {
    nf_flow *units;
    nf_status status = nf_affine_create(DIM, NF_DOUBLE, &units);
    if (status == NF_OK)
        status = nf_affine_standardize(units, 4, data[0]);
    return append(stack, status, units);
}

static nf_status build(nf_flow **stack) {
    const double data[4][DIM] = {{10.5, 0.021, -3.1}, {14.2, 0.013, -2.2}, {12.9, 0.017, -4.7}, {9.4, 0.028, -3.9}};
    nf_flow *part = NULL;
    nf_status status = nf_flow_create(DIM, 0, NF_DOUBLE, stack);
    if (status == NF_OK) {
        const nf_status made = nf_realnvp_create(
            NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_layers = 1, .hidden_width = 8, .actnorm = -1), &part);
        status = append(*stack, made, part);
    }
    if (status == NF_OK) {
        const nf_status made = nf_permutation_create(DIM, (const size_t[DIM]){2, 0, 1}, NF_DOUBLE, &part);
        status = append(*stack, made, part);
    }
    return status == NF_OK ? append_units(*stack, data) : status;
}

/* Prints the tensors; true when they cover the parameter vector, one after the other. */
static int list_tensors(const nf_flow *flow) {
    size_t end = 0;
    for (size_t i = 0; i < nf_tensor_count(flow); i++) {
        nf_tensor tensor = {.struct_size = sizeof tensor};
        if (nf_tensor_info(flow, i, &tensor) != NF_OK || tensor.offset != end)
            return 0;
        printf("  %-22s %2zu x %zu from parameter %zu\n", tensor.name, tensor.shape[0], tensor.shape[1], tensor.offset);
        end += tensor.shape[0] * tensor.shape[1];
    }
    return end == nf_parameter_count(flow);
}

static double largest_difference(size_t count, const double *a, const double *b) {
    double largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(a[i] - b[i]));
    return largest;
}

int main(void) {
    nf_flow *stack = NULL;
    if (build(&stack) != NF_OK)
        return fail(nf_last_error());
    printf("a stack of %zu layers:\n", nf_flow_layer_count(stack));
    int good = nf_flow_layer_count(stack) == 4 && list_tensors(stack);

    double x[ROWS][DIM], z[ROWS][DIM], back[ROWS][DIM], log_det[ROWS], log_det_back[ROWS];
    nf_rng rng = {.seed = 9};
    if (nf_sample(stack, NULL, &rng, ROWS, NULL, x[0], NULL) != NF_OK || nf_inverse(stack, NULL, ROWS, x[0], NULL, z[0], log_det) != NF_OK)
        return fail(nf_last_error());

    /* Now forward goes from data to base. Older workspaces would not fit any more; NULL makes one for each call. */
    if (nf_flow_invert(stack) != NF_OK || nf_forward(stack, NULL, ROWS, x[0], NULL, back[0], log_det_back) != NF_OK)
        return fail(nf_last_error());
    puts("inverted, its layers are numbered from the other end:");
    good = good && list_tensors(stack);
    const double off = largest_difference(ROWS * DIM, z[0], back[0]), off_det = largest_difference(ROWS, log_det, log_det_back);
    printf("forward of the inverted stack against inverse of the stack: z differs by %.1e, log_det by %.1e\n", off, off_det);
    good = good && off < 1e-12 && off_det < 1e-12;

    if (nf_flow_invert(stack) != NF_OK || nf_forward(stack, NULL, ROWS, z[0], NULL, back[0], log_det_back) != NF_OK)
        return fail(nf_last_error());
    const double round_trip = largest_difference(ROWS * DIM, x[0], back[0]);
    printf("inverted back: x to z to x differs by %.1e\n", round_trip);
    good = good && round_trip < 1e-12;
    nf_flow_free(stack);
    if (!good)
        puts("a check failed");
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
