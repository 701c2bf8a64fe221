/*
 * progress.h - how a fit is getting on: one line that is rewritten on a terminal, some plain lines in a log, JSON for machines; and
 * interrupts
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "nflow.h"

typedef enum progress_kind { PROGRESS_TEXT, PROGRESS_JSON } progress_kind;

typedef struct progress_epoch {
    size_t epoch;
    double train, validation, rate;
} progress_epoch;

typedef struct progress {
    progress_kind kind;
    bool terminal;
    double offset;       /* what is added to all losses */
    bool open;           /* a line on the terminal is not ended */
    bool standard_taken; /* the model goes to the standard output */
    double last;         /* seconds of the fit when it was last said */
    double next_log;     /* and when a log gets its next line */
    double gap;          /* seconds between its lines */
    progress_epoch *epochs;
    size_t count, room;
} progress;

/* From here on an interrupt asks the fit to stop, and a second one ends the program. */
void progress_begin(progress *p, progress_kind kind, bool standard_taken, double offset);
int progress_show(void *user, const nf_fit_progress *now); /* an nf_progress_fn */
void progress_end(progress *p);
void progress_free(progress *p);

/* {"epoch": [..], "train": [..], "validation": [..]}: at most some hundred epochs, evenly spaced, the last one among them. */
json_t *progress_curve(const progress *p);
/* Epochs of such an object, before the first of this fit. */
void progress_recall(progress *p, const json_t *curve);

/* "1 h 02 min", "12 min", "3:20 min", "12 s" */
void progress_duration(double seconds, char *text, size_t size);

#endif
