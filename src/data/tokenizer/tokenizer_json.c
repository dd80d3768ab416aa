/* Reading the vocabulary of a tokenizer.json of any model. */
#include "data/tokenizer/tokenizer_json.h"

#include <inttypes.h>
#include <math.h>

#include "data/tokenizer/stages.h"

enum {
    NUMBER = ML_JSON_INTEGER | ML_JSON_REAL | ML_JSON_NULL,
    FLAG = ML_STAGE_FLAG,
    TEXT = ML_STAGE_TEXT,
    OBJECT = ML_JSON_OBJECT | ML_JSON_NULL,
    ARRAY = ML_JSON_ARRAY | ML_JSON_NULL
};

const ml_json_key ml_tokenizer_json_keys[] = {
    {"model", ML_JSON_OBJECT},
    {"model.type", TEXT},
    {"model.vocab", ML_JSON_OBJECT | ML_JSON_ARRAY},
    {"model.merges", ML_JSON_ARRAY},
    {"model.merges[]", ML_JSON_TEXT | ML_JSON_ARRAY},
    {"model.continuing_subword_prefix", TEXT},
    {"model.end_of_word_suffix", TEXT},
    {"model.unk_token", TEXT},
    {"model.unk_id", ML_JSON_INTEGER | ML_JSON_NULL},
    {"model.byte_fallback", FLAG},
    {"model.fuse_unk", FLAG},
    {"model.ignore_merges", FLAG},
    {"model.dropout", NUMBER},
    {"model.max_input_chars_per_word", ML_JSON_INTEGER},
    {"model.algorithm", ML_JSON_TEXT},
    {"model.pieces", ML_JSON_ARRAY},
    {"model.pieces[]", ML_JSON_ARRAY},
    {"normalizer", OBJECT},
    {"pre_tokenizer", OBJECT},
    {"post_processor", OBJECT},
    {"decoder", OBJECT},
    {"added_tokens", ARRAY},
    {"added_tokens[]", ML_JSON_OBJECT},
    {"added_tokens[].id", ML_JSON_INTEGER},
    {"added_tokens[].content", ML_JSON_TEXT},
    {"added_tokens[].special", FLAG},
    {"added_tokens[].normalized", FLAG},
    {"added_tokens[].lstrip", FLAG},
    {"added_tokens[].rstrip", FLAG},
    {"added_tokens[].single_word", FLAG},
    {NULL, 0},
};

ml_status ml_tokenizer_json_kind(const json_t *model, const ml_model_kind **kind)
{
    static const ml_model_kind *const known[] = {&ml_bpe_kind, &ml_unigram_kind, &ml_wordpiece_kind,
                                                 &ml_wordlevel_kind, &ml_sentencepiece_kind};
    if (!json_is_object(model)) return ml_fail(ML_INPUT, "there is no \"model\"");
    const char *type = ml_stage_text(model, "type");
    if (!*type) /* older files leave the type out */
        type = json_object_get(model, "merges")                     ? "BPE"
               : json_is_array(json_object_get(model, "vocab"))     ? "Unigram"
               : json_object_get(model, "max_input_chars_per_word") ? "WordPiece"
                                                                    : "WordLevel";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        *kind = known[i];
        if (!strcmp(known[i]->type, type)) return ML_OK;
    }
    return ml_fail(ML_INPUT, "the model is of type \"%s\", which is not known", type);
}

/* ---- texts --------------------------------------------------------------------------------- */

static ml_status read_object(ml_vocabulary *vocabulary, const json_t *vocab)
{
    const char *text;
    size_t length;
    json_t *id;
    json_object_keylen_foreach((json_t *)vocab, text, length, id)
    {
        if (!json_is_integer(id))
            return ml_fail(ML_INPUT, "the id of token \"%s\" is not an integer", text);
        ml_status st = ml_vocabulary_set(vocabulary, json_integer_value(id), text, (int64_t)length);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* [text, score] of a Unigram, [text, score, kind] of a SentencePiece. */
static ml_status read_pieces(ml_vocabulary *vocabulary, const json_t *pieces, bool kinds)
{
    ml_status st = ML_OK;
    size_t id;
    json_t *piece;
    json_array_foreach(pieces, id, piece)
    {
        const json_t *text = json_array_get(piece, 0), *kind = json_array_get(piece, 2);
        double score = json_number_value(json_array_get(piece, 1));
        json_int_t is = kinds && json_is_integer(kind) ? json_integer_value(kind) : ML_PIECE_NORMAL;
        if (!json_is_string(text) || is < ML_PIECE_NORMAL || is > ML_PIECE_BYTE) {
            st = ml_fail(ML_INPUT, "piece %zu is not a text, its score and its kind", id);
            goto done;
        }
        ML_TRY(ml_vocabulary_set(vocabulary, (int64_t)id, json_string_value(text),
                                 (int64_t)json_string_length(text)));
        vocabulary->tokens[id].score = isfinite((float)score) ? (float)score : 0.0F;
        vocabulary->tokens[id].kind = (uint8_t)is;
        if (is == ML_PIECE_USER_DEFINED)
            ML_TRY(ml_trie_add(&vocabulary->frozen, json_string_value(text),
                               (int64_t)json_string_length(text), (int32_t)id));
    }
done:
    return st;
}

/* An added token that the model knows, too, has the model's id. */
static ml_status read_added(ml_vocabulary *vocabulary, const json_t *added)
{
    size_t i;
    json_t *one;
    json_array_foreach(added, i, one)
    {
        const json_t *id = json_object_get(one, "id"), *content = json_object_get(one, "content");
        if (!json_is_integer(id) || !json_is_string(content))
            return ml_fail(ML_INPUT, "added token %zu has no \"id\" or no \"content\"", i);
        const char *text = json_string_value(content);
        int64_t length = (int64_t)json_string_length(content);
        if (!length)
            return ml_fail(ML_INPUT,
                           "the added token with id %" JSON_INTEGER_FORMAT " is an empty text",
                           json_integer_value(id));
        int32_t found = ml_vocabulary_find(vocabulary, text, length);
        if (found < 0) {
            ml_status st = ml_vocabulary_set(vocabulary, json_integer_value(id), text, length);
            if (st != ML_OK) return st;
            found = (int32_t)json_integer_value(id);
        }
        vocabulary->tokens[found].added = true;
        if (json_is_true(json_object_get(one, "special"))) vocabulary->tokens[found].special = true;
    }
    return ML_OK;
}

ml_status ml_tokenizer_json_vocabulary(ml_vocabulary *vocabulary, const json_t *root,
                                       const ml_plain_model *plain)
{
    ml_status st = ML_OK;
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const ml_model_kind *kind;
    ML_TRY(ml_json_check(root, ml_tokenizer_json_keys));
    ML_TRY(ml_tokenizer_json_kind(model, &kind));
    if (kind == &ml_sentencepiece_kind)
        ML_TRY(read_pieces(vocabulary, json_object_get(model, "pieces"), true));
    else if (json_is_array(vocab))
        ML_TRY(read_pieces(vocabulary, vocab, false));
    else
        ML_TRY(plain->vocab.text ? ml_plain_model_vocab(plain, vocabulary)
                                 : read_object(vocabulary, vocab));
    for (int64_t id = 0; id < vocabulary->size; id++)
        vocabulary->tokens[id].of_model = vocabulary->tokens[id].known;
    ML_TRY(read_added(vocabulary, json_object_get(root, "added_tokens")));
done:
    return st;
}
