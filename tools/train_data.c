/* The rows of a fit: columns chosen, checked, shuffled, split. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "evaluate.h"
#include "train.h"

enum {
    FEWEST_ROWS = 20,
    LOOKED_AT = 10000,
    FEW_VALUES = 10 /* percent */,
    MOST_WHITENED = 256, /* columns: the cost grows with their square */
    SAMPLE = 1000
};

typedef struct choice {
    const table *t;
    size_t *x, *context, *used; /* column numbers; used: all that must be numbers, first x, then the context */
    size_t x_count, context_count, used_count;
    size_t weight; /* a column number, or that of no column */
} choice;

/* ---- Columns */

static size_t *find(const table *t, const char *list, size_t *count) {
    char message[600];
    size_t *index;
    if (!table_find(t, list, &index, count, message, sizeof message))
        die("%s", message);
    return index;
}

/* All columns that have no other role, but for those without a single number. */
static void take_all_others(choice *c) {
    const table *t = c->t;
    char left[256] = "", room[32];
    size_t used = 0;
    bool commas = false;
    c->x = allocate(t->data.columns, sizeof *c->x);
    for (size_t i = 0; i < t->data.columns; i++) {
        if (i == c->weight || table_holds(c->context, c->context_count, i))
            continue;
        if (t->data.faults[i].count < t->data.rows) {
            c->x[c->x_count++] = i;
            continue;
        }
        commas = commas || table_has_comma(t, i);
        if (used + 64 < sizeof left)
            used += (size_t)snprintf(left + used, sizeof left - used, "%s%.56s", used ? ", " : "", table_name(t, i, room, sizeof room));
    }
    if (*left)
        note("%s: left out, because they hold no numbers: %s%s%s", t->path, left,
             t->data.names || t->npy ? "" : "; the first line is a row, for some of its fields are numbers",
             commas ? "; numbers are written with a decimal point, and without commas" : "");
    if (c->x_count == 0)
        die("%s: no column of numbers is left to model", t->path);
}

static void choose(choice *c, const train_options *o) {
    const table *t = c->t;
    c->weight = t->data.columns;
    if (o->context_columns)
        c->context = find(t, o->context_columns, &c->context_count);
    if (o->weight_column) {
        size_t count, *index = find(t, o->weight_column, &count);
        if (count != 1 || table_holds(c->context, c->context_count, *index))
            die("--weight-column %s: this should be one column, and none of the context", o->weight_column);
        c->weight = *index;
        free(index);
    }
    if (o->columns)
        c->x = find(t, o->columns, &c->x_count);
    else
        take_all_others(c);
    for (size_t i = 0; i < c->x_count; i++)
        if (c->x[i] == c->weight || table_holds(c->context, c->context_count, c->x[i]))
            die("--columns %s: one of them is a context or the weight too", o->columns);
    c->used = allocate(c->x_count + c->context_count + 1, sizeof *c->used);
    for (size_t i = 0; i < c->x_count; i++)
        c->used[c->used_count++] = c->x[i];
    for (size_t i = 0; i < c->context_count; i++)
        c->used[c->used_count++] = c->context[i];
    if (c->weight < t->data.columns)
        c->used[c->used_count++] = c->weight;
}

/* A model file is JSON, and its names are what other tables are searched for. */
static void refuse_other_letters(const table *t, size_t column) {
    json_t *name = json_string(t->data.names[column]);
    if (!name)
        die("%s: line %zu, column %zu: its name is not in UTF-8: convert the table, for example with iconv -f LATIN1 -t UTF-8", t->path,
            t->data.names_line, column + 1);
    json_decref(name);
}

/* Those that are not the table's own are said. */
static char **names_of(const table *t, const size_t *index, size_t count) {
    char **names = allocate(count, sizeof *names), made[200] = "";
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (t->names)
            refuse_other_letters(t, index[i]);
        names[i] = t->names ? copy_text(t->names[index[i]]) : new_text("x%zu", index[i] + 1);
        if (t->names && strcmp(t->data.names[index[i]], names[i]) != 0 && used + 48 < sizeof made)
            used += (size_t)snprintf(made + used, sizeof made - used, "%scolumn %zu as %.20s", used ? ", " : "", index[i] + 1, names[i]);
    }
    if (*made)
        note("%s: columns without a name of their own are in the model under another: %s", t->path, made);
    return names;
}

