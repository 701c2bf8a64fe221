#include "batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

batch new_batch(subject *s, size_t rows) {
    batch r = {.rows = rows};
    r.in = new_normals(&s->random, rows * s->dim, 1.385);
    r.context = new_context(s, rows);
    r.a = new_normals(&s->random, rows * s->dim, 1.0);
    r.b = new_normals(&s->random, rows, 1.0);
    for (int i = 0; i < MOST_CALLS; i++) {
        r.out[i] = new_numbers(rows * s->dim);
        r.scalar[i] = new_numbers(rows);
        r.d_context[i] = new_numbers(rows * s->context_dim);
    }
    return r;
}

batch part_of(const subject *s, const batch *whole, size_t first, size_t rows) {
    batch r = {.rows = rows};
    r.in = new_copy(whole->in + first * s->dim, rows * s->dim);
    r.context = whole->context ? new_copy(whole->context + first * s->context_dim, rows * s->context_dim) : NULL;
    r.a = new_copy(whole->a + first * s->dim, rows * s->dim);
    r.b = new_copy(whole->b + first, rows);
    for (int i = 0; i < MOST_CALLS; i++) {
        r.out[i] = new_numbers(rows * s->dim);
        r.scalar[i] = new_numbers(rows);
        r.d_context[i] = new_numbers(rows * s->context_dim);
    }
    return r;
}

void free_batch(batch *r) {
    double *inputs[] = {r->in, r->context, r->a, r->b};
    for (size_t i = 0; i < 4; i++)
        free(inputs[i]);
    for (int i = 0; i < MOST_CALLS; i++) {
        free(r->out[i]);
        free(r->scalar[i]);
        free(r->d_context[i]);
    }
}

const char *const call_names[MOST_CALLS] = {"forward", "inverse", "score", "forward_vjp", "inverse_vjp"};

nf_status call(const subject *s, nf_workspace *ws, int which, batch *r) {
    switch (which) {
    case 0:
        return nf_forward(s->flow, ws, r->rows, r->in, r->context, r->out[0], r->scalar[0]);
    case 1:
        return nf_inverse(s->flow, ws, r->rows, r->in, r->context, r->out[1], r->scalar[1]);
    case 2:
        return nf_score(s->flow, ws, r->rows, r->in, r->context, r->scalar[2], r->out[2]);
    case 3:
        return nf_forward_vjp(s->flow, ws, r->rows, r->in, r->context, r->a, r->b, r->out[3], r->d_context[3], NULL);
    default:
        return nf_inverse_vjp(s->flow, ws, r->rows, r->in, r->context, r->a, r->b, r->out[4], r->d_context[4], NULL);
    }
}

void call_all(const subject *s, nf_workspace *ws, batch *r) {
    for (int i = 0; i < MOST_CALLS; i++)
        must(call(s, ws, i, r));
}

void same_rows(const subject *s, const batch *part, const batch *whole, size_t first) {
    for (int i = 0; i < MOST_CALLS; i++) {
        const bool out = equal_bits(part->out[i], whole->out[i] + first * s->dim, part->rows * s->dim);
        const bool scalar = equal_bits(part->scalar[i], whole->scalar[i] + first, part->rows);
        const bool context = equal_bits(part->d_context[i], whole->d_context[i] + first * s->context_dim, part->rows * s->context_dim);
        ck_assert_msg(out && scalar && context, "%s: %s of %zu rows from %zu differs from that of %zu (seed %llu)", s->f->name, call_names[i], part->rows, first,
                      whole->rows, (unsigned long long)test_seed());
    }
}

void open_relaxed(subject *s, int i, nf_precision precision, size_t threads) {
    open_subject(s, i, precision, threads);
    if (strcmp(s->f->kind, "cnf") == 0)
        must(nf_cnf_set_solver(s->flow, NF_DOPRI5, 1e-4, 1e-4, 0, 0));
}

static bool all_nan(const double *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isnan(values[i]))
            return false;
    return true;
}

void check_spoilt(const subject *s, const batch *spoilt, const batch *clean, const bool *bad, int which) {
    for (size_t r = 0; r < clean->rows; r++) {
        const double *out = spoilt->out[which] + r * s->dim, *scalar = spoilt->scalar[which] + r, *d = spoilt->d_context[which] + r * s->context_dim;
        const bool has_scalar = which < 3, has_context = which >= 3;
        if (bad[r]) {
            ck_assert_msg(all_nan(out, s->dim) && (!has_scalar || all_nan(scalar, 1)) && (!has_context || all_nan(d, s->context_dim)),
                          "%s: %s: row %zu is bad and got numbers", s->f->name, call_names[which], r);
            continue;
        }
        ck_assert_msg(equal_bits(out, clean->out[which] + r * s->dim, s->dim) && equal_bits(scalar, clean->scalar[which] + r, 1) &&
                          equal_bits(d, clean->d_context[which] + r * s->context_dim, s->context_dim),
                      "%s: %s: row %zu changed because another one is bad (seed %llu)", s->f->name, call_names[which], r, (unsigned long long)test_seed());
    }
}

nf_status exact_target(void *user, size_t rows, const double *x, double *log_density, double *gradient) {
    const size_t dim = *(const size_t *)user;
    memset(gradient, 0, rows * dim * sizeof *gradient);
    for (size_t r = 0; r < rows; r++) {
        log_density[r] = -fabs(x[r * dim]);
        gradient[r * dim] = x[r * dim] > 0 ? -1.0 : 1.0;
    }
    return NF_OK;
}
