#include "store/formats/peft/masked_head.h"

#include <inttypes.h>

#include "store/adapter/adapter.h"
#include "store/formats/peft/embeddings.h"

static const char head_weight[] = "head.weight", head_bias[] = "head.bias",
                  embed_weight[] = "embed.weight";

static bool has_tensor(const ml_safetensors *tensors, const ml_family *family, const char *name)
{
    char plain[ML_PEFT_NAME];
    for (int64_t i = 0; i < ml_safetensors_count(tensors); i++) {
        ml_peft_plain_name(family, ml_safetensors_at(tensors, i)->name, plain);
        if (!strcmp(plain, name)) return true;
    }
    return false;
}

void ml_peft_find_masked_head(const ml_safetensors *tensors, ml_model_spec *spec)
{
    if (!spec->both_ways || spec->transform || spec->head != ML_HEAD_LANGUAGE) return;
    for (const ml_family_tensor *row = spec->family->tensors; row->module; row++) {
        if (row->role != ML_ROLE_TRANSFORM || row->bias ||
            !has_tensor(tensors, spec->family, row->hf.name))
            continue;
        spec->masked = true;
        if (spec->family->defaults.legacy_head)
            spec->legacy_head = row->present != ML_PRESENT_RENAMED;
    }
}

/* ---- names of Hugging Face's model ---------------------------------------------------------- */

static const ml_family_tensor *bias_row(const ml_model_spec *spec)
{
    for (const ml_family_tensor *row = spec->family->tensors; row->module; row++)
        if (row->role == ML_ROLE_HEAD && row->bias && ml_family_has(spec, row)) return row;
    return NULL;
}

/* The module of the matrix; NULL: the head multiplies with the embedding itself (DeBERTa's newer
 * names). */
static const char *matrix_of(const ml_model_spec *spec)
{
    const ml_family_tensor *bias = bias_row(spec);
    if (!bias || bias->present == ML_PRESENT_RENAMED) return NULL;
    return ml_family_end(spec->family, ML_ROLE_HEAD)->peft;
}

static bool is_named(const char *name, const char *module, const char *end)
{
    size_t n = strlen(module);
    return !strncmp(name, module, n) && !strcmp(name + n, end);
}

/* ---- read ------------------------------------------------------------------------------------ */

static ml_status check_rows(const ml_safetensors_entry *e, int64_t rows, int64_t cols)
{
    if (e->count == rows * cols && e->dims > 0 && e->shape[0] == rows) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: has %" PRId64 " rows and %" PRId64 " numbers, the base's vocabulary needs "
                   "%" PRId64 " rows of %" PRId64
                   ": import the base with the vocabulary that the adapter was trained with "
                   "(--add-tokens)",
                   e->name, e->dims > 0 ? e->shape[0] : 0, e->count, rows, cols);
}

/* Its own where it differs from the base's, which then is no longer tied. */
static ml_status read_matrix(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                             const ml_model_spec *spec, ml_base *base, ml_adapter *out)
{
    ml_status st = ML_OK;
    int64_t rows = spec->vocab, cols = ml_model_embed_width(spec);
    bool same = false;
    float *values;
    ML_TRY(check_rows(e, rows, cols));
    if (base)
        ML_TRY(ml_peft_is_of_base(tensors, e, base, spec->tied_head ? embed_weight : head_weight,
                                  &same));
    if (same) return ML_OK;
    ML_TRY(ml_adapter_add_tensor(out, head_weight, rows, cols, &values));
    st = ml_safetensors_read(tensors, e, 0, e->count, values);
done:
    return st;
}

/* The matrix's own bias is the one that counts. */
static ml_status read_bias(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                           const ml_model_spec *spec, ml_adapter *out)
{
    ml_status st = ML_OK;
    ml_adapter_tensor *there = ml_adapter_find(out, head_bias);
    float *values = there ? there->value : NULL;
    ML_TRY(check_rows(e, spec->vocab, 1));
    if (!there) ML_TRY(ml_adapter_add_tensor(out, head_bias, spec->vocab, 1, &values));
    st = ml_safetensors_read(tensors, e, 0, e->count, values);
done:
    return st;
}

ml_status ml_peft_read_masked_head(const ml_safetensors *tensors, const ml_safetensors_entry *e,
                                   const char *name, const ml_model_spec *spec, ml_base *base,
                                   ml_adapter *out, bool *found)
{
    const char *matrix = ml_model_predicts_masked(spec) ? matrix_of(spec) : NULL;
    *found = true;
    if (matrix && is_named(name, matrix, ".weight"))
        return read_matrix(tensors, e, spec, base, out);
    if (matrix && is_named(name, matrix, ".bias")) return read_bias(tensors, e, spec, out);
    *found = matrix && !strcmp(name, bias_row(spec)->hf.name) && ml_adapter_find(out, head_bias);
    return ML_OK;
}

/* ---- written --------------------------------------------------------------------------------- */

static int64_t find_item(const ml_peft_stored *s, const char *name)
{
    int64_t i = 0;
    while (i < s->count && strcmp(s->items[i].name, name) != 0) i++;
    return i;
}

/* For which ml_peft_collect_stored has left room. */
static ml_status add_item(ml_peft_stored *s, const char *module, const char *end, int64_t rows,
                          int64_t cols, bool vector, float **values)
{
    ml_status st = ML_OK;
    ml_safetensors_item *item = &s->items[s->count];
    ML_NEW(*values, rows * cols, ML_MEM_OTHER, "an exported tensor");
    *item = (ml_safetensors_item){.rows = rows, .cols = cols, .vector = vector, .values = *values};
    snprintf(item->name, sizeof item->name, "%s%s", module, end);
    s->values[s->count] = *values;
    s->filled[s->count] = s->total[s->count] = rows;
    s->bias_alone[s->count++] = false;
done:
    return st;
}

ml_status ml_peft_add_masked_head(const ml_model_spec *spec, ml_base *base, ml_peft_stored *s)
{
    ml_status st = ML_OK;
    const ml_shard whole = {.dim = ML_SHARD_WHOLE};
    const char *matrix = matrix_of(spec);
    char name[ML_PEFT_NAME];
    float *values;
    int64_t bias = find_item(s, bias_row(spec)->hf.name), rows = spec->vocab;
    if (bias < s->count) s->bias_alone[bias] = false; /* it belongs to a module that trains whole */
    if (!matrix) return ML_OK;
    snprintf(name, sizeof name, "%s.bias", matrix);
    if (bias < s->count && find_item(s, name) == s->count) {
        ML_TRY(add_item(s, matrix, ".bias", rows, 1, true, &values));
        memcpy(values, s->values[bias], (size_t)rows * sizeof *values);
    }
    snprintf(name, sizeof name, "%s.weight", matrix);
    if (find_item(s, name) == s->count) {
        ML_TRY(add_item(s, matrix, ".weight", rows, ml_model_embed_width(spec), false, &values));
        ML_TRY(ml_base_read(base, embed_weight, &whole, ML_FP32, values));
    }
done:
    return st;
}
