/* Byte-pair encoding with a heap of candidate pairs over a linked list of symbols. */
#include "data/bpe.h"

enum { CACHE_SLOTS = 1 << 16, CACHED_BYTES = 26, CACHED_IDS = 8 };

typedef struct token {
    int64_t at; /* in `bytes` */
    int32_t length, id;
    uint64_t hash;
    bool special;
} token;

typedef struct merge {
    uint64_t pair; /* left << 32 | right; all ones: a free slot */
    int32_t rank, joined;
} merge;

typedef struct cached {
    uint8_t length; /* 0: a free slot */
    uint8_t count;
    char piece[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
} cached;

typedef struct symbol {
    int32_t id; /* −1: merged into the symbol before it */
    int32_t previous, next;
} symbol;

typedef struct candidate {
    int32_t rank, left; /* ordered by rank, then by place */
    int32_t left_id, right_id, joined;
} candidate;

struct ml_bpe {
    bool whole_pieces;
    ml_text bytes; /* of all tokens, one after the other */
    token *tokens; /* open addressing */
    uint64_t token_mask;
    merge *merges; /* open addressing */
    uint64_t merge_mask;
    int32_t nmerges;
    int32_t byte_id[256];
    cached *cache;   /* direct-mapped */
    symbol *symbols; /* [room] */
    candidate *heap; /* [3 × room] */
    int64_t room, heap_count;
};

/* ---- hashing ------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ (h >> 32);
}

static uint64_t hash_bytes(const char *bytes, int64_t length)
{
    uint64_t h = (uint64_t)length * 0x9e3779b97f4a7c15u, word;
    for (; length >= 8; bytes += 8, length -= 8) {
        memcpy(&word, bytes, 8);
        h = mix(h ^ word);
    }
    word = 0;
    memcpy(&word, bytes, (size_t)length);
    return mix(h ^ word);
}

static uint64_t table_size(int64_t entries)
{
    uint64_t size = 16;
    while (size < 2 * (uint64_t)entries) size *= 2;
    return size;
}

/* ---- the vocabulary ------------------------------------------------------------------------ */

ml_status ml_bpe_create(ml_bpe **out, int64_t ntokens, int64_t nmerges, bool whole_pieces)
{
    ml_status st = ML_OK;
    ml_bpe *bpe = NULL;
    ML_NEW(bpe, 1, ML_MEM_OTHER, "a byte-pair encoder");
    bpe->whole_pieces = whole_pieces;
    bpe->token_mask = table_size(ntokens) - 1;
    bpe->merge_mask = table_size(nmerges) - 1;
    ML_NEW(bpe->tokens, (int64_t)bpe->token_mask + 1, ML_MEM_OTHER, "the tokens");
    ML_NEW(bpe->merges, (int64_t)bpe->merge_mask + 1, ML_MEM_OTHER, "the merges");
    ML_NEW(bpe->cache, CACHE_SLOTS, ML_MEM_OTHER, "the table of pieces");
    memset(bpe->merges, 0xff, (bpe->merge_mask + 1) * sizeof *bpe->merges);
    memset(bpe->byte_id, 0xff, sizeof bpe->byte_id);
    *out = bpe;
    bpe = NULL;
done:
    ml_bpe_destroy(bpe);
    return st;
}

void ml_bpe_destroy(ml_bpe *bpe)
{
    if (!bpe) return;
    ml_text_destroy(&bpe->bytes);
    ml_memory_free(bpe->tokens);
    ml_memory_free(bpe->merges);
    ml_memory_free(bpe->cache);
    ml_memory_free(bpe->symbols);
    ml_memory_free(bpe->heap);
    ml_memory_free(bpe);
}

/* The slot of these bytes, or the free one (length 0) where they belong. */
static token *token_slot(const ml_bpe *bpe, const char *bytes, int64_t length, uint64_t hash)
{
    for (uint64_t i = hash;; i++) {
        token *t = &bpe->tokens[i & bpe->token_mask];
        if (!t->length) return t;
        if (t->hash == hash && t->length == length &&
            !memcmp(bpe->bytes.data + t->at, bytes, (size_t)length))
            return t;
    }
}

ml_status ml_bpe_add_token(ml_bpe *bpe, int32_t id, const char *bytes, int64_t length, bool special)
{
    if (length < 1 || length > INT32_MAX) return ML_OK;
    uint64_t hash = hash_bytes(bytes, length);
    token *t = token_slot(bpe, bytes, length, hash);
    if (t->length) return ML_OK;
    *t = (token){bpe->bytes.length, (int32_t)length, id, hash, special};
    if (length == 1) bpe->byte_id[(unsigned char)bytes[0]] = id;
    return ml_text_add(&bpe->bytes, bytes, length);
}

int32_t ml_bpe_find(const ml_bpe *bpe, const char *bytes, int64_t length)
{
    const token *t = token_slot(bpe, bytes, length, hash_bytes(bytes, length));
    return t->length ? t->id : -1;
}

static merge *merge_slot(const ml_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | (uint32_t)right;
    for (uint64_t i = mix(pair * 0x9e3779b97f4a7c15u);; i++) {
        merge *m = &bpe->merges[i & bpe->merge_mask];
        if (m->pair == pair || m->pair == UINT64_MAX) return m;
    }
}

void ml_bpe_add_merge(ml_bpe *bpe, int32_t left, int32_t right, int32_t joined)
{
    *merge_slot(bpe, left, right) =
        (merge){(uint64_t)left << 32 | (uint32_t)right, bpe->nmerges++, joined};
}

/* ---- the heap of candidates ---------------------------------------------------------------- */

static bool goes_before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void push(ml_bpe *bpe, candidate c)
{
    int64_t i = bpe->heap_count++;
    while (i > 0 && goes_before(&c, &bpe->heap[(i - 1) / 2])) {
        bpe->heap[i] = bpe->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    bpe->heap[i] = c;
}

static candidate pop(ml_bpe *bpe)
{
    candidate top = bpe->heap[0], last = bpe->heap[--bpe->heap_count];
    int64_t i = 0, n = bpe->heap_count;
    for (int64_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && goes_before(&bpe->heap[child + 1], &bpe->heap[child])) child++;
        if (!goes_before(&bpe->heap[child], &last)) break;
        bpe->heap[i] = bpe->heap[child];
        i = child;
    }
    bpe->heap[i] = last;
    return top;
}

static void push_pair(ml_bpe *bpe, int32_t left)
{
    int32_t right = left >= 0 ? bpe->symbols[left].next : -1;
    if (right < 0) return;
    int32_t left_id = bpe->symbols[left].id, right_id = bpe->symbols[right].id;
    const merge *m = merge_slot(bpe, left_id, right_id);
    if (m->pair != UINT64_MAX) push(bpe, (candidate){m->rank, left, left_id, right_id, m->joined});
}

/* ---- encoding ------------------------------------------------------------------------------ */

static ml_status make_room(ml_bpe *bpe, int64_t length)
{
    ml_status st = ML_OK;
    if (length <= bpe->room) return ML_OK;
    if (length > INT32_MAX / 4)
        return ml_fail(ML_RESOURCE, "a piece of %lld bytes without a break is too long",
                       (long long)length);
    int64_t room = ml_max(length, 2 * bpe->room);
    bpe->room = 0;
    ml_memory_free(bpe->symbols);
    ml_memory_free(bpe->heap);
    bpe->heap = NULL;
    ML_NEW(bpe->symbols, room, ML_MEM_OTHER, "the symbols of a piece");
    ML_NEW(bpe->heap, 3 * room, ML_MEM_OTHER,
           "the pairs of a piece"); /* n − 1 at first, and two for each of < n merges */
    bpe->room = room;
done:
    return st;
}

/* Fills bpe->symbols; returns how many. */
static int32_t list_symbols(ml_bpe *bpe, const char *piece, int64_t length, int64_t *lost)
{
    int32_t n = 0;
    for (int64_t i = 0; i < length; i++) {
        int32_t id = bpe->byte_id[(unsigned char)piece[i]];
        if (id < 0) {
            ++*lost;
            continue;
        }
        bpe->symbols[n] = (symbol){id, n - 1, n + 1};
        n++;
    }
    if (n) bpe->symbols[n - 1].next = -1;
    return n;
}

static void apply(ml_bpe *bpe, const candidate *c)
{
    symbol *left = &bpe->symbols[c->left];
    if (left->id != c->left_id || left->next < 0 || bpe->symbols[left->next].id != c->right_id)
        return; /* merged otherwise since */
    symbol *right = &bpe->symbols[left->next];
    left->id = c->joined;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0) bpe->symbols[left->next].previous = c->left;
    push_pair(bpe, left->previous);
    push_pair(bpe, c->left);
}

