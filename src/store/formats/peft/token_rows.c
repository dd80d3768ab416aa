/* trainable_token_indices: a list of tokens of the embedding, or lists by the names of modules.
 * What PEFT calls trainable_tokens_delta are the new rows themselves. On a model whose head is tied
 * PEFT lets the head follow; lists that differ between the two, or of the head alone, would take
 * them apart, which the rows of an adapter here do not say. */
#include "store/formats/peft/token_rows.h"

#include <inttypes.h>
#include <stdlib.h>

#include "store/adapter/adapter.h"

const char ml_peft_token_factor[] = "token_adapter.trainable_tokens_delta";
static const char key_name[] = "trainable_token_indices";
enum { PATH = 80 };

static const ml_family_tensor *end_of(const ml_model_spec *spec, bool head, char path[PATH])
{
    const ml_family_tensor *row = ml_family_end(spec->family, head ? ML_ROLE_HEAD : ML_ROLE_EMBED);
    ml_peft_path(spec->family, row, -1, path, PATH);
    return row;
}

/* PEFT takes any end of a path. */
static bool ends_with(const char *path, const char *name)
{
    size_t n = strlen(path), m = strlen(name);
    return m > 0 && m <= n && !strcmp(path + n - m, name);
}

static ml_status find_lists(const json_t *value, const ml_model_spec *spec, const json_t *list[2])
{
    const char *key;
    json_t *one;
    json_object_foreach((json_t *)(uintptr_t)value, key, one)
    {
        bool found = false;
        for (int head = 0; head < 2; head++) {
            char path[PATH];
            end_of(spec, head, path);
            if (!ends_with(path, key)) continue;
            list[head] = one;
            found = true;
        }
        if (!found)
            return ml_fail(ML_INPUT,
                           "%s: \"%.60s\" is neither the embedding nor the head of this "
                           "model",
                           key_name, key);
    }
    return ML_OK;
}

ml_status ml_peft_token_list(const ml_peft_config *config, const ml_model_spec *spec, bool head,
                             const json_t **out)
{
    const json_t *value = json_object_get(config->json, key_name), *list[2] = {NULL, NULL};
    if (json_is_array(value)) list[0] = value;
    ml_status st = json_is_object(value) ? find_lists(value, spec, list) : ML_OK;
    if (st == ML_OK && spec->tied_head && list[1]) {
        if (!list[0] || !json_equal(list[0], list[1]))
            return ml_fail(ML_INPUT,
                           "%s: has rows of the head that are not the embedding's, but the base "
                           "ties them; merge the adapter into its base with PEFT first",
                           key_name);
        list[1] = NULL;
    }
    *out = list[head] && json_array_size(list[head]) > 0 ? list[head] : NULL;
    return st;
}

/* ---- rows ---------------------------------------------------------------------------------- */

typedef struct place {
    int64_t id, row;
} place;

