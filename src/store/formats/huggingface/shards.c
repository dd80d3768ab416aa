/* The weights' files of a Hugging Face directory: one, or several with an index.
 *
 * transformers 5.24 opens every file that the index names, in the order of their names, and a
 * tensor that stands in several is the last one's: what weight_map says of it is not looked at. A
 * base file has to mean the same model, so the same is done here, and said where the index means
 * another file: an overlay that was meant to win may lose by its name. */
#include "store/formats/huggingface/shards.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char single[] = "model.safetensors", sharded[] = "model.safetensors.index.json";

const ml_json_key hf_index_keys[] = {
    {"weight_map", ML_JSON_OBJECT}, {"weight_map.*", ML_JSON_TEXT}, {NULL, 0}};

bool hf_has_file(const char *directory, const char *name)
{
    ml_text path = {0};
    struct stat about;
    bool there =
        ml_text_printf(&path, "%s/%s", directory, name) == ML_OK && stat(path.data, &about) == 0;
    ml_text_destroy(&path);
    return there;
}

void hf_shards_close(hf_shards *s)
{
    for (int64_t i = 0; i < s->count; i++) {
        if (s->file) ml_safetensors_close(s->file[i]);
        if (s->name) ml_memory_free(s->name[i]);
        if (s->needed) ml_memory_free(s->needed[i]);
    }
    ml_memory_free(s->file);
    ml_memory_free(s->name);
    ml_memory_free(s->needed);
    ml_memory_free(s->directory);
    json_decref(s->index);
    *s = (hf_shards){0};
}

/* ---- opening ------------------------------------------------------------------------------- */

static bool is_basename(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && !strchr(name, '\\');
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different names among `all`, sorted, into s->name. */
static ml_status keep_names(hf_shards *s, const char **all, int64_t count)
{
    ml_status st = ML_OK;
    qsort(all, (size_t)count, sizeof *all, by_name);
    ML_NEW(s->name, count, ML_MEM_OTHER, "shards");
    ML_NEW(s->file, count, ML_MEM_OTHER, "shards");
    ML_NEW(s->needed, count, ML_MEM_OTHER, "shards");
    for (int64_t i = 0; i < count; i++) {
        if (i > 0 && !strcmp(all[i], all[i - 1])) continue;
        if (!(s->name[s->count++] = ml_memory_string(all[i]))) return ML_RESOURCE;
    }
done:
    return st;
}

static ml_status open_files(hf_shards *s)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    for (int64_t i = 0; i < s->count; i++) {
        path.length = 0;
        ML_TRY(ml_text_printf(&path, "%s/%s", s->directory, s->name[i]));
        ML_TRY(ml_safetensors_open(&s->file[i], path.data));
        ML_NEW(s->needed[i], ml_safetensors_count(s->file[i]), ML_MEM_OTHER, "a table of tensors");
    }
done:
    ml_text_destroy(&path);
    return st;
}

/* The index, and the files that it names. */
static ml_status read_index(hf_shards *s)
{
    ml_status st = ML_OK;
    ml_text path = {0};
    const char *tensor, **names = NULL;
    json_t *name;
    int64_t count = 0;
    ML_TRY(ml_text_printf(&path, "%s/%s", s->directory, sharded));
    ML_TRY(ml_json_read_file(&s->index, path.data, false));
    st = ml_json_check(s->index, hf_index_keys);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path.data);
    if (st != ML_OK) goto done;
    json_t *map = json_object_get(s->index, "weight_map");
    if (json_object_size(map) == 0) {
        st = ml_fail(ML_INPUT, "%s: \"weight_map\" names no tensor", path.data);
        goto done;
    }
    ML_NEW(names, (int64_t)json_object_size(map), ML_MEM_OTHER, "names of shards");
    json_object_foreach(map, tensor, name)
    {
        names[count++] = json_string_value(name);
        if (is_basename(json_string_value(name))) continue;
        st = ml_fail(ML_INPUT, "%s: %s: \"%s\" is not the name of a file beside it", path.data,
                     tensor, json_string_value(name));
        goto done;
    }
    ML_TRY(keep_names(s, names, count));
done:
    ml_memory_free(names);
    ml_text_destroy(&path);
    return st;
}

/* That every tensor of the index is in its file: else the directory is not whole. */
static ml_status check_index(const hf_shards *s)
{
    const char *tensor;
    json_t *name;
    json_object_foreach(json_object_get(s->index, "weight_map"), tensor, name)
    {
        int64_t i = 0;
        while (strcmp(s->name[i], json_string_value(name)) != 0) i++;
        if (!ml_safetensors_find(s->file[i], tensor))
            return ml_fail(ML_INPUT, "%s/%s: %s should be in %s, but is not there", s->directory,
                           sharded, tensor, s->name[i]);
    }
    return ML_OK;
}

ml_status hf_shards_open(hf_shards *s, const char *directory)
{
    ml_status st = ML_OK;
    const char *alone = single;
    *s = (hf_shards){.directory = ml_memory_string(directory)};
    if (!s->directory) return ML_RESOURCE;
    if (!hf_has_file(directory, single) && !hf_has_file(directory, sharded))
        return ml_fail(ML_INPUT, "%s: no weights there: expected %s or %s%s", directory, single,
                       sharded,
                       hf_has_file(directory, "pytorch_model.bin")
                           ? " (pytorch_model.bin is not read: save it as safetensors)"
                           : "");
    ML_TRY(hf_has_file(directory, single) ? keep_names(s, &alone, 1) : read_index(s));
    ML_TRY(open_files(s));
    if (s->index) ML_TRY(check_index(s));
done:
    return st;
}

/* ---- tensors ------------------------------------------------------------------------------- */

hf_place hf_shards_find(const hf_shards *s, const char *name)
{
    hf_place place = {s->count - 1, NULL};
    for (; place.shard >= 0; place.shard--)
        if ((place.entry = ml_safetensors_find(s->file[place.shard], name))) break;
    return place;
}

ml_status hf_shards_share(hf_shards *s, ml_window *window)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < s->count; i++) ML_TRY(ml_safetensors_share(s->file[i], window));
done:
    return st;
}

ml_status hf_shards_read(const hf_shards *s, hf_place place, int64_t first, int64_t count,
                         float *out)
{
    return ml_safetensors_read(s->file[place.shard], place.entry, first, count, out);
}

ml_status hf_shards_read_bytes(const hf_shards *s, hf_place place, int64_t first, int64_t count,
                               void *out)
{
    return ml_safetensors_read_bytes(s->file[place.shard], place.entry, first, count, out);
}

void hf_shards_warn_of_overlays(const hf_shards *s)
{
    const char *tensor, *first = NULL;
    json_t *meant;
    int64_t others = 0;
    json_object_foreach(json_object_get(s->index, "weight_map"), tensor, meant)
    {
        hf_place place = hf_shards_find(s, tensor);
        if (!s->needed[place.shard][place.entry - ml_safetensors_at(s->file[place.shard], 0)] ||
            !strcmp(s->name[place.shard], json_string_value(meant)))
            continue;
        if (others++ == 0) first = tensor;
    }
    if (others == 0) return;
    hf_place place = hf_shards_find(s, first);
    const char *named =
        json_string_value(json_object_get(json_object_get(s->index, "weight_map"), first));
    ml_warn("%s: %s says that %s is in %s, but %s has it, too: the last file by name is taken, as "
            "transformers does (%" PRId64 " such tensors)",
            s->directory, sharded, first, named, s->name[place.shard], others);
}
