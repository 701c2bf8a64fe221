/*
 * curve.h - the losses of a fit's epochs; with a checkpoint also in a file beside it, CHECKPOINT.curve, so that a fit that was killed and is taken
 * up has all of them
 *
 * A line is added after the checkpoint of its epoch was written: when the process ends in between, the checkpoint has the losses of that epoch.
 */
#ifndef CURVE_H
#define CURVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <jansson.h>

typedef struct curve_epoch {
    size_t epoch;
    double train, validation; /* NaN: none */
} curve_epoch;

typedef struct curve {
    curve_epoch *epochs;
    size_t count, room;
    char *path; /* NULL: no file */
    FILE *file;
} curve;

/* Empty, or with the epochs before those that a fit with this checkpoint will run. NULL: no checkpoint. Ends the program when no file can be made. */
void curve_begin(curve *c, const char *checkpoint);
void curve_add(curve *c, size_t epoch, double train, double validation);
/* The file goes when the fit is done, and stays with the checkpoint. */
void curve_end(curve *c, bool done);

/*
 * {"epoch": [..], "train": [..], "validation": [..]}: at most some hundred epochs, evenly spaced, the last one among them. `offset` is added to
 * losses.
 */
json_t *curve_json(const curve *c, double offset);

#endif
