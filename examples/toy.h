/*
 * toy.h - six two-dimensional densities to try a flow on, each with its exact log density and entropy
 *
 *     const toy_set *set = toy_find("two_moons");
 *     toy_rows(set, 7, 0, 500, x);                     500 rows x 2
 *     mean of -toy_log_density(set, x) over many rows  ->  toy_entropy(set), which no model can get below
 *
 * Row i is a function of (set, seed, i) alone: rows 500 .. 999 are new ones of the same density, whatever was drawn before.
 */
#ifndef TOY_H
#define TOY_H

#include <stddef.h>
#include <stdint.h>

typedef struct toy_set toy_set;

size_t toy_count(void);
const toy_set *toy_at(size_t index);        /* NULL past the last one */
const toy_set *toy_find(const char *name);  /* NULL: there is none of that name */
const char *toy_name(const toy_set *set);   /* as toy_find takes it */
const char *toy_about(const toy_set *set);  /* one line */

/* Rows first .. first + rows - 1 of the endless sequence that belongs to the seed, into x (rows x 2). */
void toy_rows(const toy_set *set, uint64_t seed, uint64_t first, size_t rows, double *x);

/* Log of the density at x, in nats; -INFINITY outside its support. */
double toy_log_density(const toy_set *set, const double x[2]);

/* -E log p, in nats: a closed form, or a quadrature good to 1e-6. Takes some milliseconds. */
double toy_entropy(const toy_set *set);

#endif
