/* SentencePiece's model as JSON. */
#include "data/tokenizer/sentencepiece_json.h"

#include <math.h>

#include "data/tokenizer/charsmap.h"
#include "data/tokenizer/make.h"
#include "data/tokenizer/models/model.h"

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: a tokenizer"); }

ml_status ml_sentencepiece_start(ml_sentencepiece *s)
{
    *s = (ml_sentencepiece){.pieces = json_array(),
                            .added = json_array(),
                            .algorithm = "bpe",
                            .dummy_prefix = true,
                            .remove_extra = true,
                            .escape = true};
    return s->pieces && s->added ? ML_OK : no_memory();
}

void ml_sentencepiece_destroy(ml_sentencepiece *s)
{
    json_decref(s->pieces);
    json_decref(s->added);
    ml_text_destroy(&s->charsmap);
    ml_text_destroy(&s->unknown_surface);
    *s = (ml_sentencepiece){0};
}

int64_t ml_sentencepiece_count(const ml_sentencepiece *s)
{
    return (int64_t)json_array_size(s->pieces);
}

ml_status ml_sentencepiece_add(ml_sentencepiece *s, const char *text, int64_t length, float score,
                               int64_t kind)
{
    json_int_t id = ml_sentencepiece_count(s);
    if (!length || !isfinite(score) || kind < ML_PIECE_NORMAL || kind > ML_PIECE_BYTE)
        return ml_fail(ML_INPUT,
                       "piece %" JSON_INTEGER_FORMAT " is empty, or its score or its kind is none",
                       id);
    json_t *piece = json_pack("[s%, f, I]", text, (size_t)length, (double)score, (json_int_t)kind);
    if (!piece) return ml_fail(ML_INPUT, "piece %" JSON_INTEGER_FORMAT " is not valid UTF-8", id);
    if (json_array_append_new(s->pieces, piece) != 0) return no_memory();
    if (kind != ML_PIECE_CONTROL && kind != ML_PIECE_UNKNOWN) return ML_OK;
    json_t *added =
        json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text, (size_t)length,
                  "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
    return json_array_append_new(s->added, added) == 0 ? ML_OK : no_memory();
}

static const char *text_of(const ml_sentencepiece *s, int64_t id)
{
    return json_string_value(json_array_get(json_array_get(s->pieces, (size_t)id), 0));
}

ml_status ml_sentencepiece_json(const ml_sentencepiece *s, int64_t begin, int64_t end,
                                json_t **root)
{
    ml_status st = ML_OK;
    ml_text map = {0};
    ML_TRY(ml_text_add(&map, "", 0));
    ML_TRY(ml_base64_add(&map, s->charsmap.data, s->charsmap.length));
    json_t *normalizer = json_pack(
        "{s:s, s:b, s:b, s:b, s:b, s:s}", "type", "SentencePiece", "add_dummy_prefix",
        s->dummy_prefix, "remove_extra_whitespaces", s->remove_extra, "escape_whitespaces",
        s->escape, "treat_whitespace_as_suffix", s->suffix, "precompiled_charsmap", map.data);
    json_t *decoder = json_pack("{s:s, s:b, s:b}", "type", "SentencePiece", "add_dummy_prefix",
                                s->dummy_prefix, "remove_extra_whitespaces", s->remove_extra);
    if (decoder && s->unknown_surface.length)
        json_object_set_new(decoder, "unk_surface", json_string(s->unknown_surface.data));
    json_t *model = json_pack("{s:s, s:s, s:b, s:O}", "type", "SentencePiece", "algorithm",
                              s->algorithm, "byte_fallback", s->byte_fallback, "pieces", s->pieces);
    *root = json_pack("{s:s, s:O, s:o, s:n, s:o, s:o, s:o}", "version", "1.0", "added_tokens",
                      s->added, "normalizer", normalizer, "pre_tokenizer", "post_processor",
                      ml_make_template(begin < 0 ? NULL : text_of(s, begin), begin,
                                       end < 0 ? NULL : text_of(s, end), end),
                      "decoder", decoder, "model", model);
    if (!*root) st = no_memory();
done:
    ml_text_destroy(&map);
    return st;
}
