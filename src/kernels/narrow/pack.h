/* How the operands of the narrow product are packed. A: its rows, narrowed to bf16, in lines, which
 * lie where the register tile of the set reads them (tile.h). B: panels of TILE_COLUMNS columns,
 * [depth / 2][TILE_COLUMNS] pairs of neighbours in the depth, which is what the instructions of
 * every set want; blocks are decoded on the way. Both end with zeros: up to whole lines of the
 * depth, and B with whole panels. */
#ifndef MPILORA_KERNELS_NARROW_PACK_H
#define MPILORA_KERNELS_NARROW_PACK_H

#include <immintrin.h>

#include "kernels/narrow.h"
#include "kernels/native/native.h"

enum {
    LINE = 32, /* numbers of bf16 in a line of the caches, and weights that decode together */
    TILE_COLUMNS = 2 * ML_LANES,
    PIECE = 256 /* numbers of a row that are decoded at a time */
};

/* Some columns of op(B), some of its depth. Turned: numbers [first, first + depth) of `columns`
 * rows; else numbers [first, first + columns) of `depth` rows. */
typedef struct narrow_part {
    bool turned;
    const uint8_t *rows;
    ml_dtype dtype;
    int64_t row_bytes, first, columns, depth;
    ml_narrow_decode decode;
} narrow_part;

/* ---- numbers -------------------------------------------------------------------------------- */

/* A row of A in lines that lie `apart`; what is beyond the depth is zero. */
ML_INLINE void narrow_row(int64_t depth, const float *x, uint16_t *to, const int64_t apart)
{
    for (int64_t i = 0; i < depth; i += LINE, to += apart) {
        const int64_t left = depth - i;
        const __mmask16 low = (__mmask16)(left < 16 ? (1U << left) - 1 : 0xffffU),
                        high = (__mmask16)(left < 16   ? 0
                                           : left < 32 ? (1U << (left - 16)) - 1
                                                       : 0xffffU);
        const __m512 a = _mm512_maskz_loadu_ps(low, x + i),
                     b = _mm512_maskz_loadu_ps(high, x + i + 16);
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

/* `count` numbers, at the most 32, the rest zeros. */
ML_INLINE __m512i load_narrow(const uint16_t *x, int64_t count)
{
    const __mmask32 mask = (__mmask32)(count >= 32 ? 0xffffffffU : (1U << ml_max(count, 0)) - 1);
    return _mm512_maskz_loadu_epi16(mask, x);
}

/* 16 rows of 16 pairs, turned: pair l of row i becomes number i of row l. */
ML_INLINE void turn_pairs(__m512i r[16], uint32_t *to)
{
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* rows i, 4 + i, 8 + i, 12 + i by quarters */
        const __m512i even = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88),
                      odd = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd),
                      even_low = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88),
                      odd_low = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
        _mm512_storeu_si512(to + i * TILE_COLUMNS, _mm512_shuffle_i32x4(even, even_low, 0x88));
        _mm512_storeu_si512(to + (i + 4) * TILE_COLUMNS, _mm512_shuffle_i32x4(odd, odd_low, 0x88));
        _mm512_storeu_si512(to + (i + 8) * TILE_COLUMNS,
                            _mm512_shuffle_i32x4(even, even_low, 0xdd));
        _mm512_storeu_si512(to + (i + 12) * TILE_COLUMNS, _mm512_shuffle_i32x4(odd, odd_low, 0xdd));
    }
}

/* 16 columns of op(B), which are rows of B, into half of a panel. The pairs of a line beyond the
 * depth are written, too, as zeros: a panel has room for whole lines. */
static inline void turn_rows(int64_t depth, int64_t columns, const uint16_t *b, int64_t ld,
                             uint32_t *to)
{
    for (int64_t l = 0; l < depth; l += LINE) {
        __m512i row[ML_LANES];
#pragma GCC unroll 16
        for (int i = 0; i < ML_LANES; i++)
            row[i] = i < columns ? load_narrow(b + i * ld + l, depth - l) : _mm512_setzero_si512();
        turn_pairs(row, to + l / 2 * TILE_COLUMNS);
    }
}

