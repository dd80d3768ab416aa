/* Added tokens: found in text by their spelling before the model sees it. Those that are not
 * `normalized` are looked for in the text as it is, the others in what the normalizer made of it;
 * the longest that begins at the leftmost place is taken. */
#ifndef MPILORA_DATA_TOKENIZER_ADDED_H
#define MPILORA_DATA_TOKENIZER_ADDED_H

#include "data/tokenizer/trie.h"

typedef struct ml_added_token {
    int32_t id;
    bool special, normalized;
    bool single_word;    /* not beside a word's character */
    bool lstrip, rstrip; /* takes the blanks before, behind it */
} ml_added_token;

typedef struct ml_added ml_added;

ml_status ml_added_create(ml_added **out) ML_NODISCARD;
void ml_added_destroy(ml_added *added);
/* `spelling`: as it is looked for, so normalized where the token is. ML_RESOURCE. Local, as all of
 * these. */
ml_status ml_added_add(ml_added *added, const ml_added_token *token, const char *spelling,
                       int64_t length) ML_NODISCARD;

/* How texts are searched: `specials` false: special tokens stay text. */
typedef struct ml_added_search {
    bool normalized, specials;
    /* A token, or (−1) what stands between tokens, never empty. */
    ml_status (*found)(void *context, int32_t id, const char *text, int64_t length);
    void *context;
} ml_added_search;

/* Parts valid UTF-8 into tokens and what lies between them, in order. */
ml_status ml_added_find(const ml_added *added, const char *text, int64_t length,
                        const ml_added_search *search) ML_NODISCARD;
/* How many special tokens any byte string spells. */
int64_t ml_added_count_specials(const ml_added *added, const char *bytes, int64_t length);

#endif
