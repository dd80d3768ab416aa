/* Which model a bench is about: a base file, a description, or the smallest GPT-2; and which of
 * its linear layers are adapted. */
#include "cli/bench/bench.h"
#include "mpilora/family.h"
#include "mpilora/store.h"

static ml_model_spec gpt2_small(void)
{
    ml_model_spec s = ml_family_find("gpt2")->defaults;
    s.layers = 12;
    s.width = 768;
    s.heads = 12;
    s.vocab = 50257;
    ml_model_spec_complete(&s);
    return s;
}

ml_status bench_read_model(const char *base, const char *model, ml_model_spec *out)
{
    ml_base *file = NULL;
    *out = gpt2_small();
    if (base && model)
        return ml_fail(ML_USAGE,
                       "--base and --model: give one of them, a base file or a description");
    if (model) return ml_model_spec_read(out, model);
    if (!base) return ML_OK;
    ml_status st = ml_base_open(&file, base);
    if (st == ML_OK) *out = *ml_base_spec(file);
    out->formats = NULL; /* the file's, which is closed here */
    ml_base_close(file);
    return st;
}

ml_status bench_read_targets(const char *text, unsigned *out)
{
    *out = 0;
    for (const char *word = text;; word++) {
        size_t length = strcspn(word, ",");
        char one[16];
        int written = snprintf(one, sizeof one, "%.*s", (int)length, word);
        unsigned bit = written < (int)sizeof one ? ml_target_find(one) : 0;
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
