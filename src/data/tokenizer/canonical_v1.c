/* Version 1 of the canonical text, which older base files hold, as a tokenizer.json:
 *
 * {"format": "mpilora-tokenizer", "version": 1,
 *  "tokens": [text or null, …]      by id; in the byte-level alphabet, added tokens as they are
 *    spelt; null: no such id
 *  "added": [{"id": n, "special": true}, …]
 *  "merges": ["left right", …]      in order of rank
 *  "split": [pattern, …]            one after the other, each isolating its matches
 *  "whole_pieces": false            ignore_merges of `tokenizers`
 *  "begin": id or −1, "end": id or −1} */
#include "data/tokenizer/canonical.h"
#include "data/tokenizer/make.h"
#include "io/json.h"

static const ml_json_key keys[] = {
    {"tokens", ML_JSON_ARRAY},       {"tokens[]", ML_JSON_TEXT | ML_JSON_NULL},
    {"added", ML_JSON_ARRAY},        {"added[]", ML_JSON_OBJECT},
    {"added[].id", ML_JSON_INTEGER}, {"added[].special", ML_JSON_FLAG},
    {"merges", ML_JSON_ARRAY},       {"merges[]", ML_JSON_TEXT},
    {"split", ML_JSON_ARRAY},        {"split[]", ML_JSON_TEXT},
    {"whole_pieces", ML_JSON_FLAG},  {"begin", ML_JSON_INTEGER},
    {"end", ML_JSON_INTEGER},        {NULL, 0},
};

static ml_status check(const json_t *old)
{
    static const char *const needed[] = {"tokens", "added",        "merges", "split",
                                         "begin",  "whole_pieces", "end"};
    ml_status st = ml_json_check(old, keys);
    for (size_t i = 0; i < sizeof needed / sizeof *needed && st == ML_OK; i++)
        if (!json_object_get(old, needed[i]))
            st = ml_fail(ML_INPUT, "its \"%s\" is missing", needed[i]);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "tokenizer");
}

static ml_status take_tokens(ml_maker *m, const json_t *old)
{
    ml_status st = ML_OK;
    json_t *tokens = json_object_get(old, "tokens"), *one;
    size_t i;
    json_array_foreach(tokens, i, one) if (json_is_string(one))
        ML_TRY(ml_maker_token(m, (int64_t)i, json_string_value(one)));
    json_array_foreach(json_object_get(old, "added"), i, one)
    {
        json_int_t id = json_integer_value(json_object_get(one, "id"));
        const char *text =
            json_string_value(json_array_get(tokens, id < 0 ? SIZE_MAX : (size_t)id));
        if (!text) {
            st = ml_fail(ML_INPUT, "tokenizer: an added token has an id without a text");
            goto done;
        }
        ML_TRY(ml_maker_added(m, id, text, json_is_true(json_object_get(one, "special"))));
    }
    json_array_foreach(json_object_get(old, "merges"), i, one)
        ML_TRY(ml_maker_merge(m, json_string_value(one)));
done:
    return st;
}

ml_status ml_canonical_convert_v1(ml_canonical *canonical, json_t **root, const json_t *old)
{
    ml_status st = ML_OK;
    ml_maker m = {0};
    size_t i;
    json_t *one;
    ML_TRY(check(old));
    canonical->begin = json_integer_value(json_object_get(old, "begin"));
    canonical->end = json_integer_value(json_object_get(old, "end"));
    ML_TRY(ml_maker_start(&m, json_is_true(json_object_get(old, "whole_pieces"))));
    ML_TRY(take_tokens(&m, old));
    json_array_foreach(json_object_get(old, "split"), i, one)
        ML_TRY(ml_maker_split(&m, json_string_value(one)));
    if (!m.splits) {
        st = ml_fail(ML_INPUT, "tokenizer: it has no split pattern");
        goto done;
    }
    ML_TRY(ml_maker_byte_level(&m, canonical->begin, -1, root));
done:
    ml_maker_destroy(&m);
    return st;
}
