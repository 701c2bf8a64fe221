/*
 * The golden files: expected values of an independent model, at the tolerances that each file states, in double, and at 1e-4 in single.
 * The files are those of tests/golden, and the seed_* ones of the folder that NFLOW_GOLDEN names, if it is set.
 */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/safetensors.h"
#include "support.h"

#define FOLDER "tests/golden"
#define SINGLE_TOLERANCE 1e-4
#define MOST_FILES 128

/* Files that this folder must hold at least: a folder that lost some does not pass. */
#define FEWEST_FILES 29

/* The folder of the seed_* files, or NULL. */
static const char *seed_folder(void) {
    const char *folder = getenv("NFLOW_GOLDEN");
    return folder && *folder ? folder : NULL;
}

static char *paths[MOST_FILES];
static int path_count;

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bool ends_with(const char *name, const char *end) {
    const size_t length = strlen(name), tail = strlen(end);
    return length >= tail && strcmp(name + length - tail, end) == 0;
}

/* Files of a folder whose name begins with `prefix`; how many, or -1. */
static int list_files(const char *folder, const char *prefix) {
    DIR *directory = opendir(folder);
    if (!directory)
        return -1;
    const int before = path_count;
    for (const struct dirent *entry; (entry = readdir(directory)) && path_count < MOST_FILES;) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 || !ends_with(entry->d_name, ".safetensors"))
            continue;
        const size_t size = strlen(folder) + strlen(entry->d_name) + 2;
        char *path = malloc(size);
        if (!path)
            abort();
        snprintf(path, size, "%s/%s", folder, entry->d_name);
        paths[path_count++] = path;
    }
    closedir(directory);
    qsort(paths + before, (size_t)(path_count - before), sizeof *paths, by_name);
    return path_count - before;
}

/* ---- one file ---- */

typedef struct golden {
    const char *path;
    unsigned char *bytes;
    nf_st_file *file;
    json_t *settings; /* the metadata `case` */
    nf_flow *flow;
    nf_workspace *ws;
    nf_gradient *gradient;
    size_t dim, context_dim, count, rows;
    double *context;
    bool single;
} golden;

static unsigned char *read_bytes(const char *path, size_t *size) {
    FILE *stream = fopen(path, "rb");
    ck_assert_msg(stream != NULL, "%s cannot be opened", path);
    ck_assert_int_eq(fseek(stream, 0, SEEK_END), 0);
    *size = (size_t)ftell(stream);
    rewind(stream);
    unsigned char *bytes = new_bytes(*size);
    ck_assert_uint_eq(fread(bytes, 1, *size, stream), *size);
    fclose(stream);
    return bytes;
}

/* The numbers of a tensor, and how many; NULL when there is none. */
static double *find(const golden *g, const char *name, size_t *count) {
    const nf_st_tensor *tensor = nf_st_find(g->file, name);
    if (!tensor)
        return NULL;
    ck_assert_str_eq(tensor->dtype, "F64");
    double *numbers = new_numbers(tensor->size / sizeof(double));
    nf_le_load_f64(numbers, tensor->data, tensor->size / sizeof(double));
    if (count)
        *count = tensor->size / sizeof(double);
    return numbers;
}

static double *need(const golden *g, const char *name, size_t count) {
    size_t found = 0;
    double *numbers = find(g, name, &found);
    ck_assert_msg(numbers && found == count, "%s: %s has %zu numbers, not %zu", g->path, name, found, count);
    return numbers;
}

/*
 * What moving all inputs and parameters by 2^-52 of themselves changes: of a group, or, where the file does not say (the norm of a training gradient, which
 * moves more than the loss), ten times the most of all groups.
 */
static double sensitivity(const golden *g, const char *group) {
    json_t *all = json_object_get(g->settings, "sensitivity");
    if (json_object_get(all, group))
        return json_number_value(json_object_get(all, group));
    double most = 0;
    const char *key;
    json_t *number;
    json_object_foreach(all, key, number) most = fmax(most, json_number_value(number));
    return 10.0 * most;
}

