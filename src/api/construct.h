/*
 * What the constructors share: a flow on the way. The layers' drafts are added one by one, then the parameters are drawn in
 * double and put in at once. After the first failure all steps do nothing, so a constructor checks once, at the end.
 * It begins with NF_CALL, so that a seed's parameters are the same in any host.
 */
#ifndef NF_API_CONSTRUCT_H
#define NF_API_CONSTRUCT_H

#include "api/config.h"
#include "api/handles.h"
#include "core/philox.h"

typedef struct nf_construction {
    const char *function;
    nf_flow *flow;
    double *parameters; /* after nf_construct_layout: parameter_count of them, zero, to be filled */
    nf_status status;
} nf_construction;

nf_construction nf_construct_begin(const char *function, const nf_allocator *allocator, size_t dim, size_t context_dim,
                                   nf_precision precision);
void nf_construct_add(nf_construction *c, const nf_layer *draft);
void nf_construct_layout(nf_construction *c);
nf_status nf_construct_finish(nf_construction *c, nf_flow **flow);

/* Clears the error and the handle, then reads a config struct into `copy`. */
nf_status nf_construct_read(const char *function, const void *config, void *copy, size_t size, size_t first_size, nf_flow **flow);

#define NF_CONSTRUCT_READ(type, config, copy, flow)                                                                              \
    nf_construct_read(__func__, config, copy, sizeof *(copy), NF_SIZE_THROUGH(type, allocator), flow)

/* Layers that a constructor may be asked for; more are a mistake in the call, and would take all memory before it is noticed. */
#define NF_MOST_LAYERS 65536
nf_status nf_construct_count(const char *function, const char *name, size_t count);

/* `count` equal hidden layers for drafts; the items live as long as the constructor's call. More than this many are refused. */
#define NF_MOST_HIDDEN 64
nf_status nf_construct_hidden(const char *function, size_t count, size_t width, size_t items[NF_MOST_HIDDEN], nf_size_list *list);

/*
 * Initial parameters of a net: hidden weights normal with variance gain / fan-in (He et al. 2015, equation 10; gain 2 for the
 * rectifier's relatives, 1 for tanh), biases uniform within +-1/sqrt(fan-in) so that units of a narrow net differ, and a last
 * layer of standard deviation last / sqrt(fan-in) without bias.
 */
void nf_draw_net(const nf_net *net, nf_sequence *random, double last, double *parameters);

#endif
