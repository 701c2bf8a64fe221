/* What a fuzz target of calls reads from its input: choices, numbers and arrays. Past the end all bytes are 0. To be included by one file of a target. */
#ifndef NF_FUZZ_BYTES_H
#define NF_FUZZ_BYTES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fuzz_bytes {
    const uint8_t *data;
    size_t size, at;
} fuzz_bytes;

static unsigned take(fuzz_bytes *b) { return b->at < b->size ? b->data[b->at++] : 0; }

/* Every fourth one is odd. */
static double take_number(fuzz_bytes *b) {
    static const double odd[] = {0, -0.0, 1, -1, 1e-300, 1e300, 5e-324, INFINITY, -INFINITY, NAN, 0.385, 710, -745, 1e16, 3e38, 1e-40};
    const unsigned byte = take(b);
    return byte < 64 ? odd[byte % 16] : ((double)byte - 160) / 24;
}

/* Ordinary numbers, of which one may be odd. */
static void fill(fuzz_bytes *b, double *to, size_t count) {
    const unsigned seed = take(b), odd = take(b);
    for (size_t i = 0; i < count; i++)
        to[i] = 0.385 * (double)((i * 7 + seed) % 13) - 2;
    if (odd < 96 && count > 0)
        to[odd % count] = take_number(b);
}

#endif
