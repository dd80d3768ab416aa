/* tokenizer_driver: encodes and decodes many texts with one tokenizer, for comparisons with other
 * libraries (interop/check_tokenizers.py) and for measuring.
 *
 *   tokenizer_driver DIRECTORY|BASE.h5 [text]      "text": special tokens stay text
 *
 * Standard input: for every text its length in bytes (32 bits, little-endian) and the bytes.
 * Standard output: for every text the number of ids and the ids, the length of what they decode to
 * and its bytes, all numbers of 32 bits. Standard error: processor time to open, and rates. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mpilora/data.h"
#include "mpilora/store.h"

/* Of this process: others may have the cores. */
static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static int fail(const char *what)
{
    fprintf(stderr, "tokenizer_driver: %s: %s\n", what, ml_error_text());
    return 3;
}

static ml_status open_tokenizer(ml_tokenizer **out, const char *path)
{
    ml_status st = ML_OK;
    ml_text json = {0};
    ml_base *base = NULL;
    bool found;
    size_t length = strlen(path);
    if (length > 3 && !strcmp(path + length - 3, ".h5")) {
        int64_t bytes;
        ML_TRY(ml_base_open(&base, path));
        const char *text = ml_base_tokenizer(base, &bytes);
        ML_TRY(ml_text_add(&json, text, bytes));
    } else {
        ML_TRY(ml_tokenizer_from_directory(path, &json, &found));
        if (!found) st = ml_fail(ML_INPUT, "%s: no tokenizer there", path);
    }
    if (st == ML_OK) st = ml_tokenizer_create(out, json.data, json.length);
done:
    ml_base_close(base);
    ml_text_destroy(&json);
    return st;
}

static bool read_number(uint32_t *number) { return fread(number, 4, 1, stdin) == 1; }

static void write_number(int64_t number)
{
    uint32_t small = (uint32_t)number;
    fwrite(&small, 4, 1, stdout);
}

int main(int argc, char **argv)
{
    ml_tokenizer *tokenizer = NULL;
    ml_text text = {0}, back = {0};
    ml_ids ids = {0};
    double opening = cpu_seconds(), encoding = 0, decoding = 0;
    int64_t bytes = 0;
    uint32_t length;
    if (argc < 2) return 2;
    bool specials = argc < 3 || strcmp(argv[2], "text") != 0;
    if (open_tokenizer(&tokenizer, argv[1]) != ML_OK) return fail(argv[1]);
    opening = cpu_seconds() - opening;
    static char buffer[1 << 16];
    while (read_number(&length)) {
        text.length = 0;
        for (uint32_t left = length; left;) {
            size_t n = fread(buffer, 1, left < sizeof buffer ? left : sizeof buffer, stdin);
            if (!n || ml_text_add(&text, buffer, (int64_t)n) != ML_OK) return fail("input");
            left -= (uint32_t)n;
        }
        ids.count = back.length = 0;
        double start = cpu_seconds();
        if (ml_tokenizer_encode(tokenizer, text.data, text.length, specials, &ids) != ML_OK)
            return fail("encoding");
        double middle = cpu_seconds();
        if (ml_tokenizer_decode(tokenizer, ids.data, ids.count, &back) != ML_OK)
            return fail("decoding");
        encoding += middle - start;
        decoding += cpu_seconds() - middle;
        bytes += length;
        write_number(ids.count);
        fwrite(ids.data, 4, (size_t)ids.count, stdout);
        write_number(back.length);
        fwrite(back.data, 1, (size_t)back.length, stdout);
    }
    fprintf(stderr, "%.3f s to open, %.1f MB/s encoded, %.1f MB/s decoded\n", opening,
            (double)bytes / 1e6 / encoding, (double)bytes / 1e6 / decoding);
    ml_tokenizer_destroy(tokenizer);
    ml_text_destroy(&text);
    ml_text_destroy(&back);
    ml_ids_destroy(&ids);
    return 0;
}
