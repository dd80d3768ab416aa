/* Telling files of mpilora apart by their first bytes, and describing bases, data sets and
 * adapters. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/durable.h"
#include "mpilora/data.h"
#include "mpilora/inspect.h"
#include "mpilora/store.h"
#include "store/adapter/adapter.h"
#include "store/base/base_private.h"
#include "store/checkpoint/run_directory.h"
#include "store/inspect/inspect_private.h"

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
                           ml_dtype_name(t.norm_or_bias ? ML_FP32 : ml_base_dtype(base)));
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
    set_text(out, "kernel", adapter.kernel);
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
    text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(17));
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
