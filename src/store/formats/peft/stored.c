/* A tensor of Hugging Face's model is one of ours, or several side by side (c_attn, qkv_proj), or
 * lies turned (Conv1D): read, it is cut into ours; written, it is put together again. */
#include "store/formats/peft/stored.h"

#include <inttypes.h>

#include "store/adapter/adapter.h"

/* `former` and what follows as `name` and that, where `text` begins so. */
static void rename_head(const char *former, const char *name, char *text, size_t size)
{
    char rest[ML_PEFT_NAME];
    size_t n = strlen(former);
    if (strncmp(text, former, n) != 0 || text[n] != '.') return;
    snprintf(rest, sizeof rest, "%s", text + n);
    snprintf(text, size, "%s%s", name, rest);
}

void ml_peft_plain_name(const ml_family *family, const char *name, char plain[ML_PEFT_NAME])
{
    static const char wrapper[] = "base_model.model.", compiled[] = "_orig_mod.";
    size_t used = 0;
    while (*name && used + 1 < ML_PEFT_NAME) {
        if (!strncmp(name, compiled, sizeof compiled - 1))
            name += sizeof compiled - 1;
        else
            plain[used++] = *name++;
    }
    plain[used] = '\0';
    if (!strncmp(plain, wrapper, sizeof wrapper - 1))
        memmove(plain, plain + sizeof wrapper - 1, strlen(plain + sizeof wrapper - 1) + 1);
    if (family->hf.former_head)
        rename_head(family->hf.former_head, ml_family_end(family, ML_ROLE_HEAD)->peft, plain,
                    ML_PEFT_NAME);
}

void ml_peft_place_of(const ml_model_spec *spec, const ml_model_tensor *t, ml_stored_place *place)
{
    ml_stored_place_of(spec, t, ML_FORMAT_HUGGINGFACE, place);
    if (spec->family->hf.former_head && t->row->role == ML_ROLE_HEAD)
        rename_head(spec->family->hf.former_head, t->row->peft, place->name, sizeof place->name);
}

static bool is_turned(const ml_model_tensor *t, const ml_stored_place *place)
{
    return place->layout == ML_LAYOUT_TRANSPOSED && !t->vector;
}

bool ml_peft_is_stored(const ml_model_spec *untied, const ml_model_tensor *t, const char *name)
{
    const char *prefix = untied->family->hf.prefix;
    size_t n = strlen(prefix);
    ml_stored_place place;
    ml_peft_place_of(untied, t, &place);
    return !strcmp(strncmp(place.name, prefix, n) != 0 ? place.name : place.name + n, name);
}

/* Of element (i, j) of the tensor within what is stored. */
static int64_t place_of(const ml_model_tensor *t, const ml_stored_place *place, int64_t i,
                        int64_t j)
{
    int64_t row = ml_stored_row(place, i);
    return is_turned(t, place) ? j * place->total + row : row * t->cols + j;
}

/* ---- read ---------------------------------------------------------------------------------- */

static ml_status check_shape(const ml_safetensors_entry *e, const ml_model_tensor *t,
                             const ml_stored_place *place)
{
    bool turned = is_turned(t, place), by_head = place->layout == ML_LAYOUT_BY_HEAD;
    int64_t rows = turned ? t->cols : place->total, cols = turned ? place->total : t->cols;
    if (place->pieces > 1)
        return ml_fail(ML_INPUT,
                       "%s: the model has a tensor for each head here, which is not read; merge "
                       "the adapter into its base with PEFT first",
                       e->name);
    if (e->count == rows * cols &&
        (by_head || (e->dims == (t->vector ? 1 : 2) && e->shape[0] == rows)))
        return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: has %" PRId64 " rows and %" PRId64 " numbers, the base's has %" PRId64
                   " rows of %" PRId64 ": import the base with the vocabulary that the adapter was "
                   "trained with (--add-tokens)",
                   e->name, e->dims > 0 ? e->shape[0] : 0, e->count, rows, cols);
}

static ml_status read_part(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                           const ml_model_tensor *t, const ml_stored_place *place, ml_adapter *out)
{
    ml_status st = ML_OK;
    float *values, *whole = NULL;
    ML_TRY(check_shape(e, t, place));
    ML_TRY(ml_adapter_add_tensor(out, t->name, t->rows, t->cols, &values));
    if (place->layout == ML_LAYOUT_PLAIN && place->total == t->rows) {
        st = ml_safetensors_read(tensors, e, 0, e->count, values);
        goto done;
    }
    ML_NEW(whole, e->count, ML_MEM_OTHER, "a tensor of several parts");
    ML_TRY(ml_safetensors_read(tensors, e, 0, e->count, whole));
    for (int64_t i = 0; i < t->rows; i++)
        for (int64_t j = 0; j < t->cols; j++)
            values[i * t->cols + j] = whole[place_of(t, place, i, j)];
done:
    ml_memory_free(whole);
    return st;
}