/* ---- Values */

static double *sorted_column(size_t rows, const double *x, size_t columns, size_t column) {
    double *sorted = allocate(rows, sizeof *sorted);
    for (size_t i = 0; i < rows; i++)
        sorted[i] = x[i * columns + column];
    qsort(sorted, rows, sizeof *sorted, compare_numbers);
    return sorted;
}

double smallest_step(size_t rows, const double *x, size_t columns, size_t column) {
    double *sorted = sorted_column(rows, x, columns, column), least = INFINITY;
    const double rounding = 1e-9 * (sorted[rows - 1] - sorted[0]); /* 0.1 + 0.2 is not another value than 0.3 */
    for (size_t i = 1; i < rows; i++)
        if (sorted[i] - sorted[i - 1] > rounding)
            least = fmin(least, sorted[i] - sorted[i - 1]);
    free(sorted);
    return isfinite(least) ? least : 0.0;
}

static void refuse_constant_columns(const train_data *d, const char *path) {
    for (size_t c = 0; c < d->dim; c++) {
        bool varies = false;
        for (size_t r = 1; r < d->rows && !varies; r++)
            varies = d->x[r * d->dim + c] != d->x[c];
        if (!varies)
            die("%s: the column %s is %g in every row, so the rows have no density: leave it out with --columns", path, d->names[c],
                d->x[c]);
    }
}

/*
 * Squares of a column's values, and with --precision single its standard deviation, must be numbers of the precision. A context that does not vary is
 * no harm.
 */
static void refuse_extreme_columns(const train_options *o, const char *path, size_t rows, const double *x, char *const *names, size_t columns) {
    const double most = o->precision == PRECISION_SINGLE ? 1e30 : 1e100;
    for (size_t c = 0; c < columns; c++) {
        double least = x[c], greatest = x[c];
        for (size_t r = 1; r < rows; r++) {
            least = fmin(least, x[r * columns + c]);
            greatest = fmax(greatest, x[r * columns + c]);
        }
        if (!(fmax(fabs(least), fabs(greatest)) <= most))
            die("%s: the column %s holds %g, and a fit bears %g at most: put it into other units", path, names[c],
                fabs(least) > fabs(greatest) ? least : greatest, most);
        if (greatest > least && !(greatest - least >= 1.0 / most))
            die("%s: all of the column %s lies within %g, and a fit needs %g at least: put it into other units", path, names[c],
                greatest - least, 1.0 / most);
    }
}

/* How --jitter takes a column, as a word that a shell takes as it is: its name or else its number. */
static const char *word_for(const table *t, size_t column, char *room, size_t size) {
    const char *name = t->data.names ? t->data.names[column] : "";
    size_t same;
    bool plain = *name && *name != '-' && strlen(name) < size && table_named(t, name, &same) == 1;
    for (const char *at = name; *at && plain; at++)
        plain = isalnum((unsigned char)*at) || (unsigned char)*at >= 0x80 || strchr("-_.+:/%@", *at);
    if (plain)
        return name;
    snprintf(room, size, "%zu", column + 1);
    return room;
}

/* How many different ones a column has. */
static size_t count_values(size_t rows, const double *x, size_t columns, size_t column) {
    double *sorted = sorted_column(rows, x, columns, column);
    size_t values = 1;
    for (size_t i = 1; i < rows; i++)
        values += sorted[i] != sorted[i - 1];
    free(sorted);
    return values;
}

