#include "core/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/plain.h"

static _Thread_local char line[NF_ERROR_LENGTH];

/* A line that was cut within a character ends before it. */
static void end_at_character(size_t length) {
    size_t start = length;
    while (start > 0 && ((unsigned char)line[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0)
        return;
    const unsigned char lead = (unsigned char)line[start - 1];
    const size_t wanted = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (length - (start - 1) < wanted)
        line[start - 1] = '\0';
}

/* Bytes of the character that begins here; 0 for a byte that begins none, and for control characters. */
static size_t character_length(const unsigned char *at) {
    if (at[0] < 0x80)
        return at[0] >= ' ' && at[0] != 0x7F;
    const size_t length = at[0] > 0xF4 ? 0 : at[0] >= 0xF0 ? 4 : at[0] >= 0xE0 ? 3 : at[0] >= 0xC2 ? 2 : 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return at[0] == 0xC2 && at[1] < 0xA0 ? 0 : length;
}

/* Names come from files and callers: whatever they hold, the line stays one, and is nothing but text. */
static void make_plain(void) {
    for (unsigned char *at = (unsigned char *)line; *at;) {
        const size_t length = character_length(at);
        if (length == 0)
            *at = '?';
        at += length ? length : 1;
    }
}

nf_status nf_fail(nf_status status, const char *function, const char *format, ...) {
    const int saved = errno;
    const nf_host host = nf_leave_host();
    va_list arguments;
    int used = function ? snprintf(line, sizeof line, "%s: ", function) : 0;
    if (used < 0 || (size_t)used >= sizeof line)
        used = 0;
    va_start(arguments, format);
    const int more = vsnprintf(line + used, sizeof line - (size_t)used, format, arguments);
    va_end(arguments);
    nf_return_to(&host);
    if (more < 0)
        line[used] = '\0';
    else if ((size_t)used + (size_t)more >= sizeof line)
        end_at_character(sizeof line - 1);
    make_plain();
    errno = saved;
    return status;
}

nf_status nf_fail_in(nf_status status, const char *function) {
    if (!function)
        return status;
    char said[NF_ERROR_LENGTH];
    memcpy(said, line, sizeof said);
    return nf_fail(status, function, "%s", said);
}

nf_status nf_fail_of(nf_status status, const char *function, const char *who) {
    return status == NF_OK || line[0] != '\0' ? status : nf_fail(status, function, "%s returned %s (%d)", who, nf_status_name(status), (int)status);
}

void nf_clear_error(void) { line[0] = '\0'; }

const char *nf_last_error(void) { return line; }

const char *nf_status_name(nf_status status) {
    switch (status) {
    case NF_OK:
        return "NF_OK";
    case NF_STOPPED:
        return "NF_STOPPED";
    case NF_ERR_ARGUMENT:
        return "NF_ERR_ARGUMENT";
    case NF_ERR_MEMORY:
        return "NF_ERR_MEMORY";
    case NF_ERR_ROWS:
        return "NF_ERR_ROWS";
    case NF_ERR_MISMATCH:
        return "NF_ERR_MISMATCH";
    case NF_ERR_UNSUPPORTED:
        return "NF_ERR_UNSUPPORTED";
    case NF_ERR_IO:
        return "NF_ERR_IO";
    case NF_ERR_FORMAT:
        return "NF_ERR_FORMAT";
    case NF_ERR_DIVERGED:
        return "NF_ERR_DIVERGED";
    }
    return "unknown status";
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *nf_version(void) {
    return TEXT(NFLOW_VERSION_MAJOR) "." TEXT(NFLOW_VERSION_MINOR) "." TEXT(NFLOW_VERSION_PATCH);
}
