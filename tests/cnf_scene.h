/* What the suites of continuous flows share: a small one with random parameters, the same for all settings of its solver. */
#ifndef NF_TESTS_CNF_SCENE_H
#define NF_TESTS_CNF_SCENE_H

#include "support.h"

enum { DIM = 2 };

/* Of DIM dimensions and 12 hidden units where config leaves them open. */
nf_flow *make_cnf(const nf_cnf_config *config);
#define MAKE(...) make_cnf(NF_CONFIG(nf_cnf_config, __VA_ARGS__))

#endif