/* A density of values that repeat has no bound; the reader of its likelihood should know. */
static bool say_few_values(const train_data *d, const table *t, const choice *chosen) {
    const size_t looked = d->rows < LOOKED_AT ? d->rows : LOOKED_AT;
    char list[200] = "", room[40];
    size_t used = 0;
    bool more = false;
    for (size_t c = 0; c < d->dim && looked >= 200; c++) {
        if (100 * count_values(looked, d->x, d->dim, c) >= FEW_VALUES * looked)
            continue;
        more = more || used + 48 >= sizeof list;
        if (!more)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? "," : "", word_for(t, chosen->x[c], room, sizeof room));
    }
    if (*list)
        note("%s: these columns%s repeat few values, and a density of such has no bound; '--jitter %s' spreads them over the steps between",
             t->path, more ? ", and others," : "", list);
    return *list != '\0';
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* A row of the table, with its context. */
typedef struct whole_row {
    const train_data *d;
    size_t row;
} whole_row;

static int compare_rows(const void *a, const void *b) {
    const train_data *d = ((const whole_row *)a)->d;
    const size_t p = ((const whole_row *)a)->row, q = ((const whole_row *)b)->row;
    const int order = memcmp(d->x + p * d->dim, d->x + q * d->dim, d->dim * sizeof *d->x);
    if (order != 0 || !d->context_dim)
        return order;
    return memcmp(d->context + p * d->context_dim, d->context + q * d->context_dim, d->context_dim * sizeof *d->context);
}

/*
 * How many of the table's first rows are there before as a whole. 0 where no column tells most of those apart that
 * differ, or there is but one column: rounded numbers meet by chance.
 */
static size_t count_same_rows(const train_data *d) {
    const size_t looked = d->rows < LOOKED_AT ? d->rows : LOOKED_AT;
    whole_row *rows = allocate(looked, sizeof *rows);
    size_t same = 0, values = 0; /* of the column that has most */
    for (size_t i = 0; i < looked; i++)
        rows[i] = (whole_row){d, i};
    qsort(rows, looked, sizeof *rows, compare_rows);
    for (size_t i = 1; i < looked; i++)
        same += compare_rows(&rows[i - 1], &rows[i]) == 0;
    free(rows);
    for (size_t c = 0; c < d->dim && same > 0; c++)
        values = most(values, count_values(looked, d->x, d->dim, c));
    for (size_t c = 0; c < d->context_dim && same > 0; c++)
        values = most(values, count_values(looked, d->context, d->context_dim, c));
    return d->dim + d->context_dim > 1 && 2 * (looked - same) <= 3 * values ? same : 0;
}

/* Of rows that stand several times, as a Markov chain's do, those that are held out are among those that are learnt. */
static void say_same_rows(const train_data *d, size_t same, const char *path) {
    const size_t looked = d->rows < LOOKED_AT ? d->rows : LOOKED_AT;
    if (looked >= 200 && same > looked / 10)
        note("%s: %zu of %s%zu rows repeat another, so that held-out rows are among those that are learnt; give each row once, with its count as --weight-column",
             path, same, looked < d->rows ? "the first " : "", looked);
}

