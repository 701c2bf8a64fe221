/*
 * The safetensors format: bytes <-> named tensors. It knows nothing of flows.
 *
 * A file is 8 bytes of header length (little-endian), the header as JSON, padded with spaces, then the data. Reading is strict: whatever the format does
 * not allow is refused, with a line that names the tensor or key. Time is n log n in the number of tensors, linear in the bytes.
 */
#ifndef NF_IO_SAFETENSORS_H
#define NF_IO_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nflow.h"

#define NF_ST_MOST_RANK 8
#define NF_ST_HEADER_LIMIT ((uint64_t)100000000)

typedef struct nf_st_tensor {
    const char *name;
    char dtype[8];
    size_t rank;
    uint64_t shape[NF_ST_MOST_RANK];
    const unsigned char *data; /* little-endian, not aligned */
    size_t size;               /* bytes */
} nf_st_tensor;

typedef struct nf_st_file nf_st_file;

/* Whether a file may begin so; if not, no bytes after these make it one. */
bool nf_st_may_begin(const unsigned char *bytes, size_t size);

/* The file refers to the caller's bytes, which must outlive it. NF_ERR_FORMAT, NF_ERR_MEMORY. */
nf_status nf_st_parse(const nf_allocator *allocator, const void *bytes, size_t size, nf_st_file **file);
void nf_st_free(nf_st_file *file); /* NULL is allowed */

size_t nf_st_count(const nf_st_file *file);
const nf_st_tensor *nf_st_at(const nf_st_file *file, size_t index);              /* in the order of their data */
const nf_st_tensor *nf_st_find(const nf_st_file *file, const char *name);        /* NULL: there is none */
const char *nf_st_metadata(const nf_st_file *file, const char *key);             /* NULL: there is none */

/*
 * The bytes of a file with these tensors, in this order, and these metadata, to be released with `allocator`. The bytes depend on the arguments
 * alone.
 */
nf_status nf_st_write(const nf_allocator *allocator, const nf_st_tensor *tensors, size_t count, const char *const (*metadata)[2],
                      size_t metadata_count, unsigned char **bytes, size_t *size);

/* Numbers from and to little-endian bytes, on any host. */
void nf_le_load_u64(uint64_t *to, const unsigned char *from, size_t count);
void nf_le_load_f64(double *to, const unsigned char *from, size_t count);
void nf_le_store_u64(unsigned char *to, const uint64_t *from, size_t count);
void nf_le_store_f64(unsigned char *to, const double *from, size_t count);

/* The same for numbers of a precision, and the dtype that a file gives them. */
const char *nf_st_dtype(nf_precision precision);
void nf_le_load(void *to, const unsigned char *from, size_t count, nf_precision precision);
void nf_le_store(unsigned char *to, const void *from, size_t count, nf_precision precision);

#endif
