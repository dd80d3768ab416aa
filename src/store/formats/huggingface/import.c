/* A Hugging Face directory as a source of weights: config.json, model.safetensors or its sharded
 * index, and the tokenizer's files. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "io/json.h"
#include "mpilora/data.h"
#include "mpilora/family.h"
#include "store/base/import_private.h"
#include "store/formats/huggingface/huggingface.h"
#include "store/formats/safetensors/safetensors.h"

enum { SHARDS = 4096 };

typedef struct hf_source {
    char *directory;
    const ml_model_spec *spec;
    bool bare; /* the files' names lack the family's prefix */
    int64_t nshards;
    ml_safetensors **shards;
    char **shard_names;
    bool **expected; /* [nshards][tensors of the shard]: it is part of the model */
    float *column;   /* a stored row of a transposed tensor */
} hf_source;

static void hf_close(void *self)
{
    hf_source *h = self;
    for (int64_t i = 0; i < h->nshards; i++) {
        ml_safetensors_close(h->shards[i]);
        ml_memory_free(h->shard_names[i]);
        ml_memory_free(h->expected[i]);
    }
    ml_memory_free(h->expected);
    ml_memory_free(h->shards);
    ml_memory_free(h->shard_names);
    ml_memory_free(h->column);
    ml_memory_free(h->directory);
    ml_memory_free(h);
}

/* ---- files --------------------------------------------------------------------------------- */

static bool exists(const char *directory, const char *name)
{
    ml_text path = {0};
    struct stat about;
    bool there =
        ml_text_printf(&path, "%s/%s", directory, name) == ML_OK && stat(path.data, &about) == 0;
    ml_text_destroy(&path);
    return there;
}

static ml_status open_shard(hf_source *h, const char *name)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    for (int64_t i = 0; i < h->nshards; i++)
        if (!strcmp(h->shard_names[i], name)) return ML_OK;
    if (h->nshards == SHARDS)
        return ml_fail(ML_INPUT, "%s: more than %d shards", h->directory, (int)SHARDS);
    ML_TRY(ml_text_printf(&path, "%s/%s", h->directory, name));
    ML_TRY(ml_safetensors_open(&h->shards[h->nshards], path.data));
    int64_t i = h->nshards++;
    h->shard_names[i] = ml_memory_string(name);
    if (!h->shard_names[i]) st = ML_RESOURCE;
    if (st == ML_OK)
        ML_NEW(h->expected[i], ml_safetensors_count(h->shards[i]), ML_MEM_OTHER,
               "a table of tensors");
done:
    ml_text_destroy(&path);
    return st;
}

static bool is_basename(const char *name)
{
    return name && *name && *name != '.' && !strchr(name, '/') && !strchr(name, '\\');
}

static ml_status open_index(hf_source *h, const char *name)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    json_t *root = NULL, *file;
    const char *tensor;
    ML_TRY(ml_text_printf(&path, "%s/%s", h->directory, name));
    ML_TRY(ml_json_read_file(&root, path.data, false));
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        st = ml_fail(ML_INPUT, "%s: weight_map: expected an object", path.data);
    json_object_foreach(map, tensor, file)
    {
        const char *shard = json_string_value(file);
        if (!is_basename(shard))
            st = ml_fail(ML_INPUT, "%s: %s: \"%s\" is not the name of a file beside it", path.data,
                         tensor, shard ? shard : "(not a text)");
        if (st == ML_OK) st = open_shard(h, shard);
        if (st != ML_OK) goto done;
        for (int64_t i = 0; i < h->nshards; i++)
            if (!strcmp(h->shard_names[i], shard) && !ml_safetensors_find(h->shards[i], tensor))
                st = ml_fail(ML_INPUT, "%s: %s should be in %s, but is not there", path.data,
                             tensor, shard);
    }
done:
    json_decref(root);
    ml_text_destroy(&path);
    return st;
}

static ml_status open_weights(hf_source *h)
{
    static const char single[] = "model.safetensors", sharded[] = "model.safetensors.index.json";
    if (exists(h->directory, single)) return open_shard(h, single);
    if (exists(h->directory, sharded)) return open_index(h, sharded);
    return ml_fail(ML_INPUT, "%s: no weights there: expected %s or %s%s", h->directory, single,
                   sharded,
                   exists(h->directory, "pytorch_model.bin")
                       ? " (pytorch_model.bin is not read: save it as safetensors)"
                       : "");
}

