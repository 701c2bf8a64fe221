/* Integration of a caller's systems, panel by panel. */
#ifndef NF_ENGINE_ODE_SOLVE_H
#define NF_ENGINE_ODE_SOLVE_H

#include "engine/ode/task.h"
#include "engine/real.h"

size_t R(ode_rows_memory)(size_t size); /* in bytes, for ode_solve_rows, aligned to NF_ALIGN; SIZE_MAX when it cannot be told */
/* All rows, a panel at a time; false when the callback said that it cannot go on, and y and path are then undefined. */
bool R(ode_solve_rows)(ode_task *task, void *memory);

#endif
