/* Which tokens of an output are matched with which of a reference, for METEOR. */
#ifndef MPILORA_SCORE_ALIGNMENT_H
#define MPILORA_SCORE_ALIGNMENT_H

#include "score/corpus.h"

/* Tokens as one sees them while aligning: equal stems have equal numbers. */
typedef struct stemmed {
    const corpus *c;
    const int32_t *stem;  /* [words] */
    const double *weight; /* [words] */
    double stem_weight;   /* of a match by stem, of an equal one 1 */
} stemmed;

typedef struct matches {
    int64_t count, chunks; /* chunks: runs of matches that stand next to each other in both texts */
    double output, reference; /* the matches' weights, each times that of its word in the one text
                                 and in the other */
} matches;

static inline void add_match(matches *m, const stemmed *s, int32_t x, int32_t y)
{
    double weight = x == y ? 1.0 : s->stem_weight;
    m->count++;
    m->output += weight * s->weight[x];
    m->reference += weight * s->weight[y];
}

/* As NLTK: first equal tokens, then equal stems, each from the end with the last free one.
 * to[output], taken[reference]: room. */
matches align_from_the_end(const stemmed *s, int64_t output, int64_t reference, int64_t *to,
                           bool *taken);

/* As METEOR 1.5: of all matches of tokens and stems those with most equal tokens, then fewest
 * chunks, then the shortest ways, by a beam search along the reference. */
typedef struct beam_aligner beam_aligner;
ml_status beam_aligner_create(beam_aligner **out, int64_t longest)
    ML_NODISCARD;                           /* longest: tokens of a text, at most */
void beam_aligner_destroy(beam_aligner *a); /* NULL is fine */
matches align_by_beam(beam_aligner *a, const stemmed *s, int64_t output, int64_t reference);

#endif
