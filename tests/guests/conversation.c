// Sends one server-sent event for each line it reads, as it reads it.
#include <stdio.h>

int main(void) {
    char line[256];
    setvbuf(stdin, NULL, _IONBF, 0);
    printf("Content-Type: text/event-stream\r\n\r\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        printf("data: %s\n", line);
        fflush(stdout);
    }
    return 0;
}