/* Single: 1e-4, or in the few badly conditioned files what rounding to single does to the exact answer (a unit roundoff of 2^-24, both ways). */
static double tolerance(const golden *g, const char *group) {
    const json_t *number = json_object_get(json_object_get(g->settings, "tol"), group);
    ck_assert_msg(json_is_real(number), "%s: no tolerance for %s", g->path, group);
    return g->single ? fmax(SINGLE_TOLERANCE, 0x1p29 * sensitivity(g, group)) : json_real_value(number);
}

static void compare(const golden *g, const char *name, const char *group, double error) {
    ck_assert_msg(error <= tolerance(g, group), "%s in %s: %s is off by %.3g, allowed %.3g", g->path, g->single ? "single" : "double", name, error,
                  tolerance(g, group));
}

static void compare_rows(const golden *g, const char *name, const char *group, const double *got, size_t columns) {
    double *expected = need(g, name, g->rows * columns);
    compare(g, name, group, row_error(got, expected, g->rows, columns));
    free(expected);
}

/* A vector in parameter order against "<prefix><tensor>" of every tensor. */
static void compare_parameters(const golden *g, const char *prefix, const char *group, const double *got) {
    for (size_t i = 0; i < nf_tensor_count(g->flow); i++) {
        nf_tensor tensor = {.struct_size = sizeof tensor};
        char name[256];
        must(nf_tensor_info(g->flow, i, &tensor));
        snprintf(name, sizeof name, "%s%s", prefix, tensor.name);
        const size_t count = tensor.shape[0] * tensor.shape[1];
        double *expected = need(g, name, count);
        compare(g, name, group, whole_error(got + tensor.offset, expected, count));
        free(expected);
    }
}

/* Whether the file names a layer of a type. */
static bool has_layer(const golden *g, const char *type) {
    json_t *flow = json_loads(nf_st_metadata(g->file, "flow"), 0, NULL);
    ck_assert_ptr_nonnull(flow);
    const json_t *layers = json_object_get(flow, "layers");
    bool found = false;
    for (size_t i = 0; i < json_array_size(layers); i++)
        found = found || strcmp(json_string_value(json_object_get(json_array_get(layers, i), "type")), type) == 0;
    json_decref(flow);
    return found;
}

static void open_golden(golden *g, const char *path, bool single) {
    memset(g, 0, sizeof *g);
    g->path = path;
    g->single = single;
    size_t size;
    const nf_allocator memory = nf_allocator_or_default(NULL);
    g->bytes = read_bytes(path, &size);
    must(nf_st_parse(&memory, g->bytes, size, &g->file));
    g->settings = json_loads(nf_st_metadata(g->file, "case"), 0, NULL);
    ck_assert_ptr_nonnull(g->settings);
    must(nf_flow_load(path, &g->flow));
    /* The solver as accurate as the references of the continuous layers. */
    if (has_layer(g, "cnf"))
        must(nf_cnf_set_solver(g->flow, NF_DOPRI5, single ? 1e-7 : 1e-12, single ? 1e-7 : 1e-12, 0, 0));
    if (single) {
        nf_flow *narrow;
        must(nf_flow_convert(g->flow, NF_SINGLE, &narrow));
        nf_flow_free(g->flow);
        g->flow = narrow;
    }
    g->dim = nf_flow_dim(g->flow);
    g->context_dim = nf_flow_context_dim(g->flow);
    g->count = nf_parameter_count(g->flow);
    must(nf_workspace_create(g->flow, 1, &g->ws));
    must(nf_gradient_create(g->flow, &g->gradient));
}

static void close_golden(golden *g) {
    nf_gradient_free(g->gradient);
    nf_workspace_free(g->ws);
    nf_flow_free(g->flow);
    nf_st_free(g->file);
    json_decref(g->settings);
    free(g->context);
    free(g->bytes);
}

/* ---- kinds `values` and `seed` ---- */

