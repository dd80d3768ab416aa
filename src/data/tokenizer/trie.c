/* A trie whose edges are a hash table. */
#include "data/tokenizer/trie.h"

enum { MOST_NODES = 1 << 24 };

static ml_status make_room(ml_trie *trie)
{
    ml_status st = ML_OK;
    struct trie_edge *edges = NULL;
    if (trie->nodes == MOST_NODES) return ml_fail(ML_RESOURCE, "a vocabulary is too large");
    int64_t nodes = trie->nodes ? trie->nodes : 1;
    ML_GROW(trie->values, nodes, trie->capacity, ML_MEM_OTHER, "the nodes of a trie");
    if (!trie->nodes) trie->values[trie->nodes++] = -1; /* the root */
    if (trie->edges && 2 * (uint64_t)trie->nodes <= trie->mask) return ML_OK;
    uint64_t size = trie->edges ? 2 * (trie->mask + 1) : 64;
    ML_NEW(edges, (int64_t)size, ML_MEM_OTHER, "the edges of a trie");
    for (uint64_t i = 0; trie->edges && i <= trie->mask; i++) {
        struct trie_edge edge = trie->edges[i];
        if (!edge.to) continue;
        uint64_t place = edge.from_byte * 0x9e3779b97f4a7c15u >> 20;
        while (edges[place & (size - 1)].to) place++;
        edges[place & (size - 1)] = edge;
    }
    ml_memory_free(trie->edges);
    trie->edges = edges;
    trie->mask = size - 1;
done:
    return st;
}

static ml_status add_child(ml_trie *trie, uint32_t node, unsigned char byte, uint32_t *child)
{
    ml_status st = make_room(trie);
    if (st != ML_OK) return st;
    *child = (uint32_t)trie->nodes++;
    trie->values[*child] = -1;
    if (!node) {
        trie->first[byte] = *child;
        return ML_OK;
    }
    uint32_t key = node << 8 | byte;
    uint64_t place = key * 0x9e3779b97f4a7c15u >> 20;
    while (trie->edges[place & trie->mask].to) place++;
    trie->edges[place & trie->mask] = (struct trie_edge){key, *child};
    return ML_OK;
}

ml_status ml_trie_add(ml_trie *trie, const char *key, int64_t length, int32_t value)
{
    uint32_t node = 0, child;
    if (!trie->nodes) {
        ml_status st = make_room(trie);
        if (st != ML_OK) return st;
    }
    for (int64_t i = 0; i < length; i++, node = child) {
        child = ml_trie_step(trie, node, (unsigned char)key[i]);
        if (child) continue;
        ml_status st = add_child(trie, node, (unsigned char)key[i], &child);
        if (st != ML_OK) return st;
    }
    if (node) trie->values[node] = value;
    return ML_OK;
}

void ml_trie_destroy(ml_trie *trie)
{
    ml_memory_free(trie->edges);
    ml_memory_free(trie->values);
    *trie = (ml_trie){0};
}

int32_t ml_trie_longest(const ml_trie *trie, const char *text, int64_t length, int64_t at,
                        int64_t *matched)
{
    int32_t found = -1;
    uint32_t node = 0;
    *matched = 0;
    if (!trie->nodes) return -1;
    for (int64_t i = at; i < length; i++) {
        node = ml_trie_step(trie, node, (unsigned char)text[i]);
        if (!node) break;
        if (trie->values[node] < 0) continue;
        found = trie->values[node];
        *matched = i + 1 - at;
    }
    return found;
}
