/* Writes data and a script for gnuplot into a temporary directory, and runs it there. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plot.h"

extern char **environ;

#define PATH 4096

typedef struct job {
    const plot_picture *picture;
    const plot_strip *strip; /* or this */
    char directory[PATH - 80]; /* names in it are shorter than the rest */
    char *message;
    size_t message_size;
} job;

static const char *const file_names[] = {"data.txt", "samples.txt", "latent.txt", "density.txt", "contours.txt", "plot.gp", "log.txt"};
static const char *const column_names[] = {"samples-%zu.txt", "density-%zu.txt"};

__attribute__((format(printf, 2, 3))) static bool fail(const job *j, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(j->message, j->message_size, format, arguments);
    va_end(arguments);
    return false;
}

static void path_of(const job *j, const char *name, char path[PATH]) { snprintf(path, PATH, "%s/%s", j->directory, name); }

static FILE *create(const job *j, const char *name) {
    char path[PATH];
    path_of(j, name, path);
    FILE *file = fopen(path, "w");
    if (!file)
        fail(j, "%s: %s", path, strerror(errno));
    return file;
}

static bool finish(const job *j, FILE *file, const char *name) {
    const bool good = !ferror(file);
    if (fclose(file) == 0 && good)
        return true;
    return fail(j, "%s/%s: %s", j->directory, name, strerror(errno));
}

static bool write_points(const job *j, const char *name, const plot_points *points) {
    FILE *file = create(j, name);
    if (!file)
        return false;
    for (size_t i = 0; i < points->rows; i++)
        if (isfinite(points->xy[2 * i]) && isfinite(points->xy[2 * i + 1]))
            fprintf(file, "%.6g %.6g\n", points->xy[2 * i], points->xy[2 * i + 1]);
    return finish(j, file, name);
}

/* Blocks of one y each, as gnuplot's grids are. */
static bool write_grid(const job *j, const char *name, const plot_grid *grid) {
    FILE *file = create(j, name);
    if (!file)
        return false;
    for (size_t iy = 0; iy < grid->ny; iy++) {
        const double y = grid->low[1] + (grid->high[1] - grid->low[1]) * (double)iy / (double)(grid->ny - 1);
        for (size_t ix = 0; ix < grid->nx; ix++) {
            const double x = grid->low[0] + (grid->high[0] - grid->low[0]) * (double)ix / (double)(grid->nx - 1);
            const double value = grid->value[iy * grid->nx + ix];
            fprintf(file, "%.7g %.7g %.6g\n", x, y, isfinite(value) ? value : 0.0);
        }
        fputc('\n', file);
    }
    return finish(j, file, name);
}

/* In single quotes gnuplot takes every character but the quote, which is doubled, for itself. */
static void put_quoted(FILE *file, const char *text) {
    fputc('\'', file);
    for (; *text; text++) {
        if (*text == '\'')
            fputc('\'', file);
        fputc((unsigned char)*text < ' ' ? ' ' : *text, file);
    }
    fputc('\'', file);
}

/* Largest distance from the origin that the latent panel shows: 3.5 standard deviations, or what the points need. */
static double latent_range(const plot_points *latent) {
    double range = 3.5;
    for (size_t i = 0; i < 2 * latent->rows; i++)
        if (isfinite(latent->xy[i]))
            range = fmax(range, fmin(1.05 * fabs(latent->xy[i]), 6.0));
    return range;
}

static int falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* The densities above which lie the given shares of the mass that is on the grid. */
static bool mass_levels(const plot_grid *grid, size_t count, const double *share, double *level) {
    const size_t cells = grid->nx * grid->ny;
    double *sorted = malloc(cells * sizeof *sorted), total = 0, sum = 0;
    if (!sorted)
        return false;
    for (size_t i = 0; i < cells; i++)
        total += sorted[i] = isfinite(grid->value[i]) ? grid->value[i] : 0.0;
    qsort(sorted, cells, sizeof *sorted, falling);
    for (size_t i = 0, k = 0; i < cells && k < count; i++)
        for (sum += sorted[i]; k < count && sum >= share[k] * total; k++)
            level[k] = sorted[i];
    free(sorted);
    return true;
}

/* What both files have in common. The contours are computed once, into a file of their own. */
static void put_style(FILE *file, const job *j, const double level[3]) {
    const plot_picture *p = j->picture;
    fputs("directory = ", file);
    put_quoted(file, j->directory);
    fprintf(file, "\ndot = %.2f\n", p->data.rows > 3000 ? 0.22 : 0.34);
    fputs("set encoding utf8\nset key off\nset border 31 lw 0.8 lc rgb '#707070'\n"
          "set tics nomirror out scale 0.5 textcolor rgb '#404040'\nset title font ',13' offset 0,-0.5\nunset colorbox\n"
          "set palette defined (0 '#ffffff', 1 '#e3ecf6', 2 '#b3cfe8', 3 '#6da8d4', 4 '#2f7abb', 5 '#12508f')\n"
          "set contour base\nunset surface\nset cntrparam levels discrete ",
          file);
    fprintf(file, "%.8g,%.8g,%.8g", level[0], level[1], level[2]);
    fputs("\nset table directory . '/contours.txt'\nsplot directory . '/density.txt' with lines\nunset table\nunset contour\nset surface\n"
          "set size square\n",
          file);
}

