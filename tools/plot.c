/* nflow plot: a flow, and its data, as a picture. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "context.h"
#include "evaluate.h"
#include "output.h"
#include "scene.h"

enum { GRID = 180, MOST_ROWS = 40000, SAMPLES = 40000 };

typedef struct plot_options {
    const char *output, *columns, *size, *title;
    int kind;
    bool terminal, ascii;
    uint64_t seed;
    context_options context;
} plot_options;

typedef struct gathered {
    evaluation e;
    scene s;
    size_t index[SCENE_MOST]; /* of the drawn columns among the model's */
    char title[700];
} gathered;

/* ---- What is drawn */

static void choose_columns(gathered *g, const plot_options *o) {
    const model *m = &g->e.m;
    size_t *index, count;
    if (o->columns) {
        /* A table without rows lends its look-up of names and numbers. */
        const table names = {.data = {.columns = m->dim, .names = m->names}, .path = m->path};
        char message[600];
        if (!table_find(&names, o->columns, &index, &count, message, sizeof message))
            die("%s", message);
        if (count > SCENE_MOST)
            die_usage("--columns %s: at most %d are drawn", o->columns, SCENE_MOST);
    } else {
        index = allocate(SCENE_MOST, sizeof *index);
        count = m->dim < SCENE_MOST ? m->dim : SCENE_MOST;
        for (size_t i = 0; i < count; i++)
            index[i] = i;
        if (count < m->dim)
            note("drawing the first %d of %zu columns; --columns chooses others", SCENE_MOST, m->dim);
    }
    static char latent[SCENE_MOST][24];
    g->s.dim = count;
    for (size_t i = 0; i < count; i++) {
        g->index[i] = index[i];
        g->s.names[i] = m->names[index[i]];
        snprintf(latent[i], sizeof latent[i], "z%zu", index[i] + 1);
        g->s.latent_names[i] = latent[i];
    }
    free(index);
}

/* The drawn columns of rows of the model. */
static scene_points pick(const gathered *g, size_t rows, const double *x) {
    scene_points p = {rows, allocate(rows, g->s.dim * sizeof *p.x)};
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < g->s.dim; i++)
            p.x[r * g->s.dim + i] = x[r * g->e.m.dim + g->index[i]];
    return p;
}

