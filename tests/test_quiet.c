/*
 * A call with a workspace of one thread asks nothing of the system: no allocation, not even from the C library behind the allocator's back, and no
 * system call. The second is what a child proves that has forbidden itself all of them but read, write and exit: it calls, and would be killed. And calls that take
 * no allocator meet a malloc that fails, at each turn (test_alloc.c has those that take one). Of the threads of a larger workspace, a small call leaves asleep those that it cannot use.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

#if defined(__linux__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <dirent.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* The program's malloc: glibc's own, counted. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *pointer, size_t size);
static size_t allocations, fails_at; /* 0: never */

static bool fails(void) {
    const bool due = ++allocations == fails_at;
    if (due)
        errno = ENOMEM;
    return due;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }
void *realloc(void *pointer, size_t size) { return fails() ? NULL : __libc_realloc(pointer, size); }

enum { ROWS = 131 };

typedef struct work {
    subject s;
    nf_optimizer *optimizer;
    double *x, *context, *a, *b, *out, *scalar;
} work;

static void open_work(work *w, int i, nf_precision precision) {
    open_subject(&w->s, i, precision, 1);
    if (strcmp(w->s.f->kind, "cnf") == 0)
        must(nf_cnf_set_solver(w->s.flow, NF_DOPRI5, 1e-4, 1e-4, 0, 0));
    must(nf_optimizer_create(w->s.flow, NF_CONFIG(nf_optimizer_config, .learning_rate = 1e-12), &w->optimizer));
    w->x = new_normals(&w->s.random, ROWS * w->s.dim, 1.0);
    w->context = new_context(&w->s, ROWS);
    w->a = new_normals(&w->s.random, ROWS * w->s.dim, 1.0);
    w->b = new_normals(&w->s.random, ROWS, 1.0);
    w->out = new_numbers(ROWS * w->s.dim);
    w->scalar = new_numbers(ROWS);
}

static void close_work(work *w) {
    double *arrays[] = {w->x, w->context, w->a, w->b, w->out, w->scalar};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    nf_optimizer_free(w->optimizer);
    close_subject(&w->s);
}

/* Every kind of call, on all rows and on one. The first status that is not NF_OK. */
static nf_status call_all(work *w) {
    subject *s = &w->s;
    nf_rng rng = {1, 2, 3};
    double loss;
    nf_status status = NF_OK;
#define THEN(call) (status = status == NF_OK ? (call) : status)
    for (size_t rows = ROWS; rows > 0; rows = rows == ROWS ? 1 : 0) {
        rng.position = 3;
        THEN(nf_forward(s->flow, s->ws, rows, w->x, w->context, w->out, w->scalar));
        THEN(nf_inverse(s->flow, s->ws, rows, w->x, w->context, w->out, w->scalar));
        THEN(nf_log_prob(s->flow, s->ws, rows, w->x, w->context, w->scalar));
        THEN(nf_score(s->flow, s->ws, rows, w->x, w->context, w->scalar, w->out));
        THEN(nf_sample(s->flow, s->ws, &rng, rows, w->context, w->out, w->scalar));
        THEN(nf_forward_vjp(s->flow, s->ws, rows, w->x, w->context, w->a, w->b, w->out, NULL, s->gradient));
        THEN(nf_inverse_vjp(s->flow, s->ws, rows, w->x, w->context, w->a, w->b, w->out, NULL, s->gradient));
        THEN(nf_gradient_zero(s->gradient));
        THEN(nf_grad_nll(s->flow, s->ws, rows, w->x, w->context, NULL, s->gradient, &loss));
        THEN(nf_optimizer_step(w->optimizer, s->flow, s->gradient));
    }
#undef THEN
    return status;
}

START_TEST(calls_allocate_nothing) {
    work w;
    open_work(&w, _i / 2, _i % 2 ? NF_SINGLE : NF_DOUBLE);
    must(call_all(&w)); /* the checkpoints of a continuous layer have their room now */
    must(call_all(&w));
    const size_t before = allocations;
    const nf_status status = call_all(&w);
    ck_assert_uint_eq(allocations, before);
    must(status);
    close_work(&w);
}
END_TEST

/* In a child of its own, which ends with the status of the calls, or by a signal. */
static int confined(work *w, bool misbehave) {
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
            syscall(SYS_exit, 77);
        if (misbehave)
            syscall(SYS_getppid);
        syscall(SYS_exit, call_all(w) == NF_OK ? 0 : 1);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return status;
}

