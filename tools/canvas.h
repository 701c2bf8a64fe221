/*
 * canvas.h - a rectangle of characters with dots in them: eight a character in Braille (Unicode 2800 to 28ff), or one by counts in ASCII
 */
#ifndef CANVAS_H
#define CANVAS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct canvas {
    size_t width, height; /* characters */
    bool ascii;
    unsigned short *cells; /* bits of Braille, or counts */
} canvas;

void canvas_begin(canvas *c, size_t width, size_t height, bool ascii);
void canvas_free(canvas *c);

/* u and v in [0, 1): across, and up. Outside and NaN: nothing. */
void canvas_dot(canvas *c, double u, double v);

/* A cell by a shade of 0 (blank) to 4. */
void canvas_shade(canvas *c, size_t column, size_t row, unsigned shade);

/* One line of characters on the standard output, without its end. */
void canvas_put(const canvas *c, size_t row);

#endif
