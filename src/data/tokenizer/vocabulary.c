/* The vocabulary as one byte string and a table of hashes. */
#include "data/tokenizer/vocabulary.h"

#include <inttypes.h>

void ml_vocabulary_destroy(ml_vocabulary *v)
{
    ml_text_destroy(&v->bytes);
    ml_memory_free(v->tokens);
    ml_memory_free(v->slots);
    ml_trie_destroy(&v->frozen);
    *v = (ml_vocabulary){0};
}

static uint32_t hash_of(const char *text, int64_t length)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < length; i++) h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

const char *ml_vocabulary_text(const ml_vocabulary *v, int64_t id, int64_t *length)
{
    *length = 0;
    if (id < 0 || id >= v->size || !v->tokens[id].known) return "";
    *length = v->tokens[id].length;
    return v->bytes.data + v->tokens[id].at;
}

const char *ml_vocabulary_shown(const ml_vocabulary *v, int64_t id, int64_t *length)
{
    if (id < 0 || id >= v->size || !v->tokens[id].shown_length)
        return ml_vocabulary_text(v, id, length);
    *length = v->tokens[id].shown_length;
    return v->bytes.data + v->tokens[id].shown;
}

ml_status ml_vocabulary_show(ml_vocabulary *v, int64_t id, const char *text, int64_t length)
{
    int64_t place = v->bytes.length;
    if (length > INT32_MAX) return ml_fail(ML_INPUT, "token %" PRId64 " is too long", id);
    ml_status st = ml_text_add(&v->bytes, text, length);
    v->tokens[id].shown = place;
    v->tokens[id].shown_length = st == ML_OK ? (int32_t)length : 0;
    return st;
}

static bool is_text_of(const ml_vocabulary *v, int32_t id, const char *text, int64_t length)
{
    const struct vocabulary_token *token = &v->tokens[id];
    return token->length == length && !memcmp(v->bytes.data + token->at, text, (size_t)length);
}

/* The slot of a text, or the free one where it belongs. */
static struct vocabulary_slot *slot_of(const ml_vocabulary *v, const char *text, int64_t length,
                                       uint32_t hash)
{
    for (uint64_t i = hash;; i++) {
        struct vocabulary_slot *slot = &v->slots[i & v->mask];
        if (slot->id < 0 || (slot->hash == hash && is_text_of(v, slot->id, text, length)))
            return slot;
    }
}

int32_t ml_vocabulary_find(const ml_vocabulary *v, const char *text, int64_t length)
{
    return v->slots ? slot_of(v, text, length, hash_of(text, length))->id : -1;
}

static ml_status grow_slots(ml_vocabulary *v)
{
    ml_status st = ML_OK;
    struct vocabulary_slot *old = v->slots;
    uint64_t before = v->slots ? v->mask + 1 : 0, size = before ? 2 * before : 64;
    ML_NEW(v->slots, (int64_t)size, ML_MEM_OTHER, "a vocabulary");
    memset(v->slots, 0xff, size * sizeof *v->slots);
    v->mask = size - 1;
    for (uint64_t i = 0; i < before; i++) {
        if (old[i].id < 0) continue;
        uint64_t place = old[i].hash;
        while (v->slots[place & v->mask].id >= 0) place++;
        v->slots[place & v->mask] = old[i];
    }
    ml_memory_free(old);
    return ML_OK;
done:
    v->slots = old;
    return st;
}

static ml_status make_room(ml_vocabulary *v, int64_t id)
{
    ml_status st = ML_OK;
    while (id >= v->capacity)
        ML_GROW(v->tokens, v->capacity, v->capacity, ML_MEM_OTHER, "a vocabulary");
    if (!v->slots || 2 * (uint64_t)v->filled >= v->mask) ML_TRY(grow_slots(v));
    v->size = ml_max(v->size, id + 1);
done:
    return st;
}

ml_status ml_vocabulary_set(ml_vocabulary *v, int64_t id, const char *text, int64_t length)
{
    if (id < 0 || id >= ML_LARGEST_VOCABULARY)
        return ml_fail(ML_INPUT, "token \"%.80s\" has the id %" PRId64 ", expected 0 to %d", text,
                       id, ML_LARGEST_VOCABULARY - 1);
    if (id < v->size && v->tokens[id].known) {
        if (is_text_of(v, (int32_t)id, text, length)) return ML_OK;
        return ml_fail(ML_INPUT, "the tokens \"%.*s\" and \"%.80s\" have the same id %" PRId64,
                       v->tokens[id].length > 80 ? 80 : (int)v->tokens[id].length,
                       v->bytes.data + v->tokens[id].at, text, id);
    }
    if (length > INT32_MAX) return ml_fail(ML_INPUT, "token %" PRId64 " is too long", id);
    ml_status st = make_room(v, id);
    if (st != ML_OK) return st;
    struct vocabulary_token *token = &v->tokens[id];
    token->at = v->bytes.length;
    token->length = (int32_t)length;
    st = ml_text_add(&v->bytes, text, length);
    if (st != ML_OK) return st;
    token->known = true;
    uint32_t hash = hash_of(text, length);
    struct vocabulary_slot *slot = slot_of(v, text, length, hash);
    v->filled += slot->id < 0;
    if (slot->id < (int32_t)id) *slot = (struct vocabulary_slot){hash, (int32_t)id};
    return ML_OK;
}
