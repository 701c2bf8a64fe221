/*
 * What the test programs share: numbers with many digits from a seed that failures print, differences and determinants to compare
 * with, the error measure of the golden files, an allocator that counts and fails, and flows made from a line of JSON.
 */
#ifndef NF_TESTS_SUPPORT_H
#define NF_TESTS_SUPPORT_H

#include "checks.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nflow.h"

/* ---- status ---- */

/* A call that must succeed; the library's own line is printed if it does not. */
#define must(call) must_be_(NF_OK, (call), #call, __FILE__, __LINE__)
/* A call that must return a status. */
#define must_be(status, call) must_be_((status), (call), #call, __FILE__, __LINE__)
void must_be_(nf_status wanted, nf_status got, const char *call, const char *file, int line);

/* The last error starts with "<function>: " and contains `text`. */
void must_say(const char *function, const char *text);

/* ---- random numbers ---- */

/* NFLOW_TEST_SEED in the environment, or a fixed number. */
uint64_t test_seed(void);

typedef struct random_source {
    uint64_t state;
} random_source;

random_source random_begin(uint64_t stream); /* of test_seed() */
random_source random_of_seed(uint64_t seed, uint64_t stream);
uint64_t random_bits(random_source *random);
double random_uniform(random_source *random, double low, double high);
double random_normal(random_source *random);

/* ---- arrays; all freed by the caller ---- */

void *new_bytes(size_t size);
double *new_numbers(size_t count); /* filled with a NaN, so that what a call leaves out is seen */
double *new_normals(random_source *random, size_t count, double sd);
double *new_copy(const double *from, size_t count);
double *new_parameters(const nf_flow *flow);
void same_bits(const char *what, const double *a, const double *b, size_t count);
bool equal_bits(const double *a, const double *b, size_t count);
void same_parameters(const nf_flow *a, const nf_flow *b); /* of as many, to the bit */

/* ---- comparing ---- */

/* max|got - expected| / max(1, max|expected|): over each row, the worst; NaN counts as infinite. */
double row_error(const double *got, const double *expected, size_t rows, size_t columns);
double whole_error(const double *got, const double *expected, size_t count);
#define must_agree(what, error, tolerance)                                                                                                \
    do {                                                                                                                                  \
        const double error_ = (error), tolerance_ = (tolerance);                                                                          \
        ck_assert_msg(error_ <= tolerance_, "%s: error %.3g, allowed %.3g (seed %llu)", (what), error_, tolerance_,                        \
                      (unsigned long long)test_seed());                                                                                   \
    } while (0)

/* log|det| of a row-major n x n matrix, which is destroyed: LU with partial pivoting. */
double log_abs_det(double *matrix, size_t n);

/* df/dat[i] by central differences with steps h and h/2, extrapolated (Richardson 1911). */
typedef double (*scalar_function)(void *user, const double *at);
double difference(scalar_function f, void *user, double *at, size_t i, double h);

/* ---- memory ---- */

/* Counts; the allocation number fail_at (from 1; 0: none) and, unless `once`, all later ones fail. Complains of another thread or a foreign pointer. */
typedef struct memory_counter {
    size_t calls, live, fail_at;
    unsigned long thread;
    bool once, wrong;
} memory_counter;

nf_allocator counted_memory(memory_counter *counter);

/* ---- flows ---- */

typedef struct fixture {
    const char *name;
    const char *kind; /* of layer, as in files; "" for stacks of several */
    size_t dim, context_dim;
    const char *layers;  /* JSON array of layers, as in a model file */
    double sd;           /* of the random parameters */
    double map_error;    /* by how much a round trip may be off, per unit; the rest follows from it */
    double step;         /* of differences */
} fixture;

extern const fixture fixtures[];
extern const size_t fixture_count;
/* A flow with all parameters 0, through nf_flow_load_memory_with. */
nf_status load_layers(const char *layers, size_t dim, size_t context_dim, const nf_allocator *allocator, nf_flow **flow);
/* With random parameters, a base that is not standard, in a precision, inverted or not. */
nf_flow *make_fixture(const fixture *f, bool inverted, nf_precision precision, uint64_t stream);
void randomize(nf_flow *flow, random_source *random, double sd);

/*
 * A fixture with what every test of it needs. Subject number i is fixture i / 2, inverted when i is odd.
 */
typedef struct subject {
    const fixture *f;
    nf_flow *flow;
    nf_workspace *ws;
    nf_gradient *gradient;
    size_t dim, context_dim, count;
    random_source random;
} subject;

void open_subject(subject *s, int i, nf_precision precision, size_t threads);
void close_subject(subject *s);
double *new_context(subject *s, size_t rows); /* NULL when the flow takes none */

/* A small Real NVP: what tests take that need any flow. */
nf_flow *make_realnvp(size_t dim, size_t context_dim, nf_precision precision, const nf_allocator *allocator);

/* Where tests write: TMPDIR, or /tmp. */
const char *scratch_folder(void);
/* An empty file there of a name of its own. */
void make_scratch_file(char *path, size_t size, const char *name);

#endif
