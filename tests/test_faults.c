/*
 * Failing files. Every file operation of every call that touches a file fails in turn: the error names what failed, the old file is intact (after the
 * rename: the new one is whole, and the line says that it is perhaps not durable), nothing else is left in the folder, no descriptor leaks, and
 * the flow is as before. Interrupted and short reads and writes are no failures. A process that is killed at any moment of a save leaves the old
 * file or the new one.
 *
 * The operations are intercepted by defining them here: the library's calls go to these, which fail or call the C library's own.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

enum { DIM = 2, ROWS = 60 };

/* ---- operations that fail ---- */

typedef enum operation { OPEN, READ, WRITE, STAT, FSYNC, CLOSE, RENAME, FCHMOD, UNLINK } operation;

typedef enum fault {
    NO_FAULT,
    FAIL,        /* with `code`, once */
    INTERRUPT,   /* EINTR, once */
    SHORT,       /* one byte less than asked for, at every read and write */
    KILL_BEFORE, /* the process, at the operation */
    KILL_AFTER,
} fault;

static struct {
    bool armed; /* while the library runs */
    fault fault;
    int code;
    size_t at, calls; /* the operation number `at`, from 1 */
    operation met;    /* what stood there */
    int folder;       /* descriptor that was opened as a folder last */
    bool met_folder;  /* ... and was the one that failed */
    bool renamed;     /* before the fault */
} plan;

/* Whether this operation is the one; for kills after, the caller kills. */
static bool is_due(operation what, int fd) {
    if (!plan.armed || ++plan.calls != plan.at || plan.fault == NO_FAULT || plan.fault == SHORT)
        return false;
    plan.met = what;
    plan.met_folder = fd >= 0 && fd == plan.folder;
    if (plan.fault == KILL_BEFORE)
        kill(getpid(), SIGKILL);
    if (plan.fault == FAIL)
        errno = plan.code;
    if (plan.fault == INTERRUPT)
        errno = EINTR;
    return plan.fault == KILL_AFTER || plan.fault == FAIL || (plan.fault == INTERRUPT && (what == READ || what == WRITE));
}

#define REAL(name) ((__typeof__(&name))(uintptr_t)real_of(#name))

static uintptr_t real_of(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return (uintptr_t)found;
}

/* The result of the real operation, after which the process may die. */
#define ACT(what, fd, real)                 \
    do {                                    \
        const bool due_ = is_due(what, fd); \
        if (due_ && plan.fault != KILL_AFTER) \
            return -1;                      \
        const __typeof__(real) result_ = (real); \
        if (due_)                           \
            kill(getpid(), SIGKILL);        \
        return result_;                     \
    } while (0)

static int note_folder(int fd, int flags) {
    if (plan.armed && (flags & O_DIRECTORY))
        plan.folder = fd;
    return fd;
}

static mode_t mode_of(int flags, va_list more) { return flags & O_CREAT ? va_arg(more, mode_t) : 0; }

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const mode_t mode = mode_of(flags, more);
    va_end(more);
    /* A file that the library makes is nobody else's, and no program's that another thread starts. */
    if (plan.armed && (flags & O_CREAT) && (!(flags & O_EXCL) || !(flags & O_CLOEXEC)))
        abort();
    if (plan.armed && (flags & O_DIRECTORY) && plan.calls + 1 == plan.at)
        plan.met_folder = true;
    const bool folder = plan.met_folder;
    const bool due = is_due(OPEN, -1);
    plan.met_folder = folder || plan.met_folder;
    if (due && plan.fault != KILL_AFTER)
        return -1;
    const int fd = note_folder(REAL(open)(path, flags, mode), flags);
    if (due)
        kill(getpid(), SIGKILL);
    return fd;
}

ssize_t read(int fd, void *to, size_t size) { ACT(READ, fd, REAL(read)(fd, to, plan.armed && plan.fault == SHORT && size > 1 ? (size + 1) / 2 : size)); }

