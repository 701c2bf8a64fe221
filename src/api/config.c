#include "api/config.h"

#include <string.h>

#include "core/status.h"

nf_status nf_read_config(const char *function, const void *config, void *out, size_t size, size_t first_size) {
    if (!config)
        return nf_fail(NF_ERR_ARGUMENT, function, "config is NULL");
    size_t given;
    memcpy(&given, config, sizeof given);
    if (given < first_size)
        return nf_fail(NF_ERR_ARGUMENT, function, "config->struct_size is %zu, must be at least %zu", given, first_size);
    for (size_t i = size; i < given; i++)
        if (((const unsigned char *)config)[i] != 0)
            return nf_fail(NF_ERR_UNSUPPORTED, function,
                           "config->struct_size is %zu: byte %zu is set, and this library knows %zu bytes", given, i, size);
    memset(out, 0, size);
    memcpy(out, config, given < size ? given : size);
    return NF_OK;
}

nf_status nf_check_room(const char *function, const char *name, const void *to, size_t first_size) {
    size_t given;
    memcpy(&given, to, sizeof given);
    if (given < first_size)
        return nf_fail(NF_ERR_ARGUMENT, function, "%s->struct_size is %zu, must be at least %zu", name, given, first_size);
    return NF_OK;
}

void nf_write_struct(void *to, const void *from, size_t size) {
    size_t given;
    memcpy(&given, to, sizeof given);
    memcpy(to, from, given < size ? given : size);
    memcpy(to, &given, sizeof given);
}
