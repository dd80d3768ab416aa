/* The register tile of the product: some rows of packed A with some columns of packed B, summed in
 * registers along the depth and then added to C. */
#ifndef MPILORA_KERNELS_NATIVE_TILE_H
#define MPILORA_KERNELS_NATIVE_TILE_H

#include "kernels/product.h"

enum { LINE = 64 }; /* bytes of a cache line */

/* The tile of C that stays in registers: rows × two vectors; beside the sums two registers hold B,
 * one an element of A. Some rows of packed A meet all columns of a task before the next; those come
 * from the third cache meanwhile, a line in TILE_STEPS, where the second one has room for both
 * (AHEAD). */
#if defined(__AVX512F__)
enum { AHEAD = false };
#else
enum { AHEAD = true };
#endif
enum {
    TILE_ROWS = ML_TILE_ROWS,
    TILE_COLUMNS = ML_PANEL,
    TILE_VECTORS = TILE_COLUMNS / ML_LANES,
    TILE_STEPS = 8, /* of the depth, one behind the other in the code */
    BLOCKS = ML_PRODUCT_DEPTH / ML_FILTER_COLUMNS /* of a sparse panel's depth */
};

_Static_assert(BLOCKS *ML_FILTER_COLUMNS == ML_PRODUCT_DEPTH, "a pass has whole blocks");
_Static_assert((int)TILE_ROWS % (int)ML_FILTER_ROWS == 0, "a panel has whole blocks");

/* Bit i: block i of a panel's depth is more than zeros. */
typedef uint16_t full_blocks;
_Static_assert((int)BLOCKS <= 16, "a bit for each block");

/* One step of rank one. */
ML_INLINE void add_step(const int rows, const float *a, const float *b,
                        ml_vector sum[TILE_ROWS][TILE_VECTORS])
{
    ml_vector column[TILE_VECTORS];
#pragma GCC unroll 2
    for (int j = 0; j < TILE_VECTORS; j++)
        column[j] = *(const ml_vector *)(const void *)(b + j * ML_LANES);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        ml_vector x = ml_all_lanes(a[i]);
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECTORS; j++) ml_add_product(x, column[j], &sum[i][j]);
    }
}

/* Steps [l, end) of the depth. */
ML_INLINE void add_steps(const int rows, int64_t l, int64_t end, const float *a, const float *b,
                         const float *ahead, ml_vector sum[TILE_ROWS][TILE_VECTORS])
{
    for (; l + TILE_STEPS <= end; l += TILE_STEPS) {
        if (AHEAD) __builtin_prefetch(ahead + l / TILE_STEPS * (LINE / 4), 0, 2);
#pragma GCC unroll 8
        for (int s = 0; s < TILE_STEPS; s++)
            add_step(rows, a + (l + s) * TILE_ROWS, b + (l + s) * TILE_COLUMNS, sum);
    }
    for (; l < end; l++) add_step(rows, a + l * TILE_ROWS, b + l * TILE_COLUMNS, sum);
}

/* A tile: `depth` steps, of a sparse A those of its full blocks, then into C. `ahead`: what a later
 * tile reads. */
ML_INLINE void multiply_tile(const int rows, const bool sparse, full_blocks full, int64_t depth,
                             const float *a, const float *b, float *c, int64_t ldc, float beta,
                             const float *ahead)
{
    ml_vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECTORS; j++) sum[i][j] = ml_all_lanes(0);
        /* C is needed when the sums are done: it comes from far away meanwhile. */
        __builtin_prefetch(c + i * ldc, 1);
        __builtin_prefetch(c + i * ldc + TILE_COLUMNS - 1, 1);
    }
    if (!sparse) add_steps(rows, 0, depth, a, b, ahead, sum);
    for (unsigned left = sparse ? full : 0; left; left &= left - 1) {
        int64_t from = (int64_t)__builtin_ctz(left) * ML_FILTER_COLUMNS;
        add_steps(rows, from, ml_min(from + ML_FILTER_COLUMNS, depth), a, b, ahead, sum);
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < TILE_VECTORS; j++) {
            ml_vector *to = (ml_vector *)(void *)(c + i * ldc + j * ML_LANES);
            if (beta != 0) sum[i][j] = ml_fma_lanes(beta, *to, sum[i][j]);
            *to = sum[i][j];
        }
    }
}

ML_INLINE void tile_of_kind(const bool sparse, full_blocks full, int64_t rows, int64_t depth,
                            const float *a, const float *b, float *c, int64_t ldc, float beta,
                            const float *ahead)
{
#define ROWS(n)                                                           \
    case n:                                                               \
        multiply_tile(n, sparse, full, depth, a, b, c, ldc, beta, ahead); \
        break;
    switch (rows) { /* each number of rows has its own unrolled code */
        ROWS(1)
        ROWS(2)
        ROWS(3)
        ROWS(4)
        ROWS(5)
        ROWS(6)
#if defined(ML_TALL_TILES)
        ROWS(7)
        ROWS(8)
        ROWS(9)
        ROWS(10)
        ROWS(11)
        ROWS(12)
#endif
    default:
        break;
    }
#undef ROWS
}

static void dense_tile(int64_t rows, int64_t depth, const float *a, const float *b, float *c,
                       int64_t ldc, float beta, const float *ahead)
{
    tile_of_kind(false, 0, rows, depth, a, b, c, ldc, beta, ahead);
}

static void sparse_tile(full_blocks full, int64_t rows, int64_t depth, const float *a,
                        const float *b, float *c, int64_t ldc, float beta, const float *ahead)
{
    if (full || beta != 1) tile_of_kind(true, full, rows, depth, a, b, c, ldc, beta, ahead);
}

/* `full` NULL: A is not sparse. */
ML_INLINE void tile_of_rows(const full_blocks *full, int64_t rows, int64_t depth, const float *a,
                            const float *b, float *c, int64_t ldc, float beta, const float *ahead)
{
    if (full)
        sparse_tile(*full, rows, depth, a, b, c, ldc, beta, ahead);
    else
        dense_tile(rows, depth, a, b, c, ldc, beta, ahead);
}

/* At the right edge of C: through a tile of memory. */
static void edge_tile(const full_blocks *full, int64_t rows, int64_t columns, int64_t depth,
                      const float *a, const float *b, float *c, int64_t ldc, float beta,
                      const float *ahead)
{
    float tile[TILE_ROWS * TILE_COLUMNS];
    tile_of_rows(full, rows, depth, a, b, tile, TILE_COLUMNS, 0, ahead);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            float *to = c + i * ldc + j, sum = tile[i * TILE_COLUMNS + j];
            if (beta != 0) sum = ml_fma(beta, *to, sum);
            *to = sum;
        }
}

#endif