ssize_t write(int fd, const void *from, size_t size) {
    ACT(WRITE, fd, REAL(write)(fd, from, plan.armed && plan.fault == SHORT && size > 1 ? size - 1 : size));
}

int fsync(int fd) { ACT(FSYNC, fd, REAL(fsync)(fd)); }

int close(int fd) {
    /* A descriptor is gone even when its close fails. */
    if (is_due(CLOSE, fd)) {
        const int code = errno;
        REAL(close)(fd);
        errno = code;
        if (plan.fault == KILL_AFTER)
            kill(getpid(), SIGKILL);
        return -1;
    }
    if (fd == plan.folder)
        plan.folder = -1; /* the number is for other files now */
    return REAL(close)(fd);
}

int stat(const char *restrict at, struct stat *restrict info) { ACT(STAT, -1, REAL(stat)(at, info)); }

int fchmod(int fd, mode_t mode) { ACT(FCHMOD, fd, REAL(fchmod)(fd, mode)); }

int rename(const char *from, const char *to) {
    if (is_due(RENAME, -1)) {
        if (plan.fault != KILL_AFTER)
            return -1;
        REAL(rename)(from, to);
        kill(getpid(), SIGKILL);
    }
    const int result = REAL(rename)(from, to);
    plan.renamed = plan.renamed || (plan.armed && result == 0);
    return result;
}

int unlink(const char *path) { ACT(UNLINK, -1, REAL(unlink)(path)); }

static void arm(fault what, size_t at, int code) {
    memset(&plan, 0, sizeof plan);
    plan.fault = what;
    plan.at = at;
    plan.code = code;
    plan.folder = -1;
    plan.armed = true;
}

static void disarm(void) { plan.armed = false; }

/* ---- a scene ---- */

static char folder[256], path[300];

static void make_folder(void) {
    snprintf(folder, sizeof folder, "%s/nflow-faults-XXXXXX", scratch_folder());
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m", folder);
}

/* How many files there are; all are removed when `drop`. */
static size_t count_files(bool drop) {
    DIR *open = opendir(folder);
    ck_assert_ptr_nonnull(open);
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(open));) {
        if (entry->d_name[0] == '.')
            continue;
        char name[600];
        snprintf(name, sizeof name, "%s/%s", folder, entry->d_name);
        count++;
        if (drop)
            unlink(name);
    }
    closedir(open);
    return count;
}

/* Where the old file is its owner's alone, so is all that has been written of the new one. */
static void check_private(size_t at) {
    DIR *open = opendir(folder);
    ck_assert_ptr_nonnull(open);
    for (struct dirent *entry; (entry = readdir(open));) {
        char name[600];
        struct stat info;
        snprintf(name, sizeof name, "%s/%s", folder, entry->d_name);
        ck_assert_int_eq(stat(name, &info), 0);
        ck_assert_msg(!S_ISREG(info.st_mode) || info.st_size == 0 || (info.st_mode & 077) == 0, "killed at %zu, others may read what was written", at);
    }
    closedir(open);
}

static void drop_folder(void) {
    count_files(true);
    ck_assert_int_eq(rmdir(folder), 0);
}

static size_t open_descriptors(void) {
    size_t count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

typedef struct bytes {
    void *at;
    size_t size;
} bytes;

static bytes file_bytes(void) {
    bytes b = {NULL, 0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return b;
    b.at = new_bytes(1 << 16);
    b.size = fread(b.at, 1, 1 << 16, file);
    fclose(file);
    return b;
}

static bool same_bytes(const bytes *a, const bytes *b) { return (!a->at) == (!b->at) && a->size == b->size && (!a->at || memcmp(a->at, b->at, a->size) == 0); }

typedef struct scene {
    nf_flow *flow, *loaded;
    double *x;
} scene;

static nf_flow *flow_of(uint64_t seed) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_layers = 1, .hidden_width = 4, .seed = seed), &flow));
    return flow;
}

