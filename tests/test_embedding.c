/*
 * A guest that leaves no trace. The shared library is loaded with dlopen into a process that has OpenMP's threads, a locale, signal handlers, an unusual floating-point mode and OpenBLAS settings; it is used from 8 threads, in a forked child, and unloaded; and the process
 * finds everything as it was, and the same bits as a plain call gives. So it does with the numbers in files, whatever the host's locale and rounding.
 *
 * NFLOW_LIBRARY names the library; make sets it.
 */
#define _GNU_SOURCE
#include <cblas.h>
#include "checks.h"
#include <dlfcn.h>
#include <errno.h>
#include <fenv.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "nflow.h"
#include "support.h"

enum { GUESTS = 8, ROWS = 333, DIM = 3 };

/* ---- the library through dlopen ---- */

#define FUNCTIONS(F) \
    F(nf_realnvp_create) F(nf_flow_free) F(nf_workspace_create) F(nf_workspace_free) F(nf_log_prob) F(nf_sample) F(nf_fit) F(nf_last_error) F(nf_get_parameters) \
    F(nf_parameter_count) F(nf_flow_save_memory) F(nf_flow_load_memory) F(nf_free) F(nf_flow_set_base_normal) F(nf_diagnose_text)

typedef struct guest {
    void *handle;
#define MEMBER(name) __typeof__(&name) name;
    FUNCTIONS(MEMBER)
} guest;

static guest load(void) {
    guest g;
    const char *path = getenv("NFLOW_LIBRARY");
    ck_assert_msg(path != NULL, "NFLOW_LIBRARY does not name the shared library");
    g.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(g.handle != NULL, "%s", dlerror());
#define FIND(name)                                                    \
    do {                                                              \
        void *found_ = dlsym(g.handle, #name);                        \
        ck_assert_msg(found_ != NULL, "%s", dlerror());               \
        memcpy(&g.name, &found_, sizeof found_);                      \
    } while (0);
    FUNCTIONS(FIND)
    return g;
}

static size_t threads_now(void) {
    size_t count = 0;
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "Threads: %zu", &count);
    if (file)
        fclose(file);
    return count;
}

static bool is_mapped(const char *path) {
    char real[4096], line[8192];
    bool found = false;
    if (!realpath(path, real))
        return false;
    FILE *file = fopen("/proc/self/maps", "r");
    while (file && fgets(line, sizeof line, file))
        found = found || strstr(line, real) != NULL;
    if (file)
        fclose(file);
    return found;
}

/* ---- the host ---- */

static volatile sig_atomic_t signals;

static void count_signal(int number) {
    (void)number;
    signals++;
}

static const int handled[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGPIPE, SIGFPE, SIGCHLD, SIGALRM};
enum { HANDLED = sizeof handled / sizeof handled[0] };

static unsigned mode_now(void) {
#if defined(__x86_64__)
    return _mm_getcsr();
#else
    return (unsigned)fegetround();
#endif
}

/* Rounding upward, results too small flushed to zero, division by zero and invalid operations trapped, the inexact flag raised. */
static void set_odd_mode(void) {
    fesetround(FE_UPWARD);
#if defined(__x86_64__)
    _mm_setcsr((_mm_getcsr() & ~(unsigned)(_MM_MASK_DIV_ZERO | _MM_MASK_INVALID)) | _MM_FLUSH_ZERO_ON | 0x40 /* denormals are zero */ | _MM_EXCEPT_INEXACT);
#endif
}

typedef struct host {
    struct sigaction actions[HANDLED];
    sigset_t mask;
    char locale[256];
    int blas_threads;
    size_t threads;
    unsigned mode;
    char folder[4096];
} host;

static double product(void) {
    enum { N = 96 };
    static double a[N * N], b[N * N], c[N * N];
    for (int i = 0; i < N * N; i++) {
        a[i] = 0.385 * (i % 17) - 2;
        b[i] = 0.25 * (i % 13) - 1;
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1, a, N, b, N, 0, c, N);
    return c[17] + c[N * N - 3];
}

static host host_now(void) {
    host h;
    memset(&h, 0, sizeof h);
    for (int i = 0; i < HANDLED; i++)
        sigaction(handled[i], NULL, &h.actions[i]);
    pthread_sigmask(SIG_SETMASK, NULL, &h.mask);
    snprintf(h.locale, sizeof h.locale, "%s", setlocale(LC_ALL, NULL));
    h.blas_threads = openblas_get_num_threads();
    h.threads = threads_now();
    h.mode = mode_now();
    if (!getcwd(h.folder, sizeof h.folder))
        ck_abort_msg("no working folder");
    return h;
}

