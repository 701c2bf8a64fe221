#include "io/json_text.h"

#include "core/plain.h"

json_t *nf_json_read(const char *text, size_t size, json_error_t *error) {
    const nf_host h = nf_leave_host();
    json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES, error);
    nf_return_to(&h);
    return value;
}

size_t nf_json_write(const json_t *value, char *text, size_t size, size_t flags) {
    const nf_host h = nf_leave_host();
    const size_t length = json_dumpb(value, text, size, flags);
    nf_return_to(&h);
    return length;
}
