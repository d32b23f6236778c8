// Logs as many lines as its input says, then answers `done`.
#include <stdio.h>

int main(void) {
    long lines = 0;
    if (scanf("%ld", &lines) != 1) return 1;
    for (long line = 1; line <= lines; line++) fprintf(stderr, "line %ld of a very long story\n", line);
    puts("done");
    return 0;
}
