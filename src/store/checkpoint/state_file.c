/* State files written: the tensors of a run from the ranks' buffers into HDF5 images.
 *
 * Two ways. An adapter's state is gathered here, block by block, into one image on world rank 0,
 * which save.c writes while training goes on. A state that is too large for one file (method full)
 * is written by all tp ranks: state_shards.c.
 */
#include "store/checkpoint/state_file.h"

/* ---- kinds and blocks ---------------------------------------------------------------------- */

static const int64_t block_floats = (4 << 20) / 4;

const char *const ml_state_kind[ML_STATE_KINDS] = {"value", "moment1", "moment2"};

float *ml_state_buffer(const ml_parameters *p, int kind)
{
    return kind == 0 ? p->value : kind == 1 ? p->moment1 : p->moment2;
}

int64_t ml_state_block_rows(int64_t rows, int64_t cols)
{
    return ml_min(rows, ml_max(1, block_floats / cols));
}

int64_t ml_state_block_floats(const ml_parameters *p)
{
    int64_t most = 0;
    for (int64_t i = 0; i < p->count; i++)
        most = ml_max(most,
                      ml_state_block_rows(p->items[i].rows, p->items[i].cols) * p->items[i].cols);
    return most;
}

/* ---- what every file says of its run ------------------------------------------------------- */

static ml_status describe(const ml_image *image, const ml_checkpoint_state *state)
{
    ml_status st = ML_OK;
    hid_t file = ml_image_file(image), identity = -1;
    const ml_checkpoint_progress *progress = &state->progress;
    ML_TRY(ml_image_put_text(file, "format", "mpilora state"));
    ML_TRY(ml_image_put_int(file, "schema", 1));
    ML_TRY(ml_image_put_int(file, "step", progress->step));
    ML_TRY(ml_image_put_int(file, "cursor", progress->cursor));
    ML_TRY(ml_image_put_int(file, "tokens", progress->tokens));
    ML_TRY(ml_image_put_long_text(file, "configuration", state->configuration));
    ML_TRY(ml_image_make_group(file, "identity"));
    identity = H5Gopen2(file, "identity", H5P_DEFAULT);
    for (int64_t i = 0; i < state->identities; i++)
        ML_TRY(ml_image_put_text(identity, state->identity[i].key, state->identity[i].value));
    for (int kind = 0; kind < ML_STATE_KINDS; kind++)
        ML_TRY(ml_image_make_group(file, ml_state_kind[kind]));
done:
    H5Gclose(identity);
    return st;
}

/* The overhead has room for a configuration of the usual size, so that images are as large as they
 * were planned, without one. */
ml_status ml_state_file_create(ml_image **out, const ml_checkpoint_state *state, int64_t bytes)
{
    ml_image *image = NULL;
    int64_t beyond = (int64_t)strlen(state->configuration) - ML_STATE_OVERHEAD / 2;
    ml_status st = ml_image_create(&image, bytes + ml_max(0, beyond), 0);
    if (st == ML_OK) st = describe(image, state);
    if (st == ML_OK)
        *out = image;
    else
        ml_image_destroy(image);
    return st;
}

/* ---- an adapter: one image, gathered ------------------------------------------------------- */

/* An adapter beyond this is cut over several files like the state of method full. */
static const int64_t largest_gathered = (int64_t)1000 << 20;

bool ml_state_is_gathered(const ml_parameters *p, bool full)
{
    int64_t floats = 0;
    for (int64_t i = 0; i < p->count; i++) floats += p->items[i].rows * p->items[i].cols;
    return !full && ml_checkpoint_bytes(floats) <= largest_gathered;
}

typedef struct gather {
    const ml_grid *grid;
    const ml_parameters *p;
    bool writer;         /* world rank 0, which alone has what follows */
    float *whole, *part; /* two blocks */
    ml_image *image;
} gather;

/* All tensors in one file. */
static int64_t image_bytes(const ml_parameters *p)
{
    enum { DATASET_OVERHEAD = 1024 };
    int64_t bytes = ML_STATE_OVERHEAD;
    for (int64_t i = 0; i < p->count; i++)
        bytes += ML_STATE_KINDS *
                 (p->items[i].rows * p->items[i].cols * (int64_t)sizeof(float) + DATASET_OVERHEAD);
    return bytes;
}