/* ---- tensors ------------------------------------------------------------------------------- */

static const ml_safetensors_entry *find(const hf_source *h, const char *name, int64_t *shard)
{
    for (*shard = 0; *shard < h->nshards; ++*shard) {
        const ml_safetensors_entry *entry = ml_safetensors_find(h->shards[*shard], name);
        if (entry) return entry;
    }
    return NULL;
}

/* The name that a tensor has in these files. */
static void find_place(const hf_source *h, const ml_model_tensor *t, ml_stored_place *place)
{
    const char *prefix = h->spec->family->hf.prefix;
    size_t n = strlen(prefix);
    ml_stored_place_of(h->spec, t, ML_FORMAT_HUGGINGFACE, place);
    if (h->bare && !strncmp(place->name, prefix, n))
        memmove(place->name, place->name + n, strlen(place->name + n) + 1);
}

static bool is_transposed(const ml_model_tensor *t, const ml_stored_place *place)
{
    return place->layout == ML_LAYOUT_TRANSPOSED && !t->vector;
}

static ml_status check_shape(const hf_source *h, const ml_model_tensor *t,
                             const ml_stored_place *place, const ml_safetensors_entry *entry)
{
    bool transposed = is_transposed(t, place);
    int64_t want[2] = {transposed ? t->cols : place->total, transposed ? place->total : t->cols};
    int dims = t->vector ? 1 : 2;
    if (entry->dims == dims && entry->shape[0] == want[0] &&
        (t->vector || entry->shape[1] == want[1]))
        return ML_OK;
    char found[96] = "";
    size_t used = 0;
    for (int i = 0; i < entry->dims && used < sizeof found; i++)
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%" PRId64, i ? ", " : "",
                                 entry->shape[i]);
    if (t->vector)
        return ml_fail(ML_INPUT, "%s: %s has shape [%s], expected [%" PRId64 "]", h->directory,
                       entry->name, found, want[0]);
    return ml_fail(ML_INPUT, "%s: %s has shape [%s], expected [%" PRId64 ", %" PRId64 "]",
                   h->directory, entry->name, found, want[0], want[1]);
}

static bool is_known_type(const char *dtype)
{
    return !strcmp(dtype, "F32") || !strcmp(dtype, "F16") || !strcmp(dtype, "BF16");
}

