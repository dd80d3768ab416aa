/* Blocks of whole rows of a sharded tensor: what is gathered, written, read and handed out at
 * once. */
#include "store/checkpoint/run_directory.h"

static const int64_t block_floats = (32 << 20) / 4;

const char *const ml_state_kind[ML_STATE_KINDS] = {"value", "moment1", "moment2"};

float *ml_state_buffer(const ml_parameters *p, int kind)
{
    return kind == 0 ? p->value : kind == 1 ? p->moment1 : p->moment2;
}

int64_t ml_block_rows(int64_t rows, int64_t cols)
{
    return ml_min(rows, ml_max(1, block_floats / cols));
}

int64_t ml_block_floats(const ml_parameters *p)
{
    int64_t most = 0;
    for (int64_t i = 0; i < p->count; i++)
        most = ml_max(most, ml_block_rows(p->items[i].rows, p->items[i].cols) * p->items[i].cols);
    return most;
}

int64_t ml_block_shard(const ml_shard *shard, int64_t first, int64_t rows, int64_t cols,
                       ml_shard *block)
{
    *block = *shard;
    if (shard->dim != ML_SHARD_ROWS) return first * ml_shard_cols(shard, cols);
    int64_t before = 0;
    for (int i = 0; i < shard->nparts; i++) {
        int64_t start = shard->part[i].start, end = start + shard->part[i].count;
        int64_t from = ml_min(ml_max(start, first), end),
                to = ml_max(ml_min(end, first + rows), from);
        before += from - start;
        block->part[i].start = ml_min(ml_max(from - first, 0), rows);
        block->part[i].count = to - from;
    }
    return before * cols;
}
