/* Loading: world rank 0 goes through each file once, from its first byte to its last, and sends
 * what it meets of the tensors, a block of rows at a time, to all ranks, each of which takes its
 * part.
 *
 * Nobody holds a file, or a tensor beside its place: HDF5 says where in the file the tensors lie,
 * after ml_checkpoint_find has hashed all of it; then its bytes are hashed once more as they are
 * read, so that the numbers that a run goes on with are those that the manifest vouches for. */
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/hdf5_file.h"
#include "store/checkpoint/state_file.h"

typedef struct place {
    ml_state_extent extent;
    int64_t offset; /* of its first byte in the file */
} place;

typedef struct load {
    ml_run_directory *run;
    const ml_grid *grid;
    ml_parameters *p;
    float *block;
    int64_t *covered; /* values read so far, [tensor][kind] */

    /* World rank 0's: the file in work. */
    char path[ML_DURABLE_PATH];
    int fd; /* −1: none */
    int64_t bytes;
    ml_sha256 *hash; /* of what was read of it */
    place *places;   /* of its tensors, in the order of the file */
    int64_t count, capacity;
} load;

/* ---- extents ------------------------------------------------------------------------------- */

ml_status ml_state_extent_read(hid_t dataset, int64_t rows, int64_t cols, ml_state_extent *e,
                               int64_t all[2])
{
    ml_status st = ML_OK;
    e->rows = rows;
    e->cols = all[1] = cols;
    e->first_col = 0;
    ML_TRY(ml_image_get_int(dataset, "first_row", &e->first_row));
    ML_TRY(ml_image_get_int(dataset, "rows", &all[0]));
    if (H5Aexists(dataset, "cols") > 0) {
        ML_TRY(ml_image_get_int(dataset, "first_col", &e->first_col));
        ML_TRY(ml_image_get_int(dataset, "cols", &all[1]));
    }
    if (e->first_row < 0 || rows > all[0] || e->first_row > all[0] - rows || e->first_col < 0 ||
        cols > all[1] || e->first_col > all[1] - cols)
        st = ml_fail(ML_INPUT,
                     "%" PRId64 " × %" PRId64 " values from row %" PRId64 ", column %" PRId64
                     " of %" PRId64 " × %" PRId64,
                     rows, cols, e->first_row, e->first_col, all[0], all[1]);
done:
    return st;
}

void ml_state_cut_name(char *name)
{
    char *end = strchr(name, '@');
    if (end) *end = '\0';
}

/* Where a rank's rows [start, start + count), which lie at `local` in its buffer, meet those of
 * the extent, copies the columns that both have. */
static void take_rows(const ml_state_extent *e, const ml_parameters *p, int64_t start,
                      int64_t count, const float *values, int64_t local)
{
    const ml_parameter *item = &p->items[e->tensor];
    const ml_shard *shard = &item->shard;
    int64_t col = shard->dim == ML_SHARD_COLS ? shard->part[0].start : 0,
            cols = ml_shard_cols(shard, item->cols);
    int64_t top = ml_max(start, e->first_row),
            bottom = ml_min(start + count, e->first_row + e->rows);
    int64_t left = ml_max(col, e->first_col), right = ml_min(col + cols, e->first_col + e->cols);
    for (int64_t row = top; row < bottom && left < right; row++)
        ml_parameters_put(
            p, ml_state_buffer(p, (int)e->kind), local + (row - start) * cols + left - col,
            values + (row - e->first_row) * e->cols + left - e->first_col, right - left);
}

static void take_extent(const ml_state_extent *e, const ml_parameters *p, const float *values)
{
    const ml_parameter *item = &p->items[e->tensor];
    const ml_shard *shard = &item->shard;
    if (shard->dim != ML_SHARD_ROWS) {
        take_rows(e, p, 0, item->rows, values, item->offset);
        return;
    }
    for (int64_t i = 0, local = item->offset; i < shard->nparts;
         local += shard->part[i].count * item->cols, i++)
        take_rows(e, p, shard->part[i].start, shard->part[i].count, values, local);
}

/* ---- blocks: sent by world rank 0, taken by all --------------------------------------------- */

/* Room for the largest block, and for a piece of what lies between the tensors. */
static int64_t block_bytes(const ml_parameters *p)
{
    return ml_max(ml_state_block_floats(p) * (int64_t)sizeof(float), ML_SHA256_PIECE);
}

/* The extent goes before its values; tensor −1: no more of them. */
static void announce(const load *s, ml_state_extent *e)
{
    ml_grid_broadcast(s->grid, ML_GROUP_WORLD, 0, e, (int64_t)sizeof *e);
}

