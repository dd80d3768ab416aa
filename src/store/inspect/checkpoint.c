/* Describing checkpoints: one, from its manifest and state files, or all of a run. */
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "store/checkpoint/state_file.h"
#include "store/inspect/inspect_private.h"

static const int64_t largest_state = (int64_t)4 << 30;

static int64_t bytes_of(const json_t *manifest)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < ml_manifest_files(manifest); i++)
        bytes += ml_manifest_file_at(manifest, i).bytes;
    return bytes;
}

/* Tensors whose first row and column are in this file: a large one goes on in others. */
static ml_status list_group(hid_t group, json_t *tensors)
{
    ml_status st = ML_OK;
    int64_t links, rows, cols, all[2];
    ml_extent extent;
    char name[160];
    hid_t dataset = -1;
    ML_TRY(ml_image_links(group, &links));
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(group, i, name, sizeof name));
        ML_TRY(ml_image_get_matrix(group, name, &rows, &cols, &dataset));
        ML_TRY(ml_extent_read(dataset, rows, cols, &extent, all));
        ml_extent_cut_name(name);
        if (extent.first_row == 0 && extent.first_col == 0)
            inspect_add_tensor(tensors, name, all[0], all[1], ml_dtype_name(ML_FP32));
        H5Dclose(dataset);
        dataset = -1;
    }
done:
    if (dataset >= 0) H5Dclose(dataset);
    return st;
}

static ml_status list_state(const char *path, const char *expected, json_t *tensors)
{
    ml_status st = ML_OK;
    char *bytes = NULL, hash[ML_SHA256_HEX];
    int64_t count;
    ml_image *image = NULL;
    hid_t group = -1;
    ML_TRY(ml_durable_read(path, largest_state, &bytes, &count));
    ml_sha256_of(bytes, (size_t)count, hash);
    if (strcmp(hash, expected) != 0) {
        st = ml_fail(ML_INPUT, "%s: its SHA-256 is %.12s…, the manifest says %.12s…", path, hash,
                     expected);
        goto done;
    }
    ML_TRY(ml_image_open(&image, path, bytes, count));
    ML_TRY(ml_image_get_group(ml_image_file(image), ml_state_kind[0], &group));
    ML_TRY(list_group(group, tensors));
done:
    if (group >= 0) H5Gclose(group);
    ml_image_destroy(image);
    ml_memory_free(bytes);
    return st;
}

static ml_status describe_step(const ml_run_directory *run, int64_t step, json_t *out)
{
    ml_status st = ML_OK;
    json_t *manifest = NULL, *tensors = json_array();
    char path[ML_DURABLE_PATH];
    ML_TRY(ml_manifest_read(run, step, &manifest, NULL));
    for (int64_t i = 0; i < ml_manifest_files(manifest); i++) {
        ml_manifest_file file = ml_manifest_file_at(manifest, i);
        ML_TRY(ml_step_path(run, step, file.name, path));
        ML_TRY(list_state(path, file.sha256, tensors));
    }
    json_object_set_new(out, "step", json_integer(step));
    json_object_set_new(out, "checkpoint_bytes", json_integer(bytes_of(manifest)));
    json_object_set(out, "progress", json_object_get(manifest, "progress"));
    json_object_set(out, "identity", json_object_get(manifest, "identity"));
    json_object_set(out, "files", json_object_get(manifest, "files"));
    json_object_set(out, "tensors", tensors);
done:
    json_decref(tensors);
    json_decref(manifest);
    return st;
}

ml_status inspect_checkpoint(const char *path, json_t *out)
{
    ml_status st = ML_OK;
    char resolved[ML_DURABLE_PATH + 1], manifest[ML_DURABLE_PATH], *end;
    struct stat about;
    ml_run_directory *run = NULL;
    if (!realpath(path, resolved) || stat(resolved, &about))
        return ml_fail(ML_INPUT, "%s: cannot be opened", path);
    const char *directory = S_ISDIR(about.st_mode) ? resolved : dirname(resolved);
    ML_TRY(ml_durable_path(manifest, "%s/%s", directory, ml_manifest_name));
    const char *name = strrchr(directory, '/') + 1;
    if (!ml_durable_exists(manifest) || strncmp(name, "step-", 5) != 0)
        return ml_fail(ML_INPUT,
                       "%s: is no file of mpilora: a state file lies beside its %s in step-…/",
                       path, ml_manifest_name);
    int64_t step = strtoll(name + 5, &end, 10);
    ML_NEW(run, 1, ML_MEM_OTHER, "a run's directory");
    ML_TRY(ml_durable_path(run->checkpoints, "%.*s", (int)(name - 1 - directory), directory));
    st = describe_step(run, step, out);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path);
done:
    ml_memory_free(run);
    return st;
}

/* Seconds since the manifest was written; null where there is none. */
static json_t *age_of(const ml_run_directory *run, int64_t step)
{
    char path[ML_DURABLE_PATH];
    struct stat about;
    if (ml_step_path(run, step, ml_manifest_name, path) != ML_OK || lstat(path, &about))
        return json_null();
    return json_real(difftime(time(NULL), about.st_mtime));
}

static void add_step(ml_run_directory *run, int64_t step, json_t *list, json_t *out)
{
    json_t *manifest = NULL,
           *item = json_pack("{s:I,s:o}", "step", (json_int_t)step, "age_s", age_of(run, step));
    ml_status st = ml_manifest_read(run, step, &manifest, NULL);
    json_object_set_new(item, "bytes",
                        st == ML_OK ? json_integer(bytes_of(manifest)) : json_null());
    if (st == ML_OK) st = ml_manifest_verify(run, step, manifest, NULL);
    json_object_set_new(item, "whole", json_boolean(st == ML_OK));
    if (st == ML_OK) { /* ascending: the last one that is whole is what a restart takes */
        json_object_set_new(out, "step", json_integer(step));
        json_object_set(out, "progress", json_object_get(manifest, "progress"));
    } else {
        json_object_set_new(item, "fault", json_string(ml_error_text()));
    }
    json_array_append_new(list, item);
    json_decref(manifest);
}

/* Saves that are in work or were broken off. */
static ml_status add_uncommitted(const ml_run_directory *run, json_t *list)
{
    int64_t *steps = NULL, count = 0;
    ml_status st = ml_steps_list(run, false, &steps, &count);
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(
            list, json_pack("{s:I,s:n,s:n,s:b,s:s}", "step", (json_int_t)steps[i], "age_s", "bytes",
                            "whole", false, "fault",
                            "not committed: a save in work, or one that was broken off"));
    ml_memory_free(steps);
    return st;
}

ml_status inspect_run(const char *path, json_t *out)
{
    ml_status st = ML_OK;
    int64_t *steps = NULL, count = 0;
    bool there;
    ml_run_directory *run = NULL;
    json_t *list = json_array();
    json_object_set_new(out, "checkpoints", list);
    ML_NEW(run, 1, ML_MEM_OTHER, "a run's directory");
    ML_TRY(ml_durable_path(run->checkpoints, "%s/checkpoints", path));
    ML_TRY(ml_durable_find(run->checkpoints, &there));
    if (!there) {
        st = ml_fail(ML_INPUT,
                     "%s: is neither a run's directory (no checkpoints/ in it) nor a checkpoint",
                     path);
        goto done;
    }
    ML_TRY(ml_steps_list(run, true, &steps, &count));
    for (int64_t i = 0; i < count; i++) add_step(run, steps[i], list, out);
    ML_TRY(add_uncommitted(run, list));
done:
    ml_memory_free(steps);
    if (run) ml_memory_free(run->verified);
    ml_memory_free(run);
    return st;
}
