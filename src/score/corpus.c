/* Tokens become numbers, equal spellings the same number, by an open-addressing table; a corpus
 * holds all outputs and references of a set in that form. */
#include "score/corpus.h"

struct token_list {
    corpus *c;
    int64_t count, capacity; /* tokens so far */
    int64_t word_capacity, slot_count;
    int32_t *slot; /* number of a word + 1; 0: free */
};

static uint64_t hash_of(const char *bytes, int64_t length)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (int64_t i = 0; i < length; i++) h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}

static int32_t *find(const token_list *list, const char *token, int64_t length)
{
    const corpus *c = list->c;
    uint64_t mask = (uint64_t)list->slot_count - 1;
    for (uint64_t at = hash_of(token, length) & mask;; at = (at + 1) & mask) {
        int32_t *slot = &list->slot[at];
        if (*slot == 0) return slot;
        int64_t begin = c->word[*slot - 1],
                end = *slot < c->words ? c->word[*slot] : c->spelling.length;
        if (end - begin - 1 == length && !memcmp(c->spelling.data + begin, token, (size_t)length))
            return slot;
    }
}

static ml_status grow_slots(token_list *list)
{
    ml_status st = ML_OK;
    const corpus *c = list->c;
    ml_memory_free(list->slot);
    list->slot_count = ml_max(1024, list->slot_count * 2);
    ML_NEW(list->slot, list->slot_count, ML_MEM_OTHER, "the words of texts");
    for (int32_t w = 0; w < c->words; w++) {
        int64_t begin = c->word[w], end = w + 1 < c->words ? c->word[w + 1] : c->spelling.length;
        *find(list, c->spelling.data + begin, end - begin - 1) = w + 1;
    }
done:
    return st;
}

static ml_status add_word(token_list *list, const char *token, int64_t length)
{
    ml_status st = ML_OK;
    corpus *c = list->c;
    if (c->words == INT32_MAX) return ml_fail(ML_INPUT, "more than %d different tokens", INT32_MAX);
    ML_GROW(c->word, c->words, list->word_capacity, ML_MEM_OTHER, "the words of texts");
    int64_t begin = c->spelling.length;
    ML_TRY(ml_text_add(&c->spelling, token, length));
    ML_TRY(ml_text_add(&c->spelling, "", 1));
    c->word[c->words++] = begin;
done:
    return st;
}

ml_status token_list_add(token_list *list, const char *token, int64_t length)
{
    ml_status st = ML_OK;
    ML_GROW(list->c->token, list->count, list->capacity, ML_MEM_OTHER, "tokens of texts");
    if (2 * (int64_t)list->c->words >= list->slot_count) ML_TRY(grow_slots(list));
    int32_t *slot = find(list, token, length);
    if (*slot == 0) {
        ML_TRY(add_word(list, token, length));
        *slot = list->c->words;
    }
    list->c->token[list->count++] = *slot - 1;
done:
    return st;
}

ml_status corpus_make(corpus *out, const ml_score_set *set, const tokenizer *words)
{
    ml_status st = ML_OK;
    void *rules = NULL;
    token_list list = {.c = out, .capacity = 1024, .word_capacity = 256};
    *out = (corpus){.items = set->items, .item = set->item};
    ML_TRY(score_set_check(set));
    ML_NEW(out->token, list.capacity, ML_MEM_OTHER, "tokens of texts");
    ML_NEW(out->word, list.word_capacity, ML_MEM_OTHER, "the words of texts");
    ML_NEW(out->text, set->texts + 1, ML_MEM_OTHER, "tokens of texts");
    if (words->open) ML_TRY(words->open(&rules));
    for (int64_t t = 0; t < set->texts; t++) {
        int64_t length;
        const char *text = score_set_text(set, t, &length);
        ML_TRY(words->cut(&list, text, length, rules));
        out->text[t + 1] = list.count;
    }
done:
    if (rules) words->close(rules);
    ml_memory_free(list.slot);
    if (st != ML_OK) corpus_destroy(out);
    return st;
}

void corpus_destroy(corpus *c)
{
    ml_memory_free(c->token);
    ml_memory_free(c->text);
    ml_memory_free(c->word);
    ml_text_destroy(&c->spelling);
    *c = (corpus){0};
}
