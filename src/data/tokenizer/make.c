/* Parts to a tokenizer.json. */
#include "data/tokenizer/make.h"

#include <inttypes.h>
#include <stdlib.h>

#include "io/json.h"

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: a tokenizer"); }

ml_status ml_maker_start(ml_maker *m, bool whole_pieces)
{
    *m = (ml_maker){json_object(), json_array(), json_array(), json_array(), whole_pieces, 0};
    return m->vocab && m->merges && m->added && m->split ? ML_OK : no_memory();
}

void ml_maker_destroy(ml_maker *m)
{
    json_decref(m->vocab);
    json_decref(m->merges);
    json_decref(m->added);
    json_decref(m->split);
    *m = (ml_maker){0};
}

ml_status ml_maker_token(ml_maker *m, int64_t id, const char *text)
{
    const json_t *before = json_object_get(m->vocab, text);
    if (before && json_integer_value(before) != id)
        return ml_fail(ML_INPUT,
                       "token \"%.80s\" has two ids, %" JSON_INTEGER_FORMAT " and %" PRId64, text,
                       json_integer_value(before), id);
    json_t *number = json_integer(id);
    if (!number) return no_memory();
    if (json_object_set_new(m->vocab, text, number) == 0) return ML_OK;
    return ml_fail(ML_INPUT, "token %" PRId64 " is not valid UTF-8", id);
}

ml_status ml_maker_added(ml_maker *m, int64_t id, const char *text, bool special)
{
    if (!*text)
        return ml_fail(ML_INPUT, "the added token with id %" PRId64 " is an empty text", id);
    json_t *one =
        json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", text,
                  "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special);
    return json_array_append_new(m->added, one) == 0 ? ML_OK : no_memory();
}

ml_status ml_maker_merge(ml_maker *m, const char *merge)
{
    const char *blank = strchr(merge, ' ');
    if (!blank || blank == merge || !blank[1] || strchr(blank + 1, ' '))
        return ml_fail(ML_INPUT,
                       "merge %zu \"%.80s\" is not two tokens with one blank between them",
                       json_array_size(m->merges), merge);
    json_t *text = json_string(merge);
    if (!text) return ml_fail(ML_INPUT, "merge %zu is not valid UTF-8", json_array_size(m->merges));
    return json_array_append_new(m->merges, text) == 0 ? ML_OK : no_memory();
}

ml_status ml_maker_split(ml_maker *m, const char *pattern)
{
    json_t *stage = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                              pattern, "behavior", "Isolated", "invert", 0);
    m->splits++;
    return json_array_append_new(m->split, stage) == 0 ? ML_OK : no_memory();
}

static json_t *special(const char *text, int type)
{
    return json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", text, "type_id", type);
}

static json_t *sequence(const char *name, int type)
{
    return json_pack("{s:{s:s, s:i}}", "Sequence", "id", name, "type_id", type);
}

json_t *ml_make_template(const char *begin_text, int64_t begin, const char *end_text, int64_t end)
{
    json_t *single = json_array(), *pair = json_array(), *tokens = json_object();
    if (begin < 0 && end < 0) {
        json_decref(single);
        json_decref(pair);
        json_decref(tokens);
        return json_null();
    }
    for (int type = 0; type < 2; type++) {
        json_t *lists[] = {pair, type ? NULL : single};
        for (int i = 0; i < 2 && lists[i]; i++) {
            if (begin >= 0) json_array_append_new(lists[i], special(begin_text, type));
            json_array_append_new(lists[i], sequence(type ? "B" : "A", type));
            if (end >= 0) json_array_append_new(lists[i], special(end_text, type));
        }
    }
    if (begin >= 0)
        json_object_set_new(tokens, begin_text,
                            json_pack("{s:s, s:[I], s:[s]}", "id", begin_text, "ids",
                                      (json_int_t)begin, "tokens", begin_text));
    if (end >= 0)
        json_object_set_new(tokens, end_text,
                            json_pack("{s:s, s:[I], s:[s]}", "id", end_text, "ids", (json_int_t)end,
                                      "tokens", end_text));
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     pair, "special_tokens", tokens);
}

static const char *text_of(const json_t *vocab, int64_t id)
{
    const char *text;
    json_t *number;
    json_object_foreach((json_t *)vocab, text,
                        number) if (json_integer_value(number) == id) return text;
    return NULL;
}

ml_status ml_maker_byte_level(ml_maker *m, int64_t begin, int64_t end, json_t **root)
{
    const char *first = begin < 0 ? NULL : text_of(m->vocab, begin),
               *last = end < 0 ? NULL : text_of(m->vocab, end);
    if ((begin >= 0 && !first) || (end >= 0 && !last))
        return ml_fail(
            ML_INPUT, "the token with id %" PRId64 " that %s a text is not in the vocabulary",
            begin >= 0 && !first ? begin : end, begin >= 0 && !first ? "begins" : "ends");
    json_t *bytes = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 1, "use_regex", 0);
    json_t *model = json_pack(
        "{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE", "dropout", "unk_token",
        "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
        "ignore_merges", m->whole_pieces, "vocab", m->vocab, "merges", m->merges);
    if (!bytes || !model || json_array_append(m->split, bytes) != 0) {
        json_decref(bytes);
        json_decref(model);
        return no_memory();
    }
    *root =
        json_pack("{s:s, s:n, s:n, s:O, s:n, s:{s:s, s:O}, s:o, s:o, s:o}", "version", "1.0",
                  "truncation", "padding", "added_tokens", m->added, "normalizer", "pre_tokenizer",
                  "type", "Sequence", "pretokenizers", m->split, "post_processor",
                  ml_make_template(first, begin, last, end), "decoder", bytes, "model", model);
    return *root ? ML_OK : no_memory();
}

ml_status ml_make_dump(json_t *root, ml_text *out)
{
    char *text = root ? ml_json_dump(root, JSON_INDENT(1)) : NULL;
    ml_status st = text ? ml_text_add(out, text, (int64_t)strlen(text)) : no_memory();
    free(text);
    json_decref(root);
    return st;
}
