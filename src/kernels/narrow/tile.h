/* The register tile of the narrow product: some rows of A with a panel of B, summed along the depth
 * in registers and then put into C. With AVX-512 BF16 the sums are vectors; with AMX they are tiles
 * of 16 × 16 numbers, of which 2 × 2 stand beside two of A and two of B. */
#ifndef MPILORA_KERNELS_NARROW_TILE_H
#define MPILORA_KERNELS_NARROW_TILE_H

#include "kernels/narrow/pack.h"

/* Where the sums of a tile come from or go to: rows of TILE_COLUMNS numbers, ld apart. */
typedef struct sums {
    float *at;
    int64_t ld, next; /* to the tile whose sums are wanted next */
} sums;

#if defined(__AMX_BF16__)
enum {
    ROWS = ML_NARROW_TILE_ROWS,
    DEPTH = ML_NARROW_TILE_DEPTH,
    PART = ML_NARROW_TILE_PART,
    GROUP_COLUMNS = ML_NARROW_TILE_COLUMNS,
    LEAST_COLUMNS = 64, /* of a task; fewer make reading A too dear */
    LEAST_ROWS = 512,   /* fewer make packing B too dear */
    TASKS_A_THREAD = 2, /* at least, where the product is large enough */
    TILE_ROWS = 32,
    SIDE = 16 /* rows of a tile, and floats in one */
};

/* The rows of a tile, one part deep, fit into the first cache, where they stay while the panels of
 * a group pass by from the second; those are read with the hint that they are not used again soon,
 * or they would drive the rows out (a third of the speed). Where there are several parts, shallower
 * ones leave room for sums. */
ML_INLINE int64_t most_of_part(int64_t depth)
{
    enum { OF_MANY = 512 };
    return depth <= PART ? PART : OF_MANY;
}

/* Packed A has the numbers of a tile side by side: [rows / 32][depth / 32][32][32]. */
enum { A_LINE = TILE_ROWS * LINE };
ML_INLINE int64_t place_of_row(int64_t row)
{
    return row / TILE_ROWS * TILE_ROWS * DEPTH + row % TILE_ROWS * LINE;
}

/* Every thread says what its tiles look like before a product, and gives them back. Of a variable
 * on the stack GCC 12 would leave out what it takes for unread: all but its first words. */
