/* Keys of a config.json that nothing reads. Those that transformers writes for every model, and
 * those that say nothing of the model as it is fine-tuned here (dropout, initialisation, heads of
 * other tasks, generation, how the mathematics are computed), go without a word. Every other one is
 * named: it may be of a newer version, or of code that came with the model. */
#include <inttypes.h>

#include "mpilora/base.h"
#include "store/formats/huggingface/huggingface.h"

static const char *const without_effect[] = {
    /* every model's */
    "architectures", "auto_map", "attn_implementation", "bos_token_id", "chunk_size_feed_forward",
    "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "id2label", "is_causal",
    "is_decoder", "is_encoder_decoder", "label2id", "max_length", "min_length", "model_type",
    "name_or_path", "num_labels", "output_attentions", "output_hidden_states", "pad_token_id",
    "prefix", "problem_type", "pruned_heads", "return_dict", "sep_token_id", "task_specific_params",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers_version", "use_bfloat16", "use_cache",
    /* dropout, initialisation, heads of other tasks */
    "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "classifier_dropout",
    "cls_dropout", "dropout", "embd_pdrop", "embedding_dropout", "hidden_dropout",
    "hidden_dropout_prob", "init_std", "initializer_range", "layerdrop", "legacy", "pooler_dropout",
    "pooler_hidden_size", "resid_pdrop", "residual_dropout", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    /* how it is computed, or trained elsewhere */
    "gradient_checkpointing", "n_ctx", "pretraining_tp", "reorder_and_upcast_attn",
    "slow_but_exact", "use_flash_attn",
    /* generation, which has a file of its own today */
    "do_sample", "early_stopping", "length_penalty", "no_repeat_ngram_size", "num_beams",
    "repetition_penalty", "temperature", "top_k", "top_p"};
enum { WITHOUT_EFFECT = sizeof without_effect / sizeof *without_effect, NAMED = 6 };

/* `path` is a key, or a place within it. */
static bool begins_with(const char *path, const char *key)
{
    size_t n = strlen(key);
    return !strncmp(path, key, n) && strchr(".[", path[n]); /* '\0' ends either list */
}

static bool is_expected(const char *key, const json_t *value, const hf_config_keys *read)
{
    if (*key == '_' || json_is_null(value) || json_is_false(value)) return true;
    for (int64_t i = 0; i < read->count; i++)
        if (begins_with(read->keys[i].path, key)) return true;
    for (int i = 0; i < WITHOUT_EFFECT; i++)
        if (!strcmp(without_effect[i], key)) return true;
    return false;
}

void hf_config_warn_of_unread(const json_t *o, const ml_family *family, const hf_config_keys *read,
                              const char *path)
{
    ml_text names = {0};
    const char *key;
    json_t *value;
    int64_t count = 0;
    ml_status st = ML_OK;
    json_object_foreach((json_t *)(uintptr_t)o, key, value)
    {
        if (is_expected(key, value, read)) continue;
        if (count++ < NAMED && st == ML_OK)
            st = ml_text_printf(&names, "%s%.60s", count > 1 ? ", " : "", key);
    }
    if (count > NAMED && st == ML_OK) st = ml_text_printf(&names, ", …");
    if (count > 0 && st == ML_OK)
        ml_warn("%s: %" PRId64 " %s ignored that transformers' %s does not have: %s", path, count,
                count > 1 ? "keys are" : "key is", family->title, names.data);
    ml_text_destroy(&names);
}