START_TEST(calls_make_no_system_call) {
    work w;
    open_work(&w, _i / 2, _i % 2 ? NF_SINGLE : NF_DOUBLE);
    must(call_all(&w));
    must(call_all(&w));
    const int status = confined(&w, false);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("this system has no seccomp: nothing was tested\n");
    } else {
        ck_assert_msg(WIFEXITED(status), "%s: a system call (the child ended by signal %d)", w.s.f->name, WTERMSIG(status));
        ck_assert_msg(WEXITSTATUS(status) == 0, "%s: a call failed in the child", w.s.f->name);
        ck_assert_msg(WIFSIGNALED(confined(&w, true)), "the child's cage does not hold");
    }
    close_work(&w);
}
END_TEST

/* ---- threads ---- */

enum { THREADS = 16 };

/* How often each thread of this process has gone to sleep, by its place in the folder; -1 while it is awake. The number of threads. */
static size_t count_sleeps(long sleeps[THREADS]) {
    DIR *folder = opendir("/proc/self/task");
    ck_assert_ptr_nonnull(folder);
    size_t count = 0;
    for (const struct dirent *entry = readdir(folder); entry && count < THREADS; entry = readdir(folder)) {
        char path[300], line[200];
        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!file)
            continue;
        char state = 0;
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "State: %c", &state) != 1)
                sscanf(line, "voluntary_ctxt_switches: %ld", &sleeps[count]);
        if (state != 'S')
            sleeps[count] = -1;
        fclose(file);
        count++;
    }
    closedir(folder);
    return count;
}

static bool all_sleep(const long *sleeps) {
    for (size_t i = 1; i < THREADS; i++)
        if (sleeps[i] <= 0)
            return false;
    return true;
}

static size_t count_changes(const long *a, const long *b) {
    size_t changes = 0;
    for (size_t i = 1; i < THREADS; i++) /* the first is the caller */
        changes += a[i] != b[i];
    return changes;
}

START_TEST(threads_without_work_sleep) {
    work w;
    nf_workspace *ws;
    double loss;
    long before[THREADS] = {0}, after[THREADS] = {0};
    open_work(&w, 0, NF_DOUBLE);
    must(nf_workspace_create(w.s.flow, THREADS, &ws));
    for (int tries = 0; tries < 500; tries++) { /* until all of them have gone to sleep */
        ck_assert_uint_eq(count_sleeps(before), THREADS);
        usleep(20000);
        ck_assert_uint_eq(count_sleeps(after), THREADS);
        if (all_sleep(before) && count_changes(before, after) == 0)
            break;
    }
    ck_assert(all_sleep(before));
    ck_assert_uint_eq(count_changes(before, after), 0);
    for (int i = 0; i < 30; i++)
        must(nf_grad_nll(w.s.flow, ws, ROWS, w.x, w.context, NULL, w.s.gradient, &loss)); /* two tiles */
    count_sleeps(after);
    ck_assert_uint_le(count_changes(before, after), 1);
    nf_workspace_free(ws);
    close_work(&w);
}
END_TEST

/* There is room for the workspace, and not for the stacks of its threads. */
START_TEST(threads_may_fail_to_start) {
    enum { MANY = 600 };
    struct rlimit own, small;
    nf_flow *flow = make_realnvp(1, 0, NF_SINGLE, NULL);
    nf_workspace *ws;
    must(nf_workspace_create(flow, 1, &ws));
    nf_workspace_free(ws);
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &own), 0);
    small = own;
    small.rlim_cur = (rlim_t)1 << 30; /* a stack is 8 MiB as a rule */
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &small), 0);
    errno = 117;
    const nf_status status = nf_workspace_create(flow, MANY, &ws);
    const int error = errno;
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &own), 0);
    if (status == NF_OK)
        printf("stacks are small here: nothing was tested\n");
    else
        must_say("nf_workspace_create", "of 600");
    ck_assert(status == NF_OK || (status == NF_ERR_MEMORY && !ws));
    ck_assert_int_eq(error, 117);
    nf_workspace_free(ws);
    nf_flow_free(flow);
}
END_TEST

/* ---- a malloc that fails ---- */

static const size_t turned[] = {1, 0};

static nf_status create_affine(nf_flow **made, void **bytes) {
    (void)bytes;
    return nf_affine_create(2, NF_DOUBLE, made);
}

static nf_status create_permutation(nf_flow **made, void **bytes) {
    (void)bytes;
    return nf_permutation_create(2, turned, NF_SINGLE, made);
}

static nf_status create_flow(nf_flow **made, void **bytes) {
    (void)bytes;
    return nf_flow_create(2, 1, NF_DOUBLE, made);
}