ML_INLINE void begin_tiles(void)
{
    static const struct {
        uint8_t palette, start, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1,
               .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
               .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    _tile_loadconfig(&tiles);
}

ML_INLINE void end_tiles(void) { _tile_release(); }

/* Whole tiles but for the last. */
ML_INLINE int64_t rows_of_part(int64_t rows) { return ml_round_up(rows, TILE_ROWS); }
ML_INLINE int64_t rows_of_tile(int64_t left, int64_t tiles)
{
    (void)tiles;
    return ml_min(left, TILE_ROWS);
}

enum { ROWS_A_LINE = TILE_ROWS / SIDE };

/* Into the first cache, between the products of a line of the depth: some rows of the sums of the
 * next tile, which are no place that the processor would guess. */
ML_INLINE void ask_for_sums(const float *row, int64_t ld)
{
    for (int i = 0; i < ROWS_A_LINE; i++, row += ld) {
        __builtin_prefetch(row, 0, 3);
        __builtin_prefetch(row + SIDE, 0, 3);
    }
}

/* SIDE rows, or two times as many, all of which are there; rows of A lie lda apart, their lines
 * a_line; r may be NULL. GCC does not see that loading a tile reads memory: what is stored before
 * has to be told to stay before. */
ML_INLINE void multiply_whole(const bool two, int64_t pairs, const uint16_t *a, int64_t lda,
                              const int64_t a_line, const uint32_t *b, bool add, sums from, sums to,
                              requests *r)
{
    enum { B_STRIDE = 4 * TILE_COLUMNS };
    const size_t stride = (size_t)to.ld * sizeof *to.at, a_stride = (size_t)lda * sizeof *a;
    float *c = to.at, *below = c + SIDE * to.ld;
    const int64_t asked = r && add ? SIDE * SIDE : 0;
    const float *next = from.at + from.next;
    requests ahead = r ? *r : (requests){0}; /* in registers: in memory, a tenth of the rate less */
    __asm__ volatile("" ::: "memory");
    if (add) {
        const size_t from_stride = (size_t)from.ld * sizeof *from.at;
        const float *from_below = from.at + SIDE * from.ld;
        _tile_loadd(0, from.at, from_stride);
        _tile_loadd(1, from.at + SIDE, from_stride);
        if (two) {
            _tile_loadd(2, from_below, from_stride);
            _tile_loadd(3, from_below + SIDE, from_stride);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        if (two) {
            _tile_zero(2);
            _tile_zero(3);
        }
    }
    for (int64_t l = 0; l < pairs; l += SIDE, a += a_line, b += SIDE * TILE_COLUMNS) {
        _tile_stream_loadd(6, b, B_STRIDE);
        _tile_loadd(4, a, a_stride);
        _tile_stream_loadd(7, b + SIDE, B_STRIDE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
            _tile_loadd(5, a + SIDE * lda, a_stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (l < asked) {
            ask_for_sums(next, from.ld);
            next += ROWS_A_LINE * from.ld;
        }
        ask(&ahead);
    }
    if (r) *r = ahead;
    _tile_stored(0, c, stride);
    _tile_stored(1, c + SIDE, stride);
    if (two) {
        _tile_stored(2, below, stride);
        _tile_stored(3, below + SIDE, stride);
    }
}

/* C (+)= A·B of attention: up to TILE_ROWS rows of A, lda apart, one panel of B. C has room for
 * rows in whole sides. */
ML_INLINE void multiply_apart(int64_t rows, int64_t pairs, const uint16_t *a, int64_t lda,
                              const uint32_t *b, bool add, sums c)
{
    multiply_whole(rows > SIDE, pairs, a, lda, LINE, b, add, c, c, NULL);
}

/* Of another number of rows, packed A has what stands behind them, and its sums are let fall. Such
 * rows are added to C where whole tiles add theirs, so that their bits are those that they would
 * have there. */
ML_INLINE void multiply_tile(int64_t rows, int64_t pairs, const uint16_t *a, const uint32_t *b,
                             float beta, sums from, sums to, requests *r)
{
    pairs = ml_round_up(pairs, SIDE);
    if (rows % SIDE == 0 && (beta == 0 || beta == 1)) {
        if (rows == SIDE)
            multiply_whole(false, pairs, a, LINE, A_LINE, b, beta != 0, from, to, r);
        else
            multiply_whole(true, pairs, a, LINE, A_LINE, b, beta != 0, from, to, r);
        return;
    }
    const bool add = beta == 1;
    float numbers[TILE_ROWS * TILE_COLUMNS] = {0};
    const sums own = {numbers, TILE_COLUMNS, 0};
    for (int64_t i = 0; add && i < rows; i++)
        memcpy(numbers + i * TILE_COLUMNS, from.at + i * from.ld, TILE_COLUMNS * sizeof *numbers);
    if (rows <= SIDE)
        multiply_whole(false, pairs, a, LINE, A_LINE, b, add, own, own, r);
    else
        multiply_whole(true, pairs, a, LINE, A_LINE, b, add, own, own, r);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < TILE_COLUMNS; j++)
            to.at[i * to.ld + j] = numbers[i * TILE_COLUMNS + j] +
                                   (add || beta == 0 ? 0 : beta * from.at[i * from.ld + j]);
}

#else

enum {
    ROWS = ML_NARROW_ROWS,
    DEPTH = ML_NARROW_DEPTH,
    PART = ML_NARROW_PART,
    GROUP_COLUMNS = ML_NARROW_COLUMNS,
    LEAST_COLUMNS = ML_NARROW_COLUMNS,
    LEAST_ROWS = 98,
    TASKS_A_THREAD = 8,
    SIDE = LINE / 2, /* pairs of a line */
    TILE_ROWS = 14   /* × two vectors of sums, two of B and one of A: 31 of 32 registers */
};

ML_INLINE int64_t most_of_part(int64_t depth)
{
    (void)depth;
    return PART;
}

/* Packed A: [rows][DEPTH]. */
enum { A_LINE = LINE };
ML_INLINE int64_t place_of_row(int64_t row) { return row * DEPTH; }

ML_INLINE void begin_tiles(void) {}
ML_INLINE void end_tiles(void) {}

/* Rows are spread evenly over the tiles, so that no tile has only a few. */
ML_INLINE int64_t rows_of_part(int64_t rows) { return rows; }
ML_INLINE int64_t rows_of_tile(int64_t left, int64_t tiles) { return left / tiles; }

ML_INLINE void multiply_rows(const int rows, int64_t pairs, const uint16_t *a, const int64_t lda,
                             const uint32_t *b, float beta, sums from, sums to)
{
    __m512 sum[TILE_ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        sum[i][0] = sum[i][1] = _mm512_setzero_ps();
        __builtin_prefetch(to.at + i * to.ld, 1);
        __builtin_prefetch(to.at + i * to.ld + TILE_COLUMNS - 1, 1);
    }
    for (int64_t l = 0; l < pairs; l++) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(b + l * TILE_COLUMNS),
                       right = (__m512bh)_mm512_loadu_si512(b + l * TILE_COLUMNS + ML_LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, a + i * lda + 2 * l, sizeof pair);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], both, left);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], both, right);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 2; j++) {
            if (beta != 0)
                sum[i][j] = _mm512_fmadd_ps(_mm512_set1_ps(beta),
                                            _mm512_loadu_ps(from.at + i * from.ld + j * ML_LANES),
                                            sum[i][j]);
            _mm512_storeu_ps(to.at + i * to.ld + j * ML_LANES, sum[i][j]);
        }
}