static void same_host(const host *a, const host *b, const char *when) {
    for (int i = 0; i < HANDLED; i++)
        ck_assert_msg(a->actions[i].sa_handler == b->actions[i].sa_handler && a->actions[i].sa_flags == b->actions[i].sa_flags, "%s: the handler of signal %d changed", when,
                      handled[i]);
    for (int number = 1; number < 32; number++)
        ck_assert_msg(sigismember(&a->mask, number) == sigismember(&b->mask, number), "%s: the mask of signal %d changed", when, number);
    ck_assert_msg(strcmp(a->locale, b->locale) == 0, "%s: the locale was %s and is %s", when, a->locale, b->locale);
    ck_assert_msg(a->blas_threads == b->blas_threads, "%s: OpenBLAS had %d threads and has %d", when, a->blas_threads, b->blas_threads);
    ck_assert_msg(a->threads == b->threads, "%s: there were %zu threads and are %zu", when, a->threads, b->threads);
    ck_assert_msg(a->mode == b->mode, "%s: the floating-point mode was %x and is %x", when, a->mode, b->mode);
    ck_assert_msg(strcmp(a->folder, b->folder) == 0, "%s: the working folder changed", when);
}

/* OpenMP's pool, where the test is built with it: its threads stay. */
static int open_mp(void) {
    int sum = 0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(3) reduction(+ : sum)
#endif
    for (int i = 0; i < 100; i++)
        sum += i;
    return sum;
}

/* ---- work ---- */

typedef struct work {
    const guest *g;
    const nf_flow *flow;
    double log_prob[ROWS], sample[ROWS * DIM];
    nf_status status;
    unsigned mode_before, mode_after;
    bool odd;
    int errno_after;
} work;

/* Made once, before the mode is odd; with denormals, which a mode would flush. */
static const double *rows(void) {
    static double x[ROWS * DIM];
    for (int i = 0; i < ROWS * DIM && x[0] == 0; i++)
        x[ROWS * DIM - 1 - i] = i % 7 == 3 ? 1e-310 * i : 0.385 * (i % 11) - 2.1;
    return x;
}

static void *use(void *argument) {
    work *w = argument;
    nf_workspace *ws = NULL;
    nf_rng rng = {5, 6, 0};
    if (w->odd)
        set_odd_mode();
    w->mode_before = mode_now();
    errno = 117;
    w->status = w->g->nf_workspace_create(w->flow, 3, &ws);
    if (w->status == NF_OK)
        w->status = w->g->nf_log_prob(w->flow, ws, ROWS, rows(), NULL, w->log_prob);
    if (w->status == NF_OK)
        w->status = w->g->nf_sample(w->flow, ws, &rng, ROWS, NULL, w->sample, NULL);
    w->g->nf_workspace_free(ws);
    w->errno_after = errno;
    w->mode_after = mode_now();
    return NULL;
}

static nf_flow *make(const guest *g) {
    nf_flow *flow = NULL;
    ck_assert_msg(g->nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 4, .seed = 9), &flow) == NF_OK, "%s", g->nf_last_error());
    return flow;
}

static void check_work(const work *w, const work *plain) {
    ck_assert_int_eq(w->status, NF_OK);
    ck_assert_uint_eq(w->mode_before, w->mode_after);
    ck_assert_int_eq(w->errno_after, 117);
    same_bits("log_prob", w->log_prob, plain->log_prob, ROWS);
    same_bits("samples", w->sample, plain->sample, ROWS * DIM);
}

static void use_from_threads(const guest *g, const nf_flow *flow, const work *plain) {
    static work works[GUESTS];
    pthread_t threads[GUESTS];
    for (int i = 0; i < GUESTS; i++) {
        works[i] = (work){.g = g, .flow = flow, .odd = i % 2};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, use, &works[i]), 0);
    }
    for (int i = 0; i < GUESTS; i++) {
        pthread_join(threads[i], NULL);
        check_work(&works[i], plain);
    }
}

/* In a child that has none of the parent's threads, a workspace of threads that was made before the fork still serves. */
static void use_after_fork(const guest *g, const nf_flow *flow, const work *plain) {
    nf_workspace *ws;
    double log_prob[ROWS];
    ck_assert_int_eq(g->nf_workspace_create(flow, 4, &ws), NF_OK);
    ck_assert_int_eq(g->nf_log_prob(flow, ws, ROWS, rows(), NULL, log_prob), NF_OK);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        alarm(20);
        const bool good = g->nf_log_prob(flow, ws, ROWS, rows(), NULL, log_prob) == NF_OK && memcmp(log_prob, plain->log_prob, sizeof log_prob) == 0;
        g->nf_workspace_free(ws);
        _exit(good ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %x", (unsigned)status);
    g->nf_workspace_free(ws);
}

static void fit_and_save(const guest *g, double *parameters) {
    nf_flow *flow = make(g), *loaded = NULL;
    void *bytes = NULL;
    size_t size = 0;
    ck_assert_msg(g->nf_fit(flow, ROWS, rows(), NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .threads = 2), NULL) == NF_OK, "%s", g->nf_last_error());
    ck_assert_int_eq(g->nf_flow_save_memory(flow, &bytes, &size), NF_OK);
    ck_assert_int_eq(g->nf_flow_load_memory(bytes, size, &loaded), NF_OK);
    ck_assert_int_eq(g->nf_get_parameters(loaded, parameters), NF_OK);
    g->nf_free(bytes);
    g->nf_flow_free(loaded);
    g->nf_flow_free(flow);
}

