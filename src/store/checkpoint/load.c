/* Loading: the first ranks of the world read and hash files, each another one at the same time;
 * then one after the other sends the blocks of its file to all, and each rank takes its part.
 * Every file is read once. */
#include <inttypes.h>

#include "store/checkpoint/state_file.h"

static const int64_t largest_file = (int64_t)4 << 30, read_together = (int64_t)1 << 30;

/* What world rank 0 knows of the checkpoint. */
typedef struct plan {
    int64_t step, files, readers;
} plan;

typedef struct load {
    ml_run_directory *run;
    const ml_grid *grid;
    ml_parameters *p;
    plan plan;
    ml_manifest_file *file; /* [plan.files] */
    float *block;
    int64_t *covered; /* values read so far, [tensor][kind] */
    char path[ML_DURABLE_PATH];
    char *bytes; /* this rank's file in work */
    int64_t count;
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

/* ---- blocks: sent by one rank, taken by all ------------------------------------------------ */

/* The extent goes before its values; tensor −1: no more of this file. */
static void announce(const load *s, int from, ml_state_extent *e)
{
    ml_grid_broadcast(s->grid, ML_GROUP_WORLD, from, e, (int64_t)sizeof *e);
}

/* The block is in s->block of rank `from`. The hashes vouch for files that our own save wrote, so
 * counting values is enough to miss none. */
static void hand_out(load *s, int from, const ml_state_extent *e)
{
    ml_grid_broadcast(s->grid, ML_GROUP_WORLD, from, s->block,
                      e->rows * e->cols * (int64_t)sizeof(float));
    s->covered[e->tensor * ML_STATE_KINDS + e->kind] += e->rows * e->cols;
    take_extent(e, s->p, s->block);
}

static void receive_blocks(load *s, int from)
{
    ml_state_extent e;
    for (announce(s, from, &e); e.tensor >= 0; announce(s, from, &e)) hand_out(s, from, &e);
}

/* ---- a reader's file ----------------------------------------------------------------------- */

static int64_t find_tensor(const ml_parameters *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name)) return i;
    return -1;
}

static ml_status send_rows(load *s, const ml_state_extent *whole, hid_t dataset)
{
    ml_status st = ML_OK;
    const ml_parameter *item = &s->p->items[whole->tensor];
    int64_t most = ml_state_block_rows(item->rows, item->cols);
    for (int64_t at = 0; at < whole->rows; at += most) {
        ml_state_extent e = *whole;
        e.first_row += at;
        e.rows = ml_min(most, whole->rows - at);
        ML_TRY(ml_image_get_rows(dataset, at, e.rows, e.cols, s->block));
        announce(s, ml_grid_rank(s->grid), &e);
        hand_out(s, ml_grid_rank(s->grid), &e);
    }
done:
    return st;
}

static ml_status send_dataset(load *s, hid_t group, int64_t kind, char *name)
{
    ml_status st = ML_OK;
    hid_t dataset = -1;
    int64_t rows, cols, all[2];
    ml_state_extent e = {.kind = kind};
    ML_TRY(ml_image_get_matrix(group, name, &rows, &cols, &dataset));
    ml_state_cut_name(name);
    e.tensor = find_tensor(s->p, name);
    if (e.tensor < 0) {
        st = ml_fail(ML_INPUT, "this run does not train it, the checkpoint has it");
        goto done;
    }
    ML_TRY(ml_state_extent_read(dataset, rows, cols, &e, all));
    const ml_parameter *item = &s->p->items[e.tensor];
    if (all[0] != item->rows || all[1] != item->cols) {
        st = ml_fail(ML_INPUT,
                     "the checkpoint has %" PRId64 " × %" PRId64 ", this run has %" PRId64
                     " × %" PRId64,
                     all[0], all[1], item->rows, item->cols);
        goto done;
    }
    ML_TRY(send_rows(s, &e, dataset));
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status send_group(load *s, hid_t file, int64_t kind)
{
    ml_status st = ML_OK;
    int64_t links;
    char name[sizeof s->p->items->name + 32];
    hid_t group = -1;
    ML_TRY(ml_image_get_group(file, ml_state_kind[kind], &group));
    ML_TRY(ml_image_links(group, &links));
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(group, i, name, sizeof name));
        st = send_dataset(s, group, kind, name);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s/%s", ml_state_kind[kind], name);
            goto done;
        }
    }
