/* Saving: tensors gathered block by block to world rank 0, which makes images of files of them one after the other; the rest is writing.c's. */
#include <inttypes.h>

#include "store/writing.h"

/* At most so many bytes of tensors in one file. An adapter's state is one file where it fits. */
static const int64_t file_bytes_full = (int64_t)512 << 20, file_bytes_adapter = (int64_t)1000 << 20;
enum { DATASET_OVERHEAD = 1024, FILE_OVERHEAD = 64 << 10 };

/* ---- which rows of which tensor go into which file: the same walk on every rank ---------------------------------------------------- */

typedef struct walk {
    const ml_parameters *p;
    int64_t limit, used; /* of the current file */
    int64_t tensor, row;
    int kind;
} walk;

typedef struct extent {
    int64_t tensor, first, rows;
    int kind;
    bool opens_file;
} extent;

static bool next_extent(walk *w, extent *e)
{
    if (w->tensor == w->p->count) return false;
    const ml_parameter *item = &w->p->items[w->tensor];
    int64_t row_bytes = item->cols * (int64_t)sizeof(float), left = item->rows - w->row;
    int64_t fit = (w->limit - w->used) / row_bytes;
    bool opens = w->used == 0 || fit == 0 || (fit < left && item->rows * row_bytes <= w->limit); /* a tensor is cut only where it must be */
    if (opens) {
        w->used = 0;
        fit = ml_max(1, w->limit / row_bytes);
    }
    *e = (extent){w->tensor, w->row, ml_min(left, fit), w->kind, opens};
    w->used += e->rows * row_bytes;
    w->row += e->rows;
    if (w->row == item->rows) {
        w->row = 0;
        w->kind = (w->kind + 1) % ML_STATE_KINDS;
        if (w->kind == 0) w->tensor++;
    }
    return true;
}

static int64_t total_bytes(const ml_parameters *p)
{
    int64_t floats = 0;
    for (int64_t i = 0; i < p->count; i++) floats += p->items[i].rows * p->items[i].cols;
    return ML_STATE_KINDS * floats * (int64_t)sizeof(float);
}

static bool is_numbered(const ml_parameters *p, bool full) { return full || total_bytes(p) > file_bytes_adapter; }

/* `file_bytes` 0: the limit above. */
static walk start_walk(const ml_parameters *p, bool full, int64_t file_bytes)
{
    return (walk){.p = p, .limit = file_bytes ? file_bytes : is_numbered(p, full) ? file_bytes_full : file_bytes_adapter};
}

/* Bytes of the file that begins with the next extent. */
static int64_t image_bytes(walk w)
{
    extent e;
    int64_t bytes = FILE_OVERHEAD;
    for (bool first = true; next_extent(&w, &e) && (first || !e.opens_file); first = false)
        bytes += e.rows * w.p->items[e.tensor].cols * (int64_t)sizeof(float) + DATASET_OVERHEAD;
    return bytes;
}

int64_t ml_checkpoint_bytes(int64_t global) { return ML_STATE_KINDS * (int64_t)sizeof(float) * global; }

int64_t ml_checkpoint_memory(const ml_parameters *p, bool full)
{
    int64_t largest = 0;
    extent e;
    for (walk w = start_walk(p, full, 0), before = w; next_extent(&w, &e); before = w)
        if (e.opens_file) largest = ml_max(largest, image_bytes(before));
    return ml_round_up(largest, ML_IMAGE_STEP) + ml_max(2 * ml_block_floats(p) * (int64_t)sizeof(float), ML_SHA256_PIECE);
}

/* ---- one save ------------------------------------------------------------------------------------------------------------------------ */

typedef struct save {
    ml_run_directory *run;
    const ml_grid *grid;
    const ml_parameters *p;
    const ml_checkpoint_state *state;
    float *whole, *part; /* world rank 0: two blocks */
    ml_image *image;     /* world rank 0: the file in work */
    hid_t dataset;
    ml_writing *writing; /* world rank 0 */
} save;

typedef struct part_header {
    ml_shard shard;
    int64_t count;
} part_header;

