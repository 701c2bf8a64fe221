#include "core/checksum.h"

#include <string.h>

uint64_t nf_mix(uint64_t sum, uint64_t word) {
    sum = (sum ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return sum ^ sum >> 32;
}

uint64_t nf_mix_bytes(uint64_t sum, const void *bytes, size_t size) {
    const unsigned char *from = bytes;
    sum = nf_mix(sum, size);
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        for (size_t b = 0; b < 8 && i + b < size; b++)
            word |= (uint64_t)from[i + b] << (8 * b);
        sum = nf_mix(sum, word);
    }
    return sum;
}

uint64_t nf_mix_numbers(uint64_t sum, const double *numbers, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t word;
        memcpy(&word, &numbers[i], sizeof word);
        sum = nf_mix(sum, word);
    }
    return sum;
}
