/* Model files through the public interface: what is saved is loaded, lies about the structure are refused, and saving is atomic. */
#include <dirent.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/memory.h"
#include "io/safetensors.h"
#include "nflow.h"
#include "support.h"

static nf_flow *make_flow(nf_precision precision) {
    nf_flow *flow, *part;
    const size_t source[] = {2, 0, 1};
    const double mean[] = {0.5, -1.25, 3.0}, sd[] = {1.5, 0.25, 2.0};
    ck_assert_int_eq(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 3, .context_dim = 2, .couplings = 3, .hidden_width = 5, .seed = 9,
                                                 .precision = precision, .mask = NF_MASK_RANDOM, .scale_clamp = 2.385),
                                       &flow),
                     NF_OK);
    ck_assert_int_eq(nf_permutation_create(3, source, precision, &part), NF_OK);
    ck_assert_int_eq(nf_flow_append(flow, part), NF_OK);
    ck_assert_int_eq(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 3, .layers = 2, .seed = 3, .precision = precision), &part), NF_OK);
    ck_assert_int_eq(nf_flow_invert(part), NF_OK);
    ck_assert_int_eq(nf_flow_append(flow, part), NF_OK);
    ck_assert_int_eq(nf_radial_create(NF_CONFIG(nf_radial_config, .dim = 3, .context_dim = 2, .seed = 3, .hidden_width = 4, .precision = precision),
                                      &part),
                     NF_OK);
    ck_assert_int_eq(nf_flow_append(flow, part), NF_OK);
    ck_assert_int_eq(nf_flow_set_base_normal(flow, mean, sd), NF_OK);
    return flow;
}

static void assert_same(const nf_flow *a, const nf_flow *b) {
    ck_assert_uint_eq(nf_parameter_count(a), nf_parameter_count(b));
    ck_assert_uint_eq(nf_flow_layer_count(a), nf_flow_layer_count(b));
    ck_assert_int_eq(nf_flow_precision(a), nf_flow_precision(b));
    const double x[] = {0.31, -0.77, 1.9, 4.25, 0.1, -2.2}, context[] = {0.4, -1.1, 2.2, 0.3};
    double p[2], q[2];
    ck_assert_int_eq(nf_log_prob(a, NULL, 2, x, context, p), NF_OK);
    ck_assert_int_eq(nf_log_prob(b, NULL, 2, x, context, q), NF_OK);
    ck_assert_mem_eq(p, q, sizeof p);
}

static char folder[256];

/* A folder of the test's own, made when it is first asked for. */
static const char *scratch(void) {
    if (!*folder) {
        snprintf(folder, sizeof folder, "%s/nflow-file-XXXXXX", scratch_folder());
        ck_assert_ptr_nonnull(mkdtemp(folder));
    }
    return folder;
}

static void leave_scratch(void) {
    ck_assert_int_eq(rmdir(folder), 0);
    *folder = 0;
}

static const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", scratch(), name);
    return path;
}

static size_t files_in_scratch(void) {
    DIR *open = opendir(scratch());
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(open));)
        count += entry->d_name[0] != '.';
    closedir(open);
    return count;
}

START_TEST(saves_and_loads_in_both_precisions) {
    nf_flow *flow = make_flow(_i ? NF_SINGLE : NF_DOUBLE), *loaded, *again;
    void *bytes, *twin;
    size_t size, twin_size;
    ck_assert_int_eq(nf_flow_save(flow, path_of("m.safetensors")), NF_OK);
    ck_assert_uint_eq(files_in_scratch(), 1);
    ck_assert_int_eq(nf_flow_load(path_of("m.safetensors"), &loaded), NF_OK);
    assert_same(flow, loaded);
    ck_assert_int_eq(nf_flow_save_memory(loaded, &bytes, &size), NF_OK);
    ck_assert_int_eq(nf_flow_save_memory(flow, &twin, &twin_size), NF_OK);
    ck_assert_uint_eq(size, twin_size);
    ck_assert_mem_eq(bytes, twin, size);
    ck_assert_int_eq(nf_flow_load_memory(bytes, size, &again), NF_OK);
    assert_same(flow, again);
    nf_free(bytes);
    nf_free(twin);
    nf_free(NULL);
    nf_flow_free(again);
    nf_flow_free(loaded);
    nf_flow_free(flow);
    unlink(path_of("m.safetensors"));
    leave_scratch();
}
END_TEST

