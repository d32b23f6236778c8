/* Waits for n milliseconds and says so: a function that is busy without work. */
#include <time.h>

#include "sample.h"

int main(void) {
    uint64_t n = number(100, 600000);
    struct timespec pause = {(time_t)(n / 1000), (long)(n % 1000) * 1000000};
    nanosleep(&pause, NULL);
    say_text("{\"slept_ms\":");
    say_number(n);
    say_text("}\n");
}
