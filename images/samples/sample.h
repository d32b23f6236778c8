/*
 * What all samples need: the body of a call, the number in it, an answer.
 *
 * A sample is a WASI command: its input is the body, its output the answer.
 */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The whole body; its length goes to `length`. The memory limit of the
   function is what bounds it. */
static unsigned char *body(size_t *length) {
    size_t room = 1 << 16, used = 0;
    unsigned char *bytes = malloc(room);
    for (;;) {
        if (!bytes) abort();
        ssize_t got = read(0, bytes + used, room - used);
        if (got < 0) abort();
        if (got == 0) break;
        used += (size_t)got;
        if (used == room) bytes = realloc(bytes, room *= 2);
    }
    *length = used;
    return bytes;
}

static void say(const void *bytes, size_t length) {
    const char *at = bytes;
    while (length > 0) {
        ssize_t put = write(1, at, length);
        if (put <= 0) abort();
        at += put;
        length -= (size_t)put;
    }
}

static void say_text(const char *text) { say(text, strlen(text)); }

static void say_number(uint64_t number) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    say(digits + at, sizeof digits - at);
}

/* Tells the log why there is no answer, and fails. */
static void fail(const char *reason) {
    (void)!write(2, reason, strlen(reason));
    (void)!write(2, "\n", 1);
    exit(1);
}

/* The first whole number in the body, so that 30, "n=30" and {"n": 30} are the
   same; `otherwise` where there is none. More than `most` is refused. */
static uint64_t number(uint64_t otherwise, uint64_t most) {
    size_t length, at = 0;
    unsigned char *bytes = body(&length);
    while (at < length && (bytes[at] < '0' || bytes[at] > '9')) at++;
    if (at == length) return otherwise;
    uint64_t value = 0;
    for (; at < length && bytes[at] >= '0' && bytes[at] <= '9'; at++) {
        value = value * 10 + (bytes[at] - '0');
        if (value > most) fail("the number is larger than this sample takes");
    }
    return value;
}

#endif
