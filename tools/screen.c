/* A scene in characters: panels side by side, each with a frame, a title and the range of its axes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "canvas.h"
#include "scene.h"
#include "tool.h"

enum { MOST_PANELS = 4, FEWEST_LINES = 7, MOST_LINES = 18 };

typedef struct panel {
    canvas c;
    char title[80];
    const char *axis[2];
    double low[2], high[2];
} panel;

static void begin(panel *p, size_t width, size_t height, bool ascii, const char *title) {
    *p = (panel){.axis = {"", ""}};
    canvas_begin(&p->c, width, height, ascii);
    snprintf(p->title, sizeof p->title, "%s", title);
}

static void set_axis(panel *p, int axis, const char *name, double low, double high) {
    p->axis[axis] = name;
    p->low[axis] = low;
    p->high[axis] = high;
}

static void dot(panel *p, double x, double y) {
    canvas_dot(&p->c, (x - p->low[0]) / (p->high[0] - p->low[0]), (y - p->low[1]) / (p->high[1] - p->low[1]));
}

static void scatter(panel *p, const scene_points *points, size_t dim) {
    const size_t most = p->c.width * p->c.height * 2; /* more would fill it */
    for (size_t r = 0; r < points->rows && r < most; r++)
        dot(p, points->x[r * dim], points->x[r * dim + 1]);
}

static void plane(panel *p, const scene *s) {
    for (int i = 0; i < 2; i++)
        set_axis(p, i, s->names[i], s->low[i], s->high[i]);
}

/* Shades by the smallest regions that hold 50, 80, 95 and 99 % of the mass; a cell has the densest of its points. */
static void shade_density(panel *p, const scene *s) {
    const plot_grid *g = &s->density;
    double level[4] = {0};
    if (!g->value || !gnuplot_mass_levels(g, 4, (const double[4]){0.5, 0.8, 0.95, 0.99}, level))
        return;
    for (size_t y = 0; y < p->c.height; y++)
        for (size_t x = 0; x < p->c.width; x++) {
            double most = 0;
            for (size_t gy = (p->c.height - 1 - y) * g->ny / p->c.height; gy < (p->c.height - y) * g->ny / p->c.height; gy++)
                for (size_t gx = x * g->nx / p->c.width; gx < (x + 1) * g->nx / p->c.width; gx++)
                    most = fmax(most, g->value[gy * g->nx + gx]);
            unsigned shade = 0;
            for (size_t k = 0; k < 4; k++)
                shade += most >= level[k] && most > 0.0;
            canvas_shade(&p->c, x, y, shade);
        }
}

static void bars(panel *p, const scene_points *points, const scene *s, double low, double high, const double *line) {
    const size_t bins = p->c.width;
    double *density = allocate(bins, sizeof *density), top = 0;
    scene_histogram(points, s->dim, 0, low, high, bins, density);
    for (size_t i = 0; i < bins; i++)
        top = fmax(top, density[i]);
    for (size_t i = 0; line && i < SCENE_LINE; i++)
        top = isfinite(line[i]) ? fmax(top, line[i]) : top;
    set_axis(p, 1, "density", 0.0, top > 0.0 ? 1.05 * top : 1.0);
    for (size_t i = 0; i < bins && points->rows > 0; i++)
        for (size_t k = 0; k < 4 * p->c.height; k++) {
            const double y = ((double)k + 0.5) / (4.0 * (double)p->c.height) * p->high[1],
                         x = low + ((double)i + 0.25) / (double)bins * (high - low);
            if (y < density[i])
                dot(p, x, y);
        }
    for (size_t i = 0; line && i < SCENE_LINE; i++)
        dot(p, low + (high - low) * (double)i / SCENE_LINE, line[i]);
    free(density);
}

static void curve(panel *p, const scene *s, const double *loss) {
    double low, high;
    scene_curve_range(s, &low, &high);
    set_axis(p, 0, "epoch", s->epoch[0], s->epoch[s->epochs - 1] + 1e-9 + (s->epochs == 1));
    set_axis(p, 1, "loss", low, high);
    const size_t steps = 2 * p->c.width;
    for (size_t i = 0, k = 0; i < steps; i++) { /* between the epochs on straight lines */
        const double x = p->low[0] + (p->high[0] - p->low[0]) * (double)i / (double)steps;
        while (k + 2 < s->epochs && s->epoch[k + 1] <= x)
            k++;
        const size_t next = k + 1 < s->epochs ? k + 1 : k;
        const double part = next > k ? (x - s->epoch[k]) / (s->epoch[next] - s->epoch[k]) : 0.0;
        dot(p, x, loss[k] + part * (loss[next] - loss[k]));
    }
}

/* ---- Output */

/* Characters of UTF-8 text that fit, padded. */
static void put_padded(const char *text, size_t width) {
    size_t used = 0;
    for (; *text && used < width; used++)
        do
            putchar(*text++);
        while (((unsigned char)*text & 0xc0) == 0x80);
    printf("%*s", (int)(width - used), "");
}

static void put_edge(const panel *p, bool top) {
    const char *left = p->c.ascii ? "+"
                       : top      ? "\xe2\x94\x8c"
                                  : "\xe2\x94\x94",
               *right = p->c.ascii ? "+"
                        : top      ? "\xe2\x94\x90"
                                   : "\xe2\x94\x98";
    fputs(left, stdout);
    for (size_t i = 0; i < p->c.width; i++)
        fputs(p->c.ascii ? "-" : "\xe2\x94\x80", stdout);
    fputs(right, stdout);
}