/* And marks what it finds as expected. */
static ml_status check_tensor(hf_source *h, const ml_model_tensor *t)
{
    ml_stored_place place;
    int64_t shard;
    find_place(h, t, &place);
    const ml_safetensors_entry *entry = find(h, place.name, &shard);
    if (!entry) return ml_fail(ML_INPUT, "%s: tensor %s is missing", h->directory, place.name);
    h->expected[shard][entry - ml_safetensors_at(h->shards[shard], 0)] = true;
    if (!is_known_type(entry->dtype))
        return ml_fail(ML_INPUT, "%s: %s has type %s, expected F32, F16 or BF16", h->directory,
                       place.name, entry->dtype);
    return check_shape(h, t, &place, entry);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

/* Buffers that old versions saved, and a head that is the embedding again. */
static bool is_ignored(const hf_source *h, const char *name)
{
    if (h->spec->tied_head && !strcmp(name, "lm_head.weight")) return true;
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
           ends_with(name, "rotary_emb.inv_freq");
}

static ml_status check_tensors(hf_source *h)
{
    for (int64_t i = 0; i < ml_model_tensor_count(h->spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(h->spec, i, &t);
        ml_status st = check_tensor(h, &t);
        if (st != ML_OK) return st;
    }
    for (int64_t s = 0; s < h->nshards; s++) {
        for (int64_t i = 0; i < ml_safetensors_count(h->shards[s]); i++) {
            const char *name = ml_safetensors_at(h->shards[s], i)->name;
            if (!is_ignored(h, name) && !h->expected[s][i])
                return ml_fail(ML_INPUT,
                               "%s: tensor %s is not part of the model that config.json describes, "
                               "or stands in two files",
                               h->directory, name);
        }
    }
    return ML_OK;
}

/* Rows first … of the transpose: elements of each stored row. */
static ml_status read_transposed(hf_source *h, const ml_safetensors *file,
                                 const ml_safetensors_entry *entry, int64_t first, int64_t count,
                                 float *out)
{
    int64_t stored_rows = entry->shape[0], stored_cols = entry->shape[1];
    for (int64_t j = 0; j < stored_rows; j++) {
        ml_status st = ml_safetensors_read(file, entry, j * stored_cols + first, count, h->column);
        if (st != ML_OK) return st;
        for (int64_t i = 0; i < count; i++) out[i * stored_rows + j] = h->column[i];
    }
    return ML_OK;
}

static ml_status hf_read_rows(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                              float *out)
{
    hf_source *h = self;
    ml_stored_place place;
    int64_t shard;
    find_place(h, t, &place);
    const ml_safetensors_entry *entry = find(h, place.name, &shard);
    const ml_safetensors *file = h->shards[shard];
    if (is_transposed(t, &place))
        return read_transposed(h, file, entry, place.first + first, count, out);
    return ml_safetensors_read(file, entry, (place.first + first) * t->cols, count * t->cols, out);
}

/* ---- opening ------------------------------------------------------------------------------- */

static ml_status add_hash(const hf_source *h, const char *name, ml_text *list)
{
    ml_text path = {0};
    char hex[ML_SHA256_HEX];
    ml_status st = ml_text_printf(&path, "%s/%s", h->directory, name);
    if (st == ML_OK && exists(h->directory, name)) {
        st = ml_sha256_of_file(path.data, hex);
        if (st == ML_OK) st = ml_text_printf(list, "%s %s\n", name, hex);
    }
    ml_text_destroy(&path);
    return st;
}

static ml_status hash_source(const hf_source *h, const ml_text *tokenizer, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    ml_text list = {0};
    ML_TRY(add_hash(h, "config.json", &list));
    for (int64_t i = 0; i < h->nshards; i++) ML_TRY(add_hash(h, h->shard_names[i], &list));
    ML_TRY(ml_text_add(&list, tokenizer->data, tokenizer->length));
    ml_sha256_of(list.data, (size_t)list.length, hex);
done:
    ml_text_destroy(&list);
    return st;
}

static ml_status find_prefix(hf_source *h)
{
    ml_model_tensor embed;
    ml_stored_place place;
    char whole[sizeof place.name];
    int64_t shard;
    ml_model_tensor_at(h->spec, 0, &embed);
    find_place(h, &embed, &place);
    if (find(h, place.name, &shard)) return ML_OK;
    memcpy(whole, place.name, sizeof whole);
    h->bare = true;
    find_place(h, &embed, &place);
    if (find(h, place.name, &shard)) return ML_OK;
    return ml_fail(ML_INPUT, "%s: tensor %s is missing (also without its prefix)", h->directory,
                   whole);
}

ml_status import_open_huggingface(import_source *out, const char *directory)
{
    ml_status st = ML_OK;
    hf_source *h = NULL;
    ml_text path = {0};
    bool found;
    ML_NEW(h, 1, ML_MEM_OTHER, "a source");
    out->self = h;
    out->close = hf_close;
    out->read_rows = hf_read_rows;
    h->spec = &out->spec;
    h->directory = ml_memory_string(directory);
    if (!h->directory) return ML_RESOURCE;
    ML_NEW(h->shards, SHARDS, ML_MEM_OTHER, "shards");
    ML_NEW(h->shard_names, SHARDS, ML_MEM_OTHER, "shards");
    ML_NEW(h->expected, SHARDS, ML_MEM_OTHER, "shards");
    ML_TRY(ml_text_printf(&path, "%s/config.json", directory));
    ML_TRY(hf_config_read(path.data, &out->spec));
    ML_TRY(open_weights(h));
    ML_TRY(find_prefix(h));
    ML_TRY(check_tensors(h));
    int64_t widest = ml_max(ml_extent_size(&out->spec, ML_EXTENT_QKV),
                            ml_max(out->spec.mlp_width, out->spec.vocab));
    ML_NEW(h->column, widest, ML_MEM_OTHER, "a row");
    ML_TRY(ml_tokenizer_from_directory(directory, &out->tokenizer, &found));
    ML_TRY(hash_source(h, &out->tokenizer, out->hash));
done:
    ml_text_destroy(&path);
    return st;
}
