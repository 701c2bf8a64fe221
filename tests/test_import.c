/*
 * nflow import against what the modules compute: tests/import has files that make_fixtures.py wrote with PyTorch, which writes out the mathematics of
 * the libraries' layers. Where python3 has torch, new ones are made with a seed of the day and compared as well. What cannot be imported is refused
 * by its name.
 */
#define _XOPEN_SOURCE 700
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/memory.h"
#include "io/safetensors.h"
#include "support.h"

#define TOLERANCE 1e-12

static const char *const names[] = {"nflows_simple", "nflows_mixed", "normflows_couplings", "normflows_odd", "normflows_finite",
                                    "zuko_nice",     "zuko_realnvp", "cnf",                 "cnf_state",     "normflows_shared",
                                    "nflows_actnorm"};
enum { NAMES = sizeof names / sizeof names[0] };

static const char *program(void) {
    const char *path = getenv("NFLOW_PROGRAM");
    ck_assert_msg(path != NULL, "NFLOW_PROGRAM names no nflow");
    return path;
}

static void new_folder(char *folder, size_t size) {
    snprintf(folder, size, "%s/nflow-import-XXXXXX", scratch_folder());
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(const char *folder) {
    char command[400];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* ---- agreement */

static double *numbers_of(const nf_st_file *file, const char *name, size_t *rows, size_t *columns) {
    const nf_st_tensor *tensor = nf_st_find(file, name);
    if (!tensor)
        return NULL;
    *rows = (size_t)tensor->shape[0];
    *columns = tensor->rank > 1 ? (size_t)tensor->shape[1] : 1;
    ck_assert_str_eq(tensor->dtype, "F64");
    double *numbers = new_numbers(*rows * *columns);
    nf_le_load_f64(numbers, tensor->data, *rows * *columns);
    return numbers;
}

static unsigned char *read_bytes(const char *path, size_t *size) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL && stat(path, &status) == 0, "%s is missing", path);
    unsigned char *bytes = new_bytes((size_t)status.st_size);
    *size = fread(bytes, 1, (size_t)status.st_size, file);
    fclose(file);
    return bytes;
}

static void check_values(const char *name, nf_flow *flow, const char *values) {
    size_t size, rows = 0, dim = 0, one, columns = 0;
    unsigned char *bytes = read_bytes(values, &size);
    nf_st_file *file;
    const nf_allocator memory = nf_allocator_or_default(NULL);
    must(nf_st_parse(&memory, bytes, size, &file));
    double *x = numbers_of(file, "x", &rows, &dim), *z = numbers_of(file, "z", &rows, &dim), *log_prob = numbers_of(file, "log_prob", &rows, &one),
           *context = numbers_of(file, "context", &rows, &columns);
    double *out = new_numbers(rows * dim), *density = new_numbers(rows);
    ck_assert_uint_eq(nf_flow_dim(flow), dim);
    ck_assert_uint_eq(nf_flow_context_dim(flow), columns);
    ck_assert_uint_gt(rows, 10);
    must(nf_log_prob(flow, NULL, rows, x, context, density));
    must_agree(name, row_error(density, log_prob, rows, 1), TOLERANCE);
    must(nf_inverse(flow, NULL, rows, x, context, out, NULL));
    must_agree(name, row_error(out, z, rows, dim), TOLERANCE);
    must(nf_forward(flow, NULL, rows, z, context, out, NULL));
    must_agree(name, row_error(out, x, rows, dim), TOLERANCE);
    nf_st_free(file);
    free(bytes);
    free(x);
    free(z);
    free(log_prob);
    free(context);
    free(out);
    free(density);
}

/* Before the command where the processor is emulated. */
static const char *wrapper(void) { return getenv("WRAP") ? getenv("WRAP") : ""; }

/* From `source` into a model in `folder`. */
static nf_flow *import(const char *source, const char *folder, const char *name, const char *options) {
    char command[1200], model[500];
    nf_flow *flow = NULL;
    snprintf(model, sizeof model, "%s/%s.model", folder, name);
    snprintf(command, sizeof command, "%s '%s' import -q '%s/%s.safetensors' -o '%s' %s", wrapper(), program(), source, name, model, options);
    ck_assert_msg(system(command) == 0, "%s failed", command);
    must(nf_flow_load(model, &flow));
    return flow;
}