/* Four digits, or as many as tell the ends of a narrow range far from 0 apart, without an exponent where there is room. */
static int digits_of(double low, double high) {
    const double far = fmax(fabs(low), fabs(high)), common = ceil(log10(far / (high - low)));
    if (!(common > 1.0))
        return 4;
    const double whole = far < 1e15 ? ceil(log10(far)) : 0.0;
    return (int)fmin(fmax(3.0 + common, whole), 17.0);
}

static void put_ranges(const panel *p) {
    char text[400];
    int used = 0;
    for (int i = 0; i < 2 && *p->axis[i]; i++) {
        const int digits = digits_of(p->low[i], p->high[i]);
        used += snprintf(text + used, sizeof text - (size_t)used, "%s %.*s %.*g..%.*g", i ? "," : "", (int)plot_characters(p->axis[i], 20),
                         p->axis[i], digits, p->low[i], digits, p->high[i]);
    }
    put_padded(text, p->c.width + 2);
}

static void put_row(const panel *panels, size_t count) {
    for (size_t i = 0; i < count; i++) {
        putchar(' ');
        put_padded(panels[i].title, panels[i].c.width + 1);
        putchar(i + 1 < count ? ' ' : '\n');
    }
    for (size_t line = 0; line < panels[0].c.height + 2; line++)
        for (size_t i = 0; i < count; i++) {
            const panel *p = &panels[i];
            const char *side = p->c.ascii ? "|" : "\xe2\x94\x82";
            if (line == 0 || line == p->c.height + 1) {
                put_edge(p, line == 0);
            } else {
                fputs(side, stdout);
                canvas_put(&p->c, line - 1);
                fputs(side, stdout);
            }
            putchar(i + 1 < count ? ' ' : '\n');
        }
    for (size_t i = 0; i < count; i++) {
        put_ranges(&panels[i]);
        putchar(i + 1 < count ? ' ' : '\n');
    }
}

typedef struct layout {
    size_t width, height;
    bool ascii;
} layout;

static size_t make_curve(panel *p, const scene *s, const layout *l) {
    begin(&p[0], l->width, l->height, l->ascii, "training loss");
    curve(&p[0], s, s->train);
    begin(&p[1], l->width, l->height, l->ascii, "held-out loss");
    curve(&p[1], s, s->held_out);
    return 2;
}

static size_t make_bars(panel *p, const scene *s, const layout *l) {
    size_t count = 0;
    if (s->data.rows > 0) {
        begin(&p[count], l->width, l->height, l->ascii, "data, and the density");
        set_axis(&p[count], 0, s->names[0], s->low[0], s->high[0]);
        bars(&p[count++], &s->data, s, s->low[0], s->high[0], s->line);
    }
    begin(&p[count], l->width, l->height, l->ascii, "samples");
    set_axis(&p[count], 0, s->names[0], s->low[0], s->high[0]);
    bars(&p[count++], &s->samples, s, s->low[0], s->high[0], NULL);
    return count;
}

static size_t make_planes(panel *p, const scene *s, scene_kind kind, const layout *l) {
    size_t count = 0;
    const bool all = kind != SCENE_DENSITY && kind != SCENE_LATENT;
    if (all && s->data.rows > 0) {
        begin(&p[count], l->width, l->height, l->ascii, "data");
        plane(&p[count], s);
        scatter(&p[count++], &s->data, s->dim);
    }
    if (all) {
        begin(&p[count], l->width, l->height, l->ascii, "samples of the flow");
        plane(&p[count], s);
        scatter(&p[count++], &s->samples, s->dim);
    }
    if (s->density.value && kind != SCENE_LATENT) {
        begin(&p[count], l->width, l->height, l->ascii, "density: 50, 80, 95, 99 % inside the shades");
        plane(&p[count], s);
        shade_density(&p[count++], s);
    }
    if (s->latent.rows > 0 && kind != SCENE_DENSITY) {
        const double range = scene_latent_range(s);
        begin(&p[count], l->width, l->height, l->ascii, "data in the latent space");
        set_axis(&p[count], 0, s->latent_names[0], -range, range);
        set_axis(&p[count], 1, s->latent_names[1], -range, range);
        scatter(&p[count++], &s->latent, s->dim);
    }
    return count;
}

void screen_draw(const scene *s, scene_kind kind, size_t columns, size_t lines, bool ascii) {
    panel panels[MOST_PANELS];
    const bool single = kind == SCENE_DENSITY || kind == SCENE_LATENT;
    const size_t rows = single || kind == SCENE_CURVE || s->dim == 1 || s->data.rows == 0 ? 1 : 2;
    const size_t room = (lines > 2 ? lines - 2 : 1) / rows, height = room > FEWEST_LINES + 4 ? room - 4 : FEWEST_LINES;
    const layout l = {
        .width = single ? columns - 3 : (columns - 6) / 2, .height = height < MOST_LINES ? height : MOST_LINES, .ascii = ascii};
    const size_t count = kind == SCENE_CURVE ? make_curve(panels, s, &l)
                         : s->dim == 1       ? make_bars(panels, s, &l)
                                             : make_planes(panels, s, kind, &l);
    puts(s->title);
    for (size_t i = 0; i < count; i += 2)
        put_row(panels + i, count - i < 2 ? 1 : 2);
    for (size_t i = 0; i < count; i++)
        canvas_free(&panels[i].c);
    finish_output();
}
