/* Building the canonical tokenizer from any source, and the alphabet that its tokens are written
 * in. */
#include <inttypes.h>

#include "data/tokenizer_private.h"
#include "io/json.h"

static ml_status no_memory(void) { return ml_fail(ML_RESOURCE, "out of memory: a tokenizer"); }

ml_status ml_vocabulary_create(ml_vocabulary *out)
{
    *out = (ml_vocabulary){json_array(), json_array(), json_array(), json_array(), false, -1, -1};
    if (out->tokens && out->added && out->merges && out->split) return ML_OK;
    ml_vocabulary_destroy(out);
    return no_memory();
}

void ml_vocabulary_destroy(ml_vocabulary *vocabulary)
{
    json_decref(vocabulary->tokens);
    json_decref(vocabulary->added);
    json_decref(vocabulary->merges);
    json_decref(vocabulary->split);
    *vocabulary = (ml_vocabulary){0};
}

ml_status ml_vocabulary_set(ml_vocabulary *vocabulary, int64_t id, const char *text)
{
    if (id < 0 || id >= ML_LARGEST_VOCABULARY)
        return ml_fail(ML_INPUT, "token \"%s\" has the id %" PRId64 ", expected 0 to %d", text, id,
                       ML_LARGEST_VOCABULARY - 1);
    while (json_array_size(vocabulary->tokens) <= (size_t)id)
        if (json_array_append_new(vocabulary->tokens, json_null()) != 0) return no_memory();
    const char *before = json_string_value(json_array_get(vocabulary->tokens, (size_t)id));
    if (before && strcmp(before, text) != 0)
        return ml_fail(ML_INPUT, "the tokens \"%s\" and \"%s\" have the same id %" PRId64, before,
                       text, id);
    json_t *string = json_string(text);
    if (!string) return ml_fail(ML_INPUT, "token %" PRId64 " is not valid UTF-8", id);
    return json_array_set_new(vocabulary->tokens, (size_t)id, string) == 0 ? ML_OK : no_memory();
}

ml_status ml_vocabulary_add(ml_vocabulary *vocabulary, int64_t id, const char *text, bool special)
{
    if (!*text)
        return ml_fail(ML_INPUT, "the added token with id %" PRId64 " is an empty text", id);
    ml_status st = ml_vocabulary_set(vocabulary, id, text);
    if (st != ML_OK) return st;
    size_t i;
    json_t *one;
    json_array_foreach(vocabulary->added, i,
                       one) if (json_integer_value(json_object_get(one, "id")) ==
                                id) return json_object_set_new(one, "special",
                                                               json_boolean(special)) == 0
        ? ML_OK
        : no_memory();
    one = json_pack("{s:I, s:b}", "id", (json_int_t)id, "special", special);
    return json_array_append_new(vocabulary->added, one) == 0 ? ML_OK : no_memory();
}

ml_status ml_vocabulary_merge(ml_vocabulary *vocabulary, const char *left, size_t left_length,
                              const char *right)
{
    size_t number = json_array_size(vocabulary->merges);
    if (!left_length || !*right || memchr(left, ' ', left_length) || strchr(right, ' '))
        return ml_fail(ML_INPUT, "merge %zu is not two tokens with one blank between them", number);
    json_t *string = json_sprintf("%.*s %s", (int)left_length, left, right);
    if (!string) return ml_fail(ML_INPUT, "merge %zu is not valid UTF-8", number);
    return json_array_append_new(vocabulary->merges, string) == 0 ? ML_OK : no_memory();
}

ml_status ml_vocabulary_split(ml_vocabulary *vocabulary, const char *pattern)
{
    return json_array_append_new(vocabulary->split, json_string(pattern)) == 0 ? ML_OK
                                                                               : no_memory();
}

int32_t ml_vocabulary_find(const ml_vocabulary *vocabulary, const char *text)
{
    size_t i;
    json_t *one;
    json_array_foreach(vocabulary->tokens, i,
                       one) if (json_is_string(one) &&
                                !strcmp(json_string_value(one), text)) return (int32_t)i;
    return -1;
}

/* Where the source does not say what ends a text, the usual names do. */
static void settle_end(ml_vocabulary *vocabulary)
{
    static const char *const names[] = {"<|endoftext|>", "<|end_of_text|>"};
    for (size_t i = 0; i < sizeof names / sizeof *names && vocabulary->end < 0; i++)
        vocabulary->end = ml_vocabulary_find(vocabulary, names[i]);
}

/* What begins and ends a text is never to be found in data: it is special. */
static ml_status mark_special(ml_vocabulary *vocabulary, int32_t id)
{
    const char *text = json_string_value(json_array_get(vocabulary->tokens, (size_t)id));
    if (!text)
        return ml_fail(ML_INPUT,
                       "the token with id %" PRId32
                       " that begins or ends a text is not in the vocabulary",
                       id);
    return ml_vocabulary_add(vocabulary, id, text, true);
}

ml_status ml_vocabulary_write(ml_vocabulary *vocabulary, ml_text *json)
{
    ml_status st = ML_OK;
    json_t *root = NULL;
    char *text = NULL;
    ml_tokenizer *trial = NULL;
    int64_t before = json->length;
    settle_end(vocabulary);
    if (vocabulary->end >= 0) ML_TRY(mark_special(vocabulary, vocabulary->end));
    if (vocabulary->begin >= 0) ML_TRY(mark_special(vocabulary, vocabulary->begin));
    root = json_pack("{s:s, s:i, s:O, s:O, s:O, s:O, s:b, s:i, s:i}", "format", "mpilora-tokenizer",
                     "version", 1, "tokens", vocabulary->tokens, "added", vocabulary->added,
                     "merges", vocabulary->merges, "split", vocabulary->split, "whole_pieces",
                     vocabulary->whole_pieces, "begin", vocabulary->begin, "end", vocabulary->end);
    text = root ? ml_json_dump(root, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (!text) {
        st = no_memory();
        goto done;
    }
    ML_TRY(ml_text_add(json, text, (int64_t)strlen(text)));
    ML_TRY(ml_tokenizer_create(&trial, json->data + before, json->length - before));
done:
    ml_tokenizer_destroy(trial);
    free(text);
    json_decref(root);
    return st;
}

/* ---- the byte-level alphabet of GPT-2 ------------------------------------------------------ */

/* Each of the 256 bytes is written as one printable character, so that vocabularies can be kept as
 * text. Printable Latin-1 bytes stand for themselves, the others are U+0100 and up in their order
 * (the blank is U+0120, "Ġ"). */
static bool stands_for_itself(int32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad);
}

/* The byte that a character of the alphabet stands for, or −1. */
static int byte_of(int32_t c)
{
    static const struct {
        int32_t first, last,
            byte; /* the bytes that do not stand for themselves, as U+0100 and up */
    } moved[] = {{0x100, 0x120, 0x00}, {0x121, 0x142, 0x7f}, {0x143, 0x143, 0xad}};
    if (stands_for_itself(c)) return c;
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++)
        if (c >= moved[i].first && c <= moved[i].last) return moved[i].byte + (c - moved[i].first);
    return -1;
}

bool ml_byte_level_decode(const char *text, int64_t length, ml_text *bytes, ml_status *status)
{
    int size;
    *status = ML_OK;
    for (int64_t at = 0; at < length; at += size) {
        int byte = byte_of(ml_utf8_next(text, length, at, &size));
        if (byte < 0) return false;
        char one = (char)byte;
        *status = ml_text_add(bytes, &one, 1);
        if (*status != ML_OK) return false;
    }
    return true;
}
