/* C = alpha·op(A)·op(B) + beta·C. The depth k is cut into parts; for each, all of A is packed once
 * into panels of TILE_ROWS rows, by all threads. Then a task takes some columns of B: it packs
 * them into its own L2 cache, and the register tile runs along them with one cache-sized block of
 * A after another. Tasks are handed out as threads become free, so that a slow core holds nobody
 * up; an element of C is always summed by one task and in the same order, so the result does not
 * depend on who did it.
 *
 * Of a sparse A it is noted while packing which steps of each panel's depth are more than zeros;
 * the register tile goes along these alone, and of B those are packed that some panel needs. */
#include <omp.h>

#include "kernels/native/blocks.h"
#include "kernels/product.h"

enum { LINE = 64 }; /* bytes of a cache line */

/* The tile of C that stays in registers: rows × two vectors; the sums fill most of the 32 or 16
 * registers, two hold B, one an element of A. Some rows of packed A meet all columns of a task
 * before the next; those come from the third cache meanwhile, a line in TILE_STEPS, where the
 * second one has room for both (AHEAD). */
#if defined(__AVX512F__)
enum { TILE_ROWS = 12, AHEAD = false };
#else
enum { TILE_ROWS = 6, AHEAD = true };
#endif
enum {
    TILE_VECTORS = 2,
    TILE_COLUMNS = TILE_VECTORS * ML_LANES,
    TILE_STEPS = 8, /* of the depth, one behind the other in the code */
    BLOCKS = ML_PRODUCT_DEPTH / ML_FILTER_COLUMNS /* of a sparse panel's depth */
};

_Static_assert(BLOCKS *ML_FILTER_COLUMNS == ML_PRODUCT_DEPTH, "a pass has whole blocks");
_Static_assert((int)TILE_ROWS % (int)ML_FILTER_ROWS == 0, "a panel has whole blocks");

/* Bit i: block i of a panel's depth is more than zeros. */
typedef uint16_t full_blocks;
_Static_assert((int)BLOCKS <= 16, "a bit for each block");

/* `lanes` rows of A or columns of B, `depth` deep. A: turned means [depth, lanes] in memory; B:
 * turned means [lanes, depth]. */
typedef struct matrix_part {
    const char *data;
    ml_dtype dtype;
    int64_t ld, lanes, depth;
    bool turned;
} matrix_part;

/* ---- packing ------------------------------------------------------------------------------- */

/* A block of a matrix becomes panels of `width` lanes, [depth][width], so that the register tile
 * reads one after the other; lanes that the matrix does not have are zero. A bf16 matrix is widened
 * on the way. Rows of bf16 may begin at any number. */
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

/* ---- packing blocks ------------------------------------------------------------------------ */

/* `lanes` columns of B in as many panels as they need. Turned: weights [first, first + depth) of
 * each of `lanes` rows; else [first, first + lanes) of `depth` rows. */
typedef struct block_part {
    const uint8_t *rows;
    ml_dtype dtype;
    int64_t row_bytes, first, lanes, depth;
    int64_t panel; /* depth of a panel, of which this may be a part */
    bool turned;
} block_part;

/* Four rows at a time are decoded into the L1 cache and turned from there. */
static void turn_blocks(const block_part *p, int64_t lane, int64_t lanes, float *to)
{
    enum { AT_ONCE = 4 };
    float rows[AT_ONCE][ML_PRODUCT_DEPTH];
    for (int64_t i = 0; i < TILE_COLUMNS; i += AT_ONCE) {
        int64_t n = ml_max(0, ml_min(AT_ONCE, lanes - i));
        for (int64_t j = 0; j < n; j++) {
            const uint8_t *row = p->rows + (lane + i + j) * p->row_bytes;
            ML_NATIVE(decode_run)(p->dtype, row, p->first, p->depth, rows[j]);
        }
        if (n < AT_ONCE) memset(rows[n], 0, (size_t)(AT_ONCE - n) * sizeof rows[0]);
        turn_lanes(AT_ONCE, p->depth, (const char *)rows, (int64_t)sizeof rows[0], false, to + i,
                   TILE_COLUMNS, 0);
    }
}