/* The block is in s->block of world rank 0. The hashes vouch for files that our own save wrote, so
 * counting values is enough to miss none. */
static void hand_out(load *s, const ml_state_extent *e)
{
    ml_grid_broadcast(s->grid, ML_GROUP_WORLD, 0, s->block,
                      e->rows * e->cols * (int64_t)sizeof(float));
    s->covered[e->tensor * ML_STATE_KINDS + e->kind] += e->rows * e->cols;
    take_extent(e, s->p, s->block);
}

static void receive_blocks(load *s)
{
    ml_state_extent e;
    for (announce(s, &e); e.tensor >= 0; announce(s, &e)) hand_out(s, &e);
}

/* ---- where the tensors of a file lie ------------------------------------------------------- */

static int64_t find_tensor(const ml_parameters *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name)) return i;
    return -1;
}

static ml_status note_dataset(load *s, hid_t group, int64_t kind, char *name)
{
    ml_status st = ML_OK;
    hid_t dataset = -1;
    int64_t rows, cols, all[2];
    place found = {.extent.kind = kind};
    ML_TRY(ml_image_get_matrix(group, name, &rows, &cols, &dataset));
    ml_state_cut_name(name);
    found.extent.tensor = find_tensor(s->p, name);
    if (found.extent.tensor < 0) {
        st = ml_fail(ML_INPUT, "this run does not train it, the checkpoint has it");
        goto done;
    }
    ML_TRY(ml_state_extent_read(dataset, rows, cols, &found.extent, all));
    const ml_parameter *item = &s->p->items[found.extent.tensor];
    if (all[0] != item->rows || all[1] != item->cols) {
        st = ml_fail(ML_INPUT,
                     "the checkpoint has %" PRId64 " × %" PRId64 ", this run has %" PRId64
                     " × %" PRId64,
                     all[0], all[1], item->rows, item->cols);
        goto done;
    }
    ML_TRY(ml_image_get_place(dataset, s->bytes, &found.offset));
    ML_GROW(s->places, s->count, s->capacity, ML_MEM_OTHER, "the places of a checkpoint's tensors");
    s->places[s->count++] = found;
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status note_group(load *s, hid_t file, int64_t kind)
{
    ml_status st = ML_OK;
    int64_t links;
    char name[sizeof s->p->items->name + 32];
    hid_t group = -1;
    ML_TRY(ml_image_get_group(file, ml_state_kind[kind], &group));
    ML_TRY(ml_image_links(group, &links));
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(group, i, name, sizeof name));
        st = note_dataset(s, group, kind, name);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s/%s", ml_state_kind[kind], name);
            goto done;
        }
    }
done:
    if (group >= 0) H5Gclose(group);
    return st;
}

static int by_offset(const void *a, const void *b)
{
    const place *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static ml_status find_places(load *s)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    ML_TRY(ml_image_open_file(&image, s->path, s->fd));
    for (int64_t kind = 0; kind < ML_STATE_KINDS; kind++) {
        st = note_group(s, ml_image_file(image), kind);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s", s->path);
            goto done;
        }
    }
    if (s->count > 0) qsort(s->places, (size_t)s->count, sizeof *s->places, by_offset);
done:
    ml_image_destroy(image);
    return st;
}

/* ---- a file, from its first byte to its last ----------------------------------------------- */

static ml_status read_on(load *s, int64_t *at, int64_t bytes)
{
    ml_status st = ml_file_read(s->fd, s->path, s->block, bytes, *at);
    if (st == ML_OK) ml_sha256_add(s->hash, s->block, (size_t)bytes);
    *at += bytes;
    return st;
}

/* What HDF5 has between the tensors. */
static ml_status pass_over(load *s, int64_t *at, int64_t to)
{
    ml_status st = ML_OK;
    while (*at < to) ML_TRY(read_on(s, at, ml_min(to - *at, ML_SHA256_PIECE)));
done:
    return st;
}

static ml_status send_tensor(load *s, const place *from, int64_t *at)
{
    ml_status st = ML_OK;
    ml_state_extent e = from->extent;
    /* As many rows as the block has room for of whole ones, also where columns are divided. */
    const ml_parameter *item = &s->p->items[e.tensor];
    int64_t end = e.first_row + e.rows, most = ml_state_block_rows(item->rows, item->cols);
    if (from->offset < *at)
        return ml_fail(ML_INPUT, "%s: its tensors lie one over the other", s->path);
    ML_TRY(pass_over(s, at, from->offset));
    for (; e.first_row < end; e.first_row += most) {
        e.rows = ml_min(most, end - e.first_row);
        ML_TRY(read_on(s, at, e.rows * e.cols * (int64_t)sizeof(float)));
        announce(s, &e);
        hand_out(s, &e);
    }
done:
    return st;
}

