/* Byte-pair encoding of one piece of text (Sennrich et al. 2016): starting from single bytes or
 * characters, the adjacent pair whose merge stands first in the list is joined, leftmost first,
 * until no pair is in the list.
 *
 * Work is O(n log n) in the piece's length. A long piece is cut first where no merge joins the two
 * characters that meet there, which changes nothing and leaves words; short words that were seen
 * before come from a table. */
#ifndef MPILORA_DATA_TOKENIZER_MODELS_BPE_H
#define MPILORA_DATA_TOKENIZER_MODELS_BPE_H

#include "data/tokenizer/models/model.h"
#include "data/tokenizer/trie.h"

typedef struct ml_bpe ml_bpe;

typedef struct ml_bpe_options {
    bool bytes;        /* symbols are bytes */
    bool whole_pieces; /* a piece that is a token is that token, whatever the merges say */
    bool fuse_unknown; /* neighbours without a token become one unknown token */
    bool characters;   /* SentencePiece: a character without a token may be part of merges, and
                          becomes bytes or the unknown token only at the end */
    bool unmerge;      /* SentencePiece: unused tokens fall apart again */
    int32_t unknown;   /* −1: none */
    const int32_t *byte_tokens;  /* [256] for what has no token, or NULL */
    const char *prefix, *suffix; /* of every symbol but the first, of the last; "" */
    const ml_trie *frozen;       /* spellings that are one symbol and never merged, or NULL */
} ml_bpe_options;

/* `vocabulary` and what the options point to are borrowed. */
ml_status ml_bpe_create(ml_bpe **out, const ml_vocabulary *vocabulary, int64_t nmerges,
                        const ml_bpe_options *options) ML_NODISCARD;
/* The same for another thread: tables are borrowed from `of`, which outlives it. */
ml_status ml_bpe_share(ml_bpe **out, const ml_bpe *of) ML_NODISCARD;
void ml_bpe_destroy(ml_bpe *bpe);
/* The bytes of a token; a later token of the same bytes is not found by them. `special`: only
 * merges make it, never a whole piece. */
ml_status ml_bpe_add_token(ml_bpe *bpe, int32_t id, const char *bytes, int64_t length,
                           bool special) ML_NODISCARD;
/* The symbol of exactly these bytes, or −1. */
int32_t ml_bpe_find(const ml_bpe *bpe, const char *bytes, int64_t length);
/* left + right → joined, which come before other pairs of a larger rank; a pair that comes twice
 * takes its later rank. `last` and `first`: the bytes of left and right. */
ml_status ml_bpe_add_merge(ml_bpe *bpe, int32_t left, int32_t right, int32_t joined, int32_t rank,
                           const char *last, int64_t last_length, const char *first,
                           int64_t first_length) ML_NODISCARD;
ml_status ml_bpe_encode(ml_bpe *bpe, const char *piece, int64_t length,
                        const ml_encoding *to) ML_NODISCARD;

#endif
