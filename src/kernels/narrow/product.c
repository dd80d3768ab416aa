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
    int64_t *taken;                                        /* tasks so far, of all threads */
    int64_t row, rows;                                     /* of C and A: narrowed at a time */
    int64_t at, depth;                                     /* of k */
    int64_t part;                                          /* of the depth: packed at a time */
    int64_t row_parts, rows_a_part, groups, group_columns; /* tasks: row_parts × groups */
} pass;

/* Part of a task: some columns of B, some of the pass's depth from `at` on. */
typedef struct stage {
    int64_t task, column, columns, at, depth;
    narrow_part b;
} stage;

static stage stage_of(const pass *p, int64_t task, int64_t at)
{
    const ml_narrow_product *x = p->product;
    const int64_t column = task / p->row_parts * p->group_columns, deep = p->at + at,
                  bytes = ml_dtype_bytes(x->b_dtype, x->ldb);
    stage s = {.task = task,
               .column = column,
               .columns = ml_min(p->group_columns, x->n - column),
               .at = at,
               .depth = ml_min(p->part, p->depth - at)};
    s.b = (narrow_part){.turned = x->b_turned,
                        .rows = (const uint8_t *)x->b + (x->b_turned ? column : deep) * bytes,
                        .dtype = x->b_dtype,
                        .row_bytes = bytes,
                        .first = x->b_turned ? deep : column,
                        .columns = s.columns,
                        .depth = s.depth,
                        .decode = x->decode};
    return s;
}

static int64_t take_task(const pass *p)
{
    int64_t task;
#pragma omp atomic capture
    task = (*p->taken)++;
    return task;
}

/* What follows a stage: the next part of its task, or the first one of the thread's next task;
 * false behind the last. */
static bool next_stage(const pass *p, stage *s)
{
    if (s->at + p->part < p->depth) {
        *s = stage_of(p, s->task, s->at + p->part);
        return true;
    }
    const int64_t task = take_task(p);
    if (task >= p->row_parts * p->groups) return false;
    *s = stage_of(p, task, 0);
    return true;
}

static sums sums_of_tile(float *own, int64_t number)
{
    enum { NUMBERS = TILE_ROWS * TILE_COLUMNS };
    return (sums){own + number * NUMBERS, TILE_COLUMNS, NUMBERS};
}

/* A stage's products with its rows of A; meanwhile the next stage's part of B is asked for. Between
 * parts the sums wait in the thread's own memory, tile by tile: C's rows lie far apart, often by a
 * power of two, and then the second cache has place for few of them. */
ML_INLINE void multiply_stage(const pass *p, const stage *s, const uint32_t *b, float *own,
                              requests *next)
{
    const ml_narrow_product *x = p->product;
    const int64_t first = s->task % p->row_parts * p->rows_a_part,
                  end = ml_min(p->rows, first + p->rows_a_part),
                  tiles = (end - first + TILE_ROWS - 1) / TILE_ROWS,
                  panels = (s->columns + TILE_COLUMNS - 1) / TILE_COLUMNS,
                  pairs = (s->depth + 1) / 2;
    const bool begins = s->at == 0, ends = s->at + s->depth == p->depth;
    const float beta = p->at + s->at == 0 ? x->beta : 1;
    const int64_t lines = tiles * panels * ml_max(1, (s->depth + LINE - 1) / LINE);
    next->a_line = (requests_left(next) + lines - 1) / lines;
    for (int64_t t = 0, row = first, rows; t < tiles; t++, row += rows) {
        rows = rows_of_tile(end - row, tiles - t);
        const uint16_t *a = p->scratch->packed_a + place_of_row(row) + s->at / LINE * A_LINE;
        for (int64_t j = 0; j < panels; j++) {
            const int64_t columns = ml_min(TILE_COLUMNS, s->columns - j * TILE_COLUMNS);
            const uint32_t *panel = b + j * TILE_COLUMNS * panel_pairs(s->depth);
            const sums in_c = {x->c + (p->row + row) * x->ldc + s->column + j * TILE_COLUMNS,
                               x->ldc, TILE_COLUMNS},
                       waiting = begins && ends ? in_c : sums_of_tile(own, t * panels + j),
                       from = begins ? in_c : waiting, to = ends ? in_c : waiting;
            if (columns == TILE_COLUMNS)
                multiply_tile(rows, pairs, a, panel, beta, from, to, next);
            else
                edge_tile(rows, columns, pairs, a, panel, beta, from, to, next);
        }
    }
}

/* A thread's tasks, stage by stage. */
static void run_tasks(const pass *p, uint32_t *packed_b, float *own)
{
    const int64_t task = take_task(p);
    if (task >= p->row_parts * p->groups) return;
    stage now = stage_of(p, task, 0);
    for (bool more = true; more;) {
        stage next = now;
        requests ahead = {0};
        pack_part(now.b, packed_b);
        more = next_stage(p, &next);
        if (more) ahead = requests_for(&next.b);
        multiply_stage(p, &now, packed_b, own, &ahead);
        now = next;
    }
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
    const ml_narrow_scratch *own = p->scratch;
    const int64_t thread = omp_get_thread_num(), part = thread * (PART / 2) * GROUP_COLUMNS;
#pragma omp single nowait
    *p->taken = 0;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < p->rows; i++)
        narrow_row(p->depth, x->a + (p->row + i) * x->lda + p->at, own->packed_a + place_of_row(i),
                   A_LINE);
    run_tasks(p, own->packed_b + part,
              DEPTH > PART ? own->sums + thread * own->rows * GROUP_COLUMNS : NULL);
#pragma omp barrier
}

static void multiply(const ml_narrow_product *x, const ml_narrow_scratch *scratch)
{
    int64_t rounds = ml_max(1, (x->m + scratch->rows - 1) / scratch->rows),
            rows = ml_min(scratch->rows, ml_round_up((x->m + rounds - 1) / rounds, TILE_ROWS)),
            depth = equal_parts(x->k, DEPTH);
    bool small = (double)x->m * (double)x->n * (double)x->k < 64.0 * ML_PARALLEL_FROM;
    int threads = small ? 1 : scratch->threads;
    int64_t taken = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        begin_tiles();
        for (int64_t row = 0; row < x->m; row += rows)
            for (int64_t at = 0; at < ml_max(1, x->k); at += depth) {
                pass p = {.product = x,
                          .scratch = scratch,
                          .taken = &taken,
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
