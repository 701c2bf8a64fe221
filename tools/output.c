/* Writing beside, and renaming. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "output.h"
#include "tool.h"

/* ---- The end of the program while it writes */

static const int ends[] = {SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
enum { ENDS = sizeof ends / sizeof ends[0] };
static struct sigaction before[ENDS];
static const char *volatile unfinished; /* the temporary file */

static void give_up(int signal_number) {
    if (unfinished)
        unlink(unfinished);
    raise(signal_number); /* once more, when this returns, and then as if nobody had minded it */
}

static void begin(const char *temporary) {
    const struct sigaction action = {.sa_handler = give_up, .sa_flags = (int)SA_RESETHAND};
    unfinished = temporary;
    for (size_t i = 0; i < ENDS; i++)
        if (sigaction(ends[i], NULL, &before[i]) == 0 && before[i].sa_handler == SIG_DFL)
            sigaction(ends[i], &action, NULL);
}

static void finish(void) {
    for (size_t i = 0; i < ENDS; i++)
        sigaction(ends[i], &before[i], NULL);
    unfinished = NULL;
}

/* ---- Opening and closing */

static bool begins_with(const char *text, const char *start) { return strncmp(text, start, strlen(start)) == 0; }

static bool is_standard_output(const struct stat *s) {
    struct stat standard;
    return fstat(STDOUT_FILENO, &standard) == 0 && standard.st_dev == s->st_dev && standard.st_ino == s->st_ino;
}

/* Files that another program has open would not see what takes their place; a link that leads nowhere has no place to write beside. */
static bool is_written_at_once(const char *path, bool exists, const struct stat *s) {
    struct stat link;
    if (begins_with(path, "/dev/fd/") || begins_with(path, "/dev/std") || begins_with(path, "/proc/"))
        return true;
    return exists ? !S_ISREG(s->st_mode) : lstat(path, &link) == 0;
}

/* `in_place`: how a file is opened whose folder takes no new one. */
static bool open_beside(output *o, const char *path, bool exists, const char *in_place) {
    if (!exists && access(path, F_OK) != 0 && errno != ENOENT) /* such as too long a name, which the temporary one is not */
        return false;
    o->place = exists ? realpath(path, NULL) : copy_text(path);
    if (!o->place || (exists && access(path, W_OK) != 0))
        return false;
    const char *slash = strrchr(o->place, '/');
    o->temporary = new_text("%.*s.nflow-XXXXXX", slash ? (int)(slash - o->place + 1) : 0, o->place);
    const int file = mkstemp(o->temporary);
    o->file = file >= 0 ? fdopen(file, "wb") : NULL;
    if (o->file) {
        begin(o->temporary);
        return true;
    }
    const int error = errno;
    if (file >= 0) {
        close(file);
        unlink(o->temporary);
    }
    free(o->temporary);
    o->temporary = NULL;
    errno = error;
    /* A folder may take no new file and have one that can be written. */
    return exists && (error == EACCES || error == EPERM) && (o->file = fopen(path, in_place)) != NULL;
}

bool output_open(output *o, const char *path) {
    struct stat s;
    *o = (output){.name = path};
    const bool standard = !path || strcmp(path, "-") == 0, exists = !standard && stat(path, &s) == 0;
    if (standard || (exists && is_standard_output(&s))) {
        o->file = stdout;
        o->name = standard ? "standard output" : path;
        return true;
    }
    if (is_written_at_once(path, exists, &s)) {
        o->file = fopen(path, "wb");
        return o->file != NULL;
    }
    if (open_beside(o, path, exists, "wb"))
        return true;
    const int error = errno;
    free(o->place);
    errno = error;
    return false;
}

bool output_is_standard(const char *path) {
    struct stat s;
    return strcmp(path, "-") == 0 || (stat(path, &s) == 0 && is_standard_output(&s));
}

/* What a link leads to that leads nowhere: made, and removed. */
static bool can_be_made(const char *path) {
    const int file = open(path, O_WRONLY | O_CREAT, 0600);
    if (file < 0)
        return false;
    close(file);
    char *made = realpath(path, NULL);
    if (made)
        unlink(made);
    free(made);
    return true;
}

bool output_possible(const char *path) {
    struct stat s;
    output o = {.name = path};
    const bool exists = stat(path, &s) == 0;
    if (exists && is_standard_output(&s))
        return true;
    if (is_written_at_once(path, exists, &s))
        return exists ? access(path, W_OK) == 0 : can_be_made(path);
    const bool possible = open_beside(&o, path, exists, "r+b");
    const int error = errno;
    if (possible)
        fclose(o.file);
    if (o.temporary) {
        unlink(o.temporary);
        finish();
    }
    free(o.temporary);
    free(o.place);
    errno = error;
    return possible;
}

bool output_replaces(const char *path, const char *input) {
    struct stat to, from;
    if (!path || strcmp(path, "-") == 0 || stat(path, &to) != 0 || !S_ISREG(to.st_mode))
        return false;
    const int found = strcmp(input, "-") == 0 ? fstat(STDIN_FILENO, &from) : stat(input, &from);
    return found == 0 && to.st_dev == from.st_dev && to.st_ino == from.st_ino;
}

/* With the mode of the old file, or that of a new one, and on the disk before it has its name. */
static bool settle(const output *o) {
    struct stat old;
    const mode_t mask = umask(0);
    umask(mask);
    const mode_t mode = stat(o->place, &old) == 0 ? old.st_mode & 07777 : 0666 & ~mask;
    return fchmod(fileno(o->file), mode) == 0 && fsync(fileno(o->file)) == 0;
}

bool output_close(output *o) {
    bool good = !ferror(o->file) && fflush(o->file) == 0 && (!o->temporary || settle(o));
    int error = errno;
    if (o->file != stdout && fclose(o->file) != 0 && good) {
        good = false;
        error = errno;
    }
    if (good && o->temporary && rename(o->temporary, o->place) != 0) {
        good = false;
        error = errno;
    }
    if (!good && o->temporary)
        unlink(o->temporary);
    if (o->temporary)
        finish();
    free(o->temporary);
    free(o->place);
    errno = error;
    return good;
}
