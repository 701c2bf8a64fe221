/*
 * The description of a flow: its base, its layers and where their tensors lie in the parameter vector. No numbers of
 * the flow are in it, and it is the same for both precisions.
 */
#ifndef NF_CORE_MODEL_H
#define NF_CORE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nflow.h"

typedef enum nf_layer_kind {
    NF_LAYER_PLANAR,
    NF_LAYER_RADIAL,
    NF_LAYER_COUPLING,
    NF_LAYER_PERMUTATION,
    NF_LAYER_AFFINE,
    NF_LAYER_CNF,
    NF_LAYER_KINDS
} nf_layer_kind;

typedef struct nf_size_list {
    size_t count;
    size_t *items;
} nf_size_list;

/* A multilayer perceptron: linear layers with the activation between them (not after the last). */
typedef struct nf_net {
    size_t inputs, outputs; /* outputs == 0: there is no net */
    nf_size_list hidden;
    nf_activation activation;
} nf_net;

static inline bool nf_net_is_gelu(const nf_net *net) { return net->activation == NF_GELU || net->activation == NF_ACTIVATION_DEFAULT; }

/* What a cnf layer needs beside its net. */
typedef struct nf_cnf_spec {
    nf_dynamics dynamics;
    size_t width; /* hyper dynamics: planar fields in the mean */
    double t0, t1, rtol, atol;
    nf_ode_method method;
    nf_ode_gradient gradient;
    nf_trace trace;
    size_t shared_step; /* not 0: one step for all rows of a tile instead of one for each row */
    size_t steps, max_steps, probes;
    uint64_t noise_seed;
    double kinetic, jacobian;
} nf_cnf_spec;

/*
 * One layer. A layer is one block of memory: the lists stand behind the struct. Which members mean something follows
 * from the kind: coupling {identity, transformed, scale, clamp, floor, net}, permutation {source}, cnf {cnf, net},
 * planar and radial {net when context_dim > 0}.
 */
typedef struct nf_layer {
    nf_layer_kind kind;
    bool inverted; /* the engine swaps forward and inverse */
    size_t dim, context_dim;
    nf_net net;
    nf_size_list identity, transformed, source;
    nf_scale scale;
    double clamp, floor;
    nf_cnf_spec cnf;
    size_t parameter_offset, parameter_count; /* its slice of the flow's parameter vector */
} nf_layer;

/* A tensor of a layer, as its type reports it: `name` within the layer, rank 1 or 2, row-major. */
typedef void (*nf_tensor_sink)(void *user, const char *name, size_t rank, size_t rows, size_t columns);

/* How a member of nf_layer is written in the JSON of a model file. */
typedef enum nf_field_form {
    NF_FIELD_LIST,   /* nf_size_list: array of counts or indices */
    NF_FIELD_HIDDEN, /* nf_size_list: an array, or one number n for {n, n} of a hypernetwork */
    NF_FIELD_SIZE,   /* size_t */
    NF_FIELD_SEED,   /* uint64_t, as a decimal string */
    NF_FIELD_REAL,   /* double */
    NF_FIELD_ENUM    /* a 32-bit enum, by name */
} nf_field_form;

typedef struct nf_enum_name {
    const char *name;
    int value;
} nf_enum_name;

typedef struct nf_field {
    const char *key;
    nf_field_form form;
    size_t offset; /* in nf_layer */
    bool required;
    const nf_enum_name *names;                /* of an enum, ended by a NULL name */
    bool (*applies)(const nf_layer *layer);   /* NULL: always */
} nf_field;

/* One type of layer: its name in files, its tensors, its fields, and what its members must satisfy. */
typedef struct nf_layer_type {
    const char *name;
    const nf_field *fields; /* ended by a NULL key; an enum that others depend on stands before them */
    void (*defaults)(nf_layer *layer);
    /* Completes members that follow from others (the sizes of the net) and checks the rest; one line says what is wrong. */
    nf_status (*complete)(nf_layer *layer);
    void (*tensors)(const nf_layer *layer, nf_tensor_sink sink, void *user);
} nf_layer_type;

