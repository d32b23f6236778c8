// Reads the secret that its input names and tries to replace it.
#include <stdio.h>

int main(void) {
    char name[128], path[256], value[4096];
    if (scanf("%127s", name) != 1) return 1;
    snprintf(path, sizeof path, "/var/openfaas/secrets/%s", name);
    FILE *secret = fopen(path, "r");
    if (!secret) {
        puts("absent");
        return 0;
    }
    size_t length = fread(value, 1, sizeof value, secret);
    fclose(secret);
    fwrite(value, 1, length, stdout);
    puts(fopen(path, "w") ? " writable" : " read-only");
    return 0;
}
