// Answers with something that is no CGI header block.
#include <stdio.h>

int main(void) {
    puts("\x01\x02 this is: no header\r block \xff\n\nbody");
    return 0;
}
