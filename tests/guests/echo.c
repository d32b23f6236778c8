// Answers with its own input. Also the guest that holds a place for as long as
// a test keeps the request body open.
#include <unistd.h>

int main(void) {
    static char buffer[65536];
    ssize_t length;
    while ((length = read(0, buffer, sizeof buffer)) > 0)
        for (ssize_t written = 0; written < length;) {
            ssize_t step = write(1, buffer + written, length - written);
            if (step < 0) return 1;
            written += step;
        }
    return length < 0;
}