static uint64_t random_bits(uint64_t *state) { /* splitmix64 (Steele, Lea & Flood 2014) */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double random_uniform(uint64_t *state) { return (double)(random_bits(state) >> 11) * 0x1p-53; }

static void swap_rows(double *values, size_t columns, size_t a, size_t b) {
    for (size_t i = 0; values && i < columns; i++) {
        const double kept = values[a * columns + i];
        values[a * columns + i] = values[b * columns + i];
        values[b * columns + i] = kept;
    }
}

/* Fisher & Yates; the three arrays together. */
static void shuffle(train_data *d, uint64_t seed) {
    uint64_t state = seed;
    for (size_t left = d->rows; left > 1; left--) {
        const size_t other = (size_t)(random_uniform(&state) * (double)left);
        swap_rows(d->x, d->dim, left - 1, other);
        swap_rows(d->context, d->context_dim, left - 1, other);
        swap_rows(d->weight, 1, left - 1, other);
    }
}

static void jitter(train_data *d, const table *t, const choice *c, const train_options *o) {
    if (!o->jitter)
        return;
    uint64_t state = ~o->seed;
    size_t count = c->x_count, *all = strcmp(o->jitter, "all") == 0 ? NULL : find(t, o->jitter, &count);
    for (size_t i = 0; i < count; i++) {
        size_t column = 0;
        while (column < c->x_count && c->x[column] != (all ? all[i] : c->x[i]))
            column++;
        if (column == c->x_count)
            die("--jitter %s: one of them is no column that is modelled", o->jitter);
        const double step = smallest_step(d->rows, d->x, d->dim, column);
        for (size_t r = 0; r < d->rows; r++)
            d->x[r * d->dim + column] += step * (random_uniform(&state) - 0.5);
        note("jitter of %s: uniform, %g wide", d->names[column], step);
    }
    free(all);
}

/* ---- Units that a fit likes */

/* Nets learn from inputs of size 1; a context may be a year or a price. */
static void scale_context(train_data *d) {
    if (d->context_dim == 0)
        return;
    whiten_fit(&d->context_scaling, d->training, d->context, NULL, d->context_dim, false);
    whiten_rows(&d->context_scaling, d->rows, d->context);
}

static double *copy_numbers(const double *from, size_t count) {
    double *copy = allocate(count, sizeof *copy);
    memcpy(copy, from, count * sizeof *copy);
    return copy;
}

/* What the held-out rows have under the training rows' Gaussian. */
static double gaussian_nll(const train_data *d, const whitening *gaussian) {
    double *z = copy_numbers(d->x + d->training * d->dim, d->held_out * d->dim);
    whiten_rows(gaussian, d->held_out, z);
    const double nll = whiten_nll(gaussian, d->held_out, z);
    free(z);
    return nll;
}

/* In any case each column gets mean 0 and standard deviation 1, in double: the fit rounds rows to single precision. */
static void whiten(train_data *d, const train_options *o) {
    whitening gaussian = {0};
    d->gaussian_nll = NAN;
    if (d->dim <= MOST_WHITENED) {
        whiten_fit(&gaussian, d->training, d->x, d->weight, d->dim, true);
        if (gaussian.singular)
            warn("some columns are linear functions of others, as far as can be seen, and a density of such has no bound: leave them out "
                 "with --columns");
        else if (d->context_dim == 0 && !d->weight && !o->matching)
            d->gaussian_nll = gaussian_nll(d, &gaussian);
    }
    if (d->dim <= MOST_WHITENED && !o->no_whitening) {
        d->whitening = gaussian;
    } else {
        whiten_free(&gaussian);
        whiten_fit(&d->whitening, d->training, d->x, d->weight, d->dim, false);
    }
    whiten_rows(&d->whitening, d->rows, d->x);
}

/* Before the rows get other units. */
static void take_sample(train_data *d) {
    const size_t rows = d->held_out > 0 ? d->held_out : d->training < SAMPLE ? d->training : SAMPLE;
    const size_t first = d->held_out > 0 ? d->training : 0;
    d->sample = (train_sample){.rows = rows, .x = copy_numbers(d->x + first * d->dim, rows * d->dim)};
    if (d->context)
        d->sample.context = copy_numbers(d->context + first * d->context_dim, rows * d->context_dim);
    if (d->weight)
        d->sample.weight = copy_numbers(d->weight + first, rows);
}

/* ---- Reading */

/*
 * Rows without weight are left out, so that some of those held out have one. The largest weight becomes one from 0.5 to 1, and the ratios of all
 * stay as they are to the last bit: sums of losses do not overflow.
 */
static void use_weights(train_data *d, const char *path) {
    double largest = 0;
    size_t kept = 0;
    for (size_t r = 0; d->weight && r < d->rows; r++) {
        if (d->weight[r] < 0.0)
            die("%s: a weight is %g; weights are not negative", path, d->weight[r]);
        largest = fmax(largest, d->weight[r]);
    }
    if (!d->weight)
        return;
    if (!(largest > 0.0))
        die("%s: all weights are 0", path);
    int exponent;
    frexp(largest, &exponent);
    for (size_t r = 0; r < d->rows; r++) {
        if (d->weight[r] == 0.0)
            continue;
        swap_rows(d->x, d->dim, kept, r);
        swap_rows(d->context, d->context_dim, kept, r);
        d->weight[kept++] = ldexp(d->weight[r], -exponent);
    }
    if (kept < d->rows)
        note("%s: left out %zu row%s of weight 0", path, d->rows - kept, d->rows - kept == 1 ? "" : "s");
    d->rows = kept;
}

/* What a table of the same kind must be known by, when names do not tell. */
static void take_places(train_data *d, const table *t, const choice *c) {
    const size_t all = c->x_count + c->context_count;
    bool plain = t->data.columns == all;
    for (size_t i = 0; i < all && plain; i++)
        plain = c->used[i] == i;
    if (t->data.names || plain)
        return;
    d->places = allocate(all, sizeof *d->places);
    memcpy(d->places, c->used, all * sizeof *d->places);
    d->table_columns = t->data.columns;
}

static void take_columns(train_data *d, table *t, const choice *c) {
    d->names = names_of(t, c->x, c->x_count);
    d->context_names = names_of(t, c->context, c->context_count);
    take_places(d, t, c);
    d->rows = t->data.rows;
    d->dim = c->x_count;
    d->context_dim = c->context_count;
    if (d->context_dim > 0)
        d->context = table_take(t, c->context, c->context_count);
    if (c->weight < t->data.columns)
        d->weight = table_take(t, &c->weight, 1);
    d->x = table_take(t, c->x, c->x_count); /* last: it may take the table's own values */
    if (!d->x || (d->context_dim > 0 && !d->context) || (c->weight < t->data.columns && !d->weight))
        die("%s: no memory for its rows", t->path);
}

static void split(train_data *d, const train_options *o) {
    const double fraction = o->validation >= 0.0 ? o->validation : o->matching ? 0.0 : 0.1;
    d->held_out = (size_t)(fraction * (double)d->rows);
    d->training = d->rows - d->held_out;
    if (d->training < FEWEST_ROWS / 2)
        die("--validation %g leaves %zu rows to train on", fraction, d->training);
}

void train_read(train_data *d, const char *path, const train_options *o) {
    table t;
    char message[600];
    if (!table_read(path, &t, message, sizeof message))
        die("%s", message);
    choice c = {.t = &t};
    choose(&c, o);
    const size_t dropped = o->drop_missing ? table_drop(&t, c.used, c.used_count) : 0;
    if (dropped > 0)
        note("%s: left out %zu row%s with something that is not a number", t.path, dropped, dropped == 1 ? "" : "s");
    if (!table_check(&t, c.used, c.used_count, message, sizeof message))
        die("%s", message);
    *d = (train_data){.source = strcmp(path, "-") == 0 ? t.path : strrchr(path, '/') ? strrchr(path, '/') + 1 : path};
    take_columns(d, &t, &c);
    use_weights(d, t.path);
    if (d->rows < FEWEST_ROWS)
        die("%s: it has %zu row%s%s, and a fit needs at least %d", t.path, d->rows, d->rows == 1 ? "" : "s", d->weight ? " with a weight" : "",
            FEWEST_ROWS);
    refuse_constant_columns(d, t.path);
    refuse_extreme_columns(o, t.path, d->rows, d->x, d->names, d->dim);
    refuse_extreme_columns(o, t.path, d->rows, d->context, d->context_names, d->context_dim);
    const size_t same_rows = o->jitter ? 0 : count_same_rows(d); /* the first of the table, which are together before they are shuffled */
    shuffle(d, o->seed);
    if (!o->jitter && !say_few_values(d, &t, &c))
        say_same_rows(d, same_rows, t.path);
    jitter(d, &t, &c, o);
    split(d, o);
    if (o->precision == PRECISION_SINGLE)
        take_sample(d);
    scale_context(d);
    whiten(d, o);
    free(c.x);
    free(c.context);
    free(c.used);
    table_free(&t);
}

void train_free(train_data *d) {
    model_free_names(d->names, d->dim);
    model_free_names(d->context_names, d->context_dim);
    free(d->places);
    free(d->x);
    free(d->context);
    free(d->weight);
    free(d->sample.x);
    free(d->sample.context);
    free(d->sample.weight);
    whiten_free(&d->context_scaling);
    whiten_free(&d->whitening);
    *d = (train_data){0};
}
