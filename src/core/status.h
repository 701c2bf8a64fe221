/* Status and the thread's last error. Everything stands on this. */
#ifndef NF_CORE_STATUS_H
#define NF_CORE_STATUS_H

#include <stdbool.h>
#include <stddef.h>

#include "nflow.h"

/*
 * Record one line about a failure in this thread and return `status`. The line is "<function>: <text>" when `function` is not
 * NULL. It never allocates and never changes errno. Longer lines are cut at NF_ERROR_LENGTH - 1 bytes, at a character's edge;
 * control characters, and bytes that are no UTF-8, become question marks.
 */
#define NF_ERROR_LENGTH 512
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
nf_status nf_fail(nf_status status, const char *function, const char *format, ...);

/* Put "<function>: " before a message that a lower part has left without one; used by the api where a lower part failed. */
nf_status nf_fail_in(nf_status status, const char *function);

/*
 * What a callback of the caller's returned goes on as it is; when it left no line since nf_clear_error, the line says whose it is: "<function>: <who> returned
 * NF_ERR_IO (-6)", with the number because it need not be one of the library's. NF_OK does nothing.
 */
nf_status nf_fail_of(nf_status status, const char *function, const char *who);

/* Forget this thread's message: called on entry by every public function that can fail. */
void nf_clear_error(void);

#endif