static void check_maps(const golden *g) {
    double *z = need(g, "golden.z", g->rows * g->dim), *x = need(g, "golden.x", g->rows * g->dim);
    double *out = new_numbers(g->rows * g->dim), *log_det = new_numbers(g->rows);
    must(nf_forward(g->flow, g->ws, g->rows, z, g->context, out, log_det));
    compare_rows(g, "golden.x", "x", out, g->dim);
    compare_rows(g, "golden.log_det", "log_det", log_det, 1);
    must(nf_inverse(g->flow, g->ws, g->rows, x, g->context, out, log_det));
    compare_rows(g, "golden.z", "z", out, g->dim);
    for (size_t r = 0; r < g->rows; r++)
        log_det[r] = -log_det[r];
    compare_rows(g, "golden.log_det", "log_det", log_det, 1);
    must(nf_score(g->flow, g->ws, g->rows, x, g->context, log_det, out));
    compare_rows(g, "golden.log_prob", "log_prob", log_det, 1);
    compare_rows(g, "golden.score", "score", out, g->dim);
    must(nf_log_prob(g->flow, g->ws, g->rows, x, g->context, log_det));
    compare_rows(g, "golden.log_prob", "log_prob", log_det, 1);
    free(z);
    free(x);
    free(out);
    free(log_det);
}

static void check_gradients(const golden *g) {
    double *z = need(g, "golden.z", g->rows * g->dim), *x = need(g, "golden.x", g->rows * g->dim);
    double *a = need(g, "golden.cotangent_x", g->rows * g->dim), *b = need(g, "golden.cotangent_log_det", g->rows);
    double *d_z = new_numbers(g->rows * g->dim), *d_context = new_numbers(g->rows * g->context_dim), *d_theta = new_numbers(g->count);
    must(nf_forward_vjp(g->flow, g->ws, g->rows, z, g->context, a, b, d_z, d_context, g->gradient));
    must(nf_gradient_get(g->gradient, d_theta));
    compare_rows(g, "golden.vjp_z", "vjp_z", d_z, g->dim);
    if (g->context_dim)
        compare_rows(g, "golden.vjp_context", "vjp", d_context, g->context_dim);
    compare_parameters(g, "golden.vjp.", "vjp", d_theta);

    double loss, *nll = need(g, "golden.nll", 1);
    must(nf_gradient_zero(g->gradient));
    must(nf_grad_nll(g->flow, g->ws, g->rows, x, g->context, NULL, g->gradient, &loss));
    must(nf_gradient_get(g->gradient, d_theta));
    compare(g, "golden.nll", "nll", whole_error(&loss, nll, 1));
    compare_parameters(g, "golden.nll_grad.", "nll_grad", d_theta);
    free(z);
    free(x);
    free(a);
    free(b);
    free(d_z);
    free(d_context);
    free(d_theta);
    free(nll);
}

static void check_values(golden *g) {
    size_t count = 0;
    double *z = find(g, "golden.z", &count);
    ck_assert_msg(z && count && count % g->dim == 0, "%s: golden.z has %zu numbers", g->path, count);
    free(z);
    g->rows = count / g->dim;
    if (g->context_dim)
        g->context = need(g, "golden.context", g->rows * g->context_dim);
    check_maps(g);
    check_gradients(g);
}

/* ---- kind `train` ---- */

static double number_of(const json_t *object, const char *key) {
    const json_t *number = json_object_get(object, key);
    return json_is_number(number) ? json_number_value(number) : 0.0;
}

static nf_optimizer *make_optimizer(const golden *g) {
    const json_t *rule = json_object_get(g->settings, "optimizer");
    const char *name = json_string_value(json_object_get(rule, "name"));
    nf_optimizer_config config = {.struct_size = sizeof config,
                                  .learning_rate = number_of(rule, "lr"),
                                  .beta1 = number_of(rule, "beta1"),
                                  .beta2 = number_of(rule, "beta2"),
                                  .epsilon = number_of(rule, "eps"),
                                  .weight_decay = number_of(rule, "weight_decay"),
                                  .momentum = number_of(rule, "momentum"),
                                  .clip_norm = number_of(rule, "clip_norm")};
    config.kind = strcmp(name, "adam") == 0 ? NF_ADAM : strcmp(name, "adamw") == 0 ? NF_ADAMW : NF_SGD;
    ck_assert_msg(config.kind != NF_SGD || strcmp(name, "sgd") == 0, "%s: optimizer %s", g->path, name);
    nf_optimizer *optimizer;
    must(nf_optimizer_create(g->flow, &config, &optimizer));
    return optimizer;
}