static int by_id(const void *a, const void *b)
{
    const place *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static ml_status sort_ids(const json_t *list, int64_t vocab, place *places)
{
    int64_t n = (int64_t)json_array_size(list);
    for (int64_t i = 0; i < n; i++) {
        json_int_t id = json_integer_value(json_array_get(list, (size_t)i));
        places[i] = (place){id, i};
        if (id < 0 || id >= vocab)
            return ml_fail(ML_INPUT,
                           "%s: token %" JSON_INTEGER_FORMAT " is not one of the base's %" PRId64
                           "; import the base with the tokens that the adapter has (--add-tokens)",
                           key_name, id, vocab);
    }
    qsort(places, (size_t)n, sizeof *places, by_id);
    for (int64_t i = 1; i < n; i++)
        if (places[i].id == places[i - 1].id)
            return ml_fail(ML_INPUT, "%s: token %" PRId64 " stands there twice", key_name,
                           places[i].id);
    return ML_OK;
}

ml_status ml_peft_read_tokens(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                              const json_t *list, const ml_model_spec *spec, bool head,
                              ml_adapter *out)
{
    ml_status st = ML_OK;
    place *places = NULL;
    float *rows, *ids;
    int64_t n = (int64_t)json_array_size(list), d;
    ml_model_tensor embed; /* as wide as the head's rows */
    ml_model_tensor_at(spec, 0, &embed);
    d = embed.cols;
    if (e->dims != 2 || e->shape[0] != n || e->shape[1] != d)
        return ml_fail(ML_INPUT,
                       "%s: is %" PRId64 " × %" PRId64 ", expected %" PRId64 " × %" PRId64
                       ", a row for each of %s",
                       e->name, e->dims > 0 ? e->shape[0] : 0, e->dims > 1 ? e->shape[1] : 0, n, d,
                       key_name);
    ML_NEW(places, n, ML_MEM_OTHER, "trained tokens");
    ML_TRY(sort_ids(list, spec->vocab, places));
    ML_TRY(ml_adapter_add_tensor(out, head ? "head.tokens" : "embed.tokens", n, d, &rows));
    for (int64_t i = 0; i < n; i++)
        ML_TRY(ml_safetensors_read(tensors, e, places[i].row * d, d, rows + i * d));
    ML_TRY(ml_adapter_add_tensor(out, head ? "head.token_ids" : "embed.token_ids", n, 1, &ids));
    for (int64_t i = 0; i < n; i++) ids[i] = (float)places[i].id;
done:
    ml_memory_free(places);
    return st;
}

ml_status ml_peft_check_tokens(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                               const json_t *list, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    const ml_adapter_tensor *rows = ml_adapter_find(adapter, "embed.tokens");
    place *places = NULL;
    float *values = NULL;
    bool same = rows && e->dims == 2 && e->shape[0] == rows->rows && e->shape[1] == rows->cols;
    if (same) {
        ML_NEW(places, rows->rows, ML_MEM_OTHER, "trained tokens");
        ML_NEW(values, e->count, ML_MEM_OTHER, "rows of trained tokens");
        ML_TRY(sort_ids(list, INT32_MAX, places));
        ML_TRY(ml_safetensors_read(tensors, e, 0, e->count, values));
        for (int64_t i = 0; i < rows->rows && same; i++)
            same = !memcmp(values + places[i].row * rows->cols, rows->value + i * rows->cols,
                           (size_t)rows->cols * sizeof *values);
    }
    if (!same)
        st = ml_fail(ML_INPUT,
                     "%s: the base ties embedding and head, and the directory holds other rows for "
                     "each; expected equal ones, as PEFT saves them",
                     e->name);
done:
    ml_memory_free(places);
    ml_memory_free(values);
    return st;
}

/* ---- written ------------------------------------------------------------------------------- */

json_t *ml_peft_token_indices(const ml_adapter *adapter, const ml_model_spec *spec)
{
    json_t *object = json_object();
    for (int head = 0; head < 2; head++) {
        const ml_adapter_tensor *ids =
            ml_adapter_find(adapter, head ? "head.token_ids" : "embed.token_ids");
        char path[PATH];
        if (!ids) continue;
        json_t *list = json_array();
        for (int64_t i = 0; i < ids->rows; i++)
            json_array_append_new(list, json_integer((json_int_t)ids->value[i]));
        end_of(spec, head, path);
        json_object_set_new(object, path, list);
    }
    if (json_object_size(object) > 0) return object;
    json_decref(object);
    return json_null();
}

void ml_peft_put_tokens(const ml_adapter *adapter, const ml_model_spec *spec,
                        ml_safetensors_item *items, int64_t *count)
{
    for (int head = 0; head < 2; head++) {
        const ml_adapter_tensor *rows =
            ml_adapter_find(adapter, head ? "head.tokens" : "embed.tokens");
        char path[PATH];
        if (!rows) continue;
        ml_safetensors_item *to = &items[(*count)++];
        *to = (ml_safetensors_item){.rows = rows->rows, .cols = rows->cols, .values = rows->value};
        end_of(spec, head, path);
        snprintf(to->name, sizeof to->name, "base_model.model.%s.%s", path, ml_peft_token_factor);
    }
}
