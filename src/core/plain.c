#include "core/plain.h"

nf_host nf_leave_host(void) {
    nf_host h;
    fegetenv(&h.floating);
    fesetenv(FE_DFL_ENV);
    h.plain = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* costs glibc no memory */
    h.locale = uselocale(h.plain);
    return h;
}

void nf_return_to(const nf_host *h) {
    uselocale(h->locale);
    if (h->plain)
        freelocale(h->plain);
    fesetenv(&h->floating);
}
