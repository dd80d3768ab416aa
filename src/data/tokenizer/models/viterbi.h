/* The most probable way to write a text as pieces of a unigram language model (Kudo 2018): the best
 * score of every end of a piece, from left to right, each extended by all pieces that begin there.
 * O(n × longest piece) time, O(n) memory. */
#ifndef MPILORA_DATA_TOKENIZER_MODELS_VITERBI_H
#define MPILORA_DATA_TOKENIZER_MODELS_VITERBI_H

#include "data/tokenizer/models/model.h"
#include "data/tokenizer/trie.h"

/* Two libraries of the same model differ in rounding: `tokenizers` adds doubles, SentencePiece
 * floats, which start again from 0 when the sum grows large. */
typedef struct ml_viterbi {
    ml_trie trie;
    double *scores; /* [pieces] */
    double unknown_score;
    bool single; /* SentencePiece: floats; a user-defined piece scores by its length */
    const ml_vocabulary *vocabulary; /* borrowed */
    struct viterbi_node {
        double score;
        int64_t start; /* −1: nothing ends here */
        int32_t id;    /* −1: unknown */
    } * nodes;         /* [room] by byte */
    int64_t room;
    struct viterbi_span {
        int64_t start, end;
        int32_t id;
    } * spans; /* [nspans] the best path, from the last piece to the first */
    int64_t nspans, span_room;
    bool borrows; /* trie and scores */
} ml_viterbi;

/* Finds the best path. `specials` false: no special token is part of it. ML_RESOURCE. Local. */
ml_status ml_viterbi_run(ml_viterbi *v, const char *text, int64_t length,
                         bool specials) ML_NODISCARD;
/* The same for another thread: trie and scores are those of `of`, which outlives it. */
ml_viterbi ml_viterbi_share(const ml_viterbi *of);
void ml_viterbi_destroy(ml_viterbi *v);

#endif