const nf_layer_type *nf_layer_type_of(nf_layer_kind kind);
bool nf_layer_kind_by_name(const char *name, nf_layer_kind *kind);

/* A draft on the caller's stack: zero but for kind, dim, context_dim and the type's defaults. */
nf_layer nf_layer_draft(nf_layer_kind kind, size_t dim, size_t context_dim);

/* A finished copy of a draft (or of a layer) in one block: completes and checks it. */
nf_status nf_layer_create(const nf_allocator *allocator, const nf_layer *draft, nf_layer **layer);

/* Settings are rounded to the flow's precision, and must be numbers there: NF_ERR_ARGUMENT names the first that is not. */
nf_status nf_layer_check_reals(const nf_layer *layer, nf_precision precision);

/* Steps, probes and dimensions beyond this are refused: a file could not tell them. */
#define NF_MOST_COUNT (SIZE_MAX / 2)

/* That a cnf's solver can work with its settings. */
nf_status nf_check_solver(const nf_cnf_spec *cnf);

/*
 * The constants of the engine, in samples, with which the sizes of a layer are multiplied when memory for it is laid out: no build has longer tiles or panels,
 * nor more of a hypernetwork's nodes (times the bytes of a number) than the last. A layer for which that might not fit in a size_t is not made, so that the
 * engine need not look at each product.
 */
#define NF_MOST_TILE ((size_t)128)
#define NF_MOST_PANEL ((size_t)32)
#define NF_MOST_NODES ((size_t)4096)

/* The base density N(mean, diag(sd^2)); NULL arrays mean 0 and 1. */
typedef struct nf_model {
    size_t dim, context_dim;
    double *mean, *sd;
    nf_layer **layers; /* layer 0 is nearest the base */
    size_t layer_count, layer_capacity;
    size_t parameter_count;
} nf_model;

void nf_model_init(nf_model *model, size_t dim, size_t context_dim);
void nf_model_clear(nf_model *model, const nf_allocator *allocator);
nf_status nf_model_copy(const nf_model *model, const nf_allocator *allocator, nf_model *copy);

/* Room for `extra` more layers, so that the appends that follow cannot fail. */
nf_status nf_model_reserve(nf_model *model, const nf_allocator *allocator, size_t extra);
void nf_model_push(nf_model *model, nf_layer *layer); /* takes the layer; needs room */

/* Give every layer its slice of the parameter vector; NF_ERR_ARGUMENT when the total is beyond what can be addressed. */
nf_status nf_model_layout(nf_model *model);
void nf_model_reverse(nf_model *model); /* order and `inverted` of the layers; the caller lays out and moves parameters */
bool nf_model_base_is_standard(const nf_model *model);
nf_status nf_model_set_base(nf_model *model, const nf_allocator *allocator, const double *mean, const double *sd);

/* Tensors of the whole flow, in parameter order. `name` is "layers.<i>.<tensor>". */
typedef struct nf_model_tensor {
    const char *name;
    size_t rank, shape[2], offset;
} nf_model_tensor;

size_t nf_model_tensor_count(const nf_model *model);
/* One block: the array and, behind it, the names. */
nf_status nf_model_tensors(const nf_model *model, const nf_allocator *allocator, nf_model_tensor **tensors, size_t *count);

/* Parameters of a net, and its linear layers: weight (out x in), then bias (out), for each. */
static inline size_t nf_net_layer_count(const nf_net *net) { return net->outputs ? net->hidden.count + 1 : 0; }
static inline size_t nf_net_layer_inputs(const nf_net *net, size_t j) { return j == 0 ? net->inputs : net->hidden.items[j - 1]; }
static inline size_t nf_net_layer_outputs(const nf_net *net, size_t j) { return j == net->hidden.count ? net->outputs : net->hidden.items[j]; }
size_t nf_net_widest(const nf_net *net); /* over inputs, hidden layers and outputs */
void nf_net_tensors(const nf_net *net, nf_tensor_sink sink, void *user);
size_t nf_net_parameter_count(const nf_net *net);

#endif
