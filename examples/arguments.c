/* strtoull takes "-1" for 2^64 - 1, and both it and strtod take what only begins as a number. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "arguments.h"

uint64_t argument_count(const char *option, const char *word, uint64_t least, uint64_t most) {
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(word, &end, 10);
    if (isdigit((unsigned char)*word) && *end == '\0' && errno == 0 && value >= least && value <= most)
        return value;
    fprintf(stderr, "%s %s: this should be a whole number, %" PRIu64 " to %" PRIu64 "\n", option, word, least, most);
    exit(EXIT_FAILURE);
}

double argument_positive(const char *option, const char *word) {
    char *end;
    const double value = strtod(word, &end);
    if (!isspace((unsigned char)*word) && end != word && *end == '\0' && isfinite(value) && value > 0.0)
        return value;
    fprintf(stderr, "%s %s: this should be a positive number\n", option, word);
    exit(EXIT_FAILURE);
}
