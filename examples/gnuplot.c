/* Writes data and a script for gnuplot into a temporary directory, and runs it there. */
#include <ctype.h>
#include <dirent.h>
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

#include "gnuplot.h"

extern char **environ;

#define PATH (GNUPLOT_PATH + 80)

__attribute__((format(printf, 2, 3))) static bool fail(const gnuplot *g, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(g->message, g->message_size, format, arguments);
    va_end(arguments);
    return false;
}

static void path_of(const gnuplot *g, const char *name, char path[PATH]) { snprintf(path, PATH, "%s/%s", g->directory, name); }

FILE *gnuplot_create(const gnuplot *g, const char *name) {
    char path[PATH];
    path_of(g, name, path);
    FILE *file = fopen(path, "w");
    if (!file)
        fail(g, "%s: %s", path, strerror(errno));
    return file;
}

bool gnuplot_finish(const gnuplot *g, FILE *file, const char *name) {
    const bool good = !ferror(file);
    if (fclose(file) == 0 && good)
        return true;
    return fail(g, "%s/%s: %s", g->directory, name, strerror(errno));
}

bool gnuplot_points(const gnuplot *g, const char *name, const plot_points *points, const double offset[2]) {
    FILE *file = gnuplot_create(g, name);
    if (!file)
        return false;
    for (size_t i = 0; i < points->rows; i++)
        if (isfinite(points->xy[2 * i]) && isfinite(points->xy[2 * i + 1]))
            fprintf(file, "%.9g %.9g\n", points->xy[2 * i] - offset[0], points->xy[2 * i + 1] - offset[1]);
    return gnuplot_finish(g, file, name);
}

/* Blocks of one y each, as gnuplot's grids are. */
bool gnuplot_grid(const gnuplot *g, const char *name, const plot_grid *grid) {
    FILE *file = gnuplot_create(g, name);
    if (!file)
        return false;
    for (size_t iy = 0; iy < grid->ny; iy++) {
        const double y = grid->low[1] + (grid->high[1] - grid->low[1]) * (double)iy / (double)(grid->ny - 1);
        for (size_t ix = 0; ix < grid->nx; ix++) {
            const double x = grid->low[0] + (grid->high[0] - grid->low[0]) * (double)ix / (double)(grid->nx - 1);
            const double value = grid->value[iy * grid->nx + ix];
            fprintf(file, "%.9g %.9g %.6g\n", x, y, isfinite(value) ? value : 0.0);
        }
        fputc('\n', file);
    }
    return gnuplot_finish(g, file, name);
}

