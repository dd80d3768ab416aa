/* Byte-pair encoding with a heap of candidate pairs over a linked list of symbols. */
#include "data/tokenizer/models/bpe_private.h"

enum { DEEPEST_UNMERGE = 100 };

/* ---- the heap of candidates ---------------------------------------------------------------- */

static bool goes_before(const bpe_candidate *a, const bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void push(ml_bpe *bpe, bpe_candidate c)
{
    int64_t i = bpe->heap_count++;
    while (i > 0 && goes_before(&c, &bpe->heap[(i - 1) / 2])) {
        bpe->heap[i] = bpe->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    bpe->heap[i] = c;
}

static bpe_candidate pop(ml_bpe *bpe)
{
    bpe_candidate top = bpe->heap[0], last = bpe->heap[--bpe->heap_count];
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
    const bpe_merge *m = bpe_merge_slot(bpe, left_id, right_id);
    if (m->pair == UINT64_MAX) return;
    push(bpe, (bpe_candidate){m->rank, left, left_id, right_id, m->joined});
    if (bpe->parts && m->joined < bpe->vocabulary->size)
        bpe->parts[m->joined] = (bpe_parts){left_id, right_id};
}

/* ---- symbols ------------------------------------------------------------------------------- */

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

static int32_t add_symbol(ml_bpe *bpe, int32_t n, int32_t id, int64_t at)
{
    bpe->symbols[n] = (bpe_symbol){id, n - 1, n + 1, (int32_t)at};
    return n + 1;
}

/* Fills bpe->symbols; returns how many. A byte without a token becomes unknown, or is lost. */
static int32_t list_bytes(ml_bpe *bpe, const char *piece, int64_t length, int64_t *lost)
{
    int32_t n = 0, unknown = bpe->options.unknown;
    bool fused = false;
    for (int64_t i = 0; i < length; i++) {
        int32_t id = bpe->byte_id[(unsigned char)piece[i]];
        bool missing = id < 0;
        if (missing && unknown < 0) ++*lost;
        if (missing && (unknown < 0 || (fused && bpe->options.fuse_unknown))) continue;
        n = add_symbol(bpe, n, missing ? unknown : id, i);
        fused = missing;
    }
    return n;
}

/* The symbol of a character, with the prefix before all but the first and the suffix behind the
 * last; −1: none. */
static ml_status find_character(ml_bpe *bpe, const char *bytes, int64_t length, bool is_first,
                                bool is_last, int32_t *id)
{
    const char *prefix = is_first ? "" : bpe->options.prefix,
               *suffix = is_last ? bpe->options.suffix : "";
    ml_status st = ML_OK;
    bpe->spelt.length = 0;
    if (*prefix || *suffix) {
        ML_TRY(ml_text_add(&bpe->spelt, prefix, (int64_t)strlen(prefix)));
        ML_TRY(ml_text_add(&bpe->spelt, bytes, length)); /* a zero byte is a character, too */
        ML_TRY(ml_text_add(&bpe->spelt, suffix, (int64_t)strlen(suffix)));
        bytes = bpe->spelt.data;
        length = bpe->spelt.length;
    }
    *id = ml_bpe_find(bpe, bytes, length);
done:
    return st;
}

/* The bytes of what has no token as tokens, where all of them are tokens: *n moves on then. */
static bool list_fallback(ml_bpe *bpe, const char *bytes, int64_t length, int64_t at, int32_t *n)
{
    const int32_t *tokens = bpe->options.byte_tokens;
    for (int64_t i = 0; i < length; i++)
        if (!tokens || tokens[(unsigned char)bytes[i]] < 0) return false;
    for (int64_t i = 0; i < length; i++)
        *n = add_symbol(bpe, *n, tokens[(unsigned char)bytes[i]], at);
    return true;
}

/* The same of characters. What is unknown is held back until a token follows, as `tokenizers` has
 * it: bytes go before it. */
static ml_status list_characters(ml_bpe *bpe, const char *piece, int64_t length, int64_t *lost,
                                 int32_t *count)
{
    int32_t n = 0, id, unknown = bpe->options.unknown;
    int64_t held = -1; /* where the unknown characters begin that are not listed yet */
    int size;
    for (int64_t at = 0; at < length; at += size) {
        (void)ml_utf8_next(piece, length, at, &size);
        ml_status st = find_character(bpe, piece + at, size, at == 0, at + size == length, &id);
        if (st != ML_OK) return st;
        if (id < 0 && bpe->options.characters) id = INT32_MAX; /* settled at the end */
        if (id < 0) {
            bool spelt = bpe->spelt.length > 0;
            if (list_fallback(bpe, spelt ? bpe->spelt.data : piece + at,
                              spelt ? bpe->spelt.length : size, at, &n))
                continue;
            if (unknown < 0) *lost += size;
            if (unknown < 0 || (held >= 0 && bpe->options.fuse_unknown)) continue;
        }
        if (held >= 0) n = add_symbol(bpe, n, unknown, held);
        held = id < 0 ? at : -1;
        if (id >= 0) n = add_symbol(bpe, n, id, at);
    }
    *count = held >= 0 ? add_symbol(bpe, n, unknown, held) : n;
    return ML_OK;
}

/* ---- encoding ------------------------------------------------------------------------------ */

static void apply(ml_bpe *bpe, const bpe_candidate *c)
{
    bpe_symbol *left = &bpe->symbols[c->left];
    if (left->id != c->left_id || left->next < 0 || bpe->symbols[left->next].id != c->right_id)
        return; /* merged otherwise since */
    bpe_symbol *right = &bpe->symbols[left->next];
    left->id = c->joined;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0) bpe->symbols[left->next].previous = c->left;
    push_pair(bpe, left->previous);
    push_pair(bpe, c->left);
}

/* What is no token of SentencePiece: bytes, or one unknown token for all that stand together. */
static ml_status emit_unknown(ml_bpe *bpe, const char *bytes, int64_t length, int64_t start,
                              const ml_encoding *to)
{
    ml_status st = ML_OK;
    const int32_t *tokens = bpe->options.byte_tokens;
    int32_t unknown = bpe->options.unknown;
    if (!tokens && unknown < 0) *to->lost += length;
    if (!tokens &&
        (unknown < 0 || (to->ids->count > start && to->ids->data[to->ids->count - 1] == unknown)))
        return ML_OK;
    if (!tokens) return ml_ids_add(to->ids, unknown);
    for (int64_t i = 0; i < length && st == ML_OK; i++)
        st = ml_ids_add(to->ids, tokens[(unsigned char)bytes[i]]);
    return st;
}

/* An unused token falls apart into what it was last joined from. */
static ml_status emit(ml_bpe *bpe, int32_t id, const char *bytes, int64_t length, int64_t start,
                      const ml_encoding *to, int depth)
{
    if (!bpe->options.characters) return ml_ids_add(to->ids, id);
    const ml_vocabulary *v = bpe->vocabulary;
    bool unused = id < v->size && bpe->parts && v->tokens[id].kind == ML_PIECE_UNUSED;
    if (id < v->size && (!unused || depth > DEEPEST_UNMERGE)) return ml_ids_add(to->ids, id);
    bpe_parts p = unused ? bpe->parts[id] : (bpe_parts){0, 0};
    if (!p.left && !p.right) return emit_unknown(bpe, bytes, length, start, to);
    int64_t left_length;
    (void)ml_vocabulary_text(v, p.left, &left_length);
    if (p.left >= v->size) { /* a character */
        int size;
        (void)ml_utf8_next(bytes, length, 0, &size);
        left_length = size;
    }
    ml_status st = emit(bpe, p.left, bytes, left_length, start, to, depth + 1);
    return st == ML_OK
               ? emit(bpe, p.right, bytes + left_length, length - left_length, start, to, depth + 1)
               : st;
}

static ml_status encode_by_merging(ml_bpe *bpe, const char *piece, int64_t length, int64_t start,
                                   const ml_encoding *to)
{
    int32_t n = 0;
    size_t affixes = strlen(bpe->options.prefix) + strlen(bpe->options.suffix);
    bool longer = affixes && bpe->options.byte_tokens; /* their bytes may become tokens, too */
    ml_status st = make_room(bpe, longer ? length * (int64_t)(1 + affixes) : length);
    if (st != ML_OK) return st;
    if (bpe->options.bytes)
        n = list_bytes(bpe, piece, length, to->lost);
    else
        st = list_characters(bpe, piece, length, to->lost, &n);
    if (st != ML_OK || !n) return st;
    bpe->symbols[n - 1].next = -1;
    bpe->heap_count = 0;
    for (int32_t i = 0; i + 1 < n; i++) push_pair(bpe, i);
    while (bpe->heap_count) {
        bpe_candidate c = pop(bpe);
        apply(bpe, &c);
    }
    for (int32_t i = 0; i >= 0 && st == ML_OK; i = bpe->symbols[i].next) {
        const bpe_symbol *s = &bpe->symbols[i];
        int64_t end = s->next < 0 ? length : bpe->symbols[s->next].at;
        st = emit(bpe, s->id, piece + s->at, end - s->at, start, to, 0);
    }
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

ml_status ml_ids_append(ml_ids *ids, const int32_t *more, int64_t count)
{
    ml_status st = ML_OK;
    while (ids->capacity - ids->count < count)
        ML_GROW(ids->data, ids->capacity, ids->capacity, ML_MEM_OTHER, "token ids");
    if (count) memcpy(ids->data + ids->count, more, (size_t)count * sizeof *more);
    ids->count += count;
done:
    return st;
}

void ml_ids_destroy(ml_ids *ids)
{
    ml_memory_free(ids->data);
    *ids = (ml_ids){0};
}

static ml_status add_cached(ml_ids *ids, const bpe_cached *c)
{
    ml_status st = ML_OK;
    if (ids->capacity - ids->count >= CACHED_IDS) { /* all of them at once: a fixed size is quick */
        memcpy(ids->data + ids->count, c->ids, sizeof c->ids);
        ids->count += c->count;
        return ML_OK;
    }
    for (int i = 0; i < c->count && st == ML_OK; i++) st = ml_ids_add(ids, c->ids[i]);
    return st;
}

static bpe_cached *place_of(const ml_bpe *bpe, const char *word, int64_t length)
{
    return &bpe->cache[bpe_hash(word, length) % CACHE_SLOTS];
}

/* A word that the table does not have, and puts it there. `start`: where the ids of its piece
 * begin. */
static ml_status encode_new_word(ml_bpe *bpe, const char *word, int64_t length, int64_t start,
                                 const ml_encoding *to)
{
    ml_ids *ids = to->ids;
    int64_t before = ids->count, lost_before = *to->lost;
    ml_status st = encode_by_merging(bpe, word, length, start, to);
    int64_t count = ids->count - before;
    bool joined = bpe->options.characters && count < 1; /* with the unknown token before it */
    if (st != ML_OK || count > CACHED_IDS || *to->lost > lost_before || joined) return st;
    bpe_cached *c = place_of(bpe, word, length);
    c->length = (uint8_t)length;
    c->count = (uint8_t)count;
    memcpy(c->piece, word, (size_t)length);
    memcpy(c->ids, ids->data + before, (size_t)count * sizeof *c->ids);
    return ML_OK;
}

/* A word, from the table where it was seen before. */
static inline ml_status encode_word(ml_bpe *bpe, const char *word, int64_t length, int64_t start,
                                    const ml_encoding *to)
{
    if (length > CACHED_BYTES || bpe->parts) return encode_by_merging(bpe, word, length, start, to);
    const bpe_cached *c = place_of(bpe, word, length);
    if (c->length == length && !memcmp(c->piece, word, (size_t)length))
        return add_cached(to->ids, c);
    return encode_new_word(bpe, word, length, start, to);
}

static bool is_known(const ml_bpe *bpe, const char *bytes, int64_t length)
{
    int32_t id = ml_bpe_find(bpe, bytes, length);
    return id >= 0 && id < bpe->vocabulary->size;
}

/* Whether two characters that no merge joins may be parted all the same: not where both are
 * unknown and become one token together, nor where one is unknown and leaves no token: its
 * neighbours then stand beside each other. */
static bool may_part(const ml_bpe *bpe, const char *piece, int64_t length, int64_t left,
                     int64_t right)
{
    int size;
    bool drops = bpe->options.unknown < 0 && !bpe->options.characters;
    if (!drops &&
        (bpe->options.unknown < 0 || !(bpe->options.fuse_unknown || bpe->options.characters)))
        return true;
    bool known = is_known(bpe, piece + left, right - left);
    if (known != drops) return known;
    (void)ml_utf8_next(piece, length, right, &size);
    return is_known(bpe, piece + right, size);
}

/* A piece of characters, word by word. */
static ml_status encode_words(ml_bpe *bpe, const char *piece, int64_t length, const ml_encoding *to)
{
    ml_status st = ML_OK;
    const ml_trie *frozen = bpe->options.frozen;
    int64_t start = to->ids->count, word = 0, before = 0, matched;
    int32_t left = -1;
    int size;
    for (int64_t at = 0; at < length;) {
        int32_t whole = frozen ? ml_trie_longest(frozen, piece, length, at, &matched) : -1;
        if (whole >= 0) {
            if (at > word) ML_TRY(encode_word(bpe, piece + word, at - word, start, to));
            ML_TRY(ml_ids_add(to->ids, whole));
            word = at += matched;
            left = -1;
            continue;
        }
        int32_t c = ml_utf8_next(piece, length, at, &size);
        if (left >= 0 && bpe->joins && !bpe_is_joint(bpe, left, c) &&
            may_part(bpe, piece, length, before, at)) {
            ML_TRY(encode_word(bpe, piece + word, at - word, start, to));
            word = at;
        }
        left = c;
        before = at;
        at += size;
    }
    if (length > word) ML_TRY(encode_word(bpe, piece + word, length - word, start, to));
done:
    return st;
}

ml_status ml_bpe_encode(ml_bpe *bpe, const char *piece, int64_t length, const ml_encoding *to)
{
    if (bpe->options.whole_pieces) {
        const bpe_token *t = bpe_token_slot(bpe, piece, length, bpe_hash(piece, length));
        if (t->length && !t->special) return ml_ids_add(to->ids, t->id);
    }
    return bpe->options.bytes || (!bpe->joins && !bpe->options.frozen)
               ? encode_word(bpe, piece, length, to->ids->count, to)
               : encode_words(bpe, piece, length, to);
}
