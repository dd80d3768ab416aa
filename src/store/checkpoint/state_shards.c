/* A state that is too large for one file (method full), written at once: each tp rank of dp replica
 * 0, of each stage, writes its own shards, straight from where they are, file by file. What several
 * ranks hold, the first of them writes; moments that are divided over the replicas come from them.
 * The k-th file of tp rank t of stage s is number (k·pp + s)·tp + t, so that nobody has to ask for
 * a number. */
#include <inttypes.h>

#include "store/checkpoint/state_file.h"

/* ---- which part of which tensor comes next ------------------------------------------------- */

/* Goes through the parts of the tensors that a rank holds, in the order of its files. */
typedef struct extent_walk {
    const ml_parameters *p;
    bool replicated;                 /* with the tensors that every tp rank holds: on the first */
    int64_t limit, used;             /* bytes of the current file */
    int64_t tensor, kind, part, row; /* row: of the part */
    int64_t local;                   /* rows of the local tensor before the part */
} extent_walk;

/* What several ranks of tp, or both ends of a pipe, hold, the first of them writes. */
static bool is_written_here(const extent_walk *w)
{
    const ml_parameter *item = &w->p->items[w->tensor];
    const ml_shard *shard = &item->shard;
    if (item->stage != w->p->stage) return false;
    if (shard->dim == ML_SHARD_WHOLE) return w->replicated;
    return !(shard->spare && shard->copied >> w->part & 1U);
}

/* The part-th range that the rank holds: global rows and columns, nothing where it holds none. */
static ml_state_extent part_of(const extent_walk *w)
{
    const ml_parameter *item = &w->p->items[w->tensor];
    const ml_shard *shard = &item->shard;
    ml_state_extent e = {w->tensor, w->kind, 0, item->rows, 0, item->cols};
    if (shard->dim == ML_SHARD_ROWS) {
        e.first_row = shard->part[w->part].start;
        e.rows = shard->part[w->part].count;
    } else if (shard->dim == ML_SHARD_COLS) {
        e.first_col = shard->part[0].start;
        e.cols = shard->part[0].count;
    }
    if (e.cols == 0) e.rows = 0;
    return e;
}

static int64_t parts_of(const ml_parameter *item)
{
    return item->shard.dim == ML_SHARD_ROWS ? item->shard.nparts : 1;
}

/* To the next part, kind, tensor. */
static void go_on(extent_walk *w, int64_t rows)
{
    w->row = 0;
    w->local += rows;
    if (++w->part < parts_of(&w->p->items[w->tensor])) return;
    w->part = w->local = 0;
    w->kind = (w->kind + 1) % ML_STATE_KINDS;
    if (w->kind == 0) w->tensor++;
}

/* The next one, where it lies in the rank's buffer of its kind (in floats), and whether it begins
 * a file. False: no more. */
static bool next_extent(extent_walk *w, ml_state_extent *out, int64_t *offset, bool *opens_file)
{
    ml_state_extent part;
    for (;; go_on(w, part.rows)) {
        if (w->tensor == w->p->count) return false;
        part = part_of(w);
        if (part.rows > 0 && is_written_here(w)) break;
    }
    int64_t row_bytes = part.cols * (int64_t)sizeof(float), left = part.rows - w->row,
            fit = (w->limit - w->used) / row_bytes;
    bool fits_alone = part.rows * row_bytes <= w->limit; /* a part is cut only where it must be */
    *opens_file = w->used == 0 || fit <= 0 || (fit < left && fits_alone);
    if (*opens_file) {
        w->used = 0;
        fit = ml_max(1, w->limit / row_bytes);
    }
    *out = part;
    out->first_row += w->row;
    out->rows = ml_min(left, fit);
    *offset = w->p->items[w->tensor].offset + (w->local + w->row) * part.cols;
    w->used += out->rows * row_bytes;
    w->row += out->rows;
    if (w->row == part.rows) go_on(w, part.rows);
    return true;
}

