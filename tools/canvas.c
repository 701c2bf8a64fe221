/* Dots and shades as characters. */
#include <stdio.h>
#include <stdlib.h>

#include "canvas.h"
#include "tool.h"

enum { SHADED = 1 << 15 };

void canvas_begin(canvas *c, size_t width, size_t height, bool ascii) {
    *c = (canvas){.width = width, .height = height, .ascii = ascii, .cells = allocate(width * height, sizeof *c->cells)};
}

void canvas_free(canvas *c) {
    free(c->cells);
    *c = (canvas){0};
}

/* Numbers of the dots in a Braille character, from the upper left one (Unicode 15, chapter 21.1). */
static const unsigned char braille[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};

void canvas_dot(canvas *c, double u, double v) {
    if (!(u >= 0.0 && u < 1.0 && v >= 0.0 && v < 1.0))
        return;
    const size_t x = (size_t)(u * 2.0 * (double)c->width), y = 4 * c->height - 1 - (size_t)(v * 4.0 * (double)c->height);
    unsigned short *cell = &c->cells[y / 4 * c->width + x / 2];
    if (c->ascii)
        *cell = (unsigned short)(*cell < 1000 ? *cell + 1 : *cell);
    else
        *cell = (unsigned short)(*cell | braille[y % 4][x % 2]);
}

void canvas_shade(canvas *c, size_t column, size_t row, unsigned shade) {
    c->cells[row * c->width + column] = (unsigned short)(SHADED | shade);
}

static void put_cell(const canvas *c, unsigned cell) {
    static const char *const shades[] = {" ", "\xe2\x96\x91", "\xe2\x96\x92", "\xe2\x96\x93", "\xe2\x96\x88"};
    static const char plain[] = " .:*#";
    const unsigned shade = cell & ~(unsigned)SHADED;
    if (cell & SHADED && c->ascii)
        putchar(plain[shade]);
    else if (cell & SHADED)
        fputs(shades[shade], stdout);
    else if (c->ascii)
        putchar(plain[cell == 0 ? 0 : cell == 1 ? 1 : cell <= 3 ? 2 : cell <= 8 ? 3 : 4]);
    else if (cell == 0)
        putchar(' ');
    else
        printf("\xe2%c%c", 0xa0 + (cell >> 6), 0x80 + (cell & 0x3f));
}

void canvas_put(const canvas *c, size_t row) {
    for (size_t i = 0; i < c->width; i++)
        put_cell(c, c->cells[row * c->width + i]);
}