START_TEST(a_guest_leaves_no_trace) {
    /* What a plain process gets. */
    static work plain;
    guest g = load();
    nf_flow *flow = make(&g);
    plain = (work){.g = &g, .flow = flow};
    use(&plain);
    ck_assert_int_eq(plain.status, NF_OK);
    const size_t count = g.nf_parameter_count(flow);
    double *parameters = new_numbers(count), *again = new_numbers(count);
    fit_and_save(&g, parameters);
    g.nf_flow_free(flow);
    dlclose(g.handle);

    /* The host's own ways. */
    if (!setlocale(LC_ALL, "de_DE.UTF-8"))
        setlocale(LC_ALL, "C.UTF-8");
    for (int i = 0; i < HANDLED; i++) {
        struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
        sigaction(handled[i], &action, NULL);
    }
    openblas_set_num_threads(2);
    const double before_product = product();
    set_odd_mode();
    const double odd_product = product(); /* whose own threads keep modes as they like */
    (void)odd_product;
    ck_assert_int_eq(open_mp(), 4950);
    const pid_t child = fork(); /* at which OpenBLAS ends its threads, until it needs them again */
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    const host before = host_now();

    for (int round = 0; round < 3; round++) {
        g = load();
        flow = make(&g);
        use_from_threads(&g, flow, &plain);
        use_after_fork(&g, flow, &plain);
        fit_and_save(&g, again);
        same_bits("parameters of a fit", parameters, again, count);
        work here = {.g = &g, .flow = flow};
        use(&here);
        check_work(&here, &plain);
        signals = 0;
        raise(SIGUSR1);
        ck_assert_int_eq(signals, 1);
        g.nf_flow_free(flow);
        host during = host_now();
        same_host(&before, &during, "after use");
        ck_assert_int_eq(dlclose(g.handle), 0);
        ck_assert_msg(!is_mapped(getenv("NFLOW_LIBRARY")), "the library is still mapped after dlclose");
        during = host_now();
        same_host(&before, &during, "after unloading");
    }
    fesetenv(FE_DFL_ENV);
    const double after_product = product();
    same_bits("OpenBLAS's product", &before_product, &after_product, 1);
    ck_assert_int_eq(open_mp(), 4950);
    free(parameters);
    free(again);
}
END_TEST

/* This program has the library in itself, too, and exports it (make links it with -rdynamic): the guest must not take it for its own. */
START_TEST(a_guest_calls_itself) {
    guest g = load();
    nf_flow *flow = make(&g);
    ck_assert_ptr_ne(dlsym(RTLD_DEFAULT, "nf_workspace_create"), NULL);
    ck_assert_int_eq(g.nf_fit(flow, ROWS, rows(), NULL, NF_CONFIG(nf_fit_config, .threads = 5000), NULL), NF_ERR_ARGUMENT);
    ck_assert_msg(strstr(g.nf_last_error(), "threads is 5000") != NULL, "it says: %s", g.nf_last_error());
    ck_assert_str_eq(nf_last_error(), "");
    g.nf_flow_free(flow);
    dlclose(g.handle);
}
END_TEST

/* ---- numbers in files ---- */

/* A locale that is made here, if the system has the sources of locales; false otherwise. */
static bool enter_locale(const char *folder, const char *name) {
    char command[1024], full[64];
    snprintf(full, sizeof full, "%s.UTF-8", name);
    snprintf(command, sizeof command, "localedef -i %s -f UTF-8 %s/%s >%s/said 2>&1", name, folder, full, folder);
    if (system(command) != 0)
        return false;
    setenv("LOCPATH", folder, 1);
    return setlocale(LC_ALL, full) != NULL;
}

/* A flow whose file has numbers with many digits, as text. */
static nf_flow *make_with_digits(const guest *g) {
    static const double mean[DIM] = {0.1, -1.0 / 3, 2.0 / 7}, sd[DIM] = {0.7, 1.0 / 9, 1.1};
    nf_flow *flow = NULL;
    ck_assert_msg(g->nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .scale_clamp = 2.1234567890123457), &flow) == NF_OK, "%s", g->nf_last_error());
    ck_assert_int_eq(g->nf_flow_set_base_normal(flow, mean, sd), NF_OK);
    return flow;
}

