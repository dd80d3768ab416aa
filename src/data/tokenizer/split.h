/* Cutting a piece of text at matches, in the six ways of `tokenizers`. Matches and what lies
 * between them come as spans that cover the piece, in order; pieces without a byte are dropped. */
#ifndef MPILORA_DATA_TOKENIZER_SPLIT_H
#define MPILORA_DATA_TOKENIZER_SPLIT_H

#include "mpilora/base.h"

/* A piece, and how many of its first bytes come from the original text's first character. */
typedef struct ml_piece {
    const char *bytes;
    int64_t length, first;
} ml_piece;

/* Takes a piece; what it returns other than ML_OK ends the cutting. */
typedef ml_status (*ml_piece_sink)(void *context, const ml_piece *piece);

typedef enum ml_split_behaviour {
    ML_SPLIT_REMOVED,
    ML_SPLIT_ISOLATED,
    ML_SPLIT_MERGED_WITH_PREVIOUS,
    ML_SPLIT_MERGED_WITH_NEXT,
    ML_SPLIT_CONTIGUOUS
} ml_split_behaviour;

/* By its name in tokenizer.json. ML_INPUT. Local, as all of these. */
ml_status ml_split_behaviour_read(ml_split_behaviour *out, const char *name) ML_NODISCARD;

/* A cutting in progress. Start with the first four members; then a span after the other, then the
 * end. */
typedef struct ml_split {
    ml_piece of;
    ml_split_behaviour behaviour;
    ml_piece_sink sink;
    void *context;
    int64_t start, end; /* the piece that is not handed on yet */
    bool behind_match;
} ml_split;

ml_status ml_split_span(ml_split *split, int64_t start, int64_t end, bool match) ML_NODISCARD;
ml_status ml_split_end(ml_split *split) ML_NODISCARD;

/* The part [start, end) of a piece. */
static inline ml_piece ml_piece_part(const ml_piece *piece, int64_t start, int64_t end)
{
    return (ml_piece){piece->bytes + start, end - start, ml_max(0, piece->first - start)};
}

/* Hands that part on. */
static inline ml_status ml_piece_send(const ml_piece *piece, int64_t start, int64_t end,
                                      ml_piece_sink sink, void *context)
{
    const ml_piece part = ml_piece_part(piece, start, end);
    return sink(context, &part);
}

#endif
