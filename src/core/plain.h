/*
 * Numbers as text, whatever the host's thread is set to. The C library reads and writes them with the locale's decimal point, and rounds them as the x87's
 * control word says, which core/floating.h leaves alone. Between these two calls both are the default ones; then they are the host's again.
 */
#ifndef NF_CORE_PLAIN_H
#define NF_CORE_PLAIN_H

#include <fenv.h>
#include <locale.h>

typedef struct nf_host {
    fenv_t floating;
    locale_t plain, locale; /* "C", and the host's */
} nf_host;

nf_host nf_leave_host(void);
void nf_return_to(const nf_host *host);

#endif
