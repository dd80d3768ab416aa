/* The tokenizer inside a GGUF file: token texts in the byte-level alphabet, merges, and the name
 * of the split pattern. */
#include <inttypes.h>

#include "data/tokenizer_private.h"

enum { TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

typedef struct known_pre {
    const char *name;
    bool whole_pieces;
    const char *patterns[5];
} known_pre;

/* llama.cpp's names; "default" is its compromise for models whose pattern was not known. */
static const known_pre known[] = {
    {"gpt-2", false, {ML_PATTERN_GPT2}},
    {"smollm", false, {ML_PATTERN_DIGIT, ML_PATTERN_GPT2}},
    {"llama-bpe", true, {ML_PATTERN_LLAMA3}},
    {"llama3", true, {ML_PATTERN_LLAMA3}},
    {"llama-v3", true, {ML_PATTERN_LLAMA3}},
    {"default",
     false,
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", ML_PATTERN_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

static const known_pre *find_pre(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return &known[i];
    return NULL;
}

static ml_status read_all(ml_vocabulary *vocabulary, const known_pre *pre,
                          const ml_gguf_vocabulary *gguf)
{
    ml_status st = ML_OK;
    vocabulary->whole_pieces = pre->whole_pieces;
    for (int i = 0; pre->patterns[i]; i++)
        ML_TRY(ml_vocabulary_split(vocabulary, pre->patterns[i]));
    for (int64_t id = 0; id < gguf->ntokens; id++) {
        int32_t type = gguf->types ? gguf->types[id] : 1;
        if (type == TYPE_CONTROL || type == TYPE_USER_DEFINED) {
            ML_TRY(ml_vocabulary_add(vocabulary, id, gguf->tokens[id], type == TYPE_CONTROL));
        } else {
            ML_TRY(ml_vocabulary_set(vocabulary, id, gguf->tokens[id]));
        }
    }
    for (int64_t i = 0; i < gguf->nmerges; i++) {
        const char *blank = strchr(gguf->merges[i], ' ');
        if (!blank) {
            st = ml_fail(ML_INPUT, "merge %" PRId64 " \"%.80s\" has no blank", i, gguf->merges[i]);
            goto done;
        }
        ML_TRY(ml_vocabulary_merge(vocabulary, gguf->merges[i], (size_t)(blank - gguf->merges[i]),
                                   blank + 1));
    }
    if (gguf->eos >= gguf->ntokens || gguf->bos >= gguf->ntokens) {
        st = ml_fail(ML_INPUT,
                     "the eos or bos token id (%" PRId64 ", %" PRId64 ") is not one of the %" PRId64
                     " tokens",
                     gguf->eos, gguf->bos, gguf->ntokens);
        goto done;
    }
    vocabulary->end = gguf->eos >= 0 ? (int32_t)gguf->eos : -1;
    vocabulary->begin = gguf->add_bos && gguf->bos >= 0 ? (int32_t)gguf->bos : -1;
done:
    return st;
}

ml_status ml_tokenizer_from_gguf(const ml_gguf_vocabulary *gguf, ml_text *json)
{
    if (!gguf->model || strcmp(gguf->model, "gpt2") != 0)
        return ml_fail(
            ML_INPUT, "tokenizer.ggml.model is \"%s\"; only \"gpt2\" (byte-level BPE) is supported",
            gguf->model ? gguf->model : "missing");
    const char *name = gguf->pre && *gguf->pre ? gguf->pre : "gpt-2";
    if (name != gguf->pre)
        ml_warn("tokenizer.ggml.pre is missing; the split pattern of GPT-2 is taken");
    const known_pre *pre = find_pre(name);
    if (!pre)
        return ml_fail(ML_INPUT,
                       "tokenizer.ggml.pre is \"%s\"; supported are gpt-2, smollm, llama-bpe "
                       "(llama3, llama-v3) and default",
                       name);
    if (gguf->add_space_prefix)
        return ml_fail(ML_INPUT, "tokenizer.ggml.add_space_prefix is true; a blank before every "
                                 "text is not supported with byte-level BPE");
    ml_vocabulary vocabulary;
    ml_status st = ml_vocabulary_create(&vocabulary);
    if (st == ML_OK) st = read_all(&vocabulary, pre, gguf);
    if (st == ML_OK) st = ml_vocabulary_write(&vocabulary, json);
    if (st != ML_OK) st = ml_fail_within(st, "tokenizer");
    ml_vocabulary_destroy(&vocabulary);
    return st;
}
