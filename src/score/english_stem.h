/* The English stemmer of the Snowball project. */
#ifndef MPILORA_SCORE_ENGLISH_STEM_H
#define MPILORA_SCORE_ENGLISH_STEM_H

#include "mpilora/base.h"

/* "Porter2" (Porter 2001), for a word in lower case: changes it in place, gives the new length,
 * which is never larger. */
int64_t english_stem(char *word, int64_t length);

#endif
