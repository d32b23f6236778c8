// Ends with the code that its input names, after some output.
#include <stdio.h>

int main(void) {
    int code = 0;
    if (scanf("%d", &code) != 1) return 99;
    printf("leaving with %d\n", code);
    return code;
}