/* Rows [first, first + rows) of a tensor into s->whole on world rank 0, from the ranks of dp replica 0. */
static void gather_block(save *s, const ml_parameter *item, const float *buffer, int64_t first, int64_t rows)
{
    int tp = ml_grid_tp(s->grid);
    bool alone = item->shard.dim == ML_SHARD_WHOLE || tp == 1;
    if (ml_grid_dp_rank(s->grid) != 0 || (alone && ml_grid_rank(s->grid) != 0)) return;
    part_header mine;
    int64_t from = ml_block_shard(&item->shard, first, rows, item->cols, &mine.shard);
    const float *data = buffer + item->offset + from;
    mine.count = ml_shard_rows(&mine.shard, rows) * ml_shard_cols(&mine.shard, item->cols);
    if (ml_grid_rank(s->grid) != 0) {
        ml_grid_send(s->grid, 0, &mine, (int64_t)sizeof mine);
        ml_grid_send(s->grid, 0, data, mine.count * (int64_t)sizeof *data);
        return;
    }
    ml_shard_put(&mine.shard, rows, item->cols, data, s->whole);
    for (int rank = 1; !alone && rank < tp; rank++) {
        part_header theirs;
        ml_grid_receive(s->grid, rank, &theirs, (int64_t)sizeof theirs);
        ml_grid_receive(s->grid, rank, s->part, theirs.count * (int64_t)sizeof *s->part);
        ml_shard_put(&theirs.shard, rows, item->cols, s->part, s->whole);
    }
}

static ml_status describe_file(const save *s)
{
    ml_status st = ML_OK;
    hid_t file = ml_image_file(s->image), identity = -1;
    const ml_checkpoint_progress *progress = &s->state->progress;
    ML_TRY(ml_image_put_text(file, "format", "mpilora state"));
    ML_TRY(ml_image_put_int(file, "schema", 1));
    ML_TRY(ml_image_put_int(file, "step", progress->step));
    ML_TRY(ml_image_put_int(file, "cursor", progress->cursor));
    ML_TRY(ml_image_put_int(file, "tokens", progress->tokens));
    ML_TRY(ml_image_put_long_text(file, "configuration", s->state->configuration));
    ML_TRY(ml_image_make_group(file, "identity"));
    identity = H5Gopen2(file, "identity", H5P_DEFAULT);
    for (int64_t i = 0; i < s->state->identities; i++)
        ML_TRY(ml_image_put_text(identity, s->state->identity[i].key, s->state->identity[i].value));
    for (int kind = 0; kind < ML_STATE_KINDS; kind++) ML_TRY(ml_image_make_group(file, ml_state_kind[kind]));
done:
    H5Gclose(identity);
    return st;
}

static ml_status open_file(save *s, int64_t bytes)
{
    ml_status st = ML_OK;
    ML_TRY(ml_image_create(&s->image, bytes + (int64_t)strlen(s->state->configuration), 0));
    ML_TRY(describe_file(s));
done:
    return st;
}

static ml_status close_file(save *s)
{
    ml_status st = ML_OK;
    char name[32], *bytes;
    int64_t count;
    if (!s->image) return ML_OK;
    if (!is_numbered(s->p, s->state->full)) {
        st = ml_writing_hold(s->writing, "state.h5", s->image);
        s->image = NULL;
        return st;
    }
    snprintf(name, sizeof name, "state-%04" PRId64 ".h5", ml_writing_files(s->writing));
    ML_TRY(ml_image_finish(s->image, &bytes, &count));
    ML_TRY(ml_writing_file(s->writing, name, bytes, count));
done:
    ml_image_destroy(s->image);
    s->image = NULL;
    return st;
}

static ml_status open_dataset(save *s, const extent *e)
{
    ml_status st = ML_OK;
    const ml_parameter *item = &s->p->items[e->tensor];
    char name[sizeof item->name + 16];
    snprintf(name, sizeof name, "%s/%s", ml_state_kind[e->kind], item->name);
    ML_TRY(ml_image_make_matrix(ml_image_file(s->image), name, e->rows, item->cols, &s->dataset));
    ML_TRY(ml_image_put_int(s->dataset, "first_row", e->first));
    ML_TRY(ml_image_put_int(s->dataset, "rows", item->rows));
done:
    return st;
}

