// Writes for ever.
#include <string.h>
#include <unistd.h>

int main(void) {
    static char piece[65536];
    memset(piece, 'x', sizeof piece);
    while (write(1, piece, sizeof piece) > 0) {}
    return 1;
}
