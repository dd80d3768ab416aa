/* What is noted of each block, and asked for later; what a note does not decide (a block that other
 * contents share, an array that is not aligned, a bad value to be named) is read again. */
#include "data/dataset_scan.h"

#include <inttypes.h>

#include "data/dataset_private.h"

enum { BLOCK = 1 << 14, WORDS = BLOCK / 64 };

/* ---- the pass ------------------------------------------------------------------------------ */

static uint32_t largest_word(const char *data, int64_t bytes)
{
    uint32_t largest = 0, word;
    for (int64_t i = 0; i + (int64_t)sizeof word <= bytes; i += (int64_t)sizeof word) {
        memcpy(&word, data + i, sizeof word);
        largest = word > largest ? word : largest;
    }
    return largest;
}

static bool are_bits(const char *data, int64_t bytes)
{
    unsigned char any = 0;
    for (int64_t i = 0; i < bytes; i++) any |= (unsigned char)data[i];
    return any <= 1;
}

static ml_status note_block(dataset_scan *scan, int64_t block, const char *data, int64_t bytes)
{
    ml_status st = ML_OK;
    scan->largest[block] = largest_word(data, bytes);
    if (!are_bits(data, bytes)) return ML_OK;
    ML_NEW(scan->bits[block], WORDS, ML_MEM_OTHER, "a block of a data set's mask");
    for (int64_t i = 0; i < bytes; i++)
        scan->bits[block][i / 64] |= (uint64_t)(unsigned char)data[i] << (i % 64);
done:
    return st;
}

/* A piece of whole blocks, but for the file's last one. */
static ml_status note(void *context, int64_t offset, const char *data, int64_t bytes)
{
    ml_status st = ML_OK;
    for (int64_t at = 0; at < bytes && st == ML_OK; at += BLOCK)
        st = note_block(context, (offset + at - ML_SEAL_BYTES) / BLOCK, data + at,
                        ml_min(BLOCK, bytes - at));
    return st;
}

ml_status dataset_scan_create(dataset_scan *scan, int fd, const char *path, int64_t bytes)
{
    ml_status st = ML_OK;
    *scan = (dataset_scan){.fd = fd, .path = path};
    int64_t blocks = ml_round_up(ml_max(0, bytes - ML_SEAL_BYTES), BLOCK) / BLOCK;
    ML_NEW(scan->largest, blocks, ML_MEM_OTHER, "notes of a data set");
    ML_NEW(scan->bits, blocks, ML_MEM_OTHER, "notes of a data set");
    scan->blocks = blocks;
    st = ml_seal_check(fd, path, ML_DATASET_KIND, bytes, note, scan);
done:
    return st;
}

void dataset_scan_destroy(dataset_scan *scan)
{
    for (int64_t b = 0; b < scan->blocks; b++) ml_memory_free(scan->bits[b]);
    ml_memory_free(scan->bits);
    ml_memory_free(scan->largest);
    *scan = (dataset_scan){0};
}

/* ---- what was noted ------------------------------------------------------------------------ */

/* The part of an array of `end` − `at` bytes that lies in the block of byte `from`. */
typedef struct piece {
    int64_t block, within; /* and its first byte inside the block */
    int64_t from, bytes;
} piece;

static piece piece_at(int64_t from, int64_t end)
{
    int64_t block = (from - ML_SEAL_BYTES) / BLOCK, start = ML_SEAL_BYTES + block * BLOCK;
    return (piece){block, from - start, from, ml_min(end, start + BLOCK) - from};
}

static ml_status read_tokens(const dataset_scan *scan, const piece *p, int64_t at, int64_t vocab)
{
    int32_t token[BLOCK / sizeof(int32_t)];
    ml_status st = ml_file_read(scan->fd, scan->path, token, p->bytes, p->from);
    if (st != ML_OK) return st;
    for (int64_t i = 0; i < p->bytes / (int64_t)sizeof *token; i++)
        if (token[i] < 0 || token[i] >= vocab)
            return ml_fail(ML_INPUT,
                           "%s: token %" PRId64 " is %" PRId32 ", expected an id from 0 to %" PRId64
                           " (vocabulary %" PRId64 ")",
                           scan->path, (p->from - at) / (int64_t)sizeof *token + i, token[i],
                           vocab - 1, vocab);
    return ML_OK;
}

/* Where the array is not aligned as the blocks are, pieces are cut at a token's first byte. */
ml_status dataset_scan_check_tokens(const dataset_scan *scan, int64_t at, int64_t count,
                                    int64_t vocab)
{
    enum { TOKEN = sizeof(int32_t) };
    bool aligned = at % TOKEN == 0;
    int64_t end = at + count * TOKEN;
    for (int64_t from = at; from < end;) {
        piece p = piece_at(from, end);
        if (!aligned) p.bytes = ml_min(BLOCK / 2, end - from);
        if (!aligned || scan->largest[p.block] >= (uint64_t)vocab) {
            ml_status st = read_tokens(scan, &p, at, vocab);
            if (st != ML_OK) return st;
        }
        from += p.bytes;
    }
    return ML_OK;
}

static void copy_bits(const uint64_t *from, int64_t first, int64_t count, uint64_t *to, int64_t at)
{
    while (count > 0) {
        int64_t take = ml_min(count, ml_min(64 - first % 64, 64 - at % 64));
        uint64_t word = from[first / 64] >> (first % 64);
        if (take < 64) word &= (UINT64_C(1) << take) - 1;
        to[at / 64] |= word << (at % 64);
        first += take, at += take, count -= take;
    }
}

static ml_status read_mask(const dataset_scan *scan, const piece *p, int64_t at, uint64_t *targets)
{
    uint8_t mask[BLOCK];
    ml_status st = ml_file_read(scan->fd, scan->path, mask, p->bytes, p->from);
    if (st != ML_OK) return st;
    for (int64_t i = 0, t = p->from - at; i < p->bytes; i++, t++) {
        if (mask[i] > 1)
            return ml_fail(ML_INPUT, "%s: the mask of token %" PRId64 " is %d, expected 0 or 1",
                           scan->path, t, mask[i]);
        targets[t / 64] |= (uint64_t)mask[i] << (t % 64);
    }
    return ML_OK;
}

ml_status dataset_scan_take_mask(const dataset_scan *scan, int64_t at, int64_t count,
                                 uint64_t *targets)
{
    ml_status st = ML_OK;
    for (int64_t from = at; from < at + count && st == ML_OK;) {
        const piece p = piece_at(from, at + count);
        if (scan->bits[p.block])
            copy_bits(scan->bits[p.block], p.within, p.bytes, targets, from - at);
        else
            st = read_mask(scan, &p, at, targets);
        from += p.bytes;
    }
    return st;
}