/* In place: evenly spaced rows of the data, in an order that a part of them is evenly spaced too. */
static void thin(model_rows *rows, size_t dim, size_t context_dim) {
    const size_t kept = rows->rows < MOST_ROWS ? rows->rows : MOST_ROWS;
    double *x = allocate(kept, dim * sizeof *x), *context = context_dim ? allocate(kept, context_dim * sizeof *context) : NULL;
    size_t stride = kept / 2 * 2 + 1; /* near the golden section of kept, and without a common divisor */
    for (stride = (size_t)(0.618 * (double)kept) + 1;; stride++) {
        size_t a = kept, b = stride;
        while (b) {
            const size_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            break;
    }
    for (size_t i = 0; i < kept; i++) {
        const size_t place = (size_t)(((unsigned long long)i * stride) % kept),
                     from = (size_t)((double)place / (double)kept * (double)rows->rows);
        memcpy(x + i * dim, rows->x + from * dim, dim * sizeof *x);
        if (context)
            memcpy(context + i * context_dim, rows->context + from * context_dim, context_dim * sizeof *context);
    }
    model_free_rows(rows);
    *rows = (model_rows){.rows = kept, .x = x, .context = context};
}

/* Contexts of samples: --context, or those of the data in turn. */
static double *sample_contexts(const gathered *g, const plot_options *o, size_t rows) {
    const model *m = &g->e.m;
    if (m->context_dim == 0 && !o->context.values)
        return NULL;
    double *values = context_values(m, &o->context), *all = allocate(rows, m->context_dim * sizeof *all);
    if (!values && !g->e.rows.context)
        die_usage("%s takes a context: give data, or --context", m->path);
    for (size_t r = 0; r < rows; r++)
        memcpy(all + r * m->context_dim, values ? values : g->e.rows.context + r % g->e.rows.rows * m->context_dim,
               m->context_dim * sizeof *all);
    free(values);
    return all;
}

/* Bad rows are left white. */
static void must_but_rows(nf_status status) {
    if (status != NF_ERR_ROWS)
        must(status);
}

static void gather_points(gathered *g, const plot_options *o) {
    const model *m = &g->e.m;
    if (g->e.rows.rows > 0) {
        thin(&g->e.rows, m->dim, m->context_dim);
        g->s.data = pick(g, g->e.rows.rows, g->e.rows.x);
        double *z = allocate(g->e.rows.rows, m->dim * sizeof *z);
        must_but_rows(nf_inverse(m->flow, g->e.workspace, g->e.rows.rows, g->e.rows.x, g->e.rows.context, z, NULL));
        g->s.latent = pick(g, g->e.rows.rows, z);
        free(z);
    }
    const size_t rows = m->dim == 1 ? SAMPLES : m->dim <= 50 ? SAMPLES : SAMPLES / (1 + m->dim / 50);
    double *x = allocate(rows, m->dim * sizeof *x), *context = sample_contexts(g, o, rows);
    nf_rng rng = {.seed = o->seed, .stream = 1};
    must_but_rows(nf_sample(m->flow, g->e.workspace, &rng, rows, context, x, NULL));
    g->s.samples = pick(g, rows, x);
    free(context);
    free(x);
}

static void find_ranges(gathered *g) {
    scene *s = &g->s;
    const scene_points *p = s->data.rows ? &s->data : &s->samples;
    for (size_t i = 0; i < s->dim; i++) {
        if (!plot_range(p->rows, s->dim, p->x + i, &s->low[i], &s->high[i]))
            die("no memory for a picture");
        if (!(s->high[i] > s->low[i])) {
            const double some = fmax(1.0, 1e-9 * fabs(s->low[i]));
            s->low[i] -= some;
            s->high[i] += some;
        }
    }
}

/* exp(log_prob) at points of the plane or the line, at one context. */
static double *exact_density(const gathered *g, const plot_options *o, size_t count, const double *points) {
    const model *m = &g->e.m;
    double *value = allocate(count, sizeof *value), *context = sample_contexts(g, o, count);
    must_but_rows(nf_log_prob(m->flow, g->e.workspace, count, points, context, value));
    free(context);
    for (size_t i = 0; i < count; i++)
        value[i] = exp(value[i]);
    return value;
}

/* Exact where all columns are drawn and the context is one; else from samples. */
static void gather_density(gathered *g, const plot_options *o) {
    scene *s = &g->s;
    const bool exact = s->dim == g->e.m.dim && (g->e.m.context_dim == 0 || o->context.values);
    if (s->dim == 1 && exact) {
        double *points = allocate(SCENE_LINE, sizeof *points);
        for (size_t i = 0; i < SCENE_LINE; i++)
            points[i] = s->low[0] + (s->high[0] - s->low[0]) * (double)i / (SCENE_LINE - 1);
        s->line = exact_density(g, o, SCENE_LINE, points);
        free(points);
    }
    if (s->dim < 2)
        return;
    plot_grid *grid = &s->density;
    *grid = (plot_grid){.nx = GRID, .ny = GRID, .low = {s->low[0], s->low[1]}, .high = {s->high[0], s->high[1]}};
    if (exact && s->dim == 2) {
        double *points = allocate(GRID * GRID, 2 * sizeof *points);
        for (size_t i = 0; i < GRID * GRID; i++)
            for (size_t k = 0; k < 2; k++) /* the columns may be drawn in another order than the model's */
                points[2 * i + g->index[k]] = s->low[k] + (s->high[k] - s->low[k]) * (double)(k ? i / GRID : i % GRID) / (GRID - 1);
        grid->value = exact_density(g, o, GRID * GRID, points);
        free(points);
        return;
    }
    double *value = allocate(GRID * GRID, sizeof *value), *xy = allocate(s->samples.rows, 2 * sizeof *xy);
    for (size_t r = 0; r < s->samples.rows; r++)
        memcpy(xy + 2 * r, s->samples.x + r * s->dim, 2 * sizeof *xy);
    plot_smooth(s->samples.rows, xy, grid, value);
    free(xy);
    grid->value = value;
}

static void gather_curve(gathered *g) {
    const json_t *curve = json_object_get(g->e.m.training, "curve"), *epoch = json_object_get(curve, "epoch");
    const json_t *train = json_object_get(curve, "train"), *held_out = json_object_get(curve, "validation");
    scene *s = &g->s;
    s->epochs = json_array_size(epoch);
    if (s->epochs == 0 || json_array_size(train) != s->epochs || json_array_size(held_out) != s->epochs)
        die("%s: it has no training curve: only models that nflow train saved have one", g->e.m.path);
    s->epoch = allocate(3 * s->epochs, sizeof *s->epoch);
    s->train = s->epoch + s->epochs;
    s->held_out = s->train + s->epochs;
    for (size_t i = 0; i < s->epochs; i++) {
        const json_t *t = json_array_get(train, i), *v = json_array_get(held_out, i);
        s->epoch[i] = json_number_value(json_array_get(epoch, i));
        s->train[i] = json_is_number(t) ? json_number_value(t) : NAN;
        s->held_out[i] = json_is_number(v) ? json_number_value(v) : NAN;
    }
    s->best_epoch = (size_t)json_integer_value(json_object_get(g->e.m.training, "best_epoch"));
}

static void make_title(gathered *g, const plot_options *o, const char *data) {
    const json_t *nll = json_object_get(g->e.m.training, "held_out_nll");
    const char *name = strrchr(g->e.m.path, '/') ? strrchr(g->e.m.path, '/') + 1 : g->e.m.path;
    const char *source = data && strrchr(data, '/') ? strrchr(data, '/') + 1 : data;
    char likelihood[60] = "";
    if (json_is_number(nll))
        snprintf(likelihood, sizeof likelihood, ": held-out NLL %.3f nats", json_number_value(nll));
    g->s.title = o->title ? o->title : g->title;
    const char *from = source ? strcmp(source, "-") == 0 ? "standard input" : source : "", *given = o->context.values ? o->context.values : "";
    snprintf(g->title, sizeof g->title, "%.*s%s%.*s%s%.*s%s", (int)plot_characters(name, 60), name, source ? " on " : "",
             (int)plot_characters(from, 40), from, *given ? " given " : "", (int)plot_characters(given, 30), given, likelihood);
}

/* ---- Where to */

/* The model's name with another end. */
static char *default_output(const char *model_path) {
    const char *dot = strrchr(model_path, '.'), *slash = strrchr(model_path, '/');
    const int length = dot && dot != model_path && (!slash || dot > slash + 1) ? (int)(dot - model_path) : (int)strlen(model_path);
    return strcmp(model_path, "-") == 0 ? copy_text("nflow.png") : new_text("%.*s.png", length, model_path);
}

static const char *format_of(const char *path) {
    static const char *const formats[] = {"png", "svg", "pdf"};
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < 3; i++)
        if (strcasecmp(dot + 1, formats[i]) == 0)
            return formats[i];
    die_usage("-o %s: the name should end in .png, .svg or .pdf", path);
}