START_TEST(keeps_the_precision_of_a_flow_without_parameters) {
    const size_t source[] = {1, 0};
    nf_flow *flow, *loaded;
    void *bytes;
    size_t size;
    ck_assert_int_eq(nf_permutation_create(2, source, NF_SINGLE, &flow), NF_OK);
    ck_assert_int_eq(nf_flow_save_memory(flow, &bytes, &size), NF_OK);
    ck_assert_int_eq(nf_flow_load_memory(bytes, size, &loaded), NF_OK);
    ck_assert_int_eq(nf_flow_precision(loaded), NF_SINGLE);
    nf_free(bytes);
    nf_flow_free(loaded);
    nf_flow_free(flow);
}
END_TEST

START_TEST(a_save_that_fails_leaves_the_old_file_and_nothing_else) {
    nf_flow *flow = make_flow(NF_DOUBLE);
    ck_assert_int_eq(nf_flow_save(flow, "/nonexistent-folder/m.safetensors"), NF_ERR_IO);
    ck_assert_msg(strstr(nf_last_error(), "nf_flow_save: cannot create /nonexistent-folder/") == nf_last_error(), "%s", nf_last_error());
    /* A folder of that name cannot be replaced by a file. */
    ck_assert_int_eq(mkdir(path_of("folder"), 0777), 0);
    ck_assert_int_eq(nf_flow_save(flow, path_of("folder")), NF_ERR_IO);
    ck_assert_ptr_nonnull(strstr(nf_last_error(), "cannot rename"));
    ck_assert_uint_eq(files_in_scratch(), 1);
    ck_assert_int_eq(nf_flow_save(flow, ""), NF_ERR_IO);
    rmdir(path_of("folder"));
    leave_scratch();
    nf_flow_free(flow);
}
END_TEST

START_TEST(a_name_may_be_as_long_as_the_file_system_allows) {
    nf_flow *flow = make_flow(NF_DOUBLE), *loaded;
    char name[256];
    memset(name, 'm', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    ck_assert_msg(nf_flow_save(flow, path_of(name)) == NF_OK, "%s", nf_last_error());
    ck_assert_int_eq(nf_flow_load(path_of(name), &loaded), NF_OK);
    ck_assert_uint_eq(files_in_scratch(), 1);
    unlink(path_of(name));
    leave_scratch();
    nf_flow_free(loaded);
    nf_flow_free(flow);
}
END_TEST

/* A device or pipe that a file took the place of would be gone: /dev/null, for one. */
START_TEST(a_save_takes_the_place_of_nothing_but_a_file) {
    nf_flow *flow = make_flow(NF_DOUBLE);
    struct stat info;
    char link[512];
    ck_assert_int_eq(mkfifo(path_of("pipe"), 0600), 0);
    snprintf(link, sizeof link, "%s", path_of("link"));
    ck_assert_int_eq(symlink("pipe", link), 0);
    const char *const names[] = {"pipe", "link"};
    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(nf_flow_save(flow, path_of(names[i])), NF_ERR_IO);
        ck_assert_msg(strstr(nf_last_error(), "is not a file") != NULL, "%s", nf_last_error());
        ck_assert_int_eq(stat(path_of(names[i]), &info), 0);
        ck_assert(S_ISFIFO(info.st_mode));
        ck_assert_uint_eq(files_in_scratch(), 2);
    }
    unlink(link);
    unlink(path_of("pipe"));
    leave_scratch();
    nf_flow_free(flow);
}
END_TEST

START_TEST(a_new_file_obeys_the_umask_and_an_old_one_keeps_its_mode) {
    nf_flow *flow = make_flow(NF_DOUBLE);
    struct stat info;
    const mode_t before = umask(027);
    ck_assert_int_eq(nf_flow_save(flow, path_of("m")), NF_OK);
    umask(before);
    ck_assert_int_eq(stat(path_of("m"), &info), 0);
    ck_assert_int_eq(info.st_mode & 07777, 0640);
    ck_assert_int_eq(chmod(path_of("m"), 0604), 0);
    ck_assert_int_eq(nf_flow_save(flow, path_of("m")), NF_OK);
    ck_assert_int_eq(stat(path_of("m"), &info), 0);
    ck_assert_int_eq(info.st_mode & 07777, 0604);
    unlink(path_of("m"));
    leave_scratch();
    nf_flow_free(flow);
}
END_TEST

START_TEST(says_which_file_cannot_be_read) {
    nf_flow *flow = (nf_flow *)&flow;
    ck_assert_int_eq(nf_flow_load("/nonexistent-file", &flow), NF_ERR_IO);
    ck_assert_ptr_null(flow);
    ck_assert_str_eq(nf_last_error(), "nf_flow_load: cannot open /nonexistent-file: No such file or directory");
    ck_assert_int_eq(nf_flow_load("/", &flow), NF_ERR_IO);
    ck_assert_int_eq(nf_flow_load("/dev/null", &flow), NF_ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(nf_last_error(), "/dev/null: the file has 0 bytes"));
    /* It never ends. */
    ck_assert_int_eq(nf_flow_load("/dev/zero", &flow), NF_ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(nf_last_error(), "/dev/zero: header"));
}
END_TEST

