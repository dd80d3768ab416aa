/* Names of the linear layers that an adapter can go to: the words of method.targets, and which of
 * them a family has. */
#include "config/table.h"
#include "mpilora/config.h"
#include "mpilora/family.h"

const char *const target_words[] = {"q",  "k",    "v",   "o",    "fc",    "proj", "gate",
                                    "up", "down", "qkv", "head", "embed", "all",  NULL};

/* What Hugging Face's models call the two outside the layers. */
static const struct {
    const char *word;
    unsigned bit;
} other_words[] = {
    {"lm_head", ML_TARGET_HEAD}, {"embed_tokens", ML_TARGET_EMBED}, {"wte", ML_TARGET_EMBED}};

unsigned target_bit(const char *word, size_t length)
{
    for (size_t i = 0; i < sizeof other_words / sizeof *other_words; i++)
        if (strlen(other_words[i].word) == length && !strncmp(other_words[i].word, word, length))
            return other_words[i].bit;
    for (unsigned i = 0; target_words[i]; i++)
        if (strlen(target_words[i]) == length && !strncmp(target_words[i], word, length))
            return 1U << i;
    return 0;
}

unsigned ml_target_find(const char *word) { return target_bit(word, strlen(word)); }

const char *ml_target_name(ml_target target)
{
    for (unsigned i = 0; target_words[i]; i++)
        if ((unsigned)target == 1U << i) return target_words[i];
    return "?";
}

/* The words of some rows: all of the family, those that are fused, and their parts. */
typedef struct words {
    unsigned all, fused, parts;
} words;

static words words_of(const ml_family *family)
{
    words w = {0};
    for (const ml_family_tensor *row = ml_family_target(family->tensors); row;
         row = ml_family_target(row + 1)) {
        const ml_family_tensor *fused = ml_family_fused(family, row);
        unsigned bit = ml_target_find(row->target);
        w.all |= bit;
        if (fused) *(fused == row ? &w.fused : &w.parts) |= bit;
    }
    return w;
}

static ml_status lacks(const ml_family *family, unsigned bit)
{
    ml_text list = {0};
    ml_status st = ML_OK;
    const char *between = "";
    for (const ml_family_tensor *row = ml_family_target(family->tensors); row && st == ML_OK;
         row = ml_family_target(row + 1)) {
        bool fused = row->present == ML_PRESENT_FUSED;
        st = ml_text_printf(&list, "%s%s%s", fused ? " or " : between, row->target,
                            fused ? " (fused)" : "");
        between = ", ";
    }
    if (st == ML_OK)
        st = ml_fail(
            ML_USAGE,
            "method.targets: the model has no %s; a model of the %s family has %s, head, embed",
            ml_target_name((ml_target)bit), family->title, list.data);
    ml_text_destroy(&list);
    return st;
}

ml_status ml_targets_resolve(const ml_family *family, unsigned bits, unsigned *out)
{
    words has = words_of(family);
    const unsigned ends = ML_TARGET_HEAD | ML_TARGET_EMBED; /* every family has them */
    if (bits & ML_TARGET_ALL) {
        if (bits & ~(ML_TARGET_ALL | ends))
            return ml_fail(ML_USAGE, "method.targets: all names every linear layer; only head and "
                                     "embed can stand beside it");
        *out = (has.all & ~has.parts) | (bits & ends);
        return ML_OK;
    }
    has.all |= ends;
    for (unsigned bit = 1; bit < ML_TARGET_ALL; bit <<= 1)
        if (bits & ~has.all & bit) return lacks(family, bit);
    if ((bits & has.fused) && (bits & has.parts))
        return ml_fail(ML_USAGE, "method.targets: qkv is one adapter on the fused projection: name "
                                 "either qkv or some of q, k, v");
    *out = bits;
    return ML_OK;
}
