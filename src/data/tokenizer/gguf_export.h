/* What the kinds of tokenizers share on their way to GGUF's metadata. */
#ifndef MPILORA_DATA_TOKENIZER_GGUF_EXPORT_H
#define MPILORA_DATA_TOKENIZER_GGUF_EXPORT_H

#include <jansson.h>

#include "data/tokenizer/gguf_patterns.h"
#include "data/tokenizer/models/model.h"

#define BLANK "\xe2\x96\x81" /* ▁ U+2581 */

typedef struct gguf_words {
    ml_gguf_tokenizer *out;
    const json_t *root, *model, *vocab;
    int64_t tokens, merges;
    int64_t *place; /* in the pool, of tokens and then of merges; −1: none yet */
    const char *patterns[ML_GGUF_PATTERNS];
    int npatterns;
    bool byte_level, metaspace, cuts; /* cuts: a Unigram looks for pieces between blanks */
    /* What the post-processor puts before and behind a text: how many tokens, and the first and
     * the last of them; −1: none. */
    int64_t before, behind, first, last;
} gguf_words;

/* That GGUF cannot say what the tokenizer is: ML_INPUT. */
ml_status gguf_unsaid(const char *what) ML_NODISCARD;
ml_status gguf_put_token(gguf_words *w, json_int_t id, const char *text,
                         ml_piece_kind kind) ML_NODISCARD;
/* The tokens beside the model's own. */
ml_status gguf_put_added(gguf_words *w) ML_NODISCARD;
/* That at most one token goes before a text, and behind it end-of-text or nothing. */
ml_status gguf_check_ends(const gguf_words *w) ML_NODISCARD;

/* gguf_export_pieces.c: models of SentencePiece's own file, or of GGUF, and "Unigram";
 * gguf_export_wordpiece.c. */
ml_status gguf_write_pieces(gguf_words *w) ML_NODISCARD;
ml_status gguf_write_unigram(gguf_words *w) ML_NODISCARD;
ml_status gguf_write_wordpiece(gguf_words *w) ML_NODISCARD;

#endif
