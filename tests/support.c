#define _POSIX_C_SOURCE 200809L
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void must_be_(nf_status wanted, nf_status got, const char *call, const char *file, int line) {
    if (wanted != got)
        ck_abort_msg("%s:%d: %s gave %s, not %s: %s (seed %llu)", file, line, call, nf_status_name(got), nf_status_name(wanted),
                     nf_last_error(), (unsigned long long)test_seed());
}

void must_say(const char *function, const char *text) {
    const char *said = nf_last_error();
    const size_t length = strlen(function);
    ck_assert_msg(strncmp(said, function, length) == 0 && strncmp(said + length, ": ", 2) == 0, "\"%s\" does not begin with %s", said,
                  function);
    ck_assert_msg(strstr(said + length, text) != NULL, "\"%s\" does not say %s", said, text);
}

uint64_t test_seed(void) { return seed_given(2385); }

/* SplitMix64 (Steele, Lea & Flood 2014). */
uint64_t random_bits(random_source *random) {
    uint64_t z = random->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

random_source random_of_seed(uint64_t seed, uint64_t stream) {
    random_source random = {seed};
    random.state = random_bits(&random) ^ (stream * 0xD1342543DE82EF95u);
    return random;
}

random_source random_begin(uint64_t stream) { return random_of_seed(test_seed(), stream); }

double random_uniform(random_source *random, double low, double high) {
    return low + (high - low) * ((double)(random_bits(random) >> 11) + 0.5) * 0x1p-53;
}

double random_normal(random_source *random) {
    const double radius = sqrt(-2.0 * log(random_uniform(random, 0.0, 1.0)));
    return radius * cos(6.283185307179586 * random_uniform(random, 0.0, 1.0));
}

void *new_bytes(size_t size) {
    void *bytes = calloc(1, size ? size : 1);
    ck_assert_ptr_nonnull(bytes);
    return bytes;
}

double *new_numbers(size_t count) {
    double *numbers = new_bytes(count * sizeof *numbers);
    for (size_t i = 0; i < count; i++)
        numbers[i] = NAN;
    return numbers;
}

double *new_normals(random_source *random, size_t count, double sd) {
    double *numbers = new_numbers(count);
    for (size_t i = 0; i < count; i++)
        numbers[i] = sd * random_normal(random);
    return numbers;
}

double *new_copy(const double *from, size_t count) {
    double *numbers = new_numbers(count);
    if (count)
        memcpy(numbers, from, count * sizeof *numbers);
    return numbers;
}

bool equal_bits(const double *a, const double *b, size_t count) { return count == 0 || memcmp(a, b, count * sizeof *a) == 0; }

double *new_parameters(const nf_flow *flow) {
    double *theta = new_numbers(nf_parameter_count(flow));
    must(nf_get_parameters(flow, theta));
    return theta;
}

void same_parameters(const nf_flow *a, const nf_flow *b) {
    double *p = new_parameters(a), *q = new_parameters(b);
    same_bits("parameters", p, q, nf_parameter_count(a));
    free(p);
    free(q);
}

void same_bits(const char *what, const double *a, const double *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(memcmp(a + i, b + i, sizeof *a) == 0, "%s: number %zu of %zu is %.17g and %.17g (seed %llu)", what, i, count, a[i], b[i],
                      (unsigned long long)test_seed());
}

double whole_error(const double *got, const double *expected, size_t count) {
    double worst = 0, largest = 1;
    for (size_t i = 0; i < count; i++) {
        const double error = fabs(got[i] - expected[i]);
        if (!(error <= worst))
            worst = isnan(error) ? INFINITY : error;
        largest = fmax(largest, fabs(expected[i]));
    }
    return worst / largest;
}

double row_error(const double *got, const double *expected, size_t rows, size_t columns) {
    double worst = 0;
    for (size_t r = 0; r < rows; r++)
        worst = fmax(worst, whole_error(got + r * columns, expected + r * columns, columns));
    return worst;
}

double log_abs_det(double *a, size_t n) {
    double sum = 0;
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[pivot * n + k]))
                pivot = i;
        for (size_t j = 0; j < n; j++) {
            const double kept = a[k * n + j];
            a[k * n + j] = a[pivot * n + j];
            a[pivot * n + j] = kept;
        }
        sum += log(fabs(a[k * n + k]));
        for (size_t i = k + 1; i < n; i++) {
            const double factor = a[i * n + k] / a[k * n + k];
            for (size_t j = k; j < n; j++)
                a[i * n + j] -= factor * a[k * n + j];
        }
    }
    return sum;
}

static double central(scalar_function f, void *user, double *at, size_t i, double h) {
    const double here = at[i], right = here + h, left = here - h;
    at[i] = right;
    const double above = f(user, at);
    at[i] = left;
    const double below = f(user, at);
    at[i] = here;
    return (above - below) / (right - left);
}

double difference(scalar_function f, void *user, double *at, size_t i, double h) {
    return (4.0 * central(f, user, at, i, 0.5 * h) - central(f, user, at, i, h)) / 3.0;
}

/* Before each block stand its counter and its size, so that a foreign pointer is known. */
typedef struct block_header {
    memory_counter *owner;
    size_t size;
} block_header;

static void *counted_alloc(void *user, size_t size) {
    memory_counter *counter = user;
    counter->wrong |= (unsigned long)pthread_self() != counter->thread;
    counter->calls++;
    if (counter->fail_at && (counter->once ? counter->calls == counter->fail_at : counter->calls >= counter->fail_at))
        return NULL;
    block_header *header = malloc(sizeof *header + size);
    if (!header)
        return NULL;
    *header = (block_header){counter, size};
    memset(header + 1, 0xA5, size);
    counter->live++;
    return header + 1;
}

static void counted_release(void *user, void *pointer) {
    memory_counter *counter = user;
    block_header *header = (block_header *)pointer - 1;
    counter->wrong |= (unsigned long)pthread_self() != counter->thread || !pointer || header->owner != counter || counter->live == 0;
    counter->live--;
    header->owner = NULL;
    memset(pointer, 0x5A, header->size);
    free(header);
}

nf_allocator counted_memory(memory_counter *counter) {
    *counter = (memory_counter){.thread = (unsigned long)pthread_self()};
    return (nf_allocator){counted_alloc, counted_release, counter};
}

void randomize(nf_flow *flow, random_source *random, double sd) {
    double *parameters = new_normals(random, nf_parameter_count(flow), sd);
    must(nf_set_parameters(flow, parameters));
    free(parameters);
}

nf_flow *make_realnvp(size_t dim, size_t context_dim, nf_precision precision, const nf_allocator *allocator) {
    nf_flow *flow;
    must(nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = dim, .context_dim = context_dim, .couplings = 3, .seed = 17, .precision = precision,
                                     .hidden_layers = 1, .hidden_width = 6, .allocator = allocator),
                           &flow));
    return flow;
}

const char *scratch_folder(void) {
    const char *folder = getenv("TMPDIR");
    return folder && *folder ? folder : "/tmp";
}

void make_scratch_file(char *path, size_t size, const char *name) {
    ck_assert_int_lt(snprintf(path, size, "%s/nflow-%s-XXXXXX", scratch_folder(), name), (int)size);
    const int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    close(file);
}
