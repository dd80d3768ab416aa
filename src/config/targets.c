/* Names of the linear layers that an adapter can go to: the words of method.targets, and which of
 * them a family has. */
#include "config/table.h"
#include "mpilora/config.h"
#include "mpilora/family.h"

const char *const target_words[] = {"q",     "k",     "v",     "o",   "fc",      "proj",
                                    "gate",  "up",    "down",  "qkv", "gate_up", "head",
                                    "embed", "pos_q", "pos_k", "all", NULL};

/* What Hugging Face's models call the two outside the layers. */
static const struct {
    const char *word;
    unsigned bit;
} other_words[] = {
    {"lm_head", ML_TARGET_HEAD}, {"embed_tokens", ML_TARGET_EMBED}, {"wte", ML_TARGET_EMBED}};

static unsigned own_bit(const char *word, size_t length)
{
    for (size_t i = 0; i < sizeof other_words / sizeof *other_words; i++)
        if (strlen(other_words[i].word) == length && !strncmp(other_words[i].word, word, length))
            return other_words[i].bit;
    for (unsigned i = 0; target_words[i]; i++)
        if (strlen(target_words[i]) == length && !strncmp(target_words[i], word, length))
            return 1U << i;
    return 0;
}

/* The module's name of a row, as PEFT's target_modules has it: what stands behind the last dot. */
static bool is_module(const ml_family_tensor *row, const char *word, size_t length)
{
    const char *dot = strrchr(row->peft, '.'), *name = dot ? dot + 1 : row->peft;
    return strlen(name) == length && !strncmp(name, word, length);
}

/* PEFT's names beside ours: q_proj, query_key_value, all-linear. A name that two families mean
 * differently, or that means two modules of one (GPT-2's c_proj), is none: 0. */
unsigned target_bit(const char *word, size_t length)
{
    static const char all_linear[] = "all-linear";
    unsigned bit = own_bit(word, length), bits = 0;
    if (bit) return bit;
    if (length == strlen(all_linear) && !strncmp(all_linear, word, length)) return ML_TARGET_ALL;
    for (const ml_family *const *f = ml_families(); *f; f++) {
        for (const ml_family_tensor *row = ml_family_target((*f)->tensors); row;
             row = ml_family_target(row + 1)) {
            const ml_family_tensor *fused = ml_family_fused(*f, row);
            const char *target = fused ? fused->target : row->target;
            if (is_module(row, word, length)) bits |= own_bit(target, strlen(target));
        }
    }
    return bits & (bits - 1) ? 0 : bits;
}

unsigned ml_target_find(const char *word) { return target_bit(word, strlen(word)); }

const char *ml_target_name(ml_target target)
{
    for (unsigned i = 0; target_words[i]; i++)
        if ((unsigned)target == 1U << i) return target_words[i];
    return "?";
}

/* The words of some rows: all of the model, the parts of those that are fused, and those that stand
 * beside `all`: PEFT's all-linear has the projections of distances, too, but runs of `all` began
 * without them, and would not go on with more parameters than they have. */
typedef struct words {
    unsigned all, parts, beside;
} words;

static words words_of(const ml_model_spec *spec)
{
    words w = {.beside = ML_TARGET_HEAD | ML_TARGET_EMBED}; /* every model has them */
    for (const ml_family_tensor *row = ml_model_target(spec, spec->family->tensors); row;
         row = ml_model_target(spec, row + 1)) {
        const ml_family_tensor *fused = ml_family_fused(spec->family, row);
        unsigned bit = ml_target_find(row->target);
        w.all |= bit;
        if (fused && fused != row) w.parts |= bit;
        if (row->role == ML_ROLE_POS) w.beside |= bit;
    }
    w.all |= w.beside;
    return w;
}

/* A fused projection has one adapter, or some of its parts have one each. */
static ml_status check_fused(const ml_family *family, unsigned bits)
{
    for (const ml_family_tensor *row = ml_family_target(family->tensors); row;
         row = ml_family_target(row + 1)) {
        const ml_family_tensor *fused = ml_family_fused(family, row);
        if (fused && fused != row && (bits & ml_target_find(row->target)) &&
            (bits & ml_target_find(fused->target)))
            return ml_fail(ML_USAGE,
                           "method.targets: %s is one adapter on the fused projection, of which "
                           "%s is a part: name the one or the other",
                           fused->target, row->target);
    }
    return ML_OK;
}

static ml_status lacks(const ml_model_spec *spec, unsigned bit)
{
    ml_text list = {0};
    ml_status st = ML_OK;
    const char *between = "";
    for (const ml_family_tensor *row = ml_model_target(spec, spec->family->tensors);
         row && st == ML_OK; row = ml_model_target(spec, row + 1)) {
        bool fused = row->present == ML_PRESENT_FUSED;
        st = ml_text_printf(&list, "%s%s%s", fused ? " or " : between, row->target,
                            fused ? " (fused)" : "");
        between = ", ";
    }
    if (st == ML_OK)
        st = ml_fail(
            ML_USAGE,
            "method.targets: the model has no %s; this model of the %s family has %s, %sembed",
            ml_target_name((ml_target)bit), spec->family->title, list.data,
            spec->both_ways ? "" : "head, ");
    ml_text_destroy(&list);
    return st;
}

ml_status ml_targets_resolve(const ml_model_spec *spec, unsigned bits, unsigned *out)
{
    const words has = words_of(spec);
    for (unsigned bit = 1; bit < ML_TARGET_ALL; bit <<= 1)
        if (bits & ~has.all & bit) return lacks(spec, bit);
    if (bits & ML_TARGET_ALL) {
        if (bits & ~(ML_TARGET_ALL | has.beside))
            return ml_fail(ML_USAGE, "method.targets: all names every linear layer; only head, "
                                     "embed, and DeBERTa's pos_q and pos_k can stand beside it");
        *out = (has.all & ~has.parts & ~has.beside) | (bits & has.beside);
        return ML_OK;
    }
    ml_status st = check_fused(spec->family, bits);
    if (st != ML_OK) return st;
    *out = bits;
    return ML_OK;
}