static ml_status encode_by_merging(ml_bpe *bpe, const char *piece, int64_t length, ml_ids *ids,
                                   int64_t *lost)
{
    ml_status st = make_room(bpe, length);
    if (st != ML_OK) return st;
    int32_t n = list_symbols(bpe, piece, length, lost);
    bpe->heap_count = 0;
    for (int32_t i = 0; i + 1 < n; i++) push_pair(bpe, i);
    while (bpe->heap_count) {
        candidate c = pop(bpe);
        apply(bpe, &c);
    }
    for (int32_t i = n ? 0 : -1; i >= 0 && st == ML_OK; i = bpe->symbols[i].next)
        st = ml_ids_add(ids, bpe->symbols[i].id);
    return st;
}

ml_status ml_ids_add(ml_ids *ids, int32_t id)
{
    ml_status st = ML_OK;
    ML_GROW(ids->data, ids->count, ids->capacity, ML_MEM_OTHER, "token ids");
    ids->data[ids->count++] = id;
done:
    return st;
}

void ml_ids_destroy(ml_ids *ids)
{
    ml_memory_free(ids->data);
    *ids = (ml_ids){0};
}

ml_status ml_bpe_encode(ml_bpe *bpe, const char *piece, int64_t length, ml_ids *ids, int64_t *lost)
{
    if (bpe->whole_pieces) {
        const token *t = token_slot(bpe, piece, length, hash_bytes(piece, length));
        if (t->length && !t->special) return ml_ids_add(ids, t->id);
    }
    if (length > CACHED_BYTES) return encode_by_merging(bpe, piece, length, ids, lost);
    cached *c = &bpe->cache[hash_bytes(piece, length) % CACHE_SLOTS];
    if (c->length == length && !memcmp(c->piece, piece, (size_t)length)) {
        ml_status st = ML_OK;
        for (int i = 0; i < c->count && st == ML_OK; i++) st = ml_ids_add(ids, c->ids[i]);
        return st;
    }
    int64_t before = ids->count, lost_before = *lost;
    ml_status st = encode_by_merging(bpe, piece, length, ids, lost);
    int64_t count = ids->count - before;
    if (st != ML_OK || count > CACHED_IDS || *lost > lost_before) return st;
    c->length = (uint8_t)length;
    c->count = (uint8_t)count;
    memcpy(c->piece, piece, (size_t)length);
    memcpy(c->ids, ids->data + before, (size_t)count * sizeof *c->ids);
    return ML_OK;
}
