// Answers with the status that the query names, a few headers (some of which no
// function may set) and its own input.
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    const char *query = getenv("QUERY_STRING");
    int status = query && *query ? atoi(query) : 200;
    printf("Status: %d Made To Order\r\n", status);
    printf("Content-Type: text/x-weir\r\nX-Guest: yes\r\n");
    printf("Set-Cookie: first=1\r\nSet-Cookie: second=2\r\n");
    printf("X-Weir-Node: forged\r\nX-Call-Id: forged\r\nConnection: close\r\n\r\n");
    for (int byte; (byte = getchar()) != EOF;) putchar(byte);
    return 0;
}
