#include "core/floating.h"

#include <stddef.h>

/* The call that this thread is in; NULL: none, or something of the caller's is running. */
static _Thread_local nf_call *current;

static void enter(nf_call *call) {
    call->saved = nf_floating_enter();
    current = call;
}

static void leave(const nf_call *call) {
    current = NULL;
    nf_floating_leave(call->saved);
}

void nf_call_begin(nf_call *call) {
    call->outermost = !current;
    if (call->outermost)
        enter(call);
}

void nf_call_end(nf_call *call) {
    if (call->outermost)
        leave(call);
}

nf_call *nf_call_lend(void) {
    nf_call *call = current;
    if (call)
        leave(call);
    return call;
}

void nf_call_take_back(nf_call *call) {
    if (call)
        enter(call);
}