static void check_fixture(const char *source, const char *folder, const char *name) {
    char values[500];
    const bool cnf = strncmp(name, "cnf", 3) == 0;
    nf_flow *flow = import(source, folder, name, cnf ? "--t0 0.25 --t1 2 --base-variance 0.3" : "");
    if (cnf)
        must(nf_cnf_set_solver(flow, NF_DOP853, 1e-13, 1e-14, 0, 0));
    snprintf(values, sizeof values, "%s/%s.values.safetensors", source, name);
    check_values(name, flow, values);
    nf_flow_free(flow);
}

START_TEST(fixtures_agree) {
    char folder[200];
    new_folder(folder, sizeof folder);
    check_fixture("tests/import", folder, names[_i]);
    remove_folder(folder);
}
END_TEST

START_TEST(single_precision) {
    char folder[200];
    new_folder(folder, sizeof folder);
    nf_flow *flow = import("tests/import", folder, "zuko_nice", "--single");
    ck_assert_int_eq(nf_flow_precision(flow), NF_SINGLE);
    nf_flow_free(flow);
    remove_folder(folder);
}
END_TEST

/* New parameters every day, where there is a python3 with torch. */
START_TEST(new_modules_agree) {
    static const char *const pythons[] = {"python3", "/usr/bin/python3"};
    char folder[200], command[600];
    const char *python = NULL;
    for (size_t i = 0; !python && i < 2; i++) {
        snprintf(command, sizeof command, "%s -c 'import torch' 2>/dev/null", pythons[i]);
        if (system(command) == 0)
            python = pythons[i];
    }
    if (!python)
        return;
    const long seed = (long)seed_given((unsigned long long)(time(NULL) / 86400));
    new_folder(folder, sizeof folder);
    snprintf(command, sizeof command, "PYTHONDONTWRITEBYTECODE=1 %s tests/import/make_fixtures.py '%s' %ld", python, folder, seed);
    printf("modules of NFLOW_TEST_SEED=%ld\n", seed);
    fflush(stdout);
    ck_assert_int_eq(system(command), 0);
    for (size_t i = 0; i < NAMES; i++)
        check_fixture(folder, folder, names[i]);
    remove_folder(folder);
}
END_TEST

/* ---- refusals */

/* A module of nflows with this transform, and one tensor of two numbers for each of `tensors`. */
#define NODE(class, attributes, children) "{\"class\": \"" class "\", \"attributes\": {" attributes "}, \"children\": {" children "}}"
#define NFLOWS(transform) NODE("Flow", "", "\"_distribution\": " NODE("StandardNormal", "", "") ", \"_transform\": " transform)
#define NORMFLOWS(flow) NODE("NormalizingFlow", "", "\"q0\": " NODE("DiagGaussian", "", "") ", \"flows\": " NODE("ModuleList", "", "\"0\": " flow))
#define Q0 "q0.loc", "q0.log_scale"
#define COUPLING(attributes, net) NODE("AffineCouplingTransform", "\"features\": 4" attributes, "\"transform_net\": " net)
#define COUPLING_OF(net_class) NFLOWS(COUPLING("", NODE(net_class, "", "")))
#define INDICES "_transform.identity_features", "_transform.transform_features"
#define RESIDUAL(attributes, more)                                                                                                                   \
    NFLOWS(COUPLING("", NODE("ResidualNet", "",                                                                                                      \
                             "\"initial_layer\": " NODE("Linear", "", "") ", \"final_layer\": " NODE("Linear", "", "") ", \"blocks\": " NODE(        \
                                 "ModuleList", "",                                                                                                   \
                                 "\"0\": " NODE("ResidualBlock", attributes,                                                                         \
                                                "\"linear_layers\": " NODE(                                                                          \
                                                    "ModuleList", "", "\"0\": " NODE("Linear", "", "") ", \"1\": " NODE("Linear", "", "")) more)))))
#define RESIDUAL_TENSORS INDICES, "_transform.transform_net.initial_layer.weight", "_transform.transform_net.final_layer.weight"

