/* A sharded tensor made whole on world rank 0. */
#include "mpilora/optim.h"

/* What a rank of the tp group sends before its part. */
typedef struct header {
    ml_shard shard;
    int64_t count;
} header;

void ml_parameters_gather_rows(const ml_parameters *p, const ml_grid *grid, int64_t i,
                               const float *buffer, int64_t first, int64_t rows, float *whole,
                               float *part)
{
    const ml_parameter *item = &p->items[i];
    int tp = ml_grid_tp(grid);
    bool alone = item->shard.dim == ML_SHARD_WHOLE || tp == 1;
    if (ml_grid_dp_rank(grid) != 0 || (alone && ml_grid_rank(grid) != 0)) return;
    header mine;
    const float *data =
        buffer + item->offset + ml_shard_within(&item->shard, first, rows, item->cols, &mine.shard);
    mine.count = ml_shard_rows(&mine.shard, rows) * ml_shard_cols(&mine.shard, item->cols);
    if (ml_grid_rank(grid) != 0) {
        ml_grid_send(grid, 0, &mine, (int64_t)sizeof mine);
        ml_grid_send(grid, 0, data, mine.count * (int64_t)sizeof *data);
        return;
    }
    ml_shard_put(&mine.shard, rows, item->cols, data, whole);
    for (int from = 1; !alone && from < tp; from++) {
        header theirs;
        ml_grid_receive(grid, from, &theirs, (int64_t)sizeof theirs);
        ml_grid_receive(grid, from, part, theirs.count * (int64_t)sizeof *part);
        ml_shard_put(&theirs.shard, rows, item->cols, part, whole);
    }
}

void ml_parameters_gather(const ml_parameters *p, const ml_grid *grid, int64_t i,
                          const float *buffer, float *whole, float *part)
{
    ml_parameters_gather_rows(p, grid, i, buffer, 0, p->items[i].rows, whole, part);
}
