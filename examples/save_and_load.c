/*
 * Save a flow to a file and to memory, load it again, and see that it is the same to the last bit; and see what a damaged file says.
 *
 *     cc save_and_load.c $(pkg-config --cflags --libs libnflow) -lm -o save_and_load
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nflow.h>

enum { DIM = 4, ROWS = 100 };

static int fail(const char *what) { return fprintf(stderr, "save_and_load: %s\n", what), EXIT_FAILURE; }

static int same_density(const nf_flow *a, const nf_flow *b) {
    double x[ROWS][DIM], of_a[ROWS], of_b[ROWS];
    nf_rng rng = {.seed = 6};
    return nf_sample(a, NULL, &rng, ROWS, NULL, x[0], NULL) == NF_OK && nf_log_prob(a, NULL, ROWS, x[0], NULL, of_a) == NF_OK &&
           nf_log_prob(b, NULL, ROWS, x[0], NULL, of_b) == NF_OK && memcmp(of_a, of_b, sizeof of_a) == 0;
}

/* Save to a file, load it, compare. */
static int through_a_file(const nf_flow *flow, const char *path) {
    nf_flow *loaded = NULL;
    if (nf_flow_save(flow, path) != NF_OK || nf_flow_load(path, &loaded) != NF_OK)
        return 0;
    const int same = same_density(flow, loaded);
    printf("through %s: %zu layers, %zu parameters, densities %s\n", path, nf_flow_layer_count(loaded), nf_parameter_count(loaded),
           same ? "the same to the last bit" : "differ");
    nf_flow_free(loaded);
    return same;
}

/* The same in memory; and a file that lost its last byte is refused with a reason. */
static int through_memory(const nf_flow *flow) {
    void *bytes = NULL;
    size_t size = 0;
    nf_flow *loaded = NULL;
    if (nf_flow_save_memory(flow, &bytes, &size) != NF_OK)
        return 0;
    int good = nf_flow_load_memory(bytes, size, &loaded) == NF_OK && same_density(flow, loaded);
    printf("through %zu bytes of memory: densities %s\n", size, good ? "the same to the last bit" : "differ");
    nf_flow_free(loaded);
    if (good) {
        const nf_status status = nf_flow_load_memory(bytes, size - 1, &loaded);
        printf("one byte short: %s: %s\n", nf_status_name(status), nf_last_error());
        good = status == NF_ERR_FORMAT && loaded == NULL;
    }
    nf_free(bytes);
    return good;
}

int main(void) {
    char directory[] = "/tmp/nflow-example-XXXXXX", path[sizeof directory + 32];
    nf_flow *flow;
    if (nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 4, .hidden_width = 16, .seed = 3), &flow) != NF_OK)
        return fail(nf_last_error());
    if (!mkdtemp(directory)) {
        nf_flow_free(flow);
        return fail("no temporary directory");
    }
    snprintf(path, sizeof path, "%s/flow.safetensors", directory);
    const int good = through_a_file(flow, path) && through_memory(flow);
    if (!good)
        fprintf(stderr, "save_and_load: a check failed; last error: %s\n", nf_last_error());
    nf_flow_free(flow);
    unlink(path);
    rmdir(directory);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
