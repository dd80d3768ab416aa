/* Saving: tensors gathered block by block to world rank 0, which makes files of them one after the other, then the manifest. */
#include <inttypes.h>
#include <unistd.h>

#include "store/image.h"
#include "store/run_directory.h"

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
    return ml_round_up(largest, ML_IMAGE_STEP) + 2 * ml_block_floats(p) * (int64_t)sizeof(float) + ML_SHA256_PIECE;
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
    ml_manifest_file *files;
    int64_t nfiles, capacity;
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

static ml_status add_file(save *s, const char *name, int64_t bytes, const char *sha256)
{
    ml_status st = ML_OK;
    if (!s->files) {
        s->capacity = 8;
        ML_NEW(s->files, s->capacity, ML_MEM_OTHER, "the files of a checkpoint");
    } else if (s->nfiles == s->capacity) {
        ml_manifest_file *grown = ml_memory_resize(s->files, 2 * s->capacity, sizeof *grown, "the files of a checkpoint");
        if (!grown) return ML_RESOURCE;
        s->files = grown;
        s->capacity *= 2;
    }
    ml_manifest_file *file = &s->files[s->nfiles++];
    file->bytes = bytes;
    snprintf(file->name, sizeof file->name, "%s", name);
    memcpy(file->sha256, sha256, ML_SHA256_HEX);
done:
    return st;
}

static ml_status close_file(save *s)
{
    ml_status st = ML_OK;
    char name[32] = "state.h5", path[ML_DURABLE_PATH], hash[ML_SHA256_HEX];
    char *bytes;
    int64_t count;
    if (!s->image) return ML_OK;
    if (is_numbered(s->p, s->state->full)) snprintf(name, sizeof name, "state-%04" PRId64 ".h5", s->nfiles);
    ML_TRY(ml_image_finish(s->image, &bytes, &count));
    ML_TRY(ml_step_path(s->run, s->state->progress.step, name, path));
    ML_TRY(ml_durable_write(path, bytes, count, hash));
    ML_TRY(add_file(s, name, count, hash));
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

/* ---- around it: world rank 0 alone ----------------------------------------------------------------------------------------------------- */

/* A whole checkpoint of this step is kept as it is and its file list taken over; a bad one is set aside. */
static ml_status look_for_committed(save *s, bool *committed)
{
    ml_status st = ML_OK;
    int64_t step = s->state->progress.step;
    char path[ML_DURABLE_PATH];
    json_t *manifest = NULL;
    *committed = false;
    ML_TRY(ml_step_path(s->run, step, ml_manifest_name, path));
    if (!ml_durable_exists(path)) return ML_OK;
    st = ml_manifest_read(s->run, step, &manifest);
    if (st == ML_OK) st = ml_manifest_verify(s->run, step, manifest);
    if (st == ML_INPUT) {
        ml_warn("checkpoint of step %" PRId64 ": %s; set aside", step, ml_error_text());
        st = ml_step_set_aside(s->run, step, "bad");
        goto done;
    }
    for (int64_t i = 0; st == ML_OK && i < ml_manifest_files(manifest); i++) {
        ml_manifest_file file = ml_manifest_file_at(manifest, i);
        st = add_file(s, file.name, file.bytes, file.sha256);
    }
    *committed = st == ML_OK;
done:
    json_decref(manifest);
    return st;
}

static ml_status prepare(save *s, bool *committed)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH];
    ML_TRY(look_for_committed(s, committed));
    ML_TRY(ml_step_path(s->run, s->state->progress.step, "", path));
    ML_TRY(ml_durable_make_directories(path));
    if (*committed) return ML_OK;
    int64_t floats = ml_block_floats(s->p);
    ML_NEW(s->whole, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
    ML_NEW(s->part, floats, ML_MEM_OTHER, "a checkpoint's gather buffer");
done:
    return st;
}

static int64_t previous_step(const ml_run_directory *run, int64_t step)
{
    int64_t *steps = NULL, count = 0, previous = -1;
    if (ml_steps_list(run, true, &steps, &count) != ML_OK) return -1;
    for (int64_t i = 0; i < count; i++)
        if (steps[i] < step) previous = steps[i];
    ml_memory_free(steps);
    return previous;
}

static ml_status commit(save *s)
{
    ml_status st = ML_OK;
    int64_t step = s->state->progress.step;
    char path[ML_DURABLE_PATH], hint[32];
    ml_text text = {0};
    ML_TRY(ml_manifest_make(s->state, previous_step(s->run, step), s->files, s->nfiles, &text));
    ML_TRY(ml_step_path(s->run, step, ml_manifest_name, path));
    ML_TRY(ml_durable_write(path, text.data, text.length, NULL));
    ML_TRY(ml_step_remember(s->run, step));
    snprintf(hint, sizeof hint, "step-%08" PRId64 "\n", step);
    ML_TRY(ml_durable_path(path, "%s/latest", s->run->checkpoints));
    if (ml_durable_write(path, hint, (int64_t)strlen(hint), NULL) != ML_OK) ml_warn("%s; the checkpoint itself is whole", ml_error_text());
done:
    ml_text_destroy(&text);
    return st;
}

/* What a failed save left must not stand in the way of the next one. */
static void remove_uncommitted(const save *s)
{
    char path[ML_DURABLE_PATH], reason[2048];
    if (ml_step_path(s->run, s->state->progress.step, ml_manifest_name, path) != ML_OK || ml_durable_exists(path)) return;
    snprintf(reason, sizeof reason, "%s", ml_error_text());
    if (ml_step_remove(s->run, s->state->progress.step) != ML_OK) ml_warn("%s", ml_error_text());
    (void)ml_fail(ML_RESOURCE, "%s", reason);
}

ml_status ml_checkpoint_save(ml_run_directory *run, const ml_grid *grid, const ml_parameters *parameters, const ml_checkpoint_state *state,
                             int64_t keep, ml_checkpoint_report *report)
{
    ml_status st = ML_OK;
    double since = ml_seconds();
    bool committed = false;
    save s = {.run = run, .grid = grid, .p = parameters, .state = state};
    bool writer = ml_grid_rank(grid) == 0;
    ML_TRY(ml_grid_agree(grid, writer ? prepare(&s, &committed) : ML_OK));
    ml_grid_broadcast(grid, ML_GROUP_WORLD, 0, &committed, (int64_t)sizeof committed);
    if (!committed) ML_TRY(save_tensors(&s));
    ML_TRY(ml_grid_agree(grid, writer ? commit(&s) : ML_OK));
    if (writer) ml_steps_retain(run, keep);
    if (report) {
        *report = (ml_checkpoint_report){.seconds = ml_seconds() - since};
        for (int64_t i = 0; i < s.nfiles; i++) report->bytes += s.files[i].bytes;
        ml_grid_max_int64(grid, ML_GROUP_WORLD, &report->bytes, 1);
    }
done:
    ml_image_destroy(s.image);
    if (st != ML_OK && writer) remove_uncommitted(&s);
    ml_memory_free(s.files);
    ml_memory_free(s.whole);
    ml_memory_free(s.part);
    return st;
}
