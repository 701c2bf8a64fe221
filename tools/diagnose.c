/* nflow diagnose: the report of nf_diagnose, and an exit status that says whether all checks passed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "evaluate.h"

typedef struct named_finding {
    const char *name;
    const nf_finding *finding;
} named_finding;

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

/* More of a finding, where there is one. */
static void put_more(json_t *report, const char *name, const nf_finding *finding, const char *key, json_t *value) {
    if (finding->verdict != NF_SKIPPED)
        json_object_set(json_object_get(report, name), key, value);
    json_decref(value);
}

/* A row as the table, or without one a sample, is numbered. */
static size_t row_number(const evaluation *e, size_t row) { return e->rows.numbers ? e->rows.numbers[row] : row + 1; }

static void put_json(const nf_diagnose_report *r, const evaluation *e) {
    static const char *const verdicts[] = {"passed", "failed", "skipped"};
    const named_finding all[] = {
        {"round_trip", &r->round_trip},
        {"log_det_pair", &r->log_det_pair},
        {"log_det", &r->log_det},
        {"accuracy", &r->accuracy},
        {"gradient", &r->gradient},
        {"forward_vjp", &r->forward_vjp},
        {"inverse_vjp", &r->inverse_vjp},
        {"normalization", &r->normalization},
        {"sampler", &r->sampler},
        {"effective_sample_size", &r->effective_sample_size},
        {"largest_weight", &r->largest_weight},
        {"two_sample", &r->two_sample},
        {"calibration", &r->calibration},
    };
    json_t *report = json_object();
    json_object_set_new(report, "failed", json_integer((json_int_t)r->failed));
    json_object_set_new(report, "skipped", json_integer((json_int_t)r->skipped));
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const nf_finding *f = all[i].finding;
        json_object_set_new(report, all[i].name,
                            json_pack("{s:o, s:o, s:s}", "value", number(f->value), "threshold", number(f->threshold), "verdict", verdicts[f->verdict]));
    }
    put_more(report, "round_trip", &r->round_trip, "row", json_integer((json_int_t)row_number(e, r->round_trip_row)));
    put_more(report, "round_trip", &r->round_trip, "condition", number(r->round_trip_condition));
    put_more(report, "round_trip", &r->round_trip, "typical", number(r->round_trip_typical));
    put_more(report, "log_det", &r->log_det, "row", json_integer((json_int_t)row_number(e, r->log_det_row)));
    put_more(report, "normalization", &r->normalization, "error", number(r->normalization_error));
    put_more(report, "calibration", &r->calibration, "column", json_string(e->m.names[r->calibration_column]));
    json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(report);
}

/* A line that is wider than a terminal: what is last in it, where the worst is, goes below. */
static void put_line(const char *line) {
    const size_t length = strlen(line);
    size_t last = length;
    while (length > 80 && last > 2 && (line[last - 1] != ' ' || line[last - 2] != ' '))
        last--;
    printf("%.*s\n", (int)last, line);
    if (last < length)
        printf("%9s%s\n", "", line + last);
}

/* The library's text with rows counted from 1, those of the table, and columns named, as the command does. */
static void put_text(const nf_diagnose_report *report, const evaluation *e) {
    nf_diagnose_report r = *report;
    r.round_trip_row = row_number(e, r.round_trip_row);
    r.log_det_row = row_number(e, r.log_det_row);
    const size_t size = nf_diagnose_text(&r, NULL, 0) + 1;
    char *text = allocate(size, 1);
    nf_diagnose_text(&r, text, size);
    static const char of_column[] = "  of column ";
    char *column = strstr(text, of_column), *rest = column ? column + strcspn(column, "\n") : text;
    char *whole = column ? new_text("%.*s%s%s%s", (int)(column - text), text, of_column, e->m.names[r.calibration_column], rest) : copy_text(rest);
    for (const char *line = strtok(whole, "\n"); line; line = strtok(NULL, "\n"))
        put_line(line);
    free(whole);
    free(text);
}

int nflow_diagnose(int count, char **words) {
    evaluation e = {0};
    bool json = false;
    uint64_t seed = 1;
    size_t rows = 0;
    double significance = 1e-3;
    const option_entry entries[] = {
        {"rows", 'n', OPTION_COUNT, &rows, "N", "most rows of data that the tests of the distribution look at; default 1000"},
        {"significance", 0, OPTION_NUMBER, &significance, "P", "a test of the distribution fails below this p-value, above 0 and 1 at most; default 0.001"},
        {"seed", 's', OPTION_INTEGER, &seed, "N", "of the random numbers; default 1"},
        {"json", 0, OPTION_FLAG, &json, NULL, "the report as JSON, rows and columns as in the table"},
        OPTION_COLUMNS(&e.choice),
        OPTION_DROP(&e.choice),
        OPTION_THREADS(&e.threads),
        OPTION_QUIET,
    };
    const option_set set = {"diagnose",
                            "MODEL [DATA]",
                            "Check that a flow is what it claims to be, and with data, preferably held-out rows, that it is what they are. "
                            "The exit status is 0 when all checks "
                            "pass, and 3 when one fails.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            1,
                            2};
    const char *data = evaluation_words(&set, count, words);
    if (!(significance > 0.0 && significance <= 1.0)) /* 0 is the library's word for its default */
        die_usage("--significance %g: this should be above 0, and 1 at most", significance);
    model_load(&e.m, words[1]);
    if (data)
        evaluation_read(&e, data);
    else if (e.m.context_dim > 0)
        die_usage("%s takes a context, so it needs data: nflow diagnose MODEL DATA", words[1]);
    nf_diagnose_report report = {.struct_size = sizeof report};
    must(nf_diagnose(e.m.flow, e.rows.rows, e.rows.x, e.rows.context,
                     NF_CONFIG(nf_diagnose_config, .rows = rows, .threads = e.threads ? e.threads : processors(), .seed = seed,
                               .significance = significance),
                     &report));
    if (json)
        put_json(&report, &e);
    else if (!tool_quiet)
        put_text(&report, &e);
    finish_output();
    evaluation_end(&e);
    return report.failed > 0 ? STATUS_NOT_PASSED : STATUS_DONE;
}
