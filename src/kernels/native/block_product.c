/* The small matrix product of attention, on operands that lie in the caches: a tile of TILE rows ×
 * two vectors of C stays in registers while l runs; A is read one element at a time (so a
 * transposed A costs nothing), B by vectors.
 *
 * How A lies, and whether C is added to, are constants of the innermost loop: where these are found
 * out in it, GCC writes the sums of every step to memory. */
#include "kernels/native/attention.h"

enum { TILE = ML_TILE_ROWS };

typedef struct tile {
    int64_t from, to; /* l runs over [from, to) */
    operand a;        /* at the tile's first row */
    const float *b;   /* at the tile's first column */
    int64_t ldb;
    float *c;
    int64_t ldc;
    bool add;
} tile;

ML_INLINE void multiply_tile(const int rows, const int vectors, const bool turned, const bool add,
                             const tile *t)
{
    ml_vector sum[TILE][2] = {{{0}}};
    const int64_t row = turned ? 1 : t->a.ld, col = turned ? BLOCK : 1, ldb = t->ldb, ldc = t->ldc;
    const float *a = t->a.a + t->from * col, *b = t->b + t->from * ldb;
    for (int64_t l = t->from; l < t->to; l++, a += col, b += ldb) {
        ml_vector column[2];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++)
            column[j] = *(const ml_vector *)(const void *)(b + j * ML_LANES);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            float x = a[i * row];
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) sum[i][j] = ml_fma_lanes(x, column[j], sum[i][j]);
        }
    }
    float *c = t->c;
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            ml_vector *to = (ml_vector *)(void *)(c + i * ldc + j * ML_LANES);
            if (add) sum[i][j] += *to;
            *to = sum[i][j];
        }
    }
}

/* Each number of rows and vectors has its own unrolled code. */
#define TILE_OF(name, rows, vectors)                       \
    static void name(const tile *t)                        \
    {                                                      \
        if (t->a.turned && t->add)                         \
            multiply_tile(rows, vectors, true, true, t);   \
        else if (t->a.turned)                              \
            multiply_tile(rows, vectors, true, false, t);  \
        else if (t->add)                                   \
            multiply_tile(rows, vectors, false, true, t);  \
        else                                               \
            multiply_tile(rows, vectors, false, false, t); \
    }
TILE_OF(tile_full_two, TILE, 2)
TILE_OF(tile_full_one, TILE, 1)
TILE_OF(tile_four_two, 4, 2)
TILE_OF(tile_four_one, 4, 1)
TILE_OF(tile_one_two, 1, 2)
TILE_OF(tile_one_one, 1, 1)

static void multiply_rows(int64_t rows, bool two, const tile *t)
{
    if (rows == TILE)
        (two ? tile_full_two : tile_full_one)(t);
    else if (rows == 4)
        (two ? tile_four_two : tile_four_one)(t);
    else
        (two ? tile_one_two : tile_one_one)(t);
}

/* Rows i … i+rows of C, all its columns. */
static void multiply_band(part which, int64_t i, int64_t rows, int64_t n, int64_t k, operand a,
                          const float *b, int64_t ldb, float *c, int64_t ldc, bool add)
{
    tile t = {.from = which == PART_A_UPPER ? ml_min(i, k) : 0,
              .to = which == PART_A_LOWER ? ml_min(i + rows, k) : k,
              .ldb = ldb,
              .ldc = ldc,
              .add = add,
              .a = a};
    t.a.a += a.turned ? i : i * a.ld;
    int64_t end = which == PART_RESULT_LOWER ? ml_min(n, i + rows) : n;
    int64_t first = which == PART_RESULT_UPPER ? i / ML_LANES * ML_LANES : 0;
    for (int64_t j = first; j < end;) {
        bool two = j + ML_LANES < end;
        t.b = b + j;
        t.c = c + i * ldc + j;
        multiply_rows(rows, two, &t);
        j += two ? 2 * ML_LANES : ML_LANES;
    }
}

void ML_NATIVE(block_product)(part which, int64_t m, int64_t n, int64_t k, operand a,
                              const float *b, int64_t ldb, float *c, int64_t ldc, bool add)
{
    for (int64_t i = 0; i < m;) {
        int64_t left = m - i, rows = left >= TILE ? TILE : left >= 4 ? 4 : 1;
        multiply_band(which, i, rows, n, k, a, b, ldb, c, ldc, add);
        i += rows;
    }
}

int64_t ML_NATIVE(cut_blocks)(const ml_sequences *sequences, int64_t *block_start)
{
    block_start[0] = 0;
    for (int64_t i = 0; i < sequences->count; i++)
        block_start[i + 1] =
            block_start[i] + (sequences->start[i + 1] - sequences->start[i] + BLOCK - 1) / BLOCK;
    return block_start[sequences->count];
}

block_task ML_NATIVE(task_at)(const ml_sequences *sequences, const int64_t *block_start,
                              int64_t heads, int64_t number)
{
    int64_t low = 0,
            high = sequences->count; /* heads·block_start[low] ≤ number < heads·block_start[high] */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (heads * block_start[middle] <= number)
            low = middle;
        else
            high = middle;
    }
    int64_t blocks = block_start[low + 1] - block_start[low],
            within = number - heads * block_start[low];
    return (block_task){sequence_block(sequences, low, blocks - 1 - within % blocks),
                        within / blocks};
}
