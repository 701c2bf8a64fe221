/* Rows of doubles through a net, a tile at a time: what the public nf_mlp computes with. */
#ifndef NF_ENGINE_NET_ROWS_H
#define NF_ENGINE_NET_ROWS_H

#include "engine/engine.h"
#include "engine/real.h"

size_t R(net_thread_size)(const nf_net *net);
void R(net_push)(const nf_net *net, const void *theta, engine_thread *thread, size_t first, size_t rows, const double *x, double *y,
                 bool record);
void R(net_pull)(const nf_net *net, const void *theta, engine_thread *thread, const double *x, const double *grad_y, bool careful, double *y,
                 double *grad_x, void *gradient);

#endif
