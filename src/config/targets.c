/* Names of the linear layers that an adapter can go to. */
#include "config/table.h"
#include "mpilora/config.h"

const char *const target_words[] = {"q",    "k",  "v",    "o",   "fc",  "proj",
                                    "gate", "up", "down", "qkv", "all", NULL};

static const unsigned family_targets[] = {
    [ML_FAMILY_GPT2] = ML_TARGET_Q | ML_TARGET_K | ML_TARGET_V | ML_TARGET_O | ML_TARGET_FC |
                       ML_TARGET_PROJ | ML_TARGET_QKV,
    [ML_FAMILY_LLAMA] = ML_TARGET_Q | ML_TARGET_K | ML_TARGET_V | ML_TARGET_O | ML_TARGET_GATE |
                        ML_TARGET_UP | ML_TARGET_DOWN,
};

unsigned target_bit(const char *word, size_t length)
{
    for (unsigned i = 0; target_words[i]; i++)
        if (strlen(target_words[i]) == length && !strncmp(target_words[i], word, length))
            return 1U << i;
    return 0;
}

const char *ml_target_name(ml_target target)
{
    for (unsigned i = 0; target_words[i]; i++)
        if ((unsigned)target == 1U << i) return target_words[i];
    return "?";
}

ml_status ml_targets_resolve(ml_family family, unsigned bits, unsigned *out)
{
    const unsigned separate = ML_TARGET_Q | ML_TARGET_K | ML_TARGET_V;
    unsigned has = family_targets[family];
    if (bits & ML_TARGET_ALL) {
        if (bits != ML_TARGET_ALL)
            return ml_fail(ML_USAGE,
                           "method.targets: all stands alone, it names every linear layer");
        *out = family == ML_FAMILY_GPT2 ? has & ~separate : has;
        return ML_OK;
    }
    for (unsigned i = 0; target_words[i]; i++) {
        if (!(bits & ~has & 1U << i)) continue;
        return ml_fail(ML_USAGE, "method.targets: the model has no %s; a model of the %s has %s",
                       target_words[i], family == ML_FAMILY_GPT2 ? "GPT-2 family" : "Llama family",
                       family == ML_FAMILY_GPT2 ? "q, k, v or qkv (fused), o, fc, proj"
                                                : "q, k, v, o, gate, up, down");
    }
    if ((bits & ML_TARGET_QKV) && (bits & separate))
        return ml_fail(ML_USAGE, "method.targets: qkv is one adapter on the fused projection: name "
                                 "either qkv or some of q, k, v");
    *out = bits;
    return ML_OK;
}