/* Of a large file that cannot be a model only the beginning is read, whose length is not that of the file. */
START_TEST(says_no_length_that_the_file_has_not) {
    enum { MEGABYTES = 3 };
    unsigned char *bytes = calloc(MEGABYTES, (size_t)1 << 20);
    nf_flow *flow;
    memset(bytes, 255, 3); /* a header of 16 MB */
    FILE *file = fopen(path_of("m"), "wb");
    ck_assert_uint_eq(fwrite(bytes, (size_t)1 << 20, MEGABYTES, file), MEGABYTES);
    fclose(file);
    ck_assert_int_eq(nf_flow_load(path_of("m"), &flow), NF_ERR_FORMAT);
    ck_assert_msg(strstr(nf_last_error(), "does not begin with {") != NULL, "%s", nf_last_error());
    ck_assert_int_eq(nf_flow_load_memory(bytes, (size_t)MEGABYTES << 20, &flow), NF_ERR_FORMAT);
    ck_assert_msg(strstr(nf_last_error(), "does not begin with {") != NULL, "%s", nf_last_error());
    unlink(path_of("m"));
    leave_scratch();
    free(bytes);
}
END_TEST

/* Of folders that together are longer than any name. */
START_TEST(a_path_may_be_longer_than_a_name) {
    enum { LEVELS = 3, LENGTH = 100 };
    nf_flow *flow = make_flow(NF_DOUBLE), *loaded;
    char path[LEVELS][1024];
    for (int i = 0; i < LEVELS; i++) {
        snprintf(path[i], sizeof path[i], "%s/%0*d", i ? path[i - 1] : scratch(), LENGTH, i);
        ck_assert_int_eq(mkdir(path[i], 0777), 0);
    }
    char file[1100];
    snprintf(file, sizeof file, "%s/m.safetensors", path[LEVELS - 1]);
    ck_assert_int_eq(chmod(path[0], 0555), 0); /* what is beside the new file is in its own folder */
    ck_assert_msg(nf_flow_save(flow, file) == NF_OK, "%s", nf_last_error());
    ck_assert_int_eq(chmod(path[0], 0777), 0);
    ck_assert_int_eq(nf_flow_load(file, &loaded), NF_OK);
    unlink(file);
    for (int i = LEVELS; i-- > 0;)
        ck_assert_int_eq(rmdir(path[i]), 0); /* where nothing else is left */
    leave_scratch();
    nf_flow_free(loaded);
    nf_flow_free(flow);
}
END_TEST

static void *not_much(void *user, size_t size) {
    (void)user;
    return size < (size_t)1 << 24 ? malloc(size) : NULL;
}

static void give_back(void *user, void *pointer) {
    (void)user;
    free(pointer);
}

/* A table of gigabytes, say, that was taken for a model. */
START_TEST(a_large_file_that_is_no_model_is_not_read) {
    const nf_allocator frugal = {not_much, give_back, NULL};
    const char *path = path_of("large.csv");
    nf_flow *flow;
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs("x,y\n0.5,0.25\n", file);
    ck_assert_int_eq(fflush(file), 0);
    ck_assert_int_eq(ftruncate(fileno(file), (off_t)1 << 30), 0);
    fclose(file);
    ck_assert_int_eq(nf_flow_load_with(path, &flow, &frugal), NF_ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(nf_last_error(), "large.csv: header: claims"));
    unlink(path);
    leave_scratch();
}
END_TEST

/* A file of one F64 tensor `name` of two numbers, and the given flow text. */
static nf_status load_text(const char *flow_text, const char *name, const double *numbers, const char *dtype, nf_flow **flow) {
    const nf_allocator a = nf_allocator_or_default(NULL);
    unsigned char data[16];
    nf_le_store_f64(data, numbers, 2);
    const nf_st_tensor tensors[] = {{.name = name, .rank = 1, .shape = {dtype[1] == '6' ? 2 : 4}, .data = data, .size = 16}};
    nf_st_tensor tensor = tensors[0];
    snprintf(tensor.dtype, sizeof tensor.dtype, "%s", dtype);
    const char *const metadata[][2] = {{"format", "nflow"}, {"version", "1"}, {"flow", flow_text}};
    unsigned char *bytes;
    size_t size;
    ck_assert_int_eq(nf_st_write(&a, &tensor, name ? 1 : 0, metadata, 3, &bytes, &size), NF_OK);
    const nf_status status = nf_flow_load_memory(bytes, size, flow);
    nf_release(&a, bytes);
    return status;
}

