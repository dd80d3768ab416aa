/* A set as numbers: its texts cut into tokens, equal tokens with equal numbers. */
#ifndef MPILORA_SCORE_CORPUS_H
#define MPILORA_SCORE_CORPUS_H

#include "score/set.h"

typedef struct token_list token_list;

typedef struct tokenizer {
    /* Appends the tokens of a text to `list` with token_list_add. */
    ml_status (*cut)(token_list *list, const char *text, int64_t length, const void *rules);
    ml_status (*open)(void **rules); /* what cutting needs; NULL: nothing */
    void (*close)(void *rules);
} tokenizer;

ml_status token_list_add(token_list *list, const char *token, int64_t length) ML_NODISCARD;

typedef struct corpus {
    int32_t *token; /* of all texts, one behind the other */
    int64_t *text;  /* texts + 1: where each begins */
    int64_t *item;  /* items + 1: the first text of each, its output; borrowed from the set */
    int64_t items;
    int32_t words;    /* different tokens */
    ml_text spelling; /* of the words, each ended by a zero byte */
    int64_t *word;    /* words: where the spelling of each begins */
} corpus;

/* Checks the set and cuts its texts. */
ml_status corpus_make(corpus *out, const ml_score_set *set, const tokenizer *words) ML_NODISCARD;
void corpus_destroy(corpus *c); /* a zero one is fine */

static inline int64_t corpus_length(const corpus *c, int64_t text)
{
    return c->text[text + 1] - c->text[text];
}

/* mteval_never_none: an empty text is one empty token */
extern const tokenizer mteval_words, mteval_never_none, ptb_words, rouge_words, rouge_stems;

#endif
