/* C = A·op(B) + beta·C with bf16 instructions, in the manner of native/product.c: for each part of
 * the depth all of A is narrowed once, by all threads, and lies row by row. Then a task takes some
 * columns of B: it packs them into its own L2 cache, [depth / 2][columns] pairs of neighbours in
 * the depth, and a register tile goes down the rows of A with them. While it multiplies, it asks
 * memory for the columns that it packs next: a weight comes from memory in every product.
 *
 * The rows are spread evenly over the tiles, so that no tile has only a few. */
#include <immintrin.h>
#include <omp.h>

#include "kernels/narrow.h"
#include "kernels/native/native.h"

enum {
    DEPTH = ML_NARROW_DEPTH,
    TILE_ROWS = 14, /* rows × two vectors of sums, two of B and one of A: 31 of 32 registers */
    TILE_COLUMNS = 2 * ML_LANES,
    GROUP_COLUMNS = ML_NARROW_COLUMNS, /* of B in one task */
    TASKS_A_THREAD = 8,                /* at least, where the product is large enough */
    LEAST_TASK_ROWS = 98,              /* fewer make packing B too dear */
    LINE = 32                          /* numbers of bf16 in a line of the caches */
};

bool ML_NATIVE(narrow_available)(void)
{
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

/* What one part of the depth needs. */
typedef struct pass {
    const ml_narrow_product *product;
    const ml_narrow_scratch *scratch;
    int64_t row, rows; /* of C and A: narrowed at a time */
    int64_t at, depth; /* of k */
    float beta;        /* the product's for the first part of the depth, then 1 */
    int64_t row_parts, rows_a_part, groups; /* tasks: row_parts × groups */
} pass;

/* ---- packing ------------------------------------------------------------------------------- */

/* A row of A, up to whole vectors; what is beyond the depth is zero. */
static void narrow_row(int64_t depth, const float *x, uint16_t *to)
{
    for (int64_t i = 0; i < depth; i += LINE) {
        const int64_t left = depth - i;
        const __mmask16 low = (__mmask16)(left < 16 ? (1U << left) - 1 : 0xffffU),
                        high = (__mmask16)(left < 16   ? 0
                                           : left < 32 ? (1U << (left - 16)) - 1
                                                       : 0xffffU);
        const __m512 a = _mm512_maskz_loadu_ps(low, x + i),
                     b = _mm512_maskz_loadu_ps(high, x + i + 16);
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(b, a));
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
static void pack_turned(int64_t depth, int64_t columns, const uint16_t *b, int64_t ld, uint32_t *to)
{
    for (int64_t l = 0; l < depth; l += LINE) {
        __m512i row[ML_LANES];
#pragma GCC unroll 16
        for (int i = 0; i < ML_LANES; i++)
            row[i] = i < columns ? load_narrow(b + i * ld + l, depth - l) : _mm512_setzero_si512();
        turn_pairs(row, to + l / 2 * TILE_COLUMNS);
    }
}

/* 32 columns of op(B), which lie side by side in B. */
static void pack_straight(int64_t depth, int64_t columns, const uint16_t *b, int64_t ld,
                          uint32_t *to)
{
    static const uint16_t pairs[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                       37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                       11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_loadu_si512(pairs),
                  high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t l = 0; l < depth; l += 2, to += TILE_COLUMNS) {
        const __m512i even = load_narrow(b + l * ld, columns),
                      odd = l + 1 < depth ? load_narrow(b + (l + 1) * ld, columns)
                                          : _mm512_setzero_si512();
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
        _mm512_storeu_si512(to + ML_LANES, _mm512_permutex2var_epi16(even, high, odd));
    }
}

/* Numbers of a panel of TILE_COLUMNS columns. */
ML_INLINE int64_t panel_pairs(const pass *p) { return ml_round_up(p->depth, LINE) / 2; }

static void pack_group(const pass *p, int64_t column, int64_t columns, uint32_t *to)
{
    const ml_narrow_product *x = p->product;
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS, to += panel_pairs(p) * TILE_COLUMNS) {
        int64_t left = ml_min(TILE_COLUMNS, columns - j);
        if (!x->b_turned) {
            pack_straight(p->depth, left, x->b + p->at * x->ldb + column + j, x->ldb, to);
            continue;
        }
        const uint16_t *b = x->b + (column + j) * x->ldb + p->at;
        for (int64_t i = 0; i < TILE_COLUMNS; i += ML_LANES)
            pack_turned(p->depth, left - i, b + (left > i ? i : 0) * x->ldb, x->ldb, to + i);
    }
}

/* ---- the register tile --------------------------------------------------------------------- */

ML_INLINE void multiply_tile(const int rows, int64_t pairs, const uint16_t *a, const uint32_t *b,
                             float *c, int64_t ldc, float beta)
{
    __m512 sum[TILE_ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        sum[i][0] = sum[i][1] = _mm512_setzero_ps();
        __builtin_prefetch(c + i * ldc, 1);
        __builtin_prefetch(c + i * ldc + TILE_COLUMNS - 1, 1);
    }
    for (int64_t l = 0; l < pairs; l++) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(b + l * TILE_COLUMNS),
                       right = (__m512bh)_mm512_loadu_si512(b + l * TILE_COLUMNS + ML_LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, a + i * DEPTH + 2 * l, sizeof pair);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], both, left);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], both, right);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 2; j++) {
            float *to = c + i * ldc + j * ML_LANES;
            if (beta != 0)
                sum[i][j] = _mm512_fmadd_ps(_mm512_set1_ps(beta), _mm512_loadu_ps(to), sum[i][j]);
            _mm512_storeu_ps(to, sum[i][j]);
        }
}

