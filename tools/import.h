/*
 * import.h - from the file that tools/import/export_torch.py writes to a model file
 *
 * import_archive.c reads the file: tensors by name, and the tree of modules. import_net.c makes nflow's nets of theirs, import_layers.c layers of
 * layers, and import_flow.c flows of flows; import_model.c writes the bytes of a model file, which the library then checks. All memory belongs to the
 * archive. What is not right ends the program with a message that names the module.
 */
#ifndef IMPORT_H
#define IMPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct array {
    const char *name;
    size_t rank, shape[4], count;
    double *values; /* whatever their type was: integers below 2^53 */
    bool used;
} array;

typedef struct archive {
    const char *path;
    json_t *structure;
    array *arrays;
    size_t count;
    struct kept *kept; /* blocks to free */
} archive;

void archive_open(archive *a, const char *path);
void archive_close(archive *a);
void *archive_keep(archive *a, size_t count, size_t size); /* zeros, freed with the archive */
__attribute__((format(printf, 2, 3))) char *archive_text(archive *a, const char *format, ...);

/* A module of the tree. */
typedef struct node {
    archive *a;
    const json_t *json; /* NULL: there is none */
    const char *path;   /* "transform.transforms.0", "" for the flow itself */
    const char *kind;   /* its class */
} node;

node node_root(archive *a);
node node_child(const node *of, const char *name); /* json NULL when there is none */
node node_need_child(const node *of, const char *name);
node node_at(const node *of, size_t index); /* of a list of modules */
size_t node_count(const node *of);          /* its children */
bool node_is(const node *n, const char *kind);
_Noreturn void node_refuse(const node *n, const char *why);
_Noreturn void node_refuse_kind(const node *n, const char *known); /* "is a layer that ..": names the class */

double node_number(const node *n, const char *attribute, double otherwise);
bool node_flag(const node *n, const char *attribute, bool otherwise);
const char *node_word(const node *n, const char *attribute, const char *otherwise);
const json_t *node_callable(const node *n, const char *attribute); /* NULL: it is none */

/* Tensors of a module. `need` wants `count` numbers in any shape, and ends the program otherwise; NULL from `find`: there is none. */
array *node_find(const node *n, const char *name);
const double *node_need(const node *n, const char *name, size_t count);
const array *node_need_matrix(const node *n, const char *name);
size_t *node_indices(const node *n, const char *name, size_t *count);
void node_ignore(const node *n, const char *name); /* what does not matter in evaluation */
void node_ignore_all(const node *n);               /* its tensors and those of its children */

/* ---- nets */

typedef struct linear {
    size_t inputs, outputs;
    const double *weight, *bias; /* outputs x inputs, outputs */
} linear;

typedef struct net {
    const char *activation;
    size_t count;
    linear *layers;
} net;

/* Linear layers with one activation between them. */
net net_of_sequence(const node *sequence);
/* nflows' ResidualNet as a plain net, for activations with f(x) - f(-x) = x. */
net net_of_residual(const node *residual);

/* ---- the flow on its way */

typedef struct draft_tensor {
    const char *name;
    size_t rank, rows, columns;
    const double *values;
} draft_tensor;

typedef struct draft_layer {
    json_t *json;
    draft_tensor *tensors;
    size_t count;
} draft_layer;

typedef struct draft {
    archive *a;
    size_t dim, context_dim;
    const double *mean, *sd; /* NULL: 0 and 1 */
    bool from_data;          /* the layers stand in the order from data to base, and each maps that way */
    draft_layer *layers;
    size_t count, room;
    const char *what; /* "nflows SimpleRealNVP", for the note */
} draft;

draft_layer *draft_add(draft *d, json_t *json, size_t tensors);
void draft_tensor_set(draft_layer *layer, size_t index, const char *name, size_t rank, size_t rows, size_t columns, const double *values);
void draft_add_net(draft *d, json_t *json, const net *n);
json_t *draft_list(const size_t *items, size_t count);

/* The scale of a coupling and which of the net's outputs are its s and t; s NULL: no scale. */
typedef struct coupling_parts {
    const size_t *identity, *transformed;
    size_t identity_count, transformed_count;
    const size_t *s, *t;
    const char *scale;
    double clamp, floor; /* 0: the scale has none */
} coupling_parts;

void draft_add_coupling(draft *d, const node *of, const coupling_parts *parts, net n);
void draft_add_affine(draft *d, const double *log_scale, const double *shift);
void draft_add_permutation(draft *d, const size_t *source);

void layers_of_nflows(draft *d, const node *transform);
void layers_of_normflows(draft *d, const node *flow);
void layers_of_zuko(draft *d, const node *transform);

typedef struct cnf_options {
    double t0, t1, variance; /* NAN: not given */
} cnf_options;

void draft_flow(draft *d, archive *a, const cnf_options *options);

/* The bytes of the model file. */
unsigned char *draft_write(const draft *d, size_t *size);

#endif
