/* How the operands of the product are packed: a block of a matrix becomes panels of as many lanes
 * as the register tile has rows or columns, [depth][width], so that the tile reads one number after
 * another; lanes that the matrix does not have are zero. bf16 is widened and blocks are decoded on
 * the way. */
#ifndef MPILORA_KERNELS_NATIVE_PACK_H
#define MPILORA_KERNELS_NATIVE_PACK_H

#include "kernels/native/blocks.h"
#include "kernels/native/tile.h"

/* `lanes` rows of A or columns of B, `depth` deep. A: turned means [depth, lanes] in memory; B:
 * turned means [lanes, depth]. */
typedef struct matrix_part {
    const char *data;
    ml_dtype dtype;
    int64_t ld, lanes, depth;
    bool turned;
} matrix_part;

/* ---- rows of numbers ------------------------------------------------------------------------ */

/* Rows of bf16 may begin at any number. */
typedef uint32_t two_words __attribute__((vector_size(8), aligned(2), may_alias));
typedef uint32_t four_words __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint32_t eight_words __attribute__((vector_size(32), aligned(2), may_alias));

/* Four words of each of 8, 4 or 2 rows, `stride` bytes apart: row i and, of eight, row i + 4 behind
 * it. */
ML_INLINE void take_words(const int rows, const char *x, int64_t stride, eight_words row[4])
{
    const four_words none = {0};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const four_words first =
                             i < rows ? *(const four_words *)(const void *)(x + i * stride) : none,
                         second = rows == 8
                                      ? *(const four_words *)(const void *)(x + (i + 4) * stride)
                                      : none;
        row[i] = __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7);
    }
}

/* out[i]: word i of all rows. */
ML_INLINE void turn_words(const eight_words row[4], eight_words out[4])
{
    eight_words ab_low = __builtin_shufflevector(row[0], row[1], 0, 8, 1, 9, 4, 12, 5, 13),
                ab_high = __builtin_shufflevector(row[0], row[1], 2, 10, 3, 11, 6, 14, 7, 15),
                cd_low = __builtin_shufflevector(row[2], row[3], 0, 8, 1, 9, 4, 12, 5, 13),
                cd_high = __builtin_shufflevector(row[2], row[3], 2, 10, 3, 11, 6, 14, 7, 15);
    out[0] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 8, 9, 4, 5, 12, 13);
    out[1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 10, 11, 6, 7, 14, 15);
    out[2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 8, 9, 4, 5, 12, 13);
    out[3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 10, 11, 6, 7, 14, 15);
}

ML_INLINE void put(const int lanes, float *to, eight_words bits)
{
    if (lanes == 8)
        *(eight_words *)(void *)to = bits;
    else if (lanes == 4)
        *(four_words *)(void *)to = __builtin_shufflevector(bits, bits, 0, 1, 2, 3);
    else
        *(two_words *)(void *)to = __builtin_shufflevector(bits, bits, 0, 1);
}