/* Every rank goes through all blocks, also where world rank 0 has failed: nobody may wait for a message that never comes. */
static ml_status save_extent(save *s, const extent *e, ml_status st)
{
    const ml_parameter *item = &s->p->items[e->tensor];
    bool writer = ml_grid_rank(s->grid) == 0;
    s->dataset = -1;
    if (writer && st == ML_OK) st = open_dataset(s, e);
    int64_t step = ml_block_rows(item->rows, item->cols);
    for (int64_t done = 0; done < e->rows; done += step) {
        int64_t rows = ml_min(step, e->rows - done);
        gather_block(s, item, ml_state_buffer(s->p, e->kind), e->first + done, rows);
        if (writer && st == ML_OK) st = ml_image_put_rows(s->dataset, done, rows, item->cols, s->whole);
    }
    if (s->dataset >= 0) H5Dclose(s->dataset);
    return st;
}

static ml_status save_tensors(save *s)
{
    ml_status st = ML_OK;
    extent e;
    bool writer = ml_grid_rank(s->grid) == 0;
    for (walk w = start_walk(s->p, s->state->full, s->state->file_bytes), before = w; next_extent(&w, &e); before = w) {
        if (e.opens_file) {
            if (writer && st == ML_OK) st = close_file(s);
            if (writer && st == ML_OK) st = open_file(s, image_bytes(before));
            st = ml_grid_agree(s->grid, st);
            if (st != ML_OK) return st;
        }
        st = save_extent(s, &e, st);
    }
    if (writer && st == ML_OK) st = close_file(s);
    return ml_grid_agree(s->grid, st);
}

/* ---- a save, from begin to settle -------------------------------------------------------------------------------------------------- */

static ml_status make_room(save *s)
{
    ml_status st = ML_OK;
    int64_t floats = ml_block_floats(s->p);
    ML_NEW(s->whole, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
    ML_NEW(s->part, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
done:
    return st;
}

static ml_status prepare(save *s, int64_t keep, bool *committed)
{
    ml_status st = ML_OK;
    ML_TRY(ml_writing_create(&s->writing, s->run, s->state, keep));
    *committed = ml_writing_is_committed(s->writing);
    if (!*committed) ML_TRY(make_room(s));
done:
    return st;
}

/* Files that are not held in memory are written already: a state beyond one file would be held as a whole. Then nothing is left to do beside training but
 * the manifest. */
ml_status ml_checkpoint_begin(ml_run_directory *run, const ml_grid *grid, const ml_parameters *parameters, const ml_checkpoint_state *state,
                              int64_t keep, bool beside)
{
    ml_status st = ML_OK;
    double since = ml_seconds();
    bool committed = false;
    save s = {.run = run, .grid = grid, .p = parameters, .state = state};
    bool writer = ml_grid_rank(grid) == 0;
    if (run->saving) return ml_fail(ML_INTERNAL, "a save was begun before the one before it was settled");
    ML_TRY(ml_grid_agree(grid, writer ? prepare(&s, keep, &committed) : ML_OK));
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &committed, (int64_t)sizeof committed);
    if (!committed) ML_TRY(save_tensors(&s));
    run->saving = true;
    run->writing = s.writing;
    if (writer) ml_writing_start(s.writing, beside && !committed && !is_numbered(parameters, state->full));
    s.writing = NULL;
    run->waited = ml_seconds() - since;
done:
    ml_image_destroy(s.image);
    if (s.writing) st = ml_writing_end(s.writing, st, NULL);
    ml_memory_free(s.whole);
    ml_memory_free(s.part);
    return st;
}

bool ml_checkpoint_has_ended(const ml_run_directory *run) { return run->writing && ml_writing_has_ended(run->writing); }

ml_status ml_checkpoint_settle(ml_run_directory *run, const ml_grid *grid, ml_checkpoint_report *report)
{
    ml_status st = ML_OK;
    double since = ml_seconds();
    ml_checkpoint_report own = {0};
    if (report) *report = own;
    if (!run->saving) return ML_OK;
    if (run->writing) st = ml_writing_end(run->writing, ML_OK, &own);
    run->writing = NULL;
    run->saving = false;
    st = ml_grid_agree(grid, st);
    if (st != ML_OK) return st;
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &own, (int64_t)sizeof own);
    own.waited = run->waited + ml_seconds() - since;
    if (report) *report = own;
    return ML_OK;
}

ml_status ml_checkpoint_save(ml_run_directory *run, const ml_grid *grid, const ml_parameters *parameters, const ml_checkpoint_state *state,
                             int64_t keep, ml_checkpoint_report *report)
{
    ml_status st = ml_checkpoint_begin(run, grid, parameters, state, keep, false);
    return st == ML_OK ? ml_checkpoint_settle(run, grid, report) : st;
}
