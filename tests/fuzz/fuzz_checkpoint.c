/*
 * Fuzz target: edits to a checkpoint of nf_fit, from which a fit goes on. Where the checksum stands in the way it is made right again, as a forger would, so that what lies
 * behind it is reached. A file that is refused leaves the flow as it was; no file gives it parameters that are not finite.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nflow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DIM = 2, ROWS = 24, EPOCHS = 3, LENGTH_BYTES = 8, MOST_EDITS = 24, EDIT_BYTES = 4, DIGITS = 16, MOST_PARAMETERS = 64 };

static char path[64];
static double x[ROWS * DIM];
static uint8_t *whole; /* a checkpoint after the first epoch */
static size_t whole_size;
static char line[512]; /* about the last failure */

static nf_flow *make_flow(void) {
    nf_flow *flow;
    if (nf_realnvp_create(NF_CONFIG(nf_realnvp_config, .dim = DIM, .couplings = 2, .hidden_layers = 1, .hidden_width = 2, .seed = 3), &flow) != NF_OK)
        abort();
    return flow;
}

static int stop(void *user, const nf_fit_progress *progress) {
    (void)user;
    (void)progress;
    return 1;
}

static nf_status fit(nf_flow *flow, nf_progress_fn progress) {
    return nf_fit(flow, ROWS, x, NULL, NF_CONFIG(nf_fit_config, .epochs = EPOCHS, .batch_size = 8, .seed = 5, .checkpoint = path, .progress = progress), NULL);
}

static void write_file(const uint8_t *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        abort();
}

static void read_whole(void) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        abort();
    whole_size = (size_t)ftell(file);
    rewind(file);
    whole = malloc(whole_size);
    if (!whole || fread(whole, 1, whole_size, file) != whole_size || fclose(file) != 0)
        abort();
}

static void remove_file(void) { unlink(path); }

static void begin(void) {
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.30s/nflow-fuzz-%ld", folder ? folder : "/tmp", (long)getpid());
    for (size_t i = 0; i < ROWS * DIM; i++)
        x[i] = sin(0.385 * (double)(i * i)) + 0.1 * (double)(i % 5);
    nf_flow *flow = make_flow();
    if (fit(flow, stop) != NF_STOPPED)
        abort();
    nf_flow_free(flow);
    read_whole();
    atexit(remove_file);
}

static uint64_t header_length(const uint8_t *bytes) {
    uint64_t length = 0;
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)bytes[i] << (8 * i);
    return length;
}

static void put_u64(uint8_t *to, uint64_t value) {
    for (size_t i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

/* Numbers that counts and reals of a fit had better not be; the counts stand there as integers. */
static uint64_t odd_word(unsigned value) {
    static const double odd[] = {NAN, INFINITY, -INFINITY, 1e308, -1.0, 5e-324, 0.0, 1e19};
    uint64_t word;
    if (value % 16 < 8)
        memcpy(&word, &odd[value % 8], sizeof word);
    else
        word = value % 16 == 8 ? UINT64_MAX : value % 16 == 9 ? UINT64_MAX / 2 : value % 16 == 10 ? UINT64_C(1) << 32 : value / 16u;
    return word;
}

/* One edit: two bytes of place, what, and a value. What changes the length of the header says so in the file. */
static size_t edit(uint8_t *bytes, size_t size, const uint8_t *how) {
    size_t at = ((size_t)how[0] << 8 | how[1]) % size;
    const uint64_t header = header_length(bytes);
    const size_t data = header < size - LENGTH_BYTES ? LENGTH_BYTES + (size_t)header : size;
    const int in_header = at >= LENGTH_BYTES && at < data;
    switch (how[2] % 8) {
    case 0:
        memmove(bytes + at, bytes + at + 1, size - at - 1);
        put_u64(bytes, header - (uint64_t)in_header);
        return size > LENGTH_BYTES + 1 ? size - 1 : size;
    case 1:
        memmove(bytes + at + 1, bytes + at, size - at);
        bytes[at] = how[3];
        if (at >= LENGTH_BYTES)
            put_u64(bytes, header + (uint64_t)in_header);
        return size + 1;
    case 2:
        bytes[at] = how[3];
        return size;
    case 3:
        bytes[at] ^= (uint8_t)(1u << how[3] % 8);
        return size;
    default: /* most of a fit's state is words */
        at = data + at % (size - data + (size == data)) / 8 * 8;
        if (at + 8 <= size)
            put_u64(bytes + at, odd_word(how[3]));
        return size;
    }
}

/* The checksum that the file ought to have is in the line that refuses it. */
static int make_right(uint8_t *bytes, size_t size) {
    static const char ought[] = "its checksum is ", says[] = "\"checksum\":\"";
    const char *said = strstr(line, ought);
    for (size_t i = 0; said && i + sizeof says - 1 + DIGITS <= size; i++)
        if (memcmp(bytes + i, says, sizeof says - 1) == 0) {
            memcpy(bytes + i + sizeof says - 1, said + sizeof ought - 1, DIGITS);
            return 1;
        }
    return 0;
}

/* The fit from the file. The line about a failure is kept. */
static nf_status go_on(nf_flow *flow, const double *before) {
    double now[MOST_PARAMETERS];
    const nf_status status = fit(flow, NULL);
    snprintf(line, sizeof line, "%s", nf_last_error());
    const int refused = status == NF_ERR_FORMAT || status == NF_ERR_MISMATCH || status == NF_ERR_MEMORY;
    if ((status != NF_OK) != (*line != '\0') || (!refused && status != NF_OK && status != NF_ERR_DIVERGED) || nf_get_parameters(flow, now) != NF_OK)
        abort();
    for (size_t i = 0; i < nf_parameter_count(flow); i++)
        if (!isfinite(now[i]) || (refused && memcmp(&now[i], &before[i], sizeof now[i]) != 0))
            abort();
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    double before[MOST_PARAMETERS];
    if (!whole)
        begin();
    nf_flow *flow = make_flow();
    uint8_t *bytes = malloc(whole_size + MOST_EDITS);
    if (!bytes || nf_parameter_count(flow) > MOST_PARAMETERS || nf_get_parameters(flow, before) != NF_OK)
        abort();
    memcpy(bytes, whole, whole_size);
    size_t bytes_size = whole_size;
    for (size_t i = 0; i < MOST_EDITS && (i + 1) * EDIT_BYTES <= size; i++)
        bytes_size = edit(bytes, bytes_size, data + i * EDIT_BYTES);
    write_file(bytes, bytes_size);
    if (go_on(flow, before) == NF_ERR_FORMAT && make_right(bytes, bytes_size)) {
        write_file(bytes, bytes_size);
        go_on(flow, before);
    }
    free(bytes);
    nf_flow_free(flow);
    return 0;
}
