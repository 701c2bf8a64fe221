/*
 * progress.h - how a fit is getting on: one line that is rewritten on a terminal, some plain lines in a log, JSON for machines; and
 * interrupts
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "curve.h"
#include "nflow.h"

typedef enum progress_kind { PROGRESS_TEXT, PROGRESS_JSON } progress_kind;

typedef struct progress {
    progress_kind kind;
    bool terminal;
    double offset;       /* what is added to all losses */
    bool open;           /* a line on the terminal is not ended */
    bool standard_taken; /* the model goes to the standard output */
    double last;         /* seconds of the fit when it was last said */
    double next_log;     /* and when a log gets its next line */
    double gap;          /* seconds between its lines */
    curve *losses;
} progress;

/* From here on an interrupt asks the fit to stop, and a second one ends the program. Losses are also added to `losses`, without the offset. */
void progress_begin(progress *p, progress_kind kind, bool standard_taken, double offset, curve *losses);
int progress_show(void *user, const nf_fit_progress *now); /* an nf_progress_fn */
void progress_end(progress *p);

/* "1 h 02 min", "12 min", "3:20 min", "12 s" */
void progress_duration(double seconds, char *text, size_t size);

#endif
