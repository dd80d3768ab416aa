/* Virtual tokens in PEFT directories: a row of prompt_embeddings is what our tensors have of that
 * token, one after the other. */
#include "store/formats/peft/prompt.h"

#include <inttypes.h>

#include "store/formats/peft/export.h"

static const char rows_name[] = "prompt_embeddings";

/* Our tensors that make a row, and the width of each. */
typedef struct parts {
    int64_t count, width;
} parts;

static parts parts_of(const ml_model_spec *spec, ml_method method)
{
    return method == ML_METHOD_PREFIX_KV
               ? (parts){2 * spec->layers, spec->kv_heads * spec->head_dim}
               : (parts){1, spec->width};
}

static void name_part(ml_method method, int64_t i, char name[96])
{
    if (method == ML_METHOD_PREFIX_KV)
        snprintf(name, 96, "layers.%" PRId64 ".prefix_%s", i / 2, i % 2 ? "value" : "key");
    else
        snprintf(name, 96, "embed.prefix");
}

/* ---- in ------------------------------------------------------------------------------------ */

static ml_status find_rows(const ml_peft_config *config, const ml_safetensors *tensors,
                           const parts *p, const ml_safetensors_entry **found)
{
    int64_t count = ml_safetensors_count(tensors), cols = p->count * p->width;
    const ml_safetensors_entry *e = *found = ml_safetensors_find(tensors, rows_name);
    if (config->width > 0 && config->width != p->width)
        return ml_fail(
            ML_INPUT, "adapter_config.json: token_dim: is %" PRId64 ", the base's %s is %" PRId64,
            config->width, config->keys ? "width of all key/value heads" : "width", p->width);
    if (!e) return ml_fail(ML_INPUT, "adapter_model.safetensors: %s is missing", rows_name);
    if (count > 1)
        return ml_fail(ML_INPUT,
                       "adapter_model.safetensors: has %" PRId64 " tensors, expected %s alone",
                       count, rows_name);
    if (e->dims != 2 || e->shape[0] != config->tokens || e->shape[1] != cols)
        return ml_fail(ML_INPUT,
                       "%s: is %" PRId64 " × %" PRId64 " (%d dimensions), expected %" PRId64
                       " × %" PRId64 " (num_virtual_tokens and %s)",
                       rows_name, e->dims > 0 ? e->shape[0] : 0, e->dims > 1 ? e->shape[1] : 0,
                       e->dims, config->tokens, cols,
                       config->keys ? "keys and values of the base's layers" : "the base's width");
    return ML_OK;
}

ml_status ml_peft_prompt_read(ml_adapter *out, const ml_peft_config *config,
                              const ml_safetensors *tensors, const ml_model_spec *spec)
{
    ml_status st = ML_OK;
    ml_method method = config->keys ? ML_METHOD_PREFIX_KV : ML_METHOD_PREFIX_EMBED;
    const parts p = parts_of(spec, method);
    const ml_safetensors_entry *e;
    ML_TRY(find_rows(config, tensors, &p, &e));
    out->method = method;
    out->sizes.prefix = config->tokens;
    ML_NEW(out->tensors, p.count, ML_MEM_OTHER, "an adapter");
    out->ntensors = p.count;
    for (int64_t i = 0; i < p.count; i++) {
        ml_adapter_tensor *to = &out->tensors[i];
        *to = (ml_adapter_tensor){.rows = config->tokens, .cols = p.width};
        name_part(method, i, to->name);
        ML_NEW(to->value, to->rows * to->cols, ML_MEM_OTHER, "an adapter");
        for (int64_t row = 0; row < to->rows; row++)
            ML_TRY(ml_safetensors_read(tensors, e, (row * p.count + i) * p.width, p.width,
                                       to->value + row * p.width));
    }
done:
    return st;
}

/* ---- out ----------------------------------------------------------------------------------- */

static const ml_adapter_tensor *find_part(const ml_adapter *adapter, int64_t i)
{
    char name[96];
    name_part(adapter->method, i, name);
    return ml_adapter_find(adapter, name);
}

