/* PEFT saves embedding and head beside an adapter when it believes that they changed: after
 * resize_token_embeddings, with modules_to_save, or where it could not look the vocabulary up. When
 * it loads the directory they take the place of the base's, both ends of a tied model at once.
 * Where they are the base's own values that says nothing; else they are tensors of the adapter, as
 * if modules_to_save named them. */
#include "store/formats/peft/embeddings.h"

#include <inttypes.h>
#include <string.h>

#include "mpilora/family.h"
#include "store/adapter/adapter.h"

enum { PIECE = 1 << 20 };

static const char *const ends[] = {"embed.weight", "head.weight"};

static bool is_end(const char *name) { return !strcmp(name, ends[0]) || !strcmp(name, ends[1]); }

/* The tensor of the untied model that has this name, which within an adapted module is
 * base_layer's (`wrapped`). */
static bool find_tensor(const ml_model_spec *untied, const char *name, ml_model_tensor *found,
                        bool *wrapped)
{
    const char *prefix = untied->family->hf.prefix;
    size_t n = strlen(prefix);
    for (int64_t i = 0; i < ml_model_tensor_count(untied); i++) {
        ml_stored_place place;
        ml_model_tensor_at(untied, i, found);
        if (!is_end(found->name)) continue;
        ml_stored_place_of(untied, found, ML_FORMAT_HUGGINGFACE, &place);
        const char *own = strncmp(place.name, prefix, n) != 0 ? place.name : place.name + n;
        size_t module = strlen(own) - strlen("weight");
        if (strncmp(own, name, module) != 0) continue;
        *wrapped = !strcmp(name + module, "base_layer.weight");
        if (*wrapped || !strcmp(own, name)) return true;
    }
    return false;
}

/* As the base stores them. */
static bool are_equal(const float *a, const float *b, int64_t count, ml_dtype dtype)
{
    for (int64_t i = 0; i < count; i++) {
        float x = dtype == ML_BF16 ? ml_bf16_to_float(ml_bf16_from_float(a[i])) : a[i];
        if (x != b[i]) return false;
    }
    return true;
}

/* A piece of rows at a time. */
ml_status ml_peft_is_of_base(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                             ml_base *base, const char *name, bool *same)
{
    ml_status st = ML_OK;
    float *values = NULL;
    int64_t rows = e->shape[0], cols = e->shape[1], step = ml_max(1, PIECE / cols);
    *same = true;
    ML_NEW(values, 2 * step * cols, ML_MEM_OTHER, "rows to be compared");
    for (int64_t row = 0; row < rows && *same; row += step) {
        int64_t n = ml_min(step, rows - row), count = n * cols;
        const ml_shard shard = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{row, n}}};
        ML_TRY(ml_safetensors_read(tensors, e, row * cols, count, values));
        ML_TRY(ml_base_read(base, name, &shard, ML_FP32, values + count));
        *same = are_equal(values, values + count, count, ml_base_dtype(base));
    }
done:
    ml_memory_free(values);
    return st;
}

static const ml_adapter_tensor *find(const ml_adapter *adapter, const char *name)
{
    for (int64_t i = 0; i < adapter->ntensors; i++)
        if (!strcmp(adapter->tensors[i].name, name)) return &adapter->tensors[i];
    return NULL;
}

/* e in the place of this end; a tied model's ends may each come with a tensor, which then are one
 * and the same. */
static ml_status replace(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                         const char *end, ml_adapter *out)
{
    ml_status st = ML_OK;
    const ml_adapter_tensor *there = find(out, end);
    float *values = NULL, *scratch = NULL;
    if (!there) {
        ML_TRY(ml_adapter_add_tensor(out, end, e->shape[0], e->shape[1], &values));
        return ml_safetensors_read(tensors, e, 0, e->count, values);
    }
    ML_NEW(scratch, e->count, ML_MEM_OTHER, "an embedding");
    ML_TRY(ml_safetensors_read(tensors, e, 0, e->count, scratch));
    if (memcmp(scratch, there->value, (size_t)e->count * sizeof *scratch) != 0)
        st = ml_fail(ML_INPUT,
                     "%s: the base ties embedding and head, and the directory holds another value "
                     "for each; expected equal ones, as PEFT saves them",
                     e->name);
done:
    ml_memory_free(scratch);
    return st;
}

ml_status ml_peft_read_embedding(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                                 const char *name, ml_base *base, ml_adapter *out, bool *found)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_base_spec(base);
    ml_model_spec untied = *spec;
    ml_model_tensor t;
    bool wrapped, same;
    untied.tied_head = false;
    *found = find_tensor(&untied, name, &t, &wrapped);
    if (!*found) return ML_OK;
    if (e->dims != 2 || e->shape[0] != t.rows || e->shape[1] != t.cols)
        return ml_fail(ML_INPUT,
                       "%s: is %" PRId64 " × %" PRId64 ", the base's is %" PRId64 " × %" PRId64
                       ": import the base with the vocabulary that the adapter was trained with "
                       "(--add-tokens)",
                       e->name, e->dims > 0 ? e->shape[0] : 0, e->dims > 1 ? e->shape[1] : 0,
                       t.rows, t.cols);
    ML_TRY(ml_peft_is_of_base(tensors, e, base, spec->tied_head ? ends[0] : t.name, &same));
    if (same) return ML_OK;
    if (wrapped)
        return ml_fail(ML_INPUT,
                       "%s: differs from the base's own, and the same module has factors; a module "
                       "that trains both ways is not read: merge the adapter into its base with "
                       "PEFT (merge_and_unload), and import that",
                       e->name);
    for (int i = 0; i < 2; i++)
        if (spec->tied_head || !strcmp(t.name, ends[i])) ML_TRY(replace(tensors, e, ends[i], out));
done:
    return st;
}
