/* What the tables of a byte-pair encoder (bpe_tables.c) and the encoding (bpe.c) share: tokens and
 * merges by open addressing, and which characters a merge joins. */
#ifndef MPILORA_DATA_TOKENIZER_MODELS_BPE_PRIVATE_H
#define MPILORA_DATA_TOKENIZER_MODELS_BPE_PRIVATE_H

#include "data/tokenizer/models/bpe.h"

enum { CACHE_SLOTS = 1 << 15, CACHED_BYTES = 30, CACHED_IDS = 8, JOIN_BITS = 1 << 20 };

typedef struct bpe_token {
    int64_t at; /* in `bytes` */
    int32_t length, id;
    uint64_t hash;
    bool special;
} bpe_token;

typedef struct bpe_merge {
    uint64_t pair; /* left << 32 | right; all ones: a free slot */
    int32_t rank, joined;
} bpe_merge;

typedef struct bpe_cached { /* a line of the processor's cache */
    uint8_t length;         /* 0: a free slot */
    uint8_t count;
    char piece[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
} bpe_cached;

typedef struct bpe_symbol {
    int32_t id; /* −1: merged into the symbol before it */
    int32_t previous, next;
    int32_t at; /* its bytes begin here in the piece */
} bpe_symbol;

typedef struct bpe_candidate {
    int32_t rank, left; /* ordered by rank, then by place */
    int32_t left_id, right_id, joined;
} bpe_candidate;

typedef struct bpe_parts {
    int32_t left, right;
} bpe_parts;

struct ml_bpe {
    const ml_vocabulary *vocabulary;
    ml_bpe_options options;
    ml_text bytes;     /* of all tokens, one after the other */
    bpe_token *tokens; /* open addressing */
    int64_t ntokens;
    uint64_t token_mask;
    bpe_merge *merges; /* open addressing */
    int64_t nmerges;
    uint64_t merge_mask;
    int32_t byte_id[256]; /* the symbol of a single byte */
    uint64_t *joins;      /* a bit for what two characters hash to that some merge joins; or NULL */
    bpe_parts *parts;     /* [size] what a token was last joined from; NULL: not asked for */
    bpe_cached *cache;    /* direct-mapped */
    bpe_symbol *symbols;  /* [room] */
    bpe_candidate *heap;  /* [3 × room] */
    int64_t room, heap_count;
    ml_text spelt; /* a symbol with prefix and suffix */
    bool borrows;  /* bytes, tokens, merges, joins */
};

/* ---- hashing ------------------------------------------------------------------------------- */

static inline uint64_t bpe_mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ (h >> 32);
}

/* Fewer than eight bytes as one number, all of them part of it, without a call of memcpy. */
static inline uint64_t bpe_last_bytes(const char *bytes, int64_t length)
{
    uint32_t low, high;
    if (length >= 4) {
        memcpy(&low, bytes, 4);
        memcpy(&high, bytes + length - 4, 4);
        return (uint64_t)high << 32 | low;
    }
    if (!length) return 0;
    const unsigned char *b = (const unsigned char *)bytes;
    return (uint64_t)b[0] << 16 | (uint64_t)b[length / 2] << 8 | b[length - 1];
}

static inline uint64_t bpe_hash(const char *bytes, int64_t length)
{
    uint64_t h = (uint64_t)length * 0x9e3779b97f4a7c15u, word;
    for (; length >= 8; bytes += 8, length -= 8) {
        memcpy(&word, bytes, 8);
        h = bpe_mix(h ^ word);
    }
    return bpe_mix(h ^ bpe_last_bytes(bytes, length));
}

static inline uint64_t bpe_table_size(int64_t entries)
{
    uint64_t size = 16;
    while (size < 2 * (uint64_t)entries) size *= 2;
    return size;
}

/* ---- tables -------------------------------------------------------------------------------- */

/* The slot of these bytes, or the free one (length 0) where they belong. */
static inline bpe_token *bpe_token_slot(const ml_bpe *bpe, const char *bytes, int64_t length,
                                        uint64_t hash)
{
    for (uint64_t i = hash;; i++) {
        bpe_token *t = &bpe->tokens[i & bpe->token_mask];
        if (!t->length) return t;
        if (t->hash == hash && t->length == length &&
            !memcmp(bpe->bytes.data + t->at, bytes, (size_t)length))
            return t;
    }
}

static inline bpe_merge *bpe_merge_slot(const ml_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | (uint32_t)right;
    for (uint64_t i = bpe_mix(pair * 0x9e3779b97f4a7c15u);; i++) {
        bpe_merge *m = &bpe->merges[i & bpe->merge_mask];
        if (m->pair == pair || m->pair == UINT64_MAX) return m;
    }
}

static inline uint32_t bpe_joint_of(int32_t left, int32_t right)
{
    uint64_t both = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (uint32_t)(both * 0x9e3779b97f4a7c15u >> 44); /* 20 bits */
}

static inline bool bpe_is_joint(const ml_bpe *bpe, int32_t left, int32_t right)
{
    uint32_t bit = bpe_joint_of(left, right);
    return bpe->joins[bit / 64] >> bit % 64 & 1;
}

#endif