static void tile_of_rows(int64_t rows, int64_t pairs, const uint16_t *a, const uint32_t *b,
                         float *c, int64_t ldc, float beta)
{
#define ROWS(n)                                      \
    case n:                                          \
        multiply_tile(n, pairs, a, b, c, ldc, beta); \
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

/* At the right edge of C: through a tile of memory. */
static void edge_tile(int64_t rows, int64_t columns, int64_t pairs, const uint16_t *a,
                      const uint32_t *b, float *c, int64_t ldc, float beta)
{
    float tile[TILE_ROWS * TILE_COLUMNS];
    tile_of_rows(rows, pairs, a, b, tile, TILE_COLUMNS, 0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            float *to = c + i * ldc + j;
            *to = tile[i * TILE_COLUMNS + j] + (beta == 0 ? 0 : beta * *to);
        }
}

/* ---- the product --------------------------------------------------------------------------- */

/* One of `parts` equal parts of the columns of B from `column` on, into the L2 cache. */
static void ask_for(const pass *p, int64_t column, int64_t part, int64_t parts)
{
    const ml_narrow_product *x = p->product;
    int64_t columns = ml_min(GROUP_COLUMNS, x->n - column);
    int64_t rows = x->b_turned ? columns : p->depth, wide = x->b_turned ? p->depth : columns;
    for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; i++) {
        const uint16_t *row = x->b_turned ? x->b + (column + i) * x->ldb + p->at
                                          : x->b + (p->at + i) * x->ldb + column;
        for (int64_t l = 0; l < wide; l += LINE) __builtin_prefetch(row + l, 0, 2);
    }
}

/* Rows [first, end) of those that are narrowed by a group of columns; meanwhile the columns from
 * `next` on are asked for, unless there are none. */
static void multiply_group(const pass *p, int64_t column, int64_t columns, const uint32_t *b,
                           int64_t first, int64_t end, int64_t next)
{
    const ml_narrow_product *x = p->product;
    int64_t tiles = (end - first + TILE_ROWS - 1) / TILE_ROWS, pairs = (p->depth + 1) / 2;
    for (int64_t t = 0, row = first, rows; t < tiles; t++, row += rows) {
        rows = (end - row) / (tiles - t);
        const uint16_t *a = p->scratch->packed_a + row * DEPTH;
        float *c = x->c + (p->row + row) * x->ldc + column;
        if (next < x->n) ask_for(p, next, t, tiles);
        for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
            const uint32_t *panel = b + j * panel_pairs(p);
            if (columns - j >= TILE_COLUMNS)
                tile_of_rows(rows, pairs, a, panel, c + j, x->ldc, p->beta);
            else
                edge_tile(rows, columns - j, pairs, a, panel, c + j, x->ldc, p->beta);
        }
    }
}

static void run_task(const pass *p, int64_t task, uint32_t *packed_b)
{
    int64_t group = task / p->row_parts, part = task % p->row_parts;
    int64_t column = group * GROUP_COLUMNS, columns = ml_min(GROUP_COLUMNS, p->product->n - column);
    int64_t first = part * p->rows_a_part, end = ml_min(p->rows, first + p->rows_a_part);
    int64_t next = (task + omp_get_num_threads()) / p->row_parts * GROUP_COLUMNS;
    pack_group(p, column, columns, packed_b);
    multiply_group(p, column, columns, packed_b, first, end, next);
}

/* Rows are cut where there are too few groups of columns to keep all threads busy to the end. */
static void cut_tasks(pass *p, int threads)
{
    p->groups = (p->product->n + GROUP_COLUMNS - 1) / GROUP_COLUMNS;
    int64_t wanted = threads > 1 ? (TASKS_A_THREAD * threads + p->groups - 1) / p->groups : 1;
    int64_t parts = ml_max(1, ml_min(wanted, p->rows / LEAST_TASK_ROWS));
    p->rows_a_part = (p->rows + parts - 1) / parts;
    p->row_parts = (p->rows + p->rows_a_part - 1) / p->rows_a_part;
}

/* Called by every thread of a team. */
static void run_pass(const pass *p)
{
    const ml_narrow_product *x = p->product;
    uint32_t *packed_b =
        p->scratch->packed_b + (int64_t)omp_get_thread_num() * (DEPTH / 2) * ML_NARROW_COLUMNS;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < p->rows; i++)
        narrow_row(p->depth, x->a + (p->row + i) * x->lda + p->at,
                   p->scratch->packed_a + i * DEPTH);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < p->row_parts * p->groups; task++) run_task(p, task, packed_b);
}

void ML_NATIVE(narrow_product)(const ml_narrow_product *x, const ml_narrow_scratch *scratch)
{
    int64_t parts = ml_max(1, (x->k + DEPTH - 1) / DEPTH);
    int64_t depth = ml_min(DEPTH, ml_round_up(ml_max(1, (x->k + parts - 1) / parts), LINE));
    bool small = (double)x->m * (double)x->n * (double)x->k < 64.0 * ML_PARALLEL_FROM;
    int threads = small ? 1 : scratch->threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < x->m; row += scratch->rows)
        for (int64_t at = 0; at < ml_max(1, x->k); at += depth) {
            pass p = {.product = x,
                      .scratch = scratch,
                      .row = row,
                      .rows = ml_min(scratch->rows, x->m - row),
                      .at = at};
            p.depth = ml_min(depth, x->k - at);
            p.beta = at == 0 ? x->beta : 1;
            cut_tasks(&p, threads);
            run_pass(&p);
        }
}
