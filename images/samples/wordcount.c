/* Lines, words and bytes of a text, as wc counts them. */
#include "sample.h"

int main(void) {
    size_t length;
    unsigned char *bytes = body(&length);
    uint64_t lines = 0, words = 0;
    int inside = 0;
    for (size_t i = 0; i < length; i++) {
        int blank = bytes[i] == ' ' || (bytes[i] >= '\t' && bytes[i] <= '\r');
        lines += bytes[i] == '\n';
        words += !blank && !inside;
        inside = !blank;
    }
    say_text("{\"lines\":");
    say_number(lines);
    say_text(",\"words\":");
    say_number(words);
    say_text(",\"bytes\":");
    say_number(length);
    say_text("}\n");
}
