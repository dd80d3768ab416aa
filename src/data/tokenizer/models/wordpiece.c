/* The models "WordPiece" and "WordLevel" of a tokenizer.json. WordPiece takes the longest token
 * that begins a word, then the longest that continues it, and so on; a word that cannot be ended so
 * is unknown as a whole. WordLevel knows whole pieces only. */
#include "data/tokenizer/models/model.h"
#include "data/tokenizer/stages.h"
#include "data/tokenizer/trie.h"

typedef struct words {
    const ml_vocabulary *vocabulary; /* borrowed */
    ml_trie begin, go_on; /* tokens by their text, and those with the prefix without it */
    int64_t most;         /* characters of a word that is looked at */
    int32_t unknown;      /* −1: none */
    bool borrows;         /* the tries */
} words;

static void destroy(void *self)
{
    words *w = self;
    if (!w) return;
    if (!w->borrows) {
        ml_trie_destroy(&w->begin);
        ml_trie_destroy(&w->go_on);
    }
    ml_memory_free(w);
}

static ml_status share(void **out, const void *of)
{
    ml_status st = ML_OK;
    words *w = NULL;
    ML_NEW(w, 1, ML_MEM_OTHER, "a model of words");
    *w = *(const words *)of;
    w->borrows = true;
    *out = w;
done:
    return st;
}

static ml_status read_tokens(words *w, const json_t *vocab, const char *prefix)
{
    ml_status st = ML_OK;
    const char *text;
    size_t length, skip = prefix ? strlen(prefix) : 0;
    json_t *id;
    json_object_keylen_foreach((json_t *)vocab, text, length, id)
    {
        int32_t token = (int32_t)json_integer_value(id);
        ML_TRY(ml_trie_add(&w->begin, text, (int64_t)length, token));
        if (prefix && length > skip && !memcmp(text, prefix, skip))
            ML_TRY(ml_trie_add(&w->go_on, text + skip, (int64_t)(length - skip), token));
    }
done:
    return st;
}

static ml_status create_words(words **out, const json_t *json, const ml_vocabulary *vocabulary,
                              const char *prefix)
{
    ml_status st = ML_OK;
    words *w = NULL;
    const json_t *vocab = json_object_get(json, "vocab");
    const char *unknown = ml_stage_text(json, "unk_token");
    if (!json_is_object(vocab)) return ml_fail(ML_INPUT, "the model has no \"vocab\" of words");
    ML_NEW(w, 1, ML_MEM_OTHER, "a model of words");
    w->vocabulary = vocabulary;
    w->unknown = ml_vocabulary_find(vocabulary, unknown, (int64_t)strlen(unknown));
    ML_TRY(read_tokens(w, vocab, prefix));
    *out = w;
    w = NULL;
done:
    destroy(w);
    return st;
}

static ml_status create_wordpiece(void **out, const json_t *json, const ml_plain_model *plain,
                                  const ml_vocabulary *vocabulary, bool bytes)
{
    const json_t *most = json_object_get(json, "max_input_chars_per_word"),
                 *prefix = json_object_get(json, "continuing_subword_prefix");
    words *w = NULL;
    (void)plain, (void)bytes;
    ml_status st = create_words(&w, json, vocabulary,
                                json_is_string(prefix) ? json_string_value(prefix) : "##");
    if (st != ML_OK) return st;
    w->most = json_is_integer(most) ? json_integer_value(most) : 100;
    *out = w;
    return ML_OK;
}

static ml_status create_wordlevel(void **out, const json_t *json, const ml_plain_model *plain,
                                  const ml_vocabulary *vocabulary, bool bytes)
{
    words *w = NULL;
    (void)plain, (void)bytes;
    ml_status st = create_words(&w, json, vocabulary, NULL);
    *out = w;
    return st;
}

static ml_status emit_unknown(const words *w, int64_t length, const ml_encoding *to)
{
    if (w->unknown >= 0) return ml_ids_add(to->ids, w->unknown);
    *to->lost += length;
    return ML_OK;
}

/* The longest token at a place that is not a special one where those stay text. */
static int32_t longest(const words *w, const ml_trie *trie, const char *piece, int64_t length,
                       int64_t at, bool specials, int64_t *matched)
{
    for (int64_t end = length;; end = at + *matched - 1) {
        int32_t id = ml_trie_longest(trie, piece, end, at, matched);
        if (id < 0 || specials || !w->vocabulary->tokens[id].special) return id;
    }
}

static ml_status encode_wordpiece(void *self, const char *piece, int64_t length,
                                  const ml_encoding *to)
{
    const words *w = self;
    int64_t before = to->ids->count, matched, characters = 0;
    for (int64_t i = 0; i < length; i++) characters += (piece[i] & 0xc0) != 0x80;
    if (characters > w->most) return emit_unknown(w, length, to);
    for (int64_t at = 0; at < length; at += matched) {
        const ml_trie *trie = at ? &w->go_on : &w->begin;
        int32_t id = longest(w, trie, piece, length, at, to->specials, &matched);
        if (id < 0) {
            to->ids->count = before;
            return emit_unknown(w, length, to);
        }
        ml_status st = ml_ids_add(to->ids, id);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

static ml_status encode_wordlevel(void *self, const char *piece, int64_t length,
                                  const ml_encoding *to)
{
    const words *w = self;
    int64_t matched;
    int32_t id = ml_trie_longest(&w->begin, piece, length, 0, &matched);
    if (id >= 0 && matched == length && (to->specials || !w->vocabulary->tokens[id].special))
        return ml_ids_add(to->ids, id);
    return emit_unknown(w, length, to);
}

const ml_model_kind ml_wordpiece_kind = {"WordPiece", create_wordpiece, share,
                                         destroy,     encode_wordpiece, false};
const ml_model_kind ml_wordlevel_kind = {"WordLevel", create_wordlevel, share,
                                         destroy,     encode_wordlevel, false};
