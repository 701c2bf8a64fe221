#include "io/json_limits.h"

#include <stdbool.h>

#include "core/status.h"

nf_status nf_json_check_limits(const char *name, const char *text, size_t size, size_t depth) {
    const size_t most = size / 6 + 16;
    size_t level = 0, containers = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        const char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
            continue;
        }
        if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            containers++;
            if (++level > depth)
                return nf_fail(NF_ERR_FORMAT, NULL, "%s: nests deeper than %zu at byte %zu", name, depth, i);
            if (containers > most)
                return nf_fail(NF_ERR_FORMAT, NULL, "%s: has more than %zu objects and lists in %zu bytes", name, most, size);
        } else if ((c == '}' || c == ']') && level > 0) {
            level--;
        }
    }
    return NF_OK;
}

bool nf_json_lacked_memory(const json_error_t *error) {
    /* In this order: without a text the code was not set either. */
    return !*error->text || json_error_code(error) == json_error_out_of_memory;
}