/* A row's lanes are decoded together and spread over the panels. */
static void spread_blocks(const block_part *p, float *to)
{
    float row[ML_PRODUCT_COLUMNS] = {0};
    for (int64_t l = 0; l < p->depth; l++, to += TILE_COLUMNS) {
        ML_NATIVE(decode_run)(p->dtype, p->rows + l * p->row_bytes, p->first, p->lanes, row);
        for (int64_t j = 0; j < p->lanes; j += TILE_COLUMNS)
            memcpy(to + j * p->panel, row + j, TILE_COLUMNS * sizeof *row);
    }
}

static void pack_blocks(const block_part *p, float *to)
{
    if (!p->turned) {
        spread_blocks(p, to);
        return;
    }
    for (int64_t j = 0; j < p->lanes; j += TILE_COLUMNS)
        turn_blocks(p, j, ml_min(TILE_COLUMNS, p->lanes - j), to + j * p->panel);
}

/* ---- the register tile --------------------------------------------------------------------- */

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
#if defined(__AVX512F__)
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

/* ---- the product --------------------------------------------------------------------------- */

/* What one part of the depth needs. */
typedef struct pass {
    const ml_product *product;
    const ml_product_scratch *scratch;
    int64_t row, rows; /* of C and A: packed at a time */
    int64_t at, depth; /* of k */
    float beta;        /* the product's for the first part of the depth, then 1 */
    full_blocks *full; /* of each panel of A; NULL: it is not sparse */
    int64_t row_parts, rows_a_part, groups; /* tasks: row_parts × groups */
    int64_t rows_in_l2;                     /* whole tiles */
} pass;

/* Depth from `at` on that lies together in the operands, up to `end`; *place: where. */
static int64_t next_stretch(const ml_product *x, int64_t at, int64_t end, int64_t *place)
{
    int64_t before = 0;
    *place = at;
    for (int i = 0; i < x->runs; before += x->run[i++].count)
        if (at < before + x->run[i].count) {
            *place = x->run[i].first + at - before;
            return ml_min(end, before + x->run[i].count) - at;
        }
    return end - at;
}

static void pack_panel_of_a(const pass *p, int64_t panel)
{
    const ml_product *x = p->product;
    int64_t row = p->row + panel * TILE_ROWS, end = p->at + p->depth, place;
    float *to = p->scratch->packed_a + panel * TILE_ROWS * p->depth;
    for (int64_t at = p->at, n; at < end; at += n, to += n * TILE_ROWS) {
        n = next_stretch(x, at, end, &place);
        const matrix_part part = {.data = (const char *)(x->a_turned ? x->a + place * x->lda + row
                                                                     : x->a + row * x->lda + place),
                                  .ld = x->lda,
                                  .lanes = ml_min(TILE_ROWS, p->row + p->rows - row),
                                  .depth = n,
                                  .turned = x->a_turned};
        pack_rows(&part, x->alpha, to);
    }
}

static bool is_more_than_zeros(const float *x, int64_t ld, int64_t rows, int64_t columns)
{
    int found = 0;
    for (int64_t i = 0; i < rows; i++)
#pragma omp simd reduction(| : found)
        for (int64_t j = 0; j < columns; j++) found |= x[i * ld + j] != 0;
    return found;
}

