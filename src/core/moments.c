/*
 * Welford's update (Welford 1962, "Note on a method for calculating corrected sums of squares and products"), with the squares in three
 * sums by their size (Blue 1978, "A portable Fortran program to find the Euclidean norm of a vector").
 */
#include "core/moments.h"

#include <math.h>

#define LARGE 1e150
#define SMALL 1e-150
#define DOWN 0x1p-600
#define UP 0x1p600

void nf_moments_add(nf_moments *m, double x) {
    const double before = x - m->mean;
    m->count += 1.0;
    m->mean += before / m->count;
    const double after = x - m->mean;
    if (fabs(before) > LARGE)
        m->large += before * DOWN * (after * DOWN);
    else if (fabs(before) < SMALL)
        m->small += before * UP * (after * UP);
    else
        m->square += before * after;
}

double nf_moments_sd(const nf_moments *m) {
    if (!(m->count > 0.0))
        return 0.0;
    if (m->large > 0.0)
        return sqrt((m->large + m->square * DOWN * DOWN) / m->count) * UP;
    if (m->square > 0.0)
        return sqrt((m->square + m->small * DOWN * DOWN) / m->count);
    return sqrt(m->small / m->count) * DOWN;
}
