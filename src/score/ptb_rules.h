/* Which Penn Treebank token begins at a place of a text. */
#ifndef MPILORA_SCORE_PTB_RULES_H
#define MPILORA_SCORE_PTB_RULES_H

#include "mpilora/base.h"

typedef struct ptb_rules ptb_rules;

typedef struct ptb_token {
    int64_t length;      /* bytes of the text that it takes; 0: there is none */
    const char *becomes; /* what it is written as, "": left out, NULL: as it stands */
} ptb_token;

ml_status ptb_rules_create(ptb_rules **out) ML_NODISCARD;
void ptb_rules_destroy(ptb_rules *rules); /* NULL is fine */
/* At text[at], which is no blank: of all rules the one that looks at most bytes, the first of
 * several. */
ptb_token ptb_rules_match(const ptb_rules *rules, const char *text, int64_t length, int64_t at);

#endif
