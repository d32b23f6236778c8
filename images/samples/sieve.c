/* How many primes there are up to n, by the sieve of Eratosthenes, and the largest. */
#include "sample.h"

int main(void) {
    uint64_t n = number(100000, 50000000), count = 0, largest = 0;
    unsigned char *composite = calloc(n + 1, 1);
    if (!composite) fail("there is not enough memory for so many numbers");
    for (uint64_t i = 2; i <= n; i++) {
        if (composite[i]) continue;
        count++;
        largest = i;
        for (uint64_t multiple = i * i; multiple <= n; multiple += i) composite[multiple] = 1;
    }
    say_text("{\"up_to\":");
    say_number(n);
    say_text(",\"primes\":");
    say_number(count);
    say_text(",\"largest\":");
    say_number(largest);
    say_text("}\n");
}
