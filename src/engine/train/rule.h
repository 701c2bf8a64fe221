/* What an optimizer's step is made of: the api fills it, the engine reads it. Nothing in it depends on `real`. */
#ifndef NF_ENGINE_RULE_H
#define NF_ENGINE_RULE_H

#include <stdbool.h>

#include "nflow.h"

/* Coefficients of one optimizer step, all in double. */
typedef struct engine_update {
    nf_optimizer_kind kind;
    bool first;             /* t == 1 */
    double clip;            /* factor on the gradient */
    double rate, beta1, beta2, epsilon, momentum;
    double correction1, correction2; /* 1 - beta^t */
    double weight_decay;
} engine_update;

#endif