/* Length of the character that text begins with; 0 where it is no UTF-8, or none that XML knows. */
static size_t character(const char *text) {
    const unsigned char *byte = (const unsigned char *)text;
    const size_t length = *byte < 0x80 ? 1 : *byte < 0xC2 ? 0 : *byte < 0xE0 ? 2 : *byte < 0xF0 ? 3 : *byte < 0xF5 ? 4 : 0;
    unsigned long code = length > 1 ? *byte & (0x7Fu >> length) : *byte;
    for (size_t i = 1; i < length; i++) {
        if ((byte[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (byte[i] & 0x3F);
    }
    const bool short_form = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    const bool surrogate = code >= 0xD800 && code < 0xE000, none = code == 0xFFFE || code == 0xFFFF || code > 0x10FFFF;
    return short_form || surrogate || none ? 0 : length;
}

size_t plot_characters(const char *text, size_t most) {
    size_t bytes = 0;
    for (size_t i = 0; i < most && text[bytes]; i++) {
        const size_t length = character(text + bytes);
        bytes += length ? length : 1;
    }
    return bytes;
}

/* In single quotes gnuplot takes every character but the quote, which is doubled, for itself. */
void gnuplot_quote(FILE *file, const char *text) {
    fputc('\'', file);
    while (*text) {
        const size_t length = character(text);
        if (*text == '\'')
            fputs("''", file);
        else if (length == 1)
            fputc((unsigned char)*text < ' ' || *text == 0x7F ? ' ' : *text, file);
        else if (length == 0)
            fputc('?', file);
        else
            fwrite(text, 1, length, file);
        text += length ? length : 1;
    }
    fputc('\'', file);
}

/* In double quotes every byte can be written in octal; behind "./" neither '|' nor '~' means anything. */
void gnuplot_quote_path(FILE *file, const char *path) {
    fputs(*path == '/' ? "\"" : "\"./", file);
    for (; *path; path++)
        if (isalnum((unsigned char)*path) || strchr("/._-", *path))
            fputc(*path, file);
        else
            fprintf(file, "\\%03o", (unsigned)(unsigned char)*path);
    fputc('"', file);
}

static int falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* The densities above which lie the given shares of the mass that is on the grid. */
bool gnuplot_mass_levels(const plot_grid *grid, size_t count, const double *share, double *level) {
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

static int rising(const void *a, const void *b) { return falling(b, a); }

bool plot_range(size_t count, size_t stride, const double *x, double *low, double *high) {
    double *sorted = malloc((count + 1) * sizeof *sorted);
    size_t finite = 0;
    if (!sorted)
        return false;
    for (size_t i = 0; i < count; i++)
        if (isfinite(x[i * stride]))
            sorted[finite++] = x[i * stride];
    if (finite == 0)
        sorted[finite++] = 0.0;
    count = finite;
    const size_t cut = count / 500;
    qsort(sorted, count, sizeof *sorted, rising);
    const double width = sorted[count - 1 - cut] - sorted[cut];
    const double margin = width > 0.0 ? 0.14 * width : 0.07 * (sorted[count - 1] - sorted[0]);
    *low = sorted[cut] - margin;
    *high = sorted[count - 1 - cut] + margin;
    free(sorted);
    return true;
}

double plot_offset(double low, double high) {
    const double width = high - low, far = fmax(fabs(low), fabs(high));
    if (!(width > 0.0 && isfinite(width) && far > 1e4 * width)) /* up to there six digits tell the tics apart */
        return 0.0;
    const double unit = pow(10.0, ceil(log10(width)));
    char text[32]; /* what the axis tells is what is taken off */
    snprintf(text, sizeof text, "%.15g", round((low + 0.5 * width) / unit) * unit);
    return strtod(text, NULL);
}

void plot_axis_name(char name[PLOT_NAME], const char *text, double offset) {
    char end[32] = "";
    if (offset != 0.0)
        snprintf(end, sizeof end, " %c %.15g", offset < 0.0 ? '+' : '-', fabs(offset));
    const size_t most = (PLOT_NAME - sizeof end) / 4; /* bytes of a character */
    snprintf(name, PLOT_NAME, "%.*s%s", (int)plot_characters(text, most), text, end);
}

static double cell_of(double x, double low, double high, size_t cells) { return (x - low) / (high - low) * (double)(cells - 1); }

void plot_smooth(size_t count, const double *xy, const plot_grid *grid, double *value) {
    const int nx = (int)grid->nx, ny = (int)grid->ny;
    for (size_t i = 0; i < count; i++) {
        const double u = cell_of(xy[2 * i], grid->low[0], grid->high[0], grid->nx),
                     v = cell_of(xy[2 * i + 1], grid->low[1], grid->high[1], grid->ny);
        for (int y = (int)fmax(0.0, fmin(v - 6.0, ny)); y < ny && y < v + 6.0; y++)
            for (int x = (int)fmax(0.0, fmin(u - 6.0, nx)); x < nx && x < u + 6.0; x++)
                value[y * nx + x] += exp(-((x - u) * (x - u) + (y - v) * (y - v)) / 8.0);
    }
}

void gnuplot_style(const gnuplot *g, FILE *file) {
    fputs("directory = ", file);
    gnuplot_quote_path(file, g->directory);
    fputs("\nset encoding utf8\nset key off\nset border 31 lw 0.8 lc rgb '#707070'\n"
          "set tics nomirror out scale 0.5 textcolor rgb '#404040'\nset title font ',13' offset 0,-0.5\nunset colorbox\n"
          "set palette defined (0 '#ffffff', 1 '#e3ecf6', 2 '#b3cfe8', 3 '#6da8d4', 4 '#2f7abb', 5 '#12508f')\n",
          file);
}

void gnuplot_contours(FILE *file, size_t count, const double *level, const char *density, const char *contours) {
    fputs("set contour base\nunset surface\nset cntrparam levels discrete ", file);
    for (size_t i = 0; i < count; i++)
        fprintf(file, "%s%.8g", i ? "," : "", level[i]);
    fprintf(file, "\nset table directory . '/%s'\nsplot directory . '/%s' with lines\nunset table\nunset contour\nset surface\n", contours,
            density);
}

void gnuplot_terminal(FILE *file, const char *format, unsigned width, unsigned height) {
    if (strcmp(format, "svg") == 0)
        fprintf(file, "set terminal svg size %u,%u font 'sans-serif,11' background rgb 'white'\n", width, height);
    else if (strcmp(format, "pdf") == 0)
        fprintf(file, "set terminal pdfcairo size %.2fin,%.2fin font 'sans,8' background rgb 'white'\n", width / 100.0, height / 100.0);
    else
        fprintf(file,
                "if (strstrt(GPVAL_TERMINALS, 'pngcairo')) { set terminal pngcairo size %u,%u font 'sans,11' background rgb 'white' } "
                "else { set terminal png truecolor size %u,%u background rgb 'white' }\n",
                width, height, width, height);
}

/* The first line of what gnuplot said that is not empty or a drawing of where it was. */
static void first_words(const gnuplot *g, char *line, size_t size) {
    char path[PATH];
    path_of(g, "log.txt", path);
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

plot_result gnuplot_run(const gnuplot *g) {
    char script[PATH], log[PATH], words[300];
    path_of(g, "plot.gp", script);
    path_of(g, "log.txt", log);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    if (posix_spawn_file_actions_init(&actions) != 0 || posix_spawnattr_init(&attributes) != 0)
        return fail(g, "no memory to run gnuplot"), PLOT_FAILED;
    posix_spawnattr_setsigmask(&attributes, &g->before);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    char command[] = "gnuplot", *arguments[] = {command, script, NULL};
    pid_t child;
    const int error = posix_spawnp(&child, command, &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (error == ENOENT)
        return PLOT_NO_GNUPLOT;
    if (error)
        return fail(g, "gnuplot: %s", strerror(error)), PLOT_FAILED;
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return fail(g, "gnuplot: %s", strerror(errno)), PLOT_FAILED;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return PLOT_DRAWN;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return PLOT_NO_GNUPLOT;
    first_words(g, words, sizeof words);
    return fail(g, "gnuplot: %s", *words ? words : "it was ended by a signal"), PLOT_FAILED;
}

bool gnuplot_begin(gnuplot *g, char *message, size_t size) {
    *g = (gnuplot){.message = message, .message_size = size};
    const char *parent = getenv("TMPDIR");
    const int length = snprintf(g->directory, sizeof g->directory, "%s/nflow-plot-XXXXXX", parent && *parent ? parent : "/tmp");
    if (length < 0 || (size_t)length >= sizeof g->directory)
        return fail(g, "the name of the temporary directory is too long");
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGHUP);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ends, &g->before);
    if (mkdtemp(g->directory))
        return true;
    fail(g, "%s: %s", g->directory, strerror(errno));
    pthread_sigmask(SIG_SETMASK, &g->before, NULL);
    return false;
}

void gnuplot_end(const gnuplot *g) {
    DIR *directory = opendir(g->directory);
    for (const struct dirent *entry; directory && (entry = readdir(directory)) != NULL;) {
        char path[PATH];
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= PATH - GNUPLOT_PATH)
            continue;
        snprintf(path, sizeof path, "%s/%.79s", g->directory, entry->d_name);
        unlink(path);
    }
    if (directory)
        closedir(directory);
    rmdir(g->directory);
    pthread_sigmask(SIG_SETMASK, &g->before, NULL);
}
