/*
 * libFuzzer's mutator for model files: keeps the length of the header true most of the time, so that what is mutated is looked at. To be included by one file
 * of a target.
 */
#ifndef NF_FUZZ_MODEL_MUTATOR_H
#define NF_FUZZ_MODEL_MUTATOR_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed);

static uint64_t length_of(const uint8_t *data) {
    uint64_t length = 0;
    for (size_t i = 0; i < 8; i++)
        length |= (uint64_t)data[i] << (8 * i);
    return length;
}

static void set_length(uint8_t *data, uint64_t length) {
    for (size_t i = 0; i < 8; i++)
        data[i] = (uint8_t)(length >> (8 * i));
}

/* Mutate the header alone, and say how long it is now; else all of the file. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    const uint64_t length = size >= 8 ? length_of(data) : 0;
    if (!LLVMFuzzerMutate)
        return size;
    if (seed % 8 == 0 || size < 8 || length > size - 8 || room < size)
        return LLVMFuzzerMutate(data, size, room);
    const size_t rest = size - 8 - (size_t)length;
    uint8_t *header = malloc(room), *tail = malloc(rest + 1);
    if (header && tail && length > 0) {
        memcpy(header, data + 8, (size_t)length);
        memcpy(tail, data + 8 + length, rest);
        const size_t mutated = LLVMFuzzerMutate(header, (size_t)length, room - 8 - rest);
        memcpy(data + 8, header, mutated);
        memcpy(data + 8 + mutated, tail, rest);
        set_length(data, mutated);
        size = 8 + mutated + rest;
    }
    free(header);
    free(tail);
    return size;
}

#endif
