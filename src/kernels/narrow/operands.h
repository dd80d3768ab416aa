/* What attention's products of blocks take where bf16 is multiplied: numbers narrowed to it, A by
 * rows, B in panels of pairs as pack.h has them. The names are native/operands.h's. C, and what is
 * done with it, stays fp32: scores are scaled there, so that forward's and backward's products have
 * the same operands, whatever was kept for backward. */
#ifndef MPILORA_KERNELS_NARROW_OPERANDS_H
#define MPILORA_KERNELS_NARROW_OPERANDS_H

#include "kernels/narrow/tile.h"
#include "kernels/native/attention.h"

/* TOGETHER: rows of A that begin at the same element of the depth where others are zero. A row that
 * keeps all of its sum is multiplied by 1: to ask takes as long as the products. */
enum { TOGETHER = LINE, QUERIES_ARE_SCALED = 0, BEYOND_DIAGONAL = TOGETHER, ALL_ROWS_ARE_KEPT = 1 };

/* Rows come in whole lines of them. What they hold beyond the block's own is zero. */
typedef struct left {
    const uint16_t *a; /* [rows][ld] */
    int64_t ld;
} left;

typedef struct right {
    const uint32_t *pairs; /* [columns / TILE_COLUMNS][panel / TILE_COLUMNS][TILE_COLUMNS] */
    int64_t panel;
} right;

ML_INLINE int64_t operand_floats(int64_t padded) { return BLOCK * padded / 2; }
ML_INLINE int64_t pairs_floats(int64_t padded) { return operand_floats(padded); }
enum { SQUARE_FLOATS = BLOCK * BLOCK / 2 };
_Static_assert(2 * TILE_COLUMNS == BLOCK,
               "turn_pairs puts the rows of a square one below the other");

ML_INLINE void begin_products(void) { begin_tiles(); }
ML_INLINE void end_products(void) { end_tiles(); }

/* Up to whole lines, since they are B's depth and columns, too, and what AMX multiplies with
 * them. */
ML_INLINE void clear_rows_beyond(int64_t rows, int64_t ld, uint16_t *a)
{
    const int64_t beyond = ml_round_up(rows, LINE) - rows;
    if (beyond > 0) memset(a + rows * ld, 0, (size_t)(beyond * ld) * sizeof *a);
}

ML_INLINE left load_rows(const numbers *x, int64_t padded, float *memory)
{
    uint16_t *to = (uint16_t *)(void *)memory;
    const uint16_t *kept = (const uint16_t *)x->x + x->at;
    const float *wide = (const float *)x->x + x->at;
    if (x->dtype == ML_FP32)
        for (int64_t i = 0; i < x->rows; i++)
            narrow_row(x->h, wide + i * x->ld, to + i * padded, LINE);
    else
        for (int64_t i = 0; i < x->rows; i++) {
            const uint16_t *row = kept + i * x->ld;
            int64_t c = 0;
            for (; c + LINE <= x->h; c += LINE)
                _mm512_storeu_si512(to + i * padded + c, _mm512_loadu_si512(row + c));
            if (c < x->h) _mm512_storeu_si512(to + i * padded + c, load_narrow(row + c, x->h - c));
        }
    clear_rows_beyond(x->rows, padded, to);
    return (left){to, padded};
}

ML_INLINE left rows_in_place(const numbers *x, int64_t padded, float *memory)
{
    return load_rows(x, padded, memory);
}

ML_INLINE right right_of(left rows, int64_t count, int64_t padded, float *memory)
{
    const int64_t panel = panel_pairs(count) * TILE_COLUMNS;
    uint32_t *to = (uint32_t *)(void *)memory;
    for (int64_t l = 0; l < panel_pairs(count); l++) {
        const uint16_t *even = rows.a + 2 * l * rows.ld, *odd = even + rows.ld;
        for (int64_t c = 0; c < padded; c += LINE)
            pair_rows(_mm512_loadu_si512(even + c), _mm512_loadu_si512(odd + c),
                      to + c / TILE_COLUMNS * panel + l * TILE_COLUMNS);
    }
    return (right){to, panel};
}

