/* The state of an adapter: gathered block by block to world rank 0, one image of one file, the
 * same bytes from any grid. */
#include "store/checkpoint/state_file.h"

typedef struct gather {
    const ml_save *save;
    float *whole, *part; /* world rank 0: two blocks */
    ml_image *image;     /* world rank 0 */
    hid_t dataset;
} gather;

typedef struct part_header {
    ml_shard shard;
    int64_t count;
} part_header;

/* All tensors in one file: a walk over whole ones. */
static int64_t image_bytes(const ml_parameters *p)
{
    enum { DATASET_OVERHEAD = 1024, FILE_OVERHEAD = 64 << 10 };
    int64_t bytes = FILE_OVERHEAD;
    for (int64_t i = 0; i < p->count; i++)
        bytes += ML_STATE_KINDS *
                 (p->items[i].rows * p->items[i].cols * (int64_t)sizeof(float) + DATASET_OVERHEAD);
    return bytes;
}

int64_t ml_save_gathered_memory(const ml_parameters *p)
{
    return ml_round_up(image_bytes(p), ML_IMAGE_STEP) +
           ml_max(2 * ml_block_floats(p) * (int64_t)sizeof(float), ML_SHA256_PIECE);
}

/* Rows [first, first + rows) of a tensor into g->whole on world rank 0, from the ranks of dp
 * replica 0. */
static void gather_block(gather *g, const ml_parameter *item, const float *buffer, int64_t first,
                         int64_t rows)
{
    const ml_grid *grid = g->save->grid;
    int tp = ml_grid_tp(grid);
    bool alone = item->shard.dim == ML_SHARD_WHOLE || tp == 1;
    if (ml_grid_dp_rank(grid) != 0 || (alone && ml_grid_rank(grid) != 0)) return;
    part_header mine;
    int64_t from = ml_block_shard(&item->shard, first, rows, item->cols, &mine.shard);
    const float *data = buffer + item->offset + from;
    mine.count = ml_shard_rows(&mine.shard, rows) * ml_shard_cols(&mine.shard, item->cols);
    if (ml_grid_rank(grid) != 0) {
        ml_grid_send(grid, 0, &mine, (int64_t)sizeof mine);
        ml_grid_send(grid, 0, data, mine.count * (int64_t)sizeof *data);
        return;
    }
    ml_shard_put(&mine.shard, rows, item->cols, data, g->whole);
    for (int rank = 1; !alone && rank < tp; rank++) {
        part_header theirs;
        ml_grid_receive(grid, rank, &theirs, (int64_t)sizeof theirs);
        ml_grid_receive(grid, rank, g->part, theirs.count * (int64_t)sizeof *g->part);
        ml_shard_put(&theirs.shard, rows, item->cols, g->part, g->whole);
    }
}

/* The attributes are those that files of adapters have had from the first version on: a tensor's
 * rows are all in its dataset. */
static ml_status open_dataset(gather *g, const ml_parameter *item, int kind)
{
    ml_status st = ML_OK;
    char name[sizeof item->name + 16];
    snprintf(name, sizeof name, "%s/%s", ml_state_kind[kind], item->name);
    ML_TRY(
        ml_image_make_matrix(ml_image_file(g->image), name, item->rows, item->cols, &g->dataset));
    ML_TRY(ml_image_put_int(g->dataset, "first_row", 0));
    ML_TRY(ml_image_put_int(g->dataset, "rows", item->rows));
done:
    return st;
}

/* Every rank goes through all blocks, also where world rank 0 has failed: nobody may wait for a
 * message that never comes. */
static ml_status gather_tensor(gather *g, int64_t tensor, int kind, ml_status st)
{
    const ml_parameter *item = &g->save->p->items[tensor];
    bool writer = ml_grid_rank(g->save->grid) == 0;
    g->dataset = -1;
    if (writer && st == ML_OK) st = open_dataset(g, item, kind);
    int64_t step = ml_block_rows(item->rows, item->cols);
    const float *buffer = ml_parameters_assemble(
        g->save->p, g->save->grid, ml_state_buffer(g->save->p, kind), item->offset, item->count);
    for (int64_t done = 0; done < item->rows; done += step) {
        int64_t rows = ml_min(step, item->rows - done);
        gather_block(g, item, buffer, done, rows);
        if (writer && st == ML_OK)
            st = ml_image_put_rows(g->dataset, done, rows, item->cols, g->whole);
    }
    if (g->dataset >= 0) H5Dclose(g->dataset);
    return st;
}

static ml_status make_room(gather *g)
{
    ml_status st = ML_OK;
    int64_t floats = ml_block_floats(g->save->p);
    ML_NEW(g->whole, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
    ML_NEW(g->part, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
    ML_TRY(ml_state_file_create(&g->image, g->save->state, image_bytes(g->save->p)));
done:
    return st;
}

ml_status ml_save_gathered(ml_save *s)
{
    gather g = {.save = s};
    bool writer = ml_grid_rank(s->grid) == 0;
    ml_status st = ml_grid_agree(s->grid, writer ? make_room(&g) : ML_OK);
    if (st == ML_OK) {
        for (int64_t i = 0; i < s->p->count; i++)
            for (int kind = 0; kind < ML_STATE_KINDS; kind++) st = gather_tensor(&g, i, kind, st);
        if (writer && st == ML_OK) {
            st = ml_writing_hold(s->writing, "state.h5", g.image);
            g.image = NULL;
        }
        st = ml_grid_agree(s->grid, st);
    }
    ml_image_destroy(g.image);
    ml_memory_free(g.whole);
    ml_memory_free(g.part);
    return st;
}
