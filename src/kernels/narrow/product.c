/* C = A·op(B) + beta·C with bf16 instructions, in the manner of native/product.c: A is narrowed
 * once, by all threads, some depth of it at a time. Then a task takes some columns of B: part by
 * part of that depth it packs them into its own L2 cache, [part / 2][columns] pairs of neighbours
 * in the depth, and a register tile goes down the rows of A with them. While it multiplies, it asks
 * memory for what it packs next: a weight comes from memory in every product. */
#include <omp.h>

#include "kernels/narrow/tile.h"

/* What a depth of A that is narrowed at a time needs. */
typedef struct pass {
    const ml_narrow_product *product;
    const ml_narrow_scratch *scratch;
    int64_t row, rows;                                     /* of C and A: narrowed at a time */
    int64_t at, depth;                                     /* of k */
    int64_t part;                                          /* of the depth: packed at a time */
    int64_t row_parts, rows_a_part, groups, group_columns; /* tasks: row_parts × groups */
} pass;

/* Columns of B, from `at` of the pass's depth on. */
typedef struct group {
    int64_t column, columns, at, depth;
} group;

static group group_of(const pass *p, int64_t number, int64_t at)
{
    const int64_t column = number * p->group_columns;
    return (group){column, ml_min(p->group_columns, p->product->n - column), at,
                   ml_min(p->part, p->depth - at)};
}

static narrow_part part_of(const pass *p, group g)
{
    const ml_narrow_product *x = p->product;
    const int64_t bytes = ml_dtype_bytes(x->b_dtype, x->ldb), deep = p->at + g.at;
    return (narrow_part){.rows = (const uint8_t *)x->b + (x->b_turned ? g.column : deep) * bytes,
                         .dtype = x->b_dtype,
                         .row_bytes = bytes,
                         .first = x->b_turned ? deep : g.column,
                         .columns = g.columns,
                         .depth = g.depth,
                         .decode = x->decode};
}

static void pack_group(const pass *p, group g, uint32_t *to)
{
    const narrow_part part = part_of(p, g);
    if (p->product->b_turned)
        pack_turned(&part, to);
    else
        pack_straight(&part, to);
}

/* One of `shares` equal shares of a group, into the L2 cache. */
static void ask_for(const pass *p, group g, int64_t share, int64_t shares)
{
    const bool turned = p->product->b_turned;
    const narrow_part b = part_of(p, g);
    const int64_t rows = turned ? b.columns : b.depth,
                  wide = ml_dtype_bytes(b.dtype, turned ? b.depth : b.columns),
                  first = ml_dtype_bytes(b.dtype, b.first);
    for (int64_t i = rows * share / shares; i < rows * (share + 1) / shares; i++)
        for (int64_t at = 0; at < wide; at += 2 * LINE)
            __builtin_prefetch(b.rows + i * b.row_bytes + first + at, 0, 2);
}

/* Rows [first, end) of those that are narrowed by a packed group; meanwhile the next one is asked
 * for, unless it has no columns. */
static void multiply_group(const pass *p, group g, const uint32_t *b, int64_t first, int64_t end,
                           group next)
{
    const ml_narrow_product *x = p->product;
    const float beta = p->at + g.at == 0 ? x->beta : 1;
    int64_t tiles = (end - first + TILE_ROWS - 1) / TILE_ROWS, pairs = (g.depth + 1) / 2;
    for (int64_t t = 0, row = first, rows; t < tiles; t++, row += rows) {
        rows = rows_of_tile(end - row, tiles - t);
        const uint16_t *a = p->scratch->packed_a + place_of_row(row) + g.at / LINE * A_LINE;
        float *c = x->c + (p->row + row) * x->ldc + g.column;
        if (next.columns > 0) ask_for(p, next, t, tiles);
        for (int64_t j = 0; j < g.columns; j += TILE_COLUMNS) {
            const uint32_t *panel = b + j * panel_pairs(g.depth);
            if (g.columns - j >= TILE_COLUMNS)
                multiply_tile(rows, pairs, a, panel, c + j, x->ldc, beta);
            else
                edge_tile(rows, g.columns - j, pairs, a, panel, c + j, x->ldc, beta);
        }
    }
}

static void run_task(const pass *p, int64_t task, uint32_t *packed_b)
{
    const int64_t number = task / p->row_parts, first = task % p->row_parts * p->rows_a_part,
                  end = ml_min(p->rows, first + p->rows_a_part);
    const group likely = group_of(p, (task + omp_get_num_threads()) / p->row_parts, 0);
    int64_t at = 0;
    do {
        const group g = group_of(p, number, at);
        at += p->part;
        pack_group(p, g, packed_b);
        multiply_group(p, g, packed_b, first, end,
                       at < p->depth ? group_of(p, number, at) : likely);
    } while (at < p->depth);
}

/* Rows are cut where there are too few groups of columns to keep all threads busy to the end, and
 * where there are too few rows the groups are. Every thread has as many, where that can be. */
static void cut_tasks(pass *p, int threads)
{
    const int64_t n = p->product->n, wanted = threads > 1 ? TASKS_A_THREAD * threads : 1;
    p->groups = (n + GROUP_COLUMNS - 1) / GROUP_COLUMNS;
    int64_t parts = ml_max(1, ml_min((wanted + p->groups - 1) / p->groups, p->rows / LEAST_ROWS));
    p->rows_a_part = rows_of_part((p->rows + parts - 1) / parts);
    p->row_parts = (p->rows + p->rows_a_part - 1) / p->rows_a_part;
    int64_t most = (n + LEAST_COLUMNS - 1) / LEAST_COLUMNS,
            groups = ml_max(p->groups, ml_min(most, (wanted + p->row_parts - 1) / p->row_parts));
    if (p->row_parts % threads != 0) groups = ml_min(most, ml_round_up(groups, threads));
    p->group_columns = ml_round_up((n + groups - 1) / groups, TILE_COLUMNS);
    p->groups = (n + p->group_columns - 1) / p->group_columns;
}

/* Equal parts of whole lines, none deeper than `most`. */
static int64_t equal_parts(int64_t depth, int64_t most)
{
    const int64_t parts = ml_max(1, (depth + most - 1) / most);
    return ml_round_up(ml_max(1, (depth + parts - 1) / parts), LINE);
}

/* Called by every thread of a team. */
static void run_pass(const pass *p)
{
    const ml_narrow_product *x = p->product;
    uint32_t *packed_b =
        p->scratch->packed_b + (int64_t)omp_get_thread_num() * (PART / 2) * GROUP_COLUMNS;
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
            depth = equal_parts(x->k, DEPTH);
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
                p.part = equal_parts(p.depth, most_of_part(x->k));
                cut_tasks(&p, threads);
                run_pass(&p);
            }
        end_tiles();
    }
}

const ml_narrow_set ML_NATIVE(narrow_set) = {
    ML_NATIVE(narrow_available), multiply, ROWS, DEPTH, PART, GROUP_COLUMNS};
