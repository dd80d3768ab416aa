/* PEFT saves embedding and head beside an adapter when it believes that they changed: after
 * resize_token_embeddings, with modules_to_save, or where it could not look the vocabulary up. When
 * it loads the directory they take the place of the base's. Where they are the base's own values
 * that says nothing. */
#include "store/formats/peft/embeddings.h"

#include <inttypes.h>

#include "mpilora/family.h"

enum { PIECE = 1 << 20 };

/* The base's tensor of this name, which within an adapted module is base_layer's: a tied model's
 * head is its embedding. */
static bool find_tensor(const ml_model_spec *spec, const char *name, ml_model_tensor *found)
{
    ml_model_spec untied = *spec;
    const char *prefix = spec->family->hf.prefix;
    size_t n = strlen(prefix);
    untied.tied_head = false;
    for (int64_t i = 0; i < ml_model_tensor_count(&untied); i++) {
        ml_stored_place place;
        ml_model_tensor_at(&untied, i, found);
        if (strcmp(found->name, "embed.weight") != 0 && strcmp(found->name, "head.weight") != 0)
            continue;
        ml_stored_place_of(&untied, found, ML_FORMAT_HUGGINGFACE, &place);
        const char *own = strncmp(place.name, prefix, n) != 0 ? place.name : place.name + n;
        size_t module = strlen(own) - strlen("weight");
        if (strncmp(own, name, module) != 0) continue;
        if (strcmp(own, name) != 0 && strcmp(name + module, "base_layer.weight") != 0) continue;
        if (spec->tied_head) ml_model_tensor_at(spec, 0, found);
        return true;
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

ml_status ml_peft_check_embedding(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                                  const char *name, ml_base *base, bool *found)
{
    ml_status st = ML_OK;
    ml_model_tensor t;
    float *values = NULL;
    *found = find_tensor(ml_base_spec(base), name, &t);
    if (!*found) return ML_OK;
    if (e->dims != 2 || e->shape[0] != t.rows || e->shape[1] != t.cols)
        return ml_fail(ML_INPUT,
                       "%s: is %" PRId64 " × %" PRId64 ", the base's is %" PRId64 " × %" PRId64
                       ": import the base with the vocabulary that the adapter was trained with "
                       "(--add-tokens)",
                       e->name, e->dims > 0 ? e->shape[0] : 0, e->dims > 1 ? e->shape[1] : 0,
                       t.rows, t.cols);
    int64_t step = ml_max(1, PIECE / t.cols);
    ML_NEW(values, 2 * step * t.cols, ML_MEM_OTHER, "rows to be compared");
    for (int64_t row = 0; row < t.rows; row += step) {
        int64_t n = ml_min(step, t.rows - row), count = n * t.cols;
        const ml_shard shard = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{row, n}}};
        ML_TRY(ml_safetensors_read(tensors, e, row * t.cols, count, values));
        ML_TRY(ml_base_read(base, t.name, &shard, ML_FP32, values + count));
        if (are_equal(values, values + count, count, ml_base_dtype(base))) continue;
        st = ml_fail(ML_INPUT,
                     "%s: differs from the base's own; trained embeddings and heads are not read: "
                     "merge the adapter into its base with PEFT (merge_and_unload), and import "
                     "that",
                     e->name);
        break;
    }
done:
    ml_memory_free(values);
    return st;
}
