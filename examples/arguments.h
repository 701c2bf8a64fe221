/*
 * arguments.h - numbers among the words that a program was started with
 *
 *     epochs = argument_count("--epochs", value, 1, 1000000);
 *
 * Each takes the whole word; anything else ends the program with status 1, and one line on the standard error that says what the word should have been.
 */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include <stdint.h>

/* More than anybody waits for. */
#define ARGUMENT_MOST UINT64_C(1000000000)

/* A whole number, in decimal digits alone. */
uint64_t argument_count(const char *option, const char *word, uint64_t least, uint64_t most);

/* A positive, finite number. */
double argument_positive(const char *option, const char *word);

#endif
