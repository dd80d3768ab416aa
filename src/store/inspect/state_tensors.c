/* A checkpoint's tensors in memory: rectangles from all its files, put where they belong, and then
 * ordered by kind and name, so that what two grids wrote is the same list. */
#include "store/inspect/state_tensors.h"

#include <inttypes.h>
#include <stdlib.h>

#include "store/inspect/inspect_private.h"

static const int64_t largest_state = (int64_t)4 << 30;

/* ---- one file's rectangles ----------------------------------------------------------------- */

static ml_status find_or_add(state_tensors *t, int kind, const char *name, const int64_t all[2],
                             state_tensor **out)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < t->count; i++) {
        state_tensor *old = &t->item[i];
        if (old->kind != kind || strcmp(old->name, name) != 0) continue;
        *out = old;
        if (old->rows == all[0] && old->cols == all[1]) return ML_OK;
        return ml_fail(ML_INPUT,
                       "its parts are of %" PRId64 " × %" PRId64 " and of %" PRId64 " × %" PRId64,
                       old->rows, old->cols, all[0], all[1]);
    }
    ML_GROW(t->item, t->count, t->capacity, ML_MEM_OTHER, "the tensors of a checkpoint");
    state_tensor *item = &t->item[t->count++];
    *item = (state_tensor){.kind = kind, .rows = all[0], .cols = all[1]};
    snprintf(item->name, sizeof item->name, "%s", name);
    ML_NEW(item->value, ml_max(1, item->rows * item->cols), ML_MEM_OTHER,
           "a tensor of a checkpoint");
    *out = item;
done:
    return st;
}

static ml_status read_extent(hid_t dataset, const ml_state_extent *e, state_tensor *item)
{
    ml_status st = ML_OK;
    float *block = NULL;
    if (e->cols == item->cols)
        return ml_image_get_rows(dataset, 0, e->rows, e->cols,
                                 item->value + e->first_row * item->cols);
    ML_NEW(block, e->rows * e->cols, ML_MEM_OTHER, "a part of a checkpoint's tensor");
    ML_TRY(ml_image_get_rows(dataset, 0, e->rows, e->cols, block));
    for (int64_t i = 0; i < e->rows; i++)
        memcpy(item->value + (e->first_row + i) * item->cols + e->first_col, block + i * e->cols,
               (size_t)e->cols * sizeof *block);
done:
    ml_memory_free(block);
    return st;
}

static ml_status read_dataset(hid_t group, int kind, char *name, state_tensors *t)
{
    ml_status st = ML_OK;
    hid_t dataset = -1;
    int64_t rows, cols, all[2];
    ml_state_extent e;
    state_tensor *item;
    ML_TRY(ml_image_get_matrix(group, name, &rows, &cols, &dataset));
    ML_TRY(ml_state_extent_read(dataset, rows, cols, &e, all));
    ml_state_cut_name(name);
    ML_TRY(find_or_add(t, kind, name, all, &item));
    ML_TRY(read_extent(dataset, &e, item));
    item->covered += rows * cols;
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status read_group(hid_t file, int kind, state_tensors *t)
{
    ml_status st = ML_OK;
    int64_t links;
    char name[sizeof t->item->name];
    hid_t group = -1;
    ML_TRY(ml_image_get_group(file, ml_state_kind[kind], &group));
    ML_TRY(ml_image_links(group, &links));
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(group, i, name, sizeof name));
        st = read_dataset(group, kind, name, t);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s/%s", ml_state_kind[kind], name);
            goto done;
        }
    }
done:
    if (group >= 0) H5Gclose(group);
    return st;
}

ml_status state_image_open(const char *path, const char *expected, char **bytes, ml_image **image)
{
    ml_status st = ML_OK;
    int64_t count;
    char hash[ML_SHA256_HEX];
    ML_TRY(ml_durable_read(path, largest_state, bytes, &count));
    ml_sha256_of(*bytes, (size_t)count, hash);
    if (strcmp(hash, expected) != 0)
        st = ml_fail(ML_INPUT, "%s: its SHA-256 is %.12s…, the manifest says %.12s…", path, hash,
                     expected);
    else
        st = ml_image_open(image, path, *bytes, count);
done:
    return st;
}

