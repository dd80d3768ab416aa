/* A state that is too large for one file: each tp rank of dp replica 0 writes its own shards,
 * straight from where they are, file by file; what all tp ranks hold, the first one writes, and
 * moments that are divided over the replicas come from them. Files are numbered so that nobody has
 * to ask: the k-th of tp rank t is number k·tp + t. */
#include <inttypes.h>

#include "store/checkpoint/state_file.h"

typedef struct file_list {
    ml_manifest_file *file;
    int64_t count, capacity;
    int64_t assembled; /* extents whose moments the replicas have sent */
} file_list;

int64_t ml_save_parts_limit(int tp)
{
    static const int64_t together = (int64_t)1 << 30, least = 1 << 20;
    return ml_max(least, together / ml_max(2, tp));
}

static ml_extent_walk start_walk(const ml_parameters *p, int64_t limit, int tp_rank)
{
    return (ml_extent_walk){.p = p, .replicated = tp_rank == 0, .limit = limit};
}

int64_t ml_save_parts_memory(const ml_parameters *p, int tp, int tp_rank)
{
    int64_t largest = 0, offset;
    ml_extent e;
    bool opens;
    for (ml_extent_walk w = start_walk(p, ml_save_parts_limit(tp), tp_rank), before = w;
         ml_extent_next(&w, &e, &offset, &opens); before = w)
        if (opens) largest = ml_max(largest, ml_extent_file_bytes(before));
    return largest ? ml_round_up(largest, ML_IMAGE_STEP) + ML_SHA256_PIECE : 0;
}

static const float *assemble(const ml_save *s, const ml_extent *e, int64_t offset)
{
    return ml_parameters_assemble(s->p, s->grid, ml_state_buffer(s->p, (int)e->kind), offset,
                                  e->rows * e->cols) +
           offset;
}

static ml_status put_extent(const ml_save *s, ml_image *image, const ml_extent *e, int64_t offset,
                            file_list *list)
{
    ml_status st = ML_OK;
    hid_t dataset;
    const ml_parameter *item = &s->p->items[e->tensor];
    const float *values = assemble(s, e, offset);
    list->assembled++;
    bool again = item->shard.dim == ML_SHARD_ROWS &&
                 item->shard.nparts > 1; /* another part of it may be in the file */
    ML_TRY(ml_extent_make(image, s->p, e, again && e->first_row > 0, &dataset));
    ML_TRY(ml_image_put_rows(dataset, 0, e->rows, e->cols, values));
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status add_file(file_list *list, ml_manifest_file **out)
{
    ml_status st = ML_OK;
    if (!list->file) {
        list->capacity = 8;
        ML_NEW(list->file, list->capacity, ML_MEM_OTHER, "the files of a checkpoint");
    } else if (list->count == list->capacity) {
        ml_manifest_file *grown = ml_memory_resize(list->file, 2 * list->capacity, sizeof *grown,
                                                   "the files of a checkpoint");
        if (!grown) return ML_RESOURCE;
        list->file = grown;
        list->capacity *= 2;
    }
    *out = &list->file[list->count++];
done:
    return st;
}

static ml_status write_image(const ml_save *s, ml_image *image, file_list *list)
{
    ml_status st = ML_OK;
    ml_manifest_file *file;
    char path[ML_DURABLE_PATH], *bytes;
    int64_t number = list->count * ml_grid_tp(s->grid) + ml_grid_tp_rank(s->grid);
    ML_TRY(add_file(list, &file));
    ML_TRY(ml_image_finish(image, &bytes, &file->bytes));
    snprintf(file->name, sizeof file->name, "state-%04" PRId64 ".h5", number);
    ML_TRY(ml_step_path(s->run, s->state->progress.step, file->name, path));
    ML_TRY(ml_durable_write(path, bytes, file->bytes, file->sha256));
done:
    return st;
}

/* The file that begins with the next extent of the walk. */
static ml_status write_file(const ml_save *s, ml_extent_walk *w, file_list *list)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    ml_extent e;
    int64_t offset;
    bool opens;
    ML_TRY(ml_state_file_create(&image, s->state, ml_extent_file_bytes(*w)));
    for (bool first = true;; first = false) {
        ml_extent_walk before = *w;
        if (!ml_extent_next(w, &e, &offset, &opens)) break;
        if (opens && !first) {
            *w = before;
            break;
        }
        ML_TRY(put_extent(s, image, &e, offset, list));
    }
    ML_TRY(write_image(s, image, list));
done:
    ml_image_destroy(image);
    return st;
}

static ml_extent_walk walk_of(const ml_save *s)
{
    int tp = ml_grid_tp(s->grid);
    return start_walk(s->p, s->state->file_bytes ? s->state->file_bytes : ml_save_parts_limit(tp),
                      ml_grid_tp_rank(s->grid));
}

static ml_status write_own(const ml_save *s, file_list *list)
{
    ml_status st = ML_OK;
    int64_t offset;
    ml_extent_walk w = walk_of(s), ahead = w;
    ml_extent e;
    bool opens;
    while (ml_extent_next(&ahead, &e, &offset, &opens)) {
        ML_TRY(write_file(s, &w, list));
        ahead = w;
    }
done:
    return st;
}

/* What a replica without files does; and a writer that failed, whom the others still send
 * theirs. */
static void assemble_rest(const ml_save *s, int64_t assembled)
{
    ml_extent_walk w = walk_of(s);
    ml_extent e;
    int64_t offset;
    bool opens;
    for (int64_t i = 0; ml_extent_next(&w, &e, &offset, &opens); i++)
        if (i >= assembled) assemble(s, &e, offset);
}

static ml_status write_or_send(const ml_save *s, file_list *list)
{
    ml_status st = ml_grid_dp_rank(s->grid) == 0 ? write_own(s, list) : ML_OK;
    assemble_rest(s, list->assembled);
    return st;
}

/* The writers' lists to world rank 0, also where it has no room for them any more. */
static ml_status collect_lists(const ml_save *s, const file_list *own)
{
    ml_status st = ML_OK;
    if (ml_grid_dp_rank(s->grid) != 0) return ML_OK;
    if (ml_grid_rank(s->grid) != 0) {
        ml_grid_send(s->grid, 0, &own->count, (int64_t)sizeof own->count);
        for (int64_t i = 0; i < own->count; i++)
            ml_grid_send(s->grid, 0, &own->file[i], (int64_t)sizeof *own->file);
        return ML_OK;
    }
    for (int64_t i = 0; i < own->count && st == ML_OK; i++)
        st = ml_writing_add(s->writing, &own->file[i]);
    for (int rank = 1; rank < ml_grid_tp(s->grid); rank++) {
        int64_t count;
        ml_manifest_file file;
        ml_grid_receive(s->grid, rank, &count, (int64_t)sizeof count);
        for (int64_t i = 0; i < count; i++) {
            ml_grid_receive(s->grid, rank, &file, (int64_t)sizeof file);
            if (st == ML_OK) st = ml_writing_add(s->writing, &file);
        }
    }
    return st;
}

ml_status ml_save_parts(ml_save *s)
{
    file_list own = {0};
    ml_status st =
        ml_grid_agree(s->grid, s->writing ? ml_writing_make_directory(s->writing) : ML_OK);
    if (st == ML_OK) st = ml_grid_agree(s->grid, write_or_send(s, &own));
    if (st == ML_OK) st = ml_grid_agree(s->grid, collect_lists(s, &own));
    ml_memory_free(own.file);
    return st;
}
