/* Arithmetic on parameter vectors: the optimizers' updates, sums and norms. */
#ifndef NF_ENGINE_UPDATE_H
#define NF_ENGINE_UPDATE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/real.h"
#include "engine/train/rule.h"

void R(update)(const engine_update *u, void *theta, const void *g, void *m, void *v, size_t count);
bool R(update_overflows)(const engine_update *u, const void *theta, const void *g, const void *m, const void *v, size_t count);
void R(average)(void *mean, const void *theta, double decay, size_t count);
double R(scale)(void *values, double scale, size_t count); /* the largest of the absolute values that come of it, as below */
void R(set_scaled)(void *to, const void *from, double scale, size_t count);
void R(add_scaled)(void *to, const void *from, double scale, size_t count);
double R(largest)(const void *values, size_t count); /* of the absolute values; NaN where one of them is */
double R(norm2)(const void *values, size_t count);

#endif
