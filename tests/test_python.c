/*
 * Python reads what the library writes: tests/read_safetensors.py, with Python's safetensors where it is installed, gives the names,
 * shapes and values that the flow has. Skipped where there is no python3.
 */
#define _XOPEN_SOURCE 700
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

static void check_tensor(const nf_flow *flow, size_t index, const double *parameters, char *line) {
    nf_tensor tensor = {.struct_size = sizeof tensor};
    must(nf_tensor_info(flow, index, &tensor));
    char shape[64], *rest = line;
    snprintf(shape, sizeof shape, tensor.rank == 2 ? "%zux%zu" : "%zu", tensor.shape[0], tensor.shape[1]);
    ck_assert_str_eq(strtok_r(NULL, " ", &rest), tensor.name);
    ck_assert_str_eq(strtok_r(NULL, " ", &rest), nf_flow_precision(flow) == NF_SINGLE ? "F32" : "F64");
    ck_assert_str_eq(strtok_r(NULL, " ", &rest), shape);
    const size_t count = tensor.shape[0] * tensor.shape[1];
    for (size_t i = 0; i < count; i++) {
        const char *value = strtok_r(NULL, " \n", &rest);
        ck_assert_msg(value && strtod(value, NULL) == parameters[tensor.offset + i], "%s[%zu]: %s, expected %a", tensor.name, i,
                      value ? value : "nothing", parameters[tensor.offset + i]);
    }
    ck_assert_ptr_null(strtok_r(NULL, " \n", &rest));
}

static void check_flow(const nf_flow *flow) {
    char path[256], command[512], *line = NULL;
    size_t size = 0, tensors = 0;
    snprintf(path, sizeof path, "%s/nflow-python-%ld.safetensors", scratch_folder(), (long)getpid());
    must(nf_flow_save(flow, path));
    double *parameters = new_numbers(nf_parameter_count(flow));
    must(nf_get_parameters(flow, parameters));
    snprintf(command, sizeof command, "python3 tests/read_safetensors.py '%s'", path);
    FILE *reader = popen(command, "r");
    ck_assert_ptr_nonnull(reader);
    for (; getline(&line, &size, reader) > 0; tensors++)
        check_tensor(flow, tensors, parameters, line);
    const int status = pclose(reader);
    unlink(path);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the reader failed");
    ck_assert_uint_eq(tensors, nf_tensor_count(flow));
    free(line);
    free(parameters);
}

START_TEST(python_reads_models) {
    const nf_precision precision = _i ? NF_SINGLE : NF_DOUBLE;
    nf_flow *flow = make_realnvp(3, 2, precision, NULL), *part;
    must(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 3, .layers = 2, .seed = 5, .precision = precision), &part));
    must(nf_flow_append(flow, part));
    must(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = 3, .context_dim = 2, .hidden_width = 4, .precision = precision), &part));
    must(nf_flow_append(flow, part));
    check_flow(flow);
    nf_flow_free(flow);
}
END_TEST

int main(void) {
    if (system("python3 -c 'import json, math; math.prod([1])' >/dev/null 2>&1") != 0) {
        puts("skipped: there is no python3 (3.8 or later)");
        return 0;
    }
    Suite *suite = suite_create("python");
    TCase *all = tcase_create("safetensors");
    tcase_set_timeout(all, 60);
    tcase_add_loop_test(all, python_reads_models, 0, 2);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