ml_status ml_peft_read_stored(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                              const char *name, const ml_model_spec *untied, ml_adapter *out)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < ml_model_tensor_count(untied); i++) {
        ml_model_tensor t;
        ml_stored_place place;
        ml_model_tensor_at(untied, i, &t);
        if (!ml_peft_is_stored(untied, &t, name)) continue;
        ml_peft_place_of(untied, &t, &place);
        ML_TRY(read_part(tensors, e, &t, &place, out));
    }
done:
    return st;
}

/* ---- written ------------------------------------------------------------------------------- */

bool ml_peft_is_bias_alone(const ml_adapter *adapter, const ml_model_spec *untied,
                           const ml_model_tensor *t)
{
    char weight[sizeof t->name];
    (void)untied;
    size_t n = strlen(t->name), end = strlen(".bias");
    if (n < end || strcmp(t->name + n - end, ".bias") != 0) return false;
    snprintf(weight, sizeof weight, "%.*s.weight", (int)(n - end < 80 ? n - end : 80), t->name);
    return !ml_adapter_find(adapter, weight);
}

void ml_peft_stored_destroy(ml_peft_stored *s)
{
    for (int64_t i = 0; s->values && i < s->count; i++) ml_memory_free(s->values[i]);
    ml_memory_free(s->items);
    ml_memory_free(s->values);
    ml_memory_free(s->filled);
    ml_memory_free(s->total);
    ml_memory_free(s->bias_alone);
    *s = (ml_peft_stored){0};
}

/* The item of this name, begun where there is none yet. */
static ml_status find_item(ml_peft_stored *s, const ml_model_tensor *t,
                           const ml_stored_place *place, int64_t *found)
{
    ml_status st = ML_OK;
    bool turned = is_turned(t, place);
    for (*found = 0; *found < s->count; ++*found)
        if (!strcmp(s->items[*found].name, place->name)) return ML_OK;
    if (place->pieces > 1 || place->layout == ML_LAYOUT_BY_HEAD)
        return ml_fail(ML_USAGE,
                       "%s: Hugging Face's model has it by heads, so it does not go into a PEFT "
                       "directory; merge the adapter instead",
                       t->name);
    s->count++;
    s->items[*found] = (ml_safetensors_item){.rows = turned ? t->cols : place->total,
                                             .cols = turned ? place->total : t->cols,
                                             .vector = t->vector};
    snprintf(s->items[*found].name, sizeof s->items->name, "%s", place->name);
    s->total[*found] = place->total;
    ML_NEW(s->values[*found], place->total * t->cols, ML_MEM_OTHER, "an exported tensor");
    s->items[*found].values = s->values[*found];
done:
    return st;
}

ml_status ml_peft_collect_stored(const ml_adapter *adapter, const ml_model_spec *untied,
                                 ml_peft_stored *s)
{
    ml_status st = ML_OK;
    int64_t most = adapter->ntensors + 2; /* a head for masked tokens may need two more */
    ML_NEW(s->items, most, ML_MEM_OTHER, "exported tensors");
    ML_NEW(s->values, most, ML_MEM_OTHER, "exported tensors");
    ML_NEW(s->filled, most, ML_MEM_OTHER, "exported tensors");
    ML_NEW(s->total, most, ML_MEM_OTHER, "exported tensors");
    ML_NEW(s->bias_alone, most, ML_MEM_OTHER, "exported tensors");
    for (int64_t at = 0; at < ml_model_tensor_count(untied); at++) {
        ml_model_tensor t;
        ml_stored_place place;
        int64_t item;
        ml_model_tensor_at(untied, at, &t);
        const ml_adapter_tensor *from = ml_adapter_find(adapter, t.name);
        if (!from) continue;
        ml_peft_place_of(untied, &t, &place);
        ML_TRY(find_item(s, &t, &place, &item));
        for (int64_t i = 0; i < t.rows; i++)
            for (int64_t j = 0; j < t.cols; j++)
                s->values[item][place_of(&t, &place, i, j)] = from->value[i * t.cols + j];
        s->filled[item] += t.rows;
        s->bias_alone[item] = ml_peft_is_bias_alone(adapter, untied, &t);
    }
    for (int64_t i = 0; i < s->count; i++)
        if (s->filled[i] != s->total[i])
            return ml_fail(ML_USAGE,
                           "%s: only a part of this tensor of Hugging Face's model trained, so it "
                           "does not go into a PEFT directory; merge the adapter instead",
                           s->items[i].name);
done:
    return st;
}