static int64_t gather_memory(const ml_parameters *p)
{
    return ml_image_room(image_bytes(p)) +
           ml_max(2 * ml_state_block_floats(p) * (int64_t)sizeof(float), ML_SHA256_PIECE);
}

static ml_status make_room(gather *g, const ml_checkpoint_state *state)
{
    ml_status st = ML_OK;
    int64_t floats = ml_state_block_floats(g->p);
    ML_NEW(g->whole, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
    ML_NEW(g->part, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
    ML_TRY(ml_state_file_create(&g->image, state, image_bytes(g->p)));
done:
    return st;
}

/* The attributes are those that files of adapters have had from the first version on: a tensor's
 * rows are all in its dataset. */
static ml_status make_whole_dataset(const gather *g, const ml_parameter *item, int kind,
                                    hid_t *dataset)
{
    ml_status st = ML_OK;
    char name[sizeof item->name + 16];
    snprintf(name, sizeof name, "%s/%s", ml_state_kind[kind], item->name);
    ML_TRY(ml_image_make_matrix(ml_image_file(g->image), name, item->rows, item->cols, dataset));
    ML_TRY(ml_image_put_int(*dataset, "first_row", 0));
    ML_TRY(ml_image_put_int(*dataset, "rows", item->rows));
done:
    return st;
}

/* Every rank goes through all blocks, also where world rank 0 has failed: nobody may wait for a
 * message that never comes. */
static ml_status gather_tensor(gather *g, int64_t tensor, int kind, ml_status st)
{
    const ml_parameter *item = &g->p->items[tensor];
    hid_t dataset = -1;
    if (g->writer && st == ML_OK) st = make_whole_dataset(g, item, kind, &dataset);
    int64_t step = ml_state_block_rows(item->rows, item->cols);
    const float *buffer = ml_parameters_assemble(g->p, g->grid, ml_state_buffer(g->p, kind),
                                                 item->offset, item->count);
    for (int64_t done = 0; done < item->rows; done += step) {
        int64_t rows = ml_min(step, item->rows - done);
        ml_parameters_gather_rows(g->p, g->grid, tensor, buffer, done, rows, g->whole, g->part);
        if (g->writer && st == ML_OK)
            st = ml_image_put_rows(dataset, done, rows, item->cols, g->whole);
    }
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

ml_status ml_state_file_gather(const ml_grid *grid, const ml_parameters *p,
                               const ml_checkpoint_state *state, ml_image **out)
{
    gather g = {.grid = grid, .p = p, .writer = ml_grid_rank(grid) == 0};
    ml_status st = ml_grid_agree(grid, g.writer ? make_room(&g, state) : ML_OK);
    if (st == ML_OK) {
        for (int64_t i = 0; i < p->count; i++)
            for (int kind = 0; kind < ML_STATE_KINDS; kind++) st = gather_tensor(&g, i, kind, st);
        st = ml_grid_agree(grid, st);
    }
    if (st == ML_OK) {
        *out = g.image;
        g.image = NULL;
    }
    ml_image_destroy(g.image);
    ml_memory_free(g.whole);
    ml_memory_free(g.part);
    return st;
}

/* ---- sizes --------------------------------------------------------------------------------- */

int64_t ml_checkpoint_bytes(int64_t global)
{
    return ML_STATE_KINDS * (int64_t)sizeof(float) * global;
}

int ml_checkpoint_writers(const ml_parameters *p, bool full, int parts)
{
    return ml_state_is_gathered(p, full) ? 1 : parts;
}

int64_t ml_checkpoint_memory(const ml_parameters *p, bool full, int parts, int part)
{
    if (ml_state_is_gathered(p, full)) return part == 0 ? gather_memory(p) : 0;
    int tp = parts / (p->pp > 1 ? p->pp : 1);
    return ml_state_shards_memory(p, tp, part % tp);
}
