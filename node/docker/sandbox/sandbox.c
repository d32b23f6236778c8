/*
 * Holds a network namespace open, and hands out sockets that belong to it.
 *
 * The one process of a sandbox container. It dials the node over the Unix
 * socket that is mounted there, and for each byte that the node sends it makes
 * one TCP socket and passes it on. The node connects, binds and listens
 * itself: a socket stays in the namespace in which it was made.
 *
 * Without a C library, so that any compiler for the machine makes a static
 * program of a few kilobytes.
 */

typedef unsigned long word;

enum { AF_UNIX = 1, AF_INET = 2, SOCK_STREAM = 1, SOCK_CLOEXEC = 02000000 };
enum { SOL_SOCKET = 1, SCM_RIGHTS = 1, EINTR = 4 };

#if defined(__x86_64__)
enum { READ = 0, CLOSE = 3, SOCKET = 41, CONNECT = 42, SENDMSG = 46, EXIT = 231 };
static long call(long number, long a, long b, long c, long d) {
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth) : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call run\n");
#elif defined(__aarch64__)
enum { READ = 63, CLOSE = 57, SOCKET = 198, CONNECT = 203, SENDMSG = 211, EXIT = 94 };
static long call(long number, long a, long b, long c, long d) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n mov x29, xzr\n bl run\n");
#else
#error "no system calls are written down for this processor"
#endif

struct address { unsigned short family; char path[108]; };
struct piece { void *base; word length; };
struct message { void *name; unsigned name_length; struct piece *pieces; word count; void *control; word control_length; int flags; };
struct control { word length; int level; int type; int descriptor; int padding; };

/* Where the node listens; node/docker/src/sandbox.rs mounts it there. */
static const char NODE[] = "/run/weir/sandbox.sock";

__attribute__((noreturn)) static void leave(long status) {
    for (;;) call(EXIT, status, 0, 0, 0);
}

/* Passes one new socket, or the number of the error that kept it from being made. */
static int hand_out(long node) {
    long made = call(SOCKET, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0, 0);
    volatile unsigned char error = made < 0 ? (unsigned char)-made : 0;
    struct piece piece = {(void *)&error, 1};
    struct control control = {16 + sizeof(int), SOL_SOCKET, SCM_RIGHTS, (int)made, 0};
    struct message message = {0, 0, &piece, 1, &control, sizeof control, 0};
    if (made < 0) {
        message.control = 0;
        message.control_length = 0;
    }
    long sent;
    do sent = call(SENDMSG, node, (long)&message, 0, 0); while (sent == -EINTR);
    if (made >= 0) call(CLOSE, made, 0, 0, 0);
    return sent == 1;
}

__attribute__((noreturn, used)) void run(void) {
    struct address address = {AF_UNIX, {0}};
    unsigned at = 0;
    for (; at < sizeof NODE; at++) address.path[at] = NODE[at];
    long node = call(SOCKET, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, 0);
    if (node < 0 || call(CONNECT, node, (long)&address, 2 + at, 0) < 0) leave(1);
    for (;;) {
        unsigned char asked;
        long got = call(READ, node, (long)&asked, 1, 0);
        if (got == -EINTR) continue;
        /* The node is gone, and with it whoever this namespace was for. */
        if (got <= 0) leave(0);
        if (!hand_out(node)) leave(2);
    }
}
