// Begins a good answer and fails in the middle of it.
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    printf("Content-Type: text/plain\r\n\r\nthe beginning");
    fflush(stdout);
    getchar();
    abort();
}
