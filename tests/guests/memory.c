// Takes memory until there is no more.
#include <stdlib.h>
#include <string.h>

int main(void) {
    static char *volatile kept;
    for (;;) {
        kept = malloc(1 << 20);
        if (!kept) abort();
        memset(kept, 1, 1 << 20);
    }
}