/* Bytes of the image of the file that begins with the next extent. */
static int64_t file_bytes(extent_walk walk)
{
    ml_state_extent e;
    enum { DATASET_OVERHEAD = 1536 };
    int64_t offset, bytes = ML_STATE_OVERHEAD;
    bool opens;
    for (bool first = true; next_extent(&walk, &e, &offset, &opens) && (first || !opens);
         first = false)
        bytes += e.rows * e.cols * (int64_t)sizeof(float) + DATASET_OVERHEAD;
    return bytes;
}

/* The caller closes the dataset. */
static ml_status make_dataset(const ml_image *image, const ml_parameters *p,
                              const ml_state_extent *e, hid_t *dataset)
{
    ml_status st = ML_OK;
    const ml_parameter *item = &p->items[e->tensor];
    char name[sizeof item->name + 48];
    int length = snprintf(name, sizeof name, "%s/%s", ml_state_kind[e->kind], item->name);
    if (parts_of(item) > 1 && e->first_row > 0) /* the file may have another part of it */
        snprintf(name + length, sizeof name - (size_t)length, "@%" PRId64, e->first_row);
    ML_TRY(ml_image_make_matrix(ml_image_file(image), name, e->rows, e->cols, dataset));
    ML_TRY(ml_image_put_int(*dataset, "first_row", e->first_row));
    ML_TRY(ml_image_put_int(*dataset, "rows", item->rows));
    ML_TRY(ml_image_put_int(*dataset, "first_col", e->first_col));
    ML_TRY(ml_image_put_int(*dataset, "cols", item->cols));
done:
    return st;
}

/* ---- files --------------------------------------------------------------------------------- */

/* Bytes of tensors in one file, whose image a writer holds beside its state: a small part of what
 * it writes, as long as that is no clutter of little files; and the writers of one node, which may
 * be all of them, hold at most 1 GiB of images together. */
static int64_t usual_limit(const ml_parameters *p, int tp)
{
    enum { FILES = 32 };
    static const int64_t together = (int64_t)1 << 30, little = 8 << 20, least = 1 << 20;
    int64_t part = ml_round_up(ml_checkpoint_bytes(p->local) / FILES, ML_IMAGE_STEP);
    return ml_max(least, ml_min(ml_max(little, part), together / ml_max(2, tp)));
}

int64_t ml_state_shards_memory(const ml_parameters *p, int tp, int tp_rank)
{
    int64_t largest = 0, offset;
    ml_state_extent e;
    bool opens;
    extent_walk w = {.p = p, .replicated = tp_rank == 0, .limit = usual_limit(p, tp)};
    for (extent_walk before = w; next_extent(&w, &e, &offset, &opens); before = w)
        if (opens) largest = ml_max(largest, file_bytes(before));
    return largest ? ml_image_room(largest) + ML_SHA256_PIECE : 0;
}

/* What one rank writes of a large state, and for whom it assembles moments. */
typedef struct own_files {
    const ml_run_directory *run;
    const ml_grid *grid;
    const ml_parameters *p;
    const ml_checkpoint_state *state;
    ml_file_list *files;
    int64_t assembled; /* extents whose moments the replicas have sent */
} own_files;

static extent_walk start_walk(const own_files *o)
{
    int64_t limit =
        o->state->file_bytes ? o->state->file_bytes : usual_limit(o->p, ml_grid_tp(o->grid));
    return (extent_walk){.p = o->p, .replicated = ml_grid_tp_rank(o->grid) == 0, .limit = limit};
}

static const float *assemble(const own_files *o, const ml_state_extent *e, int64_t offset)
{
    return ml_parameters_assemble(o->p, o->grid, ml_state_buffer(o->p, (int)e->kind), offset,
                                  e->rows * e->cols) +
           offset;
}

