/* Which model a bench is about: a base file, a description, or the smallest GPT-2; and which of
 * its linear layers are adapted. */
#include "cli/bench/bench.h"
#include "mpilora/store.h"

static const ml_model_spec gpt2_small = {.family = ML_FAMILY_GPT2,
                                         .layers = 12,
                                         .width = 768,
                                         .mlp_width = 3072,
                                         .heads = 12,
                                         .kv_heads = 12,
                                         .head_dim = 64,
                                         .vocab = 50257,
                                         .context = 1024,
                                         .activation = ML_GELU_TANH,
                                         .norm_eps = 1e-5,
                                         .tied_head = true,
                                         .qkv_bias = true,
                                         .o_bias = true,
                                         .mlp_bias = true};

ml_status bench_read_model(const char *base, const char *model, ml_model_spec *out)
{
    ml_base *file = NULL;
    *out = gpt2_small;
    if (base && model)
        return ml_fail(ML_USAGE,
                       "--base and --model: give one of them, a base file or a description");
    if (model) return ml_model_spec_read(out, model);
    if (!base) return ML_OK;
    ml_status st = ml_base_open(&file, base);
    if (st == ML_OK) *out = *ml_base_spec(file);
    ml_base_close(file);
    return st;
}

static unsigned target_bit(const char *word, size_t length)
{
    for (unsigned bit = 1; bit <= ML_TARGET_ALL; bit <<= 1) {
        const char *name = ml_target_name((ml_target)bit);
        if (strlen(name) == length && !strncmp(name, word, length)) return bit;
    }
    return 0;
}

ml_status bench_read_targets(const char *text, unsigned *out)
{
    *out = 0;
    for (const char *word = text;; word++) {
        size_t length = strcspn(word, ",");
        unsigned bit = target_bit(word, length);
        if (!bit)
            return ml_fail(
                ML_USAGE,
                "--targets: \"%.*s\" is not one of q, k, v, o, fc, proj, gate, up, down, qkv, all",
                (int)length, word);
        *out |= bit;
        word += length;
        if (!*word) return ML_OK;
    }
}