/* Nobody reads where a block of zeros would lie. */
static void pack_sparse_panel_of_a(const pass *p, int64_t panel)
{
    const ml_product *x = p->product;
    int64_t row = p->row + panel * TILE_ROWS, rows = ml_min(TILE_ROWS, p->row + p->rows - row);
    float *to = p->scratch->packed_a + panel * TILE_ROWS * p->depth;
    unsigned full = 0;
    for (int64_t at = 0; at < p->depth; at += ML_FILTER_COLUMNS) {
        const float *a = x->a + row * x->lda + p->at + at;
        int64_t n = ml_min(ML_FILTER_COLUMNS, p->depth - at);
        if (!is_more_than_zeros(a, x->lda, rows, n)) continue;
        full |= 1u << at / ML_FILTER_COLUMNS;
        pack_rows(&(matrix_part){(const char *)a, ML_FP32, x->lda, rows, n, false}, x->alpha,
                  to + at * TILE_ROWS);
    }
    p->full[panel] = (full_blocks)full;
}

/* Of depth n that lies together from `place` on. */
static void pack_stretch_of_b(const pass *p, int64_t place, int64_t n, int64_t column,
                              int64_t columns, float *to)
{
    const ml_product *x = p->product;
    if (ml_dtype_is_block(x->b_dtype)) {
        int64_t bytes = ml_dtype_bytes(x->b_dtype, x->ldb);
        const block_part blocks = {(const uint8_t *)x->b + (x->b_turned ? column : place) * bytes,
                                   x->b_dtype,
                                   bytes,
                                   x->b_turned ? place : column,
                                   columns,
                                   n,
                                   p->depth,
                                   x->b_turned};
        pack_blocks(&blocks, to);
        return;
    }
    int64_t size = (int64_t)ml_dtype_size(x->b_dtype),
            first = x->b_turned ? column * x->ldb + place : place * x->ldb + column;
    const matrix_part part = {
        (const char *)x->b + first * size, x->b_dtype, x->ldb, columns, n, x->b_turned};
    pack_columns(&part, p->depth, to);
}

static void pack_group_of_b(const pass *p, int64_t column, int64_t columns, float *to)
{
    int64_t end = p->at + p->depth, place;
    for (int64_t at = p->at, n; at < end; at += n, to += n * TILE_COLUMNS) {
        n = next_stretch(p->product, at, end, &place);
        pack_stretch_of_b(p, place, n, column, columns, to);
    }
}

/* What the panels of A from row `from` to `end` need of it. */
static void pack_needed_of_b(const pass *p, int64_t column, int64_t columns, int64_t from,
                             int64_t end, float *to)
{
    unsigned needed = 0;
    for (int64_t i = from; i < end; i += TILE_ROWS) needed |= p->full[i / TILE_ROWS];
    for (; needed; needed &= needed - 1) {
        int64_t at = (int64_t)__builtin_ctz(needed) * ML_FILTER_COLUMNS;
        pack_stretch_of_b(p, p->at + at, ml_min(ML_FILTER_COLUMNS, p->depth - at), column, columns,
                          to + at * TILE_COLUMNS);
    }
}

/* The packed group of B with the panels of A from row `from` to `end` (of those packed). */
ML_INLINE void multiply_panels(const bool sparse, const pass *p, int64_t column, int64_t columns,
                               const float *b, int64_t from, int64_t end)
{
    const ml_product *x = p->product;
    const int64_t per_column = p->depth / TILE_STEPS * (LINE / 4); /* floats that a tile asks for */
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS)
        for (int64_t i = from; i < end; i += TILE_ROWS) {
            const float *a = p->scratch->packed_a + i * p->depth,
                        *ahead = a + p->rows_in_l2 * p->depth + j / TILE_COLUMNS * per_column;
            float *c = x->c + (p->row + i) * x->ldc + column + j;
            int64_t rows = ml_min(TILE_ROWS, end - i), wide = columns - j;
            const full_blocks *full = sparse ? p->full + i / TILE_ROWS : NULL;
            if (wide >= TILE_COLUMNS)
                tile_of_rows(full, rows, p->depth, a, b + j * p->depth, c, x->ldc, p->beta, ahead);
            else
                edge_tile(full, rows, wide, p->depth, a, b + j * p->depth, c, x->ldc, p->beta,
                          ahead);
        }
}