static ml_status put_extent(own_files *o, const ml_image *image, const ml_state_extent *e,
                            int64_t offset)
{
    ml_status st = ML_OK;
    hid_t dataset = -1;
    const float *values = assemble(o, e, offset);
    o->assembled++;
    ML_TRY(make_dataset(image, o->p, e, &dataset));
    ML_TRY(ml_image_put_rows(dataset, 0, e->rows, e->cols, values));
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status write_image(own_files *o, ml_image *image)
{
    ml_status st = ML_OK;
    ml_manifest_file file;
    char path[ML_DURABLE_PATH], *bytes;
    int64_t number =
        (o->files->count * ml_grid_pp(o->grid) + ml_grid_stage(o->grid)) * ml_grid_tp(o->grid) +
        ml_grid_tp_rank(o->grid);
    ML_TRY(ml_image_finish(image, &bytes, &file.bytes));
    snprintf(file.name, sizeof file.name, "state-%04" PRId64 ".h5", number);
    ML_TRY(ml_step_path(o->run, o->state->progress.step, file.name, path));
    ML_TRY(ml_durable_write(path, bytes, file.bytes, file.sha256));
    ML_TRY(ml_file_list_add(o->files, &file));
done:
    return st;
}

/* The file that begins with the next extent of the walk. */
static ml_status write_file(own_files *o, extent_walk *w)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    ml_state_extent e;
    int64_t offset;
    bool opens;
    ML_TRY(ml_state_file_create(&image, o->state, file_bytes(*w)));
    for (bool first = true;; first = false) {
        extent_walk before = *w;
        if (!next_extent(w, &e, &offset, &opens)) break;
        if (opens && !first) {
            *w = before;
            break;
        }
        ML_TRY(put_extent(o, image, &e, offset));
    }
    ML_TRY(write_image(o, image));
done:
    ml_image_destroy(image);
    return st;
}

static ml_status write_own(own_files *o)
{
    ml_status st = ML_OK;
    int64_t offset;
    extent_walk w = start_walk(o), ahead = w;
    ml_state_extent e;
    bool opens;
    while (next_extent(&ahead, &e, &offset, &opens)) {
        ML_TRY(write_file(o, &w));
        ahead = w;
    }
done:
    return st;
}

/* What a replica without files does; and a writer that failed, whom the others still send
 * theirs. */
static void assemble_rest(const own_files *o)
{
    extent_walk w = start_walk(o);
    ml_state_extent e;
    int64_t offset;
    bool opens;
    for (int64_t i = 0; next_extent(&w, &e, &offset, &opens); i++)
        if (i >= o->assembled) assemble(o, &e, offset);
}

static ml_status write_or_send(own_files *o)
{
    ml_status st = ml_grid_replica(o->grid) == 0 ? write_own(o) : ML_OK;
    assemble_rest(o);
    return st;
}

/* The other writers' lists behind world rank 0's, also where it has no room for them any more. */
static ml_status collect_lists(const own_files *o)
{
    ml_status st = ML_OK;
    ml_file_list *own = o->files;
    if (ml_grid_replica(o->grid) != 0) return ML_OK;
    if (ml_grid_rank(o->grid) != 0) {
        ml_grid_send(o->grid, 0, &own->count, (int64_t)sizeof own->count);
        for (int64_t i = 0; i < own->count; i++)
            ml_grid_send(o->grid, 0, &own->file[i], (int64_t)sizeof *own->file);
        return ML_OK;
    }
    int tp = ml_grid_tp(o->grid);
    for (int part = 1; part < ml_grid_pp(o->grid) * tp; part++) {
        int64_t count;
        int rank = ml_grid_rank_at(o->grid, part / tp, 0, part % tp);
        ml_manifest_file file;
        ml_grid_receive(o->grid, rank, &count, (int64_t)sizeof count);
        for (int64_t i = 0; i < count; i++) {
            ml_grid_receive(o->grid, rank, &file, (int64_t)sizeof file);
            if (st == ML_OK) st = ml_file_list_add(own, &file);
        }
    }
    return st;
}

ml_status ml_state_files_write(const ml_run_directory *run, const ml_grid *grid,
                               const ml_parameters *p, const ml_checkpoint_state *state,
                               ml_file_list *files)
{
    own_files o = {.run = run, .grid = grid, .p = p, .state = state, .files = files};
    ml_status st = ml_grid_agree(grid, write_or_send(&o));
    return st == ML_OK ? ml_grid_agree(grid, collect_lists(&o)) : st;
}
