// Burns a fixed amount of CPU and answers with a number that depends on it.
#include <stdio.h>

int main(void) {
    unsigned rounds = 0, state = 1;
    if (scanf("%u", &rounds) != 1) return 1;
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned step = 0; step < 1000; step++) state = state * 1664525u + 1013904223u;
    printf("%u\n", state);
    return 0;
}