static nf_fit_config config_of(void) {
    return (nf_fit_config){.struct_size = sizeof(nf_fit_config), .epochs = 3, .batch_size = 32, .seed = 4, .checkpoint = path, .checkpoint_every = 2};
}

static nf_status save(scene *s) { return nf_flow_save(s->flow, path); }
static nf_status load(scene *s) { return nf_flow_load(path, &s->loaded); }

static nf_status fit(scene *s) {
    const nf_fit_config config = config_of();
    return nf_fit(s->flow, ROWS, s->x, NULL, &config, NULL);
}

static int stop(void *user, const nf_fit_progress *progress) {
    (void)user;
    return progress->epoch == 1;
}

/* What is at the path before the call. */
static void nothing_there(scene *s) { (void)s; }

static void old_model(scene *s) {
    (void)s;
    nf_flow *old = flow_of(99);
    must(nf_flow_save(old, path));
    ck_assert_int_eq(chmod(path, 0600), 0);
    nf_flow_free(old);
}

static void old_checkpoint(scene *s) {
    nf_fit_config config = config_of();
    nf_flow *flow = flow_of(7);
    config.progress = stop;
    must_be(NF_STOPPED, nf_fit(flow, ROWS, s->x, NULL, &config, NULL));
    nf_flow_free(flow);
}

static const struct subject_call {
    const char *function;
    nf_status (*act)(scene *);
    void (*prepare)(scene *);
    bool writes_once; /* the new file is what the call without faults leaves */
    size_t fewest;    /* operations */
} calls[] = {
    {"nf_flow_save", save, nothing_there, true, 9},
    {"nf_flow_save", save, old_model, true, 10},
    {"nf_flow_load", load, old_model, false, 4},
    {"nf_fit", fit, nothing_there, false, 24},
    {"nf_fit", fit, old_checkpoint, false, 20},
};
enum { CALLS = sizeof calls / sizeof calls[0] };

static void begin(scene *s, const struct subject_call *c) {
    random_source random = random_begin(2);
    count_files(true);
    s->loaded = NULL;
    s->x = new_normals(&random, ROWS * DIM, 1.385);
    s->flow = flow_of(7);
    c->prepare(s);
}

static void end(scene *s) {
    nf_flow_free(s->flow);
    nf_flow_free(s->loaded);
    free(s->x);
}

/* Failures that change nothing: a file that was read is closed, a folder was synced, a temporary file is gone anyhow. */
static bool may_be_ignored(const struct subject_call *c) {
    return (plan.met == CLOSE && (c->act == load || plan.met_folder || c->act == fit)) || plan.met == UNLINK;
}

static const struct {
    operation what;
    const char *says;
} words[] = {{OPEN, "cannot "},  {READ, "cannot read"},     {WRITE, "cannot write"}, {STAT, "cannot look up"}, {FSYNC, "cannot sync"},
             {CLOSE, "cannot close"}, {RENAME, "cannot rename"}, {FCHMOD, "cannot set the mode"}, {UNLINK, "cannot"}};

static void check_failure(const scene *s, const struct subject_call *c, nf_status status, const bytes *before, const bytes *whole, int code, const double *theta) {
    char said[64];
    snprintf(said, sizeof said, "%s", strerror(code));
    ck_assert_msg(status == NF_ERR_IO, "%s: operation %zu (kind %d) failed, and it says %s: %s", c->function, plan.at, (int)plan.met, nf_status_name(status), nf_last_error());
    must_say(c->function, words[plan.met].says);
    must_say(c->function, said);
    must_say(c->function, folder);
    ck_assert_msg((strstr(nf_last_error(), "in place but perhaps not durable") != NULL) == (plan.met_folder && plan.met != CLOSE), "%s", nf_last_error());
    ck_assert_ptr_null(s->loaded);
    double *after = new_numbers(nf_parameter_count(s->flow));
    must(nf_get_parameters(s->flow, after));
    same_bits("parameters", theta, after, nf_parameter_count(s->flow));
    free(after);
    bytes now = file_bytes();
    if (c->writes_once && plan.met_folder)
        ck_assert_msg(same_bytes(&now, whole), "%s: the new file is not whole after operation %zu", c->function, plan.at);
    else if (c->writes_once || !plan.renamed)
        ck_assert_msg(same_bytes(&now, before), "%s: the old file changed when operation %zu failed", c->function, plan.at);
    ck_assert_msg(count_files(false) <= 1, "%s left a file when operation %zu failed", c->function, plan.at);
    free(now.at);
}

