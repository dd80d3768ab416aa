/* Telling files of mpilora apart by their first bytes, and describing bases, data sets, adapters,
 * checkpoints and runs: one function a kind, each adding its fields to a JSON object. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/durable.h"
#include "io/json.h"
#include "mpilora/data.h"
#include "mpilora/inspect.h"
#include "mpilora/store.h"
#include "store/adapter/adapter.h"
#include "store/base/base_private.h"
#include "store/checkpoint/state_file.h"
#include "store/inspect/inspect_private.h"
#include "store/inspect/state_tensors.h"

static void set_text(json_t *o, const char *key, const char *value)
{
    json_object_set_new(o, key, *value ? json_string(value) : json_null());
}
static void set_int(json_t *o, const char *key, int64_t value)
{
    json_object_set_new(o, key, json_integer(value));
}

void inspect_add_tensor(json_t *list, const char *name, int64_t rows, int64_t cols,
                        const char *dtype)
{
    json_t *shape = cols > 0 ? json_pack("[I,I]", (json_int_t)rows, (json_int_t)cols)
                             : json_pack("[I]", (json_int_t)rows);
    json_array_append_new(list,
                          json_pack("{s:s,s:o,s:s}", "name", name, "shape", shape, "dtype", dtype));
}

/* ---- kinds --------------------------------------------------------------------------------- */

static ml_status set_architecture(const ml_model_spec *spec, json_t *out)
{
    ml_text text = {0};
    ml_status st = base_spec_to_json(spec, &text);
    if (st == ML_OK)
        json_object_set_new(out, "architecture",
                            json_loadb(text.data, (size_t)text.length, 0, NULL));
    ml_text_destroy(&text);
    return st;
}

ml_status inspect_base(const char *path, json_t *out)
{
    ml_status st = ML_OK;
    ml_base *base = NULL;
    ML_TRY(ml_base_open(&base, path));
    const ml_model_spec *spec = ml_base_spec(base);
    ML_TRY(set_architecture(spec, out));
    set_int(out, "params_total", ml_model_parameters_total(spec));
    set_text(out, "dtype", ml_dtype_name(ml_base_dtype(base)));
    set_text(out, "source_sha256", ml_base_source_hash(base));
    set_text(out, "content_sha256", ml_base_content_hash(base));
    set_text(out, "tokenizer_sha256", ml_base_tokenizer_hash(base));
    json_t *tensors = json_array();
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(spec, i, &t);
        inspect_add_tensor(tensors, t.name, t.rows, t.vector ? 0 : t.cols,
                           ml_dtype_name(ml_base_tensor_dtype(base, &t)));
    }
    json_object_set_new(out, "tensors", tensors);
done:
    ml_base_close(base);
    return st;
}

ml_status inspect_dataset(const char *path, json_t *out)
{
    ml_dataset *data = NULL;
    ml_status st = ml_dataset_open(&data, path);
    if (st != ML_OK) return st;
    int64_t sequences = ml_dataset_sequences(data), targets = 0, shortest = INT64_MAX, longest = 0;
    for (int64_t i = 0; i < sequences; i++) {
        int64_t length = ml_dataset_length(data, i, INT64_MAX);
        targets += ml_dataset_targets(data, i, INT64_MAX);
        shortest = ml_min(shortest, length);
        longest = ml_max(longest, length);
    }
    set_int(out, "sequences", sequences);
    set_int(out, "tokens", ml_dataset_tokens(data));
    set_int(out, "targets", targets);
    set_int(out, "shortest", shortest);
    set_int(out, "longest", longest);
    set_int(out, "vocab", ml_dataset_vocab(data));
    if (ml_dataset_label_kind(data) != ML_LABEL_NONE) {
        set_text(out, "label_kind", ml_label_kind_name(ml_dataset_label_kind(data)));
        set_int(out, "label_count", ml_dataset_label_count(data));
        set_text(out, "label_names", ml_dataset_label_names(data));
    }
    if (*ml_dataset_date(data)) set_text(out, "chat_date", ml_dataset_date(data));
    set_text(out, "content_sha256", ml_dataset_hash(data));
    set_text(out, "tokenizer_sha256", ml_dataset_tokenizer_hash(data));
    ml_dataset_destroy(data);
    return ML_OK;
}

ml_status inspect_adapter(const char *path, json_t *out)
{
    ml_adapter adapter = {0};
    ml_status st = ml_adapter_read_file(&adapter, path);
    json_t *pairs = json_array(), *tensors = json_array();
    int64_t parameters = 0;
    for (int64_t i = 0; st == ML_OK && i < adapter.count; i++) {
        const ml_adapter_pair *p = &adapter.pairs[i];
        parameters += p->rank * (p->in + p->out) + (p->m ? p->out : 0);
        json_array_append_new(pairs, json_pack("{s:s,s:I,s:f,s:I,s:I}", "site", p->module, "rank",
                                               (json_int_t)p->rank, "alpha", p->alpha, "in",
                                               (json_int_t)p->in, "out", (json_int_t)p->out));
    }
    for (int64_t i = 0; st == ML_OK && i < adapter.ntensors; i++) {
        const ml_adapter_tensor *t = &adapter.tensors[i];
        parameters += t->rows * t->cols;
        inspect_add_tensor(tensors, t->name, t->rows, t->cols, "fp32");
    }
    set_text(out, "method", ml_method_name(adapter.method));
    set_int(out, "params_trainable", parameters);
    set_text(out, "scaling", adapter.rslora ? "rslora" : "standard");
    json_object_set_new(out, "dropout", json_real(adapter.dropout));
    set_text(out, "base_source_sha256", adapter.base_source_hash);
    if (*adapter.base_content_hash) set_text(out, "base_content_sha256", adapter.base_content_hash);
    set_text(out, "kernel", adapter.kernel);
    if (*adapter.pooling) set_text(out, "pooling", adapter.pooling);
    set_text(out, "sha256", adapter.hash);
    json_object_set_new(out, "pairs", pairs);
    json_object_set_new(out, "tensors", tensors);
    ml_adapter_destroy(&adapter);
    return st;
}

