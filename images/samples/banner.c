/* The text in large letters of # signs, 16 letters a row of output. */
#include "sample.h"

/* Five rows of five dots per letter; the lowest bit is the rightmost dot. */
static const struct { char letter; unsigned char rows[5]; } font[] = {
    {'A', {14, 17, 31, 17, 17}}, {'B', {30, 17, 30, 17, 30}}, {'C', {15, 16, 16, 16, 15}},
    {'D', {30, 17, 17, 17, 30}}, {'E', {31, 16, 30, 16, 31}}, {'F', {31, 16, 30, 16, 16}},
    {'G', {15, 16, 19, 17, 15}}, {'H', {17, 17, 31, 17, 17}}, {'I', {14, 4, 4, 4, 14}},
    {'J', {7, 2, 2, 18, 12}},    {'K', {17, 18, 28, 18, 17}}, {'L', {16, 16, 16, 16, 31}},
    {'M', {17, 27, 21, 17, 17}}, {'N', {17, 25, 21, 19, 17}}, {'O', {14, 17, 17, 17, 14}},
    {'P', {30, 17, 30, 16, 16}}, {'Q', {14, 17, 21, 18, 13}}, {'R', {30, 17, 30, 18, 17}},
    {'S', {15, 16, 14, 1, 30}},  {'T', {31, 4, 4, 4, 4}},     {'U', {17, 17, 17, 17, 14}},
    {'V', {17, 17, 17, 10, 4}},  {'W', {17, 17, 21, 27, 17}}, {'X', {17, 10, 4, 10, 17}},
    {'Y', {17, 10, 4, 4, 4}},    {'Z', {31, 2, 4, 8, 31}},    {'0', {14, 19, 21, 25, 14}},
    {'1', {4, 12, 4, 4, 14}},    {'2', {30, 1, 14, 16, 31}},  {'3', {30, 1, 14, 1, 30}},
    {'4', {18, 18, 31, 2, 2}},   {'5', {31, 16, 30, 1, 30}},  {'6', {14, 16, 30, 17, 14}},
    {'7', {31, 1, 2, 4, 4}},     {'8', {14, 17, 14, 17, 14}}, {'9', {14, 17, 15, 1, 14}},
    {'.', {0, 0, 0, 0, 4}},      {',', {0, 0, 0, 4, 8}},      {'!', {4, 4, 4, 0, 4}},
    {'?', {14, 1, 6, 0, 4}},     {'-', {0, 0, 14, 0, 0}},     {'+', {0, 4, 14, 4, 0}},
    {':', {0, 4, 0, 4, 0}},      {'/', {1, 2, 4, 8, 16}},     {' ', {0, 0, 0, 0, 0}},
};

enum { ACROSS = 16 };

static const unsigned char *rows(unsigned char letter) {
    if (letter >= 'a' && letter <= 'z') letter -= 'a' - 'A';
    for (size_t i = 0; i < sizeof font / sizeof *font; i++)
        if (font[i].letter == letter) return font[i].rows;
    return rows('?');
}

static void line(const unsigned char *text, size_t length) {
    for (int row = 0; row < 5; row++) {
        char out[ACROSS * 6 + 1];
        size_t at = 0;
        for (size_t i = 0; i < length; i++) {
            for (int dot = 4; dot >= 0; dot--) out[at++] = rows(text[i])[row] >> dot & 1 ? '#' : ' ';
            out[at++] = ' ';
        }
        while (at > 0 && out[at - 1] == ' ') at--;
        out[at++] = '\n';
        say(out, at);
    }
    say_text("\n");
}

int main(void) {
    size_t length, at = 0;
    unsigned char *text = body(&length);
    while (at < length) {
        size_t count = 0;
        while (at + count < length && count < ACROSS && text[at + count] != '\n') count++;
        line(text + at, count);
        at += count;
        if (at < length && text[at] == '\n') at++;
    }
}
