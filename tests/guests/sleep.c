// Waits as many milliseconds as its input says.
#include <stdio.h>
#include <time.h>

int main(void) {
    long wait = 0;
    if (scanf("%ld", &wait) != 1) return 1;
    struct timespec time = {wait / 1000, wait % 1000 * 1000000};
    nanosleep(&time, NULL);
    puts("awake");
    return 0;
}
