/* Texts of flows that are unusual and good, what is written for them, and memory that runs out while one is read. (Lies are in test_file.c.) */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/schema.h"
#include "support.h"

#define FLOW(context, base, layers) "{\"dim\": 2, \"context\": " context ", \"base\": " base ", \"layers\": [" layers "]}"
#define NORMAL "{\"type\": \"normal\", \"scale\": 1}"
#define COUPLING(more) "{\"type\": \"coupling\", \"hidden\": [3], \"activation\": \"tanh\", \"scale\": \"exp\", \"identity\": [0], \"transformed\": [1]" more "}"
#define HYPER(hidden) "{\"type\": \"cnf\", \"dynamics\": \"hyper\", \"hidden\": " hidden ", \"width\": 2, \"t0\": 0, \"t1\": 1}"

static const struct {
    const char *text, *holds; /* what the text that is written for it holds */
} good[] = {
    {FLOW("1", NORMAL, COUPLING("")), "\"context\":1,"},
    {FLOW("1", NORMAL, COUPLING(", \"context\": 1")), "\"layers\":[{\"type\":\"coupling\",\"identity\":[0]"},
    {FLOW("1", NORMAL, COUPLING(", \"context\": 0")), "\"context\":0}"},
    {FLOW("0", NORMAL, COUPLING(", \"inverted\": false")), "\"transformed\":[1]"},
    {FLOW("0", NORMAL, COUPLING(", \"inverted\": true")), "\"inverted\":true"},
    {FLOW("0", NORMAL, HYPER("3")), "\"hidden\":3"},
    {FLOW("0", NORMAL, HYPER("[3, 3]")), "\"hidden\":3"},
    {FLOW("0", NORMAL, HYPER("[3, 4]")), "\"hidden\":[3,4]"},
    {FLOW("0", NORMAL, HYPER("[3]")), "\"hidden\":[3]"},
    {FLOW("0", "{\"type\": \"normal\", \"mean\": [0, 0], \"sd\": [2.5, 2.5]}", ""), "\"scale\":2.5"},
    {FLOW("0", "{\"type\": \"normal\", \"mean\": [0, 0], \"sd\": [1, 2.5]}", ""), "\"sd\":[1.0,2.5]"},
    {FLOW("0", "{\"type\": \"normal\", \"mean\": [0, 3], \"sd\": [1, 1]}", ""), "\"mean\":[0.0,3.0]"},
    {FLOW("0", "{\"type\": \"normal\", \"scale\": 3}", ""), "\"scale\":3.0"},
    {"{\"dim\": 2, \"context\": 0, \"precision\": \"double\", \"base\": " NORMAL ", \"layers\": []}", "\"layers\":[]"},
    {"{\"dim\": 2, \"context\": 0, \"precision\": \"single\", \"base\": " NORMAL ", \"layers\": []}", "\"precision\":\"single\""},
};

static char *written(nf_schema *schema, const nf_allocator *allocator) {
    char *text;
    must(nf_schema_spread_scale(schema, allocator));
    must(nf_schema_write(&schema->model, schema->precision, allocator, &text));
    return text;
}

/* Written, it says what it should; and it reads as the same text again. */
START_TEST(a_good_text_is_read_and_written) {
    const nf_allocator a = nf_allocator_or_default(NULL);
    nf_schema schema = {.scale = 0}, again = {.scale = 0};
    must(nf_schema_read(good[_i].text, strlen(good[_i].text), &a, &schema));
    char *text = written(&schema, &a);
    ck_assert_msg(strstr(text, good[_i].holds) != NULL, "%s\n  was written as %s", good[_i].text, text);
    must(nf_schema_read(text, strlen(text), &a, &again));
    char *twice = written(&again, &a);
    ck_assert_str_eq(text, twice);
    nf_release(&a, text);
    nf_release(&a, twice);
    nf_model_clear(&schema.model, &a);
    nf_model_clear(&again.model, &a);
}
END_TEST

