/* Digests: what a file holds without what it says of the run that wrote it. Two runs that computed
 * the same have the same digest, whatever their folders, grids and kernels.
 *
 * A checkpoint's is the SHA-256 of, for every tensor in the order of state_tensors, a line
 * "KIND/NAME ROWS COLS\n" and the values as little-endian fp32, row by row; then a line
 * "step STEP cursor CURSOR\n". An adapter's is made of its tensors alone, pairs as
 * "SITE/A", "SITE/B" and "SITE/M". A base or data set has a hash of its contents in it. */
#include <inttypes.h>
#include <stdlib.h>

#include "io/json.h"
#include "mpilora/data.h"
#include "mpilora/inspect.h"
#include "store/adapter/adapter.h"
#include "store/base/base_private.h"
#include "store/inspect/inspect_private.h"
#include "store/inspect/state_tensors.h"

static ml_status add_tensor(ml_sha256 *hash, const char *group, const char *name, int64_t rows,
                            int64_t cols, const float *values)
{
    ml_text line = {0};
    ml_status st =
        ml_text_printf(&line, "%s/%s %" PRId64 " %" PRId64 "\n", group, name, rows, cols);
    if (st == ML_OK) {
        ml_sha256_add(hash, line.data, (size_t)line.length);
        ml_sha256_add(hash, values, (size_t)(rows * cols) * sizeof *values);
    }
    ml_text_destroy(&line);
    return st;
}

static ml_status add_checkpoint(ml_sha256 *hash, const char *path, json_t *out)
{
    ml_status st = ML_OK;
    state_tensors t = {0};
    char last[64];
    ML_TRY(state_tensors_open(path, &t));
    for (int64_t i = 0; i < t.count; i++)
        ML_TRY(add_tensor(hash, ml_state_kind[t.item[i].kind], t.item[i].name, t.item[i].rows,
                          t.item[i].cols, t.item[i].value));
    snprintf(last, sizeof last, "step %" PRId64 " cursor %" PRId64 "\n", t.step, t.cursor);
    ml_sha256_add(hash, last, strlen(last));
    json_object_set_new(out, "step", json_integer(t.step));
    json_object_set_new(out, "cursor", json_integer(t.cursor));
done:
    state_tensors_destroy(&t);
    return st;
}

static ml_status add_adapter(ml_sha256 *hash, const char *path, json_t *out)
{
    ml_status st = ML_OK;
    ml_adapter a = {0};
    (void)out;
    ML_TRY(ml_adapter_read_file(&a, path));
    for (int64_t i = 0; i < a.count; i++) {
        const ml_adapter_pair *p = &a.pairs[i];
        ML_TRY(add_tensor(hash, p->module, "A", p->rank, p->in, p->a));
        ML_TRY(add_tensor(hash, p->module, "B", p->out, p->rank, p->b));
        if (p->m) ML_TRY(add_tensor(hash, p->module, "M", p->out, 1, p->m));
    }
    for (int64_t i = 0; i < a.ntensors; i++)
        ML_TRY(add_tensor(hash, "tensors", a.tensors[i].name, a.tensors[i].rows, a.tensors[i].cols,
                          a.tensors[i].value));
done:
    ml_adapter_destroy(&a);
    return st;
}

/* ---- contents that have a hash already, which is checked ----------------------------------- */

static ml_status base_digest(const char *path, char hex[ML_SHA256_HEX])
{
    ml_base *base = NULL;
    ml_status st = ml_base_open(&base, path);
    if (st == ML_OK) st = base_content_hash(base, hex);
    if (st == ML_OK && strcmp(hex, ml_base_content_hash(base)) != 0)
        st = ml_fail(ML_INPUT, "%s: the contents' SHA-256 is %.12s…, the file says %.12s…", path,
                     hex, ml_base_content_hash(base));
    ml_base_close(base);
    return st;
}

static ml_status dataset_digest(const char *path, char hex[ML_SHA256_HEX])
{
    ml_dataset *data = NULL;
    ml_status st = ml_dataset_open(&data, path);
    if (st == ML_OK) snprintf(hex, ML_SHA256_HEX, "%s", ml_dataset_hash(data));
    ml_dataset_destroy(data);
    return st;
}

/* ---- any kind ------------------------------------------------------------------------------ */

static ml_status find_digest(const char *path, const char *kind, json_t *out,
                             char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    ml_sha256 *hash = NULL;
    if (!strcmp(kind, "base")) return base_digest(path, hex);
    if (!strcmp(kind, "dataset")) return dataset_digest(path, hex);
    if (!strcmp(kind, "peft"))
        return ml_fail(
            ML_INPUT,
            "%s: a PEFT directory has no digest; adapter.h5 of the run that it came from "
            "has one",
            path);
    ML_TRY(ml_sha256_create(&hash));
    ML_TRY(strcmp(kind, "adapter") ? add_checkpoint(hash, path, out)
                                   : add_adapter(hash, path, out));
    ml_sha256_finish(hash, hex);
    hash = NULL;
done:
    ml_sha256_destroy(hash);
    return st;
}

ml_status ml_digest(const char *path, ml_text *json, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    const char *kind;
    char *text = NULL;
    json_t *o = json_object();
    ML_TRY(inspect_find_kind(path, &kind));
    json_object_set_new(o, "path", json_string(path));
    json_object_set_new(o, "kind", json_string(kind));
    ML_TRY(find_digest(path, kind, o, hex));
    json_object_set_new(o, "sha256", json_string(hex));
    text = ml_json_dump(o, JSON_COMPACT);
    if (!text) {
        st = ml_fail(ML_RESOURCE, "%s: out of memory, or its name is not UTF-8", path);
        goto done;
    }
    st = ml_text_printf(json, "%s", text);
done:
    free(text);
    json_decref(o);
    return st;
}