static const struct {
    const char *structure, *tensors[6], *says;
} refused[] = {
    {NODE("MaskedAutoregressiveFlow", "", ""), {0}, "MaskedAutoregressiveFlow cannot be imported"},
    {NODE("StateDict", "", ""), {"w"}, "a state dict alone does not say how its module is built"},
    {NFLOWS(NODE("PiecewiseRationalQuadraticCouplingTransform", "\"features\": 2", "")),
     {0},
     "_transform: PiecewiseRationalQuadraticCouplingTransform cannot be"},
    {NODE("Flow", "", "\"_distribution\": " NODE("MADEMoG", "", "") ", \"_transform\": " NODE("ActNorm", "", "")),
     {"_transform.shift"},
     "_distribution: MADEMoG"},
    {NFLOWS(NODE("ActNorm", "", "")),
     {"_transform.shift", "_transform.log_scale", "_transform.hidden"},
     "the tensor _transform.hidden belongs to nothing"},
    {NFLOWS(NODE("ActNorm", "", "")), {"_transform.shift"}, "ActNorm has no tensor log_scale"},
    {COUPLING_OF("ConvResidualNet"), {INDICES}, "_transform.transform_net: ConvResidualNet cannot be"},
    {COUPLING_OF("Sequential"), {INDICES}, "Sequential is empty"},
    {NFLOWS(COUPLING("", NODE("Sequential", "", "\"0\": " NODE("Linear", "", "") ", \"1\": " NODE("ELU", "", "")))),
     {INDICES, "_transform.transform_net.0.weight"},
     "_transform.transform_net.1: ELU is no activation"},
    {NFLOWS(COUPLING("", NODE("Sequential", "", "\"0\": " NODE("Linear", "", "") ", \"1\": " NODE("GELU", "\"approximate\": \"tanh\"", "")))),
     {INDICES, "_transform.transform_net.0.weight"},
     "GELU is no activation"},
    {NFLOWS(COUPLING(", \"scale_activation\": {\"callable\": \"<lambda>\", \"values\": [0.2, 0.5, 1.1, 2.1]}", NODE("Sequential", "", ""))),
     {INDICES},
     "scale_activation that is not sigmoid"},
    {RESIDUAL("\"activation\": {\"callable\": \"elu\", \"values\": [-0.7768698398515702, -0.22119921692859512, 0.75, 2.0]}", ""),
     {RESIDUAL_TENSORS},
     "_transform.transform_net.blocks.0: ResidualBlock has an activation that cannot be"},
    {RESIDUAL("", ", \"batch_norm_layers\": " NODE("ModuleList", "", "")), {RESIDUAL_TENSORS}, "batch_norm_within_layers"},
    {RESIDUAL("", ", \"context_layer\": " NODE("Linear", "", "")), {RESIDUAL_TENSORS}, "takes a context"},
    {NORMFLOWS(NODE("Planar", "\"act\": \"leaky_relu\"", "")), {Q0}, "flows.0: Planar has the activation leaky_relu"},
    {NORMFLOWS(NODE("MaskedAffineFlow", "", "")), {Q0}, "flows.0: MaskedAffineFlow cannot be imported"},
    {NORMFLOWS(NODE("ActNorm", "", "")), {Q0, "flows.0.data_dep_init_done"}, "expected 1"},
    {NODE("NICE", "",
          "\"transform\": " NODE("LazyComposedTransform", "", "") ", \"base\": " NODE("Unconditional", "\"meta\": {\"callable\": \"DiagLaplace\"}",
                                                                                      "")),
     {0},
     "base: Unconditional is DiagLaplace"},
    {NODE("NICE", "",
          "\"transform\": " NODE("LazyComposedTransform", "",
                                 "\"transforms\": " NODE("ModuleList", "",
                                                         "\"0\": " NODE("MaskedAutoregressiveTransform", "",
                                                                        ""))) ", \"base\": " NODE("Unconditional",
                                                                                                  "\"meta\": {\"callable\": \"DiagNormal\"}", "")),
     {"base._0", "base._1"},
     "transform.transforms.0: MaskedAutoregressiveTransform cannot be"},
    {NODE("CNF", "", "\"hyper_net\": " NODE("HyperNetwork", "\"width\": 5", "")), {"hyper_net.fc1.weight"}, "HyperNetwork has no tensor fc1.bias"},
    {"[]", {0}, "the structure is no JSON object"},
    {"{\"class\": 3}", {0}, "? cannot be imported"},
};