/* One fault; false when the call has fewer operations. Afterwards the call works. */
static bool fail_at(const struct subject_call *c, size_t at, int code, const bytes *whole) {
    scene s;
    begin(&s, c);
    bytes before = file_bytes();
    double *theta = new_numbers(nf_parameter_count(s.flow));
    must(nf_get_parameters(s.flow, theta));
    const size_t descriptors = open_descriptors();
    errno = 117;
    arm(FAIL, at, code);
    const nf_status status = c->act(&s);
    disarm();
    ck_assert_msg(errno == 117, "%s changed errno", c->function);
    const bool met = plan.calls >= at;
    ck_assert_msg(open_descriptors() == descriptors, "%s leaks a descriptor when operation %zu fails", c->function, at);
    if (met && !(status == NF_OK && may_be_ignored(c)))
        check_failure(&s, c, status, &before, whole, code, theta);
    if (status != NF_OK)
        must(c->act(&s));
    bytes now = file_bytes();
    ck_assert_msg(same_bytes(&now, whole), "%s leaves another file after operation %zu failed", c->function, at);
    free(now.at);
    free(before.at);
    free(theta);
    end(&s);
    return met;
}

/* What the call leaves when nothing fails. */
static bytes undisturbed(const struct subject_call *c) {
    scene s;
    begin(&s, c);
    must(c->act(&s));
    end(&s);
    return file_bytes();
}

START_TEST(each_operation_may_fail) {
    static const int codes[] = {EIO, ENOSPC, EACCES, EDQUOT};
    const struct subject_call *c = &calls[_i];
    make_folder();
    bytes whole = undisturbed(c);
    for (size_t k = 0; k < sizeof codes / sizeof codes[0]; k++) {
        size_t at = 1;
        while (fail_at(c, at, codes[k], &whole))
            ck_assert_msg(at++ < 200, "%s never succeeds", c->function);
        ck_assert_msg(at > c->fewest, "%s has %zu operations, at least %zu were expected", c->function, at - 1, c->fewest);
    }
    free(whole.at);
    drop_folder();
}
END_TEST

START_TEST(interruptions_and_short_operations_are_no_failures) {
    const struct subject_call *c = &calls[_i];
    make_folder();
    bytes whole = undisturbed(c);
    for (size_t at = 0;; at++) {
        scene s;
        begin(&s, c);
        arm(at ? INTERRUPT : SHORT, at, 0);
        must(c->act(&s));
        disarm();
        const bool done = at && plan.calls < at;
        bytes now = file_bytes();
        ck_assert(same_bytes(&now, &whole));
        free(now.at);
        end(&s);
        if (done)
            break;
    }
    free(whole.at);
    drop_folder();
}
END_TEST

/* A file of a killed process that has the name is left alone: the next name is taken. */
START_TEST(a_name_that_is_taken_is_no_failure) {
    scene s;
    make_folder();
    begin(&s, &calls[0]);
    arm(FAIL, 1, EEXIST);
    const nf_status status = save(&s);
    disarm();
    ck_assert_int_eq(plan.met, OPEN);
    must(status);
    end(&s);
    drop_folder();
}
END_TEST

