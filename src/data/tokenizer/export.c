/* The canonical tokenizer as Hugging Face's tokenizer.json and tokenizer_config.json. */
#include <inttypes.h>

#include "data/tokenizer/canonical.h"
#include "data/tokenizer/make.h"
#include "data/tokenizer/sentencepiece_json.h"
#include "data/tokenizer/stages.h"
#include "mpilora/data.h"

/* The text of a token as a new reference. */
static json_t *text_of(const json_t *root, int64_t id)
{
    const char *text;
    size_t i;
    json_t *one;
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    json_array_foreach(json_object_get(root, "added_tokens"), i,
                       one) if (json_integer_value(json_object_get(one, "id")) ==
                                id) return json_incref(json_object_get(one, "content"));
    json_object_foreach((json_t *)vocab, text,
                        one) if (json_integer_value(one) == id) return json_string(text);
    if (!json_is_array(vocab)) vocab = json_object_get(model, "pieces");
    return json_incref(json_array_get(json_array_get(vocab, (size_t)id), 0));
}

static ml_status make_config(const json_t *root, const ml_canonical *canonical, ml_text *out)
{
    json_t *config = json_pack("{s:s, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "clean_up_tokenization_spaces", 0, "add_prefix_space", 0);
    if (canonical->begin >= 0)
        json_object_set_new(config, "bos_token", text_of(root, canonical->begin));
    if (canonical->end >= 0)
        json_object_set_new(config, "eos_token", text_of(root, canonical->end));
    return ml_make_dump(config, out);
}

ml_status ml_tokenizer_to_huggingface(const char *json, int64_t length, ml_text *tokenizer_json,
                                      ml_text *tokenizer_config_json)
{
    ml_status st = ML_OK;
    ml_canonical canonical;
    json_t *root = NULL, *converted = NULL;
    ml_tokenizer *trial = NULL;
    ML_TRY(ml_tokenizer_create(&trial, json, length)); /* so that everything below is there */
    ML_TRY(ml_canonical_read(&canonical, &root, NULL, json, length));
    ML_TRY(make_config(root, &canonical, tokenizer_config_json));
    const char *type = ml_stage_text(json_object_get(root, "model"), "type");
    if (!strcmp(type, "SentencePiece")) {
        ML_TRY(ml_sentencepiece_convert(root, &converted));
        ML_TRY(ml_make_dump(json_incref(converted), tokenizer_json));
    } else if (canonical.json) {
        ML_TRY(ml_text_add(tokenizer_json, canonical.json, canonical.length));
    } else {
        ML_TRY(ml_make_dump(json_incref(root), tokenizer_json));
    }
done:
    ml_tokenizer_destroy(trial);
    json_decref(root);
    json_decref(converted);
    return st;
}
