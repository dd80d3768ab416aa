/* PEFT saves embedding and head beside an adapter when it believes that they changed: after
 * resize_token_embeddings, with modules_to_save, or where it could not look the vocabulary up. When
 * it loads the directory they take the place of the base's, both ends of a tied model at once.
 * Where they are the base's own values that says nothing; else they are tensors of the adapter, as
 * if modules_to_save named them. */
#include "store/formats/peft/embeddings.h"

#include <inttypes.h>
#include <string.h>

#include "mpilora/family.h"
#include "mpilora/number.h"
#include "store/adapter/adapter.h"
#include "store/formats/peft/stored.h"

enum { PIECE = 1 << 20 };

static const char *const ends[] = {"embed.weight", "head.weight", "head.bias"};

static bool is_end(const char *name)
{
    return !strcmp(name, ends[0]) || !strcmp(name, ends[1]) || !strcmp(name, ends[2]);
}

/* What PEFT puts between the name of an adapted module and that of its own tensor. */
static const char *const wrappers[] = {"base_layer.", "token_adapter.base_layer."};

/* The tensor of the untied model that has this name, also within an adapted module (`wrapped`). */
static bool find_tensor(const ml_model_spec *untied, const char *name, ml_model_tensor *found,
                        bool *wrapped)
{
    const char *prefix = untied->family->hf.prefix;
    size_t n = strlen(prefix);
    for (int64_t i = 0; i < ml_model_tensor_count(untied); i++) {
        ml_stored_place place;
        ml_model_tensor_at(untied, i, found);
        if (!is_end(found->name)) continue;
        ml_peft_place_of(untied, found, &place);
        const char *own = strncmp(place.name, prefix, n) != 0 ? place.name : place.name + n;
        size_t module = (size_t)(strrchr(own, '.') + 1 - own);
        if (strncmp(own, name, module) != 0) continue;
        *wrapped = false;
        if (!strcmp(own, name)) return true;
        for (size_t w = 0; w < sizeof wrappers / sizeof *wrappers; w++) {
            size_t m = strlen(wrappers[w]);
            *wrapped =
                !strncmp(name + module, wrappers[w], m) && !strcmp(name + module + m, own + module);
            if (*wrapped) return true;
        }
    }
    return false;
}

static float round_to(float x, const char *type)
{
    if (!strcmp(type, "BF16")) return ml_bf16_to_float(ml_bf16_from_float(x));
    return !strcmp(type, "F16") ? ml_half_to_float(ml_half_from_float(x)) : x;
}

/* As the base stores them; with `type` also the base's own rounded to that. */
static bool are_equal(const float *a, const float *b, int64_t count, ml_dtype dtype,
                      const char *type)
{
    for (int64_t i = 0; i < count; i++) {
        float x = dtype == ML_BF16 ? ml_bf16_to_float(ml_bf16_from_float(a[i])) : a[i];
        if (x != b[i] && (!type || a[i] != round_to(b[i], type))) return false;
    }
    return true;
}

static bool is_in(const json_t *list, int64_t row)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_integer_value(json_array_get(list, i)) == row) return true;
    return false;
}

/* A piece of rows at a time. Rows of `apart` may differ, and with `type` any number by its
 * rounding to that. */
static ml_status compare(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                         ml_base *base, const char *name, const json_t *apart, const char *type,
                         bool *same)
{
    ml_status st = ML_OK;
    float *values = NULL;
    int64_t rows = e->shape[0], cols = e->dims > 1 ? e->shape[1] : 1,
            step = ml_max(1, PIECE / cols);
    *same = true;
    ML_NEW(values, 2 * step * cols, ML_MEM_OTHER, "rows to be compared");
    for (int64_t row = 0; row < rows && *same; row += step) {
        int64_t n = ml_min(step, rows - row), count = n * cols;
        const ml_shard shard = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{row, n}}};
        ML_TRY(ml_safetensors_read(tensors, e, row * cols, count, values));
        ML_TRY(ml_base_read(base, name, &shard, ML_FP32, values + count));
        for (int64_t i = 0; i < n && *same; i++) {
            const float *own = values + i * cols;
            *same = are_equal(own, own + count, cols, ml_base_dtype(base), type) ||
                    is_in(apart, row + i);
        }
    }
done:
    ml_memory_free(values);
    return st;
}

ml_status ml_peft_is_of_base(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                             ml_base *base, const char *name, bool *same)
{
    return compare(tensors, e, base, name, NULL, NULL, same);
}

/* e in the place of this end; a tied model's ends may each come with a tensor, which then are one
 * and the same. */
static ml_status replace(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                         const char *end, ml_adapter *out)
{
    ml_status st = ML_OK;
    const ml_adapter_tensor *there = ml_adapter_find(out, end);
    float *values = NULL, *scratch = NULL;
    if (!there) {
        ML_TRY(
            ml_adapter_add_tensor(out, end, e->shape[0], e->dims > 1 ? e->shape[1] : 1, &values));
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

/* Within an adapted module PEFT saves what the module had before: rounded, where the model was
 * loaded in fewer bits than the base keeps, and with rows that single tokens' own take the place
 * of. */
static ml_status check_wrapped(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                               ml_base *base, const char *name, const json_t *apart)
{
    bool same;
    ml_status st = compare(tensors, e, base, name, apart, e->dtype, &same);
    if (st != ML_OK || same) return st;
    return ml_fail(ML_INPUT,
                   "%s: differs from the base's own, and the same module has factors or rows of "
                   "single tokens; a module that trains both ways is not read: merge the adapter "
                   "into its base with PEFT (merge_and_unload), and import that",
                   e->name);
}

ml_status ml_peft_read_embedding(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                                 const char *name, ml_base *base, const ml_peft_ends *said,
                                 ml_adapter *out, bool *found)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_base_spec(base);
    ml_model_spec untied = *spec;
    ml_model_tensor t;
    bool wrapped, same;
    untied.tied_head = false;
    *found = find_tensor(&untied, name, &t, &wrapped);
    if (!*found) return ML_OK;
    bool tied = spec->tied_head && !t.vector;
    if (e->dims != (t.vector ? 1 : 2) || e->shape[0] != t.rows || e->count != t.rows * t.cols)
        return ml_fail(ML_INPUT,
                       "%s: is %" PRId64 " × %" PRId64 ", the base's is %" PRId64 " × %" PRId64
                       ": import the base with the vocabulary that the adapter was trained with "
                       "(--add-tokens)",
                       e->name, e->dims > 0 ? e->shape[0] : 0, e->dims > 1 ? e->shape[1] : 0,
                       t.rows, t.cols);
    const char *own = tied ? ends[0] : t.name;
    if (wrapped)
        return check_wrapped(tensors, e, base, own,
                             said->apart[!tied && t.row->role == ML_ROLE_HEAD]);
    ML_TRY(ml_peft_is_of_base(tensors, e, base, own, &same));
    if (same) return ML_OK;
    for (int i = 0; i < 3; i++)
        if ((tied && i < 2 && !said->saved[i]) || !strcmp(t.name, ends[i]))
            ML_TRY(replace(tensors, e, ends[i], out));
done:
    return st;
}