ML_INLINE right right_turned(left rows, int64_t count, int64_t h, float factor, float *memory)
{
    (void)factor;
    const int64_t panel = panel_pairs(h) * TILE_COLUMNS;
    uint32_t *to = (uint32_t *)(void *)memory;
    for (int64_t j = 0; j < ml_round_up(count, TILE_COLUMNS); j += ML_LANES)
        for (int64_t l = 0; l < h; l += LINE) {
            __m512i row[ML_LANES];
#pragma GCC unroll 16
            for (int i = 0; i < ML_LANES; i++)
                row[i] = _mm512_loadu_si512(rows.a + (j + i) * rows.ld + l);
            turn_pairs(row,
                       to + j / TILE_COLUMNS * panel + j % TILE_COLUMNS + l / 2 * TILE_COLUMNS);
        }
    return (right){to, panel};
}

ML_INLINE left left_of_square(const float *square, int64_t m, int64_t k, float *memory)
{
    uint16_t *to = (uint16_t *)(void *)memory;
    for (int64_t i = 0; i < m; i++) narrow_row(k, square + i * BLOCK, to + i * BLOCK, LINE);
    clear_rows_beyond(m, BLOCK, to);
    return (left){to, BLOCK};
}

/* Two rows of the square become pairs, 16 rows of which are turned. Rows from k on, as many as a
 * line has, are zeros. */
ML_INLINE left left_of_turned(const float *square, int64_t m, int64_t k, float *memory)
{
    static const uint16_t pairs[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_loadu_si512(pairs);
    uint16_t *to = (uint16_t *)(void *)memory;
    for (int64_t l = 0; l < k; l += LINE)
        for (int64_t i = 0; i < m; i += ML_LANES) {
            __m512i row[ML_LANES];
#pragma GCC unroll 16
            for (int r = 0; r < ML_LANES; r++) {
                const int64_t at = l + 2 * r;
                const float *even = square + at * BLOCK + i, *odd = even + BLOCK;
                const __m512 low = at < k ? _mm512_loadu_ps(even) : _mm512_setzero_ps(),
                             high = at + 1 < k ? _mm512_loadu_ps(odd) : _mm512_setzero_ps();
                row[r] = _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
            }
            turn_pairs(row, (uint32_t *)(void *)(to + i * BLOCK + l));
        }
    clear_rows_beyond(m, BLOCK, to);
    return (left){to, BLOCK};
}

ML_INLINE void multiply(part which, int64_t m, int64_t n, int64_t k, left a, right b, float *c,
                        int64_t ldc, bool add)
{
    for (int64_t i = 0; i < m; i += TOGETHER) {
        const int64_t from = which == PART_A_UPPER ? ml_min(i, k) : 0,
                      to = which == PART_A_LOWER ? ml_min(i + TOGETHER, k) : k,
                      pairs = panel_pairs(to - from), first = which == PART_RESULT_UPPER ? i : 0,
                      end = which == PART_RESULT_LOWER ? ml_min(n, i + TOGETHER) : n;
        for (int64_t j = first; j < end; j += TILE_COLUMNS)
            multiply_apart(ml_min(TOGETHER, m - i), pairs, a.a + i * a.ld + from, a.ld,
                           b.pairs + j / TILE_COLUMNS * b.panel + from / 2 * TILE_COLUMNS, add,
                           (sums){c + i * ldc + j, ldc, 0});
    }
}

/* Products of bf16 take little longer than their operands' way from memory, whose rows lie too far
 * apart for the processor to guess them. */
ML_INLINE void ask_for_row(const numbers *x, int64_t i)
{
    const int64_t size = x->dtype == ML_BF16 ? sizeof(uint16_t) : sizeof(float);
    const char *row = (const char *)x->x + (x->at + i * x->ld) * size;
    if (i >= x->rows) return;
    for (int64_t at = 0; at < x->h * size; at += MEMORY_LINE) __builtin_prefetch(row + at, 0, 2);
}

ML_INLINE bool adds_in_place(int64_t rows, int64_t h) { return rows % SIDE == 0 && h % LINE == 0; }

ML_INLINE const float *rows_as_floats(left rows, const numbers *x, int64_t padded, float *memory)
{
    (void)rows;
    copy_kept_rows(x->rows, x->h, x->x, x->dtype, x->at, x->ld, memory, padded);
    return memory;
}

ML_INLINE const float *turned_as_floats(right turned, int64_t count, int64_t h, float factor,
                                        const float *rows, int64_t ld, float *memory)
{
    (void)turned;
    copy_columns(count, h, factor, rows, ld, memory);
    return memory;
}

#endif