/* A PEFT directory is understood with its base only. */
static ml_status inspect_peft(const char *path, json_t *out)
{
    (void)out;
    return ml_fail(ML_INPUT,
                   "%s: is a PEFT adapter, no file of mpilora; mpilora verify checks it, "
                   "adapter_config.json in it says what it is",
                   path);
}

/* ---- checkpoints: one, from its manifest and state files, or all of a run ------------------ */

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
    ml_state_extent extent;
    char name[160];
    hid_t dataset = -1;
    ML_TRY(ml_image_links(group, &links));
    for (int64_t i = 0; i < links; i++) {
        ML_TRY(ml_image_link(group, i, name, sizeof name));
        ML_TRY(ml_image_get_matrix(group, name, &rows, &cols, &dataset));
        ML_TRY(ml_state_extent_read(dataset, rows, cols, &extent, all));
        ml_state_cut_name(name);
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
    char *bytes = NULL;
    ml_image *image = NULL;
    hid_t group = -1;
    ML_TRY(state_image_open(path, expected, &bytes, &image));
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

ml_status inspect_open_step(const char *path, ml_run_directory **out, int64_t *step)
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
    *step = strtoll(name + 5, &end, 10);
    ML_NEW(run, 1, ML_MEM_OTHER, "a run's directory");
    ML_TRY(ml_durable_path(run->checkpoints, "%.*s", (int)(name - 1 - directory), directory));
    *out = run;
    run = NULL;
done:
    ml_memory_free(run);
    return st;
}

ml_status inspect_checkpoint(const char *path, json_t *out)
{
    int64_t step;
    ml_run_directory *run = NULL;
    ml_status st = inspect_open_step(path, &run, &step);
    if (st != ML_OK) return st;
    st = describe_step(run, step, out);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path);
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

/* ---- which it is --------------------------------------------------------------------------- */

typedef struct kind {
    const char *name, *format; /* what its attribute `format` or its manifest says */
    const char *start;         /* of the file */
    ml_status (*describe)(const char *path, json_t *out);
} kind;

static const kind kinds[] = {
    {"base", "mpilora-base", "mpilora-base ", inspect_base},
    {"dataset", "mpilora-dataset", "mpilora-dataset", inspect_dataset},
    {"adapter", "mpilora adapter", "mpilora adapter ", inspect_adapter},
    {"checkpoint", "mpilora checkpoint", "\211HDF\r\n", inspect_checkpoint}};
static const kind checkpoint_directory = {"checkpoint", "mpilora checkpoint", "",
                                          inspect_checkpoint},
                  run_directory = {"run", "mpilora run", "", inspect_run},
                  peft_directory = {"peft", "PEFT adapter", "", inspect_peft};

static ml_status find_kind_of_directory(const char *path, const kind **out)
{
    char inside[ML_DURABLE_PATH];
    ml_status st = ml_durable_path(inside, "%s/%s", path, ml_manifest_name);
    *out = &run_directory;
    if (st == ML_OK && ml_durable_exists(inside)) *out = &checkpoint_directory;
    if (st == ML_OK) st = ml_durable_path(inside, "%s/adapter_config.json", path);
    if (st == ML_OK && ml_durable_exists(inside)) *out = &peft_directory;
    return st;
}

static ml_status find_kind(const char *path, int64_t *bytes, const kind **out)
{
    char start[32] = "";
    struct stat about;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a directory, too; never waits */
    if (fd < 0 || fstat(fd, &about)) {
        if (fd >= 0) close(fd);
        return ml_fail(ML_INPUT, "%s: cannot be opened: %s", path, strerror(errno));
    }
    *bytes = about.st_size;
    ssize_t n = S_ISREG(about.st_mode) ? pread(fd, start, sizeof start - 1, 0) : 0;
    close(fd);
    if (S_ISDIR(about.st_mode)) return find_kind_of_directory(path, out);
    for (size_t i = 0; n > 0 && i < sizeof kinds / sizeof *kinds; i++) {
        if (strncmp(start, kinds[i].start, strlen(kinds[i].start)) != 0) continue;
        *out = &kinds[i];
        return ML_OK;
    }
    return ml_fail(
        ML_INPUT,
        "%s: is no file of mpilora (base, data set, adapter.h5, checkpoint, run directory)", path);
}

ml_status inspect_find_kind(const char *path, const char **name)
{
    const kind *found;
    int64_t bytes;
    ml_status st = find_kind(path, &bytes, &found);
    if (st == ML_OK) *name = found->name;
    return st;
}

ml_status ml_inspect(const char *path, ml_text *json)
{
    ml_status st = ML_OK;
    const kind *found = NULL;
    int64_t bytes = 0;
    char *text = NULL;
    json_t *o = json_object();
    ML_TRY(find_kind(path, &bytes, &found));
    set_text(o, "kind", found->name);
    set_text(o, "format", found->format);
    set_text(o, "path", path);
    if (*found->start) set_int(o, "bytes", bytes);
    ML_TRY(found->describe(path, o));
    text = ml_json_dump(o, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (!text) {
        st = ml_fail(ML_RESOURCE, "%s: out of memory", path);
        goto done;
    }
    ML_TRY(ml_text_printf(json, "%s", text));
done:
    free(text);
    json_decref(o);
    return st;
}
