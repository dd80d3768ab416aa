/* The split patterns that tokenizer.ggml.pre names. */
#ifndef MPILORA_DATA_TOKENIZER_GGUF_PATTERNS_H
#define MPILORA_DATA_TOKENIZER_GGUF_PATTERNS_H

#include <stdbool.h>

enum { ML_GGUF_PRE_NAME = 64, ML_GGUF_PATTERNS = 7 };

typedef struct ml_gguf_pre {
    const char *names; /* one after the other, with a blank before and behind each */
    bool whole_pieces; /* a piece that is a token is that token, whatever the merges say */
    bool begins;       /* texts begin with the bos token, where the file does not say */
    const char *patterns[ML_GGUF_PATTERNS]; /* one after the other, each isolating its matches */
} ml_gguf_pre;

/* NULL for a name that is not known. */
const ml_gguf_pre *ml_gguf_find_pre(const char *name);

/* The other way: the name of `count` patterns, as tokenizer.json has them, one after the other;
 * NULL: llama.cpp has none. `out` holds it. */
const char *ml_gguf_name_pre(const char *const *patterns, int count, bool whole_pieces,
                             char out[ML_GGUF_PRE_NAME]);

#endif