static ml_status read_state(const char *path, const char *expected, state_tensors *t)
{
    ml_status st = ML_OK;
    char *bytes = NULL;
    ml_image *image = NULL;
    ML_TRY(state_image_open(path, expected, &bytes, &image));
    for (int kind = 0; kind < ML_STATE_KINDS; kind++) {
        st = read_group(ml_image_file(image), kind, t);
        if (st != ML_OK) {
            st = ml_fail_within(st, "%s", path);
            goto done;
        }
    }
done:
    ml_image_destroy(image);
    ml_memory_free(bytes);
    return st;
}

/* ---- a checkpoint -------------------------------------------------------------------------- */

static int by_kind_and_name(const void *a, const void *b)
{
    const state_tensor *x = a, *y = b;
    return x->kind != y->kind ? x->kind - y->kind : strcmp(x->name, y->name);
}

static ml_status check_covered(const state_tensors *t)
{
    for (int64_t i = 0; i < t->count; i++) {
        const state_tensor *item = &t->item[i];
        if (item->covered != item->rows * item->cols)
            return ml_fail(ML_INPUT,
                           "%s/%s: the checkpoint of step %" PRId64 " has %" PRId64 " of %" PRId64
                           " values",
                           ml_state_kind[item->kind], item->name, t->step, item->covered,
                           item->rows * item->cols);
    }
    return ML_OK;
}

ml_status state_tensors_read(const ml_run_directory *run, int64_t step, state_tensors *out)
{
    ml_status st = ML_OK;
    json_t *manifest = NULL;
    char path[ML_DURABLE_PATH];
    ml_checkpoint_progress progress;
    ML_TRY(ml_manifest_read(run, step, &manifest, NULL));
    ml_manifest_progress(manifest, &progress);
    out->step = step;
    out->cursor = progress.cursor;
    for (int64_t i = 0; i < ml_manifest_files(manifest); i++) {
        ml_manifest_file file = ml_manifest_file_at(manifest, i);
        ML_TRY(ml_step_path(run, step, file.name, path));
        ML_TRY(read_state(path, file.sha256, out));
    }
    ML_TRY(check_covered(out));
    if (out->count > 0) qsort(out->item, (size_t)out->count, sizeof *out->item, by_kind_and_name);
done:
    json_decref(manifest);
    return st;
}

void state_tensors_destroy(state_tensors *t)
{
    for (int64_t i = 0; i < t->count; i++) ml_memory_free(t->item[i].value);
    ml_memory_free(t->item);
    *t = (state_tensors){0};
}

/* ---- by path ------------------------------------------------------------------------------- */

ml_status state_run_open(const char *path, ml_run_directory **out)
{
    ml_status st = ML_OK;
    ml_run_directory *run = NULL;
    bool there;
    ML_NEW(run, 1, ML_MEM_OTHER, "a run's directory");
    ML_TRY(ml_durable_path(run->path, "%s", path));
    ML_TRY(ml_durable_path(run->checkpoints, "%s/checkpoints", path));
    ML_TRY(ml_durable_find(run->checkpoints, &there));
    if (!there) {
        st = ml_fail(ML_INPUT, "%s: is no run's directory: no checkpoints/ in it", path);
        goto done;
    }
    *out = run;
    run = NULL;
done:
    ml_memory_free(run);
    return st;
}

void state_run_close(ml_run_directory *run)
{
    if (run) ml_memory_free(run->verified);
    ml_memory_free(run);
}

static ml_status read_newest(ml_run_directory *run, const char *path, state_tensors *out)
{
    int64_t *steps = NULL, count = 0;
    bool bad;
    ml_status st = ml_steps_list(run, true, &steps, &count);
    while (st == ML_OK && count > 0 && ml_step_check(run, steps[count - 1], NULL, &bad) != ML_OK)
        count--;
    if (st == ML_OK)
        st = count > 0 ? state_tensors_read(run, steps[count - 1], out)
                       : ml_fail(ML_INPUT, "%s: has no whole checkpoint", path);
    ml_memory_free(steps);
    return st;
}

ml_status state_tensors_open(const char *path, state_tensors *out)
{
    ml_status st = ML_OK;
    ml_run_directory *run = NULL;
    const char *kind;
    int64_t step;
    ML_TRY(inspect_find_kind(path, &kind));
    if (!strcmp(kind, "run")) {
        ML_TRY(state_run_open(path, &run));
        ML_TRY(read_newest(run, path, out));
    } else {
        ML_TRY(inspect_open_step(path, &run, &step));
        ML_TRY(state_tensors_read(run, step, out));
    }
done:
    state_run_close(run);
    return st;
}