done:
    if (group >= 0) H5Gclose(group);
    return st;
}

/* The file that read_file has in memory. */
static ml_status send_file(load *s)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    ml_state_extent end = {.tensor = -1};
    ML_TRY(ml_image_open(&image, s->path, s->bytes, s->count));
    for (int64_t kind = 0; kind < ML_STATE_KINDS; kind++) {
        st = send_group(s, ml_image_file(image), kind);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s", s->path);
            goto done;
        }
    }
done:
    ml_image_destroy(image);
    announce(s, ml_grid_rank(s->grid), &end); /* also after a fault: the others wait for it */
    return st;
}

static ml_status read_file(load *s, const ml_manifest_file *file)
{
    ml_status st = ML_OK;
    char hash[ML_SHA256_HEX];
    ML_TRY(ml_step_path(s->run, s->plan.step, file->name, s->path));
    ML_TRY(ml_durable_read(s->path, largest_file, &s->bytes, &s->count));
    ml_sha256_of(s->bytes, (size_t)s->count, hash);
    if (strcmp(hash, file->sha256) != 0)
        st = ml_fail(ML_INPUT, "%s: has changed since its SHA-256 was checked", s->path);
done:
    return st;
}

/* One file for each reader, from file `first` on. */
static ml_status load_round(load *s, int64_t first)
{
    ml_status st = ML_OK;
    int64_t rank = ml_grid_rank(s->grid), files = ml_min(s->plan.readers, s->plan.files - first);
    ML_TRY(ml_grid_agree(s->grid, rank < files ? read_file(s, &s->file[first + rank]) : ML_OK));
    for (int reader = 0; reader < files; reader++) {
        if (rank == reader)
            st = send_file(s);
        else
            receive_blocks(s, reader);
    }
    ML_TRY(ml_grid_agree(s->grid, st));
done:
    ml_memory_free(s->bytes);
    s->bytes = NULL;
    return st;
}

/* ---- all of it ----------------------------------------------------------------------------- */

/* As many readers as there are tp ranks, which all may lie on one node: their files together stay
 * below a bound. */
static ml_status make_plan(load *s)
{
    int64_t largest = 1;
    const json_t *manifest = s->run->chosen;
    if (!manifest)
        return ml_fail(ML_INTERNAL, "ml_checkpoint_load before ml_checkpoint_find found anything");
    s->plan.step = json_integer_value(json_object_get(manifest, "step"));
    s->plan.files = ml_manifest_files(manifest);
    for (int64_t i = 0; i < s->plan.files; i++)
        largest = ml_max(largest, ml_manifest_file_at(manifest, i).bytes);
    s->plan.readers = ml_max(1, ml_min(ml_grid_tp(s->grid), read_together / largest));
    return ML_OK;
}

static ml_status make_room(load *s)
{
    ml_status st = ML_OK;
    ML_NEW(s->file, s->plan.files, ML_MEM_OTHER, "the files of a checkpoint");
    ML_NEW(s->block, ml_state_block_floats(s->p), ML_MEM_OTHER, "a checkpoint's block");
    ML_NEW(s->covered, s->p->count * ML_STATE_KINDS, ML_MEM_OTHER, "values read");
done:
    return st;
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
    load s = {.run = run, .grid = grid, .p = parameters};
    bool first = ml_grid_rank(grid) == 0;
    ML_TRY(ml_grid_agree(grid, first ? make_plan(&s) : ML_OK));
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &s.plan, (int64_t)sizeof s.plan);
    ML_TRY(ml_grid_agree(grid, make_room(&s)));
    for (int64_t i = 0; first && i < s.plan.files; i++)
        s.file[i] = ml_manifest_file_at(run->chosen, i);
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, s.file, s.plan.files * (int64_t)sizeof *s.file);
    for (int64_t i = 0; i < s.plan.files; i += s.plan.readers) ML_TRY(load_round(&s, i));
    ML_TRY(check_complete(&s)); /* all ranks have counted the same */
done:
    ml_memory_free(s.file);
    ml_memory_free(s.block);
    ml_memory_free(s.covered);
    return st;
}