#define FLOW(layers) "{\"dim\": 2, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1.0}, \"layers\": [" layers "]}"
#define SINGLE(layers) "{\"dim\": 2, \"context\": 0, \"precision\": \"single\", \"base\": {\"type\": \"normal\", \"scale\": 1.0}, \"layers\": [" layers "]}"
#define BASE(base) "{\"dim\": 2, \"context\": 0, \"base\": " base ", \"layers\": []}"
#define COUPLING(more) "{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"exp\", " more "}"
#define SPLIT "\"identity\": [0], \"transformed\": [1]"
#define CNF(more) "{\"type\": \"cnf\", \"dynamics\": \"mlp\", \"hidden\": [3], \"activation\": \"tanh\", " more "}"

static const struct {
    const char *flow, *says;
} lies[] = {
    {"", "flow: bad JSON"},
    {"{", "flow: bad JSON"},
    {"[]", "flow: is not an object"},
    {"3", "flow: bad JSON"},
    {"{}", "dim"},
    {"{\"dim\": 2}", "context"},
    {"{\"dim\": 0, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": []}", "dim is 0"},
    {"{\"dim\": -2, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": []}", "dim is not a count"},
    {"{\"dim\": 2.0, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": []}", "dim is not a count"},
    {"{\"dim\": 2, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}}", "layers is not a list"},
    {"{\"dim\": 2, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": {}}", "layers is not a list"},
    {"{\"dim\": 2, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": [], \"more\": 1}", "key \"more\""},
    {"{\"dim\": 2, \"dim\": 2, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": []}", "duplicate"},
    {"{\"dim\": 2, \"context\": 0, \"precision\": \"half\", \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": []}", "precision is neither"},
    {BASE("1"), "base is not"},
    {BASE("{}"), "base is not"},
    {BASE("{\"type\": \"uniform\", \"scale\": 1}"), "base is not"},
    {BASE("{\"type\": \"normal\"}"), "base has neither"},
    {BASE("{\"type\": \"normal\", \"scale\": 0}"), "base.scale is not positive"},
    {BASE("{\"type\": \"normal\", \"scale\": -1}"), "base.scale is not positive"},
    {BASE("{\"type\": \"normal\", \"scale\": \"1\"}"), "base.scale is not a number"},
    {BASE("{\"type\": \"normal\", \"scale\": 1, \"more\": 1}"), "base has neither"},
    {BASE("{\"type\": \"normal\", \"mean\": [0], \"sd\": [1, 1]}"), "base.mean is not a list of dim"},
    {BASE("{\"type\": \"normal\", \"mean\": [0, 0], \"sd\": [1, 0]}"), "base.sd is not positive"},
    {"{\"dim\": 65537, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 2}, \"layers\": []}", "more dimensions than a flow without layers"},
    {"{\"dim\": 1000000000000, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 2}, \"layers\": []}", "more dimensions than a flow without layers"},
    {FLOW("1"), "layers[0] is not an object"},
    {FLOW("{}"), "layers[0] has no type"},
    {FLOW("{\"type\": 1}"), "layers[0] has no type"},
    {FLOW("{\"type\": \"spline\"}"), "layers[0] has the type \"spline\""},
    {FLOW("{\"type\": \"actnorm\", \"inverted\": 1}"), "inverted is neither"},
    {FLOW("{\"type\": \"actnorm\", \"more\": 1}"), "key \"more\""},
    {FLOW("{\"type\": \"actnorm\", \"context\": 1}"), "context is neither"},
    {FLOW("{\"type\": \"planar\", \"hidden\": [3]}"), "key \"hidden\""},
    {FLOW("{\"type\": \"permutation\"}"), "permutation is missing"},
    {FLOW("{\"type\": \"permutation\", \"permutation\": 1}"), "permutation is not a list"},
    {FLOW("{\"type\": \"permutation\", \"permutation\": [0]}"), "has 1 indices"},
    {FLOW("{\"type\": \"permutation\", \"permutation\": [0, 0]}"), "has 0 twice"},
    {FLOW("{\"type\": \"permutation\", \"permutation\": [0, 2]}"), "is 2 in a flow of 2"},
    {FLOW("{\"type\": \"permutation\", \"permutation\": [0, -1]}"), "is not a count"},
    {FLOW("{\"type\": \"permutation\", \"permutation\": [0, 9223372036854775807]}"), "in a flow of 2"},
    {FLOW("{\"type\": \"permutation\", \"permutation\": [0, [1]]}"), "nests deeper"},
    {FLOW(COUPLING("\"identity\": [0]")), "transformed is missing"},
    {FLOW(COUPLING("\"identity\": [0, 1], \"transformed\": []")), "transformed is empty"},
    {FLOW(COUPLING("\"identity\": [0], \"transformed\": [0]")), "stands twice"},
    {FLOW(COUPLING("\"identity\": [], \"transformed\": [1]")), "0 and 1 indices"},
    {FLOW(COUPLING("\"identity\": [0], \"transformed\": [2]")), "is 2 in a flow"},
    {FLOW(COUPLING("\"clamp\": 1, " SPLIT)), "key \"clamp\""},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [0], \"activation\": \"tanh\", \"scale\": \"exp\", " SPLIT "}"), "hidden[0] is 0"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": 3, \"activation\": \"tanh\", \"scale\": \"exp\", " SPLIT "}"), "hidden is not a list"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"sin\", \"scale\": \"exp\", " SPLIT "}"), "activation is \"sin\""},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": 2, \"scale\": \"exp\", " SPLIT "}"), "activation is not a name"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"tanh\", " SPLIT "}"), "clamp is missing"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"tanh\", \"clamp\": 0, " SPLIT "}"), "clamp is 0"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"softclip\", " SPLIT "}"), "clamp is missing"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"sigmoid\", " SPLIT "}"), "floor is missing"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"sigmoid\", \"floor\": -0.5, " SPLIT "}"), "floor is -0.5"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"inverse_sigmoid\", \"floor\": 0.5, " SPLIT "}"), "key \"floor\""},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"tanh\", \"clamp\": 1e999, " SPLIT "}"), "bad JSON"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [4611686018427387904, 4611686018427387904], \"activation\": \"tanh\", \"scale\": \"exp\", " SPLIT "}"),
     "more parameters than"},
    {FLOW(COUPLING(SPLIT)), "tensor layers.0.net.0.weight is missing"},
    {FLOW(CNF("\"t0\": 1, \"t1\": 1")), "must be finite and different"},
    {FLOW(CNF("\"t0\": -1e308, \"t1\": 1e308")), "further apart"},
    {FLOW("{\"type\": \"cnf\", \"dynamics\": \"mlp\", \"hidden\": [3], \"activation\": \"relu\", \"t0\": 0, \"t1\": 1}"), "smooth"},
    {FLOW("{\"type\": \"cnf\", \"dynamics\": \"hyper\", \"hidden\": 3, \"t0\": 0, \"t1\": 1}"), "width is missing"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"width\": 3")), "key \"width\""},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"rtol\": -1")), "rtol"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"steps\": 0")), "steps is 0"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"max_steps\": 0")), "max_steps 0"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"max_steps\": -1")), "max_steps is not a count"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"trace\": \"hutchinson\", \"probes\": 0")), "probes is 0"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"trace\": \"hutchinson\", \"probes\": 2305843009213693952")), "probes is 2305843009213693952 in 2 dimensions, more than memory"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"trace\": \"hutchinson_normal\", \"probes\": 9223372036854775807")), "probes is 9223372036854775807 in 2 dimensions, more than memory"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"noise_seed\": \"1x\"")), "noise_seed is not a string of digits"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"noise_seed\": \"-1\"")), "noise_seed is not a string of digits"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"noise_seed\": \"\"")), "noise_seed is not a string of digits"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"noise_seed\": 1")), "noise_seed is not a string of digits"},
    {FLOW(CNF("\"t0\": 0, \"t1\": 1, \"noise_seed\": \"18446744073709551616\"")), "noise_seed is not a string of digits"},
    {"{\"dim\": 2, \"context\": 1, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": [{\"type\": \"cnf\", \"dynamics\": \"hyper\", \"hidden\": 3, \"width\": 2, "
     "\"t0\": 0, \"t1\": 1}]}",
     "hyper dynamics take no context"},
    {"{\"dim\": 4294967296, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": [{\"type\": \"cnf\", \"dynamics\": \"mlp\", \"hidden\": [1, 1, 1], "
     "\"activation\": \"tanh\", \"t0\": 0, \"t1\": 1}]}",
     "a cnf layer of 4294967296 dimensions, 0 columns of context and 3 hidden units is more than memory"},
    {"{\"dim\": 33554432, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": [{\"type\": \"cnf\", \"dynamics\": \"hyper\", \"hidden\": [], \"width\": 33554432, "
     "\"t0\": 0, \"t1\": 1}]}",
     SIZE_MAX > UINT32_MAX ? "a cnf layer of 33554432 dimensions" : "cnf: "},
    {FLOW("{\"type\": \"planar\", \"context\": -1}"), "context is not a count"},
    {FLOW("{\"type\": \"coupling\", \"hidden\": [\"3\"], \"activation\": \"tanh\", \"scale\": \"exp\", " SPLIT "}"), "hidden is not a count"},
    {"{\"dim\": 2, \"context\": 0, \"layers\": []}", "base is not"},
    {"{\"dim\": 2, \"context\": 0, \"precision\": 2, \"base\": {\"type\": \"normal\", \"scale\": 1}, \"layers\": []}", "precision is neither"},
    {BASE("{\"type\": \"normal\", \"mean\": 0, \"sd\": [1, 1]}"), "base.mean is not a list of dim"},
    {BASE("{\"type\": \"normal\", \"mean\": [0, \"0\"], \"sd\": [1, 1]}"), "base.mean is not a number"},
    {BASE("{\"type\": \"normal\", \"mean\": [0, 0], \"more\": 1}"), "base has neither"},
    {BASE("{\"type\": \"normal\", \"sd\": [1, 1], \"more\": 1}"), "base has neither"},
    {SINGLE("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"tanh\", \"clamp\": 1e300, " SPLIT "}"), "clamp is 1e+300, beyond single"},
    {SINGLE("{\"type\": \"coupling\", \"hidden\": [], \"activation\": \"tanh\", \"scale\": \"sigmoid\", \"floor\": 1e39, " SPLIT "}"), "floor is 1e+39, beyond single"},
    {FLOW("{\"type\": \"actnorm\"}"), "tensor layers.0.log_scale is missing"},
    {FLOW(""), "tensor layers.0.w belongs to no layer"},
};

START_TEST(refuses_a_lie_about_the_structure) {
    const double numbers[] = {0.25, 0.5};
    nf_flow *flow = NULL;
    const nf_status status = load_text(lies[_i].flow, "layers.0.w", numbers, "F64", &flow);
    ck_assert_msg(status == NF_ERR_FORMAT, "status %d for %s", status, lies[_i].flow);
    ck_assert_ptr_null(flow);
    /* Where a size has 32 bits, some do not even get so far. */
    const bool said = strstr(nf_last_error(), lies[_i].says) != NULL || (SIZE_MAX <= UINT32_MAX && strstr(nf_last_error(), "is larger than memory"));
    ck_assert_msg(said, "%s\n  got \"%s\", wanted \"%s\"", lies[_i].flow, nf_last_error(), lies[_i].says);
    note_refusal(lies[_i].flow, nf_last_error());
}
END_TEST

START_TEST(refuses_tensors_of_the_wrong_kind) {
    const double good[] = {0.25, 0.5}, bad[] = {0.25, NAN};
    nf_flow *flow;
    /* A planar layer in two dimensions wants u and w of two numbers and b of one. */
    ck_assert_int_eq(load_text(FLOW("{\"type\": \"planar\"}"), "layers.0.u", good, "F64", &flow), NF_ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(nf_last_error(), "tensor layers.0.w is missing"));
    ck_assert_int_eq(load_text("{\"dim\": 1, \"context\": 0, \"base\": {\"type\": \"normal\", \"scale\": 1.0}, \"layers\": [{\"type\": \"actnorm\"}]}",
                               "layers.0.log_scale", good, "F64", &flow),
                     NF_ERR_FORMAT);
    ck_assert_msg(strstr(nf_last_error(), "tensor layers.0.log_scale has shape [2], must have [1]") != NULL, "%s", nf_last_error());
    ck_assert_int_eq(load_text(FLOW("{\"type\": \"actnorm\"}"), "layers.0.log_scale", good, "I64", &flow), NF_ERR_FORMAT);
    ck_assert_msg(strstr(nf_last_error(), "tensor layers.0.log_scale has dtype I64") != NULL, "%s", nf_last_error());
    ck_assert_int_eq(load_text(FLOW(""), "golden.x", bad, "F64", &flow), NF_OK);
    nf_flow_free(flow);
}
END_TEST

START_TEST(refuses_parameters_that_are_not_finite) {
    const double numbers[] = {0.5, 0.25, 1.0, 2.0};
    nf_flow *flow, *loaded;
    void *bytes;
    size_t size;
    ck_assert_int_eq(nf_affine_create(2, NF_DOUBLE, &flow), NF_OK);
    ck_assert_int_eq(nf_set_parameters(flow, numbers), NF_OK);
    ck_assert_int_eq(nf_flow_save_memory(flow, &bytes, &size), NF_OK);
    const double worst[] = {INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < 3; i++) {
        nf_le_store_f64((unsigned char *)bytes + size - 8, &worst[i], 1);
        ck_assert_int_eq(nf_flow_load_memory(bytes, size, &loaded), NF_ERR_FORMAT);
        ck_assert_ptr_nonnull(strstr(nf_last_error(), "tensor layers.0.shift holds a number that is not finite"));
    }
    nf_free(bytes);
    nf_flow_free(flow);
}
END_TEST

/* What can be made can be saved and loaded: the largest counts too. */
START_TEST(loads_the_largest_counts) {
    nf_flow *flow, *loaded;
    void *bytes;
    size_t size;
    ck_assert_int_eq(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 2, .steps = SIZE_MAX / 2, .max_steps = SIZE_MAX / 2, .probes = SIZE_MAX / 2), &flow), NF_OK);
    ck_assert_int_eq(nf_flow_save_memory(flow, &bytes, &size), NF_OK);
    ck_assert_msg(nf_flow_load_memory(bytes, size, &loaded) == NF_OK, "%s", nf_last_error());
    nf_free(bytes);
    nf_flow_free(loaded);
    nf_flow_free(flow);
    ck_assert_int_eq(nf_flow_create(SIZE_MAX / 2, SIZE_MAX / 2, NF_DOUBLE, &flow), NF_OK);
    ck_assert_int_eq(nf_flow_save_memory(flow, &bytes, &size), NF_OK);
    ck_assert_msg(nf_flow_load_memory(bytes, size, &loaded) == NF_OK, "%s", nf_last_error());
    nf_free(bytes);
    nf_flow_free(loaded);
    nf_flow_free(flow);
    ck_assert_int_eq(nf_flow_create(SIZE_MAX / 2 + 1, 0, NF_DOUBLE, &flow), NF_ERR_ARGUMENT);
    ck_assert_msg(strstr(nf_last_error(), "nf_flow_create: dim is ") == nf_last_error(), "%s", nf_last_error());
    ck_assert_int_eq(nf_flow_create(2, SIZE_MAX, NF_DOUBLE, &flow), NF_ERR_ARGUMENT);
    ck_assert_msg(strstr(nf_last_error(), "nf_flow_create: context_dim is ") == nf_last_error(), "%s", nf_last_error());
}
END_TEST

/* What a file or a path holds may break no line, nor tell a terminal what to do: control characters and halves of characters become question marks. */
START_TEST(an_error_is_one_plain_line) {
    const double numbers[] = {0.25, 0.5};
    static const char *const cases[][2] = {
        {"two\nlines\tand \033[2J\x7f", "tensor two?lines?and ?[2J?: has 16"},
        {"\xc2\x9b" "31m of old terminals", "tensor ??31m of old"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82", "tensor caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82: has 16"},
        {"seventy-nine letters, which is one less than there is room for before the end: \xc3\xa9", "before the end: ?: has 16"},
    };
    nf_flow *flow;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_int_eq(load_text(FLOW(""), cases[i][0], numbers, "U8", &flow), NF_ERR_FORMAT);
        ck_assert_msg(strstr(nf_last_error(), cases[i][1]) != NULL, "%s", nf_last_error());
    }
    ck_assert_int_eq(nf_flow_load("/nonexistent\nfile \xe9", &flow), NF_ERR_IO);
    ck_assert_str_eq(nf_last_error(), "nf_flow_load: cannot open /nonexistent?file ?: No such file or directory");
}
END_TEST

START_TEST(refuses_other_formats_and_versions) {
    const nf_allocator a = nf_allocator_or_default(NULL);
    static const char *const cases[][3] = {{"pt", "1", "format is \"pt\""}, {"nflow", "2", "version is 2"}};
    for (size_t i = 0; i < 2; i++) {
        const char *const metadata[][2] = {{"format", cases[i][0]}, {"version", cases[i][1]}, {"flow", FLOW("")}};
        unsigned char *bytes;
        size_t size;
        nf_flow *flow;
        ck_assert_int_eq(nf_st_write(&a, NULL, 0, metadata, 3, &bytes, &size), NF_OK);
        ck_assert_int_eq(nf_flow_load_memory(bytes, size, &flow), NF_ERR_FORMAT);
        ck_assert_msg(strstr(nf_last_error(), cases[i][2]) != NULL, "%s", nf_last_error());
        nf_release(&a, bytes);
    }
}
END_TEST

/* ---- damage: small models of three kinds, cut anywhere and with any byte changed to any other ---- */

static nf_flow *small_flow(int kind) {
    nf_flow *flow = NULL;
    if (kind == 0)
        ck_assert_int_eq(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 2, .couplings = 1, .hidden_layers = 1, .hidden_width = 1, .seed = 9, .actnorm = -1), &flow),
                         NF_OK);
    else if (kind == 1)
        ck_assert_int_eq(nf_planar_create(NF_CONFIG(nf_planar_config, .dim = 2, .layers = 1, .seed = 3), &flow), NF_OK);
    else
        ck_assert_int_eq(nf_cnf_create(NF_CONFIG(nf_cnf_config, .dim = 1, .hidden_layers = 1, .hidden_width = 1, .seed = 4), &flow), NF_OK);
    return flow;
}

/* The bytes of a small flow, and where its numbers begin. */
static unsigned char *small_file(int kind, size_t *size, size_t *data) {
    nf_flow *flow = small_flow(kind);
    void *bytes;
    ck_assert_int_eq(nf_flow_save_memory(flow, &bytes, size), NF_OK);
    nf_flow_free(flow);
    *data = 8;
    for (size_t i = 0; i < 8; i++)
        *data += (size_t)((unsigned char *)bytes)[i] << (8 * i);
    return bytes;
}

/* Refused with a line, or a flow like any other. */
static nf_status load_damaged(const unsigned char *bytes, size_t size, const char *what, size_t at) {
    nf_flow *loaded = NULL;
    const nf_status status = nf_flow_load_memory(bytes, size, &loaded);
    ck_assert_msg(status == NF_OK || status == NF_ERR_FORMAT, "%s %zu: status %d", what, at, status);
    ck_assert_msg((status == NF_OK) == (loaded != NULL), "%s %zu: %s", what, at, loaded ? "an error left a flow" : "no error and no flow");
    ck_assert_msg((status == NF_OK) == !*nf_last_error(), "%s %zu: status %d, \"%s\"", what, at, status, nf_last_error());
    nf_flow_free(loaded);
    return status;
}

START_TEST(no_truncation_does_harm) {
    size_t size, data;
    unsigned char *bytes = small_file(_i, &size, &data);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *piece = malloc(cut + !cut); /* of its own, so that a read beyond it is seen */
        memcpy(piece, bytes, cut);
        ck_assert_msg(load_damaged(piece, cut, "cut at", cut) == NF_ERR_FORMAT, "cut at %zu, it loads", cut);
        free(piece);
    }
    nf_free(bytes);
}
END_TEST