static void find_size(const gathered *g, const plot_options *o, scene_kind kind, unsigned *width, unsigned *height) {
    const bool grid = kind == SCENE_PAIRS || (kind == SCENE_LATENT && g->s.dim > 2);
    const unsigned n = (unsigned)g->s.dim;
    *width = grid ? 190 * n + 110 : kind == SCENE_CURVE ? 900 : kind == SCENE_OVERVIEW ? 1100 : 760;
    *height = grid                     ? 170 * n + 110
              : kind == SCENE_CURVE    ? 560
              : kind == SCENE_OVERVIEW ? (g->s.dim == 1 || !g->s.data.rows ? 560 : 1080)
                                       : 780;
    char *end = NULL;
    if (!o->size)
        return;
    const unsigned long w = strtoul(o->size, &end, 10), h = *end == 'x' ? strtoul(end + 1, &end, 10) : 0;
    if (*end || w < 100 || h < 100 || w > 20000 || h > 20000)
        die_usage("--size %s: this should be width x height in pixels, of 100 to 20000, as 1200x900", o->size);
    *width = (unsigned)w;
    *height = (unsigned)h;
}

static bool speaks_utf8(void) {
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < 3; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return strstr(value, "UTF-8") || strstr(value, "utf8") || strstr(value, "utf-8") || strstr(value, "UTF8");
    }
    return false;
}

static void draw_screen(const gathered *g, const plot_options *o, scene_kind kind) {
    struct winsize size = {0};
    const char *columns = getenv("COLUMNS");
    uint64_t width = 80;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40)
        width = size.ws_col;
    else if (!columns || !read_whole(columns, &width) || width < 40 || width > 400)
        width = 80;
    screen_draw(&g->s, kind, (size_t)(width < 160 ? width : 160), size.ws_row >= 20 ? size.ws_row : 36, o->ascii || !speaks_utf8());
}

