/* A tile of rows through all layers. */
#ifndef NF_ENGINE_PUSH_H
#define NF_ENGINE_PUSH_H

#include "engine/engine.h"
#include "engine/real.h"

/* nf_engine.push. `lost`: for each row why it is bad already and takes no part, or ROW_GOOD; NULL: it is to be found out. */
int R(push_all_but)(const engine_job *job, engine_thread *thread, size_t first, size_t rows, const unsigned char *lost);

#endif
