/* Mutations. An input gets one to four of them, one after the other; text is changed token by
 * token as often as byte by byte. */
#include "mutate.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct work {
    unsigned char *bytes;
    size_t size, most;
    uint64_t random;
} work;

/* splitmix64 */
static uint64_t draw(work *w)
{
    uint64_t z = (w->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t below(work *w, size_t n) { return n ? (size_t)(draw(w) % n) : 0; }

/* Puts `length` bytes in the place of [at, at + gone). */
static void replace(work *w, size_t at, size_t gone, const void *with, size_t length)
{
    if (at > w->size) at = w->size;
    if (gone > w->size - at) gone = w->size - at;
    if (w->size - gone + length > w->most) return;
    memmove(w->bytes + at + length, w->bytes + at + gone, w->size - at - gone);
    memcpy(w->bytes + at, with, length);
    w->size += length;
    w->size -= gone;
}

/* ---- bytes --------------------------------------------------------------------------------- */

static void flip_bit(work *w)
{
    if (w->size) w->bytes[below(w, w->size)] ^= (unsigned char)(1u << below(w, 8));
}

static void odd_byte(work *w)
{
    static const unsigned char odd[] = {0,    0xff, 0x7f, 0x80, '"', '{', '}',  '[', ']',
                                        '\\', ',',  ':',  '\n', ' ', '-', 0xc0, 0xed};
    if (w->size) w->bytes[below(w, w->size)] = odd[below(w, sizeof odd)];
}

/* A number of one to eight bytes, as lengths, counts, offsets and types are written. */
static void odd_number(work *w)
{
    const uint64_t odd[] = {0,
                            1,
                            2,
                            3,
                            7,
                            0x7f,
                            0x80,
                            0xff,
                            0x7fff,
                            0xffff,
                            0x7fffffff,
                            0x80000000,
                            0xffffffff,
                            UINT64_C(1) << 32,
                            UINT64_C(1) << 40,
                            UINT64_C(1) << 61,
                            UINT64_C(1) << 62,
                            INT64_MAX,
                            UINT64_C(1) << 63,
                            UINT64_MAX,
                            UINT64_MAX - 7,
                            w->size,
                            w->size - 8,
                            w->size + 1};
    uint64_t value = odd[below(w, sizeof odd / sizeof *odd)];
    size_t width = (size_t)1 << below(w, 4);
    size_t head = below(w, 2) ? w->size : w->size / 8; /* what is at the front is mostly head */
    if (w->size < width) return;
    size_t at = below(w, (head > width ? head : width) - width + 1);
    memcpy(w->bytes + at, &value, width);
}

static void cut(work *w) { w->size = below(w, w->size + 1); }

static void leave_out(work *w)
{
    size_t at = below(w, w->size), length = 1 + below(w, below(w, 2) ? 8 : w->size);
    replace(w, at, length, "", 0);
}

static void repeat_range(work *w)
{
    unsigned char piece[4096];
    size_t at = below(w, w->size), length = 1 + below(w, sizeof piece), to = below(w, w->size + 1);
    if (length > w->size - at) length = w->size - at;
    memcpy(piece, w->bytes + at, length);
    replace(w, to, below(w, 2) ? length : 0, piece, length);
}

static void insert_bytes(work *w)
{
    unsigned char piece[64];
    size_t length = 1 + below(w, sizeof piece), at = below(w, w->size + 1);
    for (size_t i = 0; i < length; i++) piece[i] = (unsigned char)draw(w);
    replace(w, at, 0, piece, length);
}

/* ---- text ---------------------------------------------------------------------------------- */

/* Begin and end of a token around or after a place: a quoted string, a number or word, or one
 * sign. */
static size_t token(const work *w, size_t at, size_t *length)
{
    while (at < w->size && isspace(w->bytes[at])) at++;
    size_t end = at;
    if (end < w->size && w->bytes[end] == '"') {
        for (end++; end < w->size && w->bytes[end] != '"'; end++)
            if (w->bytes[end] == '\\') end++;
        end++;
    } else {
        while (end < w->size && (isalnum(w->bytes[end]) || strchr("+-._", w->bytes[end]))) end++;
    }
    if (end == at) end++;
    if (end > w->size) end = w->size;
    *length = end > at ? end - at : 0;
    return at;
}

static void odd_token(work *w)
{
    static const char *const odd[] = {"null",
                                      "true",
                                      "false",
                                      "[]",
                                      "{}",
                                      "\"\"",
                                      "0",
                                      "-1",
                                      "1",
                                      "-0",
                                      "1e999",
                                      "-1e999",
                                      "NaN",
                                      "Infinity",
                                      "0.1",
                                      "1e-320",
                                      "2147483648",
                                      "4294967296",
                                      "9223372036854775807",
                                      "9223372036854775808",
                                      "18446744073709551616",
                                      "-9223372036854775809",
                                      "99999999999999999999999999999999999999",
                                      "\"x\"",
                                      "\"../../../../etc/passwd\"",
                                      "\"/etc/passwd\"",
                                      "\"a/b\"",
                                      "\"..\"",
                                      "\"\\u0000\"",
                                      "\"\\ud800\"",
                                      "\"\xff\xfe\"",
                                      "\"\xc0\x80\"",
                                      "[[[[[[[[[[[[[[[[",
                                      "{\"a\":{\"a\":{\"a\":1}}}",
                                      "(((a+)+)+)+$",
                                      "\"(((a+)+)+)+$\"",
                                      "&a",
                                      "*a",
                                      "!!python/object",
                                      "<<",
                                      "0x10",
                                      "010",
                                      "1_000",
                                      "~",
                                      "---",
                                      "...",
                                      "# ",
                                      "||",
                                      "\xef\xbb\xbf"};
    size_t length, at = token(w, below(w, w->size), &length);
    const char *with = odd[below(w, sizeof odd / sizeof *odd)];
    replace(w, at, length, with, strlen(with));
}

static void change_number(work *w)
{
    size_t at = below(w, w->size), tried = 0;
    while (tried++ < w->size && !isdigit(w->bytes[at])) at = (at + 1) % w->size;
    if (!w->size || !isdigit(w->bytes[at])) return;
    size_t end = at;
    while (end < w->size && isdigit(w->bytes[end])) end++;
    char text[32];
    int length =
        snprintf(text, sizeof text, "%lld",
                 (long long)(below(w, 2) ? (int64_t)draw(w) : (int64_t)below(w, 300) - 20));
    replace(w, at, end - at, text, (size_t)length);
}

/* From one comma or line's end to the next: a member of an object, an element, a line. */
static void member(work *w)
{
    unsigned char piece[4096];
    const char *ends = below(w, 2) ? "\n" : ",";
    size_t at = below(w, w->size);
    while (at < w->size && !strchr(ends, w->bytes[at])) at++;
    size_t end = at + 1;
    while (end < w->size && !strchr(ends, w->bytes[end])) end++;
    if (end > w->size || at >= w->size || end - at > sizeof piece) return;
    size_t length = end - at;
    memcpy(piece, w->bytes + at, length);
    if (below(w, 2))
        replace(w, at, length, "", 0);
    else
        replace(w, below(w, 2) ? at : below(w, w->size), 0, piece, length);
}

/* Thousands of the same sign: depth, or length. */
static void heap(work *w)
{
    static const char signs[] = "[{(\"- :,a0\n\\";
    unsigned char piece[1 << 16];
    size_t length = (size_t)1 << (4 + below(w, 13));
    memset(piece, signs[below(w, sizeof signs - 1)], length);
    replace(w, below(w, w->size + 1), 0, piece, length);
}

typedef void operation(work *w);
static operation *const bytewise[] = {flip_bit, odd_byte,  odd_number,   odd_number,
                                      cut,      leave_out, repeat_range, insert_bytes};
static operation *const textwise[] = {odd_token,     odd_token, odd_token, change_number,
                                      change_number, member,    member,    heap};

static void apply(work *w, bool text)
{
    operation *const *table = text && below(w, 4) ? textwise : bytewise;
    table[below(w, sizeof bytewise / sizeof *bytewise)](w);
}

/* The head is JSON behind its length; the length follows, mostly. */
static void mutate_head(work *w)
{
    uint64_t length = 0;
    if (w->size >= 8) memcpy(&length, w->bytes, 8);
    if (w->size < 8 || length > w->size - 8 || below(w, 4) == 0) {
        apply(w, false);
        return;
    }
    unsigned char tail[1 << 16];
    size_t rest = w->size - 8 - (size_t)length, kept = rest < sizeof tail ? rest : sizeof tail;
    memcpy(tail, w->bytes + 8 + length, kept);
    work head = {w->bytes + 8, (size_t)length, w->most - 8 - kept, draw(w)};
    apply(&head, true);
    memcpy(head.bytes + head.size, tail, kept);
    length = below(w, 8) ? head.size : length;
    memcpy(w->bytes, &length, 8);
    w->size = 8 + head.size + kept;
}

size_t mutate(mutate_kind kind, uint64_t number, unsigned char *bytes, size_t size)
{
    work w = {bytes, size, size + MUTATE_ROOM, number * UINT64_C(0xd1342543de82ef95) + 1};
    for (size_t times = 1 + below(&w, 4); times > 0; times--) {
        if (kind == MUTATE_SAFETENSORS)
            mutate_head(&w);
        else
            apply(&w, kind == MUTATE_TEXT);
    }
    return w.size;
}
