/*
 * The product of two n by n matrices whose elements are small whole numbers
 * that a fixed recurrence makes; the answer is the sum of its elements.
 */
#include "sample.h"

static uint32_t state = 1;

static double next(void) {
    state = state * 1664525u + 1013904223u;
    return (double)(state >> 28);
}

static double *matrix(uint64_t n, int filled) {
    double *elements = malloc(n * n * sizeof *elements);
    if (!elements) fail("there is not enough memory for matrices of this size");
    for (uint64_t i = 0; i < n * n; i++) elements[i] = filled ? next() : 0.0;
    return elements;
}

int main(void) {
    uint64_t n = number(100, 1000);
    double *a = matrix(n, 1), *b = matrix(n, 1), *c = matrix(n, 0), sum = 0.0;
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < n; k++)
            for (uint64_t j = 0; j < n; j++) c[i * n + j] += a[i * n + k] * b[k * n + j];
    for (uint64_t i = 0; i < n * n; i++) sum += c[i];
    say_text("{\"size\":");
    say_number(n);
    say_text(",\"sum\":");
    say_number((uint64_t)sum);
    say_text("}\n");
}
