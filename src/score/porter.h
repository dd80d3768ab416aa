/* The Porter stemmer. */
#ifndef MPILORA_SCORE_PORTER_H
#define MPILORA_SCORE_PORTER_H

#include "mpilora/base.h"

/* Porter 1980 with the departures that NLTK makes (its default mode), for a word in lower case:
 * changes it in place, gives the new length, which is never larger. */
int64_t porter_stem(char *word, int64_t length);

#endif
