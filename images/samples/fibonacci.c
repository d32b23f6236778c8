/* The n-th Fibonacci number, by its definition: work that grows with the answer. */
#include "sample.h"

static uint64_t fibonacci(uint64_t n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

int main(void) {
    say_number(fibonacci(number(25, 45)));
    say_text("\n");
}