/* Every byte with every other value; the brief form flips one bit, or all, at each. */
START_TEST(no_changed_byte_does_harm) {
    size_t size, data, refused = 0;
    unsigned char *bytes = small_file(_i, &size, &data);
    for (size_t at = 0; at < size; at++) {
        const unsigned char old = bytes[at];
        for (unsigned change = 1; change < 256; change++) {
            if (is_brief() && (change & (change - 1)) != 0 && change != 255)
                continue;
            bytes[at] = (unsigned char)(old ^ change);
            const nf_status status = load_damaged(bytes, size, "byte", at);
            refused += status != NF_OK && at < data;
            ck_assert_msg(at < data || status == NF_OK || strstr(nf_last_error(), "not finite"), "byte %zu of the numbers: %s", at, nf_last_error());
        }
        bytes[at] = old;
    }
    /* Little of the header may change unseen: digits of numbers that count for nothing, a name's case never. */
    ck_assert_uint_gt(refused, (is_brief() ? 9 : 255) * data * 8 / 10);
    ck_assert_int_eq(load_damaged(bytes, size, "byte", size), NF_OK);
    nf_free(bytes);
}
END_TEST

int main(void) {
    Suite *s = suite_create("model files");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, saves_and_loads_in_both_precisions, 0, 2);
    tcase_add_test(c, keeps_the_precision_of_a_flow_without_parameters);
    tcase_add_test(c, a_save_that_fails_leaves_the_old_file_and_nothing_else);
    tcase_add_test(c, a_name_may_be_as_long_as_the_file_system_allows);
    tcase_add_test(c, a_path_may_be_longer_than_a_name);
    tcase_add_test(c, a_save_takes_the_place_of_nothing_but_a_file);
    tcase_add_test(c, a_new_file_obeys_the_umask_and_an_old_one_keeps_its_mode);
    tcase_add_test(c, says_which_file_cannot_be_read);
    tcase_add_test(c, says_no_length_that_the_file_has_not);
    tcase_add_test(c, a_large_file_that_is_no_model_is_not_read);
    tcase_add_loop_test(c, refuses_a_lie_about_the_structure, 0, sizeof lies / sizeof lies[0]);
    tcase_add_test(c, refuses_tensors_of_the_wrong_kind);
    tcase_add_test(c, refuses_parameters_that_are_not_finite);
    tcase_add_test(c, loads_the_largest_counts);
    tcase_add_test(c, an_error_is_one_plain_line);
    tcase_add_test(c, refuses_other_formats_and_versions);
    tcase_add_loop_test(c, no_truncation_does_harm, 0, 3);
    tcase_add_loop_test(c, no_changed_byte_does_harm, 0, 3);
    suite_add_tcase(s, c);
    return run_suite(s);
}