static double norm(const double *v, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += v[i] * v[i];
    return sqrt(sum);
}

static void check_training(golden *g) {
    const size_t steps = (size_t)number_of(g->settings, "steps"), batch = (size_t)number_of(g->settings, "batch");
    size_t data_count = 0;
    double *data = find(g, "golden.data", &data_count), *index = need(g, "golden.batch_index", steps * batch);
    double *losses = need(g, "golden.loss", steps), *norms = need(g, "golden.grad_norm", steps);
    double *x = new_numbers(batch * g->dim), *theta = new_numbers(g->count);
    nf_optimizer *optimizer = make_optimizer(g);
    ck_assert_msg(data && steps && batch, "%s: no steps", g->path);
    for (size_t step = 0; step < steps; step++) {
        double loss, size;
        for (size_t i = 0; i < batch; i++) {
            ck_assert_uint_lt((size_t)index[step * batch + i] * g->dim, data_count);
            memcpy(x + i * g->dim, data + (size_t)index[step * batch + i] * g->dim, g->dim * sizeof *x);
        }
        must(nf_gradient_zero(g->gradient));
        must(nf_grad_nll(g->flow, g->ws, batch, x, NULL, NULL, g->gradient, &loss));
        must(nf_gradient_get(g->gradient, theta));
        size = norm(theta, g->count);
        compare(g, "golden.loss", "loss", whole_error(&loss, &losses[step], 1));
        compare(g, "golden.grad_norm", "grad_norm", whole_error(&size, &norms[step], 1));
        must(nf_optimizer_step(optimizer, g->flow, g->gradient));
    }
    must(nf_get_parameters(g->flow, theta));
    compare_parameters(g, "golden.final.", "final", theta);
    nf_optimizer_free(optimizer);
    free(data);
    free(index);
    free(losses);
    free(norms);
    free(x);
    free(theta);
}

static void check_file(const char *path, bool single) {
    golden g;
    open_golden(&g, path, single);
    const char *kind = json_string_value(json_object_get(g.settings, "kind"));
    if (strcmp(kind, "train") == 0)
        check_training(&g);
    else
        check_values(&g);
    close_golden(&g);
}

START_TEST(all_files_are_there) {
    int own = 0;
    for (int i = 0; i < path_count; i++)
        own += strncmp(paths[i], FOLDER "/", strlen(FOLDER) + 1) == 0;
    ck_assert_msg(own >= FEWEST_FILES, "%d files in " FOLDER " (seen from the folder where the test was started), at least %d are expected", own, FEWEST_FILES);
    if (seed_folder())
        ck_assert_msg(path_count > own, "NFLOW_GOLDEN names a folder without seed_* files");
}
END_TEST

START_TEST(double_meets_the_tolerances) { check_file(paths[_i], false); }
END_TEST

START_TEST(single_meets_its_tolerance) { check_file(paths[_i], true); }
END_TEST

int main(void) {
    list_files(FOLDER, "");
    if (seed_folder())
        list_files(seed_folder(), "seed_");
    Suite *suite = suite_create("golden files");
    TCase *all = tcase_create("all"), *doubles = tcase_create("double"), *singles = tcase_create("single");
    tcase_add_test(all, all_files_are_there);
    tcase_add_loop_test(doubles, double_meets_the_tolerances, 0, path_count);
    tcase_add_loop_test(singles, single_meets_its_tolerance, 0, path_count);
    tcase_set_timeout(doubles, 120);
    tcase_set_timeout(singles, 120);
    suite_add_tcase(suite, all);
    suite_add_tcase(suite, doubles);
    suite_add_tcase(suite, singles);
    const int failed = run_suite(suite);
    for (int i = 0; i < path_count; i++)
        free(paths[i]);
    return failed;
}
