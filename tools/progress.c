/* The terminal's line, the log's lines, and the interrupt. */
#define _GNU_SOURCE
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "progress.h"
#include "tool.h"

enum { FIRST_LINES = 3 };

static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t said_it; /* whether the handler may write */

static void on_interrupt(int signal_number) {
    (void)signal_number;
    static const char line[] = "\nstopping after this epoch, and saving the best model; once more (Ctrl-C) ends at once, without it\n";
    interrupted = 1;
    if (!said_it)
        return;
    const ssize_t wrote = write(STDERR_FILENO, line, sizeof line - 1);
    (void)wrote;
}

/* A signal that is ignored, as a shell's background jobs ignore an interrupt, stays so. */
static void handle(int signal_number, void (*handler)(int)) {
    struct sigaction old, action = {.sa_handler = handler, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    if (sigaction(signal_number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(signal_number, &action, NULL);
}

void progress_begin(progress *p, progress_kind kind, bool standard_taken, double offset, curve *losses) {
    *p = (progress){.kind = kind,
                    .terminal = isatty(STDERR_FILENO),
                    .standard_taken = standard_taken,
                    .offset = offset,
                    .last = -1.0,
                    .losses = losses};
    said_it = !tool_quiet && kind == PROGRESS_TEXT;
    p->open = said_it && p->terminal;
    if (p->open)
        fputs("the first epoch runs, and then the time that is left is known", stderr);
    handle(SIGINT, on_interrupt);
    handle(SIGTERM, on_interrupt);
}

void progress_duration(double seconds, char *text, size_t size) {
    const unsigned long whole = (unsigned long)lrint(fmin(fmax(seconds, 0.0), 1e9)); /* NaN: 0 */
    if (whole >= 3600)
        snprintf(text, size, "%lu h %02lu min", whole / 3600, whole / 60 % 60);
    else if (whole >= 600)
        snprintf(text, size, "%lu min", whole / 60);
    else if (whole >= 60)
        snprintf(text, size, "%lu:%02lu min", whole / 60, whole % 60);
    else
        snprintf(text, size, "%lu s", whole);
}

static void put_number(const char *key, double value) {
    if (isfinite(value))
        printf(", \"%s\": %.9g", key, value);
    else
        printf(", \"%s\": null", key);
}

static void put_json(const progress *p, const nf_fit_progress *now) {
    if (p->standard_taken)
        return;
    printf("{\"event\": \"epoch\", \"epoch\": %zu, \"epochs\": %zu", now->epoch, now->epochs);
    put_number("train_loss", now->train_loss);
    put_number("validation_loss", now->validation_loss);
    put_number("best_loss", now->best_loss);
    put_number("learning_rate", now->learning_rate);
    put_number("seconds", now->seconds);
    put_number("seconds_left", now->seconds_left);
    puts("}");
    fflush(stdout);
}

/* Four decimals while that is short. */
static void put_loss(const char *name, double loss, char *text, size_t size) {
    snprintf(text, size, fabs(loss) < 100.0 ? "%s %.4f" : "%s %.5g", name, loss);
}

/* 79 letters at most: a line that wraps cannot be rewritten. */
static void put_line(const nf_fit_progress *now, const char *end) {
    char left[32], train[40], held_out[40] = "";
    progress_duration(now->seconds_left, left, sizeof left);
    put_loss("train", now->train_loss, train, sizeof train);
    if (isfinite(now->validation_loss))
        put_loss("  held-out", now->validation_loss, held_out, sizeof held_out);
    fprintf(stderr, "epoch %*zu/%zu  %s%s  rate %.1e  %s left%s", now->epochs > 99 ? 3 : 2, now->epoch, now->epochs, train, held_out,
            now->learning_rate, left, end);
}

/* A log gets a line after the first epochs, then after longer and longer, and after the last. */
static bool log_now(progress *p, const nf_fit_progress *now) {
    if (p->losses->count > FIRST_LINES && now->seconds < p->next_log && now->epoch < now->epochs)
        return false;
    p->gap = fmin(fmax(1.3 * p->gap, 0.5), 60.0);
    p->next_log = now->seconds + p->gap;
    return true;
}

int progress_show(void *user, const nf_fit_progress *given) {
    progress *p = user;
    nf_fit_progress shown = *given, *now = &shown;
    shown.train_loss += p->offset;
    shown.validation_loss += p->offset;
    shown.best_loss += p->offset;
    curve_add(p->losses, given->epoch, given->train_loss, given->validation_loss);
    if (p->kind == PROGRESS_JSON) {
        put_json(p, now);
    } else if (!tool_quiet && p->terminal) {
        if (now->seconds - p->last > 0.1 || now->epoch == now->epochs || interrupted) {
            fputs("\r\033[K", stderr);
            put_line(now, "");
            p->open = true;
            p->last = now->seconds;
        }
    } else if (!tool_quiet && log_now(p, now)) {
        put_line(now, "\n");
    }
    return interrupted != 0;
}

void progress_end(progress *p) {
    if (p->open)
        fputc('\n', stderr);
    p->open = false;
    handle(SIGINT, SIG_DFL);
    handle(SIGTERM, SIG_DFL);
}
