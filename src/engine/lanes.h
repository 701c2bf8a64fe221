/* Rows of doubles into the lanes of a tile and out of it again, and the layers applied to it. */
#ifndef NF_ENGINE_LANES_H
#define NF_ENGINE_LANES_H

#include "engine/thread.h"

/* Of the generator, for a row. */
uint64_t R(position_of)(const engine_job *job, size_t row);
/* Samples of the base into the lanes, from the row `first` on. */
void R(draw_base)(const engine_job *job, thread_map *m, size_t first, size_t rows);
/* Lanes [from, to) of one panel become copies of lane `source` of any panel; zeros when that is NULL. */
void R(spread_lane)(const real *source, size_t features, real *panel, size_t from, size_t to);
/* Lanes that failed, and those beyond the rows, become copies of the first good lane (of zeros when there is none). */
void R(fill_lanes)(thread_map *m);
/* Lanes beyond the rows become copies of the first. */
void R(fill_beyond)(thread_map *m);
/* Rows from `first` on, or samples of the base where there is no input; `note`: tell of those that are no numbers. */
void R(load_tile)(const engine_job *job, engine_thread *thread, thread_map *m, size_t first, bool note);
/* Lanes into rows; NaN where they failed. */
void R(store_lanes)(const tile *t, real *panels, size_t features, double *rows);
/* log N(z; mean, sd^2) of every lane, in double, features in order. */
void R(base_density)(const nf_model *model, const tile *t, double *density);

/* The first `count` layers of the forward or of the inverse flow. */
int R(apply_layers)(const engine_job *job, bool backwards, size_t count, engine_thread *thread, thread_map *m);
/* Rows that came out of the layers as failed or not finite, or beyond `farthest`; true when there are new ones. */
bool R(check_lanes)(const engine_job *job, engine_thread *thread, thread_map *m, const unsigned char *before, double farthest);

/* Of a lane that has come through the layers; their part alone where no density is asked for. */
static inline double log_prob_of(const engine_job *job, const thread_map *m, size_t lane) {
    return m->base[lane] + (job->inverse ? m->t.log_det[lane] : -m->t.log_det[lane]);
}

#endif