static void put_axes(FILE *file, const char *const axis[2], const double low[2], const double high[2]) {
    fputs("set xlabel ", file);
    put_quoted(file, axis[0]);
    fputs(" noenhanced offset 0,0.5\nset ylabel ", file);
    put_quoted(file, axis[1]);
    fprintf(file, " noenhanced offset 1,0\nset xrange [%.6g:%.6g]\nset yrange [%.6g:%.6g]\n", low[0], high[0], low[1], high[1]);
}

static void put_panels(FILE *file, const job *j) {
    const plot_picture *p = j->picture;
    const double circle = latent_range(&p->latent);
    fputs("set multiplot layout 1,4 margins 0.035,0.99,0.13,0.82 spacing 0.04,0 title ", file);
    put_quoted(file, p->title);
    fputs(" noenhanced font ',15'\n", file);
    put_axes(file, p->axis, p->density.low, p->density.high);
    fputs("set title 'data'\nplot directory . '/data.txt' with points pt 7 ps dot lc rgb '#1f4e79'\n"
          "set title 'samples of the flow'\nplot directory . '/samples.txt' with points pt 7 ps dot lc rgb '#b5482a'\n"
          "set title 'density; 50, 90, 99 % inside the lines'\n"
          "plot directory . '/density.txt' with image, directory . '/data.txt' with points pt 7 ps 0.6 * dot lc rgb '#90303030', "
          "directory . '/contours.txt' with lines lw 0.9 lc rgb '#303030'\n"
          "set title 'data in the base N(0, I)'\n",
          file);
    put_axes(file, (const char *const[2]){"z1", "z2"}, (const double[2]){-circle, -circle}, (const double[2]){circle, circle});
    /* Circles that hold 50, 90 and 99 % of N(0, I) in the plane: r^2 = -2 log(1 - share). */
    fputs("set parametric\nset trange [0:2*pi]\nset samples 200\n"
          "plot directory . '/latent.txt' with points pt 7 ps dot lc rgb '#2f6f4f', "
          "for [s in '0.5 0.9 0.99'] sqrt(-2*log(1-s))*cos(t), sqrt(-2*log(1-s))*sin(t) with lines lw 0.9 lc rgb '#303030'\n"
          "unset parametric\nunset multiplot\nunset output\n",
          file);
}

/* The same panels as PNG and as SVG, of a size in pixels. */
static void put_both(FILE *file, const job *j, const char *prefix, unsigned width, unsigned height, void (*panels)(FILE *file, const job *j)) {
    static const char *const suffixes[2] = {".png", ".svg"};
    for (int i = 0; i < 2; i++) {
        if (i == 0)
            fprintf(file,
                    "if (strstrt(GPVAL_TERMINALS, 'pngcairo')) { set terminal pngcairo size %u,%u font 'sans,11' background rgb 'white' } "
                    "else { set terminal png truecolor size %u,%u background rgb 'white' }\n",
                    width, height, width, height);
        else
            fprintf(file, "set terminal svg size %u,%u font 'sans-serif,11' background rgb 'white'\n", width, height);
        fputs("set output ", file);
        put_quoted(file, prefix);
        fputs(" . ", file);
        put_quoted(file, suffixes[i]);
        fputc('\n', file);
        panels(file, j);
    }
}

static bool write_script(const job *j, const char *prefix) {
    double level[3] = {0};
    if (!mass_levels(&j->picture->density, 3, (const double[3]){0.5, 0.9, 0.99}, level))
        return fail(j, "no memory for a picture");
    FILE *file = create(j, "plot.gp");
    if (!file)
        return false;
    put_style(file, j, level);
    put_both(file, j, prefix, 1720, 500, put_panels);
    return finish(j, file, "plot.gp");
}

static void put_column(FILE *file, const job *j, size_t row, size_t i) {
    const plot_column *column = &j->strip->column[i];
    char name[64];
    snprintf(name, sizeof name, column_names[row], i);
    fputs("set title ", file);
    put_quoted(file, row == 0 ? column->title : "");
    fprintf(file, " noenhanced\nplot directory . '/%s' with %s\n", name, row == 0 ? "points pt 7 ps 0.25 lc rgb '#b5482a'" : "image");
}

