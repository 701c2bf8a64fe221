/* A step that is tried out before it is taken, apart from the update itself so that its loops are compiled for themselves. */
#include <math.h>
#include <string.h>

#include "engine/train/update.h"

/* On copies, some numbers at a time, so that nothing is to be undone. */
bool R(update_overflows)(const engine_update *u, const void *theta, const void *g, const void *m, const void *v, size_t count) {
    enum { PIECE = 128 };
    real state[3][PIECE];
    const void *const from[3] = {theta, m, v};
    for (size_t i = 0; i < count; i += PIECE) {
        const size_t n = count - i < PIECE ? count - i : PIECE;
        for (size_t k = 0; k < 3; k++)
            memcpy(state[k], (const real *)from[k] + i, n * sizeof(real));
        R(update)(u, state[0], (const real *)g + i, state[1], state[2], n);
        for (size_t k = 0; k < 3; k++)
            for (size_t j = 0; j < n; j++)
                if (!isfinite(state[k][j]))
                    return true;
    }
    return false;
}