typedef struct written {
    const guest *g;
    void *bytes;
    size_t size;
    double log_prob[ROWS];
    char checkpoint[256];
} written;

/* As text, for people. */
static void check_said(const guest *g, const char *where) {
    nf_flow *flow = make_with_digits(g);
    nf_diagnose_report report = {.struct_size = sizeof report, .round_trip = {.value = 0.12345, .threshold = 0.25, .verdict = NF_FAILED}};
    char text[4096];
    ck_assert_int_eq(g->nf_fit(flow, ROWS, rows(), NULL, NF_CONFIG(nf_fit_config, .contamination = 2.5), NULL), NF_ERR_ARGUMENT);
    ck_assert_msg(strstr(g->nf_last_error(), " 2.5,") != NULL, "%s: %s", where, g->nf_last_error());
    g->nf_diagnose_text(&report, text, sizeof text);
    ck_assert_msg(strstr(text, " 0.123 ") && strstr(text, " 0.25"), "%s: %s", where, text);
    g->nf_flow_free(flow);
}

/* What a plain process wrote is written again, and read to the same bits; a fit's checkpoint is taken up. */
static void check_written(const written *w, const char *where) {
    nf_flow *flow = make_with_digits(w->g), *loaded = NULL;
    void *bytes = NULL;
    size_t size = 0;
    double log_prob[ROWS];
    ck_assert_msg(w->g->nf_flow_save_memory(flow, &bytes, &size) == NF_OK, "%s: %s", where, w->g->nf_last_error());
    ck_assert_msg(size == w->size && memcmp(bytes, w->bytes, size) == 0, "%s: other bytes are saved", where);
    ck_assert_msg(w->g->nf_flow_load_memory(w->bytes, w->size, &loaded) == NF_OK, "%s: %s", where, w->g->nf_last_error());
    ck_assert_int_eq(w->g->nf_log_prob(loaded, NULL, ROWS, rows(), NULL, log_prob), NF_OK);
    same_bits(where, log_prob, w->log_prob, ROWS);
    ck_assert_msg(w->g->nf_fit(flow, ROWS, rows(), NULL, NF_CONFIG(nf_fit_config, .epochs = 2, .noise = 0.1, .checkpoint = w->checkpoint), NULL) == NF_OK, "%s: %s", where,
                  w->g->nf_last_error());
    check_said(w->g, where);
    w->g->nf_free(bytes);
    w->g->nf_flow_free(loaded);
    w->g->nf_flow_free(flow);
}

START_TEST(numbers_in_files_do_not_follow_the_host) {
    static const int roundings[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST};
    static const char *const locales[] = {"de_DE", "ps_AF"}; /* the second has a decimal point of two bytes */
    static written w;
    guest g = load();
    char folder[256], command[512];
    snprintf(folder, sizeof folder, "%s/nflow-locales-XXXXXX", scratch_folder());
    ck_assert_ptr_nonnull(mkdtemp(folder));
    w.g = &g;
    snprintf(w.checkpoint, sizeof w.checkpoint, "%.200s/checkpoint", folder);
    nf_flow *flow = make_with_digits(&g);
    ck_assert_int_eq(g.nf_flow_save_memory(flow, &w.bytes, &w.size), NF_OK);
    ck_assert_int_eq(g.nf_log_prob(flow, NULL, ROWS, rows(), NULL, w.log_prob), NF_OK);
    g.nf_flow_free(flow);
    check_written(&w, "plain");
    for (size_t i = 0; i < sizeof roundings / sizeof *roundings; i++) {
        fesetround(roundings[i]);
        check_written(&w, "rounding");
        ck_assert_int_eq(fegetround(), roundings[i]);
    }
    for (size_t i = 0; i < sizeof locales / sizeof *locales; i++) {
        if (!enter_locale(folder, locales[i])) {
            printf("skipped: %s cannot be made: the sources of locales are missing (Debian has them in locales)\n", locales[i]);
            continue;
        }
        check_written(&w, locales[i]);
        ck_assert_ptr_nonnull(strstr(setlocale(LC_ALL, NULL), locales[i]));
        setlocale(LC_ALL, "C");
    }
    g.nf_free(w.bytes);
    dlclose(g.handle);
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("embedding");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, a_guest_leaves_no_trace);
    tcase_add_test(c, a_guest_calls_itself);
    tcase_add_test(c, numbers_in_files_do_not_follow_the_host);
    suite_add_tcase(suite, c);
    return run_suite(suite);
}