/* Where nothing but the base has so many dimensions, it is written out, so that the file is as large as what it asks for. */
START_TEST(a_wide_flow_without_layers_is_written_out) {
    const size_t dim = NF_SCHEMA_BARE_DIM + 1;
    nf_flow *flow, *loaded;
    void *bytes;
    size_t size;
    double *sd = new_numbers(dim);
    for (size_t i = 0; i < dim; i++)
        sd[i] = 2.5;
    must(nf_flow_create(dim, 0, NF_DOUBLE, &flow));
    for (int given = 0; given < 2; given++) {
        if (given)
            must(nf_flow_set_base_normal(flow, NULL, sd));
        must(nf_flow_save_memory(flow, &bytes, &size));
        ck_assert_msg(given ? size > 8 * dim : size < 1000, "%zu bytes for %zu dimensions", size, dim);
        must(nf_flow_load_memory(bytes, size, &loaded));
        ck_assert_uint_eq(nf_flow_dim(loaded), dim);
        nf_flow_free(loaded);
        nf_free(bytes);
    }
    nf_flow_free(flow);
    free(sd);
}
END_TEST

/* One of each layer, with what only some files hold. */
static nf_flow *varied_flow(bool isotropic) {
    static const size_t source[] = {1, 0};
    const double mean[] = {0.5, -1}, sd[] = {2, isotropic ? 2 : 0.385};
    nf_flow *flow, *part;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .context_dim = 1, .couplings = 2, .hidden_width = 3, .actnorm = 1, .seed = 9), &flow));
    must(nf_permutation_create(2, source, NF_DOUBLE, &part));
    must(nf_flow_invert(part));
    must(nf_flow_append(flow, part));
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .context_dim = 1, .layers = 1, .hidden_width = 2, .seed = 3), &part));
    must(nf_flow_append(flow, part));
    must(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = 2, .layers = 1, .seed = 3), &part));
    must(nf_flow_append(flow, part));
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .hidden_width = 3, .dynamics = NF_DYNAMICS_HYPER, .seed = 8), &part));
    must(nf_flow_append(flow, part));
    must(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .context_dim = 1, .hidden_width = 3, .trace = NF_TRACE_HUTCHINSON, .seed = 8), &part));
    must(nf_flow_append(flow, part));
    must(nf_flow_set_base_normal(flow, isotropic ? NULL : mean, sd));
    return flow;
}

START_TEST(memory_may_run_out_at_each_layer) {
    nf_flow *flow = varied_flow(_i == 1);
    void *bytes, *again;
    size_t size, again_size, n = 0;
    nf_status status = NF_ERR_MEMORY;
    must(nf_flow_save_memory(flow, &bytes, &size));
    nf_flow_free(flow);
    while (status != NF_OK) {
        memory_counter counter;
        const nf_allocator allocator = counted_memory(&counter);
        counter.fail_at = ++n;
        status = nf_flow_load_memory_with(bytes, size, &flow, &allocator);
        counter.fail_at = 0;
        if (status == NF_OK) {
            must(nf_flow_save_memory(flow, &again, &again_size));
            ck_assert(again_size == size && memcmp(again, bytes, size) == 0);
            nf_free(again);
            nf_flow_free(flow);
        } else {
            must_be(NF_ERR_MEMORY, status);
            must_say("nf_flow_load_memory_with", "no memory");
            ck_assert_ptr_null(flow);
        }
        ck_assert_msg(counter.live == 0 && !counter.wrong, "%zu blocks leak when allocation %zu fails", counter.live, n);
    }
    ck_assert_uint_gt(n, 25);
    nf_free(bytes);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("descriptions of flows");
    TCase *all = tcase_create("all");
    tcase_set_timeout(all, 60);
    tcase_add_loop_test(all, a_good_text_is_read_and_written, 0, (int)(sizeof good / sizeof good[0]));
    tcase_add_test(all, a_wide_flow_without_layers_is_written_out);
    tcase_add_loop_test(all, memory_may_run_out_at_each_layer, 0, 2);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
