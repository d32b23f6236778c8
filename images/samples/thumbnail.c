/*
 * A picture made small: a binary PPM (P6) or an uncompressed 24-bit BMP comes,
 * a PPM whose longer side has at most 128 pixels goes. Every pixel is the mean
 * of those that it stands for.
 */
#include "sample.h"

enum { SIDE = 128, MOST = 8192 };

struct picture {
    const unsigned char *pixels; /* of the topmost row */
    long row;                    /* bytes from a row to the one below */
    uint32_t width, height;
    int red, blue; /* where in a pixel they are */
};

static uint32_t little(const unsigned char *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The next number of a PPM's head; comments go to the end of their line. */
static uint32_t field(const unsigned char *bytes, size_t length, size_t *at) {
    uint32_t value = 0;
    for (;; ++*at) {
        if (*at >= length) fail("the picture ends in its head");
        if (bytes[*at] == '#')
            while (*at + 1 < length && bytes[*at] != '\n') ++*at;
        else if (bytes[*at] >= '0' && bytes[*at] <= '9') break;
    }
    for (; *at < length && bytes[*at] >= '0' && bytes[*at] <= '9'; ++*at)
        if ((value = value * 10 + (bytes[*at] - '0')) > 65535) fail("the picture is too large");
    return value;
}

static void check(uint64_t start, uint64_t stride, const struct picture *p, size_t length) {
    if (p->width == 0 || p->height == 0 || p->width > MOST || p->height > MOST)
        fail("pictures have 1 to 8192 pixels a side");
    if (start + stride * (p->height - 1) + 3 * (uint64_t)p->width > length)
        fail("the picture has fewer pixels than its head says");
}

static struct picture parse(const unsigned char *bytes, size_t length) {
    struct picture p = {0};
    if (length > 2 && bytes[0] == 'P' && bytes[1] == '6') {
        size_t at = 2;
        p.width = field(bytes, length, &at);
        p.height = field(bytes, length, &at);
        if (field(bytes, length, &at) != 255) fail("only PPMs of 255 levels are read");
        at++;
        p.row = 3 * (long)p.width;
        p.blue = 2;
        check(at, (uint64_t)p.row, &p, length);
        p.pixels = bytes + at;
    } else if (length >= 54 && bytes[0] == 'B' && bytes[1] == 'M') {
        int32_t height = (int32_t)little(bytes + 22);
        uint32_t start = little(bytes + 10);
        if ((bytes[28] | bytes[29] << 8) != 24 || little(bytes + 30) != 0)
            fail("only uncompressed BMPs of 24 bits are read");
        p.width = little(bytes + 18);
        p.height = height < 0 ? 0u - (uint32_t)height : (uint32_t)height;
        p.red = 2;
        uint64_t stride = (3 * (uint64_t)p.width + 3) / 4 * 4;
        check(start, stride, &p, length);
        /* Rows are stored upwards unless the height is negative. */
        p.row = height < 0 ? (long)stride : -(long)stride;
        p.pixels = bytes + start + (height < 0 ? 0 : stride * (p.height - 1));
    } else {
        fail("send a binary PPM (P6) or an uncompressed 24-bit BMP");
    }
    return p;
}

int main(void) {
    size_t length;
    unsigned char *bytes = body(&length);
    struct picture p = parse(bytes, length);
    uint32_t longer = p.width > p.height ? p.width : p.height;
    uint32_t side = longer < SIDE ? longer : SIDE;
    uint32_t width = p.width * side / longer, height = p.height * side / longer;
    width = width ? width : 1;
    height = height ? height : 1;
    say_text("P6\n");
    say_number(width);
    say_text(" ");
    say_number(height);
    say_text("\n255\n");
    unsigned char out[3 * SIDE];
    for (uint32_t y = 0; y < height; y++) {
        uint32_t top = y * p.height / height, bottom = (y + 1) * p.height / height;
        for (uint32_t x = 0; x < width; x++) {
            uint32_t left = x * p.width / width, right = (x + 1) * p.width / width;
            uint64_t sum[3] = {0}, count = 0;
            for (uint32_t v = top; v < bottom; v++)
                for (uint32_t u = left; u < right; u++, count++) {
                    const unsigned char *pixel = p.pixels + (long)v * p.row + 3 * (long)u;
                    sum[0] += pixel[p.red];
                    sum[1] += pixel[1];
                    sum[2] += pixel[p.blue];
                }
            for (int i = 0; i < 3; i++) out[3 * x + i] = (unsigned char)(sum[i] / count);
        }
        say(out, 3 * width);
    }
}
