/* What the suites of nf_diagnose share: the table of calls that a sound flow has, flows and rows to look at, and what a report must say. */
#ifndef NF_TESTS_DIAGNOSE_SCENE_H
#define NF_TESTS_DIAGNOSE_SCENE_H

#include "api/diagnose.h"
#include "support.h"

enum { ROWS = 500, DIM = 2 };

extern const nf_diagnose_calls sound;

nf_diagnose_report diagnose(const nf_diagnose_calls *calls, const nf_flow *flow, size_t rows, const double *x, const double *context,
                            const nf_diagnose_config *config);

void must_pass(const char *what, const nf_diagnose_report *report);
void must_fail(const char *what, const nf_diagnose_report *report, const nf_finding *f);

nf_flow *trained_like(nf_precision precision);
double *drawn_rows(const nf_flow *flow, size_t rows);

#endif
