/* Loading: world rank 0 reads the files one after the other and sends every block of rows to all; each rank takes its part. */
#include <inttypes.h>

#include "store/image.h"
#include "store/run_directory.h"

static const int64_t largest_file = (int64_t)4 << 30;

/* What goes before each block; tensor −1: no more. */
typedef struct block_header {
    int64_t tensor, first, rows;
    int64_t kind;
} block_header;

typedef struct load {
    ml_run_directory *run;
    const ml_grid *grid;
    ml_parameters *p;
    float *block;
    int64_t *next; /* world rank 0: rows read so far, [tensor][kind] */
} load;

/* Both sides: rank 0 sends s->block, every rank keeps its rows. */
static void hand_out(load *s, block_header h)
{
    const ml_parameter *item = &s->p->items[h.tensor];
    ml_shard shard;
    ml_grid_broadcast(s->grid, ML_GROUP_WORLD, 0, s->block, h.rows * item->cols * (int64_t)sizeof(float));
    float *buffer = ml_state_buffer(s->p, (int)h.kind);
    if (!buffer) return;
    int64_t at = ml_block_shard(&item->shard, h.first, h.rows, item->cols, &shard);
    ml_shard_take(&shard, h.rows, item->cols, s->block, buffer + item->offset + at);
}

static void announce(load *s, block_header *h) { ml_grid_broadcast(s->grid, ML_GROUP_WORLD, 0, h, (int64_t)sizeof *h); }

static void receive_blocks(load *s)
{
    block_header h;
    for (announce(s, &h); h.tensor >= 0; announce(s, &h)) hand_out(s, h);
}

/* ---- world rank 0 ----------------------------------------------------------------------------------------------------------------- */

static int64_t find_tensor(const ml_parameters *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name)) return i;
    return -1;
}

static ml_status check_rows(const load *s, int64_t tensor, int64_t kind, hid_t dataset, int64_t rows, int64_t cols)
{
    ml_status st = ML_OK;
    const ml_parameter *item = &s->p->items[tensor];
    int64_t first, all;
    ML_TRY(ml_image_get_int(dataset, "first_row", &first));
    ML_TRY(ml_image_get_int(dataset, "rows", &all));
    if (all != item->rows || cols != item->cols)
        return ml_fail(ML_INPUT, "the checkpoint has %" PRId64 " × %" PRId64 ", this run has %" PRId64 " × %" PRId64, all, cols, item->rows,
                       item->cols);
    if (first != s->next[tensor * ML_STATE_KINDS + kind] || rows > all - first)
        return ml_fail(ML_INPUT, "the checkpoint's rows begin at %" PRId64 " where %" PRId64 " was expected", first,
                       s->next[tensor * ML_STATE_KINDS + kind]);
done:
    return st;
}

static ml_status send_rows(load *s, int64_t tensor, int64_t kind, hid_t dataset, int64_t rows)
{
    ml_status st = ML_OK;
    const ml_parameter *item = &s->p->items[tensor];
    int64_t *next = &s->next[tensor * ML_STATE_KINDS + kind];
    int64_t most = ml_block_rows(item->rows, item->cols);
    for (int64_t at = 0; at < rows; at += most) {
        block_header h = {tensor, *next, ml_min(most, rows - at), kind};
        ML_TRY(ml_image_get_rows(dataset, at, h.rows, item->cols, s->block));
        announce(s, &h);
        hand_out(s, h);
        *next += h.rows;
    }
done:
    return st;
}

static ml_status send_dataset(load *s, hid_t group, int64_t kind, const char *name)
{
    ml_status st = ML_OK;
    hid_t dataset = -1;
    int64_t rows, cols, tensor = find_tensor(s->p, name);
    if (tensor < 0) return ml_fail(ML_INPUT, "this run does not train it, the checkpoint has it");
    ML_TRY(ml_image_get_matrix(group, name, &rows, &cols, &dataset));
    ML_TRY(check_rows(s, tensor, kind, dataset, rows, cols));
    ML_TRY(send_rows(s, tensor, kind, dataset, rows));
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status send_group(load *s, hid_t file, int64_t kind)
{
    ml_status st = ML_OK;
    int64_t links;
    char name[sizeof s->p->items->name];
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
    H5Gclose(group);
    return st;
}

static ml_status send_image(load *s, const char *path, const char *bytes, int64_t count)
{
    ml_status st = ML_OK;
    ml_image *image = NULL;
    ML_TRY(ml_image_open(&image, path, bytes, count));
    for (int64_t kind = 0; kind < ML_STATE_KINDS; kind++) {
        st = send_group(s, ml_image_file(image), kind);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s", path);
            goto done;
        }
    }
done:
    ml_image_destroy(image);
    return st;
}

static ml_status send_file(load *s, const ml_manifest_file *file, int64_t step)
{
    ml_status st = ML_OK;
    char path[ML_DURABLE_PATH], hash[ML_SHA256_HEX];
    char *bytes = NULL;
    int64_t count;
    ML_TRY(ml_step_path(s->run, step, file->name, path));
    ML_TRY(ml_durable_read(path, largest_file, &bytes, &count));
    ml_sha256_of(bytes, (size_t)count, hash);
    if (strcmp(hash, file->sha256) != 0) {
        st = ml_fail(ML_INPUT, "%s: has changed since its SHA-256 was checked", path);
        goto done;
    }
    ML_TRY(send_image(s, path, bytes, count));
done:
    ml_memory_free(bytes);
    return st;
}

static ml_status check_complete(const load *s)
{
    for (int64_t i = 0; i < s->p->count; i++) {
        for (int kind = 0; kind < ML_STATE_KINDS; kind++) {
            int64_t rows = s->next[i * ML_STATE_KINDS + kind];
            if (rows != s->p->items[i].rows)
                return ml_fail(ML_INPUT, "%s/%s: the checkpoint has %" PRId64 " of %" PRId64 " rows", ml_state_kind[kind],
                               s->p->items[i].name, rows, s->p->items[i].rows);
        }
    }
    return ML_OK;
}

static ml_status send_all(load *s)
{
    ml_status st = ML_OK;
    block_header end = {.tensor = -1};
    int64_t step = json_integer_value(json_object_get(s->run->chosen, "step"));
    for (int64_t i = 0; i < ml_manifest_files(s->run->chosen); i++) {
        ml_manifest_file file = ml_manifest_file_at(s->run->chosen, i);
        ML_TRY(send_file(s, &file, step));
    }
    ML_TRY(check_complete(s));
done:
    announce(s, &end); /* also after a fault: the others wait for it */
    return st;
}

static ml_status make_room(load *s)
{
    ml_status st = ML_OK;
    ML_NEW(s->block, ml_block_floats(s->p), ML_MEM_OTHER, "a checkpoint's block");
    if (ml_grid_rank(s->grid) != 0) return ML_OK;
    ML_NEW(s->next, s->p->count * ML_STATE_KINDS, ML_MEM_OTHER, "rows read");
    if (!s->run->chosen) st = ml_fail(ML_INTERNAL, "ml_checkpoint_load before ml_checkpoint_find found anything");
done:
    return st;
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
    load s = {.run = run, .grid = grid, .p = parameters};
    ml_status st = make_room(&s);
    ML_TRY(ml_grid_agree(grid, st));
    if (ml_grid_rank(grid) == 0)
        st = send_all(&s);
    else
        receive_blocks(&s);
    ML_TRY(ml_grid_agree(grid, st));
done:
    ml_memory_free(s.block);
    ml_memory_free(s.next);
    return st;
}
