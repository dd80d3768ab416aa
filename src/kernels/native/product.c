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

#include "kernels/native/pack.h"

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