static void draw(const gathered *g, const plot_options *o, scene_kind kind) {
    if (o->terminal) {
        draw_screen(g, o, kind);
        return;
    }
    char *path = o->output ? copy_text(o->output) : default_output(g->e.m.path), message[512];
    unsigned width, height;
    if (output_replaces(path, g->e.m.path))
        die("-o %s: the picture would take the place of the model: give it another name", path);
    find_size(g, o, kind, &width, &height);
    const plot_result result = picture_draw(&g->s, kind, path, format_of(path), width, height, message, sizeof message);
    if (result == PLOT_NO_GNUPLOT)
        die("gnuplot is not installed, so there is no picture: install it (Debian: gnuplot-nox), or use --terminal");
    if (result == PLOT_FAILED)
        die("%s: %s", path, message);
    note("drew %s", path);
    free(path);
}

static scene_kind kind_of(const gathered *g, const plot_options *o) {
    const scene_kind kind = (scene_kind)o->kind;
    if (kind == SCENE_AUTO)
        return g->s.dim > 2 ? SCENE_PAIRS : SCENE_OVERVIEW;
    if (kind == SCENE_LATENT && g->s.data.rows == 0)
        die_usage("--what latent: this needs data: nflow plot MODEL DATA");
    if ((kind == SCENE_DENSITY || kind == SCENE_PAIRS) && g->s.dim < 2)
        die_usage("--what: this needs two columns");
    return kind;
}

static void free_scene(scene *s) {
    free(s->data.x);
    free(s->samples.x);
    free(s->latent.x);
    free((double *)s->density.value);
    free(s->line);
    free(s->epoch);
}

int nflow_plot(int count, char **words) {
    plot_options o = {.seed = 1};
    gathered g = {0};
    const option_entry entries[] = {
        {"output", 'o', OPTION_TEXT, &o.output, "FILE", "a .png, .svg or .pdf file; default: the model's name with .png"},
        {"what", 'W', OPTION_CHOICE, &o.kind, SCENE_KINDS, "what to draw; default: an overview of two columns, pairs of more"},
        {"columns", 0, OPTION_TEXT, &o.columns, "LIST",
         "columns of the model to draw, as names or numbers; the density is that of the first two"},
        {"terminal", 'T', OPTION_FLAG, &o.terminal, NULL, "draw with characters, on the standard output"},
        {"ascii", 0, OPTION_FLAG, &o.ascii, NULL, "with ASCII characters alone; default where the locale is not UTF-8"},
        {"size", 0, OPTION_TEXT, &o.size, "WxH", "of the picture in pixels (of a .pdf in hundredths of an inch)"},
        {"title", 0, OPTION_TEXT, &o.title, "TEXT", "over the picture"},
        OPTION_CONTEXT(&o.context),
        OPTION_DROP(&g.e.choice),
        {"seed", 's', OPTION_INTEGER, &o.seed, "N", "of the samples; default 1"},
        OPTION_THREADS(&g.e.threads),
        OPTION_QUIET,
    };
    const option_set set = {"plot",
                            "MODEL [DATA]",
                            "Draw a flow: data and samples, its density with contours, the data in the latent space, a grid of pairs of "
                            "columns, or the training curve.",
                            entries,
                            sizeof entries / sizeof entries[0],
                            1,
                            2};
    const char *data = evaluation_words(&set, count, words);
    if (o.terminal && (o.output || o.size))
        die_usage("--terminal draws on the standard output, as wide as it is: leave out --output and --size, or --terminal");
    if (o.output)
        format_of(o.output);
    evaluation_begin(&g.e, words[1]);
    choose_columns(&g, &o);
    make_title(&g, &o, data);
    if (o.kind == SCENE_CURVE) {
        gather_curve(&g);
    } else {
        g.e.choice.by_name_only = true; /* --columns chooses what is drawn */
        if (data)
            evaluation_read(&g.e, data);
        gather_points(&g, &o);
        find_ranges(&g);
        gather_density(&g, &o);
    }
    draw(&g, &o, kind_of(&g, &o));
    free_scene(&g.s);
    evaluation_end(&g.e);
    return STATUS_DONE;
}
