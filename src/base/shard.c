/* Copying between a global tensor and the ranges of it that a rank holds. */
#include "mpilora/shard.h"

ml_unit_range ml_shard_units(int64_t units, bool repeat, int tp, int rank)
{
    if (!repeat || units >= tp)
        return (ml_unit_range){ml_part_start(units, tp, rank), ml_part_count(units, tp, rank), 1,
                               false};
    int copies = (int)(tp / units);
    return (ml_unit_range){rank / copies, 1, copies, rank % copies != 0};
}

static int64_t held(const ml_shard *shard)
{
    int64_t sum = 0;
    for (int i = 0; i < shard->nparts; i++) sum += shard->part[i].count;
    return sum;
}

int64_t ml_shard_rows(const ml_shard *shard, int64_t rows)
{
    return shard->dim == ML_SHARD_ROWS ? held(shard) : rows;
}
int64_t ml_shard_cols(const ml_shard *shard, int64_t cols)
{
    return shard->dim == ML_SHARD_COLS ? held(shard) : cols;
}

int64_t ml_shard_within(const ml_shard *shard, int64_t first, int64_t rows, int64_t cols,
                        ml_shard *within)
{
    *within = *shard;
    if (shard->dim != ML_SHARD_ROWS) return first * ml_shard_cols(shard, cols);
    int64_t before = 0;
    for (int i = 0; i < shard->nparts; i++) {
        int64_t start = shard->part[i].start, end = start + shard->part[i].count;
        int64_t from = ml_min(ml_max(start, first), end),
                to = ml_max(ml_min(end, first + rows), from);
        before += from - start;
        within->part[i].start = ml_min(ml_max(from - first, 0), rows);
        within->part[i].count = to - from;
    }
    return before * cols;
}

/* Walks over the contiguous pieces of the local tensor; `take` copies global → local, else local →
 * global. */
static void copy_pieces(const ml_shard *shard, int64_t rows, int64_t cols, float *global,
                        float *local, bool take)
{
    ml_shard whole = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{0, rows}}};
    if (shard->dim == ML_SHARD_WHOLE) shard = &whole;
    bool by_rows = shard->dim == ML_SHARD_ROWS;
    int64_t pieces = by_rows ? shard->nparts : rows;
    for (int64_t i = 0; i < pieces; i++) {
        int64_t from = by_rows ? shard->part[i].start * cols : i * cols + shard->part[0].start;
        int64_t count = by_rows ? shard->part[i].count * cols : shard->part[0].count;
        if (take)
            memcpy(local, global + from, (size_t)count * sizeof *local);
        else
            memcpy(global + from, local, (size_t)count * sizeof *local);
        local += count;
    }
}

void ml_shard_take(const ml_shard *shard, int64_t rows, int64_t cols, const float *global,
                   float *local)
{
    copy_pieces(shard, rows, cols, (float *)(uintptr_t)global, local, true);
}

void ml_shard_put(const ml_shard *shard, int64_t rows, int64_t cols, const float *local,
                  float *global)
{
    copy_pieces(shard, rows, cols, global, (float *)(uintptr_t)local, false);
}
