/* Byte-pair encoding of one piece of text (Sennrich et al. 2016), as GPT-2 has it: starting from
 * single bytes, the adjacent pair whose merge stands first in the list is joined, leftmost first,
 * until no pair is in the list.
 *
 * Work is O(n log n) in the piece's length; short pieces that were seen before come from a
 * table. */
#ifndef MPILORA_DATA_BPE_H
#define MPILORA_DATA_BPE_H

#include "mpilora/data.h"

typedef struct ml_bpe ml_bpe;

/* `whole_pieces`: a piece that is a token is that token, whatever the merges say (ignore_merges of
 * `tokenizers`). */
ml_status ml_bpe_create(ml_bpe **out, int64_t ntokens, int64_t nmerges,
                        bool whole_pieces) ML_NODISCARD;
void ml_bpe_destroy(ml_bpe *bpe);
/* The bytes of a token; a later token of the same bytes is not found by them. `special`: only
 * merges make it, never a whole piece. */
ml_status ml_bpe_add_token(ml_bpe *bpe, int32_t id, const char *bytes, int64_t length,
                           bool special) ML_NODISCARD;
/* The id of exactly these bytes, or −1. */
int32_t ml_bpe_find(const ml_bpe *bpe, const char *bytes, int64_t length);
/* left + right → the token of their joined bytes; merges come in order of their rank, and a pair
 * that comes twice takes its later rank. */
void ml_bpe_add_merge(ml_bpe *bpe, int32_t left, int32_t right, int32_t joined);
/* Appends the ids of `piece`; bytes that the vocabulary lacks are left out and counted in *lost. */
ml_status ml_bpe_encode(ml_bpe *bpe, const char *piece, int64_t length, ml_ids *ids,
                        int64_t *lost) ML_NODISCARD;

/* Appends one id. */
ml_status ml_ids_add(ml_ids *ids, int32_t id) ML_NODISCARD;

#endif