/* Folders that cannot be synced, on some file systems, are none. */
START_TEST(a_folder_that_cannot_be_synced_is_no_failure) {
    static const int codes[] = {EINVAL, EROFS, ENOTSUP};
    scene s;
    make_folder();
    for (size_t k = 0; k < 3; k++) {
        begin(&s, &calls[0]);
        size_t at = 0;
        nf_status status = NF_ERR_IO;
        do {
            arm(FAIL, ++at, codes[k]);
            status = save(&s);
            disarm();
            ck_assert_uint_lt(at, 50);
        } while (!(plan.met == FSYNC && plan.met_folder));
        must(status);
        end(&s);
    }
    drop_folder();
}
END_TEST

/* ---- kill -9 ---- */

static void wait_for(pid_t child, bool killed) {
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : WIFEXITED(status));
}

static void check_one_of(const bytes *old, const bytes *new, size_t at) {
    bytes now = file_bytes();
    ck_assert_msg(same_bytes(&now, old) || same_bytes(&now, new), "killed at %zu, there is neither the old file nor the new one", at);
    free(now.at);
}

/* Before and after each operation of each call. */
START_TEST(killed_at_each_operation) {
    const struct subject_call *c = &calls[_i / 2];
    const fault when = _i % 2 ? KILL_AFTER : KILL_BEFORE;
    make_folder();
    bytes whole = undisturbed(c);
    for (size_t at = 1;; at++) {
        scene s;
        begin(&s, c);
        bytes before = file_bytes();
        const pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            arm(when, at, 0);
            c->act(&s);
            _exit(0);
        }
        int status;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        if (c->act != fit) /* which has files in between */
            check_one_of(&before, &whole, at);
        if (c->prepare == old_model)
            check_private(at);
        must(c->act(&s));
        bytes now = file_bytes();
        ck_assert(same_bytes(&now, &whole));
        free(now.at);
        free(before.at);
        end(&s);
        if (WIFEXITED(status))
            break;
    }
    free(whole.at);
    drop_folder();
}
END_TEST

/* A child saves two flows in turn and is killed at a random moment, a thousand times. */
START_TEST(killed_at_random_moments) {
    const size_t kills = is_brief() ? 100 : 1000;
    random_source random = random_begin(5);
    make_folder();
    scene s;
    begin(&s, &calls[0]);
    nf_flow *other = flow_of(99);
    must(nf_flow_save(other, path));
    bytes a = file_bytes();
    must(nf_flow_save(s.flow, path));
    bytes b = file_bytes();
    ck_assert(!same_bytes(&a, &b));
    for (size_t i = 0; i < kills; i++) {
        const pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0)
            for (;;) {
                nf_flow_save(other, path);
                nf_flow_save(s.flow, path);
            }
        usleep((useconds_t)(random_bits(&random) % 2000));
        kill(child, SIGKILL);
        wait_for(child, true);
        check_one_of(&a, &b, i);
        must(nf_flow_load(path, &s.loaded));
        nf_flow_free(s.loaded);
        s.loaded = NULL;
        if (count_files(false) > 50) { /* what killed saves leave */
            count_files(true);
            must(nf_flow_save(s.flow, path));
        }
    }
    nf_flow_free(other);
    free(a.at);
    free(b.at);
    end(&s);
    drop_folder();
}
END_TEST

int main(void) {
    Suite *suite = suite_create("failing files");
    TCase *failing = tcase_create("failing"), *killed = tcase_create("killed");
    tcase_set_timeout(failing, 120);
    tcase_set_timeout(killed, 300);
    tcase_add_loop_test(failing, each_operation_may_fail, 0, CALLS);
    tcase_add_loop_test(failing, interruptions_and_short_operations_are_no_failures, 0, CALLS);
    tcase_add_test(failing, a_name_that_is_taken_is_no_failure);
    tcase_add_test(failing, a_folder_that_cannot_be_synced_is_no_failure);
    tcase_add_loop_test(killed, killed_at_each_operation, 0, 2 * CALLS);
    tcase_add_test(killed, killed_at_random_moments);
    suite_add_tcase(suite, failing);
    suite_add_tcase(suite, killed);
    return run_suite(suite);
}
