/* Virtual tokens before a sequence as PEFT's prompt tuning: it puts trained embeddings before those of the words and adds positions from 0 to all of them, as
 * prefix_embed does. Tokens between prompt and completion PEFT does not have. */
#include <inttypes.h>

#include "store/peft_export.h"

static ml_status check(const ml_adapter *adapter, const ml_model_spec *spec)
{
    int64_t tokens = adapter->sizes.prefix;
    if (adapter->sizes.infix > 0)
        return ml_fail(ML_USAGE,
                       "the adapter has %" PRId64
                       " virtual tokens between prompt and completion (method.infix); PEFT has only those before a sequence, so it cannot "
                       "be exported: train with method.infix 0",
                       adapter->sizes.infix);
    if (adapter->ntensors != 1 || strcmp(adapter->tensors[0].name, "embed.prefix") != 0)
        return ml_fail(ML_INPUT, "the adapter has %" PRId64 " tensors, expected embed.prefix alone", adapter->ntensors);
    const ml_adapter_tensor *t = adapter->tensors;
    if (tokens >= 1 && t->rows == tokens && t->cols == spec->width) return ML_OK;
    return ml_fail(ML_INPUT, "%s: is %" PRId64 " × %" PRId64 ", expected %" PRId64 " × %" PRId64 " (virtual tokens, width)", t->name,
                   t->rows, t->cols, tokens, spec->width);
}

ml_status ml_peft_export_prompt(const ml_adapter *adapter, const ml_model_spec *spec, const char *base_name, const char *directory)
{
    ml_status st = check(adapter, spec);
    if (st != ML_OK) return st;
    ml_safetensors_item item = {"prompt_embeddings", adapter->sizes.prefix, spec->width, false, adapter->tensors[0].value};
    json_t *config = json_pack("{s:s,s:s,s:s,s:I,s:I,s:i,s:I,s:I,s:s,s:b}", "peft_type", "PROMPT_TUNING", "task_type", "CAUSAL_LM",
                               "base_model_name_or_path", base_name, "num_virtual_tokens", (json_int_t)adapter->sizes.prefix, "token_dim",
                               (json_int_t)spec->width, "num_transformer_submodules", 1, "num_attention_heads", (json_int_t)spec->heads,
                               "num_layers", (json_int_t)spec->layers, "prompt_tuning_init", "RANDOM", "inference_mode", 1);
    return ml_peft_write(directory, config, &item, 1);
}
