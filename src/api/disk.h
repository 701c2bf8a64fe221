/* Files as bytes: read whole, and replaced whole. Both may change errno, which NF_CALL in their callers restores; messages name no function. */
#ifndef NF_API_DISK_H
#define NF_API_DISK_H

#include <stdbool.h>
#include <stddef.h>

#include "nflow.h"

/* All bytes of a file, to be released with `allocator`. `absent`: whether there is none, which is no error then; NULL: it is one. */
nf_status nf_read_file(const char *path, const nf_allocator *allocator, unsigned char **bytes, size_t *size, bool *absent);
/* Bytes into a file, atomically: the old file or the new one is there whatever happens. */
nf_status nf_save_atomic(const char *path, const nf_allocator *allocator, const unsigned char *bytes, size_t size);

#endif
