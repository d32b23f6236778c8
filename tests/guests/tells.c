// Answers with its environment, one variable a line, and its own input. With
// TELLS_HEAD set it is a CGI program, whose head has what telling ones have, and
// as many headers more as the query says.
#include <stdio.h>
#include <stdlib.h>

extern char **environ;

int main(void) {
    const char *query = getenv("QUERY_STRING");
    if (getenv("TELLS_HEAD")) {
        printf("Status: 203 Made To Order\r\nX-Guest: yes\r\nSet-Cookie: first=1\r\nSet-Cookie: second=2\r\n");
        printf("X-Weir-Node: forged\r\nX-Call-Id: forged\r\n");
        for (int more = query ? atoi(query) : 0; more > 0; more--) printf("X-More-%d: yes\r\n", more);
        printf("\r\n");
    }
    for (char **variable = environ; *variable; variable++) puts(*variable);
    puts("");
    for (int byte; (byte = getchar()) != EOF;) putchar(byte);
    return 0;
}