static ml_status check(const ml_adapter *adapter, const parts *p)
{
    int64_t tokens = adapter->sizes.prefix;
    char name[96];
    if (adapter->sizes.infix > 0)
        return ml_fail(ML_USAGE,
                       "the adapter has %" PRId64
                       " virtual tokens between prompt and completion (method.infix); PEFT has "
                       "only those before a sequence, so it cannot "
                       "be exported: train with method.infix 0",
                       adapter->sizes.infix);
    for (int64_t t = 0; t < adapter->ntensors; t++)
        if (!strncmp(adapter->tensors[t].name, "score.", strlen("score.")))
            return ml_fail(ML_USAGE,
                           "a head for labels (%s) goes out beside LoRA alone, not beside method "
                           "%s; give this adapter to eval with --adapter",
                           adapter->tensors[t].name, ml_method_name(adapter->method));
    if (adapter->ntensors != p->count || tokens < 1)
        return ml_fail(ML_INPUT,
                       "the adapter has %" PRId64 " tensors for %" PRId64
                       " virtual tokens, expected %" PRId64 " tensors for at least one",
                       adapter->ntensors, tokens, p->count);
    for (int64_t i = 0; i < p->count; i++) {
        const ml_adapter_tensor *t = find_part(adapter, i);
        name_part(adapter->method, i, name);
        if (!t) return ml_fail(ML_INPUT, "the adapter has no tensor %s", name);
        if (t->rows != tokens || t->cols != p->width)
            return ml_fail(ML_INPUT,
                           "%s: is %" PRId64 " × %" PRId64 ", expected %" PRId64 " × %" PRId64
                           " (virtual tokens, width)",
                           name, t->rows, t->cols, tokens, p->width);
    }
    return ML_OK;
}

static json_t *config_of(const ml_adapter *adapter, const ml_model_spec *spec, const parts *p,
                         const char *base_name)
{
    bool keys = adapter->method == ML_METHOD_PREFIX_KV;
    json_t *config = json_pack("{s:s,s:s,s:s?,s:I,s:I,s:i,s:I,s:I,s:b}", "peft_type",
                               keys ? "PREFIX_TUNING" : "PROMPT_TUNING", "task_type", "CAUSAL_LM",
                               "base_model_name_or_path", base_name, "num_virtual_tokens",
                               (json_int_t)adapter->sizes.prefix, "token_dim", (json_int_t)p->width,
                               "num_transformer_submodules", 1, "num_attention_heads",
                               (json_int_t)(keys ? spec->kv_heads : spec->heads), "num_layers",
                               (json_int_t)spec->layers, "inference_mode", 1);
    json_t *own = keys ? json_pack("{s:b,s:I}", "prefix_projection", 0, "encoder_hidden_size",
                                   (json_int_t)p->width)
                       : json_pack("{s:s}", "prompt_tuning_init", "RANDOM");
    bool whole = config && own && json_object_update(config, own) == 0;
    json_decref(own);
    if (whole) return config;
    json_decref(config);
    return NULL;
}

ml_status ml_peft_prompt_write(const ml_adapter *adapter, const ml_model_spec *spec,
                               const char *base_name, const char *directory)
{
    ml_status st = ML_OK;
    const parts p = parts_of(spec, adapter->method);
    int64_t rows = adapter->sizes.prefix, cols = p.count * p.width;
    float *values = NULL;
    ML_TRY(check(adapter, &p));
    ML_NEW(values, rows * cols, ML_MEM_OTHER, "an exported tensor");
    for (int64_t i = 0; i < p.count; i++) {
        const float *from = find_part(adapter, i)->value;
        for (int64_t row = 0; row < rows; row++)
            memcpy(values + row * cols + i * p.width, from + row * p.width,
                   (size_t)p.width * sizeof *values);
    }
    ml_safetensors_item item = {.rows = rows, .cols = cols, .values = values};
    snprintf(item.name, sizeof item.name, "%s", rows_name);
    ML_TRY(ml_peft_write(directory, config_of(adapter, spec, &p, base_name), &item, 1));
done:
    ml_memory_free(values);
    return st;
}