static void multiply_block(const pass *p, int64_t column, int64_t columns, const float *b,
                           int64_t from, int64_t end)
{
    if (p->full)
        multiply_panels(true, p, column, columns, b, from, end);
    else
        multiply_panels(false, p, column, columns, b, from, end);
}

static void run_task(const pass *p, int64_t task, float *packed_b)
{
    int64_t group = task / p->row_parts, part = task % p->row_parts;
    int64_t most = p->scratch->blocking.group_columns, column = group * most,
            columns = ml_min(most, p->product->n - column);
    int64_t first = part * p->rows_a_part, end = ml_min(p->rows, first + p->rows_a_part);
    if (p->full)
        pack_needed_of_b(p, column, columns, first, end, packed_b);
    else
        pack_group_of_b(p, column, columns, packed_b);
    for (int64_t i = first; i < end; i += p->rows_in_l2)
        multiply_block(p, column, columns, packed_b, i, ml_min(end, i + p->rows_in_l2));
}

/* Rows are cut where there are too few groups of columns to keep all threads busy to the end. */
static void cut_tasks(pass *p, int threads)
{
    const ml_product_blocking *by = &p->scratch->blocking;
    p->groups = (p->product->n + by->group_columns - 1) / by->group_columns;
    int64_t wanted = threads > 1 ? (by->tasks_a_thread * threads + p->groups - 1) / p->groups : 1;
    int64_t parts = ml_max(1, ml_min(wanted, p->rows / by->least_task_rows));
    p->rows_in_l2 = ml_round_up(by->rows_in_l2, TILE_ROWS);
    p->rows_a_part = ml_round_up((p->rows + parts - 1) / parts, TILE_ROWS);
    p->row_parts = (p->rows + p->rows_a_part - 1) / p->rows_a_part;
}

/* Called by every thread of a team. */
static void run_pass(const pass *p)
{
    float *packed_b =
        p->scratch->packed_b + omp_get_thread_num() * ML_PRODUCT_DEPTH * ML_PRODUCT_COLUMNS;
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < (p->rows + TILE_ROWS - 1) / TILE_ROWS; panel++) {
        if (p->full)
            pack_sparse_panel_of_a(p, panel);
        else
            pack_panel_of_a(p, panel);
    }
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < p->row_parts * p->groups; task++) run_task(p, task, packed_b);
}

void ML_NATIVE(product)(const ml_product *x, const ml_product_scratch *scratch)
{
    int64_t most = scratch->rows / TILE_ROWS * TILE_ROWS,
            rounds = ml_max(1, (x->m + most - 1) / most),
            rows = ml_round_up((x->m + rounds - 1) / rounds, TILE_ROWS),
            parts = ml_max(1, (x->k + ML_PRODUCT_DEPTH - 1) / ML_PRODUCT_DEPTH);
    /* Neither groups of weights nor blocks of zeros are ever cut. */
    int64_t step = x->sparse ? ML_FILTER_COLUMNS : ml_dtype_is_block(x->b_dtype) ? 32 : 8;
    int64_t depth =
        ml_min(ML_PRODUCT_DEPTH, ml_round_up(ml_max(1, (x->k + parts - 1) / parts), step));
    bool small = (double)x->m * (double)x->n * (double)x->k < 64.0 * ML_PARALLEL_FROM;
    int threads = small ? 1 : scratch->threads;
    full_blocks full[ML_PRODUCT_ROWS / TILE_ROWS]; /* of all threads */
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < x->m; row += rows)
        for (int64_t at = 0; at < ml_max(1, x->k); at += depth) {
            pass p = {.product = x,
                      .scratch = scratch,
                      .row = row,
                      .rows = ml_min(rows, x->m - row),
                      .at = at,
                      .full = x->sparse ? full : NULL};
            p.depth = ml_min(depth, x->k - at);
            p.beta = at == 0 ? x->beta : 1;
            cut_tasks(&p, threads);
            run_pass(&p);
        }
}
