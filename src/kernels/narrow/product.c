/* C = A·op(B) + beta·C with bf16 instructions, in the manner of native/product.c: for each part of
 * the depth all of A is narrowed once, by all threads. Then a task takes some columns of B: it
 * packs them into its own L2 cache, [depth / 2][columns] pairs of neighbours in the depth, and a
 * register tile goes down the rows of A with them. While it multiplies, it asks memory for the
 * columns that it packs next: a weight comes from memory in every product. */
#include <omp.h>

#include "kernels/narrow/tile.h"

/* What one part of the depth needs. */
typedef struct pass {
    const ml_narrow_product *product;
    const ml_narrow_scratch *scratch;
    int64_t row, rows; /* of C and A: narrowed at a time */
    int64_t at, depth; /* of k */
    float beta;        /* the product's for the first part of the depth, then 1 */
    int64_t row_parts, rows_a_part, groups, group_columns; /* tasks: row_parts × groups */
} pass;

static narrow_part part_of(const pass *p, int64_t column, int64_t columns)
{
    const ml_narrow_product *x = p->product;
    const int64_t bytes = ml_dtype_bytes(x->b_dtype, x->ldb);
    return (narrow_part){.rows = (const uint8_t *)x->b + (x->b_turned ? column : p->at) * bytes,
                         .dtype = x->b_dtype,
                         .row_bytes = bytes,
                         .first = x->b_turned ? p->at : column,
                         .columns = columns,
                         .depth = p->depth,
                         .decode = x->decode};
}

static void pack_group(const pass *p, int64_t column, int64_t columns, uint32_t *to)
{
    const narrow_part part = part_of(p, column, columns);
    if (p->product->b_turned)
        pack_turned(&part, to);
    else
        pack_straight(&part, to);
}

/* One of `parts` equal parts of the columns of B from `column` on, into the L2 cache. */
static void ask_for(const pass *p, int64_t column, int64_t part, int64_t parts)
{
    const ml_narrow_product *x = p->product;
    const int64_t columns = ml_min(p->group_columns, x->n - column);
    const narrow_part b = part_of(p, column, columns);
    const int64_t rows = x->b_turned ? columns : p->depth,
                  wide = ml_dtype_bytes(b.dtype, x->b_turned ? p->depth : columns),
                  first = ml_dtype_bytes(b.dtype, b.first);
    for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; i++)
        for (int64_t at = 0; at < wide; at += 2 * LINE)
            __builtin_prefetch(b.rows + i * b.row_bytes + first + at, 0, 2);
}

/* Rows [first, end) of those that are narrowed by a group of columns; meanwhile the columns from
 * `next` on are asked for, unless there are none. */
static void multiply_group(const pass *p, int64_t column, int64_t columns, const uint32_t *b,
                           int64_t first, int64_t end, int64_t next)
{
    const ml_narrow_product *x = p->product;
    int64_t tiles = (end - first + TILE_ROWS - 1) / TILE_ROWS, pairs = (p->depth + 1) / 2;
    for (int64_t t = 0, row = first, rows; t < tiles; t++, row += rows) {
        rows = rows_of_tile(end - row, tiles - t);
        const uint16_t *a = p->scratch->packed_a + place_of_row(row);
        float *c = x->c + (p->row + row) * x->ldc + column;
        if (next < x->n) ask_for(p, next, t, tiles);
        for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
            const uint32_t *panel = b + j * panel_pairs(p->depth);
            if (columns - j >= TILE_COLUMNS)
                multiply_tile(rows, pairs, a, panel, c + j, x->ldc, p->beta);
            else
                edge_tile(rows, columns - j, pairs, a, panel, c + j, x->ldc, p->beta);
        }
    }
}

static void run_task(const pass *p, int64_t task, uint32_t *packed_b)
{
    int64_t group = task / p->row_parts, part = task % p->row_parts;
    int64_t column = group * p->group_columns,
            columns = ml_min(p->group_columns, p->product->n - column);
    int64_t first = part * p->rows_a_part, end = ml_min(p->rows, first + p->rows_a_part);
    int64_t next = (task + omp_get_num_threads()) / p->row_parts * p->group_columns;
    pack_group(p, column, columns, packed_b);
    multiply_group(p, column, columns, packed_b, first, end, next);
}

/* Rows are cut where there are too few groups of columns to keep all threads busy to the end, and
 * where there are too few rows the groups are. */
static void cut_tasks(pass *p, int threads)
{
    const int64_t n = p->product->n, wanted = threads > 1 ? TASKS_A_THREAD * threads : 1;
    p->groups = (n + GROUP_COLUMNS - 1) / GROUP_COLUMNS;
    int64_t parts = ml_max(1, ml_min((wanted + p->groups - 1) / p->groups, p->rows / LEAST_ROWS));
    p->rows_a_part = rows_of_part((p->rows + parts - 1) / parts);
    p->row_parts = (p->rows + p->rows_a_part - 1) / p->rows_a_part;
    int64_t most = (n + LEAST_COLUMNS - 1) / LEAST_COLUMNS,
            groups = ml_max(p->groups, ml_min(most, (wanted + p->row_parts - 1) / p->row_parts));
    p->group_columns = ml_round_up((n + groups - 1) / groups, TILE_COLUMNS);
    p->groups = (n + p->group_columns - 1) / p->group_columns;
}

/* Called by every thread of a team. */
static void run_pass(const pass *p)
{
    const ml_narrow_product *x = p->product;
    uint32_t *packed_b =
        p->scratch->packed_b + (int64_t)omp_get_thread_num() * (DEPTH / 2) * GROUP_COLUMNS;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < p->rows; i++)
        narrow_row(p->depth, x->a + (p->row + i) * x->lda + p->at,
                   p->scratch->packed_a + place_of_row(i), A_LINE);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < p->row_parts * p->groups; task++) run_task(p, task, packed_b);
}

static void multiply(const ml_narrow_product *x, const ml_narrow_scratch *scratch)
{
    int64_t rounds = ml_max(1, (x->m + scratch->rows - 1) / scratch->rows),
            rows = ml_min(scratch->rows, ml_round_up((x->m + rounds - 1) / rounds, TILE_ROWS)),
            parts = ml_max(1, (x->k + DEPTH - 1) / DEPTH);
    int64_t depth = ml_min(DEPTH, ml_round_up(ml_max(1, (x->k + parts - 1) / parts), LINE));
    bool small = (double)x->m * (double)x->n * (double)x->k < 64.0 * ML_PARALLEL_FROM;
    int threads = small ? 1 : scratch->threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        begin_tiles();
        for (int64_t row = 0; row < x->m; row += rows)
            for (int64_t at = 0; at < ml_max(1, x->k); at += depth) {
                pass p = {.product = x,
                          .scratch = scratch,
                          .row = row,
                          .rows = ml_min(rows, x->m - row),
                          .at = at};
                p.depth = ml_min(depth, x->k - at);
                p.beta = at == 0 ? x->beta : 1;
                cut_tasks(&p, threads);
                run_pass(&p);
            }
        end_tiles();
    }
}

const ml_narrow_set ML_NATIVE(narrow_set) = {ML_NATIVE(narrow_available), multiply, DEPTH,
                                             GROUP_COLUMNS};