/* Two rows of B side by side as pairs, 32 columns of them. */
ML_INLINE void pair_rows(__m512i even, __m512i odd, uint32_t *to)
{
    static const uint16_t pairs[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                       37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                       11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_loadu_si512(pairs),
                  high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
    _mm512_storeu_si512(to + ML_LANES, _mm512_permutex2var_epi16(even, high, odd));
}

/* ---- asking memory --------------------------------------------------------------------------- */

/* The lines of memory that a part lies in, asked for one by one between the products of the part
 * before it: a weight comes from memory in every product, and many requests at once would make the
 * next one wait. */
typedef struct requests {
    const uint8_t *row;                  /* the one that is asked for now */
    int64_t row_bytes, wanted, at, rows; /* to the next; of each, of which so far; left */
    int64_t a_line;                      /* requests while a line of the depth is multiplied */
} requests;

enum { MEMORY_LINE = 64 };

/* At least one row. */
ML_INLINE requests requests_for(const narrow_part *p)
{
    return (requests){.row = p->rows + ml_dtype_bytes(p->dtype, p->first),
                      .row_bytes = p->row_bytes,
                      .wanted = ml_dtype_bytes(p->dtype, p->turned ? p->depth : p->columns),
                      .rows = p->turned ? p->columns : p->depth};
}

ML_INLINE int64_t requests_left(const requests *r)
{
    return r->rows * ((r->wanted + MEMORY_LINE - 1) / MEMORY_LINE);
}

ML_INLINE void ask_line(requests *r)
{
    if (r->rows == 0) return;
    __builtin_prefetch(r->row + r->at, 0, 2);
    r->at += MEMORY_LINE;
    if (r->at < r->wanted) return;
    r->row += r->row_bytes;
    r->at = 0;
    r->rows--;
}

ML_INLINE void ask(requests *r)
{
    for (int64_t i = 0; i < r->a_line; i++) ask_line(r);
}

/* ---- the columns of a task ------------------------------------------------------------------ */

/* Pairs of the depth that a panel has room for. */
ML_INLINE int64_t panel_pairs(int64_t depth) { return ml_round_up(depth, LINE) / 2; }

/* Numbers [first, first + count) of row i: where they lie, or where they were decoded to. */
ML_INLINE const uint16_t *row_of(const narrow_part *p, int64_t i, int64_t first, int64_t count,
                                 uint16_t *decoded)
{
    const uint8_t *row = p->rows + i * p->row_bytes;
    if (p->dtype == ML_BF16) return (const uint16_t *)(const void *)row + first;
    p->decode(p->dtype, row, first, count, decoded);
    return decoded;
}

/* Columns that are rows of B: 16 of them make half of a panel. */
static inline void pack_turned(const narrow_part *p, uint32_t *to)
{
    uint16_t decoded[ML_LANES][PIECE];
    const int64_t panel = panel_pairs(p->depth) * TILE_COLUMNS;
    for (int64_t j = 0; j < ml_round_up(p->columns, TILE_COLUMNS); j += ML_LANES) {
        uint32_t *half = to + j / TILE_COLUMNS * panel + j % TILE_COLUMNS;
        const int64_t columns = ml_max(0, ml_min(ML_LANES, p->columns - j));
        if (p->dtype == ML_BF16) {
            turn_rows(p->depth, columns, row_of(p, columns > 0 ? j : 0, p->first, p->depth, NULL),
                      p->row_bytes / 2, half);
            continue;
        }
        for (int64_t at = 0; at < p->depth; at += PIECE) {
            const int64_t depth = ml_min(PIECE, p->depth - at);
            for (int64_t i = 0; i < columns; i++)
                (void)row_of(p, j + i, p->first + at, depth, decoded[i]);
            turn_rows(depth, columns, decoded[0], PIECE, half + at / 2 * TILE_COLUMNS);
        }
    }
}

/* Columns that lie side by side in B. */
static inline void pack_straight(const narrow_part *p, uint32_t *to)
{
    uint16_t decoded[2][PIECE];
    const int64_t panel = panel_pairs(p->depth) * TILE_COLUMNS;
    for (int64_t l = 0; l < ml_round_up(p->depth, LINE); l += 2, to += TILE_COLUMNS)
        for (int64_t at = 0; at < p->columns; at += PIECE) {
            const int64_t count = ml_min(PIECE, p->columns - at);
            const uint16_t *row[2] = {NULL, NULL};
            for (int i = 0; i < 2 && l + i < p->depth; i++)
                row[i] = row_of(p, l + i, p->first + at, count, decoded[i]);
            for (int64_t j = 0; j < count; j += TILE_COLUMNS)
                pair_rows(row[0] ? load_narrow(row[0] + j, count - j) : _mm512_setzero_si512(),
                          row[1] ? load_narrow(row[1] + j, count - j) : _mm512_setzero_si512(),
                          to + (at + j) / TILE_COLUMNS * panel);
        }
}

static inline void pack_part(const narrow_part p, uint32_t *to)
{
    if (p.turned)
        pack_turned(&p, to);
    else
        pack_straight(&p, to);
}

#endif
