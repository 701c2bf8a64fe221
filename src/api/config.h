/* Structs of the caller's that begin with their size: configs that are read, and reports that are written. */
#ifndef NF_API_CONFIG_H
#define NF_API_CONFIG_H

#include <stddef.h>

#include "nflow.h"

/*
 * Config structs: the caller's struct, cut or extended with zeros to the library's size. `first_size` is the size of the first
 * version. NF_ERR_ARGUMENT when it is shorter, NF_ERR_UNSUPPORTED when what lies beyond is not zero.
 */
nf_status nf_read_config(const char *function, const void *config, void *out, size_t size, size_t first_size);

/* The size of a struct that ends with a member: of its first version, with the last one of that. */
#define NF_SIZE_THROUGH(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))
/* Whether a struct of the caller's, which begins with struct_size, has room for the first version. */
nf_status nf_check_room(const char *function, const char *name, const void *to, size_t first_size);
/* As much of the library's struct of `size` bytes as it has room for; its struct_size stays. */
void nf_write_struct(void *to, const void *from, size_t size);

/* Members of configs, whose zero means the default. Where zero itself is sensible, NF_NONE or any negative number asks for it. */
static inline size_t nf_size_or(size_t value, size_t fallback) { return value == 0 ? fallback : value; }
static inline size_t nf_size_or_none(size_t value, size_t fallback) { return value == NF_NONE ? 0 : nf_size_or(value, fallback); }
static inline double nf_real_or_none(double value, double fallback) { return value == 0.0 ? fallback : value < 0.0 ? 0.0 : value; }

#endif