static void put_columns(FILE *file, const job *j) {
    const plot_strip *s = j->strip;
    fprintf(file, "set multiplot layout 2,%zu margins 0.02,0.99,0.05,0.86 spacing 0.02,0.04 title ", s->columns);
    put_quoted(file, s->title);
    fprintf(file, " noenhanced font ',15'\nset xrange [%.6g:%.6g]\nset yrange [%.6g:%.6g]\n", s->grid.low[0], s->grid.high[0], s->grid.low[1], s->grid.high[1]);
    for (size_t row = 0; row < 2; row++)
        for (size_t i = 0; i < s->columns; i++)
            put_column(file, j, row, i);
    fputs("unset multiplot\nunset output\n", file);
}

static bool write_strip(const job *j, const char *prefix) {
    const plot_strip *s = j->strip;
    for (size_t i = 0; i < s->columns; i++) {
        char points[64], density[64];
        plot_grid grid = s->grid;
        grid.value = s->column[i].density;
        snprintf(points, sizeof points, column_names[0], i);
        snprintf(density, sizeof density, column_names[1], i);
        if (!write_points(j, points, &s->column[i].samples) || !write_grid(j, density, &grid))
            return false;
    }
    FILE *file = create(j, "plot.gp");
    if (!file)
        return false;
    fputs("directory = ", file);
    put_quoted(file, j->directory);
    fputs("\nset encoding utf8\nset key off\nset border 31 lw 0.8 lc rgb '#707070'\nunset tics\nunset colorbox\nset size square\n"
          "set palette defined (0 '#ffffff', 1 '#e3ecf6', 2 '#b3cfe8', 3 '#6da8d4', 4 '#2f7abb', 5 '#12508f')\n",
          file);
    put_both(file, j, prefix, (unsigned)(280 * s->columns), 640, put_columns);
    return finish(j, file, "plot.gp");
}

/* The first line of what gnuplot said that is not empty or a drawing of where it was. */
static void first_words(const job *j, char *line, size_t size) {
    char path[PATH];
    path_of(j, "log.txt", path);
    FILE *file = fopen(path, "r");
    *line = '\0';
    while (file && fgets(line, (int)size, file)) {
        line[strcspn(line, "\r\n")] = '\0';
        if (line[strspn(line, " \t^")] != '\0' && strstr(line, "line "))
            break;
    }
    if (file)
        fclose(file);
}

static plot_result run(const job *j) {
    char script[PATH], log[PATH], words[300];
    path_of(j, "plot.gp", script);
    path_of(j, "log.txt", log);
    posix_spawn_file_actions_t actions;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return fail(j, "no memory to run gnuplot"), PLOT_FAILED;
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    char command[] = "gnuplot", *arguments[] = {command, script, NULL};
    pid_t child;
    const int error = posix_spawnp(&child, command, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error == ENOENT)
        return PLOT_NO_GNUPLOT;
    if (error)
        return fail(j, "gnuplot: %s", strerror(error)), PLOT_FAILED;
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return fail(j, "gnuplot: %s", strerror(errno)), PLOT_FAILED;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return PLOT_DRAWN;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return PLOT_NO_GNUPLOT;
    first_words(j, words, sizeof words);
    return fail(j, "gnuplot: %s", *words ? words : "it was ended by a signal"), PLOT_FAILED;
}

static void remove_directory(const job *j) {
    for (size_t i = 0; i < sizeof file_names / sizeof file_names[0]; i++) {
        char path[PATH];
        path_of(j, file_names[i], path);
        unlink(path);
    }
    for (size_t i = 0; j->strip && i < 2 * j->strip->columns; i++) {
        char name[64], path[PATH];
        snprintf(name, sizeof name, column_names[i % 2], i / 2);
        path_of(j, name, path);
        unlink(path);
    }
    rmdir(j->directory);
}

static bool make_directory(job *j) {
    const char *parent = getenv("TMPDIR");
    const int length = snprintf(j->directory, sizeof j->directory, "%s/nflow-plot-XXXXXX", parent && *parent ? parent : "/tmp");
    if (length < 0 || (size_t)length >= sizeof j->directory)
        return fail(j, "the name of the temporary directory is too long");
    return mkdtemp(j->directory) ? true : fail(j, "%s: %s", j->directory, strerror(errno));
}

plot_result plot_draw(const plot_picture *picture, const char *prefix, char *message, size_t size) {
    job j = {.picture = picture, .message = message, .message_size = size};
    if (!make_directory(&j))
        return PLOT_FAILED;
    plot_result result = PLOT_FAILED;
    if (write_points(&j, "data.txt", &picture->data) && write_points(&j, "samples.txt", &picture->samples) &&
        write_points(&j, "latent.txt", &picture->latent) && write_grid(&j, "density.txt", &picture->density) && write_script(&j, prefix))
        result = run(&j);
    remove_directory(&j);
    return result;
}

plot_result plot_draw_strip(const plot_strip *strip, const char *prefix, char *message, size_t size) {
    job j = {.strip = strip, .message = message, .message_size = size};
    if (!make_directory(&j))
        return PLOT_FAILED;
    const plot_result result = write_strip(&j, prefix) ? run(&j) : PLOT_FAILED;
    remove_directory(&j);
    return result;
}
