/* What stands behind the opaque handles of nflow.h. */
#ifndef NF_API_HANDLES_H
#define NF_API_HANDLES_H

#include <stdint.h>

#include "api/pool.h"
#include "core/memory.h"
#include "core/model.h"
#include "core/status.h"
#include "engine/engine.h"
#include "nflow.h"

struct nf_flow {
    nf_allocator allocator;
    const nf_engine *engine;
    nf_model model;
    void *theta; /* parameter_count of the engine's reals */
    nf_model_tensor *tensors;
    size_t tensor_count;
    uint64_t structure; /* the same in a clone, another one after append and invert */
    uint64_t epoch;     /* changes with the parameters; unique in the process */
};

/* The flow for those that make things from it, in other memory than its own. */
static inline nf_flow nf_flow_in(const nf_flow *flow, const nf_allocator *allocator) {
    nf_flow view = *flow;
    view.allocator = *allocator;
    return view;
}

static inline size_t nf_tiles_of(size_t rows, size_t tile_rows) { return rows / tile_rows + (rows % tile_rows != 0); }

/* Gradient work is cut into at most this many slots, so that the sums do not depend on the number of threads. */
#define GRADIENT_SLOTS 8

struct nf_workspace {
    nf_allocator allocator;
    const nf_engine *engine;
    uint64_t structure;
    size_t dim, thread_count;
    nf_pool *pool;           /* NULL with one thread */
    engine_thread *threads;  /* thread_count */
    size_t *progress;        /* tiles done of each lane of work: as many as threads or GRADIENT_SLOTS */
    engine_sum *sums;        /* of each lane */
    /* One tile a thread for the target density of reverse KL: x and its gradient, log q and log p. */
    double *target_x, *target_gradient, *target_log_q, *target_log_p;
    nf_stats stats;
    engine_bad bad;
};

struct nf_gradient {
    nf_allocator allocator;
    const nf_engine *engine;
    uint64_t structure;
    size_t count, stride; /* scalars; reals from slot to slot */
    void *sum, *slots;
    bool empty;     /* nothing was added yet: its numbers are zeros, whatever stands in `sum` */
    double largest; /* of their absolute values, or NaN: it is not known */
};

struct nf_optimizer {
    nf_allocator allocator;
    const nf_engine *engine;
    uint64_t structure;
    size_t count;
    engine_update update;
    double clip_norm;
    uint64_t steps;
    void *state, *m, *v; /* the latter two lie in the first */
    double most_moment; /* no number of m is larger */
};

/* A number that no other call in this process gets. */
uint64_t nf_unique(void);

/* Checks that are common to many functions. Each records the line and returns the status. */
nf_status nf_check_pointer(const char *function, const char *name, const void *pointer);
nf_status nf_check_workspace(const char *function, const nf_flow *flow, const nf_workspace *workspace);
nf_status nf_check_gradient(const char *function, const nf_flow *flow, const nf_gradient *gradient);

/* That `name` rows of the flow can be an array. */
nf_status nf_check_rows(const char *function, const char *name, const nf_flow *flow, size_t rows);

/* That there is a context, `name`, exactly when the flow takes one. */
nf_status nf_check_context(const char *function, const char *name, const nf_flow *flow, const double *context);

/* In the precision of the engine. */
bool nf_finite_row(const double *row, size_t columns, const nf_engine *engine);

/* Instants of dense output: monotone, all between start and end; `backward`: from end to start. */
nf_status nf_check_instants(const char *function, double start, double end, size_t times, const double *t, bool *backward);

/* A flow of one part, made by the constructors: takes the layers' drafts in order. */
nf_status nf_flow_begin(const char *function, const nf_allocator *allocator, size_t dim, size_t context_dim, nf_precision precision,
                        nf_flow **flow);
nf_status nf_flow_add(nf_flow *flow, const nf_layer *draft); /* before nf_flow_finish */
nf_status nf_flow_finish(nf_flow *flow);                     /* lays out, allocates parameters (zero), names the tensors */
/* The parameters of a finished flow from doubles that are known to be finite. */
void nf_flow_put(nf_flow *flow, const double *parameters);

/* What makes the objects that belong to a flow, or to a net. */
nf_status nf_workspace_make(const nf_allocator *allocator, const nf_engine *engine, uint64_t structure, size_t dim, size_t thread_size,
                            size_t threads, nf_workspace **workspace);
nf_status nf_workspace_begin(const nf_flow *flow, size_t threads, nf_workspace **workspace); /* nf_workspace_create; messages name no function */
void nf_gradient_clear(nf_gradient *gradient);
/* Its numbers, to be changed; all of them, to be written without being read. */
void *nf_gradient_numbers(nf_gradient *gradient);
void *nf_gradient_overwrite(nf_gradient *gradient);
void nf_gradient_add(nf_gradient *gradient, const void *numbers);
void nf_gradient_scale(nf_gradient *gradient, double scale); /* what stands in sum, whether it was empty or not */
double nf_gradient_largest(const nf_gradient *gradient); /* of the absolute values; NaN where one of them is */
double nf_gradient_norm(const nf_gradient *gradient);
nf_status nf_gradient_make(const char *function, const nf_allocator *allocator, const nf_engine *engine, uint64_t structure, size_t count,
                           nf_gradient **gradient);
nf_status nf_optimizer_make(const char *function, const nf_allocator *allocator, const nf_engine *engine, uint64_t structure,
                            size_t count, const void *theta, const nf_optimizer_config *config, nf_optimizer **optimizer);
/* Of a fit's settings: messages say "config->optimizer->kind ...", and name no function. */
nf_status nf_optimizer_of_fit(const nf_flow *flow, const nf_optimizer_config *config, nf_optimizer **optimizer);
nf_status nf_optimizer_apply(nf_optimizer *optimizer, void *theta, const nf_gradient *gradient);
nf_status nf_run_step(nf_optimizer *optimizer, nf_flow *flow, const nf_gradient *gradient); /* of arguments that have been checked */
nf_status nf_check_parameters(const char *function, const nf_engine *engine, size_t count, const double *in);

#endif
