/* A trie of byte strings: which of many keys begin at a place of a text. Edges lie in one table of
 * open addressing, so that it takes about 30 bytes for each byte that no other key shares. */
#ifndef MPILORA_DATA_TOKENIZER_TRIE_H
#define MPILORA_DATA_TOKENIZER_TRIE_H

#include "mpilora/base.h"

typedef struct ml_trie {
    struct trie_edge {
        uint32_t from_byte; /* node << 8 | byte */
        uint32_t to;        /* 0: a free slot; the root is nobody's child */
    } * edges;
    uint64_t mask;
    int32_t *values; /* by node; −1: no key ends here */
    int64_t nodes, capacity;
    uint32_t first[256]; /* the root's children */
} ml_trie;

/* Start from {0}; end with ml_trie_destroy. A key that is there already takes the new value; an
 * empty key is left out. ML_RESOURCE, also beyond 2^24 nodes. Local, as all of these. */
ml_status ml_trie_add(ml_trie *trie, const char *key, int64_t length, int32_t value) ML_NODISCARD;
void ml_trie_destroy(ml_trie *trie);

/* The child of a node (the root is 0) by a byte; 0: none. */
static inline uint32_t ml_trie_step(const ml_trie *trie, uint32_t node, unsigned char byte)
{
    if (!node) return trie->first[byte];
    uint32_t key = node << 8 | byte;
    for (uint64_t i = key * 0x9e3779b97f4a7c15u >> 20;; i++) {
        const struct trie_edge *edge = &trie->edges[i & trie->mask];
        if (!edge->to || edge->from_byte == key) return edge->to;
    }
}

/* The value of the longest key that begins at text[at], and its length; −1: none does. */
int32_t ml_trie_longest(const ml_trie *trie, const char *text, int64_t length, int64_t at,
                        int64_t *matched);

#endif
