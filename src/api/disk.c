/* Bytes from and to files. */
#include "api/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/handles.h"
#include "io/safetensors.h"

static nf_status io_failure(const char *what, const char *path) {
    char reason[128] = "";
    const int code = errno;
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    const char *said = strerror_r(code, reason, sizeof reason);
#else
    const char *said = strerror_r(code, reason, sizeof reason) == 0 ? reason : "unknown error";
#endif
    return nf_fail(NF_ERR_IO, NULL, "%s %.200s: %s", what, path, said);
}

/* What is read of a file whose size need not be known (a pipe). Only the last piece has room left. */
typedef struct piece {
    struct piece *before;
    unsigned char *bytes;
    size_t room, used;
} piece;

#define PIECE_BYTES ((size_t)1 << 20)

static void drop_pieces(piece *last, const nf_allocator *allocator) {
    while (last) {
        piece *before = last->before;
        nf_release(allocator, last->bytes);
        nf_release(allocator, last);
        last = before;
    }
}

/* One more piece; NULL, and none at all any more, when there is no memory. */
static piece *add_piece(piece *before, size_t room, const nf_allocator *allocator) {
    piece *last = nf_allocate(allocator, sizeof *last);
    if (last)
        *last = (piece){before, nf_allocate(allocator, room), room, 0};
    if (last && last->bytes)
        return last;
    drop_pieces(last ? last : before, allocator);
    return NULL;
}

/* All pieces as one block, and none of them any more: the first one's own where it is the only one. */
static unsigned char *join_pieces(piece *last, size_t size, const nf_allocator *allocator) {
    unsigned char *bytes = last->bytes;
    if (!last->before) {
        nf_release(allocator, last);
        return bytes;
    }
    bytes = nf_allocate(allocator, size);
    for (const piece *p = last; bytes && p; p = p->before) {
        size -= p->used;
        memcpy(bytes + size, p->bytes, p->used);
    }
    drop_pieces(last, allocator);
    return bytes;
}

/* Whether a file begins as a model file does: only then is memory for all of it asked for. */
static bool looks_like_a_model(int fd) {
    unsigned char head[16];
    const ssize_t got = pread(fd, head, sizeof head, 0);
    return got > 0 && nf_st_may_begin(head, (size_t)got);
}

/*
 * All bytes of an open file, or those after which it cannot be a model file any more: a stream without an end (/dev/zero) must not fill the memory, nor
 * must a large table that was taken for a model. In memory are at most these and the pieces that they came in.
 */
static nf_status read_all(int fd, const char *path, const nf_allocator *allocator, unsigned char **out, size_t *out_size) {
    struct stat info;
    const bool known = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 && looks_like_a_model(fd);
    piece *last = add_piece(NULL, known ? (size_t)info.st_size + 1 : PIECE_BYTES, allocator);
    size_t used = 0;
    for (ssize_t got = 1; last && got != 0;) {
        got = read(fd, last->bytes + last->used, last->room - last->used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            nf_status status = io_failure("cannot read", path);
            drop_pieces(last, allocator);
            return status;
        }
        last->used += (size_t)got;
        used += (size_t)got;
        if (last->used < last->room)
            continue;
        if (!last->before && !nf_st_may_begin(last->bytes, last->used))
            break;
        last = add_piece(last, PIECE_BYTES, allocator);
    }
    *out = last ? join_pieces(last, used, allocator) : NULL;
    *out_size = used;
    return *out ? NF_OK : nf_fail(NF_ERR_MEMORY, NULL, "no memory for the bytes of %.200s, of which %zu were read", path, used);
}