static nf_status create_realnvp(nf_flow **made, void **bytes) {
    (void)bytes;
    return nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = 3, .couplings = 2, .mask = NF_MASK_RANDOM), made);
}

/* The copy that nf_free frees comes from malloc whatever the flow's allocator is. */
static nf_status save(nf_flow **made, void **bytes) {
    const size_t at = fails_at;
    memory_counter counter;
    const nf_allocator allocator = counted_memory(&counter);
    size_t size;
    (void)made;
    fails_at = 0;
    nf_flow *flow = make_realnvp(2, 0, NF_DOUBLE, &allocator);
    allocations = 0;
    fails_at = at;
    const nf_status status = nf_flow_save_memory(flow, bytes, &size);
    fails_at = 0;
    nf_flow_free(flow);
    return status;
}

/* What a call takes of a flow that was made before. */
static nf_status with_flow(nf_status (*act)(const nf_flow *flow)) {
    const size_t at = fails_at;
    fails_at = 0;
    nf_flow *flow = make_realnvp(2, 0, NF_DOUBLE, NULL);
    allocations = 0;
    fails_at = at;
    const nf_status status = act(flow);
    fails_at = 0;
    nf_flow_free(flow);
    return status;
}

static nf_status take_workspace(const nf_flow *flow) {
    nf_workspace *ws;
    const nf_status status = nf_workspace_create(flow, 1, &ws);
    nf_workspace_free(ws);
    return status;
}

static nf_status take_gradient(const nf_flow *flow) {
    nf_gradient *gradient;
    const nf_status status = nf_gradient_create(flow, &gradient);
    nf_gradient_free(gradient);
    return status;
}

static nf_status take_density(const nf_flow *flow) {
    const double x[2] = {0.3, -0.5};
    double log_prob;
    return nf_log_prob(flow, NULL, 1, x, NULL, &log_prob);
}

static nf_status create_workspace(nf_flow **made, void **bytes) {
    (void)made;
    (void)bytes;
    return with_flow(take_workspace);
}

static nf_status create_gradient(nf_flow **made, void **bytes) {
    (void)made;
    (void)bytes;
    return with_flow(take_gradient);
}

static nf_status evaluate(nf_flow **made, void **bytes) {
    (void)made;
    (void)bytes;
    return with_flow(take_density);
}

static const struct {
    const char *function;
    nf_status (*act)(nf_flow **made, void **bytes);
    bool lends; /* an allocator of its own, which may change errno */
} takers[] = {{"nf_affine_create", create_affine, false},       {"nf_permutation_create", create_permutation, false}, {"nf_flow_create", create_flow, false},
              {"nf_realnvp_create", create_realnvp, false},     {"nf_flow_save_memory", save, true},                  {"nf_workspace_create", create_workspace, false},
              {"nf_gradient_create", create_gradient, false},   {"nf_log_prob", evaluate, false}};

START_TEST(malloc_may_fail) {
    nf_status status = NF_ERR_MEMORY;
    size_t n = 0, failures = 0;
    while (status != NF_OK) {
        nf_flow *made = NULL;
        void *bytes = NULL;
        ck_assert_uint_lt(n, 1000);
        allocations = 0;
        fails_at = ++n;
        errno = 117;
        status = takers[_i].act(&made, &bytes);
        fails_at = 0;
        ck_assert_msg(errno == 117 || takers[_i].lends, "%s: errno is %d when allocation %zu failed", takers[_i].function, errno, n);
        ck_assert_msg(status == NF_OK || status == NF_ERR_MEMORY, "%s: %s when allocation %zu failed", takers[_i].function, nf_status_name(status), n);
        if (status != NF_OK) {
            must_say(takers[_i].function, "no ");
            ck_assert(!made && !bytes);
            failures++;
        }
        nf_flow_free(made);
        nf_free(bytes);
    }
    ck_assert_uint_gt(failures, 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nothing asked of the system");
    TCase *t = tcase_create("calls");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, calls_allocate_nothing, 0, 4 * (int)fixture_count);
    tcase_add_loop_test(t, calls_make_no_system_call, 0, 4 * (int)fixture_count);
    tcase_add_test(t, threads_without_work_sleep);
    tcase_add_test(t, threads_may_fail_to_start);
    tcase_add_loop_test(t, malloc_may_fail, 0, sizeof takers / sizeof takers[0]);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}

#else
int main(void) {
    printf("100%%: Checks: 0, Failures: 0, Errors: 0: needs glibc's malloc and Linux\n");
    return 0;
}
#endif
