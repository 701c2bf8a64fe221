/*
 * What hyper dynamics have at an instant: the weights that the net gives there, and the gradients that samples leave. Samples see rows of units alone; where
 * those are, how long they are kept, and the net are the business of hyper_nodes.c.
 */
#ifndef NF_ENGINE_HYPER_NODES_H
#define NF_ENGINE_HYPER_NODES_H

#include "engine/nets/field_hyper.h"

/* An entry: w [dim], u [dim] (gated, divided by the units), gate [dim], b, c, each a row of `padded` units; gradients alike. */
typedef struct entry_rows {
    real *w, *u, *gate, *b, *c;
} entry_rows;

static inline entry_rows rows_at(const field_hyper *f, real *entry) {
    const size_t size = f->shape.dim * f->padded;
    return (entry_rows){entry, entry + size, entry + 2 * size, entry + 3 * size, entry + 3 * size + f->padded};
}

/*
 * The nodes of active lanes for a stage, or at instants outside of steps, and the sums that their gradients go to. `found`: room for PANEL of them, where they
 * are not in the field.
 */
real *const *R(hyper_nodes_of)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, real **found);
real *const *R(hyper_sums_of)(field_hyper *f, size_t stage, const double *t, const unsigned char *active, real **found);

#endif
