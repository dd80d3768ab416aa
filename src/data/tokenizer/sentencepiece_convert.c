/* A SentencePiece model in the stages of `tokenizers`, as transformers converts it when it is to be
 * saved: merges in the order of their pieces' scores, the character map as a normalizer. What the
 * two libraries do otherwise (ties of scores, rounding, user-defined pieces) stays different. */
#include <stdlib.h>

#include "data/tokenizer/models/model.h"
#include "data/tokenizer/sentencepiece_json.h"
#include "data/tokenizer/stages.h"
#include "data/tokenizer/vocabulary.h"

#define BLANK "\xe2\x96\x81" /* ▁ U+2581 */

typedef struct ranked {
    double score;
    size_t id;
} ranked;

static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score)
                                : (x->id > y->id) - (x->id < y->id);
}

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: a tokenizer"); }

/* Every way to write a piece as two others. */
static ml_status add_merges(json_t *merges, const json_t *vocab, const char *text)
{
    size_t length = strlen(text);
    for (size_t at = 1; at < length; at++) {
        if ((text[at] & 0xc0) == 0x80) continue;
        if (!json_object_getn(vocab, text, at) || !json_object_get(vocab, text + at)) continue;
        json_t *merge = json_pack("[s%, s]", text, at, text + at);
        if (json_array_append_new(merges, merge) != 0) return no_memory();
    }
    return ML_OK;
}

static ml_status make_bpe(const json_t *model, json_t **out)
{
    ml_status st = ML_OK;
    const json_t *pieces = json_object_get(model, "pieces");
    json_t *vocab = json_object(), *merges = json_array(), *one;
    const char *unknown = NULL;
    ranked *order = NULL;
    size_t i, n = json_array_size(pieces);
    ML_NEW(order, (int64_t)n, ML_MEM_OTHER, "pieces by their scores");
    json_array_foreach(pieces, i, one)
    {
        const char *text = json_string_value(json_array_get(one, 0));
        if (!text || json_object_set_new(vocab, text, json_integer((json_int_t)i)) != 0) {
            st = no_memory();
            goto done;
        }
        order[i] = (ranked){json_number_value(json_array_get(one, 1)), i};
        if (json_integer_value(json_array_get(one, 2)) == ML_PIECE_UNKNOWN) unknown = text;
    }
    qsort(order, n, sizeof *order, by_score);
    for (i = 0; i < n; i++) {
        const json_t *piece = json_array_get(pieces, order[i].id);
        if (json_integer_value(json_array_get(piece, 2)) == ML_PIECE_NORMAL)
            ML_TRY(add_merges(merges, vocab, json_string_value(json_array_get(piece, 0))));
    }
    *out =
        json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE", "dropout",
                  "unk_token", unknown, "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", 1, "byte_fallback", ml_stage_flag(model, "byte_fallback", false),
                  "ignore_merges", 0, "vocab", vocab, "merges", merges);
    if (!*out) st = no_memory();
done:
    json_decref(vocab);
    json_decref(merges);
    ml_memory_free(order);
    return st;
}

static ml_status make_unigram(const json_t *model, json_t **out)
{
    json_t *vocab = json_array(), *unknown = NULL, *one;
    size_t i;
    json_array_foreach(json_object_get(model, "pieces"), i, one)
    {
        json_array_append_new(vocab,
                              json_pack("[O, O]", json_array_get(one, 0), json_array_get(one, 1)));
        if (json_integer_value(json_array_get(one, 2)) == ML_PIECE_UNKNOWN && !unknown)
            unknown = json_integer((json_int_t)i);
    }
    *out = json_pack("{s:s, s:o, s:o, s:b}", "type", "Unigram", "unk_id",
                     unknown ? unknown : json_null(), "vocab", vocab, "byte_fallback",
                     ml_stage_flag(model, "byte_fallback", false));
    return *out ? ML_OK : no_memory();
}

static void push_replace(json_t *list, const char *kind, const char *from, const char *to)
{
    json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", kind,
                                          from, "content", to));
}

/* The map, extra blanks away, a blank before, blanks to marks; a Unigram's pre-tokenizer does the
 * last two. */
static json_t *make_normalizer(const json_t *old, bool unigram)
{
    json_t *list = json_array();
    const char *map = ml_stage_text(old, "precompiled_charsmap");
    if (*map)
        json_array_append_new(
            list, json_pack("{s:s, s:s}", "type", "Precompiled", "precompiled_charsmap", map));
    if (ml_stage_flag(old, "remove_extra_whitespaces", true)) {
        json_array_append_new(
            list, json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left", 1, "strip_right", 1));
        push_replace(list, "Regex", " {2,}", " ");
    }
    if (!unigram && ml_stage_flag(old, "add_dummy_prefix", true))
        json_array_append_new(list, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", BLANK));
    if (!unigram) push_replace(list, "String", " ", BLANK);
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
}

static json_t *make_metaspace(bool prefix)
{
    return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", BLANK,
                     "prepend_scheme", prefix ? "always" : "never", "split", 1);
}

static json_t *make_decoder(bool prefix)
{
    json_t *list = json_array();
    push_replace(list, "String", BLANK, " ");
    json_array_append_new(list, json_pack("{s:s}", "type", "ByteFallback"));
    json_array_append_new(list, json_pack("{s:s}", "type", "Fuse"));
    if (prefix)
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content",
                                              " ", "start", 1, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", list);
}

/* User-defined pieces are added tokens there. */
static json_t *make_added(const json_t *root, const json_t *model)
{
    json_t *added = json_deep_copy(json_object_get(root, "added_tokens")), *one;
    size_t i;
    json_array_foreach(json_object_get(model, "pieces"), i,
                       one) if (json_integer_value(json_array_get(one, 2)) == ML_PIECE_USER_DEFINED)
        json_array_append_new(added,
                              json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i,
                                        "content", json_array_get(one, 0), "single_word", 0,
                                        "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 0));
    return added;
}

ml_status ml_sentencepiece_convert(const json_t *root, json_t **converted)
{
    ml_status st = ML_OK;
    const json_t *old = json_object_get(root, "model"),
                 *rules = json_object_get(root, "normalizer");
    json_t *model = NULL;
    bool unigram = !strcmp(ml_stage_text(old, "algorithm"), "unigram"),
         prefix = ml_stage_flag(rules, "add_dummy_prefix", true);
    ML_TRY(unigram ? make_unigram(old, &model) : make_bpe(old, &model));
    *converted = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:O?, s:o, s:o}", "version", "1.0",
                           "truncation", "padding", "added_tokens", make_added(root, old),
                           "normalizer", make_normalizer(rules, unigram), "pre_tokenizer",
                           unigram ? make_metaspace(prefix) : json_null(), "post_processor",
                           json_object_get(root, "post_processor"), "decoder",
                           unigram ? make_metaspace(prefix) : make_decoder(prefix), "model", model);
    if (!*converted) st = no_memory();
done:
    return st;
}