static ml_status open_file(load *s, int64_t step, const ml_manifest_file *file)
{
    ml_status st = ML_OK;
    ML_TRY(ml_step_path(s->run, step, file->name, s->path));
    ML_TRY(ml_open_regular(s->path, &s->fd, &s->bytes));
    ML_TRY(find_places(s));
    ML_TRY(ml_sha256_create(&s->hash));
done:
    return st;
}

static void close_file(load *s)
{
    ml_sha256_destroy(s->hash);
    s->hash = NULL;
    if (s->fd >= 0) (void)close(s->fd);
    s->fd = -1;
    s->count = 0;
}

static ml_status send_file(load *s, int64_t step, const ml_manifest_file *file)
{
    ml_status st = ML_OK;
    char found[ML_SHA256_HEX];
    int64_t at = 0;
    ML_TRY(open_file(s, step, file));
    for (int64_t i = 0; i < s->count; i++) ML_TRY(send_tensor(s, &s->places[i], &at));
    ML_TRY(pass_over(s, &at, s->bytes));
    ml_sha256_finish(s->hash, found);
    s->hash = NULL;
    if (strcmp(found, file->sha256) != 0)
        st = ml_fail(ML_INPUT, "%s: has changed since its SHA-256 was checked", s->path);
done:
    close_file(s);
    return st;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static ml_status send_files(load *s)
{
    ml_status st = ML_OK;
    const json_t *manifest = s->run->chosen;
    if (!manifest)
        return ml_fail(ML_INTERNAL, "ml_checkpoint_load before ml_checkpoint_find found anything");
    int64_t step = json_integer_value(json_object_get(manifest, "step"));
    for (int64_t i = 0; i < ml_manifest_files(manifest); i++) {
        const ml_manifest_file file = ml_manifest_file_at(manifest, i);
        ML_TRY(send_file(s, step, &file));
    }
done:
    return st;
}

static ml_status make_room(load *s)
{
    ml_status st = ML_OK;
    ML_NEW(s->block, block_bytes(s->p) / (int64_t)sizeof *s->block, ML_MEM_OTHER,
           "a checkpoint's block");
    ML_NEW(s->covered, s->p->count * ML_STATE_KINDS, ML_MEM_OTHER, "values read");
done:
    return st;
}

int64_t ml_checkpoint_load_memory(const ml_parameters *p, bool reader)
{
    int64_t tensors = p->count * ML_STATE_KINDS;
    return block_bytes(p) + tensors * (int64_t)(sizeof(int64_t) + (reader ? sizeof(place) : 0));
}

static ml_status check_complete(const load *s)
{
    for (int64_t i = 0; i < s->p->count; i++) {
        const ml_parameter *item = &s->p->items[i];
        for (int kind = 0; kind < ML_STATE_KINDS; kind++) {
            int64_t found = s->covered[i * ML_STATE_KINDS + kind];
            if (found != item->rows * item->cols)
                return ml_fail(ML_INPUT,
                               "%s/%s: the checkpoint has %" PRId64 " of %" PRId64 " values",
                               ml_state_kind[kind], item->name, found, item->rows * item->cols);
        }
    }
    return ML_OK;
}

static ml_status choose_here(ml_run_directory *run, int64_t step)
{
    json_t *manifest = NULL;
    bool bad;
    ml_status st = ml_step_check(run, step, &manifest, &bad);
    if (st != ML_OK) return st;
    json_decref(run->chosen);
    run->chosen = manifest;
    return ML_OK;
}

ml_status ml_checkpoint_choose(ml_run_directory *run, const ml_grid *grid, int64_t step)
{
    return ml_grid_agree(grid, ml_grid_rank(grid) == 0 ? choose_here(run, step) : ML_OK);
}

ml_status ml_checkpoint_load(ml_run_directory *run, const ml_grid *grid, ml_parameters *parameters)
{
    ml_status st = ML_OK;
    load s = {.run = run, .grid = grid, .p = parameters, .fd = -1};
    ml_state_extent end = {.tensor = -1};
    ML_TRY(ml_grid_agree(grid, make_room(&s)));
    if (ml_grid_rank(grid) == 0) {
        st = send_files(&s);
        announce(&s, &end); /* also after a fault: the others wait for it */
    } else {
        receive_blocks(&s);
    }
    ML_TRY(ml_grid_agree(grid, st));
    ML_TRY(check_complete(&s)); /* all ranks have counted the same */
done:
    ml_memory_free(s.places);
    ml_memory_free(s.block);
    ml_memory_free(s.covered);
    return st;
}