/* A file with that structure: the metadata escaped, each tensor two numbers 0, 1; weights are matrices. */
static void write_module(const char *path, const char *structure, const char *const *tensors, const char *offsets) {
    char header[8192], *end = header;
    end += sprintf(end, "{\"__metadata__\": {\"format\": \"nflow-import\", \"version\": \"1\", \"structure\": \"");
    for (; *structure; structure++) {
        if (*structure == '"')
            *end++ = '\\';
        *end++ = *structure;
    }
    end += sprintf(end, "\"}");
    for (size_t i = 0; i < 6 && tensors[i]; i++)
        end += sprintf(end, ", \"%s\": {\"dtype\": \"F64\", \"shape\": [2%s], \"data_offsets\": %s}", tensors[i],
                       strstr(tensors[i], "weight") ? ",1" : "", offsets);
    end += sprintf(end, "}");
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    unsigned char length[8] = {0};
    const double numbers[2] = {0, 1};
    for (int i = 0; i < 4; i++)
        length[i] = (unsigned char)((size_t)(end - header) >> 8 * i);
    fwrite(length, 1, 8, file);
    fwrite(header, 1, (size_t)(end - header), file);
    unsigned char bytes[16];
    nf_le_store_f64(bytes, numbers, 2);
    fwrite(bytes, 1, 16, file);
    ck_assert_int_eq(fclose(file), 0);
}

/* It ends with status 1, no model, and a line that says so. */
static void must_refuse(const char *folder, const char *file, const char *says) {
    char command[1200], said[1000] = "", model[300];
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(command, sizeof command, "%s '%s' import '%s' -o '%s' 2>&1", wrapper(), program(), file, model);
    FILE *pipe = popen(command, "r");
    ck_assert_ptr_nonnull(pipe);
    const size_t length = fread(said, 1, sizeof said - 1, pipe);
    said[length] = '\0';
    const int status = pclose(pipe);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "%s: status %d, said %s", says, status, said);
    ck_assert_msg(strstr(said, says) != NULL, "\"%s\" does not say \"%s\"", said, says);
    ck_assert_int_ne(access(model, F_OK), 0);
}

START_TEST(strangers_are_refused) {
    char folder[200], path[300];
    new_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/module", folder);
    write_module(path, refused[_i].structure, refused[_i].tensors, "[0, 16]");
    must_refuse(folder, path, refused[_i].says);
    remove_folder(folder);
}
END_TEST

START_TEST(damaged_files_are_refused) {
    static const char *const one[6] = {"w"};
    char folder[200], path[300];
    new_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/module", folder);
    must_refuse(folder, path, "No such file");
    static const char *const offsets[] = {"[0, 17]", "[8, 24]", "[16, 0]", "[-16, 0]", "[0, 8]", "[0]", "\"\"", "[0, 99999999999]"};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        write_module(path, NODE("StateDict", "", ""), one, offsets[i]);
        must_refuse(folder, path, "tensor w does not lie in the file");
    }
    size_t size;
    unsigned char *bytes = read_bytes("tests/import/zuko_nice.safetensors", &size);
    static const size_t cuts[] = {0, 4, 8, 9, 100, 6000};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        FILE *file = fopen(path, "wb");
        ck_assert_ptr_nonnull(file);
        fwrite(bytes, 1, cuts[i] < size ? cuts[i] : size - 1, file);
        ck_assert_int_eq(fclose(file), 0);
        must_refuse(folder, path, cuts[i] < 6000 ? "this is no safetensors file" : "does not lie in the file");
    }
    free(bytes);
    nf_flow *flow;
    must(nf_affine_create(2, NF_DOUBLE, &flow));
    must(nf_flow_save(flow, path));
    nf_flow_free(flow);
    must_refuse(folder, path, "a model of nflow already");
    must_refuse(folder, "tests/import/cnf.values.safetensors", "a state dict alone");
    remove_folder(folder);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("import");
    TCase *tests = tcase_create("import");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, fixtures_agree, 0, NAMES);
    tcase_add_test(tests, single_precision);
    tcase_add_test(tests, new_modules_agree);
    tcase_add_loop_test(tests, strangers_are_refused, 0, (int)(sizeof refused / sizeof refused[0]));
    tcase_add_test(tests, damaged_files_are_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
