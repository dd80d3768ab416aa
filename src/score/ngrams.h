/* Tables of n-grams with counts. */
#ifndef MPILORA_SCORE_NGRAMS_H
#define MPILORA_SCORE_NGRAMS_H

#include "score/corpus.h"

enum { NGRAM_MOST = 5 };

typedef struct ngram {
    int32_t token[NGRAM_MOST]; /* −1 behind the last */
} ngram;

typedef struct ngram_entry {
    ngram key;
    int64_t count; /* of all that was counted, or of the text counted last: see the functions */
    int64_t most;  /* largest count in one text */
    int64_t stamp; /* which text or item was counted last */
} ngram_entry;

/* Start from {0}; entries stand in the order in which they came. */
typedef struct ngram_table {
    ngram_entry *entry;
    int64_t count, capacity, slot_count;
    int32_t *slot;
} ngram_table;

void ngram_table_destroy(ngram_table *table);
void ngram_table_clear(ngram_table *table);

/* n words from `token`; n may be 0. */
ngram ngram_of(const int32_t *token, int n);
/* NULL where it was never counted. */
ngram_entry *ngram_find(const ngram_table *table, const ngram *key);
/* Its entry, a zero one with stamp −1 where it is new; valid until the next call. */
ml_status ngram_entry_of(ngram_table *table, const ngram *key, ngram_entry **out) ML_NODISCARD;

/* Adds the n-grams of a text to `count`. */
ml_status ngram_count(ngram_table *table, const corpus *c, int64_t text, int n) ML_NODISCARD;
/* Clears the table; then `most` of each n-gram: how often the one text of first … end − 1 has it
 * that has it most often. */
ml_status ngram_most(ngram_table *table, const corpus *c, int64_t first, int64_t end,
                     int n) ML_NODISCARD;

#endif