ML_INLINE float element_at(const void *x, bool bf16, int64_t i)
{
    return bf16 ? ml_bf16_to_float(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* Asks for the lines of `rows` rows that lie `ahead` bytes behind those read now, 0: for none. */
ML_INLINE void ask_for(const char *x, int64_t at, int rows, int64_t stride, int64_t ahead)
{
    if (ahead != 0 && at % LINE == 0)
        for (int i = 0; i < rows; i++) __builtin_prefetch(x + at + i * stride + ahead);
}

/* 8, 4 or 2 lanes: rows of the matrix that run along the depth. */
ML_INLINE void turn_lanes(const int lanes, int64_t depth, const char *x, int64_t stride, bool bf16,
                          float *to, int64_t width, int64_t ahead)
{
    eight_words row[4], turned[4];
    int64_t l = 0, step = bf16 ? 8 : 4, size = bf16 ? 2 : 4;
    for (; l + step <= depth; l += step) {
        ask_for(x, l * size, lanes, stride, ahead);
        take_words(lanes, x + l * size, stride, row);
        turn_words(row, turned);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            if (bf16) { /* a word holds two numbers of the depth, the first below */
                put(lanes, to + (l + 2 * i) * width, turned[i] << 16);
                put(lanes, to + (l + 2 * i + 1) * width, turned[i] & 0xffff0000u);
            } else
                put(lanes, to + (l + i) * width, turned[i]);
        }
    }
    for (; l < depth; l++)
        for (int i = 0; i < lanes; i++) to[l * width + i] = element_at(x + i * stride, bf16, l);
}

/* The next panel's rows, which follow these, are on their way meanwhile. */
ML_INLINE void turn(int64_t depth, int64_t lanes, const char *x, int64_t stride, bool bf16,
                    float *to, int64_t width)
{
    int64_t i = 0, ahead = width * stride;
    for (; i + 8 <= lanes; i += 8)
        turn_lanes(8, depth, x + i * stride, stride, bf16, to + i, width, ahead);
    for (; i + 4 <= lanes; i += 4)
        turn_lanes(4, depth, x + i * stride, stride, bf16, to + i, width, ahead);
    for (; i + 2 <= lanes; i += 2)
        turn_lanes(2, depth, x + i * stride, stride, bf16, to + i, width, ahead);
    for (; i < width; i++)
        for (int64_t l = 0; l < depth; l++)
            to[l * width + i] = i < lanes ? element_at(x + i * stride, bf16, l) : 0;
}

ML_INLINE void straight(int64_t depth, int64_t lanes, const char *x, int64_t stride, bool bf16,
                        float *to, const int width)
{
    for (int64_t l = 0; l < depth; l++) {
        const char *row = x + l * stride;
        float *out = to + l * width;
        if (lanes == width && !bf16)
            memcpy(out, row, (size_t)width * sizeof *out);
        else if (lanes == width) { /* of B: whole vectors */
#pragma GCC unroll 2
            for (int i = 0; i < width; i += ML_LANES)
                *(ml_vector *)(void *)(out + i) =
                    ml_bf16_lanes((const uint16_t *)(const void *)row + i);
        } else
            for (int64_t i = 0; i < width; i++) out[i] = i < lanes ? element_at(row, bf16, i) : 0;
    }
}

/* alpha·A → [depth][TILE_ROWS] */
static void pack_rows(const matrix_part *part, float alpha, float *to)
{
    const char *x = part->data;
    int64_t stride = part->ld * (int64_t)sizeof(float);
    if (part->turned)
        straight(part->depth, part->lanes, x, stride, false, to, TILE_ROWS);
    else
        turn(part->depth, part->lanes, x, stride, false, to, TILE_ROWS);
    if (alpha == 1) return;
    for (int64_t i = 0; i < part->depth * TILE_ROWS; i++) to[i] *= alpha;
}

/* `lanes` columns of B, which runs along them, over all panels: a row is read once, and rows to
 * come are on their way. */
ML_INLINE void spread(int64_t depth, int64_t lanes, const char *x, int64_t stride, bool bf16,
                      float *to, int64_t panel)
{
    enum { ROWS_AHEAD = 8 };
    const int64_t size = bf16 ? 2 : 4;
    for (int64_t l = 0; l < depth; l++, x += stride, to += TILE_COLUMNS) {
        for (int64_t at = 0; at < lanes * size; at += LINE)
            __builtin_prefetch(x + ROWS_AHEAD * stride + at);
        for (int64_t j = 0; j < lanes; j += TILE_COLUMNS)
            straight(1, ml_min(TILE_COLUMNS, lanes - j), x + j * size, stride, bf16, to + j * panel,
                     TILE_COLUMNS);
    }
}

/* B → panels, each [panel][TILE_COLUMNS], of which this may be a part of the depth. */
static void pack_columns(const matrix_part *part, int64_t panel, float *to)
{
    const char *x = part->data;
    bool bf16 = part->dtype == ML_BF16;
    int64_t stride = part->ld * (bf16 ? 2 : 4);
    if (!part->turned) {
        if (bf16)
            spread(part->depth, part->lanes, x, stride, true, to, panel);
        else
            spread(part->depth, part->lanes, x, stride, false, to, panel);
        return;
    }
    for (int64_t j = 0; j < part->lanes; j += TILE_COLUMNS, x += TILE_COLUMNS * stride) {
        int64_t lanes = ml_min(TILE_COLUMNS, part->lanes - j);
        if (bf16)
            turn(part->depth, lanes, x, stride, true, to + j * panel, TILE_COLUMNS);
        else
            turn(part->depth, lanes, x, stride, false, to + j * panel, TILE_COLUMNS);
    }
}

/* ---- rows of blocks ------------------------------------------------------------------------ */

/* `lanes` columns of B in as many panels as they need. Turned: weights [first, first + depth) of
 * each of `lanes` rows; else [first, first + lanes) of `depth` rows. */
typedef struct block_part {
    const uint8_t *rows;
    ml_dtype dtype;
    int64_t row_bytes, first, lanes, depth;
    int64_t panel; /* depth of a panel, of which this may be a part */
    bool turned;
} block_part;

/* Some rows at a time are decoded into the L1 cache, a piece of the depth after another, and turned
 * from there. */
static void turn_blocks(const block_part *p, int64_t lane, int64_t lanes, float *to)
{
    enum { ROWS = 8, PIECE = 256 };
    float rows[ROWS][PIECE];
    for (int64_t i = 0; i < TILE_COLUMNS; i += ROWS) {
        int64_t n = ml_max(0, ml_min(ROWS, lanes - i));
        if (n < ROWS) memset(rows[n], 0, (size_t)(ROWS - n) * sizeof rows[0]);
        for (int64_t at = 0; at < p->depth; at += PIECE) {
            int64_t depth = ml_min(PIECE, p->depth - at);
            for (int64_t j = 0; j < n; j++) {
                const uint8_t *row = p->rows + (lane + i + j) * p->row_bytes;
                ML_NATIVE(decode_run)
                (p->dtype, row, p->first + at, depth, ROWS * p->row_bytes, rows[j]);
            }
            turn_lanes(ROWS, depth, (const char *)rows, (int64_t)sizeof rows[0], false,
                       to + at * TILE_COLUMNS + i, TILE_COLUMNS, 0);
        }
    }
}

static void pack_blocks(const block_part *p, float *to)
{
    if (!p->turned) {
        ML_NATIVE(decode_spread)
        (p->dtype, p->rows, p->row_bytes, p->depth, p->first, p->lanes, p->panel * TILE_COLUMNS,
         to);
        return;
    }
    for (int64_t j = 0; j < p->lanes; j += TILE_COLUMNS)
        turn_blocks(p, j, ml_min(TILE_COLUMNS, p->lanes - j), to + j * p->panel);
}

#endif