static bool is_device_or_pipe(int fd) {
    struct stat info;
    return fstat(fd, &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

nf_status nf_read_file(const char *path, const nf_allocator *allocator, unsigned char **bytes, size_t *size, bool *absent) {
    /* A file that may be absent will be written, which a pipe cannot be: nobody waits for its other end. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | (absent ? O_NONBLOCK : 0));
    nf_status status = NF_OK;
    if (fd >= 0 && absent && is_device_or_pipe(fd))
        status = nf_fail(NF_ERR_IO, NULL, "cannot take up %.200s: it is not a file", path);
    else if (fd >= 0)
        status = read_all(fd, path, allocator, bytes, size);
    else if (absent && errno == ENOENT)
        *absent = true;
    else
        status = io_failure("cannot open", path);
    if (fd >= 0)
        close(fd);
    return status;
}

static nf_status write_all(int fd, const char *path, const unsigned char *bytes, size_t size) {
    for (size_t done = 0; done < size;) {
        const ssize_t wrote = write(fd, bytes + done, size - done);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0) {
            if (wrote == 0)
                errno = EIO;
            return io_failure("cannot write", path);
        }
        done += (size_t)wrote;
    }
    return NF_OK;
}

/* The folder that a path's last component stands in, as a string of its own; NULL when there is no memory. */
static char *folder_of(const char *path, const nf_allocator *allocator) {
    const char *slash = strrchr(path, '/');
    const size_t length = slash ? (size_t)(slash - path) + 1 : 1;
    char *folder = nf_allocate(allocator, length + 1);
    if (folder) {
        memcpy(folder, slash ? path : ".", length);
        folder[length] = '\0';
    }
    return folder;
}

/* After the rename the new file is in place; only the folder's entry may be lost if the machine stops now. */
static nf_status sync_folder(const char *folder, const char *path) {
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd) != 0;
    /* Some file systems cannot sync a folder; there is no more to be done on them. */
    if (failed && fd >= 0 && (errno == EINVAL || errno == EBADF || errno == EROFS || errno == ENOTSUP))
        failed = 0;
    nf_status status = failed ? io_failure("the new file is in place but perhaps not durable: cannot sync the folder of", path) : NF_OK;
    if (fd >= 0)
        close(fd);
    return status;
}

static nf_status write_temporary(int fd, const char *temporary, const char *path, const unsigned char *bytes, size_t size) {
    struct stat old;
    nf_status status = NF_OK;
    /* The mode comes before the bytes, which a killed process may leave here: they are in no file that more may read than could the old one. */
    const bool is_old = stat(path, &old) == 0;
    if (!is_old && errno != ENOENT)
        status = io_failure("cannot look up the mode of", path);
    /* A rename would put the file in the place of a device or a pipe, /dev/null too; it refuses a folder by itself. */
    if (is_old && !S_ISREG(old.st_mode) && !S_ISDIR(old.st_mode))
        status = nf_fail(NF_ERR_IO, NULL, "cannot replace %.200s: it is not a file", path);
    else if (is_old && fchmod(fd, old.st_mode & 07777) != 0)
        status = io_failure("cannot set the mode of", temporary);
    if (status == NF_OK)
        status = write_all(fd, temporary, bytes, size);
    if (status == NF_OK && fsync(fd) != 0)
        status = io_failure("cannot sync", temporary);
    if (close(fd) != 0 && status == NF_OK)
        status = io_failure("cannot close", temporary);
    return status;
}

/* Beside the path, with a name that fits into a folder where the path's own does. */
static void name_temporary(const char *path, size_t folder_length, char *temporary, size_t room) {
    enum { MOST_KEPT = 200 }; /* of the 255 bytes that file systems allow */
    const size_t length = strlen(path), kept = length - folder_length < MOST_KEPT ? length : folder_length + MOST_KEPT;
    snprintf(temporary, room, "%.*s.%ld-%" PRIu64 ".tmp", (int)kept, path, (long)getpid(), nf_unique());
}

static nf_status save_bytes(const char *path, const char *folder, char *temporary, size_t room, const unsigned char *bytes, size_t size) {
    int fd = -1;
    /* A name that nobody else has; a left-over of a killed process makes it take the next. */
    for (int attempt = 0; attempt < 100 && fd < 0; attempt++) {
        name_temporary(path, strchr(path, '/') ? strlen(folder) : 0, temporary, room);
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0)
        return io_failure("cannot create", temporary);
    nf_status status = write_temporary(fd, temporary, path, bytes, size);
    if (status == NF_OK && rename(temporary, path) != 0)
        status = io_failure("cannot rename the new file to", path);
    if (status != NF_OK) {
        unlink(temporary);
        return status;
    }
    return sync_folder(folder, path);
}

nf_status nf_save_atomic(const char *path, const nf_allocator *allocator, const unsigned char *bytes, size_t size) {
    const size_t room = strlen(path) + 64;
    char *folder = folder_of(path, allocator), *temporary = nf_allocate(allocator, room);
    nf_status status = folder && temporary ? save_bytes(path, folder, temporary, room, bytes, size)
                                           : nf_fail(NF_ERR_MEMORY, NULL, "no memory for the name of a file");
    nf_release(allocator, temporary);
    nf_release(allocator, folder);
    return status;
}
