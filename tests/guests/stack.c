// Calls itself until the stack is gone.
int deeper(volatile int *above) {
    volatile int here[64];
    here[0] = above ? above[0] + 1 : 0;
    return deeper(here) + here[0];
}

int main(void) { return deeper(0); }
