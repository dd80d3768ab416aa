/* A sharded tensor made whole on world rank 0. */
#include "mpilora/optim.h"

/* What a rank of the tp group sends before its part. */
typedef struct header {
    ml_shard shard;
    int64_t count;
} header;

static void receive_part(const ml_parameter *item, const ml_grid *grid, int from, float *part,
                         float *whole)
{
    header h;
    ml_grid_receive(grid, from, &h, (int64_t)sizeof h);
    ml_grid_receive(grid, from, part, h.count * (int64_t)sizeof *part);
    ml_shard_put(&h.shard, item->rows, item->cols, part, whole);
}

void ml_parameters_gather(const ml_parameters *p, const ml_grid *grid, int64_t i,
                          const float *buffer, float *whole, float *part)
{
    const ml_parameter *item = &p->items[i];
    const float *mine = buffer + item->offset;
    bool alone = item->shard.dim == ML_SHARD_WHOLE || ml_grid_tp(grid) == 1;
    if (ml_grid_rank(grid) == 0) {
        ml_shard_put(&item->shard, item->rows, item->cols, mine, whole);
        for (int from = 1; !alone && from < ml_grid_tp(grid); from++)
            receive_part(item, grid, from, part, whole);
    } else if (!alone && ml_grid_dp_rank(grid) == 0) {
        header h = {item->shard, item->count};
        ml_grid_send(grid, 0, &h, (int64_t)sizeof h);
        ml_grid_send(grid, 0, mine, h.count * (int64_t)sizeof *mine);
    }
}