ML_INLINE void multiply_some(int64_t rows, int64_t pairs, const uint16_t *a, const int64_t lda,
                             const uint32_t *b, float beta, sums from, sums to)
{
#define ROWS(n)                                             \
    case n:                                                 \
        multiply_rows(n, pairs, a, lda, b, beta, from, to); \
        break;
    switch (rows) { /* each number of rows has its own unrolled code */
        ROWS(1)
        ROWS(2)
        ROWS(3)
        ROWS(4)
        ROWS(5)
        ROWS(6)
        ROWS(7)
        ROWS(8)
        ROWS(9)
        ROWS(10)
        ROWS(11)
        ROWS(12)
        ROWS(13)
        ROWS(14)
    default:
        break;
    }
#undef ROWS
}

ML_INLINE void multiply_tile(int64_t rows, int64_t pairs, const uint16_t *a, const uint32_t *b,
                             float beta, sums from, sums to, requests *r)
{
    for (int64_t l = 0; l < pairs; l += SIDE) ask(r);
    multiply_some(rows, pairs, a, DEPTH, b, beta, from, to);
}

/* C (+)= A·B of attention: rows of A, lda apart, one panel of B. */
static inline void multiply_apart(int64_t rows, int64_t pairs, const uint16_t *a, int64_t lda,
                                  const uint32_t *b, bool add, sums c)
{
    int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t some; tiles > 0; tiles--, rows -= some, a += some * lda, c.at += some * c.ld) {
        some = rows_of_tile(rows, tiles);
        multiply_some(some, pairs, a, lda, b, add, c, c);
    }
}

#endif

/* At the right edge of C: through a tile of memory. */
static inline void edge_tile(int64_t rows, int64_t columns, int64_t pairs, const uint16_t *a,
                             const uint32_t *b, float beta, sums from, sums to, requests *r)
{
    float numbers[TILE_ROWS * TILE_COLUMNS];
    const sums own = {numbers, TILE_COLUMNS, 0};
    const size_t bytes = (size_t)columns * sizeof *numbers;
    if (beta != 0) {
        memset(numbers, 0, sizeof numbers);
        for (int64_t i = 0; i < rows; i++)
            memcpy(numbers + i * TILE_COLUMNS, from.at + i * from.ld, bytes);
    }
    multiply_tile(rows, pairs, a, b, beta, own, own, r);
    for (int64_t i = 0; i < rows; i++) memcpy(to.at + i * to.ld, numbers + i * TILE_COLUMNS, bytes);
}

#endif
