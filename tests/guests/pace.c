// Waits as many milliseconds as the secret `ms` says; fails at once where that
// is no number.
#include <stdio.h>
#include <time.h>

int main(void) {
    long wait = 0;
    FILE *secret = fopen("/var/openfaas/secrets/ms", "r");
    if (!secret || fscanf(secret, "%ld", &wait) != 1) return 1;
    struct timespec time = {wait / 1000, wait % 1000 * 1000000};
    nanosleep(&time, NULL);
    printf("waited %ld\n", wait);
    return 0;
}
