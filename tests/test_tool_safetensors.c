/* The frame of safetensors files as the command writes it: what it makes the library reads, and its bytes are those that the format asks for. */
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"
#include "support.h"

static json_t *affine_flow(void) {
    return json_pack("{s:i, s:i, s:{s:s, s:f}, s:[{s:s}]}", "dim", 2, "context", 0, "base", "type", "normal", "scale", 1.0, "layers", "type",
                     "actnorm");
}

START_TEST(the_library_reads_what_it_frames) {
    json_t *header = safetensors_model_header(affine_flow());
    size_t at = safetensors_add(header, 0, "log_scale", 1, 2, 1, 0), start;
    ck_assert_uint_eq(at, 16);
    at = safetensors_add(header, 0, "shift", 1, 2, 1, at);
    ck_assert_uint_eq(at, 32);
    unsigned char *bytes = safetensors_frame(header, at, &start);
    const double values[] = {0.5, -0.25, 2.385, 1.0};
    for (size_t i = 0; i < 4; i++) {
        uint64_t word;
        memcpy(&word, &values[i], sizeof word);
        ck_assert_ptr_eq(safetensors_put_word(bytes + start + 8 * i, word), bytes + start + 8 * i + 8);
    }
    nf_flow *flow;
    must(nf_flow_load_memory(bytes, start + at, &flow));
    double parameters[4];
    must(nf_get_parameters(flow, parameters));
    same_bits("parameters", parameters, values, 4);
    nf_flow_free(flow);
    free(bytes);
}
END_TEST

START_TEST(the_data_are_aligned) {
    for (int extra = 0; extra < 9; extra++) {
        size_t start;
        char text[16] = "";
        memset(text, 'x', (size_t)extra);
        unsigned char *bytes = safetensors_frame(json_pack("{s:s}", "key", text), 0, &start);
        ck_assert_uint_eq(start % 8, 0);
        ck_assert_uint_eq(safetensors_length(bytes) + SAFETENSORS_LENGTH, start);
        ck_assert_mem_eq(bytes + SAFETENSORS_LENGTH, "{\"key\":\"", 8);
        free(bytes);
    }
}
END_TEST

START_TEST(a_matrix_has_two_sizes) {
    json_t *header = json_object();
    ck_assert_uint_eq(safetensors_add(header, 3, "net.0.weight", 2, 4, 5, 8), 8 + 160);
    char *text = json_dumps(header, JSON_COMPACT);
    ck_assert_str_eq(text, "{\"layers.3.net.0.weight\":{\"dtype\":\"F64\",\"shape\":[4,5],\"data_offsets\":[8,168]}}");
    free(text);
    json_decref(header);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nflow: safetensors");
    TCase *tests = tcase_create("frame");
    tcase_add_test(tests, the_library_reads_what_it_frames);
    tcase_add_test(tests, the_data_are_aligned);
    tcase_add_test(tests, a_matrix_has_two_sizes);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
