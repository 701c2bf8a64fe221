#include "engine/ode/control.h"

#define SAFETY 0.9
#define LEAST_FACTOR 0.2
#define MOST_FACTOR 10.0
/*
 * Dyadic steps double from this factor on, not from 2: a rejected attempt costs one step, one that was not tried costs two for
 * as long as it is not. From 2 to 1.4 the steps of the continuous flows of bench/ fall by a quarter and rejections stay below a tenth.
 */
#define DOUBLE_FROM 1.4
#define OLD_ERROR_FLOOR 1e-4 /* keeps one lucky step from swelling the next one's gain */

static double span(const ode_problem *p) { return p->t1 - p->t0; }

/* The instant of a grid point: the same number on every level, since index / 2^level is exact. */
static double grid_time(const ode_problem *p, double position) { return position >= 1.0 ? p->t1 : p->t0 + span(p) * position; }

static double position(const ode_problem *p, const ode_lane *lane, uint64_t index) {
    return p->steps ? (double)index / (double)p->steps : ldexp((double)index, -lane->level);
}

void R(ode_lane_start)(const ode_problem *p, ode_lane *lane) {
    *lane = (ode_lane){.t = p->t0, .proposal = fabs(span(p)), .old_error = 1.0};
}

/* A step must be longer than this to be taken at an instant. */
static double least_step(const ode_problem *p, double t) { return 16.0 * DBL_EPSILON * (fabs(t) > fabs(span(p)) ? fabs(t) : fabs(span(p))); }

/* A first step that is far too small grows by itself, so long as it can be taken: there is room below it for the grid and for rejections. */
void R(ode_lane_propose)(const ode_problem *p, ode_lane *lane, double size) {
    const double whole = fabs(span(p)), least = 64.0 * least_step(p, p->t0), longer = size > least ? size : least;
    lane->proposal = longer < whole ? longer : whole;
    lane->level = 0;
    while (lane->level < 60 && ldexp(whole, -lane->level) > lane->proposal)
        lane->level++;
}

bool R(ode_lane_attempt)(const ode_problem *p, const ode_lane *lane, double *h, double *end) {
    const double direction = span(p) < 0 ? -1.0 : 1.0;
    if (p->steps) {
        *h = span(p) / (double)p->steps;
        *end = grid_time(p, position(p, lane, lane->index + 1));
        return true;
    }
    if (p->dyadic) {
        *h = ldexp(span(p), -lane->level);
        *end = grid_time(p, position(p, lane, lane->index + 1));
    } else {
        /* A remainder that is hardly longer than the step is taken in one, and one shorter than two in halves. */
        const double left = fabs(p->t1 - lane->t);
        const double size = lane->proposal * 1.01 >= left ? left : lane->proposal * 2.0 > left ? 0.5 * left : lane->proposal;
        *end = size == left ? p->t1 : lane->t + direction * size;
        *h = *end - lane->t;
    }
    return fabs(*h) > least_step(p, lane->t);
}

static double factor_of(const ode_problem *p, const ode_lane *lane, double error, bool accepted) {
    const double order = (double)p->tableau->error_order, beta = 0.2 / order; /* Hairer, Norsett & Wanner 1993, II.4 and IV.2 */
    if (!isfinite(error))
        return LEAST_FACTOR;
    if (error <= 0.0)
        return MOST_FACTOR;
    double factor = accepted ? SAFETY * pow(error, -(1.0 / order - 0.75 * beta)) * pow(lane->old_error, beta) : SAFETY * pow(error, -1.0 / order);
    factor = factor < LEAST_FACTOR ? LEAST_FACTOR : factor > MOST_FACTOR ? MOST_FACTOR : factor;
    return accepted && lane->rejected && factor > 1.0 ? 1.0 : factor;
}

static void refine(ode_lane *lane, int levels) {
    lane->level += levels;
    lane->index <<= levels;
}

/* Steps may only double where the larger one would start at a multiple of itself. */
static void resize_dyadic(ode_lane *lane, double factor, bool accepted) {
    if (!accepted) {
        const int levels = (int)(0.5 - log2(factor));
        refine(lane, levels < 1 ? 1 : levels);
    } else if (factor < 0.6) {
        refine(lane, 1);
    }
    for (; accepted && factor >= DOUBLE_FROM && lane->level > 0 && lane->index % 2 == 0; factor /= 2.0) {
        lane->level--;
        lane->index /= 2;
    }
}

bool R(ode_lane_judge)(const ode_problem *p, ode_lane *lane, double h, double end, double error) {
    const bool accepted = p->steps || error <= 1.0;
    lane->attempts++;
    if (accepted) {
        lane->t = end;
        lane->index++;
    }
    if (p->steps)
        return true;
    const double factor = factor_of(p, lane, error, accepted);
    if (p->dyadic)
        resize_dyadic(lane, factor, accepted);
    lane->proposal = fabs(h) * factor;
    if (accepted)
        lane->old_error = error > OLD_ERROR_FLOOR ? error : OLD_ERROR_FLOOR;
    lane->rejected = !accepted;
    return accepted;
}

bool R(ode_lane_arrived)(const ode_problem *p, const ode_lane *lane) {
    if (p->steps)
        return lane->index == p->steps;
    return p->dyadic ? position(p, lane, lane->index) >= 1.0 : lane->t == p->t1;
}
