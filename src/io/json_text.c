#include "io/json_text.h"

#include <fenv.h>
#include <locale.h>

typedef struct host {
    fenv_t floating;
    locale_t plain, locale; /* "C", and the host's */
} host;

static host leave_host(void) {
    host h;
    fegetenv(&h.floating);
    fesetenv(FE_DFL_ENV);
    h.plain = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* costs glibc no memory */
    h.locale = uselocale(h.plain);
    return h;
}

static void return_to(const host *h) {
    uselocale(h->locale);
    if (h->plain)
        freelocale(h->plain);
    fesetenv(&h->floating);
}

json_t *nf_json_read(const char *text, size_t size, json_error_t *error) {
    const host h = leave_host();
    json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES, error);
    return_to(&h);
    return value;
}

size_t nf_json_write(const json_t *value, char *text, size_t size, size_t flags) {
    const host h = leave_host();
    const size_t length = json_dumpb(value, text, size, flags);
    return_to(&h);
    return length;
}
